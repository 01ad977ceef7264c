"""Accuracies, intervals, paired tests, protocols, leaderboard."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lantk.evaluate import (
    TABLE_COLUMNS,
    WeightPath,
    assess,
    assess_network,
    leaderboard,
    mcnemar_p_value,
    wilson_interval,
)

Y_TEST = np.array([1, 1, 1, 1, -1, -1, -1, -1])


def weight_path(n_correct, validation):
    """Make a path whose weight number i is right on the first n_correct[i] test images."""
    weights = np.array([0.0, 0.001, 0.1, 3.0])[: len(n_correct)]
    scores = np.array([np.where(np.arange(8) < n, Y_TEST, -Y_TEST) for n in n_correct], float)
    filler = np.zeros(len(weights))
    return WeightPath(weights, weights, scores, filler, filler, np.array(validation))


def assess_both(path, y_test=Y_TEST):
    protocols = ["honest", "oracle"]
    return assess(path, y_test, protocols=protocols, oracle_weights=[0.001, 0.1])


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


def test_honest_follows_validation_and_oracle_the_test_set():
    """Honest takes the best validated weight, oracle the best tested one on its own grid."""
    results, scores = assess_both(weight_path([4, 6, 5, 8], [0.5, 0.6, 0.9, 0.7]))
    assert results["protocols"]["honest"]["label_weight"] == 0.1
    assert results["protocols"]["honest"]["accuracy"] == 5 / 8
    assert results["protocols"]["honest"]["validation_accuracy"] == 0.9
    # Weight 3 is best on the test set, but not one of the oracle's.
    assert results["protocols"]["oracle"]["label_weight"] == 0.001
    assert results["protocols"]["oracle"]["accuracy"] == 6 / 8
    assert list(scores.columns) == ["honest", "oracle"]


def test_test_labels_move_no_honest_choice():
    """Whatever the test labels are, the honest weight and predictions stay the same."""
    path = weight_path([4, 6, 5, 8], [0.5, 0.6, 0.9, 0.7])
    rng = np.random.default_rng(0)
    wanted, wanted_scores = assess_both(path)
    oracle_weights = set()
    for _ in range(20):
        results, scores = assess_both(path, rng.permutation(Y_TEST))
        weight = results["protocols"]["honest"]["label_weight"]
        assert weight == wanted["protocols"]["honest"]["label_weight"]
        np.testing.assert_array_equal(scores["honest"], wanted_scores["honest"])
        oracle_weights.add(results["protocols"]["oracle"]["label_weight"])
    assert len(oracle_weights) > 1


def test_a_score_of_zero_predicts_the_positive_class():
    """The decision is f >= 0, as in the paper."""
    path = WeightPath(*[np.zeros(1)] * 2, np.zeros((1, 8)), *[np.zeros(1)] * 3)
    results, _ = assess(path, Y_TEST, protocols=["honest"], oracle_weights=[])
    assert results["protocols"]["honest"]["accuracy"] == 0.5


def test_network_honest_is_the_last_epoch():
    """The last epoch is the result; the best epoch is the oracle's, the earliest of equals."""
    right = [4, 7, 7, 5]
    scores = np.array([np.where(np.arange(8) < n, Y_TEST, -Y_TEST) for n in right], float)
    results, _ = assess_network(scores, np.ones(4), Y_TEST, protocols=["oracle", "honest"])
    assert results["protocols"]["honest"]["epoch"] == 4
    assert results["protocols"]["honest"]["accuracy"] == 5 / 8
    assert results["protocols"]["oracle"]["epoch"] == 2
    assert [point["test_accuracy"] for point in results["curve"]] == [n / 8 for n in right]


def evaluation(variant, right, *, validation=None, seed=None, pair="deer-dog"):
    """Make an evaluation that is right on the listed test images under both protocols."""
    score = np.where(np.isin(np.arange(8), right), Y_TEST, -Y_TEST)
    result = {
        "accuracy": len(right) / 8,
        "label_weight": None if variant == "cnn" else 0.1,
        "validation_accuracy": validation,
    }
    record = {"pair": pair, "variant": variant, "seed": seed, "n_train": 10, "n_test": 8}
    record["protocols"] = {"honest": result, "oracle": result}
    predictions = {"label": Y_TEST, "honest": score, "oracle": score}
    return record, pd.DataFrame(predictions)


def rows_of(table, variant):
    return table[table["variant"] == variant].set_index("protocol")


EVALUATIONS = [
    evaluation("cntk", [0, 1, 2, 3], validation=0.9),
    evaluation("lantk-kr-v1", [0, 1, 2, 3, 4], validation=0.8),
    evaluation("lantk-kr-v2", [0, 1, 2, 3, 4, 5], validation=0.7),
    evaluation("cnn", [0, 1, 2, 3, 4, 5, 6, 7], seed=0),
    evaluation("cnn", [0, 1, 2, 3], seed=1),
]


def test_best_follows_the_protocol():
    """lantk-best takes the best validated term under honest, the best tested under oracle."""
    best = rows_of(leaderboard(EVALUATIONS), "lantk-best")
    assert best.loc["honest", "accuracy"] == 5 / 8
    assert best.loc["oracle", "accuracy"] == 6 / 8


def test_seeds_are_averaged_and_the_first_one_is_tested():
    """A network's accuracy is the mean over seeds; its p-value is the first seed's."""
    cnn = rows_of(leaderboard(EVALUATIONS), "cnn").loc["honest"]
    assert cnn["accuracy"] == 6 / 8
    assert cnn["p_value"] == pytest.approx(2 / 2**4)
    assert (cnn["ci_low"], cnn["ci_high"]) == wilson_interval(6 / 8, 8)


def test_table_has_one_row_for_each_pair_variant_and_protocol_in_order():
    """Rows follow the order of the evaluations, honest before oracle, lantk-best last."""
    other = [
        evaluation(r["variant"], [0], validation=0.5, pair="cat-deer") for r, _ in EVALUATIONS[:3]
    ]
    table = leaderboard(EVALUATIONS + other)
    assert list(table.columns) == TABLE_COLUMNS
    names = ["cntk", "lantk-kr-v1", "lantk-kr-v2", "cnn", "lantk-best"]
    wanted = [("deer-dog", v, p) for v in names for p in ("honest", "oracle")]
    wanted += [("cat-deer", v, p) for v in names if v != "cnn" for p in ("honest", "oracle")]
    assert list(table[["pair", "variant", "protocol"]].itertuples(index=False, name=None)) == wanted
    assert table[table["variant"] == "cntk"]["p_value"].isna().all()


def test_table_without_the_plain_kernel_or_label_terms():
    """Without cntk there is nothing to test against; without label terms no best."""
    table = leaderboard([EVALUATIONS[3]])
    assert list(table["variant"]) == ["cnn", "cnn"]
    assert table["p_value"].isna().all()
