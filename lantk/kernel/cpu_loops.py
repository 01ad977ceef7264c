"""The exact kernel on CPUs: compiled loops with the entries innermost.

`compare` takes row images to a block of `LANES` column images. A convolution never mixes
displacements d = p' - p, so every displacement is a plane that runs through all layers on its own,
`LANES` entries at once, in arrays (height, width, lanes). The flatten readout needs the plane d = 0
only, global average pooling every plane that the strides let through.

Factors of the row image and of the column image always meet in one product of their own, so that
K(x, x') and K(x', x) are the same bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from lantk.compiled import entry_point
from lantk.kernel.plan import PIXELS, RELU, Plan

# Entries computed side by side: a multiple of every vector width, fixed when compiled.
LANES = 96
# A patch smaller than this, in an image of order one, counts as black: 1 / s^2 stays in range.
_SMALLEST = {"float32": 1e-18, "float64": 1e-150}


class Images(NamedTuple):
    """A block of images with the lanes last, and what the layers need to know of each alone."""

    pixels: NDArray[Any]
    """(height, width, channels, lanes)"""
    tables: NDArray[Any]
    """(positions, 2, lanes): before each ReLU one over the standard deviation (0 where a patch is
    black), and the standard deviation over the next filter's power of two."""
    own: NDArray[np.float64]
    """(taps, 2, lanes): the sums over positions of S and T of an image with itself, at d = 0."""


class Scratch(NamedTuple):
    """What one thread works in; the last axis is the lanes of S (NNGP), then those of T (NTK)."""

    state: NDArray[Any]
    """(height, width, 2 lanes): one plane."""
    ring: NDArray[Any]
    """(size + 1, width, 2 lanes): the latest input rows of a layer, and a row of zeros."""
    line: NDArray[Any]
    """(width + 2 size, 2 lanes): a sum of rows between margins of zeros."""
    part: NDArray[np.float64]
    """(2, taps, 2, lanes): sums over a plane and over its mirror image."""


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros that begin at a cache line: vectors across two lines cost a tenth in speed."""
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(n_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def make_scratch(plan: Plan, dtype: DTypeLike) -> Scratch:
    """Allocate what one thread needs to compare images."""
    (height, width), size = plan.shape, int(plan.layers["size"].max())
    return Scratch(
        allocate((height, width, 2 * LANES), dtype),
        allocate((size + 1, width, 2 * LANES), dtype),
        allocate((width + 2 * size, 2 * LANES), dtype),
        allocate((2, plan.n_taps, 2, LANES), np.float64),
    )


def read_block(plan: Plan, images: NDArray[Any]) -> Images:
    """Lay out at most `LANES` images of order one (n, channels, height, width) for `compare`."""
    n, channels, height, width = images.shape
    pixels = allocate((height, width, channels, LANES), images.dtype)
    pixels[..., :n] = images.transpose(2, 3, 1, 0)
    block = Images(
        pixels,
        allocate((plan.n_positions, 2, LANES), images.dtype),
        allocate((plan.n_taps, 2, LANES), np.float64),
    )
    grids = allocate((2, 2, height, width, LANES), np.float64)
    measure(plan.layers, *block, _SMALLEST[images.dtype.name], grids)
    return block


# No reassociation: the order of every sum is the one written here. All numbers are finite.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "nnan", "ninf"},
}
_UNWRAPPED: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_inner = numba.njit(**_OPTIONS, **_UNWRAPPED)


@_inner
def _overlap(side, shift):
    """Return the range of the p for which p and p + shift are both in [0, side)."""
    return max(0, -shift), min(side, side - shift)


@_inner
def _horner(powers, a):
    total = powers[0]
    for k in range(1, len(powers)):
        total = total * a + powers[k]
    return total


@_inner
def _multiply_pixels(row, columns, weight, new):
    """Set new = (S, T) = (weight <x_p, x'_(p + d)>, 0) along a row, three channels at a time."""
    n, channels = row.shape
    zero = row.dtype.type(0)
    for c in range(0, channels, 3):
        d, e = min(c + 1, channels - 1), min(c + 2, channels - 1)
        for x in range(n):
            p = row[x, c]
            q = row[x, d] if c + 1 < channels else zero
            r = row[x, e] if c + 2 < channels else zero
            for b in range(LANES):
                s = p * columns[x, c, b] + q * columns[x, d, b] + r * columns[x, e, b]
                if c == 0:
                    new[x, b] = weight * s
                    new[x, LANES + b] = zero
                else:
                    new[x, b] += weight * s


@_inner
def _rectify(state, row, columns, weight, powers, new, older, oldest, line):
    """Set new = (S, T) after a ReLU, along a row of the plane, and line = new + older + oldest.

    Both come out times `weight`, which for S is in `tables`.
    """
    p_even, p_odd, q_even, q_odd, limit = powers
    zero = state.dtype.type(0)
    for x in range(row.shape[0]):
        inverse, spread = row[x, 0], row[x, 1]
        for b in range(LANES):
            c = state[x, b] * (inverse * columns[x, 0, b])
            # (LLVM makes slower code of min(abs(c), limit).)
            a = abs(min(max(c, -limit), limit))
            square, rest = a * a, limit - a
            u = np.sqrt(rest)
            angle = weight * (u * (_horner(p_even, square) + a * _horner(p_odd, square)))
            bulge = rest * (u * (_horner(q_even, square) + a * _horner(q_odd, square)))
            slope = angle if c < zero else weight - angle
            new[x, b] = (bulge + max(c, zero)) * (spread * columns[x, 1, b])
            new[x, LANES + b] = slope * state[x, LANES + b]
        for b in range(2 * LANES):
            line[x, b] = new[x, b] + older[x, b] + oldest[x, b]


@_inner
def _sum_rows(ring, first, stop, size, adds, line, n):
    """Set line = sum of the rows [first, stop) of the ring; line += it where `adds`."""
    zeros = ring.shape[0] - 1
    for y in range(first, stop, 3):
        i = y % size
        j = (y + 1) % size if y + 1 < stop else zeros
        k = (y + 2) % size if y + 2 < stop else zeros
        for x in range(n):
            for b in range(2 * LANES):
                total = ring[i, x, b] + ring[j, x, b] + ring[k, x, b]
                if y == first and not adds:
                    line[x, b] = total
                else:
                    line[x, b] += total


@_inner
def _sum_columns(line, first, stride, size, trained, state, n):
    """Set a row of the plane: S = sum over the line, T = the same of T, + S of a trained layer."""
    for t in range(0, size, 3):
        for x in range(n):
            i = first + x * stride + t
            j = i + 1 if t + 1 < size else 0
            k = i + 2 if t + 2 < size else 0
            for b in range(LANES):
                c = LANES + b
                s = line[i, b] + line[j, b] + line[k, b]
                v = line[i, c] + line[j, c] + line[k, c] + trained * s
                if t == 0:
                    state[x, b] = s
                    state[x, c] = v
                else:
                    state[x, b] += s
                    state[x, c] += v


@_inner
def _add_row(new, n, s_sum, t_sum):
    """Add a row's S and T to their sums, four positions at a time: conversions are dear."""
    some = n - n % 4
    for x in range(0, some, 4):
        for b in range(LANES):
            s_sum[b] += (new[x, b] + new[x + 1, b]) + (new[x + 2, b] + new[x + 3, b])
        for b in range(LANES, 2 * LANES):
            t_sum[b - LANES] += (new[x, b] + new[x + 1, b]) + (new[x + 2, b] + new[x + 3, b])
    for x in range(some, n):
        for b in range(LANES):
            s_sum[b] += new[x, b]
            t_sum[b] += new[x, LANES + b]


@_inner
def _read_row(layer, y, y0, x0, start, n, ey, ex, i, rows, columns, powers, scratch, sums):
    """Read row y of a layer's input, n positions of the plane with corner (y0, x0), into the ring.

    After a ReLU also set the line to the sum of this row and the two before, from `start` on. Where
    the layer is tapped, add the row to `sums`.
    """
    state, ring, line, _ = scratch
    zeros = margin = ring.shape[0] - 1
    size = layer.size
    weight = state.dtype.type(1 / (1 << layer.shift))
    new = ring[y % size]
    if layer.source == PIXELS:
        own = rows.pixels[y, x0 : x0 + n, :, i]
        others = columns.pixels[y + ey, x0 + ex : x0 + ex + n]
        _multiply_pixels(own, others, weight / state.dtype.type(own.shape[1]), new)
    elif layer.source == RELU:
        p = layer.table + y * layer.width + x0
        q = p + ey * layer.width + ex
        own_table, table = rows.tables[p : p + n, :, i], columns.tables[q : q + n]
        older = ring[(y - 1) % size if y - 1 >= start else zeros]
        oldest = ring[(y - 2) % size if y - 2 >= start else zeros]
        _rectify(state[y - y0], own_table, table, weight, powers, new, older, oldest, line[margin:])
    else:
        for x in range(n):
            for b in range(2 * LANES):
                new[x, b] = weight * state[y - y0, x, b]
    if layer.tap >= 0:
        _add_row(new, n, sums[layer.tap, 0], sums[layer.tap, 1])


@_inner
def _add_plane(layers, ey, ex, i, rows, columns, powers, scratch, sums):
    """Add to the sums of every tap those over the plane of displacement (ey, ex), in pixels."""
    state, ring, line, _ = scratch
    real = state.dtype.type
    margin = ring.shape[0] - 1
    for depth in range(len(layers)):
        layer = layers[depth]
        size, stride = layer.size, layer.stride
        # The plane: positions p of the row image for which p + shift is in the column image.
        y0, y1 = _overlap(layer.height, ey)
        x0, x1 = _overlap(layer.width, ex)
        n = x1 - x0
        top = bottom = left = right = 0
        # A convolution keeps the displacements that its stride divides.
        goes_on = depth + 1 < len(layers) and ey % stride == 0 and ex % stride == 0
        if goes_on:
            top, bottom = _overlap(-(-layer.height // stride), ey // stride)
            left, right = _overlap(-(-layer.width // stride), ex // stride)
        first = margin + left * stride - layer.left - x0
        line[margin + n : margin + n + size] = 0
        ready = y0
        # Row y of the output takes the place of a row of the input that has been read.
        for y in range(top, bottom):
            start = max(y * stride - layer.top, y0)
            stop = min(y * stride - layer.top + size, y1)
            for z in range(ready if layer.tap >= 0 else max(ready, start), stop):
                _read_row(
                    layer, z, y0, x0, start, n, ey, ex, i, rows, columns, powers, scratch, sums
                )
            adds = layer.source == RELU and ready < stop
            rest = stop - 3 if adds else stop
            _sum_rows(ring, start, rest, size, adds, line[margin:], n)
            trained = real(layer.trained)
            _sum_columns(line, first, stride, size, trained, state[y - top], right - left)
            ready = stop
        if layer.tap >= 0:
            for z in range(ready, y1):
                _read_row(layer, z, y0, x0, z, n, ey, ex, i, rows, columns, powers, scratch, sums)
        if not goes_on:
            return
        ey, ex = ey // stride, ex // stride


@entry_point(**_OPTIONS)
def compare(layers, unit, pools, start, stop, rows, columns, groups, others, powers, scratch, out):
    """Set out[i - start] = sums over position pairs of S and T at every tap, for some row images.

    `groups` and `others` number the different images of the row and of the column block. Where two
    images are equal, c = 1 exactly on the plane of equal positions: it gets the image's own sums.
    `pools` asks for all planes (global average pooling), `unit` pixels apart, instead of the first
    (flatten).
    """
    tall = (layers[0].height - 1) // unit if pools else 0
    wide = (layers[0].width - 1) // unit if pools else 0
    part = scratch.part
    for i in range(start, stop):
        out[i - start] = 0
        for dy in range(tall + 1):
            for dx in range(-wide if dy > 0 else 0, wide + 1):
                # A plane and its mirror image meet in one sum, which does not change with x, x'.
                part[:] = 0
                for k in range(2 if dy != 0 or dx != 0 else 1):
                    shift = unit - 2 * k * unit
                    y, x = shift * dy, shift * dx
                    _add_plane(layers, y, x, i, rows, columns, powers, scratch, part[k])
                for tap in range(out.shape[1]):
                    for z in range(2):
                        for b in range(LANES):
                            if dy == 0 and dx == 0 and groups[i] == others[b]:
                                part[0, tap, z, b] = rows.own[tap, z, i]
                            out[i - start, tap, z, b] += part[0, tap, z, b] + part[1, tap, z, b]


@entry_point(**_OPTIONS)
def measure(layers, pixels, tables, own, smallest, grids):
    """Fill the tables of a block, and the sums `own` of S and T of every image with itself."""
    channels = pixels.shape[2]
    grids[0] = 0
    for y in range(layers[0].height):
        for x in range(layers[0].width):
            for c in range(channels):
                for b in range(LANES):
                    p = np.float64(pixels[y, x, c, b])
                    grids[0, 0, y, x, b] += p * p / channels
    for depth in range(len(layers)):
        layer = layers[depth]
        now, later = grids[depth % 2], grids[(depth + 1) % 2]
        weight, half = 1 / (1 << layer.shift), 1 / (1 << layer.shift // 2)
        if layer.source == RELU:
            for y in range(layer.height):
                for x in range(layer.width):
                    p = layer.table + y * layer.width + x
                    for b in range(LANES):
                        s = np.sqrt(now[0, y, x, b])
                        is_black = s < smallest
                        tables[p, 0, b] = 0.0 if is_black else 1.0 / s
                        tables[p, 1, b] = 0.0 if is_black else s * half
        if layer.tap >= 0:
            for z in range(2):
                for y in range(layer.height):
                    for x in range(layer.width):
                        for b in range(LANES):
                            own[layer.tap, z, b] += weight * now[z, y, x, b]
        if depth + 1 == len(layers):
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
                    later[1, y, x, b] += layer.trained * later[0, y, x, b]
