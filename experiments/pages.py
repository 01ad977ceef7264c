"""RESULTS.md and docs/results: our tables in the layout of the published ones, theirs beside ours.

RESULTS.md has the answers and the accuracies of the published tables; docs/results has a page a
subject. What is there is shown, finished or not; a cell that no evaluation fills says ``not run``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from side_pages import (
    derivation_lines,
    derivation_table,
    exponent_column,
    exponent_page,
    limits_lines,
    limits_table,
)
from window_page import window_lines

from answer_page import answer_lines, two_layer_lines
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import Block, sizes_text
from lantk.report.claims import judge, legend, main_claims
from lantk.report.comparisons import TITLES, choices_text, exponent_lines
from lantk.report.leaderboard import error_exponents
from lantk.report.tables import (
    INTERVALS,
    accuracy_lines,
    block_lines,
    claims_lines,
    interval_lines,
)
from lantk.report.term_tables import term_lines
from studies import NOT_RUN, Study, facts, in_order

# Column of the seed's table of depths -> preset and variant.
_DEPTH_COLUMNS = {
    "CNN-V": ("arora2019-vanilla", "cnn"),
    "CNTK-V": ("arora2019-vanilla", "cntk"),
    "CNTK-V-2K": ("arora2019-vanilla-2k", "cntk"),
    "CNN-GAP": ("arora2019-gap", "cnn"),
    "CNTK-GAP": ("arora2019-gap", "cntk"),
    "CNTK-GAP-2K": ("arora2019-gap-2k", "cntk"),
}
# Presets behind the page of answers.
_ANSWERING = ("after-kernels", "chen2020", "growth", "after-kernels-growth")
_INTRODUCTION = """\
# Results

Test accuracies in percent, ours with the published one in brackets where there is one. `honest`
chooses nothing on the test set; `oracle` chooses on it, as the papers do, and is printed to compare
with them. `not run` marks what a preset asks for and no evaluation has filled. Data: {note}.

This page has the answers and the accuracies of the published tables; a page for each subject has
its intervals, p-values, controls, hardware, commit and command:

{links}

All pages are written from the [records](experiments/records/README.md) by

    {command}
"""
_NNGP = (
    "The kernel of the rows CNTK and cntk-ridge is the NNGP here; the same rows of the NTK, on the"
    " same images, are in [Kernels of the network](network-kernels.md)."
)


@dataclass(frozen=True)
class _Published:
    """A table that was published, ours in its layout."""

    studies: Mapping[str, Study]
    source: str | None
    blocks: Mapping[str, Block]
    """Protocol -> the whole table."""
    variants: Sequence[str]
    """Variants in it, whether or not they are its rows."""
    rows: Sequence[str]
    """Rows that were published."""

    def lines(self, protocol: str) -> list[str]:
        """Return the accuracies under one protocol, of the rows that were published."""
        block = self.blocks[protocol]
        shown = [variant for variant in block.variants if variant in self.rows]
        return accuracy_lines(replace(block, variants=shown))


def results_pages(
    studies: Mapping[str, Study],
    published: Mapping[str, Any],
    data_note: str,
    command: str,
    checks: Mapping[str, pd.DataFrame] | None = None,
    pictures: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return RESULTS.md and the pages of docs/results: path -> text.

    Parameters
    ----------
    studies : mapping of str to Study
        One for each of `STUDIES`.
    published : mapping
        Preset (``arora2019`` for the table of depths) -> ``source`` and ``accuracy``: row ->
        column -> percent, or a word.
    data_note : str
        What the images are, such as the official archive or a copy of it.
    command : str
        What writes the pages again.
    checks : mapping of str to DataFrame, optional
        What scripts beside the presets wrote: ``two-layer``, ``derivation``, ``limits``,
        ``exponents``.
    pictures : mapping of str to str, optional
        What a figure of the answers shows -> where it is.
    """
    beside = checks or {}
    pairs = _pairs("chen2020", studies, published["chen2020"])
    ten = _ten(studies["chen2020-ten"], published["chen2020-ten"])
    depths = _depths(studies, published["arora2019"])
    networks = _pairs("after-kernels", studies)
    subjects: dict[str, tuple[str, list[str]]] = {
        "five-class-pairs": ("Five class pairs", _block_lines(pairs)),
        "ten-classes": ("Ten classes", [*_block_lines(ten), *_ten_exponents(ten)]),
        "depths": ("Depths, ten classes", _depth_lines(depths)),
        "error-against-n": ("Error against n, five class pairs", _growth_lines("growth", studies)),
        "network-kernels": ("Kernels of the network", _block_lines(networks)),
        "network-kernels-against-n": (
            "Error of the network's kernels against n",
            _growth_lines("after-kernels-growth", studies),
        ),
        "nngp": ("The NNGP in place of the NTK", _block_lines(_pairs("nngp", studies), _NNGP)),
        "controls": (
            "Controls that need no label",
            [*_block_lines(_pairs("controls", studies)), *_control_claims(studies["controls"])],
        ),
        "local-average-pooling": ("Local average pooling", window_lines("lap", studies["lap"])),
        "two-layer": (
            "Local elasticity of 2-layer networks",
            two_layer_lines(beside.get("two-layer"), published["two-layer"]),
        ),
        "derivation": (
            "The derivation of lantk-nth, checked",
            derivation_lines(beside.get("derivation")),
        ),
        "limits": ("What limits Z", limits_lines(beside.get("limits"))),
        "exponents": (
            "Exponents from disjoint subsets",
            exponent_page(beside.get("exponents")),
        ),
    }
    links = [f"* [{title}](docs/results/{name}.md)" for name, (title, _) in subjects.items()]
    answering = (in_order(studies[name]) for name in _ANSWERING)
    lines = [
        _INTRODUCTION.format(note=data_note, command=command, links="\n".join(links)),
        *answer_lines(
            *answering,
            controls=in_order(studies["controls"]),
            pictures=pictures,
            derivation=derivation_table(beside.get("derivation")),
            disjoint=exponent_column(beside.get("exponents")),
            limits=limits_table(beside.get("limits")),
        ),
    ]
    for name, table in (("five-class-pairs", pairs), ("ten-classes", ten), ("depths", depths)):
        lines += _published_lines(subjects[name][0], f"docs/results/{name}.md", table)
    pages = {"RESULTS.md": lines}
    for name, (title, found) in subjects.items():
        head = f"# {title}\n\nOne of the pages behind the [results](../../RESULTS.md).\n"
        pages[f"docs/results/{name}.md"] = [head, *found]
    return {path: "\n".join(found).rstrip() + "\n" for path, found in pages.items()}


def _published_lines(title: str, page: str, table: _Published) -> list[str]:
    """Return a published table for RESULTS.md: accuracies, and where the rest of it is."""
    frames = [study.table for study in table.studies.values() if len(study.table)]
    sizes = sizes_text(pd.concat(frames)) if frames else f"{NOT_RUN}."
    lines = [
        f"## {title}\n",
        f"Published: {table.source}. Ours: {sizes} The whole table: [{title}]({page}).\n",
    ]
    for protocol in PROTOCOLS:
        lines += [f"**{TITLES[protocol]}**\n", *table.lines(protocol), ""]
    return lines


def _pairs(
    name: str, studies: Mapping[str, Study], published: Mapping[str, Any] | None = None
) -> _Published:
    study, theirs = studies[name], published or {"source": None, "accuracy": {}}
    blocks = {}
    for protocol in PROTOCOLS:
        frame = study.rows_under(protocol)
        frame = frame.assign(column=frame["task"])
        beside = _comparable(protocol, theirs["accuracy"])
        shown = _shown(study, protocol)
        blocks[protocol] = Block(frame, shown, study.tasks, missing=NOT_RUN, published=beside)
    rows = list(theirs["accuracy"])
    return _Published({name: study}, theirs["source"], blocks, study.variants, rows)


def _ten(study: Study, published: Mapping[str, Any]) -> _Published:
    theirs = {
        variant: {f"n = {n:,}": value for n, value in row.items()}
        for variant, row in published["accuracy"].items()
    }
    columns, blocks = [f"n = {n:,}" for n in study.n_train], {}
    for protocol in PROTOCOLS:
        frame = study.rows_under(protocol)
        frame = frame.assign(column=[f"n = {n:,}" for n in frame["n_train"]])
        beside, shown = _comparable(protocol, theirs), _shown(study, protocol)
        blocks[protocol] = Block(frame, shown, columns, False, NOT_RUN, beside)
    found = {"chen2020-ten": study}
    return _Published(found, published["source"], blocks, study.variants, list(theirs))


def _depths(studies: Mapping[str, Study], published: Mapping[str, Any]) -> _Published:
    blocks = {}
    for protocol in PROTOCOLS:
        # The networks' epoch and learning rate may have been chosen on the test set.
        compared = [
            column
            for column, (_, variant) in _DEPTH_COLUMNS.items()
            if protocol == "oracle" or variant == "cntk"
        ]
        theirs = {
            str(depth): {column: row[column] for column in compared}
            for depth, row in published["accuracy"].items()
        }
        frames = []
        for column, (name, variant) in _DEPTH_COLUMNS.items():
            frame = studies[name].rows_under(protocol)
            frame = frame[frame["variant"] == variant]
            depth = frame["architecture"].str.rpartition("-")[2] if len(frame) else None
            frames.append(frame.assign(column=column, variant=depth))
        frame = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
        columns = list(_DEPTH_COLUMNS)
        blocks[protocol] = Block(frame, list(theirs), columns, False, NOT_RUN, theirs)
    asked = {name: studies[name] for name, _ in _DEPTH_COLUMNS.values()}
    variants = [variant for _, variant in _DEPTH_COLUMNS.values()]
    return _Published(asked, published["source"], blocks, variants, list(theirs))


def _comparable(protocol: str, published: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what stands beside ours; without a choice only CNTK compares under ``honest``."""
    if protocol == "honest":
        return {name: row for name, row in published.items() if name == "cntk"}
    return published


def _shown(study: Study, protocol: str) -> list[str]:
    return [v for v in study.variants if (v, protocol) != ("oracle-label", "honest")]


def _block_lines(table: _Published, note: str = "") -> list[str]:
    """Return facts, accuracies, intervals and what labels are worth, by protocol."""
    lines = [*facts(table.studies, table.source), *[f"{note}\n"] * bool(note)]
    for protocol, block in table.blocks.items():
        lines += [_protocol_title(protocol, block.variants), *block_lines(block)]
        lines += term_lines(block, has_weights=protocol == PROTOCOLS[0])
    return lines


def _control_claims(study: Study) -> list[str]:
    """Return the claims on kernels without labels, and on label terms on them."""
    if not len(study.table):
        return []
    (claims,) = judge(main_claims(in_order(study)))
    return ["## Claims\n", *claims_lines(claims), "", *(f"{text}\n" for text in legend(claims))]


def _protocol_title(protocol: str, variants: Sequence[str]) -> str:
    return f"## {TITLES[protocol]}\n\n{choices_text(protocol, variants)}\n"


def _ten_exponents(table: _Published) -> list[str]:
    (study,) = table.studies.values()
    exponents = error_exponents(study.table)
    if exponents.empty:
        return []
    return ["## Error against n\n", *exponent_lines(exponents, NOT_RUN)]


def _depth_lines(table: _Published) -> list[str]:
    lines = facts(table.studies, table.source)
    for protocol, block in table.blocks.items():
        lines += [_protocol_title(protocol, table.variants), *accuracy_lines(block)]
        lines += [f"\n{INTERVALS}.\n", *interval_lines(replace(block, published={})), ""]
    return lines


def _growth_lines(name: str, studies: Mapping[str, Study]) -> list[str]:
    study = studies[name]
    lines = facts({name: study})
    tasks = study.tasks
    columns = [f"n = {n:,}" for n in study.n_train]
    for protocol in PROTOCOLS:
        variants = _shown(study, protocol)
        groups = study.rows_under(protocol).groupby(["variant", "n_train"])["accuracy"]
        whole = groups.mean()[groups.size() == len(tasks)].reset_index()
        frame = whole.assign(column=[f"n = {n:,}" for n in whole["n_train"]])
        lines += [
            _protocol_title(protocol, variants),
            f"Average accuracy over {', '.join(tasks)}.\n",
        ]
        lines += [*accuracy_lines(Block(frame, variants, columns, False, NOT_RUN)), ""]
    found = error_exponents(study.table)
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
    return [*lines, "## Slopes\n", *exponent_lines(exponents, NOT_RUN)]
