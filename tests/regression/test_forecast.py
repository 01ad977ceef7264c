"""What a fit will take."""

import tracemalloc

import numpy as np
import pytest

import lantk
from lantk.errors import LantkError
from lantk.kernel.forecast import forecast_gram
from lantk.label_terms.registry import label_term
from lantk.regression import forecast as module
from lantk.regression.fits import Member
from lantk.regression.memory import FIT_MATRICES, gram_blocks_bytes
from lantk.regression.paths import predict
from lantk.workflow.resources import evaluation_mb, gram_blocks_mb

SHAPE = (1, 4, 4)


@pytest.fixture
def given(monkeypatch):
    """Return a function that sets seconds of a factorization, a step and eigenvalues at n = 100."""

    def give(*seconds):
        rates = module.SolveRates(100, *seconds)
        monkeypatch.setattr(module, "measure_solver", lambda n, n_sides: rates)
        monkeypatch.setattr(module, "_overhead", lambda n_weights, folds: 0.0)
        return lambda n, n_test=0, **options: lantk.forecast(
            "chen2020", n, n_test, SHAPE, rate=1e4, **options
        )

    return give


def test_grams_are_forecast_as_by_the_plan(given):
    """Both blocks at once, the result in memory, four walks over flips."""
    [job] = forecast_gram("chen2020", 100, 20, SHAPE, n_bands=1, rate=1e4).jobs
    found, flips = (given(0, 0, 0)(100, 20, flips=value) for value in (False, True))
    assert found.gram_seconds == job.seconds == (100 * 101 / 2 + 100 * 20) / 1e4
    assert found.gram_bytes == job.memory_bytes + 4 * 100 * 120
    assert flips.gram_seconds == flips.seconds == 4 * found.seconds


def test_factors_grow_with_the_cube_and_steps_with_the_square(given):
    """So do those of folds, each of which has four fifths of the images."""
    for seconds, power in (((1.0, 0, 0), 3), ((0, 1.0, 0), 2)):
        once, twice = (given(*seconds)(n) for n in (2000, 4000))
        assert twice.fit_seconds == pytest.approx(2**power * once.fit_seconds)
        assert twice.validation_seconds == pytest.approx(2**power * once.validation_seconds)
    assert given(1.0, 0, 0)(1000).validation_seconds == pytest.approx(5 * 0.8**3 * 1000)
    assert given(1.0, 0, 0)(1000, folds=0).validation_seconds == 0


def test_eigenvalues_count_up_to_the_n_at_which_they_are_computed(given):
    """One decomposition a weight, of all of train; beyond, two factorizations."""
    assert given(0, 0, 1.0)(100, n_weights=7).fit_seconds == 7
    ask = given(1.0, 0, 0)
    assert ask(1000).fit_seconds == pytest.approx(10**3)
    assert ask(2000).fit_seconds == pytest.approx(3 * 20**3)


def test_memory_is_what_a_job_asks_for(given):
    """The forecast and the workflow count the same matrices."""
    found = given(0, 0, 0)(4000, 1000)
    matrices = found.fit_bytes - given(0, 0, 0)(1, 0).fit_bytes + FIT_MATRICES * 8
    assert matrices == FIT_MATRICES * gram_blocks_bytes(4000, 1000)
    job = evaluation_mb(["lantk-kr-v1"], 0, 4000, 1000, 4000)
    other = evaluation_mb(["lantk-kr-v1"], 0, 1, 0, 1)
    assert job - other == FIT_MATRICES * (gram_blocks_mb(4000, 1000) - 1)


def test_a_fit_holds_no_more_than_it_says():
    """Arrays of a real fit at their peak, beside its Gram matrices, stay below the bound."""
    weights = [0, 0.01, 1]
    member = Member("", weights, weights, make_term=lambda: label_term("lantk-kr-v1"))
    # At first a small one: what is loaded and compiled on the way is not counted.
    for n in (60, 1000):
        x = np.random.default_rng(0).uniform(0, 1, (n, n)).astype(np.float32)
        k, y = x @ x.T, np.tile([-1.0, 1.0], n // 2)
        tracemalloc.start()
        try:
            predict(k, k[:1], y, [member], folds=2)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert k.nbytes < peak + k.nbytes < FIT_MATRICES * gram_blocks_bytes(n, 1)


def test_rates_are_measured_of_this_machine():
    """Every rate is above 0, and eigenvalues have none where they are not computed."""
    small, large = (module.measure_solver(n, seconds=0.01) for n in (40, 1001))
    assert min(small) > 0
    assert (large.side, large.eigenvalues) == (1001, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (8, 8, 3)}, r"wanted \(3, 8, 8\), or layout='channels_first'"),
        ({"folds": 1}, "`folds` is 1: wanted 2 or more, or 0"),
        ({"n_classes": 1}, "`n_classes` is 1: wanted 2 or more"),
        ({"n_weights": 0}, "`n_weights` is 0: wanted 1 or more"),
        ({"n_train": 0}, "wanted train images"),
    ],
)
def test_what_is_no_fit_is_refused(options, message):
    """A message says what was wanted, before anything is measured."""
    with pytest.raises(LantkError, match=message):
        lantk.forecast("chen2020", **{"n_train": 10} | options)
