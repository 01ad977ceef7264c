"""Pages and figures of checks beside the presets: the derivation of lantk-nth, what limits Z."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lantk.regression.statistics import student_interval
from lantk.report.claims import with_half_width
from lantk.report.figure_style import STYLES, saving
from lantk.report.tables import markdown_rows

_GATES = {"moving": "a ReLU network", "frozen": "gates frozen at the start"}
_NAMES = {
    "cntk": "CNTK",
    "features": "ten pair features, fitted to the out-of-fold loss",
    "plug-in-flipped": "plug-in, true labels flipped",
    "network": "the CNN itself",
    "plug-in-network": "plug-in, scores of the CNN",
}


_DERIVATION = """\
- Again: `python -m lantk split --source cifar10 --path data --pair deer dog --out deer-dog.npz`,
then `python experiments/derivation.py --split deer-dog.npz --out
experiments/records/derivation.csv`

`lantk-nth` is derived as the mean change of a 2-layer network's tangent kernel by training, of
the part that is quadratic in the labels: Z / m at width m, with no free parameter. Here networks
are trained by gradient flow until no residual is left, once with y and once with -y; the mean of
the two changes is regressed on Z / m over all entries. A slope of 1 is what the derivation says.
That mean is the part even under y -> -y; of frozen gates it is the quadratic one, since Z leaves
out the derivatives of the step function and networks whose gates are frozen have none: what the
two kinds differ by is these alone. Cosine: of Z with the mean change over networks. Size: of one
network's even change, in units of that of Z / m; of frozen gates, those count as changed that
would have. ± is half of Student's 95 % interval over networks.
"""
_LIMITS = """\
- Again: `python -m lantk split` and `gram` of a pair at n = 2,000, then `python
experiments/limits.py --split deer-dog.npz --gram deer-dog/1-of-1.json --epochs 30 --out
limits.csv`

Is it the estimator that limits Z, the class of functions, or that there is nothing which K lacks?
The weights of the ten pair features of LANTK-FJLT-V1 are fitted to the out-of-fold loss of the
very kernel regression that they are for, instead of to label products. A plug-in Z = eta(x)
eta(x') is made from the out-of-fold scores of a trained CNN. And it is made from true labels of
which a share is flipped, of train and test images alike: no method, but the scale on which the
others are to be read. The weight is chosen on train images. Accuracies in percent; of flipped
labels the mean over draws.
"""


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, each in a line with an empty one behind it."""
    return [f"{' '.join(part.split())}\n" for part in text.split("\n\n")]


def derivation_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, for each width and kind of gates, the mean slope with its interval over networks."""
    rows = []
    for (width, gates), group in table.groupby(["width", "gates"], sort=True):
        networks, mean = group[group["seed"].notna()], group[group["seed"].isna()].iloc[0]
        slope = student_interval(networks["slope"])
        rows.append({"width": width, "gates": gates, "slope": slope, "cosine": mean["cosine"]})
        size = networks["even"].mean() / mean["predicted"]
        rows[-1] |= {"size": size, "flipped": 100 * networks["flipped"].mean()}
        rows[-1]["n_networks"] = len(networks)
    return rows


def derivation_table(table: pd.DataFrame | None) -> list[str]:
    """Return the lines of the table of slopes, with what it is of."""
    if table is None:
        return ["Not run."]
    rows = derivation_rows(table)
    header = ["Width", "Gates", "Slope", "Cosine", "Size", "Gates that changed"]
    cells = [
        [
            f"{row['width']:,}",
            _GATES[row["gates"]],
            with_half_width(row["slope"].mean, row["slope"].half),
            f"{row['cosine']:.4f}",
            f"{row['size']:.1f}",
            f"{row['flipped']:.2f} %",
        ]
        for row in sorted(rows, key=lambda row: (row["gates"], row["width"]))
    ]
    sizes = f"n = {table['n'].iloc[0]:,} images of deer and dog"
    networks = f"{rows[0]['n_networks']} networks a width"
    return [f"{sizes}, {networks}.\n", *markdown_rows(header, cells)]


def derivation_lines(table: pd.DataFrame | None) -> list[str]:
    """Return the page on the derivation of lantk-nth as lines of Markdown."""
    lines = [*_paragraphs(_DERIVATION), *derivation_table(table), ""]
    picture = "![Slope of the measured change on Z / m, against the width](../derivation.png)\n"
    return lines if table is None else [*lines, picture]


def derivation_figure(table: pd.DataFrame, path: Path) -> None:
    """Draw the slope against the width, for networks with moving and with frozen gates."""
    rows = derivation_rows(table)
    told = {
        f"{_GATES[row['gates']]}, width {row['width']}": with_half_width(
            row["slope"].mean, row["slope"].half
        )
        for row in rows
    }
    with saving(path, 4.6, 3.2, told) as figure:
        axes = figure.subplots()
        axes.axhline(1, color="black", lw=0.8, ls="--", label="as derived")
        for (gates, name), (colour, marker) in zip(_GATES.items(), STYLES[::2], strict=False):
            own = [row for row in rows if row["gates"] == gates]
            places = [row["width"] * (1.03 if gates == "moving" else 1 / 1.03) for row in own]
            slopes, halves = ([getattr(r["slope"], key) for r in own] for key in ("mean", "half"))
            look: dict[str, Any] = {"color": colour, "marker": marker, "capsize": 2, "label": name}
            axes.errorbar(places, slopes, halves, **look)
        axes.set_xscale("log", base=2)
        widths = sorted({row["width"] for row in rows})
        axes.set_xticks(widths, [f"{width:,}" for width in widths])
        axes.minorticks_off()
        axes.set_xlabel("width m")
        axes.set_ylabel("slope on Z / m (mean, 95 % over networks)")
        axes.legend()


def limits_lines(table: pd.DataFrame | None) -> list[str]:
    """Return the page on what limits Z as lines of Markdown."""
    lines = _paragraphs(_LIMITS)
    if table is None:
        return [*lines, "Not run.\n"]
    tasks = list(table["task"].unique())
    sizes = f"n = {table['n_train'].iloc[0]:,} + {table['n_test'].iloc[0]:,}."
    rows: list[Sequence[str]] = []
    for (method, rate), group in table.groupby(["method", "rate"], sort=False, dropna=False):
        name = _NAMES[method] + (f" at a rate of {rate:g}" if not np.isnan(rate) else "")
        cells = []
        for task in tasks:
            found = group[group["task"] == task]
            cells.append(
                f"{100 * found['accuracy'].mean():.2f}"
                f" (out of fold {100 * found['out_of_fold'].mean():.2f})"
            )
        alignment = group["squared_alignment"].mean()
        rows.append([name, *cells, "-" if np.isnan(alignment) else f"{alignment:.3g}"])
    header = ["", *tasks, "Squared alignment of Z"]
    picture = "![Accuracy against the share of flipped labels](../limits.png)\n"
    return [*lines, f"{sizes}\n", *markdown_rows(header, rows), "", picture]


def limits_figure(table: pd.DataFrame, path: Path) -> None:
    """Draw the accuracy of the plug-in against the share of flipped labels, and of the others."""
    is_flipped = table["method"] == "plug-in-flipped"
    flipped = 100 * table[is_flipped].groupby("rate")["accuracy"].mean()
    levels = 100 * table[~is_flipped].groupby("method", sort=False)["accuracy"].mean()
    told = {f"flipped at {rate:g}": f"{value:.2f}" for rate, value in flipped.items()}
    told |= {_NAMES[method]: f"{level:.2f}" for method, level in levels.items()}
    with saving(path, 4.6, 3.2, told) as figure:
        axes = figure.subplots()
        axes.plot(
            flipped.index, flipped, color="black", marker="o", label=_NAMES["plug-in-flipped"]
        )
        for (method, level), (colour, _) in zip(levels.items(), STYLES[::2], strict=False):
            axes.axhline(level, color=colour, lw=1, label=_NAMES[method])
        axes.set_xlabel("share of labels flipped in Z")
        axes.set_ylabel("test accuracy (%)")
        axes.legend()
