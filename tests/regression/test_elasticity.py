"""Local elasticity and spectra of Gram matrices, against plain loops."""

import numpy as np
import pytest

from lantk.errors import LantkError
from lantk.label_terms.feature_sets import two_layer_ntk
from lantk.regression.measures import (
    balanced_accuracy,
    class_sums,
    confusion_matrix,
    top_eigenvectors,
)

RNG = np.random.default_rng(0)


def kernel(m, n):
    x = RNG.standard_normal((m + n, 5))
    k = two_layer_ntk(x, x)
    return k[:m, m:], np.diag(k)[:m], np.diag(k)[m:]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_relative_ratio_is_that_of_the_double_loop(n_classes):
    """Within and between means equal those over all normalised entries, for 2 or 3 classes."""
    k, rows, columns = kernel(7, 11)
    a, b = np.arange(7) % n_classes, np.arange(11) % n_classes
    normalised = k / np.sqrt(np.multiply.outer(rows, columns))
    same = np.equal.outer(a, b)
    within, between = normalised[same].mean(), normalised[~same].mean()
    found = class_sums(k, b, rows, columns).ratio(a)
    np.testing.assert_allclose(found, (within, between), rtol=1e-12)
    assert found.value == pytest.approx(within / (within + between))


def test_relative_ratio_ignores_the_size_of_images():
    """Images made brighter, each by a factor of its own, leave the ratio as it is."""
    x = RNG.standard_normal((8, 5))
    scale = RNG.uniform(0.5, 3, (8, 1))
    labels = np.arange(8) % 2
    ratios = []
    for vectors in (x, x * scale):
        k = two_layer_ntk(vectors, vectors)
        ratios.append(class_sums(k, labels, np.diag(k), np.diag(k)).ratio(labels).value)
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-8)


def test_relative_ratio_refuses_what_it_cannot_divide_by():
    """A zero image, and labels all alike, are refused with the reason."""
    k, rows, columns = kernel(4, 4)
    labels = np.array([0, 1, 0, 1])
    with pytest.raises(LantkError, match=r"columns\[2\] is 0"):
        class_sums(k, labels, rows, columns * (np.arange(4) != 2))
    with pytest.raises(LantkError, match="between two classes"):
        class_sums(k, labels * 0, rows, columns).ratio(labels * 0)


@pytest.mark.parametrize("labels", [[-1, 1], [0, 1, 2]])
def test_measures_by_class_are_those_of_scikit_learn(labels):
    """Confusion matrix and balanced accuracy equal scikit-learn's, for unequal classes."""
    from sklearn import metrics

    k = len(labels)
    true = RNG.choice(labels, 60, p=np.arange(1, k + 1) / sum(range(k + 1)))
    found = RNG.choice(labels, 60)
    confusion = confusion_matrix(true, found, k)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(true, found, labels=labels))
    wanted = metrics.balanced_accuracy_score(true, found)
    assert balanced_accuracy(confusion) == pytest.approx(wanted, rel=1e-15)
    assert balanced_accuracy(np.array([[3, 1], [0, 0]])) == 0.75


def test_top_eigenvectors_are_those_of_the_whole_matrix():
    """Eigenvalues and the labels' shares along vectors equal those of the full decomposition."""
    x = RNG.standard_normal((20, 6))
    k = two_layer_ntk(x, x)
    y = np.where(np.arange(20) % 2, 1.0, -1.0)
    values, vectors = np.linalg.eigh(k)
    shares = (vectors.T @ y)[::-1] ** 2 / 20
    found = top_eigenvectors(k, y, 5)
    np.testing.assert_allclose(found[0], values[::-1][:5] / np.trace(k), rtol=1e-10)
    np.testing.assert_allclose(found[1], shares[:5], rtol=1e-6, atol=1e-12)
