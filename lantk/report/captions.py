"""Captions of the figures and their text alternatives: what there is to see, from the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lantk.experiment.variants import BEST, GAP_LEVELS, is_tap
from lantk.label_terms.names import split_control
from lantk.regression.statistics import PROTOCOLS, mean_with_interval
from lantk.report.blocks import Block, label_terms_of, network_block, order_variants, row_name
from lantk.report.claims import Estimate, compare, signed, with_half_width
from lantk.report.decomposition import decompose
from lantk.report.findings import find_headline


@dataclass(frozen=True)
class Caption:
    """What stands below a figure, and what is read out in its place."""

    title: str
    text: str
    alternative: str


def gap_caption(table: pd.DataFrame) -> Caption:
    """Return what the figure of gains shows."""
    headline = find_headline(table)
    block, protocol = headline.block, headline.protocol
    shown = {v: compare(block, v, "cntk") for v in _compared(block)}
    gains = {variant: gain for variant, gain in shown.items() if gain.is_known}
    parts = ["Black dots right of the line gain over CNTK."]
    if any(split_control(v)[1] == "shuffled" for v in block.variants):
        parts.append(
            "A white dot is the same label term fitted to shuffled labels, and the grey bar between"
            " them is what labels are worth."
        )
    under = f"under the {protocol} protocol"
    # There may be a panel for each n or architecture: numbers are of one.
    under = f"{headline.place}, {under}" if headline.place else under
    under = under[0].upper() + under[1:]
    if gains:
        parts.append(f"{under} {_top_text(gains, block)}; {_outside_text(gains)}.")
    if headline.network is not None:
        parts.append(_network_text(headline.network, headline.place))
    told = "; ".join(f"{row_name(v)} {_long_text(gain)}" for v, gain in gains.items())
    return Caption(
        "What each variant gains over CNTK",
        " ".join(parts),
        f"Dots of gains over CNTK, one row a variant. {under}: {told or 'none'}.",
    )


def _long_text(estimate: Estimate) -> str:
    if estimate.has_interval:
        return f"{signed(estimate.points)} points (95 % interval {estimate.interval_text})"
    return f"{signed(estimate.points)} points"


def _top_text(gains: Mapping[str, Estimate], block: Block) -> str:
    """Return the largest gain, or of label terms the best difference where nothing gains."""
    mean = "mean " if block.has_several_tasks else ""
    top = max(gains, key=lambda variant: gains[variant].points)
    start = f"the largest {mean}gain is"
    if gains[top].points <= 0:
        terms = [v for v in gains if v == BEST or v in label_terms_of(gains)]
        top = max(terms or gains, key=lambda variant: gains[variant].points)
        start = f"{'no label term' if terms else 'nothing'} gains: the best {mean}difference is"
    return f"{start} {signed(gains[top].points)} points ({row_name(top)})"


def _network_text(network: Estimate, place: str) -> str:
    who = "There the CNN" if place else "The CNN"
    if network.points == 0:
        return f"{who} and CNTK are level."
    where = "ahead of" if network.points > 0 else "behind"
    return f"{who} is {abs(network.points):.2f} points {where} CNTK."


def _compared(block: Block) -> list[str]:
    return [
        v
        for v in block.variants
        if v not in ("cntk", "cnn", "oracle-label")
        and split_control(v)[1] is None
        and not is_tap(v)
    ]


def _outside_text(gains: Mapping[str, Estimate]) -> str:
    """Return how many gains can be told from none, and which."""
    found = [v for v, gain in gains.items() if gain.verdict in ("above", "below")]
    if not found:
        return "none can be told from 0"
    names = _listed(row_name(v) for v in found)
    return f"{len(found)} of {len(gains)} can be told from 0 ({names})"


def weight_caption(records: Sequence[Mapping[str, Any]]) -> Caption:
    """Return what the figure of accuracy against label weight of one case shows."""
    case = str(records[0]["case"])
    terms = {r["variant"]: r for r in records if _has_weights(r)}
    chosen = {
        v: (record["protocols"].get("honest") or {}).get("label_weight")
        for v, record in terms.items()
    }
    known = {v: weight for v, weight in chosen.items() if weight is not None}
    known_terms = label_terms_of(known)
    zero = [v for v in known_terms if known[v] == 0]
    parts = ["Left is what the honest choice sees, right what choices get."]
    if any(split_control(r["variant"])[1] == "shuffled" for r in records):
        parts.append("Labels make a difference only where a curve leaves its dashed shuffled twin.")
    if zero and not any(known.values()):
        parts.append("Validation chooses weight 0 for every label term: nothing is added to CNTK.")
    elif any(known.values()):
        told = _listed(
            f"{row_name(v)} at r = {weight:g} with {_percent(terms[v], 'honest')} % on test"
            for v, weight in known.items()
            if weight
        )
        rest = f"; {len(zero)} of {len(known_terms)} label terms stay at 0" if zero else ""
        parts.append(f"Validation (circles) adds {told}{rest}.")
    best = _best_point(terms)
    if best:
        parts.append(best)
    plain = next((r for r in records if r["variant"] == "cntk"), None)
    told = "; ".join(_choices_text(record) for record in terms.values())
    start = f"CNTK reaches {_percent(plain, _any_protocol(plain))} % on test. " if plain else ""
    return Caption(
        f"Accuracy against label weight: {case}",
        " ".join(parts),
        f"Curves of validation and of test accuracy against label weight for {case}."
        f" {start}Chosen: {told or 'nothing'}.",
    )


def _has_weights(record: Mapping[str, Any]) -> bool:
    variant = record["variant"]
    return variant == "cntk-rbf" or variant in label_terms_of([variant])


def _any_protocol(record: Mapping[str, Any]) -> str:
    return next(protocol for protocol in PROTOCOLS if protocol in record["protocols"])


def _percent(record: Mapping[str, Any], protocol: str) -> str:
    return f"{100 * record['protocols'][protocol]['accuracy']:.2f}"


def _choices_text(record: Mapping[str, Any]) -> str:
    told = [
        f"{protocol} r = {choice['label_weight']:g} with {100 * choice['accuracy']:.2f} %"
        for protocol, choice in record["protocols"].items()
        if choice.get("label_weight") is not None
    ]
    return f"{row_name(record['variant'])}, {', '.join(told)}"


def _best_point(terms: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the highest point of a label term on the right, and who finds it."""
    points = [
        (point["test_accuracy"], variant, point["label_weight"])
        for variant, record in terms.items()
        for point in record["curve"]
        if point.get("test_accuracy") is not None
    ]
    if not points:
        return ""
    top = max(points)[0]
    highest = [point for point in points if point[0] == top]
    if any(weight == 0 for *_, weight in highest):
        return "No point of a solid curve on the right is higher than CNTK alone, at weight 0."
    chosen = [
        (accuracy, variant, weight)
        for accuracy, variant, weight in highest
        if (terms[variant]["protocols"].get("honest") or {}).get("label_weight") == weight
    ]
    accuracy, variant, weight = (chosen or highest)[0]
    who = "what validation chose" if chosen else "known only with hindsight"
    return (
        f"The highest point of a solid curve on the right, {100 * accuracy:.2f} % of"
        f" {row_name(variant)} at r = {weight:g}, is {who}."
    )


def decomposition_caption(table: pd.DataFrame) -> Caption:
    """Return what the figure of the steps from CNTK to the CNN shows."""
    block = network_block(table)
    steps = None if block is None else decompose(block)
    told = ""
    if steps is not None:
        means = [(title, mean_with_interval(values)) for title, values in steps.iterrows()]
        told = "; ".join(f"{title} {with_half_width(*mean)}" for title, mean in means)
    text = (
        f"From CNTK (diamond) to the CNN (star), through {', '.join(GAP_LEVELS[1:-1])}. Colours are"
        " what labels do: in Z beside a kernel that never saw one, and in training, which makes the"
        " kernel of them. Circles are the after-kernels of single epochs, one of which validation"
        " chooses. A step whose interval holds 0 cannot be told from none."
    )
    return Caption(
        "The gap between CNTK and the CNN, in steps",
        text,
        f"Bars that lead from CNTK to the CNN. In points, means over the tasks: {told or 'none'}.",
    )


def training_caption(table: pd.DataFrame) -> Caption:
    """Return what the figure of kernels along training shows."""
    block = network_block(table)
    told = []
    for variant in block.variants if block is not None else ():
        if is_tap(variant) and block is not None:
            mean = 100 * block.values("accuracy").loc[variant].mean(skipna=False)
            told.append(f"{row_name(variant)} {mean:.2f} %")
    return Caption(
        "The network's kernels along its training",
        "Left is what ridge regression with the kernel of the network after an epoch reaches,"
        " right how much nearer it puts test images to train images of their class (50 tells no"
        " classes apart). Open marks are networks trained on shuffled labels: what a curve gains"
        " beyond them, labels have taught it.",
        f"Curves of test accuracy and of the relative ratio against the epoch: {'; '.join(told)}.",
    )


def alignment_caption(records: Iterable[Mapping[str, Any]]) -> Caption:
    """Return what the figure of kernel-target alignment shows."""
    found = [
        (r["case"], r["variant"], r["diagnostics"]["alignment_k"], r["diagnostics"]["alignment_z"])
        for r in records
        if _has_weights(r)
        and {"alignment_k", "alignment_z"} <= {k for k, v in r["diagnostics"].items() if v}
    ]
    text = (
        "How well a matrix agrees with the products of labels; 1 is full agreement. Z was fitted to"
        " these very images, so squares right of the dashed line prove nothing about test images;"
        " how far a dot leaves the line is what the chosen weight adds of Z."
    )
    of_terms = [row for row in found if label_terms_of([row[1]])]
    if of_terms:
        higher = sum(z > k for *_, k, z in of_terms)
        text += f" Z is better aligned than K in {higher} of {len(of_terms)} cases and label terms"
        top = max(of_terms, key=lambda row: row[3])
        text += f", at most {top[3]:.2f} ({row_name(top[1])}, {top[0]}) against {top[2]:.2f}."
    by_case: dict[str, list[str]] = {}
    for case, variant, k, z in found:
        by_case.setdefault(f"{case} (K {k:.2f})", []).append(f"{row_name(variant)} {z:.2f}")
    told = "; ".join(f"{case}: {', '.join(values)}" for case, values in by_case.items())
    return Caption(
        "Kernel-target alignment on the train images",
        text,
        f"Alignment of Z, label term by label term. {told}.",
    )


def growth_caption(exponents: pd.DataFrame) -> Caption:
    """Return what the figure of error against n shows."""
    protocol = exponents["protocol"].iloc[0]
    shown = exponents[exponents["protocol"] == protocol]
    shown = shown[shown["architecture"] == shown["architecture"].iloc[0]]
    # A task lacks a slope where an error is 0, or a result is missing: then there is no mean.
    by_task = shown.pivot(index="variant", columns="task", values="slope")
    slopes = by_task.mean(axis="columns", skipna=False).dropna()
    names = [v for v in order_variants(slopes.index) if v in ("cntk", "cnn", *_terms(slopes))]
    told = "; ".join(f"{row_name(v)} {signed(slopes[v], 3)}" for v in names)
    text = (
        "On log axes a straight line is a power law: the steeper, the more each further image"
        " helps. In the lower panels, what lies below 0 makes fewer errors than CNTK."
    )
    if "cntk" in slopes:
        how = "falls" if slopes["cntk"] < 0 else "changes"
        text += f" Under the {protocol} protocol CNTK's error {how} with exponent"
        text += f" {signed(slopes['cntk'], 3)}"
        steepest = min(names, key=lambda v: slopes[v])
        if steepest != "cntk" and slopes[steepest] < 0:
            text += f"; the steepest is {row_name(steepest)} with {signed(slopes[steepest], 3)}"
        text += "."
    return Caption(
        "Error against the number of train images",
        text,
        f"Test error against n on log axes. Mean slopes, {protocol}: {told or 'none'}.",
    )


def _terms(slopes: pd.Series) -> list[str]:
    return label_terms_of(map(str, slopes.index))


def heat_map_caption(case: str, variant: str, record: Mapping[str, Any] | None) -> Caption:
    """Return what the heat maps of K, Z and their sum show."""
    text = (
        "Images are sorted by class, so squares on the diagonal are pairs of one class. The more"
        " the squares stand out from the rest, the more a matrix knows of the classes."
    )
    told = ""
    known = (record or {}).get("diagnostics") or {}
    if known.get("sign_agreement") is not None:
        told += f" Z has the sign of the label product in {100 * known['sign_agreement']:.0f} % of"
        told += " the entries."
    if known.get("alignment_k") is not None and known.get("alignment_z") is not None:
        told += f" Its alignment with the labels is {known['alignment_z']:.2f}, K's"
        told += f" {known['alignment_k']:.2f}."
    name = row_name(variant)
    return Caption(
        f"K, Z and K + λZ: {case}, {name}",
        text + told,
        f"Three heat maps for {case}, {name}: the kernel, the label term, and both.{told}",
    )


def _listed(words: Iterable[str]) -> str:
    """Return words as a list in a sentence."""
    found = list(words)
    if len(found) < 2:
        return "".join(found)
    return f"{', '.join(found[:-1])} and {found[-1]}"
