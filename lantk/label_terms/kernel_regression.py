"""LANTK-KR-V1 and -V2: Z by kernel regression of label products on the kernel value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import Row
from lantk.label_terms.base import CheckedTerm, LabelTermError, label_product_factors, row_blocks
from lantk.solvers.direct import factorize

_FLOAT32 = np.finfo(np.float32)


class KernelRegression(CheckedTerm):
    """Nadaraya-Watson regression of label products on the kernel value (LANTK-KR).

    With the Epanechnikov weight ``w_ij(phi) = B - (phi - H_ij)^2``, ``B = (max H - min H)^2``,
    which is never truncated,

        Z(phi) = sum_ij w_ij(phi) L_ij / sum_ij w_ij(phi)
               = [m0 (B - phi^2) + 2 m1 phi - m2] / [B - var - (phi - mu)^2],

    mu and var being mean and variance of H, and m0, m1, m2 the means of L, H L, H H L over all n^2
    entries: a fixed elementwise transform of the kernel, into which the labels enter through three
    numbers. `targets` are "labels" (V1), L = y y^T, or "dual" (V2), L = alpha alpha^T with alpha =
    H^-1 y.

    Attributes
    ----------
    spread_, mean_, variance_, moments_
        B, mu, var and (m0, m1, m2).

    References
    ----------
    Chen, He and Su (2020), equations for LANTK-KR-V1 and -V2.
    """

    fitted_names = ("spread_", "mean_", "variance_", "moments_")
    spread_: float
    mean_: float
    variance_: float
    moments_: NDArray

    def __init__(self, targets: str) -> None:
        self.targets = targets

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Learn the moments of several: the kernel matrix is visited once.

        `solve` maps right-hand sides to H^-1 times them (V2 only).
        """
        h, n = k_train_train, len(k_train_train)
        factors = [label_product_factors(y, n) for y in ys]
        needs_solve = any(term.targets == "dual" for term in terms)
        solve = solve or (factorize(h).solve if needs_solve else None)
        duals = [
            labels if term.targets == "labels" else solve(labels)
            for term, (labels, _) in zip(terms, factors, strict=True)
        ]
        # L = sum_c signs_c dual_c dual_c^T, so each mean is a sum of quadratic forms.
        dual = np.column_stack(duals)
        total = squares = 0.0
        low, high = np.inf, -np.inf
        h_dual, hh_dual = np.empty_like(dual), np.empty_like(dual)
        for rows in row_blocks(n, n):
            # A copy: it is squared in place.
            block = np.array(h[rows], dtype=np.float64)
            total += float(block.sum())
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            h_dual[rows] = block @ dual
            np.square(block, out=block)
            squares += float(block.sum())
            hh_dual[rows] = block @ dual
        if high == low:
            raise LabelTermError(
                f"all {n} x {n} kernel values equal {low:.3g}: kernel regression over them is"
                " undefined; look for images that are all equal"
            )
        first = 0
        for term, own, (_, signs) in zip(terms, duals, factors, strict=True):
            mine = slice(first, first + own.shape[1])
            first = mine.stop
            term.mean_ = total / n**2
            term.variance_ = squares / n**2 - term.mean_**2
            term.spread_ = (high - low) ** 2
            moments = [
                signs @ own.sum(axis=0) ** 2,
                signs @ np.einsum("ic,ic->c", own, h_dual[:, mine]),
                signs @ np.einsum("ic,ic->c", own, hh_dual[:, mine]),
            ]
            term.moments_ = np.array(moments) / float(n**2)

    def _transform(self, k: NDArray, x: NDArray | None) -> NDArray:
        """Return Z, elementwise in `k`.

        Raises
        ------
        LabelTermError
            If a kernel value lies so far outside the train values that the weights sum to zero or
            less, where the estimate has no meaning (never on train, possible on test); or if Z is
            so large or small that float32 does not hold it.
        """
        m0, m1, m2 = self.moments_
        z = np.empty(k.shape, np.float32)
        for rows in row_blocks(*k.shape):
            phi = np.asarray(k[rows], dtype=np.float64)
            weight_sum = phi - self.mean_
            np.square(weight_sum, out=weight_sum)
            np.subtract(self.spread_ - self.variance_, weight_sum, out=weight_sum)
            if weight_sum.size and weight_sum.min() <= 0:
                i, j = np.unravel_index(np.argmin(weight_sum), phi.shape)
                raise LabelTermError(
                    f"kernel value {phi[i, j]:.3g} of image {{0.number}} of {{0.name}} with train"
                    f" image {{1.number}} is too far from the train values (mean {self.mean_:.3g},"
                    f" range {np.sqrt(self.spread_):.3g}): its regression weights sum to zero or"
                    " less. Is this image scaled like the others?",
                    [Row("k", rows.start + int(i)), Row("x_train", int(j))],
                )
            # Horner's form: m0 B - m2 + phi (2 m1 - m0 phi).
            part = phi * -m0
            part += 2 * m1
            part *= phi
            part += m0 * self.spread_ - m2
            part /= weight_sum
            largest = np.abs(part).max(initial=0)
            if largest and not _FLOAT32.tiny <= largest <= _FLOAT32.max:
                raise LabelTermError(
                    f"Z has the size {largest:.1e}, which float32 does not hold: scale the images,"
                    f" so that the kernel, now of size {self.mean_:.1e}, comes nearer to 1"
                )
            z[rows] = part
        return z
