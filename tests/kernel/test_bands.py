"""Row bands: what they cover, how many there are, and that they are read as the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lantk.kernel.bands import (
    Band,
    BandError,
    assemble,
    count_bands,
    count_visits,
    find_band,
    name_bands,
    plan_bands,
)
from lantk.kernel.forecast import forecast_gram
from lantk.kernel.gram import gram, gram_band

LAYERS = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]


@settings(derandomize=True)
@given(n_train=st.integers(1, 60), n_test=st.integers(0, 40), data=st.data())
def test_bands_cover_every_row_once(n_train, n_test, data):
    """Any number of bands up to that of rows: none is empty, and each pair is computed once."""
    n_bands = data.draw(st.integers(1, n_train + n_test))
    bands = plan_bands(n_train, n_test, n_bands)
    assert len(bands) == n_bands
    assert [b.start for b in bands] == [0, *(b.stop for b in bands[:-1])]
    assert bands[-1].stop == n_train + n_test
    assert all(band.start < band.stop for band in bands)
    entries = [band.n_entries(n_train) for band in bands]
    assert sum(entries) == n_train * (n_train + 1) // 2 + n_test * n_train
    names = name_bands(n_bands)
    assert [find_band(name, n_train, n_test) for name in names] == bands


def test_bands_share_the_work():
    """Bands of a large job differ by a few percent in the entries that they compute."""
    entries = [band.n_entries(50_000) for band in plan_bands(50_000, 10_000, 17)]
    assert max(entries) < 1.1 * min(entries)


def test_the_number_of_bands_is_a_function_of_the_job():
    """A small job is one band, ten times the work ten times the bands; a GPU makes fewer."""
    visits = count_visits(["chen2020"], 32, 32)
    assert visits == 4 * 1024 + 2 * 256 + 2 * 64
    assert count_bands(40, 100, visits, "auto") == 1
    assert count_bands(10_000, 2_000, visits, "cpu") == 1
    large = count_bands(50_000, 10_000, visits, "cpu")
    assert large == count_bands(50_000, 10_000, visits, "auto") == 9
    assert count_bands(50_000, 10_000, 10 * visits, "cpu") == pytest.approx(10 * large, abs=10)
    assert count_bands(50_000, 10_000, visits, "cuda") == 1


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n_train=st.integers(1, 12), n_test=st.integers(0, 9), data=st.data())
def test_bands_are_read_as_the_whole(n_train, n_test, data):
    """However the rows are cut, the assembled matrices have the bytes of two direct calls."""
    x = np.random.default_rng(0).normal(size=(n_train + n_test, 1, 4, 3)).astype(np.float32)
    x_train, x_test = x[:n_train], x[n_train:]
    bands = plan_bands(n_train, n_test, data.draw(st.integers(1, n_train + n_test)))
    blocks = []
    for band in bands:
        block = np.full(band.shape(n_train), np.nan, np.float32)
        calls = []
        gram_band(
            [LAYERS], x_train, x_test, band, [block], progress=lambda *c, s=calls: s.append(c)
        )
        assert calls[-1] == (band.n_entries(n_train),) * 2
        blocks.append(block)
    order = data.draw(st.permutations(range(len(bands))))
    shuffled = [bands[i] for i in order], [blocks[i] for i in order]
    square, rest = assemble(*shuffled, n_train, n_test)
    assert square.tobytes() == gram(LAYERS, x_train).tobytes()
    if n_test:
        assert rest.tobytes() == gram(LAYERS, x_test, x_train).tobytes()


def test_bands_of_several_architectures_are_those_of_each():
    """One pass writes the bytes that each architecture has alone, and shared layers cost once."""
    names = ["arora2019-vanilla-3", "arora2019-gap-3", "arora2019-vanilla-5"]
    x = np.random.default_rng(0).normal(size=(7, 1, 4, 3)).astype(np.float32)
    for band in plan_bands(5, 2, 3):
        blocks = [np.full(band.shape(5), np.nan, np.float32) for _ in range(4)]
        gram_band(names, x[:5], x[5:], band, blocks[:3])
        for name, block in zip(names, blocks, strict=False):
            gram_band([name], x[:5], x[5:], band, blocks[3:])
            assert block.tobytes() == blocks[3].tobytes()
    costs = [count_visits([name], 4, 3) for name in names[1:]]
    assert count_visits(names, 4, 3) == sum(costs)


def test_one_band_stays_a_memory_map(tmp_path):
    """Matrices in one file are views of it; nothing is copied."""
    np.save(tmp_path / "k.npy", np.zeros((5, 3), np.float32))
    block = np.load(tmp_path / "k.npy", mmap_mode="r")
    for k in assemble([Band(0, 5, 0)], [block], 3, 2):
        assert np.shares_memory(k, block)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan_bands(3, 2, 6), r"6 bands for 5 rows \(3 train \+ 2 test images\)"),
        (lambda: plan_bands(3, 2, 0), "0 bands for 5 rows"),
        (lambda: plan_bands(0, 5, 2), "wanted train images"),
        (lambda: find_band("3-of-2", 5, 5), "band is '3-of-2': wanted a number and how many"),
        (lambda: find_band("x", 5, 5), "band is 'x'"),
        (lambda: assemble([Band(0, 2, 0)], [np.zeros((2, 3))], 3, 2), "each of 5 once"),
        (lambda: assemble([Band(0, 5, 0)], [np.zeros((4, 3))], 3, 2), r"wanted \(5, 3\)"),
        (
            lambda: assemble([Band(0, 3, 0), Band(2, 5, 0)], [np.zeros((3, 3))] * 2, 3, 2),
            "each of 5 once",
        ),
    ],
)
def test_what_is_no_set_of_bands_is_refused(call, message):
    """Too many bands, names of no band, and gaps or overlaps end in a message."""
    with pytest.raises(BandError, match=message):
        call()


def test_flips_take_four_times_as_long_and_a_band_more():
    """A forecast over flips has four times the seconds, and the memory of the band once more."""
    options = {"n_bands": 3, "rate": 50.0, "scratch_bytes": 1000}
    plain, flips = (
        forecast_gram("chen2020", 100, 20, (3, 8, 8), flips=f, **options).jobs
        for f in (False, True)
    )
    assert [job.band for job in plain] == plan_bands(100, 20, 3)
    for one, other in zip(plain, flips, strict=True):
        assert other.seconds == 4 * one.seconds == 4 * one.entries / 50
        assert other.memory_bytes - one.memory_bytes == one.file_bytes == other.file_bytes
