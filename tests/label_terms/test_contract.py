"""Label terms of the user's own: found, tried out, and told what to change."""

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lantk.label_terms.base import LabelTerm, LabelTermError, label_product_factors
from lantk.label_terms.kernel_regression import KernelRegression
from lantk.label_terms.least_squares import LeastSquares
from lantk.label_terms.plug_in import PlugIn
from lantk.label_terms.trial import ContractError, check_contract, load_term_class
from lantk.variant import Variant

DOCS = (Path(__file__).parents[2] / "docs" / "label-term.md").read_text()
EXAMPLE, TRIAL = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a module of a name of its own and returns that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    def write_module(text, name=None):
        name = name or f"own_terms_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write_module


def test_the_example_in_the_docs_is_found_and_kept(write):
    """Each block of the docs runs: the example is found in the working directory, and passes."""
    write(EXAMPLE, "my_terms")
    exec(TRIAL, {})
    cls = load_term_class("my_terms:ParzenWindow")
    assert issubclass(cls, LabelTerm)
    assert f"`{Variant.of('my_terms:ParzenWindow').name}`" in DOCS


def test_the_message_in_the_docs_is_what_is_said(write):
    """The docs show the message that their example gives when it forgets to return itself."""
    shown = re.search(r"```text\nmy_terms:(.*?)```", DOCS, re.DOTALL)[1].strip()
    name = write(EXAMPLE.replace("        return self\n", ""))
    with pytest.raises(ContractError) as caught:
        load_term_class(f"{name}:ParzenWindow")
    assert str(caught.value) == f"{name}:{shown}"


def test_the_example_is_its_formula(write):
    """The example of the docs is the sum over classes that it says, for two classes and three."""
    cls = load_term_class(f"{write(EXAMPLE)}:ParzenWindow")
    rng = np.random.default_rng(0)
    k = rng.normal(size=(12, 9))
    k[:9] += k[:9].T
    for y in (np.where(np.arange(9) % 2, 1.0, -1.0), np.eye(3)[np.arange(9) % 3]):
        factors, signs = label_product_factors(y, 9)
        products = (factors * signs) @ factors.T
        found = cls().fit(k[:9], y).transform(k[9:])
        np.testing.assert_allclose(found, k[9:] @ products @ k[:9].T / 81, rtol=1e-12)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (KernelRegression, {"targets": "labels"}),
        (KernelRegression, {"targets": "dual"}),
        (LeastSquares, {"feature_sets": ("global", "pca-release")}),
        (PlugIn, {}),
    ],
)
def test_the_label_terms_here_keep_the_contract(cls, options):
    """The trial asks no more of a user's label term than ours give."""
    check_contract(
        cls.__name__, type("Own", (cls,), {"__init__": lambda s: cls.__init__(s, **options)})
    )


def test_a_label_term_may_take_two_classes_only(write):
    """A term that refuses one-hot labels with a LabelTermError passes."""
    text = EXAMPLE.replace(
        "        self.labels_, self",
        "        if y.ndim > 1:\n            raise LabelTermError('two classes')\n"
        "        self.labels_, self",
    ).replace("import LabelTerm,", "import LabelTerm, LabelTermError,")
    cls = load_term_class(f"{write(text)}:ParzenWindow")
    with pytest.raises(LabelTermError, match="two classes"):
        cls().fit(np.eye(3), np.eye(3))


FIT = "    def fit(self, k_train_train, y, x=None, solve=None):\n"
FACTORS = "self.labels_, self.signs_ = label_product_factors(y, len(k_train_train))"
SELF = "return self\n"
TRANSFORM = "    def transform(self, k, x=None):\n"
Z = "(self._means(k) * self.signs_) @ self.means_.T"
NAMES = '("labels_", "signs_", "means_")'

# What is replaced in the example, by what, ...; and what is then said.
BROKEN = {
    "constructor": (
        (FIT, f"    def __init__(self, width):\n        self.width = width\n\n{FIT}"),
        r"its constructor takes \(width\): missing .* made without arguments",
    ),
    "constructor raises": (
        (FIT, f"    def __init__(self):\n        self.width = 1 / 0\n\n{FIT}"),
        r"its constructor raised ZeroDivisionError: division by zero \(own_terms_\d+.py, line",
    ),
    "base": (("ParzenWindow(LabelTerm)", "ParzenWindow"), "does not derive from LabelTerm. Write"),
    "no transform": (("def transf", "def f"), r"no `def transform\(self, k, x=None\)` of its own"),
    "test labels": (
        (FIT, FIT.replace("solve=None", "solve=None, *, y_test")),
        r"found fit\(.*y_test\): missing a required .*: 'y_test'. Wanted fit\(self, .*test labels",
    ),
    "no solve": ((FIT, FIT.replace(", solve=None", "")), "found fit.* unexpected .* 'solve'"),
    "no x": (
        (TRANSFORM, TRANSFORM.replace(", x=None", "")),
        "found transform.*too many positional",
    ),
    "x is a must": ((TRANSFORM, TRANSFORM.replace("=None", "")), "found transform.*argument: 'x'"),
    "fit returns nothing": ((SELF, "pass\n"), "fit returned None. Wanted the term: `return self`"),
    "fit returns another": (
        (SELF, "return y\n"),
        r"fit returned an array of shape \(12,\), float64",
    ),
    "shape": (
        (Z, f"({Z}).T"),
        r"transform returned an array of shape \(12, 5\), float64. Wanted .* of shape \(5, 12\)",
    ),
    "no array": ((Z, f"({Z}).tolist()"), "transform returned list. Wanted real numbers"),
    "complex": ((Z, f"{Z} * (1 + 0j)"), "complex128. Wanted real numbers"),
    "asymmetric": (
        (Z, f"{Z} + np.arange(12)"),
        r"on the train rows Z\[0, 11\] = .* and Z\[11, 0\] = .* Wanted a symmetric Z there",
    ),
    "not finite": ((Z, f"{Z} * np.inf"), r"transform gives Z\[0, 0\] = -?inf. Look for a division"),
    "raises": ((Z, "{}['w']"), r"transform raised KeyError: 'w' \(own_terms_\d+.py, line \d+\)"),
    "x is not asked for": ((Z, f"{Z} + len(x)"), "raised TypeError.*set `needs_x = True`"),
    "changes the kernel": (
        (SELF, "k_train_train *= 2\n        return self\n"),
        "fit changes its input k_train_train. Work on a copy",
    ),
    "changes the labels": ((SELF, "y *= -1\n        return self\n"), "fit changes its input y"),
    "changes the test kernel": (
        (f"return {Z}", f"k += 1\n        return {Z}"),
        "transform changes its input k. Work",
    ),
    "random": (
        (
            "self.means_ = ",
            "self.labels_ = y[:, None] * np.random.default_rng().normal()\n        self.means_ = ",
        ),
        "a second fit gives another Z, by .* Seed what is random",
    ),
    "forgets a name": (
        (NAMES, '("labels_", "signs_")'),
        "transform of the restored term raised AttributeError.*'means_'.*; list in `fitted_names`",
    ),
    "forgets what has a default": (
        (FIT, f"    width = 1\n\n{FIT}        self.width = 2\n"),
        (Z, f"self.width * ({Z})"),
        r"saved by fitted\(\) and restored it gives another Z, by .* List in `fitted_names`",
    ),
    "unknown name": (('"signs_", "m', '"sings_", "m'), "fitted raised AttributeError.*'sings_'"),
    "saves no numbers": (
        (NAMES, '("labels_", "signs_", "means_", "extra")'),
        (SELF, "self.extra = {'a': 1}\n        return self\n"),
        r"fitted\(\) gives extra = dict. Wanted an array of numbers: it is saved in a .npz file",
    ),
    "restores nothing": (
        (FIT, f"    def restore(self, fitted, x_train=None):\n        fitted['width']\n\n{FIT}"),
        r"restore raised KeyError: 'width'.*; list in `fitted_names`",
    ),
    "one-hot by chance": (
        (FACTORS, "self.labels_ = y"),
        (Z, "np.outer(self._means(k), self.means_)"),
        ('"signs_", ', ""),
        r"with one-hot labels, transform returned an array of shape \(15, 36\).*LabelTermError",
    ),
    "one-hot labels break it": (
        (FACTORS, "self.labels_, self.signs_ = np.array([int(v) for v in y])[:, None], 1"),
        "with one-hot labels, fit raised TypeError.*raise LabelTermError in fit",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_contract_is_said(write, kind):
    """Each way to break the contract is refused, with what was found and what to change."""
    *changes, message = BROKEN[kind]
    text = EXAMPLE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    name = write(f"import numpy as np\n{text}")
    with pytest.raises(ContractError, match=message) as caught:
        load_term_class(f"{name}:ParzenWindow")
    assert str(caught.value).startswith(f"{name}:ParzenWindow: ")


def test_a_term_that_asks_for_vectors_is_given_them(write):
    """With needs_x the trial passes vectors, and puts the train vectors back."""
    text = EXAMPLE.replace("    fitted_names", "    needs_x = True\n    fitted_names")
    text = text.replace(SELF, f"self.x_train_ = x\n        {SELF}")
    load_term_class(f"{write(text.replace(Z, f'{Z} + x @ self.x_train_.T'))}:ParzenWindow")


@pytest.mark.parametrize(
    "name", ["my_terms", "my_terms:", "my terms:Term", "../my_terms:Term", ":T"]
)
def test_other_names_are_refused(name):
    """A name of another form is refused before anything is imported."""
    with pytest.raises(ContractError, match="wanted module:Class, such as my_terms:Parzen"):
        load_term_class(name)


def test_a_class_named_like_a_control_is_refused(write):
    """A class whose variant name would read as a control of another term is refused."""
    name = write(EXAMPLE.replace("ParzenWindow", "ParzenShuffled"))
    with pytest.raises(ContractError, match="lantk-parzen-shuffled, which reads as a control"):
        load_term_class(f"{name}:ParzenShuffled")


@pytest.mark.parametrize("name", ["nowhere_at_all:Term", "nowhere_at_all.terms:Term"])
def test_a_missing_module_is_said(name, tmp_path, monkeypatch):
    """A module that is not there is named, with the folder where it was looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContractError, match=f"no module 'nowhere.*{tmp_path.name}.*PYTHONPATH"):
        load_term_class(name)


def test_a_module_that_cannot_be_imported_is_said(write):
    """An exception on import, a missing library among them, is told with its line."""
    name = write("import numpy\nimport no_such_library\n")
    message = rf"importing {name} raised ModuleNotFoundError: .*no_such_library"
    with pytest.raises(ContractError, match=message):
        load_term_class(f"{name}:Term")
    name = write("x = 1\ny = x / 0\n")
    message = rf"raised ZeroDivisionError: division by zero \({name}.py, line 2\)"
    with pytest.raises(ContractError, match=message):
        load_term_class(f"{name}:Term")


def test_a_missing_class_is_said_with_those_that_are_there(write):
    """A class that is not there is answered with the label terms of the module."""
    name = write(EXAMPLE + "\n\nparzen = 1\n")
    for wrong in ("Parzen", "parzen"):
        message = rf"has no class '{wrong}'; its label terms: ParzenWindow. Correct"
        with pytest.raises(ContractError, match=message):
            load_term_class(f"{name}:{wrong}")
