"""What a Gram matrix and a fit will take, from rates measured in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lantk.kernel.forecast import INTERPRETER_BYTES, forecast_gram
from lantk.kernel.images import KernelError, looks_channels_last
from lantk.label_terms.registry import label_term
from lantk.regression.diagnostics import EIGENVALUE_MAX_N
from lantk.regression.fits import Member
from lantk.regression.folds import ValidationError
from lantk.regression.memory import FIT_MATRICES, gram_blocks_bytes
from lantk.regression.paths import predict
from lantk.solvers.direct import CholeskyFactor
from lantk.solvers.products import multiply

# What else a fit takes beside factors, in steps of Lanczos' method: of these some 25, and passes
# over K that fit the label term, make Z of it and look at the result. Then what only all of train
# takes for the record. Measured with one thread at n = 1,500: 32 to 62, 28 to 74.
_STEPS, _RECORD_STEPS = 45, 35
# Factorizations that count negative eigenvalues, where n is too large to compute them all.
_COUNTED = 2
# Sides of the largest matrix that rates are measured with, and of the one that measures overhead.
_LARGEST_SIDE, _SMALL_SIDE = 2000, 200


class Forecast(NamedTuple):
    """Seconds of this machine, and bytes of memory of a process at its peak."""

    gram_seconds: float
    """To compute both Gram blocks."""
    gram_bytes: int
    """At most, meanwhile: images, scratch, and the result in float32."""
    fit_seconds: float
    """To fit all of train at every label weight, score the test images and describe the fit."""
    validation_seconds: float
    """To fit anew in every fold."""
    fit_bytes: int
    """At most, in all of this, the Gram blocks included."""

    @property
    def seconds(self) -> float:
        """Return all seconds."""
        return self.gram_seconds + self.fit_seconds + self.validation_seconds


def forecast(
    architecture: Any,
    n_train: int,
    n_test: int = 0,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    *,
    n_classes: int = 2,
    n_weights: int = 11,
    folds: int = 5,
    flips: bool = False,
    device: str = "auto",
    threads: int | None = None,
    rate: float | None = None,
    scratch_bytes: int | None = None,
    layout: str | None = None,
) -> Forecast:
    """Return what a task's Gram matrices, and a label term fitted on them, will take here.

    The fit is that of `regression.paths.predict` on the CPU: K + lambda Z with Z of
    ``lantk-kr-v1``, at every label weight, and validated in folds.

    Parameters
    ----------
    architecture : str, list or Architecture
        What `parse_architecture` reads.
    n_train, n_test : int
        Numbers of images.
    image_shape : tuple
        (channels, height, width) of an image.
    n_classes, n_weights, folds : int
        Classes, label weights, and validation folds (0 for none).
    flips, device, threads, scratch_bytes, layout
        As for `lantk.gram`; of the fit they change nothing.
    rate : float, optional
        Different entries of the Gram matrix a second; by default it is measured.

    Returns
    -------
    Forecast

    Raises
    ------
    ArchitectureError, BandError, KernelError, ValidationError
        If the architecture is not understood, there are no train images, the channels of the image
        seem to come last, or there is one fold, or fewer classes or weights than make a fit.

    Notes
    -----
    All rates are those of the moment, so other programs count. The fit is a Cholesky factor of K
    (n^3 / 3 operations), another for each fold, and products with K. It is not known here which
    K + lambda Z are so far from K that an LU factorization is cheaper than Lanczos' method: each
    takes 2 n^3 / 3 more. Terms on features of pairs (``lantk-fjlt-*``) take longer. Above n =
    1,500, and with more than two classes, nothing was compared.

    Forecast over measured, chen2020, 32 x 32 x 3 images of noise, 300 of test, 5 folds, 11 weights,
    processor time of one thread on a machine that other programs used: Gram matrices 0.49 to 1.08
    at n = 500 (eight times) and 0.71 to 1.20 at n = 1,500 (five), fits 0.71 to 0.98 and 0.60 to
    1.28. Memory is a bound: 315 and 403 MiB for fits that took 189 and 230, 569 and 593 for
    processes that computed the matrices and fitted in 279 and 292.

    Examples
    --------
    >>> found = forecast("chen2020", 100, 50, (1, 8, 8), rate=1e5)
    >>> round(found.gram_seconds, 4)  # 100 * 101 / 2 + 50 * 100 entries
    0.1005
    >>> found.seconds > found.fit_seconds > 0
    True
    """
    if looks_channels_last(image_shape) and layout is None:
        height, width, channels = image_shape
        raise KernelError(
            f"image_shape is {image_shape}, which looks like height, width and channels: wanted"
            f" {(channels, height, width)}, or layout='channels_first' where an image has"
            f" {height} channels"
        )
    for name, value, least in (("n_classes", n_classes, 2), ("n_weights", n_weights, 1)):
        if value < least:
            raise ValidationError(f"`{name}` is {value}: wanted {least} or more")
    if folds < 0 or folds == 1:
        raise ValidationError(f"`folds` is {folds}: wanted 2 or more, or 0 for no validation")
    grams = forecast_gram(
        architecture, n_train, n_test, image_shape,
        n_bands=1, flips=flips, device=device, threads=threads, rate=rate,
        scratch_bytes=scratch_bytes,
    )  # fmt: skip
    [job] = grams.jobs
    rates = measure_solver(n_train, n_sides=n_classes if n_classes > 2 else 1)
    alone, validated = (_overhead(n_weights, n) for n in (0, folds))
    fit = alone + rates.seconds(n_train, _COUNTED + 1, _STEPS + _RECORD_STEPS)
    if n_train <= EIGENVALUE_MAX_N:
        fit = alone + rates.seconds(n_train, 1, _STEPS + _RECORD_STEPS)
        fit += n_weights * rates.eigenvalues
    fold = rates.seconds(n_train * (folds - 1) / folds, 1, _STEPS) if folds else 0.0
    return Forecast(
        grams.seconds,
        job.memory_bytes + job.file_bytes,
        fit,
        max(validated - alone, 0.0) + folds * fold,
        INTERPRETER_BYTES + FIT_MATRICES * gram_blocks_bytes(n_train, n_test),
    )


class SolveRates(NamedTuple):
    """Seconds that solving takes here with a matrix of one size, of which others follow."""

    side: int
    factorization: float
    """Of the Cholesky factor, n^3 / 3 operations."""
    step: float
    """Of Lanczos' method, which reads the factor twice and a float32 matrix once."""
    eigenvalues: float
    """Of all eigenvalues; 0 where n is so large that they are not computed."""

    def seconds(self, n: float, factorizations: float, steps: float) -> float:
        """Return the seconds of so many of each at another n."""
        q = n / self.side
        return factorizations * self.factorization * q**3 + steps * self.step * q**2


def measure_solver(n: int, *, n_sides: int = 1, seconds: float = 0.3) -> SolveRates:
    """Return what solving takes here and now, at `n` or the largest n that is tried.

    Each measurement takes at least so many seconds; `n_sides` is the number of right-hand sides.
    """
    side = min(n, _LARGEST_SIDE)
    k, rng = _definite(side), np.random.default_rng(1)
    vectors, factor = rng.standard_normal((side, n_sides)), CholeskyFactor(k)

    def step() -> None:
        factor.whiten(multiply(k, factor.whiten(vectors, transposed=True)))

    eigenvalues = 0.0
    if n <= EIGENVALUE_MAX_N:
        wide = k.astype(np.float64)
        eigenvalues = _seconds_of(lambda: np.linalg.eigvalsh(wide), seconds)
    factorization = _seconds_of(lambda: CholeskyFactor(k), seconds)
    return SolveRates(side, factorization, _seconds_of(step, seconds), eigenvalues)


def _overhead(n_weights: int, folds: int, seconds: float = 0.3) -> float:
    """Return the seconds of a fit whose matrices are so small that they cost nothing."""
    k, y = _definite(_SMALL_SIDE), np.tile([-1.0, 1.0], _SMALL_SIDE // 2)
    weights = np.geomspace(1e-3, 1, n_weights).tolist()
    member = Member(
        "", weights, weights if folds else (), make_term=lambda: label_term("lantk-kr-v1")
    )
    n_folds = min(folds, _SMALL_SIDE // 2)
    taken = _seconds_of(lambda: predict(k, k[:1], y, [member], folds=n_folds or 2), seconds)
    return taken * (folds / n_folds if folds else 1)


def _definite(n: int) -> np.ndarray:
    """Return a positive definite matrix, (n, n) float32, with a mean above 0 as kernels have."""
    x = np.random.default_rng(0).uniform(0, 1, (n, n)).astype(np.float32)
    return x @ x.T / np.float32(n) + np.eye(n, dtype=np.float32)


def _seconds_of(call: Callable[[], Any], seconds: float) -> float:
    """Return the mean seconds of a call, repeated for so long after one that warms up."""
    call()
    n_calls, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        call()
        n_calls += 1
    return taken / n_calls
