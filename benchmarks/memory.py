"""Show that a Gram matrix needs no more memory than itself, its images and the scratch allowed.

    python benchmarks/memory.py [--threads 2] [--architecture chen2020] [--output FOLDER]

Each matrix is computed in a process of its own, whose peak resident memory the system records. The
baseline is the peak of a process that has imported everything and computed one small matrix.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench

from lantk import gram

SIZES = (480, 960, 1920, 3840)
BUDGETS = (2**26, 2**28)
MIB = 2**20


def peak_bytes() -> int:
    """Return the peak resident memory of this process so far."""
    # Not getrusage: its peak includes that of the process which started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the peak memory of a process is read from /proc/self/status: Linux only")


def take(architecture: str, n: int, side: int, threads: int, scratch_bytes: int) -> dict[str, Any]:
    """Compute one matrix; return the memory it took, in bytes."""
    options: dict[str, Any] = {"threads": threads, "scratch_bytes": scratch_bytes, "device": "cpu"}
    gram(architecture, bench.make_images(1, 4), **options)
    baseline = peak_bytes()
    images = bench.make_images(n, side)
    k = gram(architecture, images, **options)
    return {
        "n": n,
        "scratch_bytes": scratch_bytes,
        "baseline": baseline,
        "images": images.nbytes,
        "gram": k.nbytes,
        "peak": peak_bytes(),
    }


def run(**arguments: Any) -> dict[str, Any]:
    """Return what `take` finds in a new process."""
    command = [sys.executable, __file__, "--take", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    beyond = found["peak"] - found["baseline"] - found["images"] - found["gram"]
    return found | {"beyond": beyond, "is_within": beyond <= found["scratch_bytes"]}


HEADER = ("n", "Gram", "images", "baseline", "scratch allowed", "peak", "beyond the first three")


def table_row(found: dict[str, Any]) -> list[str]:
    """Return the cells of a matrix, in MiB."""
    keys = ("gram", "images", "baseline", "scratch_bytes", "peak", "beyond")
    return [f"{found['n']:,}", *(f"{found[key] / MIB:,.1f}" for key in keys)]


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what is needed in layers, and the measured peaks over them, for each budget."""
    budgets = sorted({found["scratch_bytes"] for found in results})
    with bench.drawing(path, len(budgets), sharey=True) as (figure, panels):
        for axes, budget in zip(panels, budgets, strict=True):
            some = [found for found in results if found["scratch_bytes"] == budget]
            sizes = [found["n"] for found in some]
            low = [0.0] * len(some)
            for key, label, colour in (
                ("baseline", "baseline (interpreter, libraries)", "#d9d9d9"),
                ("images", "images", "#56B4E9"),
                ("gram", "Gram matrix", "#0072B2"),
                ("scratch_bytes", "scratch allowed", "#F5D9A6"),
            ):
                high = [a + found[key] / MIB for a, found in zip(low, some, strict=True)]
                label_once = label if axes is panels[0] else None
                # Hatched, as grey and sand look the same without colour.
                hatch = {"hatch": "////", "ec": "#c9a050"} if key == "scratch_bytes" else {}
                axes.fill_between(sizes, low, high, fc=colour, lw=0, label=label_once, **hatch)
                axes.plot(sizes, high, color="white", lw=0.8)
                low = high
            axes.plot(
                sizes,
                [found["peak"] / MIB for found in some],
                color="black",
                marker="o",
                label="measured peak" if axes is panels[0] else None,
            )
            axes.set_title(f"scratch_bytes = {budget / MIB:g} MiB")
            axes.set_xlabel("n (symmetric n x n matrix)")
        panels[0].set_ylim(0)  # once every panel, which shares it, is drawn
        panels[0].set_ylabel("MiB")
        figure.legend(loc="outside right center")


def measure(
    sizes: Sequence[int],
    budgets: Sequence[int],
    output: Path,
    *,
    architecture: str = "chen2020",
    side: int = 32,
    threads: int = 2,
) -> list[dict[str, Any]]:
    """Run every size and budget; print and save the table and the figure; refuse an excess."""
    machine = bench.describe_machine(threads)
    options = {"architecture": architecture, "side": side, "threads": threads}
    # A first process compiles, which takes memory of its own; the others read what it compiled.
    run(n=1, scratch_bytes=budgets[0], **options)
    results = []
    for budget in budgets:
        for n in sizes:
            print(f"n = {n}, {budget / MIB:g} MiB ...", file=sys.stderr, flush=True)
            results.append(run(n=n, scratch_bytes=budget, **options))
    markdown = bench.save_record(
        output,
        "memory",
        machine=machine,
        text=f"# Peak memory of a symmetric Gram matrix, {architecture}, 3 x {side} x {side},"
        " float32\n\nMiB. The last column stays below `scratch_bytes`, the scratch allowed.",
        header=HEADER,
        rows=[table_row(found) for found in results],
        raw=results,
    )
    draw(results, output / "memory.png")
    print(markdown)
    wrong = [found for found in results if not found["is_within"]]
    if wrong:
        raise SystemExit(f"more memory was taken than allowed: {wrong}")
    return results


def main() -> None:
    """Measure the default sizes, or be one of the processes measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", default="chen2020")
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    parser.add_argument("--take", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.take:
        print(json.dumps(take(**args.take)))
        return
    bench.bind(args.threads)
    measure(SIZES, BUDGETS, args.output, architecture=args.architecture, threads=args.threads)


if __name__ == "__main__":
    main()
