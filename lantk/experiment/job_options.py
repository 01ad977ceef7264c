"""Options of verbs, by what the configuration says: just those that a job depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lantk.variant import PLAIN_KERNELS, Variant


def evaluate_options(config: Mapping[str, Any], variants: Sequence[str]) -> list[str]:
    """Return the options of the verb evaluate that a family of variants depends on.

    What the variants do not read is left out, so that editing it computes nothing again.
    """
    options: list[Any] = ["--folds", config["folds"]]
    if "cntk-ridge" in variants:
        options += ["--honest-ridges", *config["ridges"]["honest"]]
        options += ["--oracle-ridges", *config["ridges"]["oracle"]]
    if set(variants) - {"cntk-ridge", *PLAIN_KERNELS}:
        options += ["--honest-weights", *config["label_weights"]["honest"]]
        options += ["--oracle-weights", *config["label_weights"]["oracle"]]
    return [str(option) for option in options + estimator_option(config, variants[0])]


def after_kernel_options(config: Mapping[str, Any], variants: Sequence[str]) -> list[str]:
    """Return the options of the verb after-kernels that say how ridges and weights are chosen."""
    options: list[Any] = ["--folds", config["folds"]]
    options += ["--held-out", config["after_kernels"]["held_out"]]
    grids = {"ridges": config["ridges"]}
    if any("+" in variant for variant in variants):
        grids["weights"] = config["label_weights"]
    for name, of_protocol in grids.items():
        for protocol, values in of_protocol.items():
            options += [f"--{protocol}-{name}", *values]
    return [str(option) for option in options]


def target_option(config: Mapping[str, Any]) -> list[Any]:
    """Return the option with the targets of classes; nothing for pairs."""
    task = config["task"]
    return [] if task["classes"] is None else ["--targets", *task["targets"]]


def estimator_option(config: Mapping[str, Any], variant: str) -> list[str]:
    """Return the option that says how ``lantk-fjlt-*`` are fitted; nothing for other variants."""
    is_fitted = (Variant.of(variant).term or "").startswith("lantk-fjlt-")
    return ["--estimator", config["estimator"]] if is_fitted else []
