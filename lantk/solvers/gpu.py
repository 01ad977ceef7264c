"""Kernel regression solves on a GPU, by PyTorch: one LU factorization for every label weight.

A GPU factors n = 10,000 in some tens of milliseconds, less than the steps that `path.solve_path`
saves on a CPU, so nothing cleverer is done here. The systems, the refinement, the residuals and the
errors are those of `direct` and `path`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, onenormest
from torch import Tensor

from lantk.solvers.additions import Addition, Dense, Diagonal, Nothing
from lantk.solvers.direct import (
    RCOND_MIN,
    SolveError,
    check_gram,
    count_negative_blocks,
    singular_error,
)
from lantk.solvers.path import PathSolution


class DeviceSolver:
    """A train Gram matrix K on a device, and solves with K + lambda Z there.

    Parameters
    ----------
    gram : (n, n) array
        Symmetric (not changed). It is kept in its own precision, and factored in float64.
    device : str
        What PyTorch calls the device, such as ``"cuda"``.

    Raises
    ------
    SolveError
        As `GramFactor` does; for singular matrices from `solve` and `solve_path`.

    Notes
    -----
    Memory of the device: K, Z, and two float64 matrices.
    """

    def __init__(self, gram: NDArray, device: str) -> None:
        check_gram(gram)
        self._host = gram
        self._k = torch.tensor(np.asarray(gram), device=device)

    def solve(self, rhs: NDArray) -> NDArray:
        """Return x with ``gram @ x = rhs``, refined once; `rhs` is (n,) or (n, k)."""
        columns = np.asarray(rhs, np.float64).reshape(len(rhs), -1)
        return self._solve(Nothing(), 0.0, columns).reshape(rhs.shape)

    def solve_path(
        self,
        terms: Sequence[Addition],
        factors: Sequence[NDArray],
        y: NDArray,
        solved: Callable[[], None] = lambda: None,
    ) -> PathSolution:
        """Solve (K + lambda Z) x = y for several Z and paths, as `path.solve_path` does."""
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        dual = np.empty((len(terms), len(factors[0]), *columns.shape))
        residuals = np.empty(dual.shape[:2])
        for d, (z, path) in enumerate(zip(terms, factors, strict=True)):
            # One at a time: a device has room for few matrices.
            on_device = self._move(z)
            for i, factor in enumerate(path):
                dual[d, i] = self._solve(on_device, float(factor), columns)
                x = torch.tensor(dual[d, i], device=self._k.device)
                missing = columns - self._multiply(on_device, float(factor), x).cpu().numpy()
                residuals[d, i] = np.linalg.norm(missing) / np.linalg.norm(columns)
                solved()
        none = np.zeros(len(terms), int)
        unknown = np.full(dual.shape[:2], -1)
        return PathSolution(
            dual, residuals, none, none + len(factors[0]), unknown, np.zeros_like(unknown)
        )

    def count_negative(self, z: Addition, factor: float) -> int:
        """Return how many eigenvalues of K + factor Z are negative."""
        matrix = self._combine(self._move(z), factor)
        factors, pivots, _ = torch.linalg.ldl_factor_ex(matrix)
        found = torch.diagonal(factors).cpu().numpy(), pivots.cpu().numpy()
        return count_negative_blocks(*found)

    def _move(self, z: Addition) -> Addition:
        """Return an addition on the device: its train values are a tensor there."""
        if isinstance(z, Diagonal):
            return Diagonal(torch.tensor(z.values, device=self._k.device))
        if isinstance(z, Dense):
            return Dense(torch.tensor(z.train, device=self._k.device))
        return z

    def _solve(self, z: Addition, factor: float, rhs: NDArray) -> NDArray:
        matrix = self._combine(z, factor)
        norm = float(torch.linalg.matrix_norm(matrix, 1))
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        del matrix
        self._check_condition(lu, pivots, norm, has_addition=factor != 0)
        b = torch.tensor(rhs, device=self._k.device)
        x = torch.linalg.lu_solve(lu, pivots, b)
        x += torch.linalg.lu_solve(lu, pivots, b - self._multiply(z, factor, x))
        return x.cpu().numpy()

    def _combine(self, z: Addition, factor: float) -> Tensor:
        """Return K + factor Z in float64, for a Z on the device."""
        matrix = self._k.double()
        if isinstance(z, Diagonal):
            matrix = matrix.add(torch.diag(z.values), alpha=factor)
        elif isinstance(z, Dense):
            matrix = matrix.add(z.train, alpha=factor)
        return matrix

    def _multiply(self, z: Addition, factor: float, x: Tensor) -> Tensor:
        product = _multiply(self._k, x)
        if isinstance(z, Diagonal):
            product += factor * z.values[:, None] * x
        elif isinstance(z, Dense):
            product += factor * _multiply(z.train, x)
        return product

    def _check_condition(
        self, lu: Tensor, pivots: Tensor, norm: float, *, has_addition: bool
    ) -> None:
        """Refuse factors of a matrix that is singular to working accuracy."""

        def apply(v: NDArray, *, adjoint: bool = False) -> NDArray:
            b = torch.tensor(v.reshape(len(v), -1), dtype=lu.dtype, device=lu.device)
            return torch.linalg.lu_solve(lu, pivots, b, adjoint=adjoint).cpu().numpy()

        inverse_norm = np.inf
        if bool((torch.diagonal(lu) != 0).all()):
            adjoint = partial(apply, adjoint=True)
            inverse = LinearOperator(
                lu.shape, apply, adjoint, apply, dtype=np.float64, rmatmat=adjoint
            )
            # One column: with more the estimate draws random numbers.
            inverse_norm = float(onenormest(inverse, t=1))
        rcond = 1 / (norm * inverse_norm)
        if not rcond >= RCOND_MIN:
            raise singular_error(rcond, self._host, has_addition)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """Return matrix @ x in float64, with no float64 copy of the whole matrix."""
    return torch.cat([rows.double() @ x for rows in matrix.split(1024)])


def find_device(name: str) -> str | None:
    """Return PyTorch's name of the GPU that `name` means, or None where it means the CPU.

    ``"auto"`` is a GPU where PyTorch finds one.

    Raises
    ------
    SolveError
        If it is ``"cuda"`` and PyTorch finds no GPU.
    """
    if name == "cpu":
        return None
    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise SolveError(
            "device is 'cuda', but PyTorch finds no GPU here: use 'cpu' or 'auto', or install a"
            " build of PyTorch for CUDA"
        )
    return None
