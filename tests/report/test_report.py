"""The result tables: the seed's layout, intervals, what labels are worth, exponents."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lantk.regression.statistics import DEFINITE, Outcomes
from lantk.report.comparisons import table_markdown
from lantk.report.leaderboard import error_exponents
from lantk.report.terminal import leaderboard_text

PAIRS = ["deer-dog", "cat-deer", "cat-frog", "deer-frog", "bird-frog"]
# The seed's first table, with its own averages and improvements.
PUBLISHED = """
| CNTK          | 85.15 | 83.55 | 86.95 | 87.55 | 86.35 | 85.91 | -
| LANTK-best    | 86.75 | 84.85 | 87.40 | 88.30 | 87.45 | 86.95 | 1.04 / 7.4 %
| LANTK-KR-V1   | 85.65 | 83.90 | 87.20 | 87.85 | 87.45 | 86.41 | 0.50 / 3.5 %
| LANTK-KR-V2   | 85.80 | 83.90 | 87.15 | 87.90 | 87.25 | 86.40 | 0.49 / 3.5 %
| LANTK-FJLT-V1 | 86.75 | 84.85 | 87.40 | 88.10 | 86.40 | 86.70 | 0.79 / 5.6 %
| LANTK-FJLT-V2 | 86.25 | 84.55 | 87.10 | 88.30 | 87.00 | 86.64 | 0.73 / 5.2 %
| CNN           | 89.00 | 88.50 | 89.00 | 92.50 | 90.15 | 89.83 | 3.92 / 27.8 %
"""


def row(task, variant, accuracy, **changes):
    """Return one row of table.csv."""
    return {
        "task": task,
        "architecture": "chen2020",
        "n_train": 40,
        "n_test": 100,
        "variant": variant,
        "protocol": "honest",
        "accuracy": accuracy,
        "spread": None,
        "ci_low": accuracy - 0.05,
        "ci_high": min(accuracy + 0.05, 1.0),
        "p_value": math.nan,
        "label_gain": None,
        "label_gain_half_width": None,
        "label_weight": 0.01,
        "ridge": None,
    } | changes


def test_unequal_classes_stand_beside_the_sizes():
    """The head of a table tells unequal classes, and warns where they differ by more than 3:1."""
    counts = {"n_train": 160, "n_test": 237, "train_counts": "30+130", "test_counts": "111+126"}
    equal = {"train_counts": "20+20", "test_counts": "50+50"}
    rows = [row("a-b", "cntk", 0.8, **counts), row("3-8", "cntk", 0.8, **equal)]
    head = "a-b: n_train = 160 (30 + 130), n_test = 237 (111 + 126); 3-8: n_train = 40, n_test ="
    for text in (table_markdown(pd.DataFrame(rows)), leaderboard_text(pd.DataFrame(rows), 1000)):
        assert head in text
        assert "Warning: the classes of a-b differ by more than 3:1 (30 + 130 train" in text
        assert text.count("Warning") == 1
    many = row("all", "cntk", 0.8, train_counts="+".join(map(str, range(10, 21))))
    assert "n_train = 40 (10 to 20 of a class)" in table_markdown(pd.DataFrame([many]))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_published_table_is_reproduced():
    """From the seed's accuracies come its averages, improvements, row and column order."""
    expected = [cells(line) for line in PUBLISHED.strip().splitlines()]
    rows = [
        row(pair, name.lower(), float(value) / 100, protocol="oracle")
        for name, *values in reversed(expected)
        for pair, value in zip(PAIRS, values, strict=False)
    ]
    lines = table_markdown(pd.DataFrame(rows)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| "))
    assert cells(lines[start]) == [*PAIRS, "Avg", "Imp. (abs / rel.)"]
    assert [cells(line) for line in lines[start + 2 : start + 9]] == expected


SMALL = """\
## Honest: nothing chosen on the test set

Test accuracy in percent. Label weight and ridge are chosen by stratified cross-validation inside \
the train set. n_train = 1,000, n_test = 100 for every task.

Imp.: average accuracy minus CNTK's, in points, and as a share of CNTK's error.

|             | 3-8    | 1-8    | Avg    | Imp. (abs / rel.) |
| ----------- | ------ | ------ | ------ | ----------------- |
| CNTK        | 100.00 | 100.00 | 100.00 | -                 |
| LANTK-KR-V1 | 100.00 | 98.00  | 99.00  | -1.00 / -         |
| cntk-ridge  | 100.00 | 100.00 | 100.00 | 0.00 / -          |

95 % Wilson intervals of the accuracies above; p of the exact McNemar test against CNTK on the \
same test images; sd, the standard deviation over seeds where there are several (p is then the \
first seed's); mean gain over CNTK in points with Student's paired 95 % interval over the tasks, \
of one task with that over its test images (claims have both).

|             | 3-8                        | 1-8                        | Mean gain     |
| ----------- | -------------------------- | -------------------------- | ------------- |
| CNTK        | 95.00 to 100.00            | 95.00 to 100.00            | -             |
| LANTK-KR-V1 | 95.00 to 100.00, p = 1.000 | 93.00 to 100.00, p = 0.500 | -1.00 ± 12.71 |
| cntk-ridge  | 95.00 to 100.00            | 95.00 to 100.00, p < 0.001 | +0.00 ± 0.00  |
"""


def test_table_without_errors_to_reduce():
    """Where CNTK makes no error the relative improvement is a dash and nothing divides by zero."""
    size = {"n_train": 1000}
    rows = [
        row("3-8", "cntk-ridge", 1.0, **size),
        row("3-8", "lantk-kr-v1", 1.0, p_value=1.0, **size),
        row("3-8", "cntk", 1.0, **size),
        row("1-8", "cntk-ridge", 1.0 - 1e-9, p_value=1e-9, **size),
        row("1-8", "lantk-kr-v1", 0.98, p_value=0.5, **size),
        row("1-8", "cntk", 1.0, **size),
    ]
    assert table_markdown(pd.DataFrame(rows)).startswith(SMALL)


def test_oracle_comes_second_and_is_named_optimistic():
    """Whatever the order of the rows, honest comes first and the oracle says what it is."""
    rows = [row("3-8", "cntk", 0.8, protocol=protocol) for protocol in ("oracle", "honest")]
    titles = [s for s in table_markdown(pd.DataFrame(rows)).splitlines() if s.startswith("#")]
    assert titles == [
        "## Honest: nothing chosen on the test set",
        "## Oracle: chosen on the test set, optimistic, printed to compare with the paper",
    ]


def test_an_oracle_below_honest_is_explained():
    """Where the paper's grid lacks what honest chose, table and terminal say so, once."""
    honest = [row("3-8", "cntk", 0.8), row("3-8", "lantk-kr-v1", 0.9), row("1-8", "cntk", 0.7)]
    oracle = [found | {"protocol": "oracle"} for found in honest]
    for text in (table_markdown, leaderboard_text):
        assert "below honest" not in text(pd.DataFrame([*honest, *oracle]))
        lower = [oracle[0], oracle[1] | {"accuracy": 0.85}, oracle[2]]
        found = " ".join(text(pd.DataFrame([*honest, *lower])).split())
        assert found.count("oracle lies below honest in 1 of 3 cells: its weights and ridges") == 1
        assert found.index("below honest") > found.lower().index("oracle:")
        assert "below honest" not in text(pd.DataFrame(lower))


def test_incomplete_rows_have_no_average():
    """A variant that lacks a task shows a dash there and has no average, improvement or gain."""
    rows = [row("3-8", "cntk", 0.8), row("1-8", "cntk", 0.7), row("1-8", "cnn", 0.9)]
    text = table_markdown(pd.DataFrame(rows))
    assert [cells(s) for s in text.splitlines() if s.startswith("| CNN")] == [
        ["CNN", "-", "90.00", "-", "-"],
        ["CNN", "-", "85.00 to 95.00", "-"],
    ]


def test_table_without_cntk():
    """Without CNTK there is nothing to improve on, and the accuracies are still shown."""
    rows = [row(pair, "cnn", 0.8) for pair in ("3-8", "1-8")]
    line = next(s for s in table_markdown(pd.DataFrame(rows)).splitlines() if s.startswith("| CNN"))
    assert cells(line) == ["CNN", "80.00", "80.00", "80.00", "-"]


def test_unequal_sizes_are_listed():
    """Where the tasks have unequal numbers of images, each task's are given."""
    rows = [row("3-8", "cntk", 0.8, n_test=317), row("1-8", "cntk", 0.7, n_test=2000)]
    text = table_markdown(pd.DataFrame(rows))
    assert "3-8: n_train = 40, n_test = 317; 1-8: n_train = 40, n_test = 2,000." in text


def test_mean_gain_has_a_student_interval():
    """The mean gain is the mean paired difference, with Student's t of (tasks - 1) degrees."""
    gains = [0.01, 0.02, 0.06]
    rows = [row(f"p{i}", "cntk", 0.5 + i / 10) for i in range(3)]
    rows += [row(f"p{i}", "cnn", 0.5 + i / 10 + gain) for i, gain in enumerate(gains)]
    # t(0.975, 2) = 4.302653; the standard deviation of 1, 2, 6 is sqrt(7).
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)
    assert f"+3.00 ± {half:.2f}" in table_markdown(pd.DataFrame(rows))


def table_of(text: str, first_cell: str) -> list[list[str]]:
    """Return the cells of the first table whose header begins with a text, header included."""
    lines = text.splitlines()
    start = next(i for i, s in enumerate(lines) if s.startswith("|") and first_cell in s)
    end = next((i for i, s in enumerate(lines[start:]) if not s.startswith("|")), len(lines))
    return [cells(line) for line in lines[start : start + end] if "---" not in line]


def test_label_worth_stands_beside_every_control():
    """Gain, shuffled twin, label gain and the controls of Z stand in one row, each paired."""
    rows = []
    for i, task in enumerate(PAIRS[:3]):
        base = 0.5 + i / 10
        gains = {"cntk": 0, "cntk-ridge": 0.005, "cntk-rbf": 0.02, "lantk-kr-v1": 0.03}
        gains |= {"lantk-kr-v1-shuffled": 0.01 - (i - 1) / 1000, "lantk-kr-v1-diagonal": 0.004}
        rows += [row(task, variant, base + gain) for variant, gain in gains.items()]
    found = table_of(table_markdown(pd.DataFrame(rows)), "Label gain")
    half = 4.302653 * 0.1 / math.sqrt(3)  # of 1.9, 2.0 and 2.1 points
    assert found[1:] == [
        [
            "LANTK-KR-V1",
            "+3.00 ± 0.00",
            f"+1.00 ± {half:.2f}",
            f"+2.00 ± {half:.2f}",
            "+0.40 ± 0.00",
        ],
        ["cntk-ridge", "+0.50 ± 0.00"],
        ["cntk-rbf", "+2.00 ± 0.00"],
    ]


def test_a_control_with_a_twin_has_a_label_gain():
    """A fit off the diagonal has a row of its own where its shuffled twin was run."""
    gains = {"cntk": 0, "lantk-fjlt-v1": 0.03, "lantk-fjlt-v1-offdiagonal": 0.02}
    gains |= {"lantk-fjlt-v1-offdiagonal-shuffled": 0.005, "cntk-flips+lantk-kr-v1": 0.04}
    gains |= {"cntk-flips+lantk-kr-v1-shuffled": 0.01, "cntk-flips": 0.015, "cnn-flips": 0.1}
    rows = [row(task, v, 0.5 + gain) for task in PAIRS for v, gain in gains.items()]
    found = table_of(table_markdown(pd.DataFrame(rows)), "Label gain")
    assert [line[:4] for line in found[1:]] == [
        ["LANTK-FJLT-V1", "+3.00 ± 0.00", "", ""],
        ["cntk-flips+lantk-kr-v1", "+4.00 ± 0.00", "+1.00 ± 0.00", "+3.00 ± 0.00"],
        ["cnn-flips", "+10.00 ± 0.00"],
        ["lantk-fjlt-v1-offdiagonal", "+2.00 ± 0.00", "+0.50 ± 0.00", "+1.50 ± 0.00"],
        ["cntk-flips", "+1.50 ± 0.00"],
    ]


def test_captions_name_only_what_is_there():
    """The ceiling, the best term and the network are explained only where they have a row."""
    clauses = {"cnn": "the CNN", "lantk-best": "for LANTK-best", "oracle-label": "a ceiling"}
    variants = ["cntk", "lantk-kr-v1", "cnn", "lantk-best", "oracle-label"]
    for absent, clause in clauses.items():
        rows = [row("3-8", v, 0.8, protocol="oracle") for v in variants if v != absent]
        text = table_markdown(pd.DataFrame(rows)).split("n_train")[0]
        assert [c in text for c in clauses.values()] == [c != clause for c in clauses.values()]


def test_controls_that_were_not_run_have_no_column():
    """Without a control of Z its column is left out; equal accuracies are explained."""
    gains = {"cntk": 0, "lantk-kr-v1": 0, "lantk-kr-v1-shuffled": 0.01}
    rows = [row(task, v, 0.5 + gain) for task in PAIRS for v, gain in gains.items()]
    text = table_markdown(pd.DataFrame(rows))
    header = ["Gain over CNTK", "With shuffled labels", "Label gain"]
    assert table_of(text, "Label gain")[0] == header
    assert "+0.00 ± 0.00 means that no accuracy differs" in text
    rows = [r | {"accuracy": r["accuracy"] + 0.01 * i} for i, r in enumerate(rows)]
    assert "no accuracy differs" not in table_markdown(pd.DataFrame(rows))


def test_indefinite_choices_are_told_beside_what_definite_ones_reach():
    """A section has negative eigenvalues, accuracies and gains; none where all is definite."""
    rows = []
    for i, task in enumerate(PAIRS[:3]):
        for variant, gain in {"cntk": 0, "lantk-kr-v1": 0.01, "lantk-kr-v1-shuffled": 0}.items():
            known = {"n_negative": 2.0 * (variant == "lantk-kr-v1") * (i < 2)}
            rows.append(row(task, variant, 0.5 + gain, **known))
            better = 0.5 + gain * (2 + i % 2)
            rows.append(row(task, variant, better, protocol=DEFINITE, n_negative=0.0))
    text = table_markdown(pd.DataFrame(rows))
    section = text[text.index("## Honest, definite only") :]
    assert "In 2 of 9 cells the honest choice is a weight" in section
    assert table_of(section, "Negative eigenvalues")[1:] == [["LANTK-KR-V1", "2", "2", "0"]]
    assert table_of(section, "Label gain")[1][-1].startswith("+2.33 ±")
    accuracies = table_of(section, "Avg")
    assert ["LANTK-KR-V1", "52.00", "53.00", "52.00"] in [cells[:4] for cells in accuracies]
    # The honest section is what it is without.
    of_honest = [r for r in rows if r["protocol"] == "honest"]
    honest = table_markdown(pd.DataFrame(of_honest).drop(columns="n_negative"))
    assert text.startswith(honest.rstrip())
    # So it is of records of earlier versions, which do not know.
    for n_negative in (0.0, None):
        none = pd.DataFrame([r | {"n_negative": n_negative} for r in rows])
        assert "definite" not in table_markdown(none)


def test_no_controls_no_table_of_label_worth():
    """Without a control there is nothing to say about labels, and no empty table of it."""
    rows = [row("3-8", variant, 0.8) for variant in ("cntk", "lantk-kr-v1", "cnn")]
    assert "labels are worth" not in table_markdown(pd.DataFrame(rows))


def test_label_gain_of_one_task_has_its_interval_over_images():
    """With one task the interval is that over test images, with several that over tasks."""
    rows, right = [], np.arange(100)[None]
    for task in ("3-8", "1-8"):
        for name, k in (("cntk", 50), ("lantk-kr-v1", 52), ("lantk-kr-v1-shuffled", 51)):
            rows.append(row(task, name, k / 100, outcomes=Outcomes(right[0], right < k)))
    one, two = table_markdown(pd.DataFrame(rows[:3])), table_markdown(pd.DataFrame(rows))
    # One image of 100 differs.
    assert table_of(one, "Label gain")[1][3] == "+1.00 ± 1.96"
    assert "interval over the test images" in one
    assert "over the tasks with paired" not in one
    assert table_of(two, "Label gain")[1][3] == "+1.00 ± 0.00"
    assert "so the tasks are not independent" in two


def test_several_n_of_one_task_are_columns():
    """One task at several n has a column for each n, no average, and gains in each column."""
    rows = []
    for n in (2000, 5000):
        rows.append(row("all", "cntk", 0.5, n_train=n))
        rows.append(row("all", "lantk-kr-v1", 0.52, n_train=n, label_gain=0.01))
        rows[-1]["label_gain_half_width"] = n / 1e6
        rows.append(row("all", "lantk-kr-v1-shuffled", 0.51, n_train=n, spread=0.002))
    text = table_markdown(pd.DataFrame(rows))
    assert table_of(text, "n = 2,000")[0] == ["n = 2,000", "n = 5,000"]
    assert "45.00" not in text.split("95 % Wilson")[0]
    assert "paired 95 % interval over the test images" in text
    assert table_of(text, "gain (twin's gain) / label gain ± half-width")[1:] == [
        [
            "LANTK-KR-V1",
            "+2.00 (twin +1.00) / +1.00 ± 0.20",
            "+2.00 (twin +1.00) / +1.00 ± 0.50",
        ],
    ]
    assert "behind the stroke the label gain" in text
    assert "sd 0.20" in text


def test_several_n_of_several_tasks_are_tables():
    """With several tasks each n has its own table, so that averages are over tasks."""
    rows = [row(task, "cntk", 0.5, n_train=n) for task in ("3-8", "1-8") for n in (40, 80)]
    lines = table_markdown(pd.DataFrame(rows)).splitlines()
    assert [line for line in lines if line.startswith("###")] == ["### n = 40", "### n = 80"]


def test_several_architectures_are_columns_or_tables():
    """Depths of one task are columns; of several n and depths, each depth has a table of its n."""
    names = ["arora2019-gap-3", "arora2019-gap-4"]
    rows = [row("all", "cntk", 0.5, architecture=name) for name in names]
    assert table_of(table_markdown(pd.DataFrame(rows)), "arora")[0] == names
    rows += [row("all", "cntk", 0.6, architecture=name, n_train=80) for name in names]
    text = table_markdown(pd.DataFrame(rows))
    assert [s for s in text.splitlines() if s.startswith("###")] == [f"### {s}" for s in names]
    assert table_of(text, "n = 40")[0] == ["n = 40", "n = 80"]


def test_exponents_are_a_section_of_their_own():
    """Slopes stand for each task, with their mean, CNTK's subtracted, and the error against it."""
    rows = [
        row(task, variant, 1 - factor * n**slope, n_train=n)
        for task, slope in (("3-8", -0.2), ("1-8", -0.3))
        for variant, factor in (("cntk", 1.0), ("lantk-kr-v1", 0.9))
        for n in (500, 1000, 2000)
    ]
    table = pd.DataFrame(rows)
    text = table_markdown(table, error_exponents(table))
    half = 12.706205 * 0.1 / math.sqrt(2) / math.sqrt(2)
    assert table_of(text, "Slope minus") == [
        ["3-8", "1-8", "Mean", "Slope minus CNTK's", "Error against CNTK's"],
        ["CNTK", "-0.200", "-0.300", f"-0.250 ± {half:.3f}", "-", "-"],
        [
            "LANTK-KR-V1",
            "-0.200",
            "-0.300",
            f"-0.250 ± {half:.3f}",
            "+0.000 ± 0.000",
            "-10.0 % (-10.0 to -10.0)",
        ],
    ]
    assert "Error against n" not in table_markdown(table[table["n_train"] == 500])


def test_slopes_are_compared_with_the_shuffled_twin():
    """Where a shuffled twin was run, the slope minus its own stands in a column of its own."""
    rows = [
        row("3-8", variant, 1 - n**slope, n_train=n)
        for variant, slope in (
            ("cntk", -0.2),
            ("lantk-kr-v1", -0.3),
            ("lantk-kr-v1-shuffled", -0.25),
        )
        for n in (500, 1000, 2000)
    ]
    table = pd.DataFrame(rows)
    text = table_markdown(table, error_exponents(table))
    found = table_of(text, "Slope minus twin's")
    assert (found[0][-1], found[2][-1]) == ("Slope minus twin's", "-0.050")
    assert "what of it is labels, only the difference from its shuffled twin says" in text


def test_columns_line_up_on_a_terminal():
    """All lines of a table are equally long."""
    variants = ("cntk", "lantk-fjlt-v1", "lantk-fjlt-v1-offdiagonal")
    rows = [row(task, variant, 0.8) for task in PAIRS for variant in variants]
    lengths: list[set[int]] = [set()]
    for line in table_markdown(pd.DataFrame(rows)).splitlines():
        if line.startswith("|"):
            lengths[-1].add(len(line))
        elif lengths[-1]:
            lengths.append(set())
    assert [len(found) for found in lengths if found] == [1] * 4
