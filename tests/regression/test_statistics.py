"""Intervals, paired tests, and how the error falls with n."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lantk.regression.statistics import (
    log_slope,
    mcnemar_p_value,
    mean_with_interval,
    normal_half_width,
    wilson_interval,
)
from lantk.report.leaderboard import TABLE_COLUMNS, error_exponents


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (1719, 2000)])
def test_wilson_interval_equals_scipy(k, n):
    """Wilson's interval agrees with SciPy's for whole counts, and holds the accuracy."""
    wanted = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(k / n, n)
    np.testing.assert_allclose((low, high), wanted, atol=1e-12)
    assert 0 <= low <= k / n <= high <= 1


def test_mcnemar_counts_disagreements_only():
    """The exact test is a binomial test of the discordant images."""
    a = np.array([True] * 9 + [False] * 1 + [True] * 50)
    b = np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar_p_value(a, b) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_p_value(a, b) == mcnemar_p_value(b, a)
    assert mcnemar_p_value(a, a) == 1.0


@pytest.mark.parametrize("values", [[1.0, 2.0, 6.0], [0.5, 0.5], [-1.0, 0.0, 0.0, 3.0, 1.0]])
def test_interval_of_a_mean_equals_scipy(values):
    """Student's interval agrees with SciPy's one-sample t test."""
    mean, half = mean_with_interval(values)
    if np.ptp(values) == 0:
        assert (mean, half) == (values[0], 0)
        return
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose((mean - half, mean + half), wanted, atol=1e-12)


def test_interval_of_a_mean_wants_all_values():
    """One value has no interval, and a missing one leaves neither mean nor interval."""
    mean, half = mean_with_interval([3.0])
    assert mean == 3.0
    assert math.isnan(half)
    assert all(map(math.isnan, mean_with_interval([1.0, math.nan, 2.0])))
    assert all(map(math.isnan, mean_with_interval([])))


def test_normal_interval_covers_a_mean_over_images():
    """95 % of the intervals over 400 paired differences hold their true mean (1,000 draws)."""
    rng = np.random.default_rng(0)
    draws = rng.choice([-1, 0, 1], p=[0.02, 0.93, 0.05], size=(1000, 400))
    covered = np.mean([abs(d.mean() - 0.03) <= normal_half_width(d) for d in draws])
    # Three standard errors of a share of 0.95 among 1,000 are 0.021.
    assert abs(covered - 0.95) < 0.021


def test_slope_of_a_power_law_is_its_exponent():
    """An error of c n^b gives the slope b and an interval of no width."""
    n = np.array([500, 1000, 2000, 5000, 10000])
    assert log_slope(n, 3 * n**-0.25) == pytest.approx((-0.25, -0.25, -0.25))


def test_slope_interval_covers_what_scatter_hides():
    """With noise on the logarithms, 95 % of the intervals hold the true slope (1,000 draws)."""
    rng, n = np.random.default_rng(0), np.array([500, 1000, 2000, 5000, 10000])
    draws = [log_slope(n, n**-0.2 * np.exp(rng.normal(0, 0.05, 5))) for _ in range(1000)]
    covered = np.mean([low <= -0.2 <= high for _, low, high in draws])
    # Three standard errors of a share of 0.95 among 1,000 are 0.021.
    assert abs(covered - 0.95) < 0.021


def test_slope_needs_three_errors():
    """Two points and an error of zero have no slope."""
    assert all(map(math.isnan, log_slope([1, 2], [0.5, 0.4])))
    assert all(map(math.isnan, log_slope([1, 2, 4], [0.5, 0.4, 0.0])))


def growth_table(**errors_by_variant):
    """Return a leaderboard of one task in which errors are given functions of n."""
    rows = [
        {
            "task": "3-8",
            "architecture": "chen2020",
            "n_train": n,
            "protocol": "honest",
            "variant": variant,
            "accuracy": 1 - error(n),
        }
        for n in (500, 1000, 2000)
        for variant, error in errors_by_variant.items()
    ]
    return pd.DataFrame(rows).reindex(columns=TABLE_COLUMNS)


def test_exponents_tell_a_moved_curve_from_a_tilted_one():
    """Nine tenths of CNTK's error move the curve; another exponent changes its slope."""
    table = growth_table(
        cntk=lambda n: 2 * n**-0.3, moved=lambda n: 1.8 * n**-0.3, tilted=lambda n: 2 * n**-0.4
    )
    found = error_exponents(table).set_index("variant")
    assert found.loc["cntk", "slope"] == pytest.approx(-0.3)
    assert found.loc["moved", "slope_minus_cntk"] == pytest.approx(0, abs=1e-12)
    assert found.loc["moved", "log_error_minus_cntk"] == pytest.approx(math.log(0.9))
    assert found.loc["tilted", "slope_minus_cntk"] == pytest.approx(-0.1)
    assert set(found["n_points"]) == {3}


def test_slopes_are_compared_with_those_of_shuffled_twins():
    """A term's slope minus its shuffled twin's is what the labels in it do to the slope."""
    table = growth_table(
        **{"term": lambda n: n**-0.4, "term-shuffled": lambda n: n**-0.3, "cntk": lambda n: n**-0.2}
    )
    found = error_exponents(table).set_index("variant")["slope_minus_shuffled"]
    assert found["term"] == pytest.approx(-0.1)
    assert found[["term-shuffled", "cntk"]].isna().all()


def test_exponents_leave_out_what_has_fewer_than_three_n():
    """A variant that was run at two n has no exponent, and the others keep theirs."""
    table = growth_table(cntk=lambda n: 2 * n**-0.3, cnn=lambda n: n**-0.3)
    table = table[(table["variant"] == "cntk") | (table["n_train"] > 500)]
    assert list(error_exponents(table)["variant"]) == ["cntk"]
    assert error_exponents(table[table["n_train"] > 500]).empty


def test_exponents_without_cntk_and_without_errors():
    """Without CNTK there is no difference, and a variant without errors has no slope."""
    found = error_exponents(growth_table(cnn=lambda n: n**-0.3))
    assert found["slope_minus_cntk"].isna().all()
    found = error_exponents(growth_table(cntk=lambda n: n**-0.3, perfect=lambda n: 0))
    perfect = found.set_index("variant").loc["perfect"]
    assert perfect[["slope", "slope_minus_cntk", "log_error_minus_cntk"]].isna().all()
