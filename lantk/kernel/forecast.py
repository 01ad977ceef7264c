"""What a Gram matrix will take: jobs, memory and time, from a rate measured in a second or two."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lantk.kernel.bands import Band
from lantk.kernel.cpu_loops import LANES
from lantk.kernel.gram import gram

# An interpreter with NumPy, Numba and the compiled loops.
_INTERPRETER_BYTES = 300 * 2**20


class Job(NamedTuple):
    """One band, as a job."""

    band: Band
    entries: int
    """Different entries to compute."""
    memory_bytes: int
    """Beside the pages of the file, which the system writes out when it needs the memory."""
    file_bytes: int
    """Size of the band's file."""
    seconds: float


def measure_rate(
    architecture: Any,
    shape: tuple[int, int, int],
    *,
    device: str = "auto",
    threads: int | None = None,
    seconds: float = 1.0,
) -> float:
    """Return float32 entries per second, those of a symmetric matrix counted once.

    `shape` is (channels, height, width) of an image; device and threads are as for `lantk.gram`.
    The measurement takes at least so many seconds; deep pooled networks take longer.
    """
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"device": device, "threads": threads, "layout": "channels_first"}
    # Compilation is no part of the rate.
    gram(architecture, np.zeros((1, shape[0], 1, 1), np.float32), **options)
    # Few rows at first: one row of a deep pooled network may take a second.
    n_rows, n = threads or os.cpu_count() or 1, LANES
    while True:
        x = rng.uniform(-1, 1, (max(n_rows, n), *shape)).astype(np.float32)
        start = time.perf_counter()
        gram(architecture, x[:n_rows], x[:n], **options)
        taken = time.perf_counter() - start
        if taken >= seconds:
            return n_rows * n / taken
        # Whole blocks of columns: lanes beyond the last column are paid for.
        n_rows, n = 2 * n_rows, max(-(-2 * n_rows // LANES) * LANES, n)


def forecast(
    bands: Sequence[Band],
    n_train: int,
    n_test: int,
    shape: tuple[int, int, int],
    *,
    rate: float,
    scratch_bytes: int,
    flips: bool = False,
) -> list[Job]:
    """Return each band's cost.

    `shape` is (channels, height, width) of an image, `rate` the different entries per second, from
    `measure_rate`; `scratch_bytes` and `flips` are as for `lantk.gram`.
    """
    # Bytes as they are stored, and float32 as they are computed with.
    images = (n_train + n_test) * math.prod(shape) * (1 + 4)
    jobs = []
    for band in bands:
        entries, size = band.n_entries(n_train), 4 * math.prod(band.shape(n_train))
        memory = _INTERPRETER_BYTES + images + scratch_bytes + flips * size
        jobs.append(Job(band, entries, memory, size, entries / rate * (4 if flips else 1)))
    return jobs
