"""The table of one results folder as Markdown: a section a protocol, and how the error falls."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import pandas as pd

from lantk.experiment.variants import LAP
from lantk.regression.statistics import DEFINITE, PROTOCOLS, mean_with_interval
from lantk.report.blocks import (
    below_honest_text,
    blocks,
    imbalance_text,
    order_variants,
    row_name,
    sizes_text,
)
from lantk.report.claims import judge, legend, main_claims, network_claims, signed
from lantk.report.tables import (
    Cell,
    Table,
    accuracy_lines,
    block_lines,
    claims_lines,
    label_table,
    markdown_lines,
    markdown_rows,
    mean_cell,
    text_cell,
)
from lantk.report.term_tables import term_lines
from lantk.variant import Variant

TITLES = {
    "honest": "Honest: nothing chosen on the test set",
    "oracle": "Oracle: chosen on the test set, optimistic, printed to compare with the paper",
    DEFINITE: "Honest, definite only: how much it matters that K + lambda Z may be indefinite",
}
_DEFINITE = (
    "In {} of {} cells the honest choice is a weight at which K + lambda Z has negative eigenvalues"
    " on the train images (the first table; of several seeds the mean). In the others weights are"
    " chosen by the same validation among those at which it has none, and LANTK-best among such"
    " choices: accuracies in percent, then what labels are worth."
)


_KERNEL_CHOICES = (
    " Of networks' kernels, ridge and epoch are those that predict best what was held out: one fold"
    " or as many as `after_kernels.held_out` says, each with a network trained without it."
)


def choices_text(protocol: str, variants: Collection[str], below: str = "") -> str:
    """Return what a protocol chooses and where, as far as some variants are concerned.

    `below` is what `below_honest_text` says.
    """
    has_cnn = "cnn" in variants
    derived = ["for LANTK-best the variant"] * ("lantk-best" in variants)
    derived += [f"for {LAP} the window"] * (LAP in variants)
    has_kernels = any(Variant.of(v).is_network_kernel for v in variants)
    what = "Label weight and ridge"
    if protocol == "honest":
        what += f", and {' and '.join(derived)}," if derived else ""
        epoch = "; the CNN is taken after its last epoch" if has_cnn else ""
        kernels = _KERNEL_CHOICES if has_kernels else ""
        chosen = "are chosen by stratified cross-validation inside the train set"
        return f"{what} {chosen}{epoch}.{kernels}"
    parts = [f"{part}," for part in derived]
    parts += ["of a network's kernel the epoch,"] * has_kernels + ["the CNN's epoch"] * has_cnn
    if parts:
        what = ", ".join([what, *(part.rstrip(",") for part in parts[:-1])]) + f", and {parts[-1]}"
    ends = " oracle-label adds the true label products, test labels included: a ceiling."
    ends = ends * ("oracle-label" in variants)
    ends += f" Here {below}" if below else ""
    return (
        f"{what} are those with the best test accuracy (of the oracle's own weights and ridges,"
        " which need not hold 0 nor the honest choice); intervals and p-values do not allow for"
        f" that choice.{ends}"
    )


def table_markdown(table: pd.DataFrame, exponents: pd.DataFrame | None = None) -> str:
    """Return the result tables in the layout of the paper's as Markdown, one section per protocol.

    Of each the accuracies in percent with their average and the improvement over CNTK, then
    intervals and p-values, then what labels are worth, then label terms alone. Claims follow.

    Parameters
    ----------
    table : pandas.DataFrame
        The leaderboard. The order of the tasks is kept.
    exponents : pandas.DataFrame, optional
        What `error_exponents` found in it; a last section if there is any.

    Notes
    -----
    Columns are the tasks, with one table for each n and architecture; for a single task the n, or
    the architectures if there is one n. Imp. is the average accuracy minus CNTK's in points, and
    the reduction of the average error in percent of CNTK's; ``-`` where CNTK makes no error. A
    variant that was not run for every task has no average.

    Examples
    --------
    >>> rows = {"task": "3-8", "architecture": "chen2020", "n_train": 40, "n_test": 100}
    >>> rows |= {"protocol": "oracle", "ci_low": 0.6, "ci_high": 0.9, "p_value": 0.5}
    >>> rows |= {"spread": None, "label_gain": None}
    >>> rows |= {"variant": ["cntk", "cnn"], "accuracy": [0.75, 0.8]}
    >>> print(table_markdown(pd.DataFrame(rows)).splitlines()[9])
    | CNN  | 80.00 | 80.00 | 5.00 / 20.0 %     |
    """
    lines = []
    for protocol in PROTOCOLS:
        chosen = table[table["protocol"] == protocol]
        for i, (title, block) in enumerate(blocks(chosen)):
            lines += [f"## {TITLES[protocol]}\n"] if i == 0 else []
            lines += [f"### {title}\n"] if title else []
            # What holds for all tables of a section is said once.
            choices = choices_text(protocol, set(chosen["variant"]), below_honest_text(table))
            introduction = f"Test accuracy in percent. {choices} " if i == 0 else ""
            sizes = " ".join([sizes_text(block.frame), imbalance_text(block.frame)]).rstrip()
            lines += [f"{introduction}{sizes}\n", *block_lines(block)]
            # Test accuracies at fixed weights are those of either protocol.
            lines += term_lines(block, has_weights=protocol == table["protocol"].iloc[0])
    claims = [*judge(main_claims(table), network_claims(table))]
    for title, found in zip(("Claims", "Claims on the network's kernels"), claims, strict=True):
        lines += [f"## {title}\n", *claims_lines(found), ""] if found else []
    every = [claim for found in claims for claim in found]
    lines += [f"{text}\n" for text in legend(every)] if every else []
    lines += definite_lines(table)
    if exponents is not None and not exponents.empty:
        lines += ["## Error against n\n", *exponent_lines(exponents)]
    return "\n".join(lines)


def definite_lines(table: pd.DataFrame) -> list[str]:
    """Return the lines on the choice among definite matrices, where the honest one was of all."""
    negative = table.get("n_negative", pd.Series(math.nan, table.index)).astype(float)
    is_known = (table["protocol"] == "honest") & negative.notna()
    is_indefinite = is_known & (negative > 0)
    if not is_indefinite.any():
        return []
    lines = [f"## {TITLES[DEFINITE]}\n"]
    shown = table[table["variant"].isin(table[is_indefinite]["variant"])]
    honest = blocks(shown[shown["protocol"] == "honest"])
    text = _DEFINITE.format(is_indefinite.sum(), is_known.sum())
    for i, (title, block) in enumerate(honest):
        lines += [f"### {title}\n"] if title else []
        lines += [f"{text}\n"] if i == 0 else []
        rows = [
            [row_name(variant), *(block.missing if math.isnan(n) else f"{n:.3g}" for n in counts)]
            for variant, counts in block.values("n_negative").iterrows()
        ]
        lines += [*markdown_rows(["Negative eigenvalues", *block.columns], rows), ""]
    for title, block in blocks(table[table["protocol"] == DEFINITE]):
        lines += [f"### {title}\n"] if title else []
        lines += [*accuracy_lines(block), ""]
        worth = label_table(block)
        lines += [*markdown_lines(worth), ""] if worth is not None else []
    return lines


def exponent_lines(exponents: pd.DataFrame, missing: str = "-") -> list[str]:
    """Return the slopes of log(error) on log(n), for each protocol and architecture a table."""
    lines = [f"{exponent_text(exponents)}\n"]
    for table in exponent_tables(exponents, missing):
        lines += [f"### {table.name}\n", *markdown_lines(table), ""]
    return lines


def exponent_text(exponents: pd.DataFrame) -> str:
    """Return what the tables of slopes hold."""
    over = " over the tasks" if exponents["task"].nunique() > 1 else ""
    interval = f", its mean with a 95 % t-interval{over}" if over else " with its 95 % interval"
    paired = f", both with paired intervals{over}" if over else ""
    return (
        f"Slope b of log(error) = a + b log(n) for each task{interval}; the slope minus CNTK's; and"
        f" the error against CNTK's at the same n (mean of the logarithms{paired}). For a label"
        " term these differences are what Z adds; what of it is labels, only the difference from"
        " its shuffled twin says."
    )


def exponent_tables(exponents: pd.DataFrame, missing: str = "-") -> Iterator[Table]:
    """Yield the slopes of each protocol and architecture, which name the table."""
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
            twin = [_slope_cell(found["slope_minus_shuffled"], "")] * has_twins
            rows.append(_exponent_row(found, variant, missing) + twin)
        yield Table(header, rows, f"{protocol}, {architecture}")


def _exponent_row(found: pd.DataFrame, variant: str, missing: str) -> list[Cell]:
    slopes = [mean_cell(slope, math.nan, missing, 3) for slope in found["slope"]]
    if len(found) > 1:
        slopes.append(_slope_cell(found["slope"], missing))
    elif slopes[0].value is not None:
        low, high = found[["slope_low", "slope_high"]].iloc[0]
        ends = f" ({signed(low, 3)} to {signed(high, 3)})"
        slopes[0] = Cell(slopes[0].text + ends, slopes[0].value)
    if variant == "cntk":
        return [text_cell(row_name(variant)), *slopes, Cell("-"), Cell("-")]
    mean, half = mean_with_interval(found["log_error_minus_cntk"].astype(float))
    ratios = [signed(100 * math.expm1(mean + side * half), 1) for side in (-1, 1)]
    ratio = Cell(missing)
    if not math.isnan(mean):
        ends = "" if math.isnan(half) else f" ({' to '.join(ratios)})"
        ratio = Cell(f"{signed(100 * math.expm1(mean), 1)} %{ends}", 100 * math.expm1(mean))
    difference = _slope_cell(found["slope_minus_cntk"], missing)
    return [text_cell(row_name(variant)), *slopes, difference, ratio]


def _slope_cell(slopes: pd.Series, missing: str) -> Cell:
    return mean_cell(*mean_with_interval(slopes.astype(float)), missing, 3)
