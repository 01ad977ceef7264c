"""Intervals and tests: of one accuracy, of two on the same images, of a mean over tasks, of slopes.

References
----------
Wilson (1927) for the interval of an accuracy; McNemar (1947) for the paired test, in its exact
form; Student (1908) for the interval of a mean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

PROTOCOLS = ("honest", "oracle")
"""How the label weight, the variant and the epoch are chosen, in the order of the tables."""
DEFINITE = "honest-definite"
"""The honest choice among the weights at which K + lambda Z has no negative eigenvalue on train:
how much it matters that others do. No setting asks for it; it comes with ``honest``."""
FEWEST_POINTS = 3


def accuracy_with_interval(accuracy: float, n: int) -> dict[str, float]:
    """Return the accuracy and its 95 % Wilson interval as a dictionary."""
    low, high = wilson_interval(accuracy, n)
    return {"accuracy": float(accuracy), "ci_low": low, "ci_high": high}


def wilson_interval(accuracy: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (a mean over seeds need not be k / n).

    Examples
    --------
    >>> low, high = wilson_interval(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z = float(special.ndtri((1 + confidence) / 2))
    centre = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2))
    # At 0 and 1 one end is the accuracy itself, but for rounding.
    return float(max(0, min(centre - half, accuracy))), float(min(1, max(centre + half, accuracy)))


def mcnemar_p_value(correct_a: NDArray, correct_b: NDArray) -> float:
    """Return the two-sided exact McNemar p-value of two classifiers on the same images."""
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(~correct_a & correct_b))
    if only_a + only_b == 0:
        return 1.0
    # Imported here, as below: the distributions take half a second to load.
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def mean_with_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return a mean and half the width of Student's interval around it.

    Values (n,) are one number a task, such as a paired difference. If one is NaN, so are both
    results; the half-width is NaN for fewer than two.

    Examples
    --------
    >>> mean, half = mean_with_interval([1.0, 2.0, 6.0])
    >>> round(mean, 2), round(half, 2)
    (3.0, 6.57)
    """
    numbers = np.asarray(values, float)
    if numbers.size == 0:
        return math.nan, math.nan
    if numbers.size == 1:
        return float(numbers[0]), math.nan
    quantile = special.stdtrit(numbers.size - 1, (1 + confidence) / 2)
    return float(numbers.mean()), float(quantile * _standard_error(numbers))


def normal_half_width(values: ArrayLike, confidence: float = 0.95) -> float:
    """Return half the width of the normal interval around the mean of many values.

    They are one number a test image, such as a paired difference.

    Examples
    --------
    >>> round(normal_half_width([1, 0, 0, -1] * 100), 4)
    0.0694
    """
    quantile = special.ndtri((1 + confidence) / 2)
    return float(quantile * _standard_error(np.asarray(values, float)))


def log_slope(n: ArrayLike, error: ArrayLike) -> tuple[float, float, float]:
    """Return b in log(error) = a + b log(n) by least squares, and its 95 % interval's ends.

    `n` are numbers of train images, `error` shares of wrong test images, (p,) both. The interval is
    Student's, from the scatter around the line. All are NaN for fewer than three points and where
    an error is 0, which has no logarithm.
    """
    n, error = np.asarray(n, float), np.asarray(error, float)
    if n.size < FEWEST_POINTS or not (error > 0).all():
        return (math.nan,) * 3
    from scipy.stats import linregress

    fit = linregress(np.log(n), np.log(error))
    half = special.stdtrit(n.size - 2, 0.975) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def _standard_error(values: NDArray) -> float:
    """Return the standard error of the mean of (n,) values."""
    return float(values.std(ddof=1) / values.size**0.5)
