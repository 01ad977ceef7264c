"""The study of what limits Z: its gradient, its ends, and that its script runs."""

import numpy as np
import pandas as pd
import pytest
from limits import FeatureLoss, main, plug_in
from scipy.optimize import check_grad

from lantk.cli.main import main as run_verb
from lantk.regression.folds import validation_folds

RNG = np.random.default_rng(5)
X, X_TEST = RNG.standard_normal((24, 6)), RNG.standard_normal((9, 6))
Y, Y_TEST = (np.where(x[:, 0] * x[:, 1] > 0, 1.0, -1.0) for x in (X, X_TEST))


def kernel(x, other):
    """Return a positive definite kernel."""
    return np.exp(-np.square(x[:, None] - other).sum(2) / 6)


def test_gradient_of_the_out_of_fold_loss_is_its_derivative():
    """It agrees with finite differences, where nothing is added and where something is."""
    features = np.stack([X @ X.T, np.square(X @ X.T), np.exp(-abs(X[:, None] - X).sum(2))])
    loss = FeatureLoss(kernel(X, X), features, Y, validation_folds(Y, 4))
    for w in (np.zeros(3), np.array([0.1, 0.02, 0.3])):
        size = np.linalg.norm(loss(w)[1])
        assert check_grad(lambda v: loss(v)[0], lambda v: loss(v)[1], w) < 1e-4 * size


@pytest.mark.parametrize(("rate", "least"), [(0.0, 1.0), (0.1, 0.8)])
def test_true_labels_are_a_ceiling(rate, least):
    """With eta the true label every image is right; with a tenth of them flipped, most are."""
    rng = np.random.default_rng(0)
    etas = [np.where(rng.random(len(of)) < rate, -of, of) for of in (Y, Y_TEST)]
    scores, told = plug_in(kernel(X, X), kernel(X_TEST, X), Y, *etas)
    assert np.mean((scores >= 0) == (Y_TEST > 0)) >= least
    assert told["squared_alignment"] == pytest.approx(np.mean(etas[0] * Y) ** 4)


def test_the_script_writes_a_row_a_method_and_a_draw(tmp_path):
    """CNTK, features, labels flipped at six rates, a network and its plug-in."""
    split, gram, out = (tmp_path / name for name in ("split.npz", "gram", "limits.csv"))
    few = ["--source", "digits", "--pair", "1", "8", "--n-train", "30", "--n-test", "40"]
    assert run_verb(["split", *few, "--out", str(split)]) == 0
    architecture = ["--architecture", "arora2019-vanilla-2"]
    assert run_verb(["gram", "--split", str(split), *architecture, "--out", str(gram)]) == 0
    asked = ["--epochs", "1", "--draws", "1", "--steps", "3", "--out", str(out)]
    main(["--split", str(split), "--gram", str(gram / "1-of-1.json"), *asked])
    found = pd.read_csv(out)
    flipped = ["plug-in-flipped"] * 6
    assert list(found["method"]) == ["cntk", "features", *flipped, "network", "plug-in-network"]
    assert found["accuracy"].between(0, 1).all()
    fitted = found.set_index("method").loc["features"]
    assert fitted["loss"] < fitted["loss_of_kernel"]
    ceiling = found.loc[found["rate"] == 0, "accuracy"].item()
    assert ceiling >= found.set_index("method").loc["cntk", "accuracy"]
