"""The check of the hierarchy's derivation: its networks, its flow, and what it finds when small."""

import numpy as np
import pandas as pd
import pytest
from derivation import TwoLayer, compare, even_change, main, rows_of, train

from lantk.cli.main import main as run_verb

RNG = np.random.default_rng(3)
X = RNG.standard_normal((10, 6)) + 1
Y = np.where(np.arange(10) % 2, 1.0, -1.0)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_kernel_is_that_of_the_derivatives(is_frozen):
    """The tangent kernel is J J^T, with J by finite differences, of both kinds of gates."""
    network = TwoLayer(X, 7, 0, is_frozen=is_frozen)
    columns = []
    for weights in (network.a, network.w):
        for i in np.ndindex(weights.shape):
            old, step = weights[i], 1e-6
            weights[i] = old + step
            up = network.outputs()
            weights[i] = old - step
            columns.append((up - network.outputs()) / (2 * step))
            weights[i] = old
    j = np.column_stack(columns)
    np.testing.assert_allclose(network.kernel(), j @ j.T, rtol=1e-6, atol=1e-8)


def test_flow_ends_at_the_labels_and_at_one_kernel():
    """Twice as many steps end at the same kernel, four times as near; no residual is left."""
    ends = []
    for n_steps in (30, 60, 480):
        network = TwoLayer(X, 64, 1, is_frozen=True)
        assert train(network, Y, n_steps) < 1e-8
        ends.append(network.kernel())
    errors = [np.linalg.norm(end - ends[-1]) for end in ends[:2]]
    assert errors[1] < errors[0] / 3
    assert errors[1] < 1e-2 * np.linalg.norm(ends[-1])


def test_without_derivatives_of_the_step_the_derivation_holds():
    """With frozen gates the even part of the change tends to Z / m as the width grows."""
    rows = pd.DataFrame(rows_of(X, Y, [256, 4096], 2, 40)).set_index(["gates", "width"])
    frozen = rows.loc["frozen"].groupby(level="width")[["slope", "cosine"]].last()
    assert abs(frozen.loc[4096, "slope"] - 1) < 0.05
    assert frozen.loc[4096, "cosine"] > 0.99
    assert rows.loc["moving", "flipped"].max() > 0
    assert rows["seed"].isna().sum() == 4, "one mean a width and kind of gates"


def test_even_part_knows_no_sign_of_the_labels():
    """The even part is the same for y and -y, and the odd one is not part of it."""
    options = {"width": 32, "seed": 0, "is_frozen": False, "n_steps": 20}
    (one, _), (other, _) = (even_change(X, labels, **options) for labels in (Y, -Y))
    np.testing.assert_array_equal(one, other)


def test_slope_of_a_multiple():
    """Three times the prediction has slope 3 and cosine 1."""
    z = X @ X.T
    found = compare(3 * z, z)
    assert found["slope"] == pytest.approx(3)
    assert found["cosine"] == pytest.approx(1)


def test_the_script_writes_rows_and_wants_two_classes(tmp_path, capsys):
    """The script writes a row a network and one a mean, and refuses a split of three classes."""
    split, out = str(tmp_path / "split.npz"), tmp_path / "derivation.csv"
    few = ["--source", "digits", "--n-train", "12", "--n-test", "30", "--out", split]
    options = ["--split", split, "--out", str(out), "--widths", "8", "--seeds", "1"]
    assert run_verb(["split", *few, "--pair", "3", "8"]) == 0
    main([*options, "--n-train", "8", "--steps", "5"])
    found = pd.read_csv(out)
    assert list(found["gates"]) == ["moving", "moving", "frozen", "frozen"]
    assert set(found["n"]) == {8}
    assert run_verb(["split", *few, "--classes", "1", "3", "8"]) == 0
    with pytest.raises(SystemExit):
        main(options)
    assert "wanted a split of two" in capsys.readouterr().err
