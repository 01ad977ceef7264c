"""Names of the kernels of a network in training: of what, after which epoch, with what on top."""

from __future__ import annotations

import re

from lantk.label_terms.names import VariantError, split_control

KERNEL_TERMS = ("lantk-kr-v1", "lantk-kr-v2", "lantk-plugin")
"""Label terms that can stand on the kernel of a network: those that read no pixels."""
TAPPED = re.compile(
    r"(?P<kernel>after-kernel(?:-(?:conv[1-9]\d{0,2}|dense))?|conjugate-kernel)"
    r"(?:-(?P<epoch>0|[1-9]\d{0,6}))?"
    rf"(?:\+(?P<term>{'|'.join(KERNEL_TERMS)}))?"
)


def split_tap(variant: str) -> tuple[str, int, str | None]:
    """Return the kernel of a network in training, its epoch, and the label term on top of it.

    Raises
    ------
    VariantError
        If it is another variant, or names no epoch.

    Examples
    --------
    >>> split_tap("after-kernel-conv3-10"), split_tap("after-kernel-0+lantk-kr-v1")
    (('after-kernel-conv3', 10, None), ('after-kernel', 0, 'lantk-kr-v1'))
    """
    found = TAPPED.fullmatch(variant)
    if found is None or found["epoch"] is None:
        raise VariantError(f"{variant!r} is no kernel of a network in training at an epoch")
    return found["kernel"], int(found["epoch"]), found["term"]


def layer_of(variant: str) -> str | None:
    """Return the layer whose part of the network's kernel a variant is; None if of no single one.

    Examples
    --------
    >>> layer_of("after-kernel-conv3-10-shuffled"), layer_of("after-kernel-10")
    ('conv3', None)
    """
    found = TAPPED.fullmatch(split_control(variant)[0])
    if found is None or not found["kernel"].startswith("after-kernel-"):
        return None
    return found["kernel"].removeprefix("after-kernel-")
