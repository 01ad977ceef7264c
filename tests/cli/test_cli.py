"""The verbs without Snakemake: a whole chain by hand, and what they say when input is bad."""

import dataclasses
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from records import make_record, write_record

import lantk.network.checkpoint
import lantk.network.training
import lantk.regression.protocols
from lantk.cli import progress
from lantk.cli.main import _parser, main
from lantk.cli.options import EXAMPLES
from lantk.data.split_files import load_split, save_split

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning:mlflow")


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a results folder with a split and its Gram matrices, made by the verbs."""
    folder = tmp_path_factory.mktemp("results")
    sizes = ("--n-train", 20, "--n-test", 30, "--seed", 66)
    split = folder / "split.npz"
    assert run("split", "--source", "digits", "--pair", "3", "8", *sizes, "--out", split) == 0
    layers = json.dumps([{"conv": {"size": 3}}, "relu", "flatten", "dense"])
    assert run("gram", "--split", split, "--architecture", layers, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def three_classes(folder, tmp_path_factory):
    """Return a results folder with a split of three classes and its Gram matrices."""
    other = tmp_path_factory.mktemp("three")
    options = ("--classes", "3", "8", "1", "--n-train", 21, "--n-test", 30)
    assert run("split", "--source", "digits", *options, "--out", other / "split.npz") == 0
    layers = json.dumps(json.loads((folder / "1-of-1.json").read_text())["architecture"]["layers"])
    gram = ("gram", "--split", other / "split.npz", "--architecture", layers)
    assert run(*gram, "--out", other) == 0
    return other


def inputs(folder):
    return ("--split", folder / "split.npz", "--gram", folder / "1-of-1.json")


def test_verbs_chain_by_hand(folder):
    """Every verb of the workflow works by hand, one after the other."""
    fitted = folder / "term.npz"
    evaluations = folder / "evaluations" / "3-8"
    assert run("label-term", *inputs(folder), "--variant", "lantk-kr-v2", "--out", fitted) == 0
    term = ("lantk-kr-v2", "lantk-kr-v2-shuffled", "--permutations", 2, "--label-term", fitted)
    for variants in (("cntk", "cntk-ridge", "oracle-label"), term):
        out = ("--case", "3-8", "--folds", 2, "--out", evaluations)
        assert run("evaluate", *inputs(folder), "--variants", *variants, *out) == 0
    cnn = ("--case", "3-8", "--architecture", "arora2019-gap-3", "--epochs", 1, "--seed", 5)
    out = ("--variant", "cnn", "--out", evaluations / "cnn-seed5.json")
    assert run("cnn", "--split", folder / "split.npz", *cnn, *out) == 0
    flips = ("--variant", "cnn-flips", "--out", evaluations / "cnn-flips-seed5.json")
    assert run("cnn", "--split", folder / "split.npz", *cnn, *flips) == 0
    settings, plain = (
        json.loads((evaluations / f"{name}-seed5.json").read_text())["settings"]
        for name in ("cnn-flips", "cnn")
    )
    assert settings == plain | {"flips": True}
    listing = ("--results", folder, "--cases", "3-8", "--seeds", 5, "--permutations", 2)
    listing += ("--variants", "cntk", "lantk-kr-v2", "lantk-kr-v2-shuffled", "cnn")
    assert run("collect", *listing) == 0
    drawing = ("heat-map", *inputs(folder), "--case", "3-8", "--variant", "lantk-kr-v2")
    drawing += ("--label-term", fitted, "--evaluation", evaluations / "lantk-kr-v2.json")
    assert run(*drawing, "--out", folder / "figures" / "heat.png") == 0
    assert (folder / "figures" / "heat.png").read_bytes()[1:4] == b"PNG"
    for kind in ("weight", "gap", "alignment"):
        out = folder / "figures" / f"{kind}.png"
        assert run("figure", *listing, "--kind", kind, "--out", out) == 0
        assert out.read_bytes()[1:4] == b"PNG"
    assert run("figure", *listing, "--out", folder / "figures" / "weight.pdf") == 0
    assert (folder / "figures" / "weight.pdf").read_bytes()[:4] == b"%PDF"
    assert run("mlflow", "sync", *listing, "--config", json.dumps({"tracking": {}})) == 0
    assert run("table", "--results", folder) == 0
    assert run("failures", "--results", folder) == 0
    table = pd.read_csv(folder / "table.csv")
    wanted = {"cntk", "cntk-ridge", "oracle-label", "lantk-kr-v2", "lantk-kr-v2-shuffled", "cnn"}
    assert wanted - {"cntk-ridge", "oracle-label"} == set(table["variant"])


def test_whitening_goes_from_the_split_to_predictions(tmp_path, capsys):
    """A model of whitened images predicts raw ones as was recorded; tables name the whitening."""
    split = ("split", "--source", "digits", "--pair", "3", "8", "--n-train", 20, "--n-test", 30)
    assert run(*split, "--whitening", 0.5, "--out", tmp_path / "split.npz") == 0
    assert run(*split, "--out", tmp_path / "plain.npz") == 0
    layers = '[{"conv": {"size": 3}}, "relu", "flatten", "dense"]'
    gram = ("--architecture", layers, "--out", tmp_path)
    for name in ("plain", "split"):
        assert run("gram", "--split", tmp_path / f"{name}.npz", *gram) == 0
    assert "of other images" in capsys.readouterr().err
    out, case = tmp_path / "evaluations" / "3-8", ("--case", "3-8", "--folds", 2)
    variants = ("--variants", "lantk-fjlt-v1")
    assert run("evaluate", *inputs(tmp_path), *variants, *case, "--out", out) == 0
    record = json.loads((out / "lantk-fjlt-v1.json").read_text())
    assert record["data"]["whitening"] == 0.5
    kept = ("--split", tmp_path / "split.npz", *variants, "--evaluations", out)
    assert run("models", *kept, "--out", tmp_path / "models") == 0
    drawn, model = load_split(tmp_path / "split.npz"), tmp_path / "models" / "lantk-fjlt-v1.npz"
    np.savez(tmp_path / "new.npz", x=drawn.pixels_test)
    new = ("--images", tmp_path / "new.npz", "--out", tmp_path / "new.csv")
    assert run("predict", "--model", model, *new) == 0
    scores = pd.read_csv(tmp_path / "new.csv")["score"]
    recorded = pd.read_csv(out / "lantk-fjlt-v1.csv")["honest"]
    np.testing.assert_allclose(scores, recorded, rtol=0, atol=1e-5 * abs(recorded).max())
    assert run("table", "--results", tmp_path) == 0
    told = "n_train = 20, n_test = 30, images whitened (zca 0.5)"
    assert told in capsys.readouterr().out
    assert run("report", "--results", tmp_path, "--out", tmp_path / "report.html") == 0
    assert told in (tmp_path / "report.html").read_text()
    assert run("figure", "--results", tmp_path, "--cases", "3-8", *variants, "--seeds", "--out",
               tmp_path / "f.png") == 0  # fmt: skip


def test_unequal_classes_are_told_by_every_verb(tmp_path, capsys):
    """Counts of each class stand in the log of a split and in records, beside what they mean."""
    y = {"train": np.repeat(["ant", "bee"], [5, 16]), "test": np.repeat(["ant", "bee"], [3, 8])}
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.normal(size=(len(of), 1, 4, 4)) for part, of in y.items()}
    np.savez(tmp_path / "own.npz", **arrays, **{f"y_{part}": of for part, of in y.items()})
    split = ("split", "--source", "npz", "--path", tmp_path / "own.npz", "--pair", "ant", "bee")
    assert run(*split, "--balance", "--out", tmp_path / "even.npz") == 0
    assert "10 train images (5 of each class), 6 test" in capsys.readouterr().err
    assert run(*split, "--out", tmp_path / "split.npz") == 0
    said = capsys.readouterr().err
    assert "ant-bee: 21 train images (5 + 16), 11 test images (3 + 8)" in said
    assert "warning: the classes of ant-bee differ by more than 3:1 (5 + 16 train" in said
    layers = '[{"conv": {"size": 3}}, "relu", "flatten", "dense"]'
    gram = ("gram", "--split", tmp_path / "split.npz", "--architecture", layers)
    assert run(*gram, "--out", tmp_path) == 0
    variants = ("cntk-ridge", "--n-train", 21, "--folds", 5)
    out = tmp_path / "evaluations" / "ant-bee"
    evaluate = ("evaluate", *inputs(tmp_path), "--case", "ant-bee", "--variants", *variants)
    assert run(*evaluate, "--out", out) == 0
    record = json.loads((out / "cntk-ridge.json").read_text())
    assert (record["data"]["train_counts"], record["data"]["test_counts"]) == ([5, 16], [3, 8])
    predictions = pd.read_csv(out / "cntk-ridge.csv")
    for name, choice in record["protocols"].items():
        is_right = (predictions[name] >= 0) == (predictions["label"] > 0)
        shares = is_right.groupby(predictions["label"]).mean()
        assert choice["balanced_accuracy"] == pytest.approx(shares.mean())
        right = [choice["confusion"][i][i] for i in range(2)]
        assert sum(right) / 11 == pytest.approx(choice["accuracy"])
        assert [sum(counts) for counts in choice["confusion"]] == [3, 8]
    assert run("table", "--results", tmp_path) == 0
    assert "n_train = 21 (5 + 16), n_test = 11 (3 + 8)" in capsys.readouterr().out
    assert run("report", "--results", tmp_path, "--out", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    assert "n_train = 21 (5 + 16), n_test = 11 (3 + 8)" in page
    assert "Warning: the classes of ant-bee differ" in page
    assert "Class by class" in page


@pytest.mark.parametrize(
    "variants",
    [
        ("cntk", "cntk-ridge", "cntk-intercept"),
        ("cntk-rbf",),
        ("cntk-laplacian",),
        ("cntk-intercept+lantk-kr-v1", "cntk-intercept+lantk-kr-v1-shuffled"),
        ("lantk-kr-v2", "lantk-kr-v2-shuffled", "lantk-kr-v2-diagonal"),
        (
            *("lantk-fjlt-v2", "lantk-fjlt-v2-shuffled", "lantk-fjlt-v2-offdiagonal"),
            "lantk-fjlt-v2-offdiagonal-shuffled",
        ),
        ("lantk-plugin",),
    ],
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_test_labels_change_no_honest_prediction(
    folder, three_classes, tmp_path, n_classes, variants
):
    """With all test labels permuted, honest choices and predictions are the same bytes."""
    folder = folder if n_classes == 2 else three_classes
    drawn = load_split(folder / "split.npz")
    other = dataclasses.replace(drawn, y_test=np.random.default_rng(0).permutation(drawn.y_test))
    save_split(tmp_path / "split.npz", other)
    record = json.loads((folder / "1-of-1.json").read_text()) | {"split": other.digest}
    (tmp_path / "1-of-1.json").write_text(json.dumps(record))
    shutil.copy(folder / "1-of-1.npy", tmp_path / "1-of-1.npy")
    options = ("--variants", *variants, "--permutations", 1, "--folds", 2, "--case", "3-8")
    found = []
    for place in (folder, tmp_path):
        out = tmp_path / ("true" if place is folder else "permuted")
        assert run("evaluate", *inputs(place), *options, "--out", out) == 0
        frames = {path.stem: pd.read_csv(path) for path in sorted(out.glob("*.csv"))}
        weights = {
            path.stem: [json.loads(path.read_text())["protocols"]["honest"][key] for key in KEYS]
            for path in sorted(out.glob("*.json"))
        }
        found.append((frames, weights))
    (frames, weights), (permuted_frames, permuted_weights) = found
    assert weights == permuted_weights
    assert len(frames) >= len(variants)
    for name, frame in frames.items():
        assert not frame["label"].equals(permuted_frames[name]["label"])
        pd.testing.assert_series_equal(frame["honest"], permuted_frames[name]["honest"])


KEYS = ("label_weight", "ridge", "validation_accuracy")

OWN_TERM = '''
from lantk.label_terms.base import LabelTerm, label_product_factors


class Linear(LabelTerm):
    """Z(x, x') = x.x' times the label products' mean."""

    needs_x = True
    fitted_names = ("mean_",)

    def fit(self, k_train_train, y, x=None, solve=None):
        labels, signs = label_product_factors(y, len(k_train_train))
        self.mean_ = 1 + signs @ (labels.mean(axis=0) ** 2)
        self.x_train_ = x
        return self

    def transform(self, k, x=None):
        return self.mean_ * (x @ self.x_train_.T)
'''


def test_a_term_of_ones_own_is_given_vectors(folder, tmp_path, monkeypatch):
    """A label term of the user's own that wants vectors gets arrays, in folds and restored."""
    (tmp_path / "linear_terms.py").write_text(OWN_TERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own, term = "linear_terms:Linear", tmp_path / "term.npz"
    assert run("label-term", *inputs(folder), "--variant", own, "--out", term) == 0
    options = ("--variants", own, f"{own}-shuffled", "--permutations", 1, "--case", "3-8")
    out = ("--label-term", term, "--folds", 2, "--out", tmp_path / "e")
    assert run("evaluate", *inputs(folder), *options, *out) == 0
    names = {path.stem for path in (tmp_path / "e").glob("*.json")}
    assert names == {"lantk-linear", "lantk-linear-shuffled-seed0"}


@pytest.mark.parametrize("n_train", [12, 18])
def test_fewer_train_images_are_the_leading_ones(folder, tmp_path, n_train):
    """A smaller n gives what a split and Gram matrices of that size give."""
    sizes = ("--n-train", n_train, "--n-test", 30, "--seed", 66)
    split = tmp_path / "split.npz"
    assert run("split", "--source", "digits", "--pair", "3", "8", *sizes, "--out", split) == 0
    drawn = dataclasses.replace(load_split(folder / "split.npz").first(n_train))
    # A source without a test set tests on what is left: the same test images are wanted here.
    save_split(split, drawn)
    layers = json.dumps(json.loads((folder / "1-of-1.json").read_text())["architecture"]["layers"])
    assert run("gram", "--split", split, "--architecture", layers, "--out", tmp_path) == 0
    variants = ("--variants", "lantk-fjlt-v1", "lantk-fjlt-v1-shuffled", "--permutations", 1)
    options = (*variants, "--folds", 2, "--case", "3-8")
    cut = ("--n-train", n_train, "--out", tmp_path / "cut")
    assert run("evaluate", *inputs(folder), *options, *cut) == 0
    assert run("evaluate", *inputs(tmp_path), *options, "--out", tmp_path / "own") == 0
    for name in ("lantk-fjlt-v1.csv", "lantk-fjlt-v1-shuffled-seed0.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


def test_gram_matrix_does_not_depend_on_threads(folder, tmp_path):
    """One thread and two give the same bytes."""
    for threads in (1, 2):
        out = tmp_path / str(threads)
        command = [sys.executable, "-m", "lantk", "gram", "--split", folder / "split.npz"]
        subprocess.run([*command, "--threads", str(threads), "--out", out], check=True)
    one, two = ((tmp_path / n / "1-of-1.npy").read_bytes() for n in "12")
    assert one == two


def test_another_splits_gram_is_refused(folder, tmp_path, capsys):
    """A Gram matrix of other images is not mistaken for this split's."""
    other = tmp_path / "other.npz"
    sizes = ("--n-train", 20, "--n-test", 30, "--seed", 67)
    run("split", "--source", "digits", "--pair", "3", "8", *sizes, "--out", other)
    status = run(
        *("label-term", "--split", other, "--gram", folder / "1-of-1.json"),
        *("--variant", "lantk-kr-v1", "--out", tmp_path / "term.npz"),
    )
    assert status == 1
    assert "computed from other images" in capsys.readouterr().err
    assert not (tmp_path / "term.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("split", "--source", "digits", "--pair", "3", "cat"), "cat"),
        (("split", "--source", "digits", "--pair", "3", "8", "--n-train", "7"), "7"),
        (("split", "--source", "npz", "--path", "no.npz", "--pair", "3", "8"), "no.npz"),
        (("fetch", "--source", "images", "--path", "nowhere"), "nowhere"),
        (("gram", "--split", "absent.npz"), "absent.npz"),
        (("split", "--source", "digits", "--pair", "#3", "#33"), "33"),
    ],
)
def test_bad_input_has_a_message_and_no_traceback(arguments, message, tmp_path, capsys):
    """A verb that cannot work says why in one line, exits with 1 and writes nothing."""
    out = tmp_path / "out.npz"
    assert run(*arguments, "--out", out) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"lantk {arguments[0]}: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("another variant's term", "fitted for another variant"),
        ("another Gram's term", "fitted for another variant or on another Gram"),
        ("a broken term", "fit it again with the verb label-term"),
        ("an unknown variant", "unknown variant 'lantk-kr-v9'"),
        ("two families", "are of several families"),
        ("a cut block", "is broken"),
        ("a block of another shape", "has changed since it was written"),
        ("a changed number in a block", "has changed since it was written"),
        ("a cut record", "is broken"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder, tmp_path, capsys, case, message):
    """No result is written from a label term or a Gram matrix that is another's, or broken."""
    for name in ("split.npz", "1-of-1.json", "1-of-1.npy"):
        shutil.copy(folder / name, tmp_path / name)
    variant, term = "lantk-kr-v1", tmp_path / "term.npz"
    assert run("label-term", *inputs(tmp_path), "--variant", variant, "--out", term) == 0
    if case == "another variant's term":
        variant = "lantk-kr-v2"
    elif case == "an unknown variant":
        variant = "lantk-kr-v9"
    elif case == "another Gram's term":
        layers = ("--architecture", "arora2019-vanilla-3", "--out", tmp_path)
        run("gram", "--split", tmp_path / "split.npz", *layers)
    elif case == "a block of another shape":
        np.save(tmp_path / "1-of-1.npy", np.eye(3, dtype=np.float32))
    elif case == "a changed number in a block":
        block = np.load(tmp_path / "1-of-1.npy")
        block[7, 3] *= 1.01
        np.save(tmp_path / "1-of-1.npy", block)
    elif case.startswith(("a cut", "a broken")):
        names = {"term": "term.npz", "block": "1-of-1.npy", "record": "1-of-1.json"}
        path = tmp_path / names[case.split()[-1]]
        path.write_bytes(path.read_bytes()[:100])
    variants = (variant, "cntk") if case == "two families" else (variant,)
    options = ("--variants", *variants, "--label-term", term, "--case", "3-8")
    capsys.readouterr()
    status = run("evaluate", *inputs(tmp_path), *options, "--out", tmp_path / "evaluation")
    error = capsys.readouterr().err
    assert (status, "Traceback" in error) == (1, False), error
    assert message in error
    assert not list(tmp_path.glob("evaluation*"))


def test_an_interrupted_gram_leaves_no_record(folder, tmp_path, monkeypatch):
    """A block and a record that do not belong together are never read: the record comes last."""
    for name in ("1-of-1.json", "1-of-1.npy"):
        shutil.copy(folder / name, tmp_path / name)
    before = (tmp_path / "1-of-1.npy").read_bytes()

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("lantk.kernel.gram.gram_band", interrupted)
    assert run("gram", "--split", folder / "split.npz", "--out", tmp_path) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["1-of-1.npy"]
    assert (tmp_path / "1-of-1.npy").read_bytes() == before


def test_bands_hold_the_bytes_of_the_whole(folder, tmp_path):
    """Three bands, written in two goes, are read as the matrices of one, and so is their term."""
    layers = json.loads((folder / "1-of-1.json").read_text())["architecture"]["layers"]
    gram = ("gram", "--split", folder / "split.npz", "--architecture", json.dumps(layers))
    assert run(*gram, "--band", "2-of-3", "--out", tmp_path) == 0
    made = (tmp_path / "2-of-3.npy").stat().st_mtime_ns
    assert run(*gram, "--bands", 3, "--memory-mb", 16, "--out", tmp_path) == 0
    assert (tmp_path / "2-of-3.npy").stat().st_mtime_ns == made
    records = sorted(tmp_path.glob("*-of-3.json"))
    term = ("--variant", "lantk-kr-v2", "--out")
    assert run("label-term", *inputs(folder), *term, tmp_path / "one.npz") == 0
    split = ("--split", folder / "split.npz")
    assert run("label-term", *split, "--gram", *records, *term, tmp_path / "three.npz") == 0
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "three.npz").read_bytes()
    blocks = sorted(tmp_path.glob("*-of-3.npy"))
    assert run("label-term", *split, "--gram", *blocks, *term, tmp_path / "blocks.npz") == 0
    # The first band stands for all, whose names may be more than a command line holds.
    assert run("label-term", *split, "--gram", records[0], *term, tmp_path / "first.npz") == 0
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "first.npz").read_bytes()
    # The blocks name their records; a band less, and a band of another architecture, are refused.
    assert run("label-term", *split, "--gram", *records[:2], *term, tmp_path / "two.npz") == 1
    assert run(*gram[:3], "--band", "1-of-3", "--out", tmp_path) == 0
    assert run("label-term", *split, "--gram", *records, *term, tmp_path / "two.npz") == 1
    assert not (tmp_path / "two.npz").exists()


def test_plan_shows_the_jobs_of_a_large_matrix(capsys):
    """A job of n = 50,000 + 10,000 is planned at a given rate: bands, memory, minutes, sums."""
    sizes = ("--n-train", 50_000, "--n-test", 10_000)
    assert run("plan", *sizes, "--rate", 1e6, "--device", "cpu") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split()[:2] == ["1-of-9", "0"]
    assert len(printed) == 1 + 9 + 2
    assert printed[-2].split() == ["all", "1,750,025,000", "29.2", "8,205"]
    assert run("plan", *sizes, "--rate", 1e6, "--bands", 1, "--memory-mb", 1256) == 0
    one = capsys.readouterr().out.splitlines()
    assert float(one[1].split()[-3]) == pytest.approx(29.2)
    memory, more = (float(line.split()[-2].replace(",", "")) for line in (printed[1], one[1]))
    assert more - memory == pytest.approx(1000 * 2**20 / 1e6, abs=2)


def test_the_verbs_take_the_layout_of_arrays(tmp_path, capsys):
    """What looks like channels last is refused by fetch, split and plan, and taken where told."""
    x = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), dtype=np.uint8)
    y, file = np.arange(8) % 2, tmp_path / "own.npz"
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    source, split = ("--source", "npz", "--path", file), tmp_path / "s.npz"
    plan = ("plan", "--n-train", 10, "--n-test", 5, "--rate", 1e6, "--image", 6, 5, 3)
    told = ("--layout", "channels_first")
    for verb in (
        ("fetch", *source, "--out", tmp_path / "data.json"),
        ("split", *source, "--pair", "0", "1", "--out", split),
        plan,
    ):
        assert run(*verb) == 1
        assert "--layout channels_first" in capsys.readouterr().err
        assert run(*verb, *told) == 0
    layers = json.dumps([{"conv": {"size": 3}}, "relu", "flatten", "dense"])
    assert run("gram", "--split", split, "--architecture", layers, "--out", tmp_path) == 0
    assert load_split(split).pixels_train.shape == (8, 6, 5, 3)


def test_plan_measures_this_machine(capsys):
    """Without a rate the plan measures one, for the architecture and the images that are asked."""
    image = ("--image", 1, 4, 4, "--architecture", "arora2019-gap-3")
    assert run("plan", "--n-train", 10, "--n-test", 5, *image) == 0
    printed = capsys.readouterr().out
    assert "measured here just now" in printed
    assert printed.splitlines()[1].split()[0] == "1-of-1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "--n-train", 10), "--n-test"),
        (("plan", "--n-train", "many", "--n-test", 5), "'many': wanted a number of 1 or more"),
        (("plan", "--n-train", 10, "--n-test", 5, "--rate", 0), "wanted a number above 0"),
        (
            ("plan", "--n-train", 10, "--n-test", 5, "--bands", 0),
            "'0': wanted auto or a number of 1",
        ),
        (("gram", "--split", "s", "--out", "g", "--bands", -2), "'-2': wanted auto or a number"),
        (("gram", "--split", "s", "--out", "g", "--device", "gpu"), "invalid choice: 'gpu'"),
        (("figure", "--results", "r", "--out", "a.gif"), "ends in .png, .pdf or .svg"),
        (("heat-map", "--out", "a"), "'a': wanted a name that ends in .png, .pdf or .svg"),
        (("report", "--results", "r", "--out", "a.pdf"), "ends in .html"),
        (("label-term", "--out", "a.NPZ"), "ends in .npz"),
        (("cnn", "--out", "a.csv"), "ends in .json"),
        (("table", "--results", ""), "'': wanted a path"),
        (("table", "--results", "$NOT_SET/r"), "the variable NOT_SET is not set"),
        (("mlflow", "sync", "--results", "r", "--config", "[]"), "[]: wanted a JSON mapping"),
        (
            ("mlflow", "sync", "--results", "r", "--config", '{"results": "$NOT_SET"}'),
            "results is '$NOT_SET': the variable NOT_SET is not set",
        ),
    ],
)
def test_options_of_no_meaning_are_refused(arguments, message, capsys):
    """An option that cannot be read ends with what was wanted, before anything is done."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_paths_are_expanded_where_the_shell_does_not(tmp_path, monkeypatch):
    """--out=~/x and a variable in single quotes are no folders of these names."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("fetch", "--source", "digits", "--out=~/a.json") == 0
    assert run("fetch", "--source", "digits", "--out", "$HOME//./b.json") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_band_that_is_broken_or_of_other_images_is_written_again(folder, tmp_path):
    """Resuming keeps whole bands of the same images, and writes every other one."""
    gram = ("gram", "--bands", 3, "--split", folder / "split.npz", "--out", tmp_path)
    blocks = [tmp_path / f"{i}-of-3.npy" for i in (1, 2, 3)]

    def written_by(*command):
        before = [path.stat().st_mtime_ns if path.exists() else 0 for path in blocks]
        assert run(*command) == 0
        return [path.stat().st_mtime_ns > old for path, old in zip(blocks, before, strict=True)]

    assert written_by(*gram) == [True, True, True]
    wanted = [path.read_bytes() for path in blocks]
    blocks[0].unlink()
    blocks[1].write_bytes(blocks[1].read_bytes()[:200])
    assert written_by(*gram) == [True, True, False]
    np.save(blocks[2], np.load(blocks[2]) + np.float32(1e-3))
    assert written_by(*gram) == [False, False, True]
    assert [path.read_bytes() for path in blocks] == wanted
    other = tmp_path / "other.npz"
    sizes = ("--n-train", 20, "--n-test", 30, "--seed", 67)
    run("split", "--source", "digits", "--pair", "3", "8", *sizes, "--out", other)
    again = ("gram", "--bands", 3, "--split", other, "--out", tmp_path)
    assert written_by(*again) == [True, True, True]
    assert written_by(*gram, "--architecture", "arora2019-vanilla-3") == [True, True, True]
    assert written_by(*gram, "--flips") == [True, True, True]
    assert written_by(*gram, "--flips") == [False, False, False]
    assert written_by(*gram) == [True, True, True]


def test_a_variant_stands_on_its_own_kernel(folder, tmp_path, capsys):
    """Gram matrices over flips are for cntk-flips, and no other are; its terms see the images."""
    flips = tmp_path / "flips"
    layers = json.dumps(json.loads((folder / "1-of-1.json").read_text())["architecture"]["layers"])
    gram = ("gram", "--split", folder / "split.npz", "--architecture", layers, "--flips")
    assert run(*gram, "--out", flips) == 0
    options = ("evaluate", "--split", folder / "split.npz", "--folds", 2, "--case", "3-8")
    options += ("--permutations", 1, "--out", tmp_path / "e")
    here, there = (("--gram", path / "1-of-1.json") for path in (folder, flips))
    for variant, wrong, text in (
        ("cntk", there, "with flips, .* without --flips"),
        ("cntk-flips", here, "without flips, .* verb gram and --flips"),
    ):
        assert run(*options, *wrong, "--variants", variant) == 1
        assert re.search(text, capsys.readouterr().err)
    assert run(*options, *there, "--variants", "cntk-flips", "cntk-flips-intercept") == 0
    term = "cntk-flips-intercept+lantk-fjlt-v1"
    assert run(*options, *there, "--variants", term, f"{term}-shuffled") == 0
    found = {path.stem for path in (tmp_path / "e").glob("*.json")}
    assert found == {"cntk-flips", "cntk-flips-intercept", term, f"{term}-shuffled-seed0"}
    drawn = load_split(folder / "split.npz")
    k, k_test = (
        lantk.gram(json.loads(layers), *images, flips=True, layout="channels_first")
        for images in ((drawn.x_train,), (drawn.x_test, drawn.x_train))
    )
    wanted = k_test @ np.linalg.solve(k.astype(float), drawn.y_train)
    shown = pd.read_csv(tmp_path / "e" / "cntk-flips.csv")["honest"]
    np.testing.assert_allclose(shown, wanted, atol=1e-3)


def test_singular_gram_is_explained(folder, tmp_path, capsys):
    """Two equal train images end in a message that names them, and leave nothing half-written."""
    split = load_split(folder / "split.npz")
    split.pixels_train[13] = split.pixels_train[2]
    save_split(tmp_path / "split.npz", dataclasses.replace(split))
    run("gram", "--split", tmp_path / "split.npz", "--out", tmp_path)
    out = ("--case", "3-8", "--variants", "cntk", "--folds", 2, "--out", tmp_path / "cntk")
    assert run("evaluate", *inputs(tmp_path), *out) == 1
    error = capsys.readouterr().err
    assert "singular" in error
    first, second = split.index_train[[2, 13]]
    assert f"images {first} and {second} have equal rows" in error
    assert "Images are numbered as in the source, digits, from 0." in error
    assert not list(tmp_path.glob("cntk*"))


def test_a_black_test_image_is_evaluated(tmp_path):
    """K(x, x) = 0 in floats leaves the test ratio empty, and takes nothing else away."""
    x, y = np.random.default_rng(0).uniform(size=(20, 1, 6, 6)).astype("f4"), np.arange(20) % 2
    x_test = x + np.float32(0.01)
    x_test[3] = 0
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x_test, y_test=y)
    source = ("--source", "npz", "--path", tmp_path / "data.npz", "--pair", "#0", "#1")
    assert run("split", *source, "--out", tmp_path / "split.npz") == 0
    assert run("gram", "--split", tmp_path / "split.npz", "--out", tmp_path) == 0
    out = ("--case", "c", "--variants", "cntk", "cntk-ridge", "--folds", 2, "--out", tmp_path / "e")
    assert run("evaluate", *inputs(tmp_path), *out) == 0
    for variant in ("cntk", "cntk-ridge"):
        record = json.loads((tmp_path / f"e/{variant}.json").read_text())
        assert {point["relative_ratio_test"] for point in record["curve"]} == {None}
        assert len(pd.read_csv(tmp_path / f"e/{variant}.csv")) == 20


def test_results_of_a_family_appear_together(folder, tmp_path, monkeypatch):
    """A number that no record can hold in the last of them leaves none, and no predictions."""
    assess = lantk.regression.protocols.assess

    def with_nan(path, *arguments, is_ridge, **options):
        results, scores = assess(path, *arguments, is_ridge=is_ridge, **options)
        results["diagnostics"]["new"] = np.nan if is_ridge else 1.0
        return results, scores

    monkeypatch.setattr(lantk.regression.protocols, "assess", with_nan)
    out = ("--case", "c", "--variants", "cntk", "cntk-ridge", "--folds", 2, "--out", tmp_path)
    assert run("evaluate", *inputs(folder), *out) == 1
    assert not list(tmp_path.iterdir())


def test_interrupt_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    """An interrupt in the middle of a write leaves no file and exits with 130."""

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    out = ("--variant", "lantk-kr-v1", "--out", tmp_path / "term.npz")
    assert run("label-term", *inputs(folder), *out) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_faults_of_ours_show_where(folder, tmp_path, monkeypatch, capsys):
    """An error that no message foresees comes with its traceback, and exits with 1."""
    monkeypatch.setattr(np, "savez", lambda *_args, **_kwargs: 1 / 0)
    out = ("--variant", "lantk-kr-v1", "--out", tmp_path / "term.npz")
    assert run("label-term", *inputs(folder), *out) == 1
    assert "Traceback" in capsys.readouterr().err


def help_of(capsys, *verb):
    with pytest.raises(SystemExit) as stopped:
        run(*verb, "--help")
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_verb_in_the_order_of_use(capsys):
    """The help of the command line lists each verb once, with what it is for."""
    printed = help_of(capsys)
    lines = [line for line in printed.splitlines() if re.match(r"  \S+( \S+)?  +\S", line)]
    listed = [line.split("  ")[1] for line in lines if not line.startswith("  -")]
    assert sorted(listed) == sorted(EXAMPLES)
    assert listed[:4] == ["fetch", "split", "plan", "gram"]
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("verb", EXAMPLES)
def test_examples_in_the_help_are_accepted(verb, capsys):
    """The help of a verb ends in an example whose options it takes, and explains every option."""
    printed = help_of(capsys, *verb.split())
    command = printed.partition("example:\n  python -m lantk ")[2]
    args = _parser().parse_args(shlex.split(command))
    assert args.called == verb
    for option in re.findall(r"^  (--[a-z-]+).*", printed, re.M):
        text = re.search(rf"^  {option}(?: .*?)?(?:  +|\n {{10,}})(\S.*)", printed, re.M)
        assert text, f"{option} is not explained"


def test_the_kernel_examples_go_on_from_each_other(tmp_path, monkeypatch, capsys):
    """The examples from split to heat map, typed one after the other, all work."""
    monkeypatch.chdir(tmp_path)
    for verb in ("split", "gram", "label-term", "evaluate", "heat-map"):
        words = [
            name
            for word in shlex.split(EXAMPLES[verb])
            for name in (sorted(map(str, tmp_path.glob(word))) if "*" in word else [word])
        ]
        assert run(verb, *words) == 0, capsys.readouterr().err
    assert (tmp_path / "z.png").exists()


def fabricate(results, variants=("cntk", "lantk-kr-v1", "cnn"), tasks=("3-8", "1-8")):
    for task in tasks:
        for variant in variants:
            seed = 0 if variant == "cnn" else None
            write_record(results, make_record(variant, 0.8, task=task, seed=seed))


LISTING = ("--permutations", 1, "--seeds", 0, "--cases", "3-8", "1-8", "--variants")


def test_the_table_is_aligned_plain_text(tmp_path, capsys):
    """The leaderboard has a block a protocol, a line a variant, and no Markdown."""
    fabricate(tmp_path)
    assert run("table", "--results", tmp_path, *LISTING, "cntk", "lantk-kr-v1", "cnn") == 0
    printed = capsys.readouterr().out
    assert "|" not in printed
    assert "Not there" not in printed
    leaderboard, _, claims = printed.partition("\nClaims\n")
    rows = [line for line in leaderboard.splitlines() if line.startswith(("CNTK", "LANTK", "CNN"))]
    assert len(rows) == 6
    assert rows[0].split() == ["CNTK", "80.00", "80.00", "80.00", "-"]
    assert rows[1].split() == ["LANTK-KR-V1", *["80.00"] * 3, "+0.00", "±", "0.00"]
    assert re.search(r"^LANTK-KR-V1 minus CNTK +\+0\.00 ± 0\.00 +equal ", claims, re.MULTILINE)
    assert f"python -m lantk table --results {tmp_path}" in " ".join(claims.split())


def test_the_table_of_an_unfinished_run_says_what_is_missing(tmp_path, capsys):
    """Results that the listing names and that are not there stand below the table."""
    fabricate(tmp_path, ("cntk",))
    fabricate(tmp_path, ("cnn",), ("3-8",))
    assert run("table", "--results", tmp_path, *LISTING, "cntk", "cnn", "cntk-ridge") == 0
    printed = capsys.readouterr().out
    wanted = "Not there (3 results):\n  cntk-ridge: every case\n  cnn-seed0: 1-8\n"
    assert printed.endswith(wanted)
    cnn = next(line for line in printed.splitlines() if line.startswith("CNN"))
    assert cnn.split() == ["CNN", "80.00", "-", "-"]


def test_the_table_needs_results(tmp_path, capsys):
    """A folder without evaluations ends in a message."""
    assert run("table", "--results", tmp_path) == 1
    assert "no results in" in capsys.readouterr().err


def test_a_listing_that_is_kept_need_not_be_given(tmp_path, capsys):
    """Cases and variants come from tracking.json; failures without either asks for them."""
    assert run("failures", "--results", tmp_path) == 1
    assert "give --cases" in capsys.readouterr().err
    listing = {"cases": ["3-8"], "variants": ["cntk"], "permutations": 1, "seeds": []}
    (tmp_path / "tracking.json").write_text(json.dumps({"listing": listing}))
    log = tmp_path / "logs/evaluate/3-8/cntk.log"
    log.parent.mkdir(parents=True)
    log.write_text("lantk evaluate: the matrix is singular\n")
    assert run("failures", "--results", tmp_path, "--resume", "snakemake -c 1") == 1
    printed = capsys.readouterr().out
    assert "Failed: evaluate cntk of 3-8" in printed
    assert printed.endswith("To go on:\n  snakemake -c 1\n")
    log.unlink()
    assert run("failures", "--results", tmp_path) == 0


@pytest.mark.parametrize("place", ["verb", "finalizer"])
def test_a_verb_that_is_ended_from_outside_says_so(tmp_path, place):
    """SIGTERM unwinds a verb, wherever it arrives: a sentence in its log, and status 143."""
    code = "import os, signal; from lantk.cli import kernels\n"
    code += "def end():\n  os.kill(os.getpid(), signal.SIGTERM)\n  [None for _ in range(1000)]\n"
    # What a finalizer raises is lost.
    code += "class Held:\n  def __del__(self):\n    end()\n"
    code += f"def fetch(args):\n  'Wait.'\n  {'end' if place == 'verb' else 'Held'}()\n"
    code += "  signal.pause()\n"
    code += "kernels.fetch = fetch\n"
    code += "from lantk.cli.main import main\n"
    code += f"raise SystemExit(main(['fetch', '--source', 'digits', '--out', {str(tmp_path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143
    assert done.stderr.startswith("lantk fetch: ended from outside (SIGTERM)")
    assert done.stderr.count("\n") == 1


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch, capsys):
    """A long step says where it stands, before its first unit too; a short one says nothing."""
    with progress.showing_progress("solves") as tick, progress.showing_work("fitting"):
        tick(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.05)
    with progress.showing_progress("solves") as tick:
        time.sleep(0.2)
        tick(1, 2, 0.5)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "no solves yet, 0.0 min so far"
    assert lines[-1] == "1 of 2 solves, train loss 0.5000, about 0.0 min left"
    with progress.showing_work("fitting"):
        time.sleep(0.2)
    assert capsys.readouterr().err.splitlines()[0] == "fitting: 0.0 min so far"


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    """On a terminal a long step draws a bar, or its time, and a short one nothing."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def drawn(show, *ticks, seconds):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with show("steps") as tick:
            time.sleep(seconds)
            for done in ticks:
                tick(done, 2)
        return sys.stderr.getvalue()

    assert drawn(progress.showing_work, seconds=0) == ""
    monkeypatch.setattr(progress, "_BAR_SECONDS", 0.1)
    assert "steps: 00:00" in drawn(progress.showing_work, seconds=0.3)
    assert "2.00/2.00" in drawn(progress.showing_progress, 1, 2, seconds=0.3)


def test_a_signal_cannot_end_the_drawing_of_a_bar(monkeypatch):
    """While a step runs the main thread, which signals interrupt, draws nothing: drawing locks."""
    drawing = set()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            drawing.add(threading.current_thread())
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "_BAR_SECONDS", 0.05)
    with progress.showing_progress("steps") as tick:
        for done in range(200):
            tick(done, 1_000)
            time.sleep(0.002)
        assert len(drawing) == 1
        assert threading.current_thread() not in drawing


AFTER_KERNELS = (
    *("--case", "3-8", "--architecture", "chen2020", "--channels", "[2, 2, 2, 2, 2, 2, 2]"),
    *("--variants", "after-kernel", "after-kernel-1-shuffled", "after-kernel-1+lantk-kr-v1"),
    *("--taps", 0, 1, "--batch-size", 8, "--learning-rate", 0.002, "--seed", 3),
    *("--folds", 2, "--held-out", 1, "--device", "cpu"),
)
AFTER_STEMS = ["after-kernel-0", "after-kernel-1", "after-kernel-1-shuffled"]
AFTER_STEMS += ["after-kernel-1+lantk-kr-v1"]


def test_after_kernels_go_on_where_they_were_interrupted(folder, tmp_path, monkeypatch, capsys):
    """Records and predictions are those of an uninterrupted command; other settings start anew."""
    monkeypatch.setattr(lantk.network.checkpoint, "_SECONDS_BETWEEN", 0.0)
    command = ("after-kernels", "--split", folder / "split.npz", *AFTER_KERNELS)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*command, "--out", whole) == 0
    epochs, train_epoch = [], lantk.network.training._train_epoch

    def train_or_interrupt(*arguments):
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lantk.network.training, "_train_epoch", train_or_interrupt)
        assert run(*command, "--out", cut) == 130
    kept = cut / "after-kernel-seed3.checkpoint"
    assert [path.name for path in cut.iterdir()] == [kept.name]
    shutil.copytree(cut, tmp_path / "other")
    capsys.readouterr()
    assert run(*command, "--out", cut) == 0
    assert "lantk after-kernels: goes on from" in capsys.readouterr().err
    assert not kept.exists()
    for stem in AFTER_STEMS:
        a, b = (out / f"{stem}-seed3" for out in (whole, cut))
        assert a.with_suffix(".csv").read_bytes() == b.with_suffix(".csv").read_bytes()
        records = [json.loads(path.with_suffix(".json").read_text()) for path in (a, b)]
        for record in records:
            assert record["diagnostics"].pop("seconds") > 0
            assert record["protocols"]["honest"]["epoch"] == int(stem[13])
            is_term = "+" in stem
            assert (record["protocols"]["honest"]["ridge"] is None) == is_term
            assert (record["protocols"]["honest"]["label_weight"] is None) != is_term
        assert records[0] == records[1]
    assert run(*command, "--held-out", 2, "--out", tmp_path / "other") == 0
    assert "of other settings, images or code and is not used" in capsys.readouterr().err
