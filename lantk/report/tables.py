"""Result tables as lines of Markdown: accuracies, intervals, what labels are worth, exponents.

A table is of a `Block` of the leaderboard. Nothing is computed here but averages, differences
and their paired intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lantk.label_terms.names import split_control
from lantk.regression.statistics import mean_with_interval
from lantk.report.blocks import CONTROL_TITLES, REFERENCE_CONTROLS, Block, order_variants, row_name
from lantk.report.claims import p_value_text, signed, with_half_width

INTERVALS = (
    "95 % Wilson intervals of the accuracies above; p of the exact McNemar test against CNTK on the"
    " same test images; sd, the standard deviation over seeds where there are several (p is then"
    " the first seed's)"
)
_GAIN = "mean gain over CNTK in points with its paired 95 % t-interval over the tasks"
LABELS = (
    "What labels are worth, in points: gain over CNTK; the same with the labels that Z is fitted"
    " to, or the network trained on, shuffled; and the label gain, which is the difference of the"
    " two"
)
_LABELS_BY_COLUMN = (
    "What labels are worth, in points: gain over CNTK and, behind the stroke, the label gain, which"
    " is that gain minus the same with the labels that Z is fitted to, or the network trained on,"
    " shuffled"
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
    " Means over the tasks with paired 95 % t-intervals. Pairs with a class in common share its"
    " images, and the same label permutations are used in every task, so the tasks are not"
    " independent."
)
_OVER_IMAGES = (
    " The interval of a label gain is a paired 95 % interval over the test images (normal"
    " approximation), of right or wrong minus the mean over the label permutations."
)


def block_lines(block: Block) -> list[str]:
    """Return the lines of all tables of a block: accuracies, intervals, what labels are worth."""
    imp = "Imp.: average accuracy minus CNTK's, in points, and as a share of CNTK's error."
    intervals = f"{INTERVALS}; {_GAIN}." if block.is_over_tasks else f"{INTERVALS}."
    lines = [f"{imp}\n"] if block.is_over_tasks else []
    lines += [*accuracy_lines(block), f"\n{intervals}\n", *interval_lines(block), ""]
    worth = label_lines(block)
    if worth:
        text = LABELS if block.is_over_tasks else _LABELS_BY_COLUMN
        text += f".{_OVER_TASKS if block.has_several_tasks else _OVER_IMAGES}"
        text += _NOTHING if any(_NO_DIFFERENCE in line for line in worth) else ""
        lines += [f"{text}\n", *worth, ""]
    elasticity = elasticity_rows(block)
    if elasticity is not None:
        lines += [f"{ELASTICITY}\n", *markdown_rows(*elasticity), ""]
    return lines


def accuracy_lines(block: Block) -> list[str]:
    """Return the accuracies in percent, with average and improvement where columns are tasks."""
    accuracy = 100 * block.values("accuracy")
    published = pd.DataFrame(block.published).T.reindex(index=accuracy.index, columns=block.columns)
    rows = []
    for variant in block.variants:
        ours = [_number(value, block.missing) for value in accuracy.loc[variant]]
        if block.is_over_tasks:
            ours += average_and_improvement(accuracy, variant, block.missing)
        theirs = [_number(value, "") for value in published.loc[variant]]
        if block.is_over_tasks:
            theirs += average_and_improvement(published, variant, "")
        cells = [f"{a} ({b})" if b else a for a, b in zip(ours, theirs, strict=True)]
        rows.append([row_name(variant), *cells])
    header = ["", *block.columns, *["Avg", "Imp. (abs / rel.)"] * block.is_over_tasks]
    return markdown_rows(header, rows)


def average_and_improvement(percent: pd.DataFrame, variant: str, missing: str) -> list[str]:
    """Return the last two cells of a row; there is no average of a row that is not full."""
    averages = percent.apply(pd.to_numeric, errors="coerce").mean(axis="columns", skipna=False)
    average, cntk = averages[variant], averages.get("cntk", math.nan)
    if variant == "cntk":
        return [_number(average, missing), "-" if missing else ""]
    if math.isnan(average) or math.isnan(cntk):
        return [_number(average, missing), missing]
    points = f"{round(average - cntk, 2) + 0.0:.2f}"  # no "-0.00"
    share = "-" if cntk >= 100 else f"{round(100 * (average - cntk) / (100 - cntk), 1) + 0.0:.1f} %"
    return [_number(average, missing), f"{points} / {share}"]


def interval_lines(block: Block) -> list[str]:
    """Return the intervals and p-values, with the mean gain where columns are tasks."""
    cells = {(row.variant, row.column): _interval(row) for row in block.frame.itertuples()}
    accuracy = 100 * block.values("accuracy")
    rows = []
    for variant in block.variants:
        found = [cells.get((variant, column), block.missing) for column in block.columns]
        gain = (
            [_mean(gains_over_cntk(accuracy, variant), block.missing)]
            if block.is_over_tasks
            else []
        )
        gain = ["-"] if gain and variant == "cntk" else gain
        rows.append([row_name(variant), *found, *gain])
    return markdown_rows(["", *block.columns, *["Mean gain"] * block.is_over_tasks], rows)


def _interval(row: Any) -> str:
    return ", ".join(interval_texts(row))


def interval_texts(row: Any) -> list[str]:
    """Return interval, p-value and spread of a row of the leaderboard, as far as it has them."""
    texts = [f"{100 * row.ci_low:.2f} to {100 * row.ci_high:.2f}"]
    if row.variant != "cntk" and not pd.isna(row.p_value):
        texts.append(p_value_text(row.p_value))
    return texts if pd.isna(row.spread) else [*texts, f"sd {100 * row.spread:.2f}"]


def label_lines(block: Block) -> list[str]:
    """Return the lines of `label_rows`; none where there is nothing to show."""
    header, rows = label_rows(block)
    return markdown_rows(header, rows) if rows else []


def label_rows(block: Block) -> tuple[list[str], list[list[str]]]:
    """Return what each label term and control gains and what labels are worth in it.

    Where columns are tasks, a label term's controls stand beside it, those of Z if there are any.
    Elsewhere a cell holds the gain over CNTK and, where there are shuffled twins, the label gain.
    Its interval is over the tasks where there are several, else over the test images.

    Returns
    -------
    header : list of str
        Names of the columns.
    rows : list of list of str
        Of each variant; none where neither label terms' controls nor others were run.
    """
    if all(split_control(v)[1] is None and v not in REFERENCE_CONTROLS for v in block.variants):
        return [], []
    if not block.is_over_tasks:
        return _label_rows_by_column(block)
    accuracy = 100 * block.values("accuracy")
    header = ["", "Gain over CNTK", CONTROL_TITLES["shuffled"], "Label gain"]
    # Controls of Z that no label term has get no column.
    of_z = [
        c for c in ("diagonal", "offdiagonal") if any(v.endswith(f"-{c}") for v in block.variants)
    ]
    header += [CONTROL_TITLES[control] for control in of_z]
    rows = []
    for variant in block.variants:
        if variant in ("cntk", "cnn") or split_control(variant)[1] is not None:
            continue
        twins = [
            gains_over_cntk(accuracy, f"{variant}-{control}") for control in ("shuffled", *of_z)
        ]
        shuffled, *others = (_mean(gains, "") for gains in twins)
        gain, worth = _mean(gains_over_cntk(accuracy, variant), block.missing), ""
        if f"{variant}-shuffled" in block.variants:
            shuffled = shuffled or block.missing
            mean, half = label_gain_with_interval(block, variant)
            worth = block.missing if math.isnan(mean) else with_half_width(mean, half)
        rows.append([row_name(variant), gain, shuffled, worth, *others])
    return header, rows


def elasticity_rows(block: Block) -> tuple[list[str], list[list[str]]] | None:
    """Return header and rows of relative ratios, alignment and top eigenvectors.

    None where no ratio is known.
    """
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
        cells = [
            other if pd.isna(a) and pd.isna(b) else f"{_number(a, other)} / {_number(b, other)}"
            for a, b, other in triples
        ]
        mean = alignment.loc[variant].mean(skipna=False)
        cells.append(block.missing if math.isnan(mean) else f"{mean:.3f}")
        top = [100 * part.loc[variant].mean(skipna=False) for part in shares]
        cells.append("" if any(map(math.isnan, top)) else " / ".join(f"{v:.1f} %" for v in top))
        rows.append([row_name(variant), *cells])
    return header, rows


def label_gain_with_interval(block: Block, variant: str) -> tuple[float, float]:
    """Return what labels are worth in a variant, in points, and half the width of its interval.

    It is the mean over the tasks where there are several; of one task the interval is over the
    test images. Both are NaN where shuffled twins are missing.
    """
    worth, halves = (
        100 * block.values(key).loc[variant] for key in ("label_gain", "label_gain_half_width")
    )
    if block.has_several_tasks:
        return mean_with_interval(worth)
    return float(worth.iloc[0]), float(halves.iloc[0])


def _label_rows_by_column(block: Block) -> tuple[list[str], list[list[str]]]:
    keys = ("accuracy", "label_gain", "label_gain_half_width")
    accuracy, label_gain, halves = (100 * block.values(key) for key in keys)
    rows = []
    for variant in block.variants:
        gains = gains_over_cntk(accuracy, variant)
        if gains is None or split_control(variant)[1] == "shuffled":
            continue
        cells = [
            block.missing if math.isnan(gain) else signed(gain) + _and_label_gain(worth, half)
            for gain, worth, half in zip(
                gains, label_gain.loc[variant], halves.loc[variant], strict=True
            )
        ]
        rows.append([row_name(variant), *cells])
    return ["gain / label gain ± half-width", *block.columns], rows


def _and_label_gain(worth: float, half: float) -> str:
    return "" if math.isnan(worth) else f" / {with_half_width(worth, half)}"


def gains_over_cntk(accuracy: pd.DataFrame, variant: str) -> pd.Series | None:
    """Return the accuracies of a variant minus CNTK's, in points; None without either."""
    if variant == "cntk" or not {variant, "cntk"} <= set(accuracy.index):
        return None
    return accuracy.loc[variant] - accuracy.loc["cntk"]


def _mean(gains: pd.Series | None, missing: str = "-", digits: int = 2) -> str:
    """Return a mean over tasks with its interval, the mean alone if it is of one task."""
    mean, half = mean_with_interval([math.nan] if gains is None else gains)
    if math.isnan(mean):
        return missing
    return with_half_width(mean, half, digits)


def exponent_lines(exponents: pd.DataFrame, missing: str = "-") -> list[str]:
    """Return the slopes of log(error) on log(n), for each protocol and architecture a table.

    Parameters
    ----------
    exponents : pandas.DataFrame
        What `statistics.error_exponents` returned.
    missing : str
        What stands where there is none.
    """
    lines = [f"{exponent_text(exponents)}\n"]
    for title, header, rows in exponent_rows(exponents, missing):
        lines += [f"### {title}\n", *markdown_rows(header, rows), ""]
    return lines


def exponent_text(exponents: pd.DataFrame) -> str:
    """Return what the tables of slopes hold."""
    over = " over the tasks" if exponents["task"].nunique() > 1 else ""
    return (
        "Slope b of log(error) = a + b log(n) for each task"
        + (
            ", its mean with a 95 % t-interval over the tasks"
            if over
            else " with its 95 % interval"
        )
        + f"; the slope minus CNTK's; and the error against CNTK's at the same n (mean of the"
        f" logarithms{', both with paired intervals' + over if over else ''}). For a label term"
        " these differences are what Z adds; what of it is labels, only the difference from its"
        " shuffled twin says."
    )


def exponent_rows(
    exponents: pd.DataFrame, missing: str = "-"
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, header and rows of the slopes of each protocol and architecture."""
    tasks = list(exponents["task"].unique())
    has_twins = bool(exponents["slope_minus_shuffled"].notna().any())
    header = ["", *tasks, *["Mean"] * (len(tasks) > 1), "Slope minus CNTK's"]
    header += ["Error against CNTK's", *["Slope minus twin's"] * has_twins]
    for (protocol, architecture), group in exponents.groupby(
        ["protocol", "architecture"], sort=False
    ):
        rows = []
        for variant in order_variants(group["variant"].unique()):
            found = group[group["variant"] == variant].set_index("task").reindex(tasks)
            twin = [_mean(found["slope_minus_shuffled"].astype(float), "", 3)] * has_twins
            rows.append(_exponent_row(found, variant, missing) + twin)
        yield f"{protocol}, {architecture}", header, rows


def _exponent_row(found: pd.DataFrame, variant: str, missing: str) -> list[str]:
    slopes = [missing if math.isnan(b) else signed(b, 3) for b in found["slope"]]
    if len(found) > 1:
        slopes.append(_mean(found["slope"], missing, 3))
    elif not math.isnan(found["slope"].iloc[0]):
        low, high = found[["slope_low", "slope_high"]].iloc[0]
        slopes[0] += f" ({signed(low, 3)} to {signed(high, 3)})"
    if variant == "cntk":
        return [row_name(variant), *slopes, "-", "-"]
    difference = _mean(found["slope_minus_cntk"].astype(float), missing, 3)
    mean, half = mean_with_interval(found["log_error_minus_cntk"].astype(float))
    ratios = [signed(100 * math.expm1(mean + side * half), 1) for side in (-1, 1)]
    ratio = missing if math.isnan(mean) else f"{signed(100 * math.expm1(mean), 1)} %"
    ratio += "" if math.isnan(half) else f" ({' to '.join(ratios)})"
    return [row_name(variant), *slopes, difference, ratio]


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns also line up on a terminal."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (header, rule, *rows)
    ]


def _number(value: Any, missing: str) -> str:
    """Return a number with two decimals; a word stays one."""
    if isinstance(value, str):
        return value
    return missing if pd.isna(value) else f"{value:.2f}"
