"""The finite network: padding, initialisation, and the exact kernel as its limit."""

import itertools

import numpy as np
import pytest
import torch
from empirical import empirical_ntk

import lantk
import lantk.network.layers
from lantk.kernel.architecture import same_padding
from lantk.kernel.grammar import parse_architecture
from lantk.network.layers import Network, default_channels, default_parameterization


def conv(size, stride=1, trained=True):
    """Return one convolution of a layer list."""
    return {"conv": {"size": size, "stride": stride, "trained": trained}}


FIXED_DENSE = {"dense": {"trained": False}}
SMALL = [conv(3, 2), "relu", conv(3), "relu", "flatten", "dense"]
FIXED_ENDS = [conv(3, 1, False), "relu", conv(3), "relu", "global_average_pool", FIXED_DENSE]


# The finite network and the exact kernel

# Layers and image sides. The images grow along one side and shrink along the other, so that a
# zero on the wrong border shows.
SAMPLED = {
    "flatten": ([conv(3), "relu", conv(3), "relu", "flatten", "dense"], (6, 6)),
    "gap": ([conv(3), "relu", conv(3), "relu", "global_average_pool", "dense"], (6, 6)),
    "even-side-stride-2": (
        [conv(3), "relu", conv(3, 2), "relu", conv(3), "flatten", "dense"],
        (8, 8),
    ),
    "odd-sides-stride-2": ([conv(3, 2), "relu", conv(3, 2), "relu", "flatten", "dense"], (7, 5)),
    "size-5": ([conv(5, 2), "relu", conv(5), "relu", "global_average_pool", "dense"], (8, 6)),
    "stride-3": ([conv(3, 3), conv(1), "relu", "flatten", "dense"], (8, 7)),
    "fixed-ends": (FIXED_ENDS, (6, 6)),
}
N_DRAWS = 300
WIDTH = 64


def sample_images(height, width):
    """Return three images of two channels, the second like the first."""
    x = np.random.default_rng(1).uniform(-1, 1, (3, 2, height, width))
    x[1] = 0.7 * x[0] + 0.5 * x[1]
    return x * np.linspace(0.2, 2, height)[:, None] * np.linspace(2, 0.2, width)


def sample_kernel(layers, x, kernel):
    """Return `kernel` of finite networks on `x`, one draw of all weights a row."""
    channels = [WIDTH] * len(parse_architecture(layers).convs)
    n_outputs = 1 if kernel == "ntk" else WIDTH
    draws = []
    for seed in range(N_DRAWS):
        network = Network(layers, x.shape[1:], channels, n_outputs, "ntk", seed=seed).double()
        if kernel == "ntk":
            draws.append(empirical_ntk(network, x))
        else:
            with torch.no_grad():
                outputs = network(torch.from_numpy(x)).numpy()
            draws.append(outputs @ outputs.T / n_outputs)
    return np.array(draws)


def largest_z(layers, x, kernel):
    """Return how far the mean draw is from the exact kernel, in its own standard errors."""
    draws = sample_kernel(layers, x, kernel)
    exact = lantk.gram(layers, x, kernel=kernel, dtype="float64", device="cpu")
    standard_error = draws.std(axis=0, ddof=1) / np.sqrt(N_DRAWS)
    return np.abs((draws.mean(axis=0) - exact) / standard_error).max()


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("case", SAMPLED)
def test_mean_of_sampled_networks_is_the_exact_kernel(case, kernel):
    """Every entry of the mean over 300 finite networks is within 5 standard errors of exact."""
    layers, sides = SAMPLED[case]
    assert largest_z(layers, sample_images(*sides), kernel) <= 5


@pytest.mark.parametrize("case", ["even-side-stride-2", "size-5", "stride-3"])
def test_sampled_networks_reveal_another_padding_rule(case, monkeypatch):
    """Networks that pad both ends alike at stride 2, as PyTorch does, miss the exact kernel."""
    layers, sides = SAMPLED[case]
    monkeypatch.setattr(
        lantk.network.layers, "same_padding", lambda side, size, stride: (size // 2,) * 2
    )
    assert largest_z(layers, sample_images(*sides), "ntk") > 5


def test_empirical_ntk_is_the_product_of_gradients():
    """Each entry is the inner product of two gradients found by plain back-propagation."""
    network = Network(FIXED_ENDS, (2, 5, 4), [3, 4])
    x = sample_images(5, 4).astype(np.float32)
    gradients = []
    for image in torch.from_numpy(x):
        network.zero_grad()
        network(image[None]).backward()
        trained = [p.grad.flatten() for p in network.parameters() if p.requires_grad]
        gradients.append(torch.cat(trained))
    expected = torch.stack(gradients) @ torch.stack(gradients).T
    np.testing.assert_allclose(empirical_ntk(network, x), expected, rtol=1e-5)
    np.testing.assert_allclose(empirical_ntk(network, x[:1], x[1:]), expected[:1, 1:], rtol=1e-5)


# The module


@pytest.mark.parametrize(
    ("size", "stride", "height", "width"),
    [*itertools.product((1, 3, 5), (1, 2, 3), (1, 4, 7), (2, 5, 8))],
)
def test_convolution_equals_a_plain_loop(size, stride, height, width):
    """A convolution reads zeros where `same_padding` puts them, on rows and on columns."""
    rows, columns = (-(-side // stride) for side in (height, width))
    n_features = 2 * rows * columns
    network = Network([conv(size, stride), "flatten", "dense"], (1, height, width), [2], n_features)
    torch.nn.init.eye_(network.dense.weight)
    torch.nn.init.zeros_(network.dense.bias)
    image = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    top, left = same_padding(height, size, stride)[0], same_padding(width, size, stride)[0]
    weight, bias = network.convs[0].weight.detach().numpy(), network.convs[0].bias.detach().numpy()
    expected = np.empty((2, rows, columns))
    for channel, u, w in itertools.product(range(2), range(rows), range(columns)):
        value = float(bias[channel])
        for i, j in itertools.product(range(size), repeat=2):
            row, column = u * stride + i - top, w * stride + j - left
            if 0 <= row < height and 0 <= column < width:
                value += weight[channel, 0, i, j] * image[row, column]
        expected[channel, u, w] = value
    features = network(torch.from_numpy(image[None, None])).detach().numpy()
    np.testing.assert_allclose(features.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("parameterization", ["standard", "he", "ntk"])
@pytest.mark.parametrize(
    "layers",
    [
        "chen2020",
        "arora2019-vanilla-3",
        "arora2019-gap-3",
        [conv(3, 2), conv(5, 3), "relu", "global_average_pool", "dense"],
        [conv(1, 4), "flatten", FIXED_DENSE],
    ],
)
def test_output_has_one_row_per_image(layers, parameterization):
    """Any architecture of the grammar maps n images to n rows of `n_outputs` finite numbers."""
    n_convs = len(parse_architecture(layers).convs)
    network = Network(layers, (3, 9, 6), [4] * n_convs, 2, parameterization)
    outputs = network(torch.ones(5, 3, 9, 6))
    assert outputs.shape == (5, 2)
    assert torch.isfinite(outputs).all()


STRIDED = [conv(3, 2), conv(3, 3), conv(3), "flatten", "dense"]


@pytest.mark.parametrize(
    ("name", "n_outputs", "channels"),
    [
        ("chen2020", 1, [16, 64, 64, 128, 128, 256, 256]),
        ("chen2020", 10, [16, 128, 128, 256, 256, 512, 512]),
        (STRIDED, 1, [16, 256, 256]),
        (STRIDED, 3, [16, 512, 512]),
    ],
)
def test_default_channels_grow_with_the_stride(name, n_outputs, channels):
    """The first convolution has 16 channels, later ones 64 or 128 times the stride, at most 4."""
    assert default_channels(name, n_outputs) == channels
    assert Network(name, (1, 4, 4), n_outputs=n_outputs).channels == channels


@pytest.mark.parametrize("n_outputs", [1, 10])
@pytest.mark.parametrize("name", ["arora2019-gap-6", "arora2019-vanilla-6"])
def test_networks_without_strides_are_equally_wide_everywhere(name, n_outputs):
    """Every convolution has 128 channels, however many classes there are."""
    assert default_channels(name, n_outputs) == [128] * 5


@pytest.mark.parametrize(
    ("name", "parameterization"),
    [
        ("chen2020", "standard"),
        ("arora2019-vanilla-3", "he"),
        ("arora2019-gap-21", "he"),
        (SMALL, "standard"),
        ([conv(3), "relu", conv(3), "flatten", "dense"], "standard"),
    ],
)
def test_networks_of_relus_without_strides_start_as_he(name, parameterization):
    """A stride, or a convolution without its ReLU, leaves PyTorch's initialisation."""
    assert default_parameterization(name) == parameterization


@pytest.mark.parametrize(
    ("layers", "parameterization", "n_parameters"),
    [
        (SMALL, "standard", (9 * 2 * 3 + 3) + (9 * 3 * 4 + 4) + (4 * 2 * 3 + 1)),
        (SMALL, "he", 9 * 2 * 3 + 9 * 3 * 4 + 4 * 2 * 3),
        (SMALL, "ntk", 9 * 2 * 3 + 9 * 3 * 4 + 4 * 2 * 3),
        (FIXED_ENDS, "standard", (9 * 2 * 3 + 3) + (9 * 3 * 4 + 4) + (4 + 1)),
    ],
)
def test_parameters_are_filters_dense_weights_and_standard_biases(
    layers, parameterization, n_parameters
):
    """Weights are counted by hand, biases exist in the standard parameterization only."""
    network = Network(layers, (2, 4, 6), [3, 4], parameterization=parameterization)
    assert network.n_parameters == n_parameters


def test_ntk_weights_are_standard_normal():
    """In the NTK parameterization weights have mean 0 and variance 1 whatever the fan-in."""
    network = Network(SMALL, (1, 8, 8), [64, 64], parameterization="ntk")
    for weight in network.parameters():
        standard_error = weight.numel() ** -0.5
        assert abs(weight.mean()) <= 5 * standard_error
        assert abs(weight.var() - 1) <= 5 * 2**0.5 * standard_error


def test_he_weights_make_up_for_what_a_relu_takes():
    """Variances are 2 / fan-in before a ReLU and 1 / fan-in elsewhere."""
    layers = [conv(3), "relu", conv(3), "flatten", "dense"]
    network = Network(layers, (1, 8, 8), [64, 64], parameterization="he")
    for weight, gain in zip(network.parameters(), (2, 1, 1), strict=True):
        variance = gain / weight[0].numel()
        assert abs(weight.mean()) <= 5 * (variance / weight.numel()) ** 0.5
        assert abs(weight.var() / variance - 1) <= 5 * (2 / weight.numel()) ** 0.5


@pytest.mark.parametrize(("parameterization", "is_alive"), [("he", True), ("standard", False)])
def test_signal_survives_21_layers_from_he_weights_only(parameterization, is_alive):
    """Outputs differ between images, by more than 1 %; PyTorch's weights leave under 0.001 %."""
    network = Network("arora2019-vanilla-21", (3, 8, 8), [32] * 20, 1, parameterization)
    x = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        outputs = network(torch.from_numpy(x))[:, 0]
    spread = float(outputs.std() / outputs.abs().mean())
    assert spread > 1e-2 if is_alive else spread < 1e-5


def test_standard_weights_are_pytorch_defaults():
    """The standard parameters are those of freshly made PyTorch layers after the same seed."""
    network = Network(SMALL, (2, 4, 6), [3, 4], seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = [torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(24, 1)]
    for layer, plain in zip([*network.convs, network.dense], layers, strict=True):
        assert torch.equal(layer.weight, plain.weight)
        assert torch.equal(layer.bias, plain.bias)


# Messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [4]}, "has 1 numbers .* 2 convolutions"),
        ({"channels": [4, 0]}, r"`channels` is \[4, 0\]"),
        ({"channels": [4, 2.5]}, r"`channels` is \[4, 2.5\]"),
        ({"image_shape": (6, 5)}, r"`image_shape` is \(6, 5\)"),
        ({"image_shape": (1, 0, 5)}, r"`image_shape` is \(1, 0, 5\)"),
        ({"n_outputs": 0}, "`n_outputs` is"),
        ({"parameterization": "mean-field"}, "'mean-field', wanted 'standard', 'he', 'ntk'"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    """A size that cannot be built is named, with what was wanted."""
    with pytest.raises(ValueError, match=message):
        Network(SMALL, **({"image_shape": (2, 6, 5)} | arguments))
