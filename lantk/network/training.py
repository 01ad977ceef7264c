"""Training of a finite network.

Test images are predicted, their labels are asked for nowhere: what the predictions are worth is
for `protocols.assess_network` to say.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 4 (the schedule).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lantk.labels import class_labels
from lantk.network.layers import Network, TrainingError

LOSSES = ("squared", "cross-entropy")

# Images evaluated at once: more are no faster on a CPU, and this many fit any device.
_EVALUATION_BATCH = 128

# What a run needs to go on: tensors, numbers, lists and dictionaries of them.
State = Mapping[str, Any]


class DivergenceError(TrainingError):
    """A training run that left the finite numbers; the message says what to turn."""


@dataclass(frozen=True)
class TrainingHistory:
    """What `train` saw, one row per epoch."""

    train_loss: NDArray[np.float64]
    """(epochs,), mean loss over the epoch's batches, each before its step."""
    test_predictions: NDArray[Any]
    """(epochs, n_test): float32 scores, or int16 class numbers."""
    seconds: float
    """Wall time of the training, evaluation after each epoch included."""
    n_parameters: int
    """Number of weights and biases, those of layers that are not trained included."""


def train(
    network: Network,
    x_train: NDArray[np.floating],
    y_train: NDArray[Any],
    x_test: NDArray[np.floating],
    *,
    epochs: int = 300,
    batch_size: int = 128,
    learning_rate: float = 3e-4,
    loss: str = "squared",
    targets: tuple[float, float] = (0.0, 1.0),
    flips: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int, float], None] | None = None,
    resume: State | None = None,
    keep: Callable[[State], None] | None = None,
) -> TrainingHistory:
    """Train `network` in place, and predict the test images after each epoch.

    Adam, a new order of all train images each epoch (the last batch is the smaller rest); no weight
    decay, and no augmentation but what `flips` asks for.

    Parameters
    ----------
    network : Network
        One output for two classes, k outputs for k. It stays on `device`.
    x_train, x_test : ndarray, shape (n, channels, height, width)
        Scaled images; computed with as float32. Test labels are not asked for.
    y_train : ndarray, shape (n_train,)
        Labels: -1 and +1 for one output, 0 ... k - 1 for k.
    epochs, batch_size : int
        Passes over the train images; images per step.
    learning_rate : float
        Of Adam; its other constants are PyTorch's.
    loss : {"squared", "cross-entropy"}
        Mean squared error over images and outputs, or cross-entropy (of a sigmoid for one output,
        of a softmax for k).
    targets : (float, float)
        What the squared error wants of an output: the second where it stands for the image's class,
        else the first. Cross-entropy does not read it.
    flips : bool
        Whether each train image is mirrored, its columns in reverse, in half of the epochs, drawn
        anew for each image and epoch. Test images are seen as they are.
    seed : int
        Seed of the order of the images, and of their flips. Give `Network` one too.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes the first GPU if there is one.
    progress : callable, optional
        Called as ``progress(epoch, epochs, train_loss)`` after each epoch, counted from 1.
    resume : mapping, optional
        What `keep` was given in a run with the same arguments: it goes on from there.
    keep : callable, optional
        Called after each epoch with the state to resume from, which the next epoch changes: write
        or copy it at once, or leave it.

    Returns
    -------
    TrainingHistory
        With one output a prediction is a score, the output less the middle of its targets; with k
        it is the number of the largest output.

    Raises
    ------
    DivergenceError
        If the loss or an output stops being finite.
    TrainingError
        If an argument has a wrong shape, type or range.

    Notes
    -----
    The same seeds, device and number of threads give the same bytes, resumed or not.
    """
    _check_schedule(epochs, batch_size, learning_rate, loss, targets)
    place = find_device(device)
    # Read when a GPU's matrix products are first used: with more streams than one they may differ.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x, x_held_out = (
        network.to_tensor(images, name).to(place, torch.float32)
        for images, name in ((x_train, "x_train"), (x_test, "x_test"))
    )
    low, high = targets if loss == "squared" else (0.0, 1.0)
    wanted = _as_targets(y_train, len(x), network.n_outputs, low, high).to(place)
    # The logit of one half is 0.
    threshold = (low + high) / 2 if loss == "squared" else 0.0
    run = _Run(network.to(place, torch.float32), epochs, len(x_held_out), learning_rate, seed)
    first, seconds_before = (0, 0.0) if resume is None else run.restore(resume)
    loss_function = _find_loss(loss, network)
    start = time.perf_counter() - seconds_before
    with _deterministic():
        for epoch in range(first, epochs):
            order = torch.randperm(len(x), generator=run.generator).to(place).split(batch_size)
            seen = _flip_some(x, run.generator) if flips else x
            mean_loss = _train_epoch(network, run.optimizer, loss_function, seen, wanted, order)
            outputs = _outputs(network, x_held_out)
            _check_finite(mean_loss, outputs, f"epoch {epoch + 1} of {epochs}", learning_rate)
            run.train_loss[epoch] = mean_loss
            is_score = network.n_outputs == 1
            found = outputs[:, 0].sub(threshold) if is_score else outputs.argmax(1)
            run.predictions[epoch] = found.cpu().numpy()
            if keep is not None:
                keep(run.state(epoch + 1, time.perf_counter() - start))
            if progress is not None:
                progress(epoch + 1, epochs, mean_loss)
    seconds = time.perf_counter() - start
    return TrainingHistory(run.train_loss, run.predictions, seconds, network.n_parameters)


def find_device(device: str) -> torch.device:
    """Return where ``auto``, ``cpu`` or ``cuda`` is, the first GPU for ``auto`` if there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"`device` is {device!r}, wanted 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("`device` is 'cuda', but PyTorch finds no GPU: use 'cpu' or 'auto'")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def _deterministic() -> Iterator[None]:
    """Take only algorithms that give the same bytes each time; PyTorch raises where it has none."""
    before = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns_only)


class _Run:
    """All that changes while a network trains."""

    def __init__(
        self, network: Network, epochs: int, n_test: int, learning_rate: float, seed: int
    ) -> None:
        self.network = network
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=learning_rate, fused=True)
        # On the CPU, so that the order of the images is the same on every device.
        self.generator = torch.Generator().manual_seed(seed)
        self.train_loss = np.empty(epochs)
        kind = np.float32 if network.n_outputs == 1 else np.int16
        self.predictions = np.empty((epochs, n_test), kind)

    def state(self, epoch: int, seconds: float) -> dict[str, Any]:
        """Return what `restore` reads, after `epoch` epochs."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "train_loss": torch.from_numpy(self.train_loss[:epoch]),
            "test_predictions": torch.from_numpy(self.predictions[:epoch]),
            "seconds": seconds,
        }

    def restore(self, state: State) -> tuple[int, float]:
        """Take a state over; return how many epochs it is after, and their seconds."""
        epoch = len(state["train_loss"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.train_loss[:epoch] = state["train_loss"].numpy()
        self.predictions[:epoch] = state["test_predictions"].numpy()
        return epoch, state["seconds"]


def _train_epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    targets: Tensor,
    batches: Sequence[Tensor],
) -> float:
    """Take one step per batch of rows; return the mean loss per image."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_function(network(x[batch]), targets[batch])
        loss.backward()
        optimizer.step()
        # Summed where it lies: reading the loss here would wait for a GPU at every step.
        total += loss.detach() * len(batch)
    return float(total) / len(x)


def _flip_some(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, channels, height, width), each mirrored with probability 1/2."""
    # Drawn on the CPU, where the generator is, so that they are the same on every device.
    is_mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return torch.where(is_mirrored[:, None, None, None], x.flip(-1), x)


def _find_loss(loss: str, network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    if loss == "squared":
        return functional.mse_loss
    if network.n_outputs == 1:
        return functional.binary_cross_entropy_with_logits
    return functional.cross_entropy


@torch.no_grad()
def _outputs(network: Network, x: Tensor) -> Tensor:
    """Return the outputs (n, n_outputs) of images (n, channels, height, width)."""
    return torch.cat([network(batch) for batch in x.split(_EVALUATION_BATCH)])


def _as_targets(y: NDArray[Any], n: int, n_outputs: int, low: float, high: float) -> Tensor:
    """Return labels as float32 targets (n, n_outputs)."""
    y = np.asarray(y)
    if n == 0:
        raise TrainingError("`x_train` has no image: give at least one of each class")
    if y.shape != (n,):
        raise TrainingError(
            f"`y_train` has shape {y.shape}, wanted ({n},): one label for each image"
        )
    legal = class_labels(n_outputs)
    if not np.isin(y, legal).all():
        wanted = "-1 and +1" if n_outputs == 1 else f"class numbers from 0 to {n_outputs - 1}"
        raise TrainingError(
            f"`y_train` has values {np.unique(y)[:5]}, wanted {wanted} for a network of"
            f" {n_outputs} output{'s' * (n_outputs > 1)}"
        )
    # One output stands for the class +1.
    stands_for = legal[-n_outputs:]
    return torch.from_numpy(np.where(y[:, None] == stands_for, high, low).astype(np.float32))


def _check_finite(train_loss: float, outputs: Tensor, when: str, learning_rate: float) -> None:
    n_bad = int((~outputs.isfinite()).any(1).sum())
    if np.isfinite(train_loss) and not n_bad:
        return
    raise DivergenceError(
        f"{when}: train loss {train_loss:.3g}, {n_bad} of {len(outputs)} test scores not finite."
        f" Lower `learning_rate` ({learning_rate:g}; try a tenth) or scale the images"
        " to [-1, 1]"
    )


def _check_schedule(
    epochs: int, batch_size: int, learning_rate: float, loss: str, targets: tuple[float, float]
) -> None:
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise TrainingError(f"`{name}` is {count}, wanted a whole number, 1 or more")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise TrainingError(f"`learning_rate` is {learning_rate}, wanted a positive number")
    if loss not in LOSSES:
        raise TrainingError(f"`loss` is {loss!r}, wanted {' or '.join(map(repr, LOSSES))}")
    if not (np.isfinite(targets).all() and len(targets) == 2 and targets[0] < targets[1]):
        raise TrainingError(f"`targets` is {targets}, wanted two numbers, the lower first")
