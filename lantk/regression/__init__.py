"""Kernel regression with K + lambda Z: paths, protocols, measures, statistics."""
