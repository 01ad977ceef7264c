"""Time us and neural-tangents side by side on this machine's CPU: same images, cores and dtype.

    python benchmarks/side_by_side.py [--threads 2] [--case chen2020 ...] [--output FOLDER]

In turns, we compute the whole Gram matrix and the peer its next blocks of the same matrix, each in
the way that suits it best: the peer's block size is chosen by measurement, its compilation is left
out. On a symmetric matrix we compute n (n + 1) / 2 entries and deliver n^2; the peer computes all
that it delivers. The peer lives in a process and an environment of its own, which is made on first
use (.cache/peer, about 400 MB).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import bench
import numpy as np
from matplotlib.ticker import FuncFormatter

from lantk import gram, parse_architecture

REQUIREMENTS = Path(__file__).with_name("peer-requirements.txt")
# What values may differ by, relative to the largest one: ours and the peer's in float64, then our
# float32 from our float64, then the peer's, whose float32 loses digits in the mean over position
# pairs, then ours and the peer's float32, where equal images (the diagonal) cost the peer half of
# its digits.
TOLERANCES = (1e-9, 2e-5, 1e-3, 1e-3)


@dataclass(frozen=True)
class Case:
    """A Gram matrix to compute: symmetric if `n_columns` is 0, else of different images."""

    name: str
    architecture: Any
    n_rows: int
    n_columns: int = 0
    peer_blocks: tuple[int, ...] = (1,)
    """Sides of the square blocks that the peer is tried with; each divides both sides."""
    blocks_per_round: int = 1
    rounds: int = 5
    floor: float | None = None
    """Seconds per entry that the arithmetic takes on two AVX-512 cores, as estimated."""
    side: int = 32

    @property
    def n_convs(self) -> int:
        """Number of convolutions."""
        return len(parse_architecture(self.architecture).convs)

    @property
    def first_column(self) -> int:
        """The number of the image of the first column: those of the columns follow the rows'."""
        return self.n_rows if self.n_columns else 0

    def blocks(self, size: int) -> list[list[int]]:
        """Return the blocks of the matrix as images [a, b) of the rows, [c, d) of the columns."""
        stop = self.first_column + (self.n_columns or self.n_rows)
        return [
            [top, top + size, left, left + size]
            for top in range(0, self.n_rows, size)
            for left in range(self.first_column, stop, size)
        ]


# Two convolutions as in arora2019-gap-3, all layers trained: the peer knows no other.
_GAP = [{"conv": {"size": 3}}, "relu"] * 2 + ["global_average_pool", "dense"]
CASES = (
    Case(
        "chen2020",
        "chen2020",
        960,
        peer_blocks=(96, 160, 192, 240, 320),
        rounds=25,
        floor=1 / 550_000,
    ),
    Case("gap, 4 rows", _GAP, 4, 96, peer_blocks=(1, 2, 4), rounds=9, floor=2 * 0.5e-3),
    Case("gap, symmetric", _GAP, 192, peer_blocks=(4,), rounds=3, floor=2 * 0.5e-3),
    # Floors by the pairs of positions that are visited, as those of chen2020.
    Case(
        "chen2020-lap-3",
        "chen2020-lap-3",
        192,
        peer_blocks=(1, 2, 4),
        rounds=5,
        floor=18.06 / 550_000,
    ),
    Case("myrtle5", "myrtle5", 96, peer_blocks=(2, 4), rounds=3, floor=694 / 550_000),
)


def make_environment(folder: Path) -> Path:
    """Make the peer's environment unless it is there; return its Python."""
    python = folder / "bin" / "python"
    stamp = folder / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    if not stamp.exists():
        print(f"making the peer's environment in {folder}", flush=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([*pip, "--no-deps", "-r", REQUIREMENTS], check=True)
        stamp.touch()
    return python


class Peer:
    """The process of `peer.py` that answers our requests."""

    def __init__(self, python: Path | str, name: str, folder: Path):
        command = [python, Path(__file__).with_name("peer.py"), name]
        self._folder = folder
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        hello = self._read()
        self.name, self.versions = hello["name"], hello["versions"]

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self.close()
            status = self._process.returncode
            raise SystemExit(f"the peer ended with status {status}: see above why")
        return json.loads(line)

    def compute(
        self, case: Case, blocks: Sequence[Sequence[int]], dtype: str = "float32"
    ) -> tuple[list[float], Any]:
        """Return the seconds and the values of blocks of a case, whose images are saved."""
        request = {
            "layers": parse_architecture(case.architecture).to_list(),
            "images": str(images_path(self._folder, case)),
            "blocks": blocks,
            "dtype": dtype,
            "values": str(self._folder / "values.npy"),
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        seconds = self._read()["seconds"]
        return seconds, np.load(request["values"])

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.stdin.close()


def images_path(folder: Path, case: Case) -> Path:
    """Return where the images of a case lie for the peer: those of the rows, then the columns'."""
    return folder / f"{case.n_rows}-{case.n_columns}-{case.side}.npy"


def choose_block(peer: Peer, case: Case, repeats: int = 3) -> dict[int, dict[str, Any]]:
    """Return size of block -> seconds of its first call, and entries/s of `repeats` calls."""
    tried: dict[int, dict[str, Any]] = {}
    for size in case.peer_blocks:
        [first], _ = peer.compute(case, case.blocks(size)[:1])
        tried[size] = {"first": first, "rates": []}
    for _ in range(repeats if len(tried) > 1 else 1):
        for size in case.peer_blocks:
            [seconds], _ = peer.compute(case, case.blocks(size)[:1])
            tried[size]["rates"].append(size**2 / seconds)
    return tried


def run_case(case: Case, peer: Peer, threads: int, folder: Path) -> dict[str, Any]:
    """Measure a case; return every number."""
    images = bench.make_images(case.n_rows + case.n_columns, case.side)
    np.save(images_path(folder, case), images)
    start = case.first_column
    sides = images[: case.n_rows], images[start:] if start else None
    first = bench.seconds_of(
        lambda: gram(case.architecture, images[:1], threads=threads, device="cpu")
    )
    tried = choose_block(peer, case)
    size = max(tried, key=lambda size: float(np.median(tried[size]["rates"])))
    seconds, peer_seconds, difference = take_turns(case, peer, size, sides, threads)
    n_delivered = case.n_rows * (case.n_columns or case.n_rows)
    n_computed = n_delivered if start else case.n_rows * (case.n_rows + 1) // 2
    peer_rates = size**2 * case.blocks_per_round / peer_seconds
    return {
        "case": case.name,
        "layers": parse_architecture(case.architecture).to_list(),
        "n_rows": case.n_rows,
        "n_columns": case.n_columns or case.n_rows,
        "is_symmetric": not start,
        "our_first_call": first,
        "our_seconds": seconds.tolist(),
        "computed_rates": (n_computed / seconds).tolist(),
        "delivered_rates": (n_delivered / seconds).tolist(),
        "peer": peer.name,
        "peer_block": size,
        "peer_blocks_tried": tried,
        "peer_rates": peer_rates.tolist(),
        "ratios_computed": (n_computed / seconds / peer_rates).tolist(),
        "ratios_delivered": (n_delivered / seconds / peer_rates).tolist(),
        "floor_rate": 1 / case.floor if case.floor and threads == 2 else None,
        "differences": [*find_errors(case, peer, images, size, threads), difference],
    }


def take_turns(
    case: Case, peer: Peer, size: int, sides: tuple[Any, Any], threads: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return our seconds, the peer's, and the largest difference over our largest value."""
    waiting = cycle(case.blocks(size))
    seconds, peer_seconds, difference = [], [], 0.0
    for _ in range(case.rounds):
        start = time.perf_counter()
        k = gram(case.architecture, *sides, threads=threads, device="cpu")
        seconds.append(time.perf_counter() - start)
        blocks = [next(waiting) for _ in range(case.blocks_per_round)]
        each, values = peer.compute(case, blocks)
        peer_seconds.append(sum(each))
        for (top, bottom, left, right), block in zip(blocks, values, strict=True):
            ours = k[top:bottom, left - case.first_column : right - case.first_column]
            difference = max(difference, float(np.abs(ours - block).max() / np.abs(k).max()))
    return np.array(seconds), np.array(peer_seconds), difference


def find_errors(
    case: Case, peer: Peer, images: np.ndarray, size: int, threads: int
) -> tuple[float, float, float]:
    """Return, for one block off the diagonal, the first three that `TOLERANCES` bounds."""
    block = case.blocks(size)[1]
    sides = images[block[0] : block[1]], images[block[2] : block[3]]
    exact = gram(case.architecture, *sides, dtype="float64", threads=threads, device="cpu")
    others = (
        peer.compute(case, [block], "float64")[1][0],
        gram(case.architecture, *sides, threads=threads, device="cpu"),
        peer.compute(case, [block])[1][0],
    )
    first, second, third = (float(np.abs(k - exact).max() / np.abs(exact).max()) for k in others)
    return first, second, third


HEADER = (
    "case",
    "matrix",
    "ours, computed",
    "ours, delivered",
    "peer (block)",
    "ratio, computed",
    "ratio, delivered",
    "of the floor",
    "differences",
)


def table_row(found: dict[str, Any]) -> list[str]:
    """Return the cells of a case: medians and quartiles of the rounds."""
    digits = ",.0f" if np.median(found["peer_rates"]) > 100 else ",.1f"
    floor = found["floor_rate"]
    return [
        found["case"],
        f"{found['n_rows']} x {found['n_columns']}" + (", symmetric" * found["is_symmetric"]),
        bench.format_range(found["computed_rates"], digits),
        bench.format_range(found["delivered_rates"], digits),
        f"{bench.format_range(found['peer_rates'], digits)} ({found['peer_block']})",
        bench.format_range(found["ratios_computed"], ",.1f"),
        bench.format_range(found["ratios_delivered"], ",.1f"),
        f"{np.median(found['computed_rates']) / floor:.0%}" if floor else "-",
        " / ".join(f"{value:.0e}" for value in found["differences"]),
    ]


def describe_blocks(found: dict[str, Any]) -> str:
    """Return how the peer fared with each size of block, and what the first calls took."""
    tried = "; ".join(
        f"{size}: {bench.format_range(one['rates'], ',.1f')}, first call {one['first']:.1f} s"
        for size, one in found["peer_blocks_tried"].items()
    )
    n_convs = len(parse_architecture(found["layers"]).convs)
    cost = [1e3 / (np.median(found[key]) * n_convs) for key in ("computed_rates", "peer_rates")]
    return (
        f"* {found['case']}: {cost[0]:.4g} ms for each convolution and computed entry, the peer"
        f" {cost[1]:.4g}. Our first call (compiling, or reading what was compiled):"
        f" {found['our_first_call']:.1f} s. The peer's entries/s by side of block: {tried}."
    )


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw every round of every case as entries a second."""
    size = 7.2, 0.9 + 0.75 * len(results)
    with bench.drawing(path, figsize=size) as (figure, [axes]):
        for y, found in enumerate(results):
            for key, label, shift, style in (
                ("delivered_rates", "ours, delivered", 0.24, {"marker": "D", "mfc": "white"}),
                ("computed_rates", "ours, computed", 0.08, {"marker": "o"}),
                ("peer_rates", found["peer"], -0.08, {"marker": "s"}),
            ):
                colour = bench.ORANGE if key == "peer_rates" else bench.BLUE
                rates = found[key]
                axes.plot(
                    rates,
                    [y + shift] * len(rates),
                    ls="none",
                    color=colour,
                    label=None if y else label,
                    **style,
                )
                axes.annotate(
                    f"{np.median(rates):,.{0 if np.median(rates) > 100 else 1}f}",
                    (min(rates), y + shift),
                    (-7, 0),
                    textcoords="offset points",
                    va="center",
                    ha="right",
                )
            if found["floor_rate"]:
                line = [found["floor_rate"]] * 2
                label = None if y else "floor of the arithmetic"
                axes.plot(line, [y - 0.3, y + 0.36], color="black", ls=":", label=label)
        axes.set_yticks(range(len(results)), [found["case"] for found in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.set_xlim(left=axes.get_xlim()[0] / 4)  # room for the first number
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set_xlabel("entries a second, float32 (each mark is one round; the number: median)")
        figure.legend(loc="outside upper center", ncols=4)


def compare(
    cases: Sequence[Case], python: Path | str, peer_name: str, threads: int, output: Path
) -> list[dict[str, Any]]:
    """Run all cases; print and save the table and the figure; refuse values that differ."""
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, peer_name, Path(folder))
        machine = bench.describe_machine(threads, **peer.versions)
        try:
            results = []
            for case in cases:
                print(f"{case.name} ...", file=sys.stderr, flush=True)
                results.append(run_case(case, peer, threads, Path(folder)))
        finally:
            peer.close()
    markdown = bench.save_record(
        output,
        "side-by-side",
        machine=machine,
        text=f"# Ours and {peer_name}, side by side\n\nEntries a second, float32, in turns on the"
        " same images and cores: median (quartiles) of the rounds. Floor: an estimate for"
        " two AVX-512 cores. Differences, each the largest one over the largest value: ours and the"
        " peer's in float64 / our float32 from our float64 / the peer's float32 from our float64"
        " (these on one block of different images) / ours and the peer's float32 (all blocks).\n\n"
        + "\n".join(map(describe_blocks, results)),
        header=HEADER,
        rows=[table_row(found) for found in results],
        raw=results,
    )
    draw(results, output / "side-by-side.png")
    print(markdown)
    for found in results:
        if not np.less_equal(found["differences"], TOLERANCES).all():
            raise SystemExit(
                f"{found['case']}: values differ by {found['differences']} of the largest,"
                f" wanted at most {TOLERANCES}"
            )
    return results


def main() -> None:
    """Make the peer's environment and run the cases asked for."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", action="append", choices=names, help="one or more; default all")
    parser.add_argument("--environment", type=Path, default=bench.ROOT / ".cache" / "peer")
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    args = parser.parse_args()
    cases = [case for case in CASES if case.name in (args.case or names)]
    python = make_environment(args.environment)
    bench.bind(args.threads)
    compare(cases, python, "neural-tangents", args.threads, args.output)


if __name__ == "__main__":
    main()
