"""Claims are the differences that the numbers make, with the verdict of their intervals."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from lantk.report.claims import NOTHING, Estimate, main_claims
from lantk.report.tables import claims_lines, claims_table
from lantk.report.terminal import claims_text


def rows(n=40, architecture="a", protocol="honest", p=0.5, **accuracies) -> pd.DataFrame:
    """Return rows of a leaderboard: variant -> accuracies in percent, one a task, None for none."""
    made = []
    for name, values in accuracies.items():
        variant = name.replace("_", "-")
        for i, percent in enumerate(values):
            row = {"task": f"t{i}", "architecture": architecture, "n_train": n, "n_test": 400}
            row |= {"variant": variant, "protocol": protocol, "p_value": p, "spread": math.nan}
            row |= {"label_gain_half_width": 0.001, "accuracy": (percent or 0) / 100}
            made += [row] if percent is not None else []
    return pd.DataFrame(made)


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
        [("lantk-x minus CNTK", "+0.00 ± 0.00", "open")],
    ),
    "the interval holds 0": (
        [rows(cntk=(80, 80, 80), lantk_x=(80, 85, 80))],
        [("lantk-x minus CNTK", "+1.67 ± 7.17", "open")],
    ),
    "below": (
        [rows(cntk=(80, 80, 80), lantk_x=(76, 75, 75))],
        [("lantk-x minus CNTK", "-4.67 ± 1.43", "below")],
    ),
    "one task, above": ([rows(**ONE, p=0.0001)], [(GAIN, "+2.00 (p < 0.001)", "above")]),
    "one task, open": ([rows(**ONE)], [(GAIN, "+2.00 (p = 0.500)", "open")]),
    "one task, labels": (
        [rows(**ONE, lantk_kr_v1_shuffled=(81,))],
        [("LANTK-KR-V1 minus its shuffled twin", "+1.00 ± 0.10", "above")],
    ),
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
    found = main_claims(pd.concat(parts))
    told = [(claim.name, claim.estimate.text, claim.estimate.verdict) for claim in found]
    assert [claim for claim in told if claim in expected] == expected


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


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(), "unknown"),
        (Estimate(1.0), "unknown"),
        (Estimate(1.0, 0.0), "unknown"),
        (Estimate(0.0, 0.0), "open"),
        (Estimate(1.0, 1.0), "open"),
        (Estimate(1.0, 0.9), "above"),
        (Estimate(-1.0, 0.9), "below"),
        (Estimate(1.0, p_value=0.05), "open"),
        (Estimate(-1.0, p_value=0.04), "below"),
    ],
)
def test_one_rule_of_verdict(estimate, verdict):
    """Told from 0 by an interval beside it, or by p below 0.05; unknown with neither."""
    assert estimate.verdict == verdict


def test_what_all_claims_share_is_said_once():
    """A column whose cells are all equal stands above the table; nothing is lost."""
    claims = main_claims(pd.concat([rows(**GAINS), rows(protocol="oracle", **GAINS)]), "make x")
    common, table = claims_table(claims)
    assert common == "n: 40; Tasks: 3; Architecture: a; Command: make x"
    assert table.header == ["Claim", "Points", "Verdict", "Accuracies (%)", "Protocol"]
    assert [cell.text for cell in table.rows[0]] == [
        GAIN,
        "+3.00 ± 2.48",
        "above",
        "83.00 / 80.00",
        "honest",
    ]
    assert "| LANTK-KR-V1 minus CNTK | +3.00 ± 2.48 | above   | 83.00 / 80.00  | oracle   |" in (
        claims_lines(claims)
    )


def test_a_terminal_shows_the_claims_and_how_to_read_them():
    text = claims_text(rows(**GAINS), "make x", 80)
    assert "LANTK-KR-V1 minus CNTK  +3.00 ± 2.48    above   83.00 / 80.00" in text
    assert "not independent" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(claims_text(rows(cntk=(80,)), "make x", 80).split()) == NOTHING
