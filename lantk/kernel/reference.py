"""The recursion of the exact kernel as it is written on paper: slow, float64, for checking.

For two images x, x' and every pair of positions (p, p') the covariances S (NNGP kernel) and T
(neural tangent kernel) pass through the layers:

    start        : S = <x_p, x'_p'> / channels,  T = 0
    conv         : S <- A S + bias^2,  T <- A T + S;  A = mean over the filter, which both positions
                   see at the same place, zeros outside the image
    activation   : S and T as in `lantk.kernel.activations`, from S, and from S of each image with
                   itself at p and at p'
    average pool : S <- B S,  T <- B T;  B = mean over the window of p and over that of p'
    residual     : S <- S + S of the branch,  T <- T + T of the branch
    readout      : flatten, the mean over p = p'; global average pooling, the mean over all pairs
    dense        : S <- S + bias^2,  T <- T + S

with weight variance 1; a layer that is not trained adds no S to T. Without any pool the positions
p = p' need no other pair.

References
----------
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019, section 4.
Li et al., "Enhanced Convolutional Neural Tangent Kernels", 2019 (pools).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.kernel.activations import activate
from lantk.kernel.architecture import (
    Activation,
    AveragePool,
    Conv,
    Dense,
    Layer,
    Residual,
    output_side,
    same_padding,
)
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
    # S and T go over pairs of these images and of their positions: two axes for the images, then
    # row and column of p and, where other pairs than p = p' are needed, those of p'. Equal images
    # are one, which is known to have S = v with itself.
    images = np.stack([x] if np.array_equal(x, y) else [x, y])
    averages = network.readout == "global_average_pool"
    has_pools = averages or any(isinstance(layer, AveragePool) for layer in network.body)
    pairs = "acij,bckl->abijkl" if has_pools else "acij,bcij->abij"
    s = np.einsum(pairs, images, images) / len(x)
    s, t = _pass_through(network.body, s, np.zeros_like(s))
    if has_pools and not averages:
        s, t = (np.einsum("abijij->abij", field) for field in (s, t))
    s, t = (field.mean(tuple(range(2, field.ndim))) for field in (s, t))
    s, t = _pass_through(network.head, s, t)
    return float(s[0, -1]), float(t[0, -1])


def _pass_through(layers: Iterable[Layer | Dense], s: Array, t: Array) -> tuple[Array, Array]:
    """Return S and T behind some layers."""
    rows, columns = range(2, s.ndim, 2), range(3, s.ndim, 2)
    for layer in layers:
        match layer:
            case Conv():
                s, t = (_mean(_mean(field, layer, *rows), layer, *columns) for field in (s, t))
                s = s + layer.bias**2
                t = t + s * layer.trained
            case Activation():
                s, t = _activate(layer, s, t)
            case AveragePool():
                for axis in (*rows, *columns):
                    s, t = (_mean(field, layer, axis) for field in (s, t))
            case Residual():
                branch_s, branch_t = _pass_through(layer.layers, s, t)
                s, t = s + branch_s, t + branch_t
            case Dense():
                s = s + layer.bias**2
                t = t + s * layer.trained
    return s, t


def _mean(field: Array, layer: Conv | AveragePool, *axes: int) -> Array:
    """Return the mean over one side of a window, which moves along several axes in step."""
    counts = [output_side(field.shape[axis], layer.stride) for axis in axes]
    padding = np.zeros((field.ndim, 2), int)
    for axis in axes:
        padding[axis] = same_padding(field.shape[axis], layer.size, layer.stride)
    field = np.pad(field, padding)
    seen = []
    for tap in range(layer.size):
        window = [slice(None)] * field.ndim
        for axis, count in zip(axes, counts, strict=True):
            window[axis] = slice(tap, tap + (count - 1) * layer.stride + 1, layer.stride)
        seen.append(field[tuple(window)])
    return np.asarray(sum(seen) / layer.size)


def _activate(activation: Activation, s: Array, t: Array) -> tuple[Array, Array]:
    """Return S and T behind an activation, which needs S of each image with itself at p = p'."""
    itself = {6: "aaijij->aij", 4: "aaij->aij", 2: "aa->a"}[s.ndim]
    v = np.einsum(itself, s)
    is_one = np.zeros(s.shape, bool)
    np.einsum(itself, is_one)[...] = True
    # Of the first image at p, and of the second at p'.
    if s.ndim == 6:
        return activate(activation, s, t, v[:, None, :, :, None, None], v[:, None, None], is_one)
    return activate(activation, s, t, v[:, None], v, is_one)
