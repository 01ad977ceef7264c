"""Figures of networks in training: what their kernels reach, and the gap to them taken apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from lantk.errors import LantkError
from lantk.experiment.variants import CHOSEN_KERNELS, GAP_LEVELS, LAP
from lantk.regression.statistics import mean_with_interval
from lantk.report.blocks import (
    LOCAL_AVERAGING,
    Block,
    local_averaging,
    network_block,
    row_name,
    taps_of,
)
from lantk.report.claims import STEPS, decompose, with_half_width
from lantk.report.figure_style import GREY, STYLES, Destination, mark, saving
from lantk.variant import Variant


def decomposition_figure(table: pd.DataFrame, path: Destination) -> None:
    """Draw the steps from CNTK to the CNN, one column a task and one for the mean over them.

    Beside the step to the chosen after-kernel, a circle for that of each epoch; where CNTK begins,
    a square for its best window of local averaging.
    """
    block = network_block(table)
    steps = None if block is None else decompose(block)
    if block is None or steps is None:
        raise LantkError(
            f"a figure of the steps from CNTK to the CNN wants results of {', '.join(GAP_LEVELS)}"
        )
    base = 100 * block.values("accuracy").loc["cntk"]
    shown = pd.DataFrame({column: steps[column] for column in steps})
    taps = taps_of(block, "after-kernel")
    by_epoch = 100 * block.values("accuracy").loc[list(taps.values())]
    if len(base) > 1:
        shown["mean"], base["mean"] = shown.mean(axis="columns"), base.mean()
        by_epoch["mean"] = by_epoch.mean(axis="columns", skipna=False)
    means = {title: mean_with_interval(values) for title, values in steps.iterrows()}
    told = {f"{title}": with_half_width(*mean) for title, mean in means.items()}
    averaged, pooled = {}, local_averaging(block)
    if pooled is not None:
        told[LOCAL_AVERAGING] = with_half_width(*mean_with_interval(pooled))
        averaged = dict(base + pooled.reindex(base.index, fill_value=pooled.mean()))
    levels = pd.concat([base.to_frame().T, shown]).cumsum()
    places = 0.84 * np.arange(len(STEPS) + 1) / len(STEPS) - 0.42
    width = places[1] - places[0]
    with saving(path, max(6.4, 2.2 + 0.95 * len(shown.columns)), 4.6, told) as figure:
        axes = figure.subplots()
        for place, column in enumerate(shown):
            level, left = levels[column].to_numpy(), place + places[:-1]
            bars: dict[str, Any] = {"color": _COLOURS, "edgecolor": "black", "lw": 0.4}
            axes.bar(left, shown[column], width, level[:-1], align="edge", **bars)
            axes.plot([left, left + 2 * width], [level[1:]] * 2, color=GREY, lw=0.6)
            middle = place + places[_CHOSEN_EPOCH] + width / 2
            for epoch, value in zip(taps, by_epoch[column], strict=True):
                axes.plot(middle, value, marker="o", ms=3.2, mfc="white", mec="black", zorder=3)
                look: dict[str, Any] = {"fontsize": 5, "va": "center", "path_effects": _HALO}
                look |= {"xytext": (3.2, 0), "textcoords": "offset points", "zorder": 4}
                axes.annotate(str(epoch), (middle, value), **look)
            axes.plot(left[0], level[0], marker="d", color="black", zorder=3)
            if column in averaged:
                axes.plot(left[0], averaged[column], zorder=3, **_SQUARE)
            axes.plot(place + places[-1], level[-1], marker="*", color="black", ms=8, zorder=3)
        drawn = np.concatenate([np.ravel(levels), np.ravel(by_epoch), [*averaged.values()]])
        axes.set_ylim(np.nanmin(drawn) - 1, np.nanmax(drawn) + 1)
        axes.set_xticks(range(len(shown.columns)), list(shown.columns))
        axes.set_ylabel("test accuracy (%)")
        axes.grid(axis="x", visible=False)
        handles: list[Patch | Line2D] = [
            Line2D([], [], ls="none", marker="d", color="black", label=row_name("cntk")),
            *(
                Patch(fc=c, ec="black", lw=0.4, label=f"+ {s}")
                for s, c in zip(STEPS, _COLOURS, strict=True)
            ),
            mark("o", "white", "after-kernel of an epoch", ms=3.2, mew=0.5),
            *[Line2D([], [], label=f"{LAP}: {LOCAL_AVERAGING}", **_SQUARE)] * bool(averaged),
            Line2D([], [], ls="none", marker="*", color="black", label=row_name("cnn")),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, title=_title(block))


_SQUARE: dict[str, Any] = {"ls": "none", "marker": "s", "ms": 3.6, "mfc": "#009E73", "mec": "black"}
# The step that leads to the chosen after-kernel, by its number.
_CHOSEN_EPOCH = GAP_LEVELS.index("after-kernel") - 1
# Numbers are read on bars of any colour.
_HALO = [withStroke(linewidth=1.2, foreground="white")]
# What labels do in colours, what they do not in greys.
_COLOURS = ("#ffffff", "#cccccc", "#0072B2", "#888888", "#aaaaaa", "#D55E00", "#444444")


def training_figure(table: pd.DataFrame, path: Destination) -> None:
    """Draw what the network's kernels reach along its training: accuracy and local elasticity.

    Means over the tasks, with paired intervals of the gain over CNTK where there are several.
    """
    block = network_block(table)
    if block is None:
        raise LantkError("a figure along training wants after-kernel at two epochs or more")
    names = [f"{name}{end}" for name in CHOSEN_KERNELS for end in ("", "-shuffled")]
    names = [name for name in names if taps_of(block, name)]
    shown = dict.fromkeys(variant for name in names for variant in taps_of(block, name).values())
    means = 100 * block.values("accuracy").loc[list(shown)].mean(axis="columns", skipna=False)
    told = {row_name(str(variant)): f"{mean:.2f} %" for variant, mean in means.items()}
    with saving(path, 7.2, 3.6, told) as figure:
        panels = figure.subplots(1, 2)
        handles = []
        for name in names:
            parent, control = Variant.of(name).parent, Variant.of(name).control
            colour, marker = STYLES[2 * CHOSEN_KERNELS.index(parent)]
            line, face = ("--", "white") if control else ("-", colour)
            look: dict[str, Any] = {"color": colour, "marker": marker, "ls": line}
            look |= {"mfc": face, "mec": colour, "mew": 1}
            _draw_taps(panels[0], block, name, "accuracy", look)
            _draw_taps(panels[1], block, name, "relative_ratio_test", look)
            label = f"{parent}, trained on shuffled labels" if control else parent
            handles.append(Line2D([], [], label=label, **look))
        for variant, style in (("cntk-ridge", "--"), ("lantk-best", "-."), ("cnn", ":")):
            if variant not in block.variants:
                continue
            for axes, key in zip(panels, ("accuracy", "relative_ratio_test"), strict=True):
                value = 100 * block.values(key).loc[variant].mean(skipna=False)
                if not math.isnan(value):
                    axes.axhline(value, color="black", ls=style, lw=1.1)
            label = row_name(variant)
            handles.append(Line2D([], [], color="black", ls=style, lw=1.1, label=label))
        panels[0].set_ylabel("test accuracy (%)")
        panels[1].set_ylabel("relative ratio, test-train (%)")
        figure.supxlabel("epochs of the network", fontsize=8)
        figure.legend(handles=handles, loc="outside upper center", ncols=3, title=_title(block))


def _draw_taps(axes: Axes, block: Block, name: str, key: str, look: dict[str, Any]) -> None:
    """Draw one quantity against the epoch, the mean over the tasks with its interval."""
    taps = taps_of(block, name)
    values = 100 * block.values(key)
    means = [values.loc[variant].mean(skipna=False) for variant in taps.values()]
    axes.plot(list(taps), means, **look)
    if key == "accuracy" and "cntk" in values.index and values.shape[1] > 1:
        gains = [values.loc[variant] - values.loc["cntk"] for variant in taps.values()]
        halves = [mean_with_interval(gain)[1] for gain in gains]
        axes.errorbar(list(taps), means, halves, fmt="none", ecolor=look["color"], elinewidth=0.6)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(list(taps), [str(tap) for tap in taps])
    axes.minorticks_off()


def _title(block: Block) -> str:
    n = block.frame["n_train"].max()
    return f"{', '.join(block.frame['architecture'].unique())}, n = {n:,}"
