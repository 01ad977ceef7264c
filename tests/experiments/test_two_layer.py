"""Local elasticity of 2-layer networks, against autograd and double loops."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from lantk.cli.main import main as run_verb
from lantk.data.split_files import load_split
from lantk.experiment.variants import PUBLISHED_TERMS
from lantk.label_terms.base import image_vectors
from lantk.label_terms.feature_sets import two_layer_ntk
from lantk.label_terms.registry import label_term
from two_layer import TwoLayer, main, two_layer_elasticity

RNG = np.random.default_rng(0)
X, X_TEST = RNG.standard_normal((9, 6)), RNG.standard_normal((5, 6))
Y = np.where(np.arange(9) % 2, 1, -1)
Y_TEST = np.array([1, -1, -1, 1, 1])


def gradients(network, x):
    """Return d f / d (W, a) of each row by autograd, with f written out."""
    w, a = network.w.double().requires_grad_(), network.a.double().requires_grad_()
    rows = []
    for image in torch.from_numpy(x * network.scale):
        f = torch.relu(w @ image) @ a / len(a) ** 0.5
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(f, (w, a))]))
    return torch.stack(rows).numpy()


def test_kernel_is_the_inner_product_of_gradients():
    network = TwoLayer(X, 16, seed=1)
    own, other = gradients(network, X), gradients(network, X_TEST)
    np.testing.assert_allclose(
        network.kernel_against(X)(X_TEST), other @ own.T, rtol=2e-5, atol=1e-5
    )
    np.testing.assert_allclose(network.diagonal(X), np.square(own).sum(1), rtol=1e-5)


def test_wide_networks_tend_to_the_exact_kernel():
    """The mean over networks is within 4 standard errors of the exact kernel, entry by entry."""
    found = np.array([TwoLayer(X, 256, seed).kernel_against(X)(X) for seed in range(100)])
    exact = two_layer_ntk(X, X) * TwoLayer(X, 1, 0).scale ** 2
    error = found.std(axis=0, ddof=1) / 10
    assert abs((found.mean(axis=0) - exact) / error).max() < 4.5


def test_ratios_are_those_of_double_loops():
    """Train and test rows, self pairs included; the test image's own K(x, x) normalises it."""
    found = {e.kernel: e for e in two_layer_elasticity(X, Y, X_TEST, width=8, epochs=2)}
    assert list(found) == ["2-layer NTK", "network at start", "network, trained"]
    x = np.concatenate([X, X_TEST])
    k = two_layer_ntk(x, x)
    k = k / np.sqrt(np.multiply.outer(np.diag(k), np.diag(k)))
    for rows, labels, ratio in (
        (range(9), Y, found["2-layer NTK"].train),
        (range(9, 14), Y_TEST, found["2-layer NTK"].test.ratio(Y_TEST)),
    ):
        sums = {True: [], False: []}
        for (i, label), j in itertools.product(zip(rows, labels, strict=True), range(9)):
            sums[bool(label == Y[j])].append(k[i, j])
        within, between = np.mean(sums[True]), np.mean(sums[False])
        np.testing.assert_allclose([ratio.within, ratio.between], [within, between])
        np.testing.assert_allclose(ratio.value, within / (within + between))


@pytest.mark.parametrize("name", PUBLISHED_TERMS)
def test_label_terms_stand_on_the_kernel_with_the_papers_weight(name):
    """K + lambda Z over the roots of its diagonal; a test image has the K(x, x) without labels."""
    found = {e.kernel: e for e in two_layer_elasticity(X, Y, X_TEST, terms=[name], epochs=1)}
    assert list(found)[:2] == ["2-layer NTK", name]
    k, k_test = two_layer_ntk(X, X), two_layer_ntk(X_TEST, X)
    term = label_term(name).fit(k, Y.astype(float), X)
    z = term.train_block(k, X)
    factor = 0.1 * abs(k).mean() / abs(z).mean()
    k = k + factor * z
    k_test = k_test + factor * term.transform(k_test, X_TEST)
    own, diagonal = np.diag(two_layer_ntk(X_TEST, X_TEST)), np.diag(k)
    bar, bar_test = (
        k / np.sqrt(np.outer(diagonal, diagonal)),
        k_test / np.sqrt(np.outer(own, diagonal)),
    )
    for matrix, labels, ratio in (
        (bar, Y, found[name].train),
        (bar_test, Y_TEST, found[name].test.ratio(Y_TEST)),
    ):
        is_same = np.equal.outer(labels, Y)
        wanted = [matrix[is_same].mean(), matrix[~is_same].mean()]
        np.testing.assert_allclose([ratio.within, ratio.between], wanted, rtol=1e-4, atol=1e-5)


def test_training_changes_the_network_and_is_the_same_every_time():
    runs = [
        {e.kernel: e.train.value for e in two_layer_elasticity(X, Y, X_TEST, width=8, epochs=3)}
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0]["network, trained"] != runs[0]["network at start"]


@pytest.fixture
def split(tmp_path):
    """Return a split of two digits."""
    pair = ["--pair", "3", "8", "--n-train", "20", "--n-test", "30"]
    path = tmp_path / "split.npz"
    assert run_verb(["split", "--source", "digits", *pair, "--out", str(path)]) == 0
    return path


def test_the_script_writes_a_row_for_each_kernel(split, tmp_path):
    """The exact kernel, each published term on it, a network before and after, the hierarchy."""
    out = tmp_path / "two-layer.csv"
    main(["--split", str(split), "--width", "16", "--epochs", "1", "--out", str(out)])
    found = pd.read_csv(out)
    kernels = ["2-layer NTK", *PUBLISHED_TERMS, "network at start", "network, trained"]
    assert list(found["kernel"]) == [*kernels, "lantk-nth", "lantk-nth"]
    ratios = found.set_index("kernel").loc[kernels, ["relative_ratio_train", "relative_ratio_test"]]
    assert ((ratios > 50) & (ratios < 100)).all(axis=None)
    assert list(found["n_train"]) == [20] * len(kernels) + [10, 20]
    drawn = load_split(split)
    x = image_vectors(drawn.x_train)[:10]
    y = drawn.y_train[:10]
    z = label_term("lantk-nth").fit(np.eye(10), y.astype(float), x).train_block(np.eye(10))
    within = [z[i, j] for i in range(10) for j in range(10) if i != j and y[i] == y[j]]
    between = [z[i, j] for i in range(10) for j in range(10) if y[i] != y[j]]
    row = found[found["kernel"] == "lantk-nth"].iloc[0]
    assert row["mean_within"] == pytest.approx(np.mean(within), abs=1e-4)
    assert row["mean_between"] == pytest.approx(np.mean(between), abs=1e-4)


def test_a_split_of_three_classes_is_refused(tmp_path, capsys):
    path = tmp_path / "split.npz"
    classes = ["--classes", "3", "8", "1", "--n-train", "6", "--n-test", "6"]
    assert run_verb(["split", "--source", "digits", *classes, "--out", str(path)]) == 0
    with pytest.raises(SystemExit):
        main(["--split", str(path), "--out", str(tmp_path / "out.csv")])
    assert f"{path} has 3 classes: wanted splits of two" in capsys.readouterr().err
