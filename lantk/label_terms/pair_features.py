"""Features of a pair of samples, the regressors of LANTK-FJLT, and sums over all pairs.

A feature set learns its constants on the train vectors (`fit`) and gives the features of a tile of
entries. `PairFeatures` puts sets side by side and visits the tiles in threads: a tile's features
stay in the cache and are given up again, so memory does not grow with the number of entries. The
result is the same bytes for any number of threads.

References
----------
Chen, He and Su (2020), appendix on LANTK-FJLT, and the authors' release for what the text leaves
open (`PcaRelease`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.feature_sets import ENTRIES_AT_ONCE, FEATURE_SETS, Samples, Vectors
from lantk.label_terms.pair_sums import add_inner_products, combine_rows
from lantk.solvers.tiles import SIDE, Tile, in_threads, lower_tiles, tiles


class PairFeatures:
    """Feature sets side by side on the same train vectors, summed over tiles of entries.

    `names` are out of `FEATURE_SETS`, with p features in all; `learned` is what their `fit`
    learned.

    Notes
    -----
    10,000 vectors of 3,073 coordinates take 12 s a visit on two Zen 4 cores, most of it inner
    products and L1 distances. Each thread holds about 30 arrays of a tile (9 MB).
    """

    def __init__(
        self, names: Sequence[str], x_train: Vectors, learned: Mapping[str, NDArray]
    ) -> None:
        self._sets = [FEATURE_SETS[name](x_train, learned) for name in names]
        self._train = [s.columns for s in self._sets]
        self.n_features = sum(s.n_features for s in self._sets)

    def normal_equations(
        self, k_train_train: NDArray, targets: Sequence[tuple[NDArray, NDArray]]
    ) -> tuple[NDArray, NDArray]:
        """Return [F t_1 t_2 ...]^T F over all n^2 entries, and over the n of the diagonal alone.

        Each target t is given as (labels, signs): the label product ``labels diag(signs)
        labels^T``. Both results are (p + number of targets, p): F^T F, then one row a target.
        `k_train_train` is taken to be symmetric.
        """
        p, n_targets = self.n_features, len(targets)

        def products_of(tile: Tile) -> tuple[NDArray, NDArray | None]:
            rows, columns = tile
            values = self._values(k_train_train, self._train, tile, n_more=n_targets)
            _fill_targets(values[p:], targets, rows, columns)
            products = np.zeros((p + n_targets, p + n_targets))
            add_inner_products(values.reshape(len(values), -1), products)
            if rows != columns:
                return 2 * products, None
            on_diagonal = np.zeros_like(products)
            diagonal = np.ascontiguousarray(np.diagonal(values, axis1=1, axis2=2))
            add_inner_products(diagonal, on_diagonal)
            return products, on_diagonal

        total, diagonal = np.zeros((2, p + n_targets, p + n_targets))
        for products, on_diagonal in in_threads(products_of, lower_tiles(len(k_train_train))):
            total += products
            if on_diagonal is not None:
                diagonal += on_diagonal
        both = (np.tril(sums) + np.tril(sums, -1).T for sums in (total, diagonal))
        full, of_diagonal = (sums[:, :p] for sums in both)
        return full, of_diagonal

    def row_blocks(
        self,
        k_train_train: NDArray,
        targets: Sequence[tuple[NDArray, NDArray]],
        *,
        with_diagonal: bool = True,
    ) -> Iterator[NDArray]:
        """Yield features and targets of consecutive entries, row by row, (p + targets, entries).

        For estimators that want every entry in turn; without the diagonal its entries are zero.
        """
        n, n_targets = len(k_train_train), len(targets)
        n_rows = max(1, ENTRIES_AT_ONCE // n)
        width = max(1, SIDE**2 // n_rows)
        for top in range(0, n, n_rows):
            rows = slice(top, min(top + n_rows, n))
            block = np.empty((self.n_features + n_targets, rows.stop - top, n))

            def fill(columns: slice, rows: slice = rows, block: NDArray = block) -> None:
                values = self._values(k_train_train, self._train, (rows, columns), n_more=n_targets)
                _fill_targets(values[self.n_features :], targets, rows, columns)
                block[:, :, columns] = values

            for _ in in_threads(fill, [slice(i, min(i + width, n)) for i in range(0, n, width)]):
                pass
            if not with_diagonal:
                block[:, np.arange(len(block[0])), np.arange(rows.start, rows.stop)] = 0
            yield block.reshape(len(block), -1)

    def combine(self, coefficients: NDArray, k: NDArray, x_rows: Vectors | None = None) -> NDArray:
        """Return the sums of coefficient times feature, (q, m, n) float32, for (q, p) coefficients.

        `k` is m x n and `x_rows` has the m vectors; None stands for the train vectors, where `k` is
        taken to be symmetric.
        """
        is_symmetric = x_rows is None
        samples = self._train if x_rows is None else [s.read(x_rows) for s in self._sets]
        z = np.empty((len(coefficients), *k.shape), np.float32)

        def fill(tile: Tile) -> None:
            rows, columns = tile
            values = self._values(k, samples, tile)
            sums = np.empty((len(coefficients), *values.shape[1:]))
            combine_rows(coefficients, values.reshape(len(values), -1), sums.reshape(len(sums), -1))
            z[:, rows, columns] = sums
            if is_symmetric:
                z[:, columns, rows] = sums.transpose(0, 2, 1)

        for _ in in_threads(fill, lower_tiles(len(k)) if is_symmetric else tiles(*k.shape)):
            pass
        return z

    def _values(
        self, k: NDArray, samples: Sequence[Samples], tile: Tile, n_more: int = 0
    ) -> NDArray:
        """Return the features of a tile, with room for more, (p + n_more, rows, columns)."""
        rows, columns = tile
        kernel = k[rows, columns]
        values = np.empty((self.n_features + n_more, *kernel.shape))
        first = 0
        for s, read in zip(self._sets, samples, strict=True):
            own, others = (tuple(a[i] for a in b) for b, i in ((read, rows), (s.columns, columns)))
            s.fill(values[first : first + s.n_features], kernel, own, others)
            first += s.n_features
        return values


def _fill_targets(
    out: NDArray, targets: Sequence[tuple[NDArray, NDArray]], rows: slice, columns: slice
) -> None:
    """Set each of `out` to the label products of a tile."""
    for value, (labels, signs) in zip(out, targets, strict=True):
        np.einsum("ic,jc->ij", labels[rows] * signs, labels[columns], out=value)
