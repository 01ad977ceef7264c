"""The gap in steps, the page of answers and the figures of networks, from fabricated tables."""

import numpy as np
import pandas as pd
import pytest

from answer_page import answer_lines, two_layer_lines, unfounded_numbers
from lantk.errors import LantkError
from lantk.experiment.variants import GAP_LEVELS
from lantk.regression.statistics import mean_with_interval
from lantk.report.blocks import local_averaging, network_block
from lantk.report.claims import STEPS, decompose, judge, network_claims
from lantk.report.leaderboard import TABLE_COLUMNS
from lantk.report.network_figures import decomposition_figure, training_figure

EXTRA = ("after-kernel-10", "after-kernel-0-shuffled", "after-kernel-10-shuffled")
EMPTY = pd.DataFrame(columns=TABLE_COLUMNS)


def table(changes=(), tasks=("a-b", "a-c", "b-c"), without=()):
    """Return a table with an accuracy for each variant: 0.8 and what `changes` adds by task."""
    rng = np.random.default_rng(0)
    rows = [
        dict.fromkeys(TABLE_COLUMNS, np.nan)
        | {"task": task, "architecture": "chen2020", "n_train": 1000, "n_test": 1000}
        | {"variant": variant, "protocol": protocol, "epoch": 10}
        | {"accuracy": 0.8 + dict(changes).get(variant, 0) + rng.integers(-3, 4) / 1000}
        | {"relative_ratio_train": 0.6, "relative_ratio_test": 0.55, "alignment": 0.1}
        for task in tasks
        for variant in (*GAP_LEVELS, *EXTRA)
        if variant not in without
        for protocol in ("honest", "oracle")
    ]
    return pd.DataFrame(rows)


def test_steps_add_up_to_the_gap():
    """Each is the difference of its two variants; their sum is the CNN minus CNTK."""
    block = network_block(table({"cnn": 0.05, "after-kernel": 0.04}))
    steps, accuracy = decompose(block), 100 * block.values("accuracy")
    np.testing.assert_allclose(steps.sum(), accuracy.loc["cnn"] - accuracy.loc["cntk"], atol=1e-9)
    for title, start, end in zip(STEPS, GAP_LEVELS[:-1], GAP_LEVELS[1:], strict=True):
        wanted = accuracy.loc[end] - accuracy.loc[start]
        np.testing.assert_allclose(steps.loc[title], wanted, atol=1e-9)


def test_local_averaging_stands_beside_the_steps(tmp_path):
    """Where it was run it has a row, claims and a square of its own; no step is another for it."""
    found = table(tasks=("a-b", "a-c"))
    plain = found[found["variant"] == "cntk"]
    gains = 0.02 + 0.01 * (plain["task"] == "a-b")
    pooled = plain.assign(variant="cntk-lap", accuracy=plain["accuracy"] + gains)
    whole = pd.concat([found, pooled])
    block = network_block(whole)
    pd.testing.assert_frame_equal(decompose(block), decompose(network_block(found)))
    assert local_averaging(block).to_dict() == {"a-b": 3, "a-c": 2}
    lines = answer_lines(whole, EMPTY, EMPTY)
    (row,) = (line for line in lines if line.startswith("| Beside it: local averaging, no label"))
    mean, half = mean_with_interval([3, 2])
    wanted = ["+3.00", "+2.00", f"+{mean:.2f} ± {half:.2f}"]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == wanted
    names = [claim.name for claim in network_claims(whole)]
    assert {"cntk-lap minus CNTK", "CNN minus cntk-lap"} <= {*names}
    paths = [tmp_path / name for name in ("with.png", "without.png")]
    for each, path in zip((whole, found), paths, strict=True):
        decomposition_figure(each, path)
    assert b"local averaging, no label +2.50" in paths[0].read_bytes()
    # Where a task lacks it there is none.
    lacking = pd.concat([found, pooled[pooled["task"] == "a-b"]])
    assert local_averaging(network_block(lacking)) is None
    assert not any("local averaging" in line for line in answer_lines(lacking, EMPTY, EMPTY))
    decomposition_figure(lacking, tmp_path / "lacking.png")
    assert (tmp_path / "lacking.png").read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("missing", GAP_LEVELS)
def test_no_steps_where_a_variant_is_missing(missing, tmp_path):
    found = table(without=[missing])
    block = network_block(found)
    assert block is None or decompose(block) is None
    with pytest.raises(LantkError, match="after-kernel-shuffled"):
        decomposition_figure(found, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_the_honest_protocol_comes_first():
    assert set(network_block(table()).frame["protocol"]) == {"honest"}
    found = table()
    only = found[found["protocol"] == "oracle"]
    assert set(network_block(only).frame["protocol"]) == {"oracle"}
    assert network_block(table(without=["after-kernel-0"])) is None  # one epoch is no training


def verdicts(found):
    """Return name -> verdict, over tasks, of the claims on networks' kernels."""
    (claims,) = judge(network_claims(found))
    return {claim.name: claim.verdicts[1].partition(" (")[0] for claim in claims}


@pytest.mark.parametrize(("worth", "verdict"), [(0.1, "above"), (-0.1, "below"), (0, "open")])
def test_verdicts_follow_the_numbers(worth, verdict):
    """What labels are worth is the difference from the twin, with its interval."""
    found = table({"after-kernel": worth + 0.2, "after-kernel-shuffled": 0.2})
    claims = {claim.name: claim for claim in network_claims(found)}
    assert verdicts(found)["after-kernel minus after-kernel-0"] == "above"
    labels = claims["after-kernel minus its shuffled twin"]
    accuracy = 100 * network_block(found).values("accuracy")
    gain = accuracy.loc["after-kernel"] - accuracy.loc["after-kernel-shuffled"]
    mean, half = mean_with_interval(gain)
    assert labels.estimate.text == f"{mean:+.2f} ± {half:.2f}"
    assert verdicts(found)["after-kernel minus its shuffled twin"] == verdict


@pytest.mark.parametrize(
    ("by_training", "in_z", "verdict"),
    [(0.2, 0.05, "above"), (0.05, 0.2, "below"), (-0.1, 0.1, "below"), (0.1, 0.1, "open")],
)
def test_the_two_forms_of_labels_are_compared_with_each_other(by_training, in_z, verdict):
    """The verdict is of the difference of the two label gains, not of one of them."""
    found = verdicts(table({"after-kernel": by_training, "lantk-best": in_z}))
    assert found["label gain of after-kernel minus that of LANTK-best"] == verdict


def test_epochs_that_were_fixed_speak_for_themselves():
    """Each epoch but the first is compared with the start, its twin, and the network."""
    effects = {"after-kernel": 0.2, "after-kernel-shuffled": 0.2, "after-kernel-10": 0.2}
    found = verdicts(table(effects | {"after-kernel-10-shuffled": -0.1}))
    assert {name: found[name] for name in found if "kernel-10" in name} == {
        "after-kernel-10 minus after-kernel-0": "above",
        "after-kernel-10-shuffled minus after-kernel-0": "below",
        "after-kernel-10 minus its shuffled twin": "above",
        "after-kernel-10 minus CNN": "above",
    }
    assert not [name for name in found if name.startswith("after-kernel-0 ")]


def test_layers_are_compared_at_their_last_epoch():
    found = table()
    layers = ("after-kernel-conv1-3", "after-kernel-conv1-10", "after-kernel-dense-10")
    copies = [found[found["variant"] == "cnn"].assign(variant=name) for name in layers]
    names = [name for name in verdicts(pd.concat([found, *copies])) if "-conv" in name]
    assert names == ["after-kernel-conv1-10 minus CNTK"]


def test_what_is_open_is_not_called_established():
    """A table without any effect has no verdict but open."""
    assert set(verdicts(table()).values()) == {"open"}


@pytest.mark.parametrize(
    "without", [(), GAP_LEVELS[1:-4], ("cnn",), ("after-kernel-shuffled", *EXTRA[1:]), GAP_LEVELS]
)
def test_what_was_not_run_is_no_claim(without):
    """No claim has a hole in it, whichever variants there are, and of one task as well."""
    for tasks in (("a-b",), ("a-b", "a-c")):
        kept = set(without) - {"after-kernel-0", "after-kernel-10"}
        (claims,) = judge(network_claims(table(tasks=tasks, without=kept)))
        for claim in claims:
            assert "nan" not in f"{claim.estimate.text} {claim.accuracies} {claim.verdicts}"
            assert not any(name in claim.name.split() for name in kept)
            assert (claim.verdicts[1] == "unknown") == (not claim.estimate.beyond.is_known)


def test_what_was_chosen_on_test_images_is_no_answer():
    found = table()
    assert network_claims(found[found["protocol"] == "oracle"]) == []


def test_paragraphs_about_other_results_are_left_out():
    """Their numbers are not those of the claims: the page says which, and has the tables alone."""
    page = "\n".join(answer_lines(table(), EMPTY, EMPTY))
    assert "Paragraphs are left out: -0.185 ± 0.030, 2.15, +2.74 ± 0.92, " in page
    assert "### Is the expressivity of Z the limit?" in page
    assert "| after-kernel minus after-kernel-0 " in page
    assert "rank-one" not in page
    assert "<!--" not in page


def test_numbers_of_paragraphs_are_looked_for_in_tables():
    tables = ["| a | +0.70 ± 0.64 | 79.66 / 78.96 |"]
    assert unfounded_numbers(["by +0.70 ± 0.64 to 79.66 % in 2020, n = 1,000"], tables) == []
    assert unfounded_numbers(["-0.70 ± 0.64, 79.6"], tables) == ["-0.70 ± 0.64", "79.6"]


def test_answers_are_of_one_n_and_one_architecture():
    """Tasks are the columns, also of one task at several n; the largest n speaks."""
    small = table(tasks=("a-b",)).assign(n_train=100)
    block = network_block(pd.concat([small, table(tasks=("a-b",))]))
    assert list(block.columns) == ["a-b"]
    assert set(block.frame["n_train"]) == {1000}
    other = table(without=EXTRA[:1]).assign(architecture="other")
    assert set(network_block(pd.concat([other, table()])).frame["architecture"]) == {"chen2020"}


def test_exponents_of_presets_over_several_n_stand_side_by_side():
    """Two presets, two columns; error = n^-b / 2 exactly, so b has no interval to speak of."""

    def curve(ns, slopes):
        return pd.concat(
            table()
            .query("variant in @slopes")
            .assign(n_train=n, accuracy=lambda t, n=n: 1 - t["variant"].map(slopes).rpow(n) / 2)
            for n in ns
        )

    large = curve([500, 1000, 2000], {"cntk": -0.2})
    slopes = {"cntk": -0.1, "after-kernel-0": -0.2, "after-kernel-10": -0.3, "cnn": -0.4}
    small = curve([250, 500, 1000], slopes)
    page = answer_lines(table(), EMPTY, large, small, EMPTY)
    start = next(i for i, line in enumerate(page) if "n = 500 to 2,000" in line)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page[start : start + 6]]
    assert rows[0] == ["", "n = 500 to 2,000", "n = 250 to 1,000"]
    assert [row[0] for row in rows[2:]] == list(slopes)
    assert rows[2][1:] == ["-0.200 ± 0.000", "-0.100 ± 0.000"]
    assert rows[4][1:] == ["(not run)", "-0.300 ± 0.000"]


def test_no_results_are_said_to_be_missing():
    assert "No results of networks' kernels" in "\n".join(answer_lines(EMPTY, EMPTY, EMPTY))
    published = {"source": "a paper", "relative_ratio": {"a-b": 63.83}}
    assert "not run" in "\n".join(two_layer_lines(None, published))


def test_ratios_stand_beside_the_published_ones():
    kernels = ["2-layer NTK", "network at start"]
    found = pd.DataFrame({"task": "a-b", "n_train": 10, "n_test": 4, "kernel": kernels})
    found = found.assign(relative_ratio_train=[63.9, 64.0], relative_ratio_test=[60.0, 61.0])
    published = {"source": "a paper", "relative_ratio": {"a-b": 63.83, "c-d": 58.0}}
    lines = "\n".join(two_layer_lines(found, published))
    assert "63.90 (63.83) / 60.00" in lines
    assert "64.00 / 61.00" in lines
    assert "(not run)" in lines


@pytest.mark.parametrize("draw", [decomposition_figure, training_figure])
def test_figures_are_the_same_bytes_every_time(draw, tmp_path):
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    for path in (one, two):
        draw(table({"after-kernel": 0.02}), path)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[:4] == b"\x89PNG"
