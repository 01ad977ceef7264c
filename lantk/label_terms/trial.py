"""Label terms of the user's own, ``module:Class``: found, imported, tried out on a small problem.

Importing a module runs it, and trying out a class runs its methods: the user's own code, by design.
The trial holds it to the contract of `lantk.label_terms.base` before any kernel is computed, and
says what to change where it does not keep it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.label_terms.base import LabelTerm
from lantk.labels import as_targets
from lantk.variant import CONTROLS, Variant

# Method -> how it is called: the arguments that always come, those that may, and its declaration.
_CALLS = {
    "fit": (2, 1, {"solve"}, "fit(self, k_train_train, y, x=None, solve=None)"),
    "transform": (1, 1, set(), "transform(self, k, x=None)"),
    "train_block": (1, 1, set(), "train_block(self, k_train_train, x=None)"),
}
# Z may be float32, and sums run in another order across the diagonal.
_TOLERANCE = 1e-5


class ContractError(LantkError):
    """A label term of the user's own that cannot be used; the message says what to change."""


def load_term_class(name: str) -> type[LabelTerm]:
    """Return the class that ``module:Class`` names, once it has kept the contract in a trial.

    Parameters
    ----------
    name : str
        ``module:Class``, as in ``my_terms:ParzenWindow``. The module is looked for where Python
        looks, then in the working directory. It is imported, so it runs.

    Raises
    ------
    ContractError
        If there is no such module or class, or if it breaks the contract: see `check_contract`.
    """
    module, class_name = _import_module(name), name.partition(":")[2]
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [key for key, value in vars(module).items() if _is_own(value, module)]
        raise ContractError(
            f"{name}: {_origin(module)} has no class {class_name!r}; its label terms:"
            f" {', '.join(classes) or 'none'}. Correct the name after the colon"
        )
    if not issubclass(found, LabelTerm):
        raise ContractError(
            f"{name}: {class_name} does not derive from LabelTerm. Write"
            f" `from lantk.label_terms import LabelTerm` and `class {class_name}(LabelTerm):`"
        )
    for method, (*_, wanted) in _CALLS.items():
        if method != "train_block" and getattr(found, method) is getattr(LabelTerm, method):
            raise ContractError(f"{name}: {class_name} has no `def {wanted}` of its own: write it")
    check_contract(name, found)
    return found


def check_contract(name: str, term_class: type[LabelTerm]) -> None:
    """Try out a label term on a small problem with random vectors; return if it keeps the contract.

    It is fitted to labels -1/+1, and to one-hot labels unless `fit` refuses them with a ValueError
    (of which LabelTermError is one).

    Raises
    ------
    ContractError
        If its constructor needs arguments; a method takes others than the contract's (nothing
        takes test labels) or raises; `fit` does not return ``self``; Z has another shape, is not
        finite, or not symmetric on train; an input is changed; a second fit, or what `restore`
        makes of `fitted`, gives another Z.
    """
    _check_signatures(name, term_class)
    signs = np.where(np.arange(_Trial.n) % 3, 1.0, -1.0)
    _Trial(name, term_class, signs, "labels -1/+1").run()
    one_hot = as_targets(np.arange(_Trial.n) % 3, 3)
    _Trial(name, term_class, one_hot, "one-hot labels").run()


class _Trial:
    """A label term on trial: a random problem, and one form of labels."""

    n = 12

    def __init__(self, name: str, term_class: Any, y: NDArray, labels: str) -> None:
        self.name, self.term_class, self.y, self.labels = name, term_class, y, labels
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.n + 5, 7)).astype(np.float32)
        squares = np.square(x[:, None] - x[None]).sum(axis=-1)
        # float32, as the workflow's Gram matrices are.
        k = np.exp(-squares / 7)
        self.k, self.k_test = k[: self.n, : self.n].copy(), k[self.n :, : self.n].copy()
        self.x: NDArray | None = None
        self.x_test: NDArray | None = None
        self.hint = "; if it needs x, set `needs_x = True`"
        if term_class.needs_x:
            self.x, self.x_test, self.hint = x[: self.n], x[self.n :], ""
        if y.ndim == 2:
            self.hint += "; if it does not take (n, k) one-hot labels, raise LabelTermError in fit"
        self.before = [a.copy() for a in self._inputs().values()]

    def _inputs(self) -> dict[str, NDArray]:
        named = {"y": self.y, "k_train_train": self.k, "k": self.k_test, "x": self.x}
        return {name: a for name, a in named.items() if a is not None}

    def run(self) -> None:
        """Fit, apply, fit again, restore; raise ContractError where the contract is broken."""
        term = self._fit()
        if term is None:
            return
        z = self._apply(term, "", self.hint)
        again = self._apply(self._fit(), " after a second fit", "")
        self._compare(z, again, "a second fit gives", "Seed what is random")
        remedy = "list in `fitted_names` all that `fit` sets and the other methods read"
        again = self._apply(self._restore(term, remedy), " of the restored term", f"; {remedy}")
        self._compare(z, again, "saved by fitted() and restored it gives", remedy.capitalize())

    def _fit(self) -> Any:
        """Return the fitted term, or None where it refuses one-hot labels."""
        term = _make(self.name, self.term_class)
        with _running(self.name, f"with {self.labels}, fit", self.hint):
            try:
                found = term.fit(self.k, self.y, self.x, solve=self._solve)
            except ValueError:
                if self.y.ndim == 2:
                    return None
                raise
        self._check_inputs("fit")
        if found is not term:
            self._refuse(f"fit returned {_describe(found)}", "Wanted the term: `return self`")
        return term

    def _check_inputs(self, method: str) -> None:
        for before, (key, now) in zip(self.before, self._inputs().items(), strict=True):
            if not np.array_equal(before, now):
                self._refuse(f"{method} changes its input {key}", "Work on a copy")

    def _solve(self, right: NDArray) -> NDArray:
        return np.linalg.solve(self.k.astype(np.float64), right)

    def _apply(self, term: Any, when: str, hint: str) -> tuple[NDArray, NDArray]:
        """Return Z on test and on train rows, after a look at both."""
        rows = (("transform", self.k_test, self.x_test), ("train_block", self.k, self.x))
        found = []
        for method, k, x in rows:
            with _running(self.name, f"with {self.labels}, {method}{when}", hint):
                z = getattr(term, method)(k, x)
            self._check_inputs(method)
            if not isinstance(z, np.ndarray) or z.shape != k.shape or z.dtype.kind not in "fiu":
                self._refuse(
                    f"{method} returned {_describe(z)}",
                    f"Wanted real numbers of shape {k.shape}: a row for each row of k, a column for"
                    f" each train image{self.hint}",
                )
            if not np.isfinite(z).all():
                i, j = np.argwhere(~np.isfinite(z))[0]
                self._refuse(f"{method} gives Z[{i}, {j}] = {z[i, j]}", "Look for a division by 0")
            found.append(z)
        z = found[1]
        if not _agree(z, z.T):
            i, j = np.unravel_index(np.argmax(np.abs(z - z.T)), z.shape)
            self._refuse(
                f"on the train rows Z[{i}, {j}] = {z[i, j]:.6g} and Z[{j}, {i}] = {z[j, i]:.6g}",
                "Wanted a symmetric Z there",
            )
        return found[0], found[1]

    def _restore(self, term: Any, remedy: str) -> Any:
        """Return a fresh term that took over what the fitted one saves."""
        with _running(self.name, f"with {self.labels}, fitted", f"; {remedy}"):
            saved = {key: np.asarray(value) for key, value in term.fitted().items()}
        for key, value in saved.items():
            if value.dtype.hasobject:
                self._refuse(
                    f"fitted() gives {key} = {_describe(getattr(term, key, value))}",
                    "Wanted an array of numbers: it is saved in a .npz file",
                )
        fresh = _make(self.name, self.term_class)
        with _running(self.name, f"with {self.labels}, restore", f"; {remedy}"):
            return fresh.restore(saved, self.x)

    def _compare(
        self, z: tuple[NDArray, ...], other: tuple[NDArray, ...], what: str, remedy: str
    ) -> None:
        for a, b in zip(z, other, strict=True):
            if not _agree(a, b):
                self._refuse(f"{what} another Z, by {np.abs(a - b).max():.3g}", remedy)

    def _refuse(self, found: str, remedy: str) -> NoReturn:
        raise ContractError(f"{self.name}: with {self.labels}, {found}. {remedy}")


def _check_signatures(name: str, term_class: type) -> None:
    term = _make(name, term_class)
    for method, (n_always, n_optional, keywords, wanted) in _CALLS.items():
        signature = inspect.signature(getattr(term, method))
        try:
            signature.bind(*range(n_always))
            signature.bind(*range(n_always + n_optional), **dict.fromkeys(keywords))
        except TypeError as error:
            raise ContractError(
                f"{name}: found {method}{signature}: {error}. Wanted {wanted}: no method is given"
                " more, test labels least of all"
            ) from error


def _make(name: str, term_class: type) -> Any:
    try:
        inspect.signature(term_class).bind()
    except TypeError as error:
        raise ContractError(
            f"{name}: its constructor takes {inspect.signature(term_class)}: {error}. A label term"
            " named in the configuration is made without arguments: give each a default, or derive"
            " a class that sets them"
        ) from error
    with _running(name, "its constructor"):
        return term_class()


@contextmanager
def _running(name: str, what: str, remedy: str = "") -> Iterator[None]:
    """Say of an exception in the user's code which part of the trial met it, and where."""
    try:
        yield
    except Exception as error:
        raise ContractError(f"{name}: {what} raised {_tell(error)}{remedy}") from error


def _tell(error: Exception) -> str:
    """Return an exception in words, with the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"


def _import_module(name: str) -> ModuleType:
    module_name = _look_in_working_directory(name)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise _no_module(name, missing) from error
        raise ContractError(f"{name}: importing {module_name} raised {_tell(error)}") from error


def _look_in_working_directory(name: str) -> str:
    """Let modules be found in the working directory too; return the module's name."""
    if not Variant.of(name).is_own_term:
        raise ContractError(f"{name!r}: wanted module:Class, such as my_terms:ParzenWindow")
    variant = Variant.of(name).name
    if Variant.of(variant).control is not None:
        endings = ", ".join(c.capitalize() for c in CONTROLS if "-" not in c)
        raise ContractError(
            f"{name!r} would be the variant {variant}, which reads as a control: wanted"
            f" a class name that does not end in {endings}"
        )
    # At the end, so that no file there stands in for a library's.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    return name.partition(":")[0]


def _no_module(name: str, missing: str) -> ContractError:
    return ContractError(
        f"{name}: no module {missing!r} where Python looks, nor in the working directory"
        f" {os.getcwd()}. Put {missing.replace('.', '/')}.py there, or its folder into PYTHONPATH"
    )


def _is_own(value: object, module: ModuleType) -> bool:
    is_term = inspect.isclass(value) and issubclass(value, LabelTerm)
    return is_term and getattr(value, "__module__", None) == module.__name__


def _origin(module: ModuleType) -> str:
    return f"module {module.__name__} ({getattr(module, '__file__', None) or 'built in'})"


def _describe(found: object) -> str:
    if isinstance(found, np.ndarray):
        return f"an array of shape {found.shape}, {found.dtype}"
    return "None" if found is None else f"{type(found).__name__}"


def _agree(a: NDArray, b: NDArray) -> bool:
    return bool(np.abs(a - b).max() <= _TOLERANCE * np.abs(b).max())
