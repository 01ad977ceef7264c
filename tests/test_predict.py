"""Solves and label-weight paths: residuals, identities, validation inside train, failures."""

import inspect

import numpy as np
import pytest
import torch

import lantk
from lantk import network, predict
from lantk.evaluate import choose_weight
from lantk.solve import CholeskyFactor, GramFactor, IndefiniteError, SolveError, solve_path
from lantk.solve_device import DeviceSolver, find_device

WEIGHTS = [0.0, 0.001, 0.1, 1.0]


def task(n=40, m=12, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + m, d)).astype(np.float32)
    k = np.exp(-0.5 * ((x[:, None] - x[None]).astype(float) ** 2).sum(-1) / d)
    y = np.where(x[:, 0] + 0.5 * rng.normal(size=n + m) > 0, 1.0, -1.0)
    return k[:n, :n], k[n:, :n], y[:n], y[n:], x[:n], x[n:]


def path_of(variant, k, k_test, y, x, x_test, **options):
    options = {"weights": WEIGHTS, "validated": WEIGHTS} | options
    if variant == "cntk":
        return predict.predict(k, k_test, y, None, **options)
    return predict.predict(
        k,
        k_test,
        y,
        lantk.label_term(variant).fit(k, y, x),
        make_term=lambda: lantk.label_term(variant),
        x_train=x,
        x_test=x_test,
        **options,
    )


def test_solution_solves_the_system():
    """A symmetric indefinite and a general matrix are solved to working accuracy."""
    rng = np.random.default_rng(0)
    symmetric = rng.normal(size=(30, 30))
    symmetric += symmetric.T
    for matrix in (symmetric, rng.normal(size=(30, 30))):
        factor = GramFactor(matrix)
        rhs = rng.normal(size=(30, 2))
        solution = factor.solve(rhs)
        np.testing.assert_allclose(matrix @ solution, rhs, atol=1e-10)
        assert np.linalg.norm(rhs - matrix @ solution) < 1e-13 * np.linalg.norm(rhs)
        assert 0.01 < factor.rcond * np.linalg.cond(matrix, 1) < 100


def test_factoring_leaves_the_matrix_alone():
    """The Gram matrix is not changed by its factorization."""
    matrix = np.eye(5) + 0.1
    before = matrix.copy()
    GramFactor(matrix)
    np.testing.assert_array_equal(matrix, before)


def test_duplicate_images_are_named():
    """A Gram matrix with two equal rows is refused, and the message names them."""
    k = task()[0]
    doubled = [*range(40), 7]
    with pytest.raises(SolveError, match="Train images 7 and 40 have equal rows"):
        GramFactor(k[np.ix_(doubled, doubled)])


def test_singular_without_duplicates_says_what_to_look_for():
    """A singular Gram matrix without equal rows is refused with other advice."""
    with pytest.raises(SolveError, match="No two rows are equal"):
        GramFactor(np.diag([1.0, 2.0, 0.0]))


def test_not_finite_is_refused():
    """A NaN in the Gram matrix is found before anything else is blamed."""
    matrix = np.eye(4)
    matrix[2, 1] = np.nan
    with pytest.raises(SolveError, match="row 2"):
        GramFactor(matrix)


def test_not_square_is_refused():
    """Only square matrices are factored."""
    with pytest.raises(SolveError, match=r"\(2, 3\)"):
        GramFactor(np.ones((2, 3)))


def indefinite_task(n, seed=0):
    """Return a positive definite K and a symmetric Z that makes K + lambda Z indefinite."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n))
    k = a @ a.T / n + 0.1 * np.eye(n)
    z = rng.normal(size=(n, n))
    return k.astype(np.float32), (z + z.T) / 2, rng.normal(size=n)


@pytest.mark.parametrize("n", [8, 60, 400])
def test_path_equals_direct_solves(n):
    """Every lambda of a path, definite or not, is solved as its own factorization solves it."""
    k, z, y = indefinite_task(n)
    factors = np.array([0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    assert np.linalg.eigvalsh(k + factors[-1] * z)[0] < -0.1
    path = solve_path(k, z, factors, y, cholesky=CholeskyFactor(k))
    for i, factor in enumerate(factors):
        direct = np.linalg.solve(k.astype(float) + factor * z, y)
        error = np.linalg.norm(path.dual[:, i] - direct) / np.linalg.norm(direct)
        assert error < 1e-8
        residual = y - (k.astype(float) + factor * z) @ path.dual[:, i]
        assert np.linalg.norm(residual) / np.linalg.norm(y) == pytest.approx(
            path.relative_residuals[i], abs=1e-12
        )
    assert path.relative_residuals.max() < 1e-8


def test_small_weights_share_one_krylov_space():
    """Small lambda cost a few steps in all, and none a factorization."""
    k, z, y = indefinite_task(800)
    path = solve_path(k, z, np.geomspace(1e-6, 1e-4, 6), y, cholesky=CholeskyFactor(k))
    assert path.n_factorizations == 0
    assert 0 < path.n_steps < 20


def test_large_weights_are_solved_directly():
    """A lambda that would need more steps than a factorization costs gets its own."""
    k, z, y = indefinite_task(300)
    solved = []
    path = solve_path(
        k,
        z,
        np.array([1e-5, 100.0]),
        y,
        cholesky=CholeskyFactor(k),
        solved=lambda: solved.append(1),
    )
    assert path.n_factorizations == 1
    assert path.n_steps <= 2 * 300 / 70 + 1
    assert len(solved) == 2
    assert path.relative_residuals.max() < 1e-9


def test_without_a_cholesky_factor_every_weight_is_factored():
    """An indefinite K is no obstacle: each lambda is solved by its own factorization."""
    _, z, y = indefinite_task(30)
    with pytest.raises(IndefiniteError, match="not positive definite"):
        CholeskyFactor(z)
    path = solve_path(z, None, np.zeros(1), y, cholesky=None)
    np.testing.assert_allclose(z @ path.dual[:, 0], y, atol=1e-9)
    assert path.n_factorizations == 1


def test_an_indefinite_gram_is_evaluated_all_the_same():
    """Predictions from an indefinite K equal those of direct solves."""
    k, k_test, y, _, x, x_test = task()
    k = k - 0.3 * np.eye(len(k))
    assert np.linalg.eigvalsh(k)[0] < 0
    path = path_of("lantk-kr-v2", k, k_test, y, x, x_test)
    np.testing.assert_allclose(path.scores[0], k_test @ np.linalg.solve(k, y), atol=1e-8)
    assert path.diagnostics["factorizations"] == len(WEIGHTS)


def test_cholesky_factor_solves_and_whitens():
    """The Cholesky factor solves for one or several right-hand sides, and splits as L L^T."""
    k, _, y = indefinite_task(50)
    factor = CholeskyFactor(k)
    both = np.column_stack([y, 2 * y])
    np.testing.assert_allclose(k.astype(float) @ factor.solve(both), both, atol=1e-10)
    once = factor.whiten_transposed(factor.whiten(y))
    np.testing.assert_allclose(k.astype(float) @ once, y, atol=1e-10)
    assert 0.01 < factor.rcond * np.linalg.cond(k.astype(float), 1) < 100


def test_scores_equal_the_formula():
    """Scores at a weight r are those of K + lambda Z with lambda = r mean|K| / mean|Z|."""
    k, k_test, y, _, x, x_test = task()
    path = path_of("lantk-fjlt-v1", k, k_test, y, x, x_test)
    term = lantk.label_term("lantk-fjlt-v1").fit(k, y, x)
    z, z_test = term.transform(k, x), term.transform(k_test, x_test)
    for i, weight in enumerate(path.weights):
        factor = weight * np.abs(k).mean() / np.abs(z).mean()
        wanted = (k_test + factor * z_test) @ np.linalg.solve(k + factor * z, y)
        np.testing.assert_allclose(path.factors[i], factor, rtol=1e-12)
        np.testing.assert_allclose(path.scores[i], wanted, rtol=1e-6)
        np.testing.assert_allclose(
            path.smallest_eigenvalues[i], np.linalg.eigvalsh(k + factor * z)[0], atol=1e-10
        )
    assert path.relative_residuals.max() < 1e-10


@pytest.mark.parametrize("variant", ["lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1"])
def test_weight_zero_is_the_plain_kernel(variant):
    """At label weight 0 every variant predicts what the plain kernel predicts."""
    k, k_test, y, _, x, x_test = task()
    plain = path_of("cntk", k, k_test, y, x, x_test)
    labelled = path_of(variant, k, k_test, y, x, x_test)
    np.testing.assert_allclose(labelled.scores[0], plain.scores[0], atol=1e-12)
    assert labelled.validation_accuracy[0] == plain.validation_accuracy[0]


def test_scale_of_the_label_term_is_immaterial():
    """Lambda cancels the scale of Z: ten times Z gives the same scores."""
    k, k_test, y, *_ = task()
    term = lantk.label_term("lantk-kr-v1").fit(k, y)
    scores = []
    for scale in (1, 10):
        term.moments_ = term.moments_ * scale
        path = predict.predict(k, k_test, y, term, weights=WEIGHTS, validated=[])
        scores.append(path.scores)
    np.testing.assert_allclose(*scores, rtol=1e-9)


def test_validation_equals_a_naive_loop():
    """Validation refits Z and lambda on the training part of each fold, and only there."""
    from sklearn.model_selection import StratifiedKFold

    k, k_test, y, _, x, x_test = task()
    path = path_of("lantk-fjlt-v1", k, k_test, y, x, x_test, folds=4, seed=3)
    correct = np.zeros(len(WEIGHTS))
    folds = StratifiedKFold(4, shuffle=True, random_state=3).split(x, y)
    for fit, held in folds:
        term = lantk.label_term("lantk-fjlt-v1").fit(k[fit][:, fit], y[fit], x[fit])
        z = term.transform(k[fit][:, fit], x[fit])
        z_held = term.transform(k[held][:, fit], x[held])
        for i, weight in enumerate(WEIGHTS):
            factor = weight * np.abs(k[fit][:, fit]).mean() / np.abs(z).mean()
            alpha = np.linalg.solve(k[fit][:, fit] + factor * z, y[fit])
            f = (k[held][:, fit] + factor * z_held) @ alpha
            correct[i] += np.sum(np.sign(f) == y[held])
    np.testing.assert_array_equal(path.validation_accuracy, correct / len(y))


def test_only_validated_weights_have_a_validation_accuracy():
    """Weights of the oracle's grid that are not on the honest one are not validated."""
    k, k_test, y, _, x, x_test = task()
    path = path_of("lantk-kr-v1", k, k_test, y, x, x_test, validated=[0.0, 1.0])
    np.testing.assert_array_equal(np.isnan(path.validation_accuracy), [False, True, True, False])


def test_ties_go_to_the_smaller_weight():
    """Of weights with equal validation accuracy the smallest is chosen."""
    weights = np.array([0.0, 0.1, 1.0, 3.0])
    assert choose_weight(weights, np.array([0.7, 0.8, np.nan, 0.8])) == 1


def test_no_test_label_can_reach_a_fit():
    """No function that fits, chooses or trains has an argument for test labels."""
    functions = [predict.predict, choose_weight, network.train]
    terms = [type(lantk.label_term(v)) for v in ("lantk-kr-v1", "lantk-fjlt-v1")]
    functions += [getattr(t, m) for t in terms for m in ("fit", "transform", "fit_transform")]
    for function in functions:
        names = set(inspect.signature(function).parameters)
        assert not any("y_test" in name or "test_label" in name for name in names), function


def test_progress_counts_every_solve():
    """Progress is told of each solve, and ends at the total."""
    k, k_test, y, _, x, x_test = task()
    seen = []
    path_of("lantk-kr-v1", k, k_test, y, x, x_test, progress=lambda *done: seen.append(done))
    total = len(WEIGHTS) * (5 + 1)
    assert seen == [(i + 1, total) for i in range(total)]


def test_too_many_folds_are_refused():
    """Folds that a class cannot fill are refused with both numbers."""
    k, k_test, y, _, x, x_test = task(n=12)
    with pytest.raises(predict.ValidationError, match="9 folds need at least 9 train images"):
        path_of("lantk-kr-v1", k, k_test, y, x, x_test, folds=9)


def find_devices():
    """Return where PyTorch can solve here: its CPU stands for a GPU where there is none."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.mark.parametrize("device", find_devices())
@pytest.mark.parametrize("variant", ["cntk", "lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1"])
def test_a_device_predicts_what_the_cpu_predicts(variant, device):
    """Solves by PyTorch give the scores, residuals and validation of the CPU's own."""
    k, k_test, y, _, x, x_test = task()
    k, k_test = k.astype(np.float32), k_test.astype(np.float32)
    wanted = path_of(variant, k, k_test, y, x, x_test)
    found = path_of(variant, k, k_test, y, x, x_test, device=device)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.validation_accuracy, wanted.validation_accuracy)
    assert found.relative_residuals.max() < 1e-9
    assert found.diagnostics["factorizations"] == len(found.weights)


@pytest.mark.parametrize("device", find_devices())
def test_a_device_refuses_what_the_cpu_refuses(device):
    """Equal images, other singular matrices, and NaN get the messages of the CPU's solves."""
    k = task()[0]
    doubled = [*range(40), 7]
    cases = [
        (k[np.ix_(doubled, doubled)], "Train images 7 and 40 have equal rows"),
        (np.diag([1.0, 2.0, 0.0, 1.0, 1.0]), "No two rows are equal"),
        (np.diag([1.0, 2.0, 1e-17, 1.0, 1.0]), "No two rows are equal"),
    ]
    for matrix, message in cases:
        with pytest.raises(SolveError, match=message):
            DeviceSolver(matrix, device).solve(np.ones(len(matrix)))
    with pytest.raises(SolveError, match="row 0"):
        DeviceSolver(np.full((3, 3), np.nan), device)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    """`auto` and `cpu` mean the CPU where PyTorch finds no GPU; `cuda` says what to do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") is find_device("cpu") is None
    with pytest.raises(SolveError, match="PyTorch finds no GPU here: use 'cpu' or 'auto'"):
        find_device("cuda")


@pytest.mark.parametrize("device", find_devices())
def test_a_device_refines_its_solutions(device):
    """Refinement repairs what pivoting loses on Wilkinson's matrix, whose factors grow."""
    n = 40
    k = np.eye(n) - np.tril(np.ones((n, n)), -1)
    k[:, -1] = 1
    y = np.random.default_rng(0).normal(size=n)
    plain = np.abs(k @ np.linalg.solve(k, y) - y).max()
    assert plain > 1e-6
    assert np.abs(k @ DeviceSolver(k, device).solve(y) - y).max() < 1e-4 * plain
