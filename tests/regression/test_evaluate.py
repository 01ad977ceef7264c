"""Protocols: what is chosen on what."""

from dataclasses import replace

import numpy as np

from lantk.regression.protocols import WeightPath, assess, assess_network
from lantk.regression.statistics import DEFINITE, PROTOCOLS

Y_TEST = np.array([1, 1, 1, 1, -1, -1, -1, -1])


def weight_path(n_correct, validation):
    """Make a path whose weight number i is right on the first n_correct[i] test images."""
    weights = np.array([0.0, 0.001, 0.1, 3.0])[: len(n_correct)]
    scores = np.array([np.where(np.arange(8) < n, Y_TEST, -Y_TEST) for n in n_correct], float)
    filler = np.zeros(len(weights))
    return WeightPath(weights, weights, scores, filler, filler, np.array(validation), filler)


def assess_both(path, y_test=Y_TEST):
    protocols = ["honest", "oracle"]
    return assess(path, y_test, protocols=protocols, oracle_weights=[0.001, 0.1])


def test_honest_follows_validation_and_oracle_the_test_set():
    """Honest takes the best validated weight, oracle the best tested one on its own grid."""
    results, scores = assess_both(weight_path([4, 6, 5, 8], [0.5, 0.6, 0.9, 0.7]))
    assert results["protocols"]["honest"]["label_weight"] == 0.1
    assert results["protocols"]["honest"]["accuracy"] == 5 / 8
    assert results["protocols"]["honest"]["validation_accuracy"] == 0.9
    # Weight 3 is best on the test set, but not one of the oracle's.
    assert results["protocols"]["oracle"]["label_weight"] == 0.001
    assert results["protocols"]["oracle"]["accuracy"] == 6 / 8
    assert list(scores) == ["honest", "oracle"]


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


def test_the_definite_choice_is_the_honest_one_where_no_eigenvalue_is_negative():
    """It is made of the same validation, whatever the test labels; oracle has none."""
    path = weight_path([4, 6, 5, 8], [0.5, 0.6, 0.9, 0.7])
    for n_negative, weight in (
        ([0, 0, 0, 0], 0.1),
        ([0, 0, 1, 0], 3.0),
        ([0, 0, 1, 2], 0.001),
        ([0, 1, 1, 2], 0.0),
    ):
        known = replace(path, n_negative=np.array(n_negative))
        for y_test in (Y_TEST, Y_TEST[::-1]):
            results, scores = assess_both(known, y_test)
            assert list(scores) == [*PROTOCOLS, DEFINITE]
            choice = results["protocols"][DEFINITE]
            assert choice["label_weight"] == weight
            at = path.weights.tolist().index(weight)
            assert choice["accuracy"] == results["curve"][at]["test_accuracy"]
            np.testing.assert_array_equal(scores[DEFINITE], path.scores[at])
            assert [point["n_negative"] for point in results["curve"]] == n_negative
    oracle, _ = assess(known, Y_TEST, protocols=["oracle"], oracle_weights=[0.1])
    assert list(oracle["protocols"]) == ["oracle"]


def test_there_is_no_definite_choice_where_no_validated_weight_is_definite():
    """As where weight 0 is no candidate, or nothing is known of the eigenvalues."""
    path = weight_path([4, 6, 5], [0.5, 0.6, np.nan])
    for n_negative in (np.array([1, 1, 0]), None):
        results, _ = assess_both(replace(path, n_negative=n_negative))
        assert list(results["protocols"]) == [*PROTOCOLS]


def test_a_score_of_zero_predicts_the_positive_class():
    """The decision is f >= 0, as in the paper."""
    path = WeightPath(*[np.zeros(1)] * 2, np.zeros((1, 8)), *[np.zeros(1)] * 4)
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


def test_ridges_compete_as_label_weights_do():
    """A path of ridges fills the column of the ridge, chosen among the oracle's own ridges."""
    path = weight_path([4, 6, 5, 8], [0.5, 0.6, 0.9, 0.7])
    results, _ = assess(
        path, Y_TEST, protocols=["honest", "oracle"], oracle_weights=[0.001, 0.1], is_ridge=True
    )
    chosen = {name: result["ridge"] for name, result in results["protocols"].items()}
    assert chosen == {"honest": 0.1, "oracle": 0.001}
    assert {point["label_weight"] for point in results["curve"]} == {None}


def test_the_largest_score_names_the_class():
    """Of k classes the one with the largest score is predicted, and written as its number."""
    scores = np.eye(3)[[0, 2, 2, 1]][None]
    filler = np.zeros(1)
    path = WeightPath(filler, filler, scores, filler, filler, filler, filler)
    results, predictions = assess(
        path, np.array([0, 1, 2, 1]), protocols=["honest"], oracle_weights=[]
    )
    assert list(predictions["honest"]) == [0, 2, 2, 1]
    assert results["protocols"]["honest"]["accuracy"] == 0.75
