"""A small workflow that is run, killed, and looked at; and what must hold afterwards."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).parents[3]
MICRO = {
    "task": {"pairs": [[3, 8]], "n_train": 40, "n_test": 40},
    "variants": ["cntk", "lantk-kr-v1", "lantk-kr-v1-shuffled", "lantk-fjlt-v1"],
    "label_weights": {"honest": [0, 0.1], "oracle": [0.03, 1]},
    "permutations": 1,
    "folds": 2,
    "kernel": {"bands": 2},
    "cnn": {"seeds": []},
}
N_RUNS = len(MICRO["variants"])
# In the environment of every process of a run, and of what it leaves behind.
_MARK = "LANTK_TEST_RUN"
LONGEST_SECONDS = 900
# Jobs end in order within ten seconds, or are ended; the rest is the load of this machine.
ORPHAN_SECONDS = 25
# What a killed run is seen to be at: kind of victim -> a part of the command line.
VICTIMS = {
    "workflow": r"-m snakemake",
    "job": r"-m lantk (?!mlflow)",
    "shell": r"bash -c .*python -m lantk",
    "sync": r"-m lantk mlflow sync",
}


@dataclass
class Results:
    """A results folder of the micro experiment in a copy of the project."""

    tree: Path
    name: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.tree / self.name

    def start(self, *arguments: str, cores: int = 2) -> subprocess.Popen[str]:
        """Start the workflow as a user does, in a session of its own."""
        config = self.tree / f"{self.name.replace('/', '-')}.json"
        config.write_text(json.dumps(MICRO | {"results": self.name}))
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            _MARK: self.mark,
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = ["-m", "snakemake", "--cores", str(cores), "--configfile", config.name]
        with (self.tree / f"{config.stem}.log").open("w") as output:
            return subprocess.Popen(
                [sys.executable, *command, *self.options, *arguments],
                cwd=self.tree,
                env=environment | self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the workflow to its end."""
        process = self.start(*arguments)
        status = process.wait(LONGEST_SECONDS)
        return status, self.output

    @property
    def output(self) -> str:
        """What the last run printed."""
        return (self.tree / f"{self.name.replace('/', '-')}.log").read_text()

    @property
    def mark(self) -> str:
        return str(self.folder)

    def processes(self, kind: str | None = None) -> list[psutil.Process]:
        """Return the living processes of all runs on these results."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                is_ours = process.environ().get(_MARK) == self.mark
                command = " ".join(process.cmdline())
            except (psutil.Error, OSError):
                continue
            if is_ours and command and (kind is None or is_of(kind, command)):
                found.append(process)
        return found

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb on the results."""
        return subprocess.run(
            [sys.executable, "-m", "lantk", *arguments, "--results", self.name],
            cwd=self.tree,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
        )


def is_of(kind: str, command: str) -> bool:
    """Return whether a command line is that of a kind of victim."""
    is_shell = re.search(VICTIMS["shell"], command) is not None
    return is_shell if kind == "shell" else not is_shell and bool(re.search(VICTIMS[kind], command))


def kill_at_random(results: Results, rng: random.Random, seconds: float) -> tuple[str, str]:
    """Start a run and kill one of its processes at a random moment; return who and what it did.

    Parameters
    ----------
    results : Results
        Where to run.
    rng : random.Random
        Chooses the victim and the moment.
    seconds : float
        How long an undisturbed run takes.
    """
    kind = rng.choice(["workflow", "workflow", "job", "shell", "sync"])
    process = results.start()
    if kind != "sync":
        _sleep_or_end(process, rng.uniform(0.0, seconds))
    while process.poll() is None and not results.processes(kind):
        time.sleep(0.02)
    if kind == "sync":
        _sleep_or_end(process, rng.uniform(0.0, 4.0))
    found = results.processes(kind) if process.poll() is None else []
    if not found:
        process.wait(LONGEST_SECONDS)
        return "nobody", kind
    victim = rng.choice(found)
    command = " ".join(victim.cmdline())
    os.kill(victim.pid, signal.SIGKILL)
    if kind == "workflow":
        process.wait(LONGEST_SECONDS)
    # What is printed at the end is several verbs in one shell: the first names it.
    what = next(iter(re.findall(r"-m lantk ((?:mlflow )?[a-z-]+)", command)), "")
    # The others go on, and the workflow ends with a failure, unless all results were there.
    has_ended_well = kind != "workflow" and process.wait(LONGEST_SECONDS) == 0
    assert not has_ended_well or what in ("table", "mlflow links"), f"{command} was killed unseen"
    return kind, what


def _sleep_or_end(process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)


def check_no_orphans(results: Results) -> None:
    """After a run has ended, however, its jobs end by themselves."""
    end = time.monotonic() + ORPHAN_SECONDS
    while (left := results.processes()) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, [process.cmdline() for process in left if process.is_running()]


def check_readable(folder: Path) -> int:
    """Every result under its own name is whole; return how many there are."""
    n_files = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        # Snakemake writes benchmarks itself: they are read when their job has ended in order.
        if any(part.startswith(".") for part in parts) or parts[0] in ("logs", "benchmarks"):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npy":
            assert np.isfinite(np.load(path)).all()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name] is not None for name in arrays.files)
        elif path.suffix == ".csv":
            assert len(pd.read_csv(path, comment=None).columns) > 1
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        n_files += path.is_file()
    return n_files


def check_finished(results: Results, table: bytes) -> None:
    """The next run finishes; its results equal those of a run that nobody disturbed."""
    status, output = results.run()
    assert status == 0, output[-6000:]
    assert (results.folder / "table.csv").read_bytes() == table
    check_readable(results.folder)
    for path in results.folder.glob("benchmarks/**/*.jsonl"):
        assert [json.loads(line) for line in path.read_text().splitlines()], path
    assert not list(results.folder.rglob(".tmp-*")), "what killed processes left was not removed"
    assert not list(results.folder.parent.glob(".tmp-*"))
    check_runs(results)
    status, output = results.run()
    assert status == 0
    assert "Nothing to be done" in output
    check_no_orphans(results)


def check_runs(results: Results) -> None:
    """In MLflow each result is one current run; none is doubled or unfinished."""
    query = (
        "SELECT runs.name, runs.status, runs.lifecycle_stage,"
        " MAX(CASE WHEN tags.key = 'state' THEN tags.value END),"
        " MAX(CASE WHEN tags.key = 'fingerprint' THEN tags.value END)"
        " FROM runs LEFT JOIN tags USING (run_uuid) GROUP BY run_uuid"
    )
    with sqlite3.connect(results.folder.with_name("mlflow.db")) as database:
        rows = database.execute(query).fetchall()
    living = [row for row in rows if row[2] == "active"]
    assert all(row[4] for row in living), f"unfinished runs: {living}"
    current = [row for row in living if row[3] == "current"]
    assert len(current) == len({row[0] for row in current}) == N_RUNS, current
    assert {row[1] for row in current} == {"FINISHED"}
    done = results.verb("mlflow", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
