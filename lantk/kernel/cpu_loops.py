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
from lantk.kernel import cpu_rows
from lantk.kernel.arc_cosine import coefficients
from lantk.kernel.cpu_rows import (
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
from lantk.kernel.plan import ERF, GELU, LEAKY_RELU, LINEAR, PIXELS, RELU, Plan
from lantk.kernel.schedule import Schedule

# A patch smaller than this, in an image of order one, counts as black: 1 / s^2 stays in range.
_SMALLEST = {"float32": 1e-18, "float64": 1e-150}


class Images(NamedTuple):
    """A block of images with the lanes last, and what the layers need to know of each alone."""

    pixels: NDArray[Any]
    """(height, width, channels, lanes)"""
    tables: NDArray[Any]
    """(positions, 2, lanes): before each ReLU one over the standard deviation (0 where a patch is
    black), and the standard deviation over the next filter's power of two; before other activations
    what `cpu_rows` wants."""
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


def read_block(plan: Plan, images: NDArray[Any]) -> Images:
    """Lay out at most `LANES` images of order one (n, channels, height, width) for `compare`."""
    n, channels, height, width = images.shape
    real = images.dtype
    pixels = allocate((height, width, channels, LANES), real)
    pixels[..., :n] = images.transpose(2, 3, 1, 0)
    tables, ends = (plan.n_positions, 2, LANES), (plan.n_ends, 2, LANES)
    own = allocate((plan.n_taps, 2, LANES), np.float64)
    total = allocate((plan.n_taps, LANES), np.float64)
    block = Images(pixels, allocate(tables, real), allocate(ends, real), own, total)
    grids = allocate((2, 2, height, width, LANES), np.float64)
    kept = allocate((plan.n_kept, 2, height, width, LANES), np.float64)
    numbers = plan.layers, plan.taps, plan.weights
    if plan.own_schedule is None:
        measure(*numbers, block, _SMALLEST[real.name], grids, kept)
        total[:] = own[:, 0]
        return block
    # Planes beside that of equal positions are as exact as that one.
    wide = block
    if real != np.float64:
        wide = block._replace(
            pixels=allocate(pixels.shape, np.float64),
            tables=allocate(tables, np.float64),
            ends=allocate(ends, np.float64),
        )
        wide.pixels[:] = pixels
    schedule = plan.own_schedule
    scratch = make_scratch(plan, np.float64, schedule)
    lists = schedule.runs, schedule.targets, schedule.sources
    powers = coefficients(np.float64)
    measure_all(*numbers, *lists, wide, powers, _SMALLEST[real.name], grids, kept, scratch)
    if wide is not block:
        block.tables[:], block.ends[:] = wide.tables, wide.ends
    return block


@forced
def _read_row(layer, y, y0, x0, start, n, ey, ex, i, rows, columns, powers, scratch):
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
        else:
            activate(
                layer.source, state[y - y0], own_table, table,
                weight, layer.slope, layer.unit, powers, new,
            )  # fmt: skip
    if layer.after >= 0:
        scratch.kept[layer.after, y - y0, :n] = new[:n]


@forced
def _tap_row(layer, taps, weights, y, x0, n, ey, ex, new, sums):
    """Add a row of a layer's input to the sums of its taps."""
    for tap in range(layer.tap, layer.tap + layer.n_taps):
        at = taps[tap]
        if abs(ey) <= at.reach_y and abs(ex) <= at.reach_x:
            if at.is_plain:
                add_row(new, n, sums[tap, 0], sums[tap, 1])
            else:
                place = at.at_y + (ey + at.reach_y) * layer.height + y
                first = at.at_x + (ex + at.reach_x) * layer.width + x0
                row = weights[first : first + n]
                add_weighted_row(new, n, row, weights[place], sums[tap, 0], sums[tap, 1])


@inner
def _add_plane(
    layers, taps, weights, run, targets, sources, i, rows, columns, equal, powers, scratch, sums
):
    """Add to the sums of every tap those over a plane, and its end to planes of the next level.

    `equal` tells the lanes of images that are equal to the row image, or is empty if there is none.
    """
    state, ring, line, kept, slots, _ = scratch
    real = state.dtype.type
    margin = ring.shape[0] - 1
    ey, ex = run.y, run.x
    for at in range(run.source, run.source_end):
        slot = slots[sources[at]]
        for y in range(layers[run.first].height - abs(ey)):
            for x in range(layers[run.first].width - abs(ex)):
                for b in range(2 * LANES):
                    if at == run.source:
                        state[y, x, b] = slot[y, x, b]
                    else:
                        state[y, x, b] += slot[y, x, b]
    for depth in range(run.first, run.last + 1):
        layer = layers[depth]
        size, stride = layer.size, layer.stride
        # The plane: positions p of the row image for which p + shift is in the column image.
        y0, y1 = overlap(layer.height, ey)
        x0, x1 = overlap(layer.width, ex)
        n = x1 - x0
        if layer.before >= 0:
            kept[layer.before, : y1 - y0, :n] = state[: y1 - y0, :n]
        top = bottom = left = right = 0
        # A convolution keeps the displacements that its stride divides.
        goes_on = depth < run.last
        if goes_on:
            top, bottom = overlap(-(-layer.height // stride), ey // stride)
            left, right = overlap(-(-layer.width // stride), ex // stride)
        first = margin + left * stride - layer.left - x0
        line[margin + n : margin + n + size] = 0
        ready = y0
        # Row y of the output takes the place of a row of the input that has been read.
        for y in range(top, bottom):
            start = max(y * stride - layer.top, y0)
            stop = min(y * stride - layer.top + size, y1)
            for z in range(ready if layer.tap >= 0 else max(ready, start), stop):
                _read_row(layer, z, y0, x0, start, n, ey, ex, i, rows, columns, powers, scratch)
                if layer.tap >= 0:
                    _tap_row(layer, taps, weights, z, x0, n, ey, ex, ring[z % size], sums)
            adds = layer.source == RELU and ready < stop
            rest = stop - 3 if adds else stop
            sum_rows(ring, start, rest, size, adds, line[margin:], n)
            row, trained = state[y - top], real(layer.trained)
            sum_columns(line, first, stride, size, trained, row, right - left)
            if layer.bias != 0:
                shift_row(row, real(layer.bias), trained, right - left)
            if layer.add >= 0:
                add_kept_row(row, kept[layer.add, y - top], real(layer.ratio), right - left)
            ready = stop
        is_end = not goes_on and layer.is_pool
        if is_end:
            for at in range(run.target, run.target_end):
                if targets[at].is_new:
                    slots[targets[at].slot] = 0
        if layer.tap >= 0 or is_end:
            for z in range(ready, y1):
                _read_row(layer, z, y0, x0, z, n, ey, ex, i, rows, columns, powers, scratch)
                new = ring[z % size]
                if layer.tap >= 0:
                    _tap_row(layer, taps, weights, z, x0, n, ey, ex, new, sums)
                if is_end:
                    if ey == 0 and ex == 0 and len(equal) > 0:
                        _take_own(columns.ends, layer.end + z * layer.width, n, equal, new)
                    for at in range(run.target, run.target_end):
                        pool_row(layer, z, x0, n, ey, ex, new, targets[at], slots)
        if not goes_on:
            return
        ey, ex = ey // stride, ex // stride


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


_ENTRY = entry_point(sources=(cpu_rows.__file__,), **OPTIONS)


@_ENTRY
def compare(
    layers, taps, weights, runs, targets, sources,
    start, stop, rows, columns, groups, others, powers, scratch, out,
):  # fmt: skip
    """Set out[i - start] = sums over position pairs of S and T at every tap, for some row images.

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
            _add_plane(
                layers, taps, weights, run, targets, sources,
                i, rows, columns, equal, powers, scratch, part[run.is_mirror],
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


@inner
def _square_pixels(pixels, grid):
    """Set grid[y, x] = |x_p|^2 / channels."""
    height, width, channels, _ = pixels.shape
    grid[:] = 0
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                for b in range(LANES):
                    p = np.float64(pixels[y, x, c, b])
                    grid[y, x, b] += p * p / channels


@inner
def _measure_row(layer, y, now, images, smallest):
    """Fill a row of the tables, and take S and T of an image with itself through an activation."""
    half = 1 / (1 << layer.shift // 2)
    kind, a, unit = layer.source, layer.slope, layer.unit
    for x in range(layer.width):
        p = layer.table + y * layer.width + x
        for b in range(LANES):
            v = now[0, y, x, b]
            if kind == RELU or kind == LEAKY_RELU:
                s = np.sqrt(v)
                is_black = s < smallest
                images.tables[p, 0, b] = 0.0 if is_black else 1.0 / s
                images.tables[p, 1, b] = 0.0 if is_black else s * half
                if kind == LEAKY_RELU:
                    now[0, y, x, b] *= 1 + a * a
                    now[1, y, x, b] *= 1 + a * a
            elif kind == ERF:
                v = unit * v
                images.tables[p, 0, b] = np.sqrt(2 * unit / (1 + 2 * v))
                now[0, y, x, b] = 2 / np.pi * np.arcsin(2 * v / (1 + 2 * v))
                now[1, y, x, b] *= unit * 4 / np.pi / np.sqrt(1 + 4 * v)
            elif kind == GELU:
                v = unit * v
                images.tables[p, 0, b] = np.sqrt(unit / (1 + v))
                images.tables[p, 1, b] = v / np.sqrt(1 + v)
                # P - S^2 = 1 + 2 v, with P = (1 + v)^2.
                root, arc = np.sqrt(1 + 2 * v), np.arcsin(v / (1 + v))
                square = (1 + v) * (1 + v)
                inside = v * v * (2 + 2 * v) / (square * root) + v * arc
                slope = v / root * (1 / (1 + 2 * v) + (1 - v * v) / square + 1)
                now[0, y, x, b] = v / 4 + inside / (2 * np.pi)
                now[1, y, x, b] *= unit * (0.25 + (arc + slope) / (2 * np.pi))


@inner
def _measure(layers, taps, weights, first, last, images, smallest, grids, kept):
    """Take S and T of every image with itself through a level, at equal positions.

    They begin in grids[0] and end in the grid that is returned, before the last layer's filter.
    """
    for depth in range(first, last + 1):
        layer = layers[depth]
        now, later = grids[(depth - first) % 2], grids[(depth - first + 1) % 2]
        weight = 1 / (1 << layer.shift)
        if layer.before >= 0:
            kept[layer.before] = now
        for y in range(layer.height):
            if layer.source != PIXELS and layer.source != LINEAR:
                _measure_row(layer, y, now, images, smallest)
        if layer.after >= 0:
            kept[layer.after] = weight * now
        for tap in range(layer.tap, layer.tap + layer.n_taps):
            at = taps[tap]
            for z in range(2):
                for y in range(layer.height):
                    for x in range(layer.width):
                        factor = weight
                        if not at.is_plain:
                            factor *= weights[at.at_y + at.reach_y * layer.height + y]
                            factor *= weights[at.at_x + at.reach_x * layer.width + x]
                        for b in range(LANES):
                            images.own[tap, z, b] += factor * now[z, y, x, b]
        if layer.is_pool:
            for z in range(2):
                for y in range(layer.height):
                    for x in range(layer.width):
                        for b in range(LANES):
                            end = weight * now[z, y, x, b]
                            images.ends[layer.end + y * layer.width + x, z, b] = end
        if depth == last:
            return
        for y in range(layers[depth + 1].height):
            top = y * layer.stride - layer.top
            for x in range(layers[depth + 1].width):
                left = x * layer.stride - layer.left
                for z in range(2):
                    later[z, y, x] = 0
                    for v in range(max(top, 0), min(top + layer.size, layer.height)):
                        for w in range(max(left, 0), min(left + layer.size, layer.width)):
                            for b in range(LANES):
                                later[z, y, x, b] += weight * now[z, v, w, b]
                for b in range(LANES):
                    later[0, y, x, b] += layer.bias
                    later[1, y, x, b] += layer.trained * later[0, y, x, b]
                if layer.add >= 0:
                    for z in range(2):
                        for b in range(LANES):
                            later[z, y, x, b] += layer.ratio * kept[layer.add, z, y, x, b]


@_ENTRY
def measure(layers, taps, weights, images, smallest, grids, kept):
    """Fill the tables of a block, and the sums `own` of S and T of every image with itself."""
    _square_pixels(images.pixels, grids[0, 0])
    grids[0, 1] = 0
    _measure(layers, taps, weights, 0, len(layers) - 1, images, smallest, grids, kept)


@_ENTRY
def measure_all(
    layers, taps, weights, runs, targets, sources,
    images, powers, smallest, grids, kept, scratch,
):  # fmt: skip
    """Do the same behind pools, whose self variances are made of planes of an image with itself.

    Everything is float64. Of each level the plane of equal positions comes before all others.
    """
    slots, part = scratch.slots, scratch.part
    lanes, none = slice(0, LANES), np.zeros(0, np.bool_)
    for number in range(len(runs)):
        run = runs[number]
        part[0] = 0
        if run.y != 0 or run.x != 0:
            _add_plane(
                layers, taps, weights, run, targets, sources,
                lanes, images, images, none, powers, scratch, part[0],
            )  # fmt: skip
            for tap in range(len(taps)):
                for b in range(LANES):
                    images.total[tap, b] += part[0, tap, 0, b]
            continue
        first = layers[run.first]
        if run.source == run.source_end:
            _square_pixels(images.pixels, grids[0, 0])
            grids[0, 1] = 0
        for at in range(run.source, run.source_end):
            slot = slots[sources[at]]
            for y in range(first.height):
                for x in range(first.width):
                    for b in range(LANES):
                        for z in range(2):
                            if at == run.source:
                                grids[0, z, y, x, b] = 0
                            grids[0, z, y, x, b] += slot[y, x, z * LANES + b]
        _measure(layers, taps, weights, run.first, run.last, images, smallest, grids, kept)
        for tap in range(len(taps)):
            if run.first <= taps[tap].layer <= run.last:
                for b in range(LANES):
                    images.total[tap, b] += images.own[tap, 0, b]
        last = layers[run.last]
        for at in range(run.target, run.target_end):
            if targets[at].is_new:
                slots[targets[at].slot] = 0
        if run.target < run.target_end:
            new = scratch.ring[0]
            for y in range(last.height):
                for x in range(last.width):
                    for z in range(2):
                        for b in range(LANES):
                            end = images.ends[last.end + y * last.width + x, z, b]
                            new[x, z * LANES + b] = end
                for at in range(run.target, run.target_end):
                    pool_row(last, y, 0, last.width, 0, 0, new, targets[at], slots)
