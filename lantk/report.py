"""The seed's table as Markdown, and the figure of accuracy against label weight.

Both are functions of what the evaluations found; nothing is computed here but averages,
differences and the paired interval of a mean over class pairs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation
from scipy import stats

from lantk.storage import writing

ROWS = {
    "cntk": "CNTK",
    "lantk-best": "LANTK-best",
    "lantk-kr-v1": "LANTK-KR-V1",
    "lantk-kr-v2": "LANTK-KR-V2",
    "lantk-fjlt-v1": "LANTK-FJLT-V1",
    "lantk-fjlt-v2": "LANTK-FJLT-V2",
    "cnn": "CNN",
}
"""Variant -> its row in the seed's table, in the seed's order. Others follow under their names."""

_SECTIONS = {
    "honest": (
        "Honest: nothing chosen on the test set",
        "The label weight, and for LANTK-best the variant, is chosen by stratified cross-validation"
        " inside the train set; the CNN is taken after its last epoch.",
    ),
    "oracle": (
        "Oracle: chosen on the test set, optimistic, printed to compare with the paper",
        "The label weight, for LANTK-best the variant, and the CNN's epoch are those with the best"
        " test accuracy (of the oracle's own weights, which need not hold 0); intervals and"
        " p-values do not allow for that choice.",
    ),
}

# Colours of Okabe and Ito (2008), told apart by colour-blind readers; markers tell them in grey.
_STYLES = (
    ("#0072B2", "o"),
    ("#56B4E9", "s"),
    ("#D55E00", "^"),
    ("#E69F00", "v"),
    ("#009E73", "D"),
    ("#CC79A7", "P"),
    ("#999999", "X"),
    ("#000000", "<"),
)
_MARKS: dict[str, dict[str, Any]] = {
    "honest": {"marker": "o", "ms": 9, "mfc": "none", "mew": 1.2, "ls": "none"},
    "oracle": {"marker": "s", "ms": 10, "mfc": "none", "mew": 1.2, "ls": "none"},
}
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
}


def table_markdown(frame: pd.DataFrame) -> str:
    """Return the result tables in the layout of the seed's, one section per protocol.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row per (pair, variant, protocol) with ``accuracy``, ``ci_low`` and ``ci_high``
        (fractions), ``p_value`` (missing where there is no test), ``n_train`` and ``n_test``. The
        order of the pairs is kept.

    Returns
    -------
    str
        Markdown: for each protocol the accuracies in percent with their average and the
        improvement over CNTK, then the intervals and p-values.

    Notes
    -----
    Imp. is the average accuracy minus CNTK's in points, and the reduction of the average error in
    percent of CNTK's; ``-`` where CNTK makes no error. A variant that was not run for every pair
    has no average.

    Examples
    --------
    >>> rows = {"pair": "3-8", "protocol": "oracle", "ci_low": 0.6, "ci_high": 0.9, "p_value": 0.5}
    >>> rows |= {"variant": ["cntk", "cnn"], "accuracy": [0.75, 0.8], "n_train": 40, "n_test": 100}
    >>> print(table_markdown(pd.DataFrame(rows)).splitlines()[7])
    | CNN  | 80.00 | 80.00 | 5.00 / 20.0 %     |
    """
    known = [protocol for protocol in _SECTIONS if (frame["protocol"] == protocol).any()]
    sections = [_section(frame[frame["protocol"] == protocol], protocol) for protocol in known]
    return "\n".join(sections)


def _section(frame: pd.DataFrame, protocol: str) -> str:
    title, choice = _SECTIONS[protocol]
    pairs, variants = list(frame["pair"].unique()), _ordered(frame["variant"].unique())
    accuracy = frame.pivot(index="variant", columns="pair", values="accuracy")
    accuracy = accuracy.loc[variants, pairs]
    average = accuracy.mean(axis="columns", skipna=False)
    rows = [
        [
            ROWS.get(variant, variant),
            *(_percent(value) for value in accuracy.loc[variant]),
            _percent(average[variant]),
            _improvement(average.get("cntk", math.nan), average[variant], variant),
        ]
        for variant in variants
    ]
    cells = {(row.pair, row.variant): _interval(row) for row in frame.itertuples()}
    intervals = [
        [
            ROWS.get(variant, variant),
            *(cells.get((pair, variant), "-") for pair in pairs),
            _mean_gain(accuracy, variant),
        ]
        for variant in variants
    ]
    return "\n".join(
        [
            f"## {title}\n",
            f"Test accuracy in percent. {choice} {_sizes(frame)} Imp.: average accuracy minus"
            " CNTK's, in points, and as a share of CNTK's error.\n",
            *_markdown_rows(["", *pairs, "Avg", "Imp. (abs / rel.)"], rows),
            "\n95 % Wilson intervals of the accuracies above; p of the exact McNemar test against"
            " CNTK on the same test images; mean gain over CNTK in points with its paired 95 %"
            " t-interval over the pairs.\n",
            *_markdown_rows(["", *pairs, "Mean gain"], intervals),
            "",
        ]
    )


def _ordered(variants: Iterable[str]) -> list[str]:
    """Return the seed's rows in the seed's order, then the others as they come."""
    variants = list(variants)
    return [v for v in ROWS if v in variants] + [v for v in variants if v not in ROWS]


def _markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns also line up on a terminal."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (header, rule, *rows)
    ]


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _improvement(cntk: float, average: float, variant: str) -> str:
    if variant == "cntk" or math.isnan(cntk) or math.isnan(average):
        return "-"
    points = round(100 * (average - cntk), 2) + 0.0  # no "-0.00"
    if cntk >= 1:
        return f"{points:.2f} / -"
    return f"{points:.2f} / {round(100 * (average - cntk) / (1 - cntk), 1) + 0.0:.1f} %"


def _interval(row: Any) -> str:
    text = f"{100 * row.ci_low:.2f} to {100 * row.ci_high:.2f}"
    if row.variant == "cntk" or pd.isna(row.p_value):
        return text
    return text + (", p < 0.001" if row.p_value < 0.001 else f", p = {row.p_value:.3f}")


def _mean_gain(accuracy: pd.DataFrame, variant: str) -> str:
    """Return the mean over pairs of the accuracy minus CNTK's, with Student's 95 % interval."""
    if variant == "cntk" or "cntk" not in accuracy.index or accuracy.shape[1] < 2:
        return "-"
    gains = 100 * (accuracy.loc[variant] - accuracy.loc["cntk"]).to_numpy(float)
    if np.isnan(gains).any():
        return "-"
    half = stats.t.ppf(0.975, gains.size - 1) * gains.std(ddof=1) / math.sqrt(gains.size)
    return f"{round(gains.mean(), 2) + 0.0:+.2f} ± {half:.2f}"


def _sizes(frame: pd.DataFrame) -> str:
    """Return the numbers of images, once if they are the same for every pair."""
    sizes = {row.pair: (row.n_train, row.n_test) for row in frame.itertuples()}
    texts = {pair: f"n_train = {a:,}, n_test = {b:,}" for pair, (a, b) in sizes.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values())) + " for every pair."
    return "; ".join(f"{pair}: {text}" for pair, text in texts.items()) + "."


def weight_figure(evaluations: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the accuracy of one class pair against the label weight and save it as a PNG file.

    On the left is what the honest choice sees (validation inside the train set), on the right what
    the choices get (test). Curves stand a few points beside each other, since many are equal at
    small weights, and what collapses at large ones is cut off. Equal evaluations give equal bytes.

    Parameters
    ----------
    evaluations : sequence of mapping
        The evaluations of one pair, any variants and seeds, in any order. Label-term variants are
        curves; ``cntk`` and ``cnn`` (the mean over its seeds) are horizontal lines.
    path : path-like
        Where the file goes; an older one is replaced when the new one is complete.

    Raises
    ------
    ValueError
        If there is no evaluation, or they are of several pairs.
    """
    pairs = sorted({evaluation["pair"] for evaluation in evaluations})
    if len(pairs) != 1:
        raise ValueError(f"a figure shows one pair, found {pairs or 'no evaluation'}")
    terms = {e["variant"]: e for e in evaluations if e["variant"] not in ("cntk", "cnn")}
    with matplotlib.rc_context(), writing(path) as temporary:
        matplotlib.rcdefaults()  # a user's own settings do not change the file
        matplotlib.rcParams.update(_LOOK)
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        handles = _draw_reference_lines(panels, evaluations)
        for i, (variant, (colour, marker)) in enumerate(zip(_ordered(terms), cycle(_STYLES))):
            # Curves are often equal: side by side, none hides another.
            shift = min(3.0, 14 / len(terms)) * (i - (len(terms) - 1) / 2)
            style = {"color": colour, "marker": marker}
            handles.append(_draw_term(panels, terms[variant], style, shift))
        _label_axes(figure, panels, evaluations, handles)
        _limit_accuracy(panels, evaluations)
        # No time and no program version in the file: the same results give the same bytes.
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})


def _draw_reference_lines(
    panels: Sequence[Axes], evaluations: Sequence[Mapping[str, Any]]
) -> list[Line2D]:
    """Draw what CNTK and the networks reach, which no label weight changes."""
    handles = []
    for variant, style in (("cntk", "--"), ("cnn", ":")):
        found = [_chosen(e) for e in evaluations if e["variant"] == variant and _chosen(e)]
        label = ROWS[variant]
        for axes, key in zip(panels, ("validation_accuracy", "accuracy"), strict=True):
            known = [100 * choice[key] for choice in found if choice.get(key) is not None]
            if known:
                mean = sum(known) / len(known)
                axes.axhline(mean, color="black", ls=style, lw=1.1)
                label = f"{ROWS[variant]} (test {mean:.2f} %)"
        if len(found) > 1:
            label += f", {len(found)} seeds"
        if found:
            handles.append(Line2D([], [], color="black", ls=style, lw=1.1, label=label))
    return handles


def _chosen(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the honest protocol found, or the oracle's where it was not asked."""
    protocols = evaluation["protocols"]
    return protocols.get("honest") or protocols.get("oracle") or {}


def _draw_term(
    panels: Sequence[Axes], evaluation: Mapping[str, Any], style: Mapping[str, Any], shift: float
) -> Line2D:
    """Draw one label term's two curves, `shift` points to the right, and what was chosen."""
    points = sorted(evaluation["curve"], key=lambda point: point["label_weight"])
    for axes, key in zip(panels, ("validation_accuracy", "test_accuracy"), strict=True):
        known = [(p["label_weight"], 100 * p[key]) for p in points if p.get(key) is not None]
        inches = axes.figure.dpi_scale_trans
        moved = axes.transData + ScaledTranslation(shift / 72, 0, inches)
        axes.plot([w for w, _ in known], [a for _, a in known], transform=moved, **style)
        for protocol, mark in _MARKS.items():
            weight = (evaluation["protocols"].get(protocol) or {}).get("label_weight")
            chosen = [point for point in known if point[0] == weight]
            if chosen and not (protocol == "oracle" and key == "validation_accuracy"):
                axes.plot(*chosen[0], transform=moved, mec=style["color"], zorder=3, **mark)
    return Line2D([], [], label=ROWS.get(evaluation["variant"], evaluation["variant"]), **style)


def _limit_accuracy(panels: Sequence[Axes], evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Cut off collapsed curves, which would press the interesting ones flat, and say so.

    As much is shown below the plain kernel as there is above it, and at least 5 points.
    """
    lines = [np.asarray(line.get_ydata(), float) for axes in panels for line in axes.lines]
    shown = np.concatenate([[], *lines])
    if not shown.size:
        return
    keys = ("validation_accuracy", "test_accuracy")
    points = [p for e in evaluations for p in e["curve"] if p.get("label_weight") == 0]
    plain = min((100 * p[key] for p in points for key in keys if p.get(key) is not None), default=0)
    low, top = shown.min(), shown.max()
    floor = math.floor(plain - max(5, top - plain))
    if low < floor:
        for axes in panels:
            axes.set_title(f"{axes.get_title()} (below {floor} % not shown)")
    margin = 0.05 * (top - max(low, floor)) or 1.0
    panels[0].set_ylim(max(low - margin, floor), top + margin)


def _label_axes(
    figure: Figure,
    panels: Sequence[Axes],
    evaluations: Sequence[Mapping[str, Any]],
    handles: list[Line2D],
) -> None:
    points = [p for e in evaluations for p in e["curve"] if p.get("label_weight")]
    weights = sorted({point["label_weight"] for point in points})
    first = evaluations[0]
    sizes = f"{first['n_train']:,} train and {first['n_test']:,} test images"
    figure.suptitle(f"{first['pair']}: {sizes}")
    panels[0].set_ylabel("accuracy (%)")
    for axes, title in zip(panels, ("validation inside the train set", "test"), strict=True):
        axes.set_title(title)
        axes.set_xlabel("label weight r (curves are shifted a little sideways)")
        if weights:
            # Linear between zero and the smallest weight, so that zero has a place.
            axes.set_xscale("symlog", linthresh=weights[0], linscale=0.7)
            axes.set_xlim(-0.5 * weights[0], 1.7 * weights[-1])
            decades = [w for w in weights if math.isclose(math.log10(w), round(math.log10(w)))]
            axes.xaxis.set_major_locator(FixedLocator([0, *decades]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.set_xticks([])
    for protocol, mark in _MARKS.items():
        if weights and any(protocol in evaluation["protocols"] for evaluation in evaluations):
            label = f"{protocol} choice"
            handles.append(Line2D([], [], mec="#444444", label=label, **mark | {"ms": 8}))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
