"""Sources: where images and labels come from.

* ``digits``: the 8 x 8 grey digits that come with scikit-learn; no test set of their own.
* ``cifar10``: CIFAR-10 in its own binary format, a folder ``cifar-10-batches-bin`` in the path
  (default ``data``) or the path itself; downloaded when it is not there.
* ``npz``: one file with ``x_train``, ``x_test`` (n x channels x height x width, uint8, or floating
  point that is scaled already) and ``y_train``, ``y_test`` (whole numbers, or text).
* ``images``: folders ``train/CLASS`` and ``test/CLASS`` of PNG and JPEG files of one size. When
  the first image of every folder is grey, images have one channel and a coloured one is an error;
  otherwise all are converted to RGB. Transparency is dropped.

Opening a source reads labels and shapes only; pixels are read when a split asks for them. Nothing
here loads a pickle.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError, shorten

SOURCES = ("digits", "cifar10", "npz", "images")

CIFAR10_PATH = "data"
CIFAR10_FOLDER = "cifar-10-batches-bin"
_CIFAR10_PARTS = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR10_FILES = (*_CIFAR10_PARTS["train"], *_CIFAR10_PARTS["test"])
# fmt: off
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
# fmt: on
CIFAR10_SHAPE = (3, 32, 32)
_CIFAR10_RECORD = 1 + 3 * 32 * 32

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_MODES = ("1", "L")
_COLOUR_MODES = ("RGB", "RGBA", "P", "LA", "PA", "CMYK", "YCbCr")

# As NumPy's own limit.
_LONGEST_HEADER = 10_000
# Bytes of a label: text of 1,000 characters.
_LONGEST_LABEL = 4_000

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


def open_source(source: str, path: DataPath) -> OpenSource:
    if source == "digits":
        return _open_digits()
    if source == "cifar10":
        return _open_cifar10(cifar10_folder(path))
    if source not in SOURCES:
        raise DataError(f"unknown data source {source!r}: wanted one of {', '.join(SOURCES)}")
    if path is None:
        raise DataError(f"the data source {source!r} needs data.path, the file or folder to read")
    try:
        return (_open_npz if source == "npz" else _open_images)(Path(path))
    except OSError as error:
        raise DataError(f"{shorten(str(path))} cannot be read: {error.strerror}") from error


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


def cifar10_folder(path: DataPath) -> Path:
    path = Path(CIFAR10_PATH if path is None else path)
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


class NpzArchive:
    """Arrays of an open ``.npz`` file; what a header claims is checked before memory is taken."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return (name[:-4] for name in self._file.namelist() if name.endswith(".npy"))

    def get(self, name: str) -> NDArray[Any] | None:
        """Return an array, or None if there is none of this name."""
        return self[name] if name in list(self) else None

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.header(name)
        with self._file.open(f"{name}.npy") as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of an array without reading it.

        Raises
        ------
        ValueError
            If there is none that can be read, or it is not as large as the header says.
        """
        with self._file.open(f"{name}.npy") as member:
            start = member.read(12)
            length_bytes = 2 if start[6:7] == b"\1" else 4
            n_header = int.from_bytes(start[8 : 8 + length_bytes], "little")
            # NumPy would read all of a header before it finds it too long.
            if start[:6] != b"\x93NUMPY" or n_header > _LONGEST_HEADER:
                raise ValueError(f"{name} is no array, or its header is too long")
            n_header += 8 + length_bytes
            header = io.BytesIO(start + member.read(n_header - len(start)))
            version = np.lib.format.read_magic(header)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            try:
                shape, _, dtype = read(header)
            # Python's parser says so of text nested too deeply; a header is never that long.
            except MemoryError:
                raise ValueError(f"the header of {name} is nested too deeply") from None
        n_bytes = self._file.getinfo(f"{name}.npy").file_size - n_header
        n_wanted = math.prod(shape) * dtype.itemsize
        is_wrong = any(isinstance(n, bool) or n < 0 for n in shape) or n_bytes != n_wanted
        # An object has no size of its own; it is refused by its type.
        if is_wrong and not dtype.hasobject:
            raise ValueError(
                f"{name} has {n_bytes} bytes, and its header says {dtype} of shape {shape}"
            )
        return shape, dtype


@contextmanager
def opening_npz(path: Path, remedy: str) -> Iterator[NpzArchive]:
    """Open an ``.npz`` file; whatever is wrong with it becomes a `DataError`."""
    try:
        _check_plain_file(path)
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path} is no .npz file, or was cut short; {remedy}")
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                yield NpzArchive(archive)
    except (DataError, MemoryError):
        raise
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; {remedy}") from error
    # Broken bytes make the readers of zip, zlib, lzma and NumPy raise nearly anything.
    except Exception as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{shorten(str(path))} cannot be read: {shorten(found)}; {remedy}"
        ) from error


def _check_plain_file(path: Path) -> None:
    """Refuse what would never end, or wait for a writer for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is no plain file, but a pipe or device: wanted a file")


def _open_npz(path: Path) -> OpenSource:
    wanted = (
        "wanted an .npz file (numpy.savez) with x_train, x_test (n x channels x height x width,"
        " uint8 or floating point), y_train, y_test (whole numbers or text), and no pickled objects"
    )
    with opening_npz(path, wanted) as archive:
        shapes, dtypes, y = {}, {}, {}
        for part in ("train", "test"):
            shapes[part], dtypes[part] = archive.header(f"x_{part}")
            # Checked before they are read: labels may claim any size.
            header = archive.header(f"y_{part}")
            _check_npz_part(path, part, shapes[part], dtypes[part], *header)
            y[part] = archive[f"y_{part}"]
            _check_text_labels(path, part, y[part])
    if shapes["train"][1:] != shapes["test"][1:] or dtypes["train"] != dtypes["test"]:
        raise DataError(
            f"{path}: x_train is {dtypes['train']} {shapes['train']} and x_test is"
            f" {dtypes['test']} {shapes['test']}: wanted images of one type and size in both"
        )
    classes = np.unique(y["train"])
    unknown = ~np.isin(y["test"], classes)
    if unknown.any():
        raise DataError(
            f"{path}: y_test[{unknown.argmax()}] is {y['test'][unknown.argmax()].item()!r}, a class"
            " that y_train does not have: wanted the same classes in both"
        )

    def read(part: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        with opening_npz(path, wanted) as archive:
            x = archive[f"x_{part}"]
        _check_finite(path, f"x_{part}", x)
        return np.ascontiguousarray(x[rows], x.dtype.newbyteorder("="))

    channels, height, width = shapes["train"][1:]
    return OpenSource(
        class_names=tuple(map(str, classes.tolist())),
        labels={part: np.searchsorted(classes, y[part]).astype(np.int64) for part in y},
        image_shape=(channels, height, width),
        pixel_max=255 if dtypes["train"] == np.uint8 else None,
        read=read,
    )


def _check_npz_part(
    path: Path,
    part: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    shape_y: tuple[int, ...],
    dtype_y: np.dtype[Any],
) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(
            f"{path}: x_{part} is {dtype}, wanted uint8 (0 to 255) or floating point (scaled"
            " already)"
        )
    if len(shape) != 4 or 0 in shape:
        raise DataError(
            f"{path}: x_{part} has the shape {shape}, wanted n x channels x height x width, none 0"
        )
    if dtype_y.hasobject:
        raise DataError(
            f"{path} cannot be read: y_{part} holds pickled objects, which could run code; wanted"
            " whole numbers or text, stored by numpy.savez"
        )
    if len(shape_y) != 1 or dtype_y.kind not in "iuU" or dtype_y.itemsize > _LONGEST_LABEL:
        raise DataError(
            f"{path}: y_{part} is {dtype_y} of shape {shape_y}, wanted one whole number or text for"
            " each image"
        )
    if shape_y[0] != shape[0]:
        raise DataError(
            f"{path}: x_{part} has {shape[0]} images and y_{part} {shape_y[0]} labels,"
            " wanted as many"
        )


def _check_text_labels(path: Path, part: str, y: NDArray[Any]) -> None:
    """Refuse numbers that stand for no character, which nothing could print or write."""
    if y.dtype.kind != "U" or not y.dtype.itemsize:
        return
    codes = np.ascontiguousarray(y.astype(y.dtype.newbyteorder("="))).view(np.uint32)
    is_bad = (codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))
    if is_bad.any():
        row = is_bad.reshape(len(y), -1).any(axis=1).argmax()
        raise DataError(f"{path}: y_{part}[{row}] is no text: wanted characters of Unicode")


def _check_finite(path: Path, name: str, x: NDArray[Any]) -> None:
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(x.astype(np.float32, copy=False)).all(axis=(1, 2, 3))
    if not is_finite.all():
        raise DataError(
            f"{path}: {name}[{is_finite.argmin()}] has NaN or infinite pixels (in float32), as have"
            f" {np.count_nonzero(~is_finite)} of {len(x)} images: repair them or leave them out"
        )


def _open_images(path: Path) -> OpenSource:
    files = {part: _image_files(path / part) for part in ("train", "test")}
    names = sorted(files["train"])
    if names != sorted(files["test"]):
        only = sorted(set(files["train"]) ^ set(files["test"]))
        raise DataError(
            f"{path}: the class folders {', '.join(map(repr, only[:10]))} are in only one of train"
            " and test: wanted the same in both"
        )
    firsts = [of_class[name][0] for of_class in files.values() for name in names]
    headers = [_image_header(file) for file in firsts]
    mode = "L" if all(header.mode in _GREY_MODES for header in headers) else "RGB"
    wanted = _ImageHeader(firsts[0], mode, headers[0].size)
    for header in headers:
        _check_size(header, wanted)
    flat = {part: [f for name in names for f in files[part][name]] for part in files}
    width, height = wanted.size

    def read(part: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = [_decode(flat[part][row], wanted).reshape(height, width, -1) for row in rows]
        return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))

    return OpenSource(
        class_names=tuple(names),
        labels={
            part: np.repeat(np.arange(len(names)), [len(of_class[name]) for name in names])
            for part, of_class in files.items()
        },
        image_shape=(1 if mode == "L" else 3, height, width),
        pixel_max=255,
        read=read,
    )


def _image_files(folder: Path) -> dict[str, list[Path]]:
    """Return the sorted image files of every class folder in a folder; hidden names are ignored."""
    layout = "wanted train/CLASS/*.png (or .jpg, .jpeg) and test/CLASS/*.png in data.path"
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: {layout}")
    files: dict[str, list[Path]] = {}
    for class_folder in sorted(folder.iterdir()):
        if class_folder.name.startswith(".") or not class_folder.is_dir():
            continue
        if not class_folder.name.isprintable():
            raise DataError(
                f"the class folder {str(class_folder)!a} has signs in its name that cannot be"
                " shown: rename it"
            )
        found = sorted(f for f in class_folder.iterdir() if not f.name.startswith("."))
        other = [f for f in found if f.suffix.lower() not in _IMAGE_SUFFIXES]
        if other or not found:
            raise DataError(
                f"{other[0] if other else f'{class_folder} is empty'}: {layout}, no other files"
            )
        files[class_folder.name] = found
    if not files:
        raise DataError(f"{folder} has no class folders: {layout}")
    return files


@dataclass(frozen=True)
class _ImageHeader:
    file: Path
    mode: str
    size: tuple[int, int]


@contextmanager
def _image(file: Path) -> Iterator[Any]:
    """Open an image file, not decoded yet; whatever is wrong with it becomes a `DataError`."""
    from PIL import Image

    _check_plain_file(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                yield image
    except (DataError, MemoryError):
        raise
    # Broken bytes make the decoders raise nearly anything.
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as a PNG or JPEG image: {error}. Repair it or move it away"
        ) from error


def _image_header(file: Path) -> _ImageHeader:
    with _image(file) as image:
        return _ImageHeader(file, image.mode, image.size)


def _check_size(found: _ImageHeader, wanted: _ImageHeader) -> None:
    if found.size != wanted.size:
        raise DataError(
            f"images of unequal size: {found.file} is {found.size[0]} x {found.size[1]} (width x"
            f" height), {wanted.file} is {wanted.size[0]} x {wanted.size[1]}. Crop or resize them"
        )


def _decode(file: Path, wanted: _ImageHeader) -> NDArray[np.uint8]:
    with _image(file) as image:
        _check_size(_ImageHeader(file, image.mode, image.size), wanted)
        is_grey = image.mode in _GREY_MODES
        if not is_grey and image.mode not in _COLOUR_MODES:
            raise DataError(
                f"{file} has the pixel type {image.mode!r}: wanted 8 bits a channel, grey or colour"
            )
        if wanted.mode == "L" and not is_grey:
            raise DataError(
                f"{file} is a colour image ({image.mode}), but the first image of every class is"
                f" grey, such as {wanted.file}: convert all to grey, or all to colour"
            )
        # Pillow warns of a palette with transparency that does not go by way of RGBA.
        full = image.convert("RGBA") if image.mode == "P" else image
        return np.asarray(full.convert(wanted.mode))
