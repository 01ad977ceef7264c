"""Sources: where images and labels come from.

* ``digits``: the 8 x 8 grey digits that come with scikit-learn; no test set of their own.
* ``cifar10``: CIFAR-10 in its own binary format, a folder ``cifar-10-batches-bin`` in the path
  (default ``data``) or the path itself; downloaded when it is not there.
* ``npz``: one file with ``x_train``, ``x_test`` (n x channels x height x width, uint8, or floating
  point that is scaled already) and ``y_train``, ``y_test`` (whole numbers, or text).
* ``images``: folders ``train/CLASS`` and ``test/CLASS`` of PNG and JPEG files of one size. When
  the first image of every folder is grey, images have one channel and a coloured one is an error;
  otherwise all are converted to RGB. Transparency is dropped.

Opening a source reads labels and shapes only, and the first image of each folder; other pixels are
read when a split asks for them. Nothing here loads a pickle.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lantk.data.base import DataError, DataPath, OpenSource
from lantk.data.folders import image_files, open_images
from lantk.data.npz import open_npz
from lantk.errors import shorten
from lantk.files import expand_path

SOURCES = ("digits", "cifar10", "npz", "images")
CIFAR10_PATH = "data"
CIFAR10_FOLDER = "cifar-10-batches-bin"
_CIFAR10_PARTS = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR10_FILES = (*_CIFAR10_PARTS["train"], *_CIFAR10_PARTS["test"])
# When files as they were downloaded were last changed, to tell them from a user's own (2009-06-04).
CIFAR10_TIME = 1_244_073_600
# fmt: off
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
# fmt: on
CIFAR10_SHAPE = (3, 32, 32)
_CIFAR10_RECORD = 1 + 3 * 32 * 32


def open_source(source: str, path: DataPath, layout: str | None = None) -> OpenSource:
    """Open a source; `layout` says of arrays what it says of those of `lantk.gram`."""
    if source == "digits":
        return _open_digits()
    if source == "cifar10":
        return _open_cifar10(cifar10_folder(path))
    if source not in SOURCES:
        raise DataError(f"unknown data source {source!r}: wanted one of {', '.join(SOURCES)}")
    if path is None:
        raise DataError(f"the data source {source!r} needs data.path, the file or folder to read")
    try:
        path = _expanded(path)
        return open_npz(path, layout) if source == "npz" else open_images(path)
    except OSError as error:
        raise DataError(f"{shorten(str(path))} cannot be read: {error.strerror}") from error


def source_files(source: str, path: DataPath) -> list[Path]:
    """Return the user's files that `open_source` and its `read` read, sorted.

    They are none for ``digits``, nor for ``cifar10`` as it was downloaded, or will be.
    """
    if source == "cifar10":
        folder = cifar10_folder(path)
        files = sorted(folder / name for name in CIFAR10_FILES) if folder.is_dir() else []
        return files if any(file.stat().st_mtime != CIFAR10_TIME for file in files) else []
    if source == "npz" and path is not None:
        return [_expanded(path)]
    if source == "images" and path is not None:
        parts = (image_files(_expanded(path) / part) for part in ("test", "train"))
        return sorted(file for of_class in parts for files in of_class.values() for file in files)
    return []


def _open_digits() -> OpenSource:
    # Importing sklearn.datasets takes seconds; the file that load_digits reads takes milliseconds.
    package = importlib.util.find_spec("sklearn")
    roots = (package and package.submodule_search_locations) or [""]
    file = Path(roots[0], "datasets", "data", "digits.csv.gz")
    if not file.is_file():
        raise DataError(f"the digits of scikit-learn are not at {file}: install scikit-learn again")
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    return OpenSource(
        class_names=tuple(map(str, range(10))),
        labels={"train": labels},
        image_shape=(1, 8, 8),
        pixel_max=16,
        read=lambda part, rows: pixels[rows],
    )


def _expanded(path: str | os.PathLike[str]) -> Path:
    return Path(expand_path(os.fspath(path)))


def cifar10_folder(path: DataPath) -> Path:
    path = _expanded(CIFAR10_PATH if path is None else path)
    try:
        if path.exists() and not path.is_dir():
            raise DataError(f"data.path is the file {path}: wanted the folder for {CIFAR10_FOLDER}")
        is_itself = path.name == CIFAR10_FOLDER or any((path / f).exists() for f in CIFAR10_FILES)
    except OSError as error:
        raise DataError(f"{shorten(str(path))} cannot be read: {error.strerror}") from error
    return path if is_itself else path / CIFAR10_FOLDER


def _open_cifar10(folder: Path) -> OpenSource:
    records = {
        part: [_cifar10_records(folder / name) for name in names]
        for part, names in _CIFAR10_PARTS.items()
    }

    def read(part: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(rows), _CIFAR10_RECORD - 1), np.uint8)
        start = 0
        for batch in records[part]:
            is_here = (start <= rows) & (rows < start + len(batch))
            pixels[is_here] = batch[rows[is_here] - start, 1:]
            start += len(batch)
        return pixels.reshape(-1, *CIFAR10_SHAPE)

    labels = {
        part: np.concatenate([batch[:, 0] for batch in batches]).astype(np.int64)
        for part, batches in records.items()
    }
    return OpenSource(CIFAR10_CLASSES, labels, CIFAR10_SHAPE, 255, read)


def _cifar10_records(file: Path) -> NDArray[np.uint8]:
    """Map a batch file: records x 3,073, a label byte and the channel-first pixels."""
    remedy = f"delete {file.parent} to download it again, or put the right file there"
    if not file.is_file():
        raise DataError(f"{file} is missing: {remedy}")
    n_bytes = file.stat().st_size
    if n_bytes == 0 or n_bytes % _CIFAR10_RECORD:
        raise DataError(
            f"{file} has {n_bytes} bytes, wanted a multiple of {_CIFAR10_RECORD} (one record), the"
            f" file was cut short: {remedy}"
        )
    records = np.memmap(file, np.uint8, mode="r").reshape(-1, _CIFAR10_RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CIFAR10_CLASSES))
    if wrong.size:
        raise DataError(
            f"{file}: record {wrong[0]} has the label {records[wrong[0], 0]}, wanted 0 to 9:"
            f" {remedy}"
        )
    return records
