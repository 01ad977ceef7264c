"""Scaling of pixels to floats: what is learned from train images is applied to all others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.whitening import Whitening, fit_whitening

SCALINGS = ("range", "standard")
# Images held in float64 at once.
_IMAGES_AT_ONCE = 1_000


class ScalingError(LantkError):
    """Images that cannot be scaled as asked; the message says why."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """How pixels become floats: ``standard`` where there are statistics, else ``range``; whitened
    after that where there is a `Whitening`.
    """

    pixel_max: int | None = None
    """Largest value that a pixel can have, which becomes 1, and 0 becomes -1; None leaves pixels,
    which are scaled already, as they are."""
    channel_statistics: NDArray[np.float64] | None = None
    """(2, channels): mean and standard deviation of the train pixels, which become 0 and 1."""
    whitening: Whitening | None = None
    """Learned from the train pixels as they are scaled; None leaves them so."""

    @property
    def name(self) -> str:
        """One of `SCALINGS`."""
        return "range" if self.channel_statistics is None else "standard"

    def whitened(self, pixels: NDArray[Any], zca: float) -> Scaling:
        """Return the same with the whitening of these train images, or raise as `fit_whitening`."""

        def read(rows: slice) -> NDArray[np.float64]:
            return self._scale(pixels[rows], "float64")

        return replace(self, whitening=fit_whitening(read, len(pixels), zca))

    def apply(self, pixels: NDArray[Any], dtype: str = "float32") -> NDArray[Any]:
        """Return images (n, channels, height, width) as floats, scaled; a new array."""
        if self.whitening is None:
            return self._scale(pixels, dtype)
        x = np.empty(pixels.shape, dtype)
        for start in range(0, len(pixels), _IMAGES_AT_ONCE):
            rows = slice(start, start + _IMAGES_AT_ONCE)
            x[rows] = self.whitening.apply(self._scale(pixels[rows], "float64"))
        return x

    def _scale(self, pixels: NDArray[Any], dtype: str) -> NDArray[Any]:
        x = pixels.astype(dtype)
        if self.channel_statistics is not None:
            means, deviations = self.channel_statistics.astype(dtype)[:, :, None, None]
            x -= means
            x /= deviations
        elif self.pixel_max is not None:
            x /= x.dtype.type(self.pixel_max / 2)
            x -= x.dtype.type(1)
        return x


def channel_statistics(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the (2, channels) means and standard deviations of pixels, in float64.

    Raises
    ------
    ScalingError
        If a channel has one value in all images.
    """

    def mean(shift: NDArray[np.float64] | float, power: int) -> NDArray[np.float64]:
        totals = np.zeros(pixels.shape[1])
        for start in range(0, len(pixels), _IMAGES_AT_ONCE):
            block = pixels[start : start + _IMAGES_AT_ONCE].astype(np.float64)
            totals += ((block - shift) ** power).sum(axis=(0, 2, 3))
        return totals / (pixels.size / pixels.shape[1])

    means = mean(0.0, 1)
    deviations = np.sqrt(mean(means[:, None, None], 2))
    if not deviations.all():
        raise ScalingError(
            f"channel {deviations.argmin()} has one value in all train images, so it cannot be"
            " scaled by its standard deviation: take the scaling range"
        )
    return np.stack([means, deviations])
