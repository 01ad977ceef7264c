"""The same configuration again: which files have the same bytes, and how near the others are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from work_tree import copy_project

from lantk.experiment import provenance

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
# Large enough for the sketch of lantk-fjlt-v1, which every fold fits.
CONFIG = {
    "task": {"pairs": [[3, 8]], "n_train": 220, "n_test": 40},
    "variants": [
        *("cntk", "cntk-ridge", "lantk-kr-v1", "lantk-kr-v1-shuffled", "lantk-kr-v2"),
        *("lantk-fjlt-v1", "cnn"),
    ],
    "label_weights": {"honest": [0, 0.1, 1], "oracle": [0.03, 1]},
    "ridges": {"honest": [0, 0.3], "oracle": [0.01]},
    "permutations": 1,
    "estimator": "fjlt",
    "cnn": {"epochs": 2, "batch_size": 32, "channels": [8, 8, 8, 8, 8, 8, 8]},
}
COMPUTING = ["gram", "label_term", "cnn"]
COMPUTING += [
    f"evaluate_{name}" for name in ("cntk", "lantk_kr_v1", "lantk_kr_v2", "lantk_fjlt_v1")
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project."""
    return copy_project(tmp_path_factory.mktemp("tree"))


def run(tree, name, *arguments):
    """Run the workflow into a results folder, and return the folder."""
    folder = tree / "out" / name
    (tree / f"{name}.json").write_text(json.dumps(CONFIG | {"results": f"out/{name}"}))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "snakemake", "--configfile", f"{name}.json", "--cores", "2"]
    # Without figures and MLflow, which nothing here is about.
    command.append(f"out/{name}/table.csv")
    done = subprocess.run(
        [*command, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return folder


@pytest.fixture(scope="module")
def first(tree):
    """Return the results of one run, of one thread a job."""
    return run(tree, "first")


def found(folder, *patterns):
    """Return the files of some patterns, by their names below the folder."""
    paths = (path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): path for path in paths}


def test_a_second_run_gives_the_same_bytes(tree, first):
    """Splits, Gram matrices, label terms, predictions and table are byte for byte the same."""
    patterns = ("splits/*.npz", "grams/*/*", "label_terms/*/*.npz", "evaluations/*/*.csv")
    patterns += ("table.csv", "table.md", "exponents.csv")
    one = found(first, *patterns)
    two = found(run(tree, "second"), *patterns)
    assert len(one) == 1 + 2 + 3 + 7 + 3
    assert set(one) == set(two)
    different = [name for name in one if one[name].read_bytes() != two[name].read_bytes()]
    assert different == []


def test_threads_change_no_decision(tree, first):
    """With two threads a job, Gram matrices are the same bytes, predictions 1e-8 near."""
    options = ["--set-threads", *(f"{rule}=2" for rule in COMPUTING)]
    other = run(tree, "threads", *options)
    record = json.loads((other / "evaluations/3-8/cntk.json").read_text())
    assert record["provenance"]["threads"] == "2"
    assert (
        json.loads((first / "evaluations/3-8/cntk.json").read_text())["provenance"]["threads"]
        == "1"
    )
    for name, path in found(first, "grams/*/*.npy").items():
        assert (other / name).read_bytes() == path.read_bytes()
    for name, path in found(first, "evaluations/*/*.csv").items():
        # A network is trained in single precision, and its rounding grows from step to step.
        tolerance = 1e-4 if "cnn" in name else 1e-8
        wanted, predictions = pd.read_csv(path), pd.read_csv(other / name)
        np.testing.assert_allclose(predictions, wanted, rtol=0, atol=tolerance, err_msg=name)
    tables = [pd.read_csv(folder / "table.csv") for folder in (first, other)]
    columns = ["variant", "protocol", "accuracy", "label_weight", "ridge"]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns])


def test_results_say_what_may_differ_elsewhere(first):
    """A record names the processor, what it can do, the linear algebra, threads and versions."""
    origin = json.loads((first / "evaluations/3-8/lantk-kr-v1.json").read_text())["provenance"]
    assert {"numpy", "scipy", "numba", "llvmlite", "torch"} <= set(origin["versions"])
    assert origin["hardware"]["processor"]
    assert origin["hardware"]["vector_instructions"] or sys.platform != "linux"
    assert origin["linear_algebra"]
    assert all("threads: 1" in text for text in origin["linear_algebra"])


def test_a_gpu_is_named(tmp_path, monkeypatch):
    """Where NVIDIA's driver is, name and version are in the provenance; elsewhere there is none."""
    monkeypatch.setattr(provenance, "_NVIDIA", tmp_path)
    assert provenance.collect_provenance()["hardware"]["gpu"] is None
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 55\n")
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC\n"
    (tmp_path / "version").write_text(text)
    gpu = provenance.collect_provenance()["hardware"]["gpu"]
    assert (gpu["name"], gpu["driver"]) == ("NVIDIA H100 80GB HBM3", "550.54.15")
