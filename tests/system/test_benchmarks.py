"""The benchmarks at tiny sizes: what they compare, fit and refuse; no time decides anything."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from work_tree import copy_project

pytestmark = pytest.mark.rest
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
bench, growth, memory, published, scaling, side_by_side = map(
    importlib.import_module, ("bench", "growth", "memory", "published", "scaling", "side_by_side")
)
Case, Series = side_by_side.Case, growth.Series

GAP = [{"conv": {"size": 3}}, "relu"] * 2 + ["global_average_pool", "dense"]
LAYERS = [
    {"conv": {"size": 3, "bias": 0.1}},
    {"leaky_relu": {"slope": 0.2}},
    {"average_pool": {"size": 3, "stride": 2}},
    {"conv": {"size": 3}},
    {"residual": ["relu", {"conv": {"size": 3}}]},
    *("gelu", "flatten", "dense", "erf", {"dense": {"bias": 0.2}}),
]
CASES = [
    Case("flat", "chen2020", 8, peer_blocks=(2, 4), blocks_per_round=3, rounds=2, side=8),
    Case("pooled", GAP, 2, 4, peer_blocks=(2,), rounds=2, floor=1e-3, side=6),
    Case("layers", LAYERS, 2, 4, peer_blocks=(2,), rounds=2, side=6),
]
PEER_PYTHON = bench.ROOT / ".cache" / "peer" / "bin" / "python"


def read(folder: Path, name: str) -> list[dict]:
    """Return the results in NAME.json, after a look at the table and the figure beside it."""
    text = (folder / f"{name}.md").read_text()
    saved = json.loads((folder / f"{name}.json").read_text())
    assert f"code {saved['machine']['code']}" in text
    assert "numba " in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(saved["results"]) + 2
    with Image.open(folder / f"{name}.png") as image:
        assert len(image.convert("L").getcolors()) > 2
    assert len(list(folder.iterdir())) == 3
    return saved["results"]


@pytest.mark.parametrize(
    ("python", "name"),
    [
        (sys.executable, "reference"),
        pytest.param(
            PEER_PYTHON,
            "neural-tangents",
            marks=pytest.mark.skipif(
                not PEER_PYTHON.exists(),
                reason="neural-tangents is not installed: make benchmark installs it",
            ),
        ),
    ],
)
def test_side_by_side(python, name, tmp_path):
    """In turns with a peer that gives the same values, every rate and ratio is saved."""
    side_by_side.compare(CASES, python, name, 1, tmp_path)
    flat, pooled, layers = read(tmp_path, "side-by-side")
    assert set(flat["peer_blocks_tried"]) == {"2", "4"}
    assert pooled["peer_block"] == 2
    for found, shared in ((flat, 36 / 64), (pooled, 1), (layers, 1)):
        assert np.less_equal(found["differences"], side_by_side.TOLERANCES).all()
        ours, theirs = np.array(found["computed_rates"]), np.array(found["peer_rates"])
        assert found["ratios_computed"] == pytest.approx(ours / theirs)
        assert found["ratios_delivered"] == pytest.approx(ours / theirs / shared)
        assert len(ours) == 2
        assert (theirs > 0).all()


def test_values_that_differ_are_refused(tmp_path, monkeypatch):
    """A peer whose values are off by two thousandths ends the comparison with a message."""
    compute = side_by_side.Peer.compute

    def compute_wrongly(*arguments):
        seconds, values = compute(*arguments)
        return seconds, values * 1.002

    monkeypatch.setattr(side_by_side.Peer, "compute", compute_wrongly)
    with pytest.raises(SystemExit, match=r"pooled: values differ by .* wanted at most"):
        side_by_side.compare(CASES[1:2], sys.executable, "reference", 1, tmp_path)


@pytest.mark.parametrize("case", [*CASES, *side_by_side.CASES], ids=lambda case: case.name)
def test_blocks_cover_the_matrix(case):
    """The blocks that a peer is given hold every entry of the matrix once, in pairs of images."""
    n_columns = case.n_columns or case.n_rows
    for size in case.peer_blocks:
        seen = np.zeros((case.n_rows, case.n_rows + case.n_columns), int)
        for top, bottom, left, right in case.blocks(size):
            assert (bottom - top, right - left) == (size, size)
            seen[top:bottom, left:right] += 1
        assert (seen[:, case.first_column :] == 1).all()
        assert seen.sum() == case.n_rows * n_columns


def test_a_peer_that_cannot_start_is_said(tmp_path, capfd):
    """A peer that ends before it answers ends the comparison with its status."""
    with pytest.raises(SystemExit, match="the peer ended with status 1"):
        side_by_side.Peer(sys.executable, "nobody", tmp_path)
    assert "nobody" in capfd.readouterr().err


def test_the_environment_is_made_once(tmp_path, monkeypatch):
    """The peer's environment is made when it is missing and when its pins change, else kept."""
    calls = []
    monkeypatch.setattr(
        side_by_side.subprocess,
        "run",
        lambda command, check: (calls.append(command), (tmp_path / "peer").mkdir(exist_ok=True)),
    )
    pins = tmp_path / "pins.txt"
    monkeypatch.setattr(side_by_side, "REQUIREMENTS", pins)
    for text, n_calls in (("a==1", 2), ("a==1", 2), ("a==2", 4)):
        pins.write_text(text)
        side_by_side.make_environment(tmp_path / "peer")
        assert len(calls) == n_calls


def test_the_environment_is_pinned():
    """Every requirement of the peer has one version."""
    lines = (BENCHMARKS / "peer-requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "neural-tangents==0.6.5" in pins
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in pins)


def test_times_beside_published_ones(tmp_path, monkeypatch):
    """Our times stand in one table with the published ones, hours as milliseconds an entry."""
    monkeypatch.setattr(published, "seconds_an_entry", lambda *_: [2e-5, 1e-5])
    published.measure(2, tmp_path)
    text = (tmp_path / "published.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    ours = "0.015 (0.0125 - 0.0175)"
    assert ["21 convolutions, flatten", ours, "0.12", "0.0152", "0.00465"] in rows
    assert ["myrtle5", ours, "-", "-", "0.632 (316 hours)"] in rows


def test_growth(tmp_path):
    """The times of both readouts are saved with their exponents."""
    series = [
        Series("entries", growth.FLATTEN, 1, n_convs=(1,), sides=(4,), shapes=((2, 0), (8, 0))),
        Series("convolutions", growth.FLATTEN, 1, n_convs=(1, 2), sides=(4,), shapes=((2, 0),)),
        Series("pixels", growth.GAP, 2, n_convs=(2,), sides=(4, 6), shapes=((2, 3),)),
    ]
    growth.measure(series, 1, 2, tmp_path)
    entries, convolutions, pixels = read(tmp_path, "growth")
    assert entries["sizes"] == [3, 36]
    assert convolutions["sizes"] == [1, 2]
    assert pixels["sizes"] == [16, 36]
    assert np.shape(pixels["seconds"]) == (2, 2)


@pytest.mark.parametrize("series", growth.SERIES, ids=lambda one: f"{one.panel}, {one.readout}")
def test_exponent_of_a_power_law(series, monkeypatch):
    """From times that follow a power law over a factor of 16 or more comes its exponent."""

    def cost(layers, side, shape, threads):
        rows, columns = shape
        entries = rows * columns or rows * (rows + 1) / 2
        positions = side ** (4 if growth.GAP in layers else 2)
        return 1e-9 * entries * positions * (len(layers) // 2 - 1)

    monkeypatch.setattr(growth, "seconds", cost)
    found = growth.run_series(series, 2, 3)
    assert found["sizes"][-1] >= 16 * found["sizes"][0]
    assert found["exponent"] == pytest.approx(series.expected)
    assert found["last_exponent"] == pytest.approx(series.expected)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc: Linux only"
)
def test_memory(tmp_path):
    """Each matrix is in its process's peak, which holds no more than what is listed and allowed."""
    memory.measure((64, 1536), (2**26,), tmp_path, side=4, threads=1)
    small, large = read(tmp_path, "memory")
    assert large["gram"] == 4 * 1536**2
    assert large["images"] == 4 * 1536 * 3 * 4**2
    assert large["peak"] - small["peak"] > large["gram"]
    assert small["peak"] >= small["baseline"] > 10 * memory.MIB


def test_too_much_memory_is_refused(tmp_path, monkeypatch):
    """A process that takes more than allowed ends the measurement with its numbers."""
    found = {"n": 5, "scratch_bytes": 10, "is_within": False, "beyond": 11}
    found |= {"gram": 1, "images": 1, "baseline": 1, "peak": 14}
    monkeypatch.setattr(memory, "run", lambda **_: found)
    with pytest.raises(SystemExit, match=r"more memory was taken than allowed.*'beyond': 11"):
        memory.measure((5,), (10,), tmp_path)


def test_scaling(tmp_path):
    """Plans, results and empty jobs are measured and saved; a label term more is two jobs more."""
    results = scaling.measure_plan("label terms", (1, 2), 1)
    first, again, _ = results
    assert [cost["jobs"] for cost in first.costs] == [25, 27]
    # A fit, three files of the term and six of its three shuffled ones, two logs, two benchmarks,
    # and the marks of two protocols.
    assert again.costs[1]["files"] - again.costs[0]["files"] == 13
    verbs = ("collect", "sync", "report")
    results += scaling.measure_results("runs", (2, 4), verbs) + scaling.measure_jobs((1, 2))
    assert all(cost["cpu"] > 0 and cost["memory"] > 0 for g in results for cost in g.costs)
    scaling.save(results, bench.describe_machine(1), tmp_path)
    saved = read(tmp_path, "scaling")
    assert [found["what"] for found in saved] == [growth.what for growth in results]


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_of_what_grows_beyond_the_start(power):
    """A constant, such as the start of a process, does not lower the exponent."""
    sizes = [0, 10, 100, 1000]
    found = scaling.Growth("x", "y", sizes, [{"cpu": 7 + 0.3 * n**power} for n in sizes])
    assert found.exponent() == pytest.approx(power)
    assert np.isnan(scaling.Growth("x", "y", sizes, [{"cpu": 7}] * 4).exponent())


def test_own_terms_with_equal_controls_share_a_rule(tmp_path):
    """Planning does not take more rules for more label terms, which would cost their square."""
    copy_project(tmp_path)
    terms = [f"many_terms:Term{i}" for i in range(4)]
    classes = [f"class Term{i}(Mean):\n    pass\n" for i in range(4)]
    (tmp_path / "many_terms.py").write_text("\n\n".join([scaling.OWN_TERMS, *classes]))
    config = scaling.plan_config(n_terms=4)
    config["variants"] = ["cntk", *terms, *(f"{term}-shuffled" for term in terms[:3])]
    (tmp_path / "plan.json").write_text(json.dumps(config))
    command = ["snakemake", "--configfile", "plan.json", "--dry-run"]
    done = scaling.run(command, tmp_path)
    jobs = dict(re.findall(r"^(evaluate_\w+) +(\d+)", done["text"], re.MULTILINE))
    assert jobs == {
        "evaluate_cntk": "1",
        "evaluate_own_term_shuffled": "3",
        "evaluate_own_term": "1",
    }
