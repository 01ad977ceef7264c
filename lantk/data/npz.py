"""Images and labels in one .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.archives import NpzArchive, opening_npz
from lantk.data.base import DataError, OpenSource, same_names
from lantk.kernel.images import find_shape_fault, hint_at_transposition
from lantk.labels import Classes, LabelError

# Bytes of a label: text of 1,000 characters.
_LONGEST_LABEL = 4_000
_OVERRULING = "set data.layout to channels_first (of verbs: --layout channels_first)"


def open_npz(path: Path, layout: str | None = None) -> OpenSource:
    wanted = (
        "wanted an .npz file (numpy.savez) with x_train, x_test (n x channels x height x width,"
        " uint8 or floating point), y_train, y_test (whole numbers or text), and no pickled objects"
    )
    with opening_npz(path, wanted, DataError) as archive:
        shapes, dtypes, y = {}, {}, {}
        for part in ("train", "test"):
            x_name, y_name = f"x_{part}", f"y_{part}"
            shapes[part], dtypes[part] = check_header(path, archive, x_name, layout, _OVERRULING)
            y[part] = read_labels(path, archive, y_name, x_name)
    if shapes["train"][1:] != shapes["test"][1:] or dtypes["train"] != dtypes["test"]:
        raise DataError(
            f"{path}: x_train is {dtypes['train']} {shapes['train']} and x_test is"
            f" {dtypes['test']} {shapes['test']}: wanted images of one type and size in both"
            + hint_at_transposition("x_train", shapes["train"], "x_test", shapes["test"])
        )
    classes = Classes(y["train"])
    if y["train"].dtype.kind == y["test"].dtype.kind == "U":
        same = same_names(np.unique(y["test"]).tolist(), classes.names.tolist())
        for given, name in same.items():
            y["test"] = np.where(y["test"] == given, name, y["test"])
    try:
        labels = {part: classes.numbers(y[part], f"y_{part}") for part in y}
    except LabelError as error:
        raise DataError(
            f"{path}: {error}, y_train does not have it: wanted the same classes in both"
        ) from error

    def read(part: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        with opening_npz(path, wanted, DataError) as archive:
            x = archive[f"x_{part}"]
        check_finite(path, f"x_{part}", x)
        return np.ascontiguousarray(x[rows], x.dtype.newbyteorder("="))

    channels, height, width = shapes["train"][1:]
    return OpenSource(
        class_names=tuple(map(str, classes.names.tolist())),
        labels=labels,
        image_shape=(channels, height, width),
        pixel_max=255 if dtypes["train"] == np.uint8 else None,
        read=read,
    )


def check_header(
    path: Path, archive: NpzArchive, name: str, layout: str | None, overruling: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array of images, which is not read, or say what is wrong.

    `layout` and `overruling` are as for `find_shape_fault`.
    """
    shape, dtype = archive.header(name)
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(
            f"{path}: {name} is {dtype}, wanted uint8 (0 to 255) or floating point (scaled already)"
        )
    fault = find_shape_fault(name, shape, layout, overruling)
    if fault is not None:
        raise DataError(f"{path}: {fault}")
    return shape, dtype


def read_labels(path: Path, archive: NpzArchive, name: str, images: str) -> NDArray[Any]:
    """Return the labels of an array of images, or say what is wrong with them."""
    # Checked before they are read: labels may claim any size.
    (n, *_), _ = archive.header(images)
    shape, dtype = archive.header(name)
    if dtype.hasobject:
        raise DataError(
            f"{path} cannot be read: {name} holds pickled objects, which could run code; wanted"
            " whole numbers or text, stored by numpy.savez"
        )
    if len(shape) != 1 or dtype.kind not in "iuU" or dtype.itemsize > _LONGEST_LABEL:
        raise DataError(
            f"{path}: {name} is {dtype} of shape {shape}, wanted one whole number or text for"
            " each image"
        )
    if shape[0] != n:
        raise DataError(
            f"{path}: {images} has {n} images and {name} {shape[0]} labels, wanted as many"
        )
    y = archive[name]
    _check_text_labels(path, name, y)
    return y


def _check_text_labels(path: Path, name: str, y: NDArray[Any]) -> None:
    """Refuse numbers that stand for no character, which nothing could print or write."""
    if y.dtype.kind != "U" or not y.dtype.itemsize:
        return
    codes = np.ascontiguousarray(y.astype(y.dtype.newbyteorder("="))).view(np.uint32)
    is_bad = (codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))
    if is_bad.any():
        row = is_bad.reshape(len(y), -1).any(axis=1).argmax()
        raise DataError(f"{path}: {name}[{row}] is no text: wanted characters of Unicode")


def check_finite(path: Path, name: str, x: NDArray[Any], start: int = 0) -> None:
    """Refuse NaN and infinity in images that an array holds from `start` on."""
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(x.astype(np.float32, copy=False)).all(axis=(1, 2, 3))
    if not is_finite.all():
        raise DataError(
            f"{path}: {name}[{start + is_finite.argmin()}] has NaN or infinite pixels (in"
            f" float32), as have {np.count_nonzero(~is_finite)} of {len(x)} images: repair them or"
            " leave them out"
        )
