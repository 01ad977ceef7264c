"""Files appear whole or not at all: write to a temporary name, check, rename. What a path means."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantk.errors import LantkError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expand_path(text: str) -> str:
    """Return a path with ``~`` and ``$NAME`` filled in and without ``./``, ``//`` and a last ``/``.

    What is left of ``.``, or of a name that begins with ``-`` or ``~`` behind ``./``, becomes
    absolute: it would be read as something else. Of what is returned the same is returned again.

    Raises
    ------
    LantkError
        If the path is empty, a variable is not set, a user is not known, or a folder would be
        called ``~``.

    Examples
    --------
    >>> expand_path("./results//mine/"), expand_path("/data/../$0 x")
    ('results/mine', '/data/../$0 x')
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        value = os.environ.get(name)
        if not value:
            raise LantkError(
                f"{text!r}: the variable {name} is not set. Set it, or write out the path"
            )
        return value

    if not text:
        raise LantkError("'': wanted a path (that of the working folder is '.')")
    found = text
    with suppress(ValueError):  # the name of a user that cannot be one
        found = os.path.expanduser(text)
    found = _VARIABLE.sub(fill, found)
    if text.startswith("~") and found.startswith("~"):
        user = found.partition("/")[0]
        raise LantkError(
            f"{text!r}: there is no home folder {user!r}. For that name write './{text}'"
        )
    if "~" in found.split("/") or _VARIABLE.search(found):
        raise LantkError(
            f"{text!r} is {found!r}: wanted a path without a folder called ~, or a $ before a name"
        )
    found = str(Path(re.sub("^/+", "/", found)))
    is_other = found == "." or (found[0] in "-~" and found[0] != text[0])
    return os.path.abspath(found) if is_other else found


def expand_address(uri: str) -> str:
    """Return the address of a store with the path of a database file expanded.

    Others stay as they are, but for capitals in ``HTTP://``.

    Examples
    --------
    >>> expand_address("sqlite:///runs//./mlflow.db")
    'sqlite:///runs/mlflow.db'
    """
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", uri, re.DOTALL)
    if found:
        return f"{found[1]}{expand_path(found[2])}{found[3]}"
    return re.sub("^https?(?=://)", lambda web: web[0].lower(), uri, flags=re.I)


def require_ending(path: str | os.PathLike[str], *endings: str) -> None:
    """Raise `LantkError` on a file whose name ends in none of these, which say what is in it."""
    ending = Path(path).suffix
    # Data are looked for by their ending as it is written.
    if ending.lower() not in (".json", ".npz"):
        ending = ending.lower()
    if ending not in endings:
        *others, last = endings
        listed = f"{', '.join(others)} or {last}" if others else last
        raise LantkError(f"{os.fspath(path)!r}: wanted a name that ends in {listed}")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an exception.

    The temporary path lies in a hidden folder beside `path` and is named as `path` is. The block
    writes a file or makes a folder there. When it fails in any way, a keyboard interrupt included,
    what it left is removed and an older `path` stays as it was. What a killed process left in the
    folder of `path` is removed too, if that was on this machine.

    Parameters
    ----------
    path : path-like
        Where the result goes (``~`` is the home folder); folders above it are made. An older file
        is replaced.

    Yields
    ------
    pathlib.Path
        The name to write to; nothing is there yet.

    Raises
    ------
    OSError
        If the disk is full (the message says where and how much is left), if the folder cannot be
        written (it says so), if the block wrote nothing, or if the name cannot be taken, for
        example because a folder is there.

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
    if path.parts[:1] == ("~",):
        path = path.expanduser()
    try:
        with _hidden_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            if not temporary.exists():
                raise FileNotFoundError(errno.ENOENT, "nothing was written to become", str(path))
            for written in (temporary, *temporary.rglob("*")):
                _flush_to_disk(written)
            os.replace(temporary, path)
            with suppress(OSError):  # some file systems cannot flush a folder
                _flush_to_disk(path.parent)
    except OSError as error:
        if error.errno in _FULL:
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
    # Here, since verbs set how many threads it may start after they have loaded this module.
    import numpy as np

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


def lock_within(descriptor: int, seconds: float) -> bool:
    """Lock an open file; return False where another process holds it for so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(0.1)


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    """Make a folder to write in, whose lock says that its process lives; remove it afterwards."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        folder, descriptor = _make_locked(parent)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        text = f"the folder cannot be written ({error.strerror}): make it writable, or take another"
        raise type(error)(error.errno, text, str(parent)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _make_locked(parent: Path) -> tuple[Path, int]:
    """Return a new hidden folder and the descriptor that holds its lock."""
    while True:
        folder = parent / f"{_start_of_hidden()}{secrets.token_hex(6)}"
        folder.mkdir()
        # Another process may take it for abandoned until it is locked.
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # some file systems cannot lock: there it is never removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Remove the hidden folders of processes of this machine that were killed."""
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_start_of_hidden())]
    for folder in found:
        with suppress(OSError):  # in use, or gone meanwhile
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _start_of_hidden() -> str:
    # Where other machines write too, their locks may not be seen here.
    return f".tmp-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"


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


def write_json(path: Path, content: Any, files: ExitStack | None = None) -> None:
    """Write JSON whole or not at all; numbers that are none (NaN, infinity) raise ValueError.

    With `files` it appears when they are closed.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with ExitStack() as own:
        (files or own).enter_context(writing(path)).write_text(text)
