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
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.cuda.launcher import CupyLauncher
from lantk.kernel.cuda.layout import (
    _correct,
    choose_path,
    goes_round,
    lay_out,
    list_displacements,
    make_source,
    share_memory,
)
from lantk.kernel.images import Side, normalise, write_values
from lantk.kernel.plan import Plan


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
    plan, dtype, channels
        The layers and readouts, the type of the computation (float64 is for checking: correct, not
        fast), and the channels of an image.
    scratch_bytes : int
        Memory of the device to stay below, see `share_memory`.
    launcher : CupyLauncher, optional
        What runs the kernels; by default on CuPy's current device. Tests give a stand-in.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: str,
        channels: int,
        scratch_bytes: int,
        launcher: CupyLauncher | None = None,
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
        """Fill the matrices, yield numbers of entries that are done, as `CpuEngine.fill` does."""
        (n1, n2), tile = results[0].shape, self._shares.side
        is_symmetric = side1 is side2
        # The host writes one tile's values while the device computes the next.
        running: deque[tuple[Any, slice, slice]] = deque()
        sides = side1, side2
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
                yield self._store(results, sides, *running.popleft())
        while running:
            yield self._store(results, sides, *running.popleft())

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
        sides: tuple[Side, Side],
        ticket: Any,
        rows: slice,
        columns: slice,
    ) -> int:
        """Write a tile's values where they belong; return how many entries that gave."""
        n1, n2 = rows.stop - rows.start, columns.stop - columns.start
        raw = self._launcher.wait(ticket)
        tile = raw.view(self._dtype).reshape(len(results), n1, n2)
        is_mirrored = sides[0] is sides[1] and rows != columns
        for k, values, readout in zip(results, tile, self._plan.readouts, strict=True):
            write_values(k, sides, rows, columns, values, readout, is_mirrored=is_mirrored)
        return n1 * n2 * (2 if is_mirrored else 1)
