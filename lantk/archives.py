"""Reading ``.npz`` files array by array: headers are checked, and nothing loads a pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError, shorten


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

    def blocks(self, name: str, n: int) -> Iterator[NDArray[Any]]:
        """Yield the rows of an array, `n` at a time; not all are held, if they are stored in order.

        Raises
        ------
        ValueError
            As `header` does, and if the array has no axes.
        """
        (n_rows, *row), dtype = self.header(name)
        with self._file.open(f"{name}.npy") as member:
            np.lib.format.read_magic(member)
            _, is_by_columns, _ = np.lib.format.read_array_header_1_0(member)
            whole = self[name] if is_by_columns else None
            for start in range(0, n_rows, n):
                if whole is not None:
                    yield whole[start : start + n]
                    continue
                shape = (min(n, n_rows - start), *row)
                content = member.read(math.prod(shape) * dtype.itemsize)
                yield np.frombuffer(content, dtype).reshape(shape)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of an array without reading it.

        Raises
        ------
        ValueError
            If there is none that can be read, or it is not as large as the header says.
        """
        with self._file.open(f"{name}.npy") as member:
            # Others could be of gigabytes, and NumPy writes them for nothing that is taken here.
            if np.lib.format.read_magic(member) != (1, 0):
                raise ValueError(f"the header of {name} is of another version than 1.0")
            try:
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            # Python's parser says so of text nested too deeply; a header is never that long.
            except MemoryError:
                raise ValueError(f"the header of {name} is nested too deeply") from None
            n_header = member.tell()
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
def opening_npz(
    path: Path, remedy: str, error: type[LantkError] = LantkError
) -> Iterator[NpzArchive]:
    """Open an ``.npz`` file; whatever is wrong with it becomes an `error` that ends in `remedy`."""
    try:
        check_plain_file(path, error)
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise error(f"{path} is no .npz file, or was cut short; {remedy}")
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                yield NpzArchive(archive)
    except (LantkError, MemoryError):
        raise
    # Broken bytes make the readers of zip, zlib, lzma and NumPy raise nearly anything.
    except Exception as cause:
        found = " ".join(str(cause).split()) or type(cause).__name__
        raise error(f"{shorten(str(path))} cannot be read: {shorten(found)}; {remedy}") from cause


def check_plain_file(path: Path, error: type[LantkError] = LantkError) -> None:
    """Refuse what would never end, or wait for a writer for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise error(f"{path} is no plain file, but a pipe or device: wanted a file")
