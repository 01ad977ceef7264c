"""The learning rate of a finite network, chosen by validation inside the train set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import numbering
from lantk.labels import decide
from lantk.network.layers import Network, TrainingError
from lantk.network.training import DivergenceError, State, TrainingHistory, train


@dataclass(frozen=True)
class TrainingChoice:
    """What `train_at_best_rate` chose, and the training that followed."""

    network: Network
    history: TrainingHistory
    learning_rate: float
    validation_accuracy: list[float | None]
    """Of each learning rate, None where it diverged; empty where there was nothing to choose."""
    seconds: float
    """Wall time of all trainings, interruptions left out."""

    @property
    def best_validation_accuracy(self) -> float | None:
        """Validation accuracy of the chosen learning rate."""
        return max((a for a in self.validation_accuracy if a is not None), default=None)


def train_at_best_rate(
    make_network: Callable[[], Network],
    x_train: NDArray[np.floating],
    y_train: NDArray[Any],
    x_test: NDArray[np.floating],
    *,
    learning_rates: Sequence[float],
    epochs: int,
    validation_share: float = 0.1,
    validation_seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    resume: State | None = None,
    keep: Callable[[State], None] | None = None,
    **schedule: Any,
) -> TrainingChoice:
    """Choose a learning rate by validation inside train, then train on all of train with it.

    Each rate trains a new network on the train images but those of `split_validation`; the best
    accuracy on these after the last epoch wins, the smaller rate a tie. A rate that diverges cannot
    win. With one learning rate there is nothing to choose, and no validation.

    Parameters
    ----------
    make_network : callable
        Returns a new network, the same at each call.
    x_train, y_train, x_test, epochs, **schedule
        As for `train`. No argument for test labels exists.
    learning_rates : sequence of float
        To choose from.
    validation_share, validation_seed
        As for `split_validation`.
    progress : callable, optional
        Called as ``progress(done, total, train_loss)`` after each epoch; both count the epochs of
        all trainings in this call, without those that it resumes from.
    resume, keep
        As for `train`; a state holds the finished trainings too.

    Raises
    ------
    DivergenceError
        If every learning rate diverges, or the chosen one does on all of train.
    TrainingError
        As `train` and `split_validation` do.
    """
    rates = list(learning_rates)
    if not rates:
        raise TrainingError("`learning_rates` is empty: give one learning rate, or several")
    state: State = resume or {"validation_accuracy": [], "seconds": 0.0, "running": None}
    accuracies: list[float | None] = list(state["validation_accuracy"])
    seconds, running = state["seconds"], state["running"]
    n_stages = 1 if len(rates) == 1 else len(rates) + 1
    skipped = len(accuracies) * epochs + (0 if running is None else len(running["train_loss"]))

    def run(
        stage: int, rate: float, x: NDArray[Any], y: NDArray[Any], x_unseen: NDArray[Any]
    ) -> tuple[Network, TrainingHistory]:
        def keep_all(now: State) -> None:
            if keep is not None:
                finished = {"validation_accuracy": list(accuracies), "seconds": seconds}
                keep({**finished, "running": now})

        def report(epoch: int, _: int, train_loss: float) -> None:
            if progress is not None:
                done = stage * epochs + epoch - skipped
                progress(done, n_stages * epochs - skipped, train_loss)

        network = make_network()
        callbacks: dict[str, Any] = {"progress": report, "keep": keep_all, "resume": running}
        options = schedule | {"epochs": epochs, "learning_rate": rate}
        return network, train(network, x, y, x_unseen, **options, **callbacks)

    if len(rates) > 1:
        rows, held_out = split_validation(y_train, validation_share, validation_seed)
        parts = x_train[rows], y_train[rows], x_train[held_out]
        for stage in range(len(accuracies), len(rates)):
            start = time.perf_counter()
            before = 0.0 if running is None else running["seconds"]
            try:
                with numbering({"x_train": ("x_train", rows), "x_test": ("x_train", held_out)}):
                    history = run(stage, rates[stage], *parts)[1]
                decided = decide(history.test_predictions)[-1]
                accuracies.append(float(np.mean(decided == y_train[held_out])))
            except DivergenceError:
                accuracies.append(None)
            seconds += before + time.perf_counter() - start
            running = None
    best = _choose_rate(rates, accuracies)
    network, history = run(n_stages - 1, best, x_train, y_train, x_test)
    return TrainingChoice(network, history, best, accuracies, seconds + history.seconds)


def split_validation(
    y: NDArray[Any], share: float = 0.1, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows to train on and those held out, a random share of each class, ascending.

    The share is between 0 and 1; of each class at least one image is held out and one is not.

    Raises
    ------
    TrainingError
        If a class has one image only, or `share` is out of range.
    """
    if not 0 < share < 1:
        raise TrainingError(f"`validation_share` is {share}, wanted a number between 0 and 1")
    rng = np.random.default_rng(seed)
    is_held_out = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) < 2:
            raise TrainingError(
                f"class {label} has 1 train image, and none can be held out to choose the learning"
                " rate: give more images, or one learning rate"
            )
        n_held_out = min(max(round(share * len(members)), 1), len(members) - 1)
        is_held_out[rng.permutation(members)[:n_held_out]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _choose_rate(rates: Sequence[float], accuracies: Sequence[float | None]) -> float:
    """Return the rate of the best accuracy, the smallest of equals; the only one if not chosen."""
    if not accuracies:
        return rates[0]
    found = [(-a, rate) for a, rate in zip(accuracies, rates, strict=True) if a is not None]
    if not found:
        raise DivergenceError(
            f"training diverged at every learning rate ({', '.join(f'{r:g}' for r in rates)}):"
            " lower them (try a tenth), or scale the images to [-1, 1]"
        )
    return min(found)[1]
