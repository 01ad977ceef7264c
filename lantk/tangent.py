"""The tangent kernel of a finite network, streamed layer by layer: what training made of it.

A network at any epoch of its training has a kernel of its own, <grad f(x), grad f(x')> over its
trained parameters. All gradients at once would be 55 GB (12,000 images, 1.15 million parameters in
float32); here a block of the parameters of one layer is held at a time.

References
----------
Jacot, Gabriel and Hongler, "Neural Tangent Kernel", NeurIPS 2018, equation 3.
Long, "Properties of the after kernel", 2021 (the kernel of a trained network).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lantk.network import Network

# Images whose activations and patches are held at once.
_IMAGES_AT_ONCE = 32

Progress = Callable[[int, int], None]


def layer_names(network: Network) -> list[str]:
    """Return the names of the trained layers, from the input on: ``conv1`` ..., ``dense``.

    Examples
    --------
    >>> layer_names(Network("arora2019-gap-4", (3, 8, 8), [4, 4, 4]))
    ['conv2', 'conv3']
    """
    names = [f"conv{i + 1}" for i, conv in enumerate(network.architecture.convs) if conv.trained]
    return names + ["dense"] * network.architecture.dense_trained


def tangent_blocks(
    network: Network,
    x_train: NDArray[np.floating],
    x_test: NDArray[np.floating] | None = None,
    *,
    memory_mb: int = 2048,
    progress: Progress | None = None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield what each trained layer adds to the network's tangent kernel; the NTK is their sum.

    Of several outputs it is the mean over them (their kernel is block diagonal in the limit of
    infinite width, with equal blocks).

    Parameters
    ----------
    network : Network
        Computed with where it lies and in its precision; its parameters are not changed.
    x_train, x_test : ndarray, shape (n, channels, height, width)
        Scaled images; without `x_test` there are train rows only.
    memory_mb : int
        For the gradients that are held at once, in MiB. Twice as much means half as many passes
        through the network, which are of no account where there are a few.
    progress : callable, optional
        Called with (passes done, passes in all).

    Yields
    ------
    name : str
        Of `layer_names`.
    block : ndarray, shape (n_train + n_test, n_train)
        Train rows, then test rows.

    Notes
    -----
    Cost: 2 (n_train + n_test) n_train operations for each trained parameter. Weights that share a
    filter are treated together: G_i = sum_p delta_i(p) a_i(p)^T with delta the derivative of the
    output by the layer's output at position p and a the patch there; the block is <G_i, G_j>.
    """
    x = _stack(network, x_train, x_test)
    n_train = len(x_train)
    passes = _plan_passes(network, len(x), memory_mb)
    n_passes, n_done = sum(map(len, passes.values())), 0
    for name, chunks in passes.items():
        total = torch.zeros(len(x), n_train, dtype=x.dtype, device=x.device)
        for rows in chunks:
            for output in range(network.n_outputs):
                gradients = _gradients(network, x, name, rows, output)
                total.addmm_(gradients, gradients[:n_train].T)
            n_done += 1
            if progress is not None:
                progress(n_done, n_passes)
        total /= network.n_outputs
        # A product of a matrix with its own transpose is symmetric but for rounding.
        total[:n_train] = (total[:n_train] + total[:n_train].T.clone()) / 2
        yield name, total.cpu().numpy()


def conjugate_gram(
    network: Network,
    x_train: NDArray[np.floating],
    x_test: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Return the conjugate kernel, <h(x), h(x')> / d of the d features that the dense layer reads.

    Shapes are those of `tangent_blocks`; in the ``ntk`` parameterization it is the dense layer's
    part of the tangent kernel.
    """
    x = _stack(network, x_train, x_test)
    with torch.no_grad():
        features = torch.cat([network.features(batch) for batch in x.split(_IMAGES_AT_ONCE)])
        block = features @ features[: len(x_train)].T / features.shape[1]
    return block.cpu().numpy()


def _stack(network: Network, x_train: NDArray, x_test: NDArray | None) -> Tensor:
    """Return train and test images in one tensor, where the network lies and in its precision."""
    x = network.to_tensor(x_train, "x_train")
    if x_test is not None:
        x = torch.cat([x, network.to_tensor(x_test, "x_test")])
    return x.to(network.dense.weight)


def _plan_passes(network: Network, n_images: int, memory_mb: int) -> dict[str, list[slice]]:
    """Return layer -> runs of output channels whose gradients for all images fit the memory."""
    itemsize = network.dense.weight.element_size()
    passes = {}
    for name in layer_names(network):
        layer = _layer(network, name)
        n_rows = layer.weight.shape[0] if name != "dense" else 1
        row_bytes = n_images * itemsize * (layer.weight[0].numel() + 1)
        step = min(max(memory_mb * 2**20 // row_bytes, 1), n_rows)
        passes[name] = [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]
    return passes


def _gradients(network: Network, x: Tensor, name: str, rows: slice, output: int) -> Tensor:
    """Return d output / d (weights and biases of some channels of a layer), (n, parameters)."""
    found = []
    for batch in x.split(_IMAGES_AT_ONCE):
        if name == "dense":
            with torch.no_grad():
                weights = network.features(batch)
            biases = torch.ones_like(weights[:, :1])
        else:
            patches, deltas = _patches_and_deltas(network, batch, int(name[4:]) - 1, output)
            deltas = deltas[:, rows]
            weights = torch.bmm(deltas, patches.mT).flatten(1)
            biases = deltas.sum(2)
        layer = _layer(network, name)
        weights = weights * network.weight_scale(layer.weight)
        found.append(weights if layer.bias is None else torch.cat([weights, biases], 1))
    return torch.cat(found)


def _patches_and_deltas(network: Network, x: Tensor, i: int, output: int) -> tuple[Tensor, Tensor]:
    """Return what convolution i reads at each position, and what its output there does to f.

    Shapes (n, inputs x filter size^2, positions) and (n, channels, positions).
    """
    with torch.no_grad():
        for j in range(i):
            x = network.activate(j, network.convolve(j, x))
        z = network.convolve(i, x)
    with torch.enable_grad():
        z.requires_grad_(True)
        outputs = network.read_out(network.go_on(i, z))
        (deltas,) = torch.autograd.grad(outputs[:, output].sum(), z)
    (top, bottom), (left, right) = network.paddings[i]
    conv = network.architecture.convs[i]
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.unfold(padded, conv.size, stride=conv.stride), deltas.flatten(2)


def _layer(network: Network, name: str) -> nn.Conv2d | nn.Linear:
    return network.dense if name == "dense" else cast(nn.Conv2d, network.convs[int(name[4:]) - 1])
