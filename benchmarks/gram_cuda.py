"""Time the CUDA engine, or model its time from its machine code where no device is at hand.

    python benchmarks/gram_cuda.py            entries/s on this machine's device
    python benchmarks/gram_cuda.py --model    needs nvcc, or CuPy with NVRTC, and nvdisasm on the
                                              PATH, but no device

The model counts the instructions that one entry executes and divides them by what an H100's
multiprocessors take in a clock: a bound from below, as if no warp ever waited. It measures nothing.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lantk.kernel.cuda import engine as cuda
from lantk.kernel.cuda import launcher as cuda_launcher
from lantk.kernel.cuda import layout as cuda_layout
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.images import survey
from lantk.kernel.plan import Plan, make_plans

# H100 SXM: multiprocessors, and the clock that it holds under load (it boosts to 1.98 GHz).
MULTIPROCESSORS, CLOCK_HZ = 132, 1.7e9
# Instructions (of a warp) that a multiprocessor takes in a clock, by the unit that does them:
# CUDA C++ Programming Guide, "Arithmetic Instructions", compute capability 9.0.
RATES = {"issue": 4.0, "float": 4.0, "integer": 2.0, "special": 0.5, "memory": 1.0}
FLOATS = {"FFMA", "FADD", "FMUL"}
OTHERS = {"BRA", "BSSY", "BSYNC", "NOP", "EXIT", "BAR", "WARPSYNC", "CALL", "RET"}
CASES = ["chen2020", "arora2019-gap-3", "arora2019-gap-6", "arora2019-gap-21"]


class Instruction(NamedTuple):
    address: int
    name: str
    text: str


def plan_of(name: str) -> Plan:
    (plan,) = make_plans([parse_architecture(name)], "ntk", 32, 32)
    return plan


def disassemble(source: str) -> tuple[list[Instruction], dict[str, int]]:
    """Return the instructions of `compare` for compute capability 9.0, and where labels are."""
    tool = shutil.which("nvdisasm")
    if tool is None:
        sys.exit("nvdisasm is not on the PATH: it is in the CUDA toolkit and in PyPI's triton")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "planes.cubin")
        options = [*cuda_launcher.OPTIONS, "-arch=sm_90"]
        if shutil.which("nvcc"):
            Path(folder, "planes.cu").write_text(source)
            command = ["nvcc", "-cubin", *options, "-o", cubin, Path(folder, "planes.cu")]
            subprocess.run(command, check=True, capture_output=True)
        else:
            from cupy.cuda import nvrtc

            program = nvrtc.createProgram(source, "planes.cu", [], [])
            nvrtc.compileProgram(program, options)
            cubin.write_bytes(nvrtc.getCUBIN(program))
        listing = subprocess.run([tool, "-c", cubin], check=True, capture_output=True, text=True)
    body = listing.stdout.split(".section\t.text.compare", 1)[1].split(".section\t", 1)[0]
    instructions, labels, waiting = [], {}, []
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif found := re.search(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*(\w+)(.*);", line):
            labels |= dict.fromkeys(waiting, int(found[1], 16))
            waiting = []
            instructions.append(Instruction(int(found[1], 16), found[2], found[2] + found[3]))
    return instructions, labels


def count_executions(plan: Plan, instructions: list[Instruction], labels: dict[str, int]) -> list:
    """Return (instruction, how often one plane executes it), for the loop over planes."""
    jumps = []
    for one in instructions:
        if one.name == "BRA" and (label := re.search(r"\.L_x_\d+", one.text)):
            jumps.append((one.address, labels[label[0]]))
    loops = [(to, at) for at, to in jumps if to < at]
    roots = [one.address for one in instructions if one.text.startswith("MUFU.SQRT")]
    begin, end = min(
        (loop for loop in loops if loop[0] <= roots[0] and roots[-1] <= loop[1]),
        key=lambda loop: loop[1] - loop[0],
    )
    path = cuda_layout.choose_path(plan, "float32")
    layers, _ = cuda_layout.lay_out(plan, 3, path)
    repeats = [
        int(layer["repeat"]) for layer in cuda_layout.merge_layers(layers) if layer["repeat"] > 1
    ]
    times = dict.fromkeys((one.address for one in instructions if begin <= one.address <= end), 1)
    for to, at in sorted(loop for loop in loops if begin < loop[0] and loop[1] < end):
        inside = [one for one in instructions if to <= one.address <= at]
        names = Counter(one.name for one in inside)
        if names["MUFU"]:
            n = repeats.pop(0)
        elif names["FFMA"]:
            n = 3
        else:
            continue
        for one in inside:
            times[one.address] *= n
        # Sums of a tap, which the loop over equal layers jumps over.
        for start, stop in jumps:
            skipped = [one for one in inside if to <= start < one.address < stop <= at]
            if n > 1 and any(one.text.startswith("SHFL.BFLY") for one in skipped):
                times |= dict.fromkeys((one.address for one in skipped), 0)
    return [(one, times[one.address]) for one in instructions if one.address in times]


def model(name: str) -> dict[str, float]:
    """Return clocks of a multiprocessor for one entry, by what bounds them, and their counts."""
    plan = plan_of(name)
    path = cuda_layout.choose_path(plan, "float32")
    layers, _ = cuda_layout.lay_out(plan, 3, path)
    source = cuda_layout.make_source(plan, "float32", 3, path, layers)
    kinds = cuda_layout.list_displacements(plan, cuda_layout.goes_round(plan, path))["kind"]
    n_planes = len(kinds) + int((kinds != 0).sum())
    counts: Counter[str] = Counter()
    for one, times in count_executions(plan, *disassemble(source)):
        counts["issue"] += times
        if one.name in FLOATS:
            counts["float"] += times
        elif one.name == "MUFU":
            counts["special"] += times
        elif one.name == "SHFL":
            counts["shuffle"] += times
        elif one.name in ("LDG", "LDL", "STL", "STG", "LDS", "STS"):
            # A 16-byte load of a warp takes the path to the cache for four clocks.
            wide = 4 if ".128" in one.text else 2 if ".64" in one.text.split("[")[0] else 1
            counts["wavefronts"] += wide * times
            counts["loads and stores"] += times
        elif not one.name.startswith("U") and one.name not in OTHERS:
            counts["integer"] += times
    counts["memory"] = counts["shuffle"] + counts["wavefronts"]
    clocks = {unit: n_planes * counts[unit] / rate for unit, rate in RATES.items()}
    print(f"{name}: {n_planes} planes, each of {counts['issue']} instructions:", end=" ")
    shown = ("float", "integer", "special", "shuffle", "loads and stores")
    print(", ".join(f"{counts[unit]} {unit}" for unit in shown))
    scale = 1e9 / (MULTIPROCESSORS * CLOCK_HZ)
    print("    ns per entry bound by", end=" ")
    print(", ".join(f"{unit} {scale * n:.4g}" for unit, n in clocks.items()))
    return clocks


def time_gram(name: str, n1: int, n2: int | None, repeats: int = 3) -> None:
    """Print the time from host to host of an n1 x n2 matrix, or of a symmetric one."""
    rng = np.random.default_rng(0)
    plan, digests = plan_of(name), {}
    images = [rng.uniform(-1, 1, (n, 3, 32, 32)).astype(np.float32) for n in (n1, n2) if n]
    sides = [survey("x", some, "float32", digests) for some in images]
    result = np.empty((n1, n2 or n1), np.float32)
    start = time.perf_counter()
    engine = cuda.CudaEngine(plan, "float32", 3, 2**32)
    ready = time.perf_counter() - start
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in engine.fill([result], sides[0], sides[-1]):
            pass
        seconds.append(time.perf_counter() - start)
    # The first is a warm-up.
    middle = statistics.median(seconds[1:])
    computed = n1 * n2 if n2 else n1 * (n1 + 1) // 2
    print(
        f"{name} {result.shape}: {middle:.3f} s (median of {repeats}, {min(seconds[1:]):.3f} to"
        f" {max(seconds[1:]):.3f}), {computed / middle / 1e6:.4g} million entries computed/s,"
        f" {1e9 * middle / computed:.4g} ns each; made ready in {ready:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="store_true", help="count instructions instead")
    if parser.parse_args().model:
        print("Modelled for an H100, not measured:")
        for name in CASES:
            model(name)
        return
    if not cuda_launcher.is_available():
        sys.exit("no CUDA device is found through CuPy, so nothing is timed: try --model")
    import cupy

    print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(), f"CuPy {cupy.__version__}")
    time_gram("chen2020", 10_000, None)
    time_gram("chen2020", 2_000, 10_000)
    for name in CASES[1:]:
        time_gram(name, 200, None)


if __name__ == "__main__":
    main()
