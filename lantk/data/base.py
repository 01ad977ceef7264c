"""What every source gives, and the one kind of error about data."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError

DataPath = str | os.PathLike[str] | None


class DataError(LantkError):
    """Data, or a request for data, that cannot be used; the message says what to change."""


def same_names(given: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Return given name -> name, of those that are equal only after Unicode's normalisation NFC.

    File systems differ in how they store letters with accents. Where several are equal after it,
    they are told apart as they are written.
    """
    unknown = set(given) - set(names)
    if not unknown:
        return {}
    alike: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for place, text in [*((0, text) for text in given), *((1, text) for text in names)]:
        alike[unicodedata.normalize("NFC", text)][place].append(text)
    return {
        ours[0]: theirs[0]
        for ours, theirs in alike.values()
        if len(ours) == len(theirs) == 1 and ours[0] in unknown
    }


# Floats beyond it look like bytes that were not scaled.
_LARGE_FLOAT = 100


@dataclass(frozen=True)
class OpenSource:
    """An open source: labels in memory, pixels behind `read(part, rows)`."""

    class_names: tuple[str, ...]
    labels: dict[str, NDArray[np.int64]]
    """Class number of every image of the parts ``train`` and, if there is one, ``test``."""
    image_shape: tuple[int, int, int]
    pixel_max: int | None
    read: Callable[[str, NDArray[np.int64]], NDArray[Any]]
    files: Callable[[str, NDArray[np.int64]], NDArray[np.str_] | None] = lambda part, rows: None
    """Names of some images' files, from the source's folder on; None without files."""


def check_range(pixels: Sequence[NDArray[Any]], pixel_max: int | None) -> None:
    """Refuse bytes of 0 and 1, which are no range of bytes; warn of others below 1/16 of it.

    Warn of floats beyond 100 as well, which are taken as they are.

    Raises
    ------
    DataError
        If some pixel is 1 and none is larger, where pixels go up to 255.
    """
    if pixel_max is None:
        largest = max(float(np.abs(part).max()) for part in pixels)
        if largest > _LARGE_FLOAT:
            warnings.warn(
                f"the largest pixel is {largest:g}: floats are taken as they are, and networks"
                " train badly far from 1. Store bytes, divide (by 127.5, less 1), or set"
                " data.scaling to standard",
                stacklevel=2,
            )
        return
    most = max(int(part.max()) for part in pixels) if pixel_max == 255 else 0
    if not 1 <= most <= 16:
        return
    found = (
        f"the largest pixel is {most}, of bytes from 0 to 255: the range scaling puts all of them"
        f" between -1 and {2 * most / 255 - 1:.2f}, so images hardly differ. Multiply by"
        f" {255 // most} (x_train * np.uint8({255 // most}), and x_test), or set data.scaling to"
        " standard"
    )
    if most == 1:
        raise DataError(f"{found}; where floats from 0 to 1 were cut to bytes, store 2 * x - 1")
    warnings.warn(found, stacklevel=2)
