"""What a results folder should hold, and the results that it holds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lantk.experiment.settings import PROTOCOLS
from lantk.experiment.variants import job_of
from lantk.files import write_json, writing
from lantk.variant import Variant

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Listing:
    """What a results folder should hold; anything else in it is left over."""

    cases: tuple[str, ...]
    variants: tuple[str, ...]
    permutations: int = 3
    """Label permutations of each shuffled control, numbered from 0."""
    seeds: tuple[int, ...] = (0,)
    """Of the networks."""
    protocols: tuple[str, ...] = PROTOCOLS

    @property
    def stems(self) -> dict[str, tuple[str, int | None]]:
        """Stem -> variant as records name it, and its seed."""
        found: dict[str, tuple[str, int | None]] = {}
        for variant in self.variants:
            v = Variant.of(variant)
            seeds = v.numbers(self.permutations, self.seeds)
            found |= {v.stem(seed): (v.name, seed) for seed in seeds}
        return found

    @property
    def jobs(self) -> dict[str, list[str]]:
        """Job of a case that evaluates -> the stems that it writes."""
        found: dict[str, list[str]] = {}
        for variant in self.variants:
            v = Variant.of(variant)
            for number in v.numbers(self.permutations, self.seeds):
                found.setdefault(job_of(variant, number), []).append(v.stem(number))
        return found

    def to_options(self) -> list[str]:
        """Return it as options of the verbs that read results."""
        found: list[str] = []
        for name, value in vars(self).items():
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
        return found

    def paths(self, results: Path) -> list[Path]:
        """Return the records of all cases, in the order of the table."""
        folder = results / "evaluations"
        return [folder / case / f"{stem}.json" for case in self.cases for stem in self.stems]


MARK = "{results}/evaluations/{case}/protocols/{job}.{protocol}"
"""Empty file, for each protocol that a job evaluated."""


def mark_protocols(results: Path, listing: Listing) -> None:
    """Make the marks of the protocols that all results of a job hold, where there are none.

    So results of version 0.1.0, which has no marks, can be taken over.
    """
    for case, (job, stems) in itertools.product(listing.cases, listing.jobs.items()):
        paths = [results / "evaluations" / case / f"{stem}.json" for stem in stems]
        marks = {
            name: Path(MARK.format(results=results, case=case, job=job, protocol=name))
            for name in PROTOCOLS
        }
        if any(mark.exists() for mark in marks.values()) or not all(p.exists() for p in paths):
            continue
        try:
            found = [read_record(p)["protocols"] for p in paths if p.stem != "oracle-label"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the job is to run again
        for name in PROTOCOLS:
            if all(name in protocols for protocols in found):
                marks[name].parent.mkdir(exist_ok=True)
                marks[name].touch()


def keep_listing(results: Path, listing: Listing, config: Mapping[str, Any]) -> None:
    """Write what a folder should hold, and its configuration, into its listing.json."""
    write_json(results / "listing.json", {"config": dict(config), "listing": vars(listing)})


def warn_of_other_images(results: Path, data: Mapping[str, Any]) -> str | None:
    """Return a warning where a folder holds an experiment on images from elsewhere; or None.

    `data` is that section of the configuration. Such results would be replaced in table and
    figures, as where a configuration leaves out `results`.
    """
    try:
        before = json.loads((results / "listing.json").read_text())["config"]["data"]
        is_same = all(before[name] == data[name] for name in ("source", "path"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if is_same:
        return None
    named = before["source"] if before["path"] is None else before["path"]
    return (
        f"{results} holds results of other images ({named}), whose table and figures this"
        " experiment replaces: give it a folder of its own, results: results/NAME"
    )


class Choice(TypedDict):
    """What one protocol chose, and its accuracy on the test images with a 95 % interval."""

    accuracy: float
    ci_low: float
    ci_high: float
    label_weight: float | None
    ridge: float | None
    epoch: int | None
    validation_accuracy: float | None
    balanced_accuracy: float
    """Mean over the classes of the share of their images that is right."""
    confusion: list[list[int]]
    """How many images of each class, a row, were taken for each class, a column."""


class Record(TypedDict):
    """One result, as its JSON file holds it: what was evaluated, with what, and what came out."""

    case: str
    variant: str
    """As in paths and tables."""
    seed: int | None
    """Of networks or of a label permutation."""
    architecture: dict[str, Any]
    """Name (or None), digest, layers."""
    task: str
    classes: list[str | int]
    n_train: int
    n_test: int
    data: dict[str, Any]
    """Source, digest, scaling, whitening (its regulariser, or None), train and test images of each
    class, as ``train_counts``."""
    settings: dict[str, Any]
    """What the result depends on, by the names of the configuration."""
    protocols: dict[str, Choice]
    """Those of `PROTOCOLS` that were evaluated, and `statistics.DEFINITE` beside ``honest``."""
    curve: list[dict[str, Any]]
    """One point for each label weight, ridge or epoch; of weights with ``n_negative``, how many
    eigenvalues of K + lambda Z on train are negative."""
    diagnostics: dict[str, Any]
    """Of K and Z, and the seconds that it took."""
    provenance: dict[str, Any]


def write_record(
    path: Path,
    head: Mapping[str, Any],
    split: Any,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    predictions: Mapping[str, NDArray],
    files: ExitStack,
) -> None:
    """Write predictions, and the record that says they are whole, once `files` is closed.

    Parameters
    ----------
    path : Path
        Of the record; predictions stand beside it as CSV.
    head : mapping
        The fields of `Record` up to `architecture`.
    split : data.splits.Split
        Its test images are the rows of the predictions.
    settings : mapping
        As in `Record`.
    results : mapping
        ``protocols``, ``curve`` and ``diagnostics`` of `Record`.
    predictions : mapping
        Protocol -> (n_test,) array: scores of two classes, numbers of more.
    files : ExitStack
        What belongs together appears with it, or nothing where an exception ends it.
    """
    from lantk.experiment.provenance import collect_provenance
    from lantk.labels import decide
    from lantk.regression.measures import balanced_accuracy, confusion_matrix

    columns = {"index": split.index_test, "label": split.y_test} | dict(predictions)
    rows = zip(*(values.astype(str) for values in columns.values()), strict=True)
    protocols = {}
    for name, found in predictions.items():
        confusion = confusion_matrix(split.y_test, decide(found), len(split.names))
        own = {"balanced_accuracy": balanced_accuracy(confusion), "confusion": confusion.tolist()}
        protocols[name] = results["protocols"][name] | own
    counts = {f"{part}_counts": getattr(split, f"{part}_counts") for part in ("train", "test")}
    data = {"source": split.source, "digest": split.digest, "scaling": split.scaling}
    data["whitening"] = split.zca
    record = {
        **head,
        "task": split.slug,
        "classes": list(split.names),
        "n_train": len(split.y_train),
        "n_test": len(split.y_test),
        "data": data | counts,
        "settings": settings,
        **results,
        "protocols": protocols,
        "provenance": collect_provenance(),
    }
    # What is entered last is there first, and the record is to be there last.
    write_json(path, record, files)
    temporary = files.enter_context(writing(path.with_suffix(".csv")))
    lines = (",".join(row) for row in [tuple(columns), *rows])
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_record(path: Path, protocols: Collection[str] | None = None) -> Record:
    """Return a record, of the protocols that are asked for; of all without any.

    What comes with ``honest`` goes with it.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError, AttributeError
        If it cannot be read, or is no record.
    """
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    if protocols is not None:
        # Imported here: NumPy and SciPy start threads, of which a verb says how many first.
        from lantk.regression.statistics import DEFINITE

        kept = {*protocols} | ({DEFINITE} if "honest" in protocols else set())
        found = record["protocols"].items()
        record["protocols"] = {name: choice for name, choice in found if name in kept}
    return record


def read_predictions(path: Path) -> pd.DataFrame:
    """Return the predictions beside a record, a column for each protocol that was evaluated."""
    import pandas as pd

    return pd.read_csv(path.with_suffix(".csv"))
