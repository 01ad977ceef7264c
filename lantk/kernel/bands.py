"""Row bands: the Gram matrices of a split in pieces that are jobs and files of their own.

The rows of a split are its train images, then its test images; the columns are the train images. A
band is a run of rows. Of the symmetric train block each pair of images is computed once: a band of
train rows [a, b) holds the columns from a on, and what lies left of them is the mirror image of
earlier bands. Where one band holds everything, it holds every column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.plan import make_plans

# What "auto" makes one band, in visits of `Plan.n_visits`: ten minutes of two CPU cores, one minute
# of a GPU.
_VISITS_PER_BAND = {"cpu": 1e12, "cuda": 3e13}


class BandError(LantkError):
    """Bands that cannot be made or put together; the message says what to change."""


class Band(NamedTuple):
    """Rows [start, stop) of a split, and the first column that they hold."""

    start: int
    stop: int
    first: int

    def shape(self, n_train: int) -> tuple[int, int]:
        """Return the shape of the band's array."""
        return self.stop - self.start, n_train - self.first

    def n_entries(self, n_train: int) -> int:
        """Return how many different entries the band computes."""
        n_rows, n_columns = self.shape(n_train)
        n = max(min(self.stop, n_train) - self.start, 0)
        return n_rows * n_columns - n * (n - 1) // 2


def count_visits(architectures: Sequence[Any], height: int, width: int) -> int:
    """Return how many pairs of positions one entry visits: what it costs, whatever the machine.

    Layers that several architectures share count once, as `lantk.gram_taps` computes them.
    """
    networks = [parse_architecture(architecture) for architecture in architectures]
    return sum(plan.n_visits for plan in make_plans(networks, "ntk", height, width))


def count_bands(n_train: int, n_test: int, visits: int, device: str) -> int:
    """Return the number of bands that ``bands: auto`` means: one, unless a job is long.

    `visits` is the cost of an entry, from `count_visits`. The device ``"auto"`` counts as the CPU,
    so that the plan does not depend on the machine that makes it.
    """
    n_entries = n_train * (n_train + 1) // 2 + n_test * n_train
    per_band = _VISITS_PER_BAND["cuda" if device == "cuda" else "cpu"]
    return min(math.ceil(n_entries * visits / per_band), max(n_train, 1))


def plan_bands(n_train: int, n_test: int, n_bands: int) -> list[Band]:
    """Cut the rows of a split into bands of about equal numbers of entries to compute.

    With two or more, no band holds both train and test rows.

    Raises
    ------
    BandError
        If there are more bands than rows, or none.

    Examples
    --------
    >>> plan_bands(100, 20, 1)
    [Band(start=0, stop=120, first=0)]
    >>> [band.shape(100) for band in plan_bands(100, 20, 3)]
    [(29, 100), (71, 71), (20, 100)]
    """
    n_rows = n_train + n_test
    if n_train < 1 or not 1 <= n_bands <= n_rows:
        raise BandError(
            f"{n_bands} bands for {n_rows} rows ({n_train} train + {n_test} test images): wanted"
            f" train images, and 1 to {n_rows or 1} bands"
        )
    if n_bands == 1:
        return [Band(0, n_rows, 0)]
    triangle, rectangle = n_train * (n_train + 1) / 2, n_test * n_train
    share = round(n_bands * rectangle / (triangle + rectangle))
    n_lower = max(1, n_bands - n_train, min(share, n_test, n_bands - 1)) if n_test else 0
    n_upper = n_bands - n_lower
    # Rows from the bottom of a triangle grow like the square root of its entries.
    parts = np.sqrt(np.arange(n_upper, -1, -1) / n_upper)
    cuts = _spread(np.rint(n_train * (1 - parts)).astype(int), n_train)
    upper = [Band(a, b, a) for a, b in pairwise(cuts)]
    cuts = [n_train + n_test * i // max(n_lower, 1) for i in range(n_lower + 1)]
    lower = [Band(a, b, 0) for a, b in pairwise(cuts)]
    return upper + lower


def _spread(cuts: NDArray[np.int64], n: int) -> list[int]:
    """Return the cuts of n rows with at least one row between any two."""
    spread = cuts.tolist()
    for i in range(1, len(spread)):
        spread[i] = max(spread[i], spread[i - 1] + 1)
    spread[-1] = n
    for i in range(len(spread) - 2, -1, -1):
        spread[i] = min(spread[i], spread[i + 1] - 1)
    return spread


def name_bands(n_bands: int) -> list[str]:
    """Return the names of the bands, as in file names: ``1-of-3``, ``2-of-3``, ``3-of-3``."""
    return [f"{i}-of-{n_bands}" for i in range(1, n_bands + 1)]


def find_band(name: str, n_train: int, n_test: int) -> Band:
    """Return the band that a name such as ``2-of-3`` means.

    Raises
    ------
    BandError
        If the name is of another form or there is no such band.
    """
    match = re.fullmatch(r"([1-9]\d*)-of-([1-9]\d*)", name)
    if match is None or int(match[1]) > int(match[2]):
        raise BandError(f"band is {name!r}: wanted a number and how many there are, such as 2-of-3")
    return plan_bands(n_train, n_test, int(match[2]))[int(match[1]) - 1]


def assemble(
    bands: Sequence[Band], blocks: Sequence[NDArray[Any]], n_train: int, n_test: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the train x train and the test x train Gram matrix from all bands of a split.

    Bands come in any order, each with its array. One that holds everything is not copied, so that a
    memory map stays one. Otherwise each matrix is written into memory once, rows and their mirror
    images, whichever way it was cut.

    Raises
    ------
    BandError
        If rows are missing or come twice, or an array has another shape than its band.
    """
    for band, block in zip(bands, blocks, strict=True):
        if block.shape != band.shape(n_train):
            raise BandError(
                f"rows {band.start} to {band.stop} have shape {block.shape}: wanted"
                f" {band.shape(n_train)}"
            )
    ordered = sorted(zip(bands, blocks, strict=True), key=lambda pair: pair[0])
    ends = [0, *(band.stop for band, _ in ordered)]
    if [band.start for band, _ in ordered] != ends[:-1] or ends[-1] != n_train + n_test:
        raise BandError(
            f"the bands hold the rows {[(band.start, band.stop) for band, _ in ordered]}: wanted"
            f" each of {n_train + n_test} once. Name the bands of one number only, such as *-of-3"
        )
    if len(ordered) == 1:
        return ordered[0][1][:n_train], ordered[0][1][n_train:]
    dtype = ordered[0][1].dtype
    square, rest = np.empty((n_train, n_train), dtype), np.empty((n_test, n_train), dtype)
    for (start, stop, first), block in ordered:
        if start >= n_train:
            rest[start - n_train : stop - n_train] = block
        else:
            square[start:stop, first:] = block
            square[stop:, start:stop] = block[:, stop - first :].T
    return square, rest
