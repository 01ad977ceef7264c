"""Classification by kernel regression on -1/+1, with a label term or without."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from lantk.estimators.base import KernelEstimator
from lantk.estimators.inputs import EstimatorError
from lantk.labels import Classes, as_targets, count_outputs, decide
from lantk.regression.fits import count_right
from lantk.regression.folds import validation_folds


class KernelClassifier(ClassifierMixin, KernelEstimator):
    """Classifier by kernel regression with the exact kernel of a network, label-aware if asked.

    The scores f(x) = sum_i alpha_i (K + lambda Z)(x, x_i) solve (K + ridge + lambda Z) alpha = y on
    the train rows; of two classes y is -1 and +1, of k classes each has its own f. Parameters are
    keywords.

    Parameters
    ----------
    architecture : str, list or Architecture
        As for `lantk.gram`. Vectors take the fully connected network of the same depth.
    kernel : {"ntk", "nngp", "precomputed"}
        The kernel; ``"precomputed"`` has X as Gram matrices, train by train and rows by train.
    label_term : str, LabelTerm or class, optional
        Z: a name such as ``"lantk-kr-v1"``, one of your own as ``"module:Class"``, a `LabelTerm`
        or a subclass of it. None adds no Z.
    label_weight : "cv", float or list of float
        r in lambda = r mean|K| / mean|Z|, or what validation chooses among; ``"cv"`` is among
        the workflow's label weights.
    ridge : float, "cv" or list of float
        Ridge, times the mean diagonal of the train Gram matrix, or what validation chooses among;
        ``"cv"`` is among 0 and 1e-4 to 100. 0 is the paper's, and is refused where K is singular.
    intercept : bool
        Whether an unpenalised constant stands beside the kernel.
    flips : bool
        Whether the kernel is the mean over images and their mirror images.
    folds : int
        Stratified validation folds.
    targets : (float, float)
        What the outputs of several classes are regressed on, low and high. It changes scores, and
        no prediction; two classes have -1 and +1.
    image_shape : (channels, height, width), optional
        Of the images whose pixels the rows of a two-dimensional X hold. Without it they are
        vectors.
    scaling : {"range", "standard"}, optional
        ``"range"`` takes bytes to [-1, 1] and leaves floats; ``"standard"`` gives each channel
        (feature) of the train images mean 0 and deviation 1. None takes floats as they are.
    whitening : float, optional
        Whitens the scaled images by ZCA, learned from the train images and their mirror images:
        the regulariser, times the mean eigenvalue of their pixels' covariance, such as 0.1.
    dtype : {"float32", "float64"}, optional
        Of the kernel; by default float32 for images and float64 for vectors. Solves are float64.
    device : {"auto", "cpu", "cuda"}
        Where kernels are computed and systems solved.
    threads : int, optional
        CPU threads of the kernel, by default all.
    memory : str or joblib.Memory, optional
        Folder that keeps Gram matrices, so that none of the same images is computed twice.
    random_state : int, RandomState or None
        Shuffles validation folds; None is 0, as in the workflow.

    Attributes
    ----------
    classes_ : (k,) array
        Names of the classes, ascending.
    dual_ : (n,) or (n, k) array
        alpha.
    label_weight_, ridge_ : float
        As given or chosen.
    cv_results_ : dict
        Where validation chose: ``param_ridge`` or ``param_label_weight``, and ``mean_test_score``,
        the accuracy over the folds.
    label_term_ : LabelTerm or None
        The fitted Z.

    Raises
    ------
    LantkError
        A ValueError: if a parameter, X or y cannot be used, or K is singular; it says what to turn.

    Notes
    -----
    A fit computes n (n + 1) / 2 kernel entries, once, and factors K (n^3 / 3); validation factors
    each fold's K anew. Ties go to the smaller ridge or weight. The numbers are those of the
    workflow's evaluations. There is no ``predict_proba``: scores are no probabilities.

    References
    ----------
    Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(20, 1, 6, 6))
    >>> y = np.where(x[:, 0, 2, 2] > 0, "bright", "dark")
    >>> model = KernelClassifier(label_term="lantk-kr-v1", folds=3).fit(x, y)
    >>> model.predict(x[:3]).tolist() == y[:3].tolist()
    True
    """

    def __init__(
        self,
        *,
        architecture: Any = "chen2020",
        kernel: str = "ntk",
        label_term: Any = None,
        label_weight: Any = "cv",
        ridge: Any = 1e-6,
        intercept: bool = False,
        flips: bool = False,
        folds: int = 5,
        targets: tuple[float, float] = (0, 1),
        image_shape: tuple[int, int, int] | None = None,
        scaling: str | None = None,
        whitening: float | None = None,
        dtype: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        memory: Any = None,
        random_state: Any = None,
    ) -> None:
        self.architecture = architecture
        self.kernel = kernel
        self.label_term = label_term
        self.label_weight = label_weight
        self.ridge = ridge
        self.intercept = intercept
        self.flips = flips
        self.folds = folds
        self.targets = targets
        self.image_shape = image_shape
        self.scaling = scaling
        self.whitening = whitening
        self.dtype = dtype
        self.device = device
        self.threads = threads
        self.memory = memory
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to train images and their classes.

        Parameters
        ----------
        X : (n, channels, height, width) or (n, d) array
            Images, flattened images or vectors; (n, n) of a precomputed kernel.
        y : (n,) array
            Classes: text, numbers, booleans.
        """
        checked, y = self._check(X, y=y)
        named = column_or_1d(y, warn=True)
        check_classification_targets(named)
        ends = np.ravel(self.targets)
        if ends.shape != (2,) or ends.dtype.kind not in "iuf" or not np.isfinite(ends).all():
            ends = np.zeros(2)
        if not ends[0] < ends[1]:
            raise EstimatorError(f"targets is {self.targets!r}: wanted a low and a high number")
        classes = Classes(named)
        if len(classes.names) < 2:
            raise EstimatorError(
                f"y holds one class, {classes.names[0].item()!r}: wanted two classes or more"
            )
        n_outputs = count_outputs(len(classes.names))
        self._appends_one = n_outputs == 1
        targets = as_targets(classes.labels(named), n_outputs).astype(np.float64)
        self._fit(
            checked,
            targets,
            folds=lambda seed: validation_folds(targets, self.folds, seed),
            judge=count_right(targets),
            label_term=self.label_term,
            label_weight=self.label_weight,
        )
        self.classes_ = classes.names
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the scores: (m,) of two classes, positive for the second; else (m, k)."""
        scores = self._scores(self._check(X, reset=False))
        if scores.ndim == 1:
            return scores
        low, high = self._fitted["targets"]
        # Scores are linear in the targets.
        return (high - low) * scores + low * scores.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the predicted classes (m,)."""
        return self.classes_of(self._scores(self._check(X, reset=False)))

    def classes_of(self, scores: NDArray[np.float64]) -> NDArray[Any]:
        """Return the classes (m,) that scores decide, which `decision_function` returned."""
        labels = decide(scores[None])[0]
        return self.classes_[(labels > 0).astype(int) if len(self.classes_) == 2 else labels]
