"""The figures: which are asked for, and what is said below each.

A figure over all cases more is an entry here and a function ``NAME_figure`` in
`lantk.report.figures` or `lantk.report.network_figures`; nothing here needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lantk.experiment.variants import DERIVED, GAP_LEVELS, candidates, has_label_weight

if TYPE_CHECKING:
    from lantk.experiment.config import Experiment


@dataclass(frozen=True)
class Overview:
    """A figure over all cases."""

    title: str
    text: str
    """What is shown and how to read it."""
    is_asked_for: Callable[[Experiment], bool]
    """Whether an experiment has something to show in it."""
    is_of_records: bool = False
    """Whether it is drawn from the records, and not from the leaderboard."""


def overview_kinds(experiment: Experiment) -> list[str]:
    """Return the figures over all cases that there is something to show in."""
    return [name for name, overview in OVERVIEWS.items() if overview.is_asked_for(experiment)]


def _variants(experiment: Experiment) -> list[str]:
    return [name for members in experiment.families.values() for name in members]


def _shown(experiment: Experiment) -> set[str]:
    variants = _variants(experiment)
    return {*variants, *(name for name in DERIVED if candidates(name, variants))}


def _has_term(experiment: Experiment) -> bool:
    return any(has_label_weight(name) for name in _variants(experiment))


def _has_gain(experiment: Experiment) -> bool:
    variants = _variants(experiment)
    return "cntk" in variants and (_has_term(experiment) or "cntk-ridge" in variants)


def _has_growth(experiment: Experiment) -> bool:
    # Errors are averaged over the tasks, so only n that every task has count.
    ns = [{c.n_train for c in experiment.cases.values() if c.task == t} for t in experiment.tasks]
    return len(set.intersection(*ns)) >= 3


OVERVIEWS = {
    "gap": Overview(
        "What each variant gains over CNTK",
        "Black dots right of the line gain over CNTK. A white dot is the same variant with the"
        " labels shuffled that Z is fitted to or the network trained on, and the grey bar between"
        " them is what labels are worth. Where there are several tasks, the last panel is their"
        " mean with its paired 95 % interval: a gain whose interval holds 0 cannot be told from"
        " none.",
        _has_gain,
    ),
    "decomposition": Overview(
        "The gap between CNTK and the CNN, in steps",
        f"From CNTK (diamond) to the CNN (star), through {', '.join(GAP_LEVELS[1:-1])}: each step"
        " is the difference of two variants on the same test images. Colours are what labels do:"
        " in Z beside a kernel that never saw one, and in training, which makes the kernel of them."
        " Circles are the after-kernels of single epochs, one of which validation chooses. A"
        " square, where several windows of local averaging were run, is cntk-lap, which sees no"
        " label. A step whose interval holds 0 cannot be told from none.",
        lambda experiment: set(GAP_LEVELS) <= _shown(experiment),
    ),
    "training": Overview(
        "The network's kernels along its training",
        "Left is what ridge regression with the kernel of the network after an epoch reaches,"
        " right how much nearer it puts test images to train images of their class (50 tells no"
        " classes apart). Open marks are networks trained on shuffled labels: what a curve gains"
        " beyond them, labels have taught it.",
        lambda experiment: "after-kernel" in _shown(experiment),
    ),
    "growth": Overview(
        "Error against the number of train images",
        "On log axes a straight line is a power law: the steeper, the more each further image"
        " helps. In the lower panels, what lies below 0 makes fewer errors than CNTK.",
        _has_growth,
    ),
    "alignment": Overview(
        "Kernel-target alignment on the train images",
        "How well K, Z and K + λZ agree with the products of labels; 1 is full agreement. Z was"
        " fitted to these very images, so squares right of the dashed line prove nothing about test"
        " images; how far a dot leaves the line is what the chosen weight adds of Z.",
        _has_term,
        is_of_records=True,
    ),
}
"""Name of a figure -> what it is, in the order in which they are shown."""

CASE_FIGURES = {
    "weight": (
        "Accuracy against label weight",
        "Left is what the honest choice sees, validation inside the train set; right what the"
        " choices get on the test images. Circles are honest choices, squares the oracle's. Dashed,"
        " where they were run, the same label terms fitted to shuffled labels: only where a curve"
        " leaves its dashed twin do labels make the difference.",
    ),
    "heat_map": (
        "K, Z and K + λZ",
        "The kernel, the label term and their sum among train images that are sorted by class."
        " Squares on the diagonal are pairs of one class; the more they stand out, the more the"
        " matrix knows of the classes.",
    ),
}
"""Figure of one case -> its title and text."""

FIGURE_ENDINGS = (".png", ".pdf", ".svg")
"""What the name of a figure's file ends in; the last two are drawn of lines, not of pixels."""
