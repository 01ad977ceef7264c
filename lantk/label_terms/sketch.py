"""Least squares on a sketch of its rows: the fast Johnson-Lindenstrauss transform (FJLT).

The sketch of F (d x m) is ``P H D F / sqrt(k d)``: D random signs, H the Walsh-Hadamard matrix
(N x N, entries +-1, rows and columns beyond d unused), P a sparse Gaussian matrix with

    k = floor(ln(m) / epsilon^2) rows,  q = ln(m)^2 / d,  N = the next power of two >= d,

whose entries in the first d columns are nonzero with probability q, and then normal with variance
1/q. Norms of columns are kept on average. Least squares of one column on the p = m - 1 others agree
with the exact ones to

    sqrt(p / k) sqrt(1 + 3 / ln(m)^2)

of the residual, root mean square over the rows: the second factor, 1.23 for p = 10 and 1.15 for
p = 20, is what P's few nonzero entries a row (ln(m)^2 on average) cost beside a dense P.

P is drawn first: it reads about k ln(m)^2 coordinates of H D F, and only these are computed, each a
signed sum over all d rows. Rows are visited once, in runs of b, by ``H_N = H_a (x) H_b``: a run is
transformed in place by H_b, and what P reads of it is added up with the signs of H_a.

References
----------
Ailon and Chazelle, "The Fast Johnson-Lindenstrauss Transform", SIAM J. Comput. 39 (2009), for P, H
and D. Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, for k and q.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lantk.compiled import entry_point
from lantk.errors import LantkError
from lantk.label_terms.pair_sums import add_inner_products
from lantk.solvers.tiles import in_threads

# Rows transformed at once, b: 2 MiB a column. Fewer fit the cache better, but P is read once a run.
RUN = 2**18


class SketchError(LantkError):
    """A sketch that cannot be made; the message says why."""


@dataclass(frozen=True)
class Projection:
    """The random part of a sketch: the nonzero entries of P, row by row, and the signs D."""

    n_rows: int
    """d, before the sketch."""
    n_sketched: int
    """k, after it."""
    rows: NDArray[np.int64]
    coordinates: NDArray[np.int64]
    values: NDArray[np.float64]
    seed: int

    def signs(self, run: int, width: int) -> NDArray[np.int8]:
        """Return the signs -1/+1 of rows ``run * width`` to ``(run + 1) * width``.

        Each run has a generator of its own, so its signs need no other run's.
        """
        packed = np.random.default_rng([self.seed, 1, run]).bytes(-(-width // 8))
        bits = np.unpackbits(np.frombuffer(packed, np.uint8))[:width]
        return 1 - 2 * bits.astype(np.int8)


def draw_projection(n_rows: int, n_columns: int, *, seed: int, epsilon: float = 0.01) -> Projection:
    """Draw what is random of the sketch of an n_rows x n_columns matrix.

    Raises
    ------
    SketchError
        If the sketch would have as many rows as the matrix, or more.
    """
    log_columns = np.log(n_columns)
    n_sketched = int(log_columns / epsilon**2)
    if not 1 <= n_sketched < n_rows:
        raise SketchError(
            f"the sketch of {n_rows} rows x {n_columns} columns would have {n_sketched} rows at"
            f" epsilon = {epsilon:g}: wanted at least 1 and fewer than {n_rows}. For a label term"
            f" the rows are the pairs of train images it is fitted on, validation folds left out:"
            f" take {int(n_sketched**0.5) + 1} images or more in the smallest fit, or"
            " `estimator: exact`"
        )
    q = min(1.0, log_columns**2 / n_rows)
    rng = np.random.default_rng([seed, 0])
    # The gaps between nonzero entries of P, read row by row, are geometric.
    n_cells = n_sketched * n_rows
    n_drawn = int(n_cells * q) + 1
    cells = np.cumsum(rng.geometric(q, n_drawn)) - 1
    while cells[-1] < n_cells:
        cells = np.append(cells, cells[-1] + np.cumsum(rng.geometric(q, n_drawn)))
    rows, coordinates = np.divmod(cells[cells < n_cells], n_rows)
    values = rng.normal(scale=q**-0.5, size=len(rows))
    return Projection(n_rows, n_sketched, rows, coordinates, values, seed)


def sketch(blocks: Iterable[NDArray], projection: Projection, n_columns: int) -> NDArray:
    """Return the sketched columns, (n_columns, k), by what `draw_projection` drew for a matrix.

    Blocks (n_columns, any) hold consecutive rows of the matrix: a column of it is a row of a block.
    They are read once, and not changed.

    Raises
    ------
    SketchError
        If the blocks do not make up the matrix.

    Notes
    -----
    Works in ``8 b m`` bytes (44 MB for 21 columns) beside the blocks; the result is the same bytes
    for any length of the blocks and any number of threads. Additions: ``d m log2(b)``, and for P
    ``k ln(m)^2 m d / b``. Some 10 s for 10^8 rows and 11 columns, 25 s for 21, on two cores.
    """
    p = projection
    width = min(RUN, 1 << (p.n_rows - 1).bit_length())
    outer, inner = np.divmod(p.coordinates, width)
    out = np.zeros((n_columns, p.n_sketched))
    buffer = np.empty((n_columns, width))
    for run in _fill_in_turn(buffer, blocks, p.n_rows):
        signs = p.signs(run, width)
        # The entry of H_a in row `outer` and column `run`.
        is_odd = np.bitwise_count(outer & run) % 2 == 1
        weights = np.where(is_odd, -p.values, p.values)

        def add(c: int, signs: NDArray = signs, weights: NDArray = weights) -> None:
            _add_run(buffer[c], signs, p.rows, inner, weights, out[c])

        for _ in in_threads(add, range(n_columns)):
            pass
    out /= np.sqrt(float(p.n_sketched) * p.n_rows)
    return out


def sketched_normal_equations(
    blocks: Iterable[NDArray],
    n_rows: int,
    n_features: int,
    *,
    seed: int,
    epsilon: float = 0.01,
    n_targets: int = 1,
) -> NDArray:
    """Return [F t_1 t_2 ...]^T F, (p + n_targets, p), of sketched features F and targets t.

    Blocks are (p + n_targets, any), the targets last, of consecutive rows; `n_rows` in all. The
    targets share one sketch of ``floor(ln(p + 1) / epsilon^2)`` rows, and each is fitted by itself;
    see the module for how far its least squares are from the exact ones. Another seed, another
    sketch; the same seed, the same bytes.
    """
    projection = draw_projection(n_rows, n_features + 1, seed=seed, epsilon=epsilon)
    columns = sketch(blocks, projection, n_features + n_targets)
    products = np.zeros((len(columns), len(columns)))
    add_inner_products(columns, products)
    products = np.tril(products) + np.tril(products, -1).T
    return products[:, :n_features]


def _fill_in_turn(buffer: NDArray, blocks: Iterable[NDArray], n_rows: int) -> Iterator[int]:
    """Fill the buffer with rows again and again, zeros after the last; yield the run's number."""
    n_columns, width = buffer.shape
    seen = 0
    for block in blocks:
        if block.ndim != 2 or len(block) != n_columns:
            raise SketchError(f"a block of shape {block.shape}: wanted ({n_columns}, any)")
        start = 0
        while start < block.shape[1]:
            filled = seen % width
            n_taken = min(width - filled, block.shape[1] - start)
            buffer[:, filled : filled + n_taken] = block[:, start : start + n_taken]
            start += n_taken
            seen += n_taken
            if seen % width == 0:
                yield seen // width - 1
    if seen != n_rows:
        raise SketchError(f"blocks of {seen} rows in all: wanted {n_rows}")
    if seen % width:
        buffer[:, seen % width :] = 0
        yield seen // width


@entry_point(nogil=True)
def walsh_hadamard(values):
    """Replace values (a power of two of them) by H values, H_2 = [[1, 1], [1, -1]], unscaled."""
    n = len(values)
    n_bits = 0
    while 1 << n_bits < n:
        n_bits += 1
    half = 1
    if n_bits % 2:
        for i in range(0, n, 2):
            a, b = values[i], values[i + 1]
            values[i], values[i + 1] = a + b, a - b
        half = 2
    # Two bits of the index in each pass.
    while half < n:
        for start in range(0, n, 4 * half):
            first = values[start : start + half]
            second = values[start + half : start + 2 * half]
            third = values[start + 2 * half : start + 3 * half]
            fourth = values[start + 3 * half : start + 4 * half]
            for i in range(half):
                a, b, c, d = first[i], second[i], third[i], fourth[i]
                first[i] = (a + b) + (c + d)
                second[i] = (a - b) + (c - d)
                third[i] = (a + b) - (c + d)
                fourth[i] = (a - b) - (c - d)
        half *= 4


@entry_point(nogil=True)
def _add_run(column, signs, rows, positions, weights, out):
    """Add what P reads of a run of one column to `out`; the column is overwritten."""
    for i in range(len(column)):
        column[i] *= signs[i]
    walsh_hadamard(column)
    for i in range(len(rows)):
        out[rows[i]] += weights[i] * column[positions[i]]
