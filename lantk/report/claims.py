"""What a leaderboard says, as claims: a difference with its interval, and whether it is one.

People write what follows from them. Nothing here is chosen by looking at test images and then
called honest: of label terms, the one that validation chose is compared where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from lantk.experiment.variants import BEST, GAP_LEVELS
from lantk.regression.statistics import PROTOCOLS, mean_with_interval
from lantk.report.blocks import Block, label_terms_of, network_block, row_name, shown_block, taps_of
from lantk.variant import Variant

VERDICTS = (
    "Points are differences of test accuracy, ± half a paired 95 % interval over the tasks (of one"
    " task over the test images, or p of the exact McNemar test). A shuffled twin is the same with"
    " its labels shuffled: the difference is what labels are worth. Verdict: above or below 0 where"
    " that can be told, open where it cannot, unknown where there is neither interval nor p;"
    " +0.00 ± 0.00 where no accuracy differs."
)
CAVEAT = (
    "Tasks share images where they share a class, and all of them share the seeds of networks and"
    " of label permutations, so they are not independent, and intervals over them are rather too"
    " narrow. What the oracle chose, or was picked by test accuracy, is optimistic: no interval"
    " allows for that choice."
)
NOTHING = "No label term can be compared with CNTK here: the tables show what there is."

_NO_WIDTH = 1e-9
_LEVEL = 0.05
# Two variants, the second subtracted; of four, the difference of the other two is.
_Names = tuple[str, ...]


def _with_twin(variant: str) -> _Names:
    return variant, f"{variant}-shuffled"


GAP: Sequence[_Names] = (
    ("cnn", "cntk"),
    ("after-kernel", "cntk-ridge"),
    ("after-kernel", "after-kernel-0"),
    ("after-kernel-shuffled", "after-kernel-0"),
    _with_twin("after-kernel"),
    ("cnn", "after-kernel"),
)
"""What lies between CNTK and the network, and what of it training and its labels do."""
FORMS: Sequence[_Names] = (
    (BEST, "cntk"),
    _with_twin(BEST),
    (*_with_twin("after-kernel"), *_with_twin(BEST)),
    ("lantk-plugin", "cntk"),
)
"""What labels are worth in the two forms in which they can enter."""
HIERARCHY: Sequence[_Names] = (("lantk-nth", "cntk"), _with_twin("lantk-nth"))
"""What the label term that follows from an architecture gains."""


@dataclass(frozen=True)
class Estimate:
    """A difference of accuracies in points, with half the width of its 95 % interval."""

    points: float = math.nan
    """NaN where it was not run."""
    half: float = math.nan
    """NaN where there is none."""
    p_value: float = math.nan
    """Of the exact McNemar test, where the difference is of one task."""

    @property
    def is_known(self) -> bool:
        """Whether it was run in every task."""
        return not math.isnan(self.points)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval that says something: not of differences that are equal."""
        return self.half > _NO_WIDTH

    @property
    def text(self) -> str:
        """The difference with its sign, and half its interval or its p-value."""
        if math.isnan(self.p_value):
            is_equal = self.points != 0 and not self.has_interval
            return with_half_width(self.points, math.nan if is_equal else self.half)
        return f"{signed(self.points)} ({p_value_text(self.p_value)})"

    @property
    def interval_text(self) -> str:
        """Both ends of the interval."""
        return f"{signed(self.points - self.half)} to {signed(self.points + self.half)}"

    @property
    def verdict(self) -> str:
        """Whether it can be told from 0: ``above``, ``below``, ``open``, or ``unknown``."""
        if not math.isnan(self.p_value):
            is_open = self.p_value >= _LEVEL
        elif math.isnan(self.half) or (self.points != 0 and not self.has_interval):
            return "unknown"
        else:
            is_open = abs(self.points) <= self.half
        return "open" if is_open else "above" if self.points > 0 else "below"


def compare(block: Block | None, first: str, second: str, *others: str) -> Estimate:
    """Return the mean over the tasks of one variant's accuracy minus another's, in points.

    Of two others the same is subtracted: it is then a difference of two differences. The interval
    is the paired one over the tasks. Of one task it is over the test images if the second is the
    shuffled twin of the first, and against CNTK there is a p-value in its place.
    """
    names = (first, second, *others)
    if block is None or not set(names) <= set(block.variants):
        return Estimate()
    accuracy = 100 * block.values("accuracy")
    signs = (1, -1, -1, 1)
    values = sum(sign * accuracy.loc[name] for sign, name in zip(signs, names, strict=False))
    # Rounding errors of equal accuracies are no differences.
    points, half = mean_with_interval(values.round(9))
    points = round(points, 9) + 0.0
    if math.isnan(points) or len(values) > 1 or others:
        return Estimate(points, half)
    if second == "cntk":
        return Estimate(points, p_value=float(block.values("p_value").loc[first].iloc[0]))
    # Of networks, test images say nothing of how another training would differ.
    if second == f"{first}-shuffled" and not Variant.of(first).is_network:
        half = 100 * float(block.values("label_gain_half_width").loc[first].iloc[0])
    return Estimate(points, half)


@dataclass(frozen=True)
class Claim:
    """A difference between variants, what it is of, and what shows it."""

    name: str
    estimate: Estimate
    accuracies: str
    """Of the two variants, in percent, means over the tasks; empty where there are four."""
    protocol: str
    n_train: int
    tasks: str
    """How many, or which."""
    architecture: str
    command: str = ""


def claims_of(
    block: Block | None, pairs: Iterable[_Names], command: str = "", note: str = ""
) -> list[Claim]:
    """Return a claim for each of some pairs of variants that were run in every task of a block.

    Parameters
    ----------
    block : Block or None
        Results of one n and architecture, its columns the tasks.
    pairs : iterable of tuple of str
        Such as `GAP`: two variants, or two and the two whose difference is subtracted.
    command : str
        What shows them again.
    note : str
        What follows the name of each.
    """
    found = {names: compare(block, *names) for names in dict.fromkeys(pairs)}
    found = {names: estimate for names, estimate in found.items() if estimate.is_known}
    if block is None or not found:
        return []
    first, columns = block.frame.iloc[0], list(block.columns)
    means = 100 * block.values("accuracy").mean(axis="columns")
    return [
        Claim(
            _phrase(*names) + note,
            estimate,
            " / ".join(f"{means[name]:.2f}" for name in names) if len(names) == 2 else "",
            str(first["protocol"]),
            int(first["n_train"]),
            ", ".join(columns) if len(columns) < 3 else str(len(columns)),
            str(first["architecture"]),
            command,
        )
        for names, estimate in found.items()
    ]


def _phrase(first: str, second: str, *others: str) -> str:
    if others:
        return f"label gain of {row_name(first)} minus that of {row_name(others[0])}"
    is_twin = second == f"{first}-shuffled"
    return f"{row_name(first)} minus {'its shuffled twin' if is_twin else row_name(second)}"


def main_claims(table: pd.DataFrame, command: str = "") -> list[Claim]:
    """Return what there is to say first: of the label term, of its labels, of the network.

    They are of the honest protocol where it was run, and then of the same label term under the
    oracle. It is the best that validation chose; without it, that of the highest test accuracy.
    """
    blocks = filter(
        None, (shown_block(table, name, is_better=_is_comparable) for name in PROTOCOLS)
    )
    block = next(blocks)  # one of the protocols is there
    accuracy = block.values("accuracy").mean(axis="columns", skipna=False)
    terms = _full_terms(block)
    variant = max(terms, key=lambda term: accuracy[term], default="")
    note = ", picked by test accuracy" if len(terms) > 1 else ""
    if not math.isnan(accuracy.get(BEST, math.nan)):
        variant, note = BEST, ""
    found = claims_of(block, [(variant, "cntk"), _with_twin(variant)], command, note)
    found += claims_of(block, [("cnn", "cntk")], command)
    for other in blocks:
        of_other = claims_of(other, [(variant, "cntk")], command, note)
        found += [c for c in of_other if not found or _place(c) == _place(found[0])]
    return found


def _place(claim: Claim) -> tuple[str, int, str]:
    return claim.architecture, claim.n_train, claim.tasks


def _is_comparable(block: Block) -> bool:
    """Return whether no task lacks CNTK, nor the same label term."""
    plain = block.values("accuracy").reindex(["cntk"])
    return bool(plain.notna().all(axis=None)) and bool(_full_terms(block))


def _full_terms(block: Block) -> list[str]:
    """Return the label terms that no task lacks."""
    is_full = block.values("accuracy").notna().all(axis="columns")
    return [variant for variant in label_terms_of(block.variants) if is_full[variant]]


def network_claims(table: pd.DataFrame, command: str = "", is_whole: bool = True) -> list[Claim]:
    """Return what is found of a network's kernels with nothing chosen on test images.

    They are `GAP`, `FORMS` and `HIERARCHY`, and if it is the whole, single epochs and layers.
    """
    block = network_block(table)
    if block is None or set(block.frame["protocol"]) != {"honest"}:
        return []
    pairs = [*GAP, *FORMS, *HIERARCHY]
    return claims_of(block, pairs + [*epoch_pairs(block), *layer_pairs(block)] * is_whole, command)


def epoch_pairs(block: Block) -> list[_Names]:
    """Return what the kernel of each epoch is compared with: its start, its twin, the network."""
    found: list[_Names] = []
    for epoch, variant in taps_of(block, "after-kernel").items():
        twin = f"{variant}-shuffled"
        if epoch > 0:
            found += [(variant, "after-kernel-0"), (twin, "after-kernel-0")]
            found += [(variant, twin), (variant, "cnn")]
    return found


def layer_pairs(block: Block) -> list[_Names]:
    """Return the kernels of single layers, of the last epoch at which there are any, and CNTK."""
    layers: dict[int, list[_Names]] = {}
    for variant in block.variants:
        v = Variant.of(variant)
        if v.layer and v.epoch is not None and v.control is None and v.term is None:
            layers.setdefault(v.epoch, []).append((variant, "cntk"))
    return layers[max(layers)] if layers else []


STEPS = (
    "a ridge",
    "sums of kernels without labels",
    "labels in Z",
    "the untrained network's kernel instead",
    "training on shuffled labels",
    "training on true labels",
    "the network instead of its kernel",
)
"""What leads from each of `GAP_LEVELS` to the next, from CNTK to the CNN."""


def decompose(block: Block) -> pd.DataFrame | None:
    """Return the steps in points of accuracy, one row each, in the columns of the block.

    Each is the difference of two variants on the same test images; they add up to the accuracy of
    ``cnn`` minus that of ``cntk``. None where a variant is missing.
    """
    accuracy = 100 * block.values("accuracy").reindex(list(GAP_LEVELS))
    # Rounding errors of equal accuracies are no steps.
    found = accuracy.diff().iloc[1:].round(9).set_axis(list(STEPS))
    return None if found.isna().any(axis=None) else found


def p_value_text(p_value: float) -> str:
    """Return a p-value with three decimals, or that it is smaller.

    Examples
    --------
    >>> p_value_text(0.04), p_value_text(1e-9)
    ('p = 0.040', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def with_half_width(value: float, half: float, digits: int = 2) -> str:
    """Return a number with its sign and, where there is one, half the width of its interval."""
    return signed(value, digits) + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign; what rounds to zero is ``+0.00``."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no "-0.00"
