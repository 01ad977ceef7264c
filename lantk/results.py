"""RESULTS.md: our tables in the layout of the published ones, with their numbers beside ours.

What is there is shown, finished or not; a cell that no evaluation fills says ``not run``.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lantk.leaderboard import BEST, TABLE_COLUMNS
from lantk.report import CHOICES, TITLES, sizes_text
from lantk.statistics import PROTOCOLS, error_exponents
from lantk.tables import (
    INTERVALS,
    Block,
    accuracy_lines,
    block_lines,
    exponent_lines,
    interval_lines,
    order_variants,
)
from lantk.variants import PUBLISHED_TERMS, is_seeded, variant_name

NOT_RUN = "not run"
STUDIES = (
    "chen2020",
    "chen2020-ten",
    "arora2019-vanilla",
    "arora2019-vanilla-2k",
    "arora2019-gap",
    "arora2019-gap-2k",
    "growth",
)
"""Presets, whose names their results folders have."""
# Column of the seed's table of depths -> preset and variant.
_DEPTH_COLUMNS = {
    "CNN-V": ("arora2019-vanilla", "cnn"),
    "CNTK-V": ("arora2019-vanilla", "cntk"),
    "CNTK-V-2K": ("arora2019-vanilla-2k", "cntk"),
    "CNN-GAP": ("arora2019-gap", "cnn"),
    "CNTK-GAP": ("arora2019-gap", "cntk"),
    "CNTK-GAP-2K": ("arora2019-gap-2k", "cntk"),
}
_INTRODUCTION = """\
# Results

Test accuracies in percent, ours with the published one in brackets where there is one. `honest`
chooses nothing on the test set; `oracle` chooses on it, as the papers do, and is printed to compare
with them. `not run` marks what a preset asks for and no evaluation has filled. Data: {note}.

This file is written from whatever is there by

    {command}
"""


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

    @property
    def variants(self) -> list[str]:
        """Variants of the preset and of the results, and the best of the published terms."""
        names = [variant_name(variant) for variant in self.preset["variants"]]
        best = [BEST] if set(PUBLISHED_TERMS) <= set(names) else []
        twins = {f"{term}-shuffled" for term in PUBLISHED_TERMS}
        best += [f"{BEST}-shuffled"] if twins <= set(names) else []
        return order_variants([*names, *best, *self.table["variant"]])

    @property
    def n_train(self) -> list[int]:
        """The n of the preset and of the results, ascending."""
        asked = self.preset["task"]["n_train"]
        asked = asked if isinstance(asked, list) else [] if asked is None else [asked]
        return sorted({*asked, *self.table["n_train"]})

    @property
    def rows(self) -> pd.DataFrame:
        """Rows of the leaderboard, without the best of fewer terms than there are."""
        case = [self.table[name] for name in ("task", "architecture", "n_train", "protocol")]
        is_published = self.table["variant"].isin(PUBLISHED_TERMS)
        is_whole = is_published.groupby(case).transform("sum") == len(PUBLISHED_TERMS)
        return self.table[is_whole | ~self.table["variant"].str.startswith(BEST)]

    def rows_under(self, protocol: str) -> pd.DataFrame:
        """Return the rows of one protocol."""
        return self.rows[self.rows["protocol"] == protocol]


def empty_study(preset: Mapping[str, Any]) -> Study:
    """Return what there is of a preset that was not run."""
    return Study(preset, pd.DataFrame(columns=TABLE_COLUMNS))


def results_markdown(
    studies: Mapping[str, Study], published: Mapping[str, Any], data_note: str
) -> str:
    """Return RESULTS.md.

    Parameters
    ----------
    studies : mapping of str to Study
        One for each of `STUDIES`.
    published : mapping
        Preset (``arora2019`` for the table of depths) -> ``source`` and ``accuracy``: row ->
        column -> percent, or a word.
    data_note : str
        What the images are, such as the official archive or a copy of it.
    """
    folders = " ".join(f"results/{name}" for name in STUDIES)
    command = f"python -m lantk results --results {folders} --out RESULTS.md"
    command += f" --data-note {shlex.quote(data_note)}"
    lines = [
        _INTRODUCTION.format(note=data_note, command=command),
        *_pairs_lines(studies["chen2020"], published["chen2020"]),
        *_ten_lines(studies["chen2020-ten"], published["chen2020-ten"]),
        *_depth_lines(studies, published["arora2019"]),
        *_growth_lines(studies["growth"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _pairs_lines(study: Study, published: Mapping[str, Any]) -> list[str]:
    lines = ["## Five class pairs\n", *_facts({"chen2020": study}, published["source"])]
    columns = ["-".join(map(str, pair)) for pair in study.preset["task"]["pairs"]]
    for protocol in PROTOCOLS:
        frame = study.rows_under(protocol)
        frame = frame.assign(column=frame["task"])
        block = Block(frame, _shown(study, protocol), columns, missing=NOT_RUN)
        lines += _protocol_lines(block, protocol, published["accuracy"])
    return lines


def _ten_lines(study: Study, published: Mapping[str, Any]) -> list[str]:
    lines = ["## Ten classes\n", *_facts({"chen2020-ten": study}, published["source"])]
    theirs = {
        variant: {f"n = {n:,}": value for n, value in row.items()}
        for variant, row in published["accuracy"].items()
    }
    columns = [f"n = {n:,}" for n in study.n_train]
    for protocol in PROTOCOLS:
        frame = study.rows_under(protocol)
        frame = frame.assign(column=[f"n = {n:,}" for n in frame["n_train"]])
        block = Block(frame, _shown(study, protocol), columns, False, NOT_RUN)
        lines += _protocol_lines(block, protocol, theirs)
    exponents = error_exponents(study.rows)
    if not exponents.empty:
        lines += ["### Error against n\n", *exponent_lines(exponents, NOT_RUN)]
    return lines


def _shown(study: Study, protocol: str) -> list[str]:
    return [v for v in study.variants if (v, protocol) != ("oracle-label", "honest")]


def _protocol_lines(block: Block, protocol: str, published: Mapping[str, Any]) -> list[str]:
    """Return the tables of one protocol; without a choice only CNTK compares under ``honest``."""
    if protocol == "honest":
        published = {"cntk": published["cntk"]}
    text = f"### {TITLES[protocol]}\n\n{CHOICES[protocol]}\n"
    return [text, *block_lines(replace(block, published=published))]


def _depth_lines(studies: Mapping[str, Study], published: Mapping[str, Any]) -> list[str]:
    asked = {name: studies[name] for name, _ in _DEPTH_COLUMNS.values()}
    lines = ["## Depths, ten classes\n", *_facts(asked, published["source"])]
    theirs = {str(depth): row for depth, row in published["accuracy"].items()}
    for protocol in PROTOCOLS:
        frames = []
        for column, (name, variant) in _DEPTH_COLUMNS.items():
            frame = studies[name].rows_under(protocol)
            frame = frame[frame["variant"] == variant]
            depth = frame["architecture"].str.rpartition("-")[2] if len(frame) else None
            frames.append(frame.assign(column=column, variant=depth))
        frame = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
        block = Block(frame, list(theirs), list(_DEPTH_COLUMNS), False, NOT_RUN, theirs)
        lines += [f"### {TITLES[protocol]}\n\n{CHOICES[protocol]}\n", *accuracy_lines(block)]
        lines += [f"\n{INTERVALS}.\n", *interval_lines(replace(block, published={})), ""]
    return lines


def _growth_lines(study: Study) -> list[str]:
    lines = ["## Error against n, five class pairs\n", *_facts({"growth": study})]
    tasks = ["-".join(map(str, pair)) for pair in study.preset["task"]["pairs"]]
    columns = [f"n = {n:,}" for n in study.n_train]
    for protocol in PROTOCOLS:
        variants = _shown(study, protocol)
        groups = study.rows_under(protocol).groupby(["variant", "n_train"])["accuracy"]
        whole = groups.mean()[groups.size() == len(tasks)].reset_index()
        frame = whole.assign(column=[f"n = {n:,}" for n in whole["n_train"]])
        lines += [f"### {TITLES[protocol]}\n\n{CHOICES[protocol]}\n"]
        lines += [f"Average accuracy over {', '.join(tasks)}.\n"]
        lines += [*accuracy_lines(Block(frame, variants, columns, False, NOT_RUN)), ""]
    found = error_exponents(study.rows)
    found = found[found["n_points"] == len(columns)]
    grid = {"architecture": study.preset["architecture"]}
    wanted = pd.DataFrame(
        [
            grid | {"task": task, "variant": variant, "protocol": protocol}
            for protocol in PROTOCOLS
            for task in tasks
            for variant in _shown(study, protocol)
        ]
    )
    exponents = wanted.merge(found, how="left", on=list(wanted.columns))
    return [*lines, "### Slopes\n", *exponent_lines(exponents, NOT_RUN)]


def _facts(studies: Mapping[str, Study], source: str | None = None) -> list[str]:
    """Return what a reader must know of a table: data, n, hardware, commit, time, command."""
    table = pd.concat([study.table for study in studies.values() if len(study.table)] or [_EMPTY])
    records = [record for study in studies.values() for record in study.records]
    commands = [f"`snakemake --cores 2 --configfile experiments/{name}.yaml`" for name in studies]
    times = {name: _times(study) for name, study in studies.items()}
    if len(set(times.values())) > 1:
        times = {name: f"{name}, {text}" for name, text in times.items()}
    data = {f"{r['data']['source']}, scaled by {r['data'].get('scaling')}" for r in records}
    facts = {
        "Published": source,
        "Data": _joined(data),
        "Images": sizes_text(table).rstrip(".") if len(table) else NOT_RUN,
        "Seeds": _seeds(records),
        "Hardware": _joined(_hardware(record) for record in records),
        "Commit": _joined(map(_commit, records)),
        "Time": _joined(times.values()),
        "Again": ", ".join(commands) + ", then the command above",
    }
    return [*(f"- {name}: {text}" for name, text in facts.items() if text), ""]


_EMPTY = pd.DataFrame(columns=TABLE_COLUMNS)


def _commit(record: Mapping[str, Any]) -> str:
    """Return a commit in short, and whether files were changed after it."""
    text = str((record.get("provenance") or {}).get("commit") or "unknown")
    commit, dash, changed = text.partition("-")
    return commit[:12] + (" with changes" if dash and changed == "dirty" else "")


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts))) or NOT_RUN


def _seeds(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many seeds stand behind one cell, of networks and of shuffled labels."""
    counts: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        if is_seeded(record["variant"]):
            kind = "networks" if record["variant"] == "cnn" else "label permutations"
            counts[kind][record["case"], record["variant"]] += 1
    texts = []
    for kind, found in counts.items():
        low, high = min(found.values()), max(found.values())
        texts.append(f"{low if low == high else f'{low} to {high}'} {kind} a cell")
    return ", ".join(texts)


def _hardware(record: Mapping[str, Any]) -> str:
    found = (record.get("provenance") or {}).get("hardware") or {}
    settings = record.get("settings") or {}
    parts = [str(found["processor"])] if found.get("processor") else []
    parts += [f"{found['cores']} cores"] if found.get("cores") else []
    parts += [str(found["gpu"])] if found.get("gpu") else []
    used = "network" if record["variant"] == "cnn" else "solves"
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
