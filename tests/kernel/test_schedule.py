"""Which displacements a kernel needs, in which order: against what positions really depend on."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel.random_architectures import architectures

from lantk.kernel.architecture import AveragePool, output_side, same_padding
from lantk.kernel.cpu.loops import make_scratch
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.plan import make_plans


def plan_of(architecture, height=32, width=32):
    (plan,) = make_plans([parse_architecture(architecture)], "ntk", height, width)
    return plan


def displacements(plan):
    """Return the displacements of the pixels that a plan runs."""
    runs = plan.schedule.runs
    first = runs[runs["level"] == 0]
    return sorted(zip(first["y"].tolist(), first["x"].tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "reach", "step"),
    [("chen2020", 0, 1), ("chen2020-lap-3", 8, 4), ("chen2020-lap-5", 16, 4), ("myrtle5", 31, 1)],
)
def test_named_architectures_run_the_planes_that_their_readouts_take(name, reach, step):
    """A local average after strides of 4 pixels takes (2 w - 1)^2 planes, so many pixels apart."""
    along = range(-reach, reach + 1, step)
    assert displacements(plan_of(name)) == sorted(product(along, along))


def test_the_cost_of_local_averages_is_that_of_their_positions():
    """Windows of 3 and 5 cost 18 and 42 times the pairs of positions of `chen2020`."""
    plain = plan_of("chen2020").n_visits
    assert plan_of("chen2020-lap-3").n_visits / plain == pytest.approx(18.06, abs=0.01)
    assert plan_of("chen2020-lap-5").n_visits / plain == pytest.approx(42.25, abs=0.01)


def needed_pairs(architecture, sides):
    """Return the displacements of pixels that a kernel depends on, traced back pair by pair."""
    shapes = architecture.shapes(*sides)
    ends = architecture.final_shape(*sides)
    places = list(product(*map(range, ends)))
    pooled = architecture.readout == "global_average_pool"
    pairs = {(p, q) for p in places for q in places if pooled or p == q}
    for layer, *shape in reversed(shapes):
        windows = {}
        for place in product(*(range(output_side(side, layer.stride)) for side in shape)):
            axes = []
            for at, side in zip(place, shape, strict=True):
                first = at * layer.stride - same_padding(side, layer.size, layer.stride)[0]
                axes.append([(a, first + a) for a in range(layer.size) if 0 <= first + a < side])
            windows[place] = list(product(*axes))
        before = set()
        for p, q in pairs:
            for (down, across), (below, beside) in product(windows[p], windows[q]):
                # A convolution sees both positions of a pair through the same weight.
                is_same = down[0] == below[0] and across[0] == beside[0]
                if is_same or isinstance(layer, AveragePool):
                    before.add(((down[1], across[1]), (below[1], beside[1])))
        pairs = before
    return {(q[0] - p[0], q[1] - p[1]) for p, q in pairs}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    architecture=architectures(max_side=5, max_layers=4, max_stride=2, residuals=False),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
)
def test_planes_are_those_that_the_readout_depends_on(architecture, height, width):
    """Nothing is left out, and nothing is run that no readout sees through its windows."""
    found = displacements(plan_of(architecture, height, width))
    wanted = needed_pairs(architecture, (height, width))
    assert len(found) == len(set(found))
    assert wanted <= set(found)
    # A window is taken for whole where an image is smaller than it.
    assume(all(min(h, w) >= layer.size for layer, h, w in architecture.shapes(height, width)))
    assert set(found) == wanted


@pytest.mark.parametrize(("side", "n_slots"), [(16, 60), (32, 100), (64, 200)])
def test_a_row_of_planes_waits_behind_a_pool_and_no_more(side, n_slots):
    """Sums behind pools take memory that grows with one side of the displacements, not with both.

    Of 32 x 32 images some 100 planes of a quarter of an image.
    """
    plan = plan_of("myrtle5", side, side)
    assert plan.schedule.n_slots <= n_slots
    slots = make_scratch(plan, "float32").slots
    assert slots.nbytes <= n_slots * (side // 2) ** 2 * 2 * 96 * 4


@settings(max_examples=40, deadline=None, derandomize=True)
@given(architecture=architectures(max_side=7), height=st.integers(1, 7), width=st.integers(1, 7))
def test_slots_are_filled_before_they_are_read_and_never_twice(architecture, height, width):
    """Every part of a plane is in its slot when it runs, and no slot is taken that is in use."""
    schedule = plan_of(architecture, height, width).schedule
    in_use = set()
    for run in schedule.runs:
        sources = set(schedule.sources[run["source"] : run["source_end"]].tolist())
        assert sources <= in_use
        assert bool(sources) == (run["level"] > 0)
        in_use -= sources
        for target in schedule.targets[run["target"] : run["target_end"]]:
            assert (target["slot"] in in_use) != target["is_new"]
            in_use.add(int(target["slot"]))
    assert not in_use
    assert np.unique(schedule.runs[["level", "y", "x"]]).size == len(schedule.runs)
