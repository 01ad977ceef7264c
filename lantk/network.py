"""The finite network of an architecture: the trained baseline, and the exact kernel's test.

`Network` reads the `Architecture` that the exact kernel reads, with the same padding rule, and
has two parameterizations. ``standard`` is the baseline of Chen et al. (2020): biases, PyTorch's
default initialisation, trained by `train`. ``ntk`` has no biases, weights N(0, 1) and divides by
sqrt(fan-in) in the forward pass: with many channels its `empirical_ntk` tends to the exact kernel.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 4 (the baseline).
Jacot, Gabriel and Hongler, "Neural Tangent Kernel", NeurIPS 2018 (the parameterization).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lantk.architecture import Architecture, parse_architecture, same_padding
from lantk.errors import LantkError

PARAMETERIZATIONS = ("standard", "ntk")

# Images evaluated at once: more are no faster on a CPU, and this many fit any device.
_EVALUATION_BATCH = 128


class TrainingError(LantkError):
    """A training run that left the finite numbers; the message says what to turn."""


@dataclass(frozen=True)
class TrainingHistory:
    """What `train` saw, one row per epoch."""

    train_loss: NDArray[np.float64]
    """(epochs,), mean squared error over the epoch's batches, each before its step."""
    test_scores: NDArray[np.float32]
    """(epochs, n_test), network output minus 0.5: 0 or more predicts the class +1."""
    seconds: float
    """Wall time of the training, evaluation after each epoch included."""
    n_parameters: int
    """Number of weights and biases, those of layers that are not trained included."""


def default_channels(architecture: str | Sequence[Any] | Architecture) -> list[int]:
    """Return the baseline's output channels of each convolution, narrow where images are large.

    16 for the first convolution, then 64 times the stride so far, at most 256: for ``chen2020``
    the widths that Chen et al. (2020) train on class pairs.

    Examples
    --------
    >>> default_channels("chen2020")
    [16, 64, 64, 128, 128, 256, 256]
    """
    convs = parse_architecture(architecture).convs
    strides = [math.prod(conv.stride for conv in convs[: i + 1]) for i in range(len(convs))]
    return [16] + [min(64 * stride, 256) for stride in strides[1:]]


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
    parameterization : {"standard", "ntk"}
        ``standard``: biases, PyTorch's default initialisation. ``ntk``: no biases, weights
        N(0, 1), divided by sqrt(fan-in) in the forward pass (filter size^2 x input channels, at
        the borders too; features for the dense layer).
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
        self.channels = default_channels(self.architecture) if channels is None else list(channels)
        self._check_sizes()
        sides = self.architecture.sides(*self.image_shape[1:])
        self._paddings = [
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
            if parameterization == "ntk":
                for parameter in self.parameters():
                    nn.init.normal_(parameter)
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
        layers = cast(Iterable[nn.Conv2d], self.convs)
        for conv, layer, padding in zip(
            self.architecture.convs, layers, self._paddings, strict=True
        ):
            # The convolution pads both ends alike; a zero more after is put there first.
            (top, bottom), (left, right) = padding
            if (bottom, right) != (top, left):
                x = functional.pad(x, (0, right - left, 0, bottom - top))
            weight = self._scaled(layer.weight)
            x = functional.conv2d(x, weight, layer.bias, conv.stride, (top, left))
            if conv.relu:
                x = functional.relu(x)
        x = x.flatten(1) if self.architecture.readout == "flatten" else x.mean((2, 3))
        return functional.linear(x, self._scaled(self.dense.weight), self.dense.bias)

    def _scaled(self, weight: Tensor) -> Tensor:
        if self.parameterization == "standard":
            return weight
        return weight / math.sqrt(weight[0].numel())

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
                f" {' or '.join(map(repr, PARAMETERIZATIONS))}"
            )


def train(
    network: Network,
    x_train: NDArray[np.floating],
    y_train: NDArray[Any],
    x_test: NDArray[np.floating],
    *,
    epochs: int = 300,
    batch_size: int = 128,
    learning_rate: float = 3e-4,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int, float], None] | None = None,
) -> TrainingHistory:
    """Train `network` in place on two classes, and score the test images after each epoch.

    Mean squared error on the targets 0 and 1, Adam, a new order of all train images each epoch
    (the last batch is the smaller rest); no augmentation, no weight decay.

    Parameters
    ----------
    network : Network
        One output. It stays on `device`.
    x_train : ndarray, shape (n_train, channels, height, width)
        Scaled images; computed with as float32.
    y_train : ndarray, shape (n_train,)
        Labels -1 and +1.
    x_test : ndarray, shape (n_test, channels, height, width)
        Images to score. Their labels are not asked for.
    epochs, batch_size : int
        Passes over the train images; images per step.
    learning_rate : float
        Of Adam; its other constants are PyTorch's.
    seed : int
        Seed of the order of the images. Give `Network` one too.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes the first GPU if there is one.
    progress : callable, optional
        Called as ``progress(epoch, epochs, train_loss)`` after each epoch, counted from 1.

    Returns
    -------
    TrainingHistory

    Raises
    ------
    TrainingError
        If the loss or a score stops being finite.
    ValueError
        If an argument has a wrong shape, type or range.

    Notes
    -----
    The same seeds, device and number of threads give the same bytes.

    References
    ----------
    Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 4.
    """
    _check_schedule(network, epochs, batch_size, learning_rate)
    place = _find_device(device)
    x, x_held_out = (
        _as_tensor(images, name, network).to(place, torch.float32)
        for images, name in ((x_train, "x_train"), (x_test, "x_test"))
    )
    targets = _as_targets(y_train, len(x)).to(place)
    network.to(place, torch.float32)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate, fused=True)
    # On the CPU, so that the order is the same on every device.
    generator = torch.Generator().manual_seed(seed)
    train_loss = np.empty(epochs)
    test_scores = np.empty((epochs, len(x_held_out)), np.float32)
    start = time.perf_counter()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=generator).to(place)
            train_loss[epoch] = _train_epoch(network, optimizer, x, targets, order, batch_size)
            test_scores[epoch] = _outputs(network, x_held_out).sub(0.5).cpu().numpy()
            if not (np.isfinite(train_loss[epoch]) and np.isfinite(test_scores[epoch]).all()):
                raise TrainingError(
                    f"epoch {epoch + 1} of {epochs}: train loss {train_loss[epoch]:.3g},"
                    f" {np.sum(~np.isfinite(test_scores[epoch]))} of {len(x_held_out)} test"
                    f" scores not finite. Lower `learning_rate` ({learning_rate:g}; try a tenth)"
                    " or scale the images to [-1, 1]"
                )
            if progress is not None:
                progress(epoch + 1, epochs, float(train_loss[epoch]))
    seconds = time.perf_counter() - start
    return TrainingHistory(train_loss, test_scores, seconds, network.n_parameters)


def empirical_ntk(
    network: Network, x1: NDArray[np.floating], x2: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """Return the network's own tangent kernel, <grad f(x), grad f(x')> over trained parameters.

    Parameters
    ----------
    network : Network
        One output; computed with where it lies and in its precision.
    x1, x2 : ndarray, shape (n, channels, height, width)
        Scaled images; by default `x2` is `x1`.

    Returns
    -------
    ndarray, shape (n1, n2)

    Raises
    ------
    ValueError
        If the network has several outputs, or the images have a wrong shape, type or value.

    Notes
    -----
    Memory: all gradients are held at once, (n1 + n2) x trained parameters.

    References
    ----------
    Jacot, Gabriel and Hongler, "Neural Tangent Kernel", NeurIPS 2018, equation 3.
    """
    _check_one_output(network)
    trained: dict[str, Tensor] = {}
    fixed: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        (trained if parameter.requires_grad else fixed)[name] = parameter.detach()

    def output(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        outputs = torch.func.functional_call(network, (parameters, fixed), (image[None],))
        return outputs[0, 0]

    def flat_gradients(images: NDArray[np.floating], name: str) -> list[Tensor]:
        x = _as_tensor(images, name, network).to(network.dense.weight)
        gradients = torch.func.vmap(torch.func.grad(output), (None, 0))(trained, x)
        return [gradient.flatten(1) for gradient in gradients.values()]

    gradients1 = flat_gradients(x1, "x1")
    gradients2 = gradients1 if x2 is None else flat_gradients(x2, "x2")
    kernel = sum(g1 @ g2.T for g1, g2 in zip(gradients1, gradients2, strict=True))
    return kernel.cpu().numpy()  # type: ignore[union-attr]


def _train_epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    targets: Tensor,
    order: Tensor,
    batch_size: int,
) -> float:
    """Take one step per batch of `order`; return the mean loss per image."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for batch in order.split(batch_size):
        optimizer.zero_grad()
        loss = functional.mse_loss(network(x[batch]).squeeze(1), targets[batch])
        loss.backward()
        optimizer.step()
        # Summed where it lies: reading the loss here would wait for a GPU at every step.
        total += loss.detach() * len(batch)
    return float(total) / len(order)


@torch.no_grad()
def _outputs(network: Network, x: Tensor) -> Tensor:
    """Return the first output (n,) of images (n, channels, height, width)."""
    return torch.cat([network(batch)[:, 0] for batch in x.split(_EVALUATION_BATCH)])


def _as_tensor(images: NDArray[Any], name: str, network: Network) -> Tensor:
    """Return checked images as a tensor."""
    images = np.asarray(images)
    if images.dtype.kind != "f":
        raise TrainingError(f"`{name}` is {images.dtype}: scale the images to [-1, 1] floats first")
    if images.ndim != 4 or images.shape[1:] != network.image_shape:
        raise TrainingError(
            f"`{name}` has shape {images.shape}, but the network wants (n,"
            f" {', '.join(map(str, network.image_shape))})"
        )
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if bad.size:
        raise TrainingError(
            f"`{name}` has NaN or infinite pixels in {bad.size} of {len(images)} images, the first"
            f" is image {bad[0]}: repair or leave out these images"
        )
    return torch.from_numpy(np.ascontiguousarray(images))


def _as_targets(y: NDArray[Any], n: int) -> Tensor:
    """Return labels -1 and +1 as float32 targets 0 and 1."""
    y = np.asarray(y)
    if n == 0:
        raise TrainingError("`x_train` has no image: give at least one of each class")
    if y.shape != (n,):
        raise TrainingError(
            f"`y_train` has shape {y.shape}, wanted ({n},): one label for each image"
        )
    if not np.isin(y, (-1, 1)).all():
        raise TrainingError(f"`y_train` has values {np.unique(y)[:5]}, wanted -1 and +1")
    return torch.from_numpy((y > 0).astype(np.float32))


def _check_schedule(network: Network, epochs: int, batch_size: int, learning_rate: float) -> None:
    _check_one_output(network)
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise TrainingError(f"`{name}` is {count}, wanted a whole number, 1 or more")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise TrainingError(f"`learning_rate` is {learning_rate}, wanted a positive number")


def _check_one_output(network: Network) -> None:
    if network.n_outputs != 1:
        raise TrainingError(f"the network has {network.n_outputs} outputs, wanted `n_outputs=1`")


def _find_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"`device` is {device!r}, wanted 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("`device` is 'cuda', but PyTorch finds no GPU: use 'cpu' or 'auto'")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
