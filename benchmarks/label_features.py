"""Measure least squares on pair features: seconds and peak memory of fit and train block.

    python benchmarks/label_features.py [--train 2000 5000 10000] [--threads 2] [--path FOLDER]

Each size and label term is measured in a process of its own, whose peak resident memory the system
records; what it holds before the fit (libraries, images, kernel) is taken off, and so is Z. Images
are random, or deer and dog where FOLDER holds `cifar-10-batches-bin` (principal components of
random images take longer to find). The kernel is a linear one: no time depends on its values.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench
import numpy as np
from memory import MIB, peak_bytes

from lantk.data import describe, resolve_pair, split_pair
from lantk.label_terms.base import image_vectors
from lantk.label_terms.registry import label_term

VARIANTS = ("lantk-fjlt-v1", "lantk-fjlt-v2", "lantk-fjlt-v2-text")
HEADER = ("label term", "n", "fit, s", "train block, s", "beyond K, MiB", "beyond K and Z, MiB")


def read_vectors(n: int, path: str | None) -> np.ndarray:
    """Return the vectors of n images, 3 x 32 x 32 and a constant 1."""
    if path is None:
        return image_vectors(bench.make_images(n))
    pair = resolve_pair(describe("cifar10", path), ["deer", "dog"])
    return image_vectors(split_pair("cifar10", path, pair, n, 2, 66).x_train)


def take(variant: str, n: int, repeats: int, path: str | None) -> dict[str, Any]:
    """Fit and apply one label term; return the seconds, and the memory in bytes."""
    small = image_vectors(bench.make_images(60))
    y = np.where(np.arange(n) % 2, 1.0, -1.0)
    label_term(variant).fit_transform(small @ small.T, y[:60], small)
    x = read_vectors(n, path)
    k = np.empty((n, n), np.float32)
    for start in range(0, n, 500):
        k[start : start + 500] = x[start : start + 500] @ x.T
    # Forget the peak so far: from here on it is what is held now, or more.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    term = label_term(variant)
    fit = [bench.seconds_of(lambda: term.fit(k, y, x)) for _ in range(repeats)]
    beyond_fit = peak_bytes() - before
    block = [bench.seconds_of(lambda: term.train_block(k, x)) for _ in range(repeats)]
    beyond_block = peak_bytes() - before - 8 * n * n
    found = {"variant": variant, "n": n, "fit": fit, "train_block": block}
    return found | {"beyond_fit": beyond_fit, "beyond_train_block": beyond_block}


def run(threads: int, **arguments: Any) -> dict[str, Any]:
    """Return what `take` finds in a new process."""
    command = [sys.executable, __file__, "--take", json.dumps(arguments)]
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def table_row(found: dict[str, Any]) -> list[str]:
    """Return the cells of one size and label term."""
    seconds = (bench.format_range(found[key], ".2f") for key in ("fit", "train_block"))
    memory = (f"{found[key] / MIB:,.0f}" for key in ("beyond_fit", "beyond_train_block"))
    return [found["variant"], f"{found['n']:,}", *seconds, *memory]


def measure(
    sizes: Sequence[int],
    output: Path,
    *,
    repeats: int = 3,
    threads: int = 2,
    path: str | None = None,
    variants: Sequence[str] = VARIANTS,
) -> list[dict[str, Any]]:
    """Run every size and label term; print and save the table."""
    machine = bench.describe_machine(threads)
    run(threads, variant=VARIANTS[-1], n=60, repeats=1, path=path)  # compiles
    results = []
    for n in sizes:
        for variant in variants:
            print(f"{variant}, n = {n} ...", file=sys.stderr, flush=True)
            results.append(run(threads, variant=variant, n=n, repeats=repeats, path=path))
    markdown = bench.save_record(
        output,
        "label-features",
        machine=machine,
        text="# Least squares on pair features, 3,073 coordinates\n\n"
        f"Median (quartiles) of {repeats}; peak memory while fitting and applying.",
        header=HEADER,
        rows=[table_row(found) for found in results],
        raw=results,
    )
    print(markdown)
    return results


def main() -> None:
    """Measure the sizes asked for, or be one of the processes measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, nargs="+", default=[2000, 5000, 10000])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--path", help="folder that holds cifar-10-batches-bin")
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    parser.add_argument("--take", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.take:
        print(json.dumps(take(**args.take)))
        return
    bench.bind(args.threads)
    measure(
        args.train,
        args.output,
        repeats=args.repeats,
        threads=args.threads,
        path=args.path,
        variants=args.variants,
    )


if __name__ == "__main__":
    main()
