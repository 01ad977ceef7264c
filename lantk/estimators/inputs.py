"""What estimators take: images, flattened images, vectors; grids; label terms. Gram matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_memory

from lantk import __version__
from lantk.errors import LantkError, shorten
from lantk.kernel.architecture import Architecture
from lantk.kernel.gram import gram, gram_diagonal
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.images import find_shape_fault
from lantk.label_terms.base import LabelTerm
from lantk.label_terms.registry import label_term as named_term
from lantk.label_terms.trial import load_term_class


class EstimatorError(LantkError):
    """A parameter or an X that an estimator cannot use; the message says what to change."""


def as_images(X: NDArray[Any], image_shape: Sequence[int] | None, name: str = "X") -> NDArray[Any]:
    """Return X as images, n x channels x height x width.

    Parameters
    ----------
    X : (n, channels, height, width) or (n, d) array
        Images, flattened images where `image_shape` is given, or vectors, each of which becomes an
        image of one pixel with d channels.
    image_shape : (channels, height, width), optional
        Of one image. Of images it says that their channels come first, however they look.
    name : str
        What messages call X.

    Raises
    ------
    EstimatorError
        If X has other axes, or does not fit `image_shape`.
    """
    shape: tuple[int, ...] | None = None
    if image_shape is not None:
        sides = np.ravel(image_shape)
        if np.shape(image_shape) != (3,) or sides.dtype.kind not in "iu" or sides.min() < 1:
            raise EstimatorError(
                f"image_shape is {image_shape!r}: wanted (channels, height, width)"
            )
        shape = tuple(map(int, sides))
    if X.ndim == 2:
        if shape is None:
            return X[:, :, None, None]
        if X.shape[1] != np.prod(shape):
            raise EstimatorError(
                f"{name} has shape {X.shape}: wanted {np.prod(shape)} columns, as image_shape is"
                f" {shape}"
            )
        return X.reshape(len(X), *shape)
    layout = "channels_first" if shape is not None and X.shape[1:] == shape else None
    overruling = "give image_shape=(channels, height, width)"
    fault = find_shape_fault(name, X.shape, layout, overruling)
    if fault is None and shape is not None and X.shape[1:] != shape:
        fault = f"{name} has images of shape {X.shape[1:]}, and image_shape is {shape}"
    if fault is not None:
        raise EstimatorError(fault)
    return X


def check_values(pixels: NDArray[Any], train_dtype: np.dtype[Any], pixel_max: int | None) -> None:
    """Refuse images that the scaling of the train images would take for others.

    Raises
    ------
    EstimatorError
        If one holds floats and the other whole numbers, or a pixel is above `pixel_max`.
    """
    is_float = train_dtype.kind == "f"
    if (pixels.dtype.kind == "f") != is_float:
        wanted = "floats scaled as those are" if is_float else "bytes that are not scaled"
        raise EstimatorError(
            f"the images hold {pixels.dtype}, and the train images {train_dtype}: wanted {wanted}"
        )
    if pixel_max is not None and pixels.max(initial=0) > pixel_max:
        raise EstimatorError(
            f"the images have pixels up to {pixels.max()}, and those of the train images go from 0"
            f" to {pixel_max}: wanted the same range"
        )


def network_of(architecture: Any, X: NDArray[Any], image_shape: Any) -> Architecture:
    """Return the network for X: of vectors, the fully connected one of the same depth.

    Each convolution of an image of one pixel is a dense layer: a filter of size 1. Pools go.
    """
    network = parse_architecture(architecture)
    if X.ndim != 2 or image_shape is not None:
        return network
    return network.pointwise


class GramMaker:
    """Gram matrices with the options of an estimator; none of the same images is computed twice.

    `memory` is a folder or joblib.Memory to keep them in, or None to keep none.
    """

    def __init__(
        self,
        network: Architecture,
        *,
        kernel: str,
        flips: bool,
        dtype: str,
        device: str,
        threads: int | None,
        memory: Any,
    ) -> None:
        self._architecture = network.to_list()
        # With the version: what another computed may differ.
        self._key = {"kernel": kernel, "flips": flips, "dtype": dtype}, __version__
        # Of what the values do not depend on, nothing enters the key.
        self._cost = {"device": device, "threads": threads, "layout": "channels_first"}
        cache = check_memory(memory)
        self._gram = cache.cache(_gram, ignore=["cost"])
        self._diagonal = cache.cache(_diagonal, ignore=["cost"])

    def gram(self, x1: NDArray[Any], x2: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the Gram matrix of images, as `lantk.gram`."""
        k: NDArray[Any] = self._gram(self._architecture, x1, x2, self._key, self._cost)
        return k

    def diagonal(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return K(x, x) of each image, (n,)."""
        k: NDArray[Any] = self._diagonal(self._architecture, x, self._key, self._cost)
        return k


def _gram(architecture: Any, x1: Any, x2: Any, key: Any, cost: dict[str, Any]) -> NDArray[Any]:
    return gram(architecture, x1, x2, **key[0], **cost)


def _diagonal(architecture: Any, x: Any, key: Any, cost: dict[str, Any]) -> NDArray[Any]:
    return gram_diagonal(architecture, x, **key[0], **cost)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a value of a parameter that is none of the choices."""
    if value not in choices:
        wanted = ", ".join(map(repr, choices[:-1]))
        raise EstimatorError(f"{name} is {value!r}: wanted {wanted} or {choices[-1]!r}")


def grid_of(name: str, value: Any, default: Sequence[float]) -> tuple[NDArray, bool]:
    """Return the values of a parameter, (p,), and whether one is to be chosen among them.

    Raises
    ------
    EstimatorError
        If it is neither ``"cv"``, nor a number, nor a list of numbers, each 0 or more.
    """
    if isinstance(value, str) and value == "cv":
        return np.array(default, np.float64), True
    try:
        # Text such as "0.1" is no number.
        numbers = np.unique(np.asarray(value) + np.zeros(1))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if not numbers.size or not np.isfinite(numbers).all() or numbers[0] < 0:
        raise EstimatorError(
            f"{name} is {shorten(repr(value))}: wanted 'cv', a number of 0 or more, or a list of"
            " such numbers to choose among"
        )
    return numbers, np.ndim(value) > 0


def maker_of(term: Any) -> Callable[[], LabelTerm]:
    """Return what makes an unfitted label term of a name, an estimator or a class."""
    if isinstance(term, str):
        return load_term_class(term) if ":" in term else partial(named_term, term)
    if isinstance(term, type) and issubclass(term, LabelTerm):
        return term
    if isinstance(term, LabelTerm):
        missing = set(signature(type(term)).parameters) - set(term.get_params())
        if missing:
            raise EstimatorError(
                f"{type(term).__name__} does not keep {', '.join(sorted(missing))} under that name,"
                " so no other can be made like it: store each argument as an attribute of its name"
            )
        return partial(clone, term)
    raise EstimatorError(
        f"label_term is {term!r}: wanted a name such as 'lantk-kr-v1', a LabelTerm, a subclass of"
        " LabelTerm, or None"
    )
