"""What the layers need to know of each image alone, compiled: self variances, at the start.

At equal positions they follow from each other, layer by layer. Behind a pool they are made of other
planes too, of an image with itself, which run through the same loops as those of any pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.compiled import entry_point
from lantk.kernel import layers as rows_of_layers
from lantk.kernel.cpu import loops, rows
from lantk.kernel.cpu.arc_cosine import coefficients
from lantk.kernel.cpu.loops import Images, add_plane, allocate, make_scratch
from lantk.kernel.cpu.rows import LANES, OPTIONS, inner, pool_row
from lantk.kernel.layers import ERF, GELU, LEAKY_RELU, RELU
from lantk.kernel.plan import Plan

# A patch smaller than this, in an image of order one, counts as black: 1 / s^2 stays in range.
_SMALLEST = {"float32": 1e-18, "float64": 1e-150}


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
        general = None if plan.is_plain else True
        measure(*numbers, block, _SMALLEST[real.name], grids, kept, general)
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


_ENTRY = entry_point(sources=(rows.__file__, loops.__file__, rows_of_layers.__file__), **OPTIONS)


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
    """Fill a row of the tables before a ReLU, or a leaky one."""
    half = 1 / (1 << layer.shift // 2)
    for x in range(layer.width):
        p = layer.table + y * layer.width + x
        for b in range(LANES):
            s = np.sqrt(now[0, y, x, b])
            is_black = s < smallest
            images.tables[p, 0, b] = 0.0 if is_black else 1.0 / s
            images.tables[p, 1, b] = 0.0 if is_black else s * half


@inner
def _activate_row(layer, y, now, images):
    """Take S and T of an image with itself through an activation that changes them; fill tables."""
    a, unit = layer.slope, layer.unit
    for x in range(layer.width):
        p = layer.table + y * layer.width + x
        for b in range(LANES):
            v = unit * now[0, y, x, b]
            if layer.source == LEAKY_RELU:
                now[0, y, x, b] *= 1 + a * a
                now[1, y, x, b] *= 1 + a * a
            elif layer.source == ERF:
                images.tables[p, 0, b] = np.sqrt(2 * unit / (1 + 2 * v))
                now[0, y, x, b] = 2 / np.pi * np.arcsin(2 * v / (1 + 2 * v))
                now[1, y, x, b] *= unit * 4 / np.pi / np.sqrt(1 + 4 * v)
            elif layer.source == GELU:
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
def _measure(layers, taps, weights, first, last, images, smallest, grids, kept, general):
    """Take S and T of every image with itself through a level, at equal positions.

    They begin in grids[0] and end in the grid that is returned, before the last layer's filter.
    """
    for depth in range(first, last + 1):
        layer = layers[depth]
        now, later = grids[(depth - first) % 2], grids[(depth - first + 1) % 2]
        weight = 1 / (1 << layer.shift)
        if general is not None and layer.before >= 0:
            kept[layer.before] = now
        for y in range(layer.height):
            if layer.source in (RELU, LEAKY_RELU):
                _measure_row(layer, y, now, images, smallest)
            if general is not None:
                _activate_row(layer, y, now, images)
        if general is not None and layer.after >= 0:
            kept[layer.after] = weight * now
        for tap in range(layer.tap, layer.tap + layer.n_taps):
            at = taps[tap]
            for z in range(2):
                for y in range(layer.height):
                    for x in range(layer.width):
                        factor = weight
                        if not at.is_uniform:
                            factor *= weights[at.at_y + at.reach_y * layer.height + y]
                            factor *= weights[at.at_x + at.reach_x * layer.width + x]
                        for b in range(LANES):
                            images.own[tap, z, b] += factor * now[z, y, x, b]
        if general is not None and layer.is_pool:
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
                if general is not None and layer.add >= 0:
                    for z in range(2):
                        for b in range(LANES):
                            later[z, y, x, b] += layer.ratio * kept[layer.add, z, y, x, b]


@_ENTRY
def measure(layers, taps, weights, images, smallest, grids, kept, general):
    """Fill the tables of a block, and the sums `own` of S and T of every image with itself.

    `general` is as for `loops.compare`.
    """
    _square_pixels(images.pixels, grids[0, 0])
    grids[0, 1] = 0
    last = len(layers) - 1
    _measure(layers, taps, weights, 0, last, images, smallest, grids, kept, general)


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
            add_plane(
                layers, taps, weights, run, targets, sources,
                lanes, images, images, none, powers, scratch, part[0], True,
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
        _measure(layers, taps, weights, run.first, run.last, images, smallest, grids, kept, True)
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
