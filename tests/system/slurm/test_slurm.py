"""The workflow under profiles/slurm and profiles/cluster-generic, on a real Slurm of one node.

Not part of `make test`: `make test-slurm` runs it in the environment .venv-slurm, as root, with
Debian's slurm-wlm and munge. All workflows are handed to the cluster at once, each in a tree of its
own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cluster
import pytest
from work_tree import copy_project

ROOT = Path(__file__).parents[3]
SLURM = (
    *("--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"),
    *("--seconds-between-status-checks", "2", "--latency-wait", "10"),
)
GENERIC = (
    *("--profile", "profiles/cluster-generic", "--seconds-between-status-checks", "2"),
    *("--latency-wait", "10"),
)
PATIENCE_S = 1200

# What each rule asks for in the default experiment, with 24 train images, so Gram matrices
# of 1 MB: MB, and hours of the time limit.
ASKED = {
    "gram": (2000 + 1 + 256, 4),
    "label_term": (2000 + 3, 1),
    "evaluate_cntk": (2000 + 5, 8),
    "evaluate_lantk_kr_v1": (2000 + 6, 8),
    "evaluate_lantk_kr_v2": (2000 + 6, 8),
    "evaluate_lantk_fjlt_v1": (2000 + 8, 8),
    "evaluate_lantk_fjlt_v2": (2000 + 8, 8),
    "cnn": (6000 + 1, 8),
    "heat_map": (2000 + 1, 1),
}
# Jobs of its one pair; of label terms there are four.
JOBS = {name: 4 if name == "label_term" else 1 for name in ASKED}

# More than the 2,000 MB that a label term of so few images asks for, less than twice as much.
GREEDY = '''
"""A label term that takes more memory than its rule expects."""

import time

import numpy as np

from lantk.label_terms.base import LabelTerm, label_product_factors


class Greedy(LabelTerm):
    """Z = y y' at each train image's nearest neighbour in kernel, with 2.5 GB in hand."""

    fitted_names = ("labels_",)

    def fit(self, k_train_train, y, x=None, solve=None):
        """Keep the labels."""
        self.labels_, _ = label_product_factors(y, len(k_train_train))
        # Of the experiment, not of the small trial beforehand.
        if len(k_train_train) == 20:
            held = np.ones(2_500_000_000, dtype=np.uint8)
            time.sleep(4)
            del held
        return self

    def transform(self, k, x=None):
        """Return Z, one row a row of k."""
        return self.labels_[np.argmax(k, axis=1)] @ self.labels_.T
'''
SMALL = {
    "task": {"pairs": [[3, 8]], "n_train": 20, "n_test": 30},
    "label_weights": {"honest": [0, 0.1], "oracle": [0.03, 1]},
    "ridges": {"honest": [0, 0.3], "oracle": [0.01]},
    "folds": 2,
    "results": "out",
}
# Hours of epochs: it can only be stopped. Small, to write a checkpoint often.
ENDLESS_CNN = {"epochs": 200_000, "batch_size": 8, "channels": [4, 4, 4, 8, 8, 8, 8], "seeds": [0]}
KILLED = SMALL | {
    "variants": ["cntk", "greedy:Greedy", "cnn"],
    "cnn": ENDLESS_CNN,
    "kernel": {"bands": 4},
}
ANY_SCHEDULER = SMALL | {"variants": ["cntk", "greedy:Greedy"], "cnn": {"seeds": []}}
CANCELLED = SMALL | {"variants": ["cnn"], "cnn": ENDLESS_CNN}
ON_GPU = SMALL | {"variants": ["cntk"], "cnn": {"seeds": []}, "device": "cuda"}


@dataclass
class Job:
    """What Slurm itself says of a job."""

    number: int
    rule: str
    state: str
    reason: str
    memory_mb: int
    hours: float
    cpus: int
    asks_gpu: bool
    submitted: datetime | None
    end: datetime | None
    log: Path
    shown: str


def _when(text: str) -> datetime | None:
    return None if text == "Unknown" else datetime.fromisoformat(text)


def _hours(text: str) -> float:
    """Return the hours of Slurm's [days-]hours:minutes:seconds."""
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return 24 * int(days or 0) + hours + minutes / 60 + seconds / 3600


class Slurm:
    """The cluster, asked by its own tools."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *command: str) -> str:
        """Return what one of Slurm's commands prints."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def jobs(self, folder: Path, rule: str = "") -> list[Job]:
        """Return the jobs that were submitted from a folder, of all rules or of one, by number."""
        found = []
        for line in self("scontrol", "--oneliner", "show", "job").splitlines():
            said = dict(re.findall(r"(\S+?)=(\S*)", line))
            if said.get("WorkDir") != str(folder):
                continue
            # One plugin names the rule in the comment, the other profile in the job's name.
            named = re.match(r"rule_(\w+?)_wildcards_", said.get("Comment", ""))
            name = named[1] if named else said["JobName"].removeprefix("lantk-")
            memory = re.search(r"mem=([\d.]+)([MG])", said.get("ReqTRES") or said["TRES"])
            assert memory is not None, line
            found.append(
                Job(
                    number=int(said["JobId"]),
                    rule=name,
                    state=said["JobState"],
                    reason=said["Reason"],
                    memory_mb=round(float(memory[1]) * {"M": 1, "G": 1024}[memory[2]]),
                    hours=_hours(said["TimeLimit"]),
                    cpus=int(said["NumCPUs"]),
                    asks_gpu="gpu" in said.get("TresPerJob", "") + said.get("TresPerNode", ""),
                    submitted=_when(said["SubmitTime"]),
                    end=_when(said["EndTime"]),
                    log=Path(said["StdOut"]),
                    shown=line,
                )
            )
        return sorted((job for job in found if rule in ("", job.rule)), key=lambda job: job.number)


@dataclass
class Workflow:
    """Snakemake at work in a copy of the project."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        return (self.folder / "said.log").read_text()

    def wait(self) -> None:
        """Wait until it has finished, and succeeded."""
        status = self.process.wait(PATIENCE_S)
        assert status == 0, f"Snakemake ended with {status}:\n{self.said[-6000:]}"

    def is_over(self) -> bool:
        return self.process.poll() is not None


def wait_for(is_so: Callable[[], object], what: str, workflow: Workflow) -> None:
    """Wait until something holds, and no longer than the workflow lives."""
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert not workflow.is_over(), f"ended before {what}:\n{workflow.said[-6000:]}"
        assert time.monotonic() < until, f"no {what} in {PATIENCE_S} s:\n{workflow.said[-6000:]}"
        time.sleep(0.5)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Start the cluster. One CPU more than the cores that there are is for the endless network."""
    with cluster.running(cpus=(os.cpu_count() or 1) + 1) as environment:
        yield Slurm(environment)


@pytest.fixture(scope="session")
def workflows(slurm, tmp_path_factory) -> Iterator[dict[str, Workflow]]:
    """Start all workflows at once; stop what is left of them at the end."""
    started: dict[str, Workflow] = {}

    def start(name: str, config: dict | None, *arguments: str, files: dict | None = None) -> None:
        # Short: of the folder's path Slurm makes the paths of its logs.
        folder = copy_project(tmp_path_factory.mktemp(name), "experiments")
        for path, text in (files or {}).items():
            (folder / path).write_text(text)
        command = [sys.executable, "-m", "snakemake", *arguments]
        if config is not None:
            (folder / "test.json").write_text(json.dumps(config))
            command += ["--configfile", "test.json"]
        environment = slurm.environment | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{slurm.environment['PATH']}",
            # Compiled kernels are shared between copies.
            "NUMBA_CACHE_DIR": str(ROOT / ".cache" / "numba"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (folder / "said.log").open("wb") as said:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=said, stderr=said
            )
        started[name] = Workflow(folder, process)

    greedy = {"greedy.py": GREEDY}
    # The one that takes longest first: its network waits for a time limit.
    start("cancelled", CANCELLED, *GENERIC, "out/evaluations/3-8/cnn-seed0.json")
    start("killed", KILLED, *SLURM, files=greedy)
    start("default", None, *SLURM)
    start("generic", ANY_SCHEDULER, *GENERIC, files=greedy)
    start("gpu", ON_GPU, *SLURM, "--retries", "0", "out/grams/3-8/1-of-1.npy")
    start("local", None, "--cores", "2")
    yield started
    for workflow in started.values():
        if not workflow.is_over():
            workflow.process.send_signal(signal.SIGINT)
    for workflow in started.values():
        try:
            workflow.process.wait(60)
        except subprocess.TimeoutExpired:
            workflow.process.kill()
            workflow.process.wait()


def _processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes whose working folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def interrupt(slurm: Slurm, workflow: Workflow) -> None:
    """Check that nothing is left of the network, once it is all that runs, after Ctrl-C."""

    def running() -> list[Job]:
        return [job for job in slurm.jobs(workflow.folder) if job.state == "RUNNING"]

    wait_for(lambda: [job.rule for job in running()] == ["cnn"], "network alone", workflow)
    network = next(job for job in running() if job.rule == "cnn")
    workflow.process.send_signal(signal.SIGINT)
    # It still says what failed, to MLflow too.
    workflow.process.wait(PATIENCE_S)
    until = time.monotonic() + 120
    while slurm("squeue", "--noheader", "--jobs", str(network.number)).strip():
        assert time.monotonic() < until, "still in Slurm"
        time.sleep(0.5)
    assert slurm.jobs(workflow.folder, "cnn")[-1].state == "CANCELLED"
    while left := _processes_in(workflow.folder):
        assert time.monotonic() < until, left
        time.sleep(0.5)


def test_any_scheduler_is_told_of_an_interrupt(workflows, slurm):
    """With profiles/cluster-generic too, Ctrl-C on Snakemake takes its jobs out of the queue."""
    cancelled = workflows["cancelled"]
    log = cancelled.folder / "out/logs/cnn/3-8/seed0.log"
    wait_for(log.exists, "start of the network", cancelled)
    interrupt(slurm, cancelled)


@pytest.fixture(scope="session")
def limited(slurm, workflows) -> Job:
    """Return the job of the endless network, once it has a checkpoint and no time left."""
    killed = workflows["killed"]

    def running() -> list[Job]:
        return [job for job in slurm.jobs(killed.folder, "cnn") if job.state == "RUNNING"]

    wait_for(running, "start of the network", killed)
    (job,) = running()
    checkpoint = killed.folder / "out/evaluations/3-8/cnn-seed0.checkpoint"
    wait_for(checkpoint.exists, "checkpoint", killed)
    # Hours cannot be waited for. Slurm does the rest as at the end of any other time limit.
    slurm("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    return job


@pytest.fixture(scope="session")
def finished(limited, slurm, workflows) -> tuple[Workflow, list[Job]]:
    """Return the default experiment when it is done, and its jobs."""
    workflow = workflows["default"]
    workflow.wait()
    return workflow, slurm.jobs(workflow.folder)


def test_every_long_rule_goes_out_and_no_short_one(finished):
    """Slurm ran each job of the long rules once, and nothing else."""
    _, jobs = finished
    assert Counter(job.rule for job in jobs) == JOBS
    assert {job.state for job in jobs} == {"COMPLETED"}


@pytest.mark.parametrize("rule", ASKED)
def test_rules_ask_for_their_memory_time_and_cpus(finished, rule):
    """Slurm was asked for the memory, the time and the threads that a rule names; for no GPU."""
    jobs = [job for job in finished[1] if job.rule == rule]
    assert jobs
    for job in jobs:
        assert (job.memory_mb, job.hours) == ASKED[rule], job.shown
        assert job.cpus == 1, job.shown
        assert not job.asks_gpu, job.shown


def test_table_is_that_of_a_local_run(finished, workflows):
    """table.csv, and all predictions behind it, are those of a local run byte for byte."""
    workflows["local"].wait()
    here, there = (tree.folder / "results/digits" for tree in (workflows["local"], finished[0]))
    assert (there / "table.csv").read_bytes() == (here / "table.csv").read_bytes()
    predictions = sorted(path.relative_to(here) for path in here.glob("evaluations/*/*.csv"))
    assert len(predictions) >= 10
    for path in predictions:
        assert (there / path).read_bytes() == (here / path).read_bytes(), path


def test_a_second_run_has_nothing_to_do(finished, workflows, slurm):
    """What ran under Slurm counts as finished without it, and the other way round."""
    for workflow, arguments in ((finished[0], ["--cores", "2"]), (workflows["local"], SLURM)):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=workflow.folder,
            env=slurm.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Nothing to be done" in done.stdout + done.stderr, done.stdout + done.stderr


def test_bands_go_out_in_parallel(workflows, slurm):
    """The four bands of a kernel are four jobs, all of them in the queue before one had ended."""
    killed = workflows["killed"]

    def bands() -> list[Job]:
        jobs = slurm.jobs(killed.folder, "gram")
        return [job for job in jobs if job.state == "COMPLETED"]

    wait_for(lambda: len(bands()) == 4, "end of the bands", killed)
    # Which of them run at once is Slurm's affair: other workflows want the same cores.
    last, first_end = max(job.submitted for job in bands()), min(job.end for job in bands())
    assert last <= first_end, bands()


def killed_for_memory(slurm: Slurm, workflow: Workflow) -> None:
    """Check that the greedy label term was killed at first, and done with twice as much."""

    def is_done() -> bool:
        jobs = slurm.jobs(workflow.folder, "label_term")
        return bool(jobs) and jobs[-1].state == "COMPLETED"

    if not is_done():
        wait_for(is_done, "end of the label term", workflow)
    first, second = slurm.jobs(workflow.folder, "label_term")
    # Where only the step inside the job was killed, the job says no more than that it failed.
    assert first.state in {"FAILED", "OUT_OF_MEMORY"}, first.shown
    assert "exceeded memory limit" in first.log.read_text(), first.shown
    assert (first.memory_mb, second.memory_mb) == (2000 + 3, 2 * (2000 + 3))
    assert (first.hours, second.hours) == (1, 2)


def test_killed_for_memory_comes_back_with_more(workflows, slurm):
    """A job that Slurm killed for its memory was submitted again with more, and finished."""
    killed_for_memory(slurm, workflows["killed"])


def test_any_scheduler(workflows, slurm):
    """profiles/cluster-generic submits, notices a kill, submits again with more, and finishes."""
    generic = workflows["generic"]
    generic.wait()
    killed_for_memory(slurm, generic)
    jobs = slurm.jobs(generic.folder)
    stages = Counter(job.rule.partition("_")[0] for job in jobs)
    assert stages == {"gram": 1, "label": 2, "evaluate": 2, "heat": 1}
    asked = {job.rule: (job.memory_mb, job.hours, job.cpus, job.asks_gpu) for job in jobs}
    assert asked["gram"] == (*ASKED["gram"], 1, False)
    assert (generic.folder / "out/table.csv").exists()


def test_gpu_is_asked_for_where_it_is_demanded(workflows, slurm):
    """With device: cuda a kernel's job asks for a GPU; what it does with it is tested elsewhere."""
    workflow = workflows["gpu"]
    workflow.process.wait(PATIENCE_S)
    (job,) = slurm.jobs(workflow.folder)
    assert job.rule == "gram"
    assert job.asks_gpu, job.shown
    log = workflow.folder / "out/logs/gram/3-8/1-of-1.log"
    assert job.state == "COMPLETED" or "cuda" in log.read_text().lower(), workflow.said[-3000:]


def test_out_of_time_comes_back_with_more_and_goes_on(limited, workflows, slurm):
    """A network at the end of its time was submitted again with twice as much, and went on."""
    killed = workflows["killed"]

    def second() -> list[Job]:
        jobs = slurm.jobs(killed.folder, "cnn")[1:]
        return [job for job in jobs if job.state == "RUNNING"]

    wait_for(second, "second start of the network", killed)
    first = slurm.jobs(killed.folder, "cnn")[0]
    assert first.number == limited.number
    assert first.state == "TIMEOUT", first.shown
    (again,) = second()
    assert (again.hours, again.memory_mb) == (2 * limited.hours, 2 * limited.memory_mb)
    log = killed.folder / "out/logs/cnn/3-8/seed0.log"
    wait_for(
        lambda: log.exists() and "goes on from out/evaluations/3-8/cnn-seed0." in log.read_text(),
        "network that goes on",
        killed,
    )


def test_interrupt_ends_the_jobs(limited, workflows, slurm):
    """Ctrl-C on Snakemake takes its jobs out of Slurm, and their processes end."""
    interrupt(slurm, workflows["killed"])
