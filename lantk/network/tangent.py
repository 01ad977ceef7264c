"""The tangent kernel of a finite network, layer by layer: what training made of it.

A network at any epoch of its training has a kernel of its own, <grad f(x), grad f(x')> over its
trained parameters. All gradients at once would be 55 GB (12,000 images, 1.15 million parameters in
float32); here those of some columns are held, and those of the rows stream by.

References
----------
Jacot, Gabriel and Hongler, "Neural Tangent Kernel", NeurIPS 2018, equation 3.
Long, "Properties of the after kernel", 2021 (the kernel of a trained network).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lantk.kernel.architecture import Conv
from lantk.network.layers import Network, Padding

# Images whose activations and patches are held at once, and rows that are multiplied at once.
_IMAGES_AT_ONCE, _ROWS_AT_ONCE = 32, 128

Progress = Callable[[int, int], None]


class Block(NamedTuple):
    """A kernel among train images, and between test and train images."""

    k: NDArray[np.float32]
    """(n_train + n_test, n_train): train rows, then test rows."""
    diagonal: NDArray[np.float32]
    """(n_train + n_test,): K(x, x) of each row."""


def tangent_blocks(
    network: Network,
    x_train: NDArray[np.floating],
    x_test: NDArray[np.floating] | None = None,
    *,
    memory_mb: int = 6144,
    progress: Progress | None = None,
) -> dict[str, Block]:
    """Return what each trained layer adds to the network's tangent kernel, by name of the layer.

    The NTK is their sum. Of several outputs it is the mean over them (their kernel is block
    diagonal in the limit of infinite width, with equal blocks).

    Parameters
    ----------
    network : Network
        Computed with where it lies and in its precision; its parameters are not changed.
    x_train, x_test : ndarray, shape (n, channels, height, width)
        Scaled images; without `x_test` there are train rows only.
    memory_mb : int
        For the gradients of train images that are held at once, in MiB. Where it holds those of all
        train images, every image passes through the network once, else once each time it is filled.
    progress : callable, optional
        Called with (gradients computed, gradients in all).

    Notes
    -----
    Cost: n_train (n_train + 2 n_test) operations for each trained parameter, and a forward and
    backward pass for each image and time. Weights that share a filter are treated together: G_i =
    sum_p delta_i(p) a_i(p)^T with delta the derivative of the output by the layer's output at
    position p and a the patch there; the block is <G_i, G_j>. A dense layer has one position, and
    <G_i, G_j> = <delta_i, delta_j> <a_i, a_j> is taken from the two factors.
    """
    x, n_train = _stack(network, x_train, x_test), len(x_train)
    kernels = {
        name: torch.zeros(len(x), n_train).to(x) for name in network.architecture.trained_layers
    }
    norms = {name: torch.zeros(len(x)).to(x) for name in kernels}
    n_held = _images_that_fit(network, memory_mb)
    firsts = range(0, n_train, n_held)
    n_done, n_all = 0, network.n_outputs * sum(len(x) - first for first in firsts)
    held = _allocate(network, x, min(n_held, n_train))
    streamed = _allocate(network, x, min(_ROWS_AT_ONCE, len(x)))
    for output in range(network.n_outputs):
        for first in firsts:
            stop_held = min(first + n_held, n_train)
            _fill(held, network, x[first:stop_held], output)
            edges = [
                *range(first, stop_held, _ROWS_AT_ONCE),
                *range(stop_held, len(x), _ROWS_AT_ONCE),
            ]
            for start, stop in zip(edges, [*edges[1:], len(x)], strict=True):
                is_held = start < stop_held
                if not is_held:
                    _fill(streamed, network, x[start:stop], output)
                # Among train images the lower triangle is enough.
                columns = slice(first, min(stop, stop_held))
                for name, k in kernels.items():
                    rows = [
                        (factor[start - first :] if is_held else factor)[: stop - start]
                        for factor in (held if is_held else streamed)[name]
                    ]
                    others = [factor[: columns.stop - first] for factor in held[name]]
                    _add_products(k[start:stop, columns], rows, others)
                    if first == 0:
                        squares = (torch.linalg.vector_norm(f, dim=1).square() for f in rows)
                        norms[name][start:stop] += prod(squares)
                n_done += stop - start
                if progress is not None:
                    progress(n_done, n_all)
    blocks = {}
    for name in list(kernels):
        # Layer by layer, so that there is one copy of each block and no more.
        k = kernels.pop(name)
        lower = k[:n_train].tril()
        k[:n_train] = lower.add_(lower.tril(-1).T)
        blocks[name] = Block(
            *(part.div_(network.n_outputs).cpu().numpy() for part in (k, norms[name]))
        )
    return blocks


def conjugate_block(
    network: Network,
    x_train: NDArray[np.floating],
    x_test: NDArray[np.floating] | None = None,
) -> Block:
    """Return the conjugate kernel, <h(x), h(x')> / d of the d features that the dense layer reads.

    In the ``ntk`` parameterization it is the dense layer's part of the tangent kernel.
    """
    x = _stack(network, x_train, x_test)
    with torch.no_grad():
        features = torch.cat([network.features(batch) for batch in x.split(_IMAGES_AT_ONCE)])
        features /= features.shape[1] ** 0.5
        k, diagonal = features @ features[: len(x_train)].T, features.square().sum(1)
    return Block(k.cpu().numpy(), diagonal.cpu().numpy())


def _stack(network: Network, x_train: NDArray, x_test: NDArray | None) -> Tensor:
    """Return train and test images in one tensor, where the network lies and in its precision."""
    x = network.to_tensor(x_train, "x_train")
    if x_test is not None:
        x = torch.cat([x, network.to_tensor(x_test, "x_test")])
    return x.to(network.dense.weight)


def _images_that_fit(network: Network, memory_mb: int) -> int:
    """Return of how many images the gradients fit the memory, at least of one."""
    numbers = sum(sum(_sizes(network, name)) for name in network.architecture.trained_layers)
    return max(memory_mb * 2**20 // (numbers * network.dense.weight.element_size()), 1)


def _sizes(network: Network, name: str) -> list[int]:
    """Return how many numbers the factors of one image's gradient by a layer have.

    A convolution has one factor, the gradient itself. A dense layer has what it reads, with a 1
    for the bias, and the derivative by its output; of the last one that is 1 and left out.
    """
    layer = network.layers[name]
    if isinstance(network.given[name], Conv):
        return [sum(parameter.numel() for parameter in layer.parameters())]
    n_outputs, n_read = layer.weight.shape
    read = n_read + (layer.bias is not None)
    return [read] if layer is network.dense else [read, n_outputs]


def _allocate(network: Network, x: Tensor, n: int) -> dict[str, list[Tensor]]:
    """Return room for the gradients of n images, layer by layer: memory is dear to ask for anew."""
    return {
        name: [x.new_empty(n, size) for size in _sizes(network, name)]
        for name in network.architecture.trained_layers
    }


def _add_products(k: Tensor, rows: list[Tensor], columns: list[Tensor]) -> None:
    """Add the inner products of gradients to a block; those of factors are multiplied."""
    if len(rows) == 1:
        k.addmm_(rows[0], columns[0].T)
    else:
        k.add_(prod(row @ column.T for row, column in zip(rows, columns, strict=True)))


def _fill(found: dict[str, list[Tensor]], network: Network, x: Tensor, output: int) -> None:
    """Write d output / d (weights and biases) of each trained layer, one row an image.

    The weights of a filter come in an order of their own, which no inner product knows.
    """
    for start in range(0, len(x), _IMAGES_AT_ONCE):
        batch = slice(start, min(start + _IMAGES_AT_ONCE, len(x)))
        inputs, deltas = _inputs_and_deltas(network, x[batch], output)
        for name, factors in found.items():
            given, seen, delta = network.given[name], inputs[name], deltas[name]
            if isinstance(given, Conv):
                parts = _filter_gradients(given, network.paddings[name], seen, delta)
                biases = delta.sum((2, 3))
            else:
                parts, biases = iter([seen]), torch.ones_like(seen[:, :1])
                if len(factors) > 1:
                    factors[1][batch] = delta
            target, at = factors[0][batch], 0
            for part in parts:
                target[:, at : at + part.shape[1]] = part
                at += part.shape[1]
            scale = network.weight_scale(name)
            if scale != 1:
                target[:, :at] *= scale
            if network.layers[name].bias is not None:
                target[:, at:] = biases * network.bias_scale(name)


def _inputs_and_deltas(
    network: Network, x: Tensor, output: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what each layer with weights reads, and d output / d what it makes of it."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def record(name: str, x: Tensor) -> Tensor:
        inputs[name] = x.detach()
        z = network.layer_output(name, x)
        # The images need no gradient, nor do the parameters: the first output is a leaf.
        outputs[name] = z if outputs else z.detach().requires_grad_(True)
        return outputs[name]

    with torch.enable_grad():
        total = network.run(x, record)[:, output].sum()
        deltas = torch.autograd.grad(total, list(outputs.values()))
    return inputs, dict(zip(outputs, deltas, strict=True))


def _filter_gradients(conv: Conv, padding: Padding, x: Tensor, delta: Tensor) -> Iterator[Tensor]:
    """Yield d output / d w(p) of each offset p in the filter of a convolution, (n, weights)."""
    (top, bottom), (left, right) = padding
    size, stride = conv.size, conv.stride
    height, width = delta.shape[2:]
    # Channels last, as the network computes: each offset is then one view and one product.
    padded = functional.pad(x, (left, right, top, bottom)).permute(0, 2, 3, 1)
    deltas = delta.permute(0, 2, 3, 1).flatten(1, 2).mT
    for row in range(size):
        rows = padded[:, row : row + (height - 1) * stride + 1 : stride]
        for column in range(size):
            seen = rows[:, :, column : column + (width - 1) * stride + 1 : stride]
            yield torch.bmm(deltas, seen.flatten(1, 2)).flatten(1)
