"""Rows of planes, compiled, the entries innermost: activations, sums over a filter, readouts, pools.

Factors of the row image and of the column image always meet in one product of their own, so that
K(x, x') and K(x', x) are the same bytes. What is known of the row image is a number for each
position; where the images of a block are compared with themselves, it is one for each lane too.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from lantk.kernel.plan import ERF, GELU, LEAKY_RELU, RELU

# Entries computed side by side: a multiple of every vector width, fixed when compiled.
LANES = 96

# No reassociation: the order of every sum is the one written here. All numbers are finite.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "nnan", "ninf"},
}
inner = numba.njit(**OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
# Called for each row with all arrays, which would be copied to the stack.
forced = numba.njit(**OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


@inner
def overlap(side, shift):
    """Return the range of the p for which p and p + shift are both in [0, side)."""
    return max(0, -shift), min(side, side - shift)


@inner
def _horner(powers, a):
    total = powers[0]
    for k in range(1, len(powers)):
        total = total * a + powers[k]
    return total


@inner
def multiply_pixels(row, columns, weight, new):
    """Set new = (S, T) = (weight <x_p, x'_(p + d)>, 0) along a row."""
    if row.ndim == 2:
        _multiply_pixels(row, columns, weight, new)
    else:
        new[: len(row)] = 0
        for x in range(len(row)):
            for c in range(row.shape[1]):
                for b in range(LANES):
                    new[x, b] += weight * (row[x, c, b] * columns[x, c, b])


@inner
def _multiply_pixels(row, columns, weight, new):
    """Multiply pixels three channels at a time."""
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


@inner
def rectify(state, row, columns, weight, powers, new, older, oldest, line):
    """Set new = (S, T) after a ReLU, along a row of the plane, and line = new + older + oldest.

    Both come out times `weight`, which for S is in the tables `row` and `columns`.
    """
    p_even, p_odd, q_even, q_odd, limit = powers
    zero = state.dtype.type(0)
    if row.ndim == 3:
        _activate(RELU, state, row, columns, weight, 0.0, 1.0, powers, new)
        for x in range(len(row)):
            for b in range(2 * LANES):
                line[x, b] = new[x, b] + older[x, b] + oldest[x, b]
    else:
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


@inner
def activate(kind, state, row, columns, weight, slope, unit, powers, new):
    """Set new = (S, T) after an activation that is no ReLU, along a row of the plane.

    Both come out times `weight`; S on paper is `unit` times S of the state.
    """
    # With the kind known, each loop is compiled without branches.
    if kind == LEAKY_RELU:
        _activate(LEAKY_RELU, state, row, columns, weight, slope, unit, powers, new)
    elif kind == ERF:
        _activate(ERF, state, row, columns, weight, slope, unit, powers, new)
    else:
        _activate(GELU, state, row, columns, weight, slope, unit, powers, new)


@inner
def _activate(kind, state, row, columns, weight, slope, unit, powers, new):
    # Of the right type: a float64 among float32 would make all of them wide.
    real = state.dtype.type
    numbers = real(weight), real(slope), real(unit), real(1 / unit), real(np.pi), real(1), real(0)
    if row.ndim == 2:
        for x in range(row.shape[0]):
            own0, own1 = row[x, 0], row[x, 1]
            for b in range(LANES):
                new[x, b], new[x, LANES + b] = _dual(
                    kind, state[x, b], state[x, LANES + b], own0 * columns[x, 0, b],
                    own1 * columns[x, 1, b], numbers, powers,
                )  # fmt: skip
    else:
        for x in range(row.shape[0]):
            for b in range(LANES):
                new[x, b], new[x, LANES + b] = _dual(
                    kind, state[x, b], state[x, LANES + b], row[x, 0, b] * columns[x, 0, b],
                    row[x, 1, b] * columns[x, 1, b], numbers, powers,
                )  # fmt: skip


@inner
def _dual(kind, s, t, inverse, spread, numbers, powers):
    """Return S and T after an activation; `inverse` and `spread` are products of two tables."""
    p_even, p_odd, q_even, q_odd, limit = powers
    weight, slope, unit, per_unit, pi, one, zero = numbers
    c = s * inverse
    a = abs(min(max(c, -limit), limit))
    square, rest = a * a, limit - a
    u = np.sqrt(rest)
    # arccos(a) / pi
    angle = u * (_horner(p_even, square) + a * _horner(p_odd, square))
    if kind == ERF or kind == GELU:
        half = one / (one + one)
        arc = pi * (half - angle)
        arc = -arc if c < zero else arc
        root = np.sqrt((one - a) * (one + a))
        if kind == ERF:
            return weight * (arc + arc) / pi, weight * t * ((inverse + inverse) / (pi * root))
        # With P = (1 + v)(1 + v'): `height` is 1 / sqrt(P), `spread` is v v' / sqrt(P).
        height, double_pi, true = inverse * per_unit, pi + pi, unit * s
        inside = height * c * c / root + spread * root + true * arc
        slope_s = height * height / (root * root) + height * (height - spread) + one
        slope_s = half * half + (arc + c / root * slope_s) / double_pi
        return weight * (true * half * half + inside / double_pi), weight * unit * t * slope_s
    bulge = rest * (u * (_horner(q_even, square) + a * _horner(q_odd, square)))
    rectified = (bulge + max(c, zero)) * spread
    fraction = angle if c < zero else one - angle
    if kind == RELU:
        return rectified, weight * fraction * t
    share, double = (one - slope) * (one - slope), slope + slope
    return share * rectified + double * weight * s, weight * t * (share * fraction + double)


@inner
def sum_rows(ring, first, stop, size, adds, line, n):
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


@inner
def sum_columns(line, first, stride, size, trained, state, n):
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


@inner
def add_row(new, n, s_sum, t_sum):
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


@inner
def add_weighted_row(new, n, weights, weight, s_sum, t_sum):
    """Add a row's S and T to their sums, each position by its weight, and the row by its own."""
    real = new.dtype.type
    for x in range(0, n, 4):
        # Beyond the row, weights of 0 for its last position.
        i, j, k = min(x + 1, n - 1), min(x + 2, n - 1), min(x + 3, n - 1)
        p, q = real(weights[x]), real(weights[i]) if x + 1 < n else real(0)
        r, s = real(weights[j]) if x + 2 < n else real(0), real(weights[k]) if x + 3 < n else real(0)
        for b in range(LANES):
            some = (p * new[x, b] + q * new[i, b]) + (r * new[j, b] + s * new[k, b])
            s_sum[b] += weight * some
        for b in range(LANES, 2 * LANES):
            some = (p * new[x, b] + q * new[i, b]) + (r * new[j, b] + s * new[k, b])
            t_sum[b - LANES] += weight * some


@inner
def shift_row(state, bias, trained, n):
    """Add the variance of a bias to S, and to T of a trained layer, along a row of the plane."""
    for x in range(n):
        for b in range(LANES):
            state[x, b] += bias
            state[x, LANES + b] += trained * bias


@inner
def add_kept_row(state, kept, ratio, n):
    """Add a row of a plane that was kept for a residual."""
    for x in range(n):
        for b in range(2 * LANES):
            state[x, b] += ratio * kept[x, b]


@inner
def pool_row(layer, y, x0, n, ey, ex, new, target, slots):
    """Add a row of a plane with displacement (ey, ex) to the plane `target` of a pool's output."""
    size, stride = layer.size, layer.stride
    height, width = -(-layer.height // stride), -(-layer.width // stride)
    # The second position of a pair lies this much further in its window than the first one.
    on_y, on_x = ey - stride * target.y, ex - stride * target.x
    first_y, last_y = overlap(size, on_y)
    first_x, last_x = overlap(size, on_x)
    top, bottom = overlap(height, target.y)
    left, right = overlap(width, target.x)
    at = y + layer.top
    for p in range(max(top, -((last_y - 1 - at) // stride)), min(bottom, (at - first_y) // stride + 1)):
        row = slots[target.slot, p - top]
        for q in range(left, right):
            begin = q * stride - layer.left - x0
            first, last = max(begin + first_x, 0), min(begin + last_x, n)
            if last - first == 1:
                for b in range(2 * LANES):
                    row[q - left, b] += new[first, b]
            elif last - first == 2:
                for b in range(2 * LANES):
                    row[q - left, b] += new[first, b] + new[first + 1, b]
            else:
                for x in range(first, last):
                    for b in range(2 * LANES):
                        row[q - left, b] += new[x, b]
