"""Blocks of the leaderboard: results of one protocol that make one table, and which one is shown.

A block has one row a variant, one column a task, an n or an architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lantk.data.tasks import counts_text, imbalance_warning
from lantk.experiment.variants import BEST, FLIPS_FAMILY, LAP, PLAIN_VARIANTS, candidates
from lantk.regression.statistics import PROTOCOLS
from lantk.variant import Variant

ROWS = {
    "cntk": "CNTK",
    "lantk-best": "LANTK-best",
    "lantk-kr-v1": "LANTK-KR-V1",
    "lantk-kr-v2": "LANTK-KR-V2",
    "lantk-fjlt-v1": "LANTK-FJLT-V1",
    "lantk-fjlt-v2": "LANTK-FJLT-V2",
    "cnn": "CNN",
}
"""Variant -> its row in the paper's table, in that order. Others follow under their names."""
REFERENCE_CONTROLS = (
    *("cntk-ridge", "cntk-rbf", "cntk-laplacian", "cntk-intercept", *FLIPS_FAMILY),
    LAP,
    "oracle-label",
)
CONTROL_TITLES = {
    "shuffled": "With shuffled labels",
    "diagonal": "Diagonal of Z",
    "offdiagonal": "Fitted off the diagonal",
    "offdiagonal-shuffled": "Fitted off the diagonal, shuffled labels",
}


@dataclass(frozen=True)
class Block:
    """Results of one protocol that make one table."""

    frame: pd.DataFrame
    """Rows of the leaderboard, with the name of their column in the table as ``column``."""
    variants: Sequence[str]
    columns: Sequence[str]
    is_over_tasks: bool = True
    """Whether columns are tasks, over which averages and paired intervals make sense."""
    missing: str = "-"
    """What stands where there is no result."""
    published: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    """Variant -> column -> accuracy in percent, or a word; shown in brackets."""

    @property
    def has_several_tasks(self) -> bool:
        """Whether there are means over tasks; else intervals are over test images."""
        return self.is_over_tasks and len(self.columns) > 1

    def values(self, key: str) -> pd.DataFrame:
        """Return one quantity, variants by columns, NaN where there is none."""
        if key not in self.frame:  # as in tables of earlier versions
            return pd.DataFrame(math.nan, list(self.variants), list(self.columns))
        wide = self.frame.pivot(index="variant", columns="column", values=key).astype(float)
        return wide.reindex(index=list(self.variants), columns=list(self.columns))


def row_name(variant: str) -> str:
    """Return how the tables write a variant."""
    return ROWS.get(variant, variant)


def record_name(record: Mapping[str, Any]) -> str:
    """Return how the report writes the variant of a record, with its seed where it has one."""
    seed = record.get("seed")
    return row_name(record["variant"]) + ("" if seed is None else f", seed {seed}")


def blocks(frame: pd.DataFrame) -> Iterator[tuple[str, Block]]:
    """Yield the tables of one protocol, each with a title that says what sets it apart.

    Columns are the tasks if there are several, or neither n nor architecture varies; else the n;
    else the architectures. What is left over tells one table from another.
    """
    if frame.empty:
        return
    is_several_n = bool((frame.groupby("task")["n_train"].nunique() > 1).any())
    is_several_architectures = frame["architecture"].nunique() > 1
    by = ["architecture"] * is_several_architectures + ["n_train"] * is_several_n
    column = "task" if frame["task"].nunique() > 1 or not by else by.pop()
    groups = frame.groupby(by, sort=False) if by else [((), frame)]
    for key, group in groups:
        title = ", ".join(_column_name(name, value) for name, value in zip(by, key, strict=True))
        named = group.assign(column=[_column_name(column, value) for value in group[column]])
        variants = order_variants(named["variant"].unique())
        columns = list(named["column"].unique())
        yield title, Block(named, variants, columns, is_over_tasks=column == "task")


def _column_name(column: str, value: Any) -> str:
    return f"n = {value:,}" if column == "n_train" else str(value)


def shown_block(
    table: pd.DataFrame,
    protocol: str,
    is_wanted: Callable[[Block], bool] = lambda _: True,
    is_better: Callable[[Block], bool] = lambda _: True,
) -> Block | None:
    """Return the results of one n and the first architecture that has any that are wanted.

    Averages are of one n: that of most tasks, of equals one that is better, of equals the largest.
    Columns are the tasks.
    """
    for _, group in table[table["protocol"] == protocol].groupby("architecture", sort=False):
        found = [
            Block(at.assign(column=at["task"]), order_variants(at["variant"]), at["task"].unique())
            for _, at in group.groupby("n_train")
        ]
        found = [block for block in found if is_wanted(block)]
        if found:
            # Of equals, max takes the first.
            return max(reversed(found), key=lambda b: (len(b.columns), is_better(b)))
    return None


def network_block(table: pd.DataFrame) -> Block | None:
    """Return the results with kernels of networks; the honest ones if there are any."""
    found = (
        shown_block(table, name, lambda b: bool(taps_of(b, "after-kernel"))) for name in PROTOCOLS
    )
    return next((block for block in found if block is not None), None)


def taps_of(block: Block, name: str) -> dict[int, str]:
    """Return epoch -> variant of a kernel, ascending; epoch 0 of a twin is the kernel itself."""
    return {Variant.of(v).epoch or 0: v for v in candidates(name, block.variants)}


LOCAL_AVERAGING = "local averaging, no label"
"""What leads from ``cntk`` to ``cntk-lap``."""


def local_averaging(block: Block) -> pd.Series | None:
    """Return what ``cntk-lap`` gains over ``cntk`` in points, in the columns of the block.

    It stands beside `claims.decompose`'s steps, of which each begins where another ends. None where
    it is missing in a column.
    """
    accuracy = 100 * block.values("accuracy").reindex(["cntk", LAP])
    found = (accuracy.loc[LAP] - accuracy.loc["cntk"]).round(9)
    return None if found.isna().any() else found


def label_terms_of(variants: Iterable[str]) -> list[str]:
    """Return the variants that are label terms: no control, no reference, not the best of them."""
    return [
        variant
        for variant in variants
        if variant not in (*PLAIN_VARIANTS, BEST, LAP)
        and not Variant.of(variant).is_network_kernel
        and Variant.of(variant).control is None
    ]


def order_variants(variants: Iterable[str]) -> list[str]:
    """Return the paper's rows in the paper's order, other terms, controls by parent, then the rest.

    Examples
    --------
    >>> order_variants(["cntk-ridge", "lantk-kr-v1-shuffled", "lantk-plugin", "cnn", "cntk"])
    ['cntk', 'cnn', 'lantk-plugin', 'lantk-kr-v1-shuffled', 'cntk-ridge']
    """
    found = list(dict.fromkeys(variants))
    parents = {v: Variant.of(v).parent for v in found if Variant.of(v).control is not None}
    others = [v for v in found if v not in (*ROWS, *REFERENCE_CONTROLS, *parents)]
    grouped, kinds = [*ROWS, *others, *parents.values()], [*CONTROL_TITLES]
    controls = sorted(
        parents, key=lambda v: (grouped.index(parents[v]), kinds.index(str(Variant.of(v).control)))
    )
    return [v for v in (*ROWS, *others, *controls, *REFERENCE_CONTROLS) if v in found]


def sizes_text(frame: pd.DataFrame) -> str:
    """Return the numbers of images, once if they are the same for every task, and their whitening.

    Those of each class follow where they are unequal, in the order of the task's name.
    """
    texts = {}
    for task, group in frame.groupby("task", sort=False):
        n_train, n_test = (
            ", ".join(_size_text(n, counts) for n, counts in _counts_of(group, part).items())
            for part in ("train", "test")
        )
        texts[task] = f"n_train = {n_train}, n_test = {n_test}{_whitening_text(group)}"
    if len(set(texts.values())) == 1:
        every = " for every task" if len(texts) > 1 else ""
        return next(iter(texts.values())) + every + "."
    return "; ".join(f"{task}: {text}" for task, text in texts.items()) + "."


def images_text(data: Mapping[str, Any]) -> str:
    """Return source, scaling and whitening of a record's images."""
    zca = data.get("whitening")
    whitened = "" if zca is None else f", {whitened_by(zca)}"
    return f"{data['source']}, scaled by {data.get('scaling')}{whitened}"


def whitened_by(zca: float) -> str:
    """Return how tables name the whitening of images."""
    return f"images whitened (zca {zca:g})"


def _whitening_text(group: pd.DataFrame) -> str:
    """Return what follows the numbers of images; nothing where all are as they were."""
    if "whitening" not in group:  # as in tables of earlier versions
        return ""
    found = sorted(group["whitening"].dropna().unique())
    return "".join(f", {whitened_by(zca)}" for zca in found)


def imbalance_text(frame: pd.DataFrame) -> str:
    """Return which tasks have classes that differ by more than 3:1; nothing of none."""
    found = []
    for task, group in frame.groupby("task", sort=False):
        parts = (_counts_of(group, part).values() for part in ("train", "test"))
        counts = (max(of_part, key=lambda c: max(c) / min(c)) for of_part in parts)
        found.append(imbalance_warning(str(task), *counts))
    return " ".join(f"Warning: {text}." for text in found if text)


def _counts_of(group: pd.DataFrame, part: str) -> dict[int, tuple[int, ...]]:
    """Return n -> images of each class, ascending; of tables that do not say, as if equal."""
    keys = [f"n_{part}", f"{part}_counts"]
    told = group.reindex(columns=keys).drop_duplicates().sort_values(keys[0])
    found: dict[int, tuple[int, ...]] = {}
    for n, text in told.itertuples(index=False):
        if isinstance(text, str) and text:
            found[n] = tuple(map(int, text.split("+")))
        else:
            found.setdefault(n, (1, 1))
    return found


def _size_text(n: int, counts: tuple[int, ...]) -> str:
    return f"{n:,}" + (f" ({counts_text(counts)})" if len(set(counts)) > 1 else "")


def below_honest_text(table: pd.DataFrame) -> str:
    """Return in how many cells oracle lies below honest, and why; nothing where it never does.

    Each chooses among weights of its own: on the same ones the best on the test set is never below.
    """
    keys = ["task", "architecture", "n_train", "variant"]
    both = table[table["protocol"].isin(PROTOCOLS)]
    wide = both.pivot_table(index=keys, columns="protocol", values="accuracy").dropna()
    if not {*PROTOCOLS} <= {*wide}:
        return ""
    n_below = int((wide["oracle"] < wide["honest"]).sum())
    text = f"oracle lies below honest in {n_below} of {len(wide)} cells: its weights and ridges,"
    text += " which are the paper's unless set otherwise, lack what honest chose there."
    return text if n_below else ""
