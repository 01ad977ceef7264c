"""Exact convolutional neural tangent kernels, and what labels add to them.

The public names load their modules on first use, so that a light import stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lantk.estimators.classifier import KernelClassifier
    from lantk.estimators.kernel import CNTK
    from lantk.estimators.model import load
    from lantk.estimators.regressor import KernelRegressor
    from lantk.kernel.gram import gram, gram_taps
    from lantk.kernel.grammar import parse_architecture
    from lantk.label_terms import image_vectors, label_term
    from lantk.regression.forecast import forecast

__version__ = "0.1.0"

_HOMES = {
    "CNTK": "lantk.estimators.kernel",
    "KernelClassifier": "lantk.estimators.classifier",
    "KernelRegressor": "lantk.estimators.regressor",
    "forecast": "lantk.regression.forecast",
    "parse_architecture": "lantk.kernel.grammar",
    "gram": "lantk.kernel.gram",
    "gram_taps": "lantk.kernel.gram",
    "image_vectors": "lantk.label_terms.base",
    "label_term": "lantk.label_terms.registry",
    "load": "lantk.estimators.model",
}
__all__ = [
    "CNTK",
    "KernelClassifier",
    "KernelRegressor",
    "__version__",
    "forecast",
    "gram",
    "gram_taps",
    "image_vectors",
    "label_term",
    "load",
    "parse_architecture",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lantk' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
