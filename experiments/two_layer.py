"""Local elasticity of 2-layer networks: the exact kernel, label-aware, a network before and after.

    python experiments/two_layer.py --split frog-ship.npz ... --out two-layer.csv

f(x) = a . relu(W x) / sqrt(m) with weights N(0, 1), both layers trained. Its kernel tends to
`pair_features.two_layer_ntk` as the width m grows (to a factor, which no relative ratio knows).

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 2.2 and table 1.
He and Su, "The Local Elasticity of Neural Networks", ICLR 2020.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lantk.cli.progress import showing_progress
from lantk.data.split_files import load_split
from lantk.data.splits import Split
from lantk.errors import LantkError
from lantk.experiment.variants import PUBLISHED_TERMS
from lantk.files import writing
from lantk.label_terms.base import image_vectors
from lantk.label_terms.feature_sets import two_layer_ntk
from lantk.label_terms.hierarchy import Hierarchy
from lantk.label_terms.registry import label_term
from lantk.regression.measures import ClassSums, RelativeRatio, class_sums
from lantk.solvers.products import mean_abs

# Rows of a kernel that are formed at once.
_ROWS = 500
_BATCH, _LEARNING_RATE = 128, 1e-3
# One of the paper's: with its 1, kernel regression's Z makes the diagonal negative.
LABEL_WEIGHT = 0.1
# Train images that lantk-nth is fitted to: 5 + 5, and 200.
_HIERARCHY_SIZES = (10, 200)

_Rows = Callable[[NDArray], NDArray]


class Elasticity(NamedTuple):
    """Local elasticity of one kernel."""

    kernel: str
    train: RelativeRatio
    test: ClassSums
    """Its `ratio` wants test labels."""


def two_layer_elasticity(
    x_train: NDArray,
    y_train: NDArray,
    x_test: NDArray,
    *,
    terms: Sequence[str] = (),
    width: int = 1024,
    epochs: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Elasticity]:
    """Yield the local elasticity of the 2-layer NTK, K + lambda Z, a network's, and that trained.

    Parameters
    ----------
    x_train, x_test : (n, d) arrays
        Images as vectors. They are centred by nothing and divided by nothing.
    y_train : (n,) array of -1/+1
        Train labels.
    terms : sequence of str
        Label terms, each of which is added to the 2-layer NTK with the label weight `LABEL_WEIGHT`.
    width, epochs, seed : int
        Of the finite network. It is trained by Adam (1e-3, batches of 128) on the squared error;
        the size of its inputs is made 1 on average, which no relative ratio knows.
    progress : callable, optional
        Called with (rows of kernels done, rows in all).

    Notes
    -----
    Memory: with terms, the two blocks of K in float32 and twice that for a Z; else no whole matrix.
    """
    n_done, n_all = 0, (3 + len(terms)) * (len(x_train) + len(x_test))

    def ratios(name: str, rows_of: _Rows, diagonal_of: Callable[[NDArray], NDArray]) -> Elasticity:
        nonlocal n_done
        diagonal, found = diagonal_of(x_train), []
        for x in (x_train, x_test):
            parts, own = [], diagonal_of(x)
            for start in range(0, len(x), _ROWS):
                rows = slice(start, start + _ROWS)
                k = rows_of(x[rows])
                parts.append(class_sums(k, y_train, own[rows], diagonal))
                n_done += len(k)
                if progress is not None:
                    progress(n_done, n_all)
            sums = np.concatenate([part.sums for part in parts])
            found.append(ClassSums(sums, parts[0].classes, parts[0].counts))
        return Elasticity(name, found[0].ratio(y_train), found[1])

    yield ratios("2-layer NTK", lambda rows: two_layer_ntk(rows, x_train), _diagonal)
    for found in _label_aware(x_train, y_train, x_test, terms) if terms else ():
        yield found
        n_done += len(x_train) + len(x_test)
        if progress is not None:
            progress(n_done, n_all)
    network = TwoLayer(x_train, width, seed)
    yield ratios("network at start", network.kernel_against(x_train), network.diagonal)
    network.train(x_train, y_train, epochs, seed)
    yield ratios("network, trained", network.kernel_against(x_train), network.diagonal)


def _label_aware(
    x_train: NDArray, y_train: NDArray, x_test: NDArray, terms: Sequence[str]
) -> Iterator[Elasticity]:
    """Yield the local elasticity of K + lambda Z for each term, K being the 2-layer NTK."""
    k, k_test = (_kernel_block(x, x_train) for x in (x_train, x_test))
    mean_abs_k, diagonal = mean_abs(k), _diagonal(x_train)
    for name in terms:
        term = label_term(name).fit(k, y_train.astype(np.float64), x_train)
        z = term.train_block(k, x_train)
        factor = LABEL_WEIGHT * term.weight_unit(mean_abs_k, diagonal, mean_abs(z))
        own = diagonal + factor * np.diag(z)
        train = class_sums(_sum(k, factor, z), y_train, own, own).ratio(y_train)
        z = term.transform(k_test, x_test)
        yield Elasticity(
            name, train, class_sums(_sum(k_test, factor, z), y_train, _diagonal(x_test), own)
        )


def _diagonal(x: NDArray) -> NDArray:
    """Return K(x, x) = x.x / 2 + |x|^2 / 2 of the 2-layer NTK, (n,)."""
    norms: NDArray = np.square(x, dtype=np.float64).sum(axis=1)
    return norms


def _kernel_block(rows: NDArray, columns: NDArray) -> NDArray[np.float32]:
    """Return the 2-layer NTK in float32, with no float64 copy of the whole."""
    k = np.empty((len(rows), len(columns)), np.float32)
    for start in range(0, len(rows), _ROWS):
        k[start : start + _ROWS] = two_layer_ntk(rows[start : start + _ROWS], columns)
    return k


def _sum(k: NDArray, factor: float, z: NDArray) -> NDArray:
    """Return K + lambda Z in the place of Z."""
    z *= factor
    z += k
    return z


class HierarchyMeans(NamedTuple):
    """Means of the label part of the neural tangent hierarchy over pairs of train images."""

    n: int
    within: float
    """Over pairs of one class, self pairs left out."""
    between: float
    """Over pairs of two classes."""
    standard_error: float
    """Of an entry by Monte Carlo, root mean square, as a share of Z."""


def hierarchy_means(x: NDArray, y: NDArray, n: int) -> HierarchyMeans:
    """Return what `lantk-nth` gives pairs of the first n train images, fitted to these.

    Parameters are those of `two_layer_elasticity`; LANTK-NTH of Chen et al. (2020) wants the first
    mean above the second.
    """
    x, y = x[:n], y[:n]
    # The kernel is not read but for its shape.
    term = Hierarchy().fit(np.eye(len(y)), y.astype(np.float64), x)
    z = term.train_block(np.eye(len(y)))
    is_same = np.equal.outer(y, y)
    off = ~np.eye(len(y), dtype=bool)
    within, between = float(z[is_same & off].mean()), float(z[~is_same].mean())
    return HierarchyMeans(len(y), within, between, term.error_)


class TwoLayer:
    """A finite 2-layer network in the NTK parameterization."""

    def __init__(self, x: NDArray, width: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.scale = 1 / math.sqrt(float(np.square(x, dtype=np.float64).sum(axis=1).mean()))
        self.w = torch.randn(width, x.shape[1], generator=generator)
        self.a = torch.randn(width, generator=generator)

    def kernel_against(self, columns: NDArray) -> _Rows:
        """Return what gives <grad f(x), grad f(x')> of rows x and these x', over both layers."""
        inputs, hidden, gates = self._read(columns)

        def rows_of(rows: NDArray) -> NDArray:
            own, own_hidden, own_gates = self._read(rows)
            k: NDArray = (own_hidden @ hidden.T + (own @ inputs.T) * (own_gates @ gates.T)).numpy()
            return k

        return rows_of

    def diagonal(self, x: NDArray) -> NDArray:
        """Return K(x, x), (n,)."""
        rows, hidden, gates = self._read(x)
        sums = [part.square().sum(1) for part in (rows, hidden, gates)]
        return (sums[1] + sums[0] * sums[2]).numpy()

    def _read(self, x: NDArray) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs, relu(W x) and a 1{W x > 0}, both by sqrt(m)."""
        inputs = self._inputs(x)
        z, root = inputs @ self.w.T, math.sqrt(len(self.a))
        return inputs, z.relu() / root, (z > 0) * self.a / root

    def _inputs(self, x: NDArray) -> Tensor:
        return torch.from_numpy(np.asarray(x, np.float32)) * self.scale

    def train(self, x: NDArray, y: NDArray, epochs: int, seed: int) -> None:
        """Fit the labels by Adam on the squared error."""
        inputs, targets = self._inputs(x), torch.from_numpy(np.asarray(y, np.float32))
        w, a = (part.clone().requires_grad_(True) for part in (self.w, self.a))
        optimizer = torch.optim.Adam([w, a], lr=_LEARNING_RATE, fused=True)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs), generator=generator).split(_BATCH):
                optimizer.zero_grad()
                outputs = (inputs[batch] @ w.T).relu() @ a / math.sqrt(len(a))
                (outputs - targets[batch]).square().mean().backward()
                optimizer.step()
        self.w, self.a = w.detach(), a.detach()


def rows_of_split(drawn: Split, width: int, epochs: int, seed: int) -> list[dict[str, Any]]:
    """Return a row a kernel: the relative ratio in percent, train-train and test-train.

    Of lantk-nth, fitted to the first 10 and 200 images, means within a class and between two.
    """
    x_train, x_test = (image_vectors(x, append_one=True) for x in (drawn.x_train, drawn.x_test))
    options: dict[str, Any] = {"width": width, "epochs": epochs, "seed": seed}
    rows: list[dict[str, Any]] = []
    with showing_progress(f"rows of {drawn.slug}") as progress:
        for found in two_layer_elasticity(
            x_train, drawn.y_train, x_test, terms=PUBLISHED_TERMS, progress=progress, **options
        ):
            own = {"task": drawn.slug, "n_train": len(x_train), "n_test": len(x_test)}
            own |= {"kernel": found.kernel, "relative_ratio_train": 100 * found.train.value}
            rows.append(own | {"relative_ratio_test": 100 * found.test.ratio(drawn.y_test).value})
    for n in _HIERARCHY_SIZES:
        means = hierarchy_means(x_train, drawn.y_train, n)
        own = {"task": drawn.slug, "n_train": means.n, "n_test": 0, "kernel": "lantk-nth"}
        own |= {"mean_within": means.within, "mean_between": means.between}
        rows.append(own | {"standard_error": means.standard_error})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of some splits as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--split", type=Path, nargs="+", required=True, help="of two classes each")
    parser.add_argument("--width", type=int, default=1024, help="hidden units (default: 1024)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over train (default: 10)")
    parser.add_argument("--seed", type=int, default=66, help="of the network (default: 66)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    rows = []
    try:
        for path in args.split:
            drawn = load_split(path)
            if not drawn.is_binary:
                parser.error(f"{path} has {len(drawn.names)} classes: wanted splits of two")
            rows += rows_of_split(drawn, args.width, args.epochs, args.seed)
    except LantkError as error:
        parser.error(str(error))
    with writing(args.out) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
