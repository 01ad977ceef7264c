"""What a leaderboard says, in numbers and in sentences: gains, labels, network, and what is open.

Nothing here is chosen by looking at test images and then called honest: the variant that is spoken
of is the one that validation chose where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lantk.experiment.variants import BEST
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import Block, label_terms_of, row_name, shown_block
from lantk.report.claims import Estimate, compare, p_value_text, signed

_HINDSIGHT = "does not allow for the choice by test accuracy"


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
    gain: Estimate | None
    label_gain: Estimate | None
    network: Estimate | None

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


def main_block(table: pd.DataFrame, protocol: str) -> Block | None:
    """Return the block of which most can be said."""
    found = shown_block(table, protocol, _is_comparable)
    return shown_block(table, protocol) if found is None else found


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
        _known(compare(block, variant or "", "cntk")),
        _known(compare(block, variant or "", f"{variant}-shuffled")),
        _known(compare(block, "cnn", "cntk")),
    )


def _known(estimate: Estimate) -> Estimate | None:
    return estimate if estimate.is_known else None


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
    found = compare(block, headline.variant or "", "cntk")
    if not found.is_known or headline.gain is None:
        return []
    is_more = found.points > max(0, headline.gain.points)
    return [
        f"Under the paper's own protocol, which chooses on the test images, {headline.name}"
        f" differs from CNTK by {_long_text(found)}"
        + ("; part of that is the choice itself." if is_more else ".")
    ]


def _long_text(estimate: Estimate) -> str:
    points = f"{signed(estimate.points)} points"
    if estimate.has_interval:
        return f"{points} (95 % interval {estimate.interval_text})"
    if not math.isnan(estimate.p_value):
        return f"{points} (exact McNemar test: {p_value_text(estimate.p_value)})"
    return points


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
        f" a difference of {_long_text(headline.gain or Estimate())}."
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
    found = worth or Estimate()
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
        f"What labels are worth is the gain minus what {twin} to shuffled labels:"
        f" {_long_text(found)}; {endings[found.verdict]}."
    )


def _network_sentence(headline: Headline) -> str:
    network = headline.network or Estimate()
    gain = headline.gain.points if headline.gain else math.nan
    text = f"The finite CNN differs from CNTK by {_long_text(network)}"
    if network.verdict == "below":
        return f"{text}: there is no gap to close."
    if network.verdict != "above":
        return f"{text}: whether there is a gap to close is not shown."
    if gain > network.points:
        return f"{text}; what the label term gains exceeds that gap."
    if gain < 0:
        return f"{text}; the label term widens that gap."
    return f"{text}; the label term closes {100 * gain / network.points:.0f} % of that gap."
