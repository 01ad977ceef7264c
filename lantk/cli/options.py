"""The options of the command line, each described once; verbs name the ones that they take.

An option is written as its name unless `flag` says otherwise (two verbs may mean different things
by one flag).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lantk.experiment.overviews import OVERVIEWS


def _name_or_json(text: str) -> Any:
    """Read JSON where the text is JSON (a list of layers), else take it as a name."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _number_or(word: str | None) -> Callable[[str], int | None]:
    """Return what reads a whole number of 1 or more, or None where the text is the word."""

    def read(text: str) -> int | None:
        if text == word:
            return None
        if not text.isdecimal() or int(text) < 1:
            wanted = f"{word} or a number" if word else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}: wanted {wanted} of 1 or more")
        return int(text)

    return read


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted a number from 1 to 65535")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: wanted a number above 0, such as 4e5")
    return rate


def _class_label(text: str) -> str | int:
    """Read ``#3`` as class number 3, anything else as a class name."""
    return int(text[1:]) if text.startswith("#") and text[1:].isdigit() else text


_KEPT = "default: those of the last run, as listing.json keeps them"

OPTIONS: dict[str, dict[str, Any]] = {
    "source": {"required": True, "help": "digits, cifar10, npz or images"},
    "path": {"help": "file or folder of the source (digits has none)"},
    "pair": {
        "nargs": 2,
        "type": _class_label,
        "metavar": "CLASS",
        "help": "two class names; #3 is class number 3",
    },
    "classes": {
        "nargs": "+",
        "type": _class_label,
        "metavar": "CLASS",
        "help": "instead of a pair: three or more classes, or all; the first images of each in file"
        " order (--seed is not read)",
    },
    "scaling": {
        "choices": ("range", "standard"),
        "default": "range",
        "help": "pixels to [-1, 1] (range, the default), or to mean 0 and deviation 1 in each"
        " channel over the train images",
    },
    "n-train": {
        "type": _number_or("all"),
        "default": None,
        "help": "train images, or all (the default)",
    },
    "n-test": {
        "type": _number_or("all"),
        "default": None,
        "help": "test images, or all (the default)",
    },
    "plan-n-train": {
        "flag": "--n-train",
        "type": _number_or(None),
        "required": True,
        "help": "train images",
    },
    "plan-n-test": {
        "flag": "--n-test",
        "type": _number_or(None),
        "required": True,
        "help": "test images",
    },
    "image": {
        "type": int,
        "nargs": 3,
        "default": [3, 32, 32],
        "metavar": ("CHANNELS", "HEIGHT", "WIDTH"),
        "help": "shape of an image (default: 3 32 32)",
    },
    "table-bands": {
        "flag": "--bands",
        "nargs": "*",
        "default": ["1-of-1"],
        "help": "row bands whose times are listed (default: 1-of-1)",
    },
    "rate": {"type": _rate, "help": "different entries per second (default: measured now)"},
    "seed": {"type": int, "default": 66, "help": "seed of the random stream (default: 66)"},
    "split": {"type": Path, "required": True, "help": "file written by the verb split"},
    "gram": {
        "type": Path,
        "nargs": "+",
        "required": True,
        "metavar": "BAND.json",
        "help": "all bands that gram wrote, such as FOLDER/*-of-3.json, or the first of them",
    },
    "bands": {
        "type": _number_or("auto"),
        "default": None,
        "metavar": "N",
        "help": "number of row bands to write, those that are there are kept (default: auto)",
    },
    "plan-bands": {
        "flag": "--bands",
        "type": _number_or("auto"),
        "default": None,
        "metavar": "N",
        "help": "number of row bands (default: auto, one for every ten minutes of two cores)",
    },
    "band": {
        "metavar": "I-of-N",
        "help": "the only row band to write, such as 2-of-3, there or not; --bands is not read",
    },
    "memory-mb": {
        "type": int,
        "default": 0,
        "help": "memory to work in beside images and result, in MiB (default: 256; on a GPU 4096"
        " of its own)",
    },
    "architecture": {
        "type": _name_or_json,
        "default": "chen2020",
        "help": "a name, or a JSON list of layers (default: chen2020)",
    },
    "architectures": {
        "flag": "--architecture",
        "type": _name_or_json,
        "nargs": "+",
        "default": ["chen2020"],
        "help": "names, or JSON lists of layers, computed in one pass (default: chen2020)",
    },
    "device": {
        "choices": ("auto", "cpu", "cuda"),
        "default": "auto",
        "help": "auto (the default) takes a GPU where there is one",
    },
    "variant": {"required": True, "help": "name of the variant, such as lantk-kr-v1"},
    "family": {
        "flag": "--variants",
        "nargs": "+",
        "required": True,
        "help": "a label term and its controls, such as lantk-kr-v1 lantk-kr-v1-shuffled, or cntk"
        " with cntk-ridge and oracle-label",
    },
    "label-term": {
        "type": Path,
        "help": "file written by the verb label-term, so that the term is not fitted again",
    },
    "case": {"required": True, "help": "name of the results, such as deer-dog"},
    "evaluation": {
        "type": Path,
        "required": True,
        "help": "record that evaluate wrote, which names the label weight",
    },
    "case-n-train": {
        "flag": "--n-train",
        "type": _number_or("all"),
        "help": "take the first so many train images of the split (default: all)",
    },
    "targets": {
        "type": float,
        "nargs": 2,
        "default": [0.0, 1.0],
        "metavar": ("LOW", "HIGH"),
        "help": "what squared loss trains on for the other classes and for the own one, for three"
        " classes or more (default: 0 1); two have 0 and 1",
    },
    "permutations": {
        "type": int,
        "default": 3,
        "help": "permutations of the labels of each shuffled control (default: 3)",
    },
    "first-permutation": {
        "type": int,
        "default": 0,
        "help": "number of the first of them (default: 0)",
    },
    "estimator": {
        "choices": ("exact", "fjlt"),
        "default": "exact",
        "help": "least squares by exact normal equations (the default), or on the published sketch",
    },
    "protocols": {
        "nargs": "+",
        "choices": ("honest", "oracle"),
        "default": ["honest", "oracle"],
        "help": "how choices are made: inside train (honest), on the test set (oracle); default:"
        " both",
    },
    "honest-weights": {
        "type": float,
        "nargs": "+",
        "default": [0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3],
        "help": "label weights that validation inside train chooses from",
    },
    "oracle-weights": {
        "type": float,
        "nargs": "+",
        "default": [0.001, 0.01, 0.1, 1],
        "help": "label weights that the test set chooses from, as in the paper",
    },
    "honest-ridges": {
        "type": float,
        "nargs": "+",
        "default": [0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3],
        "help": "ridges that validation inside train chooses from, times K's mean diagonal",
    },
    "oracle-ridges": {
        "type": float,
        "nargs": "+",
        "default": [0.001, 0.01, 0.1, 1],
        "help": "ridges that the test set chooses from",
    },
    "folds": {"type": int, "default": 5, "help": "validation folds (default: 5)"},
    "fold-seed": {"type": int, "default": 0, "help": "seed that shuffles the folds (default: 0)"},
    "network-kernels": {
        "flag": "--variants",
        "nargs": "+",
        "required": True,
        "help": "kernels of the network in training: after-kernel (all layers), after-kernel-LAYER"
        " (conv1 ... dense) and conjugate-kernel, with -EPOCH for one tap and -shuffled for a"
        " network trained on permuted labels; +lantk-kr-v1, +lantk-kr-v2 or +lantk-plugin before"
        " that adds a label term",
    },
    "taps": {
        "type": int,
        "nargs": "+",
        "default": [0, 1, 3, 10, 30, 100],
        "help": "epochs after which kernels without -EPOCH are taken (default: 0 1 3 10 30 100)",
    },
    "held-out": {
        "type": int,
        "default": 1,
        "help": "how many of the folds are held out, each with networks of its own (default: 1)",
    },
    "one-learning-rate": {
        "flag": "--learning-rate",
        "type": float,
        "default": 3e-4,
        "help": "of Adam (default: 3e-4)",
    },
    "parameterization": {
        "choices": ("standard", "he", "ntk"),
        "help": "how networks start (default: what the architecture trains with)",
    },
    "epochs": {"type": int, "default": 300, "help": "passes over train (default: 300)"},
    "batch-size": {"type": int, "default": 128, "help": "images in a step (default: 128)"},
    "learning-rate": {
        "type": float,
        "nargs": "+",
        "default": [3e-4],
        "help": "of Adam; of several, validation inside train chooses one (default: 3e-4)",
    },
    "loss": {
        "choices": ("squared", "cross-entropy"),
        "default": "squared",
        "help": "what training lowers (default: squared)",
    },
    "channels": {"type": json.loads, "help": "JSON list, one number a convolution, or null"},
    "results": {"type": Path, "required": True, "help": "folder of the results"},
    "cases": {"nargs": "+", "required": True, "help": "cases, as in the folder names"},
    "variants": {"nargs": "+", "required": True, "help": "variants, in the order of the table"},
    "seeds": {"nargs": "*", "type": int, "default": [0], "help": "seeds of the networks"},
    # What may be left out: listing.json keeps it.
    "kept-cases": {"flag": "--cases", "nargs": "+", "help": f"cases ({_KEPT})"},
    "kept-variants": {"flag": "--variants", "nargs": "+", "help": f"variants ({_KEPT})"},
    "kept-seeds": {
        "flag": "--seeds",
        "nargs": "*",
        "type": int,
        "help": f"seeds of the networks ({_KEPT})",
    },
    "kept-permutations": {
        "flag": "--permutations",
        "type": int,
        "help": f"permutations of the labels of each shuffled control ({_KEPT})",
    },
    "kept-protocols": {
        "flag": "--protocols",
        "nargs": "+",
        "choices": ("honest", "oracle"),
        "help": f"protocols ({_KEPT})",
    },
    "kind": {
        "choices": ("weight", *OVERVIEWS),
        "default": "weight",
        "help": "accuracy against label weight of one case (weight, the default); gains over CNTK"
        " and the gap to the CNN (gap); that gap in steps (decomposition); kernels of the network"
        " along its training (training); error against n (growth); kernel-target alignment",
    },
    "config": {
        "type": json.loads,
        "default": {},
        "help": "the configuration as JSON; tracking.uri and tracking.experiment say where runs go,"
        f" without them mlflow.db beside the results folder, experiment lantk ({_KEPT})",
    },
    "short": {
        "action": "store_true",
        "help": "print only how many runs there are and the commands",
    },
    "resume": {"metavar": "COMMAND", "help": "command that goes on with the workflow"},
    "port": {
        "type": _port,
        "default": 5000,
        "help": "port of the dashboard on this machine (default: 5000)",
    },
    "threads": {"type": int, "help": "threads to use (default: what the libraries choose)"},
    "out": {"type": Path, "required": True, "help": "file to write"},
    "out-folder": {
        "type": Path,
        "required": True,
        "flag": "--out",
        "help": "folder to write to, VARIANT.json and .csv, or VARIANT-seedN for permuted labels",
    },
    "out-folders": {
        "type": Path,
        "nargs": "+",
        "required": True,
        "flag": "--out",
        "help": "folder to write each band to, as I-of-N.npy and I-of-N.json; one for each"
        " architecture",
    },
    "cost": {
        "type": Path,
        "metavar": "FILE",
        "help": "file to write seconds and peak memory to (default: none)",
    },
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
    "mlflow sync": "--results results/digits",
    "mlflow verify": "--results results/digits",
    "mlflow rebuild": "--results results/digits",
    "mlflow links": "--results results/digits",
    "mlflow dashboard": "--results results/digits --port 5001",
}
"""Verb -> an example of what it takes; those of kernels and results go on from each other."""
