"""The leaderboard: which rows there are, and what stands in them."""

import numpy as np
import pandas as pd
import pytest
from records import make_predictions, make_record

from lantk.experiment.variants import BEST, DERIVED, LAP, PUBLISHED_TERMS
from lantk.regression.statistics import DEFINITE, wilson_interval
from lantk.report.leaderboard import OF_EVALUATIONS, TABLE_COLUMNS, leaderboard
from lantk.variant import Variant

Y_TEST = np.array([1, 1, 1, 1, -1, -1, -1, -1])


def evaluation(variant, right, *, validation=None, seed=None, task="deer-dog", n_train=10):
    """Make an evaluation that is right on the listed test images under both protocols."""
    score = np.where(np.isin(np.arange(8), right), Y_TEST, -Y_TEST)
    result = {
        "accuracy": len(right) / 8,
        "label_weight": None if variant == "cnn" else 0.1,
        "ridge": None,
        "validation_accuracy": validation,
    }
    record = {"task": task, "variant": variant, "seed": seed, "n_train": n_train, "n_test": 8}
    record |= {"classes": task.split("-"), "architecture": {"name": None, "digest": "ab" * 8}}
    record["protocols"] = {"honest": result, "oracle": result}
    predictions = {"index": np.arange(8), "label": Y_TEST, "honest": score, "oracle": score}
    return record, pd.DataFrame(predictions)


def rows_of(table, variant):
    return table[table["variant"] == variant].set_index("protocol")


EVALUATIONS = [
    evaluation("cntk", [0, 1, 2, 3], validation=0.9),
    evaluation("lantk-kr-v1", [0, 1, 2, 3, 4], validation=0.8),
    evaluation("lantk-kr-v2", [0, 1, 2, 3, 4, 5], validation=0.7),
    evaluation("lantk-fjlt-v1", [0, 1], validation=0.6),
    evaluation("lantk-fjlt-v2", [0, 2], validation=0.6),
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


def test_table_has_one_row_for_each_task_variant_and_protocol_in_order():
    """Rows follow the order of the evaluations, honest before oracle, lantk-best last."""
    other = [
        evaluation(r["variant"], [0], validation=0.5, task="cat-deer") for r, _ in EVALUATIONS[:5]
    ]
    table = leaderboard(EVALUATIONS + other)
    assert list(table.columns) == [*TABLE_COLUMNS, *OF_EVALUATIONS]
    names = ["cntk", *PUBLISHED_TERMS, "cnn", "lantk-best"]
    wanted = [("deer-dog", v, p) for v in names for p in ("honest", "oracle")]
    wanted += [("cat-deer", v, p) for v in names if v != "cnn" for p in ("honest", "oracle")]
    assert list(table[["task", "variant", "protocol"]].itertuples(index=False, name=None)) == wanted
    assert table[table["variant"] == "cntk"]["p_value"].isna().all()


def test_table_without_the_plain_kernel_or_label_terms():
    """Without cntk there is nothing to test against; without label terms no best."""
    table = leaderboard([EVALUATIONS[-2]])
    assert list(table["variant"]) == ["cnn", "cnn"]
    assert table["p_value"].isna().all()


def twins(variant, *accuracies, validation=0.5):
    """Return the shuffled twins of a label term, right on the given numbers of images."""
    return [
        evaluation(f"{variant}-shuffled", range(right), validation=validation, seed=seed)
        for seed, right in enumerate(accuracies)
    ]


def test_spread_is_the_standard_deviation_over_seeds():
    """Several seeds have their sample standard deviation in the table, one has none."""
    table = leaderboard(EVALUATIONS)
    assert rows_of(table, "cnn").loc["honest", "spread"] == pytest.approx(np.std([1, 0.5], ddof=1))
    assert table[table["variant"] != "cnn"]["spread"].isna().all()


def test_label_gain_is_measured_against_the_shuffled_twins():
    """The label gain is the accuracy minus the mean over a variant's own shuffled twins."""
    table = leaderboard([*EVALUATIONS, *twins("lantk-kr-v2", 3, 4, 8)])
    gain = rows_of(table, "lantk-kr-v2").loc["honest", "label_gain"]
    assert gain == pytest.approx(6 / 8 - 5 / 8)
    others = table[~table["variant"].isin(["lantk-kr-v2"])]
    assert others["label_gain"].isna().all()


def test_best_of_the_twins_is_chosen_as_the_best_of_the_terms():
    """For each seed the twin with the best validation, or under oracle test, accuracy is taken."""
    found = [
        *EVALUATIONS,
        *twins("lantk-kr-v1", 7, 1, validation=0.2),
        *twins("lantk-kr-v2", 2, 4, validation=0.6),
        *twins("lantk-fjlt-v1", 0, 0, validation=0.1),
        *twins("lantk-fjlt-v2", 1, 0, validation=0.1),
    ]
    table = leaderboard(found)
    shuffled = rows_of(table, "lantk-best-shuffled")
    assert shuffled.loc["honest", "accuracy"] == (2 + 4) / 2 / 8
    assert shuffled.loc["oracle", "accuracy"] == pytest.approx((7 + 4) / 2 / 8)
    best = rows_of(table, "lantk-best")
    assert best.loc["oracle", "label_gain"] == pytest.approx((6 - 5.5) / 8)


def test_best_of_the_twins_wants_a_twin_of_every_term():
    """A seed that lacks a term's twin would choose among fewer, so it is left out."""
    others = [twin for term in PUBLISHED_TERMS[1:] for twin in twins(term, 2)]
    found = [*EVALUATIONS, *twins("lantk-kr-v1", 7, 1), *others]
    shuffled = rows_of(leaderboard(found), "lantk-best-shuffled")
    assert shuffled.loc["oracle", "accuracy"] == 7 / 8
    assert "lantk-best-shuffled" not in set(leaderboard(found[:-1])["variant"])


def test_best_wants_all_four_published_terms():
    """Where one of the four is missing there is no lantk-best, and no best of their twins."""
    found = [evaluation(term, [0], validation=0.5) for term in PUBLISHED_TERMS]
    found += [twin for term in PUBLISHED_TERMS for twin in twins(term, 1)]
    assert {"lantk-best", "lantk-best-shuffled"} <= set(leaderboard(found)["variant"])
    assert "lantk-best" not in set(leaderboard(found[1:])["variant"])
    assert "lantk-best-shuffled" not in set(leaderboard(found[:-1])["variant"])


def test_the_order_of_evaluations_decides_nothing():
    """In any order ties go to the earlier published term, p-values to the lowest seed."""
    found = [evaluation("cntk", [0])]
    for i, term in enumerate(PUBLISHED_TERMS):
        found.append(evaluation(term, range(1 + i), validation=0.5))
        found += [
            evaluation(f"{term}-shuffled", [i], validation=0.5, seed=seed) for seed in (2, 10)
        ]
    found += [evaluation("cnn", range(2 + i), seed=seed) for i, seed in enumerate((10, 2))]
    first, second = (
        leaderboard(order)[TABLE_COLUMNS].sort_values(["variant", "protocol"], ignore_index=True)
        for order in (found, found[::-1])
    )
    pd.testing.assert_frame_equal(first, second)
    assert rows_of(first, "lantk-best").loc["honest", "accuracy"] == 1 / 8
    assert rows_of(first, "cnn").loc["honest", "p_value"] == 2 * (1 / 2) ** 2


@pytest.mark.parametrize("derived", [name for name in DERIVED if name != LAP])
def test_ties_go_to_the_first_candidate_whatever_the_order_of_records(derived):
    """Records of a folder come by name, where epoch 10 stands before epoch 3."""
    v = Variant.of(derived)
    ending = "-shuffled" if v.is_shuffled else ""
    parents = PUBLISHED_TERMS
    if v.parent != BEST:
        parents = [f"{v.parent}-{epoch}" for epoch in (3, 10, 30, 100)]
    found = [
        evaluation(f"{name}{ending}", [i], validation=0.5, seed=0) for i, name in enumerate(parents)
    ]
    for i, (record, _) in enumerate(found):
        # By which it is seen who won.
        record["protocols"]["honest"]["label_weight"] = i
    orders = [np.random.default_rng(seed).permutation(4) for seed in range(5)]
    by_name = sorted(range(4), key=lambda i: found[i][0]["variant"])
    for order in (range(4), by_name, *orders):
        rows = rows_of(leaderboard([found[i] for i in order]), derived)
        assert list(rows["label_weight"]) == [0, 0]


def definite(evaluated, right, validation, n_negative):
    """Add the choice among definite matrices to an evaluation, whose honest one has some n."""
    record, predictions = evaluated
    own, _ = evaluation(record["variant"], right, validation=validation)
    choice = own["protocols"]["honest"] | {"label_weight": 0.0}
    points = [(0.1, n_negative), (0.0, 0)]
    record["curve"] = [{"label_weight": w, "ridge": None, "n_negative": n} for w, n in points]
    record["protocols"] = record["protocols"] | {DEFINITE: choice}
    score = np.where(np.isin(np.arange(8), right), Y_TEST, -Y_TEST)
    return record, predictions.assign(**{DEFINITE: score})


def test_the_best_of_definite_choices_is_one_of_them():
    """It has rows of its own, with label gains, and moves no row of a protocol."""
    plain = [(record, frame) for record, frame in EVALUATIONS if record["variant"] != "cnn"]
    plain += [twin for term in PUBLISHED_TERMS for twin in twins(term, 3)]
    wanted = leaderboard([(dict(record), frame) for record, frame in plain])
    validation = dict(zip(PUBLISHED_TERMS, (0.5, 0.7, 0.6, 0.6), strict=True))
    found = [
        definite(
            (dict(record), frame),
            [0, 1],
            validation.get(record["variant"], 0.4),
            int(record["variant"] == "lantk-kr-v1"),
        )
        for record, frame in plain
    ]
    table = leaderboard(found)
    best = rows_of(table, "lantk-best")
    # Of all weights KR-V1 is validated best, of the definite ones KR-V2.
    assert best["n_negative"].tolist() == [1, 0, 0]
    assert best.index.tolist() == ["honest", "oracle", DEFINITE]
    assert best.loc[DEFINITE, "accuracy"] == 2 / 8
    assert best.loc[DEFINITE, "label_gain"] == 0
    assert list(rows_of(table, "lantk-best-shuffled").index) == list(best.index)
    same = table[table["protocol"] != DEFINITE].reset_index(drop=True)
    kept = [name for name in TABLE_COLUMNS if name != "n_negative"]
    pd.testing.assert_frame_equal(same[kept], wanted[kept])


def test_label_gain_has_a_paired_interval_over_test_images():
    """Its half-width is 1.96 standard errors of right or wrong minus that of the twin."""
    found = [*EVALUATIONS, *twins("lantk-kr-v2", 4)]
    half = rows_of(leaderboard(found), "lantk-kr-v2")["label_gain_half_width"]
    # Right on the first six; the twin on the first four.
    difference = [0, 0, 0, 0, 1, 1, 0, 0]
    wanted = 1.959964 * np.std(difference, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(half, [wanted] * 2, rtol=1e-6)
    # Two twins that differ add their spread.
    found = [*EVALUATIONS, *twins("lantk-kr-v2", 3, 5)]
    assert (rows_of(leaderboard(found), "lantk-kr-v2")["label_gain_half_width"] > wanted).all()
    # Equal predictions have no gain and no doubt about it.
    found = [*EVALUATIONS, *twins("lantk-kr-v2", 6)]
    assert list(rows_of(leaderboard(found), "lantk-kr-v2")["label_gain_half_width"]) == [0, 0]


@pytest.mark.parametrize("name", ["lantk-plugin", "lantk-fjlt-v2-text", "lantk-kr-v1-diagonal"])
def test_best_is_one_of_the_published_four(name):
    """No control and no term of ours competes for lantk-best, however good it is."""
    table = leaderboard([*EVALUATIONS, evaluation(name, range(8), validation=1.0)])
    assert rows_of(table, "lantk-best").loc["honest", "accuracy"] == 5 / 8


def test_class_numbers_are_compared_and_not_signs():
    """Of ten classes a prediction is right if its number is the label's."""
    cntk, other = make_record("cntk", 0.5, task="all"), make_record("cnn", 0.5, task="all", seed=0)
    first, last = np.arange(200), np.arange(200, 400)
    found = [(cntk, make_predictions(cntk, first)), (other, make_predictions(other, last))]
    p_value = rows_of(leaderboard(found), "cnn").loc["honest", "p_value"]
    # 200 images are right in each only: a fair coin could not be fairer.
    assert p_value == 1.0
    found[1] = (other, make_predictions(other, np.arange(400)))
    p_value = rows_of(leaderboard(found), "cnn").loc["honest", "p_value"]
    assert p_value == pytest.approx(2 / 2**200, rel=1e-6)


def test_cases_of_one_task_are_compared_within_themselves():
    """Each n and each architecture has its own CNTK, its own best and rows in their order."""
    small = [
        evaluation(r["variant"], [0, 1], validation=0.5, n_train=4) for r, _ in EVALUATIONS[:5]
    ]
    table = leaderboard([*EVALUATIONS[:5], *small])
    assert list(table["n_train"].unique()) == [10, 4]
    best = table[(table["variant"] == "lantk-best") & (table["protocol"] == "oracle")]
    assert list(best["accuracy"]) == [6 / 8, 2 / 8]
    assert list(best["p_value"]) == [0.5, 1.0]


def test_architecture_is_named_or_known_by_its_digest():
    """The table shows an architecture's name, or eight digits of the digest of a list of layers."""
    named, listed = (make_record("cntk", architecture=name) for name in ("chen2020", None))
    table = leaderboard([(record, make_predictions(record)) for record in (named, listed)])
    assert list(table["architecture"].unique()) == ["chen2020", "a" * 8]


def test_ceiling_has_the_oracle_only():
    """oracle-label, which is evaluated under one protocol, has one row."""
    records = [make_record("cntk"), make_record("oracle-label", 1.0, protocols=("oracle",))]
    table = leaderboard([(record, make_predictions(record)) for record in records])
    assert list(table["variant"]) == ["cntk", "cntk", "oracle-label"]


def test_ridge_stands_in_the_table():
    """The ridge that was chosen has its column, beside an empty label weight."""
    record = make_record("cntk-ridge")
    table = leaderboard([(record, make_predictions(record))])
    assert list(table["ridge"]) == [0.01, 0.01]
    assert table["label_weight"].isna().all()


def test_evaluations_tell_images_and_weights():
    """Each seed's outcomes on each test image, and the mean over seeds at each label weight."""
    found = [*EVALUATIONS, *twins("lantk-kr-v2", 3, 4)]
    for i, (record, _) in enumerate(found[-2:]):
        record["curve"] = [{"label_weight": w, "test_accuracy": w + i / 2} for w in (0.1, 0.3)]
        record["diagnostics"] = {"alignment_z": 0.2 + i / 10}
    twin = rows_of(leaderboard(found), "lantk-kr-v2-shuffled").loc["honest"]
    assert twin["outcomes"].right.sum(axis=1).tolist() == [3, 4]
    assert twin["outcomes"].seeds == (0, 1)
    assert twin["curve"] == pytest.approx({0.1: 0.35, 0.3: 0.55})
    assert twin["alignment_z"] == pytest.approx(0.25)


def pooled(window, right, validation, variant="cntk", **case):
    """Make an evaluation of an architecture with a window of local average pooling; 1 is none."""
    record, predictions = evaluation(variant, right, validation=validation, **case)
    pool = [{"average_pool": {"size": window, "stride": 1}}] * (window > 1)
    record["architecture"]["layers"] = [{"conv": {"size": 3}}, *pool, "flatten", "dense"]
    record["architecture"]["name"] = f"window-{window}"
    return record, predictions


WINDOWS = [
    pooled(5, [0, 1, 2, 3], 0.7),
    pooled(1, [0, 1, 4], 0.6),
    pooled(3, [0, 1, 2], 0.8),
]


def test_the_window_follows_the_protocol():
    """Of validation under honest and definite, of test under oracle; beside the smallest's CNTK."""
    found = [definite((dict(r), frame), [0], 0.5, 0) for r, frame in WINDOWS]
    lap = rows_of(leaderboard(found), LAP)
    assert lap["window"].to_dict() == {"honest": 3, "oracle": 5, DEFINITE: 1}
    assert lap["accuracy"].to_dict() == {"honest": 3 / 8, "oracle": 4 / 8, DEFINITE: 1 / 8}
    assert set(lap["architecture"]) == {"window-1"}
    # Against window 1 alone: one image each, two and one, none.
    assert lap["p_value"].to_dict() == {"honest": 1, "oracle": 1, DEFINITE: 1}
    assert lap.loc["honest", "outcomes"].right.tolist() == [[True] * 3 + [False] * 5]
    others = leaderboard(found).query("variant != @LAP")
    assert others["window"].isna().all()


def test_ties_go_to_the_smaller_window_whatever_the_order_of_records():
    """By its number: 11 is larger than 3, though not by its letters."""
    found = [pooled(window, [0, 1], 0.5) for window in (11, 3, 5)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        lap = rows_of(leaderboard([found[i] for i in order]), LAP)
        assert lap["window"].to_dict() == {"honest": 3, "oracle": 3}


def test_a_window_wants_two_to_choose_from_and_none_that_is_missing():
    """Where results of a window lack its CNTK or validation, the best of others is none of them."""

    def windows(found):
        lap = rows_of(leaderboard(found), LAP)
        return lap["window"].to_dict()

    assert windows(WINDOWS[:1]) == {}
    assert windows(WINDOWS[:2]) == {"honest": 5, "oracle": 5}
    lacking = pooled(3, [0], 0.1, "cntk-ridge")
    assert windows([*WINDOWS[:2], lacking]) == {}
    # An unknown validation accuracy is no reason against the oracle.
    assert windows([*WINDOWS[:2], pooled(3, [0], None)]) == {"oracle": 5}


def test_windows_are_chosen_within_a_task_an_n_and_the_same_other_layers():
    """Each has its own choice; an architecture of other layers is no candidate."""
    small = [pooled(1, [0, 1, 4], 0.6, n_train=4), pooled(3, [0], 0.5, n_train=4)]
    other = pooled(3, range(8), 0.9)
    other[0]["architecture"] |= {"name": "other", "layers": ["relu", "flatten", "dense"]}
    table = leaderboard([*WINDOWS, *small, other])
    lap = table[(table["variant"] == LAP) & (table["protocol"] == "honest")]
    assert lap.set_index("n_train")["window"].to_dict() == {10: 3}
    whole = leaderboard([*WINDOWS, *small, pooled(5, [0], 0.7, n_train=4), other])
    lap = whole[(whole["variant"] == LAP) & (whole["protocol"] == "honest")]
    assert lap.set_index("n_train")["window"].to_dict() == {10: 3, 4: 5}
    kept = whole[whole["variant"] != LAP].reset_index(drop=True)[TABLE_COLUMNS]
    assert len(kept) == 2 * 7
