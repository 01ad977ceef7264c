"""What the figures share: colours, markers, and files that are the same every time.

A figure is drawn by a function of what it shows (the leaderboard, or records) and of the path where
the file goes, a PNG, PDF or SVG by its ending, which raises `LantkError` where there is nothing to
show. All are readable in grey and by colour-blind readers, and equal results give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lantk.experiment.overviews import FIGURE_ENDINGS
from lantk.files import require_ending, writing

# Colours of Okabe and Ito (2008), told apart by colour-blind readers; markers tell them in grey.
STYLES = (
    ("#0072B2", "o"),
    ("#56B4E9", "s"),
    ("#D55E00", "^"),
    ("#E69F00", "v"),
    ("#009E73", "D"),
    ("#CC79A7", "P"),
    ("#999999", "X"),
    ("#000000", "<"),
)
# CNTK and the networks are the two ends of what is compared: black everywhere.
REFERENCES = {"cntk": ("black", "d"), "cnn": ("black", "*")}
GREY = "#666666"
RING: dict[str, Any] = {"mec": "black", "mew": 1}
"""The edge of a mark that is told from another by its filling."""
Destination = str | os.PathLike[str]
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
    "lines.markeredgecolor": "white",
    "lines.markeredgewidth": 0.5,
    "legend.frameon": False,
    # A PDF with TrueType letters, which can be edited and searched; an SVG without random names.
    "pdf.fonttype": 42,
    "svg.hashsalt": "lantk",
}
# Kind of file -> where its description stands, and what would differ from one writing to the next.
_METADATA: dict[str, tuple[str, tuple[str, ...]]] = {
    "png": ("Description", ("Software",)),
    "pdf": ("Subject", ("Creator", "Producer", "CreationDate")),
    "svg": ("Description", ("Creator", "Date")),
}


@contextmanager
def saving(
    path: Destination, width: float, height: float, told: Mapping[str, str] | None = None
) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches, which is saved when the block ends.

    The name of the file says whether it is a PNG, or a PDF or SVG with its letters in it. What is
    told (name -> value) is kept in the file as its description, for those who hear it.
    Equal drawings give equal bytes: a user's own settings are left out, and no time or program
    version is written. An older file is replaced when the new one is complete.

    Raises
    ------
    LantkError
        If the name ends in none of `FIGURE_ENDINGS`.
    """
    require_ending(path, *FIGURE_ENDINGS)
    kind = Path(path).suffix.removeprefix(".").lower()
    described = "; ".join(f"{name} {value}" for name, value in (told or {}).items())
    name, unsaid = _METADATA[kind]
    metadata = {**dict.fromkeys(unsaid), **({name: described} if described else {})}
    with matplotlib.rc_context(), writing(path) as temporary:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)


def mark(marker: str, face: str, label: str, **look: Any) -> Line2D:
    """Return what a legend shows of a mark without a line."""
    return Line2D([], [], ls="none", marker=marker, mfc=face, label=label, **RING | look)


def variant_styles(variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return variant -> colour and marker, different for up to eight besides the references."""
    others = [variant for variant in variants if variant not in REFERENCES]
    found = REFERENCES | dict(zip(others, cycle(STYLES), strict=False))
    return {variant: {"color": c, "marker": m} for variant, (c, m) in found.items()}
