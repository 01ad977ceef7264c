"""The grammar of architectures: names and layer lists, and what is refused.

An architecture is a name or a list of layers::

    [{"conv": {"size": 3, "stride": 1}}, "relu", ..., "flatten", "dense"]

Layers, with their defaults (``size`` of a convolution and of a pool, and ``slope``, have none)::

    {"conv": {"size": 3, "stride": 1, "bias": 0, "trained": true}}   of odd size
    "relu", {"leaky_relu": {"slope": 0.1}}, "erf", "gelu"
    {"average_pool": {"size": 2, "stride": 2}}                       stride defaults to size
    {"residual": [layers]}                                           input + branch
    "flatten", "global_average_pool"                                 one of them: the readout
    {"dense": {"bias": 0, "trained": true}}                          or "dense", behind the readout

An activation follows a convolution, a dense layer, or a residual whose input could have one: the
kernel knows the law of Gaussian inputs only. The branch of a residual keeps the shape, holds no
pool and ends in a convolution, so that it is not correlated with its input. ``bias`` is the
standard deviation of the biases, which are trained with their layer. A layer with ``trained:
false`` keeps its weights at their initial values and adds nothing to the neural tangent kernel.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020 (``chen2020``).
Arora et al., "On Exact Computation with an Infinitely Wide Neural Net", NeurIPS 2019
(``arora2019-vanilla-D``, ``arora2019-gap-D``; D counts the convolutions and the dense layer).
Li et al., "Enhanced Convolutional Neural Tangent Kernels", 2019 (``-lap-W``: local average
pooling).
Shankar et al., "Neural Kernels Without Tangents", ICML 2020 (``myrtle5``, ``myrtle7``,
``myrtle10``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lantk.errors import shorten
from lantk.kernel.architecture import (
    ACTIVATIONS,
    READOUTS,
    Activation,
    Architecture,
    ArchitectureError,
    AveragePool,
    Conv,
    Dense,
    Layer,
    Residual,
)

# Ends the name of an architecture whose last dense layer alone is trained.
_NNGP = "-nngp"
_RELU = Activation("relu")
_STEP: tuple[Layer, ...] = (Conv(3), _RELU)

# The network of Chen et al. (2020): the strides of the authors' release (their text puts the
# second stride on the last convolution).
_CHEN2020_STRIDES = (1, 1, 1, 2, 1, 2, 1)
# Convolutions in each group of the networks of Shankar et al. (2020), a pool after each group.
_MYRTLE_GROUPS = {"5": (2, 1, 1), "7": (2, 2, 2), "10": (3, 3, 3)}

_KNOWN = (
    "wanted 'chen2020', 'arora2019-vanilla-D' with D >= 2, 'arora2019-gap-D' with D >= 3 (D ="
    " number of convolutions + 1), 'myrtle5', 'myrtle7', 'myrtle10', 'fully-connected-D' (D ="
    " number of dense layers), the first two with -lap-W (local average pooling, W >= 2 pixels)"
    f" behind them, one of these with {_NNGP} at its end, or a list of layers"
)


def parse_architecture(name_or_list: str | Sequence[Any] | Architecture) -> Architecture:
    """Return the `Architecture` that a name or a layer list describes.

    Parameters
    ----------
    name_or_list : str or list
        ``"chen2020"``, ``"arora2019-vanilla-D"`` (D >= 2), one of these with ``-lap-W`` behind it
        (the mean over W x W positions before the readout), ``"arora2019-gap-D"`` (D >= 3),
        ``"myrtle5"``, ``"myrtle7"``, ``"myrtle10"``, ``"fully-connected-D"`` (of all pixels), one
        of these with ``-nngp`` at its end, which trains the last dense layer alone, or a layer
        list.

    Raises
    ------
    ArchitectureError
        If the name is unknown or the list does not follow the grammar.

    Examples
    --------
    >>> parse_architecture([{"conv": {"size": 3}}, "relu", "flatten", "dense"]).readout
    'flatten'
    >>> len(parse_architecture("chen2020").convs)
    7
    """
    if isinstance(name_or_list, Architecture):
        return name_or_list
    if isinstance(name_or_list, str):
        return _named(name_or_list)
    if not isinstance(name_or_list, Sequence):
        raise ArchitectureError(
            f"an architecture is a name or a list of layers, found {name_or_list!r}"
        )
    return _parse_layers(list(name_or_list))


def find_name(architecture: str | Sequence[Any] | Architecture) -> str | None:
    """Return the name of an architecture, or None if it has none.

    Examples
    --------
    >>> find_name(parse_architecture("arora2019-gap-4"))
    'arora2019-gap-4'
    """
    wanted = parse_architecture(architecture)
    depth = len(wanted.convs) + 1
    bases = ["chen2020", f"arora2019-vanilla-{depth}", f"arora2019-gap-{depth}"]
    bases += [f"myrtle{size}" for size in _MYRTLE_GROUPS]
    bases.append(f"fully-connected-{len(wanted.denses)}")
    if wanted.body and isinstance(wanted.body[-1], AveragePool):
        window = wanted.body[-1].size
        bases += [f"chen2020-lap-{window}", f"arora2019-vanilla-{depth}-lap-{window}"]
    for name in (f"{base}{ending}" for base in bases for ending in ("", _NNGP)):
        try:
            if parse_architecture(name).digest == wanted.digest:
                return name
        except ArchitectureError:
            continue
    return None


def _named(name: str) -> Architecture:
    if name.endswith(_NNGP) and not name.endswith(2 * _NNGP):
        return _named(name.removesuffix(_NNGP)).nngp
    match = re.fullmatch(
        r"(?:(?P<plain>chen2020|arora2019-vanilla-(?P<depth>[1-9]\d{0,3}))"
        r"(?:-lap-(?P<window>[1-9]\d{0,3}))?"
        r"|arora2019-gap-(?P<gap>[1-9]\d{0,3})"
        r"|myrtle(?P<myrtle>5|7|10)"
        r"|fully-connected-(?P<dense>[1-9]\d{0,3}))",
        name,
    )
    found = match.groupdict() if match is not None else {}
    too_small = (("depth", 2), ("window", 2), ("gap", 3))
    if match is None or any(found[key] and int(found[key]) < least for key, least in too_small):
        raise ArchitectureError(f"unknown architecture {shorten(repr(name))}: {_KNOWN}")
    body: list[Layer] = []
    if found["plain"] == "chen2020":
        for stride in _CHEN2020_STRIDES:
            body += [Conv(3, stride), _RELU]
        del body[-1]
    elif found["plain"]:
        body = [*_STEP] * (int(found["depth"]) - 1)
    elif found["gap"]:
        # Arora et al. fix the first convolution and the last layer in their GAP tables only.
        body = [Conv(3, trained=False), _RELU, *_STEP * (int(found["gap"]) - 2)]
        return Architecture(tuple(body), "global_average_pool", (Dense(trained=False),))
    elif found["myrtle"]:
        pool = AveragePool(2, 2)
        for n in _MYRTLE_GROUPS[found["myrtle"]]:
            body += [*_STEP * n, pool]
        return Architecture((*body, pool, pool), "flatten")
    else:
        return Architecture((), "flatten", (*(Dense(), _RELU) * (int(found["dense"]) - 1), Dense()))
    if found["window"]:
        body.append(AveragePool(int(found["window"]), 1))
    return Architecture(tuple(body), "flatten")


def _parse_layers(layers: list[Any]) -> Architecture:
    items = [_parse_layer(f"layer {i}", layer) for i, layer in enumerate(layers)]
    readout = _find_readout(layers, items)
    body, head = items[:readout], items[readout + 1 :]
    _check_body(body, "layer ")
    for i, layer in enumerate(head, readout + 1):
        before = items[i - 1]
        if not isinstance(layer, Dense | Activation):
            raise ArchitectureError(
                f"layer {i} is {shorten(repr(layers[i]))}, behind the readout: only dense layers"
                " and activations come there"
            )
        if isinstance(layer, Activation) and not isinstance(before, Dense):
            raise ArchitectureError(
                f"layer {i} is {shorten(repr(layers[i]))}: behind the readout an activation"
                " follows a dense layer"
            )
    network = Architecture(tuple(body), items[readout], tuple(head))
    if not network.trained_layers:
        raise ArchitectureError("no layer is trained, so the NTK is zero: train at least one")
    return network


def _find_readout(layers: list[Any], items: list[Any]) -> int:
    """Return the place of the readout in a list that has one and ends in a dense layer."""
    places = [i for i, item in enumerate(items) if item in READOUTS]
    if not items:
        raise ArchitectureError(
            "the list of layers is empty: wanted at least a readout and a dense layer, such as"
            " [{conv: {size: 3}}, relu, flatten, dense]"
        )
    if not places:
        raise ArchitectureError(
            f"the list of layers has no readout: put {' or '.join(READOUTS)} before its dense"
            " layers, behind all others"
        )
    if len(places) > 1:
        raise ArchitectureError(
            f"layer {places[1]} is {layers[places[1]]!r}, and layer {places[0]} is a readout"
            " already: leave out one"
        )
    if not isinstance(items[-1], Dense):
        raise ArchitectureError(
            f"the list of layers ends in {shorten(repr(layers[-1]))}: wanted 'dense' at its end"
        )
    return places[0]


def _check_body(
    layers: Sequence[Any], where: str, *, gaussian: bool = False, in_branch: bool = False
) -> bool:
    """Refuse layers before the readout that do not go together; say whether the last is Gaussian.

    `gaussian` says whether their input is; `where` begins the names of the layers in messages.
    """
    has_channels = in_branch
    for i, layer in enumerate(layers):
        name = f"{where}{i}"
        match layer:
            case Activation(kind):
                if not gaussian:
                    raise ArchitectureError(
                        f"{name} is {kind!r}: an activation follows a convolution, a dense layer or"
                        " a residual whose input could have one, not the pixels, an activation or"
                        " a pool"
                    )
                gaussian = False
            case Conv(stride=stride):
                if in_branch and stride != 1:
                    raise ArchitectureError(
                        f"{name} is a convolution of stride {stride} in a residual, whose branch"
                        " keeps the shape: wanted stride 1"
                    )
                gaussian = has_channels = True
            case AveragePool():
                if in_branch:
                    raise ArchitectureError(
                        f"{name} is a pool in a residual: put it before or behind the residual"
                    )
                gaussian = False
            case Residual(branch):
                if not has_channels:
                    raise ArchitectureError(
                        f"{name} is a residual of the pixels, which have other channels than its"
                        " branch: begin with a convolution"
                    )
                if not branch or not isinstance(branch[-1], Conv):
                    raise ArchitectureError(
                        f"{name} is a residual whose branch ends without a convolution, so that it"
                        " is correlated with its input: end it in one"
                    )
                _check_body(branch, f"{name}.", gaussian=gaussian, in_branch=True)
            case _:
                raise ArchitectureError(
                    f"{name} is 'dense': before the readout come convolutions, activations, pools"
                    " and residuals"
                )
    return gaussian


# Option name -> (default, what it is), for each kind of layer that takes options.
_MISSING: Any = object()
# Squares of biases, and windows in pixels, stay within their types.
_LARGEST, _LONGEST = 1e15, 2**32
_WHOLE, _NUMBER, _FLAG = "a whole number", "a number", "true or false"
_OPTIONS: dict[str, dict[str, tuple[Any, str]]] = {
    "conv": {
        "size": (_MISSING, _WHOLE),
        "stride": (1, _WHOLE),
        "bias": (0.0, _NUMBER),
        "trained": (True, _FLAG),
    },
    "leaky_relu": {"slope": (_MISSING, _NUMBER)},
    "average_pool": {"size": (_MISSING, _WHOLE), "stride": (None, _WHOLE)},
    "dense": {"bias": (0.0, _NUMBER), "trained": (True, _FLAG)},
}
_PLAIN = ("relu", "erf", "gelu", "dense", *READOUTS)


def _parse_layer(where: str, layer: Any) -> Any:
    """Return a layer of the list, or the name of a readout; messages call it `where`."""
    if isinstance(layer, str) and layer in _PLAIN:
        if layer == "dense":
            return Dense()
        return Activation(layer) if layer in ACTIVATIONS else layer
    is_named = isinstance(layer, Mapping) and len(layer) == 1
    kind, given = next(iter(layer.items())) if is_named else (None, None)
    if kind == "residual":
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ArchitectureError(
                f"{where}: a residual is a list of layers, found {shorten(repr(given))}"
            )
        branch = [_parse_layer(f"{where}.{i}", inner) for i, inner in enumerate(given)]
        if any(inner in READOUTS for inner in branch):
            raise ArchitectureError(f"{where}: a residual holds no readout")
        return Residual(tuple(branch))
    if not isinstance(kind, str) or kind not in _OPTIONS:
        kinds = ", ".join([*map(repr, _PLAIN), *(_show_kind(kind) for kind in _OPTIONS)])
        raise ArchitectureError(
            f"{where} is {shorten(repr(layer))}: wanted {kinds} or {{residual: [...]}}"
        )
    options = _parse_options(where, kind, given)
    match kind:
        case "conv":
            return Conv(**options)
        case "leaky_relu":
            return Activation("leaky_relu", **options)
        case "average_pool":
            return AveragePool(options["size"], options["stride"] or options["size"])
        case _:
            return Dense(**options)


def _parse_options(where: str, kind: str, given: Any) -> dict[str, Any]:
    """Return the checked options of a layer, each of them."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ArchitectureError(
            f"{where}: the options of {kind!r} are no mapping: {shorten(repr(given))}"
        )
    known = _OPTIONS[kind]
    for key, value in given.items():
        if key not in known:
            raise ArchitectureError(
                f"{where}: {kind!r} has no option {shorten(repr(key))}, only {', '.join(known)}"
            )
        if fault := _find_fault(kind, key, value, known[key][1]):
            raise ArchitectureError(f"{where}: {key} is {shorten(repr(value))}, wanted {fault}")
    missing = _needed(kind)
    if missing is not None and missing not in given:
        raise ArchitectureError(f"{where}: {kind!r} has no {missing}: give {_show_kind(kind)}")
    found = {key: given.get(key, default) for key, (default, _) in known.items()}
    return {k: float(v) if known[k][1] == _NUMBER else v for k, v in found.items()}


def _needed(kind: str) -> str | None:
    """Return the option that a kind of layer cannot be without, if there is one."""
    return next((key for key, (value, _) in _OPTIONS[kind].items() if value is _MISSING), None)


def _show_kind(kind: str) -> str:
    needed = _needed(kind)
    return f"{{{kind}: {{{f'{needed}: ' if needed else ''}...}}}}"


def _find_fault(kind: str, key: str, value: Any, wanted: str) -> str | None:
    """Return what was wanted in place of the value of an option, or None if it is right."""
    types = {_WHOLE: (int,), _NUMBER: (int, float), _FLAG: (bool,)}[wanted]
    if type(value) not in types:
        return wanted
    # Not so of NaN either.
    if wanted == _NUMBER and not abs(value) <= _LARGEST:
        return f"a number of at most {_LARGEST:g}"
    if wanted == _WHOLE and value > _LONGEST:
        return f"at most {_LONGEST:,} pixels"
    if key == "size" and kind == "conv" and (value < 1 or value % 2 == 0):
        return "an odd number of pixels"
    if wanted == _WHOLE and value < 1:
        return "1 or more"
    if key == "bias" and value < 0:
        return "0 or more, the standard deviation of the biases"
    if key == "slope" and abs(value) > 1:
        return "a number from -1 to 1"
    return None
