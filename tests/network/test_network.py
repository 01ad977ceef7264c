"""The finite network: padding, layers, initialisation; for its kernels see the other files."""

import itertools

import numpy as np
import pytest
import torch
from empirical import empirical_ntk

from lantk.kernel.architecture import same_padding
from lantk.kernel.grammar import parse_architecture
from lantk.network.defaults import default_channels, default_parameterization
from lantk.network.layers import Network


def conv(size, stride=1, trained=True, bias=0):
    """Return one convolution of a layer list."""
    return {"conv": {"size": size, "stride": stride, "bias": bias, "trained": trained}}


def pool(size, stride):
    """Return one average pool of a layer list."""
    return {"average_pool": {"size": size, "stride": stride}}


FIXED_DENSE = {"dense": {"trained": False}}
SMALL = [conv(3, 2), "relu", conv(3), "relu", "flatten", "dense"]
FIXED_ENDS = [conv(3, 1, False), "relu", conv(3), "relu", "global_average_pool", FIXED_DENSE]
LEAKY = {"leaky_relu": {"slope": 0.1}}
RESIDUAL = {"residual": ["relu", conv(3), LEAKY, conv(3)]}
# Every kind of layer there is.
MIXED = [
    pool(2, 1), conv(3, 2, bias=0.3), RESIDUAL, "gelu", pool(3, 2), conv(1), "erf",
    "flatten", {"dense": {"bias": 0.5}}, LEAKY, {"dense": {"trained": False}}, "relu", "dense",
]  # fmt: skip


def test_empirical_ntk_is_the_product_of_gradients():
    """Each entry is the inner product of two gradients found by plain back-propagation."""
    network = Network(FIXED_ENDS, (2, 5, 4), [3, 4])
    x = np.random.default_rng(1).uniform(-1, 1, (3, 2, 5, 4)).astype(np.float32)
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


@pytest.mark.parametrize(
    ("size", "stride", "height", "width"),
    [*itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 4, 7), (2, 5, 8))],
)
def test_pool_equals_a_plain_loop(size, stride, height, width):
    """A pool reads zeros where `same_padding` puts them, and divides by its size squared there."""
    layers = [pool(size, stride), "flatten", "dense"]
    network = Network(layers, (2, height, width), parameterization="ntk").double()
    image = np.random.default_rng(0).standard_normal((2, height, width))
    top, left = same_padding(height, size, stride)[0], same_padding(width, size, stride)[0]
    rows, columns = (-(-side // stride) for side in (height, width))
    expected = np.zeros((2, rows, columns))
    for u, w, i, j in itertools.product(range(rows), range(columns), range(size), range(size)):
        row, column = u * stride + i - top, w * stride + j - left
        if 0 <= row < height and 0 <= column < width:
            expected[:, u, w] += image[:, row, column] / size**2
    features = network.features(torch.from_numpy(image[None])).reshape(expected.shape)
    np.testing.assert_allclose(features, expected, atol=1e-12)


def test_layers_are_computed_in_their_order():
    """A network of every kind of layer is that of PyTorch's functions, written out."""
    network = Network(MIXED, (3, 7, 6), [4, 4, 4, 5, 6, 7], 2, "ntk", seed=3).double()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 3, 7, 6)))
    weights = [layer.weight / layer.weight[0].numel() ** 0.5 for layer in network.layers.values()]
    f = torch.nn.functional
    pad = f.pad(x, (0, 1, 0, 1))
    z = f.avg_pool2d(pad, 2, 1)
    z = f.conv2d(f.pad(z, (0, 1, 1, 1)), weights[0], 0.3 * network.convs[0].bias, 2)
    branch = f.conv2d(z.relu(), weights[1], padding=1)
    z = f.gelu(z + f.conv2d(torch.where(branch > 0, branch, 0.1 * branch), weights[2], padding=1))
    z = f.avg_pool2d(f.pad(z, (1, 1, 0, 1)), 3, 2)
    z = torch.erf(f.conv2d(z, weights[3])).flatten(1)
    z = f.leaky_relu(z @ weights[4].T + 0.5 * network.hidden[0].bias, 0.1)
    z = (z @ weights[5].T).relu()
    torch.testing.assert_close(network.features(x), z)
    torch.testing.assert_close(network(x), z @ weights[6].T)
    assert [name for name, _ in network.named_parameters()] == [
        *("convs.0.weight", "convs.0.bias", "convs.1.weight", "convs.2.weight", "convs.3.weight"),
        *("hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "dense.weight"),
    ]
    assert [name for name, layer in network.layers.items() if not layer.weight.requires_grad] == [
        "dense2"
    ]


@pytest.mark.parametrize("parameterization", ["standard", "he", "ntk"])
@pytest.mark.parametrize(
    "layers",
    [
        "chen2020",
        "arora2019-vanilla-3",
        "arora2019-gap-3",
        [conv(3, 2), conv(5, 3), "relu", "global_average_pool", "dense"],
        [conv(1, 4), "flatten", {"dense": {}}],
        ["global_average_pool", "dense"],
        "myrtle5",
        "chen2020-lap-3",
        "fully-connected-3",
        MIXED,
    ],
)
def test_output_has_one_row_per_image(layers, parameterization):
    """Any architecture of the grammar maps n images to n rows of `n_outputs` finite numbers."""
    n_hidden = parse_architecture(layers).n_hidden
    network = Network(layers, (3, 9, 6), [4] * n_hidden, 2, parameterization)
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
        ("chen2020-lap-3", 1, [16, 64, 64, 128, 128, 256, 256]),
        ("myrtle7", 1, [16, 64, 128, 128, 256, 256]),
    ],
)
def test_default_channels_grow_with_the_stride(name, n_outputs, channels):
    """The first convolution has 16 channels, later ones 64 or 128 times the stride, at most 4.

    Strides of pools count, but for those behind the last convolution.
    """
    assert default_channels(name, n_outputs) == channels
    assert Network(name, (1, 4, 4), n_outputs=n_outputs).channels == channels


@pytest.mark.parametrize("n_outputs", [1, 10])
@pytest.mark.parametrize("name", ["arora2019-gap-6", "arora2019-vanilla-6"])
def test_networks_without_strides_are_equally_wide_everywhere(name, n_outputs):
    """Every convolution has 128 channels, however many classes there are."""
    assert default_channels(name, n_outputs) == [128] * 5


@pytest.mark.parametrize(
    ("layers", "channels"),
    [
        ([conv(3), RESIDUAL, pool(2, 2), "flatten", "dense"], [128] * 3),
        ([conv(3), RESIDUAL, conv(1, 2), "flatten", "dense"], [64, 64, 64, 128]),
        (
            [conv(3), pool(2, 2), {"residual": [conv(1)]}, conv(1), "flatten", "dense"],
            [64, 64, 128],
        ),
        ([conv(3), "relu", "flatten", "dense", "relu", "dense"], [128, 256]),
        ("fully-connected-4", [256] * 3),
        (MIXED, [128, 128, 128, 256, 256, 256]),
    ],
)
def test_residuals_are_as_wide_as_their_input_and_dense_layers_256(layers, channels):
    """The defaults fit together, and the network is made of them."""
    assert default_channels(layers) == channels
    network = Network(layers, (1, 4, 4))
    assert [layer.weight.shape[0] for layer in network.layers.values()] == [*channels, 1]


@pytest.mark.parametrize(
    ("name", "parameterization"),
    [
        ("chen2020", "standard"),
        ("arora2019-vanilla-3", "he"),
        ("arora2019-gap-21", "he"),
        (SMALL, "standard"),
        ([conv(3), "relu", conv(3), "flatten", "dense"], "standard"),
        ("myrtle10", "he"),
        ("arora2019-vanilla-3-lap-2", "he"),
        ("fully-connected-5", "he"),
        ("fully-connected-1", "standard"),
        ([conv(3), "erf", "flatten", "dense", "dense"], "standard"),
        ([conv(3), {"residual": ["relu", conv(3)]}, "relu", "flatten", "dense"], "standard"),
    ],
)
def test_deep_networks_without_strides_start_as_he(name, parameterization):
    """A stride, a residual or a layer without its activation leave PyTorch's initialisation."""
    assert default_parameterization(name) == parameterization


BIASED = [conv(3, bias=0.5), "relu", "flatten", "dense", {"dense": {"bias": 0.2}}]


@pytest.mark.parametrize(
    ("layers", "parameterization", "n_parameters"),
    [
        (SMALL, "standard", (9 * 2 * 3 + 3) + (9 * 3 * 4 + 4) + (4 * 2 * 3 + 1)),
        (SMALL, "he", 9 * 2 * 3 + 9 * 3 * 4 + 4 * 2 * 3),
        (SMALL, "ntk", 9 * 2 * 3 + 9 * 3 * 4 + 4 * 2 * 3),
        (FIXED_ENDS, "standard", (9 * 2 * 3 + 3) + (9 * 3 * 4 + 4) + (4 + 1)),
        (BIASED, "standard", (9 * 2 * 3 + 3) + (24 * 3 * 4 + 4) + (4 + 1)),
        (BIASED, "he", (9 * 2 * 3 + 3) + (24 * 3 * 4) + (4 + 1)),
        (BIASED, "ntk", (9 * 2 * 3 + 3) + (24 * 3 * 4) + (4 + 1)),
    ],
)
def test_parameters_are_filters_dense_weights_and_standard_biases(
    layers, parameterization, n_parameters
):
    """Weights are counted by hand; biases are everywhere in ``standard``, else where described."""
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


@pytest.mark.parametrize(
    ("activation", "gain"), [(LEAKY, 2 / 1.01), ("erf", 2.1525), ("gelu", 2.3517)]
)
def test_he_keeps_the_size_of_standard_normal_values(activation, gain):
    """Weights have gain / fan-in, with which N(0, 1) before an activation is N(0, 1) again."""
    layers = ["flatten", {"dense": {"bias": 0.3}}, activation, "dense"]
    (hidden,) = Network(layers, (1, 8, 8), [4096], parameterization="he").hidden.requires_grad_(
        False
    )
    assert abs(float(hidden.weight.var()) * 64 / gain - 1) <= 5 * (2 / hidden.weight.numel()) ** 0.5
    assert abs(float(hidden.bias.var()) / 0.09 - 1) <= 5 * (2 / 4096) ** 0.5


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
        ({"channels": [4]}, r"1 numbers of channels, wanted 2: .* \(conv1, conv2\)"),
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


def test_channels_that_a_residual_cannot_add_are_refused():
    """The layers are named, and what to do."""
    layers = [conv(3), {"residual": [conv(3), conv(1)]}, "flatten", "dense"]
    assert Network(layers, (2, 6, 5), [4, 7, 4]).channels == [4, 7, 4]
    with pytest.raises(ValueError, match=r"5 channels \(conv3\), and its input has 4 \(conv1\)"):
        Network(layers, (2, 6, 5), [4, 4, 5])
