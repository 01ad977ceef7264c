"""Finite networks drawn at random: their mean kernels are the exact ones, whatever the layers.

The network and the exact kernel read one description; here they are to read the same of it.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from kernel.random_architectures import architectures

from lantk.kernel import reference
from lantk.kernel.architecture import Shaped
from lantk.kernel.grammar import parse_architecture
from lantk.network.layers import Network
from lantk.network.tangent import conjugate_block, tangent_blocks


def conv(size, stride=1, bias=0, trained=True):
    """Return one convolution of a layer list."""
    return {"conv": {"size": size, "stride": stride, "bias": bias, "trained": trained}}


def dense(bias=0, trained=True):
    """Return one dense layer of a layer list."""
    return {"dense": {"bias": bias, "trained": trained}}


def pool(size, stride):
    """Return one average pool of a layer list."""
    return {"average_pool": {"size": size, "stride": stride}}


GAP = "global_average_pool"
LEAKY = {"leaky_relu": {"slope": 0.3}}
# Layers and image sides. The images grow along one side and shrink along the other, so that a
# zero on the wrong border shows.
CASES = {
    "flatten": ([conv(3), "relu", conv(3), "relu", "flatten", "dense"], (5, 5)),
    "gap": ([conv(3), "relu", conv(3), "relu", GAP, "dense"], (5, 5)),
    "even-side-stride-2": ([conv(3), "relu", conv(3, 2), "relu", "flatten", "dense"], (6, 6)),
    "odd-sides-stride-2": ([conv(3, 2), "relu", conv(3, 2), "relu", "flatten", "dense"], (7, 5)),
    "size-5": ([conv(5, 2), "relu", conv(5), "relu", GAP, "dense"], (8, 6)),
    "stride-3": ([conv(3, 3), conv(1), "relu", "flatten", "dense"], (8, 7)),
    "fixed-ends": (
        [conv(3, trained=False), "relu", conv(3), "relu", GAP, dense(trained=False)],
        (5, 5),
    ),
    "biases": ([conv(3, 1, 0.7), "relu", conv(3, 1, 0.4, False), "flatten", dense(0.5)], (4, 5)),
    "leaky-relu": ([conv(3), LEAKY, conv(3), LEAKY, "flatten", "dense"], (4, 4)),
    "erf": ([conv(3), "erf", conv(3), "erf", "flatten", "dense"], (4, 4)),
    "gelu": ([conv(3), "gelu", conv(3, 1, 0.3), "gelu", "flatten", "dense"], (4, 4)),
    "pools": ([conv(3), "relu", pool(2, 2), conv(3), "relu", pool(3, 1), GAP, "dense"], (6, 5)),
    "uneven-pool": ([pool(2, 1), conv(3), "relu", pool(4, 3), "flatten", "dense"], (7, 6)),
    "residual": (
        [conv(3), {"residual": ["relu", conv(3), "relu", conv(3)]}, "relu", "flatten", "dense"],
        (4, 4),
    ),
    "dense": ([conv(3), "relu", GAP, dense(0.3), "relu", dense(), LEAKY, dense(0.2)], (4, 4)),
    "fully-connected": (["flatten", dense(0.5), "erf", dense(0, False), "relu", "dense"], (3, 3)),
}


def sample_images(height, width):
    """Return three images of two channels, the second like the first."""
    x = np.random.default_rng(1).uniform(-1, 1, (3, 2, height, width))
    x[1] = 0.7 * x[0] + 0.5 * x[1]
    return x * np.linspace(0.2, 2, height)[:, None] * np.linspace(2, 0.2, width)


def draw_kernels(architecture, x, n_draws, width):
    """Return the NTK and NNGP kernels of finite networks, (n_draws, 2, n, n)."""
    widths = [width] * architecture.n_hidden
    draws = []
    for seed in range(n_draws):
        network = Network(architecture, x.shape[1:], widths, 1, "ntk", seed=seed).double()
        ntk = sum(block.k for block in tangent_blocks(network, x, memory_mb=1).values())
        # What the last dense layer makes of its features, with its bias.
        nngp = conjugate_block(network, x).k + architecture.denses[-1].bias ** 2
        draws.append((ntk, nngp))
    return np.array(draws)


def largest_z(layers, sides, n_draws=150, width=64):
    """Return how far the mean draw is from the exact kernels, in its own standard errors.

    A kernel of no spread, as that of a network without hidden layers, is to be exact.
    """
    architecture, x = parse_architecture(layers), sample_images(*sides)
    exact = np.array([reference.gram(architecture, x, kernel=kernel) for kernel in ("ntk", "nngp")])
    draws = draw_kernels(architecture, x, n_draws, width)
    standard_error = draws.std(axis=0, ddof=1) / np.sqrt(n_draws)
    allowed = np.maximum(standard_error, 1e-12 * np.abs(exact).max())
    return np.abs((draws.mean(axis=0) - exact) / allowed).max()


@pytest.mark.parametrize("case", CASES)
def test_mean_of_sampled_networks_is_the_exact_kernel(case):
    """Every entry of the mean over 150 finite networks is within 5 standard errors of exact."""
    assert largest_z(*CASES[case]) <= 5


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures(max_layers=4, max_side=4, max_dense=2))
def test_so_it_is_of_layers_in_any_order(architecture):
    """Whatever the grammar accepts is read alike, by 80 networks of 32 channels each."""
    assert largest_z(architecture, (4, 5), 80, 32) <= 5


@pytest.mark.parametrize("case", ["size-5", "stride-3"])
def test_sampled_networks_reveal_another_padding_rule(case, monkeypatch):
    """Networks that pad both ends alike, as PyTorch does, miss the exact kernel."""
    both = property(lambda shaped: ((shaped.layer.size // 2,) * 2,) * 2)
    monkeypatch.setattr(Shaped, "padding", both)
    assert largest_z(*CASES[case]) > 5


@pytest.mark.parametrize("case", ["biases", "dense", "fully-connected"])
def test_sampled_networks_reveal_other_biases(case, monkeypatch):
    """Networks whose biases train at another rate miss the exact kernel."""
    monkeypatch.setattr(Network, "bias_scale", lambda network, name: 1.0)
    assert largest_z(*CASES[case]) > 5
