"""What a leaderboard says, in numbers and in sentences: gains, labels, network, and what is open.

Nothing here is chosen by looking at test images and then called honest: the variant that is spoken
of is the one that validation chose where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lantk.statistics import PROTOCOLS, mean_with_interval
from lantk.tables import (
    ROWS,
    Block,
    gains_over_cntk,
    label_gain_with_interval,
    order_variants,
    p_value_text,
    signed,
)
from lantk.variants import BEST, PLAIN_VARIANTS, split_control


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies in points, with its 95 % interval where there is one."""

    points: float
    half: float = math.nan
    p_value: float = math.nan
    """Of the exact McNemar test, where the difference is of one task."""

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval that says something: not of differences that are all 0."""
        return not math.isnan(self.half) and (self.half > 0 or self.points != 0)

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
        elif math.isnan(self.half):
            return "unknown"
        else:
            is_open = abs(self.points) <= self.half
        return "open" if is_open else "above" if self.points > 0 else "below"


@dataclass(frozen=True)
class Headline:
    """What there is to say first, of the largest n and the first architecture."""

    protocol: str
    block: Block
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
        return self.variant != BEST and len(label_terms_of(self.block.variants)) > 1

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
        if variant not in (*PLAIN_VARIANTS, BEST) and split_control(variant)[1] is None
    ]


def main_block(table: pd.DataFrame, protocol: str) -> Block | None:
    """Return the results of the largest n of each task and the first architecture, or None."""
    frame = table[table["protocol"] == protocol]
    if frame.empty:
        return None
    frame = frame[frame["architecture"] == frame["architecture"].iloc[0]]
    frame = frame[frame["n_train"] == frame.groupby("task")["n_train"].transform("max")]
    variants = order_variants(frame["variant"].unique())
    return Block(frame.assign(column=frame["task"]), variants, list(frame["task"].unique()))


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
    return Difference(*mean_with_interval(gains))


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
    known = [v for v in label_terms_of(block.variants) if not math.isnan(accuracy[v])]
    variant = max(known, key=lambda v: accuracy[v], default=None)
    if not math.isnan(accuracy.get(BEST, math.nan)):
        variant = BEST
    return Headline(
        protocol,
        block,
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
    oracle = main_block(table, "oracle")
    found = gain_of(oracle, headline.variant) if oracle and headline.protocol == "honest" else None
    if found is not None:
        sentences.append(
            f"Under the paper's own protocol, which chooses on the test images, {headline.name}"
            f" gains {found.text}; part of that is the choice itself."
        )
    return [sentence for sentence in sentences if sentence]


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
        return ""
    limit = "; it does not allow for that pick" if headline.is_hindsight else ""
    return f"The interval lies {gain.verdict} 0{limit}." if gain.has_interval else ""


def _label_sentence(headline: Headline) -> str:
    worth = headline.label_gain
    found = worth or Difference(math.nan)
    text = (
        "What labels are worth is the gain minus what the same label term gains when it is fitted"
        f" to shuffled labels: {found.text}"
    )
    endings = {
        "above": "; labels help here.",
        "below": "; the true labels do worse here than shuffled ones.",
        "open": "; that labels help is not shown here, nor that they do not.",
        "unknown": ".",
    }
    return text + endings[found.verdict]


def _network_sentence(headline: Headline) -> str:
    network = headline.network or Difference(math.nan)
    if network.points > 0 and headline.gain is not None:
        share = 100 * headline.gain.points / network.points
        return (
            f"The finite CNN is {network.text} ahead of CNTK; the label term closes"
            f" {share:.0f} % of that gap."
        )
    return f"The finite CNN differs from CNTK by {network.text}: there is no gap to close."
