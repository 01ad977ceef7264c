"""Runs `planes.cu` without a device: built by g++, every thread of a block a coroutine."""

import atexit
import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

COMPILER = shutil.which("g++")
_HEADER = Path(__file__).with_name("emulator.h").read_text()
# What memory holds before anything is written there, and around it: NaN, whatever the type.
_POISON = 0xFF
_MARGIN = 256


@cache
def _folder():
    folder = tempfile.TemporaryDirectory(prefix="lantk-emulator-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def build(source):
    """Return the shared library of a source."""
    text = _HEADER + source
    library = _folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.so"
    options = ["-std=c++17", "-Og", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
    # Unknown pragmas are the device's.
    options += ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
    subprocess.run(
        [COMPILER, *options, "-x", "c++", "-", "-o", library], input=text.encode(), check=True
    )
    return ctypes.CDLL(str(library))


class Emulator:
    """A `CupyLauncher` on the host, which finds reads and writes out of bounds."""

    def __init__(self, blocks=3):
        self._blocks = blocks
        self._all = []
        self.n_bytes = 0

    def compile(self, source):
        self._library = build(source)

    def count_blocks(self, threads):
        return self._blocks

    def allocate(self, n_bytes):
        whole = np.full(n_bytes + 2 * _MARGIN, _POISON, np.uint8)
        # Vectors are read at multiples of 16 bytes, as memory on a device begins.
        start = _MARGIN - whole.ctypes.data % 16
        self._all.append((whole, start, n_bytes))
        self.n_bytes += n_bytes
        return whole[start : start + n_bytes]

    def upload(self, array, to):
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        to[: raw.size] = raw

    def launch(self, name, blocks, threads, arguments):
        values = [a if isinstance(a, int) else a.ctypes.data for a in arguments]
        packed = (ctypes.c_long * len(values))(*values)
        kernel = getattr(self._library, name)
        self._library.emulate(kernel, packed, len(values), blocks, threads)
        for whole, start, n in self._all:
            assert (whole[:start] == _POISON).all(), f"{name} wrote before an array"
            assert (whole[start + n :] == _POISON).all(), f"{name} wrote behind an array"

    def download(self, memory, n_bytes, slot):
        return memory[:n_bytes].copy()

    def wait(self, ticket):
        return ticket
