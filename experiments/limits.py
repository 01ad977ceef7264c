"""What limits Z: its estimator, the class of functions it is taken from, or what there is to know?

    python experiments/limits.py --split deer-dog.npz --gram deer-dog/1-of-1.json --out limits.csv

Three kinds of rows beside CNTK, all with nothing chosen on test images (and `lantk-fjlt-v1`, to
compare the first with, and `cntk-intercept`, an unpenalised constant, which sees no label):

* `features`: the weights of the ten pair features of LANTK-FJLT-V1, fitted not to label products
  but to the squared out-of-fold loss of the kernel regression that they are for. Where it is better
  than FJLT-V1, the estimator was the limit; where it is not, that is not shown (one local minimum
  of a loss with poles, on five folds, whose accuracy is that of what was fitted).
* `plug-in-network`: Z = eta(x) eta(x'), with eta the scores of a trained CNN, on train rows out of
  fold: an estimate of the label that is not made from K.
* `plug-in-flipped`: eta the true label, flipped at a rate of 0 to 0.5, of test images too: from the
  ceiling to nothing, errors of eta being independent of those of K. It reads test labels and is no
  method, but the scale on which the plug-ins are to be read.

The weight of a plug-in is chosen by five folds; eta of train rows is out of fold once, not anew in
each of these.

Rows are written as they are found, and those that are in the file are kept, as are scores of
networks in OUT.networks.npz: a run that was interrupted goes on. `won` and `lost` count the test
images that are right where CNTK is wrong, and wrong where it is right. Where others use the machine
too, set ``OPENBLAS_NUM_THREADS=1``: threads that wait for each other made a step of the fit 30
times as long (n = 500, two busy cores).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from out_of_fold import network_scores, say
from scipy.optimize import minimize

from lantk.cli.files import load_gram
from lantk.errors import LantkError
from lantk.experiment.settings import default_of
from lantk.files import writing
from lantk.kernel.grammar import find_name
from lantk.label_terms.base import CheckedTerm, image_vectors
from lantk.label_terms.feature_sets import FEATURE_SETS
from lantk.label_terms.registry import label_term
from lantk.labels import decide
from lantk.regression.fits import Member, pair_vectors
from lantk.regression.folds import validation_folds
from lantk.regression.paths import predict
from lantk.regression.protocols import choose_weight
from lantk.solvers.direct import factorize

_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
_KEYS = ("task", "n_train", "n_test", "method", "rate", "draw")
"""Columns that tell the rows of a file apart."""
_OPTIONS = ("images", "architecture", "steps", "epochs", "precision")
"""Columns of what a row depends on besides: the split's digest, the kernel, options."""
Found = tuple[NDArray, dict[str, float]]
"""Scores of the test images, and what was chosen."""


class Row(NamedTuple):
    """A row of the table: what it is of, and what finds it."""

    names: dict[str, Any]
    """Out of `_KEYS` and `_OPTIONS`; what does not matter to it is missing."""
    find: Callable[[], Found]


class Given(CheckedTerm):
    """Z = eta(x) eta(x'), with eta (n, 1) given as the vectors of the images."""

    needs_x = True

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Keep eta of the train rows."""
        for term in terms:
            term.x_train_ = x

    def _transform(self, k: NDArray, x: Any) -> NDArray:
        product: NDArray = x @ self.x_train_.T
        return product

    def _train_block(self, k_train_train: NDArray, x: Any) -> NDArray:
        return self._transform(k_train_train, self.x_train_)


def plug_in(k: NDArray, k_test: NDArray, y: NDArray, eta: NDArray, eta_test: NDArray) -> Found:
    """Return the scores of K + lambda eta eta^T at the weight that validation chose."""
    weights = default_of("label_weights.honest")
    member = Member("plug-in", weights, weights, Given)
    columns = [np.asarray(values, float)[:, None] for values in (eta, eta_test)]
    path = predict(k, k_test, y, [member], x_train=columns[0], x_test=columns[1])[0]
    i = choose_weight(path.weights, path.validation_accuracy)
    told = {"label_weight": path.weights[i], "out_of_fold": path.validation_accuracy[i]}
    told["squared_alignment"] = float(np.mean(eta * y) ** 2 / np.mean(np.square(eta))) ** 2
    return path.scores[i], told


class FeatureLoss:
    """The out-of-fold squared loss of kernel regression with K + sum_k w_k F_k, and its gradient.

    Parameters
    ----------
    k : (n, n) array
    features : (p, n, n) array
        Symmetric matrices, on scales of their own; w stands for multiples of mean|K| / mean|F_k|.
    y : (n,) array
    folds : list of (rows to fit, rows held out)
    """

    def __init__(
        self, k: NDArray, features: NDArray, y: NDArray, folds: list[tuple[NDArray, NDArray]]
    ) -> None:
        self.k, self.features, self.y, self.folds = k, features, y, folds
        self.scales = np.abs(k).mean() / np.abs(features).mean(axis=(1, 2))

    def added(self, w: NDArray, k: NDArray, features: NDArray) -> NDArray:
        """Return K + sum_k w_k F_k."""
        combined: NDArray = k + np.tensordot(w * self.scales, features, 1)
        return combined

    def __call__(self, w: NDArray) -> tuple[float, NDArray]:
        """Return the loss and its gradient (p,); infinite where a matrix is singular."""
        total = 0.0
        # Of all rows, one column a fold, so that each feature is read once for all of them.
        duals, backs = np.zeros((2, len(self.y), len(self.folds)))
        whole = self.added(w, self.k, self.features)
        for i, (fit, held) in enumerate(self.folds):
            try:
                factor = factorize(whole[np.ix_(fit, fit)])
            except LantkError:
                return np.inf, np.zeros(len(w))
            duals[fit, i] = factor.solve(self.y[fit])
            block = whole[np.ix_(held, fit)]
            backs[held, i] = error = block @ duals[fit, i] - self.y[held]
            backs[fit, i] = -factor.solve(block.T @ error)  # the matrix is symmetric
            total += error @ error / len(self.y)
        slopes = np.array([np.vdot(backs, feature @ duals) for feature in self.features])
        return total, 2 * self.scales * slopes / len(self.y)

    def out_of_fold(self, w: NDArray) -> float:
        """Return the out-of-fold accuracy."""
        whole, n_right = self.added(w, self.k, self.features), 0
        for fit, held in self.folds:
            dual = factorize(whole[np.ix_(fit, fit)]).solve(self.y[fit])
            scores = whole[np.ix_(held, fit)] @ dual
            n_right += int((decide(scores[None])[0] == self.y[held]).sum())
        return n_right / len(self.y)


def fitted_features(
    k: NDArray, k_test: NDArray, y: NDArray, vectors: Sequence[NDArray], n_steps: int
) -> Found:
    """Return the scores of K + sum_k w_k F_k with w fitted to the out-of-fold loss, from w = 0."""
    kind, (x, x_test) = FEATURE_SETS["global"], vectors
    made = kind(x, kind.fit(x))
    train, test = made.features(k, x), made.features(k_test, x_test)
    loss = FeatureLoss(k, (train + train.transpose(0, 2, 1)) / 2, y, validation_folds(y, 5))
    start = np.zeros(len(train))
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": n_steps}).x
    dual = factorize(loss.added(best, k, loss.features)).solve(y)
    z = np.tensordot(best * loss.scales, loss.features, 1)
    alignment = float(y @ z @ y / (len(y) * np.linalg.norm(z))) if np.any(z) else 0.0
    told = {"loss": loss(best)[0], "loss_of_kernel": loss(start)[0]}
    told |= {"out_of_fold": loss.out_of_fold(best), "squared_alignment": alignment**2}
    return loss.added(best, k_test, test) @ dual, told


def rows_of(
    drawn: Any,
    k: NDArray,
    k_test: NDArray,
    *,
    epochs: int,
    precision: str,
    draws: int,
    n_steps: int,
    kept: Path,
) -> list[Row]:
    """Return the rows of a case, none of them found yet; the first is CNTK's.

    `kept` is as for `network_scores`.
    """
    y, y_test = drawn.y_train.astype(float), drawn.y_test

    def plain(*, has_intercept: bool = False) -> Found:
        member = Member("cntk", validated=[0.0], has_intercept=has_intercept)
        path = predict(k, k_test, y, [member])[0]
        return path.scores[0], {"out_of_fold": path.validation_accuracy[0]}

    def vectors() -> list[NDArray]:
        images = (drawn.x_train, drawn.x_test)
        return [image_vectors(x, layout="channels_first") for x in images]

    def fjlt() -> Found:
        weights, make = default_of("label_weights.honest"), partial(label_term, "lantk-fjlt-v1")
        x, x_test = pair_vectors(make(), *vectors())
        member = Member("lantk-fjlt-v1", weights, weights, make)
        path = predict(k, k_test, y, [member], x_train=x, x_test=x_test)[0]
        i = choose_weight(path.weights, path.validation_accuracy)
        told = {"label_weight": path.weights[i], "out_of_fold": path.validation_accuracy[i]}
        return path.scores[i], told | {"squared_alignment": path.diagnostics["alignment_z"] ** 2}

    def features() -> Found:
        return fitted_features(k, k_test, y, vectors(), n_steps)

    def flipped(rate: float, draw: int) -> Found:
        rng = np.random.default_rng(draw)
        etas = [np.where(rng.random(len(of)) < rate, -of, of) for of in (y, y_test)]
        return plug_in(k, k_test, y, *etas)

    networks = cache(lambda: network_scores(drawn, epochs, precision, kept))

    def network() -> Found:
        eta, _, scores = networks()
        return scores, {"out_of_fold": float((decide(eta[None])[0] == y).mean())}

    rows = [
        Row({"method": "cntk"}, plain),
        Row({"method": "cntk-intercept"}, partial(plain, has_intercept=True)),
        Row({"method": "lantk-fjlt-v1"}, fjlt),
        Row({"method": "features", "steps": n_steps}, features),
    ]
    for rate in _RATES:
        for draw in range(draws if rate else 1):
            names = {"method": "plug-in-flipped", "rate": rate, "draw": draw}
            rows.append(Row(names, partial(flipped, rate, draw)))
    if epochs:
        trained = {"epochs": epochs, "precision": precision}
        rows.append(Row({"method": "network"} | trained, network))
        names = {"method": "plug-in-network"} | trained
        rows.append(Row(names, lambda: plug_in(k, k_test, y, *networks()[:2])))
    head = {"task": drawn.slug, "n_train": len(y), "n_test": len(y_test)}
    return [Row(head | row.names, row.find) for row in rows]


def fill(path: Path, rows: Sequence[Row], y_test: NDArray, images: Mapping[str, Any]) -> None:
    """Find the rows that a file lacks, the first of them CNTK's, and write each as it is found.

    `images` are the columns of `_OPTIONS` that all rows share.

    Raises
    ------
    LantkError
        If a row is there that other images or options made.
    """
    there = {_values(row, _KEYS): _values(row, _OPTIONS) for row in _read(path)}
    missing = []
    for row in rows:
        names = {**row.names, **images}
        options = _values(names, _OPTIONS)
        if there.get(_values(names, _KEYS), options) != options:
            wanted = ", ".join(map(" ".join, zip(_OPTIONS, map(str, options), strict=True)))
            raise LantkError(
                f"{path} has the row {_title(names)} of other images or options: wanted {wanted}."
                " Take another --out, or delete the file"
            )
        if _values(names, _KEYS) not in there:
            missing.append((names, row.find))
    if not missing:
        return
    is_right_plain = decide(rows[0].find()[0][None])[0] == y_test
    for names, find in missing:
        start = time.monotonic()
        scores, told = find()
        is_right = decide(scores[None])[0] == y_test
        accuracy = is_right.mean()
        won, lost = (is_right & ~is_right_plain).sum(), (is_right_plain & ~is_right).sum()
        own = names | {"accuracy": accuracy} | told | {"won": won, "lost": lost}
        # Read anew: another run may have added rows meanwhile.
        kept = [*_read(path), own]
        with writing(path) as temporary:
            pd.DataFrame(kept).to_csv(temporary, index=False, float_format="%.6g")
        say(f"{_title(names)}: {100 * accuracy:.2f} %", start)


def _read(path: Path) -> list[dict[str, Any]]:
    return pd.read_csv(path).to_dict("records") if path.exists() else []  # type: ignore[return-value]


def _values(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    """Return the values of columns, None where there is none."""
    found = (row.get(column) for column in columns)
    return tuple(None if pd.isna(value) else value for value in found)


def _title(names: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in _values(names, _KEYS) if value is not None)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of a case as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--split", type=Path, required=True, help="of two classes")
    parser.add_argument("--gram", type=Path, nargs="+", required=True, help="what gram wrote")
    parser.add_argument("--n-train", type=int, help="train images (default: all)")
    parser.add_argument(
        "--epochs", type=int, default=50, help="of the networks; 0, none are trained (default: 50)"
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the networks' products; bfloat16 takes a third of the time on a Zen 4 core"
        " (default: float32)",
    )
    parser.add_argument("--draws", type=int, default=5, help="of flipped labels (default: 5)")
    parser.add_argument("--steps", type=int, default=100, help="of the fit (default: 100)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write; rows that are there are kept, and scores of networks beside it",
    )
    args = parser.parse_args(argv)
    try:
        drawn, *grams, record = load_gram(args)
        if not drawn.is_binary:
            parser.error(f"{args.split} has {len(drawn.names)} classes: wanted a split of two")
        k, k_test = (np.array(gram, np.float64) for gram in grams)
        options = {"epochs": args.epochs, "precision": args.precision, "draws": args.draws}
        options |= {"n_steps": args.steps, "kept": args.out.with_suffix(".networks.npz")}
        architecture = record["architecture"]
        images = {
            # Letters first: a digest of digits alone would be read as a number.
            "images": f"sha256-{drawn.digest[:12]}",
            "architecture": find_name(architecture["layers"])
            or f"sha256-{architecture['digest'][:12]}",
        }
        fill(args.out, rows_of(drawn, k, k_test, **options), drawn.y_test, images)
    except LantkError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
