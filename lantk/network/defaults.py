"""How wide a finite network is, and how it starts, where nothing is asked for.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 4.
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lantk.kernel.architecture import Activation, Architecture, Conv, Dense, Layer, Residual
from lantk.kernel.grammar import parse_architecture

# Channels of every convolution of a network without strides, and of a hidden dense layer.
_PLAIN_WIDTH, _DENSE_WIDTH = 128, 256


def default_channels(
    architecture: str | Sequence[Any] | Architecture, n_outputs: int = 1
) -> list[int]:
    """Return the channels of each hidden layer: convolutions, then dense layers but the last.

    With strides before the last convolution, or in it, 16 for the first convolution, then 64 times
    the stride so far (128 times for several outputs), at most four times that: for ``chen2020`` the
    widths that Chen et al. (2020) train on class pairs and on ten classes. A pool's stride counts
    too, since it leaves as few positions as that of a convolution. Without, 128 for every
    convolution, the first too, because ``arora2019-gap-D`` does not train it and later layers see
    nothing but its features; depth 21 then takes 6 gigaflop for one 32 x 32 image (forward).

    In a residual every convolution has as many as the residual's input, and a network with
    residuals has no narrow first convolution. Hidden dense layers have 256.

    Examples
    --------
    >>> default_channels("chen2020"), default_channels("arora2019-gap-4", 10)
    ([16, 64, 64, 128, 128, 256, 256], [128, 128, 128])
    >>> default_channels("myrtle5"), default_channels("fully-connected-3")
    ([16, 64, 128, 256], [256, 256])
    """
    network = parse_architecture(architecture)
    strides, stride = [], 1
    # Strides are the same for images of any size.
    for layer, *_ in network.shapes(1, 1):
        stride *= layer.stride
        if isinstance(layer, Conv):
            strides.append(stride)
    if not strides or strides[-1] == 1:
        widths = [_PLAIN_WIDTH] * len(strides)
    else:
        base = 64 if n_outputs == 1 else 128
        widths = [base * min(stride, 4) for stride in strides]
        if not _has_residuals(network):
            widths[0] = 16
    found: list[int] = []

    def take(layers: Sequence[Layer], width: int | None) -> None:
        """Take the widths of layers over; in a branch all are those of the residual's input."""
        for layer in layers:
            if isinstance(layer, Residual):
                take(layer.layers, width or found[-1])
            elif isinstance(layer, Conv):
                found.append(width or widths[len(found)])

    take(network.body, None)
    return found + [_DENSE_WIDTH] * (len(network.denses) - 1)


def default_parameterization(architecture: str | Sequence[Any] | Architecture) -> str:
    """Return how a network that is trained starts: ``standard``, or ``he`` where that cannot train.

    PyTorch's default initialisation shrinks the signal to about a sixth of its variance at each
    convolution with its ReLU: of a network 21 deep the biases are all that is left. So a network
    whose every hidden layer has an activation behind it and whose convolutions have no stride, as
    those of Arora et al. (2019), is ``he``. Residuals let the signal pass, and with ``he`` it would
    grow at each of them: their networks are ``standard``.

    Examples
    --------
    >>> default_parameterization("chen2020"), default_parameterization("arora2019-gap-21")
    ('standard', 'he')
    """
    network = parse_architecture(architecture)
    *hidden, _ = activations_behind(network)
    is_plain = all(conv.stride == 1 for conv in network.convs) and not _has_residuals(network)
    return "he" if hidden and is_plain and None not in hidden else "standard"


def activations_behind(architecture: Architecture) -> list[Activation | None]:
    """Return for each layer with weights the activation directly behind it, or None.

    Examples
    --------
    >>> network = parse_architecture([{"conv": {"size": 3}}, "relu", "flatten", "dense"])
    >>> activations_behind(network)
    [Activation(kind='relu', slope=0.0), None]
    """

    def look(layers: Sequence[Layer | Dense]) -> Iterator[Activation | None]:
        for i, layer in enumerate(layers):
            if isinstance(layer, Residual):
                yield from look(layer.layers)
            elif isinstance(layer, Conv | Dense):
                after = layers[i + 1] if i + 1 < len(layers) else None
                yield after if isinstance(after, Activation) else None

    return [*look(architecture.body), *look(architecture.head)]


def _has_residuals(architecture: Architecture) -> bool:
    return any(isinstance(layer, Residual) for layer in architecture.body)
