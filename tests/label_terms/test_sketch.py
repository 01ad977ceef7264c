"""The sketch of least squares: its definition, its laws, its agreement with the exact fit."""

import importlib
import json
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from PIL import Image
from scipy.linalg import hadamard

from lantk.label_terms import sketch as sketch_module
from lantk.label_terms.sketch import (
    SketchError,
    draw_projection,
    sketch,
    sketched_normal_equations,
    walsh_hadamard,
)

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def random_columns(n_columns, n_rows, seed=0):
    """Return columns of different scales, and their seed's generator."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_columns, n_rows)) * np.logspace(0, 3, n_columns)[:, None]


def cut(columns, length):
    return (columns[:, i : i + length] for i in range(0, columns.shape[1], length))


def dense_projection(p):
    """Return P over its first d columns, after a look at the cells that are filled."""
    dense = np.zeros((p.n_sketched, p.n_rows))
    dense[p.rows, p.coordinates] = p.values
    assert np.count_nonzero(dense) == len(p.values), "no cell is drawn twice"
    return dense


@pytest.mark.parametrize("n_bits", range(11))
def test_walsh_hadamard_is_the_hadamard_matrix(n_bits):
    """The transform in place is the product with the Hadamard matrix, for odd and even powers."""
    values = np.random.default_rng(0).normal(size=2**n_bits)
    wanted = hadamard(2**n_bits) @ values
    walsh_hadamard(values)
    np.testing.assert_allclose(values, wanted, atol=1e-12)


@pytest.mark.parametrize("run", [2**4, 2**6, 2**18])
@pytest.mark.parametrize("length", [1, 50, 900])
@pytest.mark.parametrize("n_rows", [256, 300, 900])
def test_streamed_sketch_equals_its_definition(run, length, n_rows, monkeypatch):
    """Runs and blocks of any length give P H D F / sqrt(k d), H in full and F padded with zeros."""
    monkeypatch.setattr(sketch_module, "RUN", run)
    columns = random_columns(3, n_rows)
    p = draw_projection(n_rows, 3, seed=1, epsilon=0.15)
    size = 1 << (n_rows - 1).bit_length()
    width = min(run, size)
    signs = np.concatenate([p.signs(i, width) for i in range(size // width)])[:n_rows]
    h = hadamard(size)[:n_rows, :n_rows]
    wanted = dense_projection(p) @ (h @ (signs * columns).T) / np.sqrt(p.n_sketched * n_rows)
    found = sketch(cut(columns, length), p, 3)
    np.testing.assert_allclose(found.T, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


def test_normal_equations_are_those_of_the_sketch():
    """Features and several targets give F^T F and F^T t of one sketch."""
    columns = random_columns(5, 1000)
    p = draw_projection(1000, 4, seed=2, epsilon=0.1)
    s = sketch([columns], p, 5)
    found = sketched_normal_equations([columns], 1000, 3, seed=2, epsilon=0.1, n_targets=2)
    np.testing.assert_allclose(found, s @ s[:3].T, rtol=1e-10, atol=1e-6)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1000, 11), (24025, 11), (10**8, 21)])
def test_projection_has_the_stated_distribution(n_rows, n_columns):
    """P has k rows, a share q of nonzero cells all over its first d columns, variance 1/q."""
    epsilon = 0.1 if n_rows == 1000 else 0.01
    k = int(np.log(n_columns) / epsilon**2)
    q = np.log(n_columns) ** 2 / n_rows
    for seed in range(5):
        p = draw_projection(n_rows, n_columns, seed=seed, epsilon=epsilon)
        n_cells = k * n_rows
        assert p.n_sketched == k
        assert abs(len(p.values) - n_cells * q) < 5 * np.sqrt(n_cells * q)
        cells = p.rows * n_rows + p.coordinates
        assert (np.diff(cells) > 0).all()
        assert cells[-1] < n_cells
        # Spread evenly: gaps of 40 expectations have probability e^-40 each.
        assert np.diff(cells, prepend=0, append=n_cells).max() < 40 / q
        squares = q * p.values**2
        assert abs(squares.mean() - 1) < 5 * np.sqrt(2 / len(squares))
        assert abs(np.sqrt(q) * p.values.mean()) < 5 / np.sqrt(len(squares))


def test_signs_are_fair_and_differ_from_run_to_run():
    """Signs are -1 and +1 in equal shares, uncorrelated between runs and seeds."""
    p, other = (draw_projection(1000, 3, seed=s, epsilon=0.2) for s in (0, 1))
    drawn = [p.signs(0, 4096), p.signs(1, 4096), other.signs(0, 4096)]
    assert set(np.concatenate(drawn)) == {-1, 1}
    for i, a in enumerate(drawn):
        assert abs(a.mean(dtype=float)) < 5 / 64
        for b in drawn[:i]:
            assert abs(np.mean(a * b, dtype=float)) < 5 / 64


@pytest.mark.parametrize("kind", ["spread", "spike"])
def test_norms_are_kept_on_average(kind):
    """The squared norm of a sketched column is that of the column, also where one row has it all.

    N is 2048 here and d 1100, so P reads little more than half of the coordinates.
    """
    column = np.ones((1, 1100)) if kind == "spread" else np.eye(1, 1100, 7)
    ratios = []
    for seed in range(200):
        p = draw_projection(1100, 3, seed=seed, epsilon=0.1)
        ratios.append(float(np.square(sketch([column], p, 1)).sum() / np.square(column).sum()))
    error = np.std(ratios) / np.sqrt(len(ratios))
    assert error < 0.05
    assert abs(np.mean(ratios) - 1) < 4 * error


def test_agreement_with_exact_least_squares_is_as_stated():
    """The sketched fit is off by sqrt(p / k (1 + 3 / ln(m)^2)) of the residual, as stated."""
    p, n_rows = 5, 5000
    rng = np.random.default_rng(3)
    features = rng.normal(size=(p, n_rows))
    features[1] += 3 * features[0]
    target = features.sum(axis=0) + rng.exponential(size=n_rows) * 2
    exact = np.linalg.lstsq(features.T, target, rcond=None)[0]
    residual = np.sqrt(np.mean((target - exact @ features) ** 2))
    columns = np.vstack([features, target])
    found = []
    for epsilon in (0.2, 0.1, 0.05):
        errors = []
        for seed in range(24):
            products = sketched_normal_equations([columns], n_rows, p, seed=seed, epsilon=epsilon)
            fitted = np.linalg.solve(products[:p], products[p])
            errors.append(np.mean(((fitted - exact) @ features) ** 2))
        k = int(np.log(p + 1) / epsilon**2)
        stated = np.sqrt(p / k * (1 + 3 / np.log(p + 1) ** 2))
        # p x 24 squared normal deviates: their root mean square is 1 to about 0.07.
        assert 0.75 < np.sqrt(np.mean(errors)) / residual / stated < 1.25
        found.append(np.mean(errors))
    assert found == sorted(found, reverse=True)


def test_same_seed_same_bytes(monkeypatch):
    """The sketch is the same bytes for any cut into blocks and any threads, and another by seed."""
    monkeypatch.setattr(sketch_module, "RUN", 2**8)
    columns = random_columns(4, 1500)
    found = []
    for seed, length, threads in ((0, 1500, 1), (0, 1500, 3), (0, 77, 2), (1, 1500, 1)):
        monkeypatch.setattr(numba, "get_num_threads", lambda n=threads: n)
        blocks = cut(columns, length)
        found.append(sketched_normal_equations(blocks, 1500, 3, seed=seed, epsilon=0.1).tobytes())
    assert found[0] == found[1] == found[2] != found[3]


def test_blocks_are_left_alone():
    """The blocks that are read are not changed."""
    columns = random_columns(3, 512)
    before = columns.copy()
    sketch([columns], draw_projection(512, 3, seed=0, epsilon=0.1), 3)
    np.testing.assert_array_equal(columns, before)


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    """Eight bytes a column and row of a run, and what P takes, hold a matrix of any length."""
    monkeypatch.setattr(sketch_module, "RUN", 2**12)
    n_rows, block = 2**19 + 5, np.ones((3, 1))

    def run():
        blocks = (np.broadcast_to(block, (3, min(999, n_rows - i))) for i in range(0, n_rows, 999))
        return sketched_normal_equations(blocks, n_rows, 2, seed=0, epsilon=0.1)

    run()
    tracemalloc.start()
    try:
        run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8 * 3 * 2**12 + 100_000 < 3 * n_rows


@pytest.mark.parametrize(("n_features", "smallest"), [(10, 155), (20, 175)])
def test_too_few_rows_are_refused(n_features, smallest):
    """A sketch with as many rows as the matrix is refused, and the message says what n it takes."""
    message = rf"wanted at least 1 and fewer than .* take {smallest} images or more"
    with pytest.raises(SketchError, match=message):
        sketched_normal_equations([], (smallest - 1) ** 2, n_features, seed=0)
    found = draw_projection(smallest**2, n_features + 1, seed=0)
    assert 0.99 * smallest**2 < found.n_sketched < smallest**2


def test_a_sketch_of_no_rows_is_refused():
    """An epsilon so large that nothing is left is refused."""
    with pytest.raises(SketchError, match="would have 0 rows at epsilon = 2: wanted at least 1"):
        draw_projection(10**4, 11, seed=0, epsilon=2)


def test_blocks_that_are_not_the_matrix_are_refused():
    """Too few rows, too many, and other columns are said."""
    p = draw_projection(600, 3, seed=0, epsilon=0.1)
    for n_rows in (599, 601):
        with pytest.raises(SketchError, match=f"blocks of {n_rows} rows in all: wanted 600"):
            sketch([np.zeros((3, n_rows))], p, 3)
    with pytest.raises(SketchError, match=r"shape \(600, 3\): wanted \(3, any\)"):
        sketch([np.zeros((600, 3))], p, 3)


def test_the_study_of_agreement(tmp_path, monkeypatch):
    """The benchmark saves what it found of both label terms, a table and a figure."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = importlib.import_module("sketch")
    study.measure(24, tmp_path, epsilons=(0.2, 0.1), seeds=3)
    found = json.loads((tmp_path / "sketch.json").read_text())["results"]
    assert [(one["p"], one["k"]) for one in found] == [(10, 59), (10, 239), (20, 76), (20, 304)]
    for one in found:
        assert len(set(one["differences"])) == 3
        assert 0.3 < np.median(one["differences"]) / one["derived"] < 3
    assert "| lantk-fjlt-v2 | 0.1" in (tmp_path / "sketch.md").read_text()
    with Image.open(tmp_path / "sketch.png") as image:
        assert len(image.convert("L").getcolors()) > 2
