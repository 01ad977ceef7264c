"""Gram matrices of exact kernels: checks, tiles, threads.

Images are scaled by powers of two to order one, which the kernel, homogeneous in each image, gives
back exactly; so float32 holds images of any scale. Equal images are found by their bytes. Then the
matrix is filled tile by tile, each tile in tasks for threads. Every entry is the same bytes
whatever the tile, the thread, the order of the images and the side it is computed from.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.architecture import Architecture, parse_architecture
from lantk.errors import LantkError
from lantk.kernel import cpu

KERNELS = ("ntk", "nngp")
DTYPES = ("float32", "float64")
DEVICES = ("auto", "cpu", "cuda")

# Positions x lanes that one task visits: some 10 ms, to keep threads busy and interrupts prompt.
_TASK_SIZE = 10_000_000
# Beyond this, larger tiles gain less than 2 % and only use memory.
_MOST_BLOCKS = 8


class KernelError(LantkError):
    """Images or options that no kernel can be computed for; the message says what to change."""


def gram(
    architecture: Any,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    kernel: str = "ntk",
    dtype: str = "float32",
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch_bytes: int = 2**28,
) -> NDArray[Any]:
    """Return the Gram matrix of the exact kernel of an infinitely wide network.

    Parameters
    ----------
    architecture : str, list or Architecture
        What `parse_architecture` reads, e.g. ``"chen2020"``.
    x1, x2 : array_like of floats, shape (n1 or n2, channels, height, width)
        Images, already scaled. ``x2=None`` stands for ``x1`` and takes half the time.
    kernel : {"ntk", "nngp"}
        Neural tangent kernel, or the covariance of the network's outputs at initialisation.
    dtype : {"float32", "float64"}
        Type of the computation and of the result.
    device : {"auto", "cpu", "cuda"}
        Where to compute; ``"auto"`` is the CPU.
    threads : int, optional
        Number of threads; by default Numba's (``NUMBA_NUM_THREADS``, or all cores).
    progress : callable, optional
        Called now and then as ``progress(n_done, n_total)``, numbers of entries of the result.
    scratch_bytes : int
        Memory to work in beyond the result; two blocks of images and what each thread needs are
        taken even if they exceed it (see `tile_side`).

    Returns
    -------
    ndarray, shape (n1, n2), of `dtype`

    Raises
    ------
    KernelError
        If an option is unknown, the images are not 4-dimensional, not floats, not finite, empty or
        of different shapes, or a value overflows `dtype`.
    ArchitectureError
        If the architecture is not understood.

    Notes
    -----
    float64 values hold to 1e-9, float32 values to 1e-6, and equal images are recognised and exact.
    Between near duplicates, whose angles are near 0, half of the digits are lost: float32 then errs
    by up to 2e-4 of the value for ``chen2020`` and 1e-3 at depth 21 (one pixel of a photograph off
    by 1/255: 3e-5 and 4e-4).

    Rows [a, b) of a symmetric matrix are ``gram(x[a:b])`` and ``gram(x[a:b], x[b:])``: a long job
    can be cut that way, to the same bytes.

    References
    ----------
    Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).uniform(-1, 1, (3, 1, 8, 8))
    >>> k = gram("chen2020", x, dtype="float64")
    >>> k.shape, bool((k == k.T).all())
    ((3, 3), True)
    """
    network = parse_architecture(architecture)
    n_threads = _check_options(kernel, dtype, device, threads)
    images1 = _check_images("x1", x1)
    images2 = images1 if x2 is None else _check_images("x2", x2)
    if images1.shape[1:] != images2.shape[1:]:
        raise KernelError(
            f"images of x1 are {images1.shape[1:]} and those of x2 {images2.shape[1:]} (channels,"
            " height, width): wanted the same"
        )
    digests: dict[bytes, int] = {}
    side1 = _survey("x1", images1, dtype, digests)
    side2 = side1 if x2 is None else _survey("x2", images2, dtype, digests)
    result = np.empty((len(images1), len(images2)), dtype)
    engine = _Engine(network, kernel, dtype, images1.shape[1:])
    side = tile_side(engine.plan, images1.shape[1], dtype, n_threads, scratch_bytes)
    n_done = 0
    with closing(engine.fill(result, side1, side2, side, n_threads)) as steps:
        for n in steps:
            n_done += n
            if progress is not None:
                progress(n_done, result.size)
    return result


class _Side(NamedTuple):
    """The images of one side of the matrix."""

    images: NDArray[Any]
    exponents: NDArray[np.int64]
    """Image i times 2**-exponents[i] has its largest pixel in [0.5, 1)."""
    groups: NDArray[np.int64]
    """Equal numbers for images that are equal up to a power of two."""


class _Block(NamedTuple):
    """At most `cpu.LANES` images of a side, laid out for the compiled code."""

    first: int
    n: int
    images: cpu.Images
    exponents: NDArray[np.int64]
    groups: NDArray[np.int64]


def tile_side(
    plan: NDArray[np.void], channels: int, dtype: str, threads: int, scratch_bytes: int
) -> int:
    """Return the side of a tile, in images: a multiple of `cpu.LANES`, by what memory allows.

    Parameters
    ----------
    plan : ndarray
        The layers, from `cpu.make_plan`.
    channels : int
        Number of channels of an image.
    dtype : str
        Type of the computation.
    threads : int
        Number of threads, each with scratch of its own.
    scratch_bytes : int
        Memory to stay below, if two blocks of images fit into it.
    """
    height, width, size = int(plan[0]["height"]), int(plan[0]["width"]), int(plan["size"].max())
    real, lanes = np.dtype(dtype).itemsize, cpu.LANES
    block = real * lanes * (height * width * channels + 2 * cpu.count_positions(plan))
    comparing = 2 * real * lanes * ((height + size + 1) * width + width + 2 * size)
    # Twelve float64 values for an entry: its sum, and the steps from there to the result.
    reading = 8 * lanes * height * width * (4 + 4 * channels)
    each = comparing + reading + 12 * 8 * lanes * lanes
    n_blocks = (scratch_bytes - threads * each) // (2 * block)
    return lanes * int(np.clip(n_blocks, 1, _MOST_BLOCKS))


def _check_options(kernel: str, dtype: str, device: str, threads: int | None) -> int:
    """Refuse unknown options; return the number of threads."""
    for name, value, known in (
        ("kernel", kernel, KERNELS),
        ("dtype", dtype, DTYPES),
        ("device", device, DEVICES),
    ):
        if value not in known:
            raise KernelError(f"{name} is {value!r}: wanted {' or '.join(map(repr, known))}")
    if device == "cuda":
        raise KernelError("device is 'cuda', but no CUDA engine is there yet: use 'cpu' or 'auto'")
    if threads is None:
        return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if threads < 1:
        raise KernelError(f"threads is {threads}: wanted 1 or more")
    return threads


def _check_images(name: str, x: ArrayLike) -> NDArray[Any]:
    """Return the images as an array of floats, or say what is wrong with them."""
    images = np.asarray(x)
    if images.ndim != 4 or images.size == 0:
        raise KernelError(
            f"{name} has shape {images.shape}: wanted n x channels x height x width, none of them 0"
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise KernelError(
            f"{name} holds {images.dtype}: wanted floats, so scale first (bytes, for example, by"
            " x / 127.5 - 1)"
        )
    return images


def _survey(name: str, images: NDArray[Any], dtype: str, digests: dict[bytes, int]) -> _Side:
    """Find the scale of every image and the images that are equal; refuse NaN and infinity."""
    exponents = np.zeros(len(images), np.int64)
    groups = np.zeros(len(images), np.int64)
    for first in range(0, len(images), cpu.LANES):
        chunk = images[first : first + cpu.LANES]
        largest = np.abs(chunk).max(axis=(1, 2, 3))
        if not np.isfinite(largest).all():
            bad = first + int(np.flatnonzero(~np.isfinite(largest))[0])
            raise KernelError(f"image {bad} of {name} has pixels that are NaN or infinite")
        some = slice(first, first + len(chunk))
        exponents[some] = np.frexp(largest)[1]
        for i, image in enumerate(_normalise(chunk, exponents[some], dtype), first):
            digest = hashlib.blake2b(image, digest_size=16).digest()
            groups[i] = digests.setdefault(digest, len(digests))
    return _Side(images, exponents, groups)


def _normalise(images: NDArray[Any], exponents: NDArray[np.int64], dtype: str) -> NDArray[Any]:
    """Return images * 2**-exponents in `dtype`, without negative zeros."""
    wide = images.astype(np.promote_types(images.dtype, np.float64))
    return np.ldexp(wide, -exponents[:, None, None, None]).astype(dtype, order="C") + 0.0


class _Engine:
    """Everything that the entries of one matrix share, and the scratch of every thread."""

    def __init__(self, network: Architecture, kernel: str, dtype: str, shape: tuple[int, ...]):
        self.plan = cpu.make_plan(network, *shape[1:])
        self._dtype = dtype
        self._pools = network.readout == "global_average_pool"
        self._powers = cpu.coefficients(dtype)
        real = np.dtype(dtype).type
        is_ntk = kernel == "ntk"
        self._weights = (real(network.dense_trained if is_ntk else 1), real(is_ntk))
        areas = self.plan["height"] * self.plan["width"]
        # Mean over (pairs of) positions, and one division by 2 for each ReLU.
        self._n_terms = int(areas[-1]) ** (2 if self._pools else 1)
        self._n_halvings = sum(conv.relu for conv in network.convs)
        positions = int(areas.sum()) * (int(areas[-1]) if self._pools else 1)
        self._task_rows = int(np.clip(_TASK_SIZE // (positions * cpu.LANES), 1, cpu.LANES))
        self._local = threading.local()

    def fill(
        self, result: NDArray[Any], side1: _Side, side2: _Side, tile: int, threads: int
    ) -> Generator[int, None, None]:
        """Fill the matrix, and yield the number of entries whenever some are done."""
        n1, n2 = result.shape
        is_symmetric = side1 is side2
        # Lanes beyond the last column compute nothing: let the side that wastes less be columns.
        if n1 * -(-n2 // cpu.LANES) > n2 * -(-n1 // cpu.LANES):
            result, side1, side2, n1, n2 = result.T, side2, side1, n2, n1
        pool = ThreadPoolExecutor(threads)
        try:
            for top in range(0, n1, tile):
                rows = self._read(pool, side1, top, top + tile)
                for left in range(top if is_symmetric else 0, n2, tile):
                    is_diagonal = is_symmetric and left == top
                    columns = rows if is_diagonal else self._read(pool, side2, left, left + tile)
                    tasks = [
                        pool.submit(self._compare, result, a, b, start, is_symmetric)
                        for a in rows
                        for b in columns
                        if not is_symmetric or a.first <= b.first
                        for start in range(0, a.n, self._task_rows)
                    ]
                    for task in as_completed(tasks):
                        yield task.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, pool: ThreadPoolExecutor, side: _Side, start: int, stop: int) -> list[_Block]:
        stop = min(stop, len(side.images))
        firsts = range(start, stop, cpu.LANES)
        return list(pool.map(lambda first: self._read_block(side, first), firsts))

    def _read_block(self, side: _Side, first: int) -> _Block:
        some = slice(first, first + cpu.LANES)
        images = _normalise(side.images[some], side.exponents[some], self._dtype)
        n = len(images)
        exponents, groups = np.zeros(cpu.LANES, np.int64), np.full(cpu.LANES, -1)
        exponents[:n], groups[:n] = side.exponents[some], side.groups[some]
        return _Block(first, n, cpu.read_block(self.plan, images), exponents, groups)

    def _compare(
        self, result: NDArray[Any], a: _Block, b: _Block, start: int, is_symmetric: bool
    ) -> int:
        """Fill in a few rows of a block of entries; return how many entries that gave."""
        stop = min(start + self._task_rows, a.n)
        if not hasattr(self._local, "scratch"):
            self._local.scratch = cpu.make_scratch(self.plan, self._dtype)
        sums = np.empty((stop - start, cpu.LANES))
        cpu.compare(
            self.plan,
            start,
            stop,
            a.images,
            b.images,
            a.groups,
            b.groups,
            self._powers,
            self._weights,
            self._pools,
            self._local.scratch,
            sums,
        )
        exponents = a.exponents[start:stop, None] + b.exponents[: b.n] - self._n_halvings
        with np.errstate(over="ignore"):
            values = np.ldexp(sums[:, : b.n] / self._n_terms, exponents).astype(self._dtype)
        if not np.isfinite(values).all():
            i, j = np.argwhere(~np.isfinite(values))[0]
            raise KernelError(
                f"the kernel of images {a.first + start + i} and {b.first + j} overflows"
                f" {self._dtype}: divide the images by a constant"
            )
        rows, columns = slice(a.first + start, a.first + stop), slice(b.first, b.first + b.n)
        result[rows, columns] = values
        if not is_symmetric or a.first == b.first:
            return values.size
        result[columns, rows] = values.T
        return 2 * values.size
