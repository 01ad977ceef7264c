"""Gram matrices of exact kernels: the public functions, their checks, and the choice of engine."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import combinations
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.errors import numbering
from lantk.kernel.architecture import Architecture
from lantk.kernel.bands import Band
from lantk.kernel.cpu.engine import CpuEngine
from lantk.kernel.cuda import engine as cuda
from lantk.kernel.cuda import launcher as cuda_launcher
from lantk.kernel.flips import add_over_flips
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.images import KernelError, check_images, hint_at_transposition, survey
from lantk.kernel.plan import Plan, make_plans

KERNELS = ("ntk", "nngp")
DTYPES = ("float32", "float64")
DEVICES = ("auto", "cpu", "cuda")
# What is worked in beside the result, unless said otherwise.
SCRATCH_BYTES = {"cpu": 2**28, "cuda": 2**32}

# Images whose Gram matrix is computed for its diagonal.
_DIAGONAL = 16


def gram(
    architecture: Any,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    kernel: str = "ntk",
    flips: bool = False,
    dtype: str = "float32",
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch_bytes: int | None = None,
    out: NDArray[Any] | None = None,
    layout: str | None = None,
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
    flips : bool
        Whether to take the mean of the kernel over the four pairs (x, f x) x (x', f x'), f x being
        x with its columns in reverse: the kernel of the same network whose features are averaged
        over both. It takes four times as long, and the memory of the result once more.
    dtype : {"float32", "float64"}
        Type of the computation and of the result.
    device : {"auto", "cpu", "cuda"}
        Where to compute; ``"auto"`` is a GPU where CuPy finds one, else the CPU.
    threads : int, optional
        Number of CPU threads; by default Numba's (``NUMBA_NUM_THREADS``, or all cores).
    progress : callable, optional
        Called now and then as ``progress(n_done, n_total)``, numbers of entries of the result.
    scratch_bytes : int, optional
        Memory of the device to work in, beyond the result: by default 256 MiB on a CPU, 4 GiB on a
        GPU. The least tile is taken even if it exceeds this.
    out : ndarray, shape (n1, n2), of `dtype`, optional
        Where to write, for example a memory map; by default a new array.
    layout : {"channels_first"}, optional
        Say so to have images taken that look as if their channels came last, which are refused
        otherwise: the last axis is 1, 3 or 4, the second is not, and second and third are larger
        than the last.

    Returns
    -------
    ndarray, shape (n1, n2), of `dtype`

    Raises
    ------
    KernelError
        If an option is unknown, the images are not 4-dimensional, not floats, not finite, empty, of
        different shapes or with the channels last, or a value overflows `dtype` or underflows it.
    ArchitectureError
        If the architecture is not understood.

    Notes
    -----
    float64 values hold to 1e-9, float32 values to 1e-6, and equal images are recognised and exact.
    Between near duplicates and multiples of one image, whose angles are near 0, half of the digits
    are lost: float32 then errs by up to 2e-4 of the value for ``chen2020`` and 1e-3 at depth 21
    (one pixel of a photograph off by 1/255: 3e-5 and 4e-4), float64 by 2e-9 and 3e-8.

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
    (k,) = gram_taps(
        [architecture],
        x1,
        x2,
        kernel=kernel,
        flips=flips,
        dtype=dtype,
        device=device,
        threads=threads,
        progress=progress,
        scratch_bytes=scratch_bytes,
        out=None if out is None else [out],
        layout=layout,
    )
    return k


def gram_taps(
    architectures: Sequence[Any],
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    kernel: str = "ntk",
    flips: bool = False,
    dtype: str = "float32",
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch_bytes: int | None = None,
    out: Sequence[NDArray[Any]] | None = None,
    layout: str | None = None,
) -> list[NDArray[Any]]:
    """Return the Gram matrices of several architectures, which share the layers they begin with.

    One walk through the deepest network serves every network whose convolutions (filter, stride,
    trained or not, ReLU) are its first ones and whose readout is of the same kind: five depths of
    ``arora2019-gap-D`` cost what the deepest costs. Flatten readouts and global average pooling
    walk apart, and the first costs next to nothing beside the second.

    Parameters
    ----------
    architectures : sequence of str, list or Architecture
        What `parse_architecture` reads, in any order.
    x1, x2, kernel, flips, dtype, device, threads, progress, scratch_bytes, layout
        As for `gram`.
    out : sequence of ndarray, optional
        Where to write, one for each architecture.

    Returns
    -------
    list of ndarray, shape (n1, n2), of `dtype`
        One for each architecture, the same bytes that `gram` returns.

    Raises
    ------
    KernelError, ArchitectureError
        As `gram` does, and if no architecture is given.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8))
    >>> names = ["arora2019-vanilla-3", "arora2019-vanilla-6"]
    >>> shallow, deep = gram_taps(names, x)
    >>> bool((shallow == gram("arora2019-vanilla-3", x)).all())
    True
    """
    if isinstance(architectures, str | Architecture):
        raise KernelError(f"architectures is {architectures!r}: wanted a list of architectures")
    networks = [parse_architecture(architecture) for architecture in architectures]
    if not networks:
        raise KernelError("no architecture is given: wanted one or more")
    n_threads = _check_options(kernel, dtype, device, threads)
    images1 = check_images("x1", x1, layout)
    images2 = images1 if x2 is None else check_images("x2", x2, layout)
    if images1.shape[1:] != images2.shape[1:]:
        raise KernelError(
            f"images of x1 are {images1.shape[1:]} and those of x2 {images2.shape[1:]} (channels,"
            " height, width): wanted the same"
            + hint_at_transposition("x1", images1.shape, "x2", images2.shape)
        )
    shape = len(images1), len(images2)
    results = _check_out(out, len(networks), shape, dtype)
    if flips:
        options = {"kernel": kernel, "dtype": dtype, "device": device, "threads": threads}
        options |= {"scratch_bytes": scratch_bytes, "layout": "channels_first"}
        walk = partial(gram_taps, networks, **options)  # type: ignore[arg-type]
        add_over_flips(results, images1, None if x2 is None else images2, walk, progress)
        return results
    on_gpu = uses_gpu(device)
    plans = make_plans(networks, kernel, *images1.shape[2:], sharing=not on_gpu)
    if on_gpu:
        _check_plans(plans, device)
    sides = {}
    for scaled in {plan.is_homogeneous for plan in plans}:
        digests: dict[bytes, int] = {}
        side = other = survey("x1", images1, dtype, digests, is_homogeneous=scaled)
        if x2 is not None:
            other = survey("x2", images2, dtype, digests, is_homogeneous=scaled)
        sides[scaled] = side, other
    # Entries of a walk count by what they cost.
    n_entries, n_done = math.prod(shape), 0
    n_total = n_entries * sum(plan.n_visits for plan in plans)
    for plan in plans:
        engine: CpuEngine | cuda.CudaEngine
        n_channels = images1.shape[1]
        if on_gpu and plan.is_classic:
            n_bytes = scratch_bytes or SCRATCH_BYTES["cuda"]
            engine = cuda.CudaEngine(plan, dtype, n_channels, n_bytes)
        else:
            n_bytes = scratch_bytes or SCRATCH_BYTES["cpu"]
            engine = CpuEngine(plan, dtype, n_channels, n_threads, n_bytes)
        some = [results[i] for i in plan.members]
        with closing(engine.fill(some, *sides[plan.is_homogeneous])) as steps:
            for n in steps:
                n_done += n * plan.n_visits
                if progress is not None:
                    progress(n_done * n_entries // n_total, n_entries)
    return results


def _check_plans(plans: Sequence[Plan], device: str) -> None:
    """Say which architectures are for the CPU, or refuse them where the GPU was asked for."""
    if all(plan.is_classic for plan in plans):
        return
    known = (
        "the GPU knows convolutions without bias, ReLUs, readouts without pools before them, and"
        " one dense layer"
    )
    if device == "cuda":
        raise KernelError(f"device is 'cuda', but {known}: for other layers use 'auto' or 'cpu'")
    warnings.warn(f"computing on the CPU: {known}", stacklevel=3)


def gram_diagonal(architecture: Any, x: ArrayLike, **options: Any) -> NDArray[Any]:
    """Return K(x, x) of each image, (n,), which a block between other images does not hold.

    Arguments and errors are those of `gram`.
    """
    images = np.asarray(x)
    # A few images at a time: fewer would be dearer, of more there are entries that nobody reads.
    found = np.empty(len(images), options.get("dtype", "float32"))
    for i in range(0, len(images), _DIAGONAL):
        part = slice(i, i + _DIAGONAL)
        with numbering({"x1": ("x1", range(len(images))[part])}):
            found[part] = np.diag(gram(architecture, images[part], **options))
    return found


def uses_gpu(device: str) -> bool:
    """Return whether `device` means a GPU here.

    Raises
    ------
    KernelError
        If it is ``"cuda"`` and CuPy finds no GPU.
    """
    if device == "cpu":
        return False
    is_there = cuda_launcher.is_available()
    if device == "cuda" and not is_there:
        raise KernelError(
            "device is 'cuda', but CuPy finds no GPU here: on a machine that has one, pip"
            " install '.[cuda]' in a checkout of lantk; or use 'cpu' or 'auto'"
        )
    return is_there


def device_of(architectures: Sequence[Any], shape: tuple[int, int], device: str) -> str:
    """Return what computes matrices here, ``cuda`` or ``cpu``; the CPU where it takes a part.

    `shape` is (height, width) of an image.
    """
    networks = [parse_architecture(architecture) for architecture in architectures]
    on_gpu = uses_gpu(device) and all(
        plan.is_classic for plan in make_plans(networks, "ntk", *shape, sharing=False)
    )
    return "cuda" if on_gpu else "cpu"


def gram_band(
    architectures: Sequence[Any],
    x_train: ArrayLike,
    x_test: ArrayLike,
    band: Band,
    out: Sequence[NDArray[Any]],
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> None:
    """Write one band of the Gram matrices of a split into `out`, for one architecture or several.

    Parameters
    ----------
    architectures, options
        As for `gram_taps`; layers that they share are walked once.
    x_train, x_test : array_like of floats, (n_train or n_test, channels, height, width)
        All images of the split.
    band : Band
        Which rows.
    out : sequence of ndarray, shape ``band.shape(n_train)``
        Where to write, one for each architecture.
    progress : callable, optional
        Called now and then as ``progress(n_done, n_total)``, numbers of different entries.
    """
    x_train, x_test = np.asarray(x_train), np.asarray(x_test)
    n_train = len(x_train)
    rows = x_train[band.start : band.stop]
    n, n_done, total = len(rows), 0, band.n_entries(n_train)
    # The square on the diagonal, what lies right of it, and the rows of test images.
    left, right = band.start - band.first, band.stop - band.first
    lower = slice(max(band.start - n_train, 0), max(band.stop - n_train, 0))
    every_train, every_test = range(n_train), range(len(x_test))
    own = ("x_train", every_train[band.start : band.stop])
    others, all_train = ("x_train", every_train[band.stop :]), ("x_train", every_train)
    pieces: list[tuple[Any, Any, tuple[slice, slice], dict[str, Any]]] = [
        (rows, None, (slice(n), slice(left, left + n)), {"x1": own}),
        (rows, x_train[band.stop :], (slice(n), slice(right, None)), {"x1": own, "x2": others}),
        (
            *(x_test[lower], x_train, (slice(n, None), slice(None))),
            {"x1": ("x_test", every_test[lower]), "x2": all_train},
        ),
    ]
    for x1, x2, where, names in pieces:
        parts = [block[where] for block in out]
        if parts[0].size == 0:
            continue
        # Of a symmetric piece only the different entries cost time.
        n_different = parts[0].size if x2 is not None else n * (n + 1) // 2

        def tick(done: int, n_all: int, before: int = n_done, n: int = n_different) -> None:
            if progress is not None:
                progress(before + done * n // n_all, total)

        dtype = parts[0].dtype.name
        with numbering(names):
            gram_taps(architectures, x1, x2, dtype=dtype, progress=tick, out=parts, **options)
        n_done += n_different


def _check_out(
    out: Sequence[NDArray[Any]] | None, n: int, shape: tuple[int, int], dtype: str
) -> list[NDArray[Any]]:
    """Return the arrays to write to, new ones by default."""
    if out is None:
        return [np.empty(shape, dtype) for _ in range(n)]
    results = list(out)
    found = [(k.shape, k.dtype.name) for k in results if isinstance(k, np.ndarray)]
    if found != [(shape, dtype)] * n:
        raise KernelError(
            f"out has {found or 'no arrays'}: wanted {n} of shape {shape} and dtype {dtype}"
        )
    is_own = [np.shares_memory(a, b) for a, b in combinations(results, 2)]
    if any(is_own) or not all(k.flags.writeable for k in results):
        raise KernelError("out has arrays that are read-only or share memory: wanted neither")
    return results


def _check_options(kernel: str, dtype: str, device: str, threads: int | None) -> int:
    """Refuse unknown options; return the number of threads."""
    for name, value, known in (
        ("kernel", kernel, KERNELS),
        ("dtype", dtype, DTYPES),
        ("device", device, DEVICES),
    ):
        if value not in known:
            raise KernelError(f"{name} is {value!r}: wanted {' or '.join(map(repr, known))}")
    if threads is None:
        return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if threads < 1:
        raise KernelError(f"threads is {threads}: wanted 1 or more")
    return threads
