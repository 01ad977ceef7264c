"""Show how our time grows with the entries, the depth and the size of the images.

    python benchmarks/growth.py [--threads 2] [--repeats 3] [--panel entries ...] [--output FOLDER]

Each panel changes one of them by a factor of 16 or more, for the flatten readout and for global
average pooling, and fits the exponent of a power law to the medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lantk import gram


@dataclass(frozen=True)
class Series:
    """Gram matrices whose time grows with one thing, all else equal."""

    panel: str
    readout: str
    expected: float
    """The exponent that the arithmetic has."""
    n_convs: tuple[int, ...] = (3,)
    sides: tuple[int, ...] = (32,)
    shapes: tuple[tuple[int, int], ...] = ((0, 0),)
    """(rows, columns) of each matrix; columns 0 stands for a symmetric one."""

    def points(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what grows, and the arguments of `seconds`, for each matrix."""
        found = []
        for n_convs in self.n_convs:
            for side in self.sides:
                for n_rows, n_columns in self.shapes:
                    n = n_rows * n_columns or n_rows * (n_rows + 1) // 2
                    size = {"entries": n, "convolutions": n_convs, "pixels": side**2}[self.panel]
                    layers = [{"conv": {"size": 3}}, "relu"] * n_convs + [self.readout, "dense"]
                    options = {"layers": layers, "side": side, "shape": (n_rows, n_columns)}
                    found.append((size, options))
        return found


FLATTEN, GAP = "flatten", "global_average_pool"
SERIES = (
    Series("entries", FLATTEN, 1, shapes=((384, 0), (768, 0), (1536, 0), (3072, 0))),
    Series("entries", GAP, 1, n_convs=(2,), shapes=((2, 96), (4, 96), (8, 96), (16, 96), (32, 96))),
    Series("convolutions", FLATTEN, 1, n_convs=(2, 4, 8, 16, 32), shapes=((480, 0),)),
    Series("convolutions", GAP, 1, n_convs=(2, 4, 8, 16, 32), shapes=((2, 96),)),
    Series("pixels", FLATTEN, 1, sides=(8, 12, 16, 24, 32, 48), shapes=((768, 0),)),
    Series("pixels", GAP, 2, n_convs=(2,), sides=(8, 12, 16, 24, 32), shapes=((16, 96),)),
)


def seconds(layers: list[Any], side: int, shape: tuple[int, int], threads: int) -> float:
    """Return the seconds of one Gram matrix."""
    x = bench.make_images(sum(shape), side)
    sides = (x[: shape[0]], x[shape[0] :]) if shape[1] else (x,)
    return bench.seconds_of(lambda: gram(layers, *sides, threads=threads, device="cpu"))


def run_series(series: Series, threads: int, repeats: int) -> dict[str, Any]:
    """Time every matrix of a series, the repeats in turns; fit the exponent to the medians."""
    points = series.points()
    # Compiles, or reads what was compiled.
    seconds(**points[0][1] | {"shape": (1, 0)}, threads=threads)
    times = [[seconds(**options, threads=threads) for _, options in points] for _ in range(repeats)]
    sizes, medians = np.array([size for size, _ in points]), np.median(times, axis=0)
    logs = np.log(sizes), np.log(medians)
    return {
        "panel": series.panel,
        "readout": series.readout,
        "expected": series.expected,
        "exponent": float(np.polyfit(*logs, 1)[0]),
        "last_exponent": float(np.diff(logs[1])[-1] / np.diff(logs[0])[-1]),
        "sizes": sizes.tolist(),
        "seconds": np.transpose(times).tolist(),
        "first": points[0][1],
    }


HEADER = ("time against", "readout", "from - to", "factor", "expected", "exponent", "last step")


def table_row(found: dict[str, Any]) -> list[str]:
    """Return the cells of a series."""
    sizes = found["sizes"]
    return [
        found["panel"],
        found["readout"],
        f"{sizes[0]:,} - {sizes[-1]:,}",
        f"{sizes[-1] / sizes[0]:.0f}",
        f"{found['expected']}",
        f"{found['exponent']:.2f}",
        f"{found['last_exponent']:.2f}",
    ]


def list_seconds(found: dict[str, Any]) -> str:
    """Return every size with the seconds of its repeats."""
    pairs = zip(found["sizes"], found["seconds"], strict=True)
    texts = [f"{size:,}: {bench.format_range(times, '.3g')}" for size, times in pairs]
    return f"* {found['panel']}, {found['readout']}, seconds: {'; '.join(texts)}."


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the times of each panel beside lines of the expected slope through the last point."""
    names = list(dict.fromkeys(found["panel"] for found in results))
    with bench.drawing(path, len(names), figsize=(2.6 * len(names), 3.2)) as (figure, panels):
        handles: dict[str, Any] = {}
        for axes, name in zip(panels, names, strict=True):
            some = [found for found in results if found["panel"] == name]
            for found in some:
                handles |= draw_series(axes, found)
            exponents = (
                f"{found['readout'].replace(GAP, 'pooling')} {found['exponent']:.2f}"
                f" (expected {found['expected']:g})"
                for found in some
            )
            axes.set_title("exponents\n" + "\n".join(exponents))
            axes.set_xscale("log")
            axes.set_yscale("log")
            if name == "convolutions":
                axes.set_xticks(some[0]["sizes"], [str(size) for size in some[0]["sizes"]])
                axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(name)
        panels[0].set_ylabel("seconds")
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)


def draw_series(axes: Axes, found: dict[str, Any]) -> dict[str, Any]:
    """Draw the medians of a series, bars from the fastest to the slowest; return the handles."""
    is_flat = found["readout"] == FLATTEN
    sizes, medians = np.array(found["sizes"]), np.median(found["seconds"], axis=1)
    slope = medians[-1] * (sizes / sizes[-1]) ** found["expected"]
    [line] = axes.plot(sizes, slope, color=bench.GREY, ls=":")
    bars = axes.errorbar(
        sizes,
        medians,
        np.abs(np.quantile(found["seconds"], (0, 1), axis=1) - medians),
        color=bench.BLUE if is_flat else bench.ORANGE,
        marker="o" if is_flat else "s",
        ls="-" if is_flat else "--",
        capsize=2,
    )
    name = "flatten" if is_flat else "global average pooling"
    return {name: bars, "expected slope": line}


def measure(
    series: Sequence[Series], threads: int, repeats: int, output: Path
) -> list[dict[str, Any]]:
    """Run all series; print and save the table and the figure."""
    machine = bench.describe_machine(threads)
    results = []
    for one in series:
        print(f"{one.panel}, {one.readout} ...", file=sys.stderr, flush=True)
        results.append(run_series(one, threads, repeats))
    markdown = bench.save_record(
        output,
        "growth",
        machine=machine,
        text="# Growth of the time of a Gram matrix, float32\n\nExponents of a power law, fitted"
        f" to the medians of {repeats} repeats, and between the two largest. Small matrices are"
        " dear (they fill neither threads nor lanes), which makes exponents smaller; planes beyond"
        " the cache of a core make them larger.\n\n" + "\n".join(map(list_seconds, results)),
        header=HEADER,
        rows=[table_row(found) for found in results],
        raw=results,
    )
    draw(results, output / "growth.png")
    print(markdown)
    return results


def main() -> None:
    """Run the panels asked for."""
    names = list(dict.fromkeys(series.panel for series in SERIES))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--panel", action="append", choices=names, help="one or more; default all")
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    args = parser.parse_args()
    bench.bind(args.threads)
    series = [one for one in SERIES if one.panel in (args.panel or names)]
    measure(series, args.threads, args.repeats, args.output)


if __name__ == "__main__":
    main()
