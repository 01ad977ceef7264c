"""Files appear whole or not at all: write to a temporary name, check, rename."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an exception.

    The temporary path lies in the folder of `path`, is hidden, ends as `path` does (so that
    writers which look at the suffix are content) and is unique to this call. The block writes a
    file or makes a folder there. When it fails in any way, a keyboard interrupt included, what it
    left is removed and an older `path` stays as it was.

    Parameters
    ----------
    path : path-like
        Where the result goes; folders above it are made. An older file is replaced.

    Yields
    ------
    pathlib.Path
        The name to write to; nothing is there yet.

    Raises
    ------
    OSError
        If the disk is full (the message says where and how much is left), if the block wrote
        nothing, or if the name cannot be taken, for example because a folder is there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder, "a", "table.csv")) as temporary:
    ...         _ = temporary.write_text("pair,accuracy")
    ...     Path(folder, "a", "table.csv").read_text()
    'pair,accuracy'
    """
    path = Path(path)
    # The end of the name keeps its suffixes; a long name cannot outgrow the limit of 255 bytes.
    temporary = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(6)}-{path.name[-40:]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(errno.ENOENT, "nothing was written to become", str(path))
        for written in (temporary, *temporary.rglob("*")):
            _flush_to_disk(written)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _full_disk(error.errno, path) from error
        raise


@contextmanager
def writing_array(
    path: str | os.PathLike[str], shape: tuple[int, ...], dtype: DTypeLike
) -> Iterator[NDArray[Any]]:
    """Yield an array of floats on disk that becomes the file `path` once it is full.

    It is a memory map of a temporary file, filled with NaN first: so a full disk is met before
    there is work to lose, on most file systems, and what was left out is noticed. The block writes
    every element; memory need not hold the array.

    Parameters
    ----------
    path : path-like
        Where the ``.npy`` file goes, as for `writing`.
    shape, dtype
        Of the array.

    Yields
    ------
    ndarray
        The memory map, readable and writable.

    Raises
    ------
    OSError
        As `writing` does, and if NaN is left.
    """
    with writing(path) as temporary:
        row = np.full(shape[1:], np.nan, dtype)
        with open(temporary, "wb") as file:
            description = {"descr": row.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, description)
            for _ in range(shape[0]):
                file.write(row.tobytes())
        array = np.load(temporary, mmap_mode="r+")
        yield array
        for i, written in enumerate(array):
            if np.isnan(written).any():
                raise OSError(f"row {i} of {Path(path).name} was not computed: nothing is kept")
        array.flush()


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _full_disk(number: int, path: Path) -> OSError:
    folder = next((p for p in path.parents if p.exists()), Path())
    free = shutil.disk_usage(folder).free
    return OSError(
        number,
        f"the disk is full or the quota is used up ({free / 2**20:.1f} MiB free there after the"
        " unfinished file was removed; an older file is untouched). Free some space, or choose"
        " another folder",
        str(path),
    )
