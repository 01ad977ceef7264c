"""What the benchmarks share: images, timing, the machine in words, tables and figures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lantk.experiment.provenance import collect_provenance
from lantk.files import writing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "benchmarks"

# Colours of Okabe and Ito (2008), told apart by colour-blind readers; markers tell them in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8c8c8c"
_LOOK: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 5,
    "legend.frameon": False,
}


def make_images(n: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Return n images, 3 x side x side, float32 in [-1, 1]: a coarse pattern each, and noise.

    No time depends on the pixels; the pattern makes kernel values as different as photographs do.
    """
    rng = np.random.default_rng(seed)
    zoom = -(-side // 4)
    images = np.empty((n, 3, side, side), np.float32)
    for one in images:  # one by one, so that the peak memory is that of the result
        coarse = rng.uniform(-0.7, 0.7, (3, 4, 4)).repeat(zoom, axis=1).repeat(zoom, axis=2)
        one[:] = coarse[:, :side, :side] + rng.uniform(-0.3, 0.3, one.shape)
    return images


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def bind(threads: int) -> None:
    """Keep this process and those that it starts on `threads` cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            raise SystemExit(f"{threads} threads asked for, found {len(cores)} cores: --threads")
        os.sched_setaffinity(0, cores[:threads])


def describe_machine(threads: int, **versions: str) -> dict[str, Any]:
    """Return hardware, versions, commit, threads, the time and the load before the measurement."""
    found = collect_provenance()
    used = {name: found["versions"][name] for name in ("python", "numpy", "numba")}
    return {
        **found["hardware"],
        "threads": threads,
        "versions": used | versions,
        "commit": found["commit"],
        "code": found["code"],
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def format_range(values: Sequence[float], digits: str = ",.0f") -> str:
    """Return "median (lower - upper quartile)"; on a shared machine extremes tell of others."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:{digits}} ({low:{digits}} - {high:{digits}})"


def save_record(
    folder: Path,
    name: str,
    *,
    machine: dict[str, Any],
    text: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    raw: Any,
) -> str:
    """Write NAME.md (text, table, machine) and NAME.json (every number); return the Markdown."""
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    lines = [
        text,
        "",
        *format_table(header, rows),
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB;"
        f" {machine['threads']} threads; {versions}; commit {machine['commit']},"
        f" code {machine['code']}; {machine['time']}, load before {machine['load']}.",
        "",
    ]
    markdown = "\n".join(lines)
    with writing(folder / f"{name}.md") as temporary:
        temporary.write_text(markdown)
    with writing(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine, "results": raw}, indent=1) + "\n")
    return markdown


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table that lines up on a terminal too."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = (header, ["-" * width for width in widths], *rows)
    return [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]


@contextmanager
def drawing(path: Path, n_panels: int = 1, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure and its panels, in a row; save it when the block ends."""
    with matplotlib.rc_context(), writing(path) as temporary:
        matplotlib.rcdefaults()  # a user's own settings do not change the file
        matplotlib.rcParams.update(_LOOK)
        figure = Figure(layout="constrained", figsize=options.pop("figsize", (7.2, 2.8)))
        yield figure, figure.subplots(1, n_panels, squeeze=False, **options)[0]
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
