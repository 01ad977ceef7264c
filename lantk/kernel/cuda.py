"""The exact kernel on CUDA devices: pairs of images go through all layers on the chip.

A convolution never mixes displacements d = p' - p, so every displacement is a plane that runs
through all layers on its own (`planes.cu`). Where the plane fits the registers of a warp, one warp
holds S and T of it from the pixels to the readout, and nothing is written to memory in between;
sides that total strides divide let the planes d and d - side share the lanes. Any other plane is
run by a block, in the device's memory: slower, but of any size.

The source is CUDA C++, compiled for each architecture when it is first used (CuPy, NVRTC): the
layers are constants, so loops over them unroll and arrays become registers. Triton would need no
C++, but it has no exchange of single values between the lanes of a warp, which the filters here
live on; its planes would go through shared memory between the layers. That is reasoning, not a
measurement, and so is all that is said of speed: the code is tested in emulation and compiled for
devices of compute capability 8.0 and 9.0, but has not been timed on one.

References
----------
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019, section 4.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from importlib import resources
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.images import Side, normalise, write_values
from lantk.kernel.plan import PIXELS, RELU, Plan

# As in `planes.cu`.
_ZERO, _SAME, _OWN = range(3)
_ALONE, _MIRRORED, _HALVED = range(3)
_FIELDS = (
    "size stride trained source tap height width top left table rows pitch shift ntk index repeat"
    " in_rows out_rows step_y in_columns out_columns step_x"
)
_LAYER = np.dtype([(name, np.int32) for name in _FIELDS.split()])
_READOUT = np.dtype(
    [("nngp", np.float64), ("ntk", np.float64), ("tap", np.int32), ("halvings", np.int32)]
)
_DISPLACEMENT = np.dtype([("y", np.int32), ("x", np.int32), ("kind", np.int32)])

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


class Launcher(Protocol):
    """What compiles and runs `planes.cu`: a device, or what stands for one in tests."""

    def compile(self, source: str) -> None:
        """Make ready the kernels of a source."""

    def count_blocks(self, threads: int) -> int:
        """Return how many blocks run at once."""

    def allocate(self, n_bytes: int) -> Any:
        """Return memory on the device."""

    def upload(self, array: NDArray[Any], to: Any) -> None:
        """Copy an array to the device."""

    def launch(self, name: str, blocks: int, threads: int, arguments: list[Any]) -> None:
        """Start a kernel; arguments are memory or whole numbers."""

    def download(self, memory: Any, n_bytes: int, slot: int) -> Any:
        """Start to copy memory to the host, into one of two buffers."""

    def wait(self, ticket: Any) -> NDArray[np.uint8]:
        """Return what `download` copied, valid until the next use of its buffer."""


def is_available() -> bool:
    """Return whether CuPy can be imported and finds a device."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # A broken installation or driver can raise anything: there is no device.
        return False


def choose_path(plan: Plan, dtype: str) -> Path:
    """Return how the planes of a walk are run: by warps if they fit into registers.

    Parameters
    ----------
    plan : Plan
        The layers.
    dtype : {"float32", "float64"}
        Type of the computation.
    """
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
    layers = np.zeros(len(plan.layers), _LAYER)
    for name in set(plan.layers.dtype.names or ()) - {"table", "shift"}:
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
    table, ntk, excess = 0, _ZERO, 0.0
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
        if ntk == _SAME and (is_relu or layer["trained"]):
            ntk = _OWN
        elif ntk == _ZERO and layer["trained"]:
            ntk = _SAME
    # Records begin where the widest vectors may be read.
    return layers, table + -table % 4


def _merge(layers: NDArray[np.void]) -> NDArray[np.void]:
    """Return the layers with equal ones in a row, wherever they are tapped, given once.

    The last, the readout, stays by itself.
    """
    same = [name for name in _LAYER.names or () if name not in ("table", "tap", "index", "repeat")]
    merged: list[Any] = []
    for layer in layers.copy():
        last = merged[-1] if merged else None
        is_like = last is not None and layer["ntk"] == _OWN and layer[same] == last[same]
        if is_like and layer["index"] + 1 < len(layers):
            merged[-1]["repeat"] += 1
        else:
            merged.append(layer)
    return np.array(merged, _LAYER)


def _correct(plan: Plan, layers: NDArray[np.void], channels: int, dtype: str) -> NDArray[np.void]:
    """Return the readouts for sums that have been divided by other factors than the plan's."""
    readouts = np.zeros(len(plan.readouts), _READOUT)
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

    Parameters
    ----------
    plan : Plan
        The layers.
    is_torus : tuple of bool
        For each axis, whether displacements d and d - side share a plane.
    """
    if not plan.pools:
        return np.zeros(1, _DISPLACEMENT)

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
                rows.append((y, x, _ALONE if (y, x) == (0, 0) else _HALVED))
            elif order((y, x)) < order(mirrored):
                rows.append((y, x, _MIRRORED))
    return np.array(sorted(rows, key=lambda row: order(row[:2])), _DISPLACEMENT)


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
        rows = ("{" + ", ".join(map(str, layer.tolist())) + "}" for layer in _merge(layers))
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
    """Return the side of a tile and the number of blocks that stay below a budget.

    Parameters
    ----------
    image_bytes, entry_bytes, block_bytes : int
        What an image of each side, an entry of the tile and a block of threads take.
    visits : int
        Positions that an entry visits; they bound the time that one launch takes.
    blocks : int
        Number of blocks that the device runs at once.
    budget : int
        Memory to stay below, if a tile of 4 x 4 and one block fit into it.
    """
    blocks = int(np.clip(budget // 4 // block_bytes, 1, blocks))
    rest = max(budget - blocks * block_bytes, 0)
    # The positive root of entry_bytes side^2 + 2 image_bytes side = rest.
    side = int((math.isqrt(image_bytes**2 + entry_bytes * rest) - image_bytes) // entry_bytes)
    side = min(side, math.isqrt(_LAUNCH_SIZE // visits), _MOST_SIDE)
    return Shares(max(side // 4 * 4, 4), blocks)


class _Images(NamedTuple):
    """Images on the device."""

    records: Any
    own: Any
    groups: Any
    exponents: Any


class CudaEngine:
    """Everything that the entries of one walk share on a device.

    Parameters
    ----------
    plan : Plan
        The layers and the readouts.
    dtype : {"float32", "float64"}
        Type of the computation. float64 is for checking: correct, not fast.
    channels : int
        Number of channels of an image.
    scratch_bytes : int
        Memory of the device to stay below, see `share_memory`.
    launcher : Launcher, optional
        What runs the kernels; by default CuPy, on its current device.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: str,
        channels: int,
        scratch_bytes: int,
        launcher: Launcher | None = None,
    ):
        self._plan, self._dtype, self._channels = plan, dtype, channels
        self._launcher = device = CupyLauncher() if launcher is None else launcher
        self._path = path = choose_path(plan, dtype)
        self._layers, self._record = lay_out(plan, channels, path)
        self._displacements = list_displacements(plan, goes_round(plan, path))
        columns = np.unique(self._displacements["x"], return_index=True)[1]
        self._columns = np.append(np.sort(columns), len(self._displacements)).astype(np.int32)
        real, area, n_taps = np.dtype(dtype).itemsize, math.prod(plan.shape), plan.n_taps
        # For each block: planes or turned images, sums, and the grids of `measure`.
        self._n_staging = 4 * area
        if path.lanes_x:
            # Behind a turned image, zeros that are read where a plane has no row.
            zeros = (self._layers["pitch"] * self._layers["in_rows"]).max()
            self._n_staging = self._record + int(zeros)
        self._n_staging += -self._n_staging % 4
        most = int(np.diff(self._columns).max())
        self._n_partial = 2 * n_taps * (max(path.threads // 32, 3) + 2 * most)
        self._shares = share_memory(
            image_bytes=real * self._record + 16 * n_taps + 12 + 4 * channels * area,
            entry_bytes=2 * real * len(plan.readouts),
            block_bytes=real * self._n_staging + 8 * (self._n_partial + 4 * area),
            visits=plan.n_visits,
            blocks=device.count_blocks(path.threads),
            budget=scratch_bytes,
        )
        device.compile(make_source(plan, dtype, channels, path, self._layers))
        self._allocate()

    def _allocate(self) -> None:
        device, plan, (side, blocks) = self._launcher, self._plan, self._shares
        real, area = np.dtype(self._dtype).itemsize, math.prod(plan.shape)
        self._constants = [
            self._to_device(array)
            for array in (
                self._layers,
                self._displacements,
                self._columns,
                _correct(plan, self._layers, self._channels, self._dtype),
            )
        ]
        self._sides = [
            _Images(
                device.allocate(side * self._record * real),
                device.allocate(side * plan.n_taps * 16),
                device.allocate(side * 8),
                device.allocate(side * 4),
            )
            for _ in range(2)
        ]
        self._pixels = device.allocate(side * self._channels * area * 8)
        self._staging = device.allocate(blocks * self._n_staging * real)
        self._partial = device.allocate(blocks * self._n_partial * 8)
        self._grids = device.allocate(blocks * 4 * area * 8)
        size = len(plan.readouts) * side * side * real
        self._results = [device.allocate(size) for _ in range(2)]

    def _to_device(self, array: NDArray[Any]) -> Any:
        memory = self._launcher.allocate(array.nbytes)
        self._launcher.upload(array, memory)
        return memory

    def fill(
        self, results: list[NDArray[Any]], side1: Side, side2: Side
    ) -> Generator[int, None, None]:
        """Fill one (n1, n2) matrix for each readout, and yield numbers of entries that are done.

        Where `side1` is `side2`, each unordered pair is computed once.

        Raises
        ------
        KernelError
            If a value overflows.
        """
        (n1, n2), tile = results[0].shape, self._shares.side
        is_symmetric = side1 is side2
        # The host writes one tile's values while the device computes the next.
        running: deque[tuple[Any, slice, slice]] = deque()
        corners = (
            (top, left)
            for top in range(0, n1, tile)
            for left in range(top if is_symmetric else 0, n2, tile)
        )
        for n, (top, left) in enumerate(corners):
            is_diagonal = is_symmetric and left == top
            rows, columns = slice(top, min(top + tile, n1)), slice(left, min(left + tile, n2))
            if left == (top if is_symmetric else 0):
                self._read(side1, rows, 0)
            if not is_diagonal:
                self._read(side2, columns, 1)
            running.append((self._compare(rows, columns, is_diagonal, n % 2), rows, columns))
            if len(running) > 1:
                yield self._store(results, *running.popleft(), is_symmetric)
        while running:
            yield self._store(results, *running.popleft(), is_symmetric)

    def _read(self, side: Side, some: slice, slot: int) -> None:
        """Bring images to the device, and measure them there."""
        images, exponents = side.images[some], side.exponents[some].astype(np.int32)
        is_long = images.dtype.itemsize > 8
        if is_long:
            images = normalise(images, side.exponents[some], self._dtype)
        # To either of these types the conversion is exact.
        kind = "float32" if images.dtype.itemsize <= 4 else "float64"
        device, to, n = self._launcher, self._sides[slot], len(images)
        device.upload(np.ascontiguousarray(images, kind), self._pixels)
        device.upload(0 * exponents if is_long else exponents, to.exponents)
        device.upload(np.ascontiguousarray(side.groups[some], np.int64), to.groups)
        layers, n_layers, n_taps = self._constants[0], len(self._layers), self._plan.n_taps
        arguments = [layers, n_layers, self._pixels, to.exponents, n, to.records, self._record]
        arguments += [to.own, n_taps, self._grids]
        blocks, threads = min(n, self._shares.blocks), self._path.threads
        device.launch(f"measure_{kind}", blocks, threads, arguments)
        if is_long:
            device.upload(exponents, to.exponents)

    def _compare(self, rows: slice, columns: slice, is_diagonal: bool, slot: int) -> Any:
        """Start to compute a tile and to copy it to the host."""
        device, plan, path = self._launcher, self._plan, self._path
        layers, displacements, begins, readouts = self._constants
        a, b = self._sides[0], self._sides[0 if is_diagonal else 1]
        n1, n2 = rows.stop - rows.start, columns.stop - columns.start
        arguments = [layers, len(self._layers), displacements, begins, len(self._columns) - 1]
        arguments += [a.records, b.records, self._record, a.own, plan.n_taps, a.groups, b.groups]
        arguments += [a.exponents, b.exponents, n1, n2, int(is_diagonal)]
        arguments += [readouts, len(plan.readouts), self._staging, self._n_staging]
        arguments += [self._partial, self._n_partial, self._results[slot]]
        in_block = path.threads // 32 if path.lanes_x and not plan.pools else 1
        blocks = min(-(-n1 * n2 // in_block), self._shares.blocks)
        device.launch("compare", blocks, path.threads, arguments)
        n_bytes = len(plan.readouts) * n1 * n2 * np.dtype(self._dtype).itemsize
        return device.download(self._results[slot], n_bytes, slot)

    def _store(
        self,
        results: list[NDArray[Any]],
        ticket: Any,
        rows: slice,
        columns: slice,
        is_symmetric: bool,
    ) -> int:
        """Write a tile's values where they belong; return how many entries that gave."""
        n1, n2 = rows.stop - rows.start, columns.stop - columns.start
        raw = self._launcher.wait(ticket)
        tile = raw.view(self._dtype).reshape(len(results), n1, n2)
        is_mirrored = is_symmetric and rows != columns
        for k, values in zip(results, tile, strict=True):
            write_values(k, rows, columns, values, is_mirrored=is_mirrored)
        return n1 * n2 * (2 if is_mirrored else 1)


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
        """Return the blocks that the multiprocessors hold, at 128 registers a thread."""
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
        """Start a kernel in the stream."""
        values = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
        with self._stream:
            self._module.get_function(name)((blocks,), (threads,), values)

    def download(self, memory: Any, n_bytes: int, slot: int) -> Any:
        """Start to copy to page-locked memory; return the buffer and the event of its arrival."""
        if self._buffers[slot] is None or self._buffers[slot].size < n_bytes:
            self._buffers[slot] = self._pinned(n_bytes, np.uint8)
        buffer = self._buffers[slot][:n_bytes]
        memory[:n_bytes].get(self._stream, out=buffer, blocking=False)
        return buffer, self._stream.record()

    def wait(self, ticket: Any) -> NDArray[np.uint8]:
        """Return the buffer when the copy has arrived."""
        buffer, event = ticket
        event.synchronize()
        return buffer


# Denormal numbers are far below anything that counts.
OPTIONS = ("--std=c++17", "--ftz=true", "--fmad=true")
