"""What a Gram matrix will take: jobs, memory and time, from a rate measured in a second or two."""

from __future__ import annotations

import math
import os
import time
from typing import Any, NamedTuple

import numpy as np

from lantk.kernel.bands import Band, count_bands, count_visits, plan_bands
from lantk.kernel.cpu.loops import LANES
from lantk.kernel.gram import SCRATCH_BYTES, gram

# An interpreter with NumPy, Numba and the compiled loops.
INTERPRETER_BYTES = 300 * 2**20


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


class GramForecast(NamedTuple):
    """The jobs of a split's Gram matrices."""

    rate: float
    """Different entries a second, those of flips counted apart."""
    jobs: list[Job]

    @property
    def seconds(self) -> float:
        """Return the seconds of all jobs, one after another."""
        return sum(job.seconds for job in self.jobs)


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


def forecast_gram(
    architecture: Any,
    n_train: int,
    n_test: int,
    shape: tuple[int, int, int],
    *,
    n_bands: int | None = None,
    flips: bool = False,
    device: str = "auto",
    threads: int | None = None,
    rate: float | None = None,
    scratch_bytes: int | None = None,
) -> GramForecast:
    """Return what the bands of a split's Gram matrices will take, each as a job.

    `shape` is (channels, height, width) of an image. Without `n_bands` there are as many as
    ``bands: auto`` means, without `rate` it is measured; the rest is as for `lantk.gram`.
    """
    if n_bands is None:
        visits = count_visits([architecture], *shape[1:])
        n_bands = count_bands(n_train, n_test, visits, device)
    bands = plan_bands(n_train, n_test, n_bands)
    if rate is None:
        rate = measure_rate(architecture, shape, device=device, threads=threads)
    # What a GPU works in is its own memory.
    scratch = (scratch_bytes or SCRATCH_BYTES["cpu"]) * (device != "cuda")
    # Bytes as they are stored, and float32 as they are computed with.
    images = (n_train + n_test) * math.prod(shape) * (1 + 4)
    jobs = []
    for band in bands:
        entries, size = band.n_entries(n_train), 4 * math.prod(band.shape(n_train))
        memory = INTERPRETER_BYTES + images + scratch + flips * size
        jobs.append(Job(band, entries, memory, size, entries / rate * (4 if flips else 1)))
    return GramForecast(rate, jobs)
