"""Which displacements a kernel needs, and the order in which they are run: from its layers alone.

For a pair of images, a convolution keeps the displacement d = p' - p of two positions, so that
every displacement is a plane of its own. A pool mixes them: of size k and stride s, its plane D
reads the planes s D + e, |e| <= k - 1 in both axes. Between pools, and up to the last readout, lie
the levels.

Planes of the first level run in the order of their displacement, each followed by its mirror image;
a plane of a later level follows as soon as those are done that it reads. Until then it is a sum in
a slot, of which there are as many as are open at one time: for 32 x 32 images and pools of 2 x 2
some 100, each a quarter of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# One plane to run through layers [first, last] of its level, of which the last is only read: it is
# the second of two mirror images if `is_mirror`, and with it the pair (or d = 0, which is alone) is
# done if `is_complete`. It begins with the sum of its sources (none: pixels), and its end is added
# to its targets.
_FIELDS = "first last y x is_mirror is_complete source source_end target target_end level"
RUN = np.dtype([(name, np.int64) for name in _FIELDS.split()])
# A plane of the next level, at (y, x) there, that a plane is part of; `is_new` for its first part.
TARGET = np.dtype([(name, np.int64) for name in ("slot", "y", "x", "is_new")])


class Level(NamedTuple):
    """Layers up to a pool or the last readout."""

    first: int
    """Number of its first layer."""
    sides: tuple[tuple[int, int], ...]
    """Height and width of each layer's input."""
    strides: tuple[int, ...]
    reaches: tuple[tuple[tuple[int, int], ...], ...]
    """For each layer, the displacements (in y and x) up to which its input is read out."""
    pool: int
    """Size of the pool that it ends in, or 0."""


class Schedule(NamedTuple):
    """Planes in the order in which they are run."""

    runs: NDArray[np.void]
    """Rows of `RUN`."""
    targets: NDArray[np.void]
    """Rows of `TARGET`."""
    sources: NDArray[np.int64]
    """Slots."""
    n_slots: int
    slot_shape: tuple[int, int]
    """Height and width of the largest plane in a slot."""
    n_visits: int
    """Number of pairs of positions, over all layers, that are visited."""

    @property
    def n_planes(self) -> int:
        """Number of planes."""
        return len(self.runs)


def needed_planes(levels: Sequence[Level], *, itself: bool = False) -> list[NDArray[np.int64]]:
    """Return for each level how far each plane of its input has to be run.

    Parameters
    ----------
    levels : sequence of Level
        From the pixels to the last readout.
    itself : bool
        Whether the plane of equal positions is wanted to the end of each level, as that of an image
        with itself is, for its self variances.

    Returns
    -------
    list of (2 height - 1, 2 width - 1) arrays of int
        By displacement: the last layer of the level whose input is needed, or -1 if none is.
    """
    found: list[NDArray[np.int64]] = []
    after: NDArray[np.int64] | None = None
    for level in reversed(levels):
        last = None
        for row in reversed(range(len(level.sides))):
            h, w = level.sides[row]
            before = np.full((2 * h - 1, 2 * w - 1), -1)
            if last is not None:
                _spread(before, last, level.strides[row])
            elif after is not None:
                window = _window(after >= 0, level.strides[row], level.pool, (h, w))
                before[window] = row
            for y, x in level.reaches[row]:
                centre = before[h - 1 - y : h + y, w - 1 - x : w + x]
                np.maximum(centre, row, out=centre)
            if itself and row + 1 == len(level.sides):
                before[h - 1, w - 1] = row
            last = before
        found.insert(0, before)
        after = before
    return found


def _spread(before: NDArray[np.int64], after: NDArray[np.int64], stride: int) -> None:
    """Set `before` at displacement stride * D to `after` at D."""
    (h, w), (h2, w2) = ((n + 1) // 2 for n in before.shape), ((n + 1) // 2 for n in after.shape)
    # Displacements of the output that are some of the input: a long stride leaves 0 alone.
    up, left = min(h2 - 1, (h - 1) // stride), min(w2 - 1, (w - 1) // stride)
    rows = slice(h - 1 - stride * up, h + stride * up, stride)
    columns = slice(w - 1 - stride * left, w + stride * left, stride)
    before[rows, columns] = after[h2 - 1 - up : h2 + up, w2 - 1 - left : w2 + left]


def _window(
    coarse: NDArray[np.bool_], stride: int, size: int, sides: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which displacements the planes of a pool's output read."""
    fine = np.zeros([2 * side - 1 for side in sides], bool)
    (h, w), (h2, w2) = sides, ((n + 1) // 2 for n in coarse.shape)
    for y, x in np.argwhere(coarse) - (h2 - 1, w2 - 1):
        top, left = stride * y + h - size, stride * x + w - size
        fine[
            max(top, 0) : max(top + 2 * size - 1, 0), max(left, 0) : max(left + 2 * size - 1, 0)
        ] = 1
    return fine


def make_schedule(levels: Sequence[Level], needed: Sequence[NDArray[np.int64]]) -> Schedule:
    """Return the planes of all levels in the order in which they are run.

    The parts of a plane D > 0 are added in the same order as those of its mirror image -D, and
    those of D = 0 apart for each half, so that K(x, x') and K(x', x) are the same bytes.
    """
    scheduler = _Scheduler(levels, needed)
    for y, x in _half(needed[0]):
        scheduler.run_pair(0, y, x)
    return scheduler.finish()


def _half(needed: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the planes that are needed, of two mirror images the one that comes later."""
    h, w = ((n + 1) // 2 for n in needed.shape)
    places = np.argwhere(needed >= 0) - (h - 1, w - 1)
    return [(y, x) for y, x in places.tolist() if (y, x) >= (0, 0)]


class _Scheduler:
    def __init__(self, levels: Sequence[Level], needed: Sequence[NDArray[np.int64]]) -> None:
        self._levels, self._needed = levels, needed
        self._runs: list[tuple[int, ...]] = []
        self._targets: list[tuple[int, ...]] = []
        self._sources: list[int] = []
        # (level, y, x, part) -> slot of a plane that is not complete.
        self._open: dict[tuple[int, int, int, int], int] = {}
        self._free: list[int] = []
        self._n_slots = 0
        # For each later level, the planes not run yet, with how many they still wait for.
        self._waiting: list[dict[tuple[int, int], int]] = [{}]
        # Those that wait for none, but for the plane of equal positions to be run first.
        self._held: list[set[tuple[int, int]]] = [set() for _ in levels]
        for level, after in zip(levels, needed[1:], strict=False):
            self._waiting.append(self._count_parts(level, after))

    def _count_parts(self, level: Level, after: NDArray[np.int64]) -> dict[tuple[int, int], int]:
        """Return how many planes of a level each plane of the next one reads."""
        (h, w), stride, size = level.sides[-1], level.strides[-1], level.pool
        counts = {}
        for y, x in _half(after):
            rows = min(stride * y + size, h) - max(stride * y - size + 1, 1 - h)
            columns = min(stride * x + size, w) - max(stride * x - size + 1, 1 - w)
            counts[y, x] = rows * columns
        return counts

    def run_pair(self, level: int, y: int, x: int) -> None:
        """Run a plane and its mirror image, and then what that makes complete."""
        is_alone = y == x == 0
        done = self._run(level, y, x, is_mirror=False, is_complete=is_alone)
        if not is_alone:
            done += self._run(level, -y, -x, is_mirror=True, is_complete=True)
        if level + 1 == len(self._levels):
            return
        waiting = self._waiting[level + 1]
        for place in done:
            if place in waiting:
                waiting[place] -= 1
        held = self._held[level + 1]
        held |= {place for place in done if waiting.get(place) == 0}
        # Of an image with itself, that of equal positions tells the variances of all others.
        if waiting.get((0, 0), 0) > 0:
            return
        for place in sorted(held):
            del waiting[place]
            self.run_pair(level + 1, *place)
        held.clear()

    def _run(
        self, level: int, y: int, x: int, *, is_mirror: bool, is_complete: bool
    ) -> list[tuple[int, int]]:
        """Add a run; return the planes of the next level that it is part of."""
        now = self._levels[level]
        h, w = now.sides[0]
        last = int(self._needed[level][y + h - 1, x + w - 1])
        source, target = len(self._sources), len(self._targets)
        for part in (1, 2, 0):  # the halves meet first: that sum is symmetric
            slot = self._open.pop((level, y, x, part), None)
            if slot is not None:
                self._sources.append(slot)
                self._free.append(slot)
        parts = []
        if now.pool and last == len(now.sides) - 1:
            # Strides on the way have made these displacements of the level's end.
            ratio = int(np.prod(now.strides[:-1]))
            parts = self._add_targets(level, y // ratio, x // ratio)
        self._runs.append(
            (now.first, now.first + last, y, x, is_mirror, is_complete, source,
             len(self._sources), target, len(self._targets), level)
        )  # fmt: skip
        return parts

    def _add_targets(self, level: int, y: int, x: int) -> list[tuple[int, int]]:
        now, after = self._levels[level], self._needed[level + 1]
        (h, w), size, stride = ((n + 1) // 2 for n in after.shape), now.pool, now.strides[-1]
        is_overlapping = size > stride
        found = []
        top, left = -((size - 1 - y) // stride), -((size - 1 - x) // stride)
        bottom, right = (y + size - 1) // stride, (x + size - 1) // stride
        for v in range(max(top, 1 - h), min(bottom, h - 1) + 1):
            for u in range(max(left, 1 - w), min(right, w - 1) + 1):
                if after[v + h - 1, u + w - 1] < 0:
                    continue
                part = 0
                if (v, u) == (0, 0):
                    part = 0 if (y, x) == (0, 0) else 1 + ((y, x) < (0, 0))
                elif is_overlapping:
                    # Of mirror images, parts of the same half come in the same order.
                    part = 1 + (((y, x) < (0, 0)) == ((v, u) > (0, 0)) and (y, x) != (0, 0))
                key = level + 1, v, u, part
                is_new = key not in self._open
                if is_new:
                    self._open[key] = self._free.pop() if self._free else self._n_slots
                    self._n_slots = max(self._n_slots, self._open[key] + 1)
                self._targets.append((self._open[key], v, u, is_new))
                found.append((v, u))
        return found

    def finish(self) -> Schedule:
        """Return what has been scheduled."""
        runs = np.array(self._runs, RUN)
        shapes = [level.sides[0] for level in self._levels[1:]] or [(0, 0)]
        return Schedule(
            runs,
            np.array(self._targets, TARGET),
            np.array(self._sources, np.int64),
            self._n_slots,
            (max(h for h, _ in shapes), max(w for _, w in shapes)),
            self._count_visits(runs),
        )

    def _count_visits(self, runs: NDArray[np.void]) -> int:
        total = 0
        for number, level in enumerate(self._levels):
            some = runs[runs["level"] == number]
            y, x, n_rows = np.abs(some["y"]), np.abs(some["x"]), some["last"] - some["first"]
            for row, ((h, w), stride) in enumerate(zip(level.sides, level.strides, strict=True)):
                is_on = n_rows >= row
                y, x, n_rows = y[is_on], x[is_on], n_rows[is_on]
                total += int(((h - y) * (w - x)).sum())
                y, x = y // stride, x // stride
        return total
