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
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lantk.errors import LantkError, Row
from lantk.kernel.architecture import Architecture, same_padding
from lantk.kernel.grammar import parse_architecture

PARAMETERIZATIONS = ("standard", "he", "ntk")

# Output channels of every convolution of a network without strides.
_PLAIN_WIDTH = 128


class TrainingError(LantkError):
    """A network or a training run that cannot be; the message says what to turn."""


def default_channels(
    architecture: str | Sequence[Any] | Architecture, n_outputs: int = 1
) -> list[int]:
    """Return the output channels of each convolution, where none are asked for.

    With strides, 16 for the first convolution, then 64 times the stride so far (128 times for
    several outputs), at most four times that: for ``chen2020`` the widths that Chen et al. (2020)
    train on class pairs and on ten classes. Without, 128 for every convolution, the first too,
    because ``arora2019-gap-D`` does not train it and later layers see nothing but its features;
    depth 21 then takes 6 gigaflop for one 32 x 32 image (forward).

    Examples
    --------
    >>> default_channels("chen2020"), default_channels("arora2019-gap-4", 10)
    ([16, 64, 64, 128, 128, 256, 256], [128, 128, 128])
    """
    convs = parse_architecture(architecture).convs
    strides = [math.prod(conv.stride for conv in convs[: i + 1]) for i in range(len(convs))]
    if strides[-1] == 1:
        return [_PLAIN_WIDTH] * len(convs)
    width = 64 if n_outputs == 1 else 128
    return [16] + [width * min(stride, 4) for stride in strides[1:]]


def default_parameterization(architecture: str | Sequence[Any] | Architecture) -> str:
    """Return how a network that is trained starts: ``standard``, or ``he`` where that cannot train.

    PyTorch's default initialisation shrinks the signal to about a sixth of its variance at each
    convolution with its ReLU: of a network 21 deep the biases are all that is left. So a network
    without strides whose every convolution has a ReLU, as those of Arora et al. (2019), is ``he``.

    Examples
    --------
    >>> default_parameterization("chen2020"), default_parameterization("arora2019-gap-21")
    ('standard', 'he')
    """
    convs = parse_architecture(architecture).convs
    return "he" if all(conv.relu and conv.stride == 1 for conv in convs) else "standard"


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
        Output channels of each convolution; by default those of `default_channels`.
    n_outputs : int
        Outputs of the dense layer.
    parameterization : {"standard", "he", "ntk"}
        ``standard``: biases, PyTorch's default initialisation. ``he``: no biases, weights
        N(0, 2 / fan-in) where a ReLU follows and N(0, 1 / fan-in) elsewhere. ``ntk``: no biases,
        weights N(0, 1), divided by sqrt(fan-in) in the forward pass (filter size^2 x input
        channels, at the borders too; features for the dense layer).
    seed : int
        Seed of the initial parameters. The global random state is neither read nor changed.

    Raises
    ------
    ValueError
        If a size, the number of channels or the parameterization is not one that exists.

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
        sides = self.architecture.sides(*self.image_shape[1:])
        self.paddings = [
            [same_padding(side, conv.size, conv.stride) for side in shape]
            for conv, shape in zip(self.architecture.convs, sides, strict=False)
        ]
        n_positions = math.prod(sides[-1]) if self.architecture.readout == "flatten" else 1
        widths = [self.image_shape[0], *self.channels]
        bias = parameterization == "standard"
        # PyTorch's default initialisers draw from the global CPU generator only.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.convs = nn.ModuleList(
                nn.Conv2d(widths[i], widths[i + 1], conv.size, conv.stride, bias=bias)
                for i, conv in enumerate(self.architecture.convs)
            )
            self.dense = nn.Linear(widths[-1] * n_positions, n_outputs, bias=bias)
            if parameterization != "standard":
                self._draw_normal_weights()
        for conv, layer in zip(self.architecture.convs, self.convs, strict=True):
            layer.requires_grad_(conv.trained)
        self.dense.requires_grad_(self.architecture.dense_trained)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases, trained or not."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, n_outputs) of images (n, channels, height, width)."""
        return self.read_out(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return what the dense layer reads of images, (n, features)."""
        for i in range(len(self.convs)):
            x = self.activate(i, self.convolve(i, x))
        return self.pool(x)

    def convolve(self, i: int, x: Tensor) -> Tensor:
        """Return what convolution `i` makes of its input, before its ReLU."""
        conv, layer = self.architecture.convs[i], cast(nn.Conv2d, self.convs[i])
        # The convolution pads both ends alike; a zero more after is put there first.
        (top, bottom), (left, right) = self.paddings[i]
        if (bottom, right) != (top, left):
            x = functional.pad(x, (0, right - left, 0, bottom - top))
        return functional.conv2d(
            x, self._scaled(layer.weight), layer.bias, conv.stride, (top, left)
        )

    def activate(self, i: int, x: Tensor) -> Tensor:
        """Return the output of convolution `i` after its ReLU, if it has one."""
        return functional.relu(x) if self.architecture.convs[i].relu else x

    def pool(self, x: Tensor) -> Tensor:
        """Return what the dense layer reads of the last convolution's output, (n, features)."""
        return x.flatten(1) if self.architecture.readout == "flatten" else x.mean((2, 3))

    def read_out(self, features: Tensor) -> Tensor:
        """Return the outputs (n, n_outputs) of features."""
        return functional.linear(features, self._scaled(self.dense.weight), self.dense.bias)

    def weight_scale(self, weight: Tensor) -> float:
        """Return what a weight is multiplied by in the forward pass."""
        return 1 / math.sqrt(weight[0].numel()) if self.parameterization == "ntk" else 1.0

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

    def _draw_normal_weights(self) -> None:
        """Draw weights of variance 1 (``ntk``), or so that activations keep their size (``he``)."""
        gains = [2.0 if conv.relu else 1.0 for conv in self.architecture.convs] + [1.0]
        for weight, gain in zip(self.parameters(), gains, strict=True):
            is_he = self.parameterization == "he"
            nn.init.normal_(weight, std=math.sqrt(gain / weight[0].numel()) if is_he else 1.0)

    def _scaled(self, weight: Tensor) -> Tensor:
        return weight * self.weight_scale(weight) if self.parameterization == "ntk" else weight

    def _check_sizes(self) -> None:
        n_convs = len(self.architecture.convs)
        if len(self.channels) != n_convs:
            raise TrainingError(
                f"`channels` has {len(self.channels)} numbers ({self.channels}), but the"
                f" architecture has {n_convs} convolutions: give one number for each, or none"
            )
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
