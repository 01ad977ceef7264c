"""What the classifier and the regressor share: options, the fit, scores of other rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lantk.errors import numbering
from lantk.estimators.inputs import (
    EstimatorError,
    GramMaker,
    as_images,
    check_choice,
    check_values,
    grid_of,
    maker_of,
    network_of,
)
from lantk.estimators.model import Model, save_model
from lantk.kernel.architecture import Architecture
from lantk.kernel.gram import DEVICES, DTYPES, KERNELS
from lantk.kernel.grammar import parse_architecture
from lantk.label_terms.base import image_vectors
from lantk.label_terms.controls import Ridge
from lantk.regression import LABEL_WEIGHTS, RIDGES
from lantk.regression.fits import (
    FittedPath,
    Folds,
    Judge,
    Member,
    SolvedPath,
    fit_paths,
    pair_vectors,
    score_together,
    validate,
)
from lantk.regression.protocols import choose_weight
from lantk.scaling import SCALINGS, Scaling, channel_statistics
from lantk.solvers.direct import SingularError
from lantk.solvers.factors import Factor, factorize_kernel, find_solver, with_ridge
from lantk.whitening import check_zca

# Fitted numbers and flags that a model holds.
_KEPT = (
    *("ridge_", "label_weight_", "log_marginal_likelihood_", "n_features_in_"),
    *("feature_names_in_", "_n_axes", "_has_vectors", "_appends_one", "_is_column"),
)
# Parameters that predictions depend on.
_FITTED = ("kernel", "flips", "dtype", "image_shape", "targets")
# Entries of a Gram matrix that predictions hold at once, in whole pairs of rows.
_BLOCK_ENTRIES = 2**25


class KernelEstimator(BaseEstimator):
    """Kernel regression with the exact kernel of a network; see its two subclasses."""

    architecture: Any
    kernel: str
    flips: bool
    intercept: bool
    ridge: Any
    folds: int
    image_shape: Any
    scaling: str | None
    whitening: float | None
    dtype: str | None
    device: str
    threads: int | None
    memory: Any
    random_state: Any

    X_train_: NDArray[Any] | None
    """Train images or vectors, as they were given; None of a precomputed kernel."""
    architecture_: Architecture
    scaling_: Scaling
    _path: FittedPath
    _n_axes: int
    # Whether label terms see a constant 1 behind the pixels.
    _appends_one = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.kernel == "precomputed"
        return tags

    def _fit(
        self,
        X: NDArray,
        targets: NDArray,
        *,
        folds: Callable[[int], Folds],
        judge: Judge,
        label_term: Any = None,
        label_weight: Any = 0.0,
    ) -> tuple[NDArray, Factor]:
        """Fit to checked X and targets (n,) or (n, c); return K and what solved with K + ridge.

        `folds` makes validation folds out of a seed; `judge` is as for `regression.fits.validate`.
        """
        for name in ("X_train_", "dual_", "cv_results_", "label_weight_"):
            if hasattr(self, name):
                delattr(self, name)
        # What predictions depend on is what was fitted, whatever is set later.
        self._fitted = {name: value for name, value in vars(self).items() if name in _FITTED}
        ridges, chooses_ridge = grid_of("ridge", self.ridge, RIDGES)
        weights, chooses_weight = grid_of("label_weight", label_weight, LABEL_WEIGHTS)
        make = None if label_term is None else maker_of(label_term)
        chooses_weight = chooses_weight and make is not None
        if chooses_ridge and chooses_weight:
            raise EstimatorError(
                "label_weight and ridge are both to be chosen, and one is chosen at a time: give a"
                " number for one of them"
            )
        k = self._train_gram(X)
        x = self._train_vectors(make, validates=chooses_ridge or chooses_weight)
        splits = folds(self._seed()) if chooses_ridge or chooses_weight else []
        options = {"right_sides": targets, "targets": {None: targets}, "x": x}

        def validated(member: Member, ridge: float) -> NDArray:
            (found,) = validate(
                k, members=[member], folds=splits, judge=judge, ridge=ridge,
                device=self._solver(), **options,
            )  # fmt: skip
            return found

        def fitted(member: Member, ridge: float) -> tuple[SolvedPath, Factor]:
            solved = with_ridge(k, ridge)
            factor = factorize_kernel(solved, self._solver())
            (path,) = fit_paths(k, members=[member], factor=factor, k_solved=solved, **options)
            return path, factor

        def member_of(grid: NDArray, maker: Any, *, chooses: bool) -> Member:
            return Member(
                "estimator", grid.tolist(), grid.tolist() if chooses else (), maker,
                has_intercept=self.intercept,
            )  # fmt: skip

        ridge = float(ridges[0])
        if make is None and chooses_ridge:
            member, ridge = member_of(ridges, Ridge, chooses=True), 0.0
        else:
            member = member_of(weights, make, chooses=chooses_weight)
            if chooses_ridge:
                # The label weight is fixed, so K + lambda Z is validated anew at each ridge.
                fixed = member_of(weights, make, chooses=True)
                scores = [_score(partial(validated, fixed, value)) for value in ridges]
                ridge = float(ridges[self._choose("ridge", ridges, np.array(scores))])
        try:
            path, factor = fitted(member, ridge)
        except SingularError:
            # Weight 0 is no candidate where K itself is singular.
            others = member.without_zero()
            if others is member:
                raise
            member = others
            path, factor = fitted(member, ridge)
        i = 0
        if member.is_validated.any():
            name = "ridge" if make is None else "label_weight"
            i = self._choose(name, path.weights, validated(member, ridge))
            if make is None:
                ridge = float(path.weights[i])
        self.ridge_ = ridge
        if make is not None:
            self.label_weight_ = float(path.weights[i])
        self._take(path.at(i))
        return k, factor

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to an ``.npz`` file; `lantk.load` reads it.

        It holds the train images, dual coefficients and what the label term learned; no pickle.

        Raises
        ------
        ModelError
            If the name does not end in .npz, or a label term of your own does not name what it
            learned.
        """
        check_is_fitted(self, "dual_")
        save_model(path, self._to_model())

    def _to_model(self) -> Model:
        parameters = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in ("label_term", "memory", "random_state")
        } | self._fitted
        if self.X_train_ is not None:
            # The network that was fitted: of vectors with filters of size 1.
            parameters["architecture"] = self.architecture_.to_list()
        return Model(
            estimator=type(self).__name__,
            parameters=parameters,
            attributes={name: vars(self)[name] for name in _KEPT if name in vars(self)},
            path=self._path,
            images=self.X_train_,
            scaling=self.scaling_,
            classes=getattr(self, "classes_", None),
        )

    def _take_model(self, model: Model) -> None:
        """Take what a model holds, as if it had been fitted here."""
        for name in set(_KEPT) & set(model.attributes):
            setattr(self, name, model.attributes[name])
        if "feature_names_in_" in model.attributes:
            self.feature_names_in_ = np.array(model.attributes["feature_names_in_"], object)
        self._fitted = {name: value for name, value in vars(self).items() if name in _FITTED}
        if model.path.term is not None:
            self.label_term = clone(model.path.term)
        self.X_train_, self.scaling_ = model.images, model.scaling
        if model.images is not None:
            self.architecture_ = parse_architecture(self.architecture)
        if model.classes is not None:
            self.classes_ = model.classes
        self._take(model.path)

    def _choose(self, name: str, values: NDArray, scores: NDArray) -> int:
        """Keep what validation found of each value, and return the position of the best."""
        self.cv_results_ = {f"param_{name}": values, "mean_test_score": scores}
        return choose_weight(values, scores)

    def _take(self, path: FittedPath) -> None:
        """Take what was fitted at one weight, to predict with."""
        if path.term is not None and self.X_train_ is not None and path.term.needs_x:
            # Not what it was fitted on, which may hold products of all pairs.
            path.term.x_train_ = self._vectors(self._images(self.X_train_))
        self._path = path
        self.dual_ = path.dual[0][:, 0] if path.dual.shape[2] == 1 else path.dual[0]
        self.constant_ = None if path.constant is None else path.constant[0]
        self.label_term_ = path.term

    def _scores(self, X: NDArray) -> NDArray[np.float64]:
        """Return the scores of checked X, (m,) or (m, c)."""
        blocks = []
        for rows in self._row_blocks(len(X)):
            with numbering({name: ("X", range(len(X))[rows]) for name in ("x1", "k")}):
                blocks.append(self._scores_of(X[rows]))
        return np.concatenate(blocks)

    def _row_blocks(self, n: int) -> Iterator[slice]:
        step = max(2, _BLOCK_ENTRIES // len(self.dual_) // 2 * 2)
        for start in range(0, n, step):
            yield slice(start, start + step)

    def _scores_of(self, X: NDArray) -> NDArray[np.float64]:
        x = None
        if self.X_train_ is None:
            k = X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
        else:
            images = self._images(self._pixels(X))
            k = self._gram_maker().gram(images, self._images(self.X_train_))
            if self.label_term_ is not None and self.label_term_.needs_x:
                x = self._vectors(images)
        ((scores, _),) = score_together([self._path], k, x)
        return scores[0]

    def _check(self, X: ArrayLike, **options: Any) -> Any:
        """Return X, or X and y, as arrays of finite numbers, and remember or compare features."""
        check_choice("kernel", self.kernel, (*KERNELS, "precomputed"))
        check_choice("scaling", self.scaling, (None, *SCALINGS))
        if self.whitening is not None:
            check_zca(self.whitening, "whitening")
        check_choice("dtype", self.dtype, (None, *DTYPES))
        check_choice("device", self.device, DEVICES)
        for name in ("folds", "threads"):
            value = getattr(self, name)
            is_number = isinstance(value, int | np.integer) and value > (name == "folds")
            if not is_number and not (name == "threads" and value is None):
                wanted = "2 or more" if name == "folds" else "a number of 1 or more, or None"
                raise EstimatorError(f"{name} is {value!r}: wanted {wanted}")
        resets = options.get("reset", True)
        if not resets:
            check_is_fitted(self, "dual_")
            if {getattr(X, "ndim", 0), self._n_axes} == {2, 4}:
                wanted = "rows of a table" if self._n_axes == 2 else "n x channels x height x width"
                raise EstimatorError(
                    f"X has shape {np.shape(X)}: wanted {wanted}, as it was fitted to"  # type: ignore[arg-type]
                )
        checked = validate_data(self, X, allow_nd=True, dtype="numeric", **options)
        if resets:
            self._n_axes = checked[0].ndim
        return checked

    def _train_gram(self, X: NDArray) -> NDArray:
        """Take the train images and return their Gram matrix."""
        if self.kernel == "precomputed":
            if X.ndim != 2 or X.shape[0] != X.shape[1]:
                raise EstimatorError(
                    f"X has shape {X.shape}: wanted a square train Gram matrix, as kernel is"
                    " 'precomputed'"
                )
            if X.dtype not in (np.float32, np.float64):
                X = X.astype(np.float64)
            if not np.allclose(X, X.T, rtol=1e-4, atol=1e-6 * np.abs(X).max()):
                raise EstimatorError(
                    "X is not symmetric: wanted the Gram matrix of the train rows, as kernel is"
                    " 'precomputed'"
                )
            self.X_train_, self.scaling_ = None, Scaling()
            return X
        self.architecture_ = network_of(self.architecture, X, self.image_shape)
        # One pixel with d channels, or an image.
        self._has_vectors = X.ndim == 2 and self.image_shape is None
        self.X_train_ = np.array(self._pixels(X))
        self.scaling_ = self._find_scaling(self.X_train_)
        if self.whitening is not None:
            self.scaling_ = self.scaling_.whitened(self.X_train_, self.whitening)
        with numbering({"x1": ("X", range(len(X)))}):
            return self._gram_maker().gram(self._images(self.X_train_))

    def _pixels(self, X: NDArray) -> NDArray:
        """Return X as unscaled images: of the shape, type and range of the train images."""
        train: Any = getattr(self, "X_train_", None)
        # Of their shape, channels come first however they look.
        is_alike = train is not None and X.shape[1:] == train.shape[1:]
        pixels = as_images(X, train.shape[1:] if is_alike else self._fitted["image_shape"])
        if train is None:
            return pixels
        if pixels.shape[1:] != train.shape[1:]:
            raise EstimatorError(
                f"X has images of shape {pixels.shape[1:]} (channels, height, width): wanted"
                f" {train.shape[1:]}, as of the train images"
            )
        if not self._has_vectors or self.scaling_.pixel_max is not None:
            check_values(pixels, train.dtype, self.scaling_.pixel_max)
        return pixels

    def _find_scaling(self, pixels: NDArray) -> Scaling:
        is_float = pixels.dtype.kind == "f"
        if self.scaling == "standard":
            return Scaling(channel_statistics=channel_statistics(pixels))
        if self.scaling == "range" and pixels.dtype == np.uint8:
            return Scaling(pixel_max=255)
        if not is_float and (not self._has_vectors or self.scaling == "range"):
            wanted = "floats, or uint8" if self.scaling else "floats, or scaling='range' of uint8"
            raise EstimatorError(f"X holds {pixels.dtype}: wanted {wanted}")
        return Scaling()

    def _images(self, pixels: NDArray) -> NDArray:
        """Return unscaled images as the kernel takes them."""
        return self.scaling_.apply(pixels, self._dtype())

    def _dtype(self) -> str:
        return self._fitted["dtype"] or ("float64" if self._has_vectors else "float32")

    def _vectors(self, images: NDArray) -> NDArray:
        return image_vectors(images, append_one=self._appends_one, layout="channels_first")

    def _train_vectors(self, make: Any, *, validates: bool) -> Any:
        """Return the vectors that a label term needs, or None."""
        if make is None or not (term := make()).needs_x:
            return None
        if self.X_train_ is None:
            raise EstimatorError(
                f"the label term {term!r} reads the images, and kernel is 'precomputed': give"
                " images, or a term that reads the kernel alone, such as lantk-kr-v1"
            )
        vectors = self._vectors(self._images(self.X_train_))
        return pair_vectors(term, vectors)[0] if validates else vectors

    def _gram_maker(self) -> GramMaker:
        return GramMaker(
            self.architecture_,
            kernel=self._fitted["kernel"],
            flips=self._fitted["flips"],
            dtype=self._dtype(),
            device=self.device,
            threads=self.threads,
            memory=self.memory,
        )

    def _solver(self) -> str | None:
        return find_solver(self.device)

    def _seed(self) -> int:
        if self.random_state is None:
            return 0
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))


def _score(validated: Callable[[], NDArray]) -> float:
    """Return what validation finds at one ridge, NaN where K + lambda Z is singular at it."""
    try:
        return float(validated()[0])
    except SingularError:
        return float("nan")
