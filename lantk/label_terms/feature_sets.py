"""Features of a pair of samples: the ten of the published code, those of principal components."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.pair_sums import compare
from lantk.solvers.tiles import Tile, in_threads, lower_tiles, tiles

N_COMPONENTS = 5
# Entries whose features are held at once where all are wanted in turn.
ENTRIES_AT_ONCE = 2**18
# Positions of the Gaussian and of the L1 distance among the ten features.
GAUSSIAN, L1 = 7, 9
Samples = tuple[NDArray[Any], ...]
"""What samples bring to their features, each by itself: arrays with one row a sample."""


class PairedVectors:
    """Vectors of which inner products and L1 distances are computed once, and cut to any rows.

    Validation fits the same features anew in every fold, and these two are most of their cost. Of
    an instance, ``x[rows]`` is one with the same store. The
    first n are those of `x_train` (n, d), on both sides of pairs; then come those of `x_others` (m,
    d), which are compared with them only. Memory: 16 n (n + m) bytes.
    """

    def __init__(self, x_train: NDArray, x_others: NDArray) -> None:
        n, m = len(x_train), len(x_others)
        self.x = np.concatenate([x_train, x_others])
        self.places = np.arange(n + m)
        self.inner, self.distance = np.empty((2, n + m, n))
        vectors = _as_rows(self.x)

        def fill(tile: Tile) -> None:
            rows, columns = tile
            parts = self.inner[rows, columns], self.distance[rows, columns]
            compare(vectors[rows], vectors[columns], *parts)
            if rows.stop <= n:
                self.inner[columns, rows], self.distance[columns, rows] = (p.T for p in parts)

        for _ in in_threads(fill, lower_tiles(n)):
            pass
        for _ in in_threads(fill, ((slice(n + r.start, n + r.stop), c) for r, c in tiles(m, n))):
            pass

    def __getitem__(self, rows: Any) -> PairedVectors:
        cut = copy.copy(self)
        cut.x, cut.places = self.x[rows], self.places[rows]
        return cut

    def __len__(self) -> int:
        return len(self.places)


class FeatureSet:
    """The interface of a feature set, built on the train vectors and what `fit` learned."""

    fitted_names: tuple[str, ...]
    """Names of what `fit` learns."""
    n_features = 10
    """Number p of features."""
    columns: Samples
    """What `read` returns for the train vectors."""

    @staticmethod
    def fit(x_train: Vectors) -> dict[str, NDArray]:
        """Return the constants learned from the train vectors (n, d), by name."""
        raise NotImplementedError

    def __init__(self, x_train: Vectors, learned: Mapping[str, NDArray]) -> None:
        raise NotImplementedError

    def read(self, x: Vectors) -> Samples:
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
    def fit(x_train: Vectors) -> dict[str, NDArray]:
        return {"mean_squared_distance_": _mean_squared_distance(as_array(x_train))}

    def __init__(self, x_train: Vectors, learned: Mapping[str, NDArray]) -> None:
        self._scale = float(learned["mean_squared_distance_"])
        self._store = x_train if isinstance(x_train, PairedVectors) else None
        self._n_coordinates = as_array(x_train).shape[1]
        self.columns = self.read(x_train)

    def read(self, x: Vectors) -> Samples:
        """Return the vectors, or their places in the store of pairs, and their moments."""
        vectors, *moments = _read_vectors(as_array(x))
        # Places mean the same store, since all vectors of a fit come from one.
        return (x.places if isinstance(x, PairedVectors) else vectors, *moments)

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
        out[0] = kernel
        if self._store is None:
            compare(rows[0], columns[0], out[1], out[9])
        else:
            places = np.ix_(rows[0], columns[0])
            out[1], out[9] = self._store.inner[places], self._store.distance[places]
        _fill_seven(out, rows[1:], columns[1:], self._scale, self._n_coordinates)


class _Pca(FeatureSet):
    """Principal components of the train vectors: the shared part of both readings of V2."""

    fitted_names: tuple[str, ...] = ("pca_mean_", "pca_components_")

    @staticmethod
    def fit(x_train: Vectors) -> dict[str, NDArray]:
        """Learn mean and components; the largest absolute loading of each is positive."""
        # Imported here: only these feature sets need them.
        from scipy.linalg import svd
        from scipy.sparse.linalg import svds
        from threadpoolctl import threadpool_limits

        x = np.asarray(as_array(x_train), np.float64)
        mean, smaller = x.mean(axis=0), min(x.shape)
        # One thread: the rounding of matrix-vector products depends on their number, and memory
        # bounds their speed.
        with threadpool_limits(1):
            if smaller > 10 * N_COMPONENTS:
                # Lanczos iterations to machine precision: a full decomposition of 10,000 vectors of
                # 3,073 coordinates costs a hundred times as much.
                start = np.random.RandomState(0).uniform(-1, 1, smaller)
                components = svds(x - mean, N_COMPONENTS, v0=start)[2][::-1]
            else:
                components = svd(x - mean, full_matrices=False)[2][:N_COMPONENTS]
        largest = np.take_along_axis(components, np.abs(components).argmax(1, keepdims=True), 1)
        return {"pca_mean_": mean, "pca_components_": components * np.sign(largest)}

    def __init__(self, x_train: Vectors, learned: Mapping[str, NDArray]) -> None:
        self._learned = learned
        self.columns = self.read(x_train)

    def read(self, x: Vectors) -> Samples:
        return (_project(as_array(x), self._learned),)


class PcaRelease(_Pca):
    """Products and absolute differences of the first five principal components, as released."""

    @property
    def n_features(self) -> int:  # type: ignore[override]
        return 2 * len(self._learned["pca_components_"])

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
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
    def fit(x_train: Vectors) -> dict[str, NDArray]:
        learned = _Pca.fit(x_train)
        scale = _mean_squared_distance(_project(as_array(x_train), learned))
        return learned | {"pca_mean_squared_distance_": scale}

    def read(self, x: Vectors) -> Samples:
        return _read_vectors(*super().read(x))

    def fill(self, out: NDArray, kernel: NDArray, rows: Samples, columns: Samples) -> None:
        scale, n_coordinates = float(self._learned["pca_mean_squared_distance_"]), rows[0].shape[1]
        compare(rows[0], columns[0], out[1], out[9])
        _fill_seven(out, rows[1:], columns[1:], scale, n_coordinates)
        _, inner, cosine, _, norms, sine, angle, *_ = out
        out[0] = _two_layer_ntk(inner, norms, cosine, sine, angle)


def _fill_seven(
    out: NDArray, rows: Samples, columns: Samples, scale: float, n_coordinates: int
) -> None:
    """Set what follows from inner products and moments: all but kernel and L1 distance."""
    squares1, norms1, means1, deviations1 = rows
    squares2, norms2, means2, deviations2 = columns
    _, inner, cosine, squares, norms, sine, angle, gaussian, correlation, _ = out
    np.multiply.outer(norms1, norms2, out=norms)
    _divide(inner, norms, cosine)
    np.add.outer(squares1, squares2, out=squares)
    squares -= 2 * inner
    # Rounding can leave a distance of two equal vectors a hair below zero.
    np.maximum(squares, 0, out=squares)
    np.sqrt((1 - cosine) * (1 + cosine), out=sine)
    np.arccos(cosine, out=angle)
    np.exp(squares / -scale if scale > 0 else np.zeros_like(squares), out=gaussian)
    covariance = inner - n_coordinates * np.multiply.outer(means1, means2)
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


def mean_distance(x: NDArray) -> NDArray:
    """Return the mean L1 distance over all n^2 entries, without forming them.

    Of sorted numbers a_0 <= ... <= a_{n-1} the sum of |a_i - a_j| over all entries is the sum of
    2 (2 i - n + 1) a_i.
    """
    n = len(x)
    places = 2.0 * (2 * np.arange(n) - n + 1)
    return np.asarray(sum(places @ np.sort(column).astype(np.float64) for column in x.T) / n**2)


def two_layer_ntk(x1: NDArray, x2: NDArray) -> NDArray:
    """Return the NTK of a 2-layer ReLU network, both layers trained, (n1, n2) float64.

    ``x.x' (pi - t) / (2 pi) + |x||x'| (sin t + (pi - t) cos t) / (2 pi)``, t the angle.

    References
    ----------
    Chen, He and Su (2020), section 2.2.
    """
    norms1, norms2 = (np.linalg.norm(np.asarray(x, np.float64), axis=1) for x in (x1, x2))
    columns = np.asarray(x2, np.float64).T
    kernel = np.empty((len(x1), len(x2)))
    step = max(ENTRIES_AT_ONCE // len(x2), 1)
    for start in range(0, len(x1), step):
        rows = slice(start, start + step)
        inner = np.asarray(x1[rows], np.float64) @ columns
        norms, cosine = np.multiply.outer(norms1[rows], norms2), np.empty_like(inner)
        _divide(inner, norms, cosine)
        sine = np.sqrt((1 - cosine) * (1 + cosine))
        kernel[rows] = _two_layer_ntk(inner, norms, cosine, sine, np.arccos(cosine))
    return kernel


def as_array(x: Vectors) -> NDArray:
    """Return vectors as the array that they are."""
    return x.x if isinstance(x, PairedVectors) else x


Vectors = NDArray[Any] | PairedVectors
FEATURE_SETS: dict[str, type[FeatureSet]] = {
    "global": Global,
    "pca-release": PcaRelease,
    "pca-text": PcaText,
}
