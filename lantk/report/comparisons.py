"""The table of one results folder as Markdown: a section a protocol, and how the error falls."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from lantk.experiment.variants import is_network_kernel
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import blocks, sizes_text
from lantk.report.tables import block_lines, exponent_lines

TITLES = {
    "honest": "Honest: nothing chosen on the test set",
    "oracle": "Oracle: chosen on the test set, optimistic, printed to compare with the paper",
}


_KERNEL_CHOICES = (
    " Of networks' kernels, ridge and epoch are those that predict best what was held out: one fold"
    " or as many as `after_kernels.held_out` says, each with a network trained without it."
)


def choices_text(protocol: str, variants: Collection[str]) -> str:
    """Return what a protocol chooses and where, as far as some variants are concerned."""
    has_best, has_cnn = "lantk-best" in variants, "cnn" in variants
    has_kernels = any(map(is_network_kernel, variants))
    what = "Label weight and ridge"
    if protocol == "honest":
        what += ", and for LANTK-best the variant," if has_best else ""
        epoch = "; the CNN is taken after its last epoch" if has_cnn else ""
        kernels = _KERNEL_CHOICES if has_kernels else ""
        chosen = "are chosen by stratified cross-validation inside the train set"
        return f"{what} {chosen}{epoch}.{kernels}"
    parts = ["for LANTK-best the variant,"] * has_best
    parts += ["of a network's kernel the epoch,"] * has_kernels + ["the CNN's epoch"] * has_cnn
    if parts:
        what = ", ".join([what, *(part.rstrip(",") for part in parts[:-1])]) + f", and {parts[-1]}"
    ceiling = " oracle-label adds the true label products, test labels included: a ceiling."
    return (
        f"{what} are those with the best test accuracy (of the oracle's own weights and ridges,"
        " which need not hold 0 nor the honest choice); intervals and p-values do not allow for"
        " that choice." + (ceiling if "oracle-label" in variants else "")
    )


def table_markdown(table: pd.DataFrame, exponents: pd.DataFrame | None = None) -> str:
    """Return the result tables in the layout of the seed's, one section per protocol.

    Parameters
    ----------
    table : pandas.DataFrame
        The leaderboard. The order of the tasks is kept.
    exponents : pandas.DataFrame, optional
        What `statistics.error_exponents` found in it; a last section if there is any.

    Returns
    -------
    str
        Markdown: for each protocol the accuracies in percent with their average and the
        improvement over CNTK, then intervals and p-values, then what labels are worth.

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
            choices = choices_text(protocol, set(chosen["variant"]))
            introduction = f"Test accuracy in percent. {choices} " if i == 0 else ""
            lines += [introduction + sizes_text(block.frame) + "\n", *block_lines(block)]
    if exponents is not None and not exponents.empty:
        lines += ["## Error against n\n", *exponent_lines(exponents)]
    return "\n".join(lines)
