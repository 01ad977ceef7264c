"""Intervals, paired tests, and how the error falls with n."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lantk.errors import LantkError
from lantk.regression.statistics import (
    Interval,
    Outcomes,
    adjusted_p_values,
    clustered_interval,
    log_slope,
    mcnemar_p_value,
    mean_with_interval,
    student_interval,
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


def outcomes(right, index=None, seeds=(), kind=""):
    """Return outcomes of (s, n) or (n,) numbers, on images 0, 1, 2 ... unless others are given."""
    right = np.atleast_2d(right)
    return Outcomes(np.arange(right.shape[1]) if index is None else index, right, seeds, kind)


def draw_tasks(rng, n=400, starts=(0, 400, 800), chances=(0.7, 0.6)):
    """Return tasks of two variants whose outcomes are independent, on images from each start."""
    return [
        [
            (sign, outcomes(rng.random(n) < chance, np.arange(start, start + n)))
            for sign, chance in zip((1, -1), chances, strict=True)
        ]
        for start in starts
    ]


def difference(task):
    return sum(sign * found.right.mean(axis=0) for sign, found in task)


def test_p_value_of_a_mean_equals_scipy():
    """Student's p-value agrees with SciPy's; equal numbers other than 0 have none."""
    values = [0.5, 1.5, 3.0, -1.0]
    assert student_interval(values).p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert student_interval([0.0, 0.0]).p_value == 1
    assert math.isnan(student_interval([1.0, 1.0]).p_value)
    assert math.isnan(student_interval([1.0]).p_value)


@pytest.mark.parametrize("freedom", [4, math.inf])
def test_a_detectable_effect_is_found_in_four_experiments_of_five(freedom):
    """At the detectable mean, the test rejects with 80 % power (of 5,000 draws)."""
    rng = np.random.default_rng(0)
    mean = Interval(0, 1, freedom).detectable
    normal = rng.standard_normal((5000, 5))
    errors = normal.std(axis=1, ddof=1) if freedom == 4 else np.ones(5000)
    draws = mean + normal.mean(axis=1) * math.sqrt(5)
    found = [Interval(*drawn, freedom).p_value < 0.05 for drawn in zip(draws, errors, strict=True)]
    # Of few degrees of freedom the sum of two quantiles is a little too much.
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert Interval(0, 1).detectable == pytest.approx(2.802, abs=0.001)


def test_images_of_one_task_have_their_normal_interval():
    """Without seeds it is 1.96 standard errors of the paired differences, whatever their order."""
    (task,) = draw_tasks(np.random.default_rng(0), starts=[0])
    values = difference(task)
    found = clustered_interval([task])
    assert found.mean == pytest.approx(values.mean())
    assert found.half == pytest.approx(1.959964 * values.std(ddof=1) / 20)
    wanted = stats.ttest_1samp(values, 0)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(wanted.statistic)))


def test_distinct_images_of_several_tasks_are_independent():
    """Tasks without a common image have the normal interval of a mean of independent means."""
    tasks = draw_tasks(np.random.default_rng(0))
    wanted = math.sqrt(sum(difference(task).var(ddof=1) / 400 for task in tasks)) / 3
    assert clustered_interval(tasks).error == pytest.approx(wanted)


def test_a_task_twice_shows_no_more_than_once():
    """To duplicate a task changes nothing; half of its images in common is something between."""
    rng = np.random.default_rng(0)
    (task,) = draw_tasks(rng, starts=[0])
    once = clustered_interval([task])
    twice = clustered_interval([task, task])
    assert (twice.mean, twice.error) == pytest.approx((once.mean, once.error))
    half = [(sign, outcomes(found.right, found.index + 200)) for sign, found in task]
    half = [(sign, outcomes(np.roll(found.right, -200), found.index)) for sign, found in half]
    apart = [(sign, outcomes(found.right, found.index + 400)) for sign, found in task]
    errors = [clustered_interval([task, other]).error for other in (apart, half, task)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(once.error / math.sqrt(2))


def test_spread_over_seeds_is_added():
    """The variance of the mean over seeds joins that over images; of one seed there is none."""
    rng = np.random.default_rng(0)
    twins, own = rng.random((3, 100)) < 0.6, rng.random(100) < 0.7
    one = clustered_interval([[(1, outcomes(own)), (-1, outcomes(twins[:1], seeds=(0,)))]])
    assert one.freedom == math.inf
    found = clustered_interval([[(1, outcomes(own)), (-1, outcomes(twins, seeds=(0, 1, 2)))]])
    of_images = (own - twins.mean(axis=0)).var(ddof=1) / 100
    of_seeds = twins.mean(axis=1).var(ddof=1) / 3
    assert found.error**2 == pytest.approx(of_images + of_seeds)
    assert found.freedom == pytest.approx(2 * found.error**4 / of_seeds**2)


def test_equal_seeds_are_paired_and_kinds_are_not():
    """Two networks of one seed differ by what is left of them; permutations are other draws."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 100)) < 0.6
    seeds = (0, 1, 2)

    def variance(kind):
        pair = [(1, outcomes(a, seeds=seeds, kind="n")), (-1, outcomes(b, seeds=seeds, kind=kind))]
        of_images = (a.mean(axis=0) - b.mean(axis=0)).var(ddof=1) / 100
        return clustered_interval([pair]).error ** 2 - of_images

    apart, paired = a.mean(axis=1), (a.mean(axis=1) - b.mean(axis=1))
    assert variance("n") == pytest.approx(paired.var(ddof=1) / 3)
    wanted = apart.var(ddof=1) / 3 + b.mean(axis=1).var(ddof=1) / 3
    assert variance("permutation") == pytest.approx(wanted)


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_clustered_interval_covers_the_true_difference(spread):
    """95 % of the intervals hold it where tasks share images and networks differ (1,000 draws).

    Images are easy or hard in both of their tasks; each of two networks a task is better or worse.
    """
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        ease = rng.uniform(0.3, 0.7, 600)
        tasks = []
        for start in (0, 100, 200):
            index = np.arange(start, start + 400)
            skill = 0.1 + spread * rng.standard_normal((2, 1))
            ours = rng.random((2, 400)) < ease[index] + skill * (ease[index] > 0.5)
            theirs = rng.random(400) < ease[index]
            pair = [(1, outcomes(ours, index, (0, 1))), (-1, outcomes(theirs, index))]
            tasks.append(pair)
        found = clustered_interval(tasks)
        covered.append(abs(found.mean - 0.05) <= found.half)
    # It errs on the wide side, at most by the share of images and seeds together.
    assert 0.95 - 0.021 < np.mean(covered) < 0.995


def test_other_test_images_are_no_pair():
    with pytest.raises(LantkError, match="different test images"):
        clustered_interval([[(1, outcomes([1, 0])), (-1, outcomes([1, 0], np.array([5, 6])))]])
    assert math.isnan(clustered_interval([[(1, outcomes([1]))]]).error)


def test_holm_raises_the_smallest_most():
    """They become n p(1), (n - 1) p(2) ..., never falling and at most 1; what is NaN is no test."""
    found = adjusted_p_values([0.02, math.nan, 0.001, 0.9, 0.021])
    np.testing.assert_allclose(found, [0.06, math.nan, 0.004, 0.9, 0.06])
    assert adjusted_p_values([0.04]) == [0.04]
    assert adjusted_p_values([]).size == 0


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
