"""The configuration of an experiment, checked before any job starts.

Beside the command line, this is the one place that reads the configuration dictionary.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantk.data.base import DataError
from lantk.data.splits import describe, fingerprint
from lantk.data.tasks import (
    Description,
    Task,
    class_sizes,
    imbalance_warning,
    resolve_classes,
    resolve_pair,
)
from lantk.errors import shorten
from lantk.experiment.checks import ConfigError, check_folder
from lantk.experiment.passwords import store_fault, user_fault
from lantk.experiment.settings import default_of
from lantk.experiment.variants import (
    BEST,
    CHOSEN_KERNELS,
    NETWORK_FAMILY,
    TERMS,
    at_taps,
    candidates,
    families,
    family_of,
)
from lantk.kernel.architecture import ArchitectureError, Conv
from lantk.kernel.bands import count_bands, count_visits, name_bands
from lantk.kernel.grammar import parse_architecture
from lantk.variant import NETWORKS, Variant

# Names such as 4711-of-5000 in one command, beside those of variants; settings take no more.
_MOST_BANDS = 5_000
# Images that the sketch of 20 features takes (Chen et al. 2020: epsilon = 0.01).
_SKETCH_MIN_N = 175


@dataclass(frozen=True)
class Case:
    """One block of results: a task, an architecture and a number of train images."""

    name: str
    """In paths: the task; its architecture and its n too where the configuration lists several."""
    task: str
    """Slug of the task, whose split holds the images of all its cases."""
    gram: str
    """Name of the folder of its Gram matrices, which all numbers of train images share."""
    architecture: Any
    """A name, or a list of layers."""
    n_train: int
    n_test: int


@dataclass(frozen=True)
class Experiment:
    """What the workflow must know of the data before its jobs are planned."""

    tasks: dict[str, Task]
    """Slug -> task, in the order of the configuration."""
    architectures: list[Any]
    """Names, or one list of layers."""
    cases: dict[str, Case]
    """Name -> case: by task, then architecture, then number of train images."""
    sizes: dict[str, tuple[int, int]]
    """Slug -> (largest n_train, n_test)."""
    warnings: list[str]
    """What a user should know of the data before any job, though nothing is refused."""
    bands: dict[str, list[str]]
    """Slug -> names of the row bands of its Gram matrices."""
    families: dict[str, list[str]]
    """Family -> its variants; a family is one job a case. No networks where there are no seeds."""
    variants: list[str]
    """Variants that have results, in the order of the table; each tap is one."""
    data_fingerprint: str
    """Changes when files of the data do."""


def resolve_experiment(config: Mapping[str, Any]) -> Experiment:
    """Return tasks and cases of a checked configuration, or say why it cannot run.

    Raises
    ------
    ConfigError, DataError, ArchitectureError, VariantError
        If keys do not fit together, or do not fit the data.
    """
    _check_places(config)
    architectures = _resolve_architectures(config)
    variants = at_taps(config["variants"], _reached_taps(config))
    families = _resolve_families(config, variants)
    if NETWORK_FAMILY in families:
        _check_after_kernels(config, families[NETWORK_FAMILY], architectures)
    source = config["data"]
    description = describe(source["source"], source["path"], source["layout"])
    tasks = _resolve_tasks(config["task"], description)
    warnings, sizes, cases = [], {}, {}
    for slug, task in tasks.items():
        n_test, balance = config["task"]["n_test"], config["task"]["balance"]
        resolved = {
            sum(of_train): (of_train, of_test)
            for n in _as_list(config["task"]["n_train"])
            for of_train, of_test in [class_sizes(description, task, n, n_test, balance=balance)]
        }
        counts = resolved[max(resolved)]
        sizes[slug] = (max(resolved), sum(counts[1]))
        warnings.append(imbalance_warning(slug, *counts))
        for given, (n_train, (of_train, _)) in itertools.product(architectures, resolved.items()):
            gram = slug + (f".{given}" if len(architectures) > 1 else "")
            name = gram + (f".n{n_train}" if len(resolved) > 1 else "")
            cases[name] = Case(name, slug, gram, given, n_train, sizes[slug][1])
            n_least = min(of_train)
            if "honest" in config["protocols"] and n_least < config["folds"]:
                is_even = len(set(of_train)) == 1
                which = "each class" if is_even else repr(task.names[of_train.index(n_least)])
                raise ConfigError(
                    f"folds is {config['folds']}, and {name} has {n_least} train images of {which}:"
                    f" lower folds or {'raise task.n_train' if is_even else 'give it more images'}"
                )
            _check_sketch(config, name, n_train)
    _check_filters(architectures, description.image_shape)
    bands = _resolve_bands(config, architectures, sizes, description.image_shape)
    return Experiment(
        tasks,
        architectures,
        cases,
        sizes,
        list(filter(None, warnings)),
        bands,
        families,
        [variant for variant in variants if family_of(variant) in families],
        fingerprint(source["source"], source["path"]),
    )


def _check_places(config: Mapping[str, Any]) -> None:
    """Refuse folders and an address that the last job would be the first to stumble over."""
    given, source = config["results"], config["data"]["path"]
    check_folder("results", given)
    if source is not None:
        check_folder("data.path", source)
    results = Path(given)
    if results == Path(results.root) or set("{}") & set(given):
        raise ConfigError(f"results is {given!r}: wanted a folder of its own, with no braces in it")
    if any(path.is_file() for path in (results, *results.parents)):
        raise ConfigError(f"results is {given!r}: a file is in the way of this folder")
    _check_store(config["tracking"]["uri"])


def _check_store(uri: str | None) -> None:
    """Refuse a store, or a user of one, that the last job would be the first to stumble over."""
    name, otherwise = "tracking.uri", "or null"
    if uri is None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        name, otherwise = "MLFLOW_TRACKING_URI in the environment", "or unset it"
    fault = store_fault(uri)
    if fault is not None:
        # Not the address, in which a password may hide.
        raise ConfigError(f"{name} {fault}; {otherwise}")
    if uri.lower().startswith("http"):
        fault = user_fault()
    if fault is not None:
        raise ConfigError(fault)


def _check_filters(architectures: list[Any], image_shape: tuple[int, int, int]) -> None:
    """Refuse filters, windows and strides that no position of an image can tell from smaller ones.

    A window over the whole image from each of its positions has 2 * side - 1 pixels.
    """
    _, height, width = image_shape
    side = max(height, width)
    for given in architectures:
        for layer, *_ in parse_architecture(given).shapes(height, width):
            name = "a convolution" if isinstance(layer, Conv) else "an average pool"
            for key, value, most in (
                ("size", layer.size, max(2 * side - 1, 3)),
                ("stride", layer.stride, max(side, 2)),
            ):
                if value > most:
                    raise ConfigError(
                        f"architecture has {name} of {key} {value}, and images are"
                        f" {height} x {width}: wanted at most {most}, which reaches as far"
                    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _resolve_architectures(config: Mapping[str, Any]) -> list[Any]:
    """Return what the configuration lists: names, or one list of layers."""
    given = config["architecture"]
    # A list of layers may be of words alone, of which the last is then a dense layer.
    is_names = isinstance(given, list) and all(isinstance(item, str) for item in given)
    is_names = is_names and given[-1] != "dense"
    found = given if is_names else [given]
    networks = [parse_architecture(item) for item in found]
    if len({network.digest for network in networks}) < len(networks):
        raise ConfigError(f"architecture names one twice: {shorten(str(given))}")
    channels = config["cnn"]["channels"]
    for item, network in zip(found, networks, strict=True):
        which = item if isinstance(item, str) else "the architecture"
        if channels is not None and len(channels) != network.n_hidden:
            raise ConfigError(
                f"cnn.channels has {len(channels)} numbers, and {which} {network.n_hidden} hidden"
                f" layers ({', '.join(network.layer_names[:-1]) or 'none'}): give one number a"
                " layer, or null"
            )
        if channels is not None:
            try:
                network.check_channels(channels)
            except ArchitectureError as error:
                raise ConfigError(f"cnn.channels does not fit {which}: {error}, or null") from None
    return found


def _check_sketch(config: Mapping[str, Any], case: str, n_train: int) -> None:
    """Refuse a case too small for the published sketch, which has more rows than few entries."""
    uses_sketch = any("lantk-fjlt-" in variant for variant in config["variants"])
    if config["estimator"] != "fjlt" or not uses_sketch:
        return
    n_fit = n_train
    if "honest" in config["protocols"]:
        n_fit -= -(-n_train // config["folds"])
    if n_fit < _SKETCH_MIN_N:
        raise ConfigError(
            f"estimator is 'fjlt', and {case} fits to as few as {n_fit} images: its sketch takes"
            f" {_SKETCH_MIN_N} or more (155 for lantk-fjlt-v1). Raise task.n_train, or take"
            " estimator: exact"
        )


def _resolve_families(config: Mapping[str, Any], variants: Sequence[str]) -> dict[str, list[str]]:
    found = families(variants)
    names = [Variant.of(variant).name for variant in variants]
    own = [Variant.of(name).name for name in found if Variant.of(name).module is not None]
    unclear = [name for name in own if re.search(r"-from\d+$", name)]
    taken = [name for name in own if name in (*TERMS, BEST) or names.count(name) > 1]
    if unclear:
        raise ConfigError(
            f"variants has a label term of your own whose class makes the name {unclear[0]!r}:"
            " it reads as a job of later permutations, so give the class another name"
        )
    if taken:
        raise ConfigError(
            f"variants has a label term of your own whose class makes the name {taken[0]!r}, which"
            " another variant has: give the class another name"
        )
    if "oracle-label" in found.get("cntk", []) and "oracle" not in config["protocols"]:
        raise ConfigError(
            f"variants has oracle-label, and protocols is {config['protocols']}: it reads test"
            " labels, so it needs the protocol oracle"
        )
    if not config["cnn"]["seeds"]:
        for name in (*NETWORKS, NETWORK_FAMILY):
            found.pop(name, None)
    if not found:
        raise ConfigError("variants has only networks, and cnn.seeds is empty: give it a seed")
    return found


def _reached_taps(config: Mapping[str, Any]) -> list[int]:
    """Return the epochs at which kernels are taken where a variant names none."""
    taps, epochs = config["after_kernels"]["taps"], config["cnn"]["epochs"]
    reached = [tap for tap in taps if tap <= epochs]
    if not reached and len(at_taps(config["variants"], [0])) > len(at_taps(config["variants"], [])):
        raise ConfigError(
            f"after_kernels.taps is {taps}, and cnn.epochs is {epochs}: none of them is reached;"
            " lower one or raise cnn.epochs"
        )
    return reached


def _check_after_kernels(
    config: Mapping[str, Any], variants: Sequence[str], architectures: Sequence[Any]
) -> None:
    rates, held_out = _as_list(config["cnn"]["learning_rate"]), config["after_kernels"]["held_out"]
    if len(rates) > 1:
        raise ConfigError(
            f"variants has kernels of networks, and cnn.learning_rate is {rates}: they are taken"
            " along one training, so give one learning rate"
        )
    taps = {variant: Variant.of(variant).epoch or 0 for variant in variants}
    layers = {
        variant: layer for variant in variants if (layer := Variant.of(variant).layer) is not None
    }
    for item in architectures:
        names = parse_architecture(item).trained_layers
        for variant in (name for name, layer in layers.items() if layer not in names):
            which = item if isinstance(item, str) else "the architecture"
            raise ConfigError(
                f"variants has {variant}, and the layers that {which} trains are"
                f" {', '.join(names)}: name one of them"
            )
    last, epochs = max(taps, key=lambda variant: taps[variant]), config["cnn"]["epochs"]
    if taps[last] > epochs:
        raise ConfigError(
            f"variants has {last}, and cnn.epochs is {epochs}: kernels are taken along the training"
            " of that network, so name an earlier epoch or raise cnn.epochs"
        )
    for name in CHOSEN_KERNELS:
        own, twins = (
            {taps[variant] for variant in candidates(derived, variants)}
            for derived in (name, f"{name}-shuffled")
        )
        if own and twins and own != twins:
            raise ConfigError(
                f"variants has {name} at epochs {sorted(own)} and its shuffled twin at"
                f" {sorted(twins)}: the best of each is compared, so give both the same"
            )
    if held_out > config["folds"]:
        raise ConfigError(
            f"after_kernels.held_out is {held_out}, and there are {config['folds']} folds: lower it"
            " or raise folds"
        )


def _resolve_tasks(task: Mapping[str, Any], description: Description) -> dict[str, Task]:
    pairs, classes = task["pairs"], task["classes"]
    if (pairs is None) == (classes is None):
        which = "are both null" if pairs is None else "are both given"
        raise ConfigError(
            f"task.pairs and task.classes {which}: wanted one of them, class pairs such as"
            " [[3, 8]], or all classes (or three or more) at once, and null for the other (a key"
            " that your file does not name keeps its value from config.yaml)"
        )
    low, high = task["targets"]
    if not low < high:
        raise ConfigError(
            f"task.targets is {[low, high]}: wanted the target of the wrong classes, then a larger"
            " one of the right class, such as [0, 1]"
        )
    if pairs is None:
        found = resolve_classes(description, classes)
        return {found.slug: found}
    if [low, high] != [0, 1]:
        raise ConfigError(
            f"task.targets is {task['targets']}, and task.pairs is given: pairs have the targets"
            " -1 and +1, so leave task.targets at [0, 1]"
        )
    try:
        resolved = [resolve_pair(description, pair) for pair in pairs]
    except DataError as error:
        note = "" if pairs != default_of("task.pairs") else " (task.pairs is that of config.yaml)"
        raise DataError(f"{error}{note}") from error
    tasks = {pair.slug: pair for pair in resolved}
    if len(tasks) < len(resolved):
        raise ConfigError(f"task.pairs names a class pair twice: {shorten(str(pairs))}")
    return tasks


def _resolve_bands(
    config: Mapping[str, Any],
    architectures: list[Any],
    sizes: Mapping[str, tuple[int, int]],
    image_shape: tuple[int, int, int],
) -> dict[str, list[str]]:
    visits = count_visits(architectures, *image_shape[1:])
    bands = {}
    for slug, (n_train, n_test) in sizes.items():
        n_bands = config["kernel"]["bands"]
        if n_bands == "auto":
            n_bands = min(count_bands(n_train, n_test, visits, config["device"]), _MOST_BANDS)
        elif n_bands > n_train:
            raise ConfigError(
                f"kernel.bands is {n_bands}, and {slug} has {n_train} train images: wanted at most"
                " that many, or auto"
            )
        bands[slug] = name_bands(n_bands)
    return bands
