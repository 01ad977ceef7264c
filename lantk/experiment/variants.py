"""Variants of the study: families, choices, jobs; `lantk.variant` takes a name apart."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lantk.errors import shorten
from lantk.variant import (
    CONTROLS,
    KERNEL_TERMS,
    LABEL_FREE,
    NETWORKS,
    PLAIN_KERNELS,
    Variant,
    VariantError,
)

PUBLISHED_TERMS = ("lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2")
"""Label terms of Chen et al. (2020), among which ``lantk-best`` chooses."""
BEST = "lantk-best"
"""The best of them, derived for the table; no variant of its own."""
CHOSEN_KERNELS = ("after-kernel", "conjugate-kernel")
"""Kernels of a network in training with the epoch chosen among their taps, derived as well."""
LAP = "cntk-lap"
"""``cntk`` with the window of local average pooling chosen among architectures that differ in it
alone, derived as well; it stands in the case of the smallest window."""
DERIVED = (
    *(f"{name}{ending}" for name in (BEST, *CHOSEN_KERNELS) for ending in ("", "-shuffled")),
    LAP,
)
"""Variants that have rows in the table and no evaluation of their own."""
GAP_LEVELS = (
    "cntk",
    "cntk-ridge",
    f"{BEST}-shuffled",
    BEST,
    "after-kernel-0",
    "after-kernel-shuffled",
    "after-kernel",
    "cnn",
)
"""Variants on the way from CNTK to the CNN, in which the gap between them is taken apart."""
CASE_COLUMNS = ("task", "architecture", "n_train")
"""Columns of the table that name a case."""
TERMS = (*PUBLISHED_TERMS, "lantk-fjlt-v2-text", "lantk-plugin", "lantk-nth")
CNTK_FAMILY = ("cntk", "cntk-ridge", "cntk-intercept", "oracle-label")
FLIPS_FAMILY = ("cntk-flips", "cntk-flips-intercept")
PLAIN_VARIANTS = (*CNTK_FAMILY, *FLIPS_FAMILY, *LABEL_FREE[1:], *NETWORKS)
"""Variants that are neither label terms nor controls of one."""

PERMUTATIONS_A_JOB = 3
"""Label permutations that are evaluated in one job, where they share factors and features."""

NETWORK_FAMILY = "after-kernel"
"""The family of all kernels of a network in training, which are taken from one training."""
_CARRIERS = tuple(name for name in PLAIN_KERNELS if name != "cntk")
_NETWORK_KERNELS = (NETWORK_FAMILY, "after-kernel-LAYER", "conjugate-kernel")


def is_term(variant: str) -> bool:
    """Return whether a variant is a label term, of ours or of the user's own."""
    return variant in TERMS or Variant.of(variant).is_own_term


def has_label_weight(variant: str) -> bool:
    """Return whether a variant is a curve over label weights: it adds to K, and is no control."""
    v = Variant.of(variant)
    adds = v.addition not in (None, "cntk-ridge") and not v.is_network_kernel
    return adds and v.control is None


def at_taps(variants: Iterable[str], taps: Sequence[int]) -> list[str]:
    """Return the variants with those that name no epoch spelled out, one for each tap.

    Examples
    --------
    >>> at_taps(["cntk", "after-kernel-shuffled", "conjugate-kernel-3"], [0, 10])
    ['cntk', 'after-kernel-0-shuffled', 'after-kernel-10-shuffled', 'conjugate-kernel-3']
    """
    found = []
    for variant in variants:
        v = Variant.of(variant)
        is_bare = v.is_network_kernel and not v.is_tap
        found += [v.at(tap) for tap in taps] if is_bare else [variant]
    return list(dict.fromkeys(found))


def family_of(variant: str) -> str:
    """Return the family of a variant: what shares factors and features, so is one job.

    It is the first of `CNTK_FAMILY` and of `FLIPS_FAMILY` for those in it, the label term for a
    label term and its controls (with the kernel, where it names one, as in
    ``cntk-intercept+lantk-kr-v1``), ``after-kernel`` for all kernels of a network in training, and
    the variant itself for any other.

    Raises
    ------
    VariantError
        If there is no such variant.

    Examples
    --------
    >>> family_of("oracle-label"), family_of("lantk-fjlt-v1-offdiagonal")
    ('cntk', 'lantk-fjlt-v1')
    """
    v = Variant.of(variant)
    parent, control = v.parent, v.control
    for family in (CNTK_FAMILY, FLIPS_FAMILY):
        if variant in family:
            return family[0]
    if variant in PLAIN_VARIANTS:
        return variant
    if v.is_network_kernel and v.term in (None, *KERNEL_TERMS):
        if control not in (None, "shuffled"):
            raise VariantError(
                f"{shorten(variant)} is no variant: of networks' kernels there is -shuffled only"
            )
        return NETWORK_FAMILY
    if parent.startswith(("after-kernel", "conjugate-kernel")):
        raise VariantError(
            f"{shorten(variant)} is no variant: wanted after-kernel, after-kernel-LAYER with LAYER"
            " conv1, conv2 ... or dense (dense1, dense2 ... where there are several), or"
            " conjugate-kernel, then -EPOCH or nothing, then"
            f" +{', +'.join(KERNEL_TERMS)} or nothing, then -shuffled or nothing, such as"
            " after-kernel-10+lantk-kr-v1-shuffled"
        )
    kernel, plus, _ = parent.partition("+")
    if plus and kernel in LABEL_FREE:
        raise VariantError(
            f"{shorten(variant)} is no variant: {kernel} has a weight, and so has a label term, and"
            f" one is chosen at a time. Wanted {' or '.join(_CARRIERS)}, then + and a label term"
        )
    if not is_term(v.term or "") or parent == f"cntk+{v.term}":
        known = (*PLAIN_VARIANTS, *_NETWORK_KERNELS)
        close = difflib.get_close_matches(variant, (*known, *TERMS), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        if variant in DERIVED:
            hint = "the table has it by itself where there is something to choose from, so leave it"
            hint += " out. "
        raise VariantError(
            f"unknown variant {shorten(repr(variant))}: {hint}"
            + f"There are {', '.join(known)}, the label terms {', '.join(TERMS)} and module:Class"
            f" of your own, a label term on another kernel ({' or '.join(_CARRIERS)}, then + and"
            f" the term), and a label term with {', '.join(f'-{name}' for name in CONTROLS)}"
        )
    if v.is_off_diagonal and not (v.term or "").startswith("lantk-fjlt-"):
        raise VariantError(
            f"{shorten(variant)} is no variant: only lantk-fjlt-* are fitted entry by entry, so"
            " that the diagonal can be left out"
        )
    return parent


def families(variants: Iterable[str]) -> dict[str, list[str]]:
    """Return family -> its variants, both in the order in which they come.

    Raises
    ------
    VariantError
        If a variant is unknown.
    """
    found: dict[str, list[str]] = {}
    for variant in variants:
        found.setdefault(family_of(variant), []).append(variant)
    return found


def candidates(derived: str, variants: Iterable[str]) -> list[str]:
    """Return the variants among which a derived one is the best; none where one of them is missing.

    Their order does not depend on that of `variants`, and the first of equals is the best: ties go
    to the smaller label weight or ridge of a variant (`regression.protocols.choose_weight`), then
    to the earlier of `PUBLISHED_TERMS`, to the smaller epoch, or to the smaller window. There are
    none of `LAP` here: it is the best of several cases, which `window_of` tells apart.

    Examples
    --------
    >>> candidates("after-kernel", ["cntk", "after-kernel-10", "after-kernel-3", "cnn"])
    ['after-kernel-3', 'after-kernel-10']
    """
    best = Variant.of(derived)
    found = set(variants)
    if best.parent == BEST:
        ending = f"-{best.control}" if best.control else ""
        names = [f"{term}{ending}" for term in PUBLISHED_TERMS]
        # A best of fewer would be another choice.
        return names if set(names) <= found else []
    names = [
        name
        for name in found
        if (v := Variant.of(name)).is_tap
        and (v.kernel, v.term, v.control) == (best.parent, None, best.control)
    ]
    return sorted(names, key=lambda name: Variant.of(name).epoch or 0) if len(names) > 1 else []


def window_of(layers: Sequence[Any]) -> tuple[str, int]:
    """Return what an architecture is without local average pooling, as text, and its window.

    Local average pooling is an average pool of stride 1 right before ``flatten``; without any the
    window is 1.

    Parameters
    ----------
    layers : sequence
        Layers as records have them, defaults spelt out.

    Examples
    --------
    >>> window_of(["relu", {"average_pool": {"size": 3, "stride": 1}}, "flatten", "dense"])
    ('["relu", "flatten", "dense"]', 3)
    """
    rest, window = [*layers], 1
    if "flatten" in rest[1:]:
        place = rest.index("flatten") - 1
        match rest[place]:
            case {"average_pool": {"size": size, "stride": 1}}:
                window = size
                del rest[place]
    return json.dumps(rest, sort_keys=True), window


def own_file(variant: str) -> list[str]:
    """Return the file of the user's own label term, if it lies in the folder where jobs run.

    Parameters
    ----------
    variant : str
        Any variant; only ``module:Class`` has such a file.
    """
    module = Variant.of(variant).module
    file = Path(f"{module.replace('.', '/')}.py") if module else Path()
    return [str(file)] if file.is_file() else []


def first_of_job(number: int | None) -> int:
    """Return the first label permutation of the job that evaluates one; 0 without any.

    Examples
    --------
    >>> [first_of_job(number) for number in (None, 2, 3, 7)]
    [0, 0, 3, 6]
    """
    return 0 if number is None else number - number % PERMUTATIONS_A_JOB


def evaluation_job(family: str, first: int) -> str:
    """Return the name of the job that evaluates a family, from a label permutation on.

    Examples
    --------
    >>> evaluation_job("lantk-kr-v1", 0), evaluation_job("lantk-kr-v1", 3)
    ('lantk-kr-v1', 'lantk-kr-v1-from3')
    """
    return f"{family}-from{first}" if first else family


def job_of(variant: str, number: int | None) -> str:
    """Return the name of the job of one case that evaluates a variant with a seed, if it has any.

    Examples
    --------
    >>> job_of("cntk-ridge", None), job_of("lantk-kr-v1-shuffled", 4), job_of("cnn", 7)
    ('cntk', 'lantk-kr-v1-from3', 'cnn-seed7')
    """
    v, family = Variant.of(variant), Variant.of(family_of(variant)).name
    return (
        f"{family}-seed{number}" if v.is_network else evaluation_job(family, first_of_job(number))
    )


def case_key(record: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the values of `CASE_COLUMNS` in the rows that a record fills.

    An architecture without a name has the first eight digits of its digest.
    """
    architecture = record["architecture"]
    name = architecture.get("name") or architecture["digest"][:8]
    return record["task"], name, record["n_train"]
