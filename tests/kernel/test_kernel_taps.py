"""Several architectures in one walk: the bytes of separate walks, and no more walks than needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lantk.kernel import reference
from lantk.kernel.architecture import Activation, Architecture, AveragePool, Conv, Dense
from lantk.kernel.gram import gram, gram_taps
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.plan import make_plans

DEPTHS = (3, 4, 6, 11, 21)
ARORA = [f"arora2019-{kind}-{depth}" for depth in DEPTHS for kind in ("vanilla", "gap")]


def draw_images(n, height, width, seed=0):
    """Return n images of two channels, the first and the last of them equal, one half black."""
    x = np.random.default_rng(seed).normal(size=(n, 2, height, width))
    x[-1] = x[0]
    x[1, :, : height // 2] = 0
    return x


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_depths_of_arora2019_come_from_two_walks(kernel, dtype):
    """Five depths, each with both readouts, equal the ten kernels computed one by one."""
    plans = make_plans([parse_architecture(name) for name in ARORA], kernel, 32, 32)
    assert [len(plan.readouts) for plan in plans] == [5, 5]
    x = draw_images(4, 5, 4)
    found = gram_taps(ARORA, x, x[1:3], kernel=kernel, dtype=dtype)
    for k, name in zip(found, ARORA, strict=True):
        wanted = gram(name, x, x[1:3], kernel=kernel, dtype=dtype)
        assert k.tobytes() == wanted.tobytes()


RELU = Activation("relu")


@st.composite
def families(draw):
    """Draw architectures that begin alike: prefixes of one list, with readouts of their own."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        conv = Conv(draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3)))
        parts.append((conv, *[RELU] * draw(st.booleans())))
        if draw(st.integers(0, 3)) == 3:
            parts.append((AveragePool(draw(st.integers(1, 3)), draw(st.integers(1, 2))), Conv(3)))
    readouts = st.sampled_from(["flatten", "global_average_pool"])
    depths = draw(st.lists(st.integers(1, len(parts)), min_size=1, max_size=4))
    return [
        Architecture(
            sum(parts[:depth], ()) + (AveragePool(3, 1),) * draw(st.booleans()),
            draw(readouts),
            (Dense(trained=draw(st.booleans())),),
        )
        for depth in depths
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    architectures=families(),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kernel=st.sampled_from(["ntk", "nngp"]),
    seed=st.integers(0, 2**16),
)
def test_prefixes_give_the_bytes_of_separate_walks(architectures, height, width, kernel, seed):
    """Any prefixes, with strides and pools, share a walk without changing a byte."""
    x = draw_images(4, height, width, seed)
    assert len(make_plans(architectures, kernel, height, width)) <= 2
    for dtype, tolerance in (("float32", 2e-5), ("float64", 1e-9)):
        options = {"kernel": kernel, "dtype": dtype, "layout": "channels_first"}
        found = gram_taps(architectures, x, **options)
        for k, architecture in zip(found, architectures, strict=True):
            assert k.tobytes() == gram(architecture, x, **options).tobytes()
            slow = reference.gram(architecture, x, kernel=kernel)
            np.testing.assert_allclose(k, slow, rtol=0, atol=tolerance * np.abs(slow).max())


def test_windows_of_local_averages_come_from_one_walk():
    """`chen2020` and its local averages are read from the same layers."""
    names = ["chen2020", "chen2020-lap-3", "chen2020-lap-5"]
    assert len(make_plans([parse_architecture(name) for name in names], "ntk", 32, 32)) == 1
    x = draw_images(3, 16, 12)
    for name, k in zip(names, gram_taps(names, x), strict=True):
        assert k.tobytes() == gram(name, x).tobytes()


def test_networks_that_do_not_begin_alike_walk_apart():
    """Another filter, stride, ReLU, untrained layer or readout forbids a shared walk."""
    base = Architecture((Conv(3), RELU, Conv(3), RELU), "flatten")
    others = [
        Architecture((Conv(5), RELU), "flatten"),
        Architecture((Conv(3, 2), RELU), "flatten"),
        Architecture((Conv(3),), "flatten"),
        Architecture((Conv(3, trained=False), RELU), "flatten"),
        Architecture((Conv(3, bias=0.1), RELU), "flatten"),
        Architecture((Conv(3), Activation("erf")), "flatten"),
        Architecture((Conv(3), RELU), "global_average_pool"),
        Architecture((Conv(3), RELU), "flatten", (Dense(bias=0.1),)),
    ]
    for other in others:
        assert len(make_plans([base, other], "ntk", 8, 8)) == 2
    assert len(make_plans([others[0], base, base], "ntk", 8, 8)) == 2


@pytest.mark.parametrize(
    ("readout", "depth", "shape", "visits"),
    [("flatten", 2, (4, 6), 24 + 6 + 6), ("global_average_pool", 2, (4, 6), 24 * 6 + 6 * 6 * 2)],
)
def test_the_cost_of_an_entry_counts_pairs_of_positions(readout, depth, shape, visits):
    """A plan knows how many pairs of positions an entry visits: strides thin out the pairs."""
    layers = (Conv(3, 2), RELU, Conv(3), RELU)[: 2 * depth]
    (plan,) = make_plans([Architecture(layers, readout)], "ntk", *shape)
    assert plan.n_visits == visits


def test_progress_of_several_walks_counts_to_the_end_once():
    """`progress` sees growing counts that end at the number of entries, over all walks."""
    calls = []
    x = draw_images(100, 3, 3)
    gram_taps(ARORA[:4], x, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == (100 * 100, 100 * 100)


def test_results_can_be_written_into_arrays_of_the_caller(tmp_path):
    """`out` takes a memory map and is what is returned; another shape or dtype is refused."""
    x = draw_images(5, 4, 4)
    out = np.lib.format.open_memmap(tmp_path / "k.npy", "w+", "float32", (5, 5))
    assert gram("chen2020", x, out=out) is out
    np.testing.assert_array_equal(out, gram("chen2020", x))
    with pytest.raises(ValueError, match=r"wanted 1 of shape \(5, 3\) and dtype float32"):
        gram("chen2020", x, x[:3], out=out)
    with pytest.raises(ValueError, match="dtype float64"):
        gram("chen2020", x, dtype="float64", out=out)
    with pytest.raises(ValueError, match="no architecture is given"):
        gram_taps([], x)
    with pytest.raises(ValueError, match="'chen2020': wanted a list of architectures"):
        gram_taps("chen2020", x)
    with pytest.raises(ValueError, match="out has no arrays"):
        gram("chen2020", x, out=[[0.0]])
    with pytest.raises(ValueError, match="share memory"):
        gram_taps(["chen2020"] * 2, x, out=[out, out])
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        gram("chen2020", x, out=out)
