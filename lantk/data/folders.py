"""Images in folders, one a class."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.data.base import DataError, OpenSource, same_names
from lantk.data.npz import _check_plain_file

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_MODES = ("1", "L")
_COLOUR_MODES = ("RGB", "RGBA", "P", "LA", "PA", "CMYK", "YCbCr")


def open_images(path: Path) -> OpenSource:
    files = {part: image_files(path / part) for part in ("train", "test")}
    names = sorted(files["train"])
    same = same_names(files["test"], names)
    files["test"] = {same.get(name, name): found for name, found in files["test"].items()}
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


def image_files(folder: Path) -> dict[str, list[Path]]:
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
