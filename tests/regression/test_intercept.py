"""An unpenalised constant beside K + lambda Z, against what it is the limit of."""

import numpy as np
import pytest
import scipy.linalg

import lantk
from lantk.labels import decide
from lantk.regression.fits import Member
from lantk.regression.folds import validation_folds
from lantk.regression.paths import predict
from lantk.solvers.direct import CholeskyFactor, SolveError
from lantk.solvers.intercept import eliminate_constant, with_ones

WEIGHTS = [0.0, 0.01, 1.0]


def task(n=40, m=12, k_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + m, 5)).astype(np.float32)
    k = np.exp(-0.1 * ((x[:, None] - x[None]).astype(float) ** 2).sum(-1))
    y = np.where(x[:n, 0] + 0.5 * rng.normal(size=n) > 0, 1.0, -1.0)
    if k_classes > 2:
        y = np.eye(k_classes)[np.arange(n) % k_classes]
    return k[:n, :n], k[n:, :n], y, x[:n], x[n:]


def bordered(a, y):
    """Return alpha and b of the dense bordered system."""
    n = len(a)
    matrix = np.block([[a, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    solution = np.linalg.solve(matrix, np.vstack([y, np.zeros((1, y.shape[1]))]))
    return solution[:n], solution[n]


def plain(**options):
    return Member("cntk-intercept", validated=[0.0], has_intercept=True, **options)


@pytest.mark.parametrize("k_classes", [2, 3])
def test_it_is_the_limit_of_a_large_constant(k_classes):
    """Its scores are those of K + c 1 1^T with c = 1e8 mean K."""
    k, k_test, y, *_ = task(k_classes=k_classes)
    k = k + 0.1 * np.eye(len(k))  # of a well conditioned matrix c leaves some digits
    c = 1e8 * k.mean()
    wanted = (k_test + c) @ np.linalg.solve(k + c, y)
    path = predict(k, k_test, y, [plain()])[0]
    np.testing.assert_allclose(path.scores[0], wanted, atol=1e-5)


@pytest.mark.parametrize("k_classes", [2, 3])
def test_it_solves_the_bordered_system_at_every_weight(k_classes):
    """Scores and validation are those of the bordered system, indefinite matrices included.

    A label term beside the constant is fitted as without it, and members with and without a
    constant are solved in one call.
    """
    k, k_test, y, x, x_test = task(k_classes=k_classes)
    columns, labels = y.reshape(len(y), -1), y if k_classes == 2 else y.argmax(1)

    def make():
        return lantk.label_term("lantk-fjlt-v1")

    name = "cntk-intercept+lantk-fjlt-v1"
    members = [
        Member("lantk-fjlt-v1", WEIGHTS, WEIGHTS, make),
        Member(name, WEIGHTS, WEIGHTS, make, has_intercept=True),
        plain(),
    ]
    without, path, alone = predict(k, k_test, y, members, x_train=x, x_test=x_test, folds=3)
    np.testing.assert_array_equal(path.factors, without.factors)
    np.testing.assert_allclose(path.scores[0], alone.scores[0], rtol=1e-9)
    assert path.smallest_eigenvalues[-1] < 0
    term = make().fit(k, y, x)
    z, within = term.train_block(k, x), scipy.linalg.null_space(np.ones((1, len(y))))
    for factor, found in zip(path.factors, path.n_negative, strict=True):
        # What counts is the matrix between vectors that sum to 0.
        values = np.linalg.eigvalsh(within.T @ (k + factor * z) @ within)
        assert found == (values < 0).sum()
    parts = [(np.arange(len(y)), None), *validation_folds(y, 3, 0)]
    correct = np.zeros(len(WEIGHTS))
    for fit, held in parts:
        term = make().fit(k[np.ix_(fit, fit)], y[fit], x[fit])
        z = term.train_block(k[np.ix_(fit, fit)], x[fit])
        rows, x_rows = (k_test, x_test) if held is None else (k[np.ix_(held, fit)], x[held])
        z_rows = term.transform(rows, x_rows)
        unit = np.abs(k[np.ix_(fit, fit)]).mean() / np.abs(z).mean(dtype=float)
        for i, weight in enumerate(WEIGHTS):
            alpha, b = bordered(k[np.ix_(fit, fit)] + weight * unit * z, columns[fit])
            scores = (rows + weight * unit * z_rows) @ alpha + b
            scores = scores[:, 0] if k_classes == 2 else scores
            if held is None:
                np.testing.assert_allclose(path.scores[i], scores, atol=1e-4)
            else:
                correct[i] += np.sum(decide(scores[None])[0] == labels[held])
    np.testing.assert_array_equal(path.validation_accuracy, correct / len(y))


def test_a_device_finds_the_same_constant():
    """Solves by PyTorch and by Lanczos' method give the same scores, weight by weight."""
    k, k_test, y, x, x_test = task()
    name = "cntk-intercept+lantk-kr-v1"
    member = Member(name, WEIGHTS, [], lambda: lantk.label_term("lantk-kr-v1"), has_intercept=True)
    here, there = (
        predict(k, k_test, y, [member], x_train=x, x_test=x_test, device=device)[0].scores
        for device in (None, "cpu")
    )
    np.testing.assert_allclose(there, here, rtol=1e-6)


def test_a_constant_in_the_labels_is_a_constant_in_the_scores():
    """Labels moved by a constant move b by it, and leave alpha where it is."""
    k, _, y, *_ = task()
    factor = CholeskyFactor(k)
    found = [
        eliminate_constant(factor.solve(with_ones((y + shift)[:, None]))) for shift in (0, 2.5)
    ]
    np.testing.assert_allclose(found[1][0], found[0][0], atol=1e-9)
    np.testing.assert_allclose(found[1][1], found[0][1] + 2.5, rtol=1e-9)
    np.testing.assert_allclose(found[0][0].sum(0), 0, atol=1e-9)


def test_a_constant_that_an_indefinite_matrix_cannot_have_is_said():
    """Where the entries of the inverse sum to 0 the bordered system is singular."""
    a, y = np.diag([1.0, -1.0]), np.array([[1.0], [-1.0]])
    with pytest.raises(SolveError, match=r"sum to 0.*indefinite.*-intercept"):
        eliminate_constant(np.linalg.solve(a, with_ones(y)))
