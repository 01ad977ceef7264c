"""What activations do to covariances, in closed form: float64, on numbers and arrays alike.

Let a and b be Gaussian with variances v and w and covariance S: the values of two images before an
activation f. Behind it the NNGP kernel is E f(a) f(b), and the neural tangent kernel T is
multiplied by E f'(a) f'(b). With D the square root of a determinant, and the angle
theta = atan2(D, -S), which is pi minus that of the arc-cosine kernel:

    relu, leaky_relu (slope m)   D^2 = v w - S^2
        S <- m S + (1 - m)^2 (D + theta S) / (2 pi)
        T <- T (m + (1 - m)^2 theta / (2 pi))
    erf                          D^2 = (1 + 2 v) (1 + 2 w) - 4 S^2
        S <- (2 / pi) atan2(2 S, D),       which is the arcsine of 2 S / sqrt((1 + 2 v) (1 + 2 w))
        T <- T (4 / pi) / D
    gelu, x Phi(x)               P = (1 + v) (1 + w),  D^2 = P - S^2
        S <- ((S^2 + v w D^2) / (P D) + theta S) / (2 pi)
        T <- T ((S / D) (1 / D^2 + (2 + v + w) / P) + theta) / (2 pi)

Of determinants v w - S^2 is taken first, as a product, so that nothing is lost where it is small.

References
----------
Cho and Saul, "Kernel Methods for Deep Learning", NeurIPS 2009 (relu: their degrees 1 and 0).
Williams, "Computing with Infinite Networks", NeurIPS 1996 (printed 1997; erf).
Tsuchida, Pearce, van der Heide, Roosta and Gallagher, "Avoiding Kernel Fixed Points: Computing with
ELU and GELU Infinite Networks", AAAI 2021 (gelu).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.kernel.architecture import Activation

Array = NDArray[np.float64]


def activate(
    activation: Activation,
    s: ArrayLike,
    t: ArrayLike,
    v: ArrayLike,
    w: ArrayLike,
    is_one: ArrayLike = False,
) -> tuple[Array, Array]:
    """Return S and T behind an activation.

    Parameters
    ----------
    activation : Activation
        One of `lantk.kernel.architecture.ACTIVATIONS`.
    s, t : array
        Covariances (NNGP) and neural tangent kernels before it.
    v, w : array
        Variances of both sides before it, 0 or more, 0 where a patch is black. All arrays are
        broadcast to one shape.
    is_one : array of bool
        Where both sides are one position of one image: there S is taken to be v, since what S has
        rounded to would cost the angle, which is 0, half of its digits. Elsewhere S is kept within
        the bounds that v and w set.
    """
    v, w = np.asarray(v, np.float64), np.asarray(w, np.float64)
    r = np.sqrt(v * w)
    s = np.where(is_one, r, np.clip(s, -r, r))
    dual, slope = _dual(activation, s, v, w, (r - s) * (r + s))
    return dual, t * slope


def variance(activation: Activation, v: ArrayLike) -> Array:
    """Return the variance behind an activation: S of a position of an image with itself."""
    v = np.asarray(v, np.float64)
    if activation.kind in ("relu", "leaky_relu"):
        return v * ((1 + activation.slope**2) / 2)
    return activate(activation, v, 0.0, v, v, True)[0]


def _dual(activation: Activation, s: Array, v: Array, w: Array, rest: Array) -> tuple[Any, Any]:
    """Return E f(a) f(b) and E f'(a) f'(b); `rest` is v w - S^2."""
    match activation.kind:
        case "relu" | "leaky_relu":
            m = activation.slope
            d = np.sqrt(rest)
            theta = np.arctan2(d, -s)
            share = (1 - m) ** 2 / (2 * np.pi)
            return m * s + share * (d + theta * s), m + share * theta
        case "erf":
            d = np.sqrt(1 + 2 * (v + w) + 4 * rest)
            return 2 / np.pi * np.arctan2(2 * s, d), 4 / np.pi / d
        case "gelu":
            p, d_squared = (1 + v) * (1 + w), 1 + v + w + rest
            d = np.sqrt(d_squared)
            theta = np.arctan2(d, -s)
            dual = (s**2 + v * w * d_squared) / (p * d) + theta * s
            slope = s / d * (1 / d_squared + (2 + v + w) / p) + theta
            return dual / (2 * np.pi), slope / (2 * np.pi)
    raise ValueError(f"no closed form of the activation {activation.kind!r}")
