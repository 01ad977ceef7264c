"""The finite network: padding, initialisation, training, and the exact kernel as its limit."""

import itertools

import numpy as np
import pytest
import torch

import lantk
import lantk.network
from lantk.architecture import parse_architecture, same_padding
from lantk.network import Network, TrainingError, default_channels, empirical_ntk, train


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
    monkeypatch.setattr(lantk.network, "same_padding", lambda side, size, stride: (size // 2,) * 2)
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


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
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


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("chen2020", [16, 64, 64, 128, 128, 256, 256]),
        ("arora2019-gap-6", [16, 64, 64, 64, 64]),
        ([conv(3, 2), conv(3, 3), conv(3), "flatten", "dense"], [16, 256, 256]),
    ],
)
def test_default_channels_grow_with_the_stride(name, channels):
    """The first convolution has 16 channels, later ones 64 times the stride so far, at most 256."""
    assert default_channels(name) == channels
    assert Network(name, (1, 4, 4)).channels == channels


@pytest.mark.parametrize(
    ("layers", "parameterization", "n_parameters"),
    [
        (SMALL, "standard", (9 * 2 * 3 + 3) + (9 * 3 * 4 + 4) + (4 * 2 * 3 + 1)),
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


def test_standard_weights_are_pytorch_defaults():
    """The standard parameters are those of freshly made PyTorch layers after the same seed."""
    network = Network(SMALL, (2, 4, 6), [3, 4], seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = [torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(24, 1)]
    for layer, plain in zip([*network.convs, network.dense], layers, strict=True):
        assert torch.equal(layer.weight, plain.weight)
        assert torch.equal(layer.bias, plain.bias)


# Training


def separable_set(n=24):
    """Return images brighter than 0 for the class +1 and darker for -1, and the labels."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(n) % 2, 1, -1)
    x = 0.5 * y[:, None, None, None] + 0.2 * rng.standard_normal((n, 2, 6, 5))
    return x.astype(np.float32), y


def run_training(network_seed=0, seed=0, layers=SMALL, **options):
    """Train a small network on the separable set and return it with its history."""
    network = Network(layers, (2, 6, 5), [4, 4], seed=network_seed)
    x, y = separable_set()
    options = {"epochs": 2, "batch_size": 7, "learning_rate": 1e-2, "device": "cpu"} | options
    return network, train(network, x[:16], y[:16], x[16:], seed=seed, **options)


def test_training_learns_a_separable_set():
    """Test scores have the sign of the label for every image after a few epochs."""
    _, history = run_training(epochs=20)
    assert ((history.test_scores[-1] >= 0) == (separable_set()[1][16:] > 0)).all()
    assert history.train_loss[-1] < 0.1 * history.train_loss[0]


def test_history_holds_one_row_per_epoch():
    """The history's arrays have a row per epoch, and `progress` hears of each epoch once."""
    heard = []
    network, history = run_training(epochs=3, progress=lambda *args: heard.append(args))
    assert history.train_loss.dtype == np.float64
    assert history.test_scores.dtype == np.float32
    assert history.test_scores.shape == (3, 8)
    assert heard == [(i + 1, 3, loss) for i, loss in enumerate(history.train_loss)]
    assert history.n_parameters == network.n_parameters
    assert history.seconds > 0


def test_train_loss_is_the_mean_over_images_of_targets_0_and_1():
    """With a step too small to matter the loss is the squared error of the first network."""
    x, y = separable_set()
    with torch.no_grad():
        outputs = Network(SMALL, (2, 6, 5), [4, 4])(torch.from_numpy(x[:16]))[:, 0].numpy()
    _, history = run_training(learning_rate=1e-12)
    expected = np.mean((outputs - (y[:16] + 1) / 2) ** 2)
    np.testing.assert_allclose(history.train_loss, expected, rtol=1e-5)


def test_scores_are_outputs_minus_one_half(monkeypatch):
    """The last scores are the trained network's outputs less 0.5, however they were batched."""
    monkeypatch.setattr(lantk.network, "_EVALUATION_BATCH", 3)
    network, history = run_training()
    with torch.no_grad():
        outputs = network(torch.from_numpy(separable_set()[0][16:]))[:, 0].numpy()
    np.testing.assert_allclose(history.test_scores[-1], outputs - 0.5, atol=1e-6)


def test_training_without_test_images_gives_empty_scores():
    """No test image is legal: the scores then have no columns."""
    x, y = separable_set()
    history = train(Network(SMALL, (2, 6, 5), [4, 4]), x, y, x[:0], epochs=1, device="cpu")
    assert history.test_scores.shape == (1, 0)


def test_equal_seeds_give_equal_bytes():
    """Two runs with the same seeds agree to the last bit, parameters included."""
    (network, history), (twin, again) = run_training(), run_training()
    assert history.test_scores.tobytes() == again.test_scores.tobytes()
    assert history.train_loss.tobytes() == again.train_loss.tobytes()
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("seeds", [{"network_seed": 1}, {"seed": 1}])
def test_each_seed_matters(seeds):
    """The network's seed and the seed of the order each change the result."""
    assert (run_training(**seeds)[1].test_scores != run_training()[1].test_scores).any()


def test_global_random_states_are_untouched():
    """Making and training a network neither reads nor moves the global random states."""
    torch.manual_seed(1)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = run_training()[1]
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    torch.manual_seed(2)
    assert run_training()[1].test_scores.tobytes() == first.test_scores.tobytes()


def test_layers_that_are_not_trained_keep_their_weights():
    """Training moves the weights of trained layers and no others, biases included."""
    network, _ = run_training(layers=FIXED_ENDS)
    start = dict(Network(FIXED_ENDS, (2, 6, 5), [4, 4]).named_parameters())
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, start[name]) == (not name.startswith("convs.1")), name


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
        ({"parameterization": "mean-field"}, "'mean-field', wanted 'standard' or 'ntk'"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    """A size that cannot be built is named, with what was wanted."""
    with pytest.raises(ValueError, match=message):
        Network(SMALL, **({"image_shape": (2, 6, 5)} | arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` is 0"),
        ({"epochs": 1.5}, "`epochs` is 1.5"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0"),
        ({"learning_rate": np.nan}, "`learning_rate` is nan"),
        ({"device": "tpu"}, "`device` is 'tpu'"),
    ],
)
def test_impossible_schedules_are_refused(options, message):
    """A count or rate out of range is named, with what was wanted."""
    with pytest.raises(ValueError, match=message):
        run_training(**options)


def test_missing_gpu_is_named(monkeypatch):
    """Asking for a GPU where there is none says so and what to use instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU: use 'cpu'"):
        run_training(device="cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :1], y, x), r"`x_train` has shape \(24, 1, 6, 5\)"),
        (lambda x, y: (x, y, x[0]), r"`x_test` has shape \(2, 6, 5\)"),
        (lambda x, y: (x.astype(int), y, x), "`x_train` is int64: scale"),
        (lambda x, y: (x, y, np.where(x == x[3, 0, 0, 0], np.nan, x)), "`x_test` .* image 3"),
        (lambda x, y: (x, y[:5], x), r"`y_train` has shape \(5,\), wanted \(24,\)"),
        (lambda x, y: (x, (y + 1) // 2, x), r"`y_train` has values \[0 1\]"),
        (lambda x, y: (x[:0], y[:0], x), "no image"),
    ],
)
def test_bad_arrays_are_refused(change, message):
    """Images and labels of a wrong shape, type or value are named before any training."""
    x_train, y_train, x_test = change(*separable_set())
    network = Network(SMALL, (2, 6, 5), [4, 4])
    with pytest.raises(ValueError, match=message):
        train(network, x_train, y_train, x_test, epochs=1, device="cpu")


def test_several_outputs_are_refused():
    """Training on two classes and the empirical NTK want a network of one output."""
    network, (x, y) = Network(SMALL, (2, 6, 5), [4, 4], 3), separable_set()
    with pytest.raises(ValueError, match="3 outputs"):
        train(network, x, y, x, epochs=1, device="cpu")
    with pytest.raises(ValueError, match="3 outputs"):
        empirical_ntk(network, x)


@pytest.mark.parametrize(
    ("n_test", "batch_size", "message"),
    [
        (0, 4, "epoch 1 of 2: train loss (nan|inf), 0 of 0 test scores"),
        (8, 24, r"epoch 1 of 2: train loss \d.*, 8 of 8 test scores"),
    ],
)
def test_divergence_says_what_to_turn(n_test, batch_size, message):
    """A loss or a score that is not finite ends the run and names the learning rate to lower."""
    network, (x, y) = Network(SMALL, (2, 6, 5), [4, 4]), separable_set()
    with pytest.raises(TrainingError, match=message + r".*Lower `learning_rate` \(1e\+30"):
        train(
            network,
            x,
            y,
            x[:n_test],
            epochs=2,
            batch_size=batch_size,
            learning_rate=1e30,
            device="cpu",
        )
