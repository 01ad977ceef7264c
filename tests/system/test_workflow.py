"""The workflow as a user runs it: end to end at tiny size, re-runs, refusals."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from work_tree import copy_project

import lantk
from lantk.data.split_files import load_split
from lantk.data.splits import describe, split_pair
from lantk.data.tasks import resolve_pair
from lantk.label_terms.base import image_vectors
from lantk.network.layers import Network
from lantk.network.training import train
from lantk.regression.fits import Member
from lantk.regression.paths import predict
from lantk.regression.protocols import assess
from lantk.regression.statistics import DEFINITE, PROTOCOLS

ROOT = Path(__file__).parents[2]
TINY = {
    "task": {"pairs": [[3, 8], ["8", 1]], "n_train": 20, "n_test": 30, "seed": 7},
    "variants": [
        *("cntk", "cntk-ridge", "oracle-label", "lantk-kr-v1", "lantk-kr-v1-shuffled"),
        *("lantk-fjlt-v1", "lantk-fjlt-v1-diagonal", "cnn"),
    ],
    "label_weights": {"honest": [0, 0.1], "oracle": [0.03, 1]},
    "ridges": {"honest": [0, 0.3], "oracle": [0.01]},
    "permutations": 3,
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
# Jobs of TINY: fetch; 2 pairs x (split, gram, 2 label terms, 3 families, 2 networks, models, 2
# figures); table, 2 figures of all pairs, track, report, all.
N_JOBS = 1 + 2 * (1 + 1 + 2 + 3 + 2 + 1 + 2) + 6
# Variants of which models can be made.
FITTED = ("cntk", "cntk-ridge", "lantk-kr-v1", "lantk-fjlt-v1")
N_COMPUTING = 1 + 2 * (1 + 1 + 2 + 3 + 2)
# Files of evaluations of a pair: cntk-ridge and oracle-label, seeds of what is shuffled, networks.
STEMS = {
    *("cntk", "cntk-ridge", "oracle-label", "lantk-kr-v1", "lantk-fjlt-v1"),
    *("lantk-fjlt-v1-diagonal", "lantk-kr-v1-shuffled-seed0", "lantk-kr-v1-shuffled-seed1"),
    *("lantk-kr-v1-shuffled-seed2",),
    *("cnn-seed0", "cnn-seed1"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project, in a folder with a space in its name."""
    return copy_project(tmp_path_factory.mktemp("work tree"), "experiments")


def snakemake(tree, *arguments, config=TINY):
    """Run Snakemake in a tree, on a configuration given as a file."""
    (tree / "test.json").write_text(json.dumps(config))
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment = os.environ | path
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


def test_the_command_line_sets_what_a_file_sets(tree):
    """Numbers and null inside braces are read as such, and a path is no other for its ./ and //."""
    given = ("task={n_train: 24, n_test: null}", "cnn={seeds: []}", "results=.//out//other/")
    status, output = snakemake(tree, "-n", "-p", "--quiet", "host", "--config", *given)
    assert status == 0, output
    assert "--n-train 24" in output
    assert "--n-test 30" not in output
    assert "lantk cnn" not in output
    assert "--results out/other" in output
    assert "discouraged" not in output
    assert "unintended" not in output


@pytest.fixture(scope="module")
def finished(tree):
    """Return the tree after one run, and what the run printed."""
    assert sum(planned(tree).values()) == N_JOBS
    status, output = snakemake(tree, "--cores", "2")
    assert status == 0, output[-5000:]
    return tree, output


def test_prints_the_table_and_how_to_see_more(finished):
    """A run ends with the table, the report, and short words on how to open the dashboard."""
    _, output = finished
    end = output.partition("Using workflow specific profile")[0]  # standard output comes first
    assert "honest: choices made by validation" in end
    assert len(re.findall(r"^LANTK-KR-V1 +\d\d\.\d\d ", end, re.M)) == 2
    assert "Report, to open in a browser: out/tiny/report.html" in end
    assert "python -m lantk mlflow" in end
    assert max(map(len, end.splitlines())) < 200, "no page-long links"


def test_a_reader_of_the_end_may_leave(finished):
    """A run whose output goes to a program that reads one line of it, or none, is no failure."""
    tree, _ = finished
    script = (
        f"{sys.executable} -m snakemake --cores 2 --configfile test.json | true; exit $PIPESTATUS"
    )
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment = {**os.environ, **path}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_table_has_every_task_variant_and_protocol(finished):
    """table.csv has one row for each task, variant and protocol."""
    table = pd.read_csv(finished[0] / "out/tiny/table.csv")
    assert set(table["task"]) == {"3-8", "1-8"}
    wanted = set(TINY["variants"])
    assert set(table["variant"]) == wanted
    # oracle-label has the one protocol; what the network chooses is no matrix.
    expected = {"oracle": wanted, "honest": wanted - {"oracle-label"}}
    expected[DEFINITE] = expected["honest"] - {"cnn"}
    for protocol, variants in expected.items():
        rows = table[table["protocol"] == protocol]
        assert set(rows["variant"]) == variants
        assert len(rows) == 2 * len(variants)
    assert len(table) == 2 * sum(map(len, expected.values()))
    assert table["accuracy"].between(0, 1).all()
    assert (table["ci_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["ci_high"]).all()
    assert set(table["n_train"]) == {20}
    assert set(table["n_test"]) == {30}


def test_every_evaluation_has_its_files(finished):
    """A family writes a record and predictions for each of its variants, and for each seed."""
    for pair in ("3-8", "1-8"):
        folder = finished[0] / "out/tiny/evaluations" / pair
        assert {path.name for path in folder.iterdir() if path.is_file()} == {
            f"{stem}.{ending}" for stem in STEMS for ending in ("json", "csv")
        } | {f"{variant}.npz" for variant in FITTED}
        for path in folder.glob("*.json"):
            record = json.loads(path.read_text())
            seed = "" if record["seed"] is None else f"-seed{record['seed']}"
            assert record["variant"] + seed == path.stem
            assert (record["case"], record["task"]) == (pair, pair)


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


@pytest.mark.parametrize("variant", ["lantk-kr-v1", "lantk-fjlt-v1"])
def test_label_term_predictions_equal_the_package(finished, variant):
    """The predictions of a label term are those of a direct call, chosen on their own grids."""
    folder = finished[0] / "out/tiny"
    split = load_split(folder / "splits/3-8.npz")
    k, k_test = np.split(np.load(folder / "grams/3-8/1-of-1.npy"), [20])
    weights = TINY["label_weights"]
    member = Member(
        variant,
        weights["honest"] + weights["oracle"],
        weights["honest"],
        lambda: lantk.label_term(variant),
    )
    (path,) = predict(
        k,
        k_test,
        split.y_train,
        [member],
        x_train=image_vectors(split.x_train),
        x_test=image_vectors(split.x_test),
        folds=2,
    )
    results, scores = assess(
        path, split.y_test, protocols=["honest", "oracle"], oracle_weights=weights["oracle"]
    )
    protocols = [*PROTOCOLS, DEFINITE]
    found = pd.read_csv(folder / f"evaluations/3-8/{variant}.csv")
    assert list(scores) == protocols
    np.testing.assert_allclose(found[protocols].T, list(scores.values()), atol=1e-6)
    record = json.loads((folder / f"evaluations/3-8/{variant}.json").read_text())
    assert record["protocols"]["oracle"]["label_weight"] in weights["oracle"]
    for name in protocols:
        of_record = record["protocols"][name]
        assert of_record | results["protocols"][name] == of_record
    validated = {p["label_weight"] for p in record["curve"] if p["validation_accuracy"] is not None}
    assert validated == set(weights["honest"])


def test_the_best_model_predicts_what_was_recorded(finished):
    """It is the kernel with the best validation accuracy, and predicts raw test images."""
    folder = finished[0] / "out/tiny"
    for pair in ("3-8", "1-8"):
        records = {
            v: json.loads((folder / f"evaluations/{pair}/{v}.json").read_text()) for v in FITTED
        }
        accuracy = {v: r["protocols"]["honest"]["validation_accuracy"] for v, r in records.items()}
        (path,) = (folder / "models" / pair).glob("*.npz")
        assert accuracy[path.stem] == max(accuracy.values())
        model, split = lantk.load(path), load_split(folder / f"splits/{pair}.npz")
        found = pd.read_csv(folder / f"evaluations/{pair}/{path.stem}.csv")["honest"]
        np.testing.assert_array_equal(model.decision_function(split.pixels_test), found)
        names = np.where(found >= 0, split.names[1], split.names[0])
        assert model.predict(split.pixels_test).tolist() == names.tolist()


def test_weights_of_networks_are_kept(finished):
    """A network that takes them predicts as recorded, in float32."""
    folder = finished[0] / "out/tiny"
    split = load_split(folder / "splits/3-8.npz")
    kept = torch.load(folder / "models/3-8/cnn-seed1.pt", weights_only=True)
    network = Network(
        kept["architecture"], kept["image_shape"], channels=kept["channels"],
        parameterization=kept["parameterization"], n_outputs=kept["n_outputs"], seed=kept["seed"],
    )  # fmt: skip
    network.load_state_dict(kept["state_dict"])
    with torch.no_grad():
        scores = network(torch.from_numpy(split.x_test)).numpy().squeeze()
    found = pd.read_csv(folder / "evaluations/3-8/cnn-seed1.csv")["honest"]
    np.testing.assert_array_equal(scores >= 0.5, found >= 0)  # targets are 0 and 1


def test_ridges_are_those_of_the_configuration(finished):
    """cntk-ridge is validated on its own grid and has no label weight; cntk stays without."""
    folder = finished[0] / "out/tiny/evaluations/1-8"
    record = json.loads((folder / "cntk-ridge.json").read_text())
    assert {point["ridge"] for point in record["curve"]} == {0, 0.01, 0.3}
    assert record["protocols"]["oracle"]["ridge"] == 0.01
    assert record["protocols"]["honest"]["label_weight"] is None
    plain = json.loads((folder / "cntk.json").read_text())
    assert plain["protocols"]["honest"]["ridge"] is None


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
    np.testing.assert_allclose(found, history.test_predictions[-1], atol=1e-5)


def test_every_run_is_in_mlflow(finished):
    """Every (case, variant, seed) is an MLflow run."""
    with sqlite3.connect(finished[0] / "out/mlflow.db") as database:
        names = [row[0] for row in database.execute("SELECT name FROM runs")]
    assert len(names) == len(set(names)) == 2 * len(STEMS)


def test_figures_and_timings_are_there(finished):
    """Every pair has figures, all pairs have some, and every computing job has its time."""
    folder = finished[0] / "out/tiny"
    own = {"3-8.png", "1-8.png", "3-8/lantk-kr-v1.png", "1-8/lantk-kr-v1.png"}
    found = {str(p.relative_to(folder / "figures")) for p in folder.glob("figures/**/*.png")}
    assert found == own | {"gap.png", "alignment.png"}
    timings = pd.read_csv(folder / "timings.csv")
    assert len(timings) == N_COMPUTING
    assert (timings["seconds"] > 0).all()
    assert timings["job"].is_unique


def test_jobs_stay_below_the_memory_that_they_ask_for(finished):
    """The measured peak of every job is below what its rule asks a scheduler for."""
    measured = [
        json.loads(path.read_text().splitlines()[-1])
        for path in (finished[0] / "out/tiny/benchmarks").rglob("*.jsonl")
        if "gram" not in path.parts  # writes its cost itself, without what it asked for
    ]
    asked = [job for job in measured if "mem_mb" in job["resources"]]
    assert len(asked) > 8
    assert all(job["max_rss"] < job["resources"]["mem_mb"] for job in asked)


def test_second_run_does_nothing(finished):
    """After a run nothing is left to be done, and Snakemake says so."""
    status, output = snakemake(finished[0], "--cores", "2")
    assert status == 0
    assert "Nothing to be done" in output


FIGURES = {"figure": 2, "overview": 2}
MODELS = {"models": 2}
TRACK = {"track": 1, "html_report": 1, "all": 1}
LAST = {"table": 1} | TRACK | FIGURES
CNTK = {"evaluate_cntk": 2}
KR, FJLT = {"evaluate_lantk_kr_v1": 2}, {"evaluate_lantk_fjlt_v1": 2}
# The heat map is of the first label term, and is drawn anew with its fit or its record.
EVALUATE = CNTK | KR | FJLT | MODELS | {"heat_map": 2}
FROM_GRAM = {"gram": 2, "label_term": 4, "cnn": 4} | EVALUATE
# Twins beyond the third permutation have jobs of three: 3 to 5, and 6.
FROM_THIRD = {"evaluate_lantk_kr_v1_from3": 2, "evaluate_lantk_kr_v1_from6": 2}
WEIGHTS = {"honest": [0, 0.3], "oracle": [0.03, 1]}
# What is edited -> (the new value, jobs that depend on it, and the last ones unless it says which).
EDITS = {
    "a label weight": ({"label_weights": WEIGHTS}, EVALUATE),
    "a ridge": ({"ridges": WEIGHTS}, CNTK | MODELS),
    "no models": ({"models": "none"}, TRACK),
    "every model": ({"models": "all"}, MODELS | TRACK),
    "a protocol less": ({"protocols": ["oracle"]}, {"heat_map": 2}),
    "permutations less": ({"permutations": 1}, {}),
    "permutations more": ({"permutations": 7}, FROM_THIRD),
    "an architecture": ({"architecture": "arora2019-vanilla-8"}, FROM_GRAM),
    "the scaling": ({"data": {"scaling": "standard"}}, {"split": 2} | FROM_GRAM),
    "the layout": (
        {"data": {"layout": "channels_first"}},
        {"fetch": 1, "split": 2} | FROM_GRAM,
    ),
    "epochs": ({"cnn": TINY["cnn"] | {"epochs": 3}}, {"cnn": 4}),
    "the loss": ({"cnn": TINY["cnn"] | {"loss": "cross-entropy"}}, {"cnn": 4}),
    "a seed": ({"cnn": TINY["cnn"] | {"seeds": [0, 1, 2]}}, {"cnn": 2}),
    "no networks": ({"cnn": TINY["cnn"] | {"seeds": []}}, {}),
    "folds": ({"folds": 3}, EVALUATE),
    "bands": ({"kernel": {"bands": 3}}, {"gram": 6, "label_term": 4} | EVALUATE),
    "memory": ({"kernel": {"memory_mb": 64}}, TRACK),
    "n_test": ({"task": TINY["task"] | {"n_test": 40}}, {"split": 2} | FROM_GRAM),
    "families less": ({"variants": TINY["variants"][:5]}, MODELS),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_key_reruns_what_depends_on_it(finished, edit):
    """Editing one key of the configuration re-runs exactly the jobs that depend on it."""
    change, jobs = EDITS[edit]
    assert planned(finished[0], TINY | change) == (
        jobs if TRACK.items() <= jobs.items() else jobs | LAST
    )


def test_another_pair_draws_no_figure_of_those_that_are_there(finished):
    """One class pair more computes and draws what is its own, and what is of all pairs."""
    pairs = [*TINY["task"]["pairs"], [8, 9]]
    own = {"split": 1, "gram": 1, "label_term": 2, "cnn": 2, "heat_map": 1, "figure": 1}
    own |= dict.fromkeys(
        ("models", "evaluate_cntk", "evaluate_lantk_kr_v1", "evaluate_lantk_fjlt_v1"), 1
    )
    jobs = planned(finished[0], TINY | {"task": TINY["task"] | {"pairs": pairs}})
    assert jobs == LAST | own


@pytest.mark.rest
def test_another_protocol_is_computed_and_one_less_is_not_shown(finished):
    """One more evaluates again; one less leaves the records and goes from the table."""
    tree, results = finished[0], finished[0] / "out/protocols"
    config = TINY | {"results": "out/protocols", "permutations": 1}
    config |= {"variants": ["cntk", "lantk-kr-v1", "lantk-kr-v1-shuffled"]}
    config |= {"task": TINY["task"] | {"pairs": [[3, 8]]}}
    honest, both = {"evaluate_cntk", "evaluate_lantk_kr_v1"}, ["honest", "oracle"]
    # What is asked for -> the evaluations that it computes; one more permutation while only one
    # protocol is asked for leaves that family with this protocol alone.
    steps = [
        ({"protocols": ["honest"]}, honest),
        ({"protocols": both}, honest),
        ({"protocols": ["honest"]}, set()),
        ({"protocols": ["honest"], "permutations": 2}, {"evaluate_lantk_kr_v1"}),
        ({"protocols": both, "permutations": 2}, {"evaluate_lantk_kr_v1"}),
    ]
    for change, computing in steps:
        asked = config | change
        rules = {rule for rule in planned(tree, asked) if rule.startswith("evaluate")}
        assert rules == computing
        status, output = snakemake(tree, "--cores", "2", config=asked)
        assert status == 0, output[-3000:]
        table = pd.read_csv(results / "table.csv")
        # What is chosen among definite matrices comes with the honest choice.
        assert set(table["protocol"]) == {*asked["protocols"], DEFINITE}
        assert len(table) == 3 * (len(asked["protocols"]) + 1)
    shutil.rmtree(results / "evaluations/3-8/protocols")
    # As of a version that had no marks.
    status, output = snakemake(tree, "--touch", "--cores", "1", config=asked)
    assert status == 0, output[-3000:]
    more = planned(tree, asked | {"permutations": 4})
    assert {rule for rule in more if rule.startswith("evaluate")} == {
        "evaluate_lantk_kr_v1",
        "evaluate_lantk_kr_v1_from3",
    }


@pytest.mark.rest
def test_bands_give_the_same_table(finished):
    """Gram matrices in five bands, each a job, give the results of one band, byte for byte."""
    tree = finished[0]
    config = TINY | {"kernel": {"bands": 5}, "results": "out/bands"}
    config |= {"variants": TINY["variants"][:5]}
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
        ("lantk/label_terms/least_squares.py", {"label_term": 4} | EVALUATE | LAST),
        ("lantk/network/layers.py", {"cnn": 4} | LAST),
        ("lantk/report/blocks.py", LAST | {"heat_map": 2}),
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
    "an unknown variant": ({"variants": ["lantk-kr-v9"]}, "unknown variant 'lantk-kr-v9'"),
    "an own term that is not there": ({"variants": ["nowhere:Term"]}, "nowhere:Term"),
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


OWN_TERM = """
from lantk.label_terms.base import LabelTerm, label_product_factors


class ParzenWindow(LabelTerm):
    fitted_names = ("labels_", "signs_", "means_")

    def fit(self, k_train_train, y, x=None, solve=None):
        self.labels_, self.signs_ = label_product_factors(y, len(k_train_train))
        self.means_ = k_train_train @ self.labels_ / len(k_train_train)
        return self

    def transform(self, k, x=None):
        return (k @ self.labels_ / len(self.labels_) * self.signs_) @ self.means_.T
"""
GRID = {
    "data": {"scaling": "standard"},
    "task": {"pairs": None, "classes": [0, 8, 3], "n_train": [15, 30], "n_test": 30}
    | {"targets": [-0.1, 0.9]},
    "architecture": ["arora2019-vanilla-4", "arora2019-vanilla-3"],
    "variants": ["cntk", "cntk-ridge", "lantk-fjlt-v1", "own_term:ParzenWindow-shuffled"],
    "permutations": 1,
    "folds": 2,
    "results": "out/grid",
}


@pytest.fixture(scope="module")
def grid(tree):
    """Return the tree after a run on classes, two architectures and two n, with a term of ours."""
    (tree / "own_term.py").write_text(OWN_TERM)
    status, output = snakemake(tree, "--cores", "2", config=GRID)
    assert status == 0, output[-5000:]
    return tree


@pytest.mark.rest
def test_lists_make_a_row_of_results_each(grid):
    """Two architectures and two n make four cases, of one split and one Gram job."""
    table = pd.read_csv(grid / "out/grid/table.csv")
    cases = {f"0-3-8.arora2019-vanilla-{d}.n{n}" for d in (4, 3) for n in (15, 30)}
    assert {p.name for p in (grid / "out/grid/evaluations").iterdir()} == cases
    variants = {"cntk", "cntk-ridge", "lantk-fjlt-v1"}
    variants.add("lantk-parzen-window-shuffled")
    rows = table.groupby(["architecture", "n_train"])["variant"].agg(set)
    assert len(rows) == 4
    assert all(found == variants for found in rows)
    timings = pd.read_csv(grid / "out/grid/timings.csv")
    assert timings["job"].str.startswith(("split/", "gram/")).sum() == 2


@pytest.mark.rest
def test_cases_are_the_first_rows_of_one_gram_matrix(grid):
    """A smaller n is regressed on the leading block, on the configured targets, by argmax."""
    folder = grid / "out/grid"
    split = load_split(folder / "splits/0-3-8.npz")
    assert split.scaling == "standard"
    onehot = np.where(np.eye(3)[split.y_train] > 0, 0.9, -0.1)
    for depth in (3, 4):
        name = f"arora2019-vanilla-{depth}"
        whole = np.load(folder / f"grams/0-3-8.{name}/1-of-1.npy")
        np.testing.assert_array_equal(whole[:30], lantk.gram(name, split.x_train))
        k, k_test = np.split(whole.astype(float), [30])
        for n in (15, 30):
            scores = k_test[:, :n] @ np.linalg.solve(k[:n, :n], onehot[:n])
            found = pd.read_csv(folder / f"evaluations/0-3-8.{name}.n{n}/cntk.csv")
            assert found["honest"].tolist() == scores.argmax(axis=1).tolist()
            assert found["label"].tolist() == split.y_test.tolist()
            assert found["index"].tolist() == split.index_test.tolist()


@pytest.mark.rest
def test_an_edit_of_a_list_computes_what_is_new(grid):
    """A case less computes nothing; a smaller n more is evaluated on the kernels that are there."""
    first = ["table", "overview", *TRACK]
    assert "gram" not in planned(grid, GRID | {"task": GRID["task"] | {"n_train": [30, 12, 15]}})
    less = planned(grid, GRID | {"variants": GRID["variants"][:3]})
    assert set(less) <= {*first, "figure", "heat_map"}


@pytest.mark.rest
def test_an_edit_of_an_own_term_runs_it_again(grid):
    """The file of the user's label term is an input of what fits and evaluates it."""
    (grid / "own_term.py").write_text(OWN_TERM + "# edited\n")
    jobs = planned(grid, GRID)
    (grid / "own_term.py").write_text(OWN_TERM)
    assert (jobs["label_term"], jobs["evaluate_own_shuffled"]) == (4, 4)
    assert "evaluate_lantk_fjlt_v1" not in jobs
    assert planned(grid, GRID) == {}


@pytest.mark.rest
def test_text_of_the_configuration_is_no_command(finished):
    """Shell metacharacters in a path, a name or a class stay text; own unequal classes run."""
    tree = finished[0]
    name = "x'; touch hacked; echo $(touch hacked) '"
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 25), ("test", 10)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 3, 6, 5), dtype=np.uint8)
        arrays[f"y_{part}"] = np.where(np.arange(n) % 4, name, "$HOME")
    np.savez(tree / "odd name.npz", **arrays)
    config = TINY | {"results": f"out/{name}", "tracking": {"experiment": name}}
    config |= {"data": {"source": "npz", "path": "odd name.npz"}, "variants": ["cntk"]}
    config["task"] = {"pairs": [[name, "$HOME"]], "n_train": None, "n_test": None}
    status, output = snakemake(tree, "--cores", "2", config=config)
    assert status == 0, output[-3000:]
    table = pd.read_csv(tree / "out" / name / "table.csv")
    assert (
        (table[["n_train", "train_counts", "test_counts"]] == [25, "7+18", "3+7"]).to_numpy().all()
    )
    assert not list(tree.rglob("hacked"))
    assert planned(tree, config) == {}
    arrays["x_test"][0, 0, 0, 0] ^= 1
    np.savez(tree / "odd name.npz", **arrays)
    assert planned(tree, config)["split"] == 1


@pytest.mark.rest
def test_a_results_folder_without_quotes_is_no_command(finished):
    """A results folder whose name holds a shell command, and no quote, stays a name."""
    config = TINY | {"results": "out/none; touch hacked; z", "variants": ["cntk"]}
    config["task"] = TINY["task"] | {"pairs": [[3, 8]]}
    status, output = snakemake(finished[0], "--cores", "2", config=config)
    assert status == 0, output[-3000:]
    assert not list(finished[0].rglob("hacked"))


FAILING_TERM = """
from pathlib import Path

from lantk.label_terms.base import LabelTerm


class Failing(LabelTerm):
    fitted_names = ("n_",)

    def fit(self, k_train_train, y, x=None, solve=None):
        if Path("tired").exists() and len(k_train_train) == 20:
            raise ValueError("no more label terms today")
        self.n_ = len(k_train_train)
        return self

    def transform(self, k, x=None):
        return k / self.n_
"""
FAILING = TINY | {
    "task": TINY["task"] | {"pairs": [[3, 8]]},
    "variants": ["cntk", "failing_term:Failing"],
    "results": "out/failing",
    "tracking": {"experiment": "failing"},
}


@pytest.fixture(scope="module")
def failed(tree):
    """Return the tree after a run whose label term failed, and what the run printed."""
    (tree / "failing_term.py").write_text(FAILING_TERM)
    (tree / "tired").touch()
    status, output = snakemake(tree, "--cores", "2", config=FAILING)
    assert status != 0
    return tree, output


def statuses(tree):
    """Return run name -> status of the current runs of FAILING in MLflow."""
    query = (
        "SELECT runs.name, status FROM runs JOIN experiments USING (experiment_id)"
        " JOIN tags ON tags.run_uuid = runs.run_uuid"
        " WHERE experiments.name = 'failing' AND tags.key = 'state' AND tags.value = 'current'"
    )
    with sqlite3.connect(tree / "out/mlflow.db") as database:
        return dict(database.execute(query).fetchall())


@pytest.mark.rest
def test_a_failed_job_is_told_at_the_end(failed):
    """A failing run ends with the job, the end of its log, its path, and the command to go on."""
    _, output = failed
    end = output.partition("Exiting because a job execution failed")[2]
    assert "Failed: fit lantk-failing of 3-8 (1 result is missing because of it)\n" in end
    assert "    ValueError: no more label terms today\n" in end
    assert "    lantk label-term: no more label terms today\n" in end
    assert "  log: out/failing/logs/label_term/3-8/lantk-failing.log\n" in end
    assert "python -m snakemake --configfile test.json --cores 2\n" in end
    assert end.count("Failed:") == 1


@pytest.mark.rest
def test_a_failed_variant_is_a_failed_run(failed):
    """A failed job is one run in MLflow, FAILED, in the place of its result; the rest FINISHED."""
    found = statuses(failed[0])
    assert sorted(found.values()) == ["FAILED", "FINISHED"]
    assert next(name for name in found if found[name] == "FAILED").endswith("lantk-failing")


@pytest.mark.rest
def test_a_failed_run_goes_on_by_the_same_command(failed):
    """When its cause is gone, the same command computes what is missing and nothing else."""
    tree, output = failed
    (tree / "tired").unlink()
    assert set(planned(tree, FAILING)) == {
        *("label_term", "evaluate_own_term", "heat_map", "figure", "models", "table", "overview"),
        *TRACK,
    }
    status, output = snakemake(tree, "--cores", "2", config=FAILING)
    assert status == 0, output[-3000:]
    assert "Failed:" not in output
    assert set(statuses(tree).values()) == {"FINISHED"}


@pytest.mark.rest
def test_an_interrupted_run_names_no_failed_job(tree):
    """After Ctrl-C no job is said to have failed, and the command to go on is there."""
    config = FAILING | {"variants": ["cnn"], "results": "out/stopped"}
    config |= {"cnn": TINY["cnn"] | {"epochs": 10**6, "seeds": [0]}}
    (tree / "stopped.json").write_text(json.dumps(config))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--configfile", "stopped.json", "--cores", "1"],
        cwd=tree,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = tree / "out/stopped/logs/cnn/3-8/seed0.log"
    try:
        for _ in range(600):
            if log.exists() or process.poll() is not None:
                break
            time.sleep(0.2)
        time.sleep(2)
        # A terminal sends it to all processes of the workflow.
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=120)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert "interrupted" in log.read_text()
    assert process.returncode != 0
    assert "No job failed" in output
    assert "Failed:" not in output
    assert "python -m snakemake --configfile stopped.json --cores 1" in output


NETWORK = TINY | {
    "task": TINY["task"] | {"pairs": [[3, 8]]},
    "variants": ["cntk", "cntk-ridge", "after-kernel", "after-kernel-shuffled", "cnn"],
    "cnn": TINY["cnn"] | {"seeds": [0]},
    "after_kernels": {"taps": [0, 2, 100]},
    "results": "out/network",
}
AFTER = {"after_kernel": 1, "table": 1, "figure": 1, "overview": 2} | TRACK


@pytest.fixture(scope="module")
def networks(tree):
    """Return the tree after a run with kernels of networks."""
    assert planned(tree, NETWORK)["after_kernel"] == 1
    status, output = snakemake(tree, "--cores", "2", config=NETWORK)
    assert status == 0, output[-5000:]
    return tree


@pytest.mark.rest
def test_kernels_of_networks_have_rows_figures_and_claims(networks):
    """A row each epoch that is reached, the best of them, figures, and claims in the report."""
    results = networks / "out/network"
    table = pd.read_csv(results / "table.csv").query("protocol == 'honest'").set_index("variant")
    kernels = [f"after-kernel{epoch}{end}" for end in ("", "-shuffled") for epoch in ("-0", "-2")]
    assert set(table.index) == {*NETWORK["variants"], *kernels}
    best = table.loc["after-kernel"]
    assert best["epoch"] in (0, 2)
    assert best["accuracy"] == table.loc[f"after-kernel-{best['epoch']:.0f}", "accuracy"]
    assert table.loc[kernels, ["relative_ratio_test", "top10_label_share"]].notna().all(axis=None)
    assert (results / "figures/training.png").exists()
    assert "after-kernel minus after-kernel-0" in (results / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.rest
def test_kernels_of_networks_are_run_again_for_what_they_depend_on(networks):
    """Not without an edit; for taps, ridges and the schedule of the network; not for weights."""
    assert planned(networks, NETWORK) == {}
    assert planned(networks, NETWORK | {"after_kernels": {"taps": [0, 1, 2]}}) == AFTER
    ridges = {"ridges": {"honest": [0, 0.1], "oracle": [0.01]}}
    assert planned(networks, NETWORK | ridges) == AFTER | {"evaluate_cntk": 1, "models": 1}
    schedule = {"cnn": NETWORK["cnn"] | {"learning_rate": 0.001}}
    assert planned(networks, NETWORK | schedule) == AFTER | {"cnn": 1}
    weights = {"label_weights": {"honest": [0, 1], "oracle": [1]}}
    assert planned(networks, NETWORK | weights) == {"track": 1, "html_report": 1, "all": 1}
