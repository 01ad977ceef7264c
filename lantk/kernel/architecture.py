"""Architectures: one description, read by the exact kernel and by the finite network.

An architecture is a list of layers::

    [{"conv": {"size": 3, "stride": 1, "trained": true}}, "relu", ..., "flatten", "dense"]

Grammar: one or more convolutions, each followed by at most one ``relu``; then one readout
(``flatten`` or ``global_average_pool``); then one ``dense``. Filter sizes are odd. A layer with
``trained: false`` keeps its weights at their initial values and adds nothing to the neural
tangent kernel.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020 (``chen2020``).
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019
(``arora2019-vanilla-D``, ``arora2019-gap-D``; D counts the convolutions and the dense layer).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lantk.errors import LantkError, shorten

READOUTS = ("flatten", "global_average_pool")
# Ends the name of an architecture whose dense layer alone is trained.
_NNGP = "-nngp"

# The network of Chen et al. (2020): the strides of the authors' release (their text puts the
# second stride on the last convolution).
_CHEN2020_STRIDES = (1, 1, 1, 2, 1, 2, 1)


class ArchitectureError(LantkError):
    """A layer list that the grammar does not accept; the message says where and what to change."""


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, ``size`` x ``size``, padded by `same_padding`."""

    size: int
    stride: int = 1
    trained: bool = True
    relu: bool = False
    """Whether a ReLU follows."""


@dataclass(frozen=True)
class Architecture:
    """A parsed architecture: convolutions (each with or without a ReLU), readout, dense layer."""

    convs: tuple[Conv, ...]
    readout: str
    dense_trained: bool = True

    def to_list(self) -> list[Any]:
        """Return the layer list that `parse_architecture` reads, with every default spelt out."""
        layers: list[Any] = []
        for conv in self.convs:
            layers.append(
                {"conv": {"size": conv.size, "stride": conv.stride, "trained": conv.trained}}
            )
            if conv.relu:
                layers.append("relu")
        return [*layers, self.readout, {"dense": {"trained": self.dense_trained}}]

    @property
    def trained_layers(self) -> list[str]:
        """Names of the trained layers, from the input on: ``conv1`` ..., ``dense``.

        Examples
        --------
        >>> parse_architecture("arora2019-gap-4").trained_layers
        ['conv2', 'conv3']
        """
        names = [f"conv{i}" for i, conv in enumerate(self.convs, 1) if conv.trained]
        return names + ["dense"] * self.dense_trained

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the architecture, however it was spelt."""
        text = json.dumps(self.to_list(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sides(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return (height, width) of the input and after each convolution."""
        shapes = [(height, width)]
        for conv in self.convs:
            height, width = output_side(height, conv.stride), output_side(width, conv.stride)
            shapes.append((height, width))
        return shapes


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


def find_name(architecture: str | Sequence[Any] | Architecture) -> str | None:
    """Return the name of an architecture, or None if it has none.

    Examples
    --------
    >>> find_name(parse_architecture("arora2019-gap-4"))
    'arora2019-gap-4'
    """
    wanted = parse_architecture(architecture)
    depth = len(wanted.convs) + 1
    bases = ("chen2020", f"arora2019-vanilla-{depth}", f"arora2019-gap-{depth}")
    for name in (f"{base}{ending}" for base in bases for ending in ("", _NNGP)):
        try:
            if parse_architecture(name).digest == wanted.digest:
                return name
        except ArchitectureError:
            continue
    return None


def parse_architecture(name_or_list: str | Sequence[Any] | Architecture) -> Architecture:
    """Return the `Architecture` that a name or a layer list describes.

    Parameters
    ----------
    name_or_list : str or list
        ``"chen2020"``, ``"arora2019-vanilla-D"``, ``"arora2019-gap-D"`` (D >= 2, with
        pooling D >= 3), one of these
        with ``-nngp`` at its end, which trains the dense layer alone, or a layer list.

    Raises
    ------
    ArchitectureError
        If the name is unknown or the list does not follow the grammar.

    Examples
    --------
    >>> parse_architecture([{"conv": {"size": 3}}, "relu", "flatten", "dense"]).readout
    'flatten'
    >>> len(parse_architecture("chen2020").convs)
    7
    """
    if isinstance(name_or_list, Architecture):
        return name_or_list
    if isinstance(name_or_list, str):
        return _named(name_or_list)
    if not isinstance(name_or_list, Sequence):
        raise ArchitectureError(
            f"an architecture is a name or a list of layers, found {name_or_list!r}"
        )
    return _parse_layers(list(name_or_list))


def _named(name: str) -> Architecture:
    if name.endswith(_NNGP) and not name.endswith(2 * _NNGP):
        # The tangent kernel of a network whose dense layer alone is trained is its NNGP.
        base = _named(name.removesuffix(_NNGP))
        convs = [replace(conv, trained=False) for conv in base.convs]
        return replace(base, convs=tuple(convs), dense_trained=True)
    if name == "chen2020":
        last = len(_CHEN2020_STRIDES) - 1
        convs = [Conv(3, s, relu=i < last) for i, s in enumerate(_CHEN2020_STRIDES)]
        return Architecture(tuple(convs), "flatten")
    match = re.fullmatch(r"arora2019-(vanilla|gap)-([1-9]\d{0,3})", name)
    if match is None or int(match[2]) < 2 or name == "arora2019-gap-2":
        raise ArchitectureError(
            f"unknown architecture {shorten(repr(name))}: wanted 'chen2020',"
            " 'arora2019-vanilla-D' with D >= 2, 'arora2019-gap-D' with D >= 3 (D = number of"
            f" convolutions + 1), one of these with {_NNGP} at its end, or a list of layers"
        )
    is_gap, n_convs = match[1] == "gap", int(match[2]) - 1
    # Arora et al. fix the first convolution and the last layer in their GAP tables only.
    convs = [Conv(3, trained=not (is_gap and i == 0), relu=True) for i in range(n_convs)]
    return Architecture(tuple(convs), READOUTS[is_gap], dense_trained=not is_gap)


def _parse_layers(layers: list[Any]) -> Architecture:
    items = [_parse_layer(i, layer) for i, layer in enumerate(layers)]
    kinds = [kind for kind, _ in items]
    n_body = next((i for i, kind in enumerate(kinds) if kind in READOUTS), len(kinds))
    convs: list[Conv] = []
    for i, (kind, options) in enumerate(items[:n_body]):
        if kind == "conv":
            convs.append(Conv(**options))
        elif kind == "relu" and i > 0 and kinds[i - 1] == "conv":
            convs[-1] = Conv(**items[i - 1][1], relu=True)
        else:
            raise ArchitectureError(
                f"layer {i} is {kind!r}: before the readout come convolutions, each followed by"
                " at most one 'relu'"
            )
    if not convs:
        raise ArchitectureError("the architecture has no convolution: start with {conv: {size: 3}}")
    if kinds[n_body + 1 :] != ["dense"]:
        raise ArchitectureError(
            f"the list must end with one readout ({' or '.join(READOUTS)}) and 'dense', found"
            f" {shorten(str(kinds[n_body:] or 'neither'))}"
        )
    dense_trained = items[-1][1].get("trained", True)
    if not dense_trained and not any(conv.trained for conv in convs):
        raise ArchitectureError("no layer is trained, so the NTK is zero: train at least one")
    return Architecture(tuple(convs), kinds[n_body], dense_trained)


# Option name -> type, for each kind of layer that takes options.
_OPTIONS: dict[str, dict[str, type]] = {
    "conv": {"size": int, "stride": int, "trained": bool},
    "dense": {"trained": bool},
}


def _parse_layer(i: int, layer: Any) -> tuple[str, dict[str, Any]]:
    """Return the kind of layer `i` and its checked options."""
    if isinstance(layer, str) and layer in ("relu", "dense", *READOUTS):
        return layer, {}
    if not (isinstance(layer, Mapping) and len(layer) == 1 and next(iter(layer)) in _OPTIONS):
        raise ArchitectureError(
            f"layer {i} is {shorten(repr(layer))}: wanted {{conv: {{size, stride, trained}}}},"
            f" 'relu', {', '.join(map(repr, READOUTS))}, 'dense' or {{dense: {{trained: false}}}}"
        )
    kind, options = next(iter(layer.items()))
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ArchitectureError(
            f"layer {i}: the options of {kind!r} are no mapping: {shorten(repr(options))}"
        )
    for key, value in options.items():
        wanted = _OPTIONS[kind].get(key)
        if wanted is None:
            raise ArchitectureError(
                f"layer {i}: {kind!r} has no option {shorten(repr(key))}, only"
                f" {', '.join(_OPTIONS[kind])}"
            )
        if type(value) is not wanted:
            kind_of_value = "true or false" if wanted is bool else "a whole number"
            raise ArchitectureError(
                f"layer {i}: {key} is {shorten(repr(value))}, wanted {kind_of_value}"
            )
    if kind == "conv":
        if options.get("size", 0) < 1 or options["size"] % 2 == 0:
            raise ArchitectureError(
                f"layer {i}: size is {options.get('size')}, wanted an odd number of pixels"
            )
        if options.get("stride", 1) < 1:
            raise ArchitectureError(f"layer {i}: stride is {options['stride']}, wanted 1 or more")
    return kind, dict(options)
