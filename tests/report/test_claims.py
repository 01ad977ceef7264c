"""Claims are the differences that the numbers make, with the verdict of their intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lantk.regression.statistics import Interval, Outcomes
from lantk.report.blocks import Block, blocks
from lantk.report.claims import (
    NO_PREDICTIONS,
    NOTHING,
    Claim,
    Estimate,
    claims_of,
    judge,
    legend,
    main_claims,
)
from lantk.report.tables import claims_lines, claims_table
from lantk.report.terminal import claims_text


def rows(n=40, architecture="a", protocol="honest", p=0.5, **accuracies) -> pd.DataFrame:
    """Return rows of a table.csv: variant -> accuracies in percent, one a task, None for none."""
    made = []
    for name, values in accuracies.items():
        variant = name.replace("_", "-")
        for i, percent in enumerate(values):
            row = {"task": f"t{i}", "architecture": architecture, "n_train": n, "n_test": 400}
            row |= {"variant": variant, "protocol": protocol, "p_value": p, "spread": math.nan}
            row |= {"accuracy": (percent or 0) / 100}
            made += [row] if percent is not None else []
    return pd.DataFrame(made)


def with_predictions(table: pd.DataFrame) -> pd.DataFrame:
    """Return a leaderboard whose variants are right on the first of 400 images, other in each task.

    So a difference of 2 points is one of 8 images.
    """
    outcomes = [
        Outcomes(
            np.arange(400) + 400 * int(row.task[1:]), np.arange(400)[None] < 400 * row.accuracy
        )
        for row in table.itertuples()
    ]
    return table.assign(outcomes=outcomes)


def judged(table: pd.DataFrame) -> list:
    (found,) = judge(main_claims(table))
    return found


PLAIN = {"cntk": (80, 80, 80)}
GAINS = PLAIN | {"lantk_kr_v1": (82, 83, 84)}
ONE = {"cntk": (80,), "lantk_kr_v1": (82,)}
TWINS = {"lantk_kr_v1_shuffled": (80, 80.5, 81)}
BEST = {"lantk_best": (82, 83, 84), "lantk_best_shuffled": (80, 80.5, 81)}
RIVAL = {"lantk_plugin": (81, 81, 81)}
GAIN = "LANTK-KR-V1 minus CNTK"
TWIN = "its shuffled twin"

# What was run -> (name, points, verdict) of some of its claims.
CASES = {
    "labels, best": (
        [rows(**PLAIN, **BEST)],
        [
            ("LANTK-best minus CNTK", "+3.00 ± 2.48", "above"),
            ("LANTK-best minus its shuffled twin", "+2.50 ± 1.24", "above"),
        ],
    ),
    "labels, one term": (
        [rows(**GAINS, **TWINS)],
        [
            (GAIN, "+3.00 ± 2.48", "above"),
            (f"LANTK-KR-V1 minus {TWIN}", "+2.50 ± 1.24", "above"),
        ],
    ),
    "rivals": (
        [rows(**GAINS, **TWINS, **RIVAL)],
        [
            (f"{GAIN}, picked by test accuracy", "+3.00 ± 2.48", "above"),
            (f"LANTK-KR-V1 minus {TWIN}, picked by test accuracy", "+2.50 ± 1.24", "above"),
        ],
    ),
    "labels, equal in two tasks": (
        [rows(cntk=(80, 80), lantk_x=(82, 83), lantk_x_shuffled=(81, 82))],
        [("lantk-x minus its shuffled twin", "+1.00", "unknown")],
    ),
    "nothing gained": (
        [rows(cntk=(80, 80), lantk_x=(80, 80))],
        [("lantk-x minus CNTK", "+0.00 ± 0.00", "equal")],
    ),
    "the interval holds 0": (
        [rows(cntk=(80, 80, 80), lantk_x=(80, 85, 80))],
        [("lantk-x minus CNTK", "+1.67 ± 7.17", "open")],
    ),
    "below": (
        [rows(cntk=(80, 80, 80), lantk_x=(76, 75, 75))],
        [("lantk-x minus CNTK", "-4.67 ± 1.43", "below")],
    ),
    "one task": ([rows(**ONE)], [(GAIN, "+2.00", "unknown")]),
    "a rival lacks a task": (
        [rows(**GAINS, lantk_plugin=(99, None, 99))],
        [(GAIN, "+3.00 ± 2.48", "above")],
    ),
    "the largest n lacks label terms": (
        [rows(40, **GAINS), rows(80, cntk=(90, 90, 90))],
        [(GAIN, "+3.00 ± 2.48", "above")],
    ),
    "network": (
        [rows(**GAINS, cnn=(86, 86, 86.3))],
        [("CNN minus CNTK", "+6.10 ± 0.43", "above")],
    ),
    "network, behind": (
        [rows(**GAINS, cnn=(70, 71, 70))],
        [("CNN minus CNTK", "-9.67 ± 1.43", "below")],
    ),
    "network, open": (
        [rows(**GAINS, cnn=(70, 80, 75))],
        [("CNN minus CNTK", "-5.00 ± 12.42", "open")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_claims_are_the_differences_of_the_results(case):
    """Made-up results give the claim that is true of them."""
    parts, expected = CASES[case]
    found = judged(pd.concat(parts))
    told = [(c.name, c.estimate.text, c.verdicts[1].partition(" (")[0]) for c in found]
    assert [claim for claim in told if claim in expected] == expected
    assert {claim.verdicts[0] for claim in found} == {"unknown"}


PLACES = {
    "several n": ([rows(40, **GAINS), rows(1800, **GAINS)], (1800, "3", "a")),
    "several architectures": ([rows(**GAINS), rows(architecture="b", **GAINS)], (40, "3", "a")),
    "both": ([rows(n, a, **GAINS) for a in "ab" for n in (40, 80)], (80, "3", "a")),
    "a task lacks the largest n": (
        [rows(40, **GAINS), rows(80, cntk=(90, 90), lantk_kr_v1=(91, 95))],
        (40, "3", "a"),
    ),
    "no n in common": (
        [rows(40, cntk=(80,), lantk_x=(81,)), rows(80, cntk=(None, 70))],
        (40, "t0", "a"),
    ),
    "two n, most tasks": (
        [
            rows(40, cntk=(80, 80), lantk_x=(81, 82)),
            rows(80, cntk=(None, None, 70), lantk_x=(None, None, 71)),
        ],
        (40, "t0, t1", "a"),
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_claims_are_of_one_n_one_architecture_and_most_tasks(case):
    parts, place = PLACES[case]
    found = main_claims(pd.concat(parts))
    assert {(claim.n_train, claim.tasks, claim.architecture) for claim in found} == {place}


@pytest.mark.parametrize(
    ("values", "text"), [((78, 79, 79), "-1.33 ± 1.43"), ((84, 85, 86), "+5.00 ± 2.48")]
)
def test_the_oracle_has_a_row_of_the_same_term(values, text):
    """It stands last, under its own protocol; where only it was run, all rows are its own."""
    table = pd.concat([rows(**GAINS), rows(protocol="oracle", **PLAIN, lantk_kr_v1=values)])
    *honest, oracle = main_claims(table)
    assert {claim.protocol for claim in honest} == {"honest"}
    assert (oracle.name, oracle.protocol, oracle.estimate.text) == (GAIN, "oracle", text)
    assert [c.protocol for c in main_claims(table.query("protocol == 'oracle'"))] == ["oracle"]


def test_predictions_give_an_interval_of_these_tasks():
    """One rule for every difference: 1.96 standard errors over the images, of one task as well."""
    for table, n_tasks in ((rows(**ONE), 1), (rows(**GAINS), 3)):
        (gain,) = judged(with_predictions(table))
        per_task = [0.0] * (400 - 8) + [1.0] * 8
        wanted = 196 * np.std(per_task, ddof=1) / 20
        assert gain.verdicts[0] == "above"
        if n_tasks == 1:
            assert gain.estimate.here.half == pytest.approx(wanted, rel=1e-3)
            assert gain.verdicts[1] == "unknown"
        else:
            assert gain.estimate.here.half < wanted


def test_open_tells_what_could_have_been_found():
    """Behind it stands the detectable difference: 2.8 standard errors over the images."""
    (gain,) = judged(with_predictions(rows(cntk=(80,), lantk_kr_v1=(80.25,))))
    interval = gain.estimate.here
    assert gain.verdicts[0] == f"open ({2.8016 * interval.error:.2f})"
    (loss,) = judged(with_predictions(rows(cntk=(80,), lantk_kr_v1=(78,))))
    assert loss.verdicts[0] == "below"


def test_verdicts_are_corrected_for_all_claims_shown():
    """A p-value of 0.04 alone is above 0, and open beside another claim; equal ones count once."""
    table = rows(cntk=(80, 80, 80), lantk_kr_v1=(82, 83, 84), cnn=(80, 90, 60))
    pairs = [("lantk-kr-v1", "cntk"), ("cnn", "cntk")]
    one, both = (claims_of(block_of(table), pairs[:n]) for n in (1, 2))
    assert judge(one)[0][0].verdicts[1] == "above"
    assert judge(both)[0][0].verdicts[1] == "open (3.10)"
    assert judge(one, one)[1][0].verdicts[1] == "above"
    assert judge() == []


def test_what_a_gain_of_labels_lacks_is_no_matter_of_other_claims():
    """A claim that would be open with one p-value more before it stays above."""
    strong, weak = (Estimate(m, Interval(m, 1.0), Interval(m, 1.0)) for m in (5.0, 2.1))
    twin = Claim("a minus its shuffled twin", strong, "", "honest", 10, "1", "a", needed=Estimate())
    other = Claim("cnn minus cntk", weak, "", "honest", 10, "1", "a")
    ((first, second),) = judge([twin, other])
    assert first.verdicts[0] == "base not run"
    assert second.verdicts[0] == "above"


@pytest.mark.parametrize(
    ("plain", "term", "twin", "verdict"),
    [
        (80, 84, 80, "above"),
        (80, 84, 76, "above"),
        (84, 80, 76, "twin below base"),
        (80, 80.25, 76, "twin below base"),
        (80, 76, 80, "below"),
        (84, 84, 84, "equal"),
        (None, 84, 76, "base not run"),
    ],
)
def test_labels_are_credited_where_the_twin_is_no_straw_man(plain, term, twin, verdict):
    """Only if the variant is above CNTK as well, or the twin is not below it."""
    names = ("lantk_kr_v1", "lantk_kr_v1_shuffled", "cntk")
    made = {name: (value,) for name, value in zip(names, (term, twin, plain), strict=True)}
    block = block_of(with_predictions(rows(**made)))
    ((found,),) = judge(claims_of(block, [("lantk-kr-v1", "lantk-kr-v1-shuffled")]))
    assert found.verdicts[0] == verdict


def test_the_base_of_a_networks_kernel_is_the_untrained_one():
    """Its twin may lie below CNTK, since no label is missing there but width."""
    made = {"cntk": (90,), "after_kernel_0": (70,), "after_kernel_3": (80,)}
    for twin, verdict in ((70, "above"), (60, "above"), (75, "above")):
        table = with_predictions(rows(**made, after_kernel_3_shuffled=(twin,)))
        pair = ("after-kernel-3", "after-kernel-3-shuffled")
        ((found,),) = judge(claims_of(block_of(table), [pair]))
        assert found.verdicts[0] == verdict
    table = with_predictions(
        rows(**made | {"after_kernel_3": (69,)}, after_kernel_3_shuffled=(60,))
    )
    ((found,),) = judge(claims_of(block_of(table), [pair]))
    assert found.verdicts[0] == "twin below base"


def test_better_kernels_without_labels_have_claims_and_so_have_terms_on_them():
    """A kernel is compared with CNTK, a term on it with it and its twin, flips with flips."""
    term = "cntk_intercept+lantk_kr_v1"
    made = GAINS | {"cntk_ridge": (80, 80, 81), "cntk_intercept": (81, 82, 83)}
    made |= {term: (82, 82, 84), f"{term}_shuffled": (82, 82, 83), f"{term}_diagonal": (82, 82, 82)}
    made |= {"cntk_flips": (83, 84, 83), "cnn_flips": (85, 85, 86), "cntk_laplacian": (80, 81, 82)}
    names = {claim.name for claim in judged(rows(**made))}
    assert names == {
        "LANTK-KR-V1 minus CNTK, picked by test accuracy",
        "cntk-intercept minus CNTK",
        "cntk-intercept+lantk-kr-v1 minus cntk-intercept",
        "cntk-intercept+lantk-kr-v1 minus its shuffled twin",
        "cntk-flips minus CNTK",
        "cntk-laplacian minus CNTK",
        "cnn-flips minus cntk-flips",
    }


def block_of(table: pd.DataFrame) -> Block:
    (found,) = (block for _, block in blocks(table))
    return found


def test_what_all_claims_share_is_said_once():
    """A column whose cells are all equal stands above the table; nothing is lost."""
    table = pd.concat([rows(**GAINS), rows(protocol="oracle", **GAINS)])
    (claims,) = judge(main_claims(table, "make x"))
    common, table = claims_table(claims)
    assert common == "n: 40; Tasks: 3; Architecture: a; Command: make x"
    head = ["Claim", "Points, these tasks", "Other tasks", "Accuracies (%)", "Protocol"]
    assert table.header == head
    cells = [GAIN, "+3.00", "± 2.48 open (3.10)", "83.00 / 80.00", "honest"]
    assert [cell.text for cell in table.rows[0]] == cells
    line = "| +3.00               | ± 2.48 open (3.10) | 83.00 / 80.00  | oracle   |"
    assert f"| {GAIN} {line}" in claims_lines(claims)
    # Of one task there are no others.
    common, table = claims_table(judged(with_predictions(rows(**ONE))))
    assert table.header == ["Claim", "Points", "Accuracies (%)"]
    assert table.rows[0][1].text == "+2.00 ± 1.37 above"


def test_a_terminal_shows_the_claims_and_how_to_read_them():
    """Both intervals and verdicts in one line of 80 columns, and what is not known."""
    text = claims_text(rows(**GAINS), "make x", 80)
    (line,) = (s for s in text.splitlines() if s.startswith(GAIN))
    assert line.split("  ")[1:2] == ["+3.00"]
    assert line.endswith("  ± 2.48 above  83.00 / 80.00 ".rstrip())
    assert "not independent" in " ".join(text.split())
    assert NO_PREDICTIONS in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    table = with_predictions(rows(cntk=(80, 80), lantk_best=(80, 81), lantk_best_shuffled=(80, 82)))
    text = claims_text(table, "make x", 80)
    assert NO_PREDICTIONS not in " ".join(text.split())
    line, *_ = (s for s in text.splitlines() if s.startswith("LANTK-best minus its shuffled twin "))
    assert line.count("open (") == 2
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(claims_text(rows(cntk=(80,)), "make x", 80).split()) == NOTHING


def test_a_legend_explains_twins_where_there_are_any():
    claims = judged(with_predictions(rows(**GAINS)))
    assert not any("twin" in text for text in legend(claims))
    claims = judged(with_predictions(rows(**GAINS, **TWINS)))
    assert any("twin below base" in text for text in legend(claims))
