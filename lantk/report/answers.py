"""What the measured differences say to the three questions that the project began with.

Every number and every verdict is computed from the results it is given; a sentence whose results
are missing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lantk.experiment.variants import BEST
from lantk.label_terms.names import split_control
from lantk.network.taps import layer_of, split_tap
from lantk.report.blocks import Block, taps_of
from lantk.report.claims import Estimate, compare

NO_RESULT = "(not run)"
EPOCHS = ("Epochs", "minus the untrained kernel", "minus its shuffled twin", "minus the CNN")
CAVEAT = (
    "Tasks share images where they share a class, and all of them share the seeds of networks and"
    " of label permutations, so they are not independent, and intervals over them are rather too"
    " narrow."
)


class Answer(NamedTuple):
    """What the measured differences say to one question."""

    question: str
    short: str
    """One sentence."""
    found: str
    """The numbers."""
    limits: str
    """What is established, and what is not."""
    command: str
    """What shows it in this project's own results."""
    rows: Sequence[Sequence[str]] = ()
    """A table with the header `EPOCHS`, or nothing."""


def answers(block: Block, large: Block | None = None) -> list[Answer]:
    """Return the answers to the three questions; none to what was chosen on test images.

    Parameters
    ----------
    block : Block
        Results with kernels of networks: what `network_block` returned.
    large : Block, optional
        Results of the exact kernels at a larger n.
    """
    if set(block.frame["protocol"]) != {"honest"}:
        return []
    return [_gap(block, large), _expressivity(block, large), _architecture(block)]


def place_of(block: Block) -> str:
    """Return what a block is of: architecture, n, number of tasks, protocol."""
    first = block.frame.iloc[0]
    tasks = f"{len(block.columns)} tasks" if len(block.columns) > 1 else block.columns[0]
    return f"{first['architecture']}, n = {_n_of(block):,}, {tasks}, {first['protocol']} protocol"


class _Claim(NamedTuple):
    """What a difference says on either side of 0, and what it leaves open."""

    difference: Estimate
    above: str
    below: str
    open: str


def _limits(
    place: str, claims: Sequence[_Claim], others: Sequence[str], beside: Sequence[str] = ()
) -> str:
    """Return what the claims and what is beside them establish, and what they and others do not."""
    shown, left = [*beside], []
    for claim in claims:
        verdict = claim.difference.verdict
        if verdict in ("above", "below"):
            shown.append(claim.above if verdict == "above" else claim.below)
        elif verdict == "open":
            left.append(claim.open)
    text = "Nothing is established."
    if shown:
        text = f"Established as far as 95 % intervals go ({place}): {'; '.join(shown)}."
    elif all(math.isnan(claim.difference.half) for claim in claims if claim.difference.is_known):
        # Nothing was run, or of one task.
        text = "Nothing is established, since there is no interval over several tasks."
    return f"{text} Not established: {'; '.join([*left, *others])}."


def _gap(block: Block, large: Block | None) -> Answer:
    gap = compare(block, "cnn", "cntk")
    left = compare(block, "cnn", "after-kernel")
    over = compare(block, "after-kernel", "cntk-ridge")
    whole = compare(block, "after-kernel", "after-kernel-0")
    labels = compare(block, "after-kernel", "after-kernel-shuffled")
    shuffled = compare(block, "after-kernel-shuffled", "after-kernel-0")
    found = []
    if gap.is_known:
        found.append(f"The CNN differs from CNTK by {gap.text} points.")
    if over.is_known or whole.is_known:
        chosen = "Ridge regression with the tangent kernel of the same network, after an epoch that"
        chosen += f" held-out train images chose ({_chosen_epochs(block)}), differs from "
        told = [f"CNTK with a ridge by {over.text}"] * over.is_known
        told += [f"the network's own kernel before training by {whole.text}"] * whole.is_known
        found.append(chosen + ", and from ".join(told) + ".")
    if shuffled.is_known and labels.is_known:
        found.append(
            f"Trained on shuffled labels, that kernel moves by {shuffled.text}, and the true labels"
            f" are worth {labels.text} beyond."
        )
    if left.is_known:
        found.append(f"From the chosen kernel to the CNN it is {left.text}.")
    sentences, rows, fixed = _at_fixed_epochs(block)
    found += sentences
    beside = []
    if fixed:
        beside.append(
            f"at epochs fixed beforehand ({', '.join(fixed)}) the kernel of a network trained on"
            " true labels is better than that of one trained on shuffled labels"
        )
    claims = [
        _Claim(
            whole,
            "the network's kernel gains from training",
            "the network's kernel loses by training",
            "that training makes the network's kernel better",
        ),
        _Claim(
            labels,
            "it takes the true labels for that",
            "shuffled labels do it better",
            "that it takes the true labels for that, once each of the two kernels has its own epoch"
            " and ridge chosen",
        ),
        _Claim(
            over,
            "the chosen kernel is better than CNTK",
            "the chosen kernel is worse than CNTK",
            "that the chosen kernel differs from CNTK",
        ),
        _Claim(
            left,
            "the network does what its chosen kernel does not",
            "the chosen kernel is better than the network itself",
            "that the network does anything that its chosen kernel does not",
        ),
    ]
    others = [
        "how much of the distance between CNTK and the untrained network's kernel is its width, and"
        " how much its biases and initialisation",
        "the same at a larger n or after longer training",
    ]
    if large is not None:
        sums = compare(large, "cntk-rbf", "cntk")
        ridge = compare(large, "cntk-ridge", "cntk")
        without = "" if "cnn" in large.variants else ", where no network was run"
        others[1] += f" (at n = {_n_of(large):,}{without}, a sum of two kernels without any label"
        others[1] += f" differs from CNTK by {sums.text}, a ridge by {ridge.text})"
    return Answer(
        "What explains the gap between kernel and network?",
        _gap_in_short(gap, whole, labels, left, fixed),
        " ".join(found) or "The variants that answer it were not run.",
        _limits(place_of(block), claims, others, beside),
        "`snakemake --cores 2 --configfile experiments/after-kernels.yaml`, figures"
        " `decomposition` and `training`",
        rows,
    )


def _gap_in_short(
    gap: Estimate,
    whole: Estimate,
    labels: Estimate,
    left: Estimate,
    fixed: Sequence[str],
) -> str:
    start = f"CNN minus CNTK is {gap.text} points. " if gap.is_known else ""
    if whole.is_known and whole.points == 0 and not whole.half > 0:
        return (
            f"{start}What was held out chose the untrained kernel everywhere: nothing to compare."
        )
    trained = {
        "above": "Training makes the network's own kernel better",
        "below": "Training makes the network's own kernel worse",
        "open": "It is not shown that training makes the network's own kernel better",
        "unknown": "How training moves the network's kernel was not run",
    }[whole.verdict]
    why = {
        "above": ", and it is the labels that do it",
        "below": ", and not by the labels",
        "open": "; that the labels do it is "
        + (f"shown at fixed epochs ({', '.join(fixed)}) and " if fixed else "")
        + "not shown once held-out images choose the epoch",
        "unknown": "",
    }[labels.verdict]
    rest = {
        "above": "; the network is better still",
        "below": "; it is then better than the network",
        "open": "; between the chosen kernel and the network no difference is shown",
        "unknown": "",
    }[left.verdict]
    return start + trained + why + rest + "."


def _at_fixed_epochs(block: Block) -> tuple[list[str], list[list[str]], list[str]]:
    """Return sentences on the kernels of single epochs, a row for each, and where labels help."""
    rows, falls, fixed = [], [], []
    for epoch, variant in taps_of(block, "after-kernel").items():
        others = ("after-kernel-0", f"{variant}-shuffled", "cnn")
        own, twin, left = (compare(block, variant, other) for other in others)
        if epoch > 0 and any(found.is_known for found in (own, twin, left)):
            rows.append(
                [
                    str(epoch),
                    *(found.text if found.is_known else NO_RESULT for found in (own, twin, left)),
                ]
            )
            if twin.verdict == "above":
                fixed.append(str(epoch))
            if compare(block, f"{variant}-shuffled", "after-kernel-0").verdict == "below":
                falls.append(str(epoch))
    if not rows:
        return [], [], []
    found = [
        "The table has the kernels of single epochs, which were fixed before the run; picking one"
        " of them is hindsight."
    ]
    if falls:
        found.append(
            f"After {', '.join(falls)} epochs the twin is worse than the untrained kernel: by so"
            " much the number beside it is no gain by labels."
        )
    return found, rows, fixed


def _n_of(block: Block) -> int:
    return int(block.frame["n_train"].max())


def _chosen_epochs(block: Block) -> str:
    epochs = block.values("epoch").loc["after-kernel"].dropna().astype(int)
    counts = epochs.value_counts().sort_index()
    tasks = [f"{count} task{'s' * (count > 1)}" for count in counts]
    told = ", ".join(f"{epoch} in {n}" for epoch, n in zip(counts.index, tasks, strict=True))
    return f"lowest seed: epoch {told}" if told else "not recorded"


def _expressivity(block: Block, large: Block | None) -> Answer:
    kernel = ("after-kernel", "after-kernel-shuffled")
    best = (BEST, f"{BEST}-shuffled")
    labels, here, there = (
        compare(where, *names) for where, names in ((block, kernel), (block, best), (large, best))
    )
    more = compare(block, *kernel, *best)
    found = []
    if labels.is_known:
        found.append(
            f"Where they make the kernel, by training, labels are worth {labels.text} points."
        )
    if here.is_known:
        found.append(
            f"Where they are added to it, in the best of the published Z, {here.text}"
            f" (`{BEST}` itself differs from CNTK by {compare(block, BEST, 'cntk').text})."
        )
    if more.is_known:
        found.append(f"The one minus the other is {more.text}.")
    if there.is_known and large is not None:
        found.append(f"At n = {_n_of(large):,} labels are worth {there.text} in Z.")
    where = block if large is None else large
    plugin = compare(where, "lantk-plugin", "cntk")
    if plugin.is_known:
        found.append(
            "The rank-one Z of the Bayes view, `lantk-plugin`, differs from CNTK by"
            f" {plugin.text} at n = {_n_of(where):,}."
        )
    found += _ratios(block)
    short = {
        "above": "The same labels are worth more in training than in Z: the form of Z is a limit.",
        "below": "The same labels are worth more in Z than in training.",
        "open": "That the same labels are worth more in another form than in Z is not shown.",
        "unknown": "The two forms in which labels can enter were not both run.",
    }[more.verdict]
    claims = [
        _Claim(
            labels,
            "the chosen kernel of true labels is better than the chosen one of shuffled labels",
            "the chosen kernel of true labels is worse than the chosen one of shuffled labels",
            "that labels are worth anything where they make the kernel and its epoch is chosen",
        ),
        _Claim(
            here,
            "the best Z of true labels is better than the best Z of shuffled labels",
            "the best Z of true labels is worse than the best Z of shuffled labels",
            "that labels are worth anything in Z",
        ),
        _Claim(
            more,
            "labels are worth more in training than in Z",
            "labels are worth more in Z than in training",
            "which of the two is more",
        ),
    ]
    others = []
    if there.verdict == "open" and large is not None:
        others.append(f"that labels are worth anything in Z at n = {_n_of(large):,}")
    return Answer(
        "Is the expressivity of Z the limit?",
        short,
        " ".join(found) or "The variants that answer it were not run.",
        _limits(place_of(block), claims, [*others, "that no other Z does better"])
        + " A twin chooses its own epoch, ridge and label weight, as its parent does.",
        "the same, and `experiments/chen2020.yaml` for n = 10,000",
    )


def _ratios(block: Block) -> list[str]:
    """Return the relative ratios of a few kernels as a sentence, over the tasks that have one."""
    test, train = (100 * block.values(f"relative_ratio_{rows}") for rows in ("test", "train"))
    told = []
    for name in ("cntk-ridge", BEST, "after-kernel"):
        if name in block.variants and (n_known := int(test.loc[name].notna().sum())):
            n = len(block.columns)
            where = f" (in {n_known} of {n} tasks; elsewhere its diagonal is not positive)"
            where = "" if n_known == n else where
            told.append(f"{name} {train.loc[name].mean():.2f} / {test.loc[name].mean():.2f}{where}")
    if not told:
        return []
    return [f"Relative ratios in percent, train-train / test-train: {', '.join(told)}."]


def _architecture(block: Block) -> Answer:
    gain = compare(block, "lantk-nth", "cntk")
    labels = compare(block, "lantk-nth", "lantk-nth-shuffled")
    found = []
    if gain.is_known:
        text = "Added to CNTK, the label part of the hierarchy of the 2-layer network, `lantk-nth`,"
        text += f" differs from CNTK by {gain.text} points"
        text += f" and from itself with shuffled labels by {labels.text}" * labels.is_known
        found.append(f"{text}.")
    layers = _layers(block)
    accuracy = 100 * block.values("accuracy")
    rows = [(name, accuracy.loc[variant].mean(skipna=False)) for name, variant in layers.items()]
    told = ", ".join(f"{name} {value:.2f}" for name, value in rows if not math.isnan(value))
    if told:
        epoch = next(iter(layers.values())).rpartition("-")[2]
        whole = f"after-kernel-{epoch}"
        if whole in accuracy.index and accuracy.loc[whole].notna().all():
            together = f", all layers together {accuracy.loc[whole].mean():.2f}"
        else:
            together = ""
        found.append(
            f"Layer by layer, the network's kernel after {epoch} epochs reaches (mean accuracy in"
            f" percent{together}): {told}."
        )
        best = max(rows, key=lambda row: -math.inf if math.isnan(row[1]) else row[1])[0]
        over = compare(block, layers[best], "cntk")
        if over.is_known:
            found.append(
                f"The best of them, {best}, differs from CNTK by {over.text}; it is named with"
                " hindsight."
            )
    short = {
        "above": "The tangent hierarchy gives one for the 2-layer network, and labels help in it.",
        "below": "The tangent hierarchy gives one for the 2-layer network; labels do harm in it.",
        "open": "The tangent hierarchy gives one for the 2-layer network; that labels help in it is"
        " not shown.",
        "unknown": "The tangent hierarchy gives one for the 2-layer network, `lantk-nth`; what"
        " labels are worth in it was not run.",
    }[labels.verdict]
    claims = [
        _Claim(
            gain,
            "`lantk-nth` gains over CNTK",
            "`lantk-nth` loses against CNTK",
            "that `lantk-nth` gains over CNTK",
        ),
        _Claim(
            labels,
            "labels help in it",
            "labels do harm in it",
            "that labels help in it",
        ),
    ]
    others = [
        "the label part of a convolutional architecture, of which the whole change of the"
        " kernel by training is measured instead"
    ]
    return Answer(
        "Does a label term follow from the architecture?",
        short,
        " ".join(found) or "The variants that answer it were not run.",
        _limits(place_of(block), claims, others) + " The formula is held to brute force by a test.",
        "`python -m pytest tests/label_terms/test_nth.py`, and the preset above",
    )


def _layers(block: Block) -> dict[str, str]:
    """Return layer -> variant, of the last epoch at which there are single layers."""
    found: dict[int, dict[str, str]] = {}
    for variant in block.variants:
        layer = layer_of(variant)
        if layer is not None and split_control(variant)[1] is None:
            _, epoch, term = split_tap(variant)
            if term is None:
                found.setdefault(epoch, {})[layer] = variant
    return found[max(found)] if found else {}
