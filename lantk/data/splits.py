"""Images and labels of tasks: what a source holds, and how it is split.

`lantk.data.sources` says where images come from, `lantk.data.tasks` which classes are told apart.
Nothing here loads a pickle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.data.base import DataError, DataPath, OpenSource, check_range
from lantk.data.download import fetch
from lantk.data.sources import (
    CIFAR10_CLASSES,
    CIFAR10_SHAPE,
    cifar10_folder,
    open_source,
    source_files,
)
from lantk.data.tasks import Description, Task, check_size, class_sizes
from lantk.errors import shorten
from lantk.files import expand_path
from lantk.labels import class_labels, count_outputs
from lantk.scaling import SCALINGS, Scaling, channel_statistics
from lantk.whitening import Whitening, check_zca


@dataclass(frozen=True, eq=False)
class Split:
    """Train and test images of one task, classes interleaved in the order of `names`.

    Where a class has more images than others, its last ones follow alone.

    ``pixels_*`` are n x channels x height x width in the source's own type, ``y_*`` (n,) int8 of
    -1 and +1 for two classes and of 0 ... k - 1 for k, ``index_*`` (n,) int64 row numbers in the
    source's train and test set (both in the one set of a source without a test set).
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
    names: tuple[str, ...]
    slug: str
    channel_statistics: NDArray[np.float64] | None = None
    """(2, channels): mean and standard deviation of the train pixels; None unless they scale."""
    whitening: Whitening | None = None
    """What whitens scaled images; None leaves them as they are."""
    files_train: NDArray[np.str_] | None = None
    files_test: NDArray[np.str_] | None = None
    """Names of the images' files, from the source's folder on; None without files. `first` leaves
    them as they are."""

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes, labelled -1 and +1."""
        return len(self.names) == 2

    @property
    def scaling(self) -> str:
        """``range``, to [-1, 1], or ``standard``, to mean 0 and deviation 1 in every channel."""
        return self.scaler.name

    @property
    def scaler(self) -> Scaling:
        """How pixels become floats."""
        return Scaling(self.pixel_max, self.channel_statistics, self.whitening)

    @property
    def zca(self) -> float | None:
        """The regulariser of the whitening; None where images are not whitened."""
        return None if self.whitening is None else self.whitening.zca

    @property
    def x_train(self) -> NDArray[np.float32]:
        """Train images as float32, scaled and whitened; computed at each call."""
        return self.scaler.apply(self.pixels_train)

    @property
    def x_test(self) -> NDArray[np.float32]:
        """Test images as float32, as the train images are; computed at each call."""
        return self.scaler.apply(self.pixels_test)

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Train images of each class."""
        return self._counts(self.y_train)

    @property
    def test_counts(self) -> tuple[int, ...]:
        """Test images of each class."""
        return self._counts(self.y_test)

    def _counts(self, y: NDArray[np.int8]) -> tuple[int, ...]:
        return tuple(int(np.sum(y == label)) for label in _labels_of(len(self.names)))

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over pixels, their scaling and whitening, labels and row numbers.

        Of the whitening it takes what it was learned from, since the last digits of eigenvectors
        are not the same on every machine.
        """
        digest = hashlib.sha256(f"pixel_max {self.pixel_max}\n".encode())
        for name in SPLIT_ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
        if self.channel_statistics is not None:
            digest.update(f"standard {self.channel_statistics.tolist()}\n".encode())
        if self.whitening is not None:
            digest.update(f"zca {self.whitening.zca} {self.whitening.mean.tolist()}\n".encode())
        return digest.hexdigest()

    def first(self, n_train: int) -> Split:
        """Return the split of the first `n_train` train images, scaled and whitened as all are.

        These are as many of each class, or all that there are.

        Raises
        ------
        DataError
            If `n_train` is no multiple of the number of classes, or more than there are.
        """
        k, most = len(self.names), len(self.y_train)
        if n_train == most:
            return self
        found = f"the split {self.slug} has {most} train images of {k} classes"
        check_size("n_train", n_train, k, k * min(self.train_counts), found)
        names = ("pixels_train", "y_train", "index_train")
        return replace(self, **{name: getattr(self, name)[:n_train] for name in names})


# Images read at once when a whole source is.
_ROWS_AT_ONCE = 10_000
SPLIT_ARRAYS = ("pixels_train", "pixels_test", "y_train", "y_test", "index_train", "index_test")


def describe(source: str, path: DataPath = None, layout: str | None = None) -> Description:
    """Return what a source holds: its classes, how many images of each, and their shape.

    Of ``images`` the first file of each class is opened. ``cifar10`` that is not downloaded yet is
    what it will hold.

    Parameters
    ----------
    source : {"digits", "cifar10", "npz", "images"}
        Where images come from.
    path : path-like, optional
        The file or folder; needed by ``npz`` and ``images``, not looked at by ``digits``.
    layout : {"channels_first"}, optional
        Say so to have arrays taken that look as if their channels came last (see `lantk.gram`).

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
    return _described(source, open_source(source, path, layout))


def fingerprint(source: str, path: DataPath = None) -> str:
    """Return a text that changes when the files that are read do: their names, sizes and times.

    It is empty for ``digits``, and for ``cifar10`` as it was downloaded, or will be.

    Raises
    ------
    DataError
        If a file, or the folder that it should be in, is missing.
    """
    try:
        files = [(file, file.stat()) for file in source_files(source, path)]
    except OSError as error:
        found = shorten(str(error.filename or path))
        raise DataError(f"{found} cannot be read: {error.strerror}") from error
    if not files:
        return ""
    root = expand_path(os.fspath(path or "."))
    digest = hashlib.sha256()
    for file, stat in files:
        # Names need not be text.
        digest.update(os.fsencode(os.path.relpath(file, root)))
        digest.update(f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def digest_source(source: str, path: DataPath = None, layout: str | None = None) -> str:
    """Return the SHA-256, hexadecimal, of all labels and pixels of a source, reading every image.

    Raises
    ------
    DataError
        If any image is broken, of another size, or not finite.
    """
    opened = open_source(source, path, layout)
    digest = hashlib.sha256(f"{opened.class_names} {opened.image_shape}\n".encode())
    for part, labels in opened.labels.items():
        digest.update(part.encode() + labels.tobytes())
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(labels)))
            digest.update(np.ascontiguousarray(opened.read(part, rows)).data)
    return digest.hexdigest()


def split_pair(
    source: str,
    path: DataPath,
    pair: Task,
    n_train: int | None,
    n_test: int | None,
    seed: int,
    *,
    scaling: str = "range",
    zca: float | None = None,
    layout: str | None = None,
    balance: bool = False,
) -> Split:
    """Draw the train and test images of a class pair.

    One ``RandomState(seed)`` shuffles the negative and positive train images and the negative and
    positive test images in turn; the first half-n of each are interleaved. Without a test set it
    shuffles the two classes, and the test images follow the train images.

    Parameters
    ----------
    source, path
        As for `describe`; ``cifar10`` is downloaded if it is not there.
    pair : Task
        From `resolve_pair`.
    n_train, n_test, balance : int or None, bool
        As for `class_sizes`.
    seed : int
        From 0 to 2**32 - 1. The split for a smaller n is the beginning of that for a larger one.
    scaling : {"range", "standard"}
        To [-1, 1] by the pixels' range, or by the mean and standard deviation of each channel over
        all train images drawn.
    zca : float, optional
        Whitens the scaled images by what all train images drawn show (`lantk.whitening`): a share
        of the mean eigenvalue, 0 or more, such as 0.1.
    layout : {"channels_first"}, optional
        As for `describe`.

    Raises
    ------
    DataError, ScalingError, WhiteningError
        If the source, a size, the seed, the scaling or the regulariser cannot be used.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise DataError(f"seed is {seed!r}: wanted a whole number from 0 to {2**32 - 1}")
    # The specification fixes the legacy stream, which NumPy promises never to change.
    stream = np.random.RandomState(seed)

    def shuffled(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        order = np.arange(len(rows))
        stream.shuffle(order)
        return rows[order]

    return _draw(source, path, pair, (n_train, n_test), balance, (scaling, zca), layout, shuffled)


def split_classes(
    source: str,
    path: DataPath,
    task: Task,
    n_train: int | None,
    n_test: int | None,
    *,
    scaling: str = "range",
    zca: float | None = None,
    layout: str | None = None,
    balance: bool = False,
) -> Split:
    """Take the train and test images of k classes, the first ones of each in file order.

    They are interleaved: the first image of each class, the second of each, and so on. Without a
    test set, the test images follow the train images. `task` is from `resolve_classes`; the rest,
    and the errors, are as of `split_pair`.
    """
    sizes, options = (n_train, n_test), (scaling, zca)
    return _draw(source, path, task, sizes, balance, options, layout, lambda rows: rows)


def _draw(
    source: str,
    path: DataPath,
    task: Task,
    sizes: tuple[int | None, int | None],
    balance: bool,
    options: tuple[str, float | None],
    layout: str | None,
    order: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> Split:
    """Return the split of the first images of each class, in the order that `order` puts them."""
    scaling, zca = options
    if scaling not in SCALINGS:
        raise DataError(f"scaling is {scaling!r}: wanted {' or '.join(SCALINGS)}")
    if zca is not None:
        check_zca(zca)
    fetch(source, path)
    opened = open_source(source, path, layout)
    names = opened.class_names
    if [names[c] for c in task.numbers if c < len(names)] != list(task.names):
        raise DataError(f"{task} was not made for {source}, whose classes are {names}")
    train, test = class_sizes(_described(source, opened), task, *sizes, balance=balance)

    def rows_of(part: str) -> list[NDArray[np.int64]]:
        return [order(np.flatnonzero(opened.labels[part] == c)) for c in task.numbers]

    rows_train, part_test = rows_of("train"), "test"
    if "test" in opened.labels:
        rows_test = rows_of("test")
    else:
        rows_test = [rows[n:] for rows, n in zip(rows_train, train, strict=True)]
        part_test = "train"
    index_train, y_train = _interleaved(rows_train, train)
    index_test, y_test = _interleaved(rows_test, test)
    pixels_train = opened.read("train", index_train)
    pixels_test = opened.read(part_test, index_test)
    if scaling == "range":
        check_range((pixels_train, pixels_test), opened.pixel_max)
    scaler = Scaling(
        opened.pixel_max, channel_statistics(pixels_train) if scaling == "standard" else None
    )
    if zca is not None:
        scaler = scaler.whitened(pixels_train, zca)
    return Split(
        pixels_train=pixels_train,
        pixels_test=pixels_test,
        y_train=y_train,
        y_test=y_test,
        index_train=index_train,
        index_test=index_test,
        pixel_max=opened.pixel_max,
        source=source,
        names=task.names,
        slug=task.slug,
        channel_statistics=scaler.channel_statistics,
        whitening=scaler.whitening,
        files_train=opened.files("train", index_train),
        files_test=opened.files(part_test, index_test),
    )


def _labels_of(n_classes: int) -> NDArray[np.int8]:
    return class_labels(count_outputs(n_classes)).astype(np.int8)


def _interleaved(
    rows: Sequence[NDArray[np.int64]], counts: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the first rows of each class and their labels: a row of each class that has more."""
    places = np.concatenate([np.arange(n) for n in counts])
    classes = np.repeat(np.arange(len(counts)), counts)
    index = np.concatenate([of_class[:n] for of_class, n in zip(rows, counts, strict=True)])
    turns = np.lexsort((classes, places))
    return index[turns], _labels_of(len(counts))[classes[turns]]


def _described(source: str, opened: OpenSource) -> Description:
    counts = {
        part: tuple(np.bincount(labels, minlength=len(opened.class_names)).tolist())
        for part, labels in opened.labels.items()
    }
    return Description(
        source, opened.class_names, counts["train"], counts.get("test"), opened.image_shape
    )
