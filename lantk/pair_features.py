"""Features of a pair of samples, the regressors of LANTK-FJLT, and sums over all pairs.

A feature set learns its constants on the train vectors (`fit`) and gives the features of a tile of
entries. `PairFeatures` puts sets side by side and visits the tiles in threads: a tile's features
stay in the cache and are given up again, so memory does not grow with the number of entries. The
result is the same bytes for any number of threads, since each tile is worked on by one thread, with
compiled sums instead of a threaded BLAS, and tiles are added up in their own order.

References
----------
Chen, He and Su (2020), appendix on LANTK-FJLT, and the authors' release for what the text leaves
open (`PcaRelease`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

N_COMPONENTS = 5

# Rows and columns of a tile: many entries share what is read, and twenty features of a tile still
# fit the cache.
_SIDE = 192

Samples = tuple[NDArray[Any], ...]
"""What samples bring to their features, each by itself: arrays with one row a sample."""

Tile = tuple[slice, slice]
_Result = TypeVar("_Result")


class FeatureSet:
    """The interface of a feature set, built on the train vectors and what `fit` learned.

    Attributes
    ----------
    fitted_names : tuple of str
        Names of what `fit` learns.
    n_features : int
        Number p of features.
    columns : tuple of arrays
        What `read` returns for the train vectors.
    """

    fitted_names: tuple[str, ...]
    n_features = 10
    columns: Samples

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Return the constants learned from the train vectors (n, d), by name."""
        raise NotImplementedError

    def __init__(self, x_train: NDArray, learned: Mapping[str, NDArray]) -> None:
        raise NotImplementedError

    def read(self, x: NDArray) -> Samples:
        """Return what vectors (m, d) bring to their features: arrays of m rows."""
        raise NotImplementedError

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
        """Set `out` (p, m, n) to the features of m samples and n train samples."""
        raise NotImplementedError

    def features(self, k_rows: NDArray, x_rows: NDArray) -> NDArray:
        """Return the features of m rows against all n train rows, (p, m, n) float64."""
        out = np.empty((self.n_features, *k_rows.shape))
        self.fill(out, k_rows, self.read(x_rows), self.columns)
        return out


class Global(FeatureSet):
    """The ten features of the pair: kernel, inner product, ..., L1 distance.

    In this order: kernel, inner product, cosine, squared distance, norm product, sine, angle,
    Gaussian of the squared distance, Pearson correlation over coordinates, L1 distance. The
    Gaussian's scale is the mean squared distance over all train entries, the diagonal included.
    """

    fitted_names = ("mean_squared_distance_",)

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Learn the scale of the Gaussian."""
        return {"mean_squared_distance_": _mean_squared_distance(x_train)}

    def __init__(self, x_train: NDArray, learned: Mapping[str, NDArray]) -> None:
        self._scale = float(learned["mean_squared_distance_"])
        self.columns = self.read(x_train)

    def read(self, x: NDArray) -> Samples:
        """Return the vectors and their moments."""
        return _read_vectors(x)

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
        """Set the ten features, (10, m, n)."""
        out[0] = kernel
        _fill_nine(out, rows, columns, self._scale)


class _Pca(FeatureSet):
    """Principal components of the train vectors: the shared part of both readings of V2."""

    fitted_names: tuple[str, ...] = ("pca_mean_", "pca_components_")

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Learn mean and components; the largest absolute loading of each is positive."""
        # Imported here: scikit-learn takes seconds to load, and only this needs it.
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits

        n_components = min(N_COMPONENTS, *x_train.shape)
        # Lanczos iterations to machine precision: a full decomposition of 10,000 vectors of 3,073
        # coordinates costs a hundred times as much. Tiny problems are done directly.
        solver = "arpack" if min(x_train.shape) > 10 * N_COMPONENTS else "full"
        pca = PCA(n_components, svd_solver=solver, random_state=0)
        # One thread: the rounding of matrix-vector products depends on their number, and memory
        # bounds their speed.
        with threadpool_limits(1):
            pca.fit(np.asarray(x_train, np.float64))
        components = pca.components_
        largest = np.argmax(np.abs(components), axis=1)
        components *= np.sign(components[np.arange(n_components), largest])[:, None]
        return {"pca_mean_": pca.mean_, "pca_components_": components}

    def __init__(self, x_train: NDArray, learned: Mapping[str, NDArray]) -> None:
        self._learned = learned
        self.columns = self.read(x_train)

    def read(self, x: NDArray) -> Samples:
        """Return the components."""
        return (_project(x, self._learned),)


class PcaRelease(_Pca):
    """Products and absolute differences of the first five principal components, as released."""

    @property
    def n_features(self) -> int:  # type: ignore[override]
        """Two a component."""
        return 2 * len(self._learned["pca_components_"])

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
        """Set five products, then five absolute differences, (10, m, n)."""
        products, differences = np.split(out, 2)
        np.multiply(rows[0].T[:, :, None], columns[0].T[:, None, :], out=products)
        np.subtract(rows[0].T[:, :, None], columns[0].T[:, None, :], out=differences)
        np.abs(differences, out=differences)


class PcaText(_Pca):
    """The ten features of the pair of first five principal components, as the text says.

    The kernel is the closed-form 2-layer NTK of the components.
    """

    fitted_names = (*_Pca.fitted_names, "pca_mean_squared_distance_")

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Learn the components, and the scale of the Gaussian between them."""
        learned = _Pca.fit(x_train)
        scale = _mean_squared_distance(_project(x_train, learned))
        return learned | {"pca_mean_squared_distance_": scale}

    def read(self, x: NDArray) -> Samples:
        """Return the components and their moments."""
        return _read_vectors(*super().read(x))

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
        """Set the ten features of the components, (10, m, n)."""
        _fill_nine(out, rows, columns, float(self._learned["pca_mean_squared_distance_"]))
        _, inner, cosine, _, norms, sine, angle, *_ = out
        out[0] = _two_layer_ntk(inner, norms, cosine, sine, angle)


FEATURE_SETS: dict[str, type[FeatureSet]] = {
    "global": Global,
    "pca-release": PcaRelease,
    "pca-text": PcaText,
}


class PairFeatures:
    """Feature sets side by side on the same train vectors, summed over tiles of entries.

    Parameters
    ----------
    names : sequence of str
        Names out of `FEATURE_SETS`; p features in all.
    x_train : (n, d) array
        Train vectors.
    learned : dict
        What their `fit` learned.

    Notes
    -----
    10,000 vectors of 3,073 coordinates take 12 s a visit on two Zen 4 cores, most of it inner
    products and L1 distances. Each thread holds about 30 arrays of a tile (9 MB).
    """

    def __init__(
        self, names: Sequence[str], x_train: NDArray, learned: Mapping[str, NDArray]
    ) -> None:
        self._sets = [FEATURE_SETS[name](x_train, learned) for name in names]
        self._train = [s.columns for s in self._sets]
        self._n_features = sum(s.n_features for s in self._sets)

    def normal_equations(
        self, k_train_train: NDArray, labels: NDArray, signs: NDArray
    ) -> tuple[NDArray, NDArray]:
        """Return F^T F (p, p) and F^T t (p,) over all n^2 entries.

        `k_train_train` is symmetric: only its lower triangle is read. The target t is the label
        product ``labels diag(signs) labels^T``.
        """

        def products_of(tile: Tile) -> NDArray:
            rows, columns = tile
            values = self._values(k_train_train, self._train, tile, n_more=1)
            values[-1] = np.einsum("ic,jc->ij", labels[rows] * signs, labels[columns])
            products = np.zeros((len(values), len(values)))
            _add_inner_products(values.reshape(len(values), -1), products)
            return products if rows == columns else 2 * products

        total = np.zeros((self._n_features + 1, self._n_features + 1))
        for products in _in_threads(products_of, _lower_tiles(len(k_train_train))):
            total += products
        total = np.tril(total) + np.tril(total, -1).T
        return total[:-1, :-1], total[-1, :-1]

    def combine(self, coefficients: NDArray, k: NDArray, x_rows: NDArray | None = None) -> NDArray:
        """Return the sum of coefficient times feature, (m, n).

        `k` is m x n and `x_rows` has the m vectors; None stands for the train vectors, where `k` is
        symmetric and only its lower triangle is read.
        """
        is_symmetric = x_rows is None
        samples = self._train if x_rows is None else [s.read(x_rows) for s in self._sets]
        z = np.empty(k.shape)

        def fill(tile: Tile) -> None:
            rows, columns = tile
            values = self._values(k, samples, tile)
            z[rows, columns] = np.einsum("p,pij->ij", coefficients, values)
            if is_symmetric:
                z[columns, rows] = z[rows, columns].T

        for _ in _in_threads(fill, _lower_tiles(len(k)) if is_symmetric else _tiles(*k.shape)):
            pass
        return z

    def _values(
        self, k: NDArray, samples: Sequence[Samples], tile: Tile, n_more: int = 0
    ) -> NDArray:
        """Return the features of a tile, with room for more, (p + n_more, rows, columns)."""
        rows, columns = tile
        kernel = k[rows, columns]
        values = np.empty((self._n_features + n_more, *kernel.shape))
        first = 0
        for s, read in zip(self._sets, samples, strict=True):
            own, others = (tuple(a[i] for a in b) for b, i in ((read, rows), (s.columns, columns)))
            s.fill(values[first : first + s.n_features], kernel, own, others)
            first += s.n_features
        return values


def two_layer_ntk(x1: NDArray, x2: NDArray) -> NDArray:
    """Return the NTK of a 2-layer ReLU network, first layer trained, (n1, n2).

    ``x.x' (pi - t) / (2 pi) + |x||x'| (sin t + (pi - t) cos t) / (2 pi)``, t the angle.

    References
    ----------
    Chen, He and Su (2020), section 2.2.
    """
    features = np.empty((10, len(x1), len(x2)))
    _fill_nine(features, _read_vectors(x1), _read_vectors(x2), 1.0)
    _, inner, cosine, _, norms, sine, angle, *_ = features
    return _two_layer_ntk(inner, norms, cosine, sine, angle)


def l1_distance(x1: NDArray, x2: NDArray) -> NDArray:
    """Return ``sum_c |x1[i, c] - x2[j, c]|``, (n1, n2) float64.

    Differences are taken in float32 and summed in float64 over runs of coordinates.
    """
    inner, distance = np.empty((2, len(x1), len(x2)))
    _compare(_as_rows(x1), _as_rows(x2), inner, distance)
    return distance


def _fill_nine(out: NDArray, rows: Samples, columns: Samples, scale: float) -> None:
    """Set all of the ten features but the first."""
    x1, squares1, norms1, means1, deviations1 = rows
    x2, squares2, norms2, means2, deviations2 = columns
    _, inner, cosine, squares, norms, sine, angle, gaussian, correlation, distance = out
    _compare(x1, x2, inner, distance)
    np.multiply.outer(norms1, norms2, out=norms)
    _divide(inner, norms, cosine)
    np.add.outer(squares1, squares2, out=squares)
    squares -= 2 * inner
    # Rounding can leave a distance of two equal vectors a hair below zero.
    np.maximum(squares, 0, out=squares)
    np.sqrt((1 - cosine) * (1 + cosine), out=sine)
    np.arccos(cosine, out=angle)
    np.exp(squares / -scale if scale > 0 else np.zeros_like(squares), out=gaussian)
    covariance = inner - x1.shape[1] * np.multiply.outer(means1, means2)
    _divide(covariance, np.multiply.outer(deviations1, deviations2), correlation)


def _read_vectors(x: NDArray) -> Samples:
    """Return vectors and their squared norms, norms, means and norms about the mean."""
    x = _as_rows(x)
    squares = np.einsum("ic,ic->i", x, x, dtype=np.float64)
    means = x.mean(axis=1, dtype=np.float64)
    # Vector by vector: no float64 copy of all is made.
    deviations = np.sqrt([np.square(v - mean).sum() for v, mean in zip(x, means, strict=True)])
    return x, squares, np.sqrt(squares), means, deviations


def _as_rows(x: NDArray) -> NDArray:
    """Return float32 vectors as they are, others as float64, each contiguous."""
    return np.ascontiguousarray(x, np.float32 if x.dtype == np.float32 else np.float64)


def _two_layer_ntk(
    inner: NDArray, norms: NDArray, cosine: NDArray, sine: NDArray, angle: NDArray
) -> NDArray:
    rest = np.pi - angle
    return (inner * rest + norms * (sine + rest * cosine)) / (2 * np.pi)


def _divide(products: NDArray, norms: NDArray, out: NDArray) -> None:
    """Set out = products / norms within [-1, 1], and 0 where a norm is zero."""
    out[:] = 0
    np.divide(products, norms, out=out, where=norms > 0)
    np.clip(out, -1, 1, out=out)


def _project(x: NDArray, learned: Mapping[str, NDArray]) -> NDArray:
    """Return principal components (m, k) of vectors (m, d), without a centred copy of them."""
    components = learned["pca_components_"]
    offsets = np.einsum("kc,c->k", components, learned["pca_mean_"])
    return np.einsum("ic,kc->ik", x, components) - offsets


def _mean_squared_distance(x: NDArray) -> NDArray:
    """Return the mean of |x_i - x_j|^2 over all n^2 entries, without forming them."""
    mean = x.mean(axis=0, dtype=np.float64)
    return np.asarray(2 * np.mean([np.square(v - mean).sum() for v in x]))


def _tiles(m: int, n: int) -> Iterator[Tile]:
    """Yield the tiles of an m x n matrix, row by row."""
    for top in range(0, m, _SIDE):
        for left in range(0, n, _SIDE):
            yield slice(top, min(top + _SIDE, m)), slice(left, min(left + _SIDE, n))


def _lower_tiles(n: int) -> Iterator[Tile]:
    """Yield the tiles of an n x n matrix on and below the diagonal."""
    return (tile for tile in _tiles(n, n) if tile[1].start <= tile[0].start)


def _in_threads(function: Callable[[Tile], _Result], tiles: Iterable[Tile]) -> Iterator[_Result]:
    """Yield the results in the order of the tiles, whatever thread they come from."""
    pool = ThreadPoolExecutor(numba.get_num_threads())
    try:
        yield from pool.map(function, tiles)
    finally:
        pool.shutdown(cancel_futures=True)


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


@numba.njit(cache=True, **_OPTIONS)
def _compare(x1, x2, inner, distance):
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


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _add_inner_products(vectors, out):
    """Add the lower triangle of ``vectors vectors^T`` to `out`, a run of entries at a time."""
    p, n = vectors.shape
    for start in range(0, n, _RUN):
        for a in range(p):
            for b in range(a + 1):
                total = 0.0
                for e in range(start, min(start + _RUN, n)):
                    total += vectors[a, e] * vectors[b, e]
                out[a, b] += total
