"""The gap between CNTK and the network, taken apart into steps that add up to it.

Each step goes from one variant to the next, from CNTK to the CNN, so it is a difference of two
accuracies on the same test images. What labels are worth is in two of them: in Z, beside a kernel
that never saw one, and in training, which makes the kernel itself of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from lantk.experiment.variants import GAP_LEVELS
from lantk.regression.statistics import mean_with_interval
from lantk.report.blocks import Block
from lantk.report.claims import signed, with_half_width
from lantk.report.tables import markdown_rows


class Step(NamedTuple):
    """What leads from one variant to another."""

    title: str
    start: str
    end: str


_TITLES = (
    "a ridge",
    "sums of kernels without labels",
    "labels in Z",
    "the untrained network's kernel instead",
    "training on shuffled labels",
    "training on true labels",
    "the network instead of its kernel",
)
STEPS = tuple(map(Step, _TITLES, GAP_LEVELS[:-1], GAP_LEVELS[1:]))


def decompose(block: Block) -> pd.DataFrame | None:
    """Return the steps in points of accuracy, one row each, in the columns of the block.

    They add up to the accuracy of ``cnn`` minus that of ``cntk``. None where a variant is missing.
    """
    accuracy = 100 * block.values("accuracy")
    if not set(GAP_LEVELS) <= set(accuracy.index):
        return None
    rows = {step.title: accuracy.loc[step.end] - accuracy.loc[step.start] for step in STEPS}
    # Rounding errors of equal accuracies are no steps.
    found = pd.DataFrame(rows).T.round(9)
    return None if found.isna().any(axis=None) else found


def decomposition_lines(block: Block) -> list[str]:
    """Return the steps as lines of Markdown, with means and paired intervals over the tasks."""
    found = decompose(block)
    if found is None:
        return []
    total = found.sum()
    rows = [[title, *_cells(list(values))] for title, values in found.iterrows()]
    rows.append(["CNN minus CNTK", *_cells(list(total))])
    return markdown_rows(["Step", *block.columns, *["Mean"] * (len(total) > 1)], rows)


def _cells(values: Sequence[float]) -> list[str]:
    cells = [signed(value) for value in values]
    return cells + [with_half_width(*mean_with_interval(values))] * (len(values) > 1)
