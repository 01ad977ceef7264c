"""Figures of a whole results folder: gains, errors against n, alignment."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lantk.errors import LantkError
from lantk.experiment.variants import CASE_COLUMNS
from lantk.regression.statistics import PROTOCOLS, log_slope, mean_with_interval
from lantk.report.blocks import (
    REFERENCE_CONTROLS,
    Block,
    blocks,
    order_variants,
    row_name,
    shown_block,
)
from lantk.report.claims import compare, signed
from lantk.report.figure_style import (
    GREY,
    REFERENCES,
    RING,
    Destination,
    mark,
    saving,
    variant_styles,
)
from lantk.report.leaderboard import chosen_matrix
from lantk.variant import Variant

_TITLE_LETTERS = 20  # that fit above a panel 1.45 inches wide
_OF = {"k": "K", "z": "Z", "sum": "both"}  # the matrices of an alignment
_LINE = 0.15  # inches that a line of text takes


def gap_figure(table: pd.DataFrame, path: Destination) -> None:
    """Draw what each variant gains over CNTK, with and without the true labels.

    One row of panels a protocol, one panel a task (or an n, or an architecture), and one for their
    mean with its paired 95 % t-interval where they are tasks. Above a panel stands what share of
    the gap from CNTK to the CNN a gain closes, where the CNN is better. Of several n beside several
    tasks the largest is drawn, and of several architectures beside them the first; the title says
    so.
    """
    drawn = {}
    for protocol in PROTOCOLS:
        found = [block for _, block in blocks(table[table["protocol"] == protocol])]
        found = [block for block in found if "cntk" in block.variants]
        if found:
            drawn[protocol] = max(found, key=lambda block: block.frame["n_train"].max())
    variants = order_variants(v for block in drawn.values() for v in block.variants)
    left_out = {*REFERENCES, "oracle-label"}
    rows = [v for v in variants if v not in left_out]
    rows = [v for v in rows if Variant.of(v).control is None and not Variant.of(v).is_tap]
    if not rows:
        raise LantkError("a figure of gains wants results of cntk and of another variant")
    # A protocol that lacks a column has an empty panel there.
    columns = list(dict.fromkeys(c for block in drawn.values() for c in block.columns))
    drawn = {protocol: replace(block, columns=columns) for protocol, block in drawn.items()}
    first = max(drawn.values(), key=lambda block: len(block.frame))
    n_panels = len(columns) + all(block.has_several_tasks for block in drawn.values())
    width = max(4.0, 1.3 + 1.45 * n_panels)
    keys = ["architecture", "n_train"] if first.is_over_tasks else [*CASE_COLUMNS]
    title = textwrap.fill(_shown_text(table, first.frame, keys), int(13 * width))
    handles = _gap_handles(rows, variants)
    n_columns = min(len(handles), int(width / 1.5))
    n_lines = title.count("\n") + 1 + math.ceil(len(handles) / n_columns)
    height = len(drawn) * (1.0 + 0.2 * len(rows)) + 0.6 + _LINE * n_lines
    protocol = next(iter(drawn))
    shown = shown_block(table, protocol, lambda block: "cntk" in block.variants)
    gains = {row_name(variant): compare(shown, variant, "cntk") for variant in rows}
    told = {name: gain.text for name, gain in gains.items() if gain.is_known}
    with saving(path, width, height, {"gains under": protocol, **told}) as figure:
        grid = figure.subplots(len(drawn), n_panels, sharey=True, sharex=True, squeeze=False)
        for panels, (protocol, block) in zip(grid, drawn.items(), strict=True):
            _draw_gaps(panels, block, rows)
            panels[0].set_ylabel(protocol)
            panels[0].set_yticks(range(len(rows)), [row_name(v) for v in rows])
        grid[0, 0].set_ylim(len(rows) - 0.5, -0.5)  # shared by all
        low, high = grid[0, 0].get_xlim()
        grid[0, 0].set_xlim(min(low, -0.5), max(high, 0.5))
        figure.supxlabel("gain over CNTK (points of test accuracy)", fontsize=8)
        # A title of the figure would stand on the legend.
        options: dict[str, Any] = {"title": title, "title_fontsize": 9, "ncols": n_columns}
        figure.legend(handles=handles, loc="outside upper center", **options)


def _shown_text(table: pd.DataFrame, shown: pd.DataFrame, keys: Sequence[str]) -> str:
    """Return which task, architecture and n are shown, and of how many of the table."""
    parts = []
    for key in keys:
        found, n_found = shown[key].unique(), table[key].nunique()
        if len(found) > 1:
            continue  # they are the columns or the axis
        text = f"n = {found[0]:,}" if key == "n_train" else str(found[0])
        if n_found > 1:
            text += f" (largest of {n_found} n)" if key == "n_train" else ""
            text += f" (first of {n_found} {key}s)" if key != "n_train" else ""
        parts.append(text)
    return ", ".join(parts)


def _gap_handles(rows: Sequence[str], variants: Sequence[str]) -> list[Line2D]:
    """Return what the legend explains of gains: the marks that occur."""
    handles = [mark("o", "black", "gain")]
    if any(f"{variant}-shuffled" in variants for variant in rows):
        handles.append(mark("o", "white", "with shuffled labels (mean)"))
        handles.append(Line2D([], [], color=GREY, lw=3, alpha=0.4, label="label gain"))
    if any(f"{variant}-diagonal" in variants for variant in rows):
        handles.append(mark("|", "none", "diagonal of Z only"))
    return handles


def _draw_gaps(panels: Sequence[Axes], block: Block, rows: Sequence[str]) -> None:
    accuracy = 100 * block.values("accuracy")
    # Rounding errors of equal accuracies are no gains.
    gains = (accuracy - accuracy.loc["cntk"]).round(9)
    means = gains.mean(axis="columns", skipna=False).round(9)
    wanted = [*block.columns, *["mean"] * (len(panels) > len(block.columns))]
    for axes, column in zip(panels, wanted, strict=True):
        shown = means if column == "mean" else gains[column]
        gap = shown.get("cnn", math.nan)
        title = _wrapped(column)
        axes.set_title(title if math.isnan(gap) else f"{title}\nCNN {gap:+.2f}")
        axes.axvline(0, color="black", lw=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if gap > 0:
            _add_share_of_gap(axes, gap)
        for i, variant in enumerate(rows):
            gain, twin = shown.get(variant, math.nan), shown.get(f"{variant}-shuffled", math.nan)
            axes.plot([twin, gain], [i, i], color=GREY, lw=3, alpha=0.4, solid_capstyle="butt")
            if column == "mean" and variant in gains.index:
                _, half = mean_with_interval(gains.loc[variant])
                axes.plot([gain - half, gain + half], [i, i], color="black", lw=0.8)
            axes.plot(twin, i, marker="o", ms=5, mfc="white", **RING)
            axes.plot(shown.get(f"{variant}-diagonal", math.nan), i, "|", ms=8, **RING)
            axes.plot(gain, i, marker="o", ms=5, mfc="black", **RING)


def _wrapped(name: str) -> str:
    """Return the name of a task, case or architecture in lines that fit above a panel."""
    return "\n".join(textwrap.fill(part, _TITLE_LETTERS) for part in name.split("."))


def _add_share_of_gap(axes: Axes, gap: float) -> None:
    """Add an axis above that reads a gain in percent of the gap to the CNN."""
    functions = (lambda points: 100 * points / gap, lambda share: share * gap / 100)
    above = axes.secondary_xaxis("top", functions=functions)
    above.xaxis.set_major_locator(MaxNLocator(3))
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    above.tick_params(labelsize=6.5, colors=GREY)


def growth_figure(table: pd.DataFrame, path: Destination) -> None:
    """Draw the error against n on log axes with fitted slopes, and against CNTK's below.

    Errors are geometric means over the tasks that have every n. Of several architectures the first
    is drawn; the title says so.
    """
    shown = table[table["architecture"] == table["architecture"].iloc[0]]
    found = {name: _errors_by_n(shown[shown["protocol"] == name]) for name in PROTOCOLS}
    errors = {protocol: wide for protocol, wide in found.items() if not wide.empty}
    if not errors:
        raise LantkError("a figure of the growth wants three n_train or more, of one variant")
    names = order_variants(variant for wide in errors.values() for variant in wide)
    styles = variant_styles(names)
    protocol, wide = next(iter(errors.items()))
    told = {row_name(v): signed(_slope(wide[v]), 3) for v in order_variants(wide)}
    with saving(path, 3.7 * len(errors), 5.0, {"slopes under": protocol, **told}) as figure:
        options: dict[str, Any] = {"sharex": True, "sharey": "row", "squeeze": False}
        grid = figure.subplots(2, len(errors), height_ratios=[2, 1], **options)
        for (above, below), (protocol, wide) in zip(grid.T, errors.items(), strict=True):
            _draw_errors(above, below, wide, styles)
            above.set_title(f"{protocol} (slope in brackets)")
        grid[0, 0].set_ylabel("test error (%)")
        grid[1, 0].set_ylabel("error against\nCNTK's (%)")
        figure.supxlabel("train images", fontsize=8)
        n_tasks = shown["task"].nunique()
        title = shown["task"].iloc[0] if n_tasks == 1 else f"geometric mean over {n_tasks} tasks"
        title += f", {_shown_text(table, shown, ['architecture'])}"
        figure.suptitle(textwrap.fill(title, 48 * len(errors)))


def _errors_by_n(frame: pd.DataFrame) -> pd.DataFrame:
    """Return geometric mean errors in percent, n by variants, controls of label terms left out."""
    is_shown = [
        Variant.of(v).control is None and v not in REFERENCE_CONTROLS for v in frame["variant"]
    ]
    frame = frame[is_shown].assign(error=lambda f: np.log(100 * (1 - f["accuracy"])))
    wide = frame.pivot(index="n_train", columns=["variant", "task"], values="error")
    means = wide.T.groupby(level="variant").mean().T
    counts = wide.notna().T.groupby(level="variant").sum().T
    means = np.exp(means[counts == frame["task"].nunique()])
    return means.loc[:, means.notna().sum() >= 3]


def _slope(error: pd.Series) -> float:
    error = error.dropna()
    return log_slope(error.index, error)[0]


def _draw_errors(
    above: Axes, below: Axes, wide: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]
) -> None:
    for variant in order_variants(wide):
        error, style = wide[variant].dropna(), styles[variant]
        n = error.index.to_numpy(float)
        slope = _slope(error)
        label, size = f"{row_name(variant)} ({slope:.3f})", 7 if variant in REFERENCES else 4.5
        above.plot(n, error, ls="none", ms=size, label=label, **style)
        centre = np.exp(np.log(error).mean() + slope * (np.log(n) - np.log(n).mean()))
        above.plot(n, centre, color=style["color"], lw=0.8)
        if "cntk" in wide:
            below.plot(n, 100 * (error / wide.loc[error.index, "cntk"] - 1), **style)
    above.legend(loc="lower left", fontsize=6.5)
    ticks = wide.index.to_numpy(float)
    for axes in (above, below):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{n:,.0f}" for n in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    above.set_yscale("log")
    low, high = wide.min().min(), wide.max().max()
    steps = [step * 10.0**k for k in range(-3, 2) for step in (1, 1.5, 2, 3, 4, 5, 6, 8)]
    above.set_yticks([t for t in steps if low / 1.1 < t < 1.1 * high])
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_locator(NullLocator())


def alignment_figure(evaluations: Sequence[Mapping[str, Any]], path: Destination) -> None:
    """Draw the kernel-target alignment of K, of Z and of K + lambda Z on the train images.

    The label weight is the honest choice, or the oracle's where only that was run. Controls of
    label terms, the ceiling and evaluations without an alignment of Z are left out.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    choices = set()
    for evaluation in evaluations:
        values = _alignments(evaluation)
        variant = evaluation["variant"]
        # The true label products are aligned by definition.
        if "z" in values and Variant.of(variant).control is None and variant != "oracle-label":
            found.setdefault(evaluation["case"], {})[variant] = values
            choices.add(_shown_protocol(evaluation))
    if not found:
        raise LantkError("no evaluation has a kernel-target alignment: evaluate again")
    rows = order_variants(variant for values in found.values() for variant in values)
    chosen = " or ".join(protocol for protocol in PROTOCOLS if protocol in choices)
    marks = {"z": ("s", "white", "Z"), "sum": ("o", "black", f"K + λZ, {chosen} choice")}
    titles = [_wrapped(case) for case in found]
    height = 1.2 + 0.2 * len(rows) + _LINE * max(title.count("\n") for title in titles)
    told = {
        f"{case}, {row_name(variant)}:": ", ".join(f"{_OF[k]} {v:.2f}" for k, v in values.items())
        for case, alignments in found.items()
        for variant, values in alignments.items()
    }
    with saving(path, max(4.0, 1.3 + 1.5 * len(found)), height, told) as figure:
        panels = figure.subplots(1, len(found), sharey=True, sharex=True, squeeze=False)[0]
        for axes, title, alignments in zip(panels, titles, found.values(), strict=True):
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            for plain in {v["k"] for v in alignments.values() if "k" in v}:
                axes.axvline(plain, color="black", ls="--", lw=1.1)
            for i, variant in enumerate(rows):
                for key, (marker, face, _) in marks.items():
                    place = alignments.get(variant, {}).get(key, math.nan)
                    axes.plot(place, i, marker=marker, mfc=face, ms=5, **RING)
        panels[0].set_yticks(range(len(rows)), [row_name(v) for v in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        where = "kernel-target alignment\non the train images, where Z was fitted"
        figure.supxlabel(where, fontsize=8)
        handles = [Line2D([], [], color="black", ls="--", lw=1.1, label="K")]
        handles += [mark(*shape) for shape in marks.values()]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)


def _shown_protocol(evaluation: Mapping[str, Any]) -> str:
    return next(protocol for protocol in PROTOCOLS if protocol in evaluation["protocols"])


def _alignments(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the alignments of K (``k``), Z (``z``) and their sum, as far as they are there."""
    diagnostics = evaluation.get("diagnostics") or {}
    curve, choice = evaluation["curve"], evaluation["protocols"][_shown_protocol(evaluation)]
    values = {name: diagnostics.get(f"alignment_{name}") for name in ("k", "z")}
    if curve and "epoch" not in curve[0]:
        values["sum"] = chosen_matrix(curve, choice)["alignment"]
    return {key: value for key, value in values.items() if value is not None}
