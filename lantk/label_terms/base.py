"""Label terms Z(x, x', D): regression estimates of the label product y y'.

Every estimator shares one contract:

* ``fit(k_train_train, y, x=None, solve=None)`` learns and returns ``self``;
* ``transform(k, x=None)`` returns Z for rows that were not fitted on: `k` is m x n_train, `x`
  their m vectors;
* ``train_block(k_train_train, x=None)`` returns Z on the rows that were fitted on, and
  ``fit_transform`` is fit followed by it.

`fit_together` fits several terms that differ in their labels only, for little more than one.

A fit raises LabelTermError if labels or vectors have another form than asked for, or leave nothing
to learn from, and SolveError or SpectrumError if a matrix cannot be solved with.

`y` is (n,) of -1/+1 or (n, k) one-hot; by hand also (n,) of 0/1 or class numbers. ``needs_x`` says
whether vectors are needed: the flattened images, in the binary task with a constant 1 appended
(`image_vectors`). Test labels have no way in.

Label-free additions to the kernel share the contract, as controls: `Ridge`, `Rbf`, `Laplacian`.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 2.3 and appendix C.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.errors import LantkError, Row
from lantk.kernel.images import check_images
from lantk.label_terms.feature_sets import PairedVectors, Vectors, as_array
from lantk.labels import LabelError, to_targets

Solve = Callable[[NDArray], NDArray]


# Entries (rows x train images) worked on at once: bounds the memory of fit and transform.
_BLOCK_ENTRIES = 100_000


class LabelTermError(LantkError):
    """A label term that cannot be fitted or applied; the message says why."""


class NotFittedError(LabelTermError, AttributeError):
    """A label term that is applied before it was fitted."""


class LabelTerm:
    """What all label terms share; see the module for the contract."""

    needs_x = False
    x_train_: NDArray
    fitted_names: tuple[str, ...] = ()
    """Names of the learned arrays: all that `transform` needs beside the train vectors."""
    shares: Any = None
    """Terms of one class for which this is equal can be fitted by one `fit_all`."""

    def fit(
        self,
        k_train_train: NDArray,
        y: NDArray,
        x: NDArray | None = None,
        solve: Solve | None = None,
    ) -> Self:
        """Learn from the train rows; see the module. A term defines this, or `fit_all`."""
        self.fit_all([self], k_train_train, [y], x, solve)
        return self

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z (m, n_train) for rows that were not fitted on."""
        raise NotImplementedError

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z (n_train, n_train) on the fitted rows."""
        return self.transform(k_train_train, x)

    def fit_transform(
        self, k_train_train: NDArray, y: NDArray, x: NDArray | None = None
    ) -> NDArray:
        """Fit, then return the train block."""
        return self.fit(k_train_train, y, x).train_block(k_train_train, x)

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Fit terms of this class, each to its own labels; see `fit_together`."""
        for term, y in zip(terms, ys, strict=True):
            term.fit(k_train_train, y, x, solve=solve)

    @staticmethod
    def blocks_of(terms: Sequence[Any], k: NDArray, x: Any, *, train: bool) -> list[NDArray]:
        """Return Z of each of several terms of this class; see `blocks_together`."""
        return [t.train_block(k, x) if train else t.transform(k, x) for t in terms]

    def diagnostics(self) -> dict[str, float]:
        """Return numbers about the fit for the record of an evaluation; by default none."""
        return {}

    def weight_unit(self, mean_abs_k: float, k_diagonal: NDArray, mean_abs_z: float) -> float:
        """Return lambda at label weight 1: mean|K| / mean|Z|, both over all of train."""
        return mean_abs_k / mean_abs_z if mean_abs_z else 0.0

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments it was made with, as scikit-learn's `clone` asks for them."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def set_params(self, **params: Any) -> Self:
        """Set arguments that it was made with, as scikit-learn's tools do; return self."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise LabelTermError(
                    f"{type(self).__name__} has no parameter {name!r}: wanted one of"
                    f" {', '.join(known) or 'none'}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({', '.join(arguments)})"

    def fitted(self) -> dict[str, NDArray]:
        """Return the learned arrays by name, to be saved (kilobytes, without train vectors)."""
        return {name: np.asarray(getattr(self, name)) for name in self.fitted_names}

    def restore(self, fitted: dict[str, NDArray], x_train: NDArray | None = None) -> Self:
        """Take learned arrays from `fitted` and the vectors they were fitted on; return self."""
        for name in self.fitted_names:
            setattr(self, name, fitted[name])
        if x_train is not None:
            self.x_train_ = x_train
        return self


class CheckedTerm(LabelTerm):
    """A label term of ours: what it is given by hand is looked at before it is used.

    Kernels, labels and vectors may be lists. Kernels and vectors are finite numbers; labels are
    what `target_columns` takes.
    """

    n_train_: int

    def restore(self, fitted: dict[str, NDArray], x_train: NDArray | None = None) -> Self:
        """As of every label term."""
        vars(self).pop("n_train_", None)
        return super().restore(fitted, x_train)

    def fit(
        self,
        k_train_train: NDArray,
        y: NDArray,
        x: NDArray | None = None,
        solve: Solve | None = None,
    ) -> Self:
        """Learn from the train rows; see the module.

        Raises
        ------
        LabelTermError
            If the kernel is not square, something is no number, or the labels are of another form.
        """
        k = _check_numbers("k_train_train", k_train_train, "x_train")
        n = len(k)
        if k.shape != (n, n):
            raise LabelTermError(
                f"k_train_train has shape {k.shape}: wanted (n, n), train by train"
            )
        targets = target_columns(y, n)
        targets = targets[:, 0] if targets.shape[1] == 1 else targets
        self.fit_all([self], k, [targets], self._check_vectors(x, "x_train"), solve)
        self.n_train_ = n
        return self

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z (m, n_train) for rows that were not fitted on.

        Raises
        ------
        NotFittedError
            If it was not fitted.
        LabelTermError
            If the kernel has other columns than the train rows, or something is no number.
        """
        return self._transform(self._check_rows("k", k, "k"), self._check_vectors(x, "k"))

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z (n_train, n_train) on the fitted rows; errors are those of `transform`."""
        k = self._check_rows("k_train_train", k_train_train, "x_train")
        return self._train_block(k, self._check_vectors(x, "x_train"))

    def _transform(self, k: NDArray, x: NDArray | None) -> NDArray:
        raise NotImplementedError

    def _train_block(self, k_train_train: NDArray, x: NDArray | None) -> NDArray:
        return self._transform(k_train_train, x)

    def _check_rows(self, name: str, k: NDArray, rows: str) -> NDArray:
        needed = [*self.fitted_names, *["x_train_"] * self.needs_x]
        if not all(hasattr(self, learned) for learned in needed):
            raise NotFittedError(
                f"{self!r} is not fitted: call `fit(k_train_train, y)` or `fit_transform` first"
            )
        found = _check_numbers(name, k, rows)
        n_train = getattr(self, "n_train_", found.shape[1])
        if found.shape[1] != n_train:
            raise LabelTermError(
                f"{name} has shape {found.shape}: wanted a column for each of the {n_train} train"
                " rows that it was fitted on"
            )
        return found

    def _check_vectors(self, x: Any, rows: str) -> Any:
        is_given = self.needs_x and x is not None and not isinstance(x, PairedVectors)
        return _check_numbers("x", x, rows) if is_given else x


def fit_together(
    terms: Sequence[LabelTerm],
    k_train_train: NDArray,
    ys: Sequence[NDArray],
    x: Vectors | None = None,
    solve: Solve | None = None,
) -> None:
    """Fit every term to its own labels; what does not depend on the labels is computed once.

    The terms are unfitted, `ys` the labels of each; the rest is as for `LabelTerm.fit`.
    """
    for kind, chosen in _kinds(terms):
        kind.fit_all([terms[i] for i in chosen], k_train_train, [ys[i] for i in chosen], x, solve)


def blocks_together(
    terms: Sequence[LabelTerm], k: NDArray, x: Vectors | None = None, *, train: bool
) -> list[NDArray]:
    """Return Z of every term, on the fitted rows (`train`) or on others."""
    blocks: dict[int, NDArray] = {}
    for kind, chosen in _kinds(terms):
        found = kind.blocks_of([terms[i] for i in chosen], k, x, train=train)
        blocks.update(zip(chosen, found, strict=True))
    return [blocks[i] for i in range(len(terms))]


def _kinds(terms: Sequence[LabelTerm]) -> Iterator[tuple[type[LabelTerm], list[int]]]:
    """Yield each class of terms that can be fitted together, and their positions."""
    keys = [(type(term), term.shares) for term in terms]
    for key in dict.fromkeys(keys):
        yield key[0], [i for i, other in enumerate(keys) if other == key]


def label_product_factors(y: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """Return U (n, m) and signs (m,) with label products ``L = U diag(signs) U^T``.

    Binary labels: ``L = y y^T``. One-hot labels: ``L = 2 Y Y^T - 1 1^T``, which is 1 for the same
    class and -1 otherwise. Errors are those of `target_columns`.
    """
    columns = target_columns(y, n)
    if columns.shape[1] == 1:
        return columns, np.ones(1)
    factors = np.column_stack([np.sqrt(2.0) * columns, np.ones(n)])
    return factors, np.append(np.ones(columns.shape[1]), -1.0)


def target_columns(y: NDArray, n: int) -> NDArray[np.float64]:
    """Return labels (n,) of -1/+1 as one column, one-hot labels as their k columns.

    0/1 and class numbers are taken too, as `labels.to_targets` reads them.

    Raises
    ------
    LabelTermError
        If `y` is none of these.
    """
    try:
        return to_targets(y, n).reshape(n, -1)
    except LabelError as error:
        raise LabelTermError(str(error)) from error


def check_vectors(x: Vectors | None, n: int) -> Any:
    """Return the vectors of n rows, or raise `LabelTermError` if they are missing or others."""
    vectors = None if x is None else as_array(x)
    if vectors is None or vectors.ndim != 2 or len(vectors) != n:
        found = "none" if vectors is None else f"an array of shape {vectors.shape}"
        raise LabelTermError(
            f"this label term needs one vector a row of the kernel: found {found}, wanted"
            f" shape ({n}, d); pass x=image_vectors(images)"
        )
    return x


def _check_numbers(name: str, values: Any, rows: str) -> NDArray:
    """Return an array of finite numbers; `rows` says what its rows are, for messages."""
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise LabelTermError(f"{name} has rows of unequal lengths: wanted a matrix") from error
    if found.dtype.kind not in "biuf" or found.ndim < 2:
        raise LabelTermError(
            f"{name} has shape {found.shape} and holds {found.dtype}: wanted a matrix of numbers, a"
            " row an image"
        )
    if found.dtype.kind != "f":
        found = found.astype(np.float64)
    for i, row in enumerate(found):
        if not np.isfinite(row).all():
            raise LabelTermError(
                f"row {{0.number}} of {name} has a NaN or an infinity: repair or leave out that"
                " image",
                [Row(rows, i)],
            )
    return found


def image_vectors(
    images: ArrayLike, *, append_one: bool = True, layout: str | None = None
) -> NDArray:
    """Return the flattened images, channels first, with a constant 1 appended.

    Parameters
    ----------
    images, layout : array_like, shape (n, channels, height, width), and {"channels_first"}
        As for `lantk.gram`, errors too.
    append_one : bool
        Chen et al. append the 1 in the binary task and not in the ten-class task.

    Returns
    -------
    ndarray, shape (n, d + 1), or (n, d)
        What label terms with ``needs_x`` take as `x`.

    Examples
    --------
    >>> image_vectors(np.zeros((5, 3, 8, 8))).shape
    (5, 193)
    """
    checked = check_images("images", images, layout)
    flat = checked.reshape(len(checked), -1)
    if not append_one:
        return flat
    return np.column_stack([flat, np.ones(len(flat), dtype=flat.dtype)])


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut rows into blocks of at most `_BLOCK_ENTRIES` entries (at least one row)."""
    step = max(1, _BLOCK_ENTRIES // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
