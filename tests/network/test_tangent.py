"""The streamed tangent kernel of a finite network, against autograd and the exact kernel."""

import numpy as np
import pytest
import torch
from empirical import empirical_ntk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel.random_architectures import architectures

from lantk.kernel import reference
from lantk.network.layers import PARAMETERIZATIONS, Network
from lantk.network.tangent import conjugate_block, tangent_blocks

RNG = np.random.default_rng(0)
SMALL = {
    "chen2020": ((1, 9, 8), [4, 4, 4, 8, 8, 8, 8]),
    "arora2019-gap-4": ((3, 8, 9), [5, 4, 3]),
}


def images(n, shape):
    return RNG.standard_normal((n, *shape))


def total(blocks):
    """Return the whole kernel, the sum over the layers."""
    return sum(block.k for block in blocks.values())


@pytest.mark.parametrize("parameterization", ["standard", "he", "ntk"])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("memory_mb", [0, 2048])
def test_layers_sum_to_the_gradients_inner_products(name, parameterization, memory_mb):
    """The sum over layers is <grad f(x), grad f(x')> by autograd, one image at a time or all."""
    shape, channels = SMALL[name]
    network = Network(name, shape, channels, parameterization=parameterization, seed=1).double()
    x_train, x_test = images(5, shape), images(3, shape)
    blocks = tangent_blocks(network, x_train, x_test, memory_mb=memory_mb)
    assert list(blocks) == network.architecture.trained_layers
    wanted = empirical_ntk(network, np.concatenate([x_train, x_test]), x_train)
    np.testing.assert_allclose(total(blocks), wanted, atol=1e-12 * abs(wanted).max())
    everything = empirical_ntk(network, np.concatenate([x_train, x_test]))
    norms = sum(block.diagonal for block in blocks.values())
    np.testing.assert_allclose(norms, np.diag(everything), rtol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures(max_layers=4, max_side=4), st.sampled_from(PARAMETERIZATIONS))
def test_so_they_do_whatever_the_layers(architecture, parameterization):
    """Pools, residuals, biases, all activations and dense layers, to rounding."""
    channels = [3] * architecture.n_hidden
    network = Network(architecture, (2, 5, 4), channels, 1, parameterization).double()
    x_train, x_test = images(3, (2, 5, 4)), images(2, (2, 5, 4))
    blocks = tangent_blocks(network, x_train, x_test, memory_mb=0)
    assert list(blocks) == architecture.trained_layers
    # In float64, PyTorch differentiates by weights in this layout only.
    network.to(memory_format=torch.contiguous_format)
    wanted = empirical_ntk(network, np.concatenate([x_train, x_test]))
    np.testing.assert_allclose(total(blocks), wanted[:, :3], atol=1e-12 * abs(wanted).max())
    norms = sum(block.diagonal for block in blocks.values())
    np.testing.assert_allclose(norms, np.diag(wanted), rtol=1e-10)


def test_each_block_is_the_gradients_of_its_own_layer():
    """A convolution in a residual and a hidden dense layer, with biases, have their own names."""
    layers = [
        {"conv": {"size": 3}},
        {"residual": ["relu", {"conv": {"size": 3, "bias": 0.5}}]},
        {"average_pool": {"size": 2}},
        *("flatten", {"dense": {"bias": 0.2}}, "gelu", "dense"),
    ]
    network = Network(layers, (2, 4, 4), [3, 3, 4], 1, "ntk").double()
    x = images(3, (2, 4, 4))
    blocks = tangent_blocks(network, x)
    assert list(blocks) == ["conv1", "conv2", "dense1", "dense2"]
    for name, block in blocks.items():
        network.requires_grad_(False)
        network.layers[name].requires_grad_(True)
        np.testing.assert_allclose(block.k, empirical_ntk(network, x), atol=1e-12)


def test_hidden_dense_layers_take_no_room_for_their_weights():
    """Gradients by a quarter of a million weights of 40 images fit a megabyte, which holds one."""
    network = Network("fully-connected-3", (1, 4, 4), [512, 512], parameterization="ntk").double()
    x, totals = images(40, (1, 4, 4)), []
    blocks = tangent_blocks(network, x, memory_mb=1, progress=lambda _, total: totals.append(total))
    # Each image passes through the network once.
    assert set(totals) == {40}
    wanted = empirical_ntk(network, x[:3], x)
    np.testing.assert_allclose(total(blocks)[:3], wanted, atol=1e-12 * abs(wanted).max())


def test_several_outputs_have_the_mean_of_their_kernels():
    """With 3 outputs the kernel is the mean over the outputs of their own kernels."""
    shape, channels = SMALL["chen2020"]
    network = Network("chen2020", shape, channels, n_outputs=3, seed=2).double()
    x = images(4, shape)
    found = total(tangent_blocks(network, x))
    wanted = 0
    for output in range(3):
        rows = []
        for image in network.to_tensor(x, "x"):
            network.zero_grad()
            network(image[None])[0, output].backward()
            rows.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        rows = torch.stack(rows)
        wanted = wanted + (rows @ rows.T).numpy() / 3
    np.testing.assert_allclose(found, wanted, atol=1e-12 * abs(wanted).max())


def test_conjugate_kernel_is_the_dense_layers_part():
    """In the ntk parameterization the dense layer adds the conjugate kernel to the NTK."""
    shape, channels = SMALL["chen2020"]
    network = Network("chen2020", shape, channels, parameterization="ntk").double()
    x_train, x_test = images(5, shape), images(3, shape)
    *_, (name, block) = tangent_blocks(network, x_train, x_test).items()
    assert name == "dense"
    np.testing.assert_allclose(conjugate_block(network, x_train, x_test).k, block.k, rtol=1e-12)


def test_wide_networks_tend_to_the_exact_kernel():
    """The mean over networks is the CNTK within 4 standard errors; width 4x has 1/2 the spread."""
    name, shape = "arora2019-vanilla-3", (1, 4, 4)
    x = images(3, shape)
    exact = reference.gram(name, x)
    spreads = []
    for width in (8, 32):
        networks = (
            Network(name, shape, [width] * 2, parameterization="ntk", seed=seed).double()
            for seed in range(100)
        )
        kernels = np.array([total(tangent_blocks(n, x)) for n in networks])
        spreads.append(kernels.std(axis=0, ddof=1))
        assert abs((kernels.mean(axis=0) - exact) / (spreads[-1] / 10)).max() < 4
    assert 1.5 < np.median(spreads[0] / spreads[1]) < 2.7


def test_float32_is_the_double_kernel_to_its_precision():
    """In float32, as a trained network is, values agree with float64 to 1e-5 of the largest."""
    shape, channels = SMALL["chen2020"]
    network = Network("chen2020", shape, channels, seed=3)
    x = images(6, shape).astype(np.float32)
    found = total(tangent_blocks(network, x))
    wanted = total(tangent_blocks(network.double(), x))
    assert found.dtype == np.float32
    assert (found == found.T).all()
    assert abs(found - wanted).max() < 1e-5 * abs(wanted).max()
