"""Compiled sums over the coordinates of pairs of vectors, and over the entries of pairs.

The same bytes for any number of threads: a threaded BLAS would not promise that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from lantk.compiled import entry_point

# Columns compared side by side (a multiple of every vector width), and coordinates whose distances
# are summed in float32 before they are added up in float64: a run of both fits the second cache.
_LANES, _RUN = 96, 256

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
_UNWRAPPED: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_inner = numba.njit(**_OPTIONS, **_UNWRAPPED)


@_inner
def _product(a, b):
    return a * b


@_inner
def _difference(a, b):
    return abs(a - b)


def _make_sum(term: Callable[[Any, Any], Any]) -> Callable[..., None]:
    """Return a function that adds sum_c term(rows[i, c], columns[c, b]) to out[i, b].

    Four rows and four coordinates at a time: each number read is used four times. The sum over
    coordinates runs in `part` (4, lanes), in the type of the rows.
    """

    @_inner
    def add(rows, columns, n, part, out):
        for i in range(0, rows.shape[0], 4):
            r, s, t, u = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
            part[:] = 0
            for c in range(0, n, 4):
                r0, r1, r2, r3 = r[c], r[c + 1], r[c + 2], r[c + 3]
                s0, s1, s2, s3 = s[c], s[c + 1], s[c + 2], s[c + 3]
                t0, t1, t2, t3 = t[c], t[c + 1], t[c + 2], t[c + 3]
                u0, u1, u2, u3 = u[c], u[c + 1], u[c + 2], u[c + 3]
                for b in range(_LANES):
                    w, x = columns[c, b], columns[c + 1, b]
                    y, z = columns[c + 2, b], columns[c + 3, b]
                    part[0, b] += (term(r0, w) + term(r1, x)) + (term(r2, y) + term(r3, z))
                    part[1, b] += (term(s0, w) + term(s1, x)) + (term(s2, y) + term(s3, z))
                    part[2, b] += (term(t0, w) + term(t1, x)) + (term(t2, y) + term(t3, z))
                    part[3, b] += (term(u0, w) + term(u1, x)) + (term(u2, y) + term(u3, z))
            for k in range(4):
                for b in range(_LANES):
                    out[i + k, b] += part[k, b]

    return add


_add_products, _add_differences = _make_sum(_product), _make_sum(_difference)


@entry_point(**_OPTIONS)
def compare(x1, x2, inner, distance):
    """Set the inner products and L1 distances (m, n) of vectors (m, d) and (n, d)."""
    m, n, d = len(x1), len(x2), x1.shape[1]
    n_rows, n_blocks = -(-m // 4) * 4, -(-n // _LANES)
    # Rows and lanes beyond the last vector hold zeros or what came before; nothing reads their
    # sums. Coordinates beyond the last are zeros on both sides.
    rows, wide_rows = np.zeros((n_rows, _RUN), np.float32), np.zeros((n_rows, _RUN))
    columns, wide_columns = np.zeros((_RUN, _LANES), np.float32), np.zeros((_RUN, _LANES))
    part, wide_part = np.empty((4, _LANES), np.float32), np.empty((4, _LANES))
    products = np.zeros((n_blocks, n_rows, _LANES))
    distances = np.zeros((n_blocks, n_rows, _LANES))
    for start in range(0, d, _RUN):
        some = min(_RUN, d - start)
        rows[:, some:] = wide_rows[:, some:] = 0
        columns[some:] = wide_columns[some:] = 0
        for i in range(m):
            for c in range(some):
                rows[i, c] = wide_rows[i, c] = x1[i, start + c]
        for k in range(n_blocks):
            for j in range(k * _LANES, min((k + 1) * _LANES, n)):
                for c in range(some):
                    value = x2[j, start + c]
                    columns[c, j - k * _LANES] = value
                    wide_columns[c, j - k * _LANES] = value
            _add_products(wide_rows, wide_columns, some, wide_part, products[k])
            _add_differences(rows, columns, some, part, distances[k])
    for i in range(m):
        for j in range(n):
            inner[i, j] = products[j // _LANES, i, j % _LANES]
            distance[i, j] = distances[j // _LANES, i, j % _LANES]


@entry_point(nogil=True, fastmath={"contract", "reassoc"})
def add_inner_products(vectors, out):
    """Add the lower triangle of ``vectors vectors^T`` to `out`, a run of entries at a time."""
    p, n = vectors.shape
    for start in range(0, n, _RUN):
        for a in range(p):
            for b in range(a + 1):
                total = 0.0
                for e in range(start, min(start + _RUN, n)):
                    total += vectors[a, e] * vectors[b, e]
                out[a, b] += total


@entry_point(nogil=True, fastmath={"contract"})
def combine_rows(coefficients, vectors, out):
    """Set out (q, n) to ``coefficients vectors`` (q, p) x (p, n), a run of columns at a time."""
    p, n = vectors.shape
    for start in range(0, n, _RUN):
        stop = min(start + _RUN, n)
        for a in range(len(coefficients)):
            for e in range(start, stop):
                out[a, e] = coefficients[a, 0] * vectors[0, e]
            for b in range(1, p):
                for e in range(start, stop):
                    out[a, e] += coefficients[a, b] * vectors[b, e]
