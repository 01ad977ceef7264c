"""ZCA whitening: pixels of images are decorrelated, by what is learned from train images alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError

# Images held in float64 at once, beside the largest of covariance and vectors.
_IMAGES_AT_ONCE = 1_000
_EPSILON = float(np.finfo(np.float64).eps)


class WhiteningError(LantkError):
    """Images that cannot be whitened as asked; the message says what to turn."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """What takes images x to z = U (S + e)^(-1/2) U^T (x - m).

    m is the mean of the train images and their mirror images, U S U^T the covariance of their d =
    channels x height x width pixels (a mean, not divided by one less), and e = `zca` tr(S) / d: a
    share of its mean eigenvalue, so that neither the unit of pixels nor their number matters.
    Directions that no train image has (rank k < d) have the eigenvalue 0, so k vectors are enough.

    With the mirror images the whitened image of a mirror image is the mirror image of the whitened
    one, which kernels over flips need.
    """

    zca: float
    """The regulariser, 0 or more."""
    mean: NDArray[np.float64]
    """(channels, height, width): m, which is its own mirror image."""
    eigenvalues: NDArray[np.float64]
    """(k,): S, descending, those above rounding."""
    vectors: NDArray[np.float32]
    """(d, k): U."""

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return images (n, channels, height, width), scaled as those of train, whitened."""
        n_pixels = self.mean.size
        regulariser = self.zca * self.eigenvalues.sum() / n_pixels
        gains = 1 / np.sqrt(self.eigenvalues + regulariser)
        has_rest = len(gains) < n_pixels
        rest = 1 / np.sqrt(regulariser) if has_rest else 0.0
        # Rows beside vectors: the d x d matrix is never made.
        rows = (x - self.mean).reshape(len(x), n_pixels)
        vectors = self.vectors.astype(np.float64)
        along = rows @ vectors
        along *= gains - rest
        rows *= rest
        rows += along @ vectors.T
        return rows.reshape(x.shape)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return it by the names that files have for it."""
        values = (np.float64(self.zca), self.mean, self.eigenvalues, self.vectors)
        return dict(zip(_NAMES, map(np.asarray, values), strict=True))


_NAMES = ("zca", "whitening_mean", "whitening_eigenvalues", "whitening_vectors")


def read_whitening(get: Callable[[str], NDArray[Any] | None]) -> Whitening | None:
    """Return what `Whitening.to_arrays` gave, or None where there is none.

    Raises
    ------
    WhiteningError
        If arrays are missing, or do not fit each other.
    """
    zca, *arrays = map(get, _NAMES)
    if zca is None:
        return None
    mean, eigenvalues, vectors = arrays
    if mean is None or eigenvalues is None or vectors is None:
        raise WhiteningError("the whitening is not whole: make the file again")
    if mean.ndim != 3 or vectors.shape != (mean.size, *eigenvalues.shape):
        raise WhiteningError("the arrays of the whitening do not fit each other: make them again")
    return Whitening(float(zca), mean, eigenvalues, vectors)


def check_zca(zca: Any, name: str = "zca") -> None:
    """Refuse what is no regulariser; `name` is what the message calls it.

    Raises
    ------
    WhiteningError
        If it is no number, not finite, or below 0.
    """
    is_number = isinstance(zca, Real) and not isinstance(zca, bool | np.bool_)
    if not is_number or not 0 <= zca < np.inf:
        raise WhiteningError(
            f"{name} is {zca!r}: wanted a number of 0 or more, such as 0.1, times the mean"
            " eigenvalue of the train pixels' covariance"
        )


def fit_whitening(
    read: Callable[[slice], NDArray[np.float64]], n_images: int, zca: float
) -> Whitening:
    """Learn to whiten from train images.

    Parameters
    ----------
    read : callable
        Returns some of the train images, scaled, (m, channels, height, width) in float64; no image
        is asked for more than three times.
    n_images : int
        How many there are.
    zca : float
        The regulariser.

    Raises
    ------
    WhiteningError
        If `zca` cannot be used, the images are all equal, or `zca` is 0 and there are directions
        in which they do not differ.

    Notes
    -----
    Computed in float64; vectors are kept in float32, d x k values. It takes O(min(2 n, d)^3) time
    and min(2 n, d)^2 doubles some five times over: few images are diagonalised by the products of
    images in place of those of pixels.
    """
    check_zca(zca)
    pieces = [slice(i, i + _IMAGES_AT_ONCE) for i in range(0, n_images, _IMAGES_AT_ONCE)]
    mean = sum(read(rows).sum(axis=0) for rows in pieces) / n_images
    mean = (mean + mean[..., ::-1]) / 2
    n_pixels, n_both = mean.size, 2 * n_images

    def centred(rows: slice) -> NDArray[np.float64]:
        return read(rows) - mean

    if n_both < n_pixels:
        x = np.concatenate([centred(rows) for rows in pieces])
        x = np.concatenate([x, x[..., ::-1]]).reshape(n_both, n_pixels)
        values, vectors = np.linalg.eigh(x @ x.T / n_both)
    else:
        covariance = np.zeros((n_pixels, n_pixels))
        for rows in pieces:
            block = centred(rows).reshape(-1, n_pixels)
            covariance += block.T @ block
        # Of mirror images it has rows and columns in another order.
        mirrored = np.arange(n_pixels).reshape(mean.shape)[..., ::-1].ravel()
        covariance += covariance[np.ix_(mirrored, mirrored)]
        values, vectors = np.linalg.eigh(covariance / n_both)
    # What is left of equal images is what the mean was rounded to.
    rounding = n_pixels * (n_images * _EPSILON * float(np.abs(mean).max())) ** 2
    floor = max(n_both, n_pixels) * _EPSILON * values[-1]
    kept = np.flatnonzero(values > max(rounding, floor))[::-1]
    if not len(kept):
        raise WhiteningError(
            f"all {n_images:,} train images and their mirror images are equal, so there is nothing"
            " to whiten them by: give others, or leave them as they are (zca null)"
        )
    if zca == 0 and len(kept) < n_pixels:
        raise WhiteningError(
            f"{n_images:,} train images of {n_pixels:,} pixels, with their mirror images, have a"
            f" covariance of rank {len(kept):,}, which cannot be inverted with zca 0: take one"
            " above 0, such as 0.1"
        )
    values, vectors = values[kept], vectors[:, kept]
    if n_both < n_pixels:
        vectors = x.T @ vectors / np.sqrt(n_both * values)
    return Whitening(float(zca), mean, values, vectors.astype(np.float32))
