"""What the CUDA kernel reads beside the images: layers, displacements, memory, its source."""

from __future__ import annotations

import math
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.plan import PIXELS, RELU, Plan

# As in `planes.cu`.
ZERO, SAME, OWN = range(3)
ALONE, MIRRORED, HALVED = range(3)
_FIELDS = (
    "size stride trained source tap height width top left table rows pitch shift ntk index repeat"
    " in_rows out_rows step_y in_columns out_columns step_x"
)
LAYER = np.dtype([(name, np.int32) for name in _FIELDS.split()])
READOUT = np.dtype(
    [("nngp", np.float64), ("ntk", np.float64), ("tap", np.int32), ("halvings", np.int32)]
)
DISPLACEMENT = np.dtype([("y", np.int32), ("x", np.int32), ("kind", np.int32)])
# Values of S (and of T) that a lane can hold: with 64 registers for 32 of each in float32, 16 warps
# have room on a multiprocessor; more leave room for 8.
_FEW_SLOTS, _MOST_SLOTS = 32, 64
_MOST_SIZE = 7
# What float32 can bear: the factor by which S outgrows the images, in powers of two.
_MOST_EXCESS = 16
# Positions that one launch visits, over all its entries: some tenths of a second.
_LAUNCH_SIZE = 10**11
_MOST_SIDE = 4096
# What `planes.cu` takes for pi / 2.
_HALF_PI = {"float32": float(np.float32(1.57079637)), "float64": math.pi / 2}


class Path(NamedTuple):
    """How planes are run: by warps, in lanes that form a grid, or by blocks."""

    lanes_x: int
    """Lanes side by side over a row of the plane; 0 if a block runs it in memory."""
    threads: int
    """Threads in a block."""


def choose_path(plan: Plan, dtype: str) -> Path:
    """Return how the planes of a walk are run: by warps if they fit into registers."""
    height, width = plan.shape
    fitting = []
    for lanes_x in (8, 16, 4, 32, 2, 1):
        fits = _fit_axis(plan, "width", lanes_x) and _fit_axis(plan, "height", 32 // lanes_x)
        slots = -(-width // lanes_x) * -(-height // (32 // lanes_x))
        if fits and slots <= _MOST_SLOTS:
            fitting.append((slots, lanes_x))
    if not fitting or plan.layers["size"].max() > _MOST_SIZE:
        return Path(0, 256)
    slots, lanes_x = min(fitting, key=lambda pair: pair[0])
    is_small = dtype == "float32" and slots <= _FEW_SLOTS
    return Path(lanes_x, 512 if is_small else 256)


def _fit_axis(plan: Plan, side: str, lanes: int) -> list[tuple[int, int, int]]:
    """Return for each layer the positions of a lane, those of its output, and the step of lanes.

    The list is empty if a stride would tear positions of one lane apart.
    """
    n, step = -(-int(plan.layers[0][side]) // lanes), 1
    geometry = []
    for layer in plan.layers:
        stride = int(layer["stride"])
        if n % stride == 0:
            geometry.append((n, n // stride, step))
            n //= stride
        elif n == 1:
            geometry.append((1, 1, step))
            step = min(step * stride, lanes)
        else:
            return []
    return geometry


def lay_out(plan: Plan, channels: int, path: Path) -> tuple[NDArray[np.void], int]:
    """Return the layers as `planes.cu` reads them, and the numbers that an image's record takes.

    Where all readouts are NNGP kernels no layer counts as trained, and T stays 0.
    """
    layers = np.zeros(len(plan.layers), LAYER)
    for name in set(plan.layers.dtype.names or ()) & set(LAYER.names or ()) - {"table", "shift"}:
        layers[name] = plan.layers[name]
    layers["trained"] &= any(readout.ntk for readout in plan.readouts)
    layers["rows"], layers["pitch"] = layers["height"], layers["width"]
    if path.lanes_x:
        for side, lanes, count, names in (
            ("height", 32 // path.lanes_x, "rows", ("in_rows", "out_rows", "step_y")),
            ("width", path.lanes_x, "pitch", ("in_columns", "out_columns", "step_x")),
        ):
            for layer, fit in zip(layers, _fit_axis(plan, side, lanes), strict=True):
                for name, value in zip(names, fit, strict=True):
                    layer[name] = value
                layer[count] = -(-lanes // fit[2]) * fit[0]
    table, ntk, excess = 0, ZERO, 0.0
    for i, layer in enumerate(layers):
        layer["table"], layer["ntk"], layer["index"], layer["repeat"] = table, ntk, i, 1
        is_relu = layer["source"] == RELU
        n_planes = channels if layer["source"] == PIXELS else int(is_relu)
        table += n_planes * int(layer["rows"] * layer["pitch"])
        gain = is_relu * math.log2(math.pi)
        # Positions outside the image add nothing.
        hit = [min(int(layer["size"]), int(layer[side])) for side in ("height", "width")]
        gain += math.log2(math.prod(hit))
        natural = round(gain) if is_relu else 0
        excess += gain - natural
        # One shift for all layers of a kind, so that they can be one loop; rarely what it left.
        drift = round(excess) if abs(excess) > _MOST_EXCESS and layer["source"] != PIXELS else 0
        layer["shift"], excess = natural + drift, excess - drift
        if ntk == SAME and (is_relu or layer["trained"]):
            ntk = OWN
        elif ntk == ZERO and layer["trained"]:
            ntk = SAME
    # Records begin where the widest vectors may be read.
    return layers, table + -table % 4


def merge_layers(layers: NDArray[np.void]) -> NDArray[np.void]:
    """Return the layers with equal ones in a row, wherever they are tapped, given once.

    The last, the readout, stays by itself.
    """
    same = [name for name in LAYER.names or () if name not in ("table", "tap", "index", "repeat")]
    merged: list[Any] = []
    for layer in layers.copy():
        last = merged[-1] if merged else None
        is_like = last is not None and layer["ntk"] == OWN and layer[same] == last[same]
        if is_like and layer["index"] + 1 < len(layers):
            merged[-1]["repeat"] += 1
        else:
            merged.append(layer)
    return np.array(merged, LAYER)


def _correct(plan: Plan, layers: NDArray[np.void], channels: int, dtype: str) -> NDArray[np.void]:
    """Return the readouts for sums that have been divided by other factors than the plan's."""
    readouts = np.zeros(len(plan.readouts), READOUT)
    for row, readout in zip(readouts, plan.readouts, strict=True):
        depth = int(np.flatnonzero(plan.layers["tap"] == readout.tap)[0]) + 1
        shifts = int((layers["shift"] - plan.layers["shift"])[:depth].sum())
        n_relus = int((layers["source"][:depth] == RELU).sum())
        factor = math.ldexp(1 / channels, shifts) / (2 * _HALF_PI[dtype]) ** n_relus
        row["nngp"], row["ntk"] = readout.nngp * factor, readout.ntk * factor
        row["tap"], row["halvings"] = readout.tap, readout.halvings
    return readouts


def list_displacements(plan: Plan, is_torus: tuple[bool, bool]) -> NDArray[np.void]:
    """Return the planes to run, one of each with its mirror image, those of a column together.

    `is_torus` says for each axis whether displacements d and d - side share a plane.
    """
    if not plan.pools:
        return np.zeros(1, DISPLACEMENT)

    def fold(d: int, side: int, goes_round: bool) -> int:
        return d % side if goes_round else d

    def order(pair: tuple[int, int]) -> tuple[Any, ...]:
        return pair[1] < 0, pair[1], pair[0] < 0, pair[0]

    sides = plan.shape
    ranges = [
        range(0 if goes_round else -((side - 1) // plan.unit) * plan.unit, side, plan.unit)
        for side, goes_round in zip(sides, is_torus, strict=True)
    ]
    rows = []
    for y in ranges[0]:
        for x in ranges[1]:
            mirrored = fold(-y, sides[0], is_torus[0]), fold(-x, sides[1], is_torus[1])
            if (y, x) == mirrored:
                rows.append((y, x, ALONE if (y, x) == (0, 0) else HALVED))
            elif order((y, x)) < order(mirrored):
                rows.append((y, x, MIRRORED))
    return np.array(sorted(rows, key=lambda row: order(row[:2])), DISPLACEMENT)


def make_source(plan: Plan, dtype: str, channels: int, path: Path, layers: NDArray[np.void]) -> str:
    """Return the CUDA source of a walk: the definitions that `planes.cu` asks for, and itself."""
    torus = goes_round(plan, path)
    definitions = {
        "REAL": {"float32": "float", "float64": "double"}[dtype],
        "CHANNELS": channels,
        "THREADS": path.threads,
        "LANES_X": path.lanes_x,
    }
    if path.lanes_x:
        rows = ("{" + ", ".join(map(str, layer.tolist())) + "}" for layer in merge_layers(layers))
        definitions |= {"POOLS": int(plan.pools), "TORUS_Y": int(torus[0])}
        definitions |= {"TORUS_X": int(torus[1]), "LAYERS": ", ".join(rows)}
    text = resources.files("lantk.kernel").joinpath("planes.cu").read_text("utf-8")
    return "".join(f"#define {name} {value}\n" for name, value in definitions.items()) + text


def goes_round(plan: Plan, path: Path) -> tuple[bool, bool]:
    """Return for each axis whether displacements d and d - side share a plane.

    They can if every stride on the way divides the sides that it meets.
    """
    total = math.prod(int(stride) for stride in plan.layers["stride"])
    return tuple(path.lanes_x > 0 and side % total == 0 for side in plan.shape)  # type: ignore


class Shares(NamedTuple):
    """How the device's memory is shared out."""

    side: int
    """Images on each side of a tile."""
    blocks: int
    """Blocks that have memory of their own."""


def share_memory(
    image_bytes: int, entry_bytes: int, block_bytes: int, visits: int, blocks: int, budget: int
) -> Shares:
    """Return the side of a tile and the number of blocks that stay below a budget of bytes.

    An image of each side, an entry of the tile and a block of threads take so many bytes. `visits`,
    the positions that an entry visits, bounds the time that one launch takes; `blocks` are those
    that the device runs at once. A tile of 4 x 4 and one block are taken even beyond the budget.
    """
    blocks = int(np.clip(budget // 4 // block_bytes, 1, blocks))
    rest = max(budget - blocks * block_bytes, 0)
    # The positive root of entry_bytes side^2 + 2 image_bytes side = rest.
    side = int((math.isqrt(image_bytes**2 + entry_bytes * rest) - image_bytes) // entry_bytes)
    side = min(side, math.isqrt(_LAUNCH_SIZE // visits), _MOST_SIDE)
    return Shares(max(side // 4 * 4, 4), blocks)
