"""Tables of label terms alone: beside a Gaussian, at fixed weights, in validation, with the labels.

They compute nothing but differences, and show what the main tables have no room for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from lantk.experiment.variants import BEST
from lantk.regression.statistics import student_interval
from lantk.report.blocks import Block, label_terms_of, row_name
from lantk.report.claims import compare
from lantk.report.tables import Cell, Table, markdown_lines, mean_cell, text_cell

TERMS = (
    "Label terms, in points. Against cntk-rbf, which adds a Gaussian of pixel distances and sees no"
    " label, no twin is needed. The label gain is the accuracy minus that of the shuffled twins."
    " Out of fold it is the same of what validation held out, n train images a task: each has the"
    " best weight of its grid there, so it compares two best ones. Squared alignment is that of Z"
    " with the label products of the train images to which Z was fitted. Means over the tasks with"
    " Student's 95 % intervals over them, of one task over its test images."
)
WEIGHTS = (
    "Label gain at fixed label weights, in points of test accuracy: nothing is chosen, so no twin"
    " loses by choosing badly. Gains or losses of many points are weights at which one of the two"
    " matrices is nearly singular and its accuracy collapses. The last row is of the chosen"
    " weights."
)


def terms_table(block: Block) -> Table | None:
    """Return what is told of each label term beside its gain; None where nothing is known.

    Its columns are the difference from ``cntk-rbf``, label gains in test and in out-of-fold
    accuracy, and the squared alignment of Z with the label products.
    """
    terms = [v for v in block.variants if v in (BEST, *label_terms_of(block.variants))]
    if not block.is_over_tasks or not terms:
        return None
    validation, alignment = (block.values(key) for key in ("validation_accuracy", "alignment_z"))
    rows = []
    for term in terms:
        twin = f"{term}-shuffled"
        found = [compare(block, term, other) for other in ("cntk-rbf", twin)]
        cells = [mean_cell(e.points, e.shown.half, block.missing) for e in found]
        gain = validation.loc[term] - validation.reindex([twin]).iloc[0]
        squared = math.nan if term == BEST else (alignment.loc[term] ** 2).mean(skipna=False)
        cells += [_mean_cell(100 * gain, block.missing), _squared_cell(squared)]
        rows.append([text_cell(row_name(term)), *cells])
    if all(cell.value is None for row in rows for cell in row[1:]):
        return None
    header = ["", "Minus cntk-rbf", "Label gain", "Label gain, out of fold"]
    header.append("Squared alignment")
    return Table(header, rows)


def weights_table(block: Block) -> Table | None:
    """Return the label gain of each label term at each label weight, and at the chosen ones.

    A row a weight that all tasks have, a column a term with shuffled twins. None where tables were
    read without evaluations, or there is no such term.
    """
    if not block.is_over_tasks or "curve" not in block.frame:
        return None
    curves = block.frame.pivot(index="variant", columns="column", values="curve")
    gains = {}
    for term in label_terms_of(block.variants):
        twin = f"{term}-shuffled"
        if {term, twin} <= {*curves.index} and not curves.loc[[term, twin]].isna().any(axis=None):
            pairs = zip(curves.loc[term], curves.loc[twin], strict=True)
            gains[term] = pd.DataFrame([_minus(own, other) for own, other in pairs])
    weights = sorted({w for gain in gains.values() for w in gain if w > 0})
    if not weights:
        return None
    rows = [
        [
            Cell(f"{weight:g}", weight),
            *(
                _mean_cell(100 * gain[weight], "-") if weight in gain else Cell("-")
                for gain in gains.values()
            ),
        ]
        for weight in weights
    ]
    chosen = [compare(block, term, f"{term}-shuffled") for term in gains]
    rows.append([text_cell("chosen"), *(mean_cell(e.points, e.beyond.half, "-") for e in chosen)])
    return Table(["Label weight", *map(row_name, gains)], rows)


def _minus(own: Mapping[float, float], twin: Mapping[float, float]) -> dict[float, float]:
    return {weight: own[weight] - twin[weight] for weight in own.keys() & twin.keys()}


def _mean_cell(values: pd.Series, missing: str) -> Cell:
    # Rounding errors of equal accuracies are no gains.
    found = student_interval(values.astype(float).round(9))
    return mean_cell(found.mean + 0.0, found.half, missing)


def _squared_cell(value: float) -> Cell:
    return Cell("-") if math.isnan(value) else Cell(f"{value:.3g}", value)


def term_lines(block: Block, has_weights: bool) -> list[str]:
    """Return the tables as lines of Markdown, each below what it is; that of weights if asked."""
    found = [(TERMS, terms_table(block))]
    found += [(WEIGHTS, weights_table(block))] * has_weights
    lines = []
    for text, table in found:
        lines += [f"{text}\n", *markdown_lines(table), ""] if table is not None else []
    return lines
