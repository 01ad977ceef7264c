"""Training of finite networks: losses, targets, seeds, interruptions, messages."""

import copy

import numpy as np
import pytest
import torch

import lantk.network.training
from lantk.network.layers import Network, TrainingError
from lantk.network.training import DivergenceError, train


def conv(size, stride=1, trained=True):
    """Return one convolution of a layer list."""
    return {"conv": {"size": size, "stride": stride, "trained": trained}}


SMALL = [conv(3, 2), "relu", conv(3), "relu", "flatten", "dense"]
FIXED_DENSE = {"dense": {"trained": False}}
FIXED_ENDS = [conv(3, 1, False), "relu", conv(3), "relu", "global_average_pool", FIXED_DENSE]


def separable_set(n=24):
    """Return images brighter than 0 for the class +1 and darker for -1, and the labels."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(n) % 2, 1, -1)
    x = 0.5 * y[:, None, None, None] + 0.2 * rng.standard_normal((n, 2, 6, 5))
    return x.astype(np.float32), y


OPTIONS = {"epochs": 2, "batch_size": 7, "learning_rate": 1e-2, "device": "cpu"}


def run_training(network_seed=0, seed=0, layers=SMALL, **options):
    """Train a small network on the separable set and return it with its history."""
    network = Network(layers, (2, 6, 5), [4, 4], seed=network_seed)
    x, y = separable_set()
    options = OPTIONS | options
    return network, train(network, x[:16], y[:16], x[16:], seed=seed, **options)


def class_set(n=30):
    """Return images of three classes, told apart by which pixel is bright, and their numbers."""
    rng = np.random.default_rng(0)
    y = (np.arange(n) % 3).astype(np.int8)
    x = 0.3 * rng.standard_normal((n, 2, 6, 5))
    x[np.arange(n), :, y, y] += 2
    return x.astype(np.float32), y


def run_classes(**options):
    """Train a small network of three outputs on the class set."""
    network = Network(SMALL, (2, 6, 5), [4, 4], 3)
    x, y = class_set()
    return network, train(network, x[:21], y[:21], x[21:], **OPTIONS | options)


def test_training_learns_a_separable_set():
    """Test scores have the sign of the label for every image after a few epochs."""
    _, history = run_training(epochs=20)
    assert ((history.test_predictions[-1] >= 0) == (separable_set()[1][16:] > 0)).all()
    assert history.train_loss[-1] < 0.1 * history.train_loss[0]


def test_history_holds_one_row_per_epoch():
    """The history's arrays have a row per epoch, and `progress` hears of each epoch once."""
    heard = []
    network, history = run_training(epochs=3, progress=lambda *args: heard.append(args))
    assert history.train_loss.dtype == np.float64
    assert history.test_predictions.dtype == np.float32
    assert history.test_predictions.shape == (3, 8)
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
    monkeypatch.setattr(lantk.network.training, "_EVALUATION_BATCH", 3)
    network, history = run_training()
    with torch.no_grad():
        outputs = network(torch.from_numpy(separable_set()[0][16:]))[:, 0].numpy()
    np.testing.assert_allclose(history.test_predictions[-1], outputs - 0.5, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
def test_training_learns_three_classes(loss):
    """With k outputs the predictions are class numbers, all right after some epochs."""
    _, history = run_classes(loss=loss, epochs=40)
    assert history.test_predictions.dtype == np.int16
    assert (history.test_predictions[-1] == class_set()[1][21:]).all()
    assert history.train_loss[-1] < 0.1 * history.train_loss[0]


@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
def test_predictions_of_classes_are_the_largest_outputs(loss):
    """The last predictions are the argmax of the trained network's outputs."""
    network, history = run_classes(loss=loss)
    with torch.no_grad():
        outputs = network(torch.from_numpy(class_set()[0][21:])).numpy()
    np.testing.assert_array_equal(history.test_predictions[-1], outputs.argmax(1))


def first_loss(n_outputs, **options):
    """Return the outputs before training, the labels, and the loss of a step of no size."""
    x, y = separable_set() if n_outputs == 1 else class_set()
    network = Network(SMALL, (2, 6, 5), [4, 4], n_outputs)
    with torch.no_grad():
        outputs = network(torch.from_numpy(x)).numpy().astype(float)
    history = train(network, x, y, x, **OPTIONS | {"learning_rate": 1e-12} | options)
    return outputs, y, history.train_loss[0]


def test_squared_loss_is_the_mean_over_outputs_of_the_targets():
    """Every output but the class's own is to be the low target, its own the high one."""
    outputs, y, loss = first_loss(3, targets=(-0.1, 0.9))
    np.testing.assert_allclose(loss, np.mean((outputs - (np.eye(3)[y] - 0.1)) ** 2), rtol=1e-5)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_cross_entropy_is_minus_the_log_probability_of_the_class(n_outputs):
    """One output is a logit against 0, several are those of a softmax; targets play no part."""
    outputs, y, loss = first_loss(n_outputs, loss="cross-entropy", targets=(-3, 7))
    if n_outputs == 1:
        outputs, y = np.hstack([np.zeros_like(outputs), outputs]), (y + 1) // 2
    log_probability = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    expected = -np.mean(log_probability[np.arange(len(y)), y])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "threshold"),
    [({"targets": (-0.1, 0.9)}, 0.4), ({"loss": "cross-entropy", "targets": (1, 2)}, 0.0)],
)
def test_scores_of_one_output_are_counted_from_the_middle(options, threshold):
    """A score is the output less the middle of the targets, or less 0 where it is a logit."""
    network, history = run_training(**options)
    with torch.no_grad():
        outputs = network(torch.from_numpy(separable_set()[0][16:]))[:, 0].numpy()
    np.testing.assert_allclose(history.test_predictions[-1], outputs - threshold, atol=1e-6)


def test_training_without_test_images_gives_empty_scores():
    """No test image is legal: the scores then have no columns."""
    x, y = separable_set()
    history = train(Network(SMALL, (2, 6, 5), [4, 4]), x, y, x[:0], epochs=1, device="cpu")
    assert history.test_predictions.shape == (1, 0)


def test_equal_seeds_give_equal_bytes():
    """Two runs with the same seeds agree to the last bit, parameters included."""
    (network, history), (twin, again) = run_training(), run_training()
    assert history.test_predictions.tobytes() == again.test_predictions.tobytes()
    assert history.train_loss.tobytes() == again.train_loss.tobytes()
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("run", [run_training, run_classes])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("n_epochs", [1, 3, 4])
def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(run, flips, n_epochs):
    """Going on from the state after any epoch changes no loss, prediction or parameter."""
    states, options = [], {"epochs": 4, "flips": flips}
    network, history = run(**options, keep=lambda state: states.append(copy.deepcopy(state)))
    heard = []
    state = states[n_epochs - 1]
    twin, again = run(**options, resume=state, progress=lambda *a: heard.append(a[0]))
    assert heard == list(range(n_epochs + 1, 5))
    assert history.test_predictions.tobytes() == again.test_predictions.tobytes()
    assert history.train_loss.tobytes() == again.train_loss.tobytes()
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other)
    assert again.seconds > state["seconds"] > 0


def test_flips_mirror_about_half_of_the_train_images_anew_each_epoch(monkeypatch):
    """An epoch sees each image or its mirror image, not the same ones twice; no test image."""
    seen = []
    real = lantk.network.training._train_epoch

    def watch(network, optimizer, loss_function, x, *rest):
        seen.append(x.numpy().copy())
        return real(network, optimizer, loss_function, x, *rest)

    monkeypatch.setattr("lantk.network.training._train_epoch", watch)
    x = separable_set()[0][:16]
    run_training(epochs=20, flips=True)
    is_same, is_mirrored = (
        (np.stack(seen) == images).all(axis=(2, 3, 4)) for images in (x, x[..., ::-1])
    )
    assert (is_mirrored ^ is_same).all()
    assert abs(is_mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(is_mirrored.size)
    assert len(np.unique(is_mirrored, axis=0)) == 20
    plain, flipped = (run_training(epochs=1, flips=flips)[1] for flips in (False, True))
    assert (plain.train_loss != flipped.train_loss).all()
    seen.clear()
    run_training(epochs=2)
    assert all(np.array_equal(found, x) for found in seen)


@pytest.mark.parametrize("seeds", [{"network_seed": 1}, {"seed": 1}])
def test_each_seed_matters(seeds):
    """The network's seed and the seed of the order each change the result."""
    assert (run_training(**seeds)[1].test_predictions != run_training()[1].test_predictions).any()


def test_global_random_states_are_untouched():
    """Making and training a network neither reads nor moves the global random states."""
    torch.manual_seed(1)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = run_training()[1]
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    torch.manual_seed(2)
    assert run_training()[1].test_predictions.tobytes() == first.test_predictions.tobytes()


def test_layers_that_are_not_trained_keep_their_weights():
    """Training moves the weights of trained layers and no others, biases included."""
    network, _ = run_training(layers=FIXED_ENDS)
    start = dict(Network(FIXED_ENDS, (2, 6, 5), [4, 4]).named_parameters())
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, start[name]) == (not name.startswith("convs.1")), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` is 0"),
        ({"epochs": 1.5}, "`epochs` is 1.5"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0"),
        ({"learning_rate": np.nan}, "`learning_rate` is nan"),
        ({"device": "tpu"}, "`device` is 'tpu'"),
        ({"loss": "hinge"}, "`loss` is 'hinge', wanted 'squared' or 'cross-entropy'"),
        (
            {"targets": (1.0, 0.0)},
            r"`targets` is \(1.0, 0.0\), wanted two numbers, the lower first",
        ),
        ({"targets": (0.0, np.inf)}, "`targets` is"),
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


@pytest.mark.parametrize(
    ("n_outputs", "labels", "message"),
    [
        (3, [0, 1, 3], r"values \[0 1 3\], wanted class numbers from 0 to 2 for a network of 3"),
        (3, [-1, 1, 1], r"values \[-1  1\], wanted class numbers from 0 to 2"),
        (1, [0, 1, 2], r"values \[0 1 2\], wanted -1 and \+1 for a network of 1 output$"),
    ],
)
def test_labels_must_fit_the_outputs(n_outputs, labels, message):
    """Labels of two classes and of k are not mistaken for each other."""
    x = separable_set()[0][:3]
    network = Network(SMALL, (2, 6, 5), [4, 4], n_outputs)
    with pytest.raises(TrainingError, match=message):
        train(network, x, np.array(labels), x, epochs=1, device="cpu")


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
    with pytest.raises(DivergenceError, match=message + r".*Lower `learning_rate` \(1e\+30"):
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
