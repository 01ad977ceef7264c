"""Gram matrices that work trees share, by Snakemake's cache between workflows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from work_tree import copy_project

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
CONFIG = {
    "data": {"source": "npz", "path": "images.npz"},
    "task": {"pairs": [["a", "b"]], "n_train": None, "n_test": None},
    "architecture": ["arora2019-vanilla-3", "chen2020"],
    "kernel": {"bands": 2},
    "variants": ["cntk", "lantk-kr-v1"],
    "permutations": 1,
    "folds": 2,
    "cnn": {"seeds": []},
}
# Bands x (a record and a block for each architecture, the cost of all).
N_FILES = 2 * (2 * 2 + 1)


def tree_with_images(folder, source=ROOT):
    """Return a copy of the project with own images, of the same bytes and times in every copy."""
    copy_project(folder, source=source)
    write_images(folder)
    return folder


def write_images(folder, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, n in (("train", 24), ("test", 10)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 1, 6, 6), dtype=np.uint8)
        arrays[f"y_{part}"] = np.array(["a", "b"])[np.arange(n) % 2]
    np.savez(folder / "images.npz", **arrays)
    os.utime(folder / "images.npz", (1e9 + seed, 1e9 + seed))


def snakemake(tree, cache, *arguments, config=CONFIG, results="out/mine"):
    """Run the workflow of a tree with a cache; return what it printed."""
    (tree / "test.json").write_text(json.dumps(config | {"results": results}))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    environment["SNAKEMAKE_OUTPUT_CACHE"] = str(cache)
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "snakemake", "--configfile", "test.json", "--cache", "gram"]
    done = subprocess.run(
        [*command, "--cores", "2", *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout + done.stderr


def computed(results):
    """Return the bands that a results folder has computed itself: their logs say something."""
    return {log.stem for log in results.glob("logs/gram/*/*.log") if log.stat().st_size}


BANDS = {"1-of-2", "2-of-2"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return a tree that filled a cache, and the cache."""
    tree = tree_with_images(tmp_path_factory.mktemp("first tree"))
    cache = tmp_path_factory.mktemp("shared cache")
    snakemake(tree, cache, "out/mine/table.csv")
    assert computed(tree / "out/mine") == BANDS
    assert len(list(cache.iterdir())) == N_FILES
    return tree, cache


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """Return another tree, with another results folder, after its run with the same cache."""
    tree = tree_with_images(tmp_path_factory.mktemp("second tree"), first[0])
    snakemake(tree, first[1], "results/other/table.csv", results="results/other")
    return tree


def test_a_second_tree_computes_no_gram_matrix(first, second):
    """The same experiment elsewhere takes every band from the cache, and finds the same."""
    tree, cache = first
    assert computed(second / "results/other") == set()
    assert len(list(cache.iterdir())) == N_FILES
    blocks = sorted(path.relative_to(tree / "out/mine") for path in tree.rglob("grams/*/*.npy"))
    assert len(blocks) == 4
    for name in blocks:
        one, two = tree / "out/mine" / name, second / "results/other" / name
        assert one.read_bytes() == two.read_bytes()
        assert one.resolve() == two.resolve()
    table = (tree / "out/mine/table.csv").read_bytes()
    assert (second / "results/other/table.csv").read_bytes() == table


def test_the_cost_of_a_shared_band_is_known(first, second):
    """Time and memory of a band that came from the cache are those of the job that computed it."""
    tables = [pd.read_csv(first[0] / "out/mine/timings.csv")]
    tables.append(pd.read_csv(second / "results/other/timings.csv"))
    rows = [table[table["job"].str.startswith("gram/")] for table in tables]
    assert len(rows[0]) == 2
    pd.testing.assert_frame_equal(*rows)


def test_a_shared_band_is_whole_to_the_end(first, second):
    """A second run has nothing to do, and no job of the workflow writes into the cache."""
    before = {path: path.stat().st_mtime_ns for path in first[1].iterdir()}
    again = snakemake(second, first[1], "results/other/table.csv", results="results/other")
    assert "Nothing to be done" in again
    # A job that computes where a link is puts a file in its place.
    folder = second / "results/other"
    command = [sys.executable, "-m", "lantk", "gram", "--split", folder / "splits/a-b.npz"]
    command += ["--architecture", "chen2020", "--out", folder / "grams/a-b.chen2020"]
    subprocess.run([*command, "--band", "1-of-2"], cwd=second, check=True, capture_output=True)
    written = folder / "grams/a-b.chen2020/1-of-2.npy"
    assert not written.is_symlink()
    wanted = first[0] / "out/mine/grams/a-b.chen2020/1-of-2.npy"
    assert written.read_bytes() == wanted.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in first[1].iterdir()} == before


def change_code(tree):
    path = tree / "lantk/kernel/cpu/loops.py"
    path.write_text(path.read_text() + "# edited\n")


CHANGES = {
    "nothing": (lambda tree: None, CONFIG, set(), BANDS),
    "label terms and folds": (lambda tree: None, CONFIG | {"variants": ["cntk"]}, set(), BANDS),
    "an architecture": (lambda tree: None, CONFIG | {"architecture": "chen2020"}, BANDS, set()),
    "the images": (lambda tree: write_images(tree, seed=1), CONFIG, BANDS, set()),
    "the kernel's code": (change_code, CONFIG, BANDS, set()),
    "the bands": (lambda tree: None, CONFIG | {"kernel": {"bands": 1}}, {"1-of-1"}, set()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_same_matrix_comes_from_the_cache(first, tmp_path, change):
    """Another architecture, other images, code or bands are computed; label terms do not matter."""
    edit, config, written, obtained = CHANGES[change]
    tree = tree_with_images(tmp_path, first[0])
    edit(tree)
    output = snakemake(tree, first[1], "--dry-run", config=config)
    told = r"/([^/]+)\.json will be (written to|obtained from) global between-workflow cache"
    found = re.findall(told, output)
    assert {band for band, what in found if what == "written to"} == written
    assert {band for band, what in found if what == "obtained from"} == obtained


def test_damage_in_the_cache_is_noticed(first, tmp_path):
    """A block that changed in the cache is used nowhere; the message says what to delete there."""
    cache = tmp_path / "cache"
    shutil.copytree(first[1], cache)
    tree = tree_with_images(tmp_path / "tree", first[0])
    records = [f"out/mine/grams/a-b.chen2020/{band}.json" for band in sorted(BANDS)]
    snakemake(tree, cache, *records)
    assert computed(tree / "out/mine") == set()
    block = (tree / records[1]).with_suffix(".npy")
    whole = np.load(block)
    damaged = whole.copy()
    damaged[3, 5] += 1
    np.save(block.resolve(), damaged)
    command = [sys.executable, "-m", "lantk", "evaluate", "--variants", "cntk", "--case", "a"]
    command += ["--split", "out/mine/splits/a-b.npz", "--out", "evaluation", "--gram", *records]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the block has changed since it was written" in done.stderr
    name = done.stderr.rstrip().removesuffix(" there").rpartition("first delete ")[2]
    Path(name).unlink()
    snakemake(tree, cache, *records)
    assert computed(tree / "out/mine") == {"2-of-2"}
    np.testing.assert_array_equal(np.load(block), whole)
