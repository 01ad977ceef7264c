"""Exact kernels of infinitely wide networks: `reference` (readable), `cpu` (compiled), `gram`."""
