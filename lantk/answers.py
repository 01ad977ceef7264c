"""The page of answers: what the measured differences say to the questions the project began with.

Every number and every verdict is computed from the results it is given; a sentence whose results
are missing says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from lantk.decomposition import decomposition_lines, network_block, taps_of
from lantk.report import blocks
from lantk.statistics import error_exponents, mean_with_interval
from lantk.tables import Block, markdown_rows, with_half_width
from lantk.variants import candidates

_NO_RESULT = "(not run)"
_LAYER = "after-kernel-{}-{}"
# Kernels whose exponents are on the page, before those of each epoch.
_EXPONENTS_OF = (
    "cntk",
    "cntk-ridge",
    "cntk-rbf",
    "lantk-best",
    "lantk-best-shuffled",
    "after-kernel",
)


class Answer(NamedTuple):
    """What the measured differences say to one question."""

    question: str
    found: str
    """The numbers and their verdict."""
    limits: str
    """What is established, and what is not."""
    command: str
    """What shows it."""


def answers(block: Block, large: Block | None = None) -> list[Answer]:
    """Return the answers to the three questions.

    Parameters
    ----------
    block : Block
        Results with kernels of networks: what `network_block` returned.
    large : Block, optional
        Results of the exact kernels at a larger n.
    """
    return [_gap(block, large), _expressivity(block, large), _architecture(block)]


def answer_lines(
    networks: pd.DataFrame,
    chen2020: pd.DataFrame,
    *curves: pd.DataFrame,
    pictures: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the page as lines of Markdown.

    Parameters
    ----------
    networks, chen2020 : DataFrame
        Leaderboards of the presets ``after-kernels`` and ``chen2020``; empty ones where there are
        no results.
    *curves : DataFrame
        Leaderboards of presets of several n.
    pictures : mapping of str to str, optional
        What a figure shows -> where it is, from the page's own folder.
    """
    block, large = network_block(networks), _largest(chen2020)
    lines = ["## Answers\n"]
    if block is None:
        return [*lines, "No results of networks' kernels are there: run the preset.\n"]
    n = block.frame["n_train"].max()
    steps = decomposition_lines(block)
    lines += [
        f"What lies between CNTK and the CNN at n = {n:,}, in points of test accuracy under the"
        " honest protocol. The steps are differences of accuracies on the same test images and add"
        " up; means over the tasks with paired 95 % t-intervals. In order: `cntk`, `cntk-ridge`,"
        " `lantk-best-shuffled`, `lantk-best`, `after-kernel-0`, `after-kernel-shuffled`,"
        " `after-kernel`, `cnn`.\n",
        *(steps or ["Not all of them were run."]),
        "",
        *(f"![{title}]({place})\n" for title, place in (pictures or {}).items()),
        *_exponents(curves),
    ]
    for answer in answers(block, large):
        lines += [f"### {answer.question}\n", f"{answer.found}\n"]
        lines += [f"{answer.limits} Command: {answer.command}.\n"]
    return lines


def _largest(table: pd.DataFrame) -> Block | None:
    """Return the honest results of the largest n; None where there are none."""
    frame = table[table["protocol"] == "honest"] if len(table) else table
    found = [block for _, block in blocks(frame) if "cntk" in block.variants]
    return max(found, key=lambda block: block.frame["n_train"].max(), default=None)


class _Difference:
    """The mean over the tasks of one variant's accuracy minus another's, in points."""

    def __init__(self, block: Block | None, end: str, start: str) -> None:
        self.mean, self.half = math.nan, math.nan
        if block is not None and {start, end} <= set(block.variants):
            accuracy = 100 * block.values("accuracy")
            values = (accuracy.loc[end] - accuracy.loc[start]).round(9)
            if not values.isna().any():
                self.mean, self.half = mean_with_interval(values)

    def __str__(self) -> str:
        return _NO_RESULT if math.isnan(self.mean) else with_half_width(self.mean, self.half)

    def say(self, above: str, below: str, undecided: str) -> str:
        """Return the text that holds: beyond 0 on either side, or neither."""
        if math.isnan(self.mean):
            return " it was not run."
        if math.isnan(self.half) or abs(self.mean) <= self.half:
            return undecided
        return above if self.mean > 0 else below


def _exponents(curves: Sequence[pd.DataFrame]) -> list[str]:
    columns: dict[str, dict[str, str]] = {}
    for table in curves:
        found = error_exponents(table) if len(table) else pd.DataFrame()
        if not len(found):
            continue
        ns = sorted(set(table["n_train"]))
        found = found[(found["protocol"] == "honest") & (found["n_points"] == len(ns))]
        columns[f"n = {ns[0]:,} to {ns[-1]:,}"] = {
            variant: with_half_width(*mean_with_interval(slopes.astype(float)), 3)
            for variant, slopes in found.groupby("variant")["slope"]
        }
    run = dict.fromkeys(itertools.chain(*columns.values()))
    taps = taps_of(Block(pd.DataFrame(), list(run), []), "after-kernel").values()
    rows = [
        [variant, *(column.get(variant, _NO_RESULT) for column in columns.values())]
        for variant in (*_EXPONENTS_OF, *taps, "conjugate-kernel", "cnn")
        if variant in run
    ]
    if not rows:
        return []
    return [
        "Exponents b of error ~ n^b, means over the pairs ± 95 % (each of them in the tables of"
        " errors against n):\n",
        *markdown_rows(["", *columns], rows),
        "",
    ]


def _gap(block: Block, large: Block | None) -> Answer:
    gap = _Difference(block, "cnn", "cntk")
    left = _Difference(block, "cnn", "after-kernel")
    over = _Difference(block, "after-kernel", "cntk-ridge")
    whole = _Difference(block, "after-kernel", "after-kernel-0")
    labels = _Difference(block, "after-kernel", "after-kernel-shuffled")
    shuffled = _Difference(block, "after-kernel-shuffled", "after-kernel-0")
    chosen = _chosen_epochs(block)
    sums, ridge = _Difference(large, "cntk-rbf", "cntk"), _Difference(large, "cntk-ridge", "cntk")
    found = (
        f"The CNN differs from CNTK by {gap} points. Ridge regression with the tangent kernel of"
        f" the same network, after an epoch that validation chose (lowest seed: {chosen}), differs"
        f" from CNTK with a ridge by {over} and leaves {left} to the CNN:"
        + left.say(
            " the network does what its kernel does not.",
            " the kernel of the trained network is better than the network itself.",
            " a difference between the two is not shown.",
        )
        + f" Training moved that kernel by {whole}: on shuffled labels, by {shuffled}; that the"
        f" labels were the true ones is worth {labels}"
        + labels.say(
            ". So what the kernel lacks at the start is labels.",
            ", so labels do harm.",
            ", which cannot be told from nothing.",
        )
        + f" At fixed epochs labels are worth {_by_epoch(block)}: the choice of the epoch, by held"
        "-out images, is part of the numbers before."
    )
    limits = (
        "Established: at this n, width and schedule "
        + whole.say(
            "the network's kernel gains from training",
            "the network's kernel loses by training",
            "no gain of the network's kernel from training",
        )
        + ", and of labels what the intervals say. Not established: the same at a larger n or after"
        " longer training"
    )
    if large is not None:
        limits += (
            f"; at n = {_n_of(large):,}, where no network was run here, a sum of two kernels"
            f" without any label gains {sums} over CNTK and a ridge {ridge}"
        )
    return Answer(
        "What explains the gap between kernel and network?",
        found,
        limits + ".",
        "`snakemake --cores 2 --configfile experiments/after-kernels.yaml`, figures"
        " `decomposition` and `training`",
    )


def _n_of(block: Block) -> int:
    return int(block.frame["n_train"].max())


def _by_epoch(block: Block) -> str:
    """Return what labels are worth at each epoch after the first steps."""
    found = []
    for epoch, variant in taps_of(block, "after-kernel").items():
        difference = _Difference(block, variant, f"{variant}-shuffled")
        if epoch > 0:
            found.append(f"{difference} after {epoch}")
    return ", ".join(found)


def _chosen_epochs(block: Block) -> str:
    epochs = block.values("epoch").loc["after-kernel"].dropna().astype(int)
    counts = epochs.value_counts().sort_index(ascending=False)
    return ", ".join(f"{epoch} in {count}" for epoch, count in counts.items())


def _expressivity(block: Block, large: Block | None) -> Answer:
    best, twin = "lantk-best", "lantk-best-shuffled"
    here, there = (_Difference(found, best, twin) for found in (block, large))
    labels = _Difference(block, "after-kernel", "after-kernel-shuffled")
    plugin = _Difference(block if large is None else large, "lantk-plugin", "cntk")
    plugin_text = ""
    if not math.isnan(plugin.mean):
        plugin_text = (
            f" The rank-one Z of the Bayes view, `lantk-plugin`, gains {plugin} over CNTK"
            + ("." if large is None else f" at n = {_n_of(large):,}.")
        )
    test, train = (
        {
            name: 100 * block.values(f"relative_ratio_{rows}").loc[name].mean(skipna=False)
            for name in (best, "cntk-ridge", "after-kernel")
            if name in block.variants
        }
        for rows in ("test", "train")
    )
    ratios = "; ".join(
        f"{name} {train[name]:.2f} on train and {test[name]:.2f} on test"
        for name in test
        if not (math.isnan(test[name]) or math.isnan(train[name]))
    )
    found = (
        f"Labels are worth {labels} points where they make the kernel, by training, and {here}"
        " where they are added to it, in the best of the published Z, at the same n"
        + ("" if large is None else f"; at n = {_n_of(large):,} Z gains {there} by them")
        + "."
        + plugin_text
        + f" Relative ratios (percent): {ratios or _NO_RESULT}."
        + labels.say(
            " The same labels do more in another form, so it is the form that limits Z and not"
            " that labels have nothing to give.",
            " Labels have nothing to give in either form.",
            " Whether labels give more in another form is not shown.",
        )
    )
    return Answer(
        "Is the expressivity of Z the limit?",
        found,
        "Established: what labels are worth in each form, with twins that differ in nothing but the"
        " labels. Not established: that no Z of the published kind does better; the true label"
        " products (`oracle-label`) are a ceiling that no estimate comes near.",
        "the same, and `experiments/chen2020.yaml` for n = 10,000",
    )


def _architecture(block: Block) -> Answer:
    gain = _Difference(block, "lantk-nth", "cntk")
    labels = _Difference(block, "lantk-nth", "lantk-nth-shuffled")
    layers = _layers(block)
    text = "The hierarchy of tangent kernels gives one, `lantk-nth`, for the 2-layer network;"
    if math.isnan(gain.mean):
        text += " it was not run."
    else:
        text += (
            f" its label part differs from CNTK by {gain} points and from itself with shuffled"
            f" labels by {labels}:"
            + labels.say(
                " labels help in it.",
                " labels do harm in it.",
                " that labels help in it is not shown.",
            )
        )
    if layers:
        accuracy = 100 * block.values("accuracy")
        rows = [
            (name, accuracy.loc[variant].mean(skipna=False)) for name, variant in layers.items()
        ]
        told = ", ".join(f"{name} {value:.2f}" for name, value in rows)
        epoch = next(iter(layers.values())).rpartition("-")[2]
        whole = accuracy.loc[f"after-kernel-{epoch}"].mean(skipna=False)
        text += (
            f" Layer by layer, the kernel after {epoch} epochs reaches (mean accuracy in percent,"
            f" all layers together {whole:.2f}): {told}."
        )
    return Answer(
        "Does a label term follow from the architecture?",
        text,
        "Established: the formula, against brute force, and what its Monte Carlo error is (see"
        " docs/how-it-works.md). Not established: the label part of a convolutional architecture;"
        " what is measured there is the whole change of the kernel, by training.",
        "`python -m pytest tests/test_nth.py`, and the preset above",
    )


def _layers(block: Block) -> dict[str, str]:
    """Return layer -> variant, of the last epoch at which there are single layers."""
    names = [f"conv{i}" for i in range(1, 1000)] + ["dense"]
    found: dict[str, str] = {}
    epochs = sorted({int(v.rpartition("-")[2]) for v in candidates("after-kernel", block.variants)})
    for epoch in epochs:
        own = {name: _LAYER.format(name, epoch) for name in names}
        own = {name: variant for name, variant in own.items() if variant in block.variants}
        found = own or found
    return found


def two_layer_lines(table: pd.DataFrame | None, published: Mapping[str, Any]) -> list[str]:
    """Return the relative ratios of 2-layer networks, the published ones in brackets.

    Parameters
    ----------
    table : DataFrame or None
        What the verb two-layer wrote.
    published : mapping
        ``source``, and task -> train-train ratio in percent of the 2-layer NTK.
    """
    theirs: Mapping[str, float] = published["relative_ratio"]
    lines = [
        "## Local elasticity of 2-layer networks\n",
        f"- Published: {published['source']}",
        "- Again: the verb `split` for each pair, then `python -m lantk two-layer`",
        "",
        "Relative ratios in percent, train-train / test-train. The network has 1,024 hidden units"
        " in the NTK parameterization; it is trained for 10 epochs.\n",
    ]
    if table is None:
        return [*lines, f"{_NO_RESULT}\n"]
    rows: list[Sequence[str]] = []
    hierarchy = table[table["kernel"] == "lantk-nth"]
    table = table[table["kernel"] != "lantk-nth"]
    for kernel, group in table.groupby("kernel", sort=False):
        cells = []
        for task in theirs:
            found = group[group["task"] == task]
            cell = _NO_RESULT
            if len(found):
                train, test = (
                    found[f"relative_ratio_{name}"].iloc[0] for name in ("train", "test")
                )
                paper = f" ({theirs[task]:.2f})" if kernel == "2-layer NTK" else ""
                cell = f"{train:.2f}{paper} / {test:.2f}"
            cells.append(cell)
        rows.append([str(kernel), *cells])
    sizes = ", ".join(
        f"n_train = {a:,}, n_test = {b:,}"
        for a, b in dict.fromkeys(zip(table["n_train"], table["n_test"], strict=True))
    )
    lines += [*markdown_rows(["", *theirs], rows), f"\n{sizes}.\n"]
    if not len(hierarchy):
        return lines
    rows = []
    for n, group in hierarchy.groupby("n_train"):
        by_task = {row.task: row for row in group.itertuples()}
        rows.append([f"{n} images", *(_means(by_task.get(task)) for task in theirs)])
    lines.append(
        "The label part of the hierarchy (`lantk-nth`), fitted to the first images: its mean over"
        " pairs within a class / between two (Monte Carlo error of an entry, as a share of Z).\n"
    )
    return [*lines, *markdown_rows(["", *theirs], rows), ""]


def _means(row: Any) -> str:
    if row is None:
        return _NO_RESULT
    return f"{row.mean_within:.2f} / {row.mean_between:.2f} ({100 * row.standard_error:.0f} %)"
