"""The exact kernel on CPUs: the matrix tile by tile, each tile in tasks for threads.

Every entry is the same bytes whatever the tile, the thread, the order of the images and the side it
is computed from.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.activations import activate, variance
from lantk.kernel.architecture import Dense
from lantk.kernel.cpu import loops
from lantk.kernel.cpu.arc_cosine import coefficients
from lantk.kernel.cpu.measure import read_block
from lantk.kernel.images import Side, normalise, write_values
from lantk.kernel.plan import Plan, Readout
from lantk.kernel.schedule import Schedule

# Positions x lanes that one task visits: some 10 ms, to keep threads busy and interrupts prompt.
_TASK_SIZE = 10_000_000
# Beyond this, larger tiles gain less than 2 % and only use memory.
_MOST_BLOCKS = 8


class _Block(NamedTuple):
    """At most `loops.LANES` images of a side, laid out for the compiled code."""

    first: int
    n: int
    images: loops.Images
    exponents: NDArray[np.int64]
    groups: NDArray[np.int64]


def tile_side(plan: Plan, channels: int, dtype: str, threads: int, scratch_bytes: int) -> int:
    """Return the side of a tile, in images: a multiple of `loops.LANES`, by what memory allows.

    Each thread has scratch of its own. Two blocks of images are taken even beyond `scratch_bytes`.
    """
    (height, width), size = plan.shape, int(plan.layers["size"].max())
    real, lanes = np.dtype(dtype).itemsize, loops.LANES
    block = height * width * channels + 2 * (plan.n_positions + plan.n_ends)
    working = (height + size + 1 + plan.n_kept * height) * width + width + 2 * size
    comparing = 2 * real * lanes * (working + _slots(plan.schedule))
    # float64 values for an entry: its sums, and the steps from there to the result.
    reading = height * width * (4 + 4 * channels + 2 * plan.n_kept)
    if plan.own_schedule is not None:
        reading += block + 2 * (working + _slots(plan.own_schedule))
    each = comparing + 8 * lanes * reading + (12 + 2 * plan.n_taps) * 8 * lanes * lanes
    block *= real * lanes
    n_blocks = (scratch_bytes - threads * each) // (2 * block)
    return lanes * int(np.clip(n_blocks, 1, _MOST_BLOCKS))


def _slots(schedule: Schedule) -> int:
    """Return how many positions the slots of a schedule hold."""
    return schedule.n_slots * math.prod(schedule.slot_shape)


class CpuEngine:
    """Everything that the entries of one walk share, and the scratch of every thread.

    `dtype` is float32 or float64, the type of the computation; see `tile_side` for `scratch_bytes`.
    """

    def __init__(self, plan: Plan, dtype: str, channels: int, threads: int, scratch_bytes: int):
        self._plan = plan
        self._dtype = dtype
        self._threads = threads
        self._tile = tile_side(plan, channels, dtype, threads, scratch_bytes)
        self._powers = coefficients(dtype)
        self._task_rows = int(np.clip(_TASK_SIZE // (plan.n_visits * loops.LANES), 1, loops.LANES))
        self._local = threading.local()

    def fill(
        self, results: list[NDArray[Any]], side1: Side, side2: Side
    ) -> Generator[int, None, None]:
        """Fill one (n1, n2) matrix for each readout, and yield numbers of entries that are done.

        Where `side1` is `side2`, each unordered pair is computed once.

        Raises
        ------
        KernelError
            If a value overflows or underflows.
        """
        n1, n2 = results[0].shape
        is_symmetric = side1 is side2
        # Lanes beyond the last column compute nothing: let the side that wastes less be columns.
        if n1 * -(-n2 // loops.LANES) > n2 * -(-n1 // loops.LANES):
            results, side1, side2, n1, n2 = [k.T for k in results], side2, side1, n2, n1
        tile, pool = self._tile, ThreadPoolExecutor(self._threads)
        try:
            for top in range(0, n1, tile):
                rows = self._read(pool, side1, top, top + tile)
                for left in range(top if is_symmetric else 0, n2, tile):
                    is_diagonal = is_symmetric and left == top
                    columns = rows if is_diagonal else self._read(pool, side2, left, left + tile)
                    tasks = [
                        pool.submit(self._compare, results, (side1, side2), a, b, start)
                        for a in rows
                        for b in columns
                        if not is_symmetric or a.first <= b.first
                        for start in range(0, a.n, self._task_rows)
                    ]
                    for task in as_completed(tasks):
                        yield task.result()
                    # Gone before the next are read, or there would be three sets of blocks.
                    del columns, tasks
                del rows
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, pool: ThreadPoolExecutor, side: Side, start: int, stop: int) -> list[_Block]:
        stop = min(stop, len(side.images))
        firsts = range(start, stop, loops.LANES)
        return list(pool.map(lambda first: self._read_block(side, first), firsts))

    def _read_block(self, side: Side, first: int) -> _Block:
        some = slice(first, first + loops.LANES)
        images = normalise(side.images[some], side.exponents[some], self._dtype)
        n = len(images)
        exponents, groups = np.zeros(loops.LANES, np.int64), np.full(loops.LANES, -1)
        exponents[:n], groups[:n] = side.exponents[some], side.groups[some]
        return _Block(first, n, read_block(self._plan, images), exponents, groups)

    def _compare(
        self,
        results: list[NDArray[Any]],
        sides: tuple[Side, Side],
        a: _Block,
        b: _Block,
        start: int,
    ) -> int:
        """Fill in a few rows of a block of entries; return how many entries that gave."""
        plan, stop = self._plan, min(start + self._task_rows, a.n)
        if not hasattr(self._local, "scratch"):
            self._local.scratch = loops.make_scratch(plan, self._dtype)
        sums = np.empty((stop - start, plan.n_taps, 2, loops.LANES))
        loops.compare(
            plan.layers,
            plan.taps,
            plan.weights,
            plan.schedule.runs,
            plan.schedule.targets,
            plan.schedule.sources,
            start,
            stop,
            a.images,
            b.images,
            a.groups,
            b.groups,
            self._powers,
            self._local.scratch,
            sums,
            None if plan.is_plain else True,
        )
        rows, columns = slice(a.first + start, a.first + stop), slice(b.first, b.first + b.n)
        is_mirrored = sides[0] is sides[1] and a.first != b.first
        exponents = a.exponents[start:stop, None] + b.exponents[: b.n]
        for k, readout in zip(results, plan.readouts, strict=True):
            s, t = sums[:, readout.tap, 0, : b.n], sums[:, readout.tap, 1, : b.n]
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                if readout.head:
                    totals = a.images.total[readout.tap, start:stop], b.images.total[readout.tap]
                    is_one = a.groups[start:stop, None] == b.groups[: b.n]
                    total = _read_out(readout, plan.kernel, s, t, totals, is_one)
                else:
                    total = readout.nngp * s + readout.ntk * t
                if readout.offset:
                    total += math.ldexp(readout.offset, readout.halvings)
                values = np.ldexp(total, exponents - readout.halvings).astype(self._dtype)
            write_values(
                k, sides, rows, columns, values, readout,
                is_mirrored=is_mirrored, is_zero=total == 0,
            )  # fmt: skip
        return (stop - start) * b.n * (2 if is_mirrored else 1)


def _read_out(
    readout: Readout,
    kernel: str,
    s: NDArray[np.float64],
    t: NDArray[np.float64],
    totals: tuple[NDArray[np.float64], NDArray[np.float64]],
    is_one: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return a kernel, times 2**halvings, from sums that layers with activations read.

    `totals` are the sums of S of the row images and of the column images with themselves, `is_one`
    tells which pairs are equal.
    """
    scale = math.ldexp(readout.nngp, -readout.halvings)
    s, t = scale * s, scale * t
    v, w = scale * totals[0][:, None], scale * totals[1][: s.shape[1]]
    for layer in readout.head:
        if isinstance(layer, Dense):
            s, v, w = (each + layer.bias**2 for each in (s, v, w))
            t = t + layer.trained * s
        else:
            s, t = activate(layer, s, t, v, w, is_one)
            v, w = variance(layer, v), variance(layer, w)
    return np.ldexp(t if kernel == "ntk" else s, readout.halvings)
