"""The golden kernels of tests/golden, case by case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


class GoldenCase(NamedTuple):
    """An architecture, images and both of their kernels."""

    layers: list[Any]
    images: np.ndarray
    """(n, 3, height, width), floats in [-1, 1]."""
    ntk: np.ndarray
    nngp: np.ndarray


def read_cases(name: str) -> dict[str, GoldenCase]:
    """Return the cases of a file by name: ``kernels`` or ``layers``."""
    architectures = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as values:
        return {
            case: GoldenCase(
                layers,
                values[f"{case}/images"] / 127.5 - 1,
                values[f"{case}/ntk"],
                values[f"{case}/nngp"],
            )
            for case, layers in architectures.items()
        }


def off_diagonal(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference off the diagonal, in parts of the largest value."""
    off = ~np.eye(len(wanted), dtype=bool)
    return float(np.abs(found - wanted)[off].max() / np.abs(wanted).max())
