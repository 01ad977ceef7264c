"""The architecture grammar, its names and digests, and the padding rule."""

import itertools

import pytest

from lantk.kernel.architecture import (
    Architecture,
    ArchitectureError,
    Conv,
    output_side,
    parse_architecture,
    same_padding,
)

CONV = {"conv": {"size": 3}}
END = ["flatten", "dense"]


def test_layers_are_read_with_their_defaults():
    """A convolution has stride 1 and is trained unless the list says otherwise."""
    layers = [CONV, "relu", {"conv": {"size": 5, "stride": 2, "trained": False}}, *END]
    assert parse_architecture(layers) == Architecture(
        (Conv(3, 1, True, relu=True), Conv(5, 2, False, relu=False)), "flatten", True
    )


def test_chen2020_has_the_strides_of_the_release():
    """`chen2020` has seven 3 x 3 convolutions, strides at the 4th and 6th, no ReLU at the end."""
    network = parse_architecture("chen2020")
    assert [conv.stride for conv in network.convs] == [1, 1, 1, 2, 1, 2, 1]
    assert [conv.relu for conv in network.convs] == [True] * 6 + [False]
    assert {conv.size for conv in network.convs} == {3}
    assert network.readout == "flatten"
    assert network.sides(32, 32)[-1] == (8, 8)


@pytest.mark.parametrize("depth", [2, 3, 21])
def test_arora_vanilla_trains_every_layer(depth):
    """`arora2019-vanilla-D` is D - 1 trained convolutions, a ReLU after each, then flatten."""
    network = parse_architecture(f"arora2019-vanilla-{depth}")
    assert network == Architecture((Conv(3, relu=True),) * (depth - 1), "flatten", True)


@pytest.mark.parametrize("depth", [3, 4, 21])
def test_arora_gap_fixes_both_ends(depth):
    """`arora2019-gap-D` does not train its first convolution and its last layer."""
    network = parse_architecture(f"arora2019-gap-{depth}")
    assert [conv.trained for conv in network.convs] == [False] + [True] * (depth - 2)
    assert not network.dense_trained
    assert network.readout == "global_average_pool"


@pytest.mark.parametrize(
    ("name", "digest"),
    [("chen2020", "2db84b9dda5e64cc"), ("arora2019-gap-11", "6fc2f50ba63d3cb7")],
)
def test_digests_do_not_change(name, digest):
    """The digest of an architecture is the same in every process and release."""
    assert parse_architecture(name).digest == digest


def test_a_digest_does_not_depend_on_the_spelling():
    """Defaults spelt out, another order of keys, and the parsed list itself give one digest."""
    short = [CONV, "relu", *END]
    long = [
        {"conv": {"trained": True, "stride": 1, "size": 3}},
        "relu",
        "flatten",
        {"dense": {"trained": True}},
    ]
    network = parse_architecture(short)
    assert parse_architecture(long).digest == network.digest
    assert parse_architecture(network.to_list()) == network
    assert parse_architecture(network) is network


def test_digests_tell_architectures_apart():
    """Filter size, stride, ReLU, readout and training each change the digest."""
    lists = [
        [CONV, *END],
        [CONV, "relu", *END],
        [{"conv": {"size": 5}}, *END],
        [{"conv": {"size": 3, "stride": 2}}, *END],
        [{"conv": {"size": 3, "trained": False}}, *END],
        [CONV, "global_average_pool", "dense"],
        [CONV, "flatten", {"dense": {"trained": False}}],
        [CONV, CONV, *END],
    ]
    assert len({parse_architecture(layers).digest for layers in lists}) == len(lists)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("resnet", "unknown architecture 'resnet'"),
        ("arora2019-vanilla-1", "D >= 2"),
        ("arora2019-gap-2", "D >= 3"),
        ("arora2019-gap-03", "unknown architecture"),
        (3, "a name or a list of layers"),
        ([], "no convolution"),
        (["relu", CONV, *END], "layer 0 is 'relu'"),
        ([CONV, "relu", "relu", *END], "layer 2 is 'relu'"),
        ([CONV, "dense", "flatten"], "layer 1 is 'dense'"),
        ([CONV, "flatten"], "must end with one readout"),
        ([CONV, "relu"], "must end with one readout"),
        ([CONV, "flatten", "flatten", "dense"], "must end with one readout"),
        ([CONV, *END, "relu"], "must end with one readout"),
        ([END[0], END[1]], "no convolution"),
        ([CONV, "pool", *END], "layer 1 is 'pool'"),
        ([{"conv": {"size": 3}, "relu": {}}, *END], "layer 0 is"),
        ([{"conv": {"size": 4}}, *END], "size is 4, wanted an odd number"),
        ([{"conv": {"size": -1}}, *END], "wanted an odd number"),
        ([{"conv": {}}, *END], "size is None"),
        ([{"conv": None}, *END], "size is None"),
        ([{"conv": {"size": "3"}}, *END], "size is '3', wanted a whole number"),
        ([{"conv": {"size": True}}, *END], "size is True, wanted a whole number"),
        ([{"conv": {"size": 3, "stride": 0}}, *END], "stride is 0, wanted 1 or more"),
        ([{"conv": {"size": 3, "trained": 1}}, *END], "trained is 1, wanted true or false"),
        ([{"conv": {"size": 3, "strides": 2}}, *END], "no option 'strides'"),
        ([{"conv": 3}, *END], "the options of 'conv' are"),
        ([CONV, "flatten", {"dense": {"size": 3}}], "no option 'size'"),
        (
            [
                {"conv": {"size": 3, "trained": False}},
                "flatten",
                {"dense": {"trained": False}},
            ],
            "no layer is trained",
        ),
    ],
)
def test_other_lists_are_refused(layers, message):
    """What the grammar does not know is refused with a message that says where."""
    with pytest.raises(ArchitectureError, match=message):
        parse_architecture(layers)


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
