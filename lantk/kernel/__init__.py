"""Exact kernels of infinitely wide networks: `reference` reads well, the engines are compiled."""
