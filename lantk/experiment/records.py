"""What a results folder should hold, and the results that it holds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantk.variant import Variant

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Listing:
    """What a results folder should hold; anything else in it is left over."""

    cases: tuple[str, ...]
    variants: tuple[str, ...]
    permutations: int
    """Label permutations of each shuffled control, numbered from 0."""
    seeds: tuple[int, ...]
    """Of the networks."""
    protocols: tuple[str, ...] = ("honest", "oracle")

    @property
    def stems(self) -> dict[str, tuple[str, int | None]]:
        """Stem -> variant as records name it, and its seed."""
        found: dict[str, tuple[str, int | None]] = {}
        for variant in self.variants:
            v = Variant.of(variant)
            seeds = v.numbers(self.permutations, self.seeds)
            found |= {v.stem(seed): (v.name, seed) for seed in seeds}
        return found

    def paths(self, results: Path) -> list[Path]:
        """Return the records of all cases, in the order of the table."""
        folder = results / "evaluations"
        return [folder / case / f"{stem}.json" for case in self.cases for stem in self.stems]


def read_record(path: Path, protocols: Collection[str] | None = None) -> dict[str, Any]:
    """Return a record, of the protocols that are asked for; of all without any.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError, AttributeError
        If it cannot be read, or is no record.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if protocols is not None:
        kept = {name: found for name, found in record["protocols"].items() if name in protocols}
        record["protocols"] = kept
    return record  # type: ignore[no-any-return]


def read_predictions(path: Path) -> pd.DataFrame:
    """Return the predictions beside a record, a column for each protocol that was evaluated."""
    import pandas as pd

    return pd.read_csv(path.with_suffix(".csv"))
