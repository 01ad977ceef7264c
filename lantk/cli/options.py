"""The options of the command line, each described once; verbs name the ones that they take.

An option is written as its name unless `flag` says otherwise (two verbs may mean different things
by one flag).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lantk.errors import LantkError, shorten
from lantk.experiment.overviews import FIGURE_ENDINGS, OVERVIEWS
from lantk.experiment.settings import FIELDS, PROTOCOLS, default_of, expand_paths, meaning_of
from lantk.files import expand_path, require_ending


def _name_or_json(text: str) -> Any:
    """Read JSON where the text is JSON (a list of layers), else take it as a name."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _number(kind: Callable[[str], Any], below: float, wanted: str) -> Callable[[str], Any]:
    """Return what reads a number above 0 and below a limit; any other is answered with `wanted`."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number < below:
            raise argparse.ArgumentTypeError(f"{text!r}: wanted {wanted}")
        return number

    return read


def _number_or(word: str) -> Callable[[str], int | None]:
    """Return what reads a whole number of 1 or more, or None where the text is the word."""
    read = _number(int, math.inf, f"{word} or a number of 1 or more")
    return lambda text: None if text == word else read(text)


def _said(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return the same reader; what it cannot read is answered with its own words."""

    def read_or_say(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_or_say


@_said
def _path(text: str) -> Path:
    """Read a path that the shell has left as it was typed, as in ``--out=~/x``."""
    return Path(expand_path(text))


@_said
def _config(text: str) -> dict[str, Any]:
    config = json.loads(text)
    if not isinstance(config, dict):
        raise LantkError(f"{shorten(text)}: wanted a JSON mapping")
    expand_paths(config)
    return config


def _option(text: str, **settings: Any) -> dict[str, Any]:
    """Return what argparse is told of an option.

    A default tells the type of a number, and ends the help unless `text` speaks of it.
    """
    default = settings.get("default")
    values = default if isinstance(default, list) else [default]
    for kind in (float, int):
        if any(type(value) is kind for value in values):
            settings.setdefault("type", kind)
    if default is not None and "default" not in text:
        text += f" (default: {' '.join(map(str, values))})"
    return settings | {"help": text}


def _file(text: str, *endings: str) -> dict[str, Any]:
    """Return the option of a file to write, whose name tells what it will hold."""

    @_said
    def read(given: str) -> Path:
        require_ending(given, *endings)
        return Path(expand_path(given))

    return _option(text, flag="--out", type=read, required=True)


def _setting(key: str, text: str | None = None, **others: Any) -> dict[str, Any]:
    """Return an option with the default of a setting, its words, and its meaning as the help."""
    default, kind = default_of(key), FIELDS[key].type
    if get_origin(kind) is Literal:
        others["choices"] = get_args(kind)
    if isinstance(default, list):
        others.setdefault("nargs", "+")
    meaning = meaning_of(key).partition(". ")[0].removesuffix(".")
    return _option(text or meaning[0].lower() + meaning[1:], default=default, **others)


_KEPT = "default: those of the last run, as listing.json keeps them"
_COUNT = _number(int, math.inf, "a number of 1 or more")
_CLASSES = {"metavar": "CLASS"}

OPTIONS: dict[str, dict[str, Any]] = {
    "source": _option("digits, cifar10, npz or images", required=True),
    "path": _option("file or folder of the source (digits has none)", type=_path),
    "pair": _option(
        "two class names or labels; '#3' is the class at position 3, from 0", nargs=2, **_CLASSES
    ),
    "classes": _option(
        "instead of a pair: three or more classes, or all; the first images of each in file order"
        " (--seed is not read)",
        nargs="+",
        **_CLASSES,
    ),
    "scaling": _setting("data.scaling"),
    "whitening": _setting(
        "data.whitening.zca",
        "whiten by ZCA with this regulariser, times the mean eigenvalue (default: not at all)",
        type=float,
        metavar="ZCA",
    ),
    "layout": _setting("data.layout", choices=("channels_first",)),
    "n-train": _option("train images, or all (the default)", type=_number_or("all")),
    "n-test": _option("test images, or all (the default)", type=_number_or("all")),
    "balance": _option(
        "of all images, take as many of each class as the smallest has", action="store_true"
    ),
    "plan-n-train": _option("train images", flag="--n-train", type=_COUNT, required=True),
    "plan-n-test": _option("test images", flag="--n-test", type=_COUNT, required=True),
    "image": _option(
        "shape of an image", nargs=3, default=[3, 32, 32], metavar=("CHANNELS", "HEIGHT", "WIDTH")
    ),
    "table-bands": _option(
        "row bands whose times are listed", flag="--bands", nargs="*", default=["1-of-1"]
    ),
    "rate": _option(
        "different entries per second (default: measured now)",
        type=_number(float, math.inf, "a number above 0, such as 4e5"),
    ),
    "seed": _setting("task.seed", "seed of the random stream"),
    "split": _option("file written by the verb split", type=_path, required=True),
    "gram": _option(
        "all bands that gram wrote, such as FOLDER/*-of-3.json, or the first of them",
        type=_path,
        nargs="+",
        required=True,
        metavar="BAND.json",
    ),
    "bands": _option(
        "number of row bands to write, those that are there are kept (default: auto)",
        type=_number_or("auto"),
        metavar="N",
    ),
    "plan-bands": _option(
        "number of row bands (default: auto, one for every ten minutes of two cores)",
        flag="--bands",
        type=_number_or("auto"),
        metavar="N",
    ),
    "band": _option(
        "the only row band to write, such as 2-of-3, there or not; --bands is not read",
        metavar="I-of-N",
    ),
    "memory-mb": _option(
        "memory to work in beside images and result, in MiB (default: 256; on a GPU 4096 of its"
        " own)",
        default=0,
    ),
    "architecture": _setting(
        "architecture", "a name, or a JSON list of layers", type=_name_or_json
    ),
    "architectures": _option(
        "names, or JSON lists of layers, computed in one pass",
        flag="--architecture",
        type=_name_or_json,
        nargs="+",
        default=[default_of("architecture")],
    ),
    "flips": _option(
        "of cntk-flips, the mean over images and their mirror images; takes four times as long",
        action="store_true",
    ),
    "device": _setting("device"),
    "variant": _option("name of the variant, such as lantk-kr-v1", required=True),
    "family": _option(
        "a label term and its controls, such as lantk-kr-v1 lantk-kr-v1-shuffled, or cntk with"
        " cntk-ridge, cntk-intercept and oracle-label",
        flag="--variants",
        nargs="+",
        required=True,
    ),
    "models": _setting("models", "best or all", choices=["best", "all"]),
    "kept-models": _setting("models", "none keeps no weights", flag="--models"),
    "evaluations": _option(
        "folder that evaluate wrote to, with a fit beside each record", type=_path, required=True
    ),
    "weights": _option(
        "file to write the weights after the last epoch to, X.pt (default: none)", type=_path
    ),
    "label-term": _option(
        "file written by the verb label-term, so that the term is not fitted again", type=_path
    ),
    "model": _option("file that an estimator's save wrote, X.npz", type=_path, required=True),
    "images": _option("folder of PNG and JPEG files, or X.npz", type=_path, required=True),
    "own-term": _option(
        "class of the label term of your own that the model was fitted with, which is imported",
        flag="--label-term",
        metavar="MODULE:CLASS",
    ),
    "case": _option("name of the results, such as deer-dog", required=True),
    "evaluation": _option(
        "record that evaluate wrote, which names the label weight", type=_path, required=True
    ),
    "case-n-train": _option(
        "take the first so many train images of the split (default: all)",
        flag="--n-train",
        type=_number_or("all"),
    ),
    "targets": _option(
        "what squared loss trains on for the other classes and for the own one, for three classes"
        " or more (default: 0 1); two have 0 and 1",
        nargs=2,
        default=[float(target) for target in default_of("task.targets")],
        metavar=("LOW", "HIGH"),
    ),
    "permutations": _setting("permutations"),
    "first-permutation": _option("number of the first of them", default=0),
    "estimator": _setting("estimator"),
    "protocols": _setting("protocols", choices=PROTOCOLS),
    "honest-weights": _setting(
        "label_weights.honest", "label weights that validation inside train chooses from"
    ),
    "oracle-weights": _setting(
        "label_weights.oracle", "label weights that the test set chooses from, as in the paper"
    ),
    "honest-ridges": _setting(
        "ridges.honest", "ridges that validation inside train chooses from, times K's mean diagonal"
    ),
    "oracle-ridges": _setting("ridges.oracle", "ridges that the test set chooses from"),
    "folds": _setting("folds"),
    "fold-seed": _option("seed that shuffles the folds", default=0),
    "network-kernels": _option(
        "kernels of the network in training: after-kernel (all layers), after-kernel-LAYER (conv1"
        " ... dense, or dense1 ... of several) and conjugate-kernel, with -EPOCH for one tap and"
        " -shuffled for a network trained on permuted labels; +lantk-kr-v1, +lantk-kr-v2 or"
        " +lantk-plugin before that adds a label term",
        flag="--variants",
        nargs="+",
        required=True,
    ),
    "taps": _setting("after_kernels.taps", "epochs after which kernels without -EPOCH are taken"),
    "held-out": _setting("after_kernels.held_out"),
    "one-learning-rate": _setting("cnn.learning_rate", "step size of Adam", flag="--learning-rate"),
    "parameterization": _option(
        "how networks start (default: what the architecture trains with)",
        choices=("standard", "he", "ntk"),
    ),
    "epochs": _option("passes over train (default: 300, as in the paper)", default=300),
    "batch-size": _setting("cnn.batch_size"),
    "learning-rate": _option(
        "step size of Adam; of several, validation inside train chooses one",
        nargs="+",
        default=[default_of("cnn.learning_rate")],
    ),
    "loss": _setting("cnn.loss"),
    "channels": _option("JSON list, one number a hidden layer, or null", type=json.loads),
    "results": _option("folder of the results", type=_path, required=True),
    # What listing.json keeps.
    "cases": _option(f"cases, as in the folder names ({_KEPT})", nargs="+"),
    "variants": _option(f"variants, in the order of the table ({_KEPT})", nargs="+"),
    "seeds": _option(f"seeds of the networks ({_KEPT})", nargs="*", type=int),
    "listed-permutations": _option(
        f"permutations of the labels of each shuffled control ({_KEPT})",
        flag="--permutations",
        type=int,
    ),
    "listed-protocols": _option(
        f"protocols ({_KEPT})", flag="--protocols", nargs="+", choices=PROTOCOLS
    ),
    "kind": _option(
        "accuracy against label weight of one case (weight, the default); gains over CNTK and the"
        " gap to the CNN (gap); that gap in steps (decomposition); kernels of the network along its"
        " training (training); error against n (growth); kernel-target alignment",
        choices=("weight", *OVERVIEWS),
        default="weight",
    ),
    "config": _option(
        "the configuration as JSON; tracking.uri and tracking.experiment say where runs go,"
        " without them mlflow.db beside the results folder, an experiment of the folder's name"
        f" ({_KEPT})",
        type=_config,
        default={},
    ),
    "short": _option("print only how many runs there are and the commands", action="store_true"),
    "resume": _option("command that goes on with the workflow", metavar="COMMAND"),
    "port": _option(
        "port of the dashboard on this machine",
        type=_number(int, 65536, "a number from 1 to 65535"),
        default=5000,
    ),
    "threads": _option("threads to use (default: what the libraries choose)", type=int),
    "out": _option("file to write", type=_path, required=True),
    "out-csv": _file("file to write, X.csv", ".csv"),
    "out-npz": _file("file to write, X.npz", ".npz"),
    "out-json": _file("file to write, X.json; predictions go to X.csv beside it", ".json"),
    "out-html": _file("file to write, X.html", ".html"),
    "out-figure": _file(
        "file to write, X.png, or X.pdf or X.svg for a drawing of lines", *FIGURE_ENDINGS
    ),
    "out-folder": _option(
        "folder to write to, VARIANT.json and .csv, or VARIANT-seedN for permuted labels",
        flag="--out",
        type=_path,
        required=True,
    ),
    "out-folders": _option(
        "folder to write each band to, as I-of-N.npy and I-of-N.json; one for each architecture",
        flag="--out",
        type=_path,
        nargs="+",
        required=True,
    ),
    "cost": _option(
        "file to write seconds and peak memory to (default: none)", type=_path, metavar="FILE"
    ),
}


_DIGITS = "--cases 3-8 1-8 8-9 --variants cntk cnn --results results/digits"
EXAMPLES = {
    "fetch": "--source digits --out data.json",
    "split": "--source digits --pair 3 8 --n-train 100 --n-test 100 --out s.npz",
    "plan": "--n-train 50000 --n-test 10000 --threads 2",
    "gram": "--split s.npz --bands 3 --out g",
    "label-term": "--split s.npz --gram g/*-of-3.json --variant lantk-kr-v1 --out z.npz",
    "evaluate": "--split s.npz --gram g/*-of-3.json --case 3-8"
    " --variants lantk-kr-v1 lantk-kr-v1-shuffled --label-term z.npz --out e",
    "models": "--split s.npz --variants cntk lantk-kr-v1 --evaluations e --out m",
    "cnn": "--split s.npz --case 3-8 --epochs 20 --variant cnn --out e/cnn-seed66.json",
    "after-kernels": "--split s.npz --case 3-8 --variants after-kernel after-kernel-shuffled"
    " --taps 0 3 --out e",
    "heat-map": "--split s.npz --gram g/*-of-3.json --case 3-8 --variant lantk-kr-v1"
    " --label-term z.npz --evaluation e/lantk-kr-v1.json --out z.png",
    "collect": _DIGITS,
    "table": "--results results/digits",
    "figure": f"{_DIGITS} --kind gap --out gap.png",
    "report": "--results results/digits --out report.html",
    "failures": "--results results/digits",
    "predict": "--model results/digits/models/1-8/lantk-kr-v1.npz --images new.npz"
    " --out predictions.csv",
    "mlflow sync": "--results results/digits",
    "mlflow verify": "--results results/digits",
    "mlflow rebuild": "--results results/digits",
    "mlflow links": "--results results/digits",
    "mlflow dashboard": "--results results/digits --port 5001",
}
"""Verb -> an example of what it takes; those of kernels and results go on from each other."""
