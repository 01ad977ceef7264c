"""The tables of the HTML report as cells: text, what it sorts by, small print, marks, strips."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lantk.label_terms.names import split_control
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import REFERENCE_CONTROLS, Block, row_name
from lantk.report.claims import Estimate, compare
from lantk.report.tables import (
    average_and_improvement,
    elasticity_rows,
    exponent_rows,
    interval_texts,
    label_rows,
)

_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
_SIGNIFICANCE = 0.05
_CURVE_WIDTH, _CURVE_HEIGHT = 96.0, 26.0
_SHOWN_POINTS = 5.0  # of accuracy below weight 0, that a small curve shows


@dataclass(frozen=True)
class Strip:
    """A small drawing of an interval, places in percent of its width."""

    low: float
    middle: float
    high: float
    zero: float


@dataclass(frozen=True)
class Curve:
    """A small drawing of a validation curve, in the units of its viewBox."""

    points: str
    chosen: tuple[float, float] | None
    width: float = _CURVE_WIDTH
    height: float = _CURVE_HEIGHT


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    notes: Sequence[str] = ()
    mark: str = ""
    """``better``, ``worse`` or nothing."""
    value: float | str | None = None
    """What the column is sorted by; None is last."""
    strip: Strip | None = None
    curve: Curve | None = None


@dataclass(frozen=True)
class Table:
    """A table that a reader can sort; the first cell of a row names it."""

    name: str
    """What it holds, for those who hear the page."""
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def number_cell(text: str, **others: Any) -> Cell:
    """Return a cell that is sorted by the first number in its text."""
    found = _NUMBER.search(text)
    return Cell(text, value=float(found[0].replace(",", "")) if found else None, **others)


def text_cell(text: str) -> Cell:
    """Return a cell that is sorted by its text."""
    return Cell(text, value=text.lower())


def accuracy_tables(block: Block, name: str) -> tuple[Table, Table | None]:
    """Return accuracies with intervals and p-values: of the seed's rows, and of the controls."""
    controls = [
        v for v in block.variants if v in REFERENCE_CONTROLS or split_control(v)[1] is not None
    ]
    main = [v for v in block.variants if v not in controls]
    percent = 100 * block.values("accuracy")
    block = _with_plain(block)
    found = {(row.variant, row.column): row for row in block.frame.itertuples()}
    header = ["Variant", *block.columns]
    header += ["Average", "Improvement (abs / rel.)"] * block.is_over_tasks

    def rows(variants: Sequence[str]) -> list[list[Cell]]:
        made = []
        for variant in variants:
            cells = [_accuracy_cell(found.get((variant, column))) for column in block.columns]
            if block.is_over_tasks:
                average, improvement = average_and_improvement(percent, variant, "-")
                gain = compare(block, variant, "cntk")
                notes = [f"95 %: {gain.interval_text}"] if gain.has_interval else []
                cells += [number_cell(average), number_cell(improvement, notes=notes)]
            made.append([text_cell(row_name(variant)), *cells])
        return made

    return (
        Table(name, header, rows(main)),
        Table(f"{name}: controls", header, rows(controls)) if controls else None,
    )


def _accuracy_cell(row: Any) -> Cell:
    if row is None:
        return Cell("-")
    mark = ""
    if row.variant != "cntk" and not pd.isna(row.p_value) and row.p_value < _SIGNIFICANCE:
        mark = "better" if row.accuracy > row.plain else "worse"
    return number_cell(f"{100 * row.accuracy:.2f}", notes=interval_texts(row), mark=mark)


def _with_plain(block: Block) -> Block:
    """Return a block whose rows also hold CNTK's accuracy in the same column, as ``plain``."""
    values = block.values("accuracy")
    plain = values.loc["cntk"] if "cntk" in values.index else pd.Series(dtype=float)
    frame = block.frame.assign(plain=[plain.get(column, math.nan) for column in block.frame.column])
    return Block(frame, block.variants, block.columns, block.is_over_tasks)


def label_table(block: Block, name: str) -> Table | None:
    """Return what labels are worth, with a strip for each interval where columns are tasks."""
    header, rows = label_rows(block)
    if not rows:
        return None
    made = [[text_cell(row[0]), *map(number_cell, row[1:])] for row in rows]
    if not block.is_over_tasks:
        return Table(name, ["Variant", *header[1:]], made)
    worth = {v: compare(block, v, f"{v}-shuffled") for v in block.variants}
    drawn = {row_name(v): found for v, found in worth.items() if found.is_known}
    strips = strips_of(drawn.values())
    shown = dict(zip(drawn, strips, strict=True))
    for cells in made:
        found = drawn.get(cells[0].text)
        value = None if found is None else found.points
        cells.append(Cell("", strip=shown.get(cells[0].text), value=value))
    columns = ["Variant", *header[1:], "Label gain, drawn"]
    return Table(name, columns, made)


def elasticity_table(block: Block, name: str) -> Table | None:
    """Return relative ratios and alignments of what was chosen; None where none is known."""
    found = elasticity_rows(block)
    if found is None:
        return None
    header, rows = found
    made = [[text_cell(row[0]), *map(number_cell, row[1:])] for row in rows]
    return Table(name, ["Variant", *header[1:]], made)


def strips_of(differences: Iterable[Estimate]) -> list[Strip]:
    """Return drawings of differences and their intervals on one axis that holds 0."""
    found = list(differences)
    halves = [0.0 if math.isnan(d.half) else d.half for d in found]
    low = min([0.0, *(d.points - half for d, half in zip(found, halves, strict=True))])
    high = max([0.0, *(d.points + half for d, half in zip(found, halves, strict=True))])
    if high == low:
        low, high = -1.0, 1.0

    def place(points: float) -> float:
        # A margin, so that no mark is cut off.
        return round(6 + 88 * (points - low) / (high - low), 2)

    return [
        Strip(place(d.points - half), place(d.points), place(d.points + half), place(0.0))
        for d, half in zip(found, halves, strict=True)
    ]


def exponent_tables(exponents: pd.DataFrame) -> list[tuple[str, Table]]:
    """Return the slopes of log error on log n, a table for each protocol and architecture."""
    made = []
    for title, header, rows in exponent_rows(exponents):
        cells = [[text_cell(row[0]), *map(number_cell, row[1:])] for row in rows]
        made.append((title, Table(f"Slopes, {title}", ["Variant", *header[1:]], cells)))
    return made


def choice_table(records: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return what was chosen on validation inside train, and what on the test images.

    One row a case and variant that has something to choose; seeds of controls are left out.
    """
    has_validation = any(_validated(record) for record in records)
    header = ["Case", "Variant"]
    header += [
        "Validation curve",
        "Honest choice",
        "Validation, chosen",
        "Validation, weight 0",
    ] * (has_validation)
    shown = [name for name in PROTOCOLS if any(name in r["protocols"] for r in records)]
    header += ["Test, honest"] * ("honest" in shown)
    header += ["Oracle choice", "Test, oracle"] * ("oracle" in shown)
    rows = []
    for record in records:
        is_control = split_control(record["variant"])[1] is not None
        if is_control or len(record["curve"]) < 2 or record["variant"] == "oracle-label":
            continue
        protocols = record["protocols"]
        honest, oracle = (protocols.get(name) or {} for name in PROTOCOLS)
        name = row_name(record["variant"])
        seed = record.get("seed")
        name += "" if seed is None else f", seed {seed}"
        cells = [text_cell(record["case"]), text_cell(name)]
        if has_validation:
            cells += [
                Cell("", curve=_validation_curve(record)),
                _chosen_cell(honest),
                _percent_cell(_validation_at(record, honest)),
                _percent_cell(_validation_at_zero(record)),
            ]
        cells += [_percent_cell(honest.get("accuracy"))] * ("honest" in shown)
        if "oracle" in shown:
            cells += [_chosen_cell(oracle), _percent_cell(oracle.get("accuracy"))]
        rows.append(cells)
    return Table("What was chosen for each case and variant", header, rows) if rows else None


def _weight(point: Mapping[str, Any]) -> float | None:
    """Return the label weight of a point or choice, or the ridge where that is what varies."""
    weight = point.get("label_weight")
    found = point.get("ridge") if weight is None else weight
    return None if found is None else float(found)


def _validated(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return (weight, validation accuracy in percent) of a path, by weight."""
    points = [(_weight(p), p.get("validation_accuracy")) for p in record["curve"]]
    return sorted((w, 100 * a) for w, a in points if w is not None and a is not None)


def _validation_at(record: Mapping[str, Any], choice: Mapping[str, Any]) -> float | None:
    found = dict(_validated(record)).get(_weight(choice))  # type: ignore[arg-type]
    return None if found is None else found / 100


def _validation_at_zero(record: Mapping[str, Any]) -> float | None:
    found = dict(_validated(record)).get(0.0)
    return None if found is None else found / 100


def _chosen_cell(choice: Mapping[str, Any]) -> Cell:
    if choice.get("label_weight") is not None:
        return Cell(f"r = {choice['label_weight']:g}", value=float(choice["label_weight"]))
    if choice.get("ridge") is not None:
        return Cell(f"ridge {choice['ridge']:g}", value=float(choice["ridge"]))
    if choice.get("epoch") is not None:
        return Cell(f"epoch {choice['epoch']}", value=float(choice["epoch"]))
    return Cell("-")


def _percent_cell(accuracy: float | None) -> Cell:
    return Cell("-") if accuracy is None else number_cell(f"{100 * accuracy:.2f}")


def _validation_curve(record: Mapping[str, Any]) -> Curve | None:
    """Return the validation accuracy by rank of weight, collapses cut off."""
    points = _validated(record)
    if len(points) < 2:
        return None
    values = [accuracy for _, accuracy in points]
    high, low = max(values), max(min(values), values[0] - _SHOWN_POINTS)
    if high - low < 1:
        high, low = high + 0.5, low - 0.5
    places = [
        (
            round(5 + (_CURVE_WIDTH - 10) * i / (len(points) - 1), 1),
            round(5 + (_CURVE_HEIGHT - 10) * (high - max(a, low)) / (high - low), 1),
        )
        for i, a in enumerate(values)
    ]
    chosen = _weight(record["protocols"].get("honest") or {})
    at = next((place for place, (w, _) in zip(places, points, strict=True) if w == chosen), None)
    return Curve(" ".join(f"{x},{y}" for x, y in places), at)


def timing_tables(timings: pd.DataFrame) -> tuple[Table, Table] | None:
    """Return seconds and peak memory, summed by rule and of each job; None without any."""
    if timings.empty:
        return None
    rule = timings["job"].str.split("/").str[0]
    summed = timings.groupby(rule, sort=False).agg(
        jobs=("job", "size"),
        seconds=("seconds", "sum"),
        longest=("seconds", "max"),
        memory=("peak_memory_mb", "max"),
    )
    rows = [
        [
            text_cell(str(name)),
            number_cell(f"{row['jobs']:.0f}"),
            *(number_cell(f"{row[key]:,.1f}") for key in ("seconds", "longest")),
            _memory_cell(row["memory"]),
        ]
        for name, row in summed.iterrows()
    ]
    jobs = [
        [text_cell(job), number_cell(f"{seconds:,.1f}"), _memory_cell(memory)]
        for job, seconds, memory in timings.itertuples(index=False)
    ]
    by_rule = ["Rule", "Jobs", "Seconds in all", "Longest (s)", "Peak memory (MB)"]
    return (
        Table("Time and memory by rule", by_rule, rows),
        Table("Time and memory of each job", ["Job", "Seconds", "Peak memory (MB)"], jobs),
    )


def _memory_cell(memory: float) -> Cell:
    return Cell("-") if pd.isna(memory) else number_cell(f"{memory:,.0f}")
