"""Images and labels of class pairs: what a source holds, and how it is split.

`lantk.sources` says where images come from. Nothing here loads a pickle.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.download import DownloadError, fetch_archive
from lantk.sources import (
    CIFAR10_CLASSES,
    CIFAR10_FILES,
    CIFAR10_FOLDER,
    CIFAR10_SHAPE,
    DataError,
    DataPath,
    OpenSource,
    cifar10_folder,
    open_source,
    opening_npz,
)
from lantk.storage import writing

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


@dataclass(frozen=True)
class Description:
    """What a source holds, known without its pixels."""

    source: str
    class_names: tuple[str, ...]
    """Names of the classes; the position is the class number."""
    train_counts: tuple[int, ...]
    """Train images of each class."""
    test_counts: tuple[int, ...] | None
    """Test images of each class; None for a source without a test set."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of every image."""


@dataclass(frozen=True)
class ClassPair:
    """Two classes, ``negative < positive``, labelled -1 and +1."""

    negative: int
    positive: int
    names: tuple[str, str]
    slug: str
    """The pair's name in paths and commands, such as ``deer-dog``: letters, digits, ``_ . -``."""


@dataclass(frozen=True, eq=False)
class Split:
    """Train and test images of one class pair, classes interleaved (negative first).

    ``pixels_*`` are n x channels x height x width in the source's own type, ``y_*`` (n,) int8 of
    -1 and +1, ``index_*`` (n,) int64 row numbers in the source's train and test set (both in the
    one set of a source without a test set).
    """

    pixels_train: NDArray[Any]
    pixels_test: NDArray[Any]
    y_train: NDArray[np.int8]
    y_test: NDArray[np.int8]
    index_train: NDArray[np.int64]
    index_test: NDArray[np.int64]
    pixel_max: int | None
    """Largest value that a pixel can have; None where pixels are scaled already."""
    source: str
    names: tuple[str, str]
    slug: str

    @property
    def x_train(self) -> NDArray[np.float32]:
        """Train images as float32, scaled to [-1, 1]; computed at each call."""
        return _scaled(self.pixels_train, self.pixel_max)

    @property
    def x_test(self) -> NDArray[np.float32]:
        """Test images as float32, scaled to [-1, 1]; computed at each call."""
        return _scaled(self.pixels_test, self.pixel_max)

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over pixels and their range, labels and row numbers."""
        digest = hashlib.sha256(f"pixel_max {self.pixel_max}\n".encode())
        for name in _SPLIT_ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()


# Images read at once when a whole source is.
_ROWS_AT_ONCE = 10_000
_SPLIT_ARRAYS = ("pixels_train", "pixels_test", "y_train", "y_test", "index_train", "index_test")


def describe(source: str, path: DataPath = None) -> Description:
    """Return the classes, counts and image shape of a source without reading its pixels.

    Parameters
    ----------
    source : str
        ``digits``, ``cifar10``, ``npz`` or ``images``.
    path : path-like, optional
        The file or folder; needed by ``npz`` and ``images``, not looked at by ``digits``.

    Returns
    -------
    Description
        For ``cifar10`` that is not downloaded yet, what it will hold.

    Raises
    ------
    DataError
        If the source is unknown, missing, or broken.

    Examples
    --------
    >>> describe("digits").image_shape
    (1, 8, 8)
    """
    if source == "cifar10" and not cifar10_folder(path).is_dir():
        counts = {"train": (5000,) * 10, "test": (1000,) * 10}
        return Description(source, CIFAR10_CLASSES, counts["train"], counts["test"], CIFAR10_SHAPE)
    return _described(source, open_source(source, path))


def fetch(
    source: str, path: DataPath = None, *, url: str = CIFAR10_URL, md5: str = CIFAR10_MD5
) -> None:
    """Download a source that is not there yet; do nothing for one that is, or cannot be.

    Raises
    ------
    DataError
        If the download fails or is not the archive wanted. Nothing is left behind.
    """
    if source != "cifar10" or (folder := cifar10_folder(path)).is_dir():
        return
    try:
        fetch_archive(url, folder, CIFAR10_FILES, md5=md5, largest=2**28)
    except DownloadError as error:
        raise DataError(
            f"{error}. Try again, or download {url} by hand and unpack it so that"
            f" {folder / CIFAR10_FILES[0]} is there, or set data.path to a folder that holds"
            f" {CIFAR10_FOLDER}"
        ) from error


def fingerprint(source: str, path: DataPath = None) -> str:
    """Return a text that changes when the user's files do: their names, sizes and times.

    It is empty for ``digits`` and ``cifar10``, which do not change.
    """
    if source not in ("npz", "images") or path is None:
        return ""
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def digest_source(source: str, path: DataPath = None) -> str:
    """Return the SHA-256, hexadecimal, of all labels and pixels of a source, reading every image.

    Raises
    ------
    DataError
        If any image is broken, of another size, or not finite.
    """
    opened = open_source(source, path)
    digest = hashlib.sha256(f"{opened.class_names} {opened.image_shape}\n".encode())
    for part, labels in opened.labels.items():
        digest.update(part.encode() + labels.tobytes())
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(labels)))
            digest.update(np.ascontiguousarray(opened.read(part, rows)).data)
    return digest.hexdigest()


def resolve_pair(description: Description, pair: Sequence[str | int]) -> ClassPair:
    """Return the class pair that two class names or numbers mean, in either order.

    Raises
    ------
    DataError
        If a class is unknown or the two are equal.

    Examples
    --------
    >>> resolve_pair(describe("digits"), [8, "3"]).slug
    '3-8'
    """
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise DataError(f"class pair {pair!r}: wanted two class names or numbers, such as [3, 8]")
    negative, positive = sorted(_class_number(description, entry) for entry in pair)
    names = description.class_names
    if negative == positive:
        raise DataError(
            f"class pair {list(pair)!r} is the class {names[negative]!r} twice: wanted two classes"
        )
    slug = f"{_class_slug(names, negative)}-{_class_slug(names, positive)}"
    return ClassPair(negative, positive, (names[negative], names[positive]), slug)


def _class_number(description: Description, entry: str | int) -> int:
    names = description.class_names
    if isinstance(entry, str) and entry in names:
        return names.index(entry)
    if isinstance(entry, Integral) and not isinstance(entry, bool) and 0 <= entry < len(names):
        if str(entry) in names and names[entry] != str(entry):
            raise DataError(
                f"class {entry} of {description.source} could be the class named '{entry}' or class"
                f" number {entry}, which is named {names[entry]!r}: write the name in quotes"
            )
        return int(entry)
    shown = ", ".join(f"{i}: {name!r}" for i, name in enumerate(names[:20]))
    close = difflib.get_close_matches(str(entry), names, n=1)
    raise DataError(
        f"unknown class {entry!r} in {description.source}:"
        + (f" did you mean {close[0]!r}?" if close else "")
        + f" There are {len(names)} classes: {shown}{', ...' if len(names) > 20 else ''}"
    )


def _class_slug(names: tuple[str, ...], number: int) -> str:
    """Return a text for a class, safe in paths and shells and different for every class.

    It has no ``-``, which joins the two of a pair. A plain name stays as it is and has no ``.``;
    any other has its class number after one. Names that differ in case only are not plain,
    because some file systems take them for one.
    """
    name = names[number]
    is_alone = sum(other.casefold() == name.casefold() for other in names) == 1
    if is_alone and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,39}", name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')[:40] or 'class'}.{number}"


def resolve_sizes(
    description: Description, pair: ClassPair, n_train: int | None, n_test: int | None
) -> tuple[int, int]:
    """Return how many train and test images of a pair to take, half of them from each class.

    Parameters
    ----------
    description : Description
        The source.
    pair : ClassPair
        The two classes.
    n_train, n_test : int or None
        Even numbers; None means all there is, twice the smaller class. A source without a test
        set tests on what `n_train` leaves.

    Raises
    ------
    DataError
        If a number is odd, below 2, or more than there is.
    """

    def of_pair(counts: tuple[int, ...], kind: str) -> tuple[int, str]:
        negative, positive = counts[pair.negative], counts[pair.positive]
        return 2 * min(negative, positive), (
            f"{description.source} has {negative} {kind} of {pair.names[0]!r} and {positive} of"
            f" {pair.names[1]!r}"
        )

    if description.test_counts is not None:
        n_train = _size("n_train", n_train, *of_pair(description.train_counts, "train images"))
        return n_train, _size("n_test", n_test, *of_pair(description.test_counts, "test images"))
    most, found = of_pair(description.train_counts, "images")
    if n_train is None:
        raise DataError(
            f"n_train is null, which takes all there is: {found} and no test set, so nothing is"
            f" left to test on. Set n_train to an even number from 2 to {most - 2}"
        )
    n_train = _size("n_train", n_train, most - 2, f"{found} and no test set")
    found += f", of which n_train takes {n_train}"
    return n_train, _size("n_test", n_test, most - n_train, found)


def _size(key: str, value: int | None, most: int, found: str) -> int:
    if most < 2:
        raise DataError(f"{found}: wanted at least one image of each class for {key}")
    if value is None:
        return most
    if not isinstance(value, Integral) or value % 2 or not 2 <= value <= most:
        raise DataError(
            f"{key} is {value!r}, but half of it comes from each class and {found}: wanted an even"
            f" number from 2 to {most}"
        )
    return int(value)


def split_pair(
    source: str, path: DataPath, pair: ClassPair, n_train: int | None, n_test: int | None, seed: int
) -> Split:
    """Draw the train and test images of a class pair.

    One ``RandomState(seed)`` shuffles the negative and positive train images and the negative and
    positive test images in turn; the first half-n of each are interleaved. Without a test set it
    shuffles the two classes, and the test images follow the train images.

    Parameters
    ----------
    source, path
        As for `describe`; ``cifar10`` is downloaded if it is not there.
    pair : ClassPair
        From `resolve_pair`.
    n_train, n_test : int or None
        As for `resolve_sizes`.
    seed : int
        From 0 to 2**32 - 1. The split for a smaller n is the beginning of that for a larger one.

    Raises
    ------
    DataError
        If the source, a size or the seed cannot be used.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise DataError(f"seed is {seed!r}: wanted a whole number from 0 to {2**32 - 1}")
    fetch(source, path)
    opened = open_source(source, path)
    description = _described(source, opened)
    if resolve_pair(description, (pair.negative, pair.positive)) != pair:
        raise DataError(
            f"{pair} was not made for {source}, whose classes are {description.class_names}"
        )
    n_train, n_test = resolve_sizes(description, pair, n_train, n_test)
    # The specification fixes the legacy stream, which NumPy promises never to change.
    stream = np.random.RandomState(seed)

    def shuffled_rows(part: str) -> NDArray[np.int64]:
        """Return 2 x n rows of a part, n of each class of the pair; the smaller class decides n."""
        rows = [np.flatnonzero(opened.labels[part] == c) for c in (pair.negative, pair.positive)]
        for of_class in rows:
            order = np.arange(len(of_class))
            stream.shuffle(order)
            of_class[:] = of_class[order]
        return np.stack([of_class[: min(map(len, rows))] for of_class in rows])

    rows_train, part_test = shuffled_rows("train"), "test"
    if "test" in opened.labels:
        rows_test = shuffled_rows("test")
    else:
        rows_test, part_test = rows_train[:, n_train // 2 :], "train"
    index_train = rows_train[:, : n_train // 2].T.ravel()
    index_test = rows_test[:, : n_test // 2].T.ravel()
    signs = np.array([-1, 1], np.int8)
    return Split(
        pixels_train=opened.read("train", index_train),
        pixels_test=opened.read(part_test, index_test),
        y_train=np.tile(signs, n_train // 2),
        y_test=np.tile(signs, n_test // 2),
        index_train=index_train,
        index_test=index_test,
        pixel_max=opened.pixel_max,
        source=source,
        names=pair.names,
        slug=pair.slug,
    )


def save_split(path: str | os.PathLike[str], split: Split) -> None:
    """Write a split to an ``.npz`` file, whole or not at all."""
    path = Path(path)
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
            **{name: getattr(split, name) for name in _SPLIT_ARRAYS},
        )


def load_split(path: str | os.PathLike[str]) -> Split:
    """Read a split that `save_split` wrote, and check its digest.

    Raises
    ------
    DataError
        If the file is missing, broken, or not a split.
    """
    with opening_npz(Path(path), "make the split again") as archive:
        pixel_max, names = int(archive["pixel_max"]), archive["names"].tolist()
        split = Split(
            **{name: archive[name] for name in _SPLIT_ARRAYS},
            pixel_max=None if pixel_max < 0 else pixel_max,
            source=str(archive["source"]),
            names=(names[0], names[1]),
            slug=str(archive["slug"]),
        )
        digest = str(archive["digest"])
    if digest != split.digest:
        raise DataError(f"{path} was changed after it was written: make the split again")
    return split


def _scaled(pixels: NDArray[Any], pixel_max: int | None) -> NDArray[np.float32]:
    x = pixels.astype(np.float32)
    if pixel_max is not None:
        x /= np.float32(pixel_max / 2)
        x -= np.float32(1)
    return x


def _described(source: str, opened: OpenSource) -> Description:
    counts = {
        part: tuple(np.bincount(labels, minlength=len(opened.class_names)).tolist())
        for part, labels in opened.labels.items()
    }
    return Description(
        source, opened.class_names, counts["train"], counts.get("test"), opened.image_shape
    )
