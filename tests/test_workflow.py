"""The workflow as a user runs it: end to end at tiny size, re-runs, refusals."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lantk
from lantk.data import describe, load_split, resolve_pair, split_pair
from lantk.evaluate import assess
from lantk.label_terms import image_vectors
from lantk.network import Network, train
from lantk.predict import predict

ROOT = Path(__file__).parents[1]
PARTS = ["Snakefile", "config.yaml", "rules", "lantk", "envs", "profiles", "experiments"]

TINY = {
    "task": {"pairs": [[3, 8], ["8", 1]], "n_train": 20, "n_test": 30, "seed": 7},
    "variants": ["cntk", "lantk-kr-v1", "lantk-fjlt-v1", "cnn"],
    "label_weights": {"honest": [0, 0.1], "oracle": [0.03, 1]},
    "folds": 2,
    "cnn": {
        "epochs": 2,
        "seeds": [0, 1],
        "batch_size": 8,
        "learning_rate": 0.002,
        "channels": [4, 4, 4, 8, 8, 8, 8],
    },
    "results": "out/tiny",
}
# Jobs of TINY: fetch; 2 pairs x (split, gram, 2 label terms, 3 evaluations, 2 networks, figure);
# table, track, all.
N_JOBS = 1 + 2 * (1 + 1 + 2 + 3 + 2 + 1) + 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("work tree")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


def snakemake(tree, *arguments, config=TINY):
    """Run Snakemake in a tree, on a configuration given as a file."""
    (tree / "test.json").write_text(json.dumps(config))
    # Compiled kernels are shared between copies, or each would spend a minute compiling.
    cache = {"NUMBA_CACHE_DIR": str(ROOT / ".cache" / "numba")}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment = os.environ | cache | path
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "snakemake", "--configfile", "test.json", *arguments]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=500
    )
    return done.returncode, done.stdout + done.stderr


def planned(tree, config=TINY, *arguments):
    """Return rule -> number of jobs that a dry run would start."""
    status, output = snakemake(tree, "--dry-run", *arguments, config=config)
    assert status == 0, output
    if "Nothing to be done" in output:
        return {}
    stats = output.partition("Job stats:")[2].partition("total")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)\s*$", stats, re.M)}


@pytest.fixture(scope="module")
def finished(tree):
    """Return the tree after one run, and what the run printed."""
    assert sum(planned(tree).values()) == N_JOBS
    status, output = snakemake(tree, "--cores", "2")
    assert status == 0, output[-5000:]
    return tree, output


def test_prints_the_table_and_how_to_open_the_dashboard(finished):
    """A run ends with the table, a command that starts the dashboard, and links."""
    _, output = finished
    assert "LANTK-best" in output
    assert "| CNN" in output
    assert re.search(r"mlflow server --backend-store-uri .*mlflow\.db", output)
    assert "http://127.0.0.1:5000/#/experiments/" in output


def test_table_has_every_pair_variant_and_protocol(finished):
    """table.csv has one row for each pair, variant (lantk-best among them) and protocol."""
    table = pd.read_csv(finished[0] / "out/tiny/table.csv")
    assert set(table["pair"]) == {"3-8", "1-8"}
    assert len(table) == 2 * 5 * 2
    assert table["accuracy"].between(0, 1).all()
    assert (table["ci_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["ci_high"]).all()
    assert set(table["n_train"]) == {20}
    assert set(table["n_test"]) == {30}


def test_accuracies_follow_from_the_predictions(finished):
    """The accuracy of a record is that of the predictions beside it."""
    for path in finished[0].glob("out/tiny/evaluations/*/*.json"):
        record = json.loads(path.read_text())
        predictions = pd.read_csv(path.with_suffix(".csv"))
        for protocol, result in record["protocols"].items():
            correct = (predictions[protocol] >= 0) == (predictions["label"] > 0)
            assert result["accuracy"] == pytest.approx(correct.mean())


def test_cntk_predictions_equal_plain_kernel_regression(finished):
    """The pipeline's cntk scores are K(test, train) K(train, train)^-1 y, recomputed here."""
    folder = finished[0] / "out/tiny"
    k, k_test = np.split(np.load(folder / "grams/3-8/1-of-1.npy"), [20])
    y = np.load(folder / "splits/3-8.npz")["y_train"].astype(float)
    wanted = k_test.astype(float) @ np.linalg.solve(k.astype(float), y)
    found = pd.read_csv(folder / "evaluations/3-8/cntk.csv")["honest"]
    np.testing.assert_allclose(found, wanted, atol=1e-8)


def test_split_is_the_one_asked_for(finished):
    """The split of the workflow is the package's own, at the configured seed."""
    pair = resolve_pair(describe("digits"), [3, 8])
    wanted = split_pair("digits", None, pair, 20, 30, seed=7)
    assert load_split(finished[0] / "out/tiny/splits/3-8.npz").digest == wanted.digest


@pytest.mark.parametrize("variant", TINY["variants"][1:3])
def test_label_term_predictions_equal_the_package(finished, variant):
    """The predictions of a label term are those of a direct call, chosen on their own grids."""
    folder = finished[0] / "out/tiny"
    split = load_split(folder / "splits/3-8.npz")
    k, k_test = np.split(np.load(folder / "grams/3-8/1-of-1.npy"), [20])
    vectors = image_vectors(split.x_train), image_vectors(split.x_test)
    weights = TINY["label_weights"]
    path = predict(
        k,
        k_test,
        split.y_train,
        lantk.label_term(variant).fit(k, split.y_train, vectors[0]),
        weights=weights["honest"] + weights["oracle"],
        validated=weights["honest"],
        make_term=lambda: lantk.label_term(variant),
        x_train=vectors[0],
        x_test=vectors[1],
        folds=2,
    )
    protocols = ["honest", "oracle"]
    results, scores = assess(
        path, split.y_test, protocols=protocols, oracle_weights=weights["oracle"]
    )
    found = pd.read_csv(folder / f"evaluations/3-8/{variant}.csv")
    np.testing.assert_allclose(found[protocols], scores, atol=1e-6)
    record = json.loads((folder / f"evaluations/3-8/{variant}.json").read_text())
    assert record["protocols"]["oracle"]["label_weight"] in weights["oracle"]
    for name in protocols:
        assert record["protocols"][name] == results["protocols"][name]
    validated = {p["label_weight"] for p in record["curve"] if p["validation_accuracy"] is not None}
    assert validated == set(weights["honest"])


def test_network_predictions_equal_the_package(finished):
    """The network of the workflow is trained with the configured channels, batch and rate."""
    split = load_split(finished[0] / "out/tiny/splits/3-8.npz")
    options = TINY["cnn"]
    network = Network("chen2020", (1, 8, 8), channels=options["channels"], seed=1)
    history = train(
        network,
        split.x_train,
        split.y_train,
        split.x_test,
        epochs=2,
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        seed=1,
    )
    found = pd.read_csv(finished[0] / "out/tiny/evaluations/3-8/cnn-seed1.csv")["honest"]
    np.testing.assert_allclose(found, history.test_scores[-1], atol=1e-5)


def test_every_run_is_in_mlflow(finished):
    """Every (pair, variant, seed) is an MLflow run, lantk-best among them."""
    with sqlite3.connect(finished[0] / "out/mlflow.db") as database:
        names = [row[0] for row in database.execute("SELECT name FROM runs")]
    assert len(names) == len(set(names)) == 2 * (3 + 2 + 1)


def test_figures_and_timings_are_there(finished):
    """Every pair has a figure, and every computing job a time and a peak memory."""
    folder = finished[0] / "out/tiny"
    assert {p.name for p in folder.glob("figures/*.png")} == {"3-8.png", "1-8.png"}
    timings = pd.read_csv(folder / "timings.csv")
    assert len(timings) == N_JOBS - 3 - 2  # not of figures, table, track, all
    assert (timings["seconds"] > 0).all()
    assert timings["job"].is_unique


def test_second_run_does_nothing(finished):
    """After a run nothing is left to be done, and Snakemake says so."""
    status, output = snakemake(finished[0], "--cores", "2")
    assert status == 0
    assert "Nothing to be done" in output


LAST = {"table": 1, "figure": 2, "track": 1, "all": 1}
TRACK = {"track": 1, "all": 1}
FROM_GRAM = {"gram": 2, "label_term": 4, "evaluate": 6, "cnn": 4}
WEIGHTS = {"honest": [0, 0.3], "oracle": [0.03, 1]}
# What is edited -> (the new value, jobs that depend on it; None where only MLflow hears of it).
EDITS = {
    "a label weight": ({"label_weights": WEIGHTS}, {"evaluate": 6}),
    "an architecture": ({"architecture": "arora2019-vanilla-8"}, FROM_GRAM),
    "epochs": ({"cnn": TINY["cnn"] | {"epochs": 3}}, {"cnn": 4}),
    "a seed": ({"cnn": TINY["cnn"] | {"seeds": [0, 1, 2]}}, {"cnn": 2}),
    "folds": ({"folds": 3}, {"evaluate": 6}),
    "bands": ({"kernel": {"bands": 3}}, {"gram": 6, "label_term": 4, "evaluate": 6}),
    "memory": ({"kernel": {"memory_mb": 64}}, None),
    "n_test": ({"task": TINY["task"] | {"n_test": 40}}, {"split": 2} | FROM_GRAM),
    "a variant less": ({"variants": ["cntk", "cnn"]}, {}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_key_reruns_what_depends_on_it(finished, edit):
    """Editing one key of the configuration re-runs exactly the jobs that depend on it."""
    change, jobs = EDITS[edit]
    assert planned(finished[0], TINY | change) == (TRACK if jobs is None else jobs | LAST)


def test_bands_give_the_same_table(finished):
    """Gram matrices in five bands, each a job, give the results of one band, byte for byte."""
    tree = finished[0]
    config = TINY | {"kernel": {"bands": 5}, "results": "out/bands"}
    config |= {"variants": ["cntk", "lantk-kr-v1"]}
    status, output = snakemake(tree, "--cores", "2", config=config)
    assert status == 0, output[-3000:]
    assert len(list(tree.glob("out/bands/grams/3-8/*-of-5.npy"))) == 5
    timings = pd.read_csv(tree / "out/bands/timings.csv")
    assert timings["job"].str.startswith("gram/3-8/").sum() == 5
    for name in ("cntk.csv", "lantk-kr-v1.csv"):
        one, five = (tree / f"out/{r}/evaluations/3-8/{name}" for r in ("tiny", "bands"))
        assert one.read_bytes() == five.read_bytes()


def test_tracking_is_redone_alone(finished):
    """Another MLflow experiment re-runs the tracking, and nothing that computes."""
    assert planned(finished[0], TINY | {"tracking": {"experiment": "x"}}) == TRACK


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        ("lantk/label_terms.py", {"label_term": 4, "evaluate": 6} | LAST),
        ("lantk/network.py", {"cnn": 4} | LAST),
        ("lantk/report.py", LAST),
        ("lantk/__init__.py", {}),
    ],
)
def test_an_edited_module_reruns_what_calls_it(finished, file, jobs):
    """Editing a module re-runs the rules that list it; the same bytes again re-run nothing."""
    path = finished[0] / file
    before = path.read_text()
    path.write_text(before + "# edited\n")
    try:
        assert planned(finished[0]) == jobs
    finally:
        path.write_text(before)
    assert planned(finished[0]) == {}


REFUSALS = {
    "a misspelt key": ({"fold": 5}, "has no key 'fold'"),
    "a mistyped value": ({"folds": "five"}, "folds is 'five': wanted a whole number"),
    "an unknown class": ({"task": {"pairs": [[3, "cat"]]}}, "unknown class 'cat'"),
    "missing data": ({"data": {"source": "npz", "path": "nowhere.npz"}}, "nowhere.npz"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_configuration_is_refused_before_any_job(finished, case):
    """A bad configuration ends with a message that names the fault, and destroys nothing."""
    change, message = REFUSALS[case]
    before = (finished[0] / "out/tiny/table.csv").read_bytes()
    status, output = snakemake(finished[0], "--cores", "2", config=TINY | change)
    assert status != 0
    assert message in output
    assert "Traceback" not in output
    assert (finished[0] / "out/tiny/table.csv").read_bytes() == before


def test_text_of_the_configuration_is_no_command(finished):
    """Shell metacharacters in a path, a name or a class stay text; own data run to the end."""
    tree = finished[0]
    name = "x'; touch hacked; echo $(touch hacked) '"
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 24), ("test", 10)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 3, 6, 5), dtype=np.uint8)
        arrays[f"y_{part}"] = np.array([name, "$HOME"])[np.arange(n) % 2]
    np.savez(tree / "odd name.npz", **arrays)
    config = TINY | {"results": f"out/{name}", "tracking": {"experiment": name}}
    config |= {"data": {"source": "npz", "path": "odd name.npz"}, "variants": ["cntk"]}
    config["task"] = {"pairs": [[name, "$HOME"]], "n_train": None, "n_test": None}
    status, output = snakemake(tree, "--cores", "2", config=config)
    assert status == 0, output[-3000:]
    assert (pd.read_csv(tree / "out" / name / "table.csv")["n_train"] == 24).all()
    assert not list(tree.rglob("hacked"))
    assert planned(tree, config) == {}
    arrays["x_test"][0, 0, 0, 0] ^= 1
    np.savez(tree / "odd name.npz", **arrays)
    assert planned(tree, config)["split"] == 1


def test_a_results_folder_without_quotes_is_no_command(finished):
    """A results folder whose name holds a shell command, and no quote, stays a name."""
    config = TINY | {"results": "out/none; touch hacked; z", "variants": ["cntk"]}
    config["task"] = TINY["task"] | {"pairs": [[3, 8]]}
    status, output = snakemake(finished[0], "--cores", "2", config=config)
    assert status == 0, output[-3000:]
    assert not list(finished[0].rglob("hacked"))
