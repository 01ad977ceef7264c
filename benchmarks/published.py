"""Our times beside those that neural-tangents publishes for itself on other machines.

    python benchmarks/published.py [--threads 2]

Milliseconds an entry, of 32 x 32 images, 3 x 3 filters and ReLUs, from
https://github.com/google/neural-tangents (README, "Performance"), and the hours that its authors
state for the kernels of Shankar et al. (2020) on all 60,000 images of CIFAR-10.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench

from lantk import gram

# 21 convolutions: readout -> milliseconds an entry on > 56 CPU cores, a P100, a V100.
TIMES = {"flatten": (0.120, 0.0152, 0.00465), "global_average_pool": (112.9, 5.94, 2.70)}
# V100-hours of 60,000 x 60,001 / 2 entries.
HOURS = {"myrtle5": 316, "myrtle7": 330, "myrtle10": 508}
_ENTRIES = 60_000 * 60_001 // 2
# Enough images that a call takes a second or more; of columns whole blocks.
_ROWS = {"flatten": 192, "global_average_pool": 2}
_COLUMNS = 96


def seconds_an_entry(architecture: Any, n_rows: int, threads: int, rounds: int) -> list[float]:
    """Return the seconds an entry of several calls, once what is compiled is there."""
    images = bench.make_images(n_rows + _COLUMNS)
    rows, columns = images[:n_rows], images[n_rows:]
    gram(architecture, rows[:1, :, :4, :4], threads=threads, device="cpu")

    def compute() -> None:
        gram(architecture, rows, columns, threads=threads, device="cpu")

    return [bench.seconds_of(compute) / (n_rows * _COLUMNS) for _ in range(rounds)]


def measure(
    threads: int, output: Path, rounds: int = 5, names: Sequence[str] = (*TIMES, *HOURS)
) -> None:
    """Print and save the table."""
    machine, rows, raw = bench.describe_machine(threads), [], {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        layers: Any = [{"conv": {"size": 3}}, "relu"] * 21 + [name, "dense"]
        architecture = layers if name in TIMES else name
        found = raw[name] = seconds_an_entry(architecture, _ROWS.get(name, 4), threads, rounds)
        ours = bench.format_range([1e3 * seconds for seconds in found], ".3g")
        if name in TIMES:
            rows.append([f"21 convolutions, {name}", ours, *map(str, TIMES[name])])
        else:
            theirs = f"{HOURS[name] * 3.6e6 / _ENTRIES:.3g} ({HOURS[name]} hours)"
            rows.append([name, ours, "-", "-", theirs])
    print(
        bench.save_record(
            output,
            "published",
            machine=machine,
            text="# Beside what neural-tangents publishes\n\nMilliseconds an entry, float32, of"
            " 32 x 32 images: our median (quartiles) here, theirs on their machines; of Myrtle"
            " networks those are the hours of 60,000 images, for an entry.",
            header=("kernel", "ours", "> 56 CPU cores", "P100", "V100"),
            rows=rows,
            raw=raw,
        )
    )


def main() -> None:
    """Measure all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    args = parser.parse_args()
    bench.bind(args.threads)
    measure(args.threads, args.output)


if __name__ == "__main__":
    main()
