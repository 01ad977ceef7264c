"""Pages and figures of checks beside the presets: lantk-nth, what limits Z, exponents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from exponents import exponent, wrong_of

from lantk.regression.statistics import FEWEST_POINTS, Interval, log_slope, student_interval
from lantk.report.claims import signed, with_half_width
from lantk.report.figure_style import STYLES, saving
from lantk.report.tables import markdown_rows

_FLIPPED = "plug-in-flipped"
_GATES = {"moving": "a ReLU network", "frozen": "gates frozen at the start"}
_NAMES = {
    "cntk": "CNTK",
    "cntk-intercept": "CNTK with an unpenalised constant",
    "lantk-fjlt-v1": "LANTK-FJLT-V1, fitted to label products",
    "features": "ten pair features, fitted to the out-of-fold loss",
    _FLIPPED: "plug-in, true labels flipped",
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
eta(x') is made from true labels of which a share is flipped, of train and test images alike: no
method, but the scale on which the others are to be read. Where there is a row of it, another is
made from the out-of-fold scores of a trained CNN. The weight is chosen on train images. An
unpenalised constant sees no label. Accuracies in percent, of flipped labels the mean over draws; in
brackets the difference from CNTK on the same test images with its normal 95 % interval (of one fit;
of flipped labels there is none), and its mean over pairs, with Student's of three or more.
"""
_EXPONENTS = """\
- Again: `python -m lantk split` and `gram` of a pair at n = 10,000, then `python
experiments/exponents.py --split deer-dog.npz --gram deer-dog/*.json --out
experiments/records/exponents.csv`

Exponents b of error ~ n^b, from the mean error over as many disjoint subsets of 10,000 train images
as there are of each n. Nothing is chosen: the label weight of LANTK-KR-V1 was fixed beforehand.
Behind ± is half a 95 % interval: of one pair over draws of train images (their relative spread
taken as the same at all n, since of the whole there is one draw) and over test images; over pairs
Student's, which has both in it and what pairs differ by. Subsets of different n share images, and
all n share test images. The first draws of all n are nested, the draw of
[Error against n](error-against-n.md): of them there is no interval of the draw.
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


def limits_table(table: pd.DataFrame | None) -> list[str]:
    """Return the lines of the table of accuracies, with what it is of."""
    if table is None:
        return ["Not run."]
    tasks = list(table["task"].unique())
    sizes = f"n = {table['n_train'].iloc[0]:,} + {table['n_test'].iloc[0]:,}.\n"
    rows: list[Sequence[str]] = []
    for name, group in _by_method(table):
        found = dict(list(group.groupby("task")))
        cells = [_limits_cell(found[task]) if task in found else "not run" for task in tasks]
        gains = [100 * ((of["won"] - of["lost"]) / of["n_test"]).mean() for of in found.values()]
        over, alignment = student_interval(gains), group["squared_alignment"].mean()
        method = group["method"].iloc[0]
        # Of two pairs Student's interval says nothing.
        has_none = len(gains) < FEWEST_POINTS or method == _FLIPPED
        mean = with_half_width(over.mean, math.nan if has_none else over.half)
        cells.append("-" if method == "cntk" else mean)
        rows.append([name, *cells, "-" if np.isnan(alignment) else f"{alignment:.3g}"])
    header = ["", *tasks, "Mean difference", "Squared alignment of Z"]
    return [sizes, *markdown_rows(header, rows)]


def limits_lines(table: pd.DataFrame | None) -> list[str]:
    """Return the page on what limits Z as lines of Markdown."""
    lines = [*_paragraphs(_LIMITS), *limits_table(table), ""]
    if table is None:
        return lines
    tasks = list(table["task"].unique())
    rows: list[Sequence[str]] = []
    for name, group in _by_method(table):
        found = 100 * group.groupby("task")["out_of_fold"].mean()
        rows.append([name, *(f"{found[t]:.2f}" if t in found else "not run" for t in tasks)])
    picture = "![Accuracy against the share of flipped labels, where all was run](../limits.png)\n"
    return [
        *lines,
        "Out of fold, on train images:\n",
        *markdown_rows(["", *tasks], rows),
        "",
        picture,
    ]


def _by_method(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each method and rate with their name, in the order of the names."""
    groups = {key: group for key, group in table.groupby(["method", "rate"], dropna=False)}
    order = list(_NAMES)
    return [
        (_NAMES[method] + (f" at a rate of {rate:g}" if not np.isnan(rate) else ""), group)
        for (method, rate), group in sorted(
            groups.items(), key=lambda found: (order.index(found[0][0]), found[0][1])
        )
    ]


def _limits_cell(group: pd.DataFrame) -> str:
    """Return the accuracy in one task and its difference from CNTK, of one row with an interval."""
    accuracy, row = f"{100 * group['accuracy'].mean():.2f}", group.iloc[0]
    if row["method"] == "cntk":
        return accuracy
    n = row["n_test"]
    mean = ((group["won"] - group["lost"]) / n).mean()
    if row["method"] == _FLIPPED:
        # Labels flipped anew in each draw, of test images too, are no sample of anything.
        return f"{accuracy} ({signed(100 * mean)})"
    error = math.sqrt(((row["won"] + row["lost"]) / n - mean**2) / n)
    return f"{accuracy} ({with_half_width(100 * mean, 100 * Interval(mean, error).half)})"


def limits_figure(table: pd.DataFrame, path: Path) -> None:
    """Draw the accuracy of the plug-in against the share of flipped labels, and of the others."""
    # Levels are compared, so of pairs in which every method was run, where there are any.
    n_methods = table.groupby("task")["method"].nunique()
    table = table[table["task"].isin(n_methods.index[n_methods == n_methods.max()])]
    is_flipped = table["method"] == _FLIPPED
    flipped = 100 * table[is_flipped].groupby("rate")["accuracy"].mean()
    levels = 100 * table[~is_flipped].groupby("method", sort=False)["accuracy"].mean()
    told = {f"flipped at {rate:g}": f"{value:.2f}" for rate, value in flipped.items()}
    told |= {_NAMES[method]: f"{level:.2f}" for method, level in levels.items()}
    with saving(path, 4.6, 3.2, told) as figure:
        axes = figure.subplots()
        axes.plot(flipped.index, flipped, color="black", marker="o", label=_NAMES[_FLIPPED])
        for (method, level), (colour, _) in zip(levels.items(), STYLES, strict=False):
            axes.axhline(level, color=colour, lw=1, label=_NAMES[method])
        axes.set_xlabel("share of labels flipped in Z")
        axes.set_ylabel("test accuracy (%)")
        axes.legend()


def exponent_column(table: pd.DataFrame | None) -> dict[str, dict[str, str]]:
    """Return a column of exponents, by what it is of: variant -> exponent with its interval.

    The interval is Student's over pairs, or that of the only pair, over draws and test images.
    """
    if table is None:
        return {}
    tasks, ns = list(table["task"].unique()), sorted(table["n_train"].unique())
    of = tasks[0] if len(tasks) == 1 else f"{len(tasks)} pairs"
    as_text = _over_pairs_text if len(tasks) > 1 else lambda found: _exponent_text(found[tasks[0]])
    cells = {name: as_text(slopes) for name, slopes in _exponents(table).items()}
    return {f"disjoint subsets, n = {ns[0]:,} to {ns[-1]:,}, {of}": cells}


def exponent_page(table: pd.DataFrame | None) -> list[str]:
    """Return the page on exponents from disjoint subsets as lines of Markdown."""
    lines = _paragraphs(_EXPONENTS)
    if table is None:
        return [*lines, "Not run.\n"]
    tasks = list(table["task"].unique())
    weights = table["label_weight"].dropna().unique()
    sizes = f"{table['n_test'].iloc[0]:,} test images, label weight {weights[0]:g}.\n"

    def row(name: str, slopes: dict[str, Interval]) -> list[str]:
        # Of one pair its mean is itself.
        over = [_over_pairs_text(slopes)] if len(tasks) > 1 else []
        return [name, *(_exponent_text(slopes[task]) for task in tasks), *over]

    rows = [row(*found) for of in (None, "cntk") for found in _exponents(table, of).items()]
    nested = table[table["draw"] == 0].assign(error=lambda own: 1 - own["accuracy"])
    for variant, group in nested.groupby("variant", sort=False):
        ends = [log_slope(own["n_train"], own["error"]) for _, own in group.groupby("task")]
        own = dict(zip(sorted(tasks), (Interval(mean) for mean, *_ in ends), strict=True))
        rows.append(row(f"{variant}, first draws alone", own))
    header = ["", *tasks, *["Mean over pairs"] * (len(tasks) > 1)]
    lines += [sizes, *markdown_rows(header, rows), ""]
    lines.append("Accuracies in percent: mean over draws, ± their standard deviation.\n")
    cells = []
    for (variant, n), group in table.groupby(["variant", "n_train"]):
        of_task = 100 * group.groupby("task")["accuracy"].agg(["mean", "std"])
        texts = (
            f"{mean:.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}")
            for mean, spread in of_task.loc[tasks].itertuples(index=False)
        )
        cells.append([variant, f"{n:,}", str(group["draw"].nunique()), *texts])
    return [*lines, *markdown_rows(["", "n", "Draws", *tasks], cells), ""]


def _exponents(table: pd.DataFrame, base: str | None = None) -> dict[str, dict[str, Interval]]:
    """Return variant -> task -> exponent, or what it is more than that of a base."""
    wrong = {key: wrong_of(group) for key, group in table.groupby(["variant", "task"])}
    found: dict[str, dict[str, Interval]] = {}
    for variant in table["variant"].unique():
        if variant == base:
            continue
        name = variant if base is None else f"{variant} minus {base}"
        found[name] = {
            task: exponent(wrong[variant, task], None if base is None else wrong[base, task])
            for task in table["task"].unique()
        }
    return found


def _exponent_text(slope: Interval) -> str:
    return with_half_width(slope.mean, slope.half, 3)


def _over_pairs_text(slopes: dict[str, Interval]) -> str:
    over = student_interval([slope.mean for slope in slopes.values()])
    return with_half_width(over.mean, over.half, 3)
