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

CONTROLS = ("shuffled", "diagonal", "offdiagonal", "offdiagonal-shuffled")
"""Endings that make a control of a label term; ``offdiagonal`` is for ``lantk-fjlt-*`` only, and
``offdiagonal-shuffled`` is its shuffled twin."""
KERNEL_TERMS = ("lantk-kr-v1", "lantk-kr-v2", "lantk-plugin")
"""Label terms that can stand on the kernel of a network: those that read no pixels."""
NETWORKS = ("cnn", "cnn-flips")
"""Finite networks; ``cnn-flips`` sees its train images flipped at random."""
NETWORK_KERNELS = ("after-kernel", "conjugate-kernel")
PLAIN_KERNELS = ("cntk", "cntk-intercept", "cntk-flips", "cntk-flips-intercept")
"""Exact kernels by themselves, with no addition that has a weight."""
LABEL_FREE = ("cntk-ridge", "cntk-rbf", "cntk-laplacian")
"""What is added to the kernel, with a weight, and sees no label."""

_OWN_TERM = re.compile(
    r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<cls>[A-Za-z_]\w*)", re.ASCII
)
_CONTROL = re.compile(rf"(?P<parent>.*?)-(?P<control>{'|'.join(sorted(CONTROLS))})")
_NAME = re.compile(
    r"(?:(?P<exact>cntk(?:-flips)?)(?P<intercept>-intercept)?"
    r"|(?P<network>after-kernel(?:-(?P<layer>conv[1-9]\d{0,2}|dense(?:[1-9]\d{0,2})?))?"
    r"|conjugate-kernel)"
    r"(?:-(?P<epoch>0|[1-9]\d{0,6}))?)"
    r"(?:\+(?P<term>.+))?"
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
    >>> Variant.of("after-kernel-dense2-10").layer
    'dense2'
    >>> v = Variant.of("cntk-intercept+lantk-fjlt-v1-offdiagonal-shuffled")
    >>> v.kernel, v.has_intercept, v.base, v.term, v.control
    ('cntk', True, 'cntk-intercept', 'lantk-fjlt-v1', 'offdiagonal-shuffled')
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
    """``cntk``, ``cntk-flips``, or the kernel of a network in training; None for `NETWORKS`."""
    layer: str | None
    """The single layer whose part of the network's kernel it is, or None."""
    epoch: int | None
    """The epoch after which a network's kernel is read; None where none is named."""
    term: str | None
    """The label term, or None."""
    has_intercept: bool = False
    """Whether an unpenalised constant is fitted beside the kernel."""

    @classmethod
    def of(cls, text: str) -> Variant:
        """Take a name apart."""
        return _parse(text)

    @property
    def name(self) -> str:
        """The name in paths and tables: the text, but for a label term of the user's own."""
        own = _OWN_TERM.fullmatch(self.term or "")
        if own is None:
            return self.text
        words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", own["cls"])
        named = "-".join(["lantk", *map(str.lower, words)])
        return self.text.replace(own[0], named)

    @property
    def module(self) -> str | None:
        """The module of a label term of the user's own, or None."""
        own = _OWN_TERM.fullmatch(self.term or "")
        return own["module"] if own else None

    @property
    def is_own_term(self) -> bool:
        """Whether it is a label term of the user's own, with no control or kernel beside it."""
        return self.module is not None and self.text == self.term

    @property
    def base(self) -> str:
        """The kernel, with its constant, that a label term or control of one stands on."""
        return f"{self.kernel or 'cntk'}{'-intercept' * self.has_intercept}"

    @property
    def addition(self) -> str | None:
        """What is added to the kernel, as `label_terms.registry` names it, or None."""
        return self.term or (self.parent if self.parent in LABEL_FREE else None)

    @property
    def has_flips(self) -> bool:
        """Whether its kernel is the mean over images and their mirror images."""
        return self.kernel == "cntk-flips"

    @property
    def gram_ending(self) -> str:
        """How the folders of its Gram matrices, and of their logs and times, end."""
        return "-flips" if self.has_flips else ""

    @property
    def is_off_diagonal(self) -> bool:
        """Whether its term is fitted without the diagonal."""
        return (self.control or "").startswith("offdiagonal")

    @property
    def is_shuffled(self) -> bool:
        """Whether its labels are shuffled."""
        return (self.control or "").endswith("shuffled")

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

    @property
    def makes_model(self) -> bool:
        """Whether its fit can be kept as a model: an exact kernel, with true labels."""
        is_exact = self.kernel in ("cntk", "cntk-flips") and self.text != "oracle-label"
        return is_exact and self.control is None

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
    ending = _CONTROL.fullmatch(text)
    parent, control = ending.group("parent", "control") if ending else (text, None)
    found = _NAME.fullmatch(parent)
    if found is not None:
        epoch = None if found["epoch"] is None else int(found["epoch"])
        kernel = found["exact"] or found["network"]
        has_intercept = found["intercept"] is not None
        return Variant(
            text, parent, control, kernel, found["layer"], epoch, found["term"], has_intercept
        )
    is_term = parent.startswith("lantk-") or _OWN_TERM.fullmatch(parent) is not None
    kernel = None if parent in NETWORKS else "cntk"
    return Variant(text, parent, control, kernel, None, None, parent if is_term else None)
