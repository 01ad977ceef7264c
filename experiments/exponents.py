"""How the error of kernel regression falls with n, from disjoint subsets of the train images.

    python experiments/exponents.py --split deer-dog.npz --gram deer-dog/*.json --out exponents.csv

A curve over n from one nested draw has one point an n, so what another draw would give is not in
its exponent's interval. Of 10,000 train images there are 20 disjoint subsets of 500, 10 of 1,000, 5
of 2,000, 2 of 5,000 and the whole; each is fitted by itself, from one Gram matrix. The first of
each n is that of the nested draw.

Nothing is chosen: there is CNTK, CNTK with an unpenalised constant, and LANTK-KR-V1 at a label
weight fixed beforehand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lantk.cli.files import load_gram
from lantk.cli.progress import showing_progress
from lantk.errors import LantkError
from lantk.files import writing
from lantk.label_terms.registry import label_term
from lantk.labels import decide
from lantk.regression.fits import Member, fit_paths, score_together
from lantk.regression.statistics import FEWEST_POINTS, Interval
from lantk.solvers.factors import factorize_kernel

_GROUPS = 10
"""Of test images, which are left out in turn."""


def disjoint_subsets(y: NDArray, n: int) -> list[NDArray]:
    """Return the rows of as many disjoint subsets of n as there are, half of each class, sorted.

    `y` (n_train,) are labels -1/+1. Subsets are runs of the train images, whose order is random.
    """
    columns = [np.flatnonzero(y == label) for label in (-1, 1)]
    half = n // 2
    return [
        np.sort(np.concatenate([column[start : start + half] for column in columns]))
        for start in range(0, min(map(len, columns)) - half + 1, half)
    ]


def test_groups(y: NDArray) -> NDArray:
    """Return the group of each test image (n,), each with its share of both classes."""
    groups = np.empty(len(y), int)
    for label in (-1, 1):
        own = np.flatnonzero(y == label)
        groups[own] = np.arange(len(own)) % _GROUPS
    return groups


def rows_of(
    drawn: Any, k: NDArray, k_test: NDArray, ns: Sequence[int], label_weight: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each n, subset and variant, from the smallest n to the largest.

    `wrong` are the numbers of wrong test images in each group.
    """
    y, y_test = drawn.y_train.astype(float), drawn.y_test
    weights, make = [label_weight], partial(label_term, "lantk-kr-v1")
    members = [
        Member("cntk"),
        Member("cntk-intercept", has_intercept=True),
        Member("lantk-kr-v1", weights, make_term=make),
    ]
    groups = test_groups(y_test)
    for n in sorted(ns):
        for draw, rows in enumerate(disjoint_subsets(y, n)):
            is_whole = len(rows) == len(y)
            own, own_test = (k, k_test) if is_whole else (k[np.ix_(rows, rows)], k_test[:, rows])
            paths = fit_paths(own, y[rows], members, {None: y[rows]}, factorize_kernel(own))
            for member, (scores, _) in zip(members, score_together(paths, own_test), strict=True):
                is_wrong = decide(scores)[0] != y_test
                wrong = np.bincount(groups[is_wrong], minlength=_GROUPS)
                yield {
                    "task": drawn.slug,
                    "n_train": n,
                    "draw": draw,
                    "variant": member.name,
                    "label_weight": label_weight if member.make_term else None,
                    "n_test": len(y_test),
                    "accuracy": 1 - is_wrong.mean(),
                    "wrong": " ".join(map(str, wrong)),
                }


def wrong_of(table: pd.DataFrame) -> dict[int, NDArray]:
    """Return n -> numbers of wrong test images (draws, groups), of one task and variant."""
    table = table.sort_values(["n_train", "draw"])
    return {
        int(n): np.array([line.split() for line in group["wrong"]], float)
        for n, group in table.groupby("n_train")
    }


def exponent(wrong: Mapping[int, NDArray], other: Mapping[int, NDArray] | None = None) -> Interval:
    """Return b in error ~ n^b, with its standard error over draws and test images.

    b is the least-squares slope of log(mean error over draws) on log(n), sum_n c_n log(m_n). With
    d_n draws of n, whose relative errors e / m_n vary by s^2, the same at all n (pooled: the one
    draw of the largest n shows none), the draws' part of the variance is sum_n c_n^2 s^2 / d_n. The
    part of the test images, the same for all n, is that of the jackknife that leaves out a group at
    a time. Degrees of freedom are Satterthwaite's.

    Parameters
    ----------
    wrong : mapping of int to (draws, groups) array
        What `wrong_of` returns.
    other : mapping, optional
        Of a variant on the same subsets and test images, whose b is subtracted.

    Notes
    -----
    The subsets of one n are disjoint, but those of different n share images: their errors go up and
    down together, so that a slope varies less than is said here.

    References
    ----------
    Wolter, "Introduction to Variance Estimation" (2007), chapter 4, for the delete-a-group
    jackknife; Satterthwaite (1946).
    """
    ns = [n for n in wrong if other is None or n in other]
    if len(ns) < FEWEST_POINTS:
        return Interval()
    x = np.log(ns)
    slopes = (x - x.mean()) / np.square(x - x.mean()).sum()
    terms = [(1, wrong)] if other is None else [(1, wrong), (-1, other)]

    def fitted(kept: NDArray) -> float:
        means = [[of[n][:, kept].sum(axis=1).mean() for n in ns] for _, of in terms]
        return float(
            sum(sign * slopes @ np.log(m) for (sign, _), m in zip(terms, means, strict=True))
        )

    n_groups = wrong[ns[0]].shape[1]
    every = np.arange(n_groups)
    squares, n_free, of_draws = 0.0, 0, 0.0
    for n, slope in zip(ns, slopes, strict=True):
        errors = [sign * of[n].sum(axis=1) / of[n].sum(axis=1).mean() for sign, of in terms]
        relative = np.sum(errors, axis=0)
        squares += float(np.square(relative - relative.mean()).sum())
        n_free += len(relative) - 1
        of_draws += slope**2 / len(relative)
    of_draws *= squares / n_free if n_free else np.nan
    left_out = np.array([fitted(every[every != group]) for group in every])
    of_images = float((n_groups - 1) * left_out.var())
    variance = of_draws + of_images
    below = of_draws**2 / max(n_free, 1) + of_images**2 / (n_groups - 1)
    freedom = variance**2 / below if below else np.inf
    return Interval(fitted(every), variance**0.5, float(freedom))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of a case as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--split", type=Path, required=True, help="of two classes")
    parser.add_argument("--gram", type=Path, nargs="+", required=True, help="what gram wrote")
    parser.add_argument("--n-train", type=int, help="train images (default: all)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="N",
        default=[500, 1000, 2000, 5000, 10000],
        help="train images of a subset (default: 500 1000 2000 5000 10000)",
    )
    parser.add_argument(
        "--label-weight", type=float, default=0.1, help="of lantk-kr-v1 (default: 0.1)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write; rows of other tasks are kept"
    )
    args = parser.parse_args(argv)
    try:
        drawn, k, k_test, _ = load_gram(args)
        if not drawn.is_binary:
            parser.error(f"{args.split} has {len(drawn.names)} classes: wanted a split of two")
        most = 2 * min(drawn.train_counts)
        if any(n < 2 or n % 2 or n > most for n in args.sizes):
            parser.error(f"--sizes {args.sizes}: wanted even numbers up to {most}")
        total = sum(len(disjoint_subsets(drawn.y_train, n)) for n in args.sizes)
        rows: list[dict[str, Any]] = []
        with showing_progress("subsets") as progress:
            for row in rows_of(drawn, k, k_test, args.sizes, args.label_weight):
                rows.append(row)
                progress(len({(r["n_train"], r["draw"]) for r in rows}), total)
    except LantkError as error:
        parser.error(str(error))
    found = pd.DataFrame(rows)
    if args.out.exists():
        there = pd.read_csv(args.out)
        found = pd.concat([there[there["task"] != drawn.slug], found])
    with writing(args.out) as temporary:
        found.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
