"""The architecture grammar, its names and digests, and the padding rule."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import architectures

from lantk.kernel.architecture import (
    Activation,
    Architecture,
    ArchitectureError,
    AveragePool,
    Conv,
    Dense,
    Residual,
    output_side,
    same_padding,
)
from lantk.kernel.grammar import find_name, parse_architecture

CONV = {"conv": {"size": 3}}
WIDE = {"conv": {"size": 5, "stride": 2}}
POOL = {"average_pool": {"size": 2}}
END = ["flatten", "dense"]
RELU = Activation("relu")


def residual(*layers):
    """Return a residual of a list."""
    return {"residual": list(layers)}


def test_layers_are_read_with_their_defaults():
    """What the list does not say of a layer is stride 1 (of a pool its size), no bias, trained."""
    layers = [CONV, "relu", {"conv": {"size": 5, "stride": 2, "bias": 1, "trained": False}}]
    layers += [{"leaky_relu": {"slope": 0.1}}, POOL, {"average_pool": {"size": 3, "stride": 1}}]
    layers += [residual(CONV, "erf", CONV), "flatten", "dense", "gelu", {"dense": {"bias": 0.5}}]
    assert parse_architecture(layers) == Architecture(
        (
            *(Conv(3, 1, 0.0, True), RELU, Conv(5, 2, 1.0, False), Activation("leaky_relu", 0.1)),
            *(AveragePool(2, 2), AveragePool(3, 1)),
            Residual((Conv(3), Activation("erf"), Conv(3))),
        ),
        "flatten",
        (Dense(0.0, True), Activation("gelu"), Dense(0.5, True)),
    )


def test_chen2020_has_the_strides_of_the_release():
    """`chen2020` has seven 3 x 3 convolutions, strides at the 4th and 6th, no ReLU at the end."""
    network = parse_architecture("chen2020")
    assert [conv.stride for conv in network.convs] == [1, 1, 1, 2, 1, 2, 1]
    assert [layer == RELU for layer in network.body] == [False, True] * 6 + [False]
    assert {conv.size for conv in network.convs} == {3}
    assert (network.readout, network.head) == ("flatten", (Dense(),))
    assert network.final_shape(32, 32) == (8, 8)


@pytest.mark.parametrize("depth", [2, 3, 21])
def test_arora_vanilla_trains_every_layer(depth):
    """`arora2019-vanilla-D` is D - 1 trained convolutions, a ReLU after each, then flatten."""
    network = parse_architecture(f"arora2019-vanilla-{depth}")
    assert network == Architecture((Conv(3), RELU) * (depth - 1), "flatten")


@pytest.mark.parametrize("depth", [3, 4, 21])
def test_arora_gap_fixes_both_ends(depth):
    """`arora2019-gap-D` does not train its first convolution and its last layer."""
    network = parse_architecture(f"arora2019-gap-{depth}")
    assert [conv.trained for conv in network.convs] == [False] + [True] * (depth - 2)
    assert network.head == (Dense(trained=False),)
    assert network.readout == "global_average_pool"


@pytest.mark.parametrize("base", ["chen2020", "arora2019-vanilla-5"])
def test_lap_pools_before_the_readout(base):
    """`-lap-W` adds the mean over W x W positions, of stride 1, and nothing else."""
    plain, pooled = (parse_architecture(name) for name in (base, f"{base}-lap-3"))
    assert pooled.body == (*plain.body, AveragePool(3, 1))
    assert (pooled.readout, pooled.head) == (plain.readout, plain.head)


@pytest.mark.parametrize(("depth", "groups"), [(5, (2, 1, 1)), (7, (2, 2, 2)), (10, (3, 3, 3))])
def test_myrtle_pools_down_to_one_pixel(depth, groups):
    """`myrtleD` has D - 1 convolutions in groups, and 2 x 2 pools from 32 x 32 down to 1 x 1."""
    network = parse_architecture(f"myrtle{depth}")
    assert len(network.convs) == depth - 1
    text = "".join("cp"[layer == AveragePool(2, 2)] for layer in network.body if layer != RELU)
    assert text == "p".join("c" * n for n in groups) + "ppp"
    assert all(network.body[i + 1] == RELU for i, x in enumerate(network.body) if x == Conv(3))
    assert network.final_shape(32, 32) == (1, 1)


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_fully_connected_has_dense_layers_alone(depth):
    """`fully-connected-D` is D dense layers on all pixels, a ReLU between two of them."""
    network = parse_architecture(f"fully-connected-{depth}")
    assert network.body == ()
    assert network.head == (Dense(), RELU) * (depth - 1) + (Dense(),)


NAMES = [
    *("chen2020", "chen2020-lap-2", "chen2020-lap-13", "arora2019-vanilla-2"),
    *("arora2019-vanilla-21", "arora2019-vanilla-6-lap-5", "arora2019-gap-3", "arora2019-gap-11"),
    *("myrtle5", "myrtle7", "myrtle10", "fully-connected-1", "fully-connected-4"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_found_again(name):
    """Each name, with -nngp behind it too, is that of its own list; others have no name."""
    for one in (name, f"{name}-nngp"):
        layers = parse_architecture(one).to_list()
        # One dense layer alone is the same architecture with both names.
        assert find_name(layers) == (name if name == "fully-connected-1" else one)
        assert find_name([CONV, *layers]) is None


@pytest.mark.parametrize("name", NAMES)
def test_nngp_trains_the_last_layer_alone(name):
    """`-nngp` fixes every layer but the last and changes nothing else."""
    network, fixed = parse_architecture(name), parse_architecture(f"{name}-nngp")
    assert fixed == network.nngp
    assert fixed.trained_layers == network.layer_names[-1:]
    texts = {json.dumps(one.to_list()).replace("false", "true") for one in (network, fixed)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("architecture", "digest"),
    [
        ("chen2020", "2db84b9dda5e64cc"),
        ("chen2020-nngp", "11b2493d78da51f3"),
        ("arora2019-vanilla-3", "e190847bdb9e8447"),
        ("arora2019-vanilla-21-nngp", "d86ee4131eb4e54f"),
        ("arora2019-gap-4", "2952b24ea6feb925"),
        ("arora2019-gap-11", "6fc2f50ba63d3cb7"),
        ([{"conv": {"size": 5, "stride": 2, "trained": False}}, *END], "70c0219820fb3414"),
    ],
)
def test_digests_do_not_change(architecture, digest):
    """The digest of an architecture is the same in every process and release."""
    assert parse_architecture(architecture).digest == digest


@settings(max_examples=300, deadline=None, derandomize=True)
@given(network=architectures())
def test_any_architecture_is_its_list(network):
    """What `to_list` spells out is read again as the same, and its shapes fit together."""
    assert parse_architecture(network.to_list()) == network
    assert parse_architecture(network) is network
    assert network.trained_layers
    shapes = network.shapes(9, 7)
    assert [shape.layer for shape in shapes if isinstance(shape.layer, Conv)] == [*network.convs]
    following = [*(shape[1:] for shape in shapes), network.final_shape(9, 7)]
    assert following[0] == (9, 7)
    for (layer, height, width), after in zip(shapes, following[1:], strict=True):
        assert after == (output_side(height, layer.stride), output_side(width, layer.stride))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one=architectures(), other=architectures())
def test_digests_are_of_the_architecture(one, other):
    """Two architectures have one digest if and only if they are equal."""
    assert (one.digest == other.digest) == (one == other)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(network=architectures())
def test_pointwise_and_nngp_are_architectures(network):
    """Both are what the grammar reads, unless nothing is left to train."""
    for other in (network.nngp, network.pointwise):
        if other.trained_layers:
            assert parse_architecture(other.to_list()) == other
    assert {conv.size * conv.stride for conv in network.pointwise.convs} <= {1}
    assert network.pointwise.n_hidden == network.n_hidden


def test_a_digest_does_not_depend_on_the_spelling():
    """Defaults spelt out, and another order of keys, give one digest."""
    short = [CONV, "relu", POOL, residual(CONV), *END]
    long = [
        {"conv": {"trained": True, "stride": 1, "bias": 0, "size": 3}},
        "relu",
        {"average_pool": {"stride": 2, "size": 2}},
        residual({"conv": {"size": 3, "bias": 0.0}}),
        "flatten",
        {"dense": {"trained": True}},
    ]
    assert parse_architecture(long).digest == parse_architecture(short).digest


def test_digests_tell_architectures_apart():
    """Each option of each layer, and the order of layers, change the digest."""
    lists = [
        [CONV, *END],
        [CONV, "relu", *END],
        [CONV, "erf", *END],
        [CONV, "gelu", *END],
        [CONV, {"leaky_relu": {"slope": 0.1}}, *END],
        [CONV, {"leaky_relu": {"slope": 0.2}}, *END],
        [{"conv": {"size": 5}}, *END],
        [{"conv": {"size": 3, "stride": 2}}, *END],
        [{"conv": {"size": 3, "trained": False}}, *END],
        [{"conv": {"size": 3, "bias": 0.1}}, *END],
        [CONV, "global_average_pool", "dense"],
        [CONV, "flatten", {"dense": {"trained": False}}],
        [CONV, "flatten", {"dense": {"bias": 0.1}}],
        [CONV, "flatten", "dense", "dense"],
        [CONV, CONV, *END],
        [CONV, residual(CONV), *END],
        [CONV, POOL, *END],
        [POOL, CONV, *END],
        [CONV, {"average_pool": {"size": 2, "stride": 1}}, *END],
    ]
    assert len({parse_architecture(layers).digest for layers in lists}) == len(lists)


def test_layers_have_names():
    """Convolutions are counted through branches; several dense layers are counted too."""
    layers = [CONV, residual("relu", CONV, "relu", {"conv": {"size": 3, "trained": False}}), CONV]
    network = parse_architecture([*layers, "flatten", "dense", "relu", "dense"])
    assert network.layer_names == ["conv1", "conv2", "conv3", "conv4", "dense1", "dense2"]
    assert network.trained_layers == ["conv1", "conv2", "conv4", "dense1", "dense2"]
    assert network.n_hidden == 5
    assert parse_architecture("fully-connected-1").layer_names == ["dense"]


def test_channels_fit_residuals():
    """A residual adds as many channels as it has, those of the last convolution before it."""
    network = parse_architecture([CONV, residual(CONV, residual(CONV), CONV), CONV, POOL, *END])
    network.check_channels([8, 5, 5, 8, 7])
    for channels, message in (
        ([8, 5, 5, 8], "4 numbers of channels, wanted 5: .*conv1, conv2, conv3, conv4, conv5"),
        ([8, 5, 8, 8, 7], r"ends in 8 channels \(conv3\), and its input has 5 \(conv2\)"),
        ([8, 5, 5, 5, 7], r"ends in 5 channels \(conv4\), and its input has 8 \(conv1\)"),
    ):
        with pytest.raises(ArchitectureError, match=message):
            network.check_channels(channels)
    with pytest.raises(ArchitectureError, match=r"wanted 0: .*none"):
        parse_architecture("fully-connected-1").check_channels([3])


FOLLOWS = "an activation follows a convolution"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("resnet", "unknown architecture 'resnet'.*myrtle10.*fully-connected-D.*-lap-W.*-nngp"),
        ("arora2019-vanilla-1", "D >= 2"),
        ("arora2019-gap-2", "D >= 3"),
        ("arora2019-gap-03", "unknown architecture"),
        ("arora2019-gap-4-lap-3", "unknown architecture"),
        ("chen2020-lap-1", "W >= 2"),
        ("chen2020-nngp-lap-3", "unknown architecture"),
        ("chen2020-nngp-nngp", "unknown architecture"),
        ("myrtle6", "unknown architecture"),
        ("fully-connected-0", "unknown architecture"),
        (3, "a name or a list of layers"),
        (None, "a name or a list of layers"),
        ([], "the list of layers is empty"),
        ([CONV], "no readout: put flatten or global_average_pool"),
        ([CONV, "relu"], "no readout"),
        ([CONV, "dense"], "no readout"),
        ([CONV, "flatten"], "ends in 'flatten': wanted 'dense'"),
        ([CONV, *END, "relu"], "ends in 'relu': wanted 'dense'"),
        ([CONV, "flatten", POOL], "ends in {'average_pool': .*: wanted 'dense'"),
        ([CONV, "flatten", "flatten", "dense"], "layer 2 is 'flatten', and layer 1 is a readout"),
        ([CONV, *END, "global_average_pool", "dense"], "layer 3 is 'global_average_pool', and"),
        ([CONV, "dense", *END], "layer 1 is 'dense': before the readout come"),
        (["relu", CONV, *END], f"layer 0 is 'relu': {FOLLOWS}"),
        ([POOL, "erf", CONV, *END], f"layer 1 is 'erf': {FOLLOWS}"),
        ([CONV, "relu", "gelu", *END], f"layer 2 is 'gelu': {FOLLOWS}"),
        ([CONV, POOL, {"leaky_relu": {"slope": 0}}, *END], f"layer 2 is 'leaky_relu': {FOLLOWS}"),
        ([CONV, "relu", residual(CONV), "relu", *END], f"layer 3 is 'relu': {FOLLOWS}"),
        ([CONV, "relu", residual("relu", CONV), *END], f"layer 2.0 is 'relu': {FOLLOWS}"),
        ([CONV, residual("erf", "erf", CONV), *END], f"layer 1.1 is 'erf': {FOLLOWS}"),
        ([residual(CONV), *END], "layer 0 is a residual of the pixels"),
        ([POOL, residual(CONV), *END], "layer 1 is a residual of the pixels"),
        ([CONV, residual(), *END], "layer 1 is a residual whose branch ends without"),
        ([CONV, residual(CONV, "relu"), *END], "layer 1 is a residual whose branch ends without"),
        ([CONV, residual(CONV, residual(CONV)), *END], "layer 1 is a residual whose branch ends"),
        ([CONV, residual(residual("relu"), CONV), *END], "layer 1.0 is a residual whose branch"),
        ([CONV, residual(POOL, CONV), *END], "layer 1.0 is a pool in a residual"),
        (
            [CONV, residual(WIDE, CONV), *END],
            "layer 1.0 is a convolution of stride 2 in a residual",
        ),
        ([CONV, residual("dense", CONV), *END], "layer 1.0 is 'dense'"),
        ([CONV, residual("flatten", CONV), *END], "layer 1: a residual holds no readout"),
        (
            [CONV, {"residual": CONV}, *END],
            "layer 1: a residual is a list of layers, found {'conv'",
        ),
        ([CONV, {"residual": "relu"}, *END], "layer 1: a residual is a list of layers"),
        ([CONV, residual("pool", CONV), *END], "layer 1.0 is 'pool': wanted 'relu'"),
        ([CONV, "flatten", "relu", "dense"], "layer 2 is 'relu': behind the readout"),
        (
            [CONV, "flatten", "dense", "relu", "erf", "dense"],
            "layer 4 is 'erf': behind the readout",
        ),
        ([CONV, "flatten", CONV, "dense"], "layer 2 is .*only dense layers and activations"),
        ([CONV, "flatten", POOL, "dense"], "layer 2 is .*only dense layers and activations"),
        ([CONV, "pool", *END], "layer 1 is 'pool': wanted 'relu', 'erf', .*{residual: ...."),
        ([{"conv": {"size": 3}, "relu": {}}, *END], "layer 0 is"),
        ([{3: 4}, *END], "layer 0 is {3: 4}"),
        ([{"conv": {"size": 4}}, *END], "size is 4, wanted an odd number"),
        ([{"conv": {"size": -1}}, *END], "wanted an odd number"),
        ([{"conv": {}}, *END], "layer 0: 'conv' has no size: give {conv: {size: ...}}"),
        ([{"conv": None}, *END], "'conv' has no size"),
        ([{"conv": {"size": "3"}}, *END], "size is '3', wanted a whole number"),
        ([{"conv": {"size": True}}, *END], "size is True, wanted a whole number"),
        ([{"conv": {"size": 3, "stride": 0}}, *END], "stride is 0, wanted 1 or more"),
        ([{"conv": {"size": 3, "trained": 1}}, *END], "trained is 1, wanted true or false"),
        ([{"conv": {"size": 3, "bias": -0.5}}, *END], "bias is -0.5, wanted 0 or more"),
        ([{"conv": {"size": 3, "bias": True}}, *END], "bias is True, wanted a number"),
        ([{"conv": {"size": 3, "bias": float("nan")}}, *END], "bias is nan, wanted a number"),
        ([{"conv": {"size": 3, "bias": 10**400}}, *END], "bias is 1000.*, wanted a number"),
        ([{"conv": {"size": 3, "strides": 2}}, *END], "no option 'strides', only size, stride"),
        ([{"conv": 3}, *END], "the options of 'conv' are no mapping: 3"),
        (
            [CONV, "leaky_relu", *END],
            "layer 1 is 'leaky_relu': wanted .*{leaky_relu: {slope: ...}}",
        ),
        ([CONV, {"leaky_relu": {}}, *END], "'leaky_relu' has no slope"),
        (
            [CONV, {"leaky_relu": {"slope": 1.5}}, *END],
            "slope is 1.5, wanted a number from -1 to 1",
        ),
        ([CONV, "average_pool", *END], "layer 1 is 'average_pool': wanted"),
        ([CONV, {"average_pool": {"stride": 2}}, *END], "'average_pool' has no size"),
        ([CONV, {"average_pool": {"size": 0}}, *END], "size is 0, wanted 1 or more"),
        ([CONV, {"average_pool": {"size": 2, "stride": None}}, *END], "stride is None, wanted"),
        ([CONV, "flatten", {"dense": {"size": 3}}], "no option 'size', only bias, trained"),
        (
            [{"conv": {"size": 3, "trained": False}}, "flatten", {"dense": {"trained": False}}],
            "no layer is trained",
        ),
    ],
)
def test_other_lists_are_refused(layers, message):
    """What the grammar does not know is refused with a message that says where."""
    with pytest.raises(ArchitectureError, match=message):
        parse_architecture(layers)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    network=architectures(),
    junk=st.recursive(
        st.one_of(
            st.none(),
            st.sampled_from(["relu", "dense", "flatten", "conv", "size", "", 0, 3, -1.5, True]),
        ),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["conv", "residual", "average_pool", "size"]), inner)
        ),
    ),
    data=st.data(),
)
def test_anything_else_is_accepted_or_refused(network, junk, data):
    """A list with anything in it is an architecture, or an error that says where."""
    layers = network.to_list()
    layers.insert(data.draw(st.integers(0, len(layers))), junk)
    try:
        found = parse_architecture(layers)
    except ArchitectureError:
        with pytest.raises(ArchitectureError, match="layer"):
            parse_architecture(layers)
    else:
        assert parse_architecture(found.to_list()) == found


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [
        (32, 3, 1, (1, 1)),
        (7, 3, 1, (1, 1)),
        (32, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (16, 5, 1, (2, 2)),
        (16, 5, 2, (1, 2)),
        (9, 5, 2, (2, 2)),
        (9, 1, 1, (0, 0)),
        (8, 1, 2, (0, 0)),
        (8, 3, 4, (0, 0)),
        (1, 3, 1, (1, 1)),
        (1, 5, 3, (2, 2)),
    ],
)
def test_same_padding_of_known_cases(side, size, stride, padding):
    """The zeros are placed as XLA and TensorFlow place them: an odd one comes after."""
    assert same_padding(side, size, stride) == padding


def test_same_padding_is_the_least_that_gives_every_output():
    """Padding is the smallest total for which ceil(side / stride) windows fit, split evenly."""
    for side, size, stride in itertools.product(range(1, 13), (1, 3, 5, 7), range(1, 5)):
        n_windows = output_side(side, stride)
        assert n_windows == len(range(0, side, stride))
        total = next(
            total
            for total in itertools.count()
            if len(range(0, side + total - size + 1, stride)) >= n_windows
        )
        before, after = same_padding(side, size, stride)
        assert (before + after, after - before) == (total, total % 2)
