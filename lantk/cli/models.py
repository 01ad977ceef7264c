"""Models of the workflow: what an evaluation fitted, kept with the images that it was fitted to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantk.errors import LantkError
from lantk.experiment.records import read_record
from lantk.files import write_json
from lantk.variant import Variant

if TYPE_CHECKING:
    from lantk.estimators.model import Model
    from lantk.regression.protocols import WeightPath


def fitted_model(variant: Variant, path: WeightPath) -> Model:
    """Return the model of an evaluation under its honest choice, on its Gram matrices alone."""
    from lantk.estimators.model import Model
    from lantk.regression.protocols import choose_weight

    if path.fitted is None:
        raise ValueError("the path has no fit: it was not made by `predict`")
    i = choose_weight(path.weights, path.validation_accuracy)
    weight, is_ridge = float(path.weights[i]), variant.text == "cntk-ridge"
    chosen = {"ridge": weight if is_ridge else 0.0, "label_weight": 0.0 if is_ridge else weight}
    return Model(
        estimator="KernelClassifier",
        parameters={"kernel": "precomputed", "intercept": variant.has_intercept, **chosen},
        path=path.fitted.at(i),
        images=None,
        attributes={f"{name}_": value for name, value in chosen.items()}
        | {"n_features_in_": path.fitted.dual.shape[1], "_n_axes": 2},
        more={"variant": variant.text},
    )


def models(args: argparse.Namespace) -> None:
    """Keep models of a case: kernels, dual coefficients and train images, to predict others.

    The best is that with the highest validation accuracy inside train, the first of equals. Beside
    them models.json says which are there.
    """
    from lantk.data.split_files import load_split

    drawn = load_split(args.split)
    drawn = drawn if args.n_train is None else drawn.first(args.n_train)
    variants = [v for v in map(Variant.of, args.variants) if v.makes_model]
    if not variants:
        raise LantkError(
            f"--variants {' '.join(args.variants)}: none of them makes a model, which exact kernels"
            " with true labels do, such as cntk or lantk-kr-v1"
        )
    records = {v: read_record(args.evaluations / f"{v.name}.json") for v in variants}
    accuracies = {v: _validation_accuracy(record) for v, record in records.items()}
    if args.models == "best":
        variants = [max(variants, key=accuracies.__getitem__)]
    for v in variants:
        _save(args.out / f"{v.name}.npz", args.evaluations / f"{v.name}.npz", v, drawn, records[v])
    kept = {v.name: {"validation_accuracy": accuracies[v]} for v in variants}
    # Old ones go once the new ones are there.
    for old in set(args.out.glob("*.npz")) - {args.out / f"{name}.npz" for name in kept}:
        old.unlink()
    write_json(args.out / "models.json", {"models": kept})


def _validation_accuracy(record: Any) -> float:
    honest = record["protocols"].get("honest")
    if honest is None or honest["validation_accuracy"] is None:
        raise LantkError(
            f"{record['variant']} of {record['case']} was not evaluated under the protocol honest,"
            " by which a model is chosen: evaluate it so, or set models to none"
        )
    return float(honest["validation_accuracy"])


def _save(out: Path, fitted: Path, v: Variant, drawn: Any, record: Any) -> None:
    """Write a whole model: what was fitted, and the images that it was fitted to."""
    from dataclasses import replace

    import numpy as np

    from lantk.estimators.model import read_model, save_model
    from lantk.label_terms.trial import load_term_class

    model = read_model(fitted, load_term_class(v.term) if v.module and v.term else None)
    if len(model.path.dual[0]) != len(drawn.y_train):
        raise LantkError(
            f"{fitted} was fitted to {len(model.path.dual[0]):,} images, and the split has"
            f" {len(drawn.y_train):,}: evaluate it again"
        )
    kernel = {
        "kernel": "ntk",
        "architecture": record["architecture"]["layers"],
        "flips": v.has_flips,
        "scaling": drawn.scaling,
        "whitening": drawn.zca,
        "dtype": "float32",
    }
    flags = {
        "n_features_in_": drawn.pixels_train.shape[1],
        "_n_axes": 4,
        "_has_vectors": False,
        "_appends_one": drawn.is_binary,
    }
    whole = replace(
        model,
        parameters=model.parameters | kernel,
        attributes=model.attributes | flags,
        images=drawn.pixels_train,
        scaling=drawn.scaler,
        classes=np.array(drawn.names),
        more={name: record[name] for name in ("variant", "case", "task", "n_train", "data")},
    )
    save_model(out, whole)
