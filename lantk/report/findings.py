"""What a leaderboard says, in numbers and in sentences: gains, labels, network, and what is open.

Nothing here is chosen by looking at test images and then called honest: the variant that is spoken
of is the one that validation chose where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lantk.experiment.variants import BEST, PLAIN_VARIANTS
from lantk.regression.statistics import PROTOCOLS, mean_with_interval
from lantk.report.tables import (
    ROWS,
    Block,
    blocks_by_n,
    gains_over_cntk,
    label_gain_with_interval,
    p_value_text,
    signed,
)
from lantk.variant import Variant

_NO_WIDTH = 1e-9
_HINDSIGHT = "does not allow for the choice by test accuracy"


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies in points, with its 95 % interval where there is one."""

    points: float
    half: float = math.nan
    p_value: float = math.nan
    """Of the exact McNemar test, where the difference is of one task."""

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval that says something: not of differences that are equal."""
        return self.half > _NO_WIDTH

    @property
    def text(self) -> str:
        """The difference with its sign and its interval, or its p-value."""
        points = f"{signed(self.points)} points"
        if self.has_interval:
            return f"{points} (95 % interval {self.interval_text})"
        if not math.isnan(self.p_value):
            return f"{points} (exact McNemar test: {p_value_text(self.p_value)})"
        return points

    @property
    def interval_text(self) -> str:
        """Both ends of the interval."""
        return f"{signed(self.points - self.half)} to {signed(self.points + self.half)}"

    @property
    def verdict(self) -> str:
        """Whether it can be told from none: ``above``, ``below``, ``open``, or ``unknown``."""
        if not math.isnan(self.p_value):
            is_open = self.p_value >= 0.05
        elif math.isnan(self.half) or (self.points != 0 and not self.has_interval):
            return "unknown"
        else:
            is_open = abs(self.points) <= self.half
        return "open" if is_open else "above" if self.points > 0 else "below"


@dataclass(frozen=True)
class Headline:
    """What there is to say first, of what `main_block` found."""

    protocol: str
    block: Block
    place: str
    """Which n and architecture that is, where there are several; else empty."""
    variant: str | None
    """The label term spoken of; None where there is none."""
    cntk: float
    """Mean accuracy in percent over the tasks; NaN where a task lacks it."""
    accuracy: float
    gain: Difference | None
    label_gain: Difference | None
    network: Difference | None

    @property
    def is_hindsight(self) -> bool:
        """Whether the label term, or what was chosen in it, was picked by test accuracy."""
        return self.protocol == "oracle" or self.has_rivals

    @property
    def has_rivals(self) -> bool:
        """Whether there were other label terms to pick from, and no validation picked."""
        return self.variant != BEST and len(_full_terms(self.block)) > 1

    @property
    def name(self) -> str:
        """The label term as the tables write it."""
        return row_name(self.variant or "")


def row_name(variant: str) -> str:
    """Return how the tables write a variant."""
    return ROWS.get(variant, variant)


def label_terms_of(variants: Iterable[str]) -> list[str]:
    """Return the variants that are label terms: no control, no reference, not the best of them."""
    return [
        variant
        for variant in variants
        if variant not in (*PLAIN_VARIANTS, BEST)
        and not Variant.of(variant).is_network_kernel
        and Variant.of(variant).control is None
    ]


def main_block(table: pd.DataFrame, protocol: str) -> Block | None:
    """Return the results of one n and the first architecture, or None.

    It is the largest n that all tasks have, with CNTK and a label term if there is such an n. If
    tasks have no n in common, it is that of most tasks: averages are of one n.
    """
    frame = table[table["protocol"] == protocol]
    if frame.empty:
        return None
    frame = frame[frame["architecture"] == frame["architecture"].iloc[0]]
    # Of equals, max takes the first.
    return max(reversed(blocks_by_n(frame)), key=lambda b: (len(b.columns), _is_comparable(b)))


def _full_terms(block: Block) -> list[str]:
    """Return the label terms that no task lacks."""
    is_full = block.values("accuracy").notna().all(axis="columns")
    return [variant for variant in label_terms_of(block.variants) if is_full[variant]]


def _is_comparable(block: Block) -> bool:
    """Return whether no task lacks CNTK, nor the same label term."""
    plain = block.values("accuracy").reindex(["cntk"])
    return bool(plain.notna().all(axis=None)) and bool(_full_terms(block))


def place_text(table: pd.DataFrame, block: Block) -> str:
    """Return which of several n, architectures and tasks a block is of: "at n = 800"."""
    first = block.frame.iloc[0]
    parts = [f"at n = {first['n_train']:,}"] * (table["n_train"].nunique() > 1)
    if table["architecture"].nunique() > 1:
        parts.append(f"{'' if parts else 'with '}architecture {first['architecture']}")
    if len(block.columns) < table["task"].nunique():
        shown = ", ".join(block.columns)
        parts.append(f"in {len(block.columns)} of {table['task'].nunique()} tasks ({shown})")
    return ", ".join(parts)


def gain_of(block: Block, variant: str) -> Difference | None:
    """Return the gain of a variant over CNTK, the mean over the tasks; None where one is missing.

    Its interval is the paired one over the tasks. Of one task there is a p-value in its place.
    """
    gains = gains_over_cntk(100 * block.values("accuracy"), variant)
    if gains is None or gains.isna().any():
        return None
    gains = gains.round(9) + 0.0  # rounding errors of equal accuracies are no gains
    if len(gains) == 1:
        p_value = float(block.values("p_value").loc[variant].iloc[0])
        return Difference(float(gains.iloc[0]), p_value=p_value)
    mean, half = mean_with_interval(gains)
    return Difference(round(mean, 9) + 0.0, half)


def label_gain_of(block: Block, variant: str) -> Difference | None:
    """Return what labels are worth in a variant; None where a shuffled twin is missing."""
    if variant not in block.variants:
        return None
    points, half = label_gain_with_interval(block, variant)
    return None if math.isnan(points) else Difference(round(points, 9) + 0.0, half)


def find_headline(table: pd.DataFrame) -> Headline:
    """Return what there is to say first, under the honest protocol where it was run."""
    protocol, block = next(
        (name, found)
        for name in PROTOCOLS
        if (found := main_block(table, name)) is not None  # one of them is there
    )
    accuracy = 100 * block.values("accuracy").mean(axis="columns", skipna=False)
    variant = max(_full_terms(block), key=lambda v: accuracy[v], default=None)
    if not math.isnan(accuracy.get(BEST, math.nan)):
        variant = BEST
    return Headline(
        protocol,
        block,
        place_text(table, block),
        variant,
        float(accuracy.get("cntk", math.nan)),
        float(accuracy[variant]) if variant else math.nan,
        gain_of(block, variant) if variant else None,
        label_gain_of(block, variant) if variant else None,
        gain_of(block, "cnn"),
    )


def summary_sentences(table: pd.DataFrame) -> list[str]:
    """Return what the numbers say and what they leave open, a sentence each."""
    headline = find_headline(table)
    if headline.variant is None or headline.gain is None:
        return ["No label term can be compared with CNTK here: the tables show what there is."]
    sentences = [_gain_sentence(headline), _verdict_sentence(headline)]
    if headline.label_gain is not None:
        sentences.append(_label_sentence(headline))
    if headline.network is not None:
        sentences.append(_network_sentence(headline))
    if headline.protocol == "honest":
        sentences += _oracle_sentences(table, headline)
    return sentences


def _oracle_sentences(table: pd.DataFrame, headline: Headline) -> list[str]:
    """Return what the oracle finds of the same label term; nothing where it was not run."""
    block = main_block(table, "oracle")
    if block is None or place_text(table, block) != headline.place:
        return []
    found = gain_of(block, headline.variant or "")
    if found is None or headline.gain is None:
        return []
    is_more = found.points > max(0, headline.gain.points)
    return [
        f"Under the paper's own protocol, which chooses on the test images, {headline.name}"
        f" differs from CNTK by {found.text}"
        + ("; part of that is the choice itself." if is_more else ".")
    ]


def _gain_sentence(headline: Headline) -> str:
    n_tasks = len(headline.block.columns)
    over = f" on average over {n_tasks} tasks" if n_tasks > 1 else ""
    who = headline.name
    if headline.variant == BEST and headline.protocol == "honest":
        who += " (in each task the label term that validation inside the train set prefers)"
    elif headline.has_rivals:
        who += " (the label term with the highest test accuracy, so picked with hindsight)"
    how = (
        "With nothing chosen on test images"
        if headline.protocol == "honest"
        else "With choices made on the test images, which is optimistic"
    )
    how += f", {headline.place}" if headline.place else ""
    return (
        f"{how}, {who} reaches {headline.accuracy:.2f} %{over}, and CNTK {headline.cntk:.2f} %:"
        f" a difference of {headline.gain.text if headline.gain else '-'}."
    )


def _verdict_sentence(headline: Headline) -> str:
    gain, block = headline.gain, headline.block
    n_tasks = len(block.columns)
    if gain is None or (gain.points == 0 and not gain.has_interval):
        return "Nothing was gained and nothing lost."
    if gain.verdict == "open" and n_tasks > 1:
        n_test = sorted({int(n) for n in block.frame["n_test"]})
        images = " to ".join(f"{n:,}" for n in dict.fromkeys((n_test[0], n_test[-1])))
        return (
            f"The interval holds 0: over {n_tasks} tasks (each of {images} test images) whose gains"
            f" differ this much, a mean gain below {gain.half:.2f} points cannot be told from none."
        )
    if gain.verdict == "open":
        return "At the level of 5 % that cannot be told from no difference."
    if gain.verdict == "unknown":
        return "Whether that can be told from no difference is not known."
    limit = f"; that {_HINDSIGHT}" if headline.is_hindsight else ""
    if gain.has_interval:
        return f"The interval lies {gain.verdict} 0{limit}."
    return f"At the level of 5 % that can be told from no difference{limit}."


def _label_sentence(headline: Headline) -> str:
    worth = headline.label_gain
    found = worth or Difference(math.nan)
    twin = (
        "the best of the same label terms gains, chosen in the same way, when all are fitted"
        if headline.variant == BEST
        else "the same label term gains when it is fitted"
    )
    limit = f", but the interval {_HINDSIGHT}" if headline.is_hindsight else ""
    endings = {
        "above": f"labels help here{limit}",
        "below": f"the true labels do worse here than shuffled ones{limit}",
        "open": "that labels help is not shown here, nor that they do not",
        "unknown": "whether that can be told from 0 is not known",
    }
    return (
        f"What labels are worth is the gain minus what {twin} to shuffled labels: {found.text};"
        f" {endings[found.verdict]}."
    )


def _network_sentence(headline: Headline) -> str:
    network = headline.network or Difference(math.nan)
    gain = headline.gain.points if headline.gain else math.nan
    text = f"The finite CNN differs from CNTK by {network.text}"
    if network.verdict == "below":
        return f"{text}: there is no gap to close."
    if network.verdict != "above":
        return f"{text}: whether there is a gap to close is not shown."
    if gain > network.points:
        return f"{text}; what the label term gains exceeds that gap."
    if gain < 0:
        return f"{text}; the label term widens that gap."
    return f"{text}; the label term closes {100 * gain / network.points:.0f} % of that gap."
