"""Sentences and captions are true of the numbers that they are computed from, in every branch."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from records import make_record

from lantk.report.findings import summary_sentences
from lantk.report.html_report import Results, html_report


def rows(n=40, architecture="a", protocol="honest", p=0.5, **accuracies) -> pd.DataFrame:
    """Return rows of a leaderboard: variant -> accuracies in percent, one a task, None for none."""
    made = []
    for name, values in accuracies.items():
        variant = name.replace("_", "-")
        for i, percent in enumerate(values):
            twin = accuracies.get(f"{name}_shuffled")
            row = {"task": f"t{i}", "architecture": architecture, "n_train": n, "n_test": 400}
            row |= {"variant": variant, "protocol": protocol, "p_value": p, "spread": math.nan}
            row |= {"label_gain": (percent - twin[i]) / 100 if twin and percent else math.nan}
            row |= {"label_gain_half_width": 0.001, "accuracy": (percent or 0) / 100}
            row |= {"ci_low": 0.1, "ci_high": 0.9, "label_weight": 0.0, "ridge": math.nan}
            made += [row] if percent is not None else []
    return pd.DataFrame(made)


def summary(*parts: pd.DataFrame) -> str:
    return " ".join(summary_sentences(pd.concat(parts)))


def cards(*parts: pd.DataFrame) -> str:
    table = pd.concat(parts)
    timings = pd.DataFrame({"job": [], "seconds": [], "peak_memory_mb": []})
    page = html_report(Results(Path("results/a"), table, [make_record("cntk")], timings))
    return page[page.index("<ul class") : page.index('<p class="lead"')]


PLAIN = {"cntk": (80, 80, 80)}
GAINS = PLAIN | {"lantk_kr_v1": (82, 83, 84)}
ONE = {"cntk": (80,), "lantk_kr_v1": (82,)}
TWINS = {"lantk_kr_v1_shuffled": (80, 80.5, 81)}
BEST = {"lantk_best": (82, 83, 84), "lantk_best_shuffled": (80, 80.5, 81)}
RIVAL = {"lantk_plugin": (81, 81, 81)}
PICK = "does not allow for the choice by test accuracy"

CASES = {
    "labels, best": (
        lambda: summary(rows(**PLAIN, **BEST)),
        "What labels are worth is the gain minus what the best of the same label terms gains,"
        " chosen in the same way, when all are fitted to shuffled labels: +2.50 points (95 %"
        " interval +1.26 to +3.74); labels help here.",
    ),
    "labels, one term": (
        lambda: summary(rows(**GAINS, **TWINS)),
        "minus what the same label term gains when it is fitted to shuffled labels: +2.50 points"
        " (95 % interval +1.26 to +3.74); labels help here.",
    ),
    "labels, rivals": (
        lambda: summary(rows(**GAINS, **TWINS, **RIVAL)),
        f"; labels help here, but the interval {PICK}.",
    ),
    "gain, rivals": (
        lambda: summary(rows(**GAINS, **RIVAL)),
        f"(95 % interval +0.52 to +5.48). The interval lies above 0; that {PICK}.",
    ),
    "labels, oracle alone": (
        lambda: summary(rows(**GAINS, **TWINS, protocol="oracle")),
        f"; labels help here, but the interval {PICK}.",
    ),
    "labels, equal in two tasks": (
        lambda: summary(rows(cntk=(80, 80), lantk_x=(82, 83), lantk_x_shuffled=(81, 82))),
        "to shuffled labels: +1.00 points; whether that can be told from 0 is not known.",
    ),
    "gain, equal in two tasks": (
        lambda: summary(rows(cntk=(80, 80), lantk_x=(82, 82))),
        "a difference of +2.00 points. Whether that can be told from no difference is not known.",
    ),
    "one task, above": (
        lambda: summary(rows(**ONE, p=0.0001)),
        "(exact McNemar test: p < 0.001). At the level of 5 % that can be told from no difference.",
    ),
    "one task, above, oracle": (
        lambda: summary(rows(**ONE, p=0.01, protocol="oracle")),
        f"At the level of 5 % that can be told from no difference; that {PICK}.",
    ),
    "one task, open": (
        lambda: summary(rows(**ONE)),
        "At the level of 5 % that cannot be told from no difference.",
    ),
    "several n": (
        lambda: summary(rows(40, **GAINS), rows(1800, **GAINS)),
        "With nothing chosen on test images, at n = 1,800, LANTK-KR-V1 reaches 83.00 %",
    ),
    "several architectures": (
        lambda: summary(rows(**GAINS), rows(architecture="b", **GAINS)),
        "With nothing chosen on test images, with architecture a, LANTK-KR-V1 reaches 83.00 %",
    ),
    "both": (
        lambda: summary(*(rows(n, a, **GAINS) for a in "ab" for n in (40, 80))),
        "With nothing chosen on test images, at n = 80, architecture a, LANTK-KR-V1 reaches",
    ),
    "unfinished: a task lacks the largest n": (
        lambda: summary(rows(40, **GAINS), rows(80, cntk=(90, 90), lantk_kr_v1=(91, 95))),
        "at n = 40, LANTK-KR-V1 reaches 83.00 % on average over 3 tasks, and CNTK 80.00 %",
    ),
    "unfinished: the largest n lacks label terms": (
        lambda: summary(rows(40, **GAINS), rows(80, cntk=(90, 90, 90))),
        "at n = 40, LANTK-KR-V1 reaches 83.00 % on average over 3 tasks, and CNTK 80.00 %",
    ),
    "unfinished: a rival lacks a task": (
        lambda: summary(rows(**GAINS, lantk_plugin=(99, None, 99))),
        "With nothing chosen on test images, LANTK-KR-V1 reaches 83.00 % on average over 3 tasks,",
    ),
    "no n in common": (
        lambda: summary(rows(40, cntk=(80,), lantk_x=(81,)), rows(80, cntk=(None, 70))),
        "at n = 40, in 1 of 2 tasks (t0), lantk-x reaches 81.00 %, and CNTK 80.00 %: a difference",
    ),
    "two n, most tasks": (
        lambda: summary(
            rows(40, cntk=(80, 80), lantk_x=(81, 82)),
            rows(80, cntk=(None, None, 70), lantk_x=(None, None, 71)),
        ),
        "at n = 40, in 2 of 3 tasks (t0, t1), lantk-x reaches 81.50 % on average over 2 tasks",
    ),
    "oracle loses": (
        lambda: summary(rows(**GAINS), rows(protocol="oracle", **PLAIN, lantk_kr_v1=(78, 79, 79))),
        "LANTK-KR-V1 differs from CNTK by -1.33 points (95 % interval -2.77 to +0.10).",
    ),
    "oracle gains less": (
        lambda: summary(rows(**GAINS), rows(protocol="oracle", **PLAIN, lantk_kr_v1=(81, 82, 83))),
        "LANTK-KR-V1 differs from CNTK by +2.00 points (95 % interval -0.48 to +4.48).",
    ),
    "oracle gains more": (
        lambda: summary(rows(**GAINS), rows(protocol="oracle", **PLAIN, lantk_kr_v1=(84, 85, 86))),
        "by +5.00 points (95 % interval +2.52 to +7.48); part of that is the choice itself.",
    ),
    "network, share": (
        lambda: summary(rows(**GAINS, cnn=(86, 86, 86.3))),
        "The finite CNN differs from CNTK by +6.10 points (95 % interval +5.67 to +6.53); the"
        " label term closes 49 % of that gap.",
    ),
    "network, exceeded": (
        lambda: summary(rows(**GAINS, cnn=(81, 81, 81.3))),
        "(95 % interval +0.67 to +1.53); what the label term gains exceeds that gap.",
    ),
    "network, widened": (
        lambda: summary(rows(**PLAIN, lantk_x=(79, 79, 78), cnn=(81, 81, 81.3))),
        "(95 % interval +0.67 to +1.53); the label term widens that gap.",
    ),
    "network, open": (
        lambda: summary(rows(**GAINS, cnn=(70, 80, 75))),
        "The finite CNN differs from CNTK by -5.00 points (95 % interval -17.42 to +7.42): whether"
        " there is a gap to close is not shown.",
    ),
    "network, behind": (
        lambda: summary(rows(**GAINS, cnn=(70, 71, 70))),
        "(95 % interval -11.10 to -8.23): there is no gap to close.",
    ),
    "cards, several n": (
        lambda: cards(rows(40, **GAINS), rows(1800, **GAINS)),
        '<span class="note">mean of 3 tasks; at n = 1,800</span>',
    ),
    "cards, p-value": (
        lambda: cards(rows(**ONE, p=1e-5)),
        '<span class="note">McNemar p &lt; 0.001</span>',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_is_true(case):
    """Made-up results give the sentence that is true of them."""
    said, expected = CASES[case]
    text = said()
    assert expected in text
