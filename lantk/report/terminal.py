"""What is printed on a terminal: the leaderboard, what is missing in it, which jobs failed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lantk.experiment.variants import LAP
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import (
    Block,
    below_honest_text,
    blocks,
    imbalance_text,
    row_name,
    sizes_text,
)
from lantk.report.claims import (
    NOTHING,
    compare,
    judge,
    legend,
    main_claims,
    network_claims,
)
from lantk.report.tables import claims_table, number_cell
from lantk.variant import PLAIN_KERNELS
from lantk.workflow.failures import FailedJob

_WIDTH = 100
_GAP = "  "
# Failed jobs whose logs are shown; of more, the last line is.
_SHOWN_JOBS = 5
_PROTOCOL_TEXTS = {
    "honest": "honest: choices made by validation inside the train set",
    "oracle": "oracle: choices made on the test set, as in the paper (optimistic)",
}

# A column of a table: the lines of its head, and a cell a row.
_Column = tuple[list[str], list[str]]


def leaderboard_text(frame: pd.DataFrame, width: int = _WIDTH) -> str:
    """Return the accuracies of a leaderboard as aligned columns, one block a protocol.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `lantk.report.leaderboard.leaderboard` returned.
    width : int
        Columns of the terminal. Long heads are broken at their hyphens; columns that still do not
        fit stand below.

    Examples
    --------
    >>> rows = {"task": "3-8", "architecture": "chen2020", "n_train": 40, "n_test": 100}
    >>> rows |= {"protocol": "honest", "variant": ["cntk", "cnn"], "accuracy": [0.75, 0.8]}
    >>> print(leaderboard_text(pd.DataFrame(rows)))  # doctest: +NORMALIZE_WHITESPACE
    Test accuracy in percent and gain over CNTK in points. n_train = 40, n_test = 100.
    <BLANKLINE>
    honest: choices made by validation inside the train set
            3-8  Gain over CNTK
    CNTK  75.00               -
    CNN   80.00           +5.00
    """
    parts = [textwrap.fill(f"{_quantities(frame)} {sizes_text(frame)}", width)]
    parts += [textwrap.fill(text, width)] if (text := imbalance_text(frame)) else []
    for protocol in PROTOCOLS:
        for i, (title, block) in enumerate(blocks(frame[frame["protocol"] == protocol])):
            lines = [_PROTOCOL_TEXTS[protocol]] if i == 0 else []
            lines += [title] if title else []
            names = [row_name(variant) for variant in block.variants]
            lines += _folded(names, list(_columns(block)), width)
            lines += _weights_lines(block, width)
            if protocol == "oracle" and i == 0:
                lines += textwrap.wrap(below_honest_text(frame), width)
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _weights_lines(block: Block, width: int) -> list[str]:
    """Return why rows may equal CNTK's to the digit, where label weight 0 was chosen."""
    if "label_weight" not in block.frame:
        return []
    has_term = ~block.frame["variant"].isin([*PLAIN_KERNELS, LAP])
    weights = block.frame.loc[has_term, "label_weight"].dropna()
    n_zero = int((weights == 0).sum())
    text = f"Label weight 0, at which nothing is added to CNTK, was chosen in {n_zero} of"
    return textwrap.wrap(f"{text} {len(weights)} cells.", width) if n_zero else []


def claims_text(frame: pd.DataFrame, command: str, width: int = _WIDTH) -> str:
    """Return what a leaderboard says as a table of claims, and how to read it."""
    found = main_claims(frame, command)
    found += [c for c in network_claims(frame, command, is_whole=False) if c not in found]
    if not found:
        return textwrap.fill(NOTHING, width)
    (found,) = judge(found)
    common, table = claims_table(found)
    names, *columns = ([cell.text for cell in cells] for cells in zip(*table.rows, strict=True))
    aligned = [_left([head], cells) for head, cells in zip(table.header[1:], columns, strict=True)]
    lines = _folded(names, aligned, width)
    # A command is copied as it stands.
    whole: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    texts = [textwrap.fill(text, width, **whole) for text in (common, *legend(found))]
    return "\n".join(["Claims", *lines, *texts])


def missing_text(missing: Sequence[tuple[str, str]], cases: Sequence[str]) -> str:
    """Return which results, as (case, stem), are not there, a line for each stem.

    Examples
    --------
    >>> missing = [("3-8", "cntk"), ("3-8", "cnn-seed0"), ("1-8", "cntk")]
    >>> print(missing_text(missing, ["3-8", "1-8"]))
    Not there (3 results):
      cntk: every case
      cnn-seed0: 3-8
    """
    of_stem: dict[str, list[str]] = {}
    for case, stem in missing:
        of_stem.setdefault(stem, []).append(case)
    results = "1 result" if len(missing) == 1 else f"{len(missing)} results"
    lines = [f"Not there ({results}):"]
    for stem, found in of_stem.items():
        every = len(found) == len(cases) > 1
        lines.append(f"  {stem}: {'every case' if every else ', '.join(found)}")
    return "\n".join(lines)


def failures_text(jobs: Sequence[FailedJob], resume: str | None, width: int = _WIDTH) -> str:
    """Return which jobs failed, why, where to read more, and the command that goes on.

    Where no job failed, the workflow was interrupted.
    """
    parts = []
    if len(jobs) > 1:
        parts.append(f"{len(jobs)} jobs failed.")
    parts += [_job_text(job, width) for job in jobs[:_SHOWN_JOBS]]
    others = [
        f"Failed: {job.name}\n  log: {job.log}"
        + "".join(f"\n{_indented(line, width)}" for line in job.last_lines[-1:])
        for job in jobs[_SHOWN_JOBS:]
    ]
    parts += others
    start = "" if jobs else "No job failed, as far as logs tell: what was running was stopped. "
    how = f"To go on:\n  {resume}" if resume else "To go on, give the same command again."
    parts.append(f"{start}Finished jobs are kept. {how}")
    return "\n\n".join(parts)


def _job_text(job: FailedJob, width: int) -> str:
    """Return the end of the log of a job between its name and the path of the log."""
    head = f"Failed: {job.name}"
    n_missing = len(job.results)
    if n_missing:
        head += f" ({n_missing} result{'s are' if n_missing > 1 else ' is'} missing because of it)"
    said = job.last_lines or (
        "(The log says nothing of an end: the job was killed, for example for want of memory, or"
        " is still running.)",
    )
    return "\n".join([head, *(_indented(line, width) for line in said), f"  log: {job.log}"])


def _indented(line: str, width: int) -> str:
    indent = "    " + line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(), width, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )


def _quantities(frame: pd.DataFrame) -> str:
    """Return what the numbers are."""
    found = [block for _, block in blocks(frame[frame["protocol"] == frame["protocol"].iloc[0]])]
    text = "Test accuracy in percent"
    text += " and gain over CNTK in points" if found[0].is_over_tasks else ""
    if found[0].has_several_tasks:
        text += f": its mean over {len(found[0].columns)} tasks with Student's 95 % interval"
    elif found[0].is_over_tasks and "outcomes" in frame:
        text += " with its paired 95 % interval over the test images"
    return f"{text}."


def _folded(names: Sequence[str], columns: Sequence[_Column], width: int) -> list[str]:
    """Return the lines of one table, the rows repeated where not all columns fit."""
    room = width - max(map(len, names))
    if sum(map(_width_of, columns)) > room:
        columns = [(_broken(head), cells) for head, cells in columns]
    lines: list[str] = []
    while columns:
        n = 1
        while n < len(columns) and sum(map(_width_of, columns[: n + 1])) <= room:
            n += 1
        lines += [""] * bool(lines) + _panel(names, columns[:n])
        columns = columns[n:]
    return lines


def _columns(block: Block) -> Iterator[_Column]:
    accuracy = 100 * block.values("accuracy")
    if block.has_several_tasks:
        # There is no average of a row that is not full.
        accuracy["Avg"] = accuracy.mean(axis="columns", skipna=False)
    for name, values in accuracy.items():
        yield [str(name)], [number_cell(value, block.missing).text for value in values]
    if block.is_over_tasks and "cntk" in accuracy.index:
        found = [compare(block, variant, "cntk") for variant in block.variants]
        gains = [e.text if e.is_known else "" for e in found]
        gains[list(block.variants).index("cntk")] = "-"
        yield _left(["Gain over CNTK"], gains)


def _left(head: list[str], cells: Sequence[str]) -> _Column:
    """Return a column that is aligned on the sign, whether or not an interval follows."""
    longest = max(map(len, [*head, *cells]))
    return [line.ljust(longest) for line in head], [cell.ljust(longest) for cell in cells]


def _panel(names: Sequence[str], columns: Sequence[_Column]) -> list[str]:
    """Return aligned lines: names to the left, columns to the right."""
    first = max(map(len, names))
    height = max(len(head) for head, _ in columns)
    heads = [[""] * (height - len(head)) + head for head, _ in columns]
    rows = [("", *(head[i] for head in heads)) for i in range(height)]
    rows += list(zip(names, *(cells for _, cells in columns), strict=True))
    widths = [_width_of(column) - len(_GAP) for column in columns]
    return [
        _GAP.join(
            [name.ljust(first), *(c.rjust(w) for c, w in zip(cells, widths, strict=True))]
        ).rstrip()
        for name, *cells in rows
    ]


def _width_of(column: _Column) -> int:
    return len(_GAP) + max(map(len, [*column[0], *column[1]]))


def _broken(head: list[str]) -> list[str]:
    """Return a head on several lines, broken at its hyphens."""
    words = head[0].split("-")
    return [*(f"{word}-" for word in words[:-1]), words[-1]]
