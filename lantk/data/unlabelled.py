"""Images to predict, from a folder or an array, read block by block; labels where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.archives import NpzArchive, opening_npz
from lantk.data.base import DataError
from lantk.data.folders import files_below, name_of, read_files
from lantk.data.npz import check_finite, check_header, read_labels
from lantk.kernel.images import hint_at_transposition

_WANTED = (
    "wanted a folder of PNG and JPEG files, or an .npz file (numpy.savez) with images (n x channels"
    " x height x width, uint8 or floating point) as x, as x_test or as its only array of four axes"
)
# Array of images -> that of their labels.
_LABELS = {"x": "y", "x_test": "y_test"}


@dataclass(frozen=True)
class Unlabelled:
    """Images to predict; pixels behind ``blocks(n)``, which yields n of them at a time."""

    names: Sequence[str] | range
    """Names of the files below the folder, or numbers of the rows."""
    blocks: Callable[[int], Iterator[NDArray[Any]]]
    labels: NDArray[Any] | None = None
    """(n,) whole numbers or text, or None."""


def open_unlabelled(
    path: Path,
    image_shape: tuple[int, int, int],
    layout: str | None = None,
    *,
    reads_labels: bool = True,
) -> Unlabelled:
    """Open images to predict; of pixels none is read yet.

    Parameters
    ----------
    path : Path
        A folder of PNG and JPEG files, with subfolders or without, or an ``.npz`` file with images
        as ``x`` (labels ``y``), ``x_test`` (``y_test``) or its only array of four axes.
    image_shape : (channels, height, width)
        Of the model's train images.
    layout : {"channels_first"}, optional
        As for `lantk.gram`, of an array.
    reads_labels : bool
        Whether to look for labels.

    Raises
    ------
    DataError
        If there are no images, or they are of another shape; of files this is found as they are
        read.
    """
    if path.is_dir():
        return _open_folder(path, image_shape)
    with opening_npz(path, _WANTED, DataError) as archive:
        name = _find_images(path, archive)
        overruling = "give --layout channels_first"
        shape, _ = check_header(path, archive, name, layout, overruling)
        if shape[1:] != image_shape:
            of_model = (1, *image_shape)
            raise DataError(
                f"{path}: {name} has images of shape {shape[1:]} (channels, height, width): wanted"
                f" {image_shape}, as of the model's train images"
                + hint_at_transposition(name, shape, "the train images", of_model)
            )
        labels = None
        if reads_labels and _LABELS.get(name) in list(archive):
            labels = read_labels(path, archive, _LABELS[name], name)

    def blocks(n: int) -> Iterator[NDArray[Any]]:
        start = 0
        with opening_npz(path, _WANTED, DataError) as archive:
            for x in archive.blocks(name, n):
                check_finite(path, name, x, start)
                yield np.ascontiguousarray(x, x.dtype.newbyteorder("="))
                start += len(x)

    return Unlabelled(range(shape[0]), blocks, labels)


def _find_images(path: Path, archive: NpzArchive) -> str:
    there = list(archive)
    for name in _LABELS:
        if name in there:
            return name
    found = [name for name in there if len(archive.header(name)[0]) == 4]
    if len(found) != 1:
        listed = ", ".join(found[:10]) or "none"
        raise DataError(f"{path}: its arrays of four axes are {listed}; {_WANTED}")
    return found[0]


def _open_folder(folder: Path, image_shape: tuple[int, int, int]) -> Unlabelled:
    channels = image_shape[0]
    if channels not in (1, 3):
        raise DataError(
            f"{folder}: image files have 1 channel or 3, and the model's train images {channels}:"
            " wanted an .npz file"
        )
    files = files_below(folder)
    if not files:
        raise DataError(f"{folder} has no images: {_WANTED}")

    def blocks(n: int) -> Iterator[NDArray[Any]]:
        for start in range(0, len(files), n):
            yield read_files(
                files[start : start + n],
                image_shape,
                "the model's train images are",
                "the model's train images are grey",
            )

    return Unlabelled([name_of(file, folder) for file in files], blocks)
