"""Estimators: scikit-learn's contract, the workflow's numbers, inputs, choices, messages."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

import lantk
from lantk.data.splits import describe, split_classes, split_pair
from lantk.data.tasks import resolve_classes, resolve_pair
from lantk.errors import LantkError
from lantk.estimators import base, inputs
from lantk.label_terms.base import image_vectors
from lantk.label_terms.plug_in import PlugIn
from lantk.labels import as_targets, decide
from lantk.regression import LABEL_WEIGHTS, RIDGES
from lantk.regression.fits import Member, pair_vectors
from lantk.regression.paths import predict
from lantk.regression.protocols import choose_weight
from lantk.scaling import Scaling

SHALLOW = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]


def images(n, k=2, seed=0, side=6):
    """Return noisy grey images whose class is the place of a bright pixel, and class numbers."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = rng.normal(size=(n, 1, side, side))
    x[np.arange(n), 0, 2, y + 1] += 2
    return x, y


@pytest.fixture(scope="module")
def pair():
    """Return a split of digits 3 and 8."""
    task = resolve_pair(describe("digits"), [3, 8])
    return split_pair("digits", None, task, 40, 60, 66)


@pytest.fixture(scope="module")
def three():
    """Return a split of digits 3, 5 and 8."""
    task = resolve_classes(describe("digits"), [3, 5, 8])
    return split_classes("digits", None, task, 45, 60)


def evaluated(split, name, *, architecture="chen2020", flips=False, intercept=False):
    """Return the workflow's scores under its honest choice, the weight, and accuracies."""
    y = as_targets(split.y_train, 1 if split.is_binary else len(split.names))
    grid = RIDGES if name == "cntk-ridge" else LABEL_WEIGHTS
    make = None if name == "cntk" else lambda: lantk.label_term(name)
    x = {}
    if make is not None and make().needs_x:
        vectors = [
            image_vectors(rows, append_one=split.is_binary)
            for rows in (split.x_train, split.x_test)
        ]
        x = dict(zip(("x_train", "x_test"), pair_vectors(make(), *vectors), strict=True))
    k = lantk.gram(architecture, split.x_train, flips=flips)
    k_test = lantk.gram(architecture, split.x_test, split.x_train, flips=flips)
    member = Member(name, grid, grid, make, has_intercept=intercept)
    (path,) = predict(k, k_test, y, [member], **x)
    i = choose_weight(path.weights, path.validation_accuracy)
    return path.scores[i], path.weights[i], path.validation_accuracy


@pytest.mark.parametrize("kind", [lantk.KernelClassifier, lantk.KernelRegressor])
def test_scikit_learns_checks_pass(kind):
    """With its defaults an estimator keeps scikit-learn's contract."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(kind(), on_fail=None)
    assert len(results) > 40
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cntk", {}),
        ("cntk-ridge", {}),
        ("lantk-kr-v1", {}),
        ("lantk-kr-v2", {"intercept": True}),
        ("lantk-fjlt-v1", {"flips": True}),
        ("lantk-plugin", {}),
        ("cntk-rbf", {}),
    ],
)
def test_scores_are_the_workflows_to_the_last_digit(pair, name, options):
    """On the same split an estimator chooses and scores as the workflow's evaluation does."""
    scores, weight, accuracies = evaluated(pair, name, **options)
    if name in ("cntk", "cntk-ridge"):
        chosen = {"ridge": 0 if name == "cntk" else "cv"}
    else:
        chosen = {"label_term": name, "ridge": 0}
    model = lantk.KernelClassifier(**chosen, **options).fit(pair.x_train, pair.y_train)
    np.testing.assert_array_equal(model.decision_function(pair.x_test), scores)
    np.testing.assert_array_equal(model.predict(pair.x_test), decide(scores))
    if name != "cntk":
        assert weight == (model.ridge_ if name == "cntk-ridge" else model.label_weight_)
        np.testing.assert_array_equal(model.cv_results_["mean_test_score"], accuracies)


def test_scores_of_three_classes_are_the_workflows(three):
    """Of several classes too, on 0 and 1 as targets."""
    scores, weight, _ = evaluated(three, "lantk-fjlt-v1")
    model = lantk.KernelClassifier(label_term="lantk-fjlt-v1", ridge=0)
    model.fit(three.x_train, three.y_train)
    assert model.label_weight_ == weight
    np.testing.assert_array_equal(model.decision_function(three.x_test), scores)


def test_targets_change_scores_and_no_prediction(three):
    """Regressed on other targets, low and high, the scores are those that such targets give."""
    other = lantk.KernelClassifier(targets=(-1, 1)).fit(three.x_train, three.y_train)
    k = lantk.gram("chen2020", three.x_train)
    rows = lantk.gram("chen2020", three.x_test, three.x_train)
    ridged = k + 1e-6 * np.mean(np.diag(k)) * np.eye(len(k))
    wanted = rows @ np.linalg.solve(ridged.astype(float), 2 * np.eye(3)[three.y_train] - 1)
    np.testing.assert_allclose(other.decision_function(three.x_test), wanted, atol=1e-3)
    same = lantk.KernelClassifier().fit(three.x_train, three.y_train)
    np.testing.assert_array_equal(other.predict(three.x_test), same.predict(three.x_test))


@pytest.mark.parametrize(
    "names", [["dog", "deer"], [False, True], [7, 3], ["a", "b", "c"], [2.0, 4.0, 9.0]]
)
def test_any_labels_are_classes(names):
    """Text, truth values and numbers are classes, of unequal sizes too, in ascending order."""
    x, y = images(41, len(names))
    labels = np.array(names)[y]
    model = lantk.KernelClassifier(architecture=SHALLOW).fit(x, labels)
    assert model.classes_.tolist() == sorted(names)
    assert model.predict(x).tolist() == labels.tolist()
    assert model.score(x, labels) == 1.0


def test_flattened_images_are_images():
    """With image_shape the rows of a table are images, to the same scores."""
    x, y = images(24)
    wide = lantk.KernelClassifier(architecture=SHALLOW).fit(x, y)
    flat = lantk.KernelClassifier(architecture=SHALLOW, image_shape=(1, 6, 6))
    flat.fit(x.reshape(24, -1), y)
    np.testing.assert_array_equal(flat.dual_, wide.dual_)
    np.testing.assert_array_equal(
        flat.decision_function(x.reshape(24, -1)), wide.decision_function(x)
    )


@pytest.mark.parametrize("name", ["arora2019-vanilla-3", "arora2019-vanilla-3-lap-4"])
def test_vectors_take_the_fully_connected_network(name):
    """Vectors are images of one pixel, filters of size 1, no pools, and the kernel float64."""
    x = np.random.default_rng(0).normal(size=(20, 5))
    model = lantk.KernelRegressor(architecture=name, ridge=1e-3)
    model.fit(x, x[:, 0])
    dense = [{"conv": {"size": 1}}, "relu"] * 2 + ["flatten", "dense"]
    k = lantk.gram(dense, x[:, :, None, None], dtype="float64")
    wanted = np.linalg.solve(k + 1e-3 * np.mean(np.diag(k)) * np.eye(20), x[:, 0])
    np.testing.assert_allclose(model.dual_, wanted, rtol=1e-8)


def test_bytes_are_scaled_as_in_the_workflow(pair):
    """Bytes become floats from -1 to 1, or standardised by the channels of the train images."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 6, 6), dtype=np.uint8)
    y = np.arange(30) % 2
    ranged = lantk.KernelClassifier(architecture=SHALLOW, scaling="range").fit(pixels, y)
    floats = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    direct = lantk.KernelClassifier(architecture=SHALLOW).fit(floats, y)
    np.testing.assert_array_equal(ranged.dual_, direct.dual_)
    standard = lantk.KernelClassifier(architecture=SHALLOW, scaling="standard").fit(pixels, y)
    moved = standard.scaling_.apply(pixels)
    np.testing.assert_allclose(moved.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(moved.std(axis=(0, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize("name", [None, "lantk-fjlt-v1"])
def test_whitened_images_are_those_of_the_workflow(name):
    """Kernel and label term see the whitened images, and new ones are whitened as those of train.

    That of vectors is of their features.
    """
    task = resolve_pair(describe("digits"), [3, 8])
    split = split_pair("digits", None, task, 40, 30, 0, zca=0.1)
    options = {"architecture": SHALLOW, "label_term": name, "label_weight": 0.3, "ridge": 1e-3}
    model = lantk.KernelClassifier(**options, whitening=0.1)
    floats = Scaling(pixel_max=16)
    model.fit(floats.apply(split.pixels_train), split.y_train)
    direct = lantk.KernelClassifier(**options).fit(split.x_train, split.y_train)
    wanted = direct.decision_function(split.x_test)
    found = model.decision_function(floats.apply(split.pixels_test))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    plain = lantk.KernelClassifier(**options).fit(floats.apply(split.pixels_train), split.y_train)
    without = plain.decision_function(floats.apply(split.pixels_test))
    assert np.abs(found - without).max() > 0.1 * np.abs(without).max()
    x = np.random.default_rng(0).normal(size=(30, 3)) @ np.array([[3, 1, 0], [0, 1, 0], [0, 0, 9]])
    regressor = lantk.KernelRegressor(architecture=SHALLOW, whitening=0).fit(x, x[:, 0])
    white = regressor.scaling_.apply(x[:, :, None, None], "float64")[:, :, 0, 0]
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-5)


def test_flips_hold_of_whitened_images():
    """An image and its mirror image have the same score, as without whitening."""
    x, y = images(20)
    model = lantk.KernelClassifier(architecture=SHALLOW, flips=True, whitening=0.1, ridge=1e-2)
    model.fit(x, y)
    rows, _ = images(6, seed=1)
    found, mirrored = (model.decision_function(r) for r in (rows, rows[..., ::-1]))
    np.testing.assert_allclose(found, mirrored, atol=1e-4)
    direct = lantk.KernelClassifier(kernel="precomputed", ridge=1e-2)
    direct.fit(lantk.gram(SHALLOW, model.scaling_.apply(x), flips=True), y)
    np.testing.assert_array_equal(direct.dual_, model.dual_)


@pytest.mark.parametrize("whitening", ["cv", True, -1, float("nan")])
def test_a_whitening_that_is_no_regulariser_is_refused(whitening):
    """The message calls it by the estimator's name."""
    x, y = images(20)
    model = lantk.KernelClassifier(architecture=SHALLOW, whitening=whitening)
    with pytest.raises(LantkError, match=r"whitening is .*: wanted a number of 0 or more"):
        model.fit(x, y)


@pytest.mark.parametrize("scaling", ["range", "standard"])
def test_bytes_and_floats_are_not_taken_for_each_other(scaling):
    """What was fitted to bytes refuses floats, and the reverse; vectors are numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 1, 6, 6), dtype=np.uint8)
    floats, y = pixels / 127.5 - 1, np.arange(30) % 2
    model = lantk.KernelClassifier(architecture=SHALLOW, scaling=scaling)
    of_bytes, of_floats = clone(model).fit(pixels, y), clone(model).fit(floats, y)
    with pytest.raises(LantkError, match=r"hold float64, and the train images uint8: wanted bytes"):
        of_bytes.predict(floats)
    with pytest.raises(LantkError, match=r"hold uint8, and the train images float64: wanted float"):
        of_floats.predict(pixels)
    np.testing.assert_array_equal(of_bytes.predict(pixels.astype(int)), of_bytes.predict(pixels))
    if scaling == "range":
        of_bytes.scaling_ = Scaling(pixel_max=16)
        with pytest.raises(LantkError, match=r"pixels up to 2\d\d, and .* go from 0 to 16: wanted"):
            of_bytes.predict(pixels)
    vectors = clone(model).fit(floats[:, 0, 0], y)
    assert len(vectors.predict(np.ones((3, 6), int))) == 3


def test_images_that_look_as_if_channels_came_last_are_settled_at_the_fit():
    """Rows of the shape of the train images have their channels first, as those have."""
    x = np.random.default_rng(0).normal(size=(20, 7, 6, 3))
    model = lantk.KernelClassifier(architecture=SHALLOW, image_shape=(7, 6, 3))
    model.fit(x, np.arange(20) % 2)
    again = model.set_params(image_shape=None)
    assert len(again.predict(x)) == 20


def test_rows_are_named_by_their_number_in_x(monkeypatch):
    """An image that a label term cannot be computed for is the same one in any block."""
    x, y = images(20)
    term = {"label_term": "lantk-kr-v1", "label_weight": 0.1}
    model = lantk.KernelClassifier(architecture=SHALLOW, **term).fit(x, y)
    monkeypatch.setattr(base, "_BLOCK_ENTRIES", 40)
    x[13] *= 1e4
    with pytest.raises(LantkError, match="of image 13 of X with train image"):
        model.predict(x)


def test_precomputed_matrices_are_cut_by_scikit_learn():
    """A grid search over one precomputed matrix, in two processes, fits as on the images."""
    x, y = images(60)
    k = lantk.gram(SHALLOW, x, dtype="float64")
    grid = {"ridge": [1e-6, 1e-2, 1.0]}
    search = GridSearchCV(lantk.KernelClassifier(kernel="precomputed"), grid, cv=3, n_jobs=2)
    search.fit(k, y)
    on_images = lantk.KernelClassifier(architecture=SHALLOW, dtype="float64")
    fold = GridSearchCV(on_images, grid, cv=3).fit(x, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], fold.cv_results_["mean_test_score"]
    )
    np.testing.assert_allclose(search.best_estimator_.dual_, fold.best_estimator_.dual_)


def test_scikit_learns_tools_take_it(tmp_path):
    """Pipelines, cross-validation, clones and joblib's files work."""
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, (50, 4))
    y = np.where(x[:, 0] > 5, "high", "low")
    pipeline = make_pipeline(StandardScaler(), lantk.KernelClassifier(architecture=SHALLOW))
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.8
    model = clone(pipeline).fit(x, y)
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(again[-1].decision_function(x), model[-1].decision_function(x))


def test_no_gram_matrix_of_the_same_images_is_computed_twice(tmp_path, monkeypatch):
    """With `memory`, other ridges and label terms read the Gram matrix that the first computed."""
    x, y = images(30)
    calls, compute = [], inputs.gram
    monkeypatch.setattr(inputs, "gram", lambda *a, **o: calls.append(1) or compute(*a, **o))
    model = lantk.KernelClassifier(architecture=SHALLOW, memory=str(tmp_path))
    first = model.fit(x, y).decision_function(x[:4])
    n_calls = len(calls)
    assert n_calls == 2
    again = clone(model).fit(x, y).decision_function(x[:4])
    clone(model).set_params(ridge="cv", threads=1).fit(x, y)
    clone(model).set_params(label_term="lantk-kr-v1").fit(x, y).predict(x[:4])
    assert len(calls) == n_calls
    np.testing.assert_array_equal(first, again)


def test_a_label_term_may_be_a_name_an_estimator_or_a_class():
    """All three fit the same Z, and the estimator that was given stays unfitted."""
    x, y = images(30)
    term, before = PlugIn(), vars(PlugIn())
    fitted = [
        lantk.KernelClassifier(architecture=SHALLOW, label_term=given, label_weight=0.1).fit(x, y)
        for given in ("lantk-plugin", term, PlugIn)
    ]
    for model in fitted[1:]:
        np.testing.assert_array_equal(model.dual_, fitted[0].dual_)
    assert vars(term) == before


def test_a_ridge_is_chosen_beside_a_fixed_label_weight():
    """Then each ridge is validated with its own K + lambda Z, and what was chosen is fitted."""
    x, y = images(40)
    options = {"architecture": SHALLOW, "label_term": "lantk-kr-v1", "label_weight": 0.1}
    model = lantk.KernelClassifier(ridge=[1e-6, 1e-2, 1.0], **options).fit(x, y)
    scores = model.cv_results_["mean_test_score"]
    assert model.ridge_ == model.cv_results_["param_ridge"][np.argmax(scores)]
    fixed = lantk.KernelClassifier(ridge=model.ridge_, **options).fit(x, y)
    np.testing.assert_array_equal(model.dual_, fixed.dual_)


def test_the_nngp_is_a_gaussian_process():
    """Mean, deviation and evidence are those of scikit-learn's Gaussian process with our kernel."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(25, 3)), rng.normal(size=25)
    model = lantk.KernelRegressor(architecture=SHALLOW, kernel="nngp", ridge=0.1).fit(x, y)
    kernel = lantk.CNTK(SHALLOW, kernel="nngp")
    noise = 0.1 * np.mean(kernel.diag(x))
    process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x, y)
    rows = rng.normal(size=(7, 3))
    mean, deviation = model.predict(rows, return_std=True)
    wanted_mean, wanted_deviation = process.predict(rows, return_std=True)
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-6)
    np.testing.assert_allclose(deviation, wanted_deviation, rtol=1e-6)
    np.testing.assert_allclose(
        model.log_marginal_likelihood_, process.log_marginal_likelihood(), rtol=1e-6
    )


def test_a_regressor_has_several_outputs_and_chooses_its_ridge():
    """Columns are fitted side by side; the ridge has the least error over shuffled folds."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = np.column_stack([x[:, 0], np.abs(x[:, 1])]) + 0.3 * rng.normal(size=(60, 2))
    both = lantk.KernelRegressor(architecture=SHALLOW, ridge=1e-2).fit(x, y)
    one = lantk.KernelRegressor(architecture=SHALLOW, ridge=1e-2).fit(x, y[:, 1])
    np.testing.assert_allclose(both.predict(x)[:, 1], one.predict(x))
    chosen = lantk.KernelRegressor(architecture=SHALLOW, ridge="cv").fit(x, y)
    assert 1e-3 < chosen.ridge_ < 100
    assert chosen.cv_results_["mean_test_score"].max() > -1.0
    column = lantk.KernelRegressor(architecture=SHALLOW, ridge=1e-2).fit(x, y[:, 1:])
    np.testing.assert_array_equal(column.predict(x), one.predict(x)[:, None])


def test_the_kernel_object_serves_scikit_learn():
    """Support vector machines take it, and sums with others; normalised, its diagonal is 1."""
    x, y = images(40)
    rows = x.reshape(40, -1)
    kernel = lantk.CNTK(SHALLOW, image_shape=(1, 6, 6), normalize=True)
    assert SVC(kernel=kernel).fit(rows, y).score(rows, y) > 0.9
    k, gradient = kernel(rows, eval_gradient=True)
    assert k.dtype == np.float64
    assert gradient.shape == (40, 40, 0)
    np.testing.assert_allclose(np.diag(k), kernel.diag(rows))
    np.testing.assert_allclose(kernel(rows[:3], rows), k[:3])
    both = kernel + WhiteKernel(0.5)
    np.testing.assert_allclose(np.diag(both(rows)), 1.5)
    assert clone(kernel).get_params()["normalize"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rbf"}, "kernel is 'rbf': wanted 'ntk', 'nngp' or 'precomputed'"),
        ({"ridge": "auto"}, "ridge is 'auto': wanted 'cv', a number of 0 or more"),
        ({"ridge": -1}, "ridge is -1: wanted 'cv', a number of 0 or more"),
        ({"scaling": "whiten"}, "scaling is 'whiten': wanted None, 'range' or 'standard'"),
        ({"dtype": "float16"}, "dtype is 'float16': wanted None, 'float32' or 'float64'"),
        ({"label_term": 3}, "label_term is 3: wanted a name such as 'lantk-kr-v1'"),
        ({"label_term": "lantk-kr-v9"}, "unknown label term 'lantk-kr-v9'"),
        ({"label_term": "lantk-kr-v1", "ridge": "cv"}, "one is chosen at a time"),
        ({"targets": (1, 0)}, r"targets is \(1, 0\): wanted a low and a high number"),
        ({"image_shape": (6, 6)}, r"image_shape is \(6, 6\): wanted \(channels, height, width\)"),
        ({"folds": 30, "ridge": "cv"}, "30 folds need at least 30 train images of each class"),
        ({"architecture": "resnet"}, "unknown architecture 'resnet'"),
        ({"ridge": "0.1"}, "ridge is '0.1': wanted 'cv', a number of 0 or more"),
        ({"folds": "3"}, "folds is '3': wanted 2 or more"),
        ({"threads": 0}, "threads is 0: wanted a number of 1 or more, or None"),
        ({"targets": None}, "targets is None: wanted a low and a high number"),
        ({"image_shape": 5}, r"image_shape is 5: wanted \(channels, height, width\)"),
    ],
)
def test_parameters_that_cannot_be_used_are_named(options, message):
    """A message says what was found and what is wanted."""
    x, y = images(20)
    with pytest.raises(LantkError, match=message):
        lantk.KernelClassifier(**{"architecture": SHALLOW, **options}).fit(x, y)


def test_images_that_cannot_be_used_are_named():
    """Channels that come last, bytes, other sizes, duplicates at ridge 0, and one class alone."""
    x, y = images(20)
    model = lantk.KernelClassifier(architecture=SHALLOW)
    with pytest.raises(LantkError, match=r"write X\.transpose\(0, 3, 1, 2\)"):
        model.fit(np.zeros((20, 6, 6, 3)), y)
    with pytest.raises(LantkError, match=r"X holds uint8: wanted floats, or scaling='range'"):
        model.fit(np.zeros((20, 1, 6, 6), np.uint8), y)
    with pytest.raises(NotFittedError):
        model.predict(x)
    with pytest.raises(LantkError, match=r"X has images of shape \(1, 5, 6\).*wanted \(1, 6, 6\)"):
        model.fit(x, y).predict(x[:, :, :5])
    with pytest.raises(LantkError, match=r"X has shape \(20, 36\): wanted n x channels x height"):
        model.predict(x.reshape(20, -1))
    x[7] = x[3]
    with pytest.raises(LantkError, match="images 3 and 7 have equal rows"):
        clone(model).set_params(ridge=0).fit(x, y)
    assert clone(model).fit(x, y).ridge_ == 1e-6
    with pytest.raises(LantkError, match="y holds one class, 1: wanted two classes or more"):
        model.fit(x, np.ones(20, int))


def test_a_precomputed_kernel_has_no_images():
    """Label terms that read pixels are refused there, and so is a deviation."""
    x, y = images(20)
    k = lantk.gram(SHALLOW, x, dtype="float64")
    with pytest.raises(LantkError, match="reads the images, and kernel is 'precomputed'"):
        lantk.KernelClassifier(kernel="precomputed", label_term="lantk-fjlt-v1").fit(k, y)
    with pytest.raises(LantkError, match=r"X has shape \(20, 19\): wanted a square"):
        lantk.KernelClassifier(kernel="precomputed").fit(k[:, :19], y)
    model = lantk.KernelRegressor(kernel="precomputed").fit(k, y.astype(float))
    with pytest.raises(LantkError, match=r"no deviation.*K\(x, x\) is not known"):
        model.predict(k, return_std=True)


def test_a_second_fit_forgets_the_first():
    """Images of another size are taken, and nothing is left that the first fit chose."""
    x, y = images(20)
    model = lantk.KernelClassifier(architecture=SHALLOW, ridge="cv").fit(x, y)
    model.set_params(ridge=1e-3).fit(x[:, :, :5, :5], y)
    assert not hasattr(model, "cv_results_")
    with pytest.raises(LantkError):
        model.set_params(ridge=-1).fit(x, y)
    with pytest.raises(NotFittedError):
        model.predict(x)


def test_sample_weights_are_refused():
    """No fit takes them."""
    x, y = images(20)
    with pytest.raises(TypeError, match="sample_weight"):
        lantk.KernelClassifier(architecture=SHALLOW).fit(x, y, sample_weight=np.ones(20))


def test_a_small_ridge_is_added_in_full():
    """It is added in float64, also to a float32 Gram matrix, and so is the evidence."""
    x, y = images(30)
    x[20:23] = x[:3] + 1e-4
    model = lantk.KernelRegressor(architecture=SHALLOW, ridge=1e-7).fit(x, y.astype(float))
    k = lantk.gram(SHALLOW, x).astype(np.float64)
    ridged = k + 1e-7 * np.mean(np.diag(k)) * np.eye(30)
    np.testing.assert_allclose(model.dual_, np.linalg.solve(ridged, y), rtol=1e-6)
    evidence = -0.5 * (y @ model.dual_ + np.linalg.slogdet(ridged)[1] + len(y) * np.log(2 * np.pi))
    assert model.log_marginal_likelihood_ == pytest.approx(evidence, rel=1e-6)


def test_predictions_are_those_of_the_fit(tmp_path):
    """What is set after a fit changes no prediction before the next, nor what is saved."""
    x, y = images(30, k=3)
    model = lantk.KernelClassifier(architecture=SHALLOW).fit(x, y)
    before = model.decision_function(x)
    model.set_params(kernel="nngp", flips=True, targets=(-1, 1), dtype="float64")
    np.testing.assert_array_equal(model.decision_function(x), before)
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(lantk.load(tmp_path / "model.npz").decision_function(x), before)


def test_precomputed_matrices_are_looked_at():
    """Whole numbers are taken; a matrix that is not symmetric is refused."""
    y = np.arange(6) % 2
    model = lantk.KernelClassifier(kernel="precomputed").fit(np.eye(6, dtype=int) * 3, y)
    assert model.predict(np.eye(6, dtype=bool)).tolist() == y.tolist()
    k = np.eye(6) + np.triu(np.ones((6, 6)), 1)
    with pytest.raises(LantkError, match="X is not symmetric"):
        model.fit(k, y)


def test_a_singular_kernel_skips_ridge_0_beside_a_label_term():
    """As without one, where duplicates make K singular, and no other ridge."""
    x, y = images(30)
    x[2] = x[0]
    options = {"architecture": SHALLOW, "label_term": "lantk-kr-v1", "label_weight": 1e-3}
    model = lantk.KernelClassifier(ridge=[0, 1e-3], **options).fit(x, y)
    assert model.ridge_ == 1e-3
    assert np.isnan(model.cv_results_["mean_test_score"][0])


def test_a_grid_may_reach_into_a_label_term():
    """Parameters of a label term have the names that scikit-learn gives them."""
    x, y = images(40)
    model = lantk.KernelClassifier(architecture=SHALLOW, label_term=PlugIn(), label_weight=0.1)
    search = GridSearchCV(model, {"label_term__folds": [2, 3]}, cv=2).fit(x, y)
    assert search.best_estimator_.label_term_.folds in (2, 3)
    with pytest.raises(LantkError, match="PlugIn has no parameter 'depth'"):
        model.set_params(label_term__depth=3)
