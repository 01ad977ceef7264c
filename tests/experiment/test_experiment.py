"""The configuration: what is refused, and how clearly."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from snakemake.cli import parse_config

from lantk.data.splits import DataError
from lantk.errors import LantkError
from lantk.experiment import settings
from lantk.experiment.checks import check_settings, fill_in, read_braces
from lantk.experiment.config import ConfigError, resolve_experiment
from lantk.experiment.job_options import after_kernel_options, evaluate_options
from lantk.experiment.overviews import overview_kinds
from lantk.experiment.records import Listing, keep_listing, read_record, warn_of_other_images
from lantk.experiment.settings import FIELDS, Settings, expand_paths, meaning_of
from lantk.regression import statistics

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
CONFIG = copy.deepcopy(DEFAULT)
CONFIG["task"] |= {"pairs": [[3, 8], [1, 8], [8, 9]], "n_train": 40}


def edited(path, value, **others):
    """Return a configuration of three pairs with keys replaced; a.b is written a__b in keywords."""
    config = copy.deepcopy(CONFIG)
    for edit, new in ({path: value} | others).items():
        *parents, key = edit.replace("__", ".").split(".") if isinstance(edit, str) else (edit,)
        inner = config
        for parent in parents:
            inner = inner[parent]
        inner[key] = new
    return config


def names(prefix, ns, architectures=("",)):
    """Return the names of cases, in the order in which they come."""
    return [f"{prefix}{a}.n{n}" for a in architectures for n in ns]


def test_default_experiment_is_accepted():
    """config.yaml passes the check, and resolves to its pairs and sizes."""
    check_settings(DEFAULT)
    experiment = resolve_experiment(DEFAULT)
    assert list(experiment.tasks) == list(experiment.cases) == ["1-8"]
    assert experiment.cases["1-8"].n_train == 24
    terms = ["lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2"]
    assert list(experiment.families) == ["cntk", *terms, "cnn"]
    assert experiment.families["lantk-kr-v2"] == ["lantk-kr-v2", "lantk-kr-v2-shuffled"]


def test_cases_are_tasks_by_architectures_by_sizes():
    """Lists make a case each; the split and the Gram matrices are those of the largest n."""
    config = edited("task.n_train", [20, 60], architecture=["chen2020", "arora2019-vanilla-3"])
    config["task"]["pairs"] = [[8, 3], [1, 8]]
    experiment = resolve_experiment(config)
    endings = (".chen2020", ".arora2019-vanilla-3")
    wanted = [name for pair in ("3-8", "1-8") for name in names(pair, (20, 60), endings)]
    assert list(experiment.cases) == wanted
    small = experiment.cases["3-8.arora2019-vanilla-3.n20"]
    assert (small.task, small.gram) == ("3-8", "3-8.arora2019-vanilla-3")
    assert (small.architecture, small.n_train) == ("arora2019-vanilla-3", 20)
    # All sizes are tested on what the largest leaves: 2 x 174 digits of the smaller class.
    assert {case.n_test for case in experiment.cases.values()} == {2 * 174 - 60}
    assert experiment.sizes["3-8"] == (60, 2 * 174 - 60)


@pytest.mark.parametrize("n_train", [40, [40]])
@pytest.mark.parametrize("architecture", ["chen2020", ["chen2020"]])
def test_one_value_adds_nothing_to_the_names(n_train, architecture):
    """A list of one is the same as its value."""
    experiment = resolve_experiment(edited("task.n_train", n_train, architecture=architecture))
    assert list(experiment.cases) == ["3-8", "1-8", "8-9"]
    case = experiment.cases["3-8"]
    assert (case.gram, case.architecture, case.n_train) == ("3-8", "chen2020", 40)


def test_classes_are_one_task():
    """All classes, or some, make one task whose sizes are multiples of their number."""
    config = edited("task.pairs", None, task__classes="all", task__targets=[-0.1, 0.9], folds=4)
    (case,) = resolve_experiment(config).cases.values()
    assert (case.name, case.n_train, case.n_test) == ("all", 40, 1700)
    config = edited("task.pairs", None, task__classes=[9, "3", 8], task__n_train=[30, 15])
    assert list(resolve_experiment(config).cases) == names("3-8-9", (30, 15))


def test_a_list_of_layers_is_one_architecture():
    """A list that holds a mapping is a list of layers; its cases are named by the task alone."""
    layers = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]
    experiment = resolve_experiment(edited("architecture", layers, cnn__channels=[4]))
    assert experiment.architectures == [layers]
    assert experiment.cases["3-8"].architecture == layers


def test_no_seeds_leave_the_networks_out():
    """An empty list of seeds takes cnn out of the variants that are computed."""
    assert "cnn" not in resolve_experiment(edited("cnn.seeds", [])).families


def test_the_bands_of_several_architectures_are_those_of_their_one_pass():
    """The number of bands follows the cost of all architectures together."""
    config = edited("data.source", "cifar10", task__pairs=None, task__classes="all")
    config["data"]["path"], config["task"]["n_train"] = "no such folder", 2000
    counts = []
    for names_given in (["arora2019-gap-3"], ["arora2019-gap-3", "arora2019-gap-4"]):
        (bands,) = resolve_experiment(config | {"architecture": names_given}).bands.values()
        counts.append(len(bands))
    alone = resolve_experiment(config | {"architecture": "arora2019-gap-4"})
    assert counts[0] < counts[1] == len(alone.bands["all"])


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, ["gap", "alignment"]),
        ({"variants": ["cntk", "cnn", "oracle-label"]}, []),
        ({"variants": ["cntk", "cntk-ridge"]}, ["gap"]),
        ({"variants": ["lantk-kr-v1"]}, ["alignment"]),
        ({"variants": ["cntk", "lantk-kr-v1-shuffled"]}, []),
        ({"variants": ["cntk"], "task__n_train": [20, 30, 40]}, ["growth"]),
    ],
)
def test_only_figures_that_show_something_are_asked_for(change, kinds):
    """Gains need CNTK and something to compare, alignments a label term, slopes three n."""
    experiment = resolve_experiment(edited("permutations", 3, **change))
    assert overview_kinds(experiment) == kinds


def test_errors_against_n_want_three_n_of_every_task():
    """Three pairs of unequal sizes have three n, but one each: there is no curve to draw."""
    config = edited("variants", ["cntk"], task__pairs=[[3, 8], [1, 8], [4, 7]])
    experiment = resolve_experiment(config)
    unequal = {
        name: dataclasses.replace(case, n_train=100 * (i + 1))
        for i, (name, case) in enumerate(experiment.cases.items())
    }
    assert overview_kinds(dataclasses.replace(experiment, cases=unequal)) == []


def test_a_family_depends_on_what_it_reads():
    """Options that a family's variants do not read are left out of its command."""
    config = edited("permutations", 7, folds=3, estimator="fjlt")

    def flags(*variants):
        options = evaluate_options(config, variants)
        return {option for option in options if option.startswith("--")}

    common = {"--folds"}
    weights = {"--honest-weights", "--oracle-weights"}
    assert flags("cntk") == common
    assert flags("cntk", "cntk-ridge") == common | {"--honest-ridges", "--oracle-ridges"}
    assert flags("cntk", "cntk-intercept") == common
    assert flags("oracle-label") == flags("cntk-rbf") == common | weights
    assert flags("cntk-laplacian") == flags("cntk-intercept+lantk-kr-v1") == common | weights
    assert flags("lantk-kr-v1", "lantk-kr-v1-diagonal") == common | weights
    assert flags("my:Term-shuffled") == common | weights
    for term in ("lantk-fjlt-v1", "cntk-intercept+lantk-fjlt-v1-offdiagonal-shuffled"):
        assert flags(term) == common | weights | {"--estimator"}


def test_the_default_experiment_is_that_of_the_settings():
    """config.yaml names every setting, with the default that a missing key gets."""
    assert dataclasses.asdict(Settings()) == DEFAULT
    for config in ({}, {"cnn": {"epochs": 30}}):
        fill_in(config)
        assert config == DEFAULT
    fill_in(config := {"task": {"pairs": [["a", "b"]]}, "folds": 2})
    assert config == DEFAULT | {"task": DEFAULT["task"] | {"pairs": [["a", "b"]]}, "folds": 2}


@pytest.mark.parametrize("key", FIELDS)
def test_every_setting_says_what_it_means_and_takes_its_examples(key):
    """A section or setting has a meaning; the examples of a setting are accepted."""
    assert len(meaning_of(key)) > 20
    if not dataclasses.is_dataclass(FIELDS[key].type):
        assert FIELDS[key].metadata["examples"]
    for value in FIELDS[key].metadata["examples"]:
        check_settings(edited(key, value))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_are_accepted(path):
    """Every preset passes the check, and resolves on CIFAR-10 as it will be downloaded."""
    config = CONFIG | yaml.safe_load(path.read_text())
    check_settings(config)
    config["data"]["path"] = "no such folder"
    resolve_experiment(config)


def test_presets_ask_for_the_published_tables():
    """Five pairs with every control; ten classes at four sizes; five depths at two readouts."""
    cases = {}
    for path in (ROOT / "experiments").glob("*.yaml"):
        config = CONFIG | yaml.safe_load(path.read_text())
        config["data"]["path"] = "no such folder"
        cases[path.stem] = list(resolve_experiment(config).cases)
    pairs = ["deer-dog", "cat-deer", "cat-frog", "deer-frog", "bird-frog"]
    assert cases["chen2020"] == cases["chen2020-small"] == pairs
    assert cases["chen2020-ten"] == names("all", (2000, 5000, 10000, 20000))
    sizes = (500, 1000, 2000, 5000, 10000)
    assert cases["growth"] == [name for pair in pairs for name in names(pair, sizes)]
    for kind in ("vanilla", "gap"):
        wanted = [f"all.arora2019-{kind}-{depth}" for depth in (3, 4, 6, 11, 21)]
        assert cases[f"arora2019-{kind}"] == cases[f"arora2019-{kind}-2k"] == wanted


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fold", 5, "has no key 'fold': did you mean 'folds'?"),
        ("cnn.epoch", 5, "cnn has no key 'epoch': did you mean 'epochs'?"),
        ("folds", "five", "folds is 'five': wanted a whole number"),
        ("folds", 5.0, "folds is 5.0: wanted a whole number"),
        ("cnn", None, "cnn is None: wanted a mapping"),
        ("cnn.epochs", True, "cnn.epochs is True: wanted a whole number"),
        ("task.balance", 1, "task.balance is 1: wanted true or false"),
        ("task.pairs", [[True, 3]], "task.pairs.0.0 is True: wanted text or a whole number"),
        ("task.pairs", [[None, 3]], "null, ~ and 2024-01-31 as something else than names"),
        ("cnn.learning_rate", "1e-4", "write 1.0e-4"),
        ("cnn.learning_rate", ["1e-4"], "write 1.0e-4"),
        ("cnn.seeds", [-1], "cnn.seeds.0 is -1: wanted a whole number from 0 to 4294967295"),
        ("cnn.seeds", [10**30], "cnn.seeds.0 is 1000000000000000000000000000000: wanted"),
        ("label_weights.honest", ["1e-4"], "label_weights.honest.0 is '1e-4': wanted a number"),
        ("label_weights.oracle", [-0.1], "label_weights.oracle.0 is -0.1: wanted a number from 0"),
        ("variants", [3], "variants.0 is 3: wanted text"),
        ("permutations", 0, "permutations is 0: wanted a whole number from 1 to 1000"),
        ("estimator", "exakt", "estimator is 'exakt': wanted exact, fjlt"),
        ("ridges.oracle", [], "ridges.oracle is []: wanted a list of 1 or more, no two equal"),
        ("data.scaling", "whiten", "data.scaling is 'whiten': wanted range, standard"),
        ("cnn.loss", "hinge", "cnn.loss is 'hinge': wanted squared, cross-entropy"),
        ("cnn.learning_rate", [0.1, 0], "cnn.learning_rate.1 is 0: wanted a number above 0"),
        (
            "cnn.learning_rate",
            True,
            "is True: wanted a number above 0 and up to 1000000; or a list",
        ),
        ("task.classes", "some", "task.classes is 'some': wanted all; or a list of 1 or more"),
        ("task.classes", [1.5, 2, 3], "or a whole number (YAML reads 010, 0x1,"),
        ("task.n_train", [], "task.n_train is []: wanted a whole number; or a list of 1 or more"),
        ("task.n_train", [40, 40], "no two equal, each a whole number; or null"),
        ("task.targets", [0, 1, 2], "task.targets is [0, 1, 2]: wanted a list of 2, each a number"),
        ("protocols", ["honest", "both"], "protocols.1 is 'both': wanted honest, oracle"),
        ("task.n_train", "40", "task.n_train is '40': wanted a whole number; or a list"),
        (
            "kernel.bands",
            5001,
            "kernel.bands is 5001: wanted auto or a whole number from 1 to 5000",
        ),
        ("results", "", "results is '': wanted text (not empty)"),
        ("epochs", 5, "has no key 'epochs': did you mean 'cnn.epochs'?"),
        ("epochs", 5, "On the command line that is --config 'cnn={epochs: ...}'"),
        ("task.n_train:100", None, "a blank is missing behind the colon"),
        (1, 5, "the configuration has no key '1': There are data, task"),
        ("data.source", "mnist", "data.source is 'mnist': wanted digits, cifar10"),
        ("data.whitening.zca", -1, "data.whitening.zca is -1: wanted a number from 0 to 1000000"),
        ("data.whitening.zac", 1, "data.whitening has no key 'zac': did you mean 'zca'"),
        ("data.whitening", None, "data.whitening is None: wanted a mapping"),
        ("ridges.honest", [float("nan")], "ridges.honest.0 is nan: wanted a number"),
        ("cnn.learning_rate", float("inf"), "cnn.learning_rate is inf: wanted a number"),
        ("label_weights.honest", [0.0, float("nan")], "label_weights.honest.1 is nan"),
        ("label_weights.oracle", [float("inf")], "label_weights.oracle.0 is inf"),
    ],
)
def test_messages(key, value, message):
    """A value that a setting does not take is named in one line, with what was wanted."""
    with pytest.raises(ConfigError) as caught:
        check_settings(edited(key, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task.pairs", None, "task.pairs and task.classes are both null"),
        ("task.classes", "all", "task.pairs and task.classes are both given"),
        ("task.targets", [-0.1, 0.9], "pairs have the targets -1 and +1"),
        ("task.targets", [1, 0], "task.targets is [1, 0]: wanted"),
        ("task.n_train", [40, 41], "41"),
        ("task.pairs", [[3, 3]], "twice"),
        ("task.pairs", [[3, 8], [8, "3"]], "names a class pair twice"),
        ("task.pairs", [[3, "cat"]], "unknown class 'cat'"),
        ("task.n_train", 21, "21"),
        ("task.n_train", 5000, "5000"),
        ("folds", 21, "folds is 21, and 3-8 has 20 train images"),
        ("architecture", [{"pool": 2}, "dense"], "layer 0 is {'pool': 2}"),
        ("architecture", ["chen2020", "resnet"], "unknown architecture 'resnet'"),
        ("architecture", ["chen2020", "chen2020"], "architecture names one twice"),
        ("variants", ["lantk-kr-v9"], "did you mean 'lantk-kr-v2'? There are cntk"),
        ("estimator", "fjlt", "sketch takes 175 or more"),
        ("variants", ["my:Best"], "the name 'lantk-best'"),
        ("variants", ["my:Term", "your:Term"], "the name 'lantk-term'"),
        ("architecture", "resnet", "unknown architecture 'resnet'"),
        ("cnn.channels", [16, 16], "cnn.channels has 2 numbers, and chen2020 7 hidden layers"),
        ("results", "results/{x}", "no braces"),
        ("results", "-rf", "Write './-rf'"),
        ("data", {"source": "npz", "path": "nowhere.npz", "layout": None}, "nowhere.npz"),
        ("data", {"source": "images", "path": None, "layout": None}, "needs data.path"),
        ("results", f"{__file__}/results", "a file is in the way"),
    ],
)
def test_what_does_not_fit_together_is_refused(key, value, message):
    """Keys that do not fit each other or the data are refused before any job starts."""
    with pytest.raises(LantkError, match=re.escape(message)):
        resolve_experiment(edited(key, value))


def test_channels_fit_the_hidden_layers():
    """cnn.channels has a number for each hidden layer, which fit residuals, or nothing is run."""
    conv = {"conv": {"size": 3}}
    layers = [conv, {"residual": [conv]}, "flatten", "dense", "relu", "dense"]
    for channels, message in (
        ([4, 4], r"the architecture 3 hidden layers \(conv1, conv2, dense1\): give one number"),
        ([4, 5, 9], r"does not fit the architecture: .* ends in 5 channels \(conv2\).*, or null"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve_experiment(edited("architecture", layers, cnn__channels=channels))
    assert resolve_experiment(edited("architecture", layers, cnn__channels=[4, 4, 9])).cases


def test_a_list_of_words_may_be_layers():
    """Layers without an option are a list of layers, not of names."""
    layers = ["flatten", "dense", "relu", "dense"]
    assert resolve_experiment(edited("architecture", layers)).architectures == [layers]


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("task={pairs: null, n_train: 30}", {"pairs": None, "n_train": 30}),
        ("task={pairs: [[4, '4'], [deer, 'null']]}", {"pairs": [[4, "4"], ["deer", "null"]]}),
        ("task=[{conv: {size: 3}}, relu, 0.5]", [{"conv": {"size": 3}}, "relu", 0.5]),
        ("task={}", {}),
        ("task=text", None),
        ("task={n_train: 3", None),
        ("task={n_train: 2001-99-99}", None),
        ("task=null", None),
    ],
)
def test_braces_of_the_command_line_hold_what_a_file_would(entry, wanted):
    """Numbers, null, lists and quotes are those of YAML; what is not YAML is left as it is."""
    found = read_braces([entry], parse_config([entry]))
    assert found == ({} if wanted is None else {"task": wanted})


def test_braces_are_merged_and_values_of_a_program_are_left_alone():
    """A section may come twice; what an API was given as numbers needs no reading."""
    entries = ["task={n_train: 4}", "folds=3", "task={n_test: null}"]
    assert read_braces(entries, parse_config(entries)) == {"task": {"n_train": 4, "n_test": None}}
    assert read_braces(["task={'n_test': None}"], {"task": {"n_test": None}}) == {}


def test_every_path_of_a_configuration_is_expanded_alike(monkeypatch):
    """Results, data and the file of a store: ~, variables, ./ and //; what is no path stays."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/disk")
    config = edited("results", "~//r/", data__path="./$DISK/x.npz")
    config["tracking"] = {"uri": "sqlite:///~/m.db", "experiment": "$DISK ~"}
    expand_paths(config)
    assert config == edited(
        "results",
        "/home/me/r",
        data__path="disk/x.npz",
        tracking={"uri": "sqlite:////home/me/m.db", "experiment": "$DISK ~"},
    )
    expand_paths(part := {"tracking": None, "data": {"source": "digits"}})
    assert part == {"tracking": None, "data": {"source": "digits"}}
    monkeypatch.delenv("DISK")
    for key, value in (("results", "$DISK/r"), ("data.path", "${DISK}"), ("tracking.uri", "$DISK")):
        uri = "sqlite:///" if key == "tracking.uri" else ""
        with pytest.raises(LantkError, match=f"{key} is .*: the variable DISK is not set"):
            expand_paths(edited(key, uri + value))


def test_keys_that_need_each_other_are_refused_apart():
    """oracle-label needs its protocol, the smallest n its folds, and variants something to do."""
    with pytest.raises(ConfigError, match="needs the protocol oracle"):
        resolve_experiment(edited("variants", ["oracle-label"], protocols=["honest"]))
    with pytest.raises(ConfigError, match=r"3-8\.n8 has 4 train images of each class"):
        resolve_experiment(edited("task.n_train", [40, 8]))
    with pytest.raises(ConfigError, match=r"cnn\.seeds is empty"):
        resolve_experiment(edited("variants", ["cnn"], cnn__seeds=[]))
    with pytest.raises(DataError, match="two are a class pair"):
        resolve_experiment(edited("task.pairs", None, task__classes=[3, 8]))


def test_unequal_classes_are_all_taken_or_cut_to_the_smallest(tmp_path):
    """Null takes every image of own data, odd or not; balance cuts; folds want each class."""
    arrays = {}
    for part, counts in (("train", [6, 31]), ("test", [4, 9])):
        arrays[f"y_{part}"] = np.repeat(["ant", "bee"], counts)
        arrays[f"x_{part}"] = np.zeros((sum(counts), 1, 8, 8), np.uint8)
    np.savez(tmp_path / "own.npz", **arrays)
    data = {"source": "npz", "path": str(tmp_path / "own.npz")}
    config = edited("data", CONFIG["data"] | data)
    own = {"pairs": [["ant", "bee"]], "n_train": None}
    for balance, sizes in ((False, (37, 13)), (True, (12, 8))):
        config["task"] = CONFIG["task"] | own | {"balance": balance}
        check_settings(config)
        found = resolve_experiment(config)
        case = found.cases["ant-bee"]
        assert found.sizes["ant-bee"] == (case.n_train, case.n_test) == sizes
    config["task"]["balance"] = False
    with pytest.raises(ConfigError, match=r"ant-bee has 6 train images of 'ant': lower folds"):
        resolve_experiment(config | {"folds": 7})


def test_too_many_folds_matter_to_the_honest_protocol_only():
    """Without validation the number of folds is of no consequence."""
    resolve_experiment(edited("folds", 21) | {"protocols": ["oracle"]})


def test_kernels_of_networks_are_one_family_and_a_variant_each_tap():
    """Names without an epoch stand for all taps, in the order of the table."""
    config = edited("after_kernels.taps", [0, 4])
    config["variants"] = ["cntk", "after-kernel", "cnn", "after-kernel-7-shuffled"]
    experiment = resolve_experiment(config)
    kernels = ["after-kernel-0", "after-kernel-4", "after-kernel-7-shuffled"]
    assert experiment.families["after-kernel"] == kernels
    assert experiment.variants == ["cntk", *kernels[:2], "cnn", kernels[2]]
    options = after_kernel_options(config, kernels)
    assert "--honest-weights" not in options
    assert "--honest-weights" in after_kernel_options(config, ["after-kernel-4+lantk-kr-v1"])


def test_without_seeds_there_are_no_networks():
    config = edited("cnn.seeds", [])
    config["variants"] = ["cntk", "after-kernel", "cnn"]
    experiment = resolve_experiment(config)
    assert list(experiment.families) == experiment.variants == ["cntk"]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("cnn.learning_rate", [1e-3, 1e-4], "give one learning rate"),
        ("after_kernels.held_out", 6, "there are 5 folds"),
        ("after_kernels.taps", [31, 40], "none of them is reached"),
    ],
)
def test_what_no_kernel_of_a_network_can_be_is_refused(key, value, text):
    config = edited(key, value)
    resolve_experiment(config)
    config["variants"] = ["cntk", "after-kernel"]
    with pytest.raises(ConfigError, match=text):
        resolve_experiment(config)


def test_taps_beyond_the_network_are_left_out():
    """The network of 30 epochs has no kernel after 100."""
    config = edited("after_kernels.taps", [0, 30, 100])
    config["variants"] = ["cntk", "after-kernel"]
    kernels = resolve_experiment(config).families["after-kernel"]
    assert kernels == ["after-kernel-0", "after-kernel-30"]


@pytest.mark.parametrize(
    ("variants", "text"),
    [
        (["after-kernel-31"], "after-kernel-31, and cnn.epochs is 30"),
        (["after-kernel-conv8-3"], "the layers that chen2020 trains are conv1, conv2"),
        (["after-kernel", "after-kernel-5", "after-kernel-shuffled"], "give both the same"),
        (["after-kernel-010"], "is no variant: wanted after-kernel"),
        (["after-kernel-3+lantk-fjlt-v1"], "then \\+lantk-kr-v1, \\+lantk-kr-v2"),
    ],
)
def test_kernels_that_the_network_does_not_have_are_refused(variants, text):
    """Before any job starts, with what there is to choose from."""
    with pytest.raises(LantkError, match=text):
        resolve_experiment(edited("variants", ["cntk", *variants]))


def test_a_layer_has_to_be_trained_in_every_architecture():
    config = edited("architecture", ["chen2020", "chen2020-nngp"])
    config["variants"] = ["cntk", "after-kernel-conv1-3"]
    with pytest.raises(ConfigError, match="the layers that chen2020-nngp trains are dense"):
        resolve_experiment(config)


def test_the_largest_tap_is_a_variant():
    """Seven digits, as many as cnn.epochs may have."""
    config = edited("after_kernels.taps", [0, 1_000_000], cnn__epochs=1_000_000)
    config["variants"] = ["cntk", "after-kernel"]
    kernels = resolve_experiment(config).families["after-kernel"]
    assert kernels == ["after-kernel-0", "after-kernel-1000000"]


def test_the_protocols_of_settings_are_those_of_the_library():
    """What can be asked for is what is evaluated, in one order."""
    assert settings.PROTOCOLS == statistics.PROTOCOLS


def test_what_comes_with_the_honest_protocol_is_read_with_it(tmp_path):
    """A record is cut down to the protocols that are asked for."""
    path = tmp_path / "cntk.json"
    choices = {name: {} for name in (*settings.PROTOCOLS, statistics.DEFINITE)}
    path.write_text(json.dumps({"protocols": choices}))
    for asked, wanted in (
        (None, [*choices]),
        (["honest"], ["honest", statistics.DEFINITE]),
        (["oracle"], ["oracle"]),
    ):
        assert list(read_record(path, asked)["protocols"]) == wanted


def test_a_folder_with_results_of_other_images_is_noticed(tmp_path):
    """Results that another experiment left there would be replaced; of the same images they may."""
    digits = {"source": "digits", "path": None, "layout": None, "scaling": "range"}
    assert warn_of_other_images(tmp_path, digits) is None
    keep_listing(tmp_path, Listing(("1-8",), ("cntk",)), {"data": digits})
    assert warn_of_other_images(tmp_path, digits | {"scaling": "standard"}) is None
    own = digits | {"source": "npz", "path": "mine.npz"}
    warning = warn_of_other_images(tmp_path, own)
    assert f"{tmp_path} holds results of other images (digits)" in warning
    keep_listing(tmp_path, Listing(("a-b",), ("cntk",)), {"data": own})
    assert "(mine.npz)" in warn_of_other_images(tmp_path, digits)
