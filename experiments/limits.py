"""What limits Z: its estimator, the class of functions it is taken from, or what there is to know?

    python experiments/limits.py --split deer-dog.npz --gram deer-dog/1-of-1.json --out limits.csv

Three kinds of rows beside CNTK, all with nothing chosen on test images:

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
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

from lantk.cli.files import load_gram
from lantk.errors import LantkError
from lantk.experiment.settings import default_of
from lantk.files import writing
from lantk.label_terms.base import CheckedTerm, image_vectors
from lantk.label_terms.feature_sets import FEATURE_SETS
from lantk.labels import decide
from lantk.regression.fits import Member
from lantk.regression.folds import validation_folds
from lantk.regression.paths import predict
from lantk.regression.protocols import choose_weight
from lantk.solvers.direct import factorize

_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


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


def plug_in(
    k: NDArray, k_test: NDArray, y: NDArray, eta: NDArray, eta_test: NDArray
) -> tuple[NDArray, dict[str, float]]:
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
        total, gradient = 0.0, np.zeros(len(w))
        whole = self.added(w, self.k, self.features)
        for fit, held in self.folds:
            try:
                factor = factorize(whole[np.ix_(fit, fit)])
            except LantkError:
                return np.inf, gradient
            dual = factor.solve(self.y[fit])
            block = whole[np.ix_(held, fit)]
            error = block @ dual - self.y[held]
            back = factor.solve(block.T @ error)  # the matrix is symmetric
            total += error @ error / len(self.y)
            for i, (feature, scale) in enumerate(zip(self.features, self.scales, strict=True)):
                moved = feature[:, fit] @ dual
                slope = error @ moved[held] - back @ moved[fit]
                gradient[i] += 2 * scale * slope / len(self.y)
        return total, gradient

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
) -> tuple[NDArray, dict[str, float]]:
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


def network_scores(drawn: Any, epochs: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return a CNN's scores of train images, out of fold, and of test images, in [-1, 1].

    The last are the scores before they are clipped.
    """
    from lantk.network.layers import Network
    from lantk.network.training import train

    shape = drawn.pixels_train.shape[1:]
    x, y = drawn.x_train, drawn.y_train

    def scores(fit: NDArray, others: NDArray) -> NDArray:
        network = Network("chen2020", shape, seed=0)
        found = train(network, x[fit], y[fit], others, epochs=epochs, batch_size=32, seed=0)
        # Scores are -1/2 and 1/2 at the targets of the two classes.
        return 2 * np.asarray(found.test_predictions[-1], float)

    eta = np.empty(len(y))
    for fit, held in validation_folds(y, 5, seed=1):
        eta[held] = scores(fit, x[held])
    test = scores(np.arange(len(y)), drawn.x_test)
    return eta.clip(-1, 1), test.clip(-1, 1), test


def rows_of(
    drawn: Any, k: NDArray, k_test: NDArray, *, epochs: int, draws: int, n_steps: int
) -> Iterator[dict[str, Any]]:
    """Yield a row a method: accuracy, out of fold and on test images, and what was chosen."""
    y, y_test = drawn.y_train.astype(float), drawn.y_test

    def row(name: str, found: tuple[NDArray, dict[str, float]], **own: float) -> dict[str, Any]:
        accuracy = float((decide(found[0][None])[0] == y_test).mean())
        head = {"task": drawn.slug, "n_train": len(y), "n_test": len(y_test), "method": name}
        return head | own | {"accuracy": accuracy} | found[1]

    plain = predict(k, k_test, y, [Member("cntk", validated=[0.0])])[0]
    yield row("cntk", (plain.scores[0], {"out_of_fold": plain.validation_accuracy[0]}))
    vectors = [image_vectors(x, layout="channels_first") for x in (drawn.x_train, drawn.x_test)]
    yield row("features", fitted_features(k, k_test, y, vectors, n_steps))
    for rate in _RATES:
        for draw in range(draws if rate else 1):
            rng = np.random.default_rng(draw)
            etas = [np.where(rng.random(len(of)) < rate, -of, of) for of in (y, y_test)]
            yield row("plug-in-flipped", plug_in(k, k_test, y, *etas), rate=rate, draw=draw)
    if epochs:
        eta, eta_test, scores = network_scores(drawn, epochs)
        told = {"out_of_fold": float((decide(eta[None])[0] == y).mean())}
        yield row("network", (scores, told))
        yield row("plug-in-network", plug_in(k, k_test, y, eta, eta_test))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows of a case as CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--split", type=Path, required=True, help="of two classes")
    parser.add_argument("--gram", type=Path, nargs="+", required=True, help="what gram wrote")
    parser.add_argument("--n-train", type=int, help="train images (default: all)")
    parser.add_argument(
        "--epochs", type=int, default=50, help="of the networks; 0, none are trained (default: 50)"
    )
    parser.add_argument("--draws", type=int, default=5, help="of flipped labels (default: 5)")
    parser.add_argument("--steps", type=int, default=100, help="of the fit (default: 100)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    try:
        drawn, *grams, _ = load_gram(args)
        if not drawn.is_binary:
            parser.error(f"{args.split} has {len(drawn.names)} classes: wanted a split of two")
        k, k_test = (np.array(gram, np.float64) for gram in grams)
        options = {"epochs": args.epochs, "draws": args.draws, "n_steps": args.steps}
        rows = list(rows_of(drawn, k, k_test, **options))
    except LantkError as error:
        parser.error(str(error))
    with writing(args.out) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
