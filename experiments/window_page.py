"""The page on local average pooling: windows side by side, and label terms on each of them.

Its preset lists architectures that differ in their window alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lantk.experiment.variants import LAP
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import Block, label_terms_of, order_variants
from lantk.report.claims import Claim, claims_of, judge, legend
from lantk.report.comparisons import TITLES, choices_text
from lantk.report.tables import accuracy_lines, claims_lines, markdown_rows
from studies import NOT_RUN, Study, facts, in_order

_INTRODUCTION = """\
Before the readout flattens them, values are averaged over W x W positions, which no label enters.
CNTK is the kernel without that; the rows below it are named after their architecture, and
`cntk-lap` is the one that the protocol chose for each task.
"""
_ON_TOP = """\
What is added to the kernel of each window, or stands beside it, is compared with CNTK of that very
window, and a label term with its shuffled twin there; the network has the same window.
"""


def window_lines(name: str, study: Study) -> list[str]:
    """Return the page of a preset of several windows as lines of Markdown."""
    lines = [*facts({name: study}), f"{' '.join(_INTRODUCTION.split())}\n"]
    if study.table.empty:
        return [*lines, "Not run.\n"]
    architectures: list[str] = study.preset["architecture"]
    for protocol in PROTOCOLS:
        rows = in_order(study)
        rows = rows[rows["protocol"] == protocol]
        plain = _by_window(rows, architectures, study.tasks)
        lines += [f"## {TITLES[protocol]}\n", f"{choices_text(protocol, [*study.variants, LAP])}\n"]
        lines += [*accuracy_lines(plain), "", *_chosen_lines(plain)]
        blocks = {name: _block(rows, name, study.tasks) for name in architectures}
        if protocol == PROTOCOLS[0]:
            lines += _claims_lines(plain, blocks)
        for architecture, block in blocks.items():
            lines += [f"### {architecture}\n", *accuracy_lines(block), ""]
    return lines


def _by_window(rows: pd.DataFrame, architectures: Sequence[str], tasks: Sequence[str]) -> Block:
    """Return ``cntk`` of every architecture as a block: the first by its name, others by theirs."""
    plain = rows[rows["variant"].isin(["cntk", LAP])]
    is_other = (plain["variant"] == "cntk") & (plain["architecture"] != architectures[0])
    names = plain["variant"].mask(is_other, plain["architecture"])
    frame = plain.assign(variant=names, architecture=architectures[0], column=plain["task"])
    return Block(frame, ["cntk", *architectures[1:], LAP], tasks, missing=NOT_RUN)


def _block(rows: pd.DataFrame, architecture: str, tasks: Sequence[str]) -> Block:
    """Return what was evaluated of one architecture."""
    found = rows[(rows["architecture"] == architecture) & (rows["variant"] != LAP)]
    names = order_variants(found["variant"])
    return Block(found.assign(column=found["task"]), names, tasks, missing=NOT_RUN)


def _chosen_lines(plain: Block) -> list[str]:
    """Return the window that was chosen for each task, in a table of one row."""
    windows = plain.values("window").loc[LAP]
    cells = [NOT_RUN if pd.isna(window) else f"{window:.0f}" for window in windows]
    return [*markdown_rows(["", *plain.columns], [["Window of cntk-lap", *cells]]), ""]


def _claims_lines(plain: Block, blocks: dict[str, Block]) -> list[str]:
    """Return what windows gain, and what else does on each of them, judged together."""
    windows = [(name, "cntk") for name in plain.variants[1:]]
    tables = [claims_of(plain, windows), *map(_on_top, blocks.values())]
    judged = judge(*tables)
    every: list[Claim] = [claim for claims in judged for claim in claims]
    lines = ["### What averaging gains\n", *_lines_of(judged[0])]
    lines += ["### On top of it\n", f"{' '.join(_ON_TOP.split())}\n"]
    lines += _lines_of([claim for claims in judged[1:] for claim in claims])
    return [*lines, *(f"{text}\n" for text in legend(every) if every)]


def _lines_of(claims: Sequence[Claim]) -> list[str]:
    return [*claims_lines(claims), ""] if claims else ["Not all of it was run.\n"]


def _on_top(block: Block) -> list[Claim]:
    """Return what variants of one window gain over its CNTK, label terms over their twins too."""
    pairs: list[tuple[str, ...]] = [
        (name, "cntk")
        for name in block.variants
        if name != "cntk" and not name.endswith("-shuffled")
    ]
    terms = label_terms_of(block.variants)
    best = [name for name in block.variants if name == "lantk-best"]
    return claims_of(block, pairs + [(name, f"{name}-shuffled") for name in (*best, *terms)])
