"""The two sides of a Gram matrix: images, their scale, and which of them are equal.

Images are scaled by powers of two to order one, which the kernel, homogeneous in each image, gives
back exactly; so float32 holds images of any scale, as long as it holds the kernel. Equal images are
found by their bytes.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.errors import LantkError, Row
from lantk.kernel.plan import Readout

# Images surveyed at once: bounds memory.
_CHUNK = 96
LAYOUTS = (None, "channels_first")
# How many channels a last axis is taken for.
_CHANNELS = (1, 3, 4)


class KernelError(LantkError):
    """Images or options that no kernel can be computed for; the message says what to change."""


class Side(NamedTuple):
    """The images of one side of the matrix."""

    name: str
    """What messages call them."""
    images: NDArray[Any]
    exponents: NDArray[np.int64]
    """Image i times 2**-exponents[i] has its largest pixel in [0.5, 1)."""
    groups: NDArray[np.int64]
    """Equal numbers for images that are equal up to a power of two."""
    is_black: NDArray[np.bool_]
    """Whether all pixels of an image are 0, and so is its kernel with any other."""


def check_images(name: str, x: ArrayLike, layout: str | None = None) -> NDArray[Any]:
    """Return the images as an array of floats, or say what is wrong with them."""
    images = np.asarray(x)
    fault = find_shape_fault(name, images.shape, layout, 'pass layout="channels_first"')
    if fault is not None:
        raise KernelError(fault)
    if not np.issubdtype(images.dtype, np.floating):
        raise KernelError(
            f"{name} holds {images.dtype}: wanted floats, so scale first (bytes, for example, by"
            " x / 127.5 - 1)"
        )
    return images


def find_shape_fault(
    name: str, shape: tuple[int, ...], layout: str | None, overruling: str
) -> str | None:
    """Return what is wrong with the axes of an array of images, or None.

    Channels that come last would be taken for the width of narrow images of many channels, unless
    `layout` says that they come first; `overruling` says how to say so.
    """
    if layout not in LAYOUTS:
        return (
            f"layout is {layout!r}: wanted 'channels_first', or None, which refuses images that"
            " look as if their channels came last (transpose those by x.transpose(0, 3, 1, 2))"
        )
    found = f"{name} has shape {shape}"
    if len(shape) != 4 or 0 in shape:
        hints = {
            2: f"; of vectors write {name}[:, :, None, None]",
            3: f"; of grey images write {name}[:, None], of a single image {name}[None]",
        }
        wanted = "n x channels x height x width, none of them 0"
        return f"{found}: wanted {wanted}{hints.get(len(shape), '')}"
    if layout is not None or not looks_channels_last(shape[1:]):
        return None
    _, second, third, last = shape
    return (
        f"{found}, which looks like n x height x width x channels: wanted n x channels x height x"
        f" width, so write {name}.transpose(0, 3, 1, 2); if these are {second} channels of {third}"
        f" x {last} pixels, {overruling}"
    )


def looks_channels_last(image_shape: tuple[int, ...]) -> bool:
    """Return whether (channels, height, width) looks like (height, width, channels)."""
    first, second, last = image_shape
    return last in _CHANNELS and first not in _CHANNELS and min(first, second) > last


def hint_at_transposition(name1: str, shape1: Any, name2: str, shape2: Any) -> str:
    """Return which of two arrays of unequal shape to transpose, or nothing if that is not it."""
    for name, shape, other in ((name1, shape1, shape2), (name2, shape2, shape1)):
        if (*shape[-1:], *shape[1:-1]) == tuple(other[1:]):
            return f"; if the channels of {name} come last, write {name}.transpose(0, 3, 1, 2)"
    return ""


def survey(
    name: str,
    images: NDArray[Any],
    dtype: str,
    digests: dict[bytes, int],
    *,
    is_homogeneous: bool = True,
) -> Side:
    """Find the scale of every image and the images that are equal; refuse NaN and infinity.

    Where the kernel is not homogeneous images keep their scale.
    """
    exponents = np.zeros(len(images), np.int64)
    groups = np.zeros(len(images), np.int64)
    is_black = np.zeros(len(images), bool)
    # Whose squares have all their digits.
    least = math.sqrt(np.finfo(dtype).tiny / np.finfo(dtype).eps)
    for first in range(0, len(images), _CHUNK):
        chunk = images[first : first + _CHUNK]
        largest = np.abs(chunk).max(axis=(1, 2, 3))
        if not np.isfinite(largest).all():
            bad = first + int(np.flatnonzero(~np.isfinite(largest))[0])
            raise KernelError(
                "image {0.number} of {0.name} has pixels that are NaN or infinite",
                [Row(name, bad)],
            )
        some = slice(first, first + len(chunk))
        is_black[some] = largest == 0
        if is_homogeneous:
            exponents[some] = np.frexp(largest)[1]
        elif (is_lost := (largest > 0) & (largest < least)).any():
            bad = first + int(np.flatnonzero(is_lost)[0])
            raise KernelError(
                f"image {{0.number}} of {{0.name}} has no pixel beyond {least:.1e}, so that its"
                f" variances underflow {dtype}: multiply the images by a constant",
                [Row(name, bad)],
            )
        for i, image in enumerate(normalise(chunk, exponents[some], dtype), first):
            digest = hashlib.blake2b(image, digest_size=16).digest()
            groups[i] = digests.setdefault(digest, len(digests))
    return Side(name, images, exponents, groups, is_black)


def normalise(images: NDArray[Any], exponents: NDArray[np.int64], dtype: str) -> NDArray[Any]:
    """Return images * 2**-exponents in `dtype`, without negative zeros."""
    wide = images.astype(np.promote_types(images.dtype, np.float64))
    return np.ldexp(wide, -exponents[:, None, None, None]).astype(dtype, order="C") + 0.0


def write_values(
    k: NDArray[Any],
    sides: tuple[Side, Side],
    rows: slice,
    columns: slice,
    values: NDArray[Any],
    readout: Readout,
    *,
    is_mirrored: bool,
    is_zero: NDArray[np.bool_] | None = None,
) -> None:
    """Write entries into a Gram matrix, and their mirror images where that is asked.

    `is_zero` tells, where that is known, which are 0 before they are brought to scale.

    Raises
    ------
    KernelError
        If a value is not finite, or lies below the normal range of its type, where digits are lost
        (and a GPU makes it 0), and is more than rounding: of two images that have nothing in
        common the kernel may be as near to 0 as it likes.
    """
    is_finite = np.isfinite(values)
    if not is_finite.all():
        i, j = np.argwhere(~is_finite)[0]
        advice = f"overflows {values.dtype}: divide the images by a constant"
        raise _entry_error(sides, rows.start + i, columns.start + j, advice)
    kind = np.finfo(values.dtype)
    is_lost = np.abs(values) < kind.tiny
    if is_zero is not None:
        is_lost &= ~is_zero
    if is_lost.any():
        # sqrt(K(x, x) K(x', x')), from below, in powers of two: an entry rounds by eps times that.
        least = readout.exponent - 2 - math.log2(sides[0].images.shape[1])
        own, others = sides[0].exponents[rows, None], sides[1].exponents[columns]
        is_lost &= own + others + least < math.log2(kind.tiny / kind.eps)
        is_lost &= ~(sides[0].is_black[rows, None] | sides[1].is_black[columns])
    if is_lost.any():
        i, j = np.argwhere(is_lost)[0]
        wider = ", or ask `lantk.gram` for float64" if values.dtype == np.float32 else ""
        advice = (
            f"underflows {values.dtype}, which has all its digits from {kind.tiny:.1e} on: multiply"
            f" the images by a constant{wider}"
        )
        raise _entry_error(sides, rows.start + i, columns.start + j, advice)
    k[rows, columns] = values
    if is_mirrored:
        k[columns, rows] = values.T


def _entry_error(sides: tuple[Side, Side], i: int, j: int, advice: str) -> KernelError:
    rows = [Row(side.name, place) for side, place in zip(sides, (i, j), strict=True)]
    images = "images {0.number} and {1.number} of {0.name}"
    if rows[0].name != rows[1].name:
        images = "image {0.number} of {0.name} and image {1.number} of {1.name}"
    return KernelError(f"the kernel of {images} {advice}", rows)
