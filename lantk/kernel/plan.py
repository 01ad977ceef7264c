"""Plans: the layers of architectures, and where their readouts tap them, as the engines want them.

Architectures whose convolutions begin alike share one walk through the layers: a network of depth
21 holds those of depths 3, 4, 6 and 11, and only its readouts are to be read after fewer layers.

Inside an engine the weight variance is 2, so that a ReLU keeps the self variances, and the sum over
a filter is divided by a power of two near its number of positions, so that no factor ever rounds
and a tap gives the same bytes as a walk that ends there. Each `Readout` takes out what that added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.architecture import Architecture, Conv, same_padding

# What a layer reads: pixels, the output of a ReLU, or another convolution's output as it is.
PIXELS, RELU, LINEAR = range(3)

# One row for each convolution and one for the last readout (read as a 1 x 1 filter). Height and
# width are those of the layer's input, `top` and `left` its zeros before them; sums over the filter
# are divided by 2**shift; `table` is where its self variances begin; `tap` is the number of the
# readouts' sums that are taken of its input, or -1.
_FIELDS = "size stride trained shift height width top left source table tap"
LAYER = np.dtype([(name, np.int64) for name in _FIELDS.split()])


class Readout(NamedTuple):
    """One kernel: ``nngp * (sum of S) + ntk * (sum of T)`` of a tap, times 2**-halvings."""

    tap: int
    nngp: float
    ntk: float
    halvings: int

    @property
    def exponent(self) -> float:
        """Size of the kernel of two images of order one, in powers of two."""
        return math.log2(max(self.nngp, self.ntk)) - self.halvings


class Plan(NamedTuple):
    """One walk through the layers, and the kernels that are read on the way."""

    layers: NDArray[np.void]
    """Rows of `LAYER`."""
    pools: bool
    """Whether the readouts take all pairs of positions (global average pooling) or equal ones."""
    unit: int
    """Displacements of the input that reach a readout are multiples of this many pixels."""
    readouts: tuple[Readout, ...]
    members: tuple[int, ...]
    """For each readout, the number of its architecture."""

    @property
    def n_taps(self) -> int:
        """Number of layers whose input is summed."""
        return int(self.layers["tap"].max()) + 1

    @property
    def n_positions(self) -> int:
        """Number of positions at which one image meets a ReLU."""
        areas = self.layers["height"] * self.layers["width"]
        return int(areas[self.layers["source"] == RELU].sum())

    @property
    def n_visits(self) -> int:
        """Number of pairs of positions, over all layers, that one entry visits: its cost."""
        areas = self.layers["height"] * self.layers["width"]
        if not self.pools:
            return int(areas.sum())
        # A displacement goes on as long as the strides divide it.
        before = np.cumprod(self.layers["stride"]) // self.layers["stride"]
        planes = [
            math.prod(-(-int(side) // max(self.unit, int(s))) for side in self.shape)
            for s in before
        ]
        return int((areas * planes).sum())

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.layers[0]["height"]), int(self.layers[0]["width"])


def make_plans(
    architectures: Sequence[Architecture], kernel: str, height: int, width: int
) -> list[Plan]:
    """Return the fewest walks that read the `kernel`, ntk or nngp, of all architectures.

    Two share a walk if the convolutions of one (filter, stride, whether trained, ReLU) are the
    first of the other and they have the same kind of readout. Images are height x width pixels.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(architectures)), key=lambda i: -len(architectures[i].convs)):
        shorter = architectures[i]
        for group in groups:
            longer = architectures[group[0]]
            begins_like = longer.convs[: len(shorter.convs)] == shorter.convs
            if begins_like and longer.readout == shorter.readout:
                group.append(i)
                break
        else:
            groups.append([i])
    return [_make_plan(architectures, group, kernel, height, width) for group in groups]


def _make_plan(
    architectures: Sequence[Architecture], members: list[int], kernel: str, height: int, width: int
) -> Plan:
    """Return the plan of architectures of which the first holds all others."""
    longest = architectures[members[0]]
    pools = longest.readout == "global_average_pool"
    layers = _layers(longest, height, width)
    depths = sorted({len(architectures[i].convs) for i in members})
    layers["tap"][depths] = range(len(depths))
    readouts = []
    for i in members:
        depth, dense = len(architectures[i].convs), architectures[i].dense_trained
        area = int(layers[depth]["height"] * layers[depth]["width"])
        # What the powers of two have left of each filter's size squared, and the tapped layer's
        # own power of two, which its input has been divided by.
        scale = float(2 ** int(layers[depth]["shift"]))
        for layer in layers[:depth]:
            scale *= 2 ** int(layer["shift"]) / int(layer["size"]) ** 2
        scale /= area**2 if pools else area
        readouts.append(
            Readout(
                tap=int(layers[depth]["tap"]),
                nngp=scale * (dense if kernel == "ntk" else 1),
                ntk=scale * (kernel == "ntk"),
                halvings=sum(conv.relu for conv in longest.convs[:depth]),
            )
        )
    unit = int(np.prod(layers["stride"][: depths[0]]))
    return Plan(layers, pools, unit, tuple(readouts), tuple(members))


def _layers(architecture: Architecture, height: int, width: int) -> NDArray[np.void]:
    """Return one row for each convolution and one for the readout, none of them tapped."""
    sides = architecture.sides(height, width)
    layers = np.zeros(len(sides), LAYER)
    table, source, excess = 0, PIXELS, 0.0
    # The readout: a filter of one position.
    convs = (*architecture.convs, Conv(1))
    for layer, conv, (h, w) in zip(layers, convs, sides, strict=True):
        # A longer stride leaves one position too, and products of strides stay small.
        layer["stride"] = min(conv.stride, max(h, w))
        layer["size"], layer["trained"] = conv.size, conv.trained
        # Even, since each of two images brings half of it; and no excess that grows with depth.
        # Positions outside the image add nothing, so they do not count.
        excess += math.log2(min(conv.size, h) * min(conv.size, w))
        layer["shift"] = 2 * round(excess / 2)
        excess -= layer["shift"]
        layer["height"], layer["width"], layer["source"], layer["table"] = h, w, source, table
        layer["top"] = same_padding(h, conv.size, int(layer["stride"]))[0]
        layer["left"] = same_padding(w, conv.size, int(layer["stride"]))[0]
        layer["tap"] = -1
        table += h * w * (source == RELU)
        source = RELU if conv.relu else LINEAR
    return layers
