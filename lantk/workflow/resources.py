"""Memory and threads that a job asks for, by the size of its case: a scheduler must know before.

Memory is in MiB and counted in Gram matrices, both blocks in float64, beside an interpreter with
what a verb imports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lantk.regression.memory import FIT_MATRICES, gram_blocks_bytes
from lantk.variant import Variant

_INTERPRETER_MB = 2000
# PyTorch, and gradients of train images as far as they are kept (6 GiB at most).
_NETWORK_MB, _GRADIENTS_MB = 6000, 10_000
# Up to so many train images a job is mostly start-up, and jobs run side by side.
_SMALL_N_TRAIN = 500
_THREADS_OF_LARGE_JOBS = 8


def count_threads(n_train: int) -> int:
    """Return how many threads the jobs of an experiment take each, by its largest case."""
    return 1 if n_train <= _SMALL_N_TRAIN else _THREADS_OF_LARGE_JOBS


def growing(amount: Any) -> Callable[[Any, int], int]:
    """Return a resource function: a number, or function of wildcards, times the attempt.

    What was killed for want of time or memory asks for more where a profile has `retries`.
    """

    def resource(wildcards: Any, attempt: int) -> int:
        return attempt * (amount(wildcards) if callable(amount) else amount)

    return resource


def gram_blocks_mb(n_train: int, n_test: int) -> int:
    """Return the size of both Gram blocks in float64."""
    return gram_blocks_bytes(n_train, n_test) // 2**20 + 1


def gram_mb(
    n_train: int,
    n_test: int,
    *,
    n_architectures: int,
    n_bands: int,
    scratch_mb: int | None,
    flips: bool = False,
) -> int:
    """Return the memory of the job that computes one band of a task's Gram matrices.

    With flips a band is added up from others of its size.
    """
    matrices = gram_blocks_mb(n_train, n_test) * n_architectures // n_bands * (1 + flips)
    return _INTERPRETER_MB + matrices + (scratch_mb or 256)


def label_term_mb(n_train: int, n_test: int, n_largest: int) -> int:
    """Return the memory of the fit of a label term, whose Gram matrix is cut from the largest."""
    return _matrices_mb(3, n_train, n_test, n_largest)


def heat_map_mb(n_train: int, n_test: int, n_largest: int) -> int:
    """Return the memory of the figure of K, Z and K + lambda Z."""
    return _matrices_mb(1, n_train, n_test, n_largest)


def evaluation_mb(
    variants: Sequence[str], n_permutations: int, n_train: int, n_test: int, n_largest: int
) -> int:
    """Return the memory of a job that evaluates a family of variants with some permutations.

    Features of pairs are kept, and each permutation has a label term of its own, in float32. A
    constant beside a label term has Krylov spaces of its own.
    """
    v = Variant.of(variants[0])
    n_shuffled = sum(name.endswith("-shuffled") for name in variants)
    factor = FIT_MATRICES + 0.5 * n_permutations * n_shuffled
    factor += 2 * (v.addition or "").startswith(("lantk-fjlt-", "cntk-rbf", "cntk-laplacian"))
    factor += v.has_intercept and v.term is not None
    return _matrices_mb(factor, n_train, n_test, n_largest)


def network_mb(n_train: int) -> int:
    """Return the memory of a training: images in float32, and activations of a batch."""
    return _NETWORK_MB + n_train // 20


def after_kernels_mb(n_layers: int, n_train: int, n_test: int, n_largest: int) -> int:
    """Return the memory of a network's kernels: a float32 block a layer, and one that is solved."""
    return _matrices_mb(6 + n_layers / 2, n_train, n_test, n_largest, base_mb=_GRADIENTS_MB)


def _matrices_mb(
    factor: float, n_train: int, n_test: int, n_largest: int, base_mb: int = _INTERPRETER_MB
) -> int:
    mb = base_mb + int(factor * gram_blocks_mb(n_train, n_test))
    # Of the largest n, bands are put together in float32 before the first rows are taken.
    return mb + (n_train < n_largest) * gram_blocks_mb(n_largest, n_test) // 2
