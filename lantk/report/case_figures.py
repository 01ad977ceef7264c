"""Figures of one case: accuracy against label weight, and heat maps of Gram matrices."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform
from numpy.typing import NDArray

from lantk.experiment.variants import has_label_weight
from lantk.regression.statistics import PROTOCOLS, wilson_interval
from lantk.report.blocks import order_variants, record_name, row_name, whitened_by
from lantk.report.figure_style import REFERENCES, Destination, saving, variant_styles

_MARKS: dict[str, dict[str, Any]] = {
    "honest": {"marker": "o", "ms": 9, "mfc": "none", "mew": 1.2, "ls": "none"},
    "oracle": {"marker": "s", "ms": 10, "mfc": "none", "mew": 1.2, "ls": "none"},
}
# What the panels show of a point.
_KEYS = ("validation_accuracy", "test_accuracy")
_TWIN_DASHES = (0, (4, 2))
# Beyond this many images a heat map shows averages of blocks.
_MOST_PIXELS = 500


def weight_figure(evaluations: Sequence[Mapping[str, Any]], path: Destination) -> None:
    """Draw the accuracy of one case against the label weight and save it as a file.

    On the left is what the honest choice sees (validation inside the train set), on the right what
    the choices get (test). Curves stand a few points beside each other, since many are equal at
    small weights, and what collapses at large ones is cut off; the legend says which reference
    lines lie below.

    Evaluations are of one case, any variants and seeds, in any order. What has a label
    weight and is no control is a curve, with a thin line for the mean over a term's shuffled twins;
    ``cntk`` and ``cnn`` (the mean over its seeds) are horizontal lines. Other controls are left
    out. 95 % Wilson intervals stand at the honest choices and around CNTK.

    Raises
    ------
    ValueError
        If there is no evaluation, or they are of several cases.
    """
    cases = sorted({evaluation["case"] for evaluation in evaluations})
    if len(cases) != 1:
        raise ValueError(f"a figure shows one case, found {cases or 'no evaluation'}")
    terms = {e["variant"]: e for e in evaluations if has_label_weight(e["variant"])}
    shown = {record_name(e): e for e in evaluations if e["variant"] in (*REFERENCES, *terms)}
    told = {name: _choices_text(shown[name]) for name in sorted(shown)}
    with saving(path, 7.2, 3.6, told) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        handles = _draw_reference_lines(panels, evaluations)
        styles = variant_styles(order_variants(terms))
        for i, variant in enumerate(order_variants(terms)):
            # Curves are often equal: side by side, none hides another.
            shift = min(3.0, 14 / len(terms)) * (i - (len(terms) - 1) / 2)
            twins = [e for e in evaluations if e["variant"] == f"{variant}-shuffled"]
            _draw_twins(panels, twins, styles[variant]["color"], shift)
            handles.append(_draw_term(panels, terms[variant], styles[variant], shift))
        if any(e["variant"].endswith("-shuffled") for e in evaluations):
            label = "with shuffled labels (mean)"
            handles.append(Line2D([], [], color="#444444", ls=_TWIN_DASHES, lw=0.8, label=label))
        points = [point for term in terms.values() for point in term["curve"]]
        weights = sorted({p["label_weight"] for p in points if p.get("label_weight")})
        _label_axes(figure, panels, evaluations[0], weights, len(terms))
        _limit_accuracy(panels, [p for p in points if p.get("label_weight") == 0])
        marked = {name for e in evaluations for name in e["protocols"]} if weights else set()
        _add_legend(figure, handles, marked)


def _choices_text(evaluation: Mapping[str, Any]) -> str:
    """Return what each protocol reaches on test, and at which label weight."""
    told = []
    for protocol, choice in evaluation["protocols"].items():
        if protocol not in PROTOCOLS:
            continue
        weight = choice.get("label_weight")
        at = "" if weight is None else f" at r = {weight:g}"
        told.append(f"{100 * choice['accuracy']:.2f} % ({protocol}{at})")
    return ", ".join(told)


def _draw_reference_lines(
    panels: Sequence[Axes], evaluations: Sequence[Mapping[str, Any]]
) -> list[Line2D | Patch]:
    """Draw what CNTK and the networks reach, which no label weight changes."""
    handles: list[Line2D | Patch] = []
    for variant, style in (("cntk", "--"), ("cnn", ":")):
        found = [_chosen(e) for e in evaluations if e["variant"] == variant and _chosen(e)]
        drawn = []
        for axes, key in zip(panels, ("validation_accuracy", "accuracy"), strict=True):
            known = [100 * choice[key] for choice in found if choice.get(key) is not None]
            if known:
                mean = sum(known) / len(known)
                drawn.append(axes.axhline(mean, color="black", ls=style, lw=1.1))
        if drawn:
            seeds = f", {len(found)} seeds" if len(found) > 1 else ""
            drawn[-1].set_label(f"{row_name(variant)} (test {mean:.2f} %){seeds}")
            handles.append(drawn[-1])
        if found and variant == "cntk":
            interval = wilson_interval(found[0]["accuracy"], evaluations[0]["n_test"])
            panels[1].axhspan(*(100 * end for end in interval), color="#eeeeee", zorder=0)
            handles.append(Patch(color="#eeeeee", label="95 % interval of CNTK"))
    return handles


def _draw_twins(
    panels: Sequence[Axes], twins: Sequence[Mapping[str, Any]], colour: str, shift: float
) -> None:
    """Draw the mean over the shuffled twins of a label term as a thin line."""
    points = pd.DataFrame([point for twin in twins for point in twin["curve"]])
    for axes, key in zip(panels, _KEYS, strict=True):
        if key in points:
            means = 100 * points[key].astype(float).groupby(points["label_weight"]).mean().dropna()
            look: dict[str, Any] = {"color": colour, "ls": _TWIN_DASHES, "lw": 0.8}
            axes.plot(means.index, means, transform=_moved(axes, shift), **look)


def _moved(axes: Axes, shift: float) -> Transform:
    """Return the places of an axis, some points to the right."""
    return axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)


def _chosen(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the honest protocol found, or the oracle's where it was not asked."""
    protocols = evaluation["protocols"]
    return protocols.get("honest") or protocols.get("oracle") or {}


def _draw_term(
    panels: Sequence[Axes], evaluation: Mapping[str, Any], style: Mapping[str, Any], shift: float
) -> Line2D:
    """Draw one label term's two curves, `shift` points to the right, and what was chosen."""
    points = sorted(evaluation["curve"], key=lambda point: point["label_weight"])
    for axes, key in zip(panels, _KEYS, strict=True):
        known = [(p["label_weight"], 100 * p[key]) for p in points if p.get(key) is not None]
        moved = _moved(axes, shift)
        axes.plot([w for w, _ in known], [a for _, a in known], transform=moved, **style)
        for protocol, mark in _MARKS.items():
            weight = (evaluation["protocols"].get(protocol) or {}).get("label_weight")
            chosen = [point for point in known if point[0] == weight]
            if chosen and not (protocol == "oracle" and key == "validation_accuracy"):
                axes.plot(*chosen[0], transform=moved, mec=style["color"], zorder=3, **mark)
            if chosen and (protocol, key) == ("honest", "test_accuracy"):
                weight, accuracy = chosen[0]
                span = [100 * end for end in wilson_interval(accuracy / 100, evaluation["n_test"])]
                axes.plot([weight] * 2, span, transform=moved, color=style["color"], lw=0.8)
    return Line2D([], [], label=row_name(evaluation["variant"]), **style)


def _limit_accuracy(panels: Sequence[Axes], at_zero: Sequence[Mapping[str, Any]]) -> None:
    """Cut off collapsed curves, which would press the interesting ones flat, and say so.

    As much is shown below the plain kernel as there is above it, and at least 5 points.
    """
    lines = [np.asarray(line.get_ydata(), float) for axes in panels for line in axes.lines]
    shown = np.concatenate([[], *lines])
    if not shown.size:
        return
    plain = min((100 * p[k] for p in at_zero for k in _KEYS if p.get(k) is not None), default=0)
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
    first: Mapping[str, Any],
    weights: Sequence[float],
    n_curves: int,
) -> None:
    sizes = f"{first['n_train']:,} train and {first['n_test']:,} test images"
    zca = first.get("data", {}).get("whitening")
    whitened = "" if zca is None else f", {whitened_by(zca)}"
    figure.suptitle(f"{first['case']}: {sizes}{whitened}")
    panels[0].set_ylabel("accuracy (%)")
    for axes, title in zip(panels, ("validation inside the train set", "test"), strict=True):
        axes.set_title(title)
        shifted = " (curves are shifted a little sideways)" if n_curves > 1 else ""
        axes.set_xlabel(f"label weight r{shifted}")
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


def _add_legend(figure: Figure, handles: list[Line2D | Patch], marked: Collection[str]) -> None:
    floor = figure.axes[0].get_ylim()[0]
    for handle in handles:
        # Handles of curves hold no data, those of reference lines are the lines themselves.
        if isinstance(handle, Line2D) and (np.asarray(handle.get_ydata(), float) < floor).any():
            handle.set_label(f"{handle.get_label()} (below)")
    for protocol, mark in _MARKS.items():
        if protocol in marked:
            label = f"{protocol} choice"
            handles.append(Line2D([], [], mec="#444444", label=label, **mark | {"ms": 8}))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def gram_figure(
    matrices: Mapping[str, NDArray],
    labels: NDArray,
    path: Destination,
    title: str = "",
    names: Sequence[str] | None = None,
) -> None:
    """Draw heat maps of Gram matrices whose rows and columns are sorted by class.

    Parameters
    ----------
    matrices : mapping of str to (n, n) array
        Heading -> Gram matrix, such as those of K, Z and K + lambda Z. The colours of each span
        the middle 96 % of its values off the diagonal. Above 500 images, blocks are averaged.
    labels : (n,) array
        One label an image; rows keep their order within a class.
    path : path-like
        Where the file goes, a PNG, PDF or SVG by its ending.
    title : str
        Above all maps.
    names : sequence of str, optional
        Names of the classes, in the order of their labels; the labels themselves if absent.

    Raises
    ------
    ValueError
        If there is no matrix, or one is not as long and wide as there are labels.
    """
    labels = np.asarray(labels)
    shapes = {heading: np.shape(matrix) for heading, matrix in matrices.items()}
    if not matrices or any(shape != (labels.size,) * 2 for shape in shapes.values()):
        raise ValueError(f"wanted (n, n) matrices of {labels.size} images, found {shapes}")
    classes, counts = np.unique(labels, return_counts=True)
    names = [str(label) for label in classes] if names is None else list(names)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts)
    is_same = labels[:, None] == labels
    told = {
        heading: f"{np.mean(m, where=is_same):.3g} on average within classes,"
        f" {np.mean(m, where=~is_same):.3g} between"
        for heading, m in matrices.items()
        if len(classes) > 1
    }
    with saving(path, 0.6 + 2.9 * len(matrices), 3.1, told) as figure:
        if title:
            figure.suptitle(title)
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axes, (heading, matrix) in zip(panels, matrices.items(), strict=True):
            _draw_heat_map(axes, np.asarray(matrix)[np.ix_(order, order)])
            axes.set_title(heading)
            for end in ends[:-1]:
                axes.axhline(end, color="white", lw=0.6)
                axes.axvline(end, color="white", lw=0.6)
            axes.grid(visible=False)
            middles = ends - counts / 2
            rotation = 90 if len(names) > 4 else 0
            axes.set_xticks(middles, names, rotation=rotation, fontsize=7)
            axes.set_yticks(middles, names if axes is panels[0] else [""] * len(names), fontsize=7)
            axes.tick_params(length=0)


def _draw_heat_map(axes: Axes, matrix: NDArray) -> None:
    n = len(matrix)
    shown = matrix.astype(float)
    if n > _MOST_PIXELS:
        # Blocks differ in size by at most one image.
        starts = np.linspace(0, n, _MOST_PIXELS, endpoint=False).astype(int)
        sizes = np.diff([*starts, n])
        sums = np.add.reduceat(np.add.reduceat(shown, starts, axis=0), starts, axis=1)
        shown = sums / np.outer(sizes, sizes)
    others = shown[~np.eye(len(shown), dtype=bool)]
    low, high = np.percentile(others, [2, 98]) if others.size else (0.0, 1.0)
    image = axes.imshow(
        shown, cmap="cividis", vmin=low, vmax=high, extent=(0, n, n, 0), interpolation="nearest"
    )
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.85, extend="both")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
