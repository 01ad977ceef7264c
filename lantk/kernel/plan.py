"""Plans: the layers of architectures, and where their readouts tap them, as the engines want them.

Architectures whose layers begin alike share one walk: a network of depth 21 holds those of depths
3, 4, 6 and 11, and only its readouts are to be read after fewer layers. Pools right before a
readout are part of it: a readout is a weighted sum over pairs of positions.

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

from lantk.kernel.architecture import (
    Activation,
    Architecture,
    AveragePool,
    Conv,
    Dense,
    Layer,
    Residual,
    output_side,
    same_padding,
)
from lantk.kernel.schedule import Level, Schedule, make_schedule, needed_planes

# What a layer reads: pixels, another layer's output as it is, or that after an activation.
PIXELS, RELU, LINEAR, LEAKY_RELU, ERF, GELU = range(6)
_SOURCES = {"relu": RELU, "leaky_relu": LEAKY_RELU, "erf": ERF, "gelu": GELU}

# One row for each convolution, and one for each pool and the last readout, which are read as a
# filter of their size and of 1 x 1. Height and width are those of the layer's input, `top` and
# `left` its zeros before them; sums over the filter are divided by 2**shift; `table` is where its
# self variances begin; `tap` is the number of the first of `n_taps` readouts' sums that are taken of
# its input, or -1. `before` and `after` are the numbers of planes, or -1, in which its input is kept
# for a residual, before or after its activation; `add` is the one that is added to its output.
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
# A sum of a layer's input over planes up to `reach`, all positions alike if it `is_plain`; else
# their weights by displacement and position begin at `at_y` and `at_x` of the plan's weights.
TAP = np.dtype(
    [(name, np.int64) for name in "layer is_plain reach_y reach_x at_y at_x".split()]
)


class Readout(NamedTuple):
    """One kernel: ``nngp * (sum of S) + ntk * (sum of T) + offset`` of a tap, times 2**-halvings.

    With a `head`, these are S and T of the first dense layer's input, apart.
    """

    tap: int
    nngp: float
    ntk: float
    halvings: int
    offset: float = 0.0
    head: tuple[Dense | Activation, ...] = ()
    """Layers behind the readout, where there is an activation among them."""

    @property
    def exponent(self) -> float:
        """Size of the kernel of two images of order one, in powers of two."""
        return math.log2(max(self.nngp, self.ntk)) - self.halvings


class Plan(NamedTuple):
    """One walk through the layers, and the kernels that are read on the way."""

    layers: NDArray[np.void]
    """Rows of `LAYER`."""
    taps: NDArray[np.void]
    """Rows of `TAP`."""
    weights: NDArray[np.float64]
    readouts: tuple[Readout, ...]
    members: tuple[int, ...]
    """For each readout, the number of its architecture."""
    schedule: Schedule
    """The planes of all pairs of images, in the order in which they are run."""
    own_schedule: Schedule | None
    """The same of an image with itself, as far as self variances ask for it, or None where they
    need no plane but that of equal positions."""
    is_homogeneous: bool
    kernel: str

    @property
    def n_taps(self) -> int:
        """Number of sums that are taken of layers' inputs."""
        return len(self.taps)

    @property
    def n_kept(self) -> int:
        """Number of planes that are kept for residuals."""
        return int(max(self.layers["before"].max(), self.layers["after"].max())) + 1

    @property
    def n_positions(self) -> int:
        """Number of positions at which one image meets an activation."""
        areas = self.layers["height"] * self.layers["width"]
        return int(areas[~np.isin(self.layers["source"], (PIXELS, LINEAR))].sum())

    @property
    def n_ends(self) -> int:
        """Number of positions that one image has before the pools."""
        return int((self.layers["height"] * self.layers["width"] * self.layers["is_pool"]).sum())

    @property
    def n_visits(self) -> int:
        """Number of pairs of positions, over all layers, that one entry visits: its cost."""
        return self.schedule.n_visits

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.layers[0]["height"]), int(self.layers[0]["width"])

    @property
    def pools(self) -> bool:
        """Whether the readouts take all pairs of positions (global average pooling) or equal ones.

        Of a plan that `is_classic`.
        """
        return bool(self.schedule.n_planes > 1)

    @property
    def unit(self) -> int:
        """Displacements of the input that reach a readout are multiples of this many pixels.

        Of a plan that `is_classic`.
        """
        first = int(self.taps["layer"].min())
        return int(np.prod(self.layers["stride"][:first]))

    @property
    def is_classic(self) -> bool:
        """Whether there is nothing but convolutions, ReLUs, one kind of plain readout and a dense.

        A layer is tapped once at most.
        """
        layers, taps = self.layers, self.taps
        is_known = np.isin(layers["source"], (PIXELS, RELU, LINEAR)).all() and self.n_kept == 0
        is_known &= not layers["is_pool"].any() and not layers["bias"].any()
        is_known &= layers["n_taps"].max() == 1 and bool(taps["is_plain"].all())
        is_flat = (taps["reach_y"] == 0) & (taps["reach_x"] == 0)
        sides = layers[["height", "width"]][taps["layer"]]
        is_whole = (taps["reach_y"] == sides["height"] - 1) & (
            taps["reach_x"] == sides["width"] - 1
        )
        is_known &= bool(is_flat.all() or is_whole.all())
        return bool(is_known) and not any(one.head or one.offset for one in self.readouts)


def make_plans(
    architectures: Sequence[Architecture],
    kernel: str,
    height: int,
    width: int,
    *,
    sharing: bool = True,
) -> list[Plan]:
    """Return the fewest walks that read the `kernel`, ntk or nngp, of all architectures.

    Two share a walk if the layers of one, up to the pools before its readout, are the first of the
    other, and both pool globally or neither does. Images are height x width pixels. Without
    `sharing`, only those share that read their layers' input in the same way.
    """
    cores = [_core(architecture) for architecture in architectures]
    groups: list[list[int]] = []
    for i in sorted(range(len(architectures)), key=lambda i: -len(cores[i])):
        for group in groups:
            if _begins_like(cores[group[0]], cores[i]) and (
                _kind(architectures[group[0]], sharing) == _kind(architectures[i], sharing)
            ):
                group.append(i)
                break
        else:
            groups.append([i])
    return [_make_plan(architectures, group, kernel, height, width) for group in groups]


def _core(architecture: Architecture) -> tuple[Layer, ...]:
    """Return the layers before the pools that are part of the readout."""
    n = len(architecture.body)
    while n and isinstance(architecture.body[n - 1], AveragePool):
        n -= 1
    return architecture.body[:n]


def _kind(architecture: Architecture, sharing: bool) -> object:
    """Return what architectures of one walk have in common beside their layers.

    Global average pooling walks apart: what else is read costs next to nothing beside it.
    """
    if sharing:
        return architecture.readout
    return architecture.readout, architecture.body[len(_core(architecture)) :]


def _begins_like(longer: tuple[Layer, ...], shorter: tuple[Layer, ...]) -> bool:
    """Return whether one has the layers of the other first, none torn from its activation."""
    n = len(shorter)
    rest = longer[n:]
    while rest and isinstance(rest[0], Residual):
        rest = rest[0].layers
    return longer[:n] == shorter and not (rest and isinstance(rest[0], Activation))


def _make_plan(
    architectures: Sequence[Architecture], members: list[int], kernel: str, height: int, width: int
) -> Plan:
    """Return the plan of architectures of which the first holds all others."""
    walk = _Walk(height, width)
    walk.add_layers(_core(architectures[members[0]]))
    walk.finish()
    layers = np.array([tuple(row[name] for name in LAYER.names or ()) for row in walk.rows], LAYER)
    # Architectures that read a layer in the same way have one tap, in the order of the layers.
    tails = {}
    for i in members:
        core = _core(architectures[i])
        row = walk.row_after[len(core)]
        tails[i] = row, architectures[i].body[len(core) :], architectures[i].readout
    wanted = sorted(set(tails.values()), key=lambda tail: (tail[0], str(tail[1:])))
    taps, weights, areas = np.zeros(len(wanted), TAP), [np.zeros(0)], []
    for tap, (row, pools, readout) in zip(taps, wanted, strict=True):
        tap["layer"], area = row, 1
        sides = int(layers[row]["height"]), int(layers[row]["width"])
        axes = [_weigh(side, pools, readout) for side in sides]
        tap["is_plain"] = not pools
        for name, (table, reach, count) in zip("yx", axes, strict=True):
            tap[f"reach_{name}"], area = reach, area * count
            if pools:
                tap[f"at_{name}"] = sum(map(len, weights))
                weights.append(table.ravel())
        areas.append(area)
        layers[row]["tap"] = len(areas) - 1 if layers[row]["tap"] < 0 else layers[row]["tap"]
        layers[row]["n_taps"] += 1
    readouts = []
    for i in members:
        tap = wanted.index(tails[i])
        row = tails[i][0]
        scale = float(2 ** int(layers[row]["shift"])) * walk.scales[row] / areas[tap]
        readouts.append(_make_readout(architectures[i], tap, kernel, scale, walk.halvings[row]))
    levels = _levels(layers, taps)
    needed = needed_planes(levels)
    own = _own_schedule(levels, taps, readouts)
    return Plan(
        layers=layers,
        taps=taps,
        weights=np.concatenate(weights),
        readouts=tuple(readouts),
        members=tuple(members),
        schedule=make_schedule(levels, needed),
        own_schedule=own,
        is_homogeneous=all(architectures[i].is_homogeneous for i in members),
        kernel=kernel,
    )


def _make_readout(
    architecture: Architecture, tap: int, kernel: str, scale: float, halvings: int
) -> Readout:
    """Return how a kernel is made of the sums of a tap, `scale` times which are S and T."""
    is_ntk = kernel == "ntk"
    if any(isinstance(layer, Activation) for layer in architecture.head):
        return Readout(tap, scale, scale, halvings, head=architecture.head)
    # Dense layers without activations: S grows by each bias, T by S of each that is trained.
    n_trained, s_offset, t_offset = 0, 0.0, 0.0
    for dense in architecture.denses:
        s_offset += dense.bias**2
        n_trained += dense.trained
        t_offset += s_offset * dense.trained
    return Readout(
        tap=tap,
        nngp=scale * (n_trained if is_ntk else 1),
        ntk=scale * is_ntk,
        halvings=halvings,
        offset=t_offset if is_ntk else s_offset,
    )


class _Walk:
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
        """Add the row of a filter that reads what there is, and go on to its input as it is read."""
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


def _weigh(
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


def _levels(layers: NDArray[np.void], taps: NDArray[np.void]) -> list[Level]:
    """Return the stretches between pools, which end with a pool or the last readout."""
    ends = [*np.flatnonzero(layers["is_pool"]).tolist(), len(layers) - 1]
    levels, first = [], 0
    for end in ends:
        part = layers[first : end + 1]
        reaches: list[list[tuple[int, int]]] = [[] for _ in part]
        for tap in taps[(taps["layer"] >= first) & (taps["layer"] <= end)]:
            reaches[int(tap["layer"]) - first].append((int(tap["reach_y"]), int(tap["reach_x"])))
        levels.append(
            Level(
                first,
                tuple((int(x["height"]), int(x["width"])) for x in part),
                tuple(int(x["stride"]) for x in part),
                tuple(map(tuple, reaches)),
                int(part[-1]["size"]) if part[-1]["is_pool"] else 0,
            )
        )
        first = end + 1
    return levels


def _own_schedule(
    levels: list[Level], taps: NDArray[np.void], readouts: Sequence[Readout]
) -> Schedule | None:
    """Return the planes of an image with itself that its self variances are made of."""
    # An activation behind the readout wants all that is read; else equal positions are enough.
    whole = {one.tap for one in readouts if one.head}
    is_wide = any(taps[tap]["reach_y"] or taps[tap]["reach_x"] for tap in whole)
    if len(levels) == 1 and not is_wide:
        return None
    narrow = [
        level._replace(
            reaches=tuple(
                tuple(
                    (int(tap["reach_y"]), int(tap["reach_x"])) if number in whole else (0, 0)
                    for number, tap in enumerate(taps)
                    if tap["layer"] == level.first + row
                )
                for row in range(len(level.strides))
            )
        )
        for level in levels
    ]
    return make_schedule(narrow, needed_planes(narrow, itself=True))
