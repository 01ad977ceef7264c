"""What a leaderboard says: differences with their intervals and verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lantk.regression.statistics import mean_with_interval
from lantk.report.blocks import Block

_NO_WIDTH = 1e-9
_LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A difference of accuracies in points, with half the width of its 95 % interval."""

    points: float = math.nan
    """NaN where it was not run."""
    half: float = math.nan
    """NaN where there is none."""
    p_value: float = math.nan
    """Of the exact McNemar test, where the difference is of one task."""

    @property
    def is_known(self) -> bool:
        """Whether it was run in every task."""
        return not math.isnan(self.points)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval that says something: not of differences that are equal."""
        return self.half > _NO_WIDTH

    @property
    def text(self) -> str:
        """The difference with its sign, and half its interval or its p-value."""
        if math.isnan(self.p_value):
            return with_half_width(self.points, self.half)
        return f"{signed(self.points)} ({p_value_text(self.p_value)})"

    @property
    def interval_text(self) -> str:
        """Both ends of the interval."""
        return f"{signed(self.points - self.half)} to {signed(self.points + self.half)}"

    @property
    def verdict(self) -> str:
        """Whether it can be told from 0: ``above``, ``below``, ``open``, or ``unknown``."""
        if not math.isnan(self.p_value):
            is_open = self.p_value >= _LEVEL
        elif math.isnan(self.half) or (self.points != 0 and not self.has_interval):
            return "unknown"
        else:
            is_open = abs(self.points) <= self.half
        return "open" if is_open else "above" if self.points > 0 else "below"


def compare(block: Block | None, first: str, second: str, *others: str) -> Estimate:
    """Return the mean over the tasks of one variant's accuracy minus another's, in points.

    Of two others the same is subtracted: it is then a difference of two differences. The interval
    is the paired one over the tasks. Of one task it is over the test images if the second is the
    shuffled twin of the first, and against CNTK there is a p-value in its place.
    """
    names = (first, second, *others)
    if block is None or not set(names) <= set(block.variants):
        return Estimate()
    accuracy = 100 * block.values("accuracy")
    signs = (1, -1, -1, 1)
    values = sum(sign * accuracy.loc[name] for sign, name in zip(signs, names, strict=False))
    # Rounding errors of equal accuracies are no differences.
    points, half = mean_with_interval(values.round(9))
    points = round(points, 9) + 0.0
    if math.isnan(points) or len(values) > 1 or others:
        return Estimate(points, half)
    found = {key: float(block.values(key).loc[first].iloc[0]) for key in _OF_ONE_TASK}
    if second == "cntk":
        return Estimate(points, p_value=found["p_value"])
    is_twin = second == f"{first}-shuffled"
    return Estimate(points, 100 * found["label_gain_half_width"] if is_twin else math.nan)


_OF_ONE_TASK = ("p_value", "label_gain_half_width")


def p_value_text(p_value: float) -> str:
    """Return a p-value with three decimals, or that it is smaller.

    Examples
    --------
    >>> p_value_text(0.04), p_value_text(1e-9)
    ('p = 0.040', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def with_half_width(value: float, half: float, digits: int = 2) -> str:
    """Return a number with its sign and, where there is one, half the width of its interval."""
    return signed(value, digits) + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign; what rounds to zero is ``+0.00``."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # no "-0.00"
