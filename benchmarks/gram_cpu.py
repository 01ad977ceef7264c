"""Measure the exact kernel on this machine's CPU: entries per second.

    python benchmarks/gram_cpu.py [--images 1920] [--threads N] [--repeats 5]

Flatten: the symmetric `chen2020` Gram matrix of n random images, 32 x 32 x 3, float32. Computed
entries are the n (n + 1) / 2 different ones, delivered entries all n^2 of the result.
Global average pooling: a few rows of `arora2019-gap-3` and `-6`, in milliseconds for each
convolution and entry. The time does not depend on the pixels.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from pathlib import Path

import numba
import numpy as np

from lantk.architecture import parse_architecture
from lantk.kernel.cpu import LANES
from lantk.kernel.gram import gram


def measure(repeats: int, *arguments, **options) -> np.ndarray:
    """Return the seconds of each of `repeats` calls of `gram`, after one that compiles."""
    gram(arguments[0], arguments[1][:1], **options)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        gram(*arguments, **options)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def describe_machine() -> str:
    """Return processor, versions and commit in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return (
        f"{models[0] if models else platform.machine()}, {len(models) or 'unknown'} cores;"
        f" Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__};"
        f" commit {commit or 'unknown'}"
    )


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1920, help="n of the flatten measurement")
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    n, threads, repeats = options.images, options.threads, options.repeats
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (max(n, LANES), 3, 32, 32)).astype(np.float32)

    print(describe_machine())
    print(f"float32, {threads} threads, {repeats} repeats: median (slowest - fastest)")
    start = time.perf_counter()
    gram("chen2020", x[:1], threads=1)
    print(f"first call, compiled or read from the cache: {time.perf_counter() - start:.2f} s")

    seconds = measure(repeats, "chen2020", x[:n], threads=threads)
    for name, count in (("computed", n * (n + 1) / 2), ("delivered", n * n)):
        rates = count / seconds
        print(
            f"chen2020, n = {n}: {np.median(rates):,.0f} ({rates.min():,.0f} - {rates.max():,.0f})"
            f" {name} entries/s"
        )
    for name in ("arora2019-gap-3", "arora2019-gap-6"):
        rows, n_convs = x[:threads], len(parse_architecture(name).convs)
        seconds = measure(repeats, name, rows, x[:LANES], threads=threads)
        cost = 1e3 * seconds / (len(rows) * LANES * n_convs)
        print(
            f"{name}, {len(rows)} x {LANES}: {np.median(cost):.3f}"
            f" ({cost.max():.3f} - {cost.min():.3f}) ms for each convolution and entry"
        )


if __name__ == "__main__":
    main()
