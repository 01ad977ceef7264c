"""Splits on disk: one .npz file, read back whole or refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lantk.archives import opening_npz
from lantk.data.base import DataError
from lantk.data.splits import SPLIT_ARRAYS, Split
from lantk.files import expand_path, writing
from lantk.whitening import read_whitening

_OPTIONAL = ("channel_statistics", "files_train", "files_test")


def save_split(path: str | os.PathLike[str], split: Split) -> None:
    """Write a split to an ``.npz`` file, whole or not at all."""
    path, names = Path(path), list(SPLIT_ARRAYS)
    names += [name for name in _OPTIONAL if getattr(split, name) is not None]
    if path.suffix != ".npz":
        raise DataError(f"{path}: a split is stored in a file whose name ends in .npz")
    with writing(path) as temporary:
        np.savez(
            temporary,
            allow_pickle=False,
            pixel_max=np.int64(-1 if split.pixel_max is None else split.pixel_max),
            source=np.array(split.source),
            names=np.array(split.names),
            slug=np.array(split.slug),
            digest=np.array(split.digest),
            **{name: getattr(split, name) for name in names},
            **({} if split.whitening is None else split.whitening.to_arrays()),
        )


def load_split(path: str | os.PathLike[str]) -> Split:
    """Read a split that `save_split` wrote, and check its digest.

    Raises
    ------
    DataError
        If the file is missing, broken, or not a split.
    """
    file, remedy = Path(expand_path(os.fspath(path))), "make the split again"
    with opening_npz(file, remedy, DataError) as archive:
        pixel_max = int(archive["pixel_max"])
        optional: dict[str, Any] = {name: archive.get(name) for name in _OPTIONAL}
        split = Split(
            **{name: archive[name] for name in SPLIT_ARRAYS},
            pixel_max=None if pixel_max < 0 else pixel_max,
            source=str(archive["source"]),
            names=tuple(archive["names"].tolist()),
            slug=str(archive["slug"]),
            whitening=read_whitening(archive.get),
            **optional,
        )
        digest = str(archive["digest"])
    if digest != split.digest:
        raise DataError(f"{path} was changed after it was written: make the split again")
    return split
