"""What compiles and runs the CUDA kernel: a GPU, by CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Denormal numbers are far below anything that counts.
OPTIONS = ("--std=c++17", "--ftz=true", "--fmad=true")


class CupyLauncher:
    """Runs `planes.cu` on CuPy's current device, in a stream of its own."""

    def __init__(self) -> None:
        import cupy
        import cupyx

        self._cupy, self._pinned = cupy, cupyx.empty_pinned
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._buffers: list[Any] = [None, None]

    def compile(self, source: str) -> None:
        """Compile by NVRTC for this device; CuPy keeps the machine code on disk."""
        self._module = self._cupy.RawModule(code=source, options=OPTIONS, backend="nvrtc")
        self._module.compile()

    def count_blocks(self, threads: int) -> int:
        """Return how many blocks the multiprocessors hold, at 128 registers a thread."""
        attributes = self._cupy.cuda.Device().attributes
        return int(attributes["MultiProcessorCount"]) * max(512 // threads, 1)

    def allocate(self, n_bytes: int) -> Any:
        """Return memory of the device."""
        with self._stream:
            return self._cupy.empty(n_bytes, self._cupy.uint8)

    def upload(self, array: NDArray[Any], to: Any) -> None:
        """Copy an array to the device, in the order of the stream."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._stream:
            to[: raw.size].set(raw)

    def launch(self, name: str, blocks: int, threads: int, arguments: list[Any]) -> None:
        """Start a kernel in the stream; arguments are memory or whole numbers."""
        values = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
        with self._stream:
            self._module.get_function(name)((blocks,), (threads,), values)

    def download(self, memory: Any, n_bytes: int, slot: int) -> Any:
        """Start to copy to one of two page-locked buffers; return it and the arrival's event."""
        if self._buffers[slot] is None or self._buffers[slot].size < n_bytes:
            self._buffers[slot] = self._pinned(n_bytes, np.uint8)
        buffer = self._buffers[slot][:n_bytes]
        memory[:n_bytes].get(self._stream, out=buffer, blocking=False)
        return buffer, self._stream.record()

    def wait(self, ticket: Any) -> NDArray[np.uint8]:
        """Return the buffer when the copy has arrived; it is valid until its next use."""
        buffer, event = ticket
        event.synchronize()
        return buffer


def is_available() -> bool:
    """Return whether CuPy can be imported and finds a device."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # A broken installation or driver can raise anything: there is no device.
        return False
