"""Layers as the engines want them: a row for each filter, and what its sums are multiplied by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.architecture import (
    Activation,
    AveragePool,
    Conv,
    Layer,
    Residual,
    output_side,
    same_padding,
)

# What a layer reads: pixels, another layer's output as it is, or that after an activation.
PIXELS, RELU, LINEAR, LEAKY_RELU, ERF, GELU = range(6)
_SOURCES = {"relu": RELU, "leaky_relu": LEAKY_RELU, "erf": ERF, "gelu": GELU}

# One row for each convolution, and one for each pool and the last readout, which are read as
# filters of their size and of 1 x 1. Height and width are those of the layer's input, `top` and
# `left` its zeros before them; sums over the filter are divided by 2**shift; `table` is where its
# self variances begin, and `end`, before a pool, S and T of an image with itself; `tap` is the
# first of `n_taps` readouts' sums that are taken of its input, or -1. `before` and `after` are the
# planes, or -1, in which its input is kept for a residual, before or after its activation; `add` is
# the one that is added to its output.
_WHOLE = (
    "size stride trained shift height width top left source table tap n_taps is_pool end before"
    " after add"
)
# What is added to S, as a bias does; what a kept plane is multiplied by when it is added; the slope
# of a leaky ReLU; and S as it would be on paper over S as it is here, in the layer's input before
# its activation.
_REAL = "bias ratio slope unit"
LAYER = np.dtype(
    [(name, np.int64) for name in _WHOLE.split()] + [(name, np.float64) for name in _REAL.split()]
)


class Walk:
    """Rows of `LAYER` for layers, with what their sums are to be multiplied by."""

    def __init__(self, height: int, width: int) -> None:
        self.rows: list[dict[str, float]] = []
        # For each row, S as on paper over S as it is in the input, beside 2**-halvings.
        self.scales: list[float] = []
        self.halvings: list[int] = []
        # After how many layers (of those that are no branch's) which row reads their output.
        self.row_after = {0: 0}
        self._height, self._width = height, width
        self._scale, self._halvings, self._excess = 1.0, 0, 0.0
        self._table = self._end = 0
        self._source, self._slope = PIXELS, 0.0
        self._n_kept, self._before, self._after = 0, -1, -1
        # What the planes are to be multiplied by, for each of those that are kept.
        self._kept_scales: dict[int, float] = {}

    def add_layers(self, layers: Sequence[Layer]) -> None:
        """Add rows for layers that are no branch's."""
        for n, layer in enumerate(layers, 1):
            self._add(layer)
            self.row_after[n] = len(self.rows)

    def finish(self) -> None:
        """Add the row of the last readout."""
        # A filter of one position.
        self._add_row(1, 1)

    def _add(self, layer: Layer) -> None:
        match layer:
            case Activation(kind, slope):
                self._source, self._slope = _SOURCES[kind], slope
            case Conv():
                self._add_row(layer.size, layer.stride, trained=layer.trained)
                self._pass(layer.size**2)
                if layer.bias:
                    # Beside this, every factor is taken out of the sums at the end.
                    true = self._scale * 2.0**-self._halvings
                    self.rows[-1]["bias"] = layer.bias**2 / true
            case AveragePool():
                row = self._add_row(layer.size, layer.stride, is_pool=True)
                row["end"], self._end = self._end, self._end + int(row["height"] * row["width"])
                self._pass(layer.size**4)
            case Residual():
                kept = self._keep()
                for inner in layer.layers:
                    self._add(inner)
                self.rows[-1]["add"] = kept
                true = self._scale * 2.0**-self._halvings
                self.rows[-1]["ratio"] = self._kept_scales[kept] / true

    def _keep(self) -> int:
        """Have the next row keep its input, before its activation or after; return where."""
        is_activated = self._source not in (PIXELS, LINEAR)
        kept = self._after if is_activated else self._before
        if kept < 0:
            kept = self._n_kept
            self._n_kept += 1
        if is_activated:
            self._after = kept
        else:
            self._before = kept
            self._kept_scales[kept] = self._scale * 2.0**-self._halvings
        return kept

    def _add_row(
        self, size: int, stride: int, *, trained: bool = False, is_pool: bool = False
    ) -> dict[str, float]:
        """Add the row of a filter that reads what there is, and go on to what it reads."""
        h, w = self._height, self._width
        row: dict[str, float] = dict.fromkeys(LAYER.names or (), 0)
        # A longer stride leaves one position too, and products of strides stay small.
        stride = min(stride, max(h, w))
        row |= {"size": size, "stride": stride, "trained": trained, "is_pool": is_pool}
        row |= {"height": h, "width": w, "source": self._source, "table": self._table}
        row["top"] = same_padding(h, size, stride)[0]
        row["left"] = same_padding(w, size, stride)[0]
        row |= {"tap": -1, "before": self._before, "after": self._after, "add": -1, "ratio": 0.0}
        row |= {"slope": self._slope, "unit": self._scale * 2.0**-self._halvings}
        # Even, since each of two images brings half of it; and no excess that grows with depth.
        # Positions outside the image add nothing, so they do not count.
        self._excess += (1 + is_pool) * math.log2(min(size, h) * min(size, w))
        row["shift"] = 2 * round(self._excess / 2)
        self._excess -= row["shift"]
        if self._source in (RELU, LEAKY_RELU):
            self._halvings += 1
        elif self._source in (ERF, GELU):
            # These are computed as on paper.
            self._scale, self._halvings = 1.0, 0
        if self._after >= 0:
            shifted = self._scale * 2.0 ** (row["shift"] - self._halvings)
            self._kept_scales[self._after] = shifted
        self._table += h * w * (self._source not in (PIXELS, LINEAR))
        self.rows.append(row)
        self.scales.append(self._scale)
        self.halvings.append(self._halvings)
        self._height, self._width = output_side(h, stride), output_side(w, stride)
        self._source, self._slope, self._before, self._after = LINEAR, 0.0, -1, -1
        return row

    def _pass(self, n_terms: int) -> None:
        """Take the sums over a filter of so many terms for their mean."""
        self._scale *= 2 ** int(self.rows[-1]["shift"]) / n_terms


def weigh(
    side: int, pools: Sequence[AveragePool], readout: str
) -> tuple[NDArray[np.float64], int, int]:
    """Return what pools and a readout do along one axis, as a sum over pairs of positions.

    Returns
    -------
    table : (2 reach + 1, side) array
        How often the pair (p, p + d) enters, by d + reach and p.
    reach : int
        The largest |d| that enters.
    count : int
        What the sum is to be divided by.
    """
    if not pools:
        is_flat = readout == "flatten"
        return np.zeros((0, side)), 0 if is_flat else side - 1, side if is_flat else side**2
    # How often each position enters each of those that the readout sees.
    seen, count, n = np.eye(side), 1, side
    for pool in pools:
        top, n_next = same_padding(n, pool.size, pool.stride)[0], output_side(n, pool.stride)
        first = np.arange(n_next)[:, None] * pool.stride - top
        window = (np.arange(n) >= first) & (np.arange(n) < first + pool.size)
        seen, count, n = window.astype(float) @ seen, count * pool.size**2, n_next
    if readout != "flatten":
        seen, count = seen.sum(0, keepdims=True), count * n
    pairs = seen.T @ seen
    apart = np.abs(np.subtract.outer(np.arange(side), np.arange(side)))
    reach = int(apart[pairs > 0].max(initial=0))
    table = np.zeros((2 * reach + 1, side))
    for d in range(-reach, reach + 1):
        on = np.arange(max(0, -d), min(side, side - d))
        table[d + reach, on] = pairs[on, on + d]
    return table, reach, count * n
