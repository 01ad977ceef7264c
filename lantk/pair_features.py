"""Features of a pair of samples, the regressors of LANTK-FJLT.

A feature set learns its constants on the train vectors (`fit`), is then built on those vectors
and constants, and gives the features of some rows against all train rows, block by block.

References
----------
Chen, He and Su (2020), appendix on LANTK-FJLT, and the authors' release for what the text leaves
open (`PcaRelease`).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

N_COMPONENTS = 5


class FeatureSet:
    """The interface of a feature set, built on the train vectors and what `fit` learned."""

    fitted_names: tuple[str, ...]

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Return the constants learned from the train vectors (n, d), by name."""
        raise NotImplementedError

    def __init__(self, x_train: NDArray, learned: dict[str, NDArray]) -> None:
        raise NotImplementedError

    def features(self, k_rows: NDArray, x_rows: NDArray) -> NDArray:
        """Return the features of m rows against the n train rows, (p, m, n) float64."""
        raise NotImplementedError


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

    def __init__(self, x_train: NDArray, learned: dict[str, NDArray]) -> None:
        self._columns = np.asarray(x_train, dtype=np.float64)
        self._scale = float(learned["mean_squared_distance_"])

    def features(self, k_rows: NDArray, x_rows: NDArray) -> NDArray:
        """Return the ten features, (10, m, n)."""
        return _ten_features(k_rows, np.asarray(x_rows, np.float64), self._columns, self._scale)


class _Pca(FeatureSet):
    """Principal components of the train vectors: the shared part of both readings of V2."""

    fitted_names: tuple[str, ...] = ("pca_mean_", "pca_components_")

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Learn mean and components; the largest absolute loading of each is positive."""
        # Imported here: scikit-learn takes seconds to load, and only this needs it.
        from sklearn.decomposition import PCA

        n_components = min(N_COMPONENTS, *x_train.shape)
        # Lanczos iterations to machine precision: a full decomposition of 10,000 vectors of 3,073
        # coordinates costs a hundred times as much. Tiny problems are done directly.
        solver = "arpack" if min(x_train.shape) > 10 * N_COMPONENTS else "full"
        pca = PCA(n_components, svd_solver=solver, random_state=0)
        pca.fit(np.asarray(x_train, np.float64))
        components = pca.components_
        largest = np.argmax(np.abs(components), axis=1)
        components *= np.sign(components[np.arange(n_components), largest])[:, None]
        return {"pca_mean_": pca.mean_, "pca_components_": components}

    def __init__(self, x_train: NDArray, learned: dict[str, NDArray]) -> None:
        self._mean, self._components = learned["pca_mean_"], learned["pca_components_"]
        self._columns = self._project(x_train)

    def _project(self, x: NDArray) -> NDArray:
        return (x - self._mean) @ self._components.T


class PcaRelease(_Pca):
    """Products and absolute differences of the first five principal components, as released."""

    def features(self, k_rows: NDArray, x_rows: NDArray) -> NDArray:
        """Return five products, then five absolute differences, (10, m, n)."""
        rows, columns = self._project(x_rows).T[:, :, None], self._columns.T[:, None, :]
        return np.concatenate([rows * columns, np.abs(rows - columns)])


class PcaText(_Pca):
    """The ten features of the pair of first five principal components, as the text says.

    The kernel is the closed-form 2-layer NTK of the components.
    """

    fitted_names = (*_Pca.fitted_names, "pca_mean_squared_distance_")

    @staticmethod
    def fit(x_train: NDArray) -> dict[str, NDArray]:
        """Learn the components, and the scale of the Gaussian between them."""
        learned = _Pca.fit(x_train)
        projected = (x_train - learned["pca_mean_"]) @ learned["pca_components_"].T
        return learned | {"pca_mean_squared_distance_": _mean_squared_distance(projected)}

    def __init__(self, x_train: NDArray, learned: dict[str, NDArray]) -> None:
        super().__init__(x_train, learned)
        self._scale = float(learned["pca_mean_squared_distance_"])

    def features(self, k_rows: NDArray, x_rows: NDArray) -> NDArray:
        """Return the ten features of the components, (10, m, n)."""
        rows = self._project(x_rows)
        kernel = two_layer_ntk(rows, self._columns)
        return _ten_features(kernel, rows, self._columns, self._scale)


FEATURE_SETS: dict[str, type[FeatureSet]] = {
    "global": Global,
    "pca-release": PcaRelease,
    "pca-text": PcaText,
}


def two_layer_ntk(x1: NDArray, x2: NDArray) -> NDArray:
    """Return the NTK of a 2-layer ReLU network, first layer trained, (n1, n2).

    ``x.x' (pi - t) / (2 pi) + |x||x'| (sin t + (pi - t) cos t) / (2 pi)``, t the angle.

    References
    ----------
    Chen, He and Su (2020), section 2.2.
    """
    x1, x2 = np.asarray(x1, np.float64), np.asarray(x2, np.float64)
    inner = x1 @ x2.T
    norms = _norm_product(x1, x2)
    cosine = _quotient(inner, norms)
    angle = np.arccos(cosine)
    sine = np.sqrt((1 - cosine) * (1 + cosine))
    rest = np.pi - angle
    return (inner * rest + norms * (sine + rest * cosine)) / (2 * np.pi)


def l1_distance(x1: NDArray, x2: NDArray) -> NDArray:
    """Return ``sum_c |x1[i, c] - x2[j, c]|``, (n1, n2) float64.

    Differences are taken in float32 and summed in float64 over runs of coordinates.
    """
    out = np.empty((len(x1), len(x2)))
    _l1_distance(np.ascontiguousarray(x1, np.float32), np.ascontiguousarray(x2, np.float32), out)
    return out


def _ten_features(kernel: NDArray, rows: NDArray, columns: NDArray, scale: float) -> NDArray:
    features = np.empty((10, len(rows), len(columns)))
    inner = rows @ columns.T
    norms = _norm_product(rows, columns)
    cosine = _quotient(inner, norms)
    features[0] = kernel
    features[1] = inner
    features[2] = cosine
    squares = np.square(rows).sum(1)[:, None] + np.square(columns).sum(1)
    # Rounding can leave a distance of two equal vectors a hair below zero.
    features[3] = np.maximum(squares - 2 * inner, 0)
    features[4] = norms
    features[5] = np.sqrt((1 - cosine) * (1 + cosine))
    features[6] = np.arccos(cosine)
    features[7] = np.exp(-features[3] / scale) if scale > 0 else 1.0
    row_means, column_means = rows.mean(1), columns.mean(1)
    covariance = inner - rows.shape[1] * np.outer(row_means, column_means)
    deviations = _norm_product(rows - row_means[:, None], columns - column_means[:, None])
    features[8] = _quotient(covariance, deviations)
    features[9] = l1_distance(rows, columns)
    return features


def _norm_product(x1: NDArray, x2: NDArray) -> NDArray:
    return np.outer(np.linalg.norm(x1, axis=1), np.linalg.norm(x2, axis=1))


def _quotient(products: NDArray, norms: NDArray) -> NDArray:
    """Return products / norms within [-1, 1], and 0 where a norm is zero."""
    cosine = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.clip(cosine, -1, 1, out=cosine)


def _mean_squared_distance(x: NDArray) -> NDArray:
    """Return the mean of |x_i - x_j|^2 over all n^2 entries, without forming them."""
    centred = np.asarray(x, np.float64) - x.mean(axis=0, dtype=np.float64)
    return np.asarray(2 * np.square(centred).sum() / len(x))


# Coordinates summed in float32 before they are added up in float64, and train rows that share a
# row of x1 in the cache.
_RUN, _TILE = 4096, 64


@numba.njit(parallel=True, cache=True)
def _l1_distance(x1, x2, out):
    n1, n2, d = len(x1), len(x2), x1.shape[1]
    for tile in numba.prange((n2 + _TILE - 1) // _TILE):
        for i in range(n1):
            for j in range(tile * _TILE, min((tile + 1) * _TILE, n2)):
                total = 0.0
                for start in range(0, d, _RUN):
                    total += _l1_run(x1[i, start : start + _RUN], x2[j, start : start + _RUN])
                out[i, j] = total


# A function of its own, since the vectoriser gives up on the loop inside the loops above.
@numba.njit(fastmath=True, inline="never", cache=True)
def _l1_run(u, v):
    total = np.float32(0)
    for c in range(len(u)):
        total += abs(u[c] - v[c])
    return total
