"""Scores of a CNN out of fold, kept as each of its networks is trained."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.files import writing
from lantk.regression.folds import validation_folds


def say(text: str, start: float) -> None:
    """Say on stderr what was done, and the seconds since `start`."""
    sys.stderr.write(f"{text} ({time.monotonic() - start:.1f} s)\n")


def network_scores(
    drawn: Any, epochs: int, precision: str, kept: Path
) -> tuple[NDArray, NDArray, NDArray]:
    """Return a CNN's scores of train images, out of fold, and of test images, in [-1, 1].

    The last are the scores before they are clipped. Those of each of the six networks are kept in
    an npz file, by what they are of, and read from there.
    """
    y = drawn.y_train
    folds = validation_folds(y, 5, seed=1)
    fits = [fit for fit, _ in folds] + [np.arange(len(y))]
    found = []
    for i, fit in enumerate(fits):
        name = f"{drawn.digest[:12]}-{epochs}-{precision}-{i}"
        if name not in _read(kept):
            start = time.monotonic()
            others = drawn.x_test if i == len(folds) else drawn.x_train[folds[i][1]]
            scores = _trained_scores(drawn.x_train[fit], y[fit], others, epochs, precision)
            # Read anew: another run may have added some meanwhile.
            there = _read(kept) | {name: scores}
            with writing(kept) as temporary:
                np.savez(temporary, **there)
            say(f"network {i + 1} of {len(fits)} trained", start)
        found.append(_read(kept)[name])
    eta = np.empty(len(y))
    for (_, held), scores in zip(folds, found[:-1], strict=True):
        eta[held] = scores
    return eta.clip(-1, 1), found[-1].clip(-1, 1), found[-1]


def _read(kept: Path) -> dict[str, Any]:
    if not kept.exists():
        return {}
    with np.load(kept) as stored:
        return dict(stored)


def _trained_scores(
    x: NDArray, y: NDArray, others: NDArray, epochs: int, precision: str
) -> NDArray:
    """Return the scores of other images by a CNN trained on some, -1 and +1 at its targets."""
    import torch

    from lantk.network.layers import Network
    from lantk.network.training import find_device, train

    device, is_half = find_device("auto"), precision == "bfloat16"

    class Mixed(Network):
        """The network with convolutions in half precision; weights and readout in float32."""

        def features(self, images: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
                return super().features(images).float()

    network = Mixed("chen2020", x.shape[1:], seed=0)
    # The others are predicted once, not after each epoch as `train` does.
    train(network, x, y, others[:1], epochs=epochs, batch_size=32, seed=0)
    images = network.to_tensor(others, "others").to(device, torch.float32)
    with torch.no_grad():
        outputs = torch.cat([network(batch)[:, 0] for batch in images.split(128)])
    # Targets of the two classes are 0 and 1.
    return 2 * outputs.cpu().numpy().astype(float) - 1
