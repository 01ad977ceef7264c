"""Architectures: one description, read by the exact kernel and by the finite network.

An `Architecture` is made of a list of layers by `parse_architecture` (`lantk.kernel.grammar`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lantk.errors import LantkError

READOUTS = ("flatten", "global_average_pool")
ACTIVATIONS = ("relu", "leaky_relu", "erf", "gelu")
# Activations f with f(c x) = c f(x) for c > 0.
_HOMOGENEOUS = ("relu", "leaky_relu")


class ArchitectureError(LantkError):
    """A layer list that the grammar does not accept; the message says where and what to change."""


@dataclass(frozen=True)
class Conv:
    """A convolution, ``size`` x ``size``, padded by `same_padding`."""

    size: int
    stride: int = 1
    bias: float = 0.0
    """Standard deviation of the biases; trained with the weights."""
    trained: bool = True


@dataclass(frozen=True)
class Activation:
    """A nonlinearity, one of `ACTIVATIONS`."""

    kind: str
    slope: float = 0.0
    """Of ``leaky_relu`` below 0."""


@dataclass(frozen=True)
class AveragePool:
    """The mean over ``size`` x ``size`` positions, padded by `same_padding`; zeros count."""

    size: int
    stride: int


@dataclass(frozen=True)
class Residual:
    """Input + branch; the branch ends in a convolution and keeps the shape."""

    layers: tuple[Conv | Activation | Residual, ...]


@dataclass(frozen=True)
class Dense:
    """A fully connected layer behind the readout."""

    bias: float = 0.0
    """Standard deviation of the biases; trained with the weights."""
    trained: bool = True


Layer = Conv | Activation | AveragePool | Residual


class Shaped(NamedTuple):
    """A convolution or a pool, and the height and width of what it reads."""

    layer: Conv | AveragePool
    height: int
    width: int

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros above and below, left and right."""
        above, left = (
            same_padding(side, self.layer.size, self.layer.stride)
            for side in (self.height, self.width)
        )
        return above, left


@dataclass(frozen=True)
class Architecture:
    """A parsed architecture."""

    body: tuple[Layer, ...]
    """What comes before the readout: on positions."""
    readout: str
    """One of `READOUTS`."""
    head: tuple[Dense | Activation, ...] = (Dense(),)
    """What comes behind it, ending in a dense layer."""

    def to_list(self) -> list[Any]:
        """Return the layer list that `parse_architecture` reads, with defaults spelt out."""
        return [*map(_spell, self.body), self.readout, *map(_spell, self.head)]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions, those of branches too, in the order in which they come."""
        return tuple(layer for layer in _walk(self.body) if isinstance(layer, Conv))

    @property
    def denses(self) -> tuple[Dense, ...]:
        """The dense layers, from the readout on."""
        return tuple(layer for layer in self.head if isinstance(layer, Dense))

    @property
    def n_hidden(self) -> int:
        """Number of layers with channels of their own: convolutions, dense layers but the last."""
        return len(self.convs) + len(self.denses) - 1

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers with weights, from the input on: ``conv1`` ..., ``dense``.

        Several dense layers are ``dense1`` ... .
        """
        n = len(self.denses)
        denses = ["dense"] if n == 1 else [f"dense{i}" for i in range(1, n + 1)]
        return [f"conv{i}" for i in range(1, len(self.convs) + 1)] + denses

    @property
    def trained_layers(self) -> list[str]:
        """Names of the trained layers, from the input on.

        Examples
        --------
        >>> from lantk import parse_architecture
        >>> parse_architecture("arora2019-gap-4").trained_layers
        ['conv2', 'conv3']
        """
        layers: tuple[Conv | Dense, ...] = (*self.convs, *self.denses)
        pairs = zip(self.layer_names, layers, strict=True)
        return [name for name, layer in pairs if layer.trained]

    @property
    def activations(self) -> tuple[Activation, ...]:
        """All activations, in the order in which they come."""
        layers = (*_walk(self.body), *self.head)
        return tuple(layer for layer in layers if isinstance(layer, Activation))

    @property
    def is_homogeneous(self) -> bool:
        """Whether the kernel of x and c x' is c times that of x and x', for every c > 0."""
        layers: tuple[Conv | Dense, ...] = (*self.convs, *self.denses)
        has_bias = any(layer.bias for layer in layers)
        return not has_bias and all(one.kind in _HOMOGENEOUS for one in self.activations)

    @property
    def nngp(self) -> Architecture:
        """The same with its last layer alone trained: its tangent kernel is the NNGP kernel."""
        head = [replace(x, trained=False) if isinstance(x, Dense) else x for x in self.head[:-1]]
        last = replace(self.denses[-1], trained=True)
        return Architecture(_freeze(self.body), self.readout, (*head, last))

    @property
    def pointwise(self) -> Architecture:
        """The same with filters of one pixel and no pools: on vectors, the fully connected one."""
        layers = (x for x in self.body if not isinstance(x, AveragePool))
        return replace(self, body=_map_convs(tuple(layers), size=1, stride=1))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the architecture, however it was spelt."""
        text = json.dumps(self.to_list(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_channels(self, channels: Sequence[int]) -> None:
        """Refuse output channels of the hidden layers, one number each, that do not go together.

        Raises
        ------
        ArchitectureError
            If there are more or fewer than `n_hidden`, or a residual would add the channels of its
            branch to another number of them.
        """
        if len(channels) != self.n_hidden:
            hidden = ", ".join(self.layer_names[:-1]) or "none"
            raise ArchitectureError(
                f"there are {len(channels)} numbers of channels, wanted {self.n_hidden}: one for"
                f" each hidden layer ({hidden})"
            )
        _check_branches(self.body, dict(zip(self.layer_names, channels, strict=False)), 0)

    def shapes(self, height: int, width: int) -> list[Shaped]:
        """Return each convolution and pool with what it reads of an image, in their order."""
        found = []
        for layer in _walk(self.body):
            if isinstance(layer, Conv | AveragePool):
                found.append(Shaped(layer, height, width))
                height, width = output_side(height, layer.stride), output_side(width, layer.stride)
        return found

    def final_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of what the readout reads of an image."""
        for layer, *_ in self.shapes(height, width):
            height, width = output_side(height, layer.stride), output_side(width, layer.stride)
        return height, width


def output_side(side: int, stride: int) -> int:
    """Return ceil(side / stride), the side of a 'same' convolution's output."""
    return -(-side // stride)


def same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after one side, as XLA's and TensorFlow's 'same' places them.

    The total is ``max((ceil(side / stride) - 1) * stride + size - side, 0)``, all in pixels; an odd
    one puts the extra zero after. PyTorch's ``padding=1`` differs from it at stride 2.
    """
    total = max((output_side(side, stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def _walk(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Yield layers, and after a residual those of its branch."""
    for layer in layers:
        yield layer
        if isinstance(layer, Residual):
            yield from _walk(layer.layers)


def _check_branches(layers: Sequence[Layer], channels: dict[str, int], n_before: int) -> int:
    """Refuse a residual of unequal channels; return the number of convolutions up to here."""
    for layer in layers:
        if isinstance(layer, Conv):
            n_before += 1
        elif isinstance(layer, Residual):
            start = f"conv{n_before}"
            n_before = _check_branches(layer.layers, channels, n_before)
            stop = f"conv{n_before}"
            if channels[start] != channels[stop]:
                raise ArchitectureError(
                    f"the branch of a residual ends in {channels[stop]} channels ({stop}), and its"
                    f" input has {channels[start]} ({start}): give both the same"
                )
    return n_before


def _freeze(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return _map_convs(layers, trained=False)


def _map_convs(layers: tuple[Any, ...], **changes: Any) -> tuple[Any, ...]:
    """Return the layers with changes to every convolution."""

    def change(layer: Layer) -> Layer:
        if isinstance(layer, Residual):
            return Residual(_map_convs(layer.layers, **changes))
        return replace(layer, **changes) if isinstance(layer, Conv) else layer

    return tuple(map(change, layers))


def _spell(layer: Layer | Dense) -> Any:
    """Return a layer as `parse_architecture` reads it; biases of 0 are left out."""
    match layer:
        case Activation("leaky_relu", slope):
            return {"leaky_relu": {"slope": slope}}
        case Activation(kind):
            return kind
        case AveragePool(size, stride):
            return {"average_pool": {"size": size, "stride": stride}}
        case Residual(layers):
            return {"residual": [_spell(inner) for inner in layers]}
        case Conv(size, stride, bias, trained):
            options = {"size": size, "stride": stride, "trained": trained}
            return {"conv": options | ({"bias": bias} if bias else {})}
        case _:
            options = {"trained": layer.trained}
            return {"dense": options | ({"bias": layer.bias} if layer.bias else {})}
