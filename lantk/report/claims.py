"""What a leaderboard says, as claims: a difference with its interval, and whether it is one.

People write what follows from them. Nothing here is chosen by looking at test images and then
called honest: of label terms, the one that validation chose is compared where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lantk.experiment.variants import BEST, GAP_LEVELS, LAP
from lantk.regression.statistics import (
    LEVEL,
    PROTOCOLS,
    Interval,
    adjusted_p_values,
    clustered_interval,
    student_interval,
)
from lantk.report.blocks import Block, label_terms_of, network_block, row_name, shown_block, taps_of
from lantk.variant import LABEL_FREE, PLAIN_KERNELS, Variant

VERDICTS = (
    "Points are differences of mean test accuracy, ± half a 95 % interval: of these tasks,"
    " clustered by test image and with the spread over networks or label permutations (of one it is"
    " not known); of other tasks, Student's over the tasks. Verdicts, above or below 0, are by"
    " p-values after Holm's correction over all claims shown here, for either interval by itself."
    " Open does not mean none: in brackets is the difference that four such experiments of five"
    " would have found (80 % power, level 5 %, before the correction). Equal: accuracies are equal."
    " Unknown: there is no interval."
)
CREDIT = (
    "A shuffled twin is the same with its labels shuffled: the difference is what labels are worth,"
    " unless the twin lost by choosing badly. So labels are credited with a gain only where the"
    " variant is also above its base, or its twin's mean accuracy is not below it; else the verdict"
    " is: twin below base. Where the twin is below the base, what exceeds the variant's own gain"
    " over it is the twin's loss. The base is the kernel without labels, CNTK or, for a network's"
    " kernel, that of the untrained network."
)
CAVEAT = (
    "Tasks that share a class share images, and all share seeds and a draw of train images, so they"
    " are not independent and Student's intervals are rather too narrow. What the oracle chose, or"
    " was picked by test accuracy, is optimistic: no interval allows for that choice."
)
NO_PREDICTIONS = (
    "There are no predictions beside this table, so of these tasks there is no interval."
)
NOTHING = "No label term can be compared with CNTK here: the tables show what there is."

_NONE = Interval()
# Two variants, the second subtracted; of four, the difference of the other two is.
_Names = tuple[str, ...]


def _with_twin(variant: str) -> _Names:
    return variant, f"{variant}-shuffled"


GAP: Sequence[_Names] = (
    ("cnn", "cntk"),
    (LAP, "cntk"),
    ("cnn", LAP),
    ("after-kernel", "cntk-ridge"),
    ("after-kernel", "after-kernel-0"),
    ("after-kernel-shuffled", "after-kernel-0"),
    _with_twin("after-kernel"),
    ("cnn", "after-kernel"),
)
"""What lies between CNTK and the network, and what of it pooling, training and its labels do."""
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
    """A difference of accuracies in points, with its two intervals."""

    points: float = math.nan
    """NaN where it was not run."""
    here: Interval = _NONE
    """What these tasks show: clustered by test image; none without predictions."""
    beyond: Interval = _NONE
    """What other tasks may show: Student's over the tasks; none of a single task."""

    @property
    def is_known(self) -> bool:
        """Whether it was run in every task."""
        return not math.isnan(self.points)

    @property
    def shown(self) -> Interval:
        """The interval in tables of details: over tasks if there are several, else over images."""
        return self.here if math.isnan(self.beyond.error) else self.beyond

    @property
    def text(self) -> str:
        """The difference with its sign, and half the interval of tables of details."""
        return with_half_width(self.points, self.shown.half if self.shown.is_known else math.nan)


def compare(block: Block | None, first: str, second: str, *others: str) -> Estimate:
    """Return the mean over the tasks of one variant's accuracy minus another's, in points.

    Of two others the same is subtracted: it is then a difference of two differences. The intervals
    are those of `clustered_interval` and `student_interval`.
    """
    names = (first, second, *others)
    if block is None or not set(names) <= set(block.variants):
        return Estimate()
    accuracy = 100 * block.values("accuracy")
    signs = dict(zip(names, (1, -1, -1, 1), strict=False))
    # Rounding errors of equal accuracies are no differences.
    values = sum(sign * accuracy.loc[name] for name, sign in signs.items()).round(9)
    points = round(float(values.mean(skipna=False)), 9) + 0.0
    if math.isnan(points):
        return Estimate()
    return Estimate(points, _clustered(block, signs), student_interval(values))


def _clustered(block: Block, signs: Mapping[str, int]) -> Interval:
    """Return the interval over test images, none where a table was read without predictions."""
    if "outcomes" not in block.frame:
        return _NONE
    found = block.frame.pivot(index="column", columns="variant", values="outcomes")
    tasks = (row for _, row in found.iterrows())
    terms = [[(100.0 * sign, task[name]) for name, sign in signs.items()] for task in tasks]
    return clustered_interval(terms)


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
    needed: Estimate | None = None
    """Of a gain of labels whose twin is below its base: the variant minus that base."""
    verdicts: tuple[str, str] = ("", "")
    """Of these tasks and of other tasks, as `judge` finds them among others."""

    @property
    def place(self) -> tuple[str, str, int, str]:
        """What it is of: protocol, architecture, n and tasks."""
        return self.protocol, self.architecture, self.n_train, self.tasks


def judge(*tables: Sequence[Claim]) -> list[list[Claim]]:
    """Return tables of claims that stand together, with verdicts after Holm's correction.

    A claim that stands in several counts once. Labels whose twin is below the base are credited
    where label gain and gain over the base are both shown, by the larger of the two p-values
    (Berger, 1982, "Multiparameter hypothesis testing and acceptance sampling").
    """
    distinct = {(claim.place, claim.name): claim for claims in tables for claim in claims}
    verdicts: dict[Any, list[str]] = {key: [] for key in distinct}
    for kind in ("here", "beyond"):
        found = [getattr(claim.estimate, kind) for claim in distinct.values()]
        p_values = [interval.p_value for interval in found]
        credited = [_credited(claim, kind) for claim in distinct.values()]
        adjusted = zip(adjusted_p_values(p_values), adjusted_p_values(credited), strict=True)
        for (key, claim), interval, (plain, strict) in zip(
            distinct.items(), found, adjusted, strict=True
        ):
            # What another claim needs besides is no matter of this one's.
            verdicts[key].append(
                _verdict(claim, interval, plain, strict if claim.needed else plain)
            )
    return [
        [
            replace(claim, verdicts=tuple(verdicts[claim.place, claim.name]))  # type: ignore[arg-type]
            for claim in claims
        ]
        for claims in tables
    ]


def legend(claims: Iterable[Claim]) -> list[str]:
    """Return how to read some claims, in paragraphs; nothing of what none of them has."""
    found = list(claims)
    texts = [VERDICTS, *[CREDIT] * any("twin" in claim.name for claim in found), CAVEAT]
    has_predictions = any(not math.isnan(claim.estimate.here.error) for claim in found)
    return texts if has_predictions else [*texts, NO_PREDICTIONS]


def _credited(claim: Claim, kind: str) -> float:
    """Return the p-value of a claim, with what a gain of labels needs besides."""
    p_value: float = getattr(claim.estimate, kind).p_value
    if claim.needed is None or claim.estimate.points <= 0 or math.isnan(p_value):
        return p_value
    gain: Interval = getattr(claim.needed, kind)
    return max(p_value, gain.p_value) if gain.mean > 0 and gain.is_known else 1.0


def _verdict(claim: Claim, interval: Interval, plain: float, strict: float) -> str:
    """Return the verdict by p-values of the difference, and with what a gain of labels needs."""
    if math.isnan(plain):
        return "unknown"
    if strict < LEVEL:
        return "above" if interval.mean > 0 else "below"
    if plain < LEVEL:
        return "twin below base" if claim.needed and claim.needed.is_known else "base not run"
    if interval.mean == interval.error == 0:
        return "equal"
    return f"open ({interval.detectable:.2f})"


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
            _needed(block, *names),
        )
        for names, estimate in found.items()
    ]


def _needed(block: Block, first: str, second: str, *others: str) -> Estimate | None:
    """Return what must be above 0 for a gain of labels, where its twin is below its base."""
    if others or second != f"{first}-shuffled":
        return None
    v = Variant.of(first)
    base = f"{v.kernel}-0" if v.is_network_kernel else v.base
    return None if compare(block, second, base).points >= 0 else compare(block, first, base)


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
    found += claims_of(block, [("cnn", "cntk"), *kernel_pairs(block)], command)
    for other in blocks:
        of_other = claims_of(other, [(variant, "cntk")], command, note)
        found += [c for c in of_other if not found or c.place[1:] == found[0].place[1:]]
    return found


def kernel_pairs(block: Block) -> list[_Names]:
    """Return what better kernels without labels gain, and label terms that stand on them."""
    found: list[_Names] = []
    for variant in block.variants:
        v = Variant.of(variant)
        if variant in (*PLAIN_KERNELS[1:], *LABEL_FREE[1:], LAP):
            found.append((variant, "cntk"))
        elif v.term and v.control is None and v.base in PLAIN_KERNELS[1:]:
            found += [(variant, v.base), _with_twin(variant)]
    return [*found, ("cnn-flips", "cntk-flips")]


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


def with_half_width(value: float, half: float, digits: int = 2) -> str:
    """Return a number with its sign and, where there is one, half the width of its interval."""
    return signed(value, digits) + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def ends_text(interval: Interval) -> str:
    """Return both ends of an interval."""
    return " to ".join(signed(interval.mean + side * interval.half) for side in (-1, 1))


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign; what rounds to zero is ``+0.00``."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no "-0.00"
