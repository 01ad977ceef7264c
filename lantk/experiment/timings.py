"""Seconds and peak memory of jobs, from the benchmarks that Snakemake writes beside the results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# Memory is sampled, and a job this short is over before the first sample means much.
_SHORT_SECONDS = 2.0


class JobCost(NamedTuple):
    """What a job cost."""

    seconds: float
    peak_memory_mb: float | None
    """None where the job was too short to be measured."""


def read_job_cost(path: Path) -> JobCost | None:
    """Return the cost of a job from its benchmark, its last run; None where there is none."""
    try:
        measured = json.loads(path.read_text().splitlines()[-1])
        seconds = float(measured["s"])
        memory = float(measured["max_rss"]) if seconds > _SHORT_SECONDS else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return JobCost(seconds, memory)


def read_gram_cost(folder: Path) -> JobCost | None:
    """Return the cost of a task's Gram matrices: seconds of all row bands, memory of the largest.

    Bands of another number may be left over in the folder; the newest complete set counts.

    Parameters
    ----------
    folder : Path
        With a benchmark for each band, ``I-of-N.jsonl``.
    """
    sets: dict[str, list[Path]] = defaultdict(list)
    for path in folder.glob("*-of-*.jsonl"):
        sets[path.stem.partition("-of-")[2]].append(path)
    complete = [paths for number, paths in sets.items() if number == str(len(paths))]
    if not complete:
        return None
    newest = max(complete, key=lambda paths: max(path.stat().st_mtime for path in paths))
    return _sum_costs(map(read_job_cost, newest))


def _sum_costs(costs: Iterable[JobCost | None]) -> JobCost | None:
    found = list(costs)
    known = [cost for cost in found if cost is not None]
    if len(known) < len(found):
        return None
    memory = [cost.peak_memory_mb for cost in known if cost.peak_memory_mb is not None]
    return JobCost(sum(cost.seconds for cost in known), max(memory, default=None))
