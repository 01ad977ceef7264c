"""The verb that predicts new images with a saved model."""

from __future__ import annotations

import argparse
from typing import Any

from lantk.cli.progress import showing_progress
from lantk.errors import LantkError, numbering, shorten

# Read and predicted at once; even, since kernels are computed in pairs of rows.
_IMAGES_AT_ONCE = 1_000


def predict(args: argparse.Namespace) -> None:
    """Predict new images with a saved model: files of a folder, or an array of an .npz file.

    The array is x, x_test or the only one of four axes. Images have the size, channels and range of
    pixels of the model's train images. The table has a row an image: its file's name or its row
    number, the class, and the score, which of two classes is positive for the second, or a score
    for each class (of a regressor, value). Where the array has labels, as y or y_test, the accuracy
    is printed.
    """
    import csv

    from lantk.data.unlabelled import open_unlabelled
    from lantk.estimators.model import load
    from lantk.files import writing
    from lantk.label_terms.trial import load_term_class

    term = None if args.label_term is None else load_term_class(args.label_term)
    model = load(args.model, label_term=term)
    if model.X_train_ is None:
        raise LantkError(
            f"{args.model} was fitted to a precomputed kernel, and predicts from Gram matrices:"
            " wanted a model that was fitted to images"
        )
    model.set_params(device=args.device, threads=args.threads)
    has_classes = hasattr(model, "classes_")
    images = open_unlabelled(
        args.images, model.X_train_.shape[1:], args.layout, reads_labels=has_classes
    )
    n, classes = len(images.names), []
    with (
        writing(args.out) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
        showing_progress("images") as progress,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_table_head(model))
        start = 0
        for x in images.blocks(_IMAGES_AT_ONCE):
            names = images.names[start : start + len(x)]
            with numbering({"X": (str(args.images), names)}):
                columns = _predict_block(model, x)
            table.writerows(zip(names, *(column.tolist() for column in columns), strict=True))
            if has_classes:
                classes.append(columns[0])
            start += len(x)
            progress(start, n)
    told = _tell_classes(model, classes, images.labels) if has_classes else ""
    print(f"{args.out}: {n:,} images{told}")


def _table_head(model: Any) -> list[str]:
    has_several = model.dual_.ndim == 2
    if hasattr(model, "classes_"):
        scores = [f"score_{name}" for name in model.classes_] if has_several else ["score"]
        return ["image", "class", *scores]
    n_outputs = model.dual_.shape[-1]
    return ["image", *([f"value_{i}" for i in range(n_outputs)] if has_several else ["value"])]


def _predict_block(model: Any, x: Any) -> list[Any]:
    """Return the columns of images: their classes, if there are any, and scores."""
    if getattr(model, "n_features_in_", x.shape[1]) != x.shape[1]:
        # Fitted to flattened images.
        x = x.reshape(len(x), -1)
    if not hasattr(model, "classes_"):
        return [*model.predict(x).reshape(len(x), -1).T]
    scores = model.decision_function(x)
    return [model.classes_of(scores), *scores.reshape(len(x), -1).T]


def _tell_classes(model: Any, found: list[Any], labels: Any) -> str:
    """Return how many images are of each class, and how many are predicted right."""
    import numpy as np

    classes, predicted = model.classes_, np.concatenate(found)
    names, counts = np.unique(predicted, return_counts=True)
    listed = ", ".join(f"{name}: {n:,}" for name, n in zip(names, counts, strict=True))
    text = f" ({shorten(listed)})"
    if labels is None:
        return text
    if "U" in (classes.dtype.kind, labels.dtype.kind):
        # Names of classes are text where the workflow fitted.
        classes, predicted, labels = (a.astype(str) for a in (classes, predicted, labels))
    is_known = np.isin(labels, classes)
    if not is_known.any():
        return f"{text}, of which no label is a class of the model, such as {labels[0]!s}"
    accuracy = 100 * np.mean(predicted[is_known] == labels[is_known])
    n_other = np.count_nonzero(~is_known)
    others = (
        f" of {is_known.sum():,} ({n_other:,} are labelled as other classes)" if n_other else ""
    )
    return f"{text}, accuracy {accuracy:.2f} %{others}"
