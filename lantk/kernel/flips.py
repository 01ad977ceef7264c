"""The kernel averaged over horizontal flips of both images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from lantk.errors import numbering


def add_over_flips(
    results: Sequence[NDArray[Any]],
    x1: NDArray[Any],
    x2: NDArray[Any] | None,
    walk: Callable[..., list[NDArray[Any]]],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Set results to the mean of what `walk` returns for images and their mirror images.

    K(f x, x') is taken from K(x', f x), the same entry, so that a symmetric matrix is symmetric bit
    by bit and has the bytes of its pieces. K(f x, f x') is computed: where padding is not
    symmetric, as at stride 2 on even sides, it is not K(x, x').
    """
    mirrored = x1[..., ::-1]
    # Rows, columns, their share of the cost, and which images they are where `walk` names others.
    parts: list[tuple[Any, Any, float, dict[str, Any]]]
    if x2 is None:
        names = {"x2": ("x1", range(len(x1)))}
        parts = [(x1, mirrored, 0.5, names), (x1, None, 0.25, {}), (mirrored, None, 0.25, {})]
    else:
        others, names = x2[..., ::-1], {"x1": ("x2", range(len(x2)))}
        names["x2"] = ("x1", range(len(x1)))
        parts = [(x1, others, 0.25, {}), (x2, mirrored, 0.25, names)]
        parts += [(x1, x2, 0.25, {}), (mirrored, others, 0.25, {})]
    n_entries, n_done = results[0].size, 0.0
    for result in results:
        result[...] = 0
    for rows, columns, share, names in parts:

        def tick(done: int, n_all: int, before: float = n_done, share: float = share) -> None:
            if progress is not None:
                progress(round((before + share * done / n_all) * n_entries), n_entries)

        with numbering(names):
            found = walk(rows, columns, progress=tick)
        for result, k in zip(results, found, strict=True):
            k /= 4
            if x2 is None or not names:
                result += k
            if names:
                result += k.T
        n_done += share
