"""Intervals and tests: of one accuracy, of differences on the same images or over tasks, of slopes.

References
----------
Wilson (1927) for the interval of an accuracy; McNemar (1947) for the paired test, in its exact
form; Student (1908) for the interval of a mean; Liang and Zeger (1986), "Longitudinal data analysis
using generalized linear models", for standard errors from sums over clusters, and Cameron, Gelbach
and Miller (2011), "Robust inference with multiway clustering", for clusters of two kinds;
Satterthwaite (1946) for the degrees of freedom of a sum of variances; Bloom (1995), "Minimum
detectable effects", for what an experiment could have found; Holm (1979) for several tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from lantk.errors import LantkError

PROTOCOLS = ("honest", "oracle")
"""How the label weight, the variant and the epoch are chosen, in the order of the tables."""
DEFINITE = "honest-definite"
"""The honest choice among the weights at which K + lambda Z has no negative eigenvalue on train:
how much it matters that others do. No setting asks for it; it comes with ``honest``."""
FEWEST_POINTS = 3
LEVEL = 0.05
"""Of all tests, two-sided; intervals are of 1 - LEVEL."""
POWER = 0.8
"""With which a detectable effect would have been found."""
_NO_WIDTH = 1e-9  # in points: what is left of equal numbers after rounding


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


@dataclass(frozen=True)
class Interval:
    """A mean with its standard error, and what follows from them: all in the unit of the mean."""

    mean: float = math.nan
    error: float = math.nan
    """NaN where there is none."""
    freedom: float = math.inf
    """Degrees of freedom of Student's distribution; infinite of the normal one."""

    @property
    def is_known(self) -> bool:
        """Whether there is one that says something: not of different, equal numbers."""
        return self.error > _NO_WIDTH or (self.error >= 0 and abs(self.mean) <= _NO_WIDTH)

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return self._quantile(1 - LEVEL / 2) * self.error

    @property
    def p_value(self) -> float:
        """Two-sided, of a mean of 0; NaN where it is not known."""
        if not self.is_known:
            return math.nan
        if self.error <= _NO_WIDTH:
            return 1.0
        return float(2 * special.stdtr(self.freedom, -abs(self.mean) / self.error))

    @property
    def detectable(self) -> float:
        """The smallest mean that would have been told from 0 with 80 % power, at level 5 %.

        It is (t(0.975) + t(0.8)) standard errors, 2.8 of them where the distribution is normal.
        """
        return (self._quantile(1 - LEVEL / 2) + self._quantile(POWER)) * self.error

    def _quantile(self, probability: float) -> float:
        return float(special.stdtrit(self.freedom, probability))


@dataclass(frozen=True)
class Outcomes:
    """Which test images of one task a variant gets right, for each of its seeds."""

    index: NDArray
    """(n,): numbers of the images in their source, the same in all tasks."""
    right: NDArray
    """(s, n): whether a prediction is right; one row a seed."""
    seeds: tuple[int, ...] = ()
    """(s,): seeds, empty where the variant has none."""
    kind: str = ""
    """What the seeds are of: equal seeds of one kind are paired."""


def student_interval(values: ArrayLike) -> Interval:
    """Return the mean of (n,) values, one a task, with Student's standard error over them.

    If one is NaN, so are both; the error is NaN for fewer than two.
    """
    numbers = np.asarray(values, float)
    if numbers.size < 2:
        return Interval(float(numbers[0]) if numbers.size else math.nan)
    return Interval(float(numbers.mean()), _standard_error(numbers), numbers.size - 1)


def clustered_interval(tasks: Sequence[Sequence[tuple[float, Outcomes]]]) -> Interval:
    """Return a mean over tasks of paired differences, its error clustered by test image.

    It is about these tasks: they are fixed, and their test images and seeds are drawn. Tasks that
    share a class share its test images, so an image is a cluster over all tasks. With d_ti the
    difference at image i of task t, averaged over its S seeds, m_t its mean over the n_t images,
    and D_ts the mean over the images for seed s,

        variance = sum_i (sum_t (d_ti - m_t) / (T sqrt(n_t (n_t - 1))))^2
                   + sum_t var_s(D_ts) / (S T^2),

    var_s with S - 1 in its denominator. The second sum is the variance of the mean over seeds; it
    is taken for each kind of seeds, of networks and of label permutations, for itself, and left out
    of one seed, whose spread is not known. Images and seeds vary together in both sums, so with
    seeds it errs on the wide side. Seeds are taken as independent between tasks, although a network
    of one seed starts alike in each: clusters over tasks would leave S - 1 degrees of freedom. What
    all tasks of a seed share is not in the interval.

    Of one task and no seeds it is the normal interval over its images. Degrees of freedom follow
    from those of the seeds, the sum over tasks of S - 1 (Satterthwaite); else they are infinite.

    Parameters
    ----------
    tasks : sequence of sequences of (float, Outcomes)
        Of each task the variants with what each is multiplied by, such as 1 and -1.

    Returns
    -------
    Interval
        Its error is NaN where a task has fewer than two images.

    Raises
    ------
    LantkError
        If two variants of a task were not evaluated on the same test images.
    """
    indices, deviations, means = [], [], []
    of_seeds, n_free = 0.0, 0
    for terms in tasks:
        index = terms[0][1].index
        if any(not np.array_equal(found.index, index) for _, found in terms):
            raise LantkError(
                "two variants of one task were evaluated on different test images, so that they"
                " cannot be compared: delete the older results and run the workflow again"
            )
        difference = np.sum([a * found.right.mean(axis=0) for a, found in terms], axis=0)
        n, mean = difference.size, difference.mean()
        if n < 2:
            return Interval(math.nan)
        indices.append(index)
        deviations.append((difference - mean) / (len(tasks) * math.sqrt(n * (n - 1))))
        means.append(mean)
        for values in _by_seed(terms):
            of_seeds += (_standard_error(values) / len(tasks)) ** 2
            n_free += values.size - 1
    _, clusters = np.unique(np.concatenate(indices), return_inverse=True)
    of_images = (np.bincount(clusters, np.concatenate(deviations)) ** 2).sum()
    variance = float(of_images) + of_seeds
    freedom = n_free * (variance / of_seeds) ** 2 if of_seeds else math.inf
    return Interval(float(np.mean(means)), math.sqrt(variance), freedom)


def _by_seed(terms: Sequence[tuple[float, Outcomes]]) -> list[NDArray]:
    """Return the (s,) parts of a difference that vary with seeds; equal seeds are paired."""
    found: dict[tuple[str, tuple[int, ...]], NDArray] = {}
    for a, outcomes in terms:
        if len(outcomes.seeds) > 1:
            key = outcomes.kind, outcomes.seeds
            found[key] = found.get(key, 0) + a * outcomes.right.mean(axis=1)
    return list(found.values())


def adjusted_p_values(p_values: ArrayLike) -> NDArray:
    """Return (n,) p-values after Holm's correction for all of them that are not NaN.

    Examples
    --------
    >>> adjusted_p_values([0.01, 0.04, 0.03, float("nan")]).round(2).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    found = np.asarray(p_values, float)
    order = np.argsort(found)[: np.count_nonzero(~np.isnan(found))]
    raised = found[order] * np.arange(order.size, 0, -1)
    adjusted = np.full(found.shape, math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return adjusted


def mean_with_interval(values: ArrayLike) -> tuple[float, float]:
    """Return a mean and half the width of Student's 95 % interval around it.

    Values (n,) are one number a task, such as a paired difference. If one is NaN, so are both
    results; the half-width is NaN for fewer than two.

    Examples
    --------
    >>> mean, half = mean_with_interval([1.0, 2.0, 6.0])
    >>> round(mean, 2), round(half, 2)
    (3.0, 6.57)
    """
    found = student_interval(values)
    return found.mean, found.half


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
