"""The exact kernel as scikit-learn's Gaussian processes and support vector machines take one."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.gaussian_process.kernels import Kernel

from lantk.errors import numbering
from lantk.estimators.inputs import EstimatorError, GramMaker, as_images, check_choice, network_of
from lantk.kernel.gram import DEVICES, DTYPES, KERNELS


class CNTK(Kernel):
    """The exact kernel of a network, with scikit-learn's interface of kernels; float64.

    It has no hyperparameters that could be optimised. Gaussian processes and support vector
    machines take it, alone and in sums and products; `KernelRidge` calls kernels of its own row by
    row, so there give ``kernel="precomputed"`` and what this returns.

    Its scale is that of the network, not 1: K(x, x) of an image in [-1, 1] may be 0.01. So give a
    support vector machine ``normalize=True`` (or a C to match), and a Gaussian process an amplitude
    to fit, ``ConstantKernel() * CNTK(...) + WhiteKernel()``.

    Parameters
    ----------
    architecture : str, list or Architecture
        As for `lantk.gram`.
    image_shape : (channels, height, width), optional
        Of the images whose pixels the rows of X hold. Without it rows are vectors, and the network
        the fully connected one of the same depth.
    kernel : {"ntk", "nngp"}
        The neural tangent kernel, or the covariance of the network's outputs at initialisation.
    normalize : bool
        Whether to divide by sqrt(K(x, x) K(x', x')).
    flips, device, threads
        As for `lantk.gram`.
    dtype : {"float32", "float64"}
        What it is computed in; the result is float64.
    memory : str or joblib.Memory, optional
        Folder that keeps Gram matrices, so that none of the same images is computed twice.

    Raises
    ------
    LantkError
        A ValueError: if a parameter or X cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
    >>> x = np.linspace(0, 1, 6)[:, None] + [[0, 1]]
    >>> kernel = ConstantKernel() * CNTK(kernel="nngp") + WhiteKernel(1e-4)
    >>> model = GaussianProcessRegressor(kernel, optimizer=None).fit(x, x[:, 0])
    >>> model.predict(x[:2]).shape
    (2,)
    """

    def __init__(
        self,
        architecture: Any = "chen2020",
        *,
        image_shape: tuple[int, int, int] | None = None,
        kernel: str = "ntk",
        normalize: bool = False,
        flips: bool = False,
        dtype: str = "float64",
        device: str = "auto",
        threads: int | None = None,
        memory: Any = None,
    ) -> None:
        self.architecture = architecture
        self.image_shape = image_shape
        self.kernel = kernel
        self.normalize = normalize
        self.flips = flips
        self.dtype = dtype
        self.device = device
        self.threads = threads
        self.memory = memory

    def __call__(
        self, X: ArrayLike, Y: ArrayLike | None = None, eval_gradient: bool = False
    ) -> Any:
        """Return K(X, Y), (n, m); with `eval_gradient` also the empty gradient, (n, n, 0).

        X and Y are (n, d) and (m, d); Y=None stands for X.
        """
        if eval_gradient and Y is not None:
            raise EstimatorError("a gradient is there for X alone: leave Y out")
        rows, maker = self._images("X", X)
        columns = None if Y is None else self._images("Y", Y)[0]
        names = {"x1": ("X", range(len(rows)))}
        if columns is not None:
            names["x2"] = ("Y", range(len(columns)))
        with numbering(names):
            k = np.array(maker.gram(rows, columns), np.float64)
        if self.normalize:
            left = np.sqrt(np.diag(k) if columns is None else maker.diagonal(rows))
            k /= left[:, None]
            k /= left if columns is None else np.sqrt(maker.diagonal(columns))
        return (k, np.empty((*k.shape, 0))) if eval_gradient else k

    def diag(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return K(x, x) of each row, (n,)."""
        images, maker = self._images("X", X)
        return np.ones(len(images)) if self.normalize else maker.diagonal(images).astype(np.float64)

    def is_stationary(self) -> bool:
        """Return False: it depends on more than X - Y."""
        return False

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in signature(CNTK).parameters.items()}
        own = {name: value for name, value in self.get_params().items() if value != defaults[name]}
        return f"CNTK({', '.join(f'{name}={value!r}' for name, value in own.items())})"

    def _images(self, name: str, X: ArrayLike) -> tuple[NDArray[Any], GramMaker]:
        check_choice("kernel", self.kernel, KERNELS)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("device", self.device, DEVICES)
        rows = np.asarray(X)
        if rows.dtype == np.uint8 and self.image_shape is not None:
            raise EstimatorError(
                f"{name} holds uint8: wanted floats, so scale first (by x / 127.5 - 1)"
            )
        rows = rows.astype(self.dtype, copy=False)
        maker = GramMaker(
            network_of(self.architecture, rows, self.image_shape),
            kernel=self.kernel,
            flips=self.flips,
            dtype=self.dtype,
            device=self.device,
            threads=self.threads,
            memory=self.memory,
        )
        return as_images(rows, self.image_shape, name), maker
