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

ROOT = Path(__file__).parents[1]
PARTS = ["Snakefile", "config.yaml", "rules", "lantk", "envs", "profiles", "experiments"]

TINY = {
    "task": {"pairs": [[3, 8], ["8", 1]], "n_train": 20, "n_test": 30},
    "variants": ["cntk", "lantk-kr-v1", "lantk-fjlt-v1", "cnn"],
    "label_weights": {"honest": [0, 0.1], "oracle": [0.1, 1]},
    "folds": 2,
    "cnn": {"epochs": 2, "seeds": [0, 1]},
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
    k, k_test = (np.load(folder / f"grams/3-8/{b}.npy") for b in ("train_train", "test_train"))
    y = np.load(folder / "splits/3-8.npz")["y_train"].astype(float)
    wanted = k_test.astype(float) @ np.linalg.solve(k.astype(float), y)
    found = pd.read_csv(folder / "evaluations/3-8/cntk.csv")["honest"]
    np.testing.assert_allclose(found, wanted, atol=1e-8)


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
FROM_GRAM = {"gram": 2, "label_term": 4, "evaluate": 6, "cnn": 4}
WEIGHTS = {"honest": [0, 0.3], "oracle": [0.1, 1]}
# What is edited -> (the new value, jobs that depend on it).
EDITS = {
    "a label weight": ({"label_weights": WEIGHTS}, {"evaluate": 6}),
    "an architecture": ({"architecture": "arora2019-vanilla-3"}, FROM_GRAM),
    "epochs": ({"cnn": {"epochs": 3, "seeds": [0, 1]}}, {"cnn": 4}),
    "a seed": ({"cnn": {"epochs": 2, "seeds": [0, 1, 2]}}, {"cnn": 2}),
    "folds": ({"folds": 3}, {"evaluate": 6}),
    "n_test": ({"task": TINY["task"] | {"n_test": 40}}, {"split": 2} | FROM_GRAM),
    "a variant less": ({"variants": ["cntk", "cnn"]}, {}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_key_reruns_what_depends_on_it(finished, edit):
    """Editing one key of the configuration re-runs exactly the jobs that depend on it."""
    change, jobs = EDITS[edit]
    assert planned(finished[0], TINY | change) == jobs | LAST


def test_tracking_is_redone_alone(finished):
    """Another MLflow experiment re-runs the tracking, and nothing that computes."""
    assert planned(finished[0], TINY | {"tracking": {"experiment": "x"}}) == {"track": 1, "all": 1}


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
    "a misspelt key": ({"fold": 5}, "'fold' was unexpected"),
    "a mistyped value": ({"folds": "five"}, "'five' is not of type 'integer'"),
    "an unknown variant": ({"variants": ["lantk-kr-v9"]}, "'lantk-kr-v9' is not one of"),
    "an unknown class": ({"task": {"pairs": [[3, "cat"]]}}, "cat"),
    "equal classes": ({"task": {"pairs": [[3, 3]]}}, "3"),
    "a pair twice": ({"task": TINY["task"] | {"pairs": [[3, 8], [8, 3]]}}, "twice"),
    "an odd n": ({"task": {"n_train": 21}}, "21"),
    "too large an n": ({"task": {"n_train": 5000}}, "5000"),
    "too many folds": ({"folds": 11}, "folds is 11"),
    "an unknown layer": ({"architecture": ["pool", "dense"]}, "layer 0 is 'pool'"),
    "no pairs": ({"task": {"pairs": None}}, "name at least one class pair"),
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
