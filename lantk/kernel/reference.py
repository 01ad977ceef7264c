"""The recursion of the exact kernel as it is written on paper: slow, float64, for checking.

For two images x, x' and every pair of positions (p, p') the covariances S (NNGP kernel) and T
(neural tangent kernel) pass through the layers:

    start : S = <x_p, x'_p'> / channels,  T = 0,  v(p) = |x_p|^2 / channels
    conv  : S <- A S,  T <- A T + S,  v <- A v;    A = mean over the filter, zeros outside the image
    relu  : t = arccos(S / sqrt(v v'));  T <- T (pi - t) / (2 pi),
            S <- sqrt(v v') (sin t + (pi - t) cos t) / (2 pi),  v <- v / 2
    dense : T <- T + S

with weight variance 1; a layer that is not trained adds no S to T. The flatten readout takes the
mean over p = p' and needs no other pair, global average pooling takes the mean over all pairs.

References
----------
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019, section 4.
Cho and Saul, "Kernel Methods for Deep Learning", NeurIPS 2009 (the ReLU line).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.kernel.architecture import Conv, same_padding
from lantk.kernel.grammar import parse_architecture

Array = NDArray[np.float64]


def gram(
    architecture: Any, x1: ArrayLike, x2: ArrayLike | None = None, *, kernel: str = "ntk"
) -> Array:
    """Return the Gram matrix (n1, n2) in float64, entry by entry, as `lantk.gram` does fast.

    `kernel` is ntk or nngp.
    """
    x1 = np.asarray(x1, np.float64)
    x2 = x1 if x2 is None else np.asarray(x2, np.float64)
    which = ("nngp", "ntk").index(kernel)
    return np.array([[entry(architecture, x, y)[which] for y in x2] for x in x1])


def entry(architecture: Any, x: Array, y: Array) -> tuple[float, float]:
    """Return (NNGP, NTK) of two images, each (channels, height, width)."""
    network = parse_architecture(architecture)
    pools = network.readout == "global_average_pool"
    channels = len(x)
    s = np.tensordot(x, y, (0, 0)) if pools else (x * y).sum(0)
    s, v, w = s / channels, (x**2).mean(0), (y**2).mean(0)
    t = np.zeros_like(s)
    for conv in network.convs:
        s, t, v, w = (_convolve(field, conv) for field in (s, t, v, w))
        t = t + s * conv.trained
        if conv.relu:
            scale = np.sqrt(np.multiply.outer(v, w) if pools else v * w)
            # Equal images have c = 1 where p = p'; rounding would lose half of the digits.
            is_one = np.eye(v.size).reshape(s.shape) if pools else np.ones(s.shape)
            s, t = _rectify(s, t, scale, is_one * np.array_equal(x, y) > 0)
            v, w = v / 2, w / 2
    nngp, ntk = float(s.mean()), float(t.mean())
    return nngp, ntk + nngp * network.dense_trained


def _convolve(field: Array, conv: Conv) -> Array:
    """Return the mean over the filter of a field over positions (2 axes) or pairs of them (4)."""
    sides = field.shape
    field = np.pad(field, [same_padding(side, conv.size, conv.stride) for side in sides])
    total = np.zeros([-(-side // conv.stride) for side in sides])
    for taps in product(range(conv.size), repeat=2):
        # A weight is shared by all positions, so both positions of a pair see the same tap.
        starts = taps * (len(sides) // 2)
        total += field[
            tuple(
                slice(start, start + (n - 1) * conv.stride + 1, conv.stride)
                for start, n in zip(starts, total.shape, strict=True)
            )
        ]
    return total / conv.size**2


def _rectify(s: Array, t: Array, scale: Array, is_one: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return S and T after a ReLU; `scale` is sqrt(v v'), zero where a patch is black."""
    cosine = np.divide(s, scale, out=np.zeros_like(s), where=scale > 0)
    cosine = np.where(is_one, 1.0, np.clip(cosine, -1.0, 1.0))
    angle = np.arccos(cosine)
    rest = np.pi - angle
    s = scale * (np.sin(angle) + rest * cosine) / (2 * np.pi)
    return s, np.where(scale > 0, t * rest / (2 * np.pi), 0.0)
