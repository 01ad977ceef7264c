"""Label terms Z: regression estimates of the label product y y'."""

from lantk.label_terms.base import (
    LabelTerm,
    LabelTermError,
    image_vectors,
    label_product_factors,
)
from lantk.label_terms.registry import label_term

__all__ = ["LabelTerm", "LabelTermError", "image_vectors", "label_product_factors", "label_term"]
