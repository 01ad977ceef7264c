"""The answers at the head of RESULTS.md, and the page of 2-layer networks, as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lantk.experiment.variants import GAP_LEVELS
from lantk.regression.statistics import mean_with_interval
from lantk.report.answers import CAVEAT, EPOCHS, NO_RESULT, answers
from lantk.report.blocks import Block, network_block, row_name, shown_block, taps_of
from lantk.report.claims import with_half_width
from lantk.report.decomposition import decomposition_lines
from lantk.report.leaderboard import error_exponents
from lantk.report.tables import markdown_rows

# Kernels whose exponents are on the page, before those of each epoch.
_EXPONENTS_OF = (
    "cntk",
    "cntk-ridge",
    "cntk-rbf",
    "lantk-best",
    "lantk-best-shuffled",
    "after-kernel",
)


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
    block, large = network_block(networks), shown_block(chen2020, "honest")
    lines = ["## Answers\n"]
    if block is None:
        return [*lines, "No results of networks' kernels are there: run the preset.\n"]
    n, protocol = int(block.frame["n_train"].max()), block.frame["protocol"].iloc[0]
    steps = decomposition_lines(block)
    lines += [
        f"What lies between CNTK and the CNN at n = {n:,}, in points of test accuracy under the"
        f" {protocol} protocol. The steps are differences of accuracies on the same test images and"
        " add up; means over the tasks with paired 95 % t-intervals. In order: "
        + ", ".join(f"`{name}`" for name in GAP_LEVELS)
        + ". It is one path of several: the network's kernel takes the place of all that was added"
        f" to CNTK before. {CAVEAT}\n",
        *(steps or ["Not all of them were run."]),
        "",
        *(f"![{title}]({place})\n" for title, place in (pictures or {}).items()),
        *_exponents(curves),
    ]
    for answer in answers(block, large):
        lines += [f"### {answer.question}\n", f"**{answer.short}**\n", f"{answer.found}\n"]
        if answer.rows:
            lines += [*markdown_rows(EPOCHS, answer.rows), ""]
        lines += [f"{answer.limits} Command: {answer.command}.\n"]
    return lines


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
        [variant, *(column.get(variant, NO_RESULT) for column in columns.values())]
        for variant in (*_EXPONENTS_OF, *taps, "conjugate-kernel", "cnn")
        if variant in run
    ]
    if not rows:
        return []
    return [
        "Exponents b of error ~ n^b, means over the pairs ± 95 % (each of them in the tables of"
        " errors against n). Networks have the same number of epochs at every n, so fewer steps at"
        " a smaller one, which the exponents of their kernels and of the CNN include.\n",
        *markdown_rows(["", *columns], rows),
        "",
    ]


def two_layer_lines(table: pd.DataFrame | None, published: Mapping[str, Any]) -> list[str]:
    """Return the relative ratios of 2-layer networks, the published ones in brackets.

    Parameters
    ----------
    table : DataFrame or None
        What two_layer.py wrote.
    published : mapping
        ``source``, and task -> train-train ratio in percent of the 2-layer NTK.
    """
    theirs: Mapping[str, float] = published["relative_ratio"]
    lines = [
        f"- Published: {published['source']}",
        "- Again: `python -m lantk split --source cifar10 --path data --pair frog ship --out"
        " frog-ship.npz` and so on, then `python experiments/two_layer.py --split frog-ship.npz ..."
        " --out two-layer.csv`",
        "",
        "Relative ratios in percent, train-train / test-train. Label terms are added to the 2-layer"
        " NTK with label weight 0.1. Of these and of the trained network, which have seen the train"
        " labels, only test-train tells what carries over. The network has 1,024 hidden units in"
        " the NTK parameterization; it is trained for 10 epochs.\n",
    ]
    if table is None:
        return [*lines, f"{NO_RESULT}\n"]
    rows: list[Sequence[str]] = []
    hierarchy = table[table["kernel"] == "lantk-nth"]
    table = table[table["kernel"] != "lantk-nth"]
    for kernel, group in table.groupby("kernel", sort=False):
        cells = []
        for task in theirs:
            found = group[group["task"] == task]
            cell = NO_RESULT
            if len(found):
                train, test = (
                    found[f"relative_ratio_{name}"].iloc[0] for name in ("train", "test")
                )
                paper = f" ({theirs[task]:.2f})" if kernel == "2-layer NTK" else ""
                cell = f"{train:.2f}{paper} / {test:.2f}"
            cells.append(cell)
        rows.append([row_name(str(kernel)), *cells])
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
        return NO_RESULT
    return f"{row.mean_within:.2f} / {row.mean_between:.2f} ({100 * row.standard_error:.0f} %)"
