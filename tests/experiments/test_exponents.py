"""Exponents from disjoint subsets: the subsets, the interval, and that the script runs."""

import numpy as np
import pandas as pd
import pytest
from exponents import disjoint_subsets, exponent, main, wrong_of

from lantk.cli.main import main as run_verb

NS = (500, 1000, 2000, 5000, 10000)


def made_up(rng, spread, n_test, b=-0.2):
    """Return n -> wrong test images (draws, groups) of errors around 0.2 (n / 500)^b."""
    found = {}
    for n in NS:
        errors = 0.2 * (n / 500) ** b * (1 + spread * rng.standard_normal((10000 // n, 1)))
        found[n] = rng.binomial(n_test // 10, np.broadcast_to(errors, (len(errors), 10)))
    return found


def test_subsets_are_disjoint_balanced_and_the_first_is_nested():
    """Every image is in one subset of each n, which has as many images of both classes."""
    y = np.tile([1, -1], 50)
    for n in (10, 20, 50, 100):
        found = disjoint_subsets(y, n)
        assert sorted(np.concatenate(found)) == list(range(100))
        assert {y[rows].sum() for rows in found} == {0}
        assert list(found[0]) == list(range(n))


def test_exact_power_law_is_found_without_error():
    """Errors that follow a power of n, alike in all groups, leave no interval."""
    wrong = {n: np.full((10000 // n, 10), 40 * (n / 500) ** -0.3) for n in NS}
    found = exponent(wrong)
    assert found.mean == pytest.approx(-0.3)
    assert found.half == pytest.approx(0, abs=1e-9)
    assert exponent(wrong, wrong).mean == 0
    assert np.isnan(exponent({n: wrong[n] for n in NS[:2]}).mean)


@pytest.mark.parametrize(("spread", "n_test"), [(0.06, 10**7), (0.0, 2000), (0.04, 2000)])
def test_interval_covers_the_exponent(spread, n_test):
    """Nineteen intervals of twenty hold the true exponent, whichever part of the error rules."""
    rng = np.random.default_rng(1)
    found = [exponent(made_up(rng, spread, n_test)) for _ in range(200)]
    covered = np.mean([abs(one.mean + 0.2) <= one.half for one in found])
    assert covered > 0.9
    # Test images are drawn anew for each n here: where they are shared, less is left of them.
    assert np.mean([one.error for one in found]) < 2 * np.std([one.mean for one in found])


def test_the_script_writes_every_subset_and_keeps_other_tasks(tmp_path):
    """A row for each subset and variant; a second run replaces them, and odd sizes are refused."""
    split, gram, out = (tmp_path / name for name in ("split.npz", "gram", "exponents.csv"))
    few = ["--source", "digits", "--pair", "1", "8", "--n-train", "80", "--n-test", "40"]
    assert run_verb(["split", *few, "--out", str(split)]) == 0
    architecture = ["--architecture", "arora2019-vanilla-2"]
    assert run_verb(["gram", "--split", str(split), *architecture, "--out", str(gram)]) == 0
    pd.DataFrame([{"task": "deer-dog", "n_train": 20}]).to_csv(out, index=False)
    asked = ["--split", str(split), "--gram", str(gram / "1-of-1.json"), "--out", str(out)]
    for _ in range(2):
        main([*asked, "--sizes", "80", "20", "40"])
    found = pd.read_csv(out)
    assert (found["task"] == "deer-dog").sum() == 1
    own = found[found["task"] == "1-8"]
    draws = own.groupby(["variant", "n_train"])["draw"].nunique().unstack()
    assert draws.to_numpy().tolist() == [[4, 2, 1]] * 3
    assert own["accuracy"].between(0.5, 1).all()
    whole = own[(own["n_train"] == 80) & (own["variant"] == "cntk")]
    assert 40 * (1 - whole["accuracy"].item()) == pytest.approx(wrong_of(whole)[80].sum(), abs=1e-4)
    with pytest.raises(SystemExit):
        main([*asked, "--sizes", "81"])
