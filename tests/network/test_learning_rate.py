"""The choice of a learning rate inside train, and trainings that are interrupted."""

import inspect
import json

import numpy as np
import pandas as pd
import pytest
import torch

import lantk.network.checkpoint
import lantk.network.training
from lantk.cli.main import main
from lantk.data.split_files import load_split
from lantk.network.checkpoint import Checkpoint, CheckpointError
from lantk.network.layers import Network, TrainingError
from lantk.network.learning_rate import split_validation, train_at_best_rate
from lantk.network.training import DivergenceError, train
from lantk.regression.protocols import assess_network

LAYERS = [
    {"conv": {"size": 3, "stride": 2}},
    "relu",
    {"conv": {"size": 3}},
    "relu",
    "flatten",
    "dense",
]
CODE = ("lantk/network/training.py",)
SCHEDULE = {"batch_size": 7, "device": "cpu", "seed": 1}


def labelled_images(n=60):
    """Return noisy images of three classes and their class numbers."""
    rng = np.random.default_rng(0)
    y = (np.arange(n) % 3).astype(np.int8)
    x = 0.3 * rng.standard_normal((n, 2, 6, 5))
    x[np.arange(n), :, y, y] += 2
    return x.astype(np.float32), y


def make_network():
    return Network(LAYERS, (2, 6, 5), [4, 4], 3, seed=2)


def choose(rates, **options):
    x, y = labelled_images()
    options = {"epochs": 3} | SCHEDULE | options
    return train_at_best_rate(make_network, x[:48], y[:48], x[48:], learning_rates=rates, **options)


# The choice


@pytest.mark.parametrize("counts", [(20, 20), (37, 11, 3), (2, 2)])
def test_validation_takes_a_share_of_each_class(counts):
    """Every row is on one side, and each class gives a tenth, at least 1 and not all."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows, held_out = split_validation(y)
    np.testing.assert_array_equal(np.sort(np.concatenate([rows, held_out])), np.arange(len(y)))
    assert np.bincount(y[held_out]).tolist() == [max(round(n / 10), 1) for n in counts]


def test_validation_depends_on_its_seed_alone():
    """The same labels and seed give the same rows, another seed others."""
    y = np.tile([-1, 1], 50)
    np.testing.assert_array_equal(split_validation(y)[1], split_validation(y)[1])
    assert (split_validation(y, seed=1)[1] != split_validation(y)[1]).any()


def test_the_rate_of_the_best_validation_accuracy_wins():
    """Accuracies are those of networks trained on the rest, and the best rate trains on all."""
    done = choose([1e-7, 1e-2], epochs=8)
    x, y = labelled_images()
    rows, held_out = split_validation(y[:48])
    options = {"epochs": 8} | SCHEDULE
    for rate, found in zip([1e-7, 1e-2], done.validation_accuracy, strict=True):
        history = train(
            make_network(), x[rows], y[rows], x[held_out], learning_rate=rate, **options
        )
        assert found == np.mean(history.test_predictions[-1] == y[held_out])
    assert done.validation_accuracy[1] > done.validation_accuracy[0]
    assert done.learning_rate == 1e-2
    assert done.best_validation_accuracy == done.validation_accuracy[1]
    again = train(make_network(), x[:48], y[:48], x[48:], learning_rate=1e-2, **options)
    assert done.history.train_loss.tobytes() == again.train_loss.tobytes()
    np.testing.assert_array_equal(done.history.test_predictions, again.test_predictions)


def test_a_tie_goes_to_the_smaller_rate():
    """Rates too small to change a prediction are equally good, and the smallest is taken."""
    done = choose([1e-9, 1e-10, 1e-8])
    assert len(set(done.validation_accuracy)) == 1
    assert done.learning_rate == 1e-10


def test_one_rate_is_not_validated():
    """With one learning rate there is one training, on all of train."""
    done = choose([1e-2])
    assert (done.learning_rate, done.validation_accuracy) == (1e-2, [])
    assert done.best_validation_accuracy is None


def test_a_rate_that_diverges_cannot_win():
    """Its accuracy is None, and the others are compared without it."""
    done = choose([1e-2, 1e30])
    assert done.validation_accuracy[1] is None
    assert done.learning_rate == 1e-2


def test_no_rate_that_converges_is_an_error():
    """Where every rate diverges the message lists them and says what to turn."""
    with pytest.raises(DivergenceError, match=r"every learning rate \(1e\+30, 1e\+31\): lower"):
        choose([1e30, 1e31])


def test_test_labels_cannot_reach_the_choice():
    """No function that trains or chooses has an argument for test labels, so their order is moot.

    Shuffled test labels change what is reported of the test images and nothing else.
    """
    for function in (train, train_at_best_rate, split_validation):
        names = set(inspect.signature(function).parameters)
        assert not {name for name in names if "test" in name} - {"x_test"}
    done, y = choose([1e-3, 1e-2], epochs=8), labelled_images()[1][48:]
    found = []
    for labels in (y, np.random.default_rng(0).permutation(y)):
        results, predictions = assess_network(
            done.history.test_predictions,
            done.history.train_loss,
            labels,
            protocols=["honest", "oracle"],
            validation_accuracy=done.best_validation_accuracy,
        )
        found.append((results, predictions["honest"]))
    (results, predictions), (shuffled, same_predictions) = found
    assert results["protocols"]["honest"]["accuracy"] != shuffled["protocols"]["honest"]["accuracy"]
    np.testing.assert_array_equal(predictions, same_predictions)
    for key in ("epoch", "validation_accuracy"):
        assert results["protocols"]["honest"][key] == shuffled["protocols"]["honest"][key]


def test_progress_counts_all_trainings():
    """Two rates and the last training are three times the epochs, counted one by one."""
    heard = []
    choose([1e-3, 1e-2], progress=lambda done, total, loss: heard.append((done, total)))
    assert heard == [(i + 1, 9) for i in range(9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rates": []}, "`learning_rates` is empty"),
        ({"validation_share": 0.0}, "`validation_share` is 0.0"),
        ({"y_train": np.array([0, 1, 1], np.int8)}, "class 0 has 1 train image"),
    ],
)
def test_impossible_choices_are_refused(arguments, message):
    """What cannot be validated is named, with what to do."""
    x, y = labelled_images(3)
    given = {"x_train": x, "y_train": y, "x_test": x, "learning_rates": [1e-3, 1e-2]}
    with pytest.raises(TrainingError, match=message):
        train_at_best_rate(make_network, **given | {"epochs": 1} | SCHEDULE | arguments)


# Interrupted trainings


@pytest.fixture
def saves_always(monkeypatch):
    monkeypatch.setattr(lantk.network.checkpoint, "_SECONDS_BETWEEN", 0.0)


def test_a_checkpoint_gives_back_what_was_saved(tmp_path, saves_always):
    """A state comes back as it was, and is gone once it is removed."""
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {"seed": 1}, CODE)
    assert checkpoint.load() is None
    state = {"numbers": [1.5, None], "nested": {"tensor": torch.arange(3, dtype=torch.int16)}}
    checkpoint.save(state)
    found = Checkpoint(tmp_path / "a.checkpoint", {"seed": 1}, CODE).load()
    assert found["numbers"] == [1.5, None]
    assert torch.equal(found["nested"]["tensor"], state["nested"]["tensor"])
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_written_once_a_minute(tmp_path, monkeypatch):
    """A state within a minute of the last one, or of the start, is not written."""
    now = [0.0]
    monkeypatch.setattr(lantk.network.checkpoint.time, "monotonic", lambda: now[0])
    checkpoint, kept = Checkpoint(tmp_path / "a.checkpoint", {}, CODE), []
    for now[0] in (1.0, 59.0, 61.0, 119.0, 122.0):
        checkpoint.save({"time": now[0]})
        kept.append((checkpoint.load() or {}).get("time"))
    assert kept == [None, None, 61.0, 61.0, 122.0]


@pytest.mark.parametrize("content", [b"", b"text", None, {"a": 1}, [1, 2]])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    """An empty, cut or foreign file is called broken."""
    path = tmp_path / "a.checkpoint"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"a\.checkpoint is broken and not used"):
        Checkpoint(path, {}, CODE).load()


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Return a split of three classes of digits."""
    out = tmp_path_factory.mktemp("split") / "split.npz"
    sizes = ("--n-train", "60", "--n-test", "30")
    command = ["split", "--source", "digits", "--classes", "1", "3", "8", *sizes]
    assert main([*command, "--out", str(out)]) == 0
    return out


def run_cnn(split, out, *options):
    arguments = ("--case", "1-3-8", "--n-train", 30, "--architecture", json.dumps(LAYERS))
    arguments += ("--epochs", 3, "--batch-size", 8, "--learning-rate", 1e-3, 1e-2, "--seed", 4)
    arguments += ("--channels", "[4, 4]", "--targets", -0.1, 0.9, "--device", "cpu")
    command = ("cnn", "--split", split, *arguments, *options, "--variant", "cnn", "--out", out)
    return main([str(word) for word in command])


def test_the_verbs_train_networks_of_every_kind_of_layer(split, tmp_path):
    """Written weights make the network that predicted, and each dense layer has its kernel."""
    layers = [
        {"conv": {"size": 3, "stride": 2, "bias": 0.1}},
        {"residual": ["relu", {"conv": {"size": 3}}]},
        {"leaky_relu": {"slope": 0.1}},
        {"average_pool": {"size": 2}},
        *("flatten", {"dense": {"bias": 0.2}}, "gelu", "dense"),
    ]
    options = ("--architecture", json.dumps(layers), "--channels", "[4, 4, 8]")
    weights = tmp_path / "weights.pt"
    assert run_cnn(split, tmp_path / "cnn-seed4.json", *options, "--weights", weights) == 0
    predictions = pd.read_csv(tmp_path / "cnn-seed4.csv")["honest"]
    kept = torch.load(weights, weights_only=True)
    state = kept.pop("state_dict")
    network = Network(kept.pop("architecture"), kept.pop("image_shape"), **kept)
    network.load_state_dict(state)
    x_test = torch.from_numpy(load_split(split).x_test)
    assert network(x_test).argmax(1).tolist() == predictions.tolist()
    command = ["after-kernels", "--split", str(split), "--case", "1-3-8", *options]
    command += ["--n-train", "30", "--taps", "0", "1", "--folds", "2", "--seed", "0"]
    command += ["--learning-rate", "1e-3", "--out", str(tmp_path), "--device", "cpu"]
    names = ["after-kernel", "after-kernel-dense1", "after-kernel-conv2-shuffled"]
    assert main([*command, "--variants", *names, "conjugate-kernel"]) == 0
    scores = {
        layer: pd.read_csv(tmp_path / f"after-kernel{layer}-1-seed0.csv").drop(columns="label")
        for layer in ("", "-dense1")
    }
    assert not scores[""].equals(scores["-dense1"])


def test_the_verb_writes_class_numbers_and_the_choice(split, tmp_path):
    """The record says what was chosen and how, the predictions are class numbers."""
    assert run_cnn(split, tmp_path / "cnn-seed4.json") == 0
    record = json.loads((tmp_path / "cnn-seed4.json").read_text())
    predictions = pd.read_csv(tmp_path / "cnn-seed4.csv")
    assert (record["n_train"], record["n_test"], record["seed"]) == (30, 30, 4)
    assert record["settings"]["learning_rate"] in record["settings"]["learning_rates"]
    honest = record["protocols"]["honest"]
    accuracies = record["settings"]["learning_rate_accuracies"]
    assert honest["validation_accuracy"] == max(accuracies)
    assert (honest["label_weight"], honest["ridge"], honest["epoch"]) == (None, None, 3)
    assert record["protocols"]["oracle"]["validation_accuracy"] is None
    assert predictions["honest"].dtype.kind == "i"
    assert set(predictions["label"]) == {0, 1, 2}
    assert honest["accuracy"] == np.mean(predictions["honest"] == predictions["label"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".csv"}


def interrupt(monkeypatch, call):
    """Interrupt training in its `call`-th epoch, counted from 1; return a list that counts."""
    calls, train_epoch = [], lantk.network.training._train_epoch

    def train_or_interrupt(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(lantk.network.training, "_train_epoch", train_or_interrupt)
    return calls


@pytest.mark.parametrize("epoch", [3, 4, 5, 8, 9])
def test_a_repeated_command_goes_on_where_it_was_interrupted(
    epoch, split, tmp_path, monkeypatch, saves_always, capsys
):
    """In whichever training it was, the results are those of an uninterrupted command."""
    whole, out = tmp_path / "whole.json", tmp_path / "cut.json"
    assert run_cnn(split, whole) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, epoch)
        assert run_cnn(split, out) == 130
    assert not out.exists()
    with monkeypatch.context() as patch:
        calls = interrupt(patch, None)
        assert run_cnn(split, out) == 0
    assert len(calls) == 9 - (epoch - 1)
    assert "goes on from" in capsys.readouterr().err
    assert out.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    records = [json.loads(path.read_text()) for path in (whole, out)]
    for record in records:
        assert record["diagnostics"].pop("seconds") > 0
        record["provenance"].pop("commit")
    assert records[0] == records[1]
    assert not out.with_suffix(".checkpoint").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", 5),
        ("--epochs", 2),
        ("--learning-rate", 1e-3),
        ("--n-train", 60),
        ("--loss", "cross-entropy"),
        ("--channels", "[4, 5]"),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_used(
    options, split, tmp_path, monkeypatch, saves_always, capsys
):
    """A changed command says so and starts anew."""
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        run_cnn(split, tmp_path / "a.json")
    assert run_cnn(split, tmp_path / "b.json", *options) == 0
    capsys.readouterr()
    assert run_cnn(split, tmp_path / "a.json", *options) == 0
    assert "of other settings, images or code and is not used" in capsys.readouterr().err
    a, b = ((tmp_path / name).read_bytes() for name in ("a.csv", "b.csv"))
    assert a == b
