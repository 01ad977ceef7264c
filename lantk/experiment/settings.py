"""Every setting of an experiment: its type, its limits, its default and what it means.

This is the one place that says so: the check of a configuration, docs/configuration.md and messages
come from it, and verbs take their defaults from it. A section is a class; a field says its default
and, after it, examples that can be copied.

No other package is imported, since every verb reads this module; pydantic, which checks
configurations (`experiment.checks`), reads these classes as they are.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from lantk.errors import LantkError
from lantk.files import expand_address, expand_path
from lantk.regression import LABEL_WEIGHTS, RIDGES


@dataclass(frozen=True)
class Limits:
    """The least and the most of a number, or of the length of a text or list."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    """A number is larger."""
    unequal: bool = False
    """No two members of a list are equal."""

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> dict[str, Any]:
        """Return the same in pydantic's words; strictly: true is no number, 5.0 no whole one."""
        schema = handler(kind)
        is_number = schema["type"] in ("int", "float")
        least, most = ("ge", "le") if is_number else ("min_length", "max_length")
        limits = {least: self.least, most: self.most, "gt": self.above, "strict": True}
        schema |= {name: value for name, value in limits.items() if value is not None}
        if schema["type"] == "float":
            schema["allow_inf_nan"] = False
        if self.unequal:
            check = {"type": "no-info", "function": _refuse_equal}
            schema = {"type": "function-after", "function": check, "schema": schema}
        return schema


def _refuse_equal(members: list[Any]) -> list[Any]:
    if any(member in members[:i] for i, member in enumerate(members)):
        raise ValueError("two are equal")
    return members


def setting(default: Any, *examples: Any) -> Any:
    """Return the field of a setting."""
    default_factory = partial(copy.deepcopy, default)
    return field(default_factory=default_factory, metadata={"examples": list(examples)})


class Section:
    """A mapping of settings, or the whole configuration; no other key is taken."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012


Whole = Annotated[int, Limits()]
Flag = Annotated[bool, Limits()]
Name = str | Whole
Text = Annotated[str, Limits(1)]
Names = Annotated[list[Name], Limits(1)]
Pair = Annotated[list[Name], Limits(2, 2)]
Sizes = Annotated[list[Whole], Limits(1, unequal=True)]
Targets = Annotated[list[Annotated[float, Limits(-(10**6), 10**6)]], Limits(2, 2)]
Weights = Annotated[list[Annotated[float, Limits(0, 10**9)]], Limits(1, unequal=True)]
Rate = Annotated[float, Limits(most=10**6, above=0)]
Rates = Annotated[list[Rate], Limits(1, unequal=True)]
Channels = Annotated[list[Annotated[int, Limits(1, 2**14)]], Limits(1)]
Seed = Annotated[int, Limits(0, 2**32 - 1)]
Epoch = Annotated[int, Limits(0, 10**6)]
Epochs = Annotated[list[Epoch], Limits(1, 100, unequal=True)]
Protocol = Literal["honest", "oracle"]
PROTOCOLS = get_args(Protocol)
Protocols = Annotated[list[Protocol], Limits(1, unequal=True)]

EXPERIMENT_NAME_LENGTH = 250
"""What a database keeps of the name of an MLflow experiment."""
_PUBLISHED_GRID = [0.001, 0.01, 0.1, 1]
_CONV, _WIDE_CONV = {"conv": {"size": 3, "stride": 1}}, {"conv": {"size": 5, "stride": 2}}
_BIASED, _POOL = {"conv": {"size": 3, "bias": 0.1}}, {"average_pool": {"size": 2}}
_RESIDUAL = {"residual": ["relu", {"conv": {"size": 3}}]}


@dataclass(frozen=True)
class Whitening(Section):
    """Whitening of the scaled images, learned from all train images of a task and their mirror
    images, without labels; kernels, label terms and networks see the whitened ones.
    """

    zca: Annotated[float, Limits(0, 10**6)] | None = setting(None, 0.1)
    """Regulariser of ZCA, z = U (S + e)^(-1/2) U^T (x - m), with mean m and covariance U S U^T of
    the train pixels: e is so many times the mean of S (0 is refused where S has zeros, as of few
    train images); null, images are not whitened."""


@dataclass(frozen=True)
class Data(Section):
    """Where images come from."""

    source: Literal["digits", "cifar10", "npz", "images"] = setting("digits", "npz")
    """digits (scikit-learn's, no download), cifar10 (its binary format), npz (arrays x_train,
    y_train, x_test, y_test) or images (folders train/CLASS, test/CLASS)."""
    path: Text | None = setting(None, "my.npz", "/data/photos")
    """File (npz) or folder (cifar10, images); null for digits, and for cifar10 the folder data,
    into which it is downloaded when it is not there."""
    layout: Literal["channels_first"] | None = setting(None, "channels_first")
    """Order of the axes in an npz file, images x channels x height x width; null, arrays that look
    as if their channels came last are refused; channels_first, they are taken as they are."""
    scaling: Literal["range", "standard"] = setting("range", "standard")
    """range (pixels to [-1, 1]) or standard (to mean 0 and standard deviation 1 in each channel,
    over all train images of a task)."""
    whitening: Whitening = setting(Whitening())


@dataclass(frozen=True)
class Task(Section):
    """Which images to tell apart; either pairs or classes."""

    pairs: Annotated[list[Pair], Limits(1)] | None = setting(
        [[1, 8]], [["deer", "dog"], ["cat", "frog"]], [[3, 8]]
    )
    """Class pairs, each two class names, or labels that are whole numbers; the order within a pair
    is free. "#0", in quotes, is the class at position 0 among the sorted ones. Names such
    as 010, 1.5 or yes, which YAML reads as something else, have to stand in quotes."""
    classes: Literal["all"] | Names | None = setting(None, "all", ["cat", "deer", "dog"])
    """Instead of pairs (which then is null), classes told apart in one task: all, or a list of
    three or more, written as in pairs."""
    n_train: Whole | Sizes | None = setting(24, 1000, [500, 1000, 2000])
    """Train images of a task, all classes together (a multiple of their number, as many of each);
    null, all there is, whatever the classes have (digits, which has no test set, needs a number); a
    list, one row of results each (the smaller ones are the first of the largest)."""
    n_test: Whole | None = setting(None, 400)
    """Test images of a task, all classes together (a multiple of their number, as many of each);
    null, all there is, whatever the classes have; of digits what n_train leaves, as many of each.
    """
    balance: Flag = setting(False, True)
    """Whether null in n_train and n_test takes as many images of each class as the smallest has."""
    targets: Targets = setting([0, 1], [-0.1, 0.9])
    """What networks of squared loss are trained on for the wrong classes and for the right one,
    where classes are told apart. Kernel regression without a ridge or with one, and with any label
    term, predicts the same classes whatever they are; pairs have -1 and +1."""
    seed: Seed = setting(66, 7)
    """Seed of the stream that orders the images of pairs, in 0 ... 2^32 - 1 (the paper's is 66);
    classes are taken in file order."""


@dataclass(frozen=True)
class Kernel(Section):
    """How the Gram matrices are computed."""

    bands: Literal["auto"] | Annotated[int, Limits(1, 5_000)] = setting("auto", 8)
    """Row bands, each a job and a file of its own; auto, one for every ten minutes of two cores."""
    memory_mb: Annotated[int, Limits(16, 2**24)] | None = setting(None, 1024)
    """Memory to work in, in MiB, beside images and result; null, 256, or on a GPU 4096 of its own.
    """


@dataclass(frozen=True)
class LabelWeights(Section):
    """Label weights r, in lambda = r mean|K| / mean|Z| (dimensionless; write 1.0e-4, since YAML
    reads 1e-4 as text).
    """

    honest: Weights = setting([*LABEL_WEIGHTS], [0, 1.0e-3, 0.01, 0.1])
    """Weights that validation inside train chooses from."""
    oracle: Weights = setting(_PUBLISHED_GRID, [0.01, 0.1])
    """Weights that the test set chooses from (the paper's)."""


@dataclass(frozen=True)
class Ridges(Section):
    """Ridges of cntk-ridge and of networks' kernels, times the mean diagonal of the train Gram
    matrix (dimensionless).
    """

    honest: Weights = setting([*RIDGES], [0, 1.0e-3, 0.1])
    """Ridges that validation inside train chooses from."""
    oracle: Weights = setting(_PUBLISHED_GRID, [0.01, 0.1])
    """Ridges that the test set chooses from."""


@dataclass(frozen=True)
class Cnn(Section):
    """Training of the finite network."""

    epochs: Annotated[int, Limits(1, 10**6)] = setting(30, 300)
    """Passes over the train images."""
    batch_size: Annotated[int, Limits(1, 10**9)] = setting(8, 64)
    """Images per optimiser step."""
    learning_rate: Rate | Rates = setting(1.0e-3, 3.0e-4, [1.0e-4, 1.0e-3])
    """Step size of Adam; of a list, validation inside train chooses one."""
    loss: Literal["squared", "cross-entropy"] = setting("squared", "cross-entropy")
    """What training lowers, squared (on the targets, or 0 and 1 of pairs) or cross-entropy."""
    channels: Channels | None = setting(None, [16, 64, 64, 128, 128, 256, 256])
    """Output channels of each hidden layer: convolutions, those of residuals too, then dense layers
    but the last (a residual has those of its input). Null, for convolutions 16, then 64 (of three
    classes or more, 128) times the stride so far, of pools too, at most 4 times; 128 each without
    strides; none of 16 with residuals; for dense layers 256."""
    seeds: Annotated[list[Seed], Limits(0, 1_000, unequal=True)] = setting([0], [0, 1, 2], [])
    """One network a seed; accuracies are averaged. An empty list leaves out cnn and the kernels of
    networks."""


@dataclass(frozen=True)
class AfterKernels(Section):
    """Kernels of the network in training, variants after-kernel, after-kernel-LAYER and
    conjugate-kernel. Networks, batches, learning rate (one), loss and seeds are those of cnn;
    ridges and label weights those of the other variants. All kernels of a case and seed are one
    job, which trains 1 + held_out networks, and as many again with shuffled twins; another variant,
    tap or ridge trains them anew.
    """

    taps: Epochs = setting([0, 1, 3, 10, 30, 100], [0, 10])
    """Epochs after which kernels are taken where a variant names none; 0 is the untrained network,
    and those beyond cnn.epochs are left out. A variant may name its own, as after-kernel-5 does.
    With one epoch only there is nothing to choose from, so no row after-kernel."""
    held_out: Annotated[int, Limits(1, 10**6)] = setting(1, 5)
    """How many of the folds are held out to choose ridge and epoch, each with networks of its own,
    since a kernel that has seen an image's label cannot be validated on it."""


@dataclass(frozen=True)
class Tracking(Section):
    """Where MLflow runs go."""

    uri: Text | None = setting(None, "http://127.0.0.1:5000")
    """Address of the MLflow store, http://host:port of a server or the URI of a database, without a
    password (it travels through the environment: MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD for a server, all of MLFLOW_TRACKING_URI for a database); null,
    MLFLOW_TRACKING_URI, or where that is not set the file mlflow.db beside the results folder."""
    experiment: Annotated[str, Limits(1, EXPERIMENT_NAME_LENGTH)] | None = setting(None, "shapes")
    """Name of the MLflow experiment; null, that of the results folder, digits for results/digits,
    and in a store that folders of other places may share the path in results, without results/ at
    its front. MLFLOW_EXPERIMENT_NAME is not read."""


@dataclass(frozen=True)
class Settings(Section):
    """The configuration of an experiment; its defaults are the default experiment."""

    data: Data = setting(Data())
    task: Task = setting(Task())
    architecture: Text | Annotated[list[str | dict[Any, Any]], Limits(1)] = setting(
        "chen2020",
        "arora2019-gap-4",
        ["arora2019-vanilla-3", "arora2019-vanilla-6"],
        [_CONV, "relu", _WIDE_CONV, "relu", "global_average_pool", "dense"],
        [_BIASED, "gelu", _POOL, _CONV, _RESIDUAL, "relu", "flatten", "dense"],
    )
    """chen2020, arora2019-vanilla-D, one of these with -lap-W behind it (the mean over W x W
    positions before the readout), arora2019-gap-D (D counts the convolutions and the dense layer),
    myrtle5, myrtle7, myrtle10, fully-connected-D (dense layers on all pixels), or a list of layers:
    conv (size, stride, bias, trained), relu, leaky_relu (slope), erf, gelu, average_pool (size,
    stride), residual (layers), then flatten or global_average_pool, then dense (bias, trained),
    once or more often. A name with -nngp at its end trains the last dense layer alone, which makes
    the NNGP of its NTK. Or a list of names, one row of results each (layers that they share are
    computed once)."""
    kernel: Kernel = setting(Kernel())
    variants: Annotated[list[str], Limits(1, unequal=True)] = setting(
        [
            *("cntk", "cntk-ridge", "lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2"),
            *("lantk-kr-v1-shuffled", "lantk-kr-v2-shuffled"),
            *("lantk-fjlt-v1-shuffled", "lantk-fjlt-v2-shuffled", "cnn"),
        ],
        ["cntk", "lantk-kr-v1", "lantk-kr-v1-shuffled", "my_terms:ParzenWindow"],
    )
    """Rows of the table. cntk, cntk-ridge, cntk-rbf, cntk-laplacian, cntk-intercept, cntk-flips,
    cntk-flips-intercept, oracle-label, cnn, cnn-flips; label terms lantk-kr-v1, lantk-kr-v2,
    lantk-fjlt-v1, lantk-fjlt-v2, lantk-fjlt-v2-text, lantk-plugin, lantk-nth, or module:Class of
    your own; their controls, with -shuffled, -diagonal or (lantk-fjlt-*) -offdiagonal and
    -offdiagonal-shuffled at the end. cntk-intercept+TERM, cntk-flips+TERM and
    cntk-flips-intercept+TERM are label terms on those kernels, with the same controls. lantk-best
    is derived where the first four are there. Kernels of the network in training are after-kernel,
    after-kernel-LAYER (conv1 ... dense; of several dense layers dense1 ...) and conjugate-kernel,
    at every epoch of after_kernels.taps, or at one with -EPOCH; then +lantk-kr-v1, +lantk-kr-v2 or
    +lantk-plugin adds a label term, and -shuffled trains the network, and fits the label term, on
    permuted labels. after-kernel and conjugate-kernel themselves are derived: the best of their
    epochs; and so is cntk-lap, of architectures that differ in their window of local average
    pooling alone."""
    label_weights: LabelWeights = setting(LabelWeights())
    ridges: Ridges = setting(Ridges())
    permutations: Annotated[int, Limits(1, 1_000)] = setting(3, 10)
    """Label permutations of each *-shuffled control of a label term, each of all of train (folds
    take their part of it); accuracies are averaged. Those of networks' kernels have one for each
    of cnn.seeds."""
    estimator: Literal["exact", "fjlt"] = setting("exact", "fjlt")
    """How lantk-fjlt-* are fitted, by exact least squares or on the published sketch (fjlt; from
    some 220 train images on)."""
    protocols: Protocols = setting(["honest", "oracle"], ["honest"])
    """honest (chosen on train) and oracle (chosen on test, as in the paper)."""
    folds: Annotated[int, Limits(2, 10**6)] = setting(5, 10)
    """Validation folds; each class needs at least as many train images."""
    cnn: Cnn = setting(Cnn())
    after_kernels: AfterKernels = setting(AfterKernels())
    models: Literal["best", "all", "none"] = setting("best", "none")
    """Models to keep, with their train images, in models/CASE/VARIANT.npz, so that lantk predict
    and lantk.load predict other images: best, of each case the exact kernel with the highest
    validation accuracy inside train; or all, or none. Networks keep their weights beside them
    (VARIANT-seedN.pt) unless it is none. Needs the protocol honest."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cpu")
    """Where kernels and networks are computed and systems solved; auto, a GPU where there is one
    (for kernels it takes CuPy: pip install '.[cuda]' in a checkout of this project)."""
    results: Text = setting("results/digits", "results/mine")
    """Folder of everything that is computed (no braces, which are Snakemake's wildcards)."""
    tracking: Tracking = setting(Tracking())


def _walk(section: Any, outer: str = "") -> Iterator[tuple[str, Any]]:
    for member in fields(section):
        yield f"{outer}{member.name}", member
        if is_dataclass(member.type):
            yield from _walk(member.type, f"{outer}{member.name}.")


FIELDS = dict(_walk(Settings))
"""Every section and setting, such as ``cnn`` and ``cnn.epochs``, a section before its settings."""


def default_of(key: str) -> Any:
    """Return the default of a setting."""
    return FIELDS[key].default_factory()


def meaning_of(key: str) -> str:
    """Return what a section or setting means, in one line: what its class or its field says."""
    outer, _, name = key.rpartition(".")
    if is_dataclass(FIELDS[key].type):
        return " ".join(FIELDS[key].type.__doc__.split())
    section = FIELDS[outer].type if outer else Settings
    return _texts()[section.__name__, name]


@cache
def _texts() -> dict[tuple[str, str], str]:
    """Return class and field -> the text below the field, which Python itself does not keep."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    return {
        (section.name, ast.unparse(node.target)): " ".join(ast.literal_eval(text.value).split())
        for section in tree.body
        if isinstance(section, ast.ClassDef)
        for node, text in pairwise(section.body)
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def expand_paths(config: dict[str, Any]) -> None:
    """Expand the paths of a configuration, or of a part of one, in place (`files.expand_path`).

    Raises
    ------
    LantkError
        If a path cannot be expanded; the message names its key.
    """
    for key, expand in (
        ("results", expand_path),
        ("data.path", expand_path),
        ("tracking.uri", expand_address),
    ):
        outer, _, name = key.rpartition(".")
        section = config.get(outer) if outer else config
        if isinstance(section, dict) and isinstance(section.get(name), str):
            try:
                section[name] = expand(section[name])
            except LantkError as error:
                raise LantkError(f"{key} is {error}") from None
