"""The result tables in the seed's layout, and the figure of accuracy against label weight."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lantk import report
from lantk.report import table_markdown, weight_figure

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


def row(pair, variant, accuracy, *, protocol="honest", p_value=math.nan, n_train=40, n_test=100):
    """Return one row of table.csv."""
    return {
        "pair": pair,
        "variant": variant,
        "protocol": protocol,
        "accuracy": accuracy,
        "ci_low": accuracy - 0.05,
        "ci_high": min(accuracy + 0.05, 1.0),
        "p_value": p_value,
        "n_train": n_train,
        "n_test": n_test,
        "label_weight": 0.01,
    }


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

Test accuracy in percent. The label weight, and for LANTK-best the variant, is chosen by \
stratified cross-validation inside the train set; the CNN is taken after its last epoch. n_train \
= 1,000, n_test = 100 for every pair. Imp.: average accuracy minus CNTK's, in points, and as a \
share of CNTK's error.

|             | 3-8    | 1-8    | Avg    | Imp. (abs / rel.) |
| ----------- | ------ | ------ | ------ | ----------------- |
| CNTK        | 100.00 | 100.00 | 100.00 | -                 |
| LANTK-KR-V1 | 100.00 | 98.00  | 99.00  | -1.00 / -         |
| cntk-ridge  | 100.00 | 100.00 | 100.00 | 0.00 / -          |

95 % Wilson intervals of the accuracies above; p of the exact McNemar test against CNTK on the \
same test images; mean gain over CNTK in points with its paired 95 % t-interval over the pairs.

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
    assert table_markdown(pd.DataFrame(rows)) == SMALL


def test_oracle_comes_second_and_is_named_optimistic():
    """Whatever the order of the rows, honest comes first and the oracle says what it is."""
    rows = [row("3-8", "cntk", 0.8, protocol=protocol) for protocol in ("oracle", "honest")]
    titles = [s for s in table_markdown(pd.DataFrame(rows)).splitlines() if s.startswith("#")]
    assert titles == [
        "## Honest: nothing chosen on the test set",
        "## Oracle: chosen on the test set, optimistic, printed to compare with the paper",
    ]


def test_incomplete_rows_have_no_average():
    """A variant that lacks a pair shows a dash there and has no average, improvement or gain."""
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
    """Where the pairs have unequal numbers of images, each pair's are given."""
    rows = [row("3-8", "cntk", 0.8, n_test=317), row("1-8", "cntk", 0.7, n_test=2000)]
    text = table_markdown(pd.DataFrame(rows))
    assert "3-8: n_train = 40, n_test = 317; 1-8: n_train = 40, n_test = 2,000." in text


def test_mean_gain_has_a_student_interval():
    """The mean gain is the mean paired difference, with Student's t of (pairs - 1) degrees."""
    gains = [0.01, 0.02, 0.06]
    rows = [row(f"p{i}", "cntk", 0.5 + i / 10) for i in range(3)]
    rows += [row(f"p{i}", "cnn", 0.5 + i / 10 + gain) for i, gain in enumerate(gains)]
    # t(0.975, 2) = 4.302653; the standard deviation of 1, 2, 6 is sqrt(7).
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)
    assert f"+3.00 ± {half:.2f}" in table_markdown(pd.DataFrame(rows))


def evaluation(variant, accuracy=0.8, *, pair="3-8", curve=None, protocols=("honest", "oracle")):
    """Return what one evaluation file holds, as far as a figure reads it."""
    is_network = variant == "cnn"
    choice = {
        "accuracy": accuracy,
        "label_weight": 0.01 if variant.startswith("lantk") else None,
        "validation_accuracy": None if is_network else accuracy - 0.02,
    }
    points = [(0.0, 0.80, 0.79), (0.001, 0.81, 0.80), (0.01, accuracy, 0.82), (0.1, 0.78, None)]
    keys = ("label_weight", "test_accuracy", "validation_accuracy")
    weights = [dict(zip(keys, point, strict=True)) for point in points]
    if curve is None:
        curve = [{"epoch": 1, "test_accuracy": 0.5}] if is_network else weights
    return {
        "pair": pair,
        "variant": variant,
        "n_train": 1000,
        "n_test": 400,
        "curve": curve,
        "protocols": dict.fromkeys(protocols, choice),
    }


TERMS = ["lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def test_figure_is_the_same_file_every_time(tmp_path):
    """The same evaluations give the same bytes, whatever the reader's own plot settings are."""
    found = [
        evaluation(variant, 0.8 + i / 100) for i, variant in enumerate([*TERMS, "cntk", "cnn"])
    ]
    weight_figure(found, tmp_path / "first.png")
    with matplotlib.rc_context({"axes.facecolor": "red", "xtick.labelsize": 30}):
        weight_figure(found[::-1], tmp_path / "second.png")
        assert matplotlib.rcParams["xtick.labelsize"] == 30
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"first.png", "second.png"}
    with Image.open(tmp_path / "first.png") as image:
        assert set(image.info) == {"dpi"}


def changed_panels(tmp_path, before: list, after: list) -> tuple[bool, bool]:
    """Return whether the left and the right panel of a figure differ."""
    weight_figure(before, tmp_path / "before.png")
    weight_figure(after, tmp_path / "after.png")
    differs = pixels(tmp_path / "before.png") != pixels(tmp_path / "after.png")
    above_legend = differs[:540].any(axis=(0, 2))
    return tuple(bool(panel.any()) for panel in np.split(above_legend, [760]))


def test_figure_shows_validation_left_and_test_right(tmp_path):
    """A validation accuracy moves the left panel only, a test accuracy the right panel only."""
    frame = evaluation("cnn", 0.95)  # keeps the limits of the axes where they are
    frame["protocols"]["honest"] = frame["protocols"]["honest"] | {"validation_accuracy": 0.5}
    for key, panels in (("validation_accuracy", (True, False)), ("test_accuracy", (False, True))):
        term, moved = evaluation("lantk-kr-v1"), evaluation("lantk-kr-v1")
        moved["curve"][1][key] += 0.01
        assert changed_panels(tmp_path, [frame, term], [frame, moved]) == panels
        line, moved = evaluation("cntk"), evaluation("cntk")
        name = {"validation_accuracy": key, "test_accuracy": "accuracy"}[key]
        moved["protocols"]["honest"] = moved["protocols"]["honest"] | {name: 0.79}
        assert changed_panels(tmp_path, [frame, line], [frame, moved]) == panels


def test_choices_are_marked(tmp_path):
    """The honest choice is marked in both panels, the oracle's on the test side only."""
    for protocol, panels in (("honest", (True, True)), ("oracle", (False, True))):
        term, moved = evaluation("lantk-kr-v1"), evaluation("lantk-kr-v1")
        choice = moved["protocols"][protocol]
        moved["protocols"][protocol] = choice | {"label_weight": 0.001}
        assert changed_panels(tmp_path, [term], [moved]) == panels


def test_every_term_is_drawn_in_its_colour(tmp_path):
    """Each label term leaves pixels of its own colour, and so do CNTK's and CNN's lines."""
    shown = [evaluation(variant, 0.81 + i / 50) for i, variant in enumerate(TERMS)]
    weight_figure([*shown, evaluation("cntk", 0.8), evaluation("cnn", 0.9)], tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    for colour, _ in report._STYLES[: len(TERMS)]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (image == wanted).all(axis=-1).sum() > 50, colour


def test_terms_differ_without_colour():
    """No two label terms share a marker, so that the figure can be read in grey."""
    markers = [marker for _, marker in report._STYLES]
    assert len(set(markers)) == len(markers) >= len(TERMS)


def test_collapsed_curves_are_cut_off(tmp_path):
    """A point that fell to 50 % changes nothing but its curve: the scale stays with the others."""
    term, collapsed = evaluation("lantk-kr-v1"), evaluation("lantk-kr-v1")
    term["curve"][3]["test_accuracy"], collapsed["curve"][3]["test_accuracy"] = 0.6, 0.5
    weight_figure([term], tmp_path / "a.png")
    weight_figure([collapsed], tmp_path / "b.png")
    differs = (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any(axis=(0, 2))
    assert 0 < differs.sum() < 100
    assert not differs[:1000].any()


def test_cut_is_announced(tmp_path):
    """A figure that leaves points out says so in its panels; one that shows all does not."""
    term, collapsed = evaluation("lantk-kr-v1"), evaluation("lantk-kr-v1")
    collapsed["curve"][3]["test_accuracy"] = 0.5
    for shown, is_announced in ((term, False), (collapsed, True)):
        weight_figure([shown], tmp_path / "a.png")
        title_of_left_panel = pixels(tmp_path / "a.png")[44:72, 80:740]
        inked = np.flatnonzero((title_of_left_panel.max(axis=-1) < 0x80).any(axis=0))
        assert (np.ptp(inked) > 400) == is_announced


def test_equal_curves_stay_visible(tmp_path):
    """Label terms with the same accuracies are drawn side by side, each in its colour."""
    weight_figure([evaluation(variant) for variant in TERMS], tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")[:540]  # without the legend
    for colour, _ in report._STYLES[: len(TERMS)]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (image == wanted).all(axis=-1).sum() > 500, colour


@pytest.mark.parametrize(
    "found",
    [
        [evaluation("cntk")],
        [evaluation("cnn")],
        [evaluation("lantk-kr-v1", protocols=("oracle",))],
        [evaluation("lantk-kr-v1", curve=[{"label_weight": 0.0, "test_accuracy": 0.5}])],
        [evaluation("cnn"), evaluation("cnn", 0.9), evaluation("cntk", protocols=())],
    ],
)
def test_figure_of_what_there_is(tmp_path, found):
    """Missing variants, protocols and validation leave a figure of the rest."""
    weight_figure(found, tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (720, 1440, 3)


def test_figure_refuses_two_pairs_and_none(tmp_path):
    """A figure shows exactly one pair; another number is refused and nothing is written."""
    with pytest.raises(ValueError, match="one pair, found no evaluation"):
        weight_figure([], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"found \['1-8', '3-8'\]"):
        weight_figure([evaluation("cntk"), evaluation("cntk", pair="1-8")], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
