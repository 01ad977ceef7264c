"""The exact kernel against golden values, closed forms and the readable reference.

The reference itself: `test_reference.py`.
"""

import json
import math

import numpy as np
import pytest
from golden_cases import GOLDEN, off_diagonal, read_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel.random_architectures import architectures

from lantk.kernel import reference
from lantk.kernel.architecture import AveragePool
from lantk.kernel.cpu.arc_cosine import coefficients
from lantk.kernel.gram import gram
from lantk.kernel.grammar import parse_architecture

# Add "layers" when `lantk.gram` computes them.
GOLDEN_FILES = ("kernels", "layers")
CASES = {name: case for file in GOLDEN_FILES for name, case in read_cases(file).items()}
FIXED_ENDS = json.loads((GOLDEN / "fixed_ends.json").read_text())

# What the arithmetic allows off the diagonal, in parts of a case's largest value.
TOLERANCES = {"float32": 2e-5, "float64": 1e-9}
# The golden diagonals have themselves lost digits.
DIAGONAL = 1e-7


def grid(*sides):
    """Return index arrays for images: image, channel, row, column."""
    return np.meshgrid(*map(np.arange, sides), indexing="ij")


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("name", CASES)
def test_golden_values(name, kernel):
    """Both kernels of every golden case, in both precisions, and no digit lost on the diagonal."""
    layers, x = CASES[name].layers, CASES[name].images
    wanted, slow = getattr(CASES[name], kernel), reference.gram(layers, x, kernel=kernel)
    network = parse_architecture(layers)
    reads_pairs = network.readout != "flatten" or any(
        isinstance(layer, AveragePool) for layer in network.body
    )
    for dtype, tolerance in TOLERANCES.items():
        fast = gram(layers, x, kernel=kernel, dtype=dtype)
        assert fast.dtype == dtype
        assert off_diagonal(fast, wanted) < tolerance
        # Our diagonal is exact, so it agrees with the reference beyond the golden digits; with
        # pools it has other planes too, which have rounded.
        rounding = (10 if reads_pairs else 2) * np.finfo(dtype).eps
        np.testing.assert_allclose(np.diag(fast), np.diag(slow), rtol=max(rounding, 1e-14))
        np.testing.assert_allclose(np.diag(fast), np.diag(wanted), rtol=DIAGONAL + rounding)


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_golden_values_with_fixed_ends(depth):
    """`arora2019-gap-D` leaves out the NTK of its first convolution and of its last layer."""
    i, c, u, w = grid(3, 3, 8, 8)
    x = np.sin(0.37 * (i + 1) * w + 0.11 * (c + 1) * u + 0.5 * i)
    x += 0.5 * np.cos(0.23 * u * (c + 1) - 0.19 * w * (i + 1) + c)
    wanted = np.array(FIXED_ENDS[f"depth{depth}"])
    fast = gram(f"arora2019-gap-{depth}", x, dtype="float64")
    np.testing.assert_allclose(fast, wanted, rtol=1e-9)
    np.testing.assert_allclose(gram(f"arora2019-gap-{depth}", x), wanted, rtol=2e-6)


def test_chen2020_on_waves():
    """`chen2020` on three images of sines has the values that its formula gives to 12 digits."""
    s, c, u, w = grid(3, 3, 32, 32)
    x = np.sin(0.1 * (s + 1) * u + 0.17 * w * (c + 1) + 0.3 * s)
    x *= np.cos(0.05 * u * w / (s + 1) + c)
    wanted = [
        [0.021955929527, 0.008567705884, 0.008505616564],
        [0.008567705884, 0.022960315704, 0.009251530749],
        [0.008505616564, 0.009251530749, 0.021574831863],
    ]
    np.testing.assert_allclose(gram("chen2020", x, dtype="float64"), wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(gram("chen2020", x), wanted, rtol=2e-7)
    np.testing.assert_allclose(reference.gram("chen2020", x), wanted, rtol=0, atol=1e-12)


def test_the_named_architecture_is_the_golden_one():
    """The name `chen2020` and the golden layer list are the same architecture."""
    assert parse_architecture("chen2020") == parse_architecture(CASES["chen2020"].layers)


def test_one_pixel_in_closed_form():
    """One relu convolution of size 1 on one pixel is the two-layer NTK formula of an angle."""
    a, b = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    layers = [{"conv": {"size": 1}}, "relu", "flatten", "dense"]
    norm = math.sqrt(a @ a) * math.sqrt(b @ b) / 2
    t = math.acos(a @ b / (2 * norm))
    nngp = norm * (math.sin(t) + (math.pi - t) * math.cos(t)) / (2 * math.pi)
    ntk = nngp + a @ b / 2 * (math.pi - t) / (2 * math.pi)
    x, y = a.reshape(1, 2, 1, 1), b.reshape(1, 2, 1, 1)
    for kernel, wanted in (("nngp", nngp), ("ntk", ntk)):
        assert gram(layers, x, y, kernel=kernel, dtype="float64")[0, 0] == pytest.approx(
            wanted, rel=1e-14
        )
        assert reference.gram(layers, x, y, kernel=kernel)[0, 0] == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize(
    ("dtype", "errors"), [("float32", (8e-8, 6e-8)), ("float64", (2e-15,) * 2)]
)
def test_the_polynomials_are_the_arc_cosine(dtype, errors):
    """P and Q give an angle and the bulge of a ReLU to the errors that are stated for them."""
    a = np.linspace(0, 0.999, 500)
    t, u = np.arccos(a), np.sqrt(1 - a)
    p_even, p_odd, q_even, q_odd = (
        np.polyval(np.array(powers, np.float64), a * a) for powers in coefficients(dtype)[:4]
    )
    np.testing.assert_allclose(u * (p_even + a * p_odd), t / np.pi, atol=errors[0], rtol=0)
    bulge = (np.sqrt(1 - a * a) - t * a) / np.pi
    np.testing.assert_allclose((1 - a) * u * (q_even + a * q_odd), bulge, atol=errors[1], rtol=0)
    a = np.geomspace(1e-9, 0.5, 500)
    arcsine = a * np.polyval(np.array(coefficients(dtype)[4], np.float64), a * a)
    np.testing.assert_allclose(arcsine, np.arcsin(a) / np.pi, rtol=errors[1])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    architecture=architectures(max_side=7),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.integers(3, 5),
    kernel=st.sampled_from(["ntk", "nngp"]),
    seed=st.integers(0, 2**16),
)
def test_compiled_code_agrees_with_the_reference(
    architecture, height, width, channels, kernel, seed
):
    """Any layers on images of any shape, some with black patches, some equal, cut in any way."""
    x = np.random.default_rng(seed).normal(size=(5, channels, height, width))
    x[1, :, : height // 2] = 0
    x[3] = x[0]
    x[4] = x[0] + 0.5
    wanted = reference.gram(architecture, x, kernel=kernel)
    for dtype, tolerance in TOLERANCES.items():
        options = {"kernel": kernel, "dtype": dtype, "layout": "channels_first"}
        found = gram(architecture, x, **options)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
        assert (found == found.T).all()
        assert found[0, 0] == found[3, 3] == found[0, 3]
        np.testing.assert_array_equal(gram(architecture, x[2:], x, **options), found[2:])
        np.testing.assert_array_equal(gram(architecture, x, x[:1], **options), found[:, :1])


@pytest.mark.parametrize("readout", ["flatten", "global_average_pool"])
@pytest.mark.parametrize("strides", [(2**31, 2**32), (3 * 10**9, 7), (2**32, 2**32)])
def test_strides_beyond_any_image(readout, strides):
    """A stride longer than the image leaves one position, however long it is."""
    layers = []
    for stride in strides:
        layers += [{"conv": {"size": 3, "stride": stride}}, "relu"]
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
    network = [*layers, readout, "dense"]
    wanted = reference.gram(network, x)
    assert wanted.min() > 0
    np.testing.assert_allclose(gram(network, x, dtype="float64"), wanted, rtol=1e-9)


@pytest.mark.parametrize(("size", "depth", "side"), [(3, 40, 1), (7, 25, 1), (101, 20, 4)])
def test_filters_that_hang_over_the_image(size, depth, side):
    """Positions outside the image shrink a deep kernel, which float32 then still holds."""
    layers = [{"conv": {"size": size}}, "relu"] * depth + ["flatten", "dense"]
    x = np.random.default_rng(0).normal(size=(3, 2, side, side)) * 1e19
    wanted = reference.gram(layers, x)
    assert wanted.min() > np.finfo(np.float32).tiny
    np.testing.assert_allclose(gram(layers, x), wanted, rtol=1e-4)


@pytest.mark.parametrize("readout", ["flatten", "global_average_pool"])
def test_grey_images(readout):
    """One channel works, where the first covariances are products of two numbers."""
    layers = [{"conv": {"size": 3}}, "relu", {"conv": {"size": 3, "stride": 2}}, "relu"]
    layers += [readout, "dense"]
    x = np.random.default_rng(0).normal(size=(3, 1, 7, 6))
    wanted = reference.gram(layers, x)
    np.testing.assert_allclose(gram(layers, x, dtype="float64"), wanted, rtol=1e-9)
    np.testing.assert_allclose(gram(layers, x), wanted, rtol=1e-5)
