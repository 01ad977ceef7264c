"""The exact kernel on CPUs: compiled loops over planes, the entries innermost.

`compare` takes row images to a block of `LANES` column images. A convolution never mixes
displacements d = p' - p, so every displacement is a plane that runs through all layers on its own,
`LANES` entries at once, in arrays (height, width, lanes). Pools in the middle add planes to planes
of their output, in slots. Which planes are run, in which order, is the plan's schedule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lantk.compiled import borrow, entry_point
from lantk.kernel import layers as rows_of_layers
from lantk.kernel.cpu import rows
from lantk.kernel.cpu.rows import (
    LANES,
    OPTIONS,
    activate,
    add_kept_row,
    add_row,
    add_weighted_row,
    forced,
    inner,
    multiply_pixels,
    overlap,
    pool_row,
    rectify,
    shift_row,
    sum_columns,
    sum_rows,
)
from lantk.kernel.layers import LINEAR, PIXELS, RELU
from lantk.kernel.plan import Plan
from lantk.kernel.schedule import Schedule


class Images(NamedTuple):
    """A block of images with the lanes last, and what the layers need to know of each alone."""

    pixels: NDArray[Any]
    """(height, width, channels, lanes)"""
    tables: NDArray[Any]
    """(positions, 2, lanes): before each ReLU one over the standard deviation (0 where a patch is
    black), and the standard deviation over the next filter's power of two; before other activations
    what `rows` wants."""
    ends: NDArray[Any]
    """(positions, 2, lanes): S and T of an image with itself at d = 0, before each pool."""
    own: NDArray[np.float64]
    """(taps, 2, lanes): the sums over positions of S and T of an image with itself, at d = 0."""
    total: NDArray[np.float64]
    """(taps, lanes): the sums of S of an image with itself over all planes, where the plan has
    activations behind a readout."""


class Scratch(NamedTuple):
    """What one thread works in; the last axis is the lanes of S (NNGP), then those of T (NTK)."""

    state: NDArray[Any]
    """(height, width, 2 lanes): one plane."""
    ring: NDArray[Any]
    """(size + 1, width, 2 lanes): the latest input rows of a layer, and a row of zeros."""
    line: NDArray[Any]
    """(width + 2 size, 2 lanes): a sum of rows between margins of zeros."""
    kept: NDArray[Any]
    """(planes, height, width, 2 lanes): what residuals keep."""
    slots: NDArray[Any]
    """(slots, height, width, 2 lanes): sums of planes behind pools."""
    part: NDArray[np.float64]
    """(2, taps, 2, lanes): sums over a plane and over its mirror image."""


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros that begin at a cache line: vectors across two lines cost a tenth in speed."""
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(n_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def make_scratch(plan: Plan, dtype: DTypeLike, schedule: Schedule | None = None) -> Scratch:
    """Allocate what one thread needs to compare images along a schedule, the plan's by default."""
    (height, width), size = plan.shape, int(plan.layers["size"].max())
    schedule = plan.schedule if schedule is None else schedule
    return Scratch(
        allocate((height, width, 2 * LANES), dtype),
        allocate((size + 1, width, 2 * LANES), dtype),
        allocate((width + 2 * size, 2 * LANES), dtype),
        allocate((plan.n_kept, height, width, 2 * LANES), dtype),
        allocate((schedule.n_slots, *schedule.slot_shape, 2 * LANES), dtype),
        allocate((2, plan.n_taps, 2, LANES), np.float64),
    )


@forced
def _read_row(layer, y, y0, x0, start, n, ey, ex, i, rows, columns, powers, scratch, general):
    """Read row y of a layer's input, n positions of the plane with corner (y0, x0), into the ring.

    After a ReLU also set the line to the sum of this row and the two before, from `start` on.
    """
    state, ring, line = scratch.state, scratch.ring, scratch.line
    zeros = margin = ring.shape[0] - 1
    size = layer.size
    weight = state.dtype.type(1 / (1 << layer.shift))
    new = ring[y % size]
    if layer.source == PIXELS:
        own = rows.pixels[y, x0 : x0 + n, :, i]
        others = columns.pixels[y + ey, x0 + ex : x0 + ex + n]
        multiply_pixels(own, others, weight / state.dtype.type(own.shape[1]), new)
    elif layer.source == LINEAR:
        for x in range(n):
            for b in range(2 * LANES):
                new[x, b] = weight * state[y - y0, x, b]
    else:
        p = layer.table + y * layer.width + x0
        q = p + ey * layer.width + ex
        own_table, table = rows.tables[p : p + n, :, i], columns.tables[q : q + n]
        if layer.source == RELU:
            older = ring[(y - 1) % size if y - 1 >= start else zeros]
            oldest = ring[(y - 2) % size if y - 2 >= start else zeros]
            added = line[margin:]
            rectify(state[y - y0], own_table, table, weight, powers, new, older, oldest, added)
        elif general is not None:
            activate(
                layer.source, state[y - y0], own_table, table,
                weight, layer.slope, layer.unit, powers, new,
            )  # fmt: skip
    if general is not None and layer.after >= 0:
        scratch.kept[layer.after, y - y0, :n] = new[:n]


@forced
def _tap_row(layer, taps, weights, y, x0, n, ey, ex, new, sums):
    """Add a row of a layer's input to the sums of its taps."""
    for tap in range(layer.tap, layer.tap + layer.n_taps):
        at = taps[tap]
        if abs(ey) <= at.reach_y and abs(ex) <= at.reach_x:
            if at.is_uniform:
                add_row(new, n, sums[tap, 0], sums[tap, 1])
            else:
                place = at.at_y + (ey + at.reach_y) * layer.height + y
                first = at.at_x + (ex + at.reach_x) * layer.width + x0
                row = weights[first : first + n]
                add_weighted_row(new, n, row, weights[place], sums[tap, 0], sums[tap, 1])


@inner
def add_plane(
    layers, taps, weights, run, targets, sources, i, rows, columns, equal, powers, scratch, sums,
    general,
):  # fmt: skip
    """Add to the sums of every tap those over a plane, and its end to planes of the next level.

    `equal` tells the lanes of images that are equal to the row image, or is empty if there is none.
    Where `general` is None, what plain networks have no need of is not even compiled.
    """
    state, ring, line, kept, slots, _ = scratch
    real = state.dtype.type
    margin = ring.shape[0] - 1
    ey, ex = run.y, run.x
    if general is not None:
        _begin_plane(layers[run.first], run, targets, sources, state, slots)
    for depth in range(run.first, run.last + 1):
        layer = layers[depth]
        size, stride = layer.size, layer.stride
        # The plane: positions p of the row image for which p + shift is in the column image.
        y0, y1 = overlap(layer.height, ey)
        x0, x1 = overlap(layer.width, ex)
        n = x1 - x0
        if general is not None and layer.before >= 0:
            kept[layer.before, : y1 - y0, :n] = state[: y1 - y0, :n]
        top = bottom = left = right = 0
        # A convolution keeps the displacements that its stride divides.
        goes_on = depth < run.last
        if goes_on:
            top, bottom = overlap(-(-layer.height // stride), ey // stride)
            left, right = overlap(-(-layer.width // stride), ex // stride)
        is_read_out = layer.tap >= 0 or not goes_on
        first = margin + left * stride - layer.left - x0
        line[margin + n : margin + n + size] = 0
        ready = y0
        # Row y of the output takes the place of a row of the input that has been read; what no
        # output reads comes last.
        for y in range(top, bottom + 1):
            is_rest = y == bottom
            start = ready if is_rest else max(y * stride - layer.top, y0)
            stop = y1 if is_rest else min(y * stride - layer.top + size, y1)
            if is_rest and not is_read_out:
                break
            for z in range(ready if is_read_out else max(ready, start), stop):
                begin = z if is_rest else start
                _read_row(
                    layer, z, y0, x0, begin, n, ey, ex, i, rows, columns, powers, scratch, general
                )
                new = ring[z % size]
                if layer.tap >= 0:
                    _tap_row(layer, taps, weights, z, x0, n, ey, ex, new, sums)
                if general is not None and is_rest and layer.is_pool:
                    if ey == 0 and ex == 0 and len(equal) > 0:
                        _take_own(columns.ends, layer.end + z * layer.width, n, equal, new)
                    for at in range(run.target, run.target_end):
                        pool_row(layer, z, x0, n, ey, ex, new, targets[at], slots)
            if is_rest:
                break
            adds = layer.source == RELU and ready < stop
            rest = stop - 3 if adds else stop
            sum_rows(ring, start, rest, size, adds, line[margin:], n)
            row, trained = state[y - top], real(layer.trained)
            sum_columns(line, first, stride, size, trained, row, right - left)
            if general is not None:
                if layer.bias != 0:
                    shift_row(row, real(layer.bias), trained, right - left)
                if layer.add >= 0:
                    add_kept_row(row, kept[layer.add, y - top], real(layer.ratio), right - left)
            ready = stop
        ey, ex = ey // stride, ex // stride


@inner
def _begin_plane(layer, run, targets, sources, state, slots):
    """Set a plane of a level behind a pool to the sum of its parts; clear what it begins itself."""
    for at in range(run.source, run.source_end):
        slot = slots[sources[at]]
        for y in range(layer.height - abs(run.y)):
            for x in range(layer.width - abs(run.x)):
                for b in range(2 * LANES):
                    if at == run.source:
                        state[y, x, b] = slot[y, x, b]
                    else:
                        state[y, x, b] += slot[y, x, b]
    for at in range(run.target, run.target_end):
        if targets[at].is_new:
            slots[targets[at].slot] = 0


@inner
def _take_own(ends, first, n, equal, new):
    """Set a row of equal positions to that of an image with itself, where images are equal."""
    for x in range(n):
        for b in range(LANES):
            if equal[b]:
                new[x, b] = ends[first + x, 0, b]
                new[x, LANES + b] = ends[first + x, 1, b]


@inner
def borrow_images(images):
    """Return the arrays of a block without their owners."""
    return Images(
        borrow(images.pixels),
        borrow(images.tables),
        borrow(images.ends),
        borrow(images.own),
        borrow(images.total),
    )


@inner
def borrow_scratch(scratch):
    """Return the arrays of a thread without their owners."""
    return Scratch(
        borrow(scratch.state),
        borrow(scratch.ring),
        borrow(scratch.line),
        borrow(scratch.kept),
        borrow(scratch.slots),
        borrow(scratch.part),
    )


_ENTRY = entry_point(sources=(rows.__file__, rows_of_layers.__file__), **OPTIONS)


@_ENTRY
def compare(
    layers, taps, weights, runs, targets, sources,
    start, stop, rows, columns, groups, others, powers, scratch, out, general,
):  # fmt: skip
    """Set out[i - start] = sums over position pairs of S and T at every tap, for some row images.

    `general` is None for layers of no kind but those that the GPU knows, with any weights of taps.

    `groups` and `others` number the different images of the row and of the column block. Where two
    images are equal, c = 1 exactly on the plane of equal positions: it gets the image's own sums.
    """
    rows, columns, scratch = borrow_images(rows), borrow_images(columns), borrow_scratch(scratch)
    part = scratch.part
    is_equal = np.zeros(LANES, np.bool_)
    for i in range(start, stop):
        out[i - start] = 0
        has_equal = False
        for b in range(LANES):
            is_equal[b] = groups[i] == others[b]
            has_equal = has_equal or is_equal[b]
        equal = is_equal if has_equal else is_equal[:0]
        for number in range(len(runs)):
            run = runs[number]
            # A plane and its mirror image meet in one sum, which does not change with x, x'.
            if not run.is_mirror:
                part[:] = 0
            add_plane(
                layers, taps, weights, run, targets, sources,
                i, rows, columns, equal, powers, scratch, part[run.is_mirror], general,
            )  # fmt: skip
            if not run.is_complete:
                continue
            for tap in range(len(taps)):
                at = taps[tap].layer
                is_own = run.y == 0 and run.x == 0 and run.first <= at <= run.last and has_equal
                for z in range(2):
                    for b in range(LANES):
                        if is_own and is_equal[b]:
                            part[0, tap, z, b] = rows.own[tap, z, i]
                        out[i - start, tap, z, b] += part[0, tap, z, b] + part[1, tap, z, b]
