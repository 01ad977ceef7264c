"""Images in folders, one a class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.archives import check_plain_file
from lantk.data.base import DataError, OpenSource, same_names

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
# EXIF's orientation -> what turns the image upright, in Pillow's words.
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


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
    flat = {part: [f for name in names for f in files[part][name]] for part in files}
    firsts = [of_class[name][0] for of_class in files.values() for name in names]
    height, width = _decode(firsts[0]).shape[:2]

    is_grey = all([_read_one(f, (height, width), f"{firsts[0]} is").ndim == 2 for f in firsts])
    shape = (1 if is_grey else 3, height, width)
    grey_like = f"the first image of every class is grey, such as {firsts[0]}"
    return OpenSource(
        class_names=tuple(names),
        labels={
            part: np.repeat(np.arange(len(names)), [len(of_class[name]) for name in names])
            for part, of_class in files.items()
        },
        image_shape=shape,
        pixel_max=255,
        read=lambda part, rows: read_files(
            [flat[part][row] for row in rows], shape, f"{firsts[0]} is", grey_like
        ),
        files=lambda part, rows: np.array([name_of(flat[part][i], path) for i in rows]),
    )


def read_files(
    files: Sequence[Path], shape: tuple[int, int, int], sized_like: str, grey_like: str
) -> NDArray[np.uint8]:
    """Return image files as images of a (channels, height, width), of 1 or 3 channels.

    A grey image is repeated in every channel. Where one is of another size or colour, the message
    says what is of `shape`, as in ``"a.png is"`` and ``"all others are grey"``.
    """
    images = np.empty((len(files), *shape), np.uint8)
    for image, file in zip(images, files, strict=True):
        pixels = np.atleast_3d(_read_one(file, shape[1:], sized_like))
        if shape[0] == 1 and not _has_equal_channels(pixels):
            raise DataError(
                f"{file} is a colour image, but {grey_like}: convert all to grey, or all to colour"
            )
        image[:] = np.moveaxis(pixels[:, :, : shape[0]], 2, 0)
    return images


def _read_one(file: Path, size: tuple[int, ...], sized_like: str) -> NDArray[np.uint8]:
    pixels = _decode(file)
    if pixels.shape[:2] != size:
        raise DataError(
            f"images of unequal size: {file} is {pixels.shape[1]} x {pixels.shape[0]} (width x"
            f" height), {sized_like} {size[1]} x {size[0]}. Crop or resize them"
        )
    return pixels


def name_of(file: Path, folder: Path) -> str:
    """Return a file's name below a folder as text that can be shown, which names need not be."""
    text = os.fsencode(file.relative_to(folder).as_posix()).decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def files_below(folder: Path, _above: tuple[Path, ...] = ()) -> list[Path]:
    """Return the image files of a folder and of all folders in it, sorted; hidden are ignored."""
    wanted = "wanted .png, .jpg or .jpeg files and folders of them"
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: {wanted}")
    above = (*_above, folder.resolve())
    if above[-1] in _above:
        raise DataError(f"{folder} is a symbolic link to a folder that it lies in: delete it")
    files: list[Path] = []
    for path in _visible(folder):
        if path.is_dir():
            files += files_below(path, above)
        elif path.suffix.lower() in _IMAGE_SUFFIXES:
            files.append(path)
        else:
            raise DataError(f"{path}: {wanted}, no other files")
    return sorted(files)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def image_files(folder: Path) -> dict[str, list[Path]]:
    """Return the sorted image files of every class folder in a folder; hidden names are ignored.

    These are what is read, and what is watched for changes.
    """
    layout = "wanted train/CLASS/*.png (or .jpg, .jpeg) and test/CLASS/*.png in data.path"
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: {layout}")
    files: dict[str, list[Path]] = {}
    for class_folder in _visible(folder):
        if class_folder.is_symlink() and not class_folder.exists():
            raise DataError(f"{class_folder} is a symbolic link to nothing: mend or delete it")
        if not class_folder.is_dir():
            continue
        if not class_folder.name.isprintable():
            raise DataError(
                f"the class folder {str(class_folder)!a} has signs in its name that cannot be"
                " shown: rename it"
            )
        found = _visible(class_folder)
        other = [f for f in found if f.suffix.lower() not in _IMAGE_SUFFIXES]
        if other or not found:
            raise DataError(
                f"{other[0] if other else f'{class_folder} is empty'}: {layout}, no other files"
            )
        files[class_folder.name] = found
    if not files:
        raise DataError(f"{folder} has no class folders: {layout}")
    return files


@contextmanager
def _image(file: Path) -> Iterator[Any]:
    """Open an image file, not decoded yet; whatever is wrong with it becomes a `DataError`."""
    from PIL import Image

    check_plain_file(file, DataError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Of broken EXIF, without which an image is as it is.
            warnings.filterwarnings("ignore", "", UserWarning, r"PIL\.TiffImagePlugin")
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                yield image
    except (DataError, MemoryError):
        raise
    # Broken bytes make the decoders raise nearly anything.
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as a PNG or JPEG image: {error}. Repair it or move it away"
        ) from error


def _decode(file: Path) -> NDArray[np.uint8]:
    """Return an image as a person sees it, (height, width) if grey, else (height, width, 3).

    What becomes of each kind of file is a table in docs/faq.md.
    """
    from PIL.Image import Transpose

    with _image(file) as image:
        n_bits = _bits_a_channel(file)
        if n_bits > 8 or image.mode not in (*_GREY_MODES, *_COLOUR_MODES):
            raise DataError(
                f"{file} has the pixel type {image.mode!r}, {n_bits} bits a channel: wanted 8 bits"
                " a channel, grey or colour, so convert it by the range of values that it uses"
            )
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        if turn is not None:
            image = image.transpose(Transpose[turn])
        # Pillow warns of a palette with transparency that does not go by way of RGBA.
        full = image.convert("RGBA") if image.mode in ("P", "PA") else image
        if full.mode in ("LA", "RGBA"):
            _check_alpha(file, np.asarray(full))
        pixels = np.asarray(full.convert("L" if image.mode in _GREY_MODES else "RGB"))
    is_palette = image.mode in ("P", "PA")
    return pixels[:, :, 0] if is_palette and _has_equal_channels(pixels) else pixels


def _has_equal_channels(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())


def _bits_a_channel(file: Path) -> int:
    """Return how many bits a channel has: Pillow halves the 16 of a coloured PNG in silence."""
    with file.open("rb") as opened:
        head = opened.read(25)
    return head[24] if head[12:16] == b"IHDR" else 8


def _orientation(image: Any) -> int:
    """Return what EXIF says of how to turn an image; 1, upright, if nothing that can be read."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    # Broken bytes make its reader raise nearly anything; viewers show such an image as it is.
    except Exception:
        return 1


def _check_alpha(file: Path, pixels: NDArray[np.uint8]) -> None:
    """Refuse an image that would be of one colour without its transparency, which is dropped."""
    colours, alpha = pixels[:, :, :-1], pixels[:, :, -1]
    if (colours == colours[0, 0]).all() and (alpha != alpha[0, 0]).any():
        raise DataError(
            f"{file} shows something by its transparency alone, which is dropped: lay it on a"
            " background (Pillow: Image.alpha_composite) and save that"
        )
