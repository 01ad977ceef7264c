"""The figures: same bytes every time, everything in its place, refused where nothing is shown."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from records import make_predictions, make_record

from lantk.errors import LantkError
from lantk.report import case_figures, figures
from lantk.report.case_figures import gram_figure, weight_figure
from lantk.report.figure_style import STYLES, saving
from lantk.report.figures import alignment_figure, gap_figure, growth_figure
from lantk.report.leaderboard import error_exponents, leaderboard


def evaluation(variant, accuracy=0.8, *, case="3-8", curve=None, protocols=("honest", "oracle")):
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
        "case": case,
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
        assert set(image.info) == {"Description", "dpi"}


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
    for colour, _ in STYLES[: len(TERMS)]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (image == wanted).all(axis=-1).sum() > 50, colour


def test_terms_differ_without_colour():
    """No two label terms share a marker, so that the figure can be read in grey."""
    markers = [marker for _, marker in STYLES]
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
    for colour, _ in STYLES[: len(TERMS)]:
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


def test_figure_refuses_two_cases_and_none(tmp_path):
    """A figure shows exactly one case; another number is refused and nothing is written."""
    with pytest.raises(ValueError, match="one case, found no evaluation"):
        weight_figure([], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"found \['1-8', '3-8'\]"):
        weight_figure([evaluation("cntk"), evaluation("cntk", case="1-8")], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def shuffled(accuracy: float) -> dict:
    """Return a shuffled twin whose curve is a few points below that of `evaluation`."""
    twin = evaluation("lantk-kr-v1-shuffled", 0.8)
    for point in twin["curve"]:
        point["test_accuracy"] = accuracy
    return twin


def test_shuffled_twins_are_one_line_at_their_mean(tmp_path):
    """Twins at 78 and 80 % draw what two at 79 % draw, in the panel of the test only."""
    frame = [evaluation("cnn", 0.95), evaluation("lantk-kr-v1")]
    apart, together = ([shuffled(a) for a in pair] for pair in ((0.78, 0.8), (0.79, 0.79)))
    assert changed_panels(tmp_path, frame + apart, frame + together) == (False, False)
    assert changed_panels(tmp_path, frame + apart, [*frame, shuffled(0.8)]) == (False, True)


def test_controls_of_terms_are_no_curves(tmp_path):
    """Diagonal controls, the ceiling and ridges, which are no label weights, change no figure."""
    term = evaluation("lantk-kr-v1")
    ridge = evaluation("cntk-ridge", curve=[{"ridge": 0.1, "test_accuracy": 0.9}])
    others = [evaluation("lantk-kr-v1-diagonal", 0.85), evaluation("oracle-label", 1.0), ridge]
    assert changed_panels(tmp_path, [term], [term, *others]) == (False, False)


def test_intervals_follow_the_number_of_test_images(tmp_path):
    """With fewer test images the interval on the test side is longer; validation has none."""
    found = [evaluation("cnn", 0.95), evaluation("lantk-kr-v1")]
    # A low line keeps the limits of the axes where they are.
    found[0]["protocols"]["honest"] = found[0]["protocols"]["honest"] | {"validation_accuracy": 0.5}
    fewer = [found[0], found[1] | {"n_test": 300}]
    assert changed_panels(tmp_path, found, fewer) == (False, True)


VARIANTS = {"cntk": 0.8, "lantk-kr-v1": 0.82, "lantk-kr-v1-shuffled": 0.81, "cnn": 0.9}


def make_table(ns=(40,), tasks=("3-8", "1-8"), **changes):
    """Return a leaderboard in which accuracies grow with n."""
    records = [
        make_record(variant, accuracy - 4 / n, task=task, n_train=n)
        for task in tasks
        for n in ns
        for variant, accuracy in (VARIANTS | changes).items()
    ]
    return leaderboard([(record, make_predictions(record)) for record in records])


def make_aligned() -> list[dict]:
    """Return evaluations that hold kernel-target alignments."""
    records = [make_record("cntk"), make_record("lantk-kr-v1"), make_record("lantk-kr-v2")]
    for i, record in enumerate(records):
        record["diagnostics"] = {"alignment_k": 0.1} | ({"alignment_z": 0.2 * i} if i else {})
        record["curve"] = [point | {"alignment": 0.15} for point in record["curve"]]
    return records


def draw_gram(path: Path, n: int = 60) -> None:
    rng = np.random.default_rng(0)
    k = rng.normal(size=(n, n))
    gram_figure({"K": k, "Z": k @ k.T}, np.arange(n) % 3, path, "three classes")


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: gap_figure(make_table(), path),
        lambda path: growth_figure(make_table((40, 80, 160)), path),
        lambda path: alignment_figure(make_aligned(), path),
        draw_gram,
    ],
    ids=["gap", "growth", "alignment", "gram"],
)
def test_overviews_are_the_same_file_every_time(tmp_path, draw):
    """Equal results give equal bytes in every figure, whatever the reader's own plot settings."""
    draw(tmp_path / "first.png")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        draw(tmp_path / "second.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert len(np.unique(pixels(tmp_path / "first.png"))) > 2


@pytest.mark.parametrize(
    ("ending", "start", "holds"),
    [
        (".pdf", b"%PDF", [b"/CIDFontType2", b"/Subject (gains under honest; LANTK-KR-V1 +2.00)"]),
        (".svg", b"<?xml", [b"<path", b"<dc:description>gains under honest; LANTK-KR-V1 +2.00"]),
    ],
)
def test_a_drawing_of_lines_is_one(tmp_path, ending, start, holds):
    """A PDF or SVG holds lines, its letters and its description, and no pixels; always the same."""
    paths = [tmp_path / f"{name}{ending}" for name in "ab"]
    paths[1] = paths[1].with_suffix(ending.upper())
    for path in paths:
        gap_figure(make_table(), path)
    found = paths[0].read_bytes()
    assert found == paths[1].read_bytes()
    assert found.startswith(start)
    assert all(text in found for text in holds)
    assert not any(text in found for text in (b"/Subtype /Image", b"<image", b"/Type3", b"<text"))


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt", ".png"])
def test_a_figure_of_another_kind_is_refused(tmp_path, name):
    """What a file's name promises is what it holds: other endings are refused."""
    with pytest.raises(LantkError, match=r"wanted a name that ends in \.png, \.pdf or \.svg"):
        gap_figure(make_table(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def told(path: Path) -> str:
    """Return what a figure says of itself."""
    with Image.open(path) as image:
        return image.info["Description"]


def test_figures_say_in_numbers_what_they_show(tmp_path):
    """The description in a file has the numbers that are drawn."""
    path = tmp_path / "a.png"
    gap_figure(make_table(), path)
    assert told(path) == "gains under honest; LANTK-KR-V1 +2.00"
    table = make_table((40, 80, 160))
    growth_figure(table, path)
    slopes = error_exponents(table).query("protocol == 'honest'").groupby("variant")["slope"].mean()
    assert told(path).startswith(f"slopes under honest; CNTK {slopes['cntk']:+.3f}; ")
    assert f"CNN {slopes['cnn']:+.3f}" in told(path)
    alignment_figure(make_aligned(), path)
    assert "3-8, LANTK-KR-V2: K 0.10, Z 0.40, both 0.15" in told(path)
    gram_figure({"K": np.kron(np.eye(2), np.ones((3, 3)))}, np.arange(6) // 3, path)
    assert told(path) == "K 1 on average within classes, 0 between"
    weight_figure([evaluation("cntk"), evaluation("lantk-kr-v1", 0.9)], path)
    assert told(path) == (
        "CNTK 80.00 % (honest), 80.00 % (oracle); LANTK-KR-V1 90.00 % (honest at r = 0.01),"
        " 90.00 % (oracle at r = 0.01)"
    )


def keep_figures(monkeypatch) -> list:
    """Return a list that every figure drawn from now on is added to."""
    drawn = []

    @contextmanager
    def keeping(*arguments):
        with saving(*arguments) as figure:
            yield figure
        figure.draw_without_rendering()  # places in pixels of the figure as it is now
        drawn.append(figure)

    for module in (figures, case_figures):
        monkeypatch.setattr(module, "saving", keeping)
    return drawn


def legend_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_gap_figure_draws_no_rounding_errors(tmp_path, monkeypatch):
    """Equal accuracies but for rounding are zero, on an axis of at least half a point each way."""
    drawn = keep_figures(monkeypatch)
    table = make_table()
    table = table[table["variant"] != "cnn"]
    gap_figure(table.assign(accuracy=0.8 + 1e-16 * np.arange(len(table))), tmp_path / "a.png")
    axes = drawn[0].axes[0]
    places = np.concatenate([np.ravel(line.get_xdata()) for line in axes.lines])
    assert set(places[np.isfinite(places)]) == {0.0}
    assert axes.get_xlim() == (-0.5, 0.5)


def test_figures_name_what_of_several_they_show(tmp_path, monkeypatch):
    """Titles give the architecture and n that are drawn, and of how many."""
    drawn = keep_figures(monkeypatch)
    table = make_table((40, 80, 160))
    table = pd.concat([table, table.assign(architecture="other")])
    gap_figure(table, tmp_path / "a.png")
    growth_figure(table, tmp_path / "b.png")
    titles = [drawn[0].legends[0].get_title().get_text(), drawn[1].get_suptitle()]
    first = "chen2020 (first of 2 architectures)"
    assert [" ".join(title.split()) for title in titles] == [
        f"{first}, n = 160 (largest of 3 n)",
        f"geometric mean over 2 tasks, {first}",
    ]


@pytest.mark.parametrize("control", ["shuffled", "diagonal", None])
def test_gap_legend_holds_what_occurs_and_fits(tmp_path, monkeypatch, control):
    """The legend explains no control that was not run and is not wider than its figure."""
    drawn = keep_figures(monkeypatch)
    variants = {"cntk": 0.8, "lantk-kr-v1": 0.82}
    variants |= {f"lantk-kr-v1-{control}": 0.81} if control else {}
    records = [make_record(variant, accuracy) for variant, accuracy in variants.items()]
    gap_figure(leaderboard([(r, make_predictions(r)) for r in records]), tmp_path / "a.png")
    marks = {
        "shuffled": ["with shuffled labels (mean)", "label gain"],
        "diagonal": ["diagonal of Z only"],
    }
    assert legend_texts(drawn[0]) == ["gain", *marks.get(control, [])]
    box = drawn[0].legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn[0].bbox.x1


def test_titles_of_cases_do_not_meet(tmp_path, monkeypatch):
    """Long names of cases are broken so that none reaches into its neighbour's."""
    drawn = keep_figures(monkeypatch)
    found = [
        record | {"case": f"3-8-9.arora2019-vanilla-{depth}.n30"}
        for record in make_aligned()
        for depth in (3, 4, 6, 11)
    ]
    alignment_figure(found, tmp_path / "a.png")
    boxes = [axes.title.get_window_extent() for axes in drawn[0].axes]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert boxes[-1].x1 <= drawn[0].bbox.x1


def test_reference_line_below_the_cut_is_announced(tmp_path, monkeypatch):
    """The legend says which reference line lies below what is shown, and of no other."""
    drawn = keep_figures(monkeypatch)
    weight_figure([evaluation("lantk-kr-v1"), evaluation("cntk")], tmp_path / "a.png")
    found = [evaluation(variant, 0.5 if variant == "cnn" else 0.8) for variant in VARIANTS]
    weight_figure([*found, evaluation("lantk-kr-v2")], tmp_path / "b.png")
    below = [[t for t in legend_texts(figure) if "below" in t] for figure in drawn]
    assert below == [[], ["CNN (test 50.00 %) (below)"]]
    assert ["sideways" in figure.axes[0].get_xlabel() for figure in drawn] == [False, True]


@pytest.mark.parametrize("protocols", [["honest", "oracle"], ["oracle"]])
def test_alignment_figure_names_the_choice_and_the_images(tmp_path, monkeypatch, protocols):
    """The legend names the protocol whose weight is shown, the axis that images are of train."""
    drawn = keep_figures(monkeypatch)
    found = make_aligned()
    for record in found:
        record["protocols"] = {name: record["protocols"][name] for name in protocols}
    alignment_figure(found, tmp_path / "a.png")
    assert legend_texts(drawn[0]) == ["K", "Z", f"K + λZ, {protocols[0]} choice"]
    assert "on the train images, where Z was fitted" in drawn[0].get_supxlabel()


def test_gap_figure_of_protocols_with_other_tasks(tmp_path, monkeypatch):
    """Where a protocol lacks a task its panel is empty, and every task has a panel."""
    drawn = keep_figures(monkeypatch)
    table = make_table()
    is_left_out = (table["protocol"] == "honest") & (table["task"] == "3-8")
    gap_figure(table[~is_left_out], tmp_path / "a.png")
    titles = [axes.get_title().split("\n")[0] for axes in drawn[0].axes[:6]]
    assert titles == ["1-8", "3-8", "mean"] * 2
    shown = [
        any(np.isfinite(line.get_xdata()).any() and line.get_marker() == "o" for line in axes.lines)
        for axes in drawn[0].axes[:6]
    ]
    assert shown == [True, False, False, True, True, True]


@pytest.mark.parametrize("variant", ["lantk-kr-v1", "lantk-kr-v1-shuffled", "cnn"])
def test_gap_figure_shows_term_twin_and_network(tmp_path, variant):
    """What a term gains, what it gains with shuffled labels, and the CNN's share are drawn."""
    gap_figure(make_table(), tmp_path / "before.png")
    gap_figure(make_table(**{variant: VARIANTS[variant] + 0.01}), tmp_path / "after.png")
    before, after = (pixels(tmp_path / f"{name}.png") for name in ("before", "after"))
    assert before.shape == after.shape
    assert (before != after).any()


def test_share_of_the_gap_wants_a_better_network(tmp_path, monkeypatch):
    """Where no CNN was run, or CNTK is better, no axis in percent of the gap is drawn."""
    gaps = []
    monkeypatch.setattr(figures, "_add_share_of_gap", lambda _, gap: gaps.append(gap))
    table = make_table()
    table = table[table["protocol"] == "honest"]
    gap_figure(table[table["variant"] != "cnn"], tmp_path / "a.png")
    is_worse = (table["variant"] == "cnn") & (table["task"] == "3-8")
    gap_figure(table.assign(accuracy=table["accuracy"] - 0.15 * is_worse), tmp_path / "a.png")
    # In 3-8 the network is now 5 points worse, in 1-8 still 10 better; the mean stands last.
    assert gaps == pytest.approx([10.0, 2.5])


def test_figures_of_too_little_are_refused(tmp_path):
    """Gains want CNTK, exponents three n, alignments an evaluation that measured one."""
    table = make_table((40, 80))
    with pytest.raises(LantkError, match="cntk and of another"):
        gap_figure(table[table["variant"] != "cntk"], tmp_path / "a.png")
    with pytest.raises(LantkError, match="three n_train"):
        growth_figure(table, tmp_path / "a.png")
    with pytest.raises(LantkError, match="alignment"):
        alignment_figure([make_record("lantk-kr-v1")], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"of 3 images, found \{'K': \(2, 2\)\}"):
        gram_figure({"K": np.eye(2)}, np.arange(3), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_heat_map_is_sorted_by_class(tmp_path):
    """A matrix of two classes looks the same whatever the order of its images."""
    labels = np.array([-1, 1] * 20)
    k = np.outer(labels, labels).astype(float)
    gram_figure({"K": k}, labels, tmp_path / "mixed.png")
    order = np.argsort(labels, kind="stable")
    gram_figure({"K": k[np.ix_(order, order)]}, labels[order], tmp_path / "sorted.png")
    assert (tmp_path / "mixed.png").read_bytes() == (tmp_path / "sorted.png").read_bytes()


def test_large_heat_maps_show_averages_of_blocks(tmp_path):
    """Above 500 images a matrix of equal blocks looks like the one of 500 that they average to."""
    rng = np.random.default_rng(0)
    small = rng.normal(size=(500, 500))
    noise = np.kron(np.ones((500, 500)), [[1, -1], [-1, 1]])
    large = np.kron(small, np.ones((2, 2))) + noise
    labels = np.arange(1000) // 500
    gram_figure({"K": large}, labels, tmp_path / "large.png")
    gram_figure({"K": small}, labels[::2], tmp_path / "small.png")
    assert (tmp_path / "large.png").read_bytes() == (tmp_path / "small.png").read_bytes()
