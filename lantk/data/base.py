"""What every source gives, and the one kind of error about data."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection
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
    normal: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    unknown = set(given) - set(names)
    for is_given, texts in ((True, given), (False, names)) if unknown else ():
        for text in texts:
            normal[is_given].setdefault(unicodedata.normalize("NFC", text), []).append(text)
    return {
        one[0]: normal[False][key][0]
        for key, one in normal[True].items()
        if len(one) == len(normal[False].get(key, ())) == 1 and one[0] in unknown
    }


@dataclass(frozen=True)
class OpenSource:
    """An open source: labels in memory, pixels behind `read(part, rows)`."""

    class_names: tuple[str, ...]
    labels: dict[str, NDArray[np.int64]]
    """Class number of every image of the parts ``train`` and, if there is one, ``test``."""
    image_shape: tuple[int, int, int]
    pixel_max: int | None
    read: Callable[[str, NDArray[np.int64]], NDArray[Any]]
