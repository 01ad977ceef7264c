"""Result tables: accuracies, intervals, what labels are worth, claims.

A table is of a `Block` of the leaderboard, and of cells that know their text and their value, which
are laid out as Markdown here, on a terminal by `terminal`, in a page by a template. Nothing is
computed here but averages, differences and their paired intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lantk.report.blocks import CONTROL_TITLES, REFERENCE_CONTROLS, Block, row_name
from lantk.report.claims import Claim, compare, signed, with_half_width
from lantk.variant import Variant

INTERVALS = (
    "95 % Wilson intervals of the accuracies above; p of the exact McNemar test against CNTK on the"
    " same test images; sd, the standard deviation over seeds where there are several (p is then"
    " the first seed's)"
)
_GAIN = (
    "mean gain over CNTK in points with Student's paired 95 % interval over the tasks, of one task"
    " with that over its test images (claims have both)"
)
LABELS = (
    "What labels are worth, in points: gain over CNTK; the same with the labels that Z is fitted"
    " to, or the network trained on, shuffled; and the label gain, which is the difference of the"
    " two: of a twin below CNTK, its loss is part of it and worth of no label"
)
_LABELS_BY_COLUMN = (
    "What labels are worth, in points: gain over CNTK, in brackets that of its twin, with the"
    " labels that Z is fitted to, or the network trained on, shuffled, and behind the stroke the"
    " label gain, their difference. Where the twin only lost, as by choosing badly, labels won"
    " nothing"
)
ELASTICITY = (
    "Local elasticity, train-train / test-train: the relative ratio A / (A + B) in percent of what"
    " was chosen above, K + lambda Z divided by the roots of its diagonal (of a test image, of that"
    " without labels), with A its mean over entries within a class and B between two. 50 tells no"
    " classes apart; a matrix with entries of either sign can leave 0 to 100, and one with a"
    " diagonal that is not positive has no ratio (-). Z and a trained network have seen the train"
    " labels, so only test-train tells what carries over. Alignment is the train kernel's with the"
    " label products. Of kernels to which no Z is added, the last column tells which share the ten"
    " top eigenvectors of the train Gram matrix have of its trace, and which share of the labels"
    " lies along them. Both columns are means over those before."
)
_EIGENVECTORS = ("top10_trace_share", "top10_label_share")
_NO_DIFFERENCE = "+0.00 ± 0.00"
_NOTHING = (
    f" {_NO_DIFFERENCE} means that no accuracy differs: label weight 0 was chosen everywhere, or"
    " the predictions did not change, or as many became right as wrong."
)
_OVER_TASKS = (
    " Means over the tasks with paired 95 % t-intervals over them (claims have those over the test"
    " images, too). Pairs with a class in common share its"
    " images, and the same label permutations are used in every task, so the tasks are not"
    " independent."
)
_OVER_IMAGES = (
    " The interval of a label gain is a paired 95 % interval over the test images, with the spread"
    " over label permutations where there are several."
)


_SIGNIFICANCE = 0.05


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
    width: float = 96.0
    height: float = 26.0


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | str | None = None
    """What the column is sorted by; None is last."""
    notes: Sequence[str] = ()
    mark: str = ""
    """``better``, ``worse`` or nothing."""
    strip: Strip | None = None
    curve: Curve | None = None


@dataclass(frozen=True)
class Table:
    """A table that a reader can sort; the first cell of a row names it."""

    header: Sequence[str]
    """Empty above the names of variants."""
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    """What it holds, for those who hear a page."""


def text_cell(text: str) -> Cell:
    """Return a cell that is sorted by its text."""
    return Cell(text, text.lower())


def number_cell(value: Any, missing: str = "-", digits: int = 2) -> Cell:
    """Return a cell of a number with its decimals; a word stays one."""
    if isinstance(value, str):
        return Cell(value)
    return Cell(missing) if pd.isna(value) else Cell(f"{value:,.{digits}f}", float(value))


def mean_cell(mean: float, half: float, missing: str, digits: int = 2) -> Cell:
    return (
        Cell(missing)
        if math.isnan(mean)
        else Cell(with_half_width(mean, half, digits), float(mean))
    )


def _gain_cell(block: Block, variant: str, missing: str, base: str = "cntk") -> Cell:
    """Return the mean gain over tasks with its interval, the mean alone if it is of one task."""
    found = compare(block, variant, base)
    return mean_cell(found.points, found.shown.half, missing)


def markdown_lines(table: Table) -> list[str]:
    """Return the lines of a table whose columns also line up on a terminal."""
    return markdown_rows(table.header, [[cell.text for cell in row] for row in table.rows])


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of texts."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (header, rule, *rows)
    ]


def block_lines(block: Block) -> list[str]:
    """Return the lines of all tables of a block: accuracies, intervals, what labels are worth."""
    imp = "Imp.: average accuracy minus CNTK's, in points, and as a share of CNTK's error."
    intervals = f"{INTERVALS}; {_GAIN}." if block.is_over_tasks else f"{INTERVALS}."
    lines = [f"{imp}\n"] if block.is_over_tasks else []
    lines += [*accuracy_lines(block), f"\n{intervals}\n", *interval_lines(block), ""]
    worth = label_table(block)
    if worth is not None:
        text = LABELS if block.is_over_tasks else _LABELS_BY_COLUMN
        text += f".{_OVER_TASKS if block.has_several_tasks else _OVER_IMAGES}"
        text += _NOTHING if any(_NO_DIFFERENCE in c.text for row in worth.rows for c in row) else ""
        lines += [f"{text}\n", *markdown_lines(worth), ""]
    elasticity = elasticity_table(block)
    if elasticity is not None:
        lines += [f"{ELASTICITY}\n", *markdown_lines(elasticity), ""]
    return lines


def accuracy_table(block: Block) -> Table:
    """Return accuracies in percent, with average and improvement where columns are tasks.

    The notes of a cell are its interval, p-value and spread; it is marked where it differs from
    CNTK's by more than chance.
    """
    percent = 100 * block.values("accuracy")
    plain = percent.loc["cntk"] if "cntk" in percent.index else pd.Series(dtype=float)
    found = {(row.variant, row.column): row for row in block.frame.itertuples()}
    rows = []
    for variant in block.variants:
        cells = [text_cell(row_name(variant))]
        for column in block.columns:
            row = found.get((variant, column))
            cells.append(_accuracy_cell(row, plain.get(column, math.nan), block.missing))
        if block.is_over_tasks:
            cells += average_and_improvement(percent, variant, block.missing)
        rows.append(cells)
    header = ["", *block.columns, *["Average", "Improvement (abs / rel.)"] * block.is_over_tasks]
    return Table(header, rows)


def _accuracy_cell(row: Any, plain: float, missing: str) -> Cell:
    if row is None:
        return Cell(missing)
    percent, mark = 100 * row.accuracy, ""
    notes = [f"{100 * row.ci_low:.2f} to {100 * row.ci_high:.2f}"]
    if row.variant != "cntk" and not pd.isna(row.p_value):
        notes.append(p_value_text(row.p_value))
        if row.p_value < _SIGNIFICANCE:
            mark = "better" if percent > plain else "worse"
    notes += [] if pd.isna(row.spread) else [f"sd {100 * row.spread:.2f}"]
    return Cell(f"{percent:.2f}", percent, notes, mark)


def average_and_improvement(percent: pd.DataFrame, variant: str, missing: str) -> list[Cell]:
    """Return the last two cells of a row; there is no average of a row that is not full."""
    averages = percent.apply(pd.to_numeric, errors="coerce").mean(axis="columns", skipna=False)
    average, cntk = averages[variant], averages.get("cntk", math.nan)
    if variant == "cntk":
        return [number_cell(average, missing), Cell("-" if missing else "")]
    if math.isnan(average) or math.isnan(cntk):
        return [number_cell(average, missing), Cell(missing)]
    points = f"{round(average - cntk, 2) + 0.0:.2f}"  # no "-0.00"
    share = "-" if cntk >= 100 else f"{round(100 * (average - cntk) / (100 - cntk), 1) + 0.0:.1f} %"
    return [number_cell(average, missing), Cell(f"{points} / {share}", float(average - cntk))]


def accuracy_lines(block: Block) -> list[str]:
    """Return the lines of the accuracies, the published ones in brackets."""
    ours = 100 * block.values("accuracy")
    theirs = pd.DataFrame(block.published).T.reindex(index=ours.index, columns=block.columns)
    rows = []
    for variant in block.variants:
        cells = _accuracy_texts(ours, variant, block.missing, block.is_over_tasks)
        beside = _accuracy_texts(theirs, variant, "", block.is_over_tasks)
        both = [f"{a} ({b})" if b else a for a, b in zip(cells, beside, strict=True)]
        rows.append([row_name(variant), *both])
    header = ["", *block.columns, *["Avg", "Imp. (abs / rel.)"] * block.is_over_tasks]
    return markdown_rows(header, rows)


def _accuracy_texts(
    percent: pd.DataFrame, variant: str, missing: str, is_over_tasks: bool
) -> list[str]:
    cells = [number_cell(value, missing) for value in percent.loc[variant]]
    cells += average_and_improvement(percent, variant, missing) if is_over_tasks else []
    return [cell.text for cell in cells]


def interval_lines(block: Block) -> list[str]:
    """Return the intervals and p-values, with the mean gain where columns are tasks."""
    rows = []
    for variant, (name, *cells) in zip(block.variants, accuracy_table(block).rows, strict=True):
        found = [", ".join(c.notes) or block.missing for c in cells[: len(block.columns)]]
        gain = "-" if variant == "cntk" else _gain_cell(block, variant, block.missing).text
        rows.append([name.text, *found, *[gain] * block.is_over_tasks])
    return markdown_rows(["", *block.columns, *["Mean gain"] * block.is_over_tasks], rows)


def label_table(block: Block) -> Table | None:
    """Return what each label term and control gains and what labels are worth in it.

    Where columns are tasks, a label term's controls stand beside it, those of Z if there are any.
    Elsewhere a cell holds the gain over CNTK and, where there are shuffled twins, the label gain.
    Its interval is over the tasks where there are several, else over the test images. None where
    neither label terms' controls nor others were run.
    """
    if all(Variant.of(v).control is None and v not in REFERENCE_CONTROLS for v in block.variants):
        return None
    if not block.is_over_tasks:
        return _label_table_by_column(block)
    header = ["", "Gain over CNTK", CONTROL_TITLES["shuffled"], "Label gain"]
    # Controls of Z that no label term has get no column.
    of_z = [
        c for c in ("diagonal", "offdiagonal") if any(v.endswith(f"-{c}") for v in block.variants)
    ]
    rows = []
    for variant in block.variants:
        twin = f"{variant}-shuffled"
        is_control = Variant.of(variant).control is not None and twin not in block.variants
        if variant in ("cntk", "cnn") or is_control:
            continue
        missing = block.missing if twin in block.variants else ""
        cells = [_gain_cell(block, variant, block.missing), _gain_cell(block, twin, missing)]
        cells.append(_gain_cell(block, variant, missing, twin))
        cells += [_gain_cell(block, f"{variant}-{control}", "") for control in of_z]
        rows.append([text_cell(row_name(variant)), *cells])
    return Table([*header, *(CONTROL_TITLES[control] for control in of_z)], rows)


def _label_table_by_column(block: Block) -> Table:
    keys = ("accuracy", "label_gain", "label_gain_half_width")
    accuracy, label_gain, halves = (100 * block.values(key) for key in keys)
    rows = []
    for variant in block.variants:
        is_base = variant == "cntk" or Variant.of(variant).is_shuffled
        if is_base or "cntk" not in accuracy.index:
            continue
        gains = accuracy.loc[variant] - accuracy.loc["cntk"]
        cells = [text_cell(row_name(variant))]
        for column, gain in gains.items():
            worth, half = (found.loc[variant, column] for found in (label_gain, halves))
            text = ""
            if not math.isnan(worth):
                # Beside it, whether the variant won or its twin lost.
                text = f" (twin {signed(gain - worth)}) / {with_half_width(worth, half)}"
            is_missing = math.isnan(gain)
            cells.append(
                Cell(block.missing) if is_missing else Cell(signed(gain) + text, float(gain))
            )
        rows.append(cells)
    return Table(["gain (twin's gain) / label gain ± half-width", *block.columns], rows)


def elasticity_table(block: Block) -> Table | None:
    """Return relative ratios, alignment and top eigenvectors; None where no ratio is known."""
    train, test = (100 * block.values(f"relative_ratio_{rows}") for rows in ("train", "test"))
    # What was run and has no ratio has a diagonal that is not positive.
    absent = block.values("accuracy").isna().replace({True: block.missing, False: "-"})
    alignment, *shares = (block.values(key) for key in ("alignment", *_EIGENVECTORS))
    known = [v for v in block.variants if train.loc[v].notna().any()]
    if not known:
        return None
    header = ["", *block.columns, *["Mean"] * (len(block.columns) > 1)]
    header += ["Alignment", "Top 10: trace / labels"]
    rows = []
    for variant in known:
        ratios = [train.loc[variant], test.loc[variant]]
        triples = list(zip(*ratios, absent.loc[variant], strict=True))
        if len(triples) > 1:
            other = block.missing if (absent.loc[variant] == block.missing).any() else "-"
            triples.append((*(part.mean(skipna=False) for part in ratios), other))
        cells = [_pair_cell(a, b, other) for a, b, other in triples]
        mean = alignment.loc[variant].mean(skipna=False)
        cells.append(number_cell(mean, block.missing, 3))
        top = [100 * part.loc[variant].mean(skipna=False) for part in shares]
        text = "" if any(map(math.isnan, top)) else " / ".join(f"{v:.1f} %" for v in top)
        rows.append([text_cell(row_name(variant)), *cells, Cell(text, top[0] if text else None)])
    return Table(header, rows)


def _pair_cell(first: float, second: float, missing: str) -> Cell:
    cells = [number_cell(value, missing) for value in (first, second)]
    if all(cell.value is None for cell in cells):
        return Cell(missing)
    return Cell(" / ".join(cell.text for cell in cells), cells[0].value)


def claims_table(claims: Sequence[Claim], name: str = "Claims") -> tuple[str, Table]:
    """Return what all claims have in common, and them as a table with what differs."""
    columns = {
        "Protocol": [text_cell(claim.protocol) for claim in claims],
        "n": [Cell(f"{claim.n_train:,}", claim.n_train) for claim in claims],
        "Tasks": [text_cell(claim.tasks) for claim in claims],
        "Architecture": [text_cell(claim.architecture) for claim in claims],
        "Command": [text_cell(claim.command) for claim in claims],
    }
    differ = {key: cells for key, cells in columns.items() if len({c.text for c in cells}) > 1}
    common = [f"{key}: {cells[0].text}" for key, cells in columns.items() if key not in differ]
    rows = [
        [text_cell(claim.name), *_estimate_cells(claim), Cell(claim.accuracies), *others]
        for claim, *others in zip(claims, *differ.values(), strict=True)
    ]
    header = ["Claim", "Points, these tasks", "Other tasks", "Accuracies (%)", *differ]
    table = Table(header, rows, name)
    if all(math.isnan(claim.estimate.beyond.error) for claim in claims):
        table = Table([header[0], "Points", *header[3:]], [[*r[:2], *r[3:]] for r in rows], name)
    return "; ".join(text for text in common if not text.endswith(": ")), table


def _estimate_cells(claim: Claim) -> list[Cell]:
    """Return the points with the interval of these tasks, that of other tasks, and verdicts."""
    estimate, (here, beyond) = claim.estimate, claim.verdicts
    points, half = signed(estimate.points), f"± {estimate.here.half:.2f}"
    first = f"{points} {half}" if estimate.here.is_known else points
    second = f"± {estimate.beyond.half:.2f} " if estimate.beyond.is_known else ""
    has_verdict = here != "unknown" or math.isnan(estimate.beyond.error)
    return [
        Cell(f"{first} {here}" if has_verdict else first, estimate.points),
        Cell(f"{second}{beyond}", estimate.beyond.p_value),
    ]


def p_value_text(p_value: float) -> str:
    """Return a p-value with three decimals, or that it is smaller.

    Examples
    --------
    >>> p_value_text(0.04), p_value_text(1e-9)
    ('p = 0.040', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def claims_lines(claims: Sequence[Claim]) -> list[str]:
    """Return claims as lines of Markdown, below what they have in common."""
    common, table = claims_table(claims)
    return [f"{common}.\n", *markdown_lines(table)]
