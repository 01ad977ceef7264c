"""What every source gives, and the one kind of error about data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError

DataPath = str | os.PathLike[str] | None


class DataError(LantkError):
    """Data, or a request for data, that cannot be used; the message says what to change."""


@dataclass(frozen=True)
class OpenSource:
    """An open source: labels in memory, pixels behind `read(part, rows)`."""

    class_names: tuple[str, ...]
    labels: dict[str, NDArray[np.int64]]
    """Class number of every image of the parts ``train`` and, if there is one, ``test``."""
    image_shape: tuple[int, int, int]
    pixel_max: int | None
    read: Callable[[str, NDArray[np.int64]], NDArray[Any]]
