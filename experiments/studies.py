"""What the presets ask for, what their results folders hold, and what must be told of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from archive import Evaluation
from lantk.experiment.variants import DERIVED, at_taps, candidates, case_key
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import images_text, order_variants, sizes_text
from lantk.report.leaderboard import TABLE_COLUMNS, leaderboard
from lantk.variant import Variant

NOT_RUN = "not run"
STUDIES = (
    "chen2020",
    "chen2020-ten",
    "arora2019-vanilla",
    "arora2019-vanilla-2k",
    "arora2019-gap",
    "arora2019-gap-2k",
    "growth",
    "after-kernels",
    "after-kernels-growth",
    "nngp",
    "controls",
    "lap",
)
"""Presets, whose names their results folders have."""
LARGEST_N = {"growth": "chen2020", "after-kernels-growth": "after-kernels"}
"""Preset of several n -> the preset whose results are its last point."""
EMPTY = pd.DataFrame(columns=TABLE_COLUMNS)
"""The leaderboard of nothing."""


@dataclass(frozen=True)
class Study:
    """What one preset asks for, and what its results folder holds."""

    preset: Mapping[str, Any]
    """The configuration."""
    table: pd.DataFrame
    """Its leaderboard; empty if nothing was run."""
    records: Sequence[Mapping[str, Any]] = ()
    """The evaluations behind it."""
    timings: pd.DataFrame | None = None
    """Jobs and their seconds."""
    left_out: Sequence[str] = ()
    """What the preset does not ask for of what the folder holds."""

    @property
    def variants(self) -> list[str]:
        """Variants of the preset, and the best of the published terms."""
        names = [Variant.of(variant).name for variant in asked_variants(self.preset)]
        return order_variants([*names, *(name for name in DERIVED if candidates(name, names))])

    @property
    def tasks(self) -> list[str]:
        """Slugs of the preset's tasks."""
        pairs = self.preset["task"]["pairs"]
        return ["all"] if pairs is None else ["-".join(map(str, pair)) for pair in pairs]

    @property
    def n_train(self) -> list[int]:
        """The n of the preset and of the results, ascending."""
        return sorted({*(_asked_n(self.preset) or []), *self.table["n_train"]})

    def rows_under(self, protocol: str) -> pd.DataFrame:
        """Return the rows of one protocol."""
        return self.table[self.table["protocol"] == protocol]


def asked_variants(preset: Mapping[str, Any]) -> list[str]:
    """Return the variants of a preset, one for each tap where they name no epoch."""
    return at_taps(preset["variants"], preset.get("after_kernels", {}).get("taps", ()))


def gather_study(
    preset: Mapping[str, Any],
    evaluations: Sequence[Evaluation] = (),
    timings: pd.DataFrame | None = None,
) -> Study:
    """Return the study of what a preset asks for among some evaluations.

    Where the n of all classes are the columns of a table, an n above those of the preset is taken
    too. Where a preset takes all images (``n_train: null``), that is the largest n of a task.

    Parameters
    ----------
    preset : mapping
        The configuration.
    evaluations : sequence of (record, predictions)
        Of one results folder; what an earlier or another configuration left there is left out.
    timings : DataFrame, optional
        Jobs and their seconds.
    """
    largest: dict[str, int] = {}
    for record, _ in evaluations:
        largest[record["task"]] = max(record["n_train"], largest.get(record["task"], 0))
    strays = [_stray(Study(preset, EMPTY), record, largest) for record, _ in evaluations]
    kept = [found for found, stray in zip(evaluations, strays, strict=True) if not stray]
    table = leaderboard(kept) if kept else EMPTY
    left_out = sorted({stray for stray in strays if stray})
    return Study(preset, table, [record for record, _ in kept], timings, left_out)


def asked_for(preset: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return those of some evaluations that a preset asks for."""
    return [found for found in evaluations if not _stray(Study(preset, EMPTY), found[0], {})]


def _asked_n(preset: Mapping[str, Any]) -> list[int] | None:
    """Return the n that a preset lists; None for all images."""
    asked = preset["task"]["n_train"]
    return asked if isinstance(asked, list) or asked is None else [asked]


def _stray(asked: Study, record: Mapping[str, Any], largest: Mapping[str, int]) -> str:
    """Return what a preset does not ask for in a record, in words; nothing if it asks for all."""
    preset = asked.preset
    task, architecture, n_train = case_key(record)
    variant, seed = record["variant"], record["seed"]
    if variant not in [Variant.of(name).name for name in asked_variants(preset)]:
        return variant
    numbers = Variant.of(variant).numbers(preset["permutations"], preset["cnn"]["seeds"])
    if seed is not None and seed not in numbers:
        return f"{variant} of seed {seed}"
    given = preset["architecture"]
    if architecture not in (given if isinstance(given, list) else [given]):
        return f"architecture {architecture}"
    if task not in asked.tasks:
        return f"task {task}"
    ns = _asked_n(preset) or [largest[task]]
    is_beyond = asked.tasks == ["all"] and len(ns) > 1 and n_train > max(ns)
    return "" if n_train in ns or is_beyond else f"n = {n_train:,}"


def in_order(study: Study) -> pd.DataFrame:
    """Return the table of a study, its tasks in the order of the preset."""
    order = {task: i for i, task in enumerate(study.tasks)}
    return study.table.sort_values("task", key=lambda task: task.map(order), kind="stable")


def facts(studies: Mapping[str, Study], source: str | None = None) -> list[str]:
    """Return what a reader must know of a table: data, n, hardware, commit, time, command."""
    table = pd.concat([study.table for study in studies.values() if len(study.table)] or [EMPTY])
    records = [record for study in studies.values() for record in study.records]
    commands = [f"`snakemake --cores 2 --configfile experiments/{name}.yaml`" for name in studies]
    times = {name: _times(study) for name, study in studies.items()}
    if len(set(times.values())) > 1:
        times = {name: f"{name}, {text}" for name, text in times.items()}
    data = {images_text(r["data"]) for r in records}
    facts = {
        "Published": source,
        "Data": _joined(data),
        "Images": sizes_text(table).rstrip(".") if len(table) else NOT_RUN,
        "Seeds": _seeds(records),
        "Unlike the preset": _of_each(studies, _differences),
        "Left out, not in the preset": _of_each(studies, lambda study: study.left_out),
        "Hardware": _joined(_hardware(record) for record in records),
        "Commit": _joined(map(_commit, records)),
        "Time": _joined(times.values()),
        "Again": ", ".join(commands) + ", then the command in RESULTS.md",
    }
    return [*(f"- {name}: {text}" for name, text in facts.items() if text), ""]


def _of_each(studies: Mapping[str, Study], texts: Callable[[Study], Sequence[str]]) -> str:
    """Return what is to be said of the studies in one line; each by its name if several."""
    found = {name: ", ".join(texts(study)) for name, study in studies.items()}
    several = len(studies) > 1
    return "; ".join(f"{k}: {text}" if several else text for k, text in found.items() if text)


def _differences(study: Study) -> list[str]:
    """Return which settings behind a table are not the preset's, in words."""
    preset, cnn = study.preset, study.preset["cnn"]
    rates = cnn["learning_rate"]
    wanted: dict[str, Any] = {key: cnn[key] for key in ("epochs", "batch_size", "loss")}
    wanted["learning_rates"] = rates if isinstance(rates, list) else [rates]
    wanted |= {key: preset[key] for key in ("folds", "estimator")}
    wanted["n_held_out"] = preset["after_kernels"]["held_out"]
    for protocol in PROTOCOLS:
        wanted[f"{protocol}_weights"] = preset["label_weights"][protocol]
        wanted[f"{protocol}_ridges"] = preset["ridges"][protocol]
    found: dict[str, list[Any]] = {key: [] for key in (*wanted, "permutations", "number of seeds")}
    for record in study.records:
        settings = record.get("settings") or {}
        for key in wanted.keys() & settings.keys():
            found[key].append(settings[key])
    wanted |= {"permutations": preset["permutations"], "number of seeds": len(cnn["seeds"])}
    for kind, counts in _seed_counts(study.records).items():
        found["number of seeds" if kind == "networks" else "permutations"] += counts
    unlike = {key: {str(v) for v in found[key] if v != value} for key, value in wanted.items()}
    return [
        f"{key} {' or '.join(sorted(values))} (preset: {wanted[key]})"
        for key, values in unlike.items()
        if values
    ]


def _commit(record: Mapping[str, Any]) -> str:
    """Return a commit in short, and whether files were changed after it."""
    text = str((record.get("provenance") or {}).get("commit") or "unknown")
    commit, dash, changed = text.partition("-")
    return commit[:12] + (" with changes" if dash and changed == "dirty" else "")


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts))) or NOT_RUN


def _seeds(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many seeds stand behind one cell, of networks and of shuffled labels."""
    texts = []
    for kind, found in _seed_counts(records).items():
        low, high = min(found), max(found)
        texts.append(f"{low if low == high else f'{low} to {high}'} {kind} a cell")
    return ", ".join(texts)


def _seed_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return the numbers of seeds of all cells, of networks and of shuffled labels."""
    counts: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        if Variant.of(record["variant"]).is_seeded:
            kind = "networks" if Variant.of(record["variant"]).is_network else "label permutations"
            counts[kind][record["case"], record["variant"]] += 1
    return {kind: list(found.values()) for kind, found in counts.items()}


def _hardware(record: Mapping[str, Any]) -> str:
    found = (record.get("provenance") or {}).get("hardware") or {}
    settings = record.get("settings") or {}
    parts = [str(found["processor"])] if found.get("processor") else []
    parts += [f"{found['cores']} cores"] if found.get("cores") else []
    parts += [str(found["gpu"])] if found.get("gpu") else []
    used = "network" if Variant.of(record["variant"]).is_network else "solves"
    parts += [f"{used} on {settings['device']}"] if settings.get("device") else []
    parts += [f"kernel on {settings['gram_device']}"] if settings.get("gram_device") else []
    return ", ".join(parts) or "unknown"


def _times(study: Study) -> str:
    """Return the minutes of all jobs by rule; without the workflow's times those in the records."""
    if study.timings is None or study.timings.empty:
        seconds = [(r.get("diagnostics") or {}).get("seconds") for r in study.records]
        known = [value for value in seconds if value is not None]
        note = "minutes in solves and networks, the rest not timed"
        return f"{sum(known) / 60:,.1f} {note}" if known else "not timed"
    rules = study.timings["job"].str.partition("/")[0]
    minutes = study.timings["seconds"].groupby(rules.to_numpy(), sort=False).sum() / 60
    shares = [f"{rule} {value:,.1f}" for rule, value in minutes.items()]
    return f"{minutes.sum():,.1f} minutes of jobs ({', '.join(shares)})"
