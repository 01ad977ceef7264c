"""The tables of the HTML report: cells with small print, marks, and drawings of intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lantk.regression.statistics import PROTOCOLS, Interval
from lantk.report.blocks import REFERENCE_CONTROLS, Block, record_name, row_name
from lantk.report.claims import Claim, compare, ends_text
from lantk.report.leaderboard import chosen_matrix
from lantk.report.tables import (
    Cell,
    Curve,
    Strip,
    Table,
    accuracy_table,
    claims_table,
    label_table,
    number_cell,
    text_cell,
)
from lantk.variant import Variant

_SHOWN_CLASSES = 20  # of a confusion matrix
_SHOWN_POINTS = 5.0  # of accuracy below weight 0, that a small curve shows


def accuracy_tables(block: Block, name: str) -> tuple[Table, Table | None]:
    """Return accuracies with intervals and p-values: of the paper's rows, and of the controls."""
    table = accuracy_table(block)
    rows: dict[bool, list[Sequence[Cell]]] = {False: [], True: []}
    for variant, cells in zip(block.variants, table.rows, strict=True):
        gain = compare(block, variant, "cntk")
        if block.has_several_tasks and gain.beyond.is_known and gain.beyond.error:
            last = replace(cells[-1], notes=[f"95 %: {ends_text(gain.beyond)}"])
            cells = [*cells[:-1], last]
        rows[variant in REFERENCE_CONTROLS or Variant.of(variant).control is not None].append(cells)
    controls = Table(table.header, rows[True], f"{name}: controls") if rows[True] else None
    return Table(table.header, rows[False], name), controls


def claims_part(claims: Sequence[Claim], name: str) -> tuple[str, Table] | None:
    """Return what claims have in common and their table, each interval drawn; None of none."""
    if not claims:
        return None
    common, table = claims_table(claims, name)
    found = [claim.estimate.here for claim in claims]
    if all(math.isnan(interval.error) for interval in found):
        found = [claim.estimate.shown for claim in claims]
    return common, _with_strips(table, 2, "Drawn", found)


def drawn_label_table(block: Block, name: str) -> Table | None:
    """Return what labels are worth, with a strip for each interval where columns are tasks."""
    table = label_table(block)
    if table is None or not block.is_over_tasks:
        return table and replace(table, name=name)
    worth = {row_name(v): compare(block, v, f"{v}-shuffled").shown for v in block.variants}
    intervals = [worth[row[0].text] for row in table.rows]
    place, title = len(table.header), "Label gain, drawn"
    return replace(_with_strips(table, place, title, intervals), name=name)


def _with_strips(table: Table, place: int, title: str, intervals: Sequence[Interval]) -> Table:
    """Return a table with a column in some place that draws an interval of each row."""
    strips = iter(strips_of(i for i in intervals if not math.isnan(i.mean)))
    cells = [
        Cell("") if math.isnan(i.mean) else Cell("", i.mean, strip=next(strips)) for i in intervals
    ]
    rows = [[*r[:place], c, *r[place:]] for r, c in zip(table.rows, cells, strict=True)]
    return replace(table, header=[*table.header[:place], title, *table.header[place:]], rows=rows)


def strips_of(intervals: Iterable[Interval]) -> list[Strip]:
    """Return drawings of means and their intervals on one axis that holds 0."""
    found = list(intervals)
    halves = [0.0 if math.isnan(i.half) else i.half for i in found]
    low = min([0.0, *(i.mean - half for i, half in zip(found, halves, strict=True))])
    high = max([0.0, *(i.mean + half for i, half in zip(found, halves, strict=True))])
    if high == low:
        low, high = -1.0, 1.0

    def place(points: float) -> float:
        # A margin, so that no mark is cut off.
        return round(6 + 88 * (points - low) / (high - low), 2)

    return [
        Strip(place(i.mean - half), place(i.mean), place(i.mean + half), place(0.0))
        for i, half in zip(found, halves, strict=True)
    ]


def choice_table(records: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return what was chosen on validation inside train, and what on the test images.

    One row a case and variant that has something to choose; seeds of controls are left out.
    """
    has_validation = any("honest" in r["protocols"] and _validated(r) for r in records)
    shown = [name for name in PROTOCOLS if any(name in r["protocols"] for r in records)]
    rows: list[dict[str, Cell]] = []
    for record in records:
        is_control = Variant.of(record["variant"]).control is not None
        if is_control or len(record["curve"]) < 2 or record["variant"] == "oracle-label":
            continue
        honest, oracle = (record["protocols"].get(name) or {} for name in PROTOCOLS)
        cells = {"Case": text_cell(record["case"]), "Variant": text_cell(record_name(record))}
        if has_validation:
            validated: dict[float | None, float] = dict(_validated(record))
            cells["Validation curve"] = Cell("", curve=_validation_curve(record))
            cells["Honest choice"] = _chosen_cell(honest)
            n_negative = chosen_matrix(record["curve"], honest)["n_negative"]
            cells["Negative eigenvalues there"] = number_cell(n_negative, digits=0)
            cells["Validation, chosen"] = number_cell(validated.get(_weight(honest)))
            is_singular = (record.get("diagnostics") or {}).get("kernel_is_singular")
            absent = "none: K is singular" if is_singular else "-"
            cells["Validation, weight 0"] = number_cell(validated.get(0.0), absent)
        if "honest" in shown:
            cells["Test, honest"] = _percent_cell(honest)
        if "oracle" in shown:
            cells |= {"Oracle choice": _chosen_cell(oracle), "Test, oracle": _percent_cell(oracle)}
        rows.append(cells)
    if not rows:
        return None
    texts = [[*row.values()] for row in rows]
    return Table([*rows[0]], texts, "What was chosen for each case and variant")


def confusion_tables(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Table]]:
    """Return, for each case, balanced accuracies and what images of each class were taken for.

    One row a variant, protocol and class; controls are left out, and so are cases of very many
    classes.
    """
    found: dict[str, list[list[Cell]]] = {}
    names: dict[str, list[str]] = {}
    for record in records:
        case, classes = record["case"], [str(name) for name in record["classes"]]
        if len(classes) > _SHOWN_CLASSES or Variant.of(record["variant"]).control is not None:
            continue
        names[case] = classes
        for protocol, choice in record["protocols"].items():
            if protocol not in PROTOCOLS or "confusion" not in choice:
                continue
            head = [text_cell(record_name(record)), text_cell(protocol)]
            head.append(number_cell(100 * choice["balanced_accuracy"]))
            for name, counts in zip(classes, choice["confusion"], strict=True):
                cells = [number_cell(n, digits=0) for n in counts]
                found.setdefault(case, []).append([*head, text_cell(name), *cells])
    header = ["", "Protocol", "Balanced (%)", "Class"]
    return [
        (case, Table([*header, *names[case]], rows, f"Classes of {case}"))
        for case, rows in found.items()
    ]


def _weight(point: Mapping[str, Any]) -> float | None:
    """Return the label weight of a point or choice, or the ridge where that is what varies."""
    weight = point.get("label_weight")
    found = point.get("ridge") if weight is None else weight
    return None if found is None else float(found)


def _validated(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return (weight, validation accuracy in percent) of a path, by weight."""
    points = [(_weight(p), p.get("validation_accuracy")) for p in record["curve"]]
    return sorted((w, 100 * a) for w, a in points if w is not None and a is not None)


def _chosen_cell(choice: Mapping[str, Any]) -> Cell:
    for key, text in (("label_weight", "r ="), ("ridge", "ridge"), ("epoch", "epoch")):
        if choice.get(key) is not None:
            return Cell(f"{text} {choice[key]:g}", float(choice[key]))
    return Cell("-")


def _percent_cell(choice: Mapping[str, Any]) -> Cell:
    accuracy = choice.get("accuracy")
    return number_cell(None if accuracy is None else 100 * accuracy)


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
            round(5 + (Curve.width - 10) * i / (len(points) - 1), 1),
            round(5 + (Curve.height - 10) * (high - max(a, low)) / (high - low), 1),
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
    by_rule = ["Rule", "Jobs", "Seconds in all", "Longest (s)", "Peak memory (MB)"]
    by_job = ["Job", "Seconds", "Peak memory (MB)"]
    jobs = timings.set_index("job")
    return (
        Table(by_rule, _numbered(summed, (0, 1, 1, 0)), "Time and memory by rule"),
        Table(by_job, _numbered(jobs, (1, 0)), "Time and memory of each job"),
    )


def _numbered(frame: pd.DataFrame, digits: Sequence[int]) -> list[list[Cell]]:
    """Return a row of cells for each row: its name, and its numbers with some decimals each."""
    return [
        [
            text_cell(str(name)),
            *(number_cell(v, digits=d) for v, d in zip(row, digits, strict=True)),
        ]
        for name, *row in frame.itertuples(name=None)
    ]
