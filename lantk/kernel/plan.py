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
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.kernel.architecture import (
    Activation,
    Architecture,
    AveragePool,
    Dense,
    Layer,
    Residual,
)
from lantk.kernel.layers import LAYER, LINEAR, PIXELS, RELU, Walk, weigh
from lantk.kernel.schedule import Level, Schedule, make_schedule, needed_planes

# A sum of a layer's input over planes up to `reach`, all positions alike if it `is_uniform`; else
# their weights by displacement and position begin at `at_y` and `at_x` of the plan's weights.
TAP = np.dtype(
    [(name, np.int64) for name in ["layer", "is_uniform", "reach_y", "reach_x", "at_y", "at_x"]]
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
    def is_plain(self) -> bool:
        """Whether there are no layers but convolutions without bias and ReLUs, before readouts."""
        layers = self.layers
        has_activations = not np.isin(layers["source"], (PIXELS, RELU, LINEAR)).all()
        has_others = layers["is_pool"].any() or layers["bias"].any() or self.n_kept > 0
        return not has_activations and not has_others

    @property
    def is_classic(self) -> bool:
        """Whether it and its readouts are plain: one kind, one a layer, a dense without bias."""
        layers, taps = self.layers, self.taps
        sides = layers[["height", "width"]][taps["layer"]]
        is_flat = (taps["reach_y"] == 0) & (taps["reach_x"] == 0)
        is_whole = taps["reach_y"] == sides["height"] - 1
        is_whole &= taps["reach_x"] == sides["width"] - 1
        is_known = self.is_plain and layers["n_taps"].max() == 1 and taps["is_uniform"].all()
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
    return list(_make_plans(tuple(architectures), kernel, height, width, sharing))


# Bands and parts of one matrix ask for the same again and again.
@lru_cache(maxsize=16)
def _make_plans(
    architectures: tuple[Architecture, ...], kernel: str, height: int, width: int, sharing: bool
) -> tuple[Plan, ...]:
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
    return tuple(_make_plan(architectures, group, kernel, height, width) for group in groups)


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
    # Images keep their scale where the kernel is not homogeneous.
    kind = architecture.readout, architecture.is_homogeneous
    if sharing:
        return kind
    return *kind, architecture.body[len(_core(architecture)) :], len(architecture.head)


def _begins_like(longer: tuple[Layer, ...], shorter: tuple[Layer, ...]) -> bool:
    """Return whether one has the layers of the other first, none torn from its activation."""
    n = len(shorter)
    rest = longer[n:]
    while rest and isinstance(rest[0], Residual):
        rest = rest[0].layers
    return longer[:n] == shorter and not (rest and isinstance(rest[0], Activation))


class _Tail(NamedTuple):
    """How an architecture reads a layer: through pools and a readout."""

    row: int
    """Number of the layer."""
    pools: tuple[AveragePool, ...]
    readout: str


def _make_plan(
    architectures: Sequence[Architecture], members: list[int], kernel: str, height: int, width: int
) -> Plan:
    """Return the plan of architectures of which the first holds all others."""
    walk = Walk(height, width)
    walk.add_layers(_core(architectures[members[0]]))
    walk.finish()
    layers = np.array([tuple(row[name] for name in LAYER.names or ()) for row in walk.rows], LAYER)
    tails = []
    for i in members:
        core = _core(architectures[i])
        pools = tuple(x for x in architectures[i].body[len(core) :] if isinstance(x, AveragePool))
        tails.append(_Tail(walk.row_after[len(core)], pools, architectures[i].readout))
    # Those that read a layer in the same way have one tap; taps are in the order of the layers.
    wanted = sorted(set(tails), key=lambda tail: (tail.row, str(tail)))
    taps, weights, counts = _make_taps(layers, wanted)
    readouts = []
    for i, tail in zip(members, tails, strict=True):
        number = wanted.index(tail)
        scale = float(2 ** int(layers[tail.row]["shift"])) * walk.scales[tail.row] / counts[number]
        halvings = walk.halvings[tail.row]
        readouts.append(_make_readout(architectures[i], number, kernel, scale, halvings))
    levels = _levels(layers, taps)
    return Plan(
        layers=layers,
        taps=taps,
        weights=weights,
        readouts=tuple(readouts),
        members=tuple(members),
        schedule=make_schedule(levels, needed_planes(levels)),
        own_schedule=_own_schedule(levels, taps, readouts),
        is_homogeneous=architectures[members[0]].is_homogeneous,
        kernel=kernel,
    )


def _make_taps(
    layers: NDArray[np.void], tails: Sequence[_Tail]
) -> tuple[NDArray[np.void], NDArray[np.float64], list[int]]:
    """Return the taps, which the layers are told of, their weights, and what to divide sums by."""
    taps, tables, counts = np.zeros(len(tails), TAP), [np.zeros(0)], []
    for number, tail in enumerate(tails):
        tap, layer, count = taps[number], layers[tail.row], 1
        tap["layer"], tap["is_uniform"] = tail.row, not tail.pools
        for axis, side in (("y", int(layer["height"])), ("x", int(layer["width"]))):
            table, tap[f"reach_{axis}"], n = weigh(side, tail.pools, tail.readout)
            tap[f"at_{axis}"] = sum(map(len, tables))
            tables.append(table.ravel())
            count *= n
        counts.append(count)
        if layer["tap"] < 0:
            layer["tap"] = number
        layer["n_taps"] += 1
    return taps, np.concatenate(tables), counts


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
