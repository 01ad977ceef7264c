"""Draw the figures of docs/how-it-works.md and docs/architectures.md: a few seconds.

    python docs/make_figures.py --path data --out docs

takes the real kernels of one class pair, deer and dog of CIFAR-10 at n = 1,000, as the figures
there; ``--source digits --pair 3 8`` takes digits, which need no download.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from numpy.typing import NDArray
from PIL import Image

import lantk
from lantk.data.splits import Split, describe, split_pair
from lantk.data.tasks import resolve_pair
from lantk.kernel.activations import activate, variance
from lantk.kernel.architecture import Activation
from lantk.kernel.bands import Band, plan_bands
from lantk.label_terms.base import image_vectors
from lantk.report.case_figures import gram_figure
from lantk.report.figure_style import GREY, STYLES, saving

_BLUE, _ORANGE = STYLES[0][0], STYLES[2][0]
_BINS, _FEWEST = 60, 1000  # of kernel values, and of pairs that make a dot
_SHOWN = 120


def main() -> None:
    """Draw every figure into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="cifar10")
    parser.add_argument("--path", help="folder of CIFAR-10 (default: data)")
    parser.add_argument("--pair", nargs=2, default=["deer", "dog"])
    parser.add_argument("--n-train", type=int, default=1000)
    parser.add_argument("--weight", type=float, default=0.01, help="label weight of the heat map")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    pair = resolve_pair(describe(args.source, args.path), args.pair)
    split = split_pair(args.source, args.path, pair, args.n_train, 2, seed=66)
    k = lantk.gram("chen2020", split.x_train)
    draw_kernel_values(k, split.y_train, f"{pair.slug}, n = {len(k):,}", args.out)
    draw_matrices(k, split, args.weight, args.out)
    draw_bands(args.out)
    draw_activations(args.out)


def draw_kernel_values(k: NDArray, y: NDArray, title: str, out: Path) -> None:
    """Draw what the label products are at each kernel value, and what Z makes of them."""
    off = ~np.eye(len(k), dtype=bool)
    edges = np.linspace(*np.quantile(k[off], [0.0005, 0.9995]), _BINS + 1)
    grid = (edges[1:] + edges[:-1]) / 2
    with saving(out / "kernel-values.png", 7.2, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        values, products = k[off], np.outer(y, y)[off].astype(float)
        counts = np.histogram(values, edges)[0]
        means = np.histogram(values, edges, weights=products)[0] / np.maximum(counts, 1)
        enough = counts >= _FEWEST
        left.plot(grid[enough], means[enough], ".", color=GREY, label="mean of y y' at this value")
        for i, labels in enumerate([y, *_shuffled(y)]):
            z, unit = _z_of(k, labels, grid)
            style = {"color": _BLUE if i == 0 else _ORANGE, "ls": "-" if i == 0 else "--"}
            name = ["Z of lantk-kr-v1", "the same, labels shuffled", None, None][i]
            left.plot(grid, z, label=name, **style)
            right.plot(grid, z / unit, label=name, **style)
        left.set(ylabel="label product", xlabel="kernel value K(x, x')")
        right.set(ylabel="Z, in units of its own mean |Z|", xlabel="kernel value K(x, x')")
        left.legend(loc="upper right")
        right.legend(loc="upper left")
        figure.suptitle(title)


def _shuffled(y: NDArray) -> list[NDArray]:
    return [np.random.default_rng(seed).permutation(y) for seed in range(3)]


def _z_of(k: NDArray, y: NDArray, values: NDArray) -> tuple[NDArray, float]:
    """Return Z of lantk-kr-v1 at kernel values, of which alone it is a function, and mean |Z|."""
    term = lantk.label_term("lantk-kr-v1").fit(k, y.astype(float))
    # A row has a value for each train image.
    rows = np.resize(values, (-(-len(values) // len(k)), len(k)))
    at_values = term.transform(rows).ravel()[: len(values)]
    return at_values, float(np.abs(term.train_block(k)).mean())


def draw_matrices(k: NDArray, split: Split, weight: float, out: Path) -> None:
    """Draw K, Z and K + lambda Z among train images, Z being that of lantk-fjlt-v1."""
    x = image_vectors(split.x_train)
    z = lantk.label_term("lantk-fjlt-v1").fit_transform(k, split.y_train.astype(float), x)
    factor = weight * np.abs(k).mean() / np.abs(z).mean()
    shown = slice(0, _SHOWN)
    matrices = {"K": k, "Z": z, f"K + lambda Z, r = {weight:g}": k + factor * z}
    gram_figure(
        {name: matrix[shown, shown] for name, matrix in matrices.items()},
        split.y_train[shown],
        out / "matrices.png",
        f"{split.slug}, lantk-fjlt-v1: the first {_SHOWN} of {len(k):,} train images",
        split.names,
    )
    _use_few_colours(out / "matrices.png")


def _use_few_colours(path: Path) -> None:
    """Write an image again with 256 colours: a third of its bytes."""
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def draw_bands(out: Path, n_train: int = 1000, n_test: int = 400, n_bands: int = 5) -> None:
    """Draw which entries each row band of the Gram matrices computes."""
    with saving(out / "bands.png", 3.6, 3.9) as figure:
        axes = figure.subplots()
        for i, band in enumerate(plan_bands(n_train, n_test, n_bands)):
            _draw_band(axes, i, band, n_train)
        axes.axhline(n_train, color="black", lw=0.8)
        axes.plot([0, n_train], [0, n_train], color="black", lw=0.6, ls=":")
        axes.set(xlim=(0, n_train), ylim=(n_train + n_test, 0), aspect="equal")
        axes.set(xlabel="train images", ylabel="train images, then test images")
        axes.grid(visible=False)
        figure.suptitle(f"{n_bands} bands of {n_train:,} + {n_test:,} images")


def _draw_band(axes: Axes, i: int, band: Band, n_train: int) -> None:
    start, stop, first = band
    # Of the square on the diagonal one half is computed and mirrored.
    square = [(first, start), (stop, stop), (first, stop)] if start < n_train else []
    corners = [(first, start), (n_train, start), (n_train, stop), (stop, stop)]
    if not square:
        corners[3] = (first, stop)
    color = STYLES[i % len(STYLES)][0]
    axes.add_patch(Polygon(corners, facecolor=color, edgecolor="white", alpha=0.75))
    if square:
        axes.add_patch(Polygon(square, facecolor=color, alpha=0.2))
    entries = f"{i + 1}: {band.n_entries(n_train):,} entries"
    axes.text(n_train * 0.98, start + (stop - start) * 0.22, entries, ha="right", va="center")


def draw_activations(out: Path) -> None:
    """Draw what each activation makes of the cosine of an angle, and what it multiplies T by."""
    shown = {
        "relu": (Activation("relu"), 1.0),
        "leaky_relu, slope 0.3": (Activation("leaky_relu", 0.3), 1.0),
        "gelu, v = 1": (Activation("gelu"), 1.0),
        "erf, v = 1": (Activation("erf"), 1.0),
        "erf, v = 10": (Activation("erf"), 10.0),
    }
    angle = np.linspace(0, np.pi, 361)
    with saving(out / "activations.png", 7.2, 2.9) as figure:
        left, right = figure.subplots(1, 2)
        degrees = np.degrees(angle)
        left.plot(degrees, np.cos(angle), color="black", ls=":", label="none: the cosine")
        for i, (name, (activation, v)) in enumerate(shown.items()):
            s, slope = activate(activation, v * np.cos(angle), 1.0, v, v, angle == 0)
            style = {"color": STYLES[i % len(STYLES)][0], "ls": "-" if i % 2 == 0 else "--"}
            left.plot(degrees, s / variance(activation, v), label=name, **style)
            right.plot(degrees, slope / slope[0], **style)
        left.set(ylabel="S behind it, in parts of the variance")
        right.set(ylabel="factor of T, in parts of that at 0", ylim=(0, None))
        for axes in (left, right):
            axes.set(xlabel="angle of two patches, in degrees", xticks=range(0, 181, 45))
        figure.legend(loc="outside lower center", ncols=6, columnspacing=1.2, handlelength=1.6)
    _use_few_colours(out / "activations.png")


if __name__ == "__main__":
    main()
