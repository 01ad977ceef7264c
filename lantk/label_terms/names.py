"""Names of label terms: their controls, and those of the user's own.

A label term of the user's own is written ``module:Class`` and has a name made of its class, so that
it can stand in paths and tables.
"""

from __future__ import annotations

import re

from lantk.errors import LantkError

CONTROLS = ("shuffled", "diagonal", "offdiagonal")
"""Endings that make a control of a label term; ``offdiagonal`` is for ``lantk-fjlt-*`` only."""
OWN_TERM = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


class VariantError(LantkError):
    """A name that is no variant; the message lists those that are."""


def is_own_term(variant: str) -> bool:
    """Return whether a variant is a label term of the user's own, ``module:Class``."""
    return OWN_TERM.fullmatch(variant) is not None


def split_control(variant: str) -> tuple[str, str | None]:
    """Return the label term that a variant is a control of, and which; or itself and None.

    Examples
    --------
    >>> split_control("lantk-kr-v1-shuffled"), split_control("cntk-ridge")
    (('lantk-kr-v1', 'shuffled'), ('cntk-ridge', None))
    """
    parent, _, ending = variant.rpartition("-")
    return (parent, ending) if ending in CONTROLS else (variant, None)


def variant_name(variant: str) -> str:
    """Return the name of a variant in paths and tables: itself, but for the user's own.

    Examples
    --------
    >>> variant_name("cntk"), variant_name("my_terms:NearestMean-shuffled")
    ('cntk', 'lantk-nearest-mean-shuffled')
    """
    parent, control = split_control(variant)
    own = OWN_TERM.fullmatch(parent)
    if own is None:
        return variant
    words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", own[2])
    return "-".join(["lantk", *map(str.lower, words)] + ([control] if control else []))
