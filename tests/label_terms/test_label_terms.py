"""Label terms: golden values, laws, naive references, the estimator contract."""

import threading
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import lantk
from lantk.label_terms.base import (
    LabelTermError,
    NotFittedError,
    blocks_together,
    fit_together,
    image_vectors,
    label_product_factors,
)
from lantk.label_terms.feature_sets import FEATURE_SETS, PairedVectors, two_layer_ntk
from lantk.label_terms.kernel_regression import KernelRegression
from lantk.label_terms.least_squares import LeastSquares
from lantk.label_terms.plug_in import PlugIn
from lantk.label_terms.registry import _ESTIMATORS
from lantk.solvers import tiles as pair_tiles

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "label_terms.npz")
VARIANTS = [v for v in _ESTIMATORS if v.startswith("lantk-")] + ["lantk-fjlt-v1-offdiagonal"]
LEAST_SQUARES = [v for v in VARIANTS if isinstance(lantk.label_term(v), LeastSquares)]
# Z is float32.
ROUNDING = 2e-7


def scaled(name):
    return (GOLDEN[name] / 127.5 - 1).astype(np.float32)


X_TRAIN = image_vectors(scaled("images_train"))
X_TEST = image_vectors(scaled("images_test"))
K_TRAIN, K_TEST, Y = (GOLDEN[k] for k in ("k_train_train", "k_test_train", "y_train"))


def random_task(n=24, m=7, d=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + m, d)).astype(np.float32)
    k = np.exp(-0.5 * ((x[:, None] - x[None]).astype(float) ** 2).sum(-1) / d)
    y = np.where(rng.permutation(n) % 2, 1.0, -1.0)
    return k[:n, :n], k[n:, :n], y, x[:n], x[n:]


def assert_close_to_largest(found, wanted, tolerance):
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_kernel_regression_equals_the_authors_values(version):
    """The closed form gives what the authors' double sums give, on train and test."""
    term = lantk.label_term(f"lantk-kr-{version}").fit(K_TRAIN, Y)
    for k, block in ((K_TRAIN, "train"), (K_TEST, "test")):
        assert_close_to_largest(term.transform(k), GOLDEN[f"kr_{version}_{block}"], ROUNDING)


@pytest.mark.parametrize(
    ("feature_set", "golden"),
    [
        ("global", "global_features"),
        ("pca-release", "pca_features_release"),
        ("pca-text", "pca_features_text"),
    ],
)
@pytest.mark.parametrize("block", ["train", "test"])
def test_features_equal_the_authors_values(feature_set, golden, block):
    """Each feature agrees with the authors' to 1e-6 of its largest value."""
    cls = FEATURE_SETS[feature_set]
    k, x = (K_TRAIN, X_TRAIN) if block == "train" else (K_TEST, X_TEST)
    found = cls(X_TRAIN, cls.fit(X_TRAIN)).features(k, x)
    wanted = GOLDEN[f"{golden}_{block}"].reshape(len(k), 30, 10)
    for i in range(10):
        assert_close_to_largest(found[i], wanted[:, :, i], 1e-6)


@pytest.mark.parametrize("block", ["train", "test"])
def test_two_layer_ntk_equals_the_authors_values(block):
    """The closed-form 2-layer NTK agrees with the authors' to 1e-6 of its largest value."""
    x = X_TRAIN if block == "train" else X_TEST
    assert_close_to_largest(two_layer_ntk(x, X_TRAIN), GOLDEN[f"two_layer_ntk_{block}"], 1e-6)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("targets", ["labels", "dual"])
def test_kernel_regression_equals_its_double_sum(targets, n_classes):
    """Z equals the Nadaraya-Watson sum over all entries, for binary and one-hot labels."""
    k, k_test, y, _, _ = random_task()
    if n_classes > 2:
        y = np.eye(n_classes)[np.arange(len(k)) % n_classes]
    factors, signs = label_product_factors(y, len(k))
    products = (factors * signs) @ factors.T
    if targets == "dual":
        inverse = np.linalg.inv(k)
        products = inverse @ products @ inverse
    spread = (k.max() - k.min()) ** 2
    wanted = np.empty_like(k_test)
    for i, phi in np.ndenumerate(k_test):
        weights = spread - (phi - k) ** 2
        wanted[i] = (weights * products).sum() / weights.sum()
    found = KernelRegression(targets).fit(k, y).transform(k_test)
    assert_close_to_largest(found, wanted, ROUNDING)


@pytest.mark.parametrize("variant", LEAST_SQUARES)
@pytest.mark.parametrize("one_hot", [False, True])
def test_least_squares_equals_a_direct_solve(variant, one_hot):
    """Streamed normal equations give the fit of least squares on the whole n^2 x p matrix."""
    k, _, y, x, _ = random_task()
    if one_hot:
        y = np.eye(3)[np.arange(len(k)) % 3]
    term = lantk.label_term(variant).fit(k, y, x)
    features = np.concatenate(
        [FEATURE_SETS[s](x, term.fitted()).features(k, x) for s in term.feature_sets]
    )
    factors, signs = label_product_factors(y, len(k))
    columns = features.reshape(len(features), -1).T
    products = ((factors * signs) @ factors.T).ravel()
    # Off the diagonal, where it is left out of the fit.
    taken = term.with_diagonal | ~np.eye(len(k), dtype=bool).ravel()
    scale = np.linalg.norm(columns[taken], axis=0)
    scale[scale == 0] = 1
    least = np.linalg.lstsq(columns[taken] / scale, products[taken], rcond=1e-6)[0]
    assert_close_to_largest(term.transform(k, x).ravel(), columns @ (least / scale), ROUNDING)


def test_one_hot_labels_give_plus_one_for_the_same_class():
    """The label product of one-hot labels is 1 within a class and -1 across classes."""
    y = np.eye(3)[[0, 1, 2, 0]]
    factors, signs = label_product_factors(y, 4)
    wanted = 2.0 * (y @ y.T) - 1
    np.testing.assert_allclose((factors * signs) @ factors.T, wanted, atol=1e-15)


@pytest.mark.parametrize("variant", VARIANTS)
class TestContract:
    """What every label term promises."""

    def test_fit_returns_self_and_leaves_inputs_alone(self, variant):
        """Fitting returns the estimator and changes none of its inputs."""
        k, _, y, x, _ = random_task()
        before = [a.copy() for a in (k, y, x)]
        term = lantk.label_term(variant)
        assert term.fit(k, y, x) is term
        term.transform(k, x)
        for now, then in zip((k, y, x), before, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_shapes_and_finite(self, variant):
        """Z has one row a row of the kernel and one column a train image."""
        k, k_test, y, x, x_test = random_task()
        term = lantk.label_term(variant).fit(k, y, x)
        z = term.transform(k_test, x_test)
        assert z.shape == k_test.shape
        assert np.isfinite(z).all()

    def test_fit_transform_is_the_symmetric_train_block(self, variant):
        """fit_transform equals fit followed by train_block, and is symmetric."""
        k, _, y, x, _ = random_task()
        z = lantk.label_term(variant).fit_transform(k, y, x)
        np.testing.assert_array_equal(z, lantk.label_term(variant).fit(k, y, x).train_block(k, x))
        assert_close_to_largest(z, z.T, ROUNDING)

    def test_rows_do_not_influence_each_other(self, variant):
        """Z of a test row is the same whether it is transformed alone or among others."""
        k, k_test, y, x, x_test = random_task()
        term = lantk.label_term(variant).fit(k, y, x)
        whole = term.transform(k_test, x_test)
        assert_close_to_largest(term.transform(k_test[2:3], x_test[2:3])[0], whole[2], ROUNDING)

    def test_order_of_train_images_is_immaterial(self, variant):
        """Permuting the train images permutes the columns of Z."""
        k, k_test, y, x, x_test = random_task()
        order = np.random.default_rng(1).permutation(len(k))
        # Folds are drawn by position; with one for each image there is nothing to draw.
        terms = [lantk.label_term(variant) for _ in range(2)]
        for term in terms:
            vars(term).update({"folds": len(k)} if variant == "lantk-plugin" else {})
        z = terms[0].fit(k, y, x).transform(k_test, x_test)
        other = terms[1].fit(k[np.ix_(order, order)], y[order], x[order])
        # 1e-6: nearly dependent features magnify the rounding of sums taken in another order.
        assert_close_to_largest(other.transform(k_test[:, order], x_test), z[:, order], 1e-6)

    def test_flipping_all_labels_changes_nothing(self, variant):
        """Z depends on label products only."""
        k, k_test, y, x, x_test = random_task()
        terms = [lantk.label_term(variant).fit(k, sign * y, x) for sign in (1, -1)]
        assert_close_to_largest(*[t.transform(k_test, x_test) for t in terms], ROUNDING)

    def test_labels_matter(self, variant):
        """Other labels give another Z."""
        k, k_test, y, x, x_test = random_task()
        other = np.where(np.arange(len(y)) < len(y) // 2, 1.0, -1.0)
        terms = [lantk.label_term(variant).fit(k, labels, x) for labels in (y, other)]
        a, b = (t.transform(k_test, x_test) for t in terms)
        assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()

    def test_restored_from_its_fitted_numbers(self, variant):
        """Saved numbers and the train vectors give the same Z, without fitting."""
        k, k_test, y, x, x_test = random_task()
        term = lantk.label_term(variant).fit(k, y, x)
        again = lantk.label_term(variant).restore(term.fitted(), x)
        np.testing.assert_array_equal(
            again.transform(k_test, x_test), term.transform(k_test, x_test)
        )
        assert sum(a.nbytes for a in term.fitted().values()) < 10_000

    def test_small_blocks_change_nothing(self, variant, monkeypatch):
        """The result does not depend on how many entries are worked on at once."""
        k, k_test, y, x, x_test = random_task()
        whole = lantk.label_term(variant).fit(k, y, x).transform(k_test, x_test)
        monkeypatch.setattr("lantk.label_terms.base._BLOCK_ENTRIES", 50)
        monkeypatch.setattr("lantk.solvers.tiles.SIDE", 5)
        blocks = lantk.label_term(variant).fit(k, y, x).transform(k_test, x_test)
        assert_close_to_largest(blocks, whole, 1e-6)

    @pytest.mark.parametrize("labels", ["zeros", "short", "two-hot"])
    def test_labels_of_another_form_are_refused(self, variant, labels):
        """Labels that are neither -1/+1 nor one-hot are refused."""
        k, _, y, x, _ = random_task()
        wrong = {"zeros": y * 0, "short": y[1:], "two-hot": np.ones((len(y), 2))}[labels]
        with pytest.raises(LabelTermError, match=r"wanted \(24,\) of -1 and \+1"):
            lantk.label_term(variant).fit(k, wrong, x)


def test_solve_is_used_by_the_dual_targets():
    """KR-V2 takes a given solver for H instead of factoring it again."""
    k, _, y, _, _ = random_task()
    calls = []

    def solve(rhs):
        calls.append(rhs.shape)
        return np.linalg.solve(k, rhs)

    given_solver = lantk.label_term("lantk-kr-v2").fit(k, y, solve=solve)
    assert calls == [(24, 1)]
    own = lantk.label_term("lantk-kr-v2").fit(k, y)
    np.testing.assert_allclose(given_solver.moments_, own.moments_, rtol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("term", ["lantk-kr-v2", "lantk-fjlt-v2", "lantk-plugin"])
def test_fitting_together_equals_fitting_alone(term, n_classes):
    """Terms fitted to several label vectors at once, diagonal or not, equal each fitted alone."""
    k, k_test, y, x, x_test = random_task()
    if n_classes > 2:
        y = np.eye(n_classes)[np.arange(len(k)) % n_classes]
    names = [term, term] + (["lantk-fjlt-v2-offdiagonal"] if "fjlt" in term else [])
    ys = [y, np.random.default_rng(0).permutation(y), y]
    together = [lantk.label_term(name) for name in names]
    fit_together(together, k, ys[: len(names)], x)
    for rows, vectors, train in ((k, x, True), (k_test, x_test, False)):
        blocks = blocks_together(together, rows, vectors, train=train)
        for name, labels, block in zip(names, ys, blocks, strict=False):
            alone = lantk.label_term(name).fit(k, labels, x)
            wanted = alone.train_block(rows) if train else alone.transform(rows, vectors)
            assert_close_to_largest(block, wanted, ROUNDING)


@pytest.mark.parametrize("variant", [*LEAST_SQUARES, "cntk-rbf", "cntk-laplacian"])
def test_pairs_computed_once_change_no_byte(variant):
    """Inner products and distances from a store, cut to some rows, give the same Z."""
    k, k_test, y, x, x_test = random_task(n=70)
    store = PairedVectors(x, x_test)
    some = np.random.default_rng(0).permutation(70)[:50]
    found, wanted = (
        lantk.label_term(variant).fit(k[np.ix_(some, some)], y[some], vectors[some])
        for vectors in (store[:70], x)
    )
    k_some = k[np.ix_(some, some)]
    np.testing.assert_array_equal(found.train_block(k_some), wanted.train_block(k_some))
    np.testing.assert_array_equal(
        found.transform(k_test[:, some], store[70:]), wanted.transform(k_test[:, some], x_test)
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_plugin_is_the_product_of_out_of_fold_estimates(n_classes):
    """Z between train rows is made of kernel regressions that did not see the row's own label."""
    k, k_test, y, *_ = random_task()
    labels = y[:, None]
    if n_classes > 2:
        labels = y = np.eye(n_classes)[np.arange(len(k)) % n_classes]
    term = PlugIn(folds=4, seed=1).fit(k, y)
    fold_of = np.random.default_rng(1).permutation(np.arange(len(k)) % 4)
    eta = np.empty_like(labels)
    for i in range(len(k)):
        rest = fold_of != fold_of[i]
        eta[i] = k[i, rest] @ np.linalg.solve(k[np.ix_(rest, rest)], labels[rest])
    low = -1 if n_classes == 2 else 0
    eta = np.clip(eta, low, 1)
    new = np.clip(k_test @ np.linalg.solve(k, labels), low, 1)
    for found, rows in ((term.train_block(k), eta), (term.transform(k_test), new)):
        product = rows @ eta.T
        assert_close_to_largest(found, product if n_classes == 2 else 2 * product - 1, ROUNDING)


def test_the_gaussian_is_the_eighth_feature():
    """The label-free addition is exp(-squared distance / its mean), ones on the diagonal."""
    k, k_test, y, x, x_test = random_task()
    term = lantk.label_term("cntk-rbf").fit(k, y, x)
    squares = ((x[:, None].astype(float) - x[None]) ** 2).sum(-1)
    others = ((x_test[:, None].astype(float) - x[None]) ** 2).sum(-1)
    assert_close_to_largest(term.train_block(k), np.exp(-squares / squares.mean()), ROUNDING)
    assert_close_to_largest(term.transform(k_test, x_test), np.exp(-others / squares.mean()), 3e-7)
    assert term.fitted().keys() == {"mean_squared_distance_", "coefficients_"}


def test_the_laplacian_is_that_of_the_l1_distance_in_units_of_its_mean():
    """The other label-free kernel is exp(-L1 distance / its mean over all train entries)."""
    k, k_test, y, x, x_test = random_task()
    term = lantk.label_term("cntk-laplacian").fit(k, y, x)
    distances = np.abs(x[:, None].astype(float) - x[None]).sum(-1)
    others = np.abs(x_test[:, None].astype(float) - x[None]).sum(-1)
    assert float(term.mean_distance_) == pytest.approx(distances.mean(), rel=1e-12)
    for found, wanted in (
        (term.train_block(k), distances),
        (term.transform(k_test, x_test), others),
    ):
        np.testing.assert_allclose(found, np.exp(-wanted / distances.mean()), rtol=1e-6)
    assert term.fitted().keys() == {"mean_squared_distance_", "coefficients_", "mean_distance_"}
    np.testing.assert_array_equal(
        lantk.label_term("cntk-laplacian").fit(k, y, 0 * x + 1).train_block(k), 1
    )


def test_the_ridge_is_the_identity_in_units_of_the_mean_diagonal():
    """A ridge of 1 adds the mean diagonal of K, and nothing between train and other rows."""
    k, k_test, y, *_ = random_task()
    term = lantk.label_term("cntk-ridge").fit(k, y)
    np.testing.assert_array_equal(term.train_block(k), np.ones(24))
    assert term.transform(k_test).size == 0
    assert term.weight_unit(0.1, np.array([1.0, 3.0]), 1.0) == 2.0


def test_missing_vectors_are_refused():
    """Features of the pair need vectors, and the message says how to make them."""
    k, _, y, x, _ = random_task()
    for wrong in (None, x[1:]):
        with pytest.raises(LabelTermError, match="image_vectors"):
            lantk.label_term("lantk-fjlt-v1").fit(k, y, wrong)


NAMES = [name for name in _ESTIMATORS if name != "cntk-ridge"]


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_arrays_may_be_written_in_other_ways(name):
    """0/1, booleans and class numbers are the labels that they stand for; lists are arrays."""
    k, k_test, y, x, x_test = random_task()
    wanted = lantk.label_term(name).fit(k, y, x).transform(k_test, x_test)
    for other in ((y > 0).astype(int), y > 0, np.where(y > 0, 7, 3), y.tolist()):
        found = lantk.label_term(name).fit(k, other, x).transform(k_test, x_test)
        np.testing.assert_array_equal(found, wanted)
    numbers = np.arange(24) % 3
    wanted = lantk.label_term(name).fit(k, np.eye(3)[numbers], x).train_block(k)
    found = lantk.label_term(name).fit(k.tolist(), (2 * numbers).tolist(), x.tolist())
    np.testing.assert_allclose(found.train_block(k.tolist()), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_by_hand_is_looked_at(name):
    """Each wrong argument has an error of its own, which says what to do."""
    k, k_test, y, x, x_test = random_task()
    with_nan = k.copy()
    with_nan[3, 5] = np.nan
    for arguments, message in (
        ((with_nan, y, x), "row 3 of k_train_train has a NaN or an infinity: repair"),
        ((k[:5], y[:5], x[:5]), r"k_train_train has shape \(5, 24\): wanted \(n, n\)"),
        ((k.astype(str), y, x), "k_train_train .* holds <U.*: wanted a matrix of numbers"),
        (([[1.0], [1.0, 2.0]], y, x), "k_train_train has rows of unequal lengths"),
        ((k, np.where(y > 0, "dog", "cat"), x), r"labels hold <U3, such as \['.*Classes\(y\)"),
        ((k, np.where(y > 0, np.nan, y), x), r"labels of shape \(24,\) .*: wanted"),
        ((k, y + 0.5, x), r"labels of shape \(24,\) .*: wanted \(24,\) of -1 and \+1, of 0 and 1"),
    ):
        with pytest.raises(LabelTermError, match=message):
            lantk.label_term(name).fit(*arguments)
    for apply in ("transform", "train_block"):
        with pytest.raises(
            NotFittedError, match=r"\) is not fitted: call `fit\(k_train_train, y\)`"
        ):
            getattr(lantk.label_term(name), apply)(k, x)
    term = lantk.label_term(name).fit(k, y, x)
    with pytest.raises(LabelTermError, match=r"k has shape .*: wanted a column for each of the 24"):
        term.transform(k_test[:, 1:], x_test)
    with pytest.raises(LabelTermError, match="row 3 of k has a NaN"):
        term.transform(with_nan, x)
    if term.needs_x:
        with pytest.raises(LabelTermError, match="row 2 of x has a NaN"):
            term.fit(k, y, np.where(np.arange(24)[:, None] == 2, np.inf, x))
    assert issubclass(NotFittedError, AttributeError)


@pytest.mark.parametrize("name", [*_ESTIMATORS, "lantk-fjlt-v1-offdiagonal"])
def test_terms_are_printed_and_cloned(name):
    """The text of a term makes it again, and scikit-learn clones it unfitted."""
    k, _, y, x, _ = random_task()
    term = lantk.label_term(name).fit(k, y, x)
    kinds = {type(lantk.label_term(n)).__name__: type(lantk.label_term(n)) for n in _ESTIMATORS}
    for other in (clone(term), eval(repr(term), kinds)):
        assert repr(other) == repr(term)
        assert vars(other) == vars(lantk.label_term(name))


def test_a_label_term_that_float32_does_not_hold_is_refused():
    """The dual labels of a tiny or huge kernel make a Z beyond float32: never infinite, never 0."""
    k, _, y, _, _ = random_task()
    for scale in (1e-30, 1e30):
        with pytest.raises(LabelTermError, match=r"Z has the size .*: scale the images"):
            lantk.label_term("lantk-kr-v2").fit_transform(scale * k, y)


def test_unknown_label_term_is_refused():
    """An unknown name lists the known ones; only least squares can leave their diagonal out."""
    with pytest.raises(LabelTermError, match="lantk-kr-v1, lantk-kr-v2"):
        lantk.label_term("lantk-kr-v3")
    with pytest.raises(LabelTermError, match="only the least-squares terms"):
        lantk.label_term("lantk-kr-v1-offdiagonal")


def test_kernel_values_far_outside_train_are_refused():
    """Where the weights sum to nothing, kernel regression says so instead of extrapolating."""
    k, _, y, _, _ = random_task()
    term = lantk.label_term("lantk-kr-v1").fit(k, y)
    with pytest.raises(LabelTermError, match="image 0 of k with train image 1 is too far"):
        term.transform(np.where(np.arange(24) == 1, 99.0, k[:1]))


def test_equal_kernel_values_are_refused():
    """Kernel regression over a constant kernel is undefined, and says so."""
    with pytest.raises(LabelTermError, match="all 4 x 4 kernel values equal"):
        lantk.label_term("lantk-kr-v1").fit(np.ones((4, 4)), np.array([1.0, -1, 1, -1]))


def test_zero_and_constant_vectors_have_no_angle():
    """Cosine and correlation with a zero or constant vector are 0, and nothing is NaN."""
    x = np.array([[0, 0, 0], [1, 1, 1], [1, 2, 3]], np.float32)
    cls = FEATURE_SETS["global"]
    features = cls(x, cls.fit(x)).features(np.eye(3), x)
    assert np.isfinite(features).all()
    assert (features[2][0] == 0).all()
    assert (features[8][:2] == 0).all()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.integers(1, 9),
    st.integers(1, 200),
    st.integers(1, 600),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_comparison_equals_its_definition(n1, n2, d, dtype, seed):
    """Inner products and L1 distances agree with their sums over coordinates at any size."""
    rng = np.random.default_rng(seed)
    x1, x2 = (rng.normal(size=(n, d)).astype(dtype) for n in (n1, n2))
    wanted = np.abs(x1[:, None].astype(float) - x2[None]).sum(-1)
    cls = FEATURE_SETS["global"]
    features = cls(x2, cls.fit(x2)).features(np.ones((n1, n2)), x1)
    inner, distance = features[1], features[9]
    # Vectors are rounded to float32 first, which a small difference feels.
    np.testing.assert_allclose(distance, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inner, x1.astype(float) @ x2.astype(float).T, atol=1e-11)


def test_l1_distance_of_long_vectors_keeps_its_digits():
    """Runs of coordinates are summed in float64, so long vectors lose nothing."""
    x = np.full((1, 200_001), 0.1, np.float32)
    cls = FEATURE_SETS["global"]
    distance = cls(-x, cls.fit(-x)).features(np.ones((1, 1)), x)[9]
    np.testing.assert_allclose(distance, 2 * x.astype(float).sum(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (30, 80), (90, 60)])
def test_components_are_those_of_scikit_learn(shape):
    """Mean and components are its PCA's, the largest loading of each component positive."""
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=shape)
    learned = FEATURE_SETS["pca-release"].fit(x)
    pca = PCA(min(5, *shape), svd_solver="full").fit(x)
    largest = np.abs(pca.components_).argmax(axis=1)
    signs = np.sign(pca.components_[np.arange(len(largest)), largest])
    np.testing.assert_allclose(learned["pca_mean_"], pca.mean_, atol=1e-12)
    wanted = pca.components_ * signs[:, None]
    # The last component of a small set is rounding.
    few = min(len(wanted), min(shape) - 1)
    np.testing.assert_allclose(learned["pca_components_"][:few], wanted[:few], atol=1e-9)


@pytest.mark.parametrize("variant", LEAST_SQUARES)
def test_number_of_threads_changes_no_byte(variant, monkeypatch):
    """Coefficients and Z are the same bytes for any number of threads."""
    k, k_test, y, x, x_test = random_task(n=70)
    monkeypatch.setattr(pair_tiles, "SIDE", 16)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba, "get_num_threads", lambda n=threads: n)
        term = lantk.label_term(variant).fit(k, y, x)
        z = term.train_block(k, x), term.transform(k_test, x_test)
        found.append([term.coefficients_.tobytes(), *(part.tobytes() for part in z)])
    assert found[0] == found[1] == found[2]


def test_tiles_keep_their_order_in_as_many_threads_as_numba_has(monkeypatch):
    """Tiles are worked on at once, and what they give comes in their order."""
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    together, last_is_done = threading.Barrier(3, timeout=30), threading.Event()

    def visit(i):
        together.wait()
        if i == 2:
            last_is_done.set()
        assert last_is_done.wait(30)
        return i

    assert list(pair_tiles.in_threads(visit, range(3))) == [0, 1, 2]


@pytest.mark.parametrize("side", [1, 7, 24, 100])
@pytest.mark.parametrize("variant", LEAST_SQUARES)
def test_train_block_equals_transform_of_the_same_rows(variant, side, monkeypatch):
    """Half of the tiles and their mirror images give what all tiles give, ragged or not."""
    k, _, y, x, _ = random_task()
    monkeypatch.setattr(pair_tiles, "SIDE", side)
    term = lantk.label_term(variant).fit(k, y, x)
    assert_close_to_largest(term.train_block(k), term.transform(k, x), ROUNDING)


@pytest.mark.parametrize("n", [15, 16, 17, 40])
def test_tiles_cover_every_entry_once(n, monkeypatch):
    """The tiles of a matrix cover it once; the lower ones and their mirror images do too."""
    monkeypatch.setattr(pair_tiles, "SIDE", 16)
    whole, lower = np.zeros((n, 33), int), np.zeros((n, n), int)
    for rows, columns in pair_tiles.tiles(n, 33):
        whole[rows, columns] += 1
    for rows, columns in pair_tiles.lower_tiles(n):
        lower[rows, columns] += 1
        if rows != columns:
            lower[columns, rows] += 1
    assert (whole == 1).all()
    assert (lower == 1).all()


def test_train_block_of_other_rows_is_refused():
    """The train block is that of the rows that were fitted on."""
    k, _, y, x, _ = random_task()
    term = lantk.label_term("lantk-fjlt-v1").fit(k, y, x)
    with pytest.raises(LabelTermError, match=r"k_train_train has shape \(23, 23\): wanted a col"):
        term.train_block(k[1:, 1:])


@pytest.mark.parametrize("variant", LEAST_SQUARES)
def test_memory_does_not_grow_with_the_number_of_entries(variant, monkeypatch):
    """Beyond Z, both steps take 32 numbers an entry of a tile and thread, less than one feature."""
    n, threads = 2000, 2
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    y = np.where(rng.permutation(n) % 2, 1.0, -1.0)
    k = x @ x.T
    # Whatever is imported or compiled on first use is not the working memory.
    lantk.label_term(variant).fit_transform(k[:9, :9], y[:9], x[:9])
    allowed = threads * 32 * pair_tiles.SIDE**2 * 8
    assert allowed < n * n * 8
    tracemalloc.start()
    try:
        term = lantk.label_term(variant).fit(k, y, x)
        fit_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        z = term.train_block(k)
        block_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fit_peak < allowed
    assert block_peak < allowed + z.nbytes
