"""The readable reference against golden values, and the activations against quadrature."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from golden_cases import GOLDEN, off_diagonal, read_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from random_architectures import architectures
from scipy.special import erf, ndtr

from lantk.kernel import reference
from lantk.kernel.activations import activate, variance
from lantk.kernel.architecture import ACTIVATIONS, Activation
from lantk.kernel.grammar import parse_architecture

CASES = read_cases("kernels") | read_cases("layers")
FIXED_ENDS = json.loads((GOLDEN / "fixed_ends.json").read_text())
# The golden diagonals have themselves lost digits.
DIAGONAL = 1e-7
KINDS = [Activation(kind, 0.3 if kind == "leaky_relu" else 0.0) for kind in ACTIVATIONS]
SQRT_PI = math.sqrt(math.pi)


def function_of(activation, x):
    """Return f(x) and f'(x)."""
    match activation.kind:
        case "erf":
            return erf(x), 2 / SQRT_PI * np.exp(-(x**2))
        case "gelu":
            return x * ndtr(x), ndtr(x) + x * np.exp(-(x**2) / 2) / (math.sqrt(2) * SQRT_PI)
    return np.where(x > 0, x, activation.slope * x), np.where(x > 0, 1.0, activation.slope)


def expectations(activation, v, w, c):
    """Return E f(a) f(b) and E f'(a) f'(b) of Gaussians of correlation c, by quadrature.

    In polar coordinates the kinks lie at four angles, between which all is smooth.
    """
    nodes, weights = leggauss(100)
    radius, of_radius = 6 * (nodes + 1), 6 * weights
    density = of_radius * radius * np.exp(-(radius**2) / 2) / (2 * math.pi)
    angle = math.acos(c)
    kinks = sorted(
        (kink + math.pi / 2) % (2 * math.pi) for kink in (0, math.pi, angle, angle + math.pi)
    )
    total = np.zeros(2)
    for start, stop in pairwise([*kinks, kinks[0] + 2 * math.pi]):
        middle, half = (start + stop) / 2, (stop - start) / 2
        phi = middle + half * nodes
        a = function_of(activation, math.sqrt(v) * np.outer(np.cos(phi), radius))
        b = function_of(activation, math.sqrt(w) * np.outer(np.cos(phi - angle), radius))
        total += [half * weights @ (f * g) @ density for f, g in zip(a, b, strict=True)]
    return total


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("name", CASES)
def test_golden_values(name, kernel):
    """Both kernels of every golden case, of all layers there are."""
    case = CASES[name]
    found, wanted = reference.gram(case.layers, case.images, kernel=kernel), getattr(case, kernel)
    assert off_diagonal(found, wanted) < 1e-9
    np.testing.assert_allclose(np.diag(found), np.diag(wanted), rtol=DIAGONAL)


def test_the_golden_layers_hold_every_layer():
    """Nothing that the grammar knows is missing among the golden cases."""
    text = " ".join(json.dumps(case.layers) for case in CASES.values())
    kinds = [*ACTIVATIONS, "average_pool", "residual", "bias", "flatten", "global_average_pool"]
    assert not [kind for kind in kinds if f'"{kind}"' not in text]


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_golden_values_with_fixed_ends(depth):
    """`arora2019-gap-D` leaves out the NTK of its first convolution and of its last layer."""
    i, c, u, w = np.meshgrid(*map(np.arange, (3, 3, 8, 8)), indexing="ij")
    x = np.sin(0.37 * (i + 1) * w + 0.11 * (c + 1) * u + 0.5 * i)
    x += 0.5 * np.cos(0.23 * u * (c + 1) - 0.19 * w * (i + 1) + c)
    found = reference.gram(f"arora2019-gap-{depth}", x)
    np.testing.assert_allclose(found, np.array(FIXED_ENDS[f"depth{depth}"]), rtol=1e-9)


@pytest.mark.parametrize("c", [-1.0, -0.7, 0.0, 0.4, 0.999, 1.0])
@pytest.mark.parametrize(("v", "w"), [(1.0, 1.0), (0.02, 3.0), (6.0, 4.0)])
@pytest.mark.parametrize("activation", KINDS, ids=ACTIVATIONS)
def test_activations_are_expectations_over_gaussians(activation, v, w, c):
    """S and the factor of T are E f(a) f(b) and E f'(a) f'(b), for any variances and covariance."""
    found = activate(activation, c * math.sqrt(v * w), 1.0, v, w)
    wanted = expectations(activation, v, w, c)
    # Rounding of S costs an angle near 0 half of its digits.
    tolerance = 2e-8 if abs(c) == 1 else 1e-11
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", KINDS, ids=ACTIVATIONS)
def test_equal_positions_are_exact(activation):
    """Where both sides are one position, S is its variance whatever S has rounded to."""
    v = np.array([1e-30, 1e-3, 0.7, 1.0, 50.0, 1e6])
    wanted = np.array([expectations(activation, one, one, 1.0) for one in v])
    for s in (v, v * (1 - 1e-12), v * (1 + 1e-12)):
        found = np.transpose(activate(activation, s, 1.0, v, v, True))
        np.testing.assert_allclose(found[:, 0], variance(activation, v), rtol=1e-15)
        smooth = v < 10  # beyond, erf and gelu bend within a node of the quadrature
        np.testing.assert_allclose(found[smooth], wanted[smooth], rtol=1e-11)
        if activation.kind in ("relu", "leaky_relu"):
            np.testing.assert_allclose(found[:, 1], wanted[:, 1], rtol=1e-14)


@pytest.mark.parametrize("activation", KINDS, ids=ACTIVATIONS)
def test_black_patches_have_no_kernel(activation):
    """A variance of 0 gives S = 0, no NaN and no warning."""
    v, w = np.array([0.0, 0.0, 2.0]), np.array([0.0, 1.0, 0.0])
    s, t = activate(activation, np.zeros(3), np.zeros(3), v, w, [True, False, False])
    assert not s.any()
    assert not t.any()
    assert variance(activation, 0.0) == 0


def test_known_values_of_activations():
    """Relu halves a variance, leaky relu of slope 1 changes nothing, erf is an arcsine."""
    relu, line = Activation("relu"), Activation("leaky_relu", 1.0)
    assert activate(relu, 0.0, 1.0, 1.0, 1.0) == pytest.approx((1 / (2 * math.pi), 1 / 4))
    assert variance(relu, 3.0) == 1.5
    np.testing.assert_allclose(activate(line, [0.3, -0.2], 2.0, 1.0, 0.5), [[0.3, -0.2], [2, 2]])
    erf_of_one = 2 / math.pi * math.asin(2 / 3)
    assert variance(Activation("erf"), 1.0) == pytest.approx(erf_of_one, rel=1e-15)


def test_the_fully_connected_network_is_the_dot_product_kernel():
    """`fully-connected-3` on vectors repeats the arc-cosine kernel of their angle."""
    a, b = np.array([1.0, 2.0, -1.0]), np.array([0.5, 1.0, 3.0])
    v, w, s = a @ a / 3, b @ b / 3, a @ b / 3
    t = s
    for _ in range(2):
        angle, scale = math.acos(s / math.sqrt(v * w)), math.sqrt(v * w)
        s = scale * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
        t = s + t * (math.pi - angle) / (2 * math.pi)
        v, w = v / 2, w / 2
    found = reference.entry("fully-connected-3", a[:, None, None], b[:, None, None])
    assert found == pytest.approx((s, t), rel=1e-14)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    network=architectures(max_side=6),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_any_network_has_a_kernel(network, height, width, seed):
    """Gram matrices are symmetric and positive semi-definite; the NTK holds what NNGP training has.

    A trained last layer alone gives the NNGP kernel, and every trained layer adds to the NTK.
    """
    x = np.random.default_rng(seed).normal(size=(4, 3, height, width))
    x[1, :, : height // 2] = 0
    x[3] = x[0]
    ntk, nngp = (reference.gram(network, x, kernel=kernel) for kernel in ("ntk", "nngp"))
    for k in (ntk, nngp):
        scale = np.abs(k).max()
        np.testing.assert_allclose(k, k.T, rtol=0, atol=1e-13 * scale)
        np.testing.assert_array_equal(k[:, 0], k[:, 3])
        assert np.linalg.eigvalsh(k).min() > -1e-12 * scale
    np.testing.assert_allclose(reference.gram(network.nngp, x), nngp, rtol=1e-12)
    last = network.denses[-1].trained
    assert np.linalg.eigvalsh(ntk - last * nngp).min() > -1e-7 * np.abs(ntk).max()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(network=architectures(max_side=5), scale=st.sampled_from([0.25, 3.0]))
def test_homogeneous_networks(network, scale):
    """`is_homogeneous` says whether K(x, c x') is c K(x, x') for c > 0."""
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    k, scaled = reference.gram(network, x[:1], x[1:]), reference.gram(network, x[:1], scale * x[1:])
    if network.is_homogeneous:
        np.testing.assert_allclose(scaled, scale * k, rtol=1e-9, atol=1e-13 * np.abs(k).max())
    elif np.abs(k).max() > 0:
        assert abs(scaled - scale * k).max() > 1e-9 * np.abs(k).max()


def test_a_pool_of_one_pixel_is_none():
    """A window of one pixel changes nothing, one over the whole image is global average pooling."""
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
    body = [{"conv": {"size": 3}}, "relu"]
    pool = {"average_pool": {"size": 1}}
    without = reference.gram([*body, "flatten", "dense"], x)
    np.testing.assert_allclose(
        reference.gram([*body, pool, "flatten", "dense"], x), without, rtol=1e-13
    )
    window = {"average_pool": {"size": 5, "stride": 5}}
    of_all = reference.gram([*body, "global_average_pool", "dense"], x)
    # Behind a window over the whole image there is one position; zeros beyond it count.
    found = reference.gram([*body, window, "flatten", "dense"], x)
    np.testing.assert_allclose(found, of_all * (20 / 25) ** 2, rtol=1e-13)


def test_the_pointwise_network_needs_no_positions():
    """On images of one pixel the pointwise network is the network without its pools."""
    x = np.random.default_rng(0).normal(size=(3, 6, 1, 1))
    network = parse_architecture("chen2020-lap-3")
    layers = [{"conv": {"size": 1}}, "relu"] * 6 + [{"conv": {"size": 1}}, "flatten", "dense"]
    assert network.pointwise == parse_architecture(layers)
    np.testing.assert_allclose(
        reference.gram(network.pointwise, x), reference.gram(layers, x), rtol=1e-14
    )
