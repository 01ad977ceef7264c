"""The configuration: what is refused, and how clearly."""

import copy
from pathlib import Path

import pytest
import yaml

from lantk.errors import LantkError
from lantk.experiment import ConfigError, check_schema, resolve_experiment

ROOT = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((ROOT / "rules" / "config.schema.yaml").read_text())
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())


def edited(path, value):
    """Return the default configuration with one key, given as a.b, replaced."""
    config = copy.deepcopy(CONFIG)
    *parents, key = path.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    return config


def test_default_experiment_is_accepted():
    """config.yaml passes the schema, and resolves to its pairs and sizes."""
    check_schema(CONFIG, SCHEMA)
    experiment = resolve_experiment(CONFIG)
    assert list(experiment.pairs) == ["3-8", "1-8", "8-9"]
    assert all(n_train == 40 for n_train, _ in experiment.sizes.values())


def test_every_key_has_a_description_and_a_default():
    """The schema describes every key, refuses unknown ones, and agrees with config.yaml's keys."""

    def keys(schema, config):
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) == set(config)
        for name, inner in schema["properties"].items():
            assert "description" in inner, name
            assert "default" in inner, name
            if inner.get("type") == "object":
                keys(inner, config[name])

    keys(SCHEMA, CONFIG)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_are_accepted(path):
    """Every preset passes the schema."""
    check_schema(CONFIG | yaml.safe_load(path.read_text()), SCHEMA)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fold", 5, "has no key 'fold': did you mean 'folds'?"),
        ("cnn.epoch", 5, "cnn has no key 'epoch': did you mean 'epochs'?"),
        ("folds", "five", "folds is 'five': wanted a whole number"),
        ("folds", 5.0, "folds is 5.0: wanted a whole number"),
        ("cnn", None, "cnn is None: wanted a mapping"),
        ("cnn.epochs", True, "cnn.epochs is True: wanted a whole number"),
        ("cnn.learning_rate", "1e-4", "write 1.0e-4"),
        ("cnn.seeds", [-1], "-1 is less than the minimum"),
        ("cnn.seeds", [10**30], "greater than the maximum"),
        ("label_weights.honest", ["1e-4"], "label_weights.honest.0 is '1e-4': wanted a number"),
        ("label_weights.oracle", [-0.1], "-0.1 is less than the minimum"),
        ("variants", ["lantk-kr-v9"], "variants.0 is 'lantk-kr-v9': wanted cntk"),
        ("protocols", [], "protocols"),
        ("task.n_train", "40", "task.n_train is '40': wanted a whole number or null"),
        ("results", "results/{x}", "no braces"),
        ("data.source", "mnist", "data.source is 'mnist': wanted digits, cifar10"),
    ],
)
def test_schema_messages(key, value, message):
    """A value that the schema refuses is named in one line, with what was wanted."""
    with pytest.raises(ConfigError) as caught:
        check_schema(edited(key, value), SCHEMA)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task.pairs", None, "name at least one class pair"),
        ("task.pairs", [[3, 3]], "twice"),
        ("task.pairs", [[3, 8], [8, "3"]], "names a class pair twice"),
        ("task.pairs", [[3, "cat"]], "unknown class 'cat'"),
        ("task.n_train", 21, "21"),
        ("task.n_train", 5000, "5000"),
        ("folds", 21, "folds is 21, and 3-8 has 20 train images"),
        ("architecture", ["pool", "dense"], "layer 0 is 'pool'"),
        ("architecture", "resnet", "unknown architecture 'resnet'"),
        ("cnn.channels", [16, 16], "cnn.channels has 2 numbers, and the architecture 7"),
        ("label_weights.honest", [0.0, float("nan")], "wanted finite numbers"),
        ("label_weights.oracle", [float("inf")], "wanted finite numbers"),
        ("data", {"source": "npz", "path": "nowhere.npz"}, "nowhere.npz"),
        ("data", {"source": "images", "path": None}, "needs data.path"),
        ("results", f"{__file__}/results", "a file is in the way"),
    ],
)
def test_what_does_not_fit_together_is_refused(key, value, message):
    """Keys that do not fit each other or the data are refused before any job starts."""
    with pytest.raises(LantkError, match=message.replace("[", r"\[")):
        resolve_experiment(edited(key, value))


def test_too_many_folds_matter_to_the_honest_protocol_only():
    """Without validation the number of folds is of no consequence."""
    resolve_experiment(edited("folds", 21) | {"protocols": ["oracle"]})
