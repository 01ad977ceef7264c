"""Solves and label-weight paths: residuals, identities, validation inside train, failures."""

import inspect

import numpy as np
import pytest
import torch

import lantk
from lantk.label_terms.base import LabelTerm, label_product_factors
from lantk.label_terms.registry import _ESTIMATORS
from lantk.labels import decide
from lantk.network import training
from lantk.regression import diagnostics
from lantk.regression import paths as predict
from lantk.regression.fits import Member
from lantk.regression.folds import ValidationError, permutation_parts, permuted, validation_folds
from lantk.regression.protocols import assess, choose_weight, oracle_label_path
from lantk.solvers import factors
from lantk.solvers.additions import Dense, Diagonal, Nothing, add_label_term
from lantk.solvers.direct import (
    CholeskyFactor,
    GramFactor,
    IndefiniteError,
    SolveError,
    count_negative_eigenvalues,
)
from lantk.solvers.gpu import DeviceSolver, find_device
from lantk.solvers.path import count_negative_along, solve_path
from lantk.variant import Variant

WEIGHTS = [0.0, 0.001, 0.1, 1.0]


def task(n=40, m=12, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + m, d)).astype(np.float32)
    k = np.exp(-0.5 * ((x[:, None] - x[None]).astype(float) ** 2).sum(-1) / d)
    y = np.where(x[:, 0] + 0.5 * rng.normal(size=n + m) > 0, 1.0, -1.0)
    return k[:n, :n], k[n:, :n], y[:n], y[n:], x[:n], x[n:]


def member_of(variant, *, weights=WEIGHTS, validated=WEIGHTS, permutation=None):
    term, control = Variant.of(variant).parent, Variant.of(variant).control
    make = None
    if variant != "cntk":
        name = variant if control == "offdiagonal" else term
        make = MAKERS.setdefault(name, lambda: lantk.label_term(name))
    only_diagonal = control == "diagonal"
    return Member(variant, weights, validated, make, permutation, only_diagonal=only_diagonal)


MAKERS = {}


def paths_of(members, k, k_test, y, x, x_test, **options):
    return predict.predict(k, k_test, y, members, x_train=x, x_test=x_test, **options)


def path_of(variant, k, k_test, y, x, x_test, **options):
    chosen = {key: options.pop(key) for key in ("weights", "validated") if key in options}
    return paths_of([member_of(variant, **chosen)], k, k_test, y, x, x_test, **options)[0]


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
    with pytest.raises(SolveError, match=r"No two rows are equal.*, or add a ridge"):
        GramFactor(np.diag([1.0, 2.0, 1e-17]))
    with pytest.raises(SolveError, match="Train image 2 is all zero: remove it, or add a ridge"):
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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_negative_eigenvalues_are_counted_by_the_inertia_of_factors(n, seed):
    """LDL^T on the CPU and by PyTorch count as the eigenvalues do, blocks of two included."""
    matrix = np.random.default_rng(seed).normal(size=(n, n))
    matrix += matrix.T
    matrix[np.diag_indices(n)] *= seed > 1  # a diagonal of zeros wants blocks of two
    wanted = int((np.linalg.eigvalsh(matrix) < 0).sum())
    if n > 1 or seed > 1:
        assert DeviceSolver(matrix, "cpu").count_negative(Nothing(), 0.0) == wanted
        assert count_negative_eigenvalues(matrix) == wanted


@pytest.mark.parametrize("n", [8, 60, 400])
def test_negative_eigenvalues_of_a_path_are_as_many_as_at_each_lambda(n):
    """The path's own bounds are no more than that, and save factorizations."""
    k, z, y = indefinite_task(n)
    low_rank = 0.05 * np.outer(y, y) - 0.1 * np.outer(z[0], z[0])
    factors = np.array([0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    terms = [Dense(z), Dense(low_rank), Diagonal(np.ones(n)), Nothing()]
    path = solve_path(k, terms, [factors] * 4, y, cholesky=CholeskyFactor(k))
    for term, at_least in zip(terms, path.at_least_negative, strict=True):
        matrices = [add_label_term(k, term, factor) for factor in factors]
        wanted = [int((np.linalg.eigvalsh(matrix) < 0).sum()) for matrix in matrices]
        counted = []

        def count(factor, term=term, counted=counted):
            counted.append(factor)
            return count_negative_eigenvalues(add_label_term(k, term, factor))

        assert (at_least <= wanted).all()
        assert count_negative_along(factors, at_least, count).tolist() == wanted
        assert 0 not in counted
        if term is not terms[0]:
            assert len(counted) <= len(set(wanted))
        # Without any bound all lambda are counted.
        assert count_negative_along(factors, np.full(6, -1), count).tolist() == wanted
    unknown = solve_path(k, terms, [factors] * 4, y, cholesky=None).at_least_negative
    assert (unknown == -1).all()


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("variant", ["cntk", "cntk-ridge", "lantk-kr-v1", "lantk-fjlt-v1-diagonal"])
def test_a_path_knows_its_negative_eigenvalues(variant, device, monkeypatch):
    """Beyond the n whose eigenvalues are computed, too, and of all of train."""
    k, k_test, y, _, x, x_test = task()
    weights = [0.0, 0.1, 1.0, 30.0, 1000.0]
    found = []
    for most in (1000, 10):
        monkeypatch.setattr(diagnostics, "EIGENVALUE_MAX_N", most)
        options = {"weights": weights, "validated": [0.0], "device": device}
        found.append(path_of(variant, k, k_test, y, x, x_test, **options))
    few, many = found
    np.testing.assert_array_equal(few.n_negative, many.n_negative)
    np.testing.assert_array_equal(few.n_negative > 0, few.smallest_eigenvalues < 0)
    assert few.n_negative[0] == 0
    assert (few.n_negative.max() > 0) == (variant == "lantk-kr-v1")


@pytest.mark.parametrize("n", [8, 60, 400])
def test_path_equals_direct_solves(n):
    """Every lambda of a path, definite or not, is solved as its own factorization solves it."""
    k, z, y = indefinite_task(n)
    factors = np.array([0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    assert np.linalg.eigvalsh(k + factors[-1] * z)[0] < -0.1
    other, diagonal = indefinite_task(n, seed=1)[1], np.linspace(0.5, 1, n)
    both = np.column_stack([y, y[::-1]])
    terms = [Dense(z), Dense(other), Diagonal(diagonal), Nothing()]
    path = solve_path(k, terms, [factors] * 4, both, cholesky=CholeskyFactor(k))
    dense = [z, other, np.diag(diagonal), np.zeros((n, n))]
    for d, i in np.ndindex(4, len(factors)):
        matrix = k.astype(float) + factors[i] * dense[d]
        direct = np.linalg.solve(matrix, both)
        error = np.linalg.norm(path.dual[d, i] - direct) / np.linalg.norm(direct)
        assert error < 1e-8
        residual = both - matrix @ path.dual[d, i]
        assert np.linalg.norm(residual) / np.linalg.norm(both) == pytest.approx(
            path.relative_residuals[d, i], abs=1e-12
        )
    assert path.relative_residuals.max() < 1e-8


def test_small_weights_share_one_krylov_space():
    """Small lambda cost a few steps in all, and none a factorization."""
    k, z, y = indefinite_task(800)
    path = solve_path(k, [Dense(z)], [np.geomspace(1e-6, 1e-4, 6)], y, cholesky=CholeskyFactor(k))
    assert path.n_factorizations[0] == 0
    assert 0 < path.n_steps[0] < 20


def test_large_weights_are_solved_directly():
    """A lambda that would need more steps than a factorization costs gets its own."""
    k, z, y = indefinite_task(300)
    solved = []
    path = solve_path(
        k,
        [Dense(z)],
        [np.array([1e-5, 100.0])],
        y,
        cholesky=CholeskyFactor(k),
        solved=lambda: solved.append(1),
    )
    assert path.n_factorizations[0] == 1
    assert path.n_steps[0] <= 2 * 300 / 30 + 1
    assert len(solved) == 2
    assert path.relative_residuals.max() < 1e-9


def test_without_a_cholesky_factor_every_weight_is_factored():
    """An indefinite K is no obstacle: each lambda is solved by its own factorization."""
    _, z, y = indefinite_task(30)
    with pytest.raises(IndefiniteError, match="not positive definite"):
        CholeskyFactor(z)
    path = solve_path(z, [Nothing()], [np.zeros(1)], y, cholesky=None)
    np.testing.assert_allclose(z @ path.dual[0, 0, :, 0], y, atol=1e-9)
    assert path.n_factorizations[0] == 1


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
    once = factor.whiten(factor.whiten(both), transposed=True)
    np.testing.assert_allclose(k.astype(float) @ once, both, atol=1e-10)
    assert 0.01 < factor.rcond * np.linalg.cond(k.astype(float), 1) < 100


def test_scores_equal_the_formula():
    """Scores at a weight r are those of K + lambda Z with lambda = r mean|K| / mean|Z|."""
    k, k_test, y, _, x, x_test = task()
    path = path_of("lantk-fjlt-v1", k, k_test, y, x, x_test)
    term = lantk.label_term("lantk-fjlt-v1").fit(k, y, x)
    z, z_test = (term.transform(*rows).astype(float) for rows in ((k, x), (k_test, x_test)))
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
    """Lambda cancels the scale of Z: eight times Z gives the same scores."""
    k, k_test, y, _, x, x_test = task()
    term = lantk.label_term("lantk-kr-v1").fit(k, y)
    scores = []
    for scale in (1, 8):
        term.moments_ = term.moments_ * scale
        member = Member("lantk-kr-v1", WEIGHTS, make_term=lambda: None, fitted=term)
        scores.append(paths_of([member], k, k_test, y, x, x_test)[0].scores)
    np.testing.assert_allclose(*scores, rtol=1e-9)


def naive_blocks(variant, fit, held, k, y, x, *, permutation):
    """Return Z on train rows and on others, and lambda at weight 1, by the definitions."""
    name, control = Variant.of(variant).parent, Variant.of(variant).control
    labels = y
    if permutation is not None:
        stream, order = np.random.default_rng([permutation, 0]), np.arange(len(y))
        for _, rows in validation_folds(y, 4, 3):
            order[rows] = stream.permutation(rows)
        labels = y[order]
    k_fit = k[np.ix_(fit, fit)]
    term = lantk.label_term(variant if control == "offdiagonal" else name)
    if name == "cntk-ridge":
        return np.eye(len(fit)), np.zeros((len(held), len(fit))), np.diag(k_fit).mean()
    term.fit(k_fit, labels[fit], x[fit])
    z, z_held = term.train_block(k_fit, x[fit]), term.transform(k[np.ix_(held, fit)], x[held])
    unit = np.abs(k_fit).mean() / np.abs(z).mean(dtype=float)
    if control == "diagonal":
        z, z_held = np.diag(np.diag(z)), 0 * z_held
    return z, z_held, unit


CASES = [
    ("cntk-ridge", None),
    ("lantk-kr-v2", None),
    ("lantk-fjlt-v1", None),
    ("lantk-fjlt-v1-diagonal", None),
    ("lantk-fjlt-v1-offdiagonal", None),
    ("lantk-fjlt-v1-shuffled", 0),
    ("lantk-fjlt-v1-shuffled", 5),
    ("lantk-plugin", None),
    ("cntk-rbf", None),
]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_families_equal_their_definitions(n_classes):
    """Each variant alone or among others gives the scores and the validation of its definition.

    Z and lambda are fitted anew on the training part of each fold; permuted labels, of one
    permutation inside folds, reach Z only; the diagonal keeps the lambda of all of Z.
    """
    from sklearn.model_selection import StratifiedKFold

    k, k_test, y, _, x, x_test = task(n=42)
    n, rhs, classes = len(k), y[:, None], y
    if n_classes > 2:
        classes = np.arange(n) % n_classes
        y = rhs = np.eye(n_classes)[classes]
    both, x_both = np.concatenate([k, k_test]), np.concatenate([x, x_test])
    splits = StratifiedKFold(4, shuffle=True, random_state=3).split(x, classes)
    parts = [(np.arange(n), np.arange(n, len(both))), *splits]
    members = [member_of(variant, permutation=seed) for variant, seed in CASES]
    paths = paths_of(members, k, k_test, y, x, x_test, folds=4, seed=3)
    for (variant, seed), path in zip(CASES, paths, strict=True):
        correct = np.zeros(len(WEIGHTS))
        for part, (fit, held) in enumerate(parts):
            z, z_held, unit = naive_blocks(variant, fit, held, both, y, x_both, permutation=seed)
            for i, weight in enumerate(WEIGHTS):
                dual = np.linalg.solve(both[np.ix_(fit, fit)] + weight * unit * z, rhs[fit])
                scores = (both[np.ix_(held, fit)] + weight * unit * z_held) @ dual
                if part == 0:
                    shown = scores if n_classes > 2 else scores[:, 0]
                    np.testing.assert_allclose(path.scores[i], shown, atol=2e-4)
                    np.testing.assert_allclose(path.factors[i], weight * unit, rtol=1e-6)
                else:
                    shown = scores[None] if n_classes > 2 else scores[None, :, 0]
                    correct[i] += np.sum(decide(shown)[0] == classes[held])
        np.testing.assert_array_equal(path.validation_accuracy, correct / n)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_folds_have_as_many_permuted_labels_of_a_class_as_true_ones(n_classes):
    """Where a class is smaller than the folds they are fewer, and with one image all are mixed."""
    y = np.arange(60) % n_classes
    y = np.where(y, 1.0, -1.0) if n_classes == 2 else np.eye(3)[y]
    found = permuted(y, 7, permutation_parts(y, 5, 0))
    assert (found != y).any()
    for fit, held in validation_folds(y, 5, 0):
        for rows in (fit, held):
            np.testing.assert_array_equal(found[rows].sum(axis=0), y[rows].sum(axis=0))
    few = np.array([1.0, 1, 1, -1, 1])
    assert [rows.tolist() for rows in permutation_parts(few, 5, 0)] == [[0, 1, 2, 3, 4]]
    assert sorted(permuted(few, 1, permutation_parts(few, 5, 0))) == sorted(few)
    assert permuted(few, None, []) is few


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_the_ceiling_is_the_kernel_of_true_label_products(n_classes):
    """The closed form with test labels equals the solve with the whole label product as Z."""
    k, k_test, y, y_test, x, x_test = task(n=60)
    labels_test, test_factors = y_test, y_test[:, None]
    if n_classes > 2:
        y, labels_test = (np.eye(n_classes)[np.arange(60) % n_classes], np.arange(12) % n_classes)
        test_factors, _ = label_product_factors(np.eye(n_classes)[labels_test], 12)
    plain = paths_of([member_of("cntk")], k, k_test, y, x, x_test)[0]
    ceiling = oracle_label_path(plain, labels_test, WEIGHTS)
    factors, signs = label_product_factors(y, len(k))
    for i, weight in enumerate(WEIGHTS):
        factor = weight * np.abs(k).mean()
        z, z_test = ((f * signs) @ factors.T for f in (factors, test_factors))
        wanted = (k_test + factor * z_test) @ np.linalg.solve(k + factor * z, y)
        np.testing.assert_allclose(ceiling.scores[i], wanted, atol=1e-8)


def test_targets_do_not_matter_to_the_largest_score():
    """Regression on -0.1 and 0.9 instead of one-hot labels predicts the same classes."""
    k, k_test, _, _, x, x_test = task()
    y = np.eye(3)[np.arange(len(k)) % 3]
    path = paths_of([member_of("lantk-kr-v2")], k, k_test, y, x, x_test)[0]
    term = lantk.label_term("lantk-kr-v2").fit(k, y)
    for factor, scores in zip(path.factors, path.scores, strict=True):
        combined = k + factor * term.transform(k).astype(float)
        rows = k_test + factor * term.transform(k_test).astype(float)
        other = rows @ np.linalg.solve(combined, y - 0.1)
        np.testing.assert_array_equal(other.argmax(axis=1), scores.argmax(axis=1))


def test_alignment_is_the_cosine_with_the_label_product():
    """Kernel-target alignment of K, Z and K + lambda Z follows from its definition."""
    k, k_test, y, _, x, x_test = task()
    path = path_of("lantk-fjlt-v1", k, k_test, y, x, x_test)
    z = lantk.label_term("lantk-fjlt-v1").fit(k, y, x).train_block(k)

    def alignment(matrix):
        return y @ matrix @ y / (len(y) * np.linalg.norm(matrix))

    assert path.diagnostics["alignment_k"] == pytest.approx(alignment(k), rel=1e-6)
    assert path.diagnostics["alignment_z"] == pytest.approx(alignment(z), rel=1e-6)
    wanted = [alignment(k + factor * z) for factor in path.factors]
    np.testing.assert_allclose(path.alignment, wanted, rtol=1e-6)


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
    functions = [predict.predict, choose_weight, training.train]
    terms = {type(lantk.label_term(v)) for v in _ESTIMATORS}
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
    with pytest.raises(ValidationError, match="9 folds need at least 9 train images"):
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
        (np.diag([1.0, 2.0, 0.0, 1.0, 1.0]), "Train image 2 is all zero"),
        (np.diag([1.0, 2.0, 1e-17, 1.0, 1.0]), "No two rows are equal"),
    ]
    for matrix, message in cases:
        with pytest.raises(SolveError, match=message):
            DeviceSolver(matrix, device).solve(np.ones(len(matrix)))
    with pytest.raises(SolveError, match="row 0"):
        DeviceSolver(np.full((3, 3), np.nan), device)


def with_duplicates(seed):
    """Return a task of 40 train images of which 9 and 21 are equal."""
    k, k_test, y, y_test, x, x_test = task(seed=seed)
    rows = np.arange(40)
    rows[21] = 9
    return k[np.ix_(rows, rows)], k_test[:, rows], y[rows], y_test, x[rows], x_test


@pytest.mark.parametrize("device", [None, *find_devices()])
@pytest.mark.parametrize("seed", range(3))
def test_duplicates_are_no_obstacle_to_what_adds_to_the_kernel(seed, device):
    """A ridge, or the diagonal of Z, makes it solvable: 0 is no candidate, and that is said."""
    k, k_test, y, y_test, x, x_test = with_duplicates(seed)
    members = [member_of("cntk-ridge"), member_of("lantk-kr-v1-diagonal")]
    done = []
    paths = paths_of(
        members, k, k_test, y, x, x_test, device=device, progress=lambda *n: done.append(n)
    )
    for path, z in zip(paths, (np.eye(40), None), strict=True):
        assert path.weights.tolist() == WEIGHTS[1:]
        assert path.diagnostics["kernel_is_singular"] == 1
        assert not np.isnan(path.validation_accuracy).any()
        if z is not None:
            for factor, scores in zip(path.factors, path.scores, strict=True):
                wanted = k_test @ np.linalg.solve(k + factor * z, y)
                np.testing.assert_allclose(scores, wanted, atol=1e-7)
        results, _ = assess(path, y_test, protocols=["honest", "oracle"], oracle_weights=WEIGHTS)
        assert results["protocols"]["honest"]["label_weight"] > 0
    assert done[-1][0] == done[-1][1]
    assert "kernel_is_singular" not in path_of("cntk-ridge", *task()[:3], x, x_test).diagnostics


def test_a_ridge_is_enough_for_any_duplicates():
    """Also where rounding makes K solvable, but not its part in a fold."""
    layers = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]
    y = np.where(np.arange(20) % 2, 1.0, -1.0)
    for seed in (22, 28, 34, 69, 133):  # found among 200
        stream = np.random.default_rng(seed)
        x = stream.uniform(-1, 1, (20, 1, 6, 6)).astype("f4")
        one, other = stream.choice(20, 2, replace=False)
        x[one] = x[other]
        k = lantk.gram(layers, x)
        paths_of([member_of("cntk-ridge")], k, k[:4], y, None, None)


def test_duplicates_are_refused_where_nothing_else_is_left():
    """The plain kernel and a grid of 0 alone name them, as rows of all of train, in a fold too."""
    k, k_test, y, y_test, x, x_test = with_duplicates(0)
    message = r"Train images 9 and 21 have equal rows: remove one of the duplicates, or add a ridge"
    for options in ({"weights": [0.0]}, {"validated": [0.0]}, {}):
        with pytest.raises(SolveError, match=message):
            path_of("cntk-ridge" if options else "cntk", k, k_test, y, x, x_test, **options)
    path = path_of("cntk-ridge", k, k_test, y, x, x_test, validated=[])
    with pytest.raises(lantk.errors.LantkError, match=r"0 is no candidate where .* is singular"):
        assess(path, y_test, protocols=["oracle"], oracle_weights=[0.0])
    member = Member("own", [1.0], [1.0], lambda: OfSixteen(), None)
    with pytest.raises(SolveError, match="Train images 9 and 21 have equal rows"):
        predict.predict(k, k_test, y, [member], folds=2, seed=1)


class OfSixteen(LabelTerm):
    """The identity on all of train, nothing in a fold."""

    def fit(self, k_train_train, y, x=None, solve=None):
        return self

    def transform(self, k, x=None):
        return np.zeros(k.shape)

    def train_block(self, k_train_train, x=None):
        return np.eye(len(k_train_train)) * (len(k_train_train) == 40)


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


def test_relative_ratios_are_those_of_the_whole_sum():
    """K + lambda Z by its own diagonal on train; a test image by K alone. By double loops."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((9, 12)), rng.standard_normal((9, 12))
    k, z = a @ a.T, b @ b.T / 4
    y = np.where(np.arange(9) % 3, 1.0, -1.0)
    fit, rows = np.arange(6), np.arange(6, 9)
    term = KernelOf(z)
    member = Member("term", [0.0, 1.0], make_term=lambda: term)
    (path,) = predict.predict(
        k[:6, :6], k[6:, :6], y[:6], [member], diagonal_test=np.diag(k)[6:],
    )  # fmt: skip
    for factor, train, test in zip(
        path.factors, path.relative_ratio, path.test_class_sums, strict=True
    ):
        both = k + factor * z
        own = np.diag(both).copy()
        own[6:] = np.diag(k)[6:]
        normal = both / np.sqrt(np.multiply.outer(own, own))
        for place, found in ((fit, train), (rows, test.ratio(y[6:]).value)):
            same = [normal[i, j] for i in place for j in fit if y[i] == y[j]]
            other = [normal[i, j] for i in place for j in fit if y[i] != y[j]]
            wanted = np.mean(same) / (np.mean(same) + np.mean(other))
            np.testing.assert_allclose(found, wanted, rtol=1e-5)  # Z is kept in float32


def test_what_cannot_be_normalised_has_no_relative_ratio():
    """A negative diagonal of K + lambda Z: no number at that weight, numbers at the others."""
    k, y = np.eye(4) + 0.5, np.array([1.0, -1.0, 1.0, -1.0])
    member = Member("term", [0.0, 1.0], make_term=lambda: KernelOf(-9 * np.eye(6)))
    (path,) = predict.predict(k, np.ones((2, 4)), y, [member], diagonal_test=np.ones(2))
    assert np.isfinite(path.relative_ratio[0])
    assert np.isnan(path.relative_ratio[1])
    assert path.test_class_sums[1] is None


@pytest.mark.filterwarnings("error")
def test_a_test_image_without_a_kernel_has_no_relative_ratio():
    """A black test image: scores for all, no ratio; nor where nothing is alike on either side."""
    k, y = np.eye(4) + 0.5, np.array([1.0, -1.0, 1.0, -1.0])
    rows, labels = np.array([[0.5, 0.2, 0.1, 0.1], [0, 0, 0, 0]]), np.array([1, -1])
    for k_test, diagonal in ((rows, np.array([1.5, 0])), (0 * rows, np.ones(2))):
        (path,) = predict.predict(k, k_test, y, [Member("cntk")], diagonal_test=diagonal)
        results, scores = assess(path, labels, protocols=["oracle"], oracle_weights=[0.0])
        assert results["curve"][0]["relative_ratio_test"] is None
        assert results["curve"][0]["relative_ratio_train"] > 0.5
        assert np.isfinite(scores["oracle"]).all()


class KernelOf(LabelTerm):
    """A label term that is a given matrix: train rows first, then the others."""

    def __init__(self, z):
        self.z = z

    def fit(self, k_train_train, y, x=None, solve=None):
        self.n = len(y)
        return self

    def transform(self, k, x=None):
        return self.z[self.n : self.n + len(k), : self.n]

    def train_block(self, k_train_train, x=None):
        return self.z[: self.n, : self.n]


def test_a_gpu_solves_only_where_pytorch_is_installed(monkeypatch):
    """A driver alone, as beside the library without its extras, leaves solves to the CPU."""
    monkeypatch.setattr(factors.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(factors, "find_spec", lambda name: None)
    assert factors.find_solver("auto") is None
    assert factors.find_solver("cpu") is None
