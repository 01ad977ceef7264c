"""Label terms Z: regression estimates of the label product y y'.

The public names load their modules on first use: names of label terms are wanted without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lantk.label_terms.base import (
        LabelTerm,
        LabelTermError,
        image_vectors,
        label_product_factors,
    )
    from lantk.label_terms.registry import label_term

__all__ = ["LabelTerm", "LabelTermError", "image_vectors", "label_product_factors", "label_term"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "registry" if name == "label_term" else "base"
    return getattr(import_module(f"{__name__}.{home}"), name)
