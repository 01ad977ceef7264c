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


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Return the arguments that name a split of digits and its Gram matrix."""
    folder = tmp_path_factory.mktemp("case")
    split, gram = folder / "split.npz", folder / "gram"
    few = ["--source", "digits", "--pair", "1", "8", "--n-train", "30", "--n-test", "40"]
    assert run_verb(["split", *few, "--out", str(split)]) == 0
    architecture = ["--architecture", "arora2019-vanilla-2"]
    assert run_verb(["gram", "--split", str(split), *architecture, "--out", str(gram)]) == 0
    return ["--split", str(split), "--gram", str(gram / "1-of-1.json")]


def test_the_script_writes_a_row_a_method_and_a_draw(case, tmp_path, capsys):
    """CNTK and controls, features, labels flipped at six rates, a network and its plug-in."""
    out = tmp_path / "limits.csv"
    main([*case, "--epochs", "1", "--draws", "1", "--steps", "3", "--out", str(out)])
    found = pd.read_csv(out)
    first = ["cntk", "cntk-intercept", "lantk-fjlt-v1", "features"]
    plug_ins = [*["plug-in-flipped"] * 6, "network", "plug-in-network"]
    assert list(found["method"]) == [*first, *plug_ins]
    assert found["accuracy"].between(0, 1).all()
    fitted = found.set_index("method").loc["features"]
    assert fitted["loss"] < fitted["loss_of_kernel"]
    ceiling = found.loc[found["rate"] == 0, "accuracy"].item()
    plain = found.set_index("method").loc["cntk", "accuracy"]
    assert ceiling >= plain
    more = (found["won"] - found["lost"]) / found["n_test"]
    assert (found["accuracy"] - plain).to_numpy() == pytest.approx(more, abs=1e-6)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("1-8 30 40 features: ")]
    assert sum("trained" in line for line in lines) == 6
    # Scores of networks are kept beside the rows.
    found[:-2].to_csv(out, index=False)
    main([*case, "--epochs", "1", "--draws", "1", "--steps", "3", "--out", str(out)])
    pd.testing.assert_frame_equal(pd.read_csv(out), found)
    assert "trained" not in capsys.readouterr().err


def test_rows_that_are_there_are_kept(case, tmp_path, capsys):
    """An interrupted run goes on with the rows that are missing; other options are refused."""
    out, asked = tmp_path / "limits.csv", ["--epochs", "0", "--draws", "1", "--out"]
    main([*case, *asked, str(out), "--steps", "3"])
    whole = pd.read_csv(out)
    marked = whole.drop(index=[0, 5]).assign(accuracy=0.25)
    marked.to_csv(out, index=False)
    capsys.readouterr()
    main([*case, *asked, str(out), "--steps", "3"])
    found = pd.read_csv(out)
    pd.testing.assert_frame_equal(found[:8], marked.reset_index(drop=True))
    pd.testing.assert_frame_equal(
        found[8:].reset_index(drop=True), whole.loc[[0, 5]].reset_index(drop=True)
    )
    assert len(capsys.readouterr().err.splitlines()) == 2
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        main([*case, *asked, str(out), "--steps", "4"])
    assert "features of other images or options" in capsys.readouterr().err
    assert out.read_bytes() == before
