"""A variant's name, taken apart once: which kernel, after which epoch, which label term, control.

A label term of the user's own is written ``module:Class`` and has a name made of its class, so that
it can stand in paths and tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lantk.errors import LantkError

CONTROLS = ("shuffled", "diagonal", "offdiagonal")
"""Endings that make a control of a label term; ``offdiagonal`` is for ``lantk-fjlt-*`` only."""
KERNEL_TERMS = ("lantk-kr-v1", "lantk-kr-v2", "lantk-plugin")
"""Label terms that can stand on the kernel of a network: those that read no pixels."""
NETWORK_KERNELS = ("after-kernel", "conjugate-kernel")

_OWN_TERM = re.compile(
    r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<cls>[A-Za-z_]\w*)", re.ASCII
)
_NETWORK_KERNEL = re.compile(
    r"(?P<kernel>after-kernel(?:-(?P<layer>conv[1-9]\d{0,2}|dense))?|conjugate-kernel)"
    r"(?:-(?P<epoch>0|[1-9]\d{0,6}))?"
    rf"(?:\+(?P<term>{'|'.join(KERNEL_TERMS)}))?"
)


class VariantError(LantkError):
    """A name that is no variant; the message lists those that are."""


@dataclass(frozen=True)
class Variant:
    """What is compared, by its name in the configuration or in a table.

    Any text can be taken apart; `experiment.variants.family_of` raises where there is no such
    variant.

    Examples
    --------
    >>> v = Variant.of("after-kernel-conv3-10+lantk-kr-v1-shuffled")
    >>> v.kernel, v.layer, v.epoch, v.term, v.control
    ('after-kernel-conv3', 'conv3', 10, 'lantk-kr-v1', 'shuffled')
    >>> v = Variant.of("my_terms:NearestMean-diagonal")
    >>> v.name, v.parent, v.term, v.kernel
    ('lantk-nearest-mean-diagonal', 'my_terms:NearestMean', 'my_terms:NearestMean', 'cntk')
    """

    text: str
    """The name as it was written."""
    parent: str
    """What it is a control of; itself where it is none."""
    control: str | None
    """One of `CONTROLS`, or None."""
    kernel: str | None
    """``cntk``, or the kernel of a network in training; None for the network ``cnn``."""
    layer: str | None
    """The single layer whose part of the network's kernel it is, or None."""
    epoch: int | None
    """The epoch after which a network's kernel is read; None where none is named."""
    term: str | None
    """The label term, or None."""

    @classmethod
    def of(cls, text: str) -> Variant:
        """Take a name apart."""
        return _parse(text)

    @property
    def name(self) -> str:
        """The name in paths and tables: the text, but for a label term of the user's own."""
        own = _OWN_TERM.fullmatch(self.parent)
        if own is None:
            return self.text
        words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", own["cls"])
        return "-".join(
            ["lantk", *map(str.lower, words)] + ([self.control] if self.control else [])
        )

    @property
    def module(self) -> str | None:
        """The module of a label term of the user's own, or None."""
        own = _OWN_TERM.fullmatch(self.parent)
        return own["module"] if own else None

    @property
    def is_own_term(self) -> bool:
        """Whether it is a label term of the user's own, and no control of one."""
        return self.control is None and self.module is not None

    @property
    def is_shuffled(self) -> bool:
        """Whether its labels are shuffled."""
        return self.control == "shuffled"

    @property
    def is_network_kernel(self) -> bool:
        """Whether it is a kernel of a network in training."""
        return (self.kernel or "").startswith(NETWORK_KERNELS)

    @property
    def is_tap(self) -> bool:
        """Whether it is such a kernel at one epoch."""
        return self.epoch is not None

    @property
    def is_network(self) -> bool:
        """Whether it needs a network to be trained, one a seed."""
        return self.kernel is None or self.is_network_kernel

    @property
    def is_seeded(self) -> bool:
        """Whether it has one result a seed: networks, and shuffled labels."""
        return self.is_network or self.is_shuffled

    def numbers(self, permutations: int, seeds: Sequence[int]) -> Sequence[int | None]:
        """Return the seeds of its results: of networks, or of permutations; [None] without any."""
        if not self.is_seeded:
            return [None]
        return seeds if self.is_network else range(permutations)

    def stem(self, number: int | None) -> str:
        """Return the name, without ending, of the file that holds one of its results."""
        return self.name if number is None else f"{self.name}-seed{number}"

    def at(self, epoch: int) -> str:
        """Return the name of a network's kernel at an epoch."""
        term = f"+{self.term}" if self.term else ""
        control = f"-{self.control}" if self.control else ""
        return f"{self.kernel}-{epoch}{term}{control}"


@lru_cache(maxsize=4096)
def _parse(text: str) -> Variant:
    parent, _, control = text.rpartition("-")
    if control not in CONTROLS:
        parent, control = text, ""
    found = _NETWORK_KERNEL.fullmatch(parent)
    if found is not None:
        epoch = None if found["epoch"] is None else int(found["epoch"])
        parts = (found["kernel"], found["layer"], epoch, found["term"])
    else:
        is_term = parent.startswith("lantk-") or _OWN_TERM.fullmatch(parent) is not None
        parts = (None if parent == "cnn" else "cntk", None, None, parent if is_term else None)
    return Variant(text, parent, control or None, *parts)
