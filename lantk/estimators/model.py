"""Fitted models on disk: one ``.npz`` file, without a pickle, that only NumPy is needed to read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.archives import NpzArchive, opening_npz
from lantk.errors import shorten
from lantk.estimators.summary import FORMAT, ModelError, is_ours, read_about
from lantk.files import expand_path, writing
from lantk.kernel.architecture import Architecture
from lantk.label_terms.base import LabelTerm
from lantk.labels import count_outputs
from lantk.regression.fits import FittedPath
from lantk.scaling import Scaling
from lantk.whitening import read_whitening


@dataclass
class Model:
    """A fitted estimator, as a file holds it."""

    estimator: str
    """``KernelClassifier`` or ``KernelRegressor``."""
    parameters: dict[str, Any]
    """Its parameters, but for the label term; the architecture is a list of layers."""
    path: FittedPath
    """Dual coefficients and the fitted label term, at one weight."""
    images: NDArray[Any] | None
    """Unscaled train images (n, channels, height, width); None of a precomputed kernel."""
    scaling: Scaling = field(default_factory=Scaling)
    classes: NDArray[Any] | None = None
    """Names of the classes, ascending; None of a regressor."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Fitted numbers and flags, such as ``ridge_``."""
    more: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping, as JSON: where the model comes from, what it scored."""


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to an ``.npz`` file, whole or not at all.

    Raises
    ------
    ModelError
        If the name does not end in .npz, or the label term is of your own and does not name what it
        learned.
    """
    file = Path(expand_path(os.fspath(path)))
    if file.suffix != ".npz":
        raise ModelError(f"{file}: a model is stored in a file whose name ends in .npz")
    with writing(file) as temporary:
        write_arrays(temporary, model)


def write_arrays(file: Path, model: Model) -> None:
    """Write a model to an ``.npz`` file; errors are those of `save_model`."""
    term = model.path.term
    about = {
        "format": FORMAT,
        "estimator": model.estimator,
        "parameters": model.parameters,
        "pixel_max": model.scaling.pixel_max,
        "attributes": model.attributes,
        "term": None if term is None else _describe_term(term),
        "more": model.more,
    }
    classes = model.classes
    if classes is not None and classes.dtype.hasobject:
        classes = np.array(classes.tolist())
        if classes.dtype.kind not in "biufU":
            raise ModelError(f"classes {shorten(str(classes))} cannot be written: wanted text")
    arrays: dict[str, NDArray[Any] | None] = {
        "images": model.images,
        "channel_statistics": model.scaling.channel_statistics,
        "classes": classes,
        "dual": model.path.dual,
        "constant": model.path.constant,
        "weights": model.path.weights,
        "factors": model.path.factors,
    }
    if model.scaling.whitening is not None:
        arrays |= model.scaling.whitening.to_arrays()
    if term is not None:
        arrays |= {f"fitted.{name}": value for name, value in term.fitted().items()}
    try:
        text = json.dumps(about, default=_plain)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"a parameter cannot be written ({error}): wanted numbers, text and lists of them"
        ) from error
    kept = {name: value for name, value in arrays.items() if value is not None}
    with file.open("wb") as out:
        np.savez(out, allow_pickle=False, about=np.array(text), **kept)  # type: ignore[arg-type]


def read_model(path: str | os.PathLike[str], label_term: type[LabelTerm] | None = None) -> Model:
    """Read what `save_model` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    label_term : class, optional
        The class of a label term of your own, which no file names code to be imported for.

    Raises
    ------
    ModelError
        If the file is missing, broken, no model, of a later format, or of a label term of your own
        whose class is not given.
    """
    file = Path(expand_path(os.fspath(path)))
    with opening_npz(file, "save the model again", ModelError) as archive:
        about = read_about(file, archive)
        images = archive.get("images")
        term = None
        if about["term"] is not None:
            term = _make_term(file, about["term"], label_term)
            term.restore(_fitted(archive), None)
        fitted = FittedPath(
            archive["weights"],
            archive["factors"],
            archive["dual"],
            archive.get("constant"),
            term,
        )
        classes = archive.get("classes")
        _check_shapes(file, fitted, images, classes)
        return Model(
            estimator=about["estimator"],
            parameters=about["parameters"],
            path=fitted,
            images=images,
            scaling=Scaling(
                about["pixel_max"],
                archive.get("channel_statistics"),
                read_whitening(archive.get),
            ),
            classes=classes,
            attributes=about["attributes"],
            more=about["more"],
        )


def load(path: str | os.PathLike[str], *, label_term: type[LabelTerm] | None = None) -> Any:
    """Return the fitted estimator that `save` wrote, or the workflow.

    Parameters and errors are those of `read_model`. Nothing is unpickled and no code that the file
    names is run. Gram matrices are computed where `KernelClassifier` would: change ``device``,
    ``threads`` and ``memory`` by `set_params`.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from lantk import KernelRegressor
    >>> x = np.linspace(0, 1, 8)[:, None] + [[0, 1]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     KernelRegressor().fit(x, x[:, 0]).save(os.path.join(folder, "model.npz"))
    ...     model = load(os.path.join(folder, "model.npz"))
    >>> bool(abs(model.predict(x) - x[:, 0]).max() < 1e-2)
    True
    """
    from lantk.estimators.classifier import KernelClassifier
    from lantk.estimators.regressor import KernelRegressor

    model = read_model(path, label_term)
    kinds = {kind.__name__: kind for kind in (KernelClassifier, KernelRegressor)}
    kind: Any = kinds.get(str(model.estimator))
    if kind is None:
        raise ModelError(f"{path} is a {model.estimator}, wanted one of {', '.join(kinds)}")
    # Values that name code or folders are no part of a model.
    unknown = set(model.parameters) - set(kind._get_param_names()) | (
        set(model.parameters) & {"label_term", "memory"}
    )
    if unknown:
        raise ModelError(f"{path} sets {', '.join(sorted(unknown))}, which no model holds")
    estimator = kind(**model.parameters)
    estimator._take_model(model)
    return estimator


def _check_shapes(
    file: Path, path: FittedPath, images: NDArray[Any] | None, classes: NDArray[Any] | None
) -> None:
    """Refuse arrays that do not fit each other: what predicts would read beyond their ends."""
    n_outputs = path.dual.shape[-1]
    wanted = (1, path.dual.shape[1] if images is None else len(images), n_outputs)
    are_alike = (
        path.dual.shape == wanted
        and path.weights.shape == path.factors.shape == (1,)
        and (path.constant is None or path.constant.shape == (1, n_outputs))
        and (classes is None or (len(classes) > 1 and count_outputs(len(classes)) == n_outputs))
        and (images is None or images.ndim == 4)
    )
    if not are_alike:
        raise ModelError(f"{file} is broken, its arrays do not fit each other: save it again")


def _plain(value: Any) -> Any:
    """Return numbers and arrays of NumPy as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Architecture):
        return value.to_list()
    raise TypeError(f"{shorten(repr(value))} of type {type(value).__name__}")


def _fitted(archive: NpzArchive) -> dict[str, NDArray[Any]]:
    names = [name for name in archive if name.startswith("fitted.")]
    return {name.removeprefix("fitted."): archive[name] for name in names}


def _describe_term(term: LabelTerm) -> dict[str, Any]:
    """Return class and parameters of a label term, or say what of it could not be read again."""
    kind = type(term)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not is_ours(kind.__module__):
        has_own = kind.fitted is not LabelTerm.fitted
        learned = {key for key in vars(term) if key.endswith("_")} - {"x_train_", "n_train_"}
        unnamed = learned - set(term.fitted_names)
        if unnamed and not has_own:
            raise ModelError(
                f"{kind.__name__} learned {', '.join(sorted(unnamed))}, which its fitted_names does"
                " not hold, so it cannot be saved: name there all that transform needs beside the"
                " train vectors, or define fitted and restore"
            )
    return {"class": name, "parameters": term.get_params()}


def _make_term(file: Path, about: Mapping[str, Any], given: type[LabelTerm] | None) -> LabelTerm:
    name = about["class"]
    module, _, class_name = name.partition(":")
    kind: Any = given
    if given is not None and not isinstance(given, type):
        raise ModelError(f"label_term is {given!r}: wanted the class of the label term")
    if is_ours(name):
        # Of ours only: a file that names code to import could run any.
        kind = getattr(import_module(module), class_name, None)
    elif given is None:
        raise ModelError(
            f"{file} was fitted with a label term of your own, {name}: give its class as label_term"
            f" (of the verb predict: --label-term {name})"
        )
    if not (isinstance(kind, type) and issubclass(kind, LabelTerm)):
        raise ModelError(f"{file}: {name} is no label term")
    if given is not None and kind is given and kind.__qualname__ != class_name:
        raise ModelError(f"{file} was fitted with {name}, and label_term is {kind.__qualname__}")
    parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in about["parameters"].items()}
    return kind(**parameters)
