"""Which jobs of a workflow failed, read from the files that they left.

A job that failed has a log and not the results that it writes: the workflow removes results before
a job and after a failure, and never a log. The paths here are those of ``rules/``.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lantk.experiment.overviews import OVERVIEWS
from lantk.experiment.variants import (
    NETWORK_FAMILY,
    PLAIN_VARIANTS,
    evaluation_job,
    family_of,
    first_of_job,
)
from lantk.variant import NETWORKS, Variant

_N_LINES = 10
_TAIL_BYTES = 2**16
# With less, not even a log can be written.
_FULL_BYTES = 2**20
# What `main` ends a failing verb with, and an interrupted one.
_SENTENCE = re.compile(r"lantk [a-z -]+: ")
_INTERRUPTED = re.compile(r"lantk [a-z -]+: interrupted;|KeyboardInterrupt$")
# A line that `showing_progress` writes, and what moves a terminal's cursor or colours it.
_PROGRESS = re.compile(r".* [\d.,]+ min (left|so far)$")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
# Options of Snakemake that would compute again what is there: the first take nothing, alone or
# among other letters that take nothing (-Fp); the others take what stands behind them.
_FLAGS = re.compile(r"-[FfnpqkS]+")
_FORCING_SOME = re.compile(r"(-R|--forcerun(=|$))")


@dataclass(frozen=True)
class FailedJob:
    """A job that was started and did not write its results."""

    name: str
    """For people, such as ``evaluate lantk-kr-v1 of deer-dog``."""
    log: Path
    last_lines: tuple[str, ...]
    """The end of the log without progress; empty where the job was killed and could say nothing."""
    results: tuple[tuple[str, str], ...]
    """(case, stem) without a record because of it, those that later jobs would write included."""


@dataclass(frozen=True)
class _Job:
    name: str
    log: Path
    outputs: tuple[Path, ...]
    benchmark: Path | None = None

    def has_failed(self) -> bool:
        """Return whether the job ended without its results, by itself and in its last run."""
        if not self.log.exists() or all(path.exists() for path in self.outputs):
            return False
        lines = _end_of_log(self.log)
        if lines and _INTERRUPTED.match(lines[-1]):
            return False
        if self.benchmark is None:
            return bool(lines)
        # A benchmark is written after a job that went well: its results were deleted since. What
        # came from a shared cache is a link, made after the log.
        return not (
            os.path.lexists(self.benchmark)
            and self.log.stat().st_mtime_ns <= self.benchmark.lstat().st_mtime_ns
        )


def find_failed_jobs(results: Path, cases: Sequence[str], stems: Sequence[str]) -> list[FailedJob]:
    """Return the jobs that failed, each once, in the order of the workflow.

    Of jobs that depend on each other, the first one that failed takes the blame for everything
    behind it. Jobs that were interrupted, or not reached, have not failed.

    While jobs are running they cannot be told from those that were killed: both have a log that
    says nothing of an end. `stems` are the names of the results of each case, from
    `lantk.experiment.variants.stems`.
    """
    # Log -> name and results that are missing: a job that writes several is met once for each.
    blamed: dict[Path, tuple[str, list[tuple[str, str]]]] = {}
    # Hundreds of bands are behind each of thousands of results: each is looked at once.
    bands, has_failed = functools.cache(_bands), functools.cache(_Job.has_failed)
    for case in cases:
        for stem in stems:
            first = next(filter(has_failed, _jobs_behind(results, case, stem, bands)), None)
            if first is not None:
                _, missing = blamed.setdefault(first.log, (first.name, []))
                missing += [(case, stem)] * (not _record(results, case, stem).exists())
    if not blamed:
        last = filter(_Job.has_failed, _last_jobs(results, cases))
        blamed = {job.log: (job.name, []) for job in last}
    return [
        FailedJob(name, log, _last_lines(log), tuple(missing))
        for log, (name, missing) in sorted(
            blamed.items(), key=lambda item: _stage(results, item[0])
        )
    ]


def resume_command(argv: Sequence[str], environment: str | None = None) -> str:
    """Return the shell command that goes on with a workflow, by the words that started it.

    Options that compute finished jobs again are left out. `environment` is the folder of a virtual
    environment that has to be activated first.

    Examples
    --------
    >>> resume_command(["/x/bin/snakemake", "-c", "2", "-R", "track", "--configfile", "a b"])
    "snakemake -c 2 --configfile 'a b'"
    """
    program, *given = argv
    kept, is_of_forced = [], False
    for word in given:
        if _FLAGS.fullmatch(word):
            word = re.sub("[Ff]", "", word)
        if word.startswith("-"):
            is_of_forced = _FORCING_SOME.match(word) is not None
        if not is_of_forced and word not in ("-", "--forceall", "--force"):
            kept.append(word)
    is_module = Path(program).name == "__main__.py"
    start = ["python", "-m", "snakemake"] if is_module else [Path(program).name]
    command = shlex.join([*start, *kept])
    return f". {shlex.quote(environment)}/bin/activate; {command}" if environment else command


def inactive_environment() -> str | None:
    """Return the virtual environment that runs this, where a shell has to activate it first."""
    prefix = Path(sys.prefix)
    is_virtual = sys.prefix != sys.base_prefix and (prefix / "bin" / "activate").exists()
    if not is_virtual or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return None
    return str(prefix.relative_to(Path.cwd()) if prefix.is_relative_to(Path.cwd()) else prefix)


def _record(results: Path, case: str, stem: str) -> Path:
    return results / "evaluations" / case / f"{stem}.json"


def _jobs_behind(
    results: Path, case: str, stem: str, bands: Callable[[Path, Path], list[str]]
) -> Iterator[_Job]:
    """Yield the jobs that a result waits for and the one that writes it, the first one first."""
    logs, benchmarks = results / "logs", results / "benchmarks"

    def job(name: str, path: str, *outputs: Path) -> _Job:
        return _Job(name, logs / f"{path}.log", outputs, benchmarks / f"{path}.jsonl")

    yield job("fetch the data", "fetch", results / "data.json")
    task = task_of(results, case)
    yield job(f"split {task}", f"split/{task}", results / "splits" / f"{task}.npz")
    record = _record(results, case, stem)
    seed = re.sub(r".*-seed(\d+)$", r"\1", stem)
    variant = stem.removesuffix(f"-seed{seed}")
    v = Variant.of(variant)
    if v.kernel is None:
        path = f"{variant}/{case}/seed{seed}"
        yield job(f"train {variant}, seed {seed}, of {case}", path, record)
        return
    if v.is_network_kernel:
        path = f"{NETWORK_FAMILY}/{case}/seed{seed}"
        yield job(f"kernels of the network, seed {seed}, of {case}", path, record)
        return
    # Where a task has several n, they share a Gram matrix.
    folder = results / f"grams{v.gram_ending}" / re.sub(r"\.n\d+$", "", case)
    rule, what = f"gram{v.gram_ending}", " with flips" if v.has_flips else ""
    for band in bands(logs / rule / task, folder):
        blocks = (folder / f"{band}.json", folder / f"{band}.npy")
        yield job(f"Gram matrix of {task}{what}, band {band}", f"{rule}/{task}/{band}", *blocks)
    family = family_of(variant) if variant in PLAIN_VARIANTS else v.parent
    first = first_of_job(int(seed) if seed != stem else None)
    if first == 0 and v.parent == v.term:
        term = results / "label_terms" / case / f"{family}.npz"
        yield job(f"fit {family} of {case}", f"label_term/{case}/{family}", term)
    name = evaluation_job(family, first)
    yield job(f"evaluate {name} of {case}", f"evaluate/{case}/{name}", record)


def _last_jobs(results: Path, cases: Sequence[str]) -> Iterator[_Job]:
    """Yield the jobs behind all results: tables, figures, runs, report."""
    logs, figures = results / "logs", results / "figures"
    yield _Job("tables", logs / "table.log", (results / "table.csv",))
    for kind in OVERVIEWS:
        yield _Job(f"figure {kind}", logs / "figure" / f"{kind}.log", (figures / f"{kind}.png",))
    for case in cases:
        image = figures / f"{case}.png"
        yield _Job(f"figure of {case}", logs / "figure" / f"{case}.log", (image,))
        for log in sorted((logs / "heat_map" / case).glob("*.log")):
            image = figures / case / f"{log.stem}.png"
            yield _Job(f"heat map {log.stem} of {case}", log, (image,))
    yield _Job("MLflow runs", logs / "track.log", (results / "tracking.json",))
    yield _Job("report", logs / "html_report.log", (results / "report.html",))


def task_of(results: Path, case: str) -> str:
    """Return the task of a case, which its name begins with."""
    words = case.split(".")
    starts = [".".join(words[:n]) for n in range(len(words), 0, -1)]
    return next((s for s in starts if (results / "logs" / "split" / f"{s}.log").exists()), case)


def _bands(logs: Path, folder: Path) -> list[str]:
    """Return the bands that were begun last, or none where all bands of some number are there."""
    found = sorted(logs.glob("*-of-*.log"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        return []
    for n_bands in {path.stem.rpartition("-")[2] for path in found}:
        wanted = [folder / f"{i + 1}-of-{n_bands}.json" for i in range(int(n_bands))]
        if all(path.exists() for path in wanted):
            return []
    last = found[-1].stem.rpartition("-")[2]
    names = [path.stem for path in found if path.stem.rpartition("-")[2] == last]
    return sorted(names, key=lambda name: int(name.partition("-")[0]))


def _stage(results: Path, log: Path) -> int:
    """Return the place in the workflow of the rule that wrote a log."""
    stages = ["fetch", "split", "gram", "gram-flips", "label_term", "evaluate", *NETWORKS]
    stages.append(NETWORK_FAMILY)
    rule = log.relative_to(results / "logs").with_suffix("").parts[0]
    return stages.index(rule) if rule in stages else len(stages)


def _end_of_log(log: Path) -> list[str]:
    """Return the last lines of a log that are neither blank nor progress."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    # A bar that is drawn over ends its states with carriage returns: the last one stands.
    lines = [_CONTROL.sub("", line.rstrip().rpartition("\r")[2]) for line in text.split("\n")]
    return [line for line in lines if line.strip() and not _PROGRESS.match(line)]


def _last_lines(log: Path) -> tuple[str, ...]:
    """Return the end of a log, and the sentence that it ends in whole."""
    lines = _end_of_log(log)
    free = shutil.disk_usage(log.parent).free
    if not lines and free < _FULL_BYTES:
        return (
            f"The disk is full ({free / 2**20:.1f} MiB free), and the job could not say so in its"
            " log: free some space",
        )
    sentences = [i for i, line in enumerate(lines) if _SENTENCE.match(line)]
    start = max(0, len(lines) - _N_LINES)
    if sentences and sentences[-1] < start:
        return (lines[sentences[-1]], *lines[start + 1 :])
    return tuple(lines[start:])
