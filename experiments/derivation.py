"""Does the kernel of a 2-layer network move by training as `lantk-nth` says?

    python experiments/derivation.py --split deer-dog.npz --out derivation.csv

f(x) = a . relu(W x) / sqrt(m) with weights N(0, 1), both layers trained by gradient flow on the
squared loss, from f = 0 (what it is at the start is subtracted) until no residual is left. Of the
change of its tangent kernel, the part that is even under y -> -y is what is quadratic in the
labels. `lantk-nth` predicts that its mean over weights is Z / m. It is regressed on Z / m over
all entries of the train Gram matrix, with no free parameter: the derivation is right where the
slope tends to 1.

Z leaves out the derivatives of the step function 1{w.x >= 0}. So the same weights are trained with
their gates frozen as well: such a network has no such derivatives, and what the two differ by is
they alone. (The kernel of third order, which Z leaves out too, is a mean of m terms of mean 0: what
it does twice is of order 1 / m^2.)

References
----------
Huang and Yau, "Dynamics of deep neural networks and neural tangent hierarchy", ICML 2020.
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 2.3 and appendix B.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lantk.cli.progress import showing_progress
from lantk.data.split_files import load_split
from lantk.errors import LantkError
from lantk.files import writing
from lantk.label_terms.base import image_vectors
from lantk.label_terms.hierarchy import Hierarchy

_SAMPLES, _TOLERANCE = 8192, 1e-9  # of Z


class TwoLayer:
    """A 2-layer ReLU network with n inputs (n, d) at hand, and its tangent kernel among them.

    Parameters
    ----------
    x : (n, d) array
        Inputs. Only their span matters, so they are turned into it.
    width, seed : int
        Neurons, and the seed of the weights.
    is_frozen : bool
        Whether the gates 1{w.x >= 0} stay as they are at the start.
    """

    def __init__(self, x: NDArray, width: int, seed: int, *, is_frozen: bool) -> None:
        _, triangle = np.linalg.qr(x.T)
        self.x = triangle.T
        rng = np.random.default_rng(seed)
        self.a = rng.standard_normal(width)
        self.w = rng.standard_normal((width, self.x.shape[1]))
        self.frozen = (self.x @ self.w.T >= 0) if is_frozen else None
        self.inner = self.x @ self.x.T

    def look(self) -> tuple[NDArray, NDArray]:
        """Return gates and active heights, (n, m) both."""
        heights = self.x @ self.w.T
        gates = (heights >= 0) if self.frozen is None else self.frozen
        return gates.astype(float), heights * gates

    def outputs(self) -> NDArray:
        """Return f (n,)."""
        return self.look()[1] @ self.a / len(self.a) ** 0.5

    def kernel(self) -> NDArray:
        """Return the tangent kernel (n, n)."""
        gates, active = self.look()
        own = gates * self.a
        return (self.inner * (own @ own.T) + active @ active.T) / len(self.a)

    def move(self, v: NDArray, at: TwoLayer) -> None:
        """Take J^T v (v is (n,)) from the weights, J the derivatives of f at those of `at`."""
        gates, active = at.look()
        root = len(self.a) ** 0.5
        self.a = self.a - v @ active / root
        self.w = self.w - ((gates * v[:, None]).T @ at.x) * (at.a / root)[:, None]


def train(network: TwoLayer, y: NDArray, n_steps: int) -> float:
    """Train by gradient flow until nothing is left; return |residual| / |y|.

    The step is the exponential midpoint rule: while J does not change the residuals are
    exp(-K t) r, and J is taken from the middle of the step. Steps grow with time.
    """
    wanted = y + network.outputs()
    values = np.linalg.eigvalsh(network.kernel())
    times = np.geomspace(0.05 / values[-1], 30 / values[0], n_steps)
    for h in np.diff(times, prepend=0.0):
        residual = network.outputs() - wanted
        middle = copy(network)
        middle.move(_integral(network.kernel(), h / 2, residual), network)
        network.move(_integral(middle.kernel(), h, residual), middle)
    return float(np.linalg.norm(network.outputs() - wanted) / np.linalg.norm(y))


def _integral(k: NDArray, time: float, residual: NDArray) -> NDArray:
    """Return int_0^time exp(-K s) r ds, (n,)."""
    values, vectors = np.linalg.eigh(k)
    return vectors @ (-np.expm1(-values * time) / values * (vectors.T @ residual))


def even_change(
    x: NDArray, y: NDArray, width: int, seed: int, *, is_frozen: bool, n_steps: int
) -> tuple[NDArray, dict[str, float]]:
    """Return the even part (n, n) of the kernel's change by training, and what goes with it."""
    changes, flipped, rest = [], [], []
    for labels in (y, -y):
        network = TwoLayer(x, width, seed, is_frozen=is_frozen)
        first, gates = network.kernel(), network.look()[0]
        rest.append(train(network, labels, n_steps))
        changes.append(network.kernel() - first)
        flipped.append(np.mean(gates != (network.x @ network.w.T >= 0)))
    even, odd = (changes[0] + changes[1]) / 2, (changes[0] - changes[1]) / 2
    told = {"odd": np.linalg.norm(odd), "flipped": np.mean(flipped), "residual": max(rest)}
    return even, {name: float(value) for name, value in told.items()}


def compare(even: NDArray, predicted: NDArray) -> dict[str, float]:
    """Return the slope through the origin of one matrix on another, their cosine and norms."""
    norms = [float(np.linalg.norm(matrix)) for matrix in (even, predicted)]
    product = float(np.vdot(even, predicted))
    slope, cosine = product / norms[1] ** 2, product / (norms[0] * norms[1])
    return {"slope": slope, "cosine": cosine, "even": norms[0], "predicted": norms[1]}


def rows_of(
    x: NDArray, y: NDArray, widths: Sequence[int], n_seeds: int, n_steps: int
) -> list[dict[str, Any]]:
    """Return a row for each width, network and kind of gates, and one for the mean over networks.

    x (n, d) are vectors, y (n,) labels -1/+1. The row of a mean has no seed.
    """
    term = Hierarchy(_SAMPLES, _TOLERANCE)
    z = np.asarray(term.fit_transform(x @ x.T, y, x), np.float64)
    rows: list[dict[str, Any]] = []
    total = len(widths) * n_seeds * 2
    with showing_progress("networks") as progress:
        for width in widths:
            for gates in ("moving", "frozen"):
                own = {"n": len(y), "width": width, "gates": gates}
                mean = np.zeros_like(z)
                for seed in range(n_seeds):
                    even, told = even_change(
                        x, y, width, seed, is_frozen=gates == "frozen", n_steps=n_steps
                    )
                    mean += even / n_seeds
                    rows.append(own | {"seed": seed} | compare(even, z / width) | told)
                    progress(sum("odd" in row for row in rows), total)
                rows.append(own | compare(mean, z / width))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of a split as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--split", type=Path, required=True, help="of two classes")
    parser.add_argument("--n-train", type=int, default=200, help="train images (default: 200)")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="of networks"
    )
    parser.add_argument("--seeds", type=int, default=10, help="networks a width (default: 10)")
    parser.add_argument("--steps", type=int, default=60, help="of the flow (default: 60)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    try:
        drawn = load_split(args.split)
        if not drawn.is_binary:
            parser.error(f"{args.split} has {len(drawn.names)} classes: wanted a split of two")
        drawn = drawn.first(args.n_train)
        x = image_vectors(drawn.x_train, layout="channels_first").astype(np.float64)
        y = drawn.y_train.astype(np.float64)
        rows = rows_of(x, y, args.widths, args.seeds, args.steps)
    except LantkError as error:
        parser.error(str(error))
    with writing(args.out) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
