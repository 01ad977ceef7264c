"""Show that least squares on a sketch agree with exact ones, the closer the more rows it has.

    python benchmarks/sketch.py [--path FOLDER] [--train 400] [--seeds 20] [--output FOLDER]

For each label term and epsilon: the difference of Z from that of exact least squares, root mean
square over all pairs of train images, over several seeds of the sketch, beside sqrt(p / k). The
images are deer and dog where FOLDER holds `cifar-10-batches-bin`, else the digits 3 and 8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench
import numpy as np

from lantk.data.splits import describe, split_pair
from lantk.data.tasks import resolve_pair
from lantk.kernel.gram import gram
from lantk.label_terms.base import image_vectors
from lantk.label_terms.feature_sets import FEATURE_SETS
from lantk.label_terms.sketch import draw_projection, sketch

TERMS = {"lantk-fjlt-v1": ("global",), "lantk-fjlt-v2": ("global", "pca-release")}
EPSILONS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
PUBLISHED = 0.01
HEADER = ("label term", "epsilon", "k", "rms difference of Z", "sqrt(p/k)", "as derived", "rms Z")


def read_columns(n: int, path: str | None, sets: Sequence[str]) -> np.ndarray:
    """Return the features and, last, the label products of all n^2 pairs, (p + 1, n^2)."""
    source, names = ("digits", ["3", "8"]) if path is None else ("cifar10", ["deer", "dog"])
    split = split_pair(source, path, resolve_pair(describe(source, path), names), n, 2, 66)
    k, x = gram("chen2020", split.x_train, device="cpu"), image_vectors(split.x_train)
    y = split.y_train.astype(float)
    learned = {key: value for s in sets for key, value in FEATURE_SETS[s].fit(x).items()}
    blocks = [FEATURE_SETS[s](x, learned).features(k, x) for s in sets]
    return np.concatenate([*blocks, np.outer(y, y)[None]]).reshape(-1, n * n)


def solve(columns: np.ndarray) -> np.ndarray:
    """Return the least-squares coefficients of the last column on the others."""
    features, target = columns[:-1], columns[-1]
    scale = np.linalg.norm(features, axis=1)
    return np.linalg.lstsq((features / scale[:, None]).T, target, rcond=1e-6)[0] / scale


def root_mean_square(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def compare(
    term: str, n: int, path: str | None, epsilons: Sequence[float], seeds: int
) -> list[dict[str, Any]]:
    """Return, for every epsilon, the differences of one label term over the seeds."""
    columns = read_columns(n, path, TERMS[term])
    p, exact = len(columns) - 1, solve(columns)
    z = exact @ columns[:-1]
    results = []
    for epsilon in epsilons:
        differences = []
        for seed in range(seeds):
            projection = draw_projection(n * n, p + 1, seed=seed, epsilon=epsilon)
            fitted = solve(sketch([columns], projection, p + 1))
            differences.append(root_mean_square((fitted - exact) @ columns[:-1]))
        bound = float(np.sqrt(p / projection.n_sketched))
        found = {"term": term, "epsilon": epsilon, "k": projection.n_sketched, "p": p, "n": n}
        found |= {"differences": differences, "bound": bound, "rms_z": root_mean_square(z)}
        found["residual"] = root_mean_square(z - columns[-1])
        found["derived"] = bound * float(np.sqrt(1 + 3 / np.log(p + 1) ** 2)) * found["residual"]
        results.append(found)
    return results


def draw(results: Sequence[dict[str, Any]], path: Path, images: str) -> None:
    """Draw difference against rows of the sketch, a panel a label term."""
    with bench.drawing(path, len(TERMS), figsize=(7.2, 3.2), sharey=True) as (figure, panels):
        for panel, term in zip(panels, TERMS, strict=True):
            found = [one for one in results if one["term"] == term]
            k = np.array([one["k"] for one in found])
            low, middle, high = np.array(
                [np.quantile(one["differences"], (0, 0.5, 1)) for one in found]
            ).T
            p, rms_z = found[0]["p"], found[0]["rms_z"]
            panel.plot(k, [one["bound"] for one in found], color="black", label="$\\sqrt{p/k}$")
            panel.plot(
                k,
                [one["derived"] for one in found],
                color=bench.ORANGE,
                linestyle="--",
                label=r"$\sqrt{p/k}\,\sqrt{1+3/\ln^2 (p+1)}$ of the residual",
            )
            panel.errorbar(
                k,
                middle,
                (middle - low, high - middle),
                color=bench.BLUE,
                linestyle="none",
                marker="o",
                capsize=2,
                label=f"sketch: median and range of {len(found[0]['differences'])} seeds",
            )
            panel.axhline(rms_z, color=bench.GREY, linestyle=":", label="rms of Z itself")
            published = next((one["k"] for one in found if one["epsilon"] == PUBLISHED), None)
            if published is not None:
                panel.axvline(published, color=bench.GREY, linewidth=0.8)
                panel.annotate(
                    f"published:\n$\\epsilon$ = {PUBLISHED}, k = {published:,}",
                    (published, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(-4, -4),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                )
            panel.set(xscale="log", yscale="log", xlabel="rows k of the sketch")
            panel.set_title(f"{term}, p = {p} features", loc="left")
        panels[0].set_ylabel("rms difference from exact Z\n(label products are -1 and +1)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1.2)
        n = results[0]["n"]
        figure.suptitle(f"{images}: least squares over {n:,} × {n:,} pairs of images, sketched")


def measure(
    n: int,
    output: Path,
    *,
    path: str | None = None,
    epsilons: Sequence[float] = EPSILONS,
    seeds: int = 20,
    threads: int = 2,
) -> list[dict[str, Any]]:
    """Compare both label terms; print and save the table and the figure."""
    machine = bench.describe_machine(threads)
    images = "Digits 3 and 8" if path is None else "CIFAR-10, deer and dog"
    results = []
    for term in TERMS:
        print(f"{term} ...", file=sys.stderr, flush=True)
        results += compare(term, n, path, epsilons, seeds)
    rows = []
    for one in results:
        cells = [f"{one[key]:.4f}" for key in ("bound", "derived", "rms_z")]
        found = bench.format_range(one["differences"], ".4f")
        rows.append([one["term"], f"{one['epsilon']:g}", f"{one['k']:,}", found, *cells])
    markdown = bench.save_record(
        output,
        "sketch",
        machine=machine,
        text=f"# Sketched against exact least squares\n\n{images}, n = {n:,}, `chen2020`; median"
        f" (quartiles) of {seeds} seeds.",
        header=HEADER,
        rows=rows,
        raw=results,
    )
    draw(results, output / "sketch.png", images)
    print(markdown)
    return results


def main() -> None:
    """Compare at the size asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", help="folder that holds cifar-10-batches-bin")
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    args = parser.parse_args()
    measure(args.train, args.output, path=args.path, seeds=args.seeds)


if __name__ == "__main__":
    main()
