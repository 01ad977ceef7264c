"""Measure a path of label weights against one factorization a weight, side by side.

    python benchmarks/weight_path.py PATH [--train 2000] [--test 400] [--direct 2]

PATH is the folder that holds `cifar-10-batches-bin`. For each label term, deer against dog: the
seconds of the path (one Cholesky factorization of K included), those of the same weights solved one
by one (extrapolated from `--direct` of them, timed between the paths), their ratio, and the largest
difference of the scores.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from lantk.data import describe, resolve_pair, split_pair
from lantk.kernel.gram import gram
from lantk.label_terms.base import image_vectors
from lantk.label_terms.registry import label_term
from lantk.solvers.additions import Dense, add_label_term
from lantk.solvers.direct import CholeskyFactor, GramFactor
from lantk.solvers.path import solve_path

WEIGHTS = np.array([0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3])
VARIANTS = ("lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2")


def main() -> None:
    """Print one line a label term, and the ratio over all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--direct", type=int, default=2)
    args = parser.parse_args()
    pair = resolve_pair(describe("cifar10", args.path), ["deer", "dog"])
    split = split_pair("cifar10", args.path, pair, args.train, args.test, 66)
    x, x_test = split.x_train, split.x_test
    k = gram("chen2020", x, device="cpu")
    k_test = gram("chen2020", x_test, x, device="cpu").astype(float)
    y, vectors, vectors_test = split.y_train.astype(float), image_vectors(x), image_vectors(x_test)
    print(f"deer-dog, n = {args.train}, {len(WEIGHTS)} weights, {os.cpu_count()} cores", flush=True)
    totals = np.zeros(2)
    for variant in VARIANTS:
        term = label_term(variant).fit(k, y, vectors)
        z, z_test = term.train_block(k, vectors), term.transform(k_test, vectors_test)
        factors = WEIGHTS * np.abs(k).mean() / np.abs(z).mean()
        start = time.perf_counter()
        path = solve_path(k, [Dense(z)], [factors], y, cholesky=CholeskyFactor(k))
        seconds = time.perf_counter() - start
        each, difference = [], 0.0
        for i in np.linspace(1, len(WEIGHTS) - 1, args.direct).astype(int):
            start = time.perf_counter()
            dual = GramFactor(add_label_term(k, Dense(z), factors[i])).solve(y)
            each.append(time.perf_counter() - start)
            apart = (k_test + factors[i] * z_test) @ (dual - path.dual[0, i, :, 0])
            difference = max(difference, float(np.abs(apart).max()))
        direct = len(WEIGHTS) * float(np.median(each))
        totals += seconds, direct
        print(
            f"{variant:14s} path {seconds:7.2f} s ({path.n_steps[0]} steps,"
            f" {path.n_factorizations[0]} factorizations), one by one {direct:7.2f} s,"
            f" ratio {direct / seconds:5.1f}; residual {path.relative_residuals.max():.0e},"
            f" scores differ by {difference:.0e}",
            flush=True,
        )
    print(f"all together: ratio {totals[1] / totals[0]:.1f}")


if __name__ == "__main__":
    main()
