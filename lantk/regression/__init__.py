"""Kernel regression with K + lambda Z: paths, protocols, measures, statistics."""

LABEL_WEIGHTS = (0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3)
"""Label weights that validation chooses among, unless others are given."""
RIDGES = (*LABEL_WEIGHTS, 10, 30, 100)
"""Ridges that it chooses among."""
