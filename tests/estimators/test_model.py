"""Models on disk: what is read back predicts the same, and what cannot be read is refused."""

import json

import numpy as np
import pytest
from sklearn.base import clone
from test_estimators import SHALLOW, images

import lantk
from lantk.estimators.model import FORMAT, ModelError
from lantk.label_terms.base import LabelTerm
from lantk.label_terms.hierarchy import Hierarchy


class Nearness(LabelTerm):
    """A label term of the user's own: the label of the nearest train row, times theirs."""

    needs_x = True
    fitted_names = ("labels_",)

    def fit(self, k_train_train, y, x=None, solve=None):
        """Keep labels and vectors."""
        self.labels_, self.x_train_ = np.asarray(y, float), x
        return self

    def transform(self, k, x=None):
        """Return the product of the nearest row's label and those of the train rows."""
        return self.labels_[k.argmax(axis=1)][:, None] * self.labels_


class Forgetful(Nearness):
    """The same, which does not name what it learned."""

    fitted_names = ()


@pytest.mark.parametrize(
    "term",
    [
        None,
        "lantk-kr-v1",
        "lantk-kr-v2",
        "lantk-fjlt-v2",
        "lantk-fjlt-v1-offdiagonal",
        "lantk-plugin",
        "cntk-laplacian",
        Hierarchy(),
    ],
    ids=str,
)
def test_what_is_read_back_predicts_the_same(tmp_path, term):
    """Every label term's model gives the same scores to the last digit, for text as classes."""
    x, y = images(30)
    labels = np.array(["deer", "dog"])[y]
    model = lantk.KernelClassifier(architecture=SHALLOW, label_term=term, label_weight=0.3)
    model.fit(x, labels).save(tmp_path / "model.npz")
    again = lantk.load(tmp_path / "model.npz")
    rows, _ = images(9, seed=1)
    np.testing.assert_array_equal(again.decision_function(rows), model.decision_function(rows))
    assert again.predict(rows).tolist() == model.predict(rows).tolist()
    assert again.ridge_ == model.ridge_
    again.save(tmp_path / "second.npz")
    twice = lantk.load(tmp_path / "second.npz")
    np.testing.assert_array_equal(twice.decision_function(rows), model.decision_function(rows))


@pytest.mark.parametrize(
    "options",
    [
        {"scaling": "range"},
        {"scaling": "standard"},
        {"scaling": "standard", "whitening": 0.1},
        {"image_shape": (1, 6, 6), "intercept": True},
        {"flips": True, "targets": (-1, 1)},
        {"kernel": "nngp", "dtype": "float64"},
    ],
    ids=str,
)
def test_options_are_read_back(tmp_path, options):
    """Scaling, shapes, intercept, flips and kernel are those of the fit, of three classes too."""
    x, y = images(30, k=3)
    x = np.clip(128 + 40 * x, 0, 255).astype(np.uint8) if "scaling" in options else x
    x = x.reshape(30, -1) if "image_shape" in options else x
    model = lantk.KernelClassifier(architecture=SHALLOW, **options).fit(x, y)
    model.save(tmp_path / "model.npz")
    again = lantk.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.decision_function(x), model.decision_function(x))
    if "scaling" in options:
        assert again.X_train_.dtype == np.uint8


def test_regressors_are_read_back(tmp_path):
    """Vectors, several outputs and deviations as well."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    model = lantk.KernelRegressor(architecture=SHALLOW, kernel="nngp", ridge=0.1).fit(x, x[:, :2])
    model.save(tmp_path / "model.npz")
    again = lantk.load(tmp_path / "model.npz")
    for found, wanted in zip(
        again.predict(x, return_std=True), model.predict(x, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    assert again.log_marginal_likelihood_ == model.log_marginal_likelihood_
    assert again.n_features_in_ == 3


def test_precomputed_models_hold_no_images(tmp_path):
    """They predict from Gram matrices, as before."""
    x, y = images(20)
    k = lantk.gram(SHALLOW, x, dtype="float64")
    model = lantk.KernelClassifier(kernel="precomputed").fit(k, y)
    model.save(tmp_path / "model.npz")
    again = lantk.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.decision_function(k), model.decision_function(k))


def test_a_label_term_of_ones_own_is_given_again(tmp_path):
    """A file names no code to run: the class is given, and must be the one that was fitted."""
    x, y = images(20)
    options = {"architecture": SHALLOW, "label_weight": 0.1}
    model = lantk.KernelClassifier(label_term=Nearness, **options).fit(x, y)
    model.save(tmp_path / "model.npz")
    with pytest.raises(ModelError, match=r"own, test_model:Nearness: give.* predict: --label-"):
        lantk.load(tmp_path / "model.npz")
    with pytest.raises(ModelError, match="test_model:Nearness, and label_term is Forgetful"):
        lantk.load(tmp_path / "model.npz", label_term=Forgetful)
    again = lantk.load(tmp_path / "model.npz", label_term=Nearness)
    np.testing.assert_array_equal(again.decision_function(x), model.decision_function(x))
    forgetful = lantk.KernelClassifier(label_term=Forgetful, **options).fit(x, y)
    with pytest.raises(ModelError, match=r"Forgetful learned labels_.*fitted_names"):
        forgetful.save(tmp_path / "other.npz")
    assert not (tmp_path / "other.npz").exists()


def test_files_that_are_no_models_are_refused(tmp_path):
    """Missing and broken files, other arrays, later formats, a name without .npz."""
    x, y = images(20)
    model = lantk.KernelClassifier(architecture=SHALLOW).fit(x, y)
    with pytest.raises(ModelError, match=r"whose name ends in \.npz"):
        model.save(tmp_path / "model.pt")
    with pytest.raises(ModelError, match="absent"):
        lantk.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "images.npz", x=x)
    with pytest.raises(ModelError, match="holds no model"):
        lantk.load(tmp_path / "images.npz")
    model.save(tmp_path / "model.npz")
    whole = (tmp_path / "model.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cut short"):
        lantk.load(tmp_path / "cut.npz")
    arrays = dict(np.load(tmp_path / "model.npz"))
    about = json.loads(str(arrays["about"])) | {"format": FORMAT + 1}
    np.savez(tmp_path / "later.npz", **(arrays | {"about": np.array(json.dumps(about))}))
    with pytest.raises(ModelError, match="take a newer lantk"):
        lantk.load(tmp_path / "later.npz")


def test_a_model_that_is_read_back_can_be_fitted_again(tmp_path):
    """It has the label term, the names of features, and classes of any text."""
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(24, 3)), columns=["c", "b", "a"])
    y = pd.Series(["low", "high"] * 12, dtype=object)
    model = lantk.KernelClassifier(architecture=SHALLOW, label_term="lantk-kr-v1", label_weight=1)
    model.fit(table, y).save(tmp_path / "model.npz")
    again = lantk.load(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="feature names"):
        again.predict(table[["a", "b", "c"]])
    assert again.predict(table).tolist() == model.predict(table).tolist()
    np.testing.assert_array_equal(clone(again).fit(table, y).dual_, model.dual_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dual": np.zeros((1, 5, 1))}, "its arrays do not fit each other"),
        ({"classes": np.array(["one"])}, "its arrays do not fit each other"),
        ({"memory": "/somewhere"}, "sets memory, which no model holds"),
        ({"label_term": "module:Term"}, "sets label_term, which no model holds"),
        ({"depth": 3}, "sets depth, which no model holds"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(tmp_path, change, message):
    """Arrays that do not fit would be read beyond their end; parameters may name no code."""
    x, y = images(20)
    lantk.KernelClassifier(architecture=SHALLOW).fit(x, y).save(tmp_path / "model.npz")
    arrays = dict(np.load(tmp_path / "model.npz"))
    about = json.loads(str(arrays["about"]))
    for name, value in change.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            about["parameters"][name] = value
    np.savez(tmp_path / "other.npz", **(arrays | {"about": np.array(json.dumps(about))}))
    with pytest.raises(ModelError, match=message):
        lantk.load(tmp_path / "other.npz")
