"""The verb predict: tables of new images, and what it says of images that a model does not fit."""

import csv
import sys

import numpy as np
import pytest
from PIL import Image
from test_command import hiding

import lantk
from lantk.cli import predictions
from lantk.cli.main import main
from lantk.data import unlabelled

SHALLOW = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]
OWN_TERM = """
import numpy as np
from lantk.label_terms import LabelTerm


class Nearness(LabelTerm):
    fitted_names = ("labels_",)

    def fit(self, k_train_train, y, x=None, solve=None):
        self.labels_ = np.asarray(y, float)
        return self

    def transform(self, k, x=None):
        nearest = self.labels_[np.asarray(k).argmax(axis=1)]
        return nearest.reshape(len(k), -1) @ self.labels_.reshape(len(self.labels_), -1).T
"""


def pixels(n, k=2, seed=0, channels=1):
    """Return noisy images whose class is the place of a bright pixel, and class numbers."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = rng.integers(0, 120, (n, channels, 6, 6), dtype=np.uint8)
    x[np.arange(n), :, 2, y + 1] += 120
    return x, y


def fitted(path, names, **options):
    """Save a model of bytes and return it."""
    x, y = pixels(24, len(names), channels=options.pop("channels", 1))
    options = {"architecture": SHALLOW, "scaling": "range", "label_weight": 0.1} | options
    model = lantk.KernelClassifier(**options).fit(x, np.array(names)[y])
    model.save(path)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with models of grey images of two classes and of three."""
    folder = tmp_path_factory.mktemp("models")
    fitted(folder / "two.npz", ["deer", "dog"], label_term="lantk-kr-v1")
    fitted(folder / "three.npz", [3, 5, 8])
    return folder


def predict(model, images, out, *options):
    arguments = ("--model", model, "--images", images, "--out", out, *options)
    return main(["predict", *map(str, arguments)])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_refused(capsys, folder, words, *arguments):
    """Check that nothing is written, and what is said in one line."""
    before = set(folder.iterdir())
    assert predict(*arguments) == 1
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert len(said.splitlines()) == 1
    assert set(folder.iterdir()) == before


def write_images(folder, x, names):
    for image, name in zip(x, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / name)


def test_files_of_a_folder_are_predicted_in_the_order_of_their_names(folder, tmp_path, capsys):
    """Files in subfolders too, hidden ones not; the classes and scores are the model's."""
    x, _ = pixels(5, seed=1)
    names = ["a.png", "b/0.png", "b/c/2.PNG", "d.png", "z, last.png"]
    write_images(tmp_path / "photos", x, names)
    (tmp_path / "photos" / ".DS_Store").write_bytes(b"x")
    out = tmp_path / "new" / "out.csv"
    assert predict(folder / "two.npz", tmp_path / "photos", out) == 0
    model, rows = lantk.load(folder / "two.npz"), rows_of(out)
    assert [row["image"] for row in rows] == names
    assert [row["class"] for row in rows] == model.predict(x).tolist()
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(scores, model.decision_function(x), rtol=1e-9)
    assert list(rows[0]) == ["image", "class", "score"]
    n_deer = sum(row["class"] == "deer" for row in rows)
    assert capsys.readouterr().out == f"{out}: 5 images (deer: {n_deer}, dog: {5 - n_deer})\n"


def test_grey_files_are_colour_for_a_model_of_colour(tmp_path):
    """As in the source of images, a grey image is repeated."""
    model = fitted(tmp_path / "model.npz", ["ant", "bee"], channels=3)
    x, _ = pixels(4, seed=1)
    write_images(tmp_path / "photos", x, ["0.png", "1.png", "2.png", "3.png"])
    assert predict(tmp_path / "model.npz", tmp_path / "photos", tmp_path / "out.csv") == 0
    wanted = model.predict(np.repeat(x, 3, axis=1)).tolist()
    assert [row["class"] for row in rows_of(tmp_path / "out.csv")] == wanted


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": "x", "y": "y", "x_test": "other"}, "accuracy "),
        ({"x_test": "x", "y_test": "y", "x_train": "other"}, "accuracy "),
        ({"x": "x", "y_test": "y"}, "images ("),
        ({"pictures": "x", "y": "y"}, "images ("),
    ],
    ids=str,
)
def test_an_array_has_its_labels_beside_it(folder, tmp_path, capsys, arrays, said):
    """Images are x, x_test or the only array of four axes; with y or y_test there is accuracy."""
    x, y = pixels(30, 3, seed=1)
    given = {"x": x, "y": np.array([3, 5, 8])[y], "other": x[:2]}
    np.savez(tmp_path / "new.npz", **{name: given[kind] for name, kind in arrays.items()})
    assert predict(folder / "three.npz", tmp_path / "new.npz", tmp_path / "out.csv") == 0
    model, rows = lantk.load(folder / "three.npz"), rows_of(tmp_path / "out.csv")
    predicted = model.predict(x)
    assert [row["image"] for row in rows] == [str(i) for i in range(30)]
    assert [int(row["class"]) for row in rows] == predicted.tolist()
    found = [[float(row[f"score_{name}"]) for name in (3, 5, 8)] for row in rows]
    np.testing.assert_allclose(found, model.decision_function(x), rtol=1e-9)
    printed = capsys.readouterr().out
    assert said in printed
    accuracy = f", accuracy {100 * np.mean(predicted == given['y']):.2f} %\n"
    assert (accuracy in printed) == (said == "accuracy ")


def test_labels_may_be_of_other_types_and_classes(folder, tmp_path, capsys):
    """Numbers are told apart as the model's names are; other classes have no accuracy."""
    fitted(tmp_path / "model.npz", ["1", "8"])
    x, y = pixels(9, seed=1)
    right = lantk.load(tmp_path / "model.npz").predict(x).astype(int)
    for labels, said in (
        (right, ", accuracy 100.00 %\n"),
        (np.where(y == 0, 7, right), ", accuracy 100.00 % of 4 (5 are labelled as other classes)"),
        (y + 20, ", of which no label is a class of the model, such as 20\n"),
    ):
        np.savez(tmp_path / "new.npz", x=x, y=labels)
        assert predict(tmp_path / "model.npz", tmp_path / "new.npz", tmp_path / "out.csv") == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize("order", "CF")
def test_blocks_do_not_change_the_table(folder, tmp_path, monkeypatch, order):
    """Images are read and predicted in blocks, from files and arrays stored in either order."""
    x, _ = pixels(11, 3, seed=1)
    np.savez(tmp_path / "new.npz", x=np.asarray(x, order=order))
    write_images(tmp_path / "photos", x, [f"{i:02}.png" for i in range(11)])
    for images in ("new.npz", "photos"):
        tables = []
        for n in (1_000, 4):
            monkeypatch.setattr(predictions, "_IMAGES_AT_ONCE", n)
            assert predict(folder / "three.npz", tmp_path / images, tmp_path / "out.csv") == 0
            tables.append((tmp_path / "out.csv").read_text())
        assert tables[0] == tables[1]
        assert len(tables[0].splitlines()) == 12


def test_a_regressor_gives_values(tmp_path, capsys):
    """One column for each output, and no classes."""
    x, y = pixels(20)
    floats = x / 127.5 - 1
    np.savez(tmp_path / "new.npz", x=floats[:3], y=np.linspace(0, 1, 3))
    for targets, columns in ((y, ["value"]), (np.stack([y, -y], 1), ["value_0", "value_1"])):
        model = lantk.KernelRegressor(architecture=SHALLOW).fit(floats, targets)
        model.save(tmp_path / "model.npz")
        assert predict(tmp_path / "model.npz", tmp_path / "new.npz", tmp_path / "out.csv") == 0
        rows = rows_of(tmp_path / "out.csv")
        assert list(rows[0]) == ["image", *columns]
        found = [[float(row[name]) for name in columns] for row in rows]
        np.testing.assert_allclose(found, model.predict(floats[:3]).reshape(3, -1), rtol=1e-9)
        assert capsys.readouterr().out == f"{tmp_path / 'out.csv'}: 3 images\n"


def test_a_model_of_flattened_images_takes_images(tmp_path):
    """The rows that it was fitted to are images as well."""
    x, y = pixels(20)
    flat = {"architecture": SHALLOW, "image_shape": (1, 6, 6), "scaling": "range"}
    model = lantk.KernelClassifier(**flat).fit(x.reshape(20, -1), y)
    model.save(tmp_path / "model.npz")
    np.savez(tmp_path / "new.npz", x=x)
    assert predict(tmp_path / "model.npz", tmp_path / "new.npz", tmp_path / "out.csv") == 0
    assert [int(row["class"]) for row in rows_of(tmp_path / "out.csv")] == y.tolist()


def test_a_label_term_of_ones_own_is_named(tmp_path, monkeypatch, capsys):
    """Without its class the message says what to add; with it the model predicts."""
    (tmp_path / "near_terms.py").write_text(OWN_TERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    fitted(tmp_path / "model.npz", ["deer", "dog"], label_term="near_terms:Nearness")
    x, _ = pixels(4, seed=1)
    np.savez(tmp_path / "new.npz", x=x)
    given = (tmp_path / "model.npz", tmp_path / "new.npz", tmp_path / "out.csv")
    check_refused(capsys, tmp_path, ["predict: --label-term near_terms:Nearness"], *given)
    assert predict(*given, "--label-term", "near_terms:Nearness") == 0
    assert len(rows_of(tmp_path / "out.csv")) == 4


def test_images_that_do_not_fit_the_model_are_refused(folder, tmp_path, capsys):
    """Of another size, colour, layout, range or type: the file or array is named."""
    x, y = pixels(4, seed=1)
    of_two = folder / "two.npz"
    for name, arrays, words in (
        ("size", {"x": x[..., :5]}, ["x has images of shape (1, 6, 5)", "wanted (1, 6, 6)"]),
        ("last", {"x": x.transpose(0, 2, 3, 1)}, ["x.transpose(0, 3, 1, 2)", "give --layout"]),
        ("floats", {"x": x / 255}, ["hold float64", "train images uint8: wanted bytes"]),
        ("integers", {"x": x.astype(int)}, ["x is int64, wanted uint8"]),
        ("many", {"x": x, "y": y[:3]}, ["x has 4 images and y 3 labels"]),
        ("several", {"a": x, "b": x}, ["its arrays of four axes are a, b; wanted a folder"]),
        ("none", {"y": y}, ["its arrays of four axes are none; wanted a folder"]),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        check_refused(
            capsys, tmp_path, [*words], of_two, tmp_path / f"{name}.npz", tmp_path / "out.csv"
        )
    check_refused(
        capsys, tmp_path, ["wanted a folder"], of_two, tmp_path / "no", tmp_path / "o.csv"
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    given = (of_two, photos, tmp_path / "out.csv")
    check_refused(capsys, tmp_path, ["photos has no images"], *given)
    write_images(photos, x[:1], ["a.png"])
    Image.new("L", (7, 6)).save(photos / "b.png")
    words = ["photos/b.png is 7 x 6", "the model's train images are 6 x 6"]
    check_refused(capsys, tmp_path, words, *given)
    Image.new("RGB", (6, 6), (1, 2, 3)).save(photos / "b.png")
    check_refused(capsys, tmp_path, ["photos/b.png is a colour image, but the model's"], *given)
    (photos / "b.png").rename(photos / "b.webp")
    check_refused(capsys, tmp_path, ["photos/b.webp: wanted .png, .jpg"], *given)
    (photos / "b.webp").unlink()
    (photos / "again").symlink_to(photos)
    check_refused(capsys, tmp_path, ["again is a symbolic link to a folder that it lies"], *given)


def test_files_of_bytes_are_refused_by_a_model_of_floats(tmp_path, capsys):
    """Files hold bytes, which would be taken for floats of 0 to 255."""
    x, y = pixels(20)
    model = lantk.KernelClassifier(architecture=SHALLOW).fit(x / 127.5 - 1, y)
    model.save(tmp_path / "model.npz")
    write_images(tmp_path / "photos", x[:2], ["a.png", "b.png"])
    given = (tmp_path / "model.npz", tmp_path / "photos", tmp_path / "out.csv")
    words = ["the images hold uint8, and the train images float64: wanted floats"]
    check_refused(capsys, tmp_path, words, *given)


def test_an_image_that_cannot_be_predicted_is_named(tmp_path, monkeypatch, capsys):
    """A row of any block has its number in the file; NaN is named too."""
    monkeypatch.setattr(predictions, "_IMAGES_AT_ONCE", 4)
    x, y = pixels(20)
    floats = x / 127.5 - 1
    term = {"label_term": "lantk-kr-v1", "label_weight": 0.1}
    model = lantk.KernelClassifier(architecture=SHALLOW, **term).fit(floats, y)
    model.save(tmp_path / "model.npz")
    given = (tmp_path / "model.npz", tmp_path / "new.npz", tmp_path / "out.csv")
    for value, word in ((1e4, f"of image 13 of {given[1]} with train"), (np.nan, "x[13] has NaN")):
        broken = floats.copy()
        broken[13] *= value
        np.savez(given[1], x=broken)
        check_refused(capsys, tmp_path, [word], *given)


def test_precomputed_models_have_no_images(tmp_path, capsys):
    """A model of Gram matrices is told apart before images are read."""
    x, y = pixels(20)
    k = lantk.gram(SHALLOW, x / 127.5 - 1, dtype="float64")
    lantk.KernelClassifier(kernel="precomputed").fit(k, y).save(tmp_path / "model.npz")
    given = (tmp_path / "model.npz", tmp_path / "new.npz", tmp_path / "out.csv")
    check_refused(capsys, tmp_path, ["model.npz was fitted to a precomputed kernel"], *given)


def test_an_interrupted_run_leaves_the_older_table(folder, tmp_path, monkeypatch, capsys):
    """A table is written whole or not at all."""
    x, _ = pixels(8, seed=1)
    write_images(tmp_path / "photos", x, [f"{i}.png" for i in range(8)])
    (tmp_path / "out.csv").write_text("older")
    read, calls = unlabelled.read_files, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(unlabelled, "read_files", stop)
    monkeypatch.setattr(predictions, "_IMAGES_AT_ONCE", 4)
    assert predict(folder / "two.npz", tmp_path / "photos", tmp_path / "out.csv") == 130
    assert "interrupted; no file is half-written" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.csv"}


def test_only_image_files_need_the_extra(folder, tmp_path):
    """Without Pillow an array is predicted, and of a folder the message names the extra."""
    x, _ = pixels(2, seed=1)
    write_images(tmp_path / "photos", x, ["a.png", "b.png"])
    np.savez(tmp_path / "new.npz", x=x)
    arguments = ("predict", "--model", str(folder / "two.npz"), "--out", str(tmp_path / "o.csv"))
    without = ["PIL", "pandas", "tqdm", "pydantic", "mlflow"]
    done = hiding(without, *arguments, "--images", str(tmp_path / "new.npz"))
    assert (done.returncode, done.stderr) == (0, "")
    refused = hiding(without, *arguments, "--images", str(tmp_path / "photos"))
    assert refused.returncode == 1
    assert refused.stderr.startswith("lantk predict: PIL is not installed in this Python")
    assert "pip install '.[study]'" in refused.stderr
