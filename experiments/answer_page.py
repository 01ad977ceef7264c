"""The answers at the head of RESULTS.md, and the page of 2-layer networks, as Markdown.

People write the paragraphs of the answers, in answers.md; where it has a comment such as
``<!-- gap -->``, the table of that name stands in the page. Their numbers are held to the tables.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lantk.experiment.variants import BEST
from lantk.regression.statistics import mean_with_interval
from lantk.report.blocks import (
    LOCAL_AVERAGING,
    Block,
    local_averaging,
    network_block,
    row_name,
    shown_block,
    sizes_text,
    taps_of,
)
from lantk.report.claims import (
    FORMS,
    GAP,
    HIERARCHY,
    claims_of,
    decompose,
    epoch_pairs,
    judge,
    layer_pairs,
    legend,
    signed,
    with_half_width,
)
from lantk.report.leaderboard import error_exponents
from lantk.report.tables import claims_lines, markdown_lines, markdown_rows
from lantk.report.term_tables import TERMS, terms_table

NO_RESULT = "(not run)"
ANSWERS = Path(__file__).with_name("answers.md")
_COMMAND = "`snakemake --cores 2 --configfile experiments/{}.yaml`"
_PLACE = re.compile(r"<!-- (\w+) -->")
_NUMBER = re.compile(r"[+-]\d+\.\d+ ± \d+\.\d+|\d+\.\d+")
# At a weight fixed beforehand it is another variant.
_FIXED = {"lantk-kr-v1": "lantk-kr-v1, fixed weight"}
# Kernels whose exponents are on the page, before those of each epoch.
_EXPONENTS_OF = (
    "cntk",
    "cntk-intercept",
    "cntk-ridge",
    "cntk-rbf",
    *_FIXED.values(),
    "lantk-best",
    "lantk-best-shuffled",
    "after-kernel",
)


# Of the preset controls: what no label enters, and label terms on the best of it.
_WITHOUT_LABELS = ("cntk-laplacian", "cntk-intercept", "cntk-flips", "cntk-flips-intercept")
_ON_FLIPS = [
    (f"cntk-flips-intercept+{term}", f"cntk-flips-intercept+{term}-shuffled")
    for term in ("lantk-kr-v1", "lantk-fjlt-v1")
]


def answer_lines(
    networks: pd.DataFrame,
    chen2020: pd.DataFrame,
    *curves: pd.DataFrame,
    controls: pd.DataFrame | None = None,
    pictures: Mapping[str, str] | None = None,
    derivation: Sequence[str] = ("Not run.",),
    disjoint: Mapping[str, Mapping[str, str]] | None = None,
    limits: Sequence[str] = ("Not run.",),
) -> list[str]:
    """Return the page as lines of Markdown.

    Parameters
    ----------
    networks, chen2020 : DataFrame
        Leaderboards of the presets ``after-kernels`` and ``chen2020``; empty ones where there are
        no results.
    *curves : DataFrame
        Leaderboards of presets of several n.
    controls : DataFrame, optional
        Leaderboard of the preset ``controls``.
    pictures : mapping of str to str, optional
        What a figure shows -> where it is, from the page's own folder.
    derivation : sequence of str
        The table of what the derivation of lantk-nth was held against.
    disjoint : mapping of str to mapping, optional
        A column of exponents from disjoint subsets: what it is of -> variant -> cell.
    limits : sequence of str
        The table of what limits Z.
    """
    block, large = network_block(networks), shown_block(chen2020, "honest")
    without = None if controls is None or controls.empty else shown_block(controls, "honest")
    if block is None:
        return ["## Answers\n", "No results of networks' kernels are there: run the preset.\n"]
    tables = {
        "steps": _step_lines(block) or ["Not all of them were run."],
        "figures": ["\n\n".join(f"![{title}]({at})" for title, at in (pictures or {}).items())],
        "exponents": _exponents(curves, disjoint or {}) or ["Not run."],
        **_claims(block, large, without),
        "terms": _terms(large) or ["Not run."],
        "derivation": [*derivation],
        "limits": [*limits],
    }
    prose = _unwrapped(ANSWERS.read_text())
    unfounded = unfounded_numbers(prose, itertools.chain(*tables.values()))
    if unfounded:
        note = f"Paragraphs are left out: {', '.join(unfounded)} in them are of other results."
        kept = (line if line.startswith("#") else _PLACE.findall(line) for line in prose)
        prose = [note, *(f"<!-- {x[0]} -->" if isinstance(x, list) else x for x in kept if x)]
    lines = []
    for line in prose:
        before, *parts = _PLACE.split(line)
        if parts and not before:
            lines += [*tables[parts[0]], ""]
        else:
            lines.append(before + "".join(tables[name][0] for name in parts[::2]) + "\n")
    return lines


def _unwrapped(text: str) -> list[str]:
    """Return the paragraphs of a text, each in one line."""
    return [" ".join(part.split()) for part in text.split("\n\n")]


def unfounded_numbers(prose: Iterable[str], tables: Iterable[str]) -> list[str]:
    """Return the decimal numbers of a text, with their intervals, that stand in no table."""
    known = {number for line in tables for number in _NUMBER.findall(line)}
    # Numbers and their intervals may stand on two lines.
    texts = (" ".join(part.split()) for part in prose)
    return [number for text in texts for number in _NUMBER.findall(text) if number not in known]


def _claims(block: Block, large: Block | None, controls: Block | None) -> dict[str, list[str]]:
    """Return the claims beside each answer, of three presets, and how to read all of them."""
    twin = (BEST, f"{BEST}-shuffled")
    plain = [(name, "cntk") for name in ("cntk-ridge", "cntk-rbf")]
    pairs = {
        "gap": ([*GAP, *epoch_pairs(block)], plain, [(name, "cntk") for name in _WITHOUT_LABELS]),
        "forms": (FORMS, [(BEST, "cntk"), twin, ("lantk-plugin", "cntk")], [twin, *_ON_FLIPS]),
        "architecture": ([*HIERARCHY, *layer_pairs(block)], [], []),
    }
    presets = [(block, "after-kernels"), (large, "chen2020"), (controls, "controls")]
    found = {
        (name, preset): claims_of(of, asked, _COMMAND.format(preset))
        for name, of_each in pairs.items()
        for (of, preset), asked in zip(presets, of_each, strict=True)
    }
    judged = dict(zip(found, judge(*found.values()), strict=True))
    lines = {}
    for name in pairs:
        tables = [claims for (answer, _), claims in judged.items() if answer == name and claims]
        text = "\n\n".join("\n".join(claims_lines(claims)) for claims in tables)
        lines[name] = [text or "The variants of it were not run."]
    every = [claim for claims in judged.values() for claim in claims]
    return {"legend": [" ".join(legend(every))], **lines}


def _terms(block: Block | None) -> list[str]:
    """Return the table of label terms alone, below what it is of."""
    table = terms_table(block) if block else None
    if block is None or table is None:
        return []
    of = f"Honest, {sizes_text(block.frame)}"
    return [f"{TERMS} {of}\n", *markdown_lines(table)]


def _step_lines(block: Block) -> list[str]:
    """Return the steps as lines of Markdown, with means and paired intervals over the tasks."""
    found = decompose(block)
    if found is None:
        return []
    total = found.sum()
    rows = [[title, *_step_cells(list(values))] for title, values in found.iterrows()]
    rows.append(["CNN minus CNTK", *_step_cells(list(total))])
    averaged = local_averaging(block)
    if averaged is not None:
        rows.append([f"Beside it: {LOCAL_AVERAGING}", *_step_cells(list(averaged))])
    return markdown_rows(["Step", *block.columns, *["Mean"] * (len(total) > 1)], rows)


def _step_cells(values: Sequence[float]) -> list[str]:
    cells = [signed(value) for value in values]
    return cells + [with_half_width(*mean_with_interval(values))] * (len(values) > 1)


def _exponents(
    curves: Sequence[pd.DataFrame], disjoint: Mapping[str, Mapping[str, str]]
) -> list[str]:
    columns: dict[str, dict[str, str]] = {}
    for table in curves:
        found = error_exponents(table) if len(table) else pd.DataFrame()
        if not len(found):
            continue
        ns = sorted(set(table["n_train"]))
        found = found[(found["protocol"] == "honest") & (found["n_points"] == len(ns))]
        columns[f"n = {ns[0]:,} to {ns[-1]:,}"] = {
            variant: with_half_width(*mean_with_interval(slopes.astype(float)), 3)
            for variant, slopes in found.groupby("variant")["slope"]
        }
    for title, cells in disjoint.items():
        columns[title] = {_FIXED.get(name, name): cell for name, cell in cells.items()}
    run = dict.fromkeys(itertools.chain(*columns.values()))
    taps = taps_of(Block(pd.DataFrame(), list(run), []), "after-kernel").values()
    rows = [
        [variant, *(column.get(variant, NO_RESULT) for column in columns.values())]
        for variant in (*_EXPONENTS_OF, *taps, "conjugate-kernel", "cnn")
        if variant in run
    ]
    if not rows:
        return []
    return markdown_rows(["", *columns], rows)


def two_layer_lines(table: pd.DataFrame | None, published: Mapping[str, Any]) -> list[str]:
    """Return the relative ratios of 2-layer networks, the published ones in brackets.

    Parameters
    ----------
    table : DataFrame or None
        What two_layer.py wrote.
    published : mapping
        ``source``, and task -> train-train ratio in percent of the 2-layer NTK.
    """
    theirs: Mapping[str, float] = published["relative_ratio"]
    lines = [
        f"- Published: {published['source']}",
        "- Again: `python -m lantk split --source cifar10 --path data --pair frog ship --out"
        " frog-ship.npz` and so on, then `python experiments/two_layer.py --split frog-ship.npz ..."
        " --out two-layer.csv`",
        "",
        "Relative ratios in percent, train-train / test-train. Label terms are added to the 2-layer"
        " NTK with label weight 0.1. Of these and of the trained network, which have seen the train"
        " labels, only test-train tells what carries over. The network has 1,024 hidden units in"
        " the NTK parameterization; it is trained for 10 epochs.\n",
    ]
    if table is None:
        return [*lines, f"{NO_RESULT}\n"]
    rows: list[Sequence[str]] = []
    hierarchy = table[table["kernel"] == "lantk-nth"]
    table = table[table["kernel"] != "lantk-nth"]
    for kernel, group in table.groupby("kernel", sort=False):
        cells = []
        for task in theirs:
            found = group[group["task"] == task]
            cell = NO_RESULT
            if len(found):
                train, test = (
                    found[f"relative_ratio_{name}"].iloc[0] for name in ("train", "test")
                )
                paper = f" ({theirs[task]:.2f})" if kernel == "2-layer NTK" else ""
                cell = f"{train:.2f}{paper} / {test:.2f}"
            cells.append(cell)
        rows.append([row_name(str(kernel)), *cells])
    sizes = ", ".join(
        f"n_train = {a:,}, n_test = {b:,}"
        for a, b in dict.fromkeys(zip(table["n_train"], table["n_test"], strict=True))
    )
    lines += [*markdown_rows(["", *theirs], rows), f"\n{sizes}.\n"]
    if not len(hierarchy):
        return lines
    rows = []
    for n, group in hierarchy.groupby("n_train"):
        by_task = {row.task: row for row in group.itertuples()}
        rows.append([f"{n} images", *(_means(by_task.get(task)) for task in theirs)])
    lines.append(
        "The label part of the hierarchy (`lantk-nth`), fitted to the first images: its mean over"
        " pairs within a class / between two (Monte Carlo error of an entry, as a share of Z).\n"
    )
    return [*lines, *markdown_rows(["", *theirs], rows), ""]


def _means(row: Any) -> str:
    if row is None:
        return NO_RESULT
    return f"{row.mean_within:.2f} / {row.mean_between:.2f} ({100 * row.standard_error:.0f} %)"
