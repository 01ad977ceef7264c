"""The finite network of an architecture: the trained baseline, and the exact kernel's test.

`Network` reads the `Architecture` that the exact kernel reads, with the same padding rule, in three
parameterizations: ``standard`` is the baseline of Chen et al. (2020), ``he`` keeps the size of the
signal through any depth, for the networks of Arora et al. (2019), and the tangent kernel of ``ntk``
tends, with many channels, to the exact one.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 4 (the baseline).
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019.
He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10 (``he``).
Jacot, Gabriel and Hongler, "Neural Tangent Kernel", NeurIPS 2018 (the parameterization).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lantk.errors import LantkError, Row
from lantk.kernel.activations import variance
from lantk.kernel.architecture import (
    Activation,
    Architecture,
    AveragePool,
    Conv,
    Dense,
    Layer,
    Residual,
)
from lantk.kernel.grammar import parse_architecture
from lantk.network.defaults import activations_behind, default_channels

PARAMETERIZATIONS = ("standard", "he", "ntk")

# Zeros above and below, left and right.
Padding = tuple[tuple[int, int], tuple[int, int]]


class TrainingError(LantkError):
    """A network or a training run that cannot be; the message says what to turn."""


class Network(nn.Module):
    """An architecture with finitely many channels.

    Parameters
    ----------
    architecture : str, list or Architecture
        What `parse_architecture` reads. Layers with ``trained: false`` get parameters that need
        no gradient.
    image_shape : tuple of int
        Channels, height and width of one image.
    channels : list of int, optional
        Of each hidden layer: output channels of the convolutions, those of residuals too, then of
        the dense layers but the last. By default those of `default_channels`.
    n_outputs : int
        Outputs of the last dense layer.
    parameterization : {"standard", "he", "ntk"}
        ``standard``: biases everywhere, PyTorch's default initialisation. ``he``: weights
        N(0, g / fan-in), g = 1 / E f(z)^2 with standard normal z where an activation f follows (2
        for a ReLU), 1 elsewhere; biases N(0, bias^2) where the description has a bias. ``ntk``:
        weights N(0, 1), divided by sqrt(fan-in) in the forward pass (filter size^2 x input
        channels, at the borders too; features for a dense layer), and biases N(0, 1), multiplied
        by the description's bias there.
    seed : int
        Seed of the initial parameters. The global random state is neither read nor changed.

    Raises
    ------
    TrainingError
        If a size or the parameterization is not one that exists.
    ArchitectureError
        If `channels` are not those of the architecture: too few, too many, or a residual's branch
        and input of different ones.

    Notes
    -----
    Convolution weights lie channels-last in memory: 1.3 times as fast on a CPU.

    Examples
    --------
    >>> network = Network("chen2020", (3, 32, 32))
    >>> network.n_parameters
    1169729
    >>> network(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        architecture: str | Sequence[Any] | Architecture,
        image_shape: tuple[int, int, int],
        channels: Sequence[int] | None = None,
        n_outputs: int = 1,
        parameterization: str = "standard",
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.architecture = parse_architecture(architecture)
        self.image_shape = tuple(image_shape)
        self.n_outputs = n_outputs
        self.parameterization = parameterization
        self.channels = (
            default_channels(self.architecture, n_outputs) if channels is None else list(channels)
        )
        self._check_sizes()
        names = self.architecture.layer_names
        height, width = self.image_shape[1:]
        shapes = self.architecture.shapes(height, width)
        paddings = [one.padding for one in shapes if isinstance(one.layer, Conv)]
        self.paddings: dict[str, Padding] = dict(zip(names, paddings, strict=False))
        """Of each convolution, by its name."""
        self._pool_paddings = [one.padding for one in shapes if not isinstance(one.layer, Conv)]
        given: list[Conv | Dense] = [*self.architecture.convs, *self.architecture.denses]
        self.given = dict(zip(names, given, strict=True))
        """The description of each layer with weights."""
        self.layers = self._make_layers(seed)
        """Each layer with weights, from the input on."""
        *rest, last = self.layers.values()
        # In this order, and under these names in files of weights.
        self.convs = nn.ModuleList(rest[: len(paddings)])
        self.hidden = nn.ModuleList(rest[len(paddings) :])
        self.dense = last
        for name, layer in self.layers.items():
            layer.requires_grad_(self.given[name].trained)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases, trained or not."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, n_outputs) of images (n, channels, height, width)."""
        return self.run(x, self.layer_output)

    def features(self, x: Tensor) -> Tensor:
        """Return what the last dense layer reads of images, (n, features)."""
        *_, last = self.layers
        return self.run(x, lambda name, z: z if name == last else self.layer_output(name, z))

    def run(self, x: Tensor, compute: Callable[[str, Tensor], Tensor]) -> Tensor:
        """Return the outputs of images where ``compute(name, x)`` is done by layers with weights.

        With `layer_output` it is the network.
        """
        names, paddings = iter(self.layers), iter(self._pool_paddings)

        def through(layers: Sequence[Layer | Dense], x: Tensor) -> Tensor:
            for layer in layers:
                match layer:
                    case Residual():
                        x = x + through(layer.layers, x)
                    case AveragePool(size, stride):
                        x, start = _pad_after(x, next(paddings))
                        # Zeros count: every window is divided by its size squared.
                        x = functional.avg_pool2d(x, size, stride, start)
                    case Activation():
                        x = _activate(layer, x)
                    case _:
                        x = compute(next(names), x)
            return x

        x = through(self.architecture.body, x)
        x = x.flatten(1) if self.architecture.readout == "flatten" else x.mean((2, 3))
        return through(self.architecture.head, x)

    def layer_output(self, name: str, x: Tensor) -> Tensor:
        """Return what a layer with weights makes of its input."""
        layer, given = self.layers[name], self.given[name]
        weight, bias = layer.weight, layer.bias
        if self.parameterization == "ntk":
            weight = weight * self.weight_scale(name)
            bias = None if bias is None else bias * given.bias
        if isinstance(given, Dense):
            return functional.linear(x, weight, bias)
        x, start = _pad_after(x, self.paddings[name])
        return functional.conv2d(x, weight, bias, given.stride, start)

    def weight_scale(self, name: str) -> float:
        """Return what the weights of a layer are multiplied by in the forward pass."""
        weight = self.layers[name].weight
        return 1 / math.sqrt(weight[0].numel()) if self.parameterization == "ntk" else 1.0

    def bias_scale(self, name: str) -> float:
        """Return what the biases of a layer are multiplied by in the forward pass."""
        return self.given[name].bias if self.parameterization == "ntk" else 1.0

    def to_tensor(self, images: NDArray[Any], name: str) -> Tensor:
        """Return images as a tensor, once they are floats of this network's shape and finite.

        Raises
        ------
        TrainingError
            If they are not; the message calls them `name`.
        """
        images = np.asarray(images)
        if images.dtype.kind != "f":
            raise TrainingError(
                f"`{name}` is {images.dtype}: scale the images to [-1, 1] floats first"
            )
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise TrainingError(
                f"`{name}` has shape {images.shape}, but the network wants (n,"
                f" {', '.join(map(str, self.image_shape))})"
            )
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        if bad.size:
            raise TrainingError(
                f"`{{0.name}}` has NaN or infinite pixels in {bad.size} of {len(images)} images,"
                " the first is image {0.number}: repair or leave out these images",
                [Row(name, int(bad[0]))],
            )
        return torch.from_numpy(np.ascontiguousarray(images))

    def _make_layers(self, seed: int) -> dict[str, nn.Conv2d | nn.Linear]:
        """Return the layers with weights, which are drawn."""
        height, width = self.architecture.final_shape(*self.image_shape[1:])
        n_positions = height * width if self.architecture.readout == "flatten" else 1
        # A residual's branch gives as many channels as it reads, so every layer reads those of the
        # one before it.
        widths = [self.image_shape[0], *self.channels, self.n_outputs]
        layers: dict[str, nn.Conv2d | nn.Linear] = {}
        # PyTorch's default initialisers draw from the global CPU generator only.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for (name, given), n, m in zip(self.given.items(), widths, widths[1:], strict=False):
                bias = self.parameterization == "standard" or given.bias > 0
                if isinstance(given, Conv):
                    layers[name] = nn.Conv2d(n, m, given.size, given.stride, bias=bias)
                else:
                    is_first = len(layers) == len(self.paddings)
                    layers[name] = nn.Linear(n * n_positions if is_first else n, m, bias=bias)
            if self.parameterization != "standard":
                self._draw_normal(layers)
        return layers

    def _draw_normal(self, layers: dict[str, nn.Conv2d | nn.Linear]) -> None:
        """Draw all of variance 1 (``ntk``), or so that activations keep their size (``he``)."""
        is_he = self.parameterization == "he"
        behind = activations_behind(self.architecture)
        for (name, layer), activation in zip(layers.items(), behind, strict=True):
            gain = 1.0 if activation is None else 1 / float(variance(activation, 1.0))
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in) if is_he else 1.0)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=self.given[name].bias if is_he else 1.0)

    def _check_sizes(self) -> None:
        if len(self.image_shape) != 3:
            raise TrainingError(
                f"`image_shape` is {self.image_shape}, wanted (channels, height, width)"
            )
        named = {"channels": self.channels, "image_shape": self.image_shape}
        for name, sizes in {**named, "n_outputs": (self.n_outputs,)}.items():
            if any(not isinstance(size, int | np.integer) or size < 1 for size in sizes):
                raise TrainingError(f"`{name}` is {sizes}, wanted whole numbers, 1 or more")
        if self.parameterization not in PARAMETERIZATIONS:
            raise TrainingError(
                f"`parameterization` is {self.parameterization!r}, wanted"
                f" {', '.join(map(repr, PARAMETERIZATIONS))}"
            )
        self.architecture.check_channels(self.channels)


def _pad_after(x: Tensor, padding: Padding) -> tuple[Tensor, tuple[int, int]]:
    """Return a layer's input, and the zeros that the layer itself is to put at both ends of it.

    Layers pad both ends alike; a zero more after is put there first.
    """
    (top, bottom), (left, right) = padding
    if (bottom, right) != (top, left):
        x = functional.pad(x, (0, right - left, 0, bottom - top))
    return x, (top, left)


def _activate(activation: Activation, x: Tensor) -> Tensor:
    match activation.kind:
        case "relu":
            return functional.relu(x)
        case "leaky_relu":
            return functional.leaky_relu(x, activation.slope)
        case "erf":
            return torch.erf(x)
        case _:
            return functional.gelu(x)
