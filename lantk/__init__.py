"""Exact convolutional neural tangent kernels, and what labels add to them.

The public names load their modules on first use, so that a light import stays light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "parse_architecture": "lantk.kernel.architecture",
    "gram": "lantk.kernel.gram",
    "gram_taps": "lantk.kernel.gram",
    "label_term": "lantk.label_terms.registry",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lantk' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
