"""Predictions of K + lambda Z along a path of label weights, and their validation inside train.

Several variants that share the factor of K and the features of pairs are predicted together: a
label term and its controls. No function here takes test labels.

References
----------
Chen, He and Su (2020), for the label weight ``r`` in ``lambda = r mean|K| / mean|Z|``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.label_terms.base import LabelTerm, blocks_together, fit_together, label_product_factors
from lantk.label_terms.pair_features import Vectors
from lantk.regression.measures import ClassSums, top_eigenvectors
from lantk.regression.protocols import WeightPath, predicted_labels
from lantk.solvers.path import (
    CholeskyFactor,
    IndefiniteError,
    PathSolution,
    add_label_term,
    apply_term,
    solve_path,
)
from lantk.solvers.products import mean_abs, multiply

if TYPE_CHECKING:
    from lantk.solvers.gpu import DeviceSolver

# The eigenvalues of a matrix cost more than a solve; up to this n the smallest is reported.
_EIGENVALUE_MAX_N = 1000
# Relative residual of the solves on all of train, and in validation, where 1e-5 moves scores by
# some 1e-4 of their own size (measured at n = 8,000) and costs a tenth fewer steps.
_TOLERANCE, _VALIDATION_TOLERANCE = 1e-11, 1e-6

Progress = Callable[[int, int], None]


class ValidationError(LantkError):
    """A validation that cannot be made as asked; the message says what to change."""


@dataclass(frozen=True)
class Member:
    """A variant of a family: what is added to K, and the weights at which it is.

    Attributes
    ----------
    name : str
        Name of the variant.
    weights : sequence of float
        Label weights (of ``cntk-ridge``: ridges) to predict at.
    validated : sequence of float
        Those of `weights` to validate by stratified folds inside train.
    make_term : callable or None
        Returns a fresh, unfitted label term; None for the plain kernel, whose one weight is 0.
    permutation : int or None
        Seed that permutes the labels which the term is fitted to, in each fit anew; the solves
        keep the true ones.
    only_diagonal : bool
        Whether only the diagonal of Z is added, with the lambda of all of Z.
    fitted : LabelTerm or None
        The term fitted on all of train, if it is at hand.
    """

    name: str
    weights: Sequence[float] = (0.0,)
    validated: Sequence[float] = ()
    make_term: Callable[[], LabelTerm] | None = None
    permutation: int | None = None
    only_diagonal: bool = False
    fitted: LabelTerm | None = None
    grid: NDArray = field(init=False)
    """Weights in ascending order."""

    def __post_init__(self) -> None:
        weights = [0.0] if self.make_term is None else sorted(set(self.weights))
        object.__setattr__(self, "grid", np.array(weights, np.float64))

    @property
    def is_validated(self) -> NDArray:
        """Return which weights of the grid are validated, (p,) bool."""
        if self.make_term is None:
            return np.array([len(self.validated) > 0])
        return np.isin(self.grid, self.validated)


@dataclass(frozen=True)
class _Addition:
    """What a member adds to K on some train rows, and on rows that are predicted."""

    z_train: NDArray | None
    z_rows: NDArray | None
    unit: float
    """lambda at weight 1."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """What the label term tells of itself."""


def predict(
    k_train_train: NDArray,
    k_test_train: NDArray,
    y_train: NDArray,
    members: Sequence[Member],
    *,
    x_train: Vectors | None = None,
    x_test: Vectors | None = None,
    diagonal_test: NDArray | None = None,
    folds: int = 5,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[WeightPath]:
    """Return, for every member, the scores of K + lambda Z on the test rows along its path.

    One-hot labels are regressed on as they are. Other targets, low and high, would change no
    prediction: the scores are linear in them, so each class gets (high - low) times its own score
    and low times the sum of all.

    Parameters
    ----------
    k_train_train : (n, n) array
        Train Gram matrix.
    k_test_train : (n_test, n) array
        Test x train Gram matrix.
    y_train : (n,) array of -1/+1, or (n, k) one-hot
        Train labels. No argument takes test labels.
    members : sequence of Member
        Variants to predict.
    x_train, x_test : (n, d), (n_test, d) arrays or PairedVectors
        Vectors, for label terms that need them.
    diagonal_test : (n_test,) array
        K(x, x) of the test images, for the relative ratio between test and train images.
    folds, seed : int
        Number of validation folds, and the seed that shuffles them.
    device : str or None
        What PyTorch calls the GPU that solves; None stands for the CPU.
    progress : callable
        Called with (solves done, solves in all).

    Raises
    ------
    SolveError, LabelTermError
        If a matrix is singular or a label term cannot be fitted.
    ValidationError
        If a class has fewer train images than folds.
    """
    y = np.asarray(y_train, dtype=np.float64)
    checked = [member.is_validated for member in members]
    n_folds = folds if any(c.any() for c in checked) else 0
    total = sum(len(m.grid) + int(c.sum()) * n_folds for m, c in zip(members, checked, strict=True))
    tick = _counter(progress, total)
    splits = validation_folds(y, n_folds, seed) if n_folds else []

    factor = _factor(k_train_train, device)
    additions = _fit(members, k_train_train, k_test_train, y, (x_train, x_test), factor, part=0)
    paths = _solve_members(
        k_train_train, k_test_train, y.reshape(len(y), -1), members, additions, factor,
        grids=[m.grid for m in members], tolerance=_TOLERANCE, tick=tick,
    )  # fmt: skip
    results = [
        _describe(k_train_train, k_test_train, y, diagonal_test, addition, member.grid, path)
        for addition, member, path in zip(additions, members, paths, strict=True)
    ]
    del additions, factor
    # Last, so that a singular matrix is reported with the row numbers of the whole train set.
    if n_folds:
        accuracies = _validate(k_train_train, y, x_train, members, splits, device, tick)
        for path, mask, accuracy in zip(results, checked, accuracies, strict=True):
            path.validation_accuracy[mask] = accuracy
    return results


def validation_folds(
    y: NDArray[Any], folds: int, seed: int = 0
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return stratified folds inside train: for each, the rows to fit and those held out.

    Parameters
    ----------
    y : (n,) array of -1/+1, or (n, k) one-hot
        Train labels.
    folds, seed : int
        Number of folds, and the seed that shuffles them.

    Raises
    ------
    ValidationError
        If a class has fewer train images than folds.
    """
    # Imported here: scikit-learn takes seconds to load, and the oracle protocol does not need it.
    from sklearn.model_selection import StratifiedKFold

    counts = [np.sum(y == 1), np.sum(y == -1)] if y.ndim == 1 else y.sum(axis=0)
    smallest = int(min(counts))
    if smallest < folds:
        raise ValidationError(
            f"{folds} folds need at least {folds} train images of each class, found {smallest}:"
            " lower `folds` or raise `n_train`"
        )
    classes = y if y.ndim == 1 else y.argmax(axis=1)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(y)), classes))


def _validate(
    k: NDArray,
    y: NDArray,
    x: Vectors | None,
    members: Sequence[Member],
    splits: Sequence[tuple[NDArray, NDArray]],
    device: str | None,
    tick: Callable[[], None],
) -> list[NDArray]:
    """Return each member's accuracy at its validated weights, over stratified folds."""
    grids = [member.grid[member.is_validated] for member in members]
    n_correct = [np.zeros(len(grid)) for grid in grids]
    classes = y if y.ndim == 1 else y.argmax(axis=1)
    for part, (fit, held) in enumerate(splits, start=1):
        k_fit, k_held = (np.asarray(k[np.ix_(rows, fit)]) for rows in (fit, held))
        vectors = (None, None) if x is None else (x[fit], x[held])
        factor = _factor(k_fit, device)
        additions = _fit(members, k_fit, k_held, y[fit], vectors, factor, part=part)
        paths = _solve_members(
            k_fit, k_held, y[fit].reshape(len(fit), -1), members, additions, factor,
            grids=grids, tolerance=_VALIDATION_TOLERANCE, tick=tick,
        )  # fmt: skip
        for correct, (_, scores, _) in zip(n_correct, paths, strict=True):
            correct += (predicted_labels(scores) == classes[held]).sum(axis=1)
    return [correct / len(y) for correct in n_correct]


def _fit(
    members: Sequence[Member],
    k_train: NDArray,
    k_rows: NDArray,
    y: NDArray,
    vectors: tuple[Vectors | None, Vectors | None],
    factor: CholeskyFactor | DeviceSolver | None,
    *,
    part: int,
) -> list[_Addition]:
    """Fit every term on some train rows and return what each member adds there and on `k_rows`.

    Members that differ only in what of Z they add share one fit. `part` numbers the train sets: 0
    is all of train, and only there a term may have been fitted before.
    """
    keys = [_term_key(member) for member in members]
    owners = {key: m for key, m in zip(keys, members, strict=True) if key is not None}
    terms: dict[Any, LabelTerm] = {}
    unfitted = []
    for key, member in owners.items():
        if part == 0 and member.fitted is not None:
            terms[key] = member.fitted
        elif member.make_term is not None:
            terms[key] = member.make_term()
            unfitted.append(key)
    x_train, x_rows = vectors
    fit_together(
        [terms[key] for key in unfitted],
        k_train,
        [permuted(y, owners[key].permutation, part) for key in unfitted],
        x_train,
        factor.solve if factor is not None else None,
    )
    blocks = {}
    for train, rows, x in ((True, k_train, x_train), (False, k_rows, x_rows)):
        found = blocks_together(list(terms.values()), rows, x, train=train)
        blocks[train] = dict(zip(terms, found, strict=True))
    mean_abs_k, diagonal = mean_abs(k_train), np.diag(k_train)
    units = {
        key: term.weight_unit(mean_abs_k, diagonal, mean_abs(blocks[True][key]))
        for key, term in terms.items()
    }
    additions = []
    for key, member in zip(keys, members, strict=True):
        if key is None:
            additions.append(_Addition(None, None, 0.0))
            continue
        z_train, z_rows = blocks[True][key], blocks[False][key]
        if member.only_diagonal:
            z_train = np.diag(z_train).astype(np.float64)
        # What is diagonal on train rows adds nothing between train rows and others.
        is_dense = z_train.ndim == 2
        additions.append(
            _Addition(
                np.asarray(z_train, np.float32) if is_dense else z_train,
                np.asarray(z_rows, np.float32) if is_dense else None,
                units[key],
                terms[key].diagnostics(),
            )
        )
    return additions


def _term_key(member: Member) -> Any:
    """Return what two members must share to share a fitted term; None for the plain kernel."""
    return None if member.make_term is None else (member.make_term, member.permutation)


def permuted(y: NDArray, permutation: int | None, part: int) -> NDArray:
    """Return the labels that a control is fitted to on train set `part`: permuted, or as they are.

    The same seed permutes each train set another way.
    """
    return y if permutation is None else np.random.default_rng([permutation, part]).permutation(y)


def _solve_members(
    k_train: NDArray,
    k_rows: NDArray,
    right_sides: NDArray,
    members: Sequence[Member],
    additions: Sequence[_Addition],
    factor: CholeskyFactor | DeviceSolver | None,
    *,
    grids: Sequence[NDArray],
    tolerance: float,
    tick: Callable[[], None],
) -> list[tuple[NDArray, NDArray, PathSolution]]:
    """Return, for each member, lambda, the scores on `k_rows` (p, m[, c]) and the solution."""
    results: dict[int, tuple[NDArray, NDArray, PathSolution]] = {}
    for length in {len(grid) for grid in grids}:
        chosen = [i for i, grid in enumerate(grids) if len(grid) == length]
        factors = [grids[i] * additions[i].unit for i in chosen]
        terms = [additions[i].z_train for i in chosen]
        if length == 0:
            solution = PathSolution(
                np.empty((len(chosen), 0, *right_sides.shape)), np.empty((len(chosen), 0)),
                np.zeros(len(chosen), int), np.zeros(len(chosen), int),
            )  # fmt: skip
        elif factor is None or isinstance(factor, CholeskyFactor):
            solution = solve_path(
                k_train, terms, factors, right_sides,
                cholesky=factor, tolerance=tolerance, solved=tick,
            )  # fmt: skip
        else:
            solution = factor.solve_path(terms, factors, right_sides, solved=tick)
        for d, i in enumerate(chosen):
            own = PathSolution(*(values[d] for values in solution))
            scores = _scores(k_rows, additions[i].z_rows, own.dual, factors[d])
            results[i] = factors[d], scores, own
    return [results[i] for i in range(len(members))]


def _scores(k_rows: NDArray, z_rows: NDArray | None, dual: NDArray, factors: NDArray) -> NDArray:
    """Return the scores (p, m), or (p, m, c) for c > 1, of dual coefficients (p, n, c)."""
    p, n, c = dual.shape
    flat = dual.transpose(1, 0, 2).reshape(n, p * c)
    scores = multiply(k_rows, flat)
    if z_rows is not None:
        scores += multiply(z_rows, flat) * np.repeat(factors, c)
    scores = scores.reshape(-1, p, c).transpose(1, 0, 2)
    return scores[..., 0] if c == 1 else scores


def _factor(k: NDArray, device: str | None) -> CholeskyFactor | DeviceSolver | None:
    """Return what solves with K: on a CPU its Cholesky factor, or None if rounding forbids one.

    Each weight is then solved by an LU factorization of its own, which the record counts.
    """
    if device is not None:
        # Imported here: PyTorch takes a second to load, and only GPUs need it.
        from lantk.solvers.gpu import DeviceSolver

        return DeviceSolver(k, device)
    try:
        return CholeskyFactor(k)
    except IndefiniteError:
        return None


def _describe(
    k: NDArray,
    k_test: NDArray,
    y: NDArray,
    diagonal_test: NDArray | None,
    addition: _Addition,
    grid: NDArray,
    path: tuple[NDArray, NDArray, PathSolution],
) -> WeightPath:
    """Return a path with what is known of its matrices, not yet validated."""
    factors, scores, solution = path
    z = addition.z_train
    labels, signs = label_product_factors(y, len(y))
    mean_abs_k, moments = _moments(k, z, labels, signs)
    diagnostics = {
        "mean_abs_k": mean_abs_k,
        "lanczos_steps": int(solution.n_steps),
        "factorizations": int(solution.n_factorizations),
        "alignment_k": _alignment(moments, 0.0, len(y)),
    }
    if z is not None and z.ndim == 2:
        diagnostics |= {
            "mean_abs_z": mean_abs(z),
            "mean_z_diagonal": float(np.diag(z).mean(dtype=np.float64)),
            "sign_agreement": _sign_agreement(z, labels, signs),
            "alignment_z": _alignment(moments, np.inf, len(y)),
        }
    if z is None or z.ndim == 1:
        largest, shares = top_eigenvectors(k, y)
        diagnostics |= {"top10_trace_share": float(largest.sum())}
        diagnostics |= {"top10_label_share": float(shares.sum())}
    diagnostics |= addition.diagnostics
    eigenvalues = [_smallest_eigenvalue(k, z, factor) for factor in factors]
    classes = y if y.ndim == 1 else y.argmax(axis=1)
    ratios = [
        float("nan") if sums is None else sums.ratio(classes).value
        for sums in _class_sums(k, z, k, z, classes, None, factors)
    ]
    on_test = None
    if diagonal_test is not None:
        on_test = _class_sums(k_test, addition.z_rows, k, z, classes, diagonal_test, factors)
    return WeightPath(
        grid,
        factors,
        scores,
        solution.relative_residuals,
        np.array(eigenvalues),
        np.full(len(grid), np.nan),
        np.array([_alignment(moments, factor, len(y)) for factor in factors]),
        y.reshape(len(y), -1).T @ solution.dual[0] if z is None else None,
        diagnostics,
        np.array(ratios),
        on_test,
    )


def _class_sums(
    k_rows: NDArray,
    z_rows: NDArray | None,
    k: NDArray,
    z: NDArray | None,
    classes: NDArray,
    diagonal_rows: NDArray | None,
    factors: NDArray,
) -> list[ClassSums | None]:
    """Return, for each lambda, the class sums of K + lambda Z between rows and train images.

    Rows without a diagonal of their own are the train images. A Z that is diagonal is left out: a
    ridge makes no two images more alike. None stands where K + lambda Z is not positive on the
    diagonal, so that it cannot be normalised.
    """
    is_dense = z is not None and z.ndim == 2
    own = np.diag(k).astype(np.float64)
    added = np.zeros(len(k)) if z is None or z.ndim == 1 else np.diag(z).astype(np.float64)
    columns = own + factors[:, None] * added
    are_legal: NDArray = np.all(columns > 0, axis=1)
    names, counts = np.unique(classes, return_counts=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = (classes == names[:, None]) / np.sqrt(columns)[:, None]
    weights[~are_legal] = 0
    # One product for all lambda: what it costs is reading K and Z.
    flat = weights.reshape(-1, len(k)).T
    sums = multiply(k_rows, flat).reshape(len(k_rows), len(factors), -1)
    if is_dense and z_rows is not None:
        sums += factors[:, None] * multiply(z_rows, flat).reshape(sums.shape)
    rows = (
        columns
        if diagonal_rows is None
        else np.broadcast_to(diagonal_rows, (len(factors), len(k_rows)))
    )
    return [
        ClassSums(sums[:, i] / np.sqrt(rows[i])[:, None], names, counts) if legal else None
        for i, legal in enumerate(are_legal)
    ]


def _moments(
    k: NDArray, z: NDArray | None, labels: NDArray, signs: NDArray
) -> tuple[float, NDArray]:
    """Return mean|K|, and <K,L>, <Z,L>, <K,K>, <K,Z>, <Z,Z>, L being the label product."""
    sums = np.zeros(5)
    for vector, sign in zip(labels.T, signs, strict=True):
        sums[0] += sign * vector @ multiply(k, vector)
        if z is not None:
            sums[1] += sign * vector @ apply_term(z, vector[:, None])[:, 0]
    total = 0.0
    for i, row in enumerate(k):
        own = np.asarray(row, np.float64)
        total += float(np.abs(own).sum())
        sums[2] += own @ own
        if z is not None and z.ndim == 2:
            other = np.asarray(z[i], np.float64)
            sums[3] += own @ other
            sums[4] += other @ other
        elif z is not None:
            sums[3] += own[i] * z[i]
            sums[4] += z[i] ** 2
    return total / k.size, sums


def _alignment(moments: NDArray, factor: float, n: int) -> float:
    """Return <K + factor Z, L> / (|K + factor Z| |L|), of Z alone for an infinite factor.

    Cristianini et al., "On kernel-target alignment", 2001, equation 2; all labels products are
    -1 or +1, so |L| = n.
    """
    k_l, z_l, k_k, k_z, z_z = moments
    if np.isinf(factor):
        return float(z_l / (n * np.sqrt(z_z))) if z_z else 0.0
    norm = np.sqrt(max(k_k + 2 * factor * k_z + factor**2 * z_z, 0.0))
    return float((k_l + factor * z_l) / (n * norm)) if norm else 0.0


def _sign_agreement(z: NDArray, labels: NDArray, signs: NDArray) -> float:
    """Return the share of train entries where Z has the sign of the label product."""
    # Row by row, so that no n x n label product is formed.
    signed = labels * signs
    rows = zip(z, signed, strict=True)
    return float(np.mean([np.mean((row >= 0) == (labels @ own >= 0)) for row, own in rows]))


def _smallest_eigenvalue(k_train_train: NDArray, z_train: NDArray | None, factor: float) -> float:
    """Return the smallest eigenvalue of K + factor Z, or NaN above n = 1,000."""
    if len(k_train_train) > _EIGENVALUE_MAX_N:
        return np.nan
    return float(np.linalg.eigvalsh(add_label_term(k_train_train, z_train, factor))[0])


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick
