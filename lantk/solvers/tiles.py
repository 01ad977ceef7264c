"""Tiles of a matrix over pairs of samples: which there are, and threads over them.

Each tile is worked on by one thread and tiles are added up in their own order, so results are the
same bytes for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba

# Rows and columns of a tile: many entries share what is read, and twenty features of a tile still
# fit the cache.
SIDE = 192

Tile = tuple[slice, slice]
_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def tiles(m: int, n: int) -> Iterator[Tile]:
    """Yield the tiles of an m x n matrix, row by row."""
    for top in range(0, m, SIDE):
        for left in range(0, n, SIDE):
            yield slice(top, min(top + SIDE, m)), slice(left, min(left + SIDE, n))


def lower_tiles(n: int) -> Iterator[Tile]:
    """Yield the tiles of an n x n matrix on and below the diagonal."""
    return (tile for tile in tiles(n, n) if tile[1].start <= tile[0].start)


def in_threads(
    function: Callable[[_Piece], _Result], pieces: Iterable[_Piece]
) -> Iterator[_Result]:
    """Yield the results in the order of the pieces, whatever thread they come from."""
    pieces = list(pieces)
    n_threads = min(numba.get_num_threads(), len(pieces))
    if n_threads < 2:
        # Products of few images take less time than a thread does to start.
        yield from map(function, pieces)
        return
    pool = ThreadPoolExecutor(n_threads)
    try:
        yield from pool.map(function, pieces)
    finally:
        pool.shutdown(cancel_futures=True)
