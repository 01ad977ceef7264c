"""Sources, class pairs and splits."""

import errno
import functools
import hashlib
import http.server
import io
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from lantk import scaling
from lantk.data import splits as data
from lantk.data.download import CIFAR10_MD5
from lantk.data.sources import cifar10_folder, open_source
from lantk.data.split_files import load_split, save_split
from lantk.data.splits import (
    SPLIT_ARRAYS,
    DataError,
    describe,
    digest_source,
    fetch,
    fingerprint,
    split_classes,
    split_pair,
)
from lantk.data.tasks import (
    Description,
    Task,
    class_sizes,
    resolve_classes,
    resolve_pair,
    resolve_sizes,
)
from lantk.whitening import WhiteningError

CIFAR10 = os.environ.get("LANTK_CIFAR10")
needs_cifar10 = pytest.mark.skipif(
    not CIFAR10, reason="LANTK_CIFAR10 does not name a folder with cifar-10-batches-bin"
)
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]


def random(seed=0):
    return np.random.default_rng(seed)


def cifar10_bytes(seed, n=30):
    """Return `n` records in CIFAR-10's binary format, three of each class, with random pixels."""
    records = random(seed).integers(0, 256, (n, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(n) % 10
    return records.tobytes()


@pytest.fixture
def cifar10(tmp_path):
    """A folder with small batches: 15 train and 3 test images of each class."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for seed, name in enumerate(BATCHES):
        (folder / name).write_bytes(cifar10_bytes(seed))
    return tmp_path


def write_npz(folder, **changes):
    """Write an .npz data set (three classes, 2 x 4 x 5 images) with some arrays changed."""
    arrays = {
        "x_train": random(0).integers(0, 256, (12, 2, 4, 5), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": random(1).integers(0, 256, (9, 2, 4, 5), dtype=np.uint8),
        "y_test": np.arange(9) % 3,
    }
    arrays |= changes
    path = folder / "set.npz"
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
    return path


def write_images(folder, mode="RGB", size=(5, 4), suffix=".png", n_train=4, n_test=3):
    """Write train and test folders of the classes ant and bee, and return the pixels by path."""
    pixels = {}
    for part, n in (("train", n_train), ("test", n_test)):
        for name in ("ant", "bee"):
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                array = random(len(pixels)).integers(0, 256, shape, dtype=np.uint8)
                file = folder / part / name / f"{i}{suffix}"
                Image.fromarray(array, mode).save(file)
                pixels[file] = array
    return pixels


def pair_of(source, path, entries):
    return resolve_pair(describe(source, path), entries)


def split_of(source, path, entries, n_train=None, n_test=None, seed=66, **options):
    pair = pair_of(source, path, entries)
    return split_pair(source, path, pair, n_train, n_test, seed, **options)


def split_of_classes(source, path, entries, n_train=None, n_test=None, scaling="range"):
    task = resolve_classes(describe(source, path), entries)
    return split_classes(source, path, task, n_train, n_test, scaling=scaling)


# describe


def test_digits_are_described():
    """The digits are 1,797 grey 8 x 8 images of ten classes without a test set."""
    found = describe("digits")
    assert found.class_names == tuple("0123456789")
    assert sum(found.train_counts) == 1797
    assert found.test_counts is None
    assert found.image_shape == (1, 8, 8)


def test_digits_are_those_of_scikit_learn():
    """Pixels and labels, read without scikit-learn, equal those of its load_digits, in order."""
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    split = split_of("digits", None, [3, 8], 300)
    index = np.concatenate([split.index_train, split.index_test])
    pixels = np.concatenate([split.pixels_train, split.pixels_test])
    labels = np.concatenate([split.y_train, split.y_test])
    np.testing.assert_array_equal(pixels.reshape(-1, 64), images[index])
    np.testing.assert_array_equal(np.where(labels > 0, 8, 3), target[index])


def test_describing_and_splitting_digits_imports_nothing_heavy():
    """Neither torch nor scikit-learn nor Pillow is imported to describe and split the digits."""
    code = (
        "import sys; from lantk.data import *; d = describe('digits');"
        "split_pair('digits', None, resolve_pair(d, [3, 8]), 4, 4, 66);"
        "print(sorted({'torch', 'sklearn', 'scipy', 'PIL', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_absent_cifar10_is_described_as_it_will_be(tmp_path):
    """Before the download, the counts and shape of CIFAR-10 are known, and nothing is fetched."""
    found = describe("cifar10", tmp_path)
    assert found.train_counts == (5000,) * 10
    assert found.test_counts == (1000,) * 10
    assert found.image_shape == (3, 32, 32)
    assert list(tmp_path.iterdir()) == []


def test_cifar10_class_names_follow_its_numbers():
    """CIFAR-10's classes 0 to 9 are airplane to truck; the five pairs of the paper have these."""
    found = describe("cifar10", "no such folder")
    numbers = {"deer-dog": (4, 5), "cat-deer": (3, 4), "cat-frog": (3, 6), "deer-frog": (4, 6)}
    numbers["bird-frog"] = (2, 6)
    for slug, pair in numbers.items():
        assert resolve_pair(found, pair).slug == slug
    assert (found.class_names[0], found.class_names[9]) == ("airplane", "truck")


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar10_path_is_the_folder_or_the_one_above(cifar10, inner):
    """The path may be the batch folder or the folder that holds it."""
    found = describe("cifar10", cifar10 / inner)
    assert found.train_counts == (15,) * 10
    assert found.test_counts == (3,) * 10


def test_the_path_of_a_source_may_begin_with_the_home_folder(cifar10, tmp_path, monkeypatch):
    """~ is the home folder for every source, and for the folder of a download."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cifar10_folder("~") == tmp_path / "cifar-10-batches-bin"
    assert cifar10_folder(Path("~/d")) == tmp_path / "d" / "cifar-10-batches-bin"
    assert describe("cifar10", "~") == describe("cifar10", tmp_path)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/none.npz")):
        describe("npz", "~/none.npz")


def test_cifar10_folder_with_another_name_is_found(cifar10):
    """A path that holds the batch files is used, whatever its name."""
    (cifar10 / "cifar-10-batches-bin").rename(cifar10 / "mine")
    assert describe("cifar10", cifar10 / "mine").test_counts == (3,) * 10


@pytest.mark.parametrize(
    "source", ["cifar10", "npz", "npz-text", "images", "images-grey", "digits"]
)
def test_description_agrees_with_what_a_split_loads(source, cifar10):
    """Counts and shape of the description are those of the largest split of every source."""
    source, _, kind = source.partition("-")
    path = {"cifar10": cifar10, "digits": None, "images": cifar10 / "images"}.get(source)
    if source == "npz":
        labels = np.array(["x", "y", "z"]) if kind else np.arange(3)
        path = write_npz(cifar10, y_train=labels[np.arange(12) % 3], y_test=labels[[0, 1, 2] * 3])
    elif source == "images":
        write_images(path, "L" if kind else "RGB")
    found = describe(source, path)
    sizes = (100, None) if source == "digits" else (None, None)
    split = split_of(source, path, ["#0", "#1"], *sizes)
    assert split.pixels_train.shape[1:] == split.pixels_test.shape[1:] == found.image_shape
    if found.test_counts is not None:
        assert len(split.y_train) == 2 * min(found.train_counts[:2])
        assert len(split.y_test) == 2 * min(found.test_counts[:2])
    assert split.names == found.class_names[:2]


@pytest.mark.parametrize(
    ("source", "path", "words"),
    [
        ("mnist", None, ["unknown data source 'mnist'", "digits, cifar10, npz, images"]),
        ("npz", None, ["'npz' needs data.path"]),
        ("images", None, ["'images' needs data.path"]),
        ("npz", "no-such.npz", ["no-such.npz", "No such file", "x_train"]),
        ("images", "no-such-folder", ["no-such-folder/train is no folder", "train/CLASS"]),
    ],
)
def test_source_that_cannot_be_found_is_an_error(source, path, words):
    """An unknown source, or a missing path, is named together with what was wanted."""
    with pytest.raises(DataError) as caught:
        describe(source, path)
    assert_words(caught, words)


def assert_words(caught, words):
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# class pairs


def plain(*class_names):
    """Return a description with these class names."""
    counts = (10,) * len(class_names)
    return Description("npz", class_names, counts, counts, (1, 2, 2))


@pytest.mark.parametrize("entries", [["dog", "deer"], ["deer", "dog"], [5, 4], [4, "dog"], (5, 4)])
def test_pair_is_the_same_in_either_order_and_spelling(entries):
    """Names or numbers, in either order, give the pair with the smaller class number first."""
    expected = Task((4, 5), ("deer", "dog"), "deer-dog")
    assert resolve_pair(describe("cifar10", "no such folder"), entries) == expected


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["cat", "doog"], ["'doog'", "did you mean 'dog'", "0: 'airplane'", "9: 'truck'"]),
        ([3, 10], ["unknown class 10", "10 classes"]),
        ([-1, 3], ["unknown class -1"]),
        ([3, True], ["unknown class True"]),
        ([3, 4.0], ["unknown class 4.0"]),
        (["cat", 3], ["'cat' twice"]),
        ([4, 4], ["'deer' twice"]),
        ([1, 2, 3], ["[1, 2, 3]", "wanted two"]),
        ("ab", ["'ab'", "wanted two"]),
        (None, ["None", "wanted two"]),
    ],
)
def test_impossible_pair_is_an_error(entries, words):
    """An unknown class lists what there is and the nearest name; equal classes are refused."""
    with pytest.raises(DataError) as caught:
        resolve_pair(describe("cifar10", "no such folder"), entries)
    assert_words(caught, words)


def all_slugs(description):
    k = len(description.class_names)
    pairs = [(f"#{i}", f"#{j}") for i in range(k) for j in range(i + 1, k)]
    return [resolve_pair(description, pair).slug for pair in pairs]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=60),
            st.text(alphabet="aA-_. ;/1", max_size=4),
            st.sampled_from(["it; touch x; echo", "..", "-rf", "$(id)", "x y", "x_y.2", "x_y_0"]),
        ),
        min_size=2,
        max_size=7,
        unique=True,
    )
)
def test_slugs_are_safe_and_unique(names):
    """Whatever the classes are called, slugs are safe in a shell, short, and differ by letters."""
    slugs = all_slugs(plain(*names))
    for slug in slugs:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", slug, re.ASCII)
        assert len(slug) <= 100
    assert len({slug.casefold() for slug in slugs}) == len(slugs)


FOLDERS = Description("images", ("001", "002", "010", "011"), (6,) * 4, (6,) * 4, (1, 8, 8))


@pytest.mark.parametrize(
    ("source", "entries", "wanted"),
    [
        # Labels that are whole numbers, and names of CIFAR-10, which has both.
        (plain("2", "3", "5"), [3, 2], ("2", "3")),
        (plain("-1", "1"), [-1, 1], ("-1", "1")),
        (plain("1", "2", "3"), [1, "3"], ("1", "3")),
        (replace(plain(*"abcdef"), source="cifar10"), ["4", 5], ("e", "f")),
        # Text is what it says, and folders are asked for by text.
        (FOLDERS, ["001", "002"], ("001", "002")),
        (FOLDERS, yaml.safe_load("['#2', '#0']"), ("001", "010")),
        (plain("2", "3", "5"), ["#0", "#2"], ("2", "5")),
        (plain("#7", "b"), ["#7", "b"], ("#7", "b")),
        # Two ways to write an accent are one name, unless both are there.
        (plain("e\u0301", "z"), ["\u00e9", "z"], ("e\u0301", "z")),
        (plain("\u00e9", "z"), ["e\u0301", "z"], ("\u00e9", "z")),
        (plain("e\u0301", "\u00e9"), ["\u00e9", "e\u0301"], ("e\u0301", "\u00e9")),
    ],
)
def test_an_entry_is_a_name_a_label_or_a_position(source, entries, wanted):
    """A whole number names the class of this label, text a name, and "#0" a position."""
    assert resolve_pair(source, entries).names == wanted


@pytest.mark.parametrize(
    ("source", "text", "words"),
    [
        (FOLDERS, "[001, 002]", ["unknown class 1 in images", "in quotes, '001'", "YAML reads"]),
        (FOLDERS, "[010, 011]", ["unknown class 8", "in quotes, '010'"]),
        (FOLDERS, "[0x1, '002']", ["unknown class 1", "in quotes, '001'"]),
        (FOLDERS, "[0, 3]", ["unknown class 0", "in quotes. YAML", "#0: '001'"]),
        (FOLDERS, "['#4', '001']", ["unknown class '#4'", "#3: '011'"]),
        (plain("ant", "bee"), "[0, 1]", ["unknown class 0", "#0: 'ant'"]),
        (plain("2", "3"), "[0, 2]", ["unknown class 0", "#0: '2'"]),
        (plain("1_0", "2"), "[1_0, 2]", ["unknown class 10", "in quotes, '1_0'", "YAML reads"]),
        (plain("0b11", "2"), "[0b11, 2]", ["unknown class 3", "in quotes, '0b11'"]),
        (plain("001", "1", "2"), "[001, 2]", ["unknown class 1", "in quotes, '001', '1'"]),
        (plain("yes", "no"), "[yes, no]", ["unknown class True", "in quotes", "YAML reads"]),
        (plain("~", "no"), "[~, 'no']", ["unknown class None", "in quotes"]),
        (plain("2024-01-31", "b"), "[2024-01-31, b]", ["datetime.date", "in quotes"]),
        (plain("1.5", "b"), "[1.5, b]", ["unknown class 1.5", "in quotes"]),
        (plain("#1", "b"), "['#1', b]", ["'#1' is the position of the class 'b'", "rename"]),
    ],
)
def test_what_yaml_makes_of_a_name_is_no_other_class(source, text, words):
    """A name that YAML reads as a number, a truth, nothing or a date is asked for in quotes."""
    with pytest.raises(DataError) as caught:
        resolve_pair(source, yaml.safe_load(text))
    assert_words(caught, words)


def test_parts_may_write_an_accent_in_two_ways(tmp_path):
    """Classes of train and test are the same where their names are, after normalisation."""
    write_images(tmp_path)
    (tmp_path / "train" / "ant").rename(tmp_path / "train" / "\u00e9")
    (tmp_path / "test" / "ant").rename(tmp_path / "test" / "e\u0301")
    found = describe("images", tmp_path)
    assert dict(zip(found.class_names, found.test_counts, strict=True)) == {"bee": 3, "\u00e9": 3}
    names = [np.array(["bee", accent, "cat"]) for accent in ("\u00e9", "e\u0301")]
    labels = {"y_train": names[0][np.arange(12) % 3], "y_test": names[1][np.arange(9) % 3]}
    found = describe("npz", write_npz(tmp_path, **labels))
    assert found.class_names == ("bee", "cat", "\u00e9")
    assert found.test_counts == (3, 3, 3)


def test_source_digest_follows_every_pixel_and_label(tmp_path):
    """The digest of a source changes with any image or label, and its fingerprint with its file."""
    rng = np.random.default_rng(0)
    path = tmp_path / "own.npz"
    arrays = {"x_train": rng.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)}
    arrays["x_test"] = arrays["x_train"][:4].copy()
    arrays |= {"y_train": np.arange(6) % 2, "y_test": np.arange(4) % 2}
    seen = set()
    for name, index in (("x_train", (5, 0, 3, 3)), ("x_test", (3, 0, 0, 0)), ("y_test", (0,))):
        np.savez(path, **arrays)
        seen |= {digest_source("npz", path), digest_source("npz", path)}
        before = fingerprint("npz", path)
        assert before == fingerprint("npz", path)
        os.utime(path, (1, 1))
        assert fingerprint("npz", path) != before
        arrays[name] = arrays[name].copy()
        arrays[name][index] ^= 1
    assert len(seen) == 3


def test_slug_keeps_plain_names_and_numbers_the_others():
    """A plain name appears as it is, any other gets its class number."""
    names = plain("deer", "ice-cream", "ünïcode", ";rm", "Deer2", "deer2")
    assert resolve_pair(names, ("deer", "ice-cream")).slug == "deer-ice_cream.1"
    assert resolve_pair(names, ("deer", ";rm")).slug == "deer-rm.3"
    assert resolve_pair(names, ("#4", "#5")).slug == "Deer2.4-deer2.5"


def test_slugs_with_joined_names_differ():
    """The pairs (a-b, c) and (a, b-c) have different slugs."""
    slugs = all_slugs(plain("a-b", "c", "a", "b-c"))
    assert len(set(slugs)) == 6


# several classes


def test_classes_are_the_same_in_any_order_and_spelling():
    """Classes are sorted by number; all of them, named or not, are the task "all"."""
    digits = describe("digits")
    wanted = Task((0, 3, 8), ("0", "3", "8"), "0-3-8")
    assert resolve_classes(digits, [8, "0", 3]) == wanted
    assert resolve_classes(digits, "all") == resolve_classes(digits, range(10))
    assert resolve_classes(digits, "all").slug == "all"
    # Numbers that are also other classes' names are no matter when nobody wrote them.
    assert resolve_classes(plain("2", "0", "1"), "all").names == ("2", "0", "1")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("every", ["classes is 'every'", "wanted all, or a list"]),
        ([3, 8], ["2 of the 10 classes of digits", "two are a class pair"]),
        ([3, 8, "3"], ["the class '3' twice"]),
        ([3, 8, 10], ["unknown class 10"]),
    ],
)
def test_impossible_classes_are_an_error(entries, words):
    """Other than three or more different classes of the source is refused."""
    with pytest.raises(DataError) as caught:
        resolve_classes(describe("digits"), entries)
    assert_words(caught, words)


def test_labels_of_more_classes_than_int8_holds_are_refused():
    """129 classes are too many for int8 labels."""
    with pytest.raises(DataError, match="wanted 3 to 128"):
        resolve_classes(plain(*(f"c{i}" for i in range(129))), "all")


def test_slug_of_many_classes_fits_into_a_file_name():
    """A slug that would be too long is cut and ends in a digest, so that tasks keep apart."""
    description = plain(*(f"{'name' * 9}{i}" for i in range(30)))
    positions = [f"#{i}" for i in range(30)]
    slugs = {resolve_classes(description, positions[:n]).slug for n in range(20, 30)}
    assert len(slugs) == 10
    assert all(len(slug) == 150 for slug in slugs)


def test_classes_are_taken_in_file_order_and_interleaved(cifar10):
    """Train: the first n/k rows of each class in turn, labels their positions; test: all."""
    split = split_of_classes("cifar10", cifar10, ["dog", "cat", "frog"], 12)
    records = np.concatenate([np.frombuffer(cifar10_bytes(i), np.uint8) for i in range(5)])
    classes = records.reshape(-1, 3073)[:, 0]
    rows = [np.flatnonzero(classes == c)[:4] for c in (3, 5, 6)]
    np.testing.assert_array_equal(split.index_train, np.stack(rows).T.ravel())
    np.testing.assert_array_equal(split.pixels_train[4].ravel(), records.reshape(-1, 3073)[15, 1:])
    assert split.y_train.tolist() == [0, 1, 2] * 4
    assert split.y_train.dtype == np.int8
    assert split.y_test.tolist() == [0, 1, 2] * 3
    assert sorted(split.index_test) == [r for r in range(30) if r % 10 in (3, 5, 6)]
    assert (split.names, split.slug) == (("cat", "dog", "frog"), "cat-dog-frog")


def test_classes_without_a_test_set_test_on_what_follows():
    """For digits, the images after the first n/k of each class are tested on, in balance."""
    split = split_of_classes("digits", None, "all", 40)
    assert (len(split.y_train), len(split.y_test)) == (40, 10 * 174 - 40)
    assert not set(split.index_train) & set(split.index_test)
    assert max(split.index_train[3::10]) < min(split.index_test[3::10])


@pytest.mark.parametrize(
    ("n_train", "n_test", "words"),
    [
        (41, None, ["n_train is 41", "1/10 of it", "a multiple of 10 from 10 to 1730"]),
        (1740, None, ["n_train is 1740", "174 images of '8', the smallest class", "to 1730"]),
        (40, 1701, ["n_test is 1701", "a multiple of 10 from 10 to 1700"]),
        (None, None, ["n_train is null", "a multiple of 10 from 10 to 1730"]),
    ],
)
def test_impossible_sizes_of_classes_are_an_error(n_train, n_test, words):
    """A size that is no multiple of k, or too large, is answered by the smallest class."""
    with pytest.raises(DataError) as caught:
        split_of_classes("digits", None, "all", n_train, n_test)
    assert_words(caught, words)


# sizes


def unequal(test_counts=(7, 3, 5)):
    return Description("npz", ("a", "b", "c"), (10, 8, 6), test_counts, (1, 2, 2))


def sizes_of(description, n_train, n_test):
    return resolve_sizes(description, resolve_pair(description, ["a", "b"]), n_train, n_test)


@pytest.mark.parametrize(
    ("sizes", "balance", "wanted"),
    [
        ((None, None), False, ((10, 8), (7, 3))),
        ((4, None), False, ((2, 2), (7, 3))),
        ((None, 2), False, ((10, 8), (1, 1))),
        ((None, None), True, ((8, 8), (3, 3))),
        ((4, None), True, ((2, 2), (3, 3))),
        ((16, 6), False, ((8, 8), (3, 3))),
    ],
)
def test_null_takes_all_there_is_unless_balance_is_asked_for(sizes, balance, wanted):
    """A number takes as many of each class; null all, or as many as the smallest class has."""
    pair = resolve_pair(unequal(), ["a", "b"])
    assert class_sizes(unequal(), pair, *sizes, balance=balance) == wanted
    sums = tuple(map(sum, wanted))
    assert resolve_sizes(unequal(), pair, *sizes, balance=balance) == sums


def test_source_without_test_set_tests_on_the_rest():
    """Without a test set, what n_train leaves of the smaller class is tested on."""
    assert sizes_of(unequal(None), 10, None) == (10, 6)
    assert sizes_of(unequal(None), 14, 2) == (14, 2)


@pytest.mark.parametrize(
    ("n_train", "n_test", "words"),
    [
        (
            18,
            None,
            ["n_train is 18", "10 train images of 'a' and 8 of 'b'", "from 2 to 16, or null"],
        ),
        (5, None, ["n_train is 5", "even number from 2 to 16"]),
        (0, None, ["n_train is 0", "from 2 to 16"]),
        (-2, None, ["n_train is -2", "from 2 to 16"]),
        (4.0, None, ["n_train is 4.0"]),
        (True, None, ["n_train is True"]),
        ("40", None, ["n_train is '40'"]),
        (4, 8, ["n_test is 8", "7 test images of 'a' and 3 of 'b'", "from 2 to 6"]),
        (4, 3, ["n_test is 3", "even number"]),
    ],
)
def test_impossible_size_is_an_error(n_train, n_test, words):
    """An odd, negative or too large size is answered by what there is and the largest possible."""
    with pytest.raises(DataError) as caught:
        sizes_of(unequal(), n_train, n_test)
    assert_words(caught, words)


@pytest.mark.parametrize(
    ("n_train", "n_test", "words"),
    [
        (None, None, ["n_train is null", "no test set", "nothing is left", "from 2 to 14"]),
        (16, None, ["n_train is 16", "no test set", "from 2 to 14"]),
        (10, 8, ["n_test is 8", "of which n_train takes 10", "from 2 to 6"]),
    ],
)
def test_impossible_size_without_a_test_set_is_an_error(n_train, n_test, words):
    """Without a test set, sizes that leave nothing to test on are answered by the largest."""
    with pytest.raises(DataError) as caught:
        sizes_of(unequal(None), n_train, n_test)
    assert_words(caught, words)


def test_class_without_images_is_an_error():
    """A class that has no test image cannot be split, and the message says so."""
    with pytest.raises(DataError, match=r"0 of 'b'.*at least one image of each class for n_test"):
        sizes_of(unequal((7, 0, 5)), None, None)


# splits


def write_unequal(folder, train=(5, 9, 2), test=(1, 4, 6)):
    """Write a set of unequal classes, each image with its row below white as its pixel."""
    arrays = {}
    for part, counts in (("train", train), ("test", test)):
        y = random(7).permutation(np.repeat(np.arange(3), counts))
        x = 255 - np.arange(len(y), dtype=np.uint8)[:, None, None, None]
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    return write_npz(folder, **arrays)


@pytest.mark.parametrize("entries", [[0, 1], [0, 1, 2]])
def test_a_split_of_unequal_classes_holds_every_image_once(entries, tmp_path):
    """Null takes all images, the classes in turn as long as they have any, train and test."""
    path, k = write_unequal(tmp_path), len(entries)
    draw = split_of if k == 2 else split_of_classes
    split = draw("npz", path, entries)
    assert (split.train_counts, split.test_counts) == ((5, 9, 2)[:k], (1, 4, 6)[:k])
    labels = [-1, 1] if k == 2 else [0, 1, 2]
    with np.load(path) as arrays:
        for part in ("train", "test"):
            index, y = (getattr(split, f"{name}_{part}") for name in ("index", "y"))
            own = arrays[f"y_{part}"]
            assert sorted(index) == np.flatnonzero(own < k).tolist()
            assert y.tolist() == [labels[c] for c in own[index]]
            np.testing.assert_array_equal(255 - getattr(split, f"pixels_{part}").ravel(), index)
    least = min(split.train_counts)
    assert split.y_train.tolist()[: k * least] == labels * least
    save_split(tmp_path / "split.npz", split)
    assert load_split(tmp_path / "split.npz").digest == split.digest


def test_a_balanced_split_is_the_beginning_of_an_unbalanced_one(tmp_path):
    """The first n/k images of each class are those of a split at n; beyond, only all there are."""
    path = write_unequal(tmp_path)
    whole, part = split_of("npz", path, [0, 1]), split_of("npz", path, [0, 1], 10, 2)
    first = whole.first(10)
    np.testing.assert_array_equal(first.index_train, part.index_train)
    np.testing.assert_array_equal(whole.index_test[:2], part.index_test)
    assert whole.first(14) is whole
    for n in (12, 11, 16):
        with pytest.raises(DataError, match=rf"n_train is {n}.* 14 train images.* from 2 to 10"):
            whole.first(n)
    even = split_pair("npz", path, pair_of("npz", path, [0, 1]), None, None, 66, balance=True)
    assert (even.train_counts, even.test_counts) == ((5, 5), (1, 1))


def test_balanced_splits_are_the_bytes_that_they_were(tmp_path):
    """Files of balanced splits have the digests that they had before classes could be unequal."""
    x = np.arange(240, dtype=np.uint8).reshape(60, 1, 2, 2)
    arrays = {"x_train": x, "y_train": np.arange(60) % 3, "x_test": x[:30]}
    path = write_npz(tmp_path, **arrays, y_test=np.arange(30) % 3)
    splits = {
        "6b189d9ff76d5c6e": split_of("digits", None, [3, 8], 40),
        "47506c92f3f3ef7d": split_of_classes("digits", None, "all", 40, scaling="standard"),
        "d7bfcc81f4d24310": split_of("npz", path, [0, 2]),
        "4f95921758a82aaf": split_of_classes("npz", path, "all"),
        "02e37b40920c7f14": split_of("npz", path, [0, 2], 8, 4, 7),
    }
    for digest, split in splits.items():
        save_split(tmp_path / "split.npz", split)
        assert hashlib.sha256((tmp_path / "split.npz").read_bytes()).hexdigest()[:16] == digest


def test_stream_starts_as_specified():
    """RandomState(66) shuffles 5,000 rows to 2907, 823, ... and again to 3313, 2516, ..."""
    stream = np.random.RandomState(66)
    starts = []
    for _ in range(2):
        order = np.arange(5000)
        stream.shuffle(order)
        starts.append(order[:5].tolist())
    assert starts == [[2907, 823, 613, 3068, 4642], [3313, 2516, 3930, 4018, 4049]]


def test_split_of_full_size_follows_the_specified_stream(tmp_path):
    """With 5,000 rows a class, the split begins with the specified rows of the two classes."""
    # Classes alternate in the file, so that row r of class c is row 2 r + c of the set.
    path = write_npz(
        tmp_path,
        x_train=np.zeros((10000, 1, 1, 1), np.uint8),
        y_train=np.arange(10000) % 2,
        x_test=np.zeros((2000, 1, 1, 1), np.uint8),
        y_test=np.arange(2000) % 2,
    )
    split = split_of("npz", path, [0, 1])
    assert (split.index_train[:10:2] // 2).tolist() == [2907, 823, 613, 3068, 4642]
    assert (split.index_train[1:10:2] // 2).tolist() == [3313, 2516, 3930, 4018, 4049]
    stream = np.random.RandomState(66)
    for count, index in ((5000, split.index_train), (1000, split.index_test)):
        for c in (0, 1):
            order = np.arange(count)
            stream.shuffle(order)
            np.testing.assert_array_equal(index[c::2], 2 * order + c)


@pytest.mark.parametrize("source", ["digits", "cifar10"])
def test_splits_are_balanced_disjoint_and_interleaved(source, cifar10):
    """Labels alternate -1, +1; no image is drawn twice, nor for both train and test."""
    split = split_of(source, cifar10, [3, 8], 10, 6)
    for y, n in ((split.y_train, 10), (split.y_test, 6)):
        assert y.dtype == np.int8
        assert y.tolist() == [-1, 1] * (n // 2)
    for index, n in ((split.index_train, 10), (split.index_test, 6)):
        assert index.dtype == np.int64
        assert len(set(index.tolist())) == n
    if source == "digits":
        assert not set(split.index_train) & set(split.index_test)


def test_digits_train_and_test_rows_follow_one_shuffle():
    """For digits the first rows of each shuffled class are train, the next ones test."""
    from sklearn.datasets import load_digits

    target = load_digits().target
    split = split_of("digits", None, [3, 8], 40)
    stream = np.random.RandomState(66)
    for c, label in enumerate((3, 8)):
        rows = np.flatnonzero(target == label)
        order = np.arange(len(rows))
        stream.shuffle(order)
        np.testing.assert_array_equal(split.index_train[c::2], rows[order[:20]])
        np.testing.assert_array_equal(split.index_test[c::2], rows[order[20:174]])


def test_pixels_and_labels_are_those_of_the_rows(cifar10):
    """Every image of a CIFAR-10 split equals the record of its row, label included."""
    split = split_of("cifar10", cifar10, ["frog", "cat"])
    records = np.concatenate([np.frombuffer(cifar10_bytes(i), np.uint8) for i in range(5)])
    records = records.reshape(-1, 3073)[split.index_train]
    np.testing.assert_array_equal(records[:, 0], np.where(split.y_train > 0, 6, 3))
    np.testing.assert_array_equal(split.pixels_train.reshape(30, -1), records[:, 1:])
    test = np.frombuffer(cifar10_bytes(5), np.uint8).reshape(-1, 3073)[split.index_test]
    np.testing.assert_array_equal(split.pixels_test.reshape(6, -1), test[:, 1:])
    np.testing.assert_array_equal(test[:, 0], np.where(split.y_test > 0, 6, 3))


def test_smaller_split_is_the_beginning_of_a_larger_one(cifar10):
    """A smaller n_train keeps the order and the test images; a smaller n_test keeps the order."""
    small = split_of("cifar10", cifar10, [0, 9], 8, 2)
    large = split_of("cifar10", cifar10, [0, 9], 20, 6)
    np.testing.assert_array_equal(small.index_train, large.index_train[:8])
    np.testing.assert_array_equal(small.index_test, large.index_test[:2])


@pytest.mark.parametrize("scaling", ["range", "standard"])
@pytest.mark.parametrize("entries", [[1, 8], [1, 3, 8]])
def test_first_images_are_those_of_a_smaller_split(entries, scaling):
    """first(n) has the train images of a split drawn at n, the same test, and the same pixels."""
    draw = split_of if len(entries) == 2 else split_of_classes
    large, small = (draw("digits", None, entries, n, 12, scaling=scaling) for n in (60, 24))
    first = large.first(24)
    for name in ("index_train", "y_train", "pixels_train"):
        np.testing.assert_array_equal(getattr(first, name), getattr(small, name))
    np.testing.assert_array_equal(first.index_test, large.index_test)
    np.testing.assert_array_equal(first.x_train, large.x_train[:24])
    np.testing.assert_array_equal(first.x_test, large.x_test)
    assert large.first(60).digest == large.digest != first.digest
    for n in (0, -6, 25, 66):
        with pytest.raises(DataError, match=rf"n_train is {n}, .* 60 train images"):
            large.first(n)


def test_seed_decides_the_split():
    """The same seed draws the same split, another seed another."""
    first, again = (split_of("digits", None, [1, 8], 20, seed=7) for _ in range(2))
    other = split_of("digits", None, [1, 8], 20, seed=8)
    assert first.digest == again.digest
    assert first.index_train.tolist() != other.index_train.tolist()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, True, "66"])
def test_impossible_seed_is_an_error(seed):
    """A seed that RandomState does not take is named with the range that it takes."""
    with pytest.raises(DataError, match=r"seed is .* from 0 to 4294967295"):
        split_of("digits", None, [1, 8], 20, seed=seed)


def test_pair_of_another_source_is_an_error():
    """A pair made for other class names is refused."""
    with pytest.raises(DataError, match=r"was not made for digits"):
        split_pair("digits", None, Task((3, 8), ("cat", "ship"), "cat-ship"), 4, 4, 66)


# scaling and digest


@pytest.mark.parametrize(("source", "largest"), [("digits", 16), ("cifar10", 255)])
def test_whole_number_pixels_are_scaled_by_their_range(source, largest, cifar10):
    """Pixels keep their type in the split and are scaled to [-1, 1] as (pixel/max - 0.5)/0.5."""
    split = split_of(source, cifar10, [3, 8], 20, 6)
    assert split.pixels_train.dtype == split.pixels_test.dtype == np.uint8
    assert split.pixel_max == largest
    for pixels, x in ((split.pixels_train, split.x_train), (split.pixels_test, split.x_test)):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, (pixels / largest - 0.5) / 0.5, rtol=0, atol=1.5e-7)
        assert (x[pixels == 0] == -1).all()
        assert (x[pixels == largest] == 1).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_floating_point_pixels_are_used_as_they_are(tmp_path, dtype):
    """Floating-point images keep their values and are cast to float32 only."""
    x = (10 * random().standard_normal((12, 2, 4, 5))).astype(dtype)
    path = write_npz(tmp_path, x_train=x, x_test=x, y_test=np.arange(12) % 3)
    split = split_of("npz", path, [0, 2])
    assert split.pixel_max is None
    assert split.pixels_train.dtype == np.dtype(dtype).newbyteorder("=")
    assert split.x_train.dtype == np.float32
    np.testing.assert_array_equal(split.x_train, x[split.index_train].astype(np.float32))


def test_standard_scaling_uses_the_train_images_of_each_channel(cifar10):
    """Train pixels get mean 0 and deviation 1 in every channel, test pixels the same shift."""
    split = split_of_classes("cifar10", cifar10, "all", 50, scaling="standard")
    assert (split.scaling, split_of("cifar10", cifar10, [3, 8], 4).scaling) == ("standard", "range")
    assert split.x_train.dtype == np.float32
    np.testing.assert_allclose(split.x_train.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(split.x_train.std(axis=(0, 2, 3)), 1, atol=1e-6)
    pixels = split.pixels_train.astype(float)
    means, deviations = (f(pixels, axis=(0, 2, 3), keepdims=True)[0] for f in (np.mean, np.std))
    wanted = (split.pixels_test - means) / deviations
    np.testing.assert_allclose(split.x_test, wanted, rtol=0, atol=1e-6)


def test_standard_scaling_reads_images_in_pieces(cifar10, monkeypatch):
    """Means and deviations are the same however many images are held at once."""
    digests = set()
    for n in (1, 7, 1000):
        monkeypatch.setattr(scaling, "_IMAGES_AT_ONCE", n)
        split = split_of("cifar10", cifar10, [3, 8], scaling="standard")
        digests.add(np.round(split.channel_statistics, 9).tobytes())
    assert len(digests) == 1


def test_standard_scaling_needs_pixels_that_differ(tmp_path):
    """A channel of one value has no deviation to divide by, and the message says which."""
    x = random().integers(0, 256, (12, 2, 4, 5), dtype=np.uint8)
    x[:, 1] = 7
    path = write_npz(tmp_path, x_train=x)
    with pytest.raises(scaling.ScalingError, match="channel 1 has one value in all train images"):
        split_of("npz", path, [0, 1], scaling="standard")
    with pytest.raises(DataError, match="scaling is 'whiten': wanted range or standard"):
        split_of("npz", path, [0, 1], scaling="whiten")


def test_whitening_is_learned_from_the_train_images_of_a_split(tmp_path):
    """Images of test do not move it, the first n are whitened as all are, and files keep it."""
    x = random().integers(0, 256, (24, 2, 4, 5), dtype=np.uint8)
    others = random().integers(0, 256, (12, 2, 4, 5), dtype=np.uint8)
    found = []
    for i, x_test in enumerate((others, 255 - others)):
        (tmp_path / str(i)).mkdir()
        y = {"y_train": np.arange(24) % 2, "y_test": np.arange(12) % 2}
        path = write_npz(tmp_path / str(i), x_train=x, x_test=x_test, **y)
        found.append(split_of("npz", path, [0, 1], 24, 12, zca=0.5))
    split, other = found
    np.testing.assert_array_equal(split.x_train, other.x_train)
    mean = split.x_train.mean(axis=0)
    np.testing.assert_allclose(mean + mean[..., ::-1], 0, atol=1e-5)
    assert abs(split.x_test - other.x_test).max() > 1
    np.testing.assert_array_equal(split.first(6).x_train, split.x_train[:6])
    save_split(tmp_path / "split.npz", split)
    loaded = load_split(tmp_path / "split.npz")
    assert (loaded.zca, loaded.digest) == (0.5, split.digest)
    for name in ("x_train", "x_test"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(split, name))
    with pytest.raises(WhiteningError, match="zca is -1: wanted a number of 0 or more"):
        split_of("npz", path, [0, 1], 24, 12, zca=-1)


def test_digest_notices_the_whitening():
    """Splits of another regulariser, or whitened by other images, differ; last digits do not."""
    plain, weak, strong, large = (
        split_of("digits", None, [3, 8], n, 10, zca=zca)
        for n, zca in ((20, None), (20, 0.1), (20, 1), (40, 0.1))
    )
    assert len({s.digest for s in (plain, weak, strong, large.first(20))}) == 4
    w = weak.whitening
    turned = replace(weak, whitening=replace(w, vectors=-w.vectors))
    assert turned.digest == weak.digest


def test_digests_of_splits_do_not_change():
    """Long computed Gram matrices name their split by its digest: it stays what it was."""
    assert split_of("digits", None, [3, 8], 20, 10).digest.startswith("5ed2a12c95fa4343")


def test_digest_notices_the_scaling(cifar10):
    """Splits of other channel statistics have other digests."""
    ranged, standard = (
        split_of("cifar10", cifar10, [3, 8], 20, scaling=s) for s in ("range", "standard")
    )
    moved = replace(standard, channel_statistics=standard.channel_statistics + 1e-9)
    assert len({split.digest for split in (ranged, standard, moved)}) == 3


def test_digest_notices_every_array_and_the_pixel_range():
    """Changing one pixel, label, row number or the pixel range changes the digest."""
    split = split_of("digits", None, [3, 8], 20)
    digests = {split.digest, replace(split, pixel_max=255).digest}
    for name in SPLIT_ARRAYS:
        array = getattr(split, name).copy()
        array.flat[0] += 1
        digests.add(replace(split, **{name: array}).digest)
    assert len(digests) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert replace(split).digest == split.digest


# stored splits


def test_stored_split_returns_as_it_was(tmp_path):
    """A loaded split equals the saved one in every field, type and in its digest."""
    for pixel_max in (16, None):
        split = replace(split_of("digits", None, [3, 8], 20), pixel_max=pixel_max)
        save_split(tmp_path / "a" / "split.npz", split)
        found = load_split(tmp_path / "a" / "split.npz")
        for name in SPLIT_ARRAYS:
            assert getattr(found, name).dtype == getattr(split, name).dtype
            np.testing.assert_array_equal(getattr(found, name), getattr(split, name))
        assert (found.names, found.slug, found.pixel_max) == (split.names, split.slug, pixel_max)
        assert found.digest == split.digest
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["split.npz"]


def test_stored_split_of_classes_returns_as_it_was(tmp_path):
    """Names, labels and channel statistics of several classes are stored with the split."""
    split = split_of_classes("digits", None, [0, 3, 8], 30, scaling="standard")
    save_split(tmp_path / "split.npz", split)
    found = load_split(tmp_path / "split.npz")
    assert found.digest == split.digest
    assert (found.names, found.slug, found.scaling) == (split.names, "0-3-8", "standard")
    assert not found.is_binary
    np.testing.assert_array_equal(found.x_test, split.x_test)


def test_equal_splits_are_stored_as_equal_bytes(tmp_path):
    """Writing the same split twice gives the same file, so that tools can compare checksums."""
    for name in ("a.npz", "b.npz"):
        save_split(tmp_path / name, split_of("digits", None, [3, 8], 20))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_interrupted_save_leaves_the_older_file(tmp_path, monkeypatch):
    """An interrupt in the middle of writing arrays spares the older file and leaves no other."""
    path = tmp_path / "split.npz"
    split = split_of("digits", None, [3, 8], 20)
    save_split(path, split)
    before = path.read_bytes()
    real, calls = np.lib.format.write_array, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr("numpy.lib.format.write_array", interrupted)
    monkeypatch.setattr("numpy.lib._format_impl.write_array", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        save_split(path, split)
    assert len(calls) == 4
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["split.npz"]


def test_split_needs_the_suffix_of_its_format(tmp_path):
    """A name that does not end in .npz is refused before anything is written."""
    with pytest.raises(DataError, match=r"split\.dat.*\.npz"):
        save_split(tmp_path / "split.dat", split_of("digits", None, [3, 8], 20))
    assert list(tmp_path.iterdir()) == []


def test_broken_or_foreign_split_is_an_error(tmp_path):
    """A missing, truncated, changed or foreign file is named, and making it again is advised."""
    path = tmp_path / "split.npz"
    with pytest.raises(DataError, match=r"split\.npz.*No such file.*make the split again"):
        load_split(path)
    split = split_of("digits", None, [3, 8], 20)
    save_split(path, split)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"split\.npz.*cut short.*make the split again"):
        load_split(path)
    at = whole.index(split.pixels_train.tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(DataError, match=r"split\.npz.*make the split again"):
        load_split(path)
    np.savez(path, **{**dict(np.load(io.BytesIO(whole))), "y_train": -split.y_train})
    with pytest.raises(DataError, match=r"was changed.*make the split again"):
        load_split(path)
    with pytest.raises(DataError, match=r"pixel_max.*make the split again"):
        load_split(write_npz(tmp_path))


# CIFAR-10's binary format


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data_batch_3.bin", None, ["data_batch_3.bin is missing", "delete", "download it again"]),
        ("test_batch.bin", cifar10_bytes(0)[:-1], ["test_batch.bin", "92189 bytes", "3073"]),
        ("data_batch_1.bin", b"", ["data_batch_1.bin has 0 bytes", "cut short"]),
        ("data_batch_5.bin", b"\x09" * 3073 + b"\x0a" * 3073, ["record 1", "label 10", "0 to 9"]),
    ],
)
def test_broken_cifar10_is_an_error(cifar10, name, content, words):
    """A missing, truncated or corrupt batch is named with the remedy, and left as it is."""
    file = cifar10 / "cifar-10-batches-bin" / name
    file.unlink() if content is None else file.write_bytes(content)
    for request in (describe, functools.partial(split_of, entries=[3, 8])):
        with pytest.raises(DataError) as caught:
            request("cifar10", cifar10)
        assert_words(caught, [*words, str(file)])
    assert content is None or file.read_bytes() == content


def test_cifar10_path_that_is_a_file_is_an_error(tmp_path):
    """A path to the archive instead of a folder is refused."""
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"is the file .*tar\.gz.*wanted the folder"):
        describe("cifar10", tmp_path / "cifar-10-binary.tar.gz")


@needs_cifar10
def test_real_cifar10_has_its_counts_and_the_specified_order():
    """The real data has 5,000 + 1,000 images a class; deer-dog begins with the specified rows."""
    found = describe("cifar10", CIFAR10)
    assert found.train_counts == (5000,) * 10
    assert found.test_counts == (1000,) * 10
    split = split_of("cifar10", CIFAR10, ["deer", "dog"], 20, 10)
    folder = Path(CIFAR10, "cifar-10-batches-bin")
    batches = [np.fromfile(folder / name, np.uint8).reshape(-1, 3073) for name in BATCHES[:5]]
    for c, start in ((4, [2907, 823, 613, 3068]), (5, [3313, 2516, 3930, 4018])):
        images = np.concatenate([batch[batch[:, 0] == c, 1:] for batch in batches])
        np.testing.assert_array_equal(
            split.pixels_train[c - 4 :: 2][:4].reshape(4, -1), images[start]
        )
    assert 20 < split.pixels_train.std() < 100


# download


class Archives(http.server.BaseHTTPRequestHandler):
    """Serve the bytes in `content` by path; /short.tar.gz promises more than it sends."""

    content: dict = {}  # noqa: RUF012

    def do_GET(self):
        Archives.content.setdefault("requests", []).append(self.path)
        body = Archives.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if "short" in self.path else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Run a web server on this machine; yields its address and fills `Archives.content`."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Archives, "content", {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archives) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def member(name, content=b"x", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def batch_members():
    return [
        member(f"cifar-10-batches-bin/{name}", cifar10_bytes(seed))
        for seed, name in enumerate(BATCHES)
    ]


def archive(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for info, content in members:
            tar.addfile(info, content)
    return file.getvalue()


def offer(server, body, name="/cifar-10-binary.tar.gz"):
    """Put an archive on the server; return the `fetch` that knows its address and MD5."""
    Archives.content[name] = body
    return functools.partial(fetch, "cifar10", url=server + name, md5=hashlib.md5(body).hexdigest())


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_good_archive_is_downloaded_once_and_read(server, tmp_path, monkeypatch, capsys):
    """An absent data set is fetched by a split, with a progress bar, and used from then on."""
    others = [
        member("cifar-10-batches-bin", b"", type=tarfile.DIRTYPE),
        member("cifar-10-batches-bin/readme.html"),
    ]
    get = offer(server, archive(others + batch_members()))
    monkeypatch.setattr(data, "fetch", lambda source, path: get(path))
    home = tmp_path / "deep" / "data"
    pair = resolve_pair(describe("cifar10", home), ["cat", "ship"])
    split = split_pair("cifar10", home, pair, None, None, 66)
    assert split.pixels_train.shape == (30, 3, 32, 32)
    assert "cifar-10-binary.tar.gz: 100%" in capsys.readouterr().err
    get(home)
    get(home / "cifar-10-batches-bin")
    assert Archives.content["requests"] == ["/cifar-10-binary.tar.gz"]
    folder = tmp_path / "deep" / "data" / "cifar-10-batches-bin"
    assert everything(tmp_path / "deep" / "data") == sorted(
        ["cifar-10-batches-bin", *(f"cifar-10-batches-bin/{name}" for name in BATCHES)]
    )
    assert (folder / "test_batch.bin").read_bytes() == cifar10_bytes(5)


def test_cifar10_is_watched_unless_it_was_downloaded(server, tmp_path):
    """A download is no change; batches of the user's own, or put in its place, are."""
    home = tmp_path / "home"
    assert fingerprint("cifar10", home) == ""
    offer(server, archive(batch_members()))(home)
    assert fingerprint("cifar10", home) == ""
    (home / "cifar-10-batches-bin/notes.txt").write_text("not read")
    assert fingerprint("cifar10", home) == ""
    seen = set()
    for name in ("test_batch.bin", "data_batch_1.bin"):
        (home / "cifar-10-batches-bin" / name).write_bytes(cifar10_bytes(9))
        seen |= {fingerprint("cifar10", home), fingerprint("cifar10", home)}
    assert len(seen) == 2
    assert all(seen)


def test_folder_that_is_there_needs_no_network(cifar10):
    """With the folder present nothing is requested: an address that no one serves does no harm."""
    fetch("cifar10", cifar10, url="http://127.0.0.1:1/none")
    assert len(split_of("cifar10", cifar10, [3, 8]).y_train) == 30


@pytest.mark.parametrize("source", ["digits", "npz", "images"])
def test_other_sources_are_not_fetched(source, tmp_path):
    """Fetching a source that cannot be downloaded does nothing."""
    fetch(source, tmp_path / "x", url="http://127.0.0.1:1/none")
    assert everything(tmp_path) == []


def test_cifar10_without_a_path_goes_to_the_data_folder(server, tmp_path, monkeypatch):
    """With a null path the default is the folder data of the working directory."""
    monkeypatch.chdir(tmp_path)
    offer(server, archive(batch_members()))(None)
    assert (tmp_path / "data" / "cifar-10-batches-bin" / "test_batch.bin").is_file()
    assert describe("cifar10").test_counts == (3,) * 10


BY_HAND = ["by hand", "cifar-10-batches-bin/data_batch_1.bin", "data.path"]


def assert_refused(get, home, words):
    """Fetching into `home` fails with these words and leaves nothing in it or beside it."""
    with pytest.raises(DataError) as caught:
        get(home)
    assert_words(caught, [*words, *BY_HAND])
    assert everything(home.parent) in ([], ["home"])


def test_network_failure_says_what_to_do_by_hand(server, tmp_path):
    """No server, or no such page, gives the address, the place for a download by hand, no files."""
    home = tmp_path / "home"
    silent = functools.partial(fetch, "cifar10", url="http://127.0.0.1:1/a.tar.gz")
    assert_refused(silent, home, ["http://127.0.0.1:1/a.tar.gz", "could not be downloaded"])
    absent = functools.partial(fetch, "cifar10", url=f"{server}/none.tar.gz")
    assert_refused(absent, home, ["/none.tar.gz", "404"])


def test_truncated_download_is_refused(server, tmp_path):
    """A connection that ends in the middle leaves nothing and is told from a whole file."""
    get = offer(server, archive(batch_members()), "/short.tar.gz")
    assert_refused(get, tmp_path / "home", ["short.tar.gz", "could not be downloaded"])


def test_tampered_archive_is_refused(server, tmp_path):
    """An archive with another MD5 than wanted is not unpacked."""
    get = functools.partial(offer(server, archive(batch_members())), md5=CIFAR10_MD5)
    assert_refused(get, tmp_path / "home", [CIFAR10_MD5, "does not match"])


def test_no_other_member_is_unpacked(server, tmp_path):
    """Of an archive only the six batches are written, whatever else it holds."""
    others = [member(str(tmp_path / "outside.bin")), member("../outside.bin"), member("home/a")]
    offer(server, archive(others + batch_members()))(tmp_path / "home")
    assert len(everything(tmp_path)) == 2 + len(BATCHES)


def test_folder_that_appears_during_the_download_stays(server, tmp_path, monkeypatch):
    """When another process finishes first, its folder is kept and the own copy removed."""
    get = offer(server, archive(batch_members()))
    real = secrets.token_hex

    def overtaken(n):
        # Called once, for the temporary name, just before the download.
        (tmp_path / "cifar-10-batches-bin").mkdir()
        (tmp_path / "cifar-10-batches-bin" / "mark").write_text("other")
        return real(n)

    monkeypatch.setattr(secrets, "token_hex", overtaken)
    get(tmp_path)
    assert everything(tmp_path) == ["cifar-10-batches-bin", "cifar-10-batches-bin/mark"]


def test_full_disk_is_not_called_a_network_failure(server, tmp_path, monkeypatch):
    """A disk without space is reported as that, and leaves nothing."""
    get = offer(server, archive(batch_members()))

    def on_a_full_disk(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "extract", on_a_full_disk)
    with pytest.raises(OSError, match="disk is full") as caught:
        get(tmp_path / "home")
    assert caught.value.errno == errno.ENOSPC
    assert everything(tmp_path) == ["home"]


# npz


def test_npz_classes_are_the_sorted_labels(tmp_path):
    """Whole numbers are sorted as numbers, text as text; the class name is the label's text."""
    labels = np.array([10, -1, 9])
    path = write_npz(tmp_path, y_train=labels[np.arange(12) % 3], y_test=labels[[0, 1, 2] * 3])
    assert describe("npz", path).class_names == ("-1", "9", "10")
    pair = pair_of("npz", path, ["10", "-1"])
    assert pair.numbers == (0, 2)
    split = split_pair("npz", path, pair, None, None, 66)
    assert set(split.index_train[::2] % 3) == {1}
    assert set(split.index_train[1::2] % 3) == {0}


def test_npz_is_described_without_reading_its_images(tmp_path):
    """Images whose bytes are damaged do not disturb the description, only the split."""
    x = random().integers(0, 256, (600, 2, 4, 5), dtype=np.uint8)
    path = write_npz(tmp_path, x_train=x, y_train=np.arange(600) % 3)
    whole = path.read_bytes()
    end = whole.index(x.tobytes()) + x.nbytes
    path.write_bytes(whole[: end - 9] + bytes(9) + whole[end:])
    assert describe("npz", path).image_shape == (2, 4, 5)
    with pytest.raises(DataError, match=r"set\.npz cannot be read.*CRC"):
        split_of("npz", path, [0, 1])


X = np.zeros((12, 2, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_test": None}, ["x_test", "y_train"]),
        ({"y_train": None}, ["y_train", "whole numbers or text"]),
        ({"x_train": X.astype(np.int64)}, ["x_train is int64", "uint8", "floating point"]),
        ({"x_train": X[:, 0]}, ["x_train", "(12, 4, 5)", "channels x height x width"]),
        ({"x_train": X[:, :, :0]}, ["x_train", "(12, 2, 0, 5)", "none of them 0"]),
        ({"x_train": X[:, 0]}, ["of grey images write x_train[:, None]"]),
        ({"x_train": X.transpose(0, 2, 3, 1)}, ["write x_train.transpose(0, 3, 1, 2)", "one type"]),
        ({"x_test": X[:9].transpose(0, 2, 3, 1)}, ["write x_test.transpose(0, 3, 1, 2)"]),
        ({"x_train": X[:, :1]}, ["(12, 1, 4, 5)", "(9, 2, 4, 5)", "one type and size"]),
        ({"x_train": X / 2}, ["float64", "uint8", "one type and size"]),
        ({"y_train": np.arange(11) % 3}, ["x_train has 12 images", "y_train 11 labels"]),
        ({"y_train": np.eye(12)}, ["y_train is float64 of shape (12, 12)", "whole number"]),
        ({"y_train": np.arange(12) % 3 / 2}, ["y_train is float64", "whole number or text"]),
        ({"y_test": np.arange(9) % 4}, ["y_test[3] is 3", "y_train does not have"]),
        ({"y_test": np.array(["a"] * 9)}, ["y_test[0] is 'a'"]),
        ({"y_train": np.array([None] * 12)}, ["cannot be read", "pickle", "numpy.savez"]),
        ({"x_train": np.array([None] * 12)}, ["x_train is object", "uint8"]),
    ],
)
def test_impossible_npz_is_an_error(tmp_path, changes, words):
    """Missing, mistyped and mismatched arrays are named with what was found and wanted."""
    path = write_npz(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        describe("npz", path)
    assert_words(caught, [*words, "set.npz"])


def test_npz_with_channels_last_is_refused_unless_told_otherwise(tmp_path):
    """Everything that opens the file refuses it with both remedies, and takes it when told to."""
    x = random().integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    path = write_npz(tmp_path, x_train=x, x_test=x, y_test=np.arange(12) % 3)
    pair = Task((0, 1), ("0", "1"), "0-1")
    classes = Task((0, 1, 2), ("0", "1", "2"), "all")
    for opening in (
        describe,
        digest_source,
        lambda *a, **b: split_pair(*a, pair, 8, 8, 66, **b).pixels_train[:1],
        lambda *a, **b: split_classes(*a, classes, 12, 12, **b).pixels_train[:1],
    ):
        with pytest.raises(DataError) as caught:
            opening("npz", path)
        assert_words(
            caught,
            ["(12, 6, 5, 3)", "x_train.transpose(0, 3, 1, 2)", "data.layout", "--layout"],
        )
        assert opening("npz", path, layout="channels_first") is not None
    assert describe("npz", path, "channels_first").image_shape == (6, 5, 3)
    with pytest.raises(DataError, match="layout is 'channels_last': wanted 'channels_first'"):
        describe("npz", path, "channels_last")


class Trap:
    """A pickled object that would leave a file behind if it were loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["x_train", "x_test", "y_train", "y_test"])
def test_pickled_objects_are_never_loaded(tmp_path, name):
    """An array that holds a pickle is refused, in every place, and its code does not run."""
    trap = np.empty(12, object)
    trap[:] = [Trap(tmp_path / "sprung")] * 12
    path = write_npz(tmp_path, **{name: trap})
    (tmp_path / "sprung").unlink(missing_ok=True)
    for request in (describe, functools.partial(split_of, entries=[0, 1])):
        with pytest.raises(DataError):
            request("npz", path)
    with pytest.raises(DataError):
        load_split(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)],
    ids=["empty", "text", "pickle", "broken zip"],
)
def test_file_that_is_no_npz_is_an_error(tmp_path, content):
    """A file of another kind is refused with what was wanted."""
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"set\.npz.*wanted an \.npz file"):
        describe("npz", tmp_path / "set.npz")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f4"), (np.inf, "f8"), (1e300, "f8")])
def test_pixels_that_are_not_finite_are_refused(tmp_path, value, dtype):
    """NaN, infinity or what overflows float32 is refused by the number of the first such image."""
    x = np.zeros((12, 2, 4, 5), dtype)
    x[7, 1, 2, 3] = x[9, 0, 0, 0] = value
    path = write_npz(tmp_path, x_train=x, x_test=x, y_test=np.arange(12) % 3)
    with pytest.raises(DataError, match=r"x_train\[7\] has NaN or infinite.*2 of 12 images"):
        split_of("npz", path, [0, 2])


def test_all_zero_images_are_legal(tmp_path):
    """Black images, and classes with equal images, are data like any other."""
    split = split_of("npz", write_npz(tmp_path, x_train=X), [0, 1])
    assert (split.x_train == -1).all()


@pytest.mark.parametrize("most", [1, 2, 16, 17])
def test_bytes_of_a_small_range_are_noticed(tmp_path, most):
    """Bytes of 0 and 1 are refused, larger ones up to 16 warned of, unless standard scales them."""
    x = random().integers(0, most + 1, (12, 2, 4, 5), dtype=np.uint8)
    path = write_npz(tmp_path, x_train=x, x_test=x[:9])
    split_of("npz", path, [0, 1], scaling="standard")
    if most > 16:
        split_of("npz", path, [0, 1])
        return
    message = rf"largest pixel is {most}, .*x_train \* np.uint8\({255 // most}\).* to standard"
    noticed = pytest.raises(DataError, match=message)
    if most > 1:
        noticed = pytest.warns(UserWarning, match=message)
    with noticed:
        split_of("npz", path, [0, 1])
    if most == 1:
        split = split_of("npz", write_npz(tmp_path, x_train=x * 255, x_test=x[:9] * 255), [0, 1])
        assert set(np.unique(split.x_train)) == {-1, 1}


def test_large_floats_are_noticed(tmp_path):
    """Floats up to 255 are taken as they are, with a warning, unless standard scales them."""
    x = random().uniform(0, 255, (12, 2, 4, 5)).astype(np.float32)
    path = write_npz(tmp_path, x_train=x, x_test=x[:9])
    with pytest.warns(UserWarning, match=r"largest pixel is 25\d.*taken as they are.*divide"):
        split_of("npz", path, [0, 1])
    split_of("npz", path, [0, 1], scaling="standard")


# images


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_read_channel_first_in_sorted_order(tmp_path, mode, suffix):
    """Pixels equal those of the files, sorted by class and name; grey images have one channel."""
    pixels = write_images(tmp_path, mode, suffix=suffix)
    (tmp_path / "train" / "ant" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("not a class folder")
    found = describe("images", tmp_path)
    assert (found.class_names, found.train_counts, found.test_counts) == (
        ("ant", "bee"),
        (4, 4),
        (3, 3),
    )
    assert found.image_shape == (3 if mode == "RGB" else 1, 4, 5)
    split = split_of("images", tmp_path, ["bee", "ant"])
    for part, index, images in (
        ("train", split.index_train, split.pixels_train),
        ("test", split.index_test, split.pixels_test),
    ):
        files = sorted(file for file in pixels if file.parts[-3] == part)
        for row, image in zip(index, images, strict=True):
            wanted = pixels[files[row]].reshape(4, 5, -1).transpose(2, 0, 1)
            np.testing.assert_array_equal(image, wanted)
    assert split.pixel_max == 255
    assert split.pixels_train.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_files_are_read(tmp_path, suffix):
    """JPEG files are decoded; pixels are near those stored in an image of one colour."""
    write_images(tmp_path)
    for file in sorted((tmp_path / "train" / "ant").iterdir()):
        Image.new("RGB", (5, 4), (200, 100, 50)).save(file.with_suffix(suffix))
        file.unlink()
    split = split_of("images", tmp_path, ["ant", "bee"])
    wanted = np.array([200, 100, 50])[:, None, None]
    assert np.abs(split.pixels_train[::2].astype(int) - wanted).max() <= 3


def png(depth, kind, rows, palette=b"", more=b""):
    """Return a PNG file of any depth and kind of colour, from its rows of bytes, 4 x 2 pixels."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 4, 2, depth, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", head), chunk(b"PLTE", palette) if palette else b"", more]
    chunks += [chunk(b"IDAT", content), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_mode(mode, values):
    """Return a 4 x 2 image of a mode with these bands."""
    return Image.merge(mode, [Image.fromarray(np.array(band, np.uint8)) for band in values])


def indexed(colours, used, **options):
    """Return a file of 4 x 2 pixels that cycle through the first `used` colours of a palette."""
    image = Image.fromarray(np.arange(8, dtype=np.uint8).reshape(2, 4) % used).convert("L")
    image = Image.frombytes("P", (4, 2), image.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return saved(image, **options)


BAND = [[0, 50, 100, 150], [200, 250, 30, 70]]
OPAQUE, CLEAR = [[255] * 4] * 2, [[0, 255, 9, 255]] * 2
GREYS, COLOURS = [(i, i, i) for i in (7, 90, 200)], [(1, 2, 3), (9, 8, 7), (7, 7, 7)]
FILES = {
    # Kind of file: what it holds, and its bands as they are read; None if it is refused.
    "grey of 1 bit": (png(1, 0, [b"\x50", b"\xa0"]), [[[0, 255, 0, 255], [255, 0, 255, 0]]]),
    "grey of 2 bits": (png(2, 0, [b"\x1b", b"\xe4"]), [[[0, 85, 170, 255], [255, 170, 85, 0]]]),
    "grey of 4 bits": (
        png(4, 0, [b"\x01\x23", b"\xcd\xef"]),
        [[[0, 17, 34, 51], [204, 221, 238, 255]]],
    ),
    "grey": (saved(of_mode("L", [BAND])), [BAND]),
    "grey, opaque": (saved(of_mode("LA", [BAND, OPAQUE])), [BAND]),
    "grey, transparent": (saved(of_mode("LA", [BAND, CLEAR])), [BAND]),
    "palette of greys": (indexed(GREYS, 3), [[[7, 90, 200, 7], [90, 200, 7, 90]]]),
    "greys of a palette": (indexed(GREYS + COLOURS, 3), [[[7, 90, 200, 7], [90, 200, 7, 90]]]),
    "transparent greys": (indexed(GREYS, 2, transparency=b"\x40\xff"), [[[7, 90, 7, 90]] * 2]),
    "palette": (
        indexed(COLOURS, 2, transparency=b"\x40\x80"),
        [[[1, 9, 1, 9]] * 2, [[2, 8, 2, 8]] * 2, [[3, 7, 3, 7]] * 2],
    ),
    "RGB": (saved(of_mode("RGB", [BAND, BAND[::-1], BAND])), [BAND, BAND[::-1], BAND]),
    "RGB of grey pixels": (saved(of_mode("RGB", [BAND] * 3)), [BAND] * 3),
    "RGBA": (saved(of_mode("RGBA", [BAND, BAND[::-1], BAND, CLEAR])), [BAND, BAND[::-1], BAND]),
    "CMYK": (
        saved(Image.new("CMYK", (4, 2), (255, 0, 0, 0)), "JPEG", quality=100),
        [[[0] * 4] * 2, [[255] * 4] * 2, [[255] * 4] * 2],
    ),
    "grey of 16 bits": (png(16, 0, [bytes(8)] * 2), None),
    "grey of 16 bits, opaque": (png(16, 4, [bytes(16)] * 2), None),
    "RGB of 16 bits": (png(16, 2, [bytes(24)] * 2), None),
    "RGBA of 16 bits": (png(16, 6, [bytes(32)] * 2), None),
    "transparency alone": (saved(of_mode("LA", [[[0] * 4] * 2, BAND])), None),
    "colour's transparency alone": (saved(of_mode("RGBA", [[[9] * 4] * 2] * 3 + [BAND])), None),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_becomes_of_each_kind_of_file(tmp_path, kind):
    """A file is read as a person sees it, in grey or colour, or refused with what to do."""
    content, bands = FILES[kind]
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / ("0.jpg" if kind == "CMYK" else "0.png")).write_bytes(content)
    if bands is None:
        wanted = "by its transparency alone" if "alone" in kind else "16 bits a channel: wanted 8"
        with pytest.raises(DataError, match=rf"train/a/0.png .*{wanted}"):
            describe("images", tmp_path)
        return
    found = open_source("images", tmp_path)
    assert found.image_shape == (len(bands), 2, 4)
    assert found.read("test", np.array([1]))[0].tolist() == bands


def test_greys_of_all_kinds_are_one_source(tmp_path):
    """Greys of all kinds stand side by side in one channel; a coloured file makes all RGB."""
    greys = [kind for kind, (_, bands) in FILES.items() if bands and len(bands) == 1]
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i, kind in enumerate([*greys, "RGB of grey pixels"]):
                (tmp_path / part / name / f"{i}.png").write_bytes(FILES[kind][0])
    rows = np.arange(len(greys) + 1)
    grey = open_source("images", tmp_path).read("train", rows)
    assert grey.shape == (len(greys) + 1, 1, 2, 4)
    (tmp_path / "test/b/0.png").write_bytes(FILES["RGB"][0])
    coloured = open_source("images", tmp_path).read("train", rows)
    np.testing.assert_array_equal(coloured, grey.repeat(3, axis=1))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_turns_an_image_upright(tmp_path, kind, orientation):
    """Pixels, size and description are those of the upright image, whatever way it was stored."""
    top = of_mode("RGB", [BAND, BAND[::-1], BAND]).resize((6, 4), Image.Resampling.NEAREST)
    exif = top.getexif()
    exif[0x0112] = orientation
    content = saved(top, kind, exif=exif.tobytes())
    with Image.open(io.BytesIO(content)) as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened)).transpose(2, 0, 1)
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / f"0.{kind.lower()}").write_bytes(content)
    assert describe("images", tmp_path).image_shape == shown.shape
    read = open_source("images", tmp_path).read("train", np.array([1]))[0]
    np.testing.assert_array_equal(read, shown)
    assert shown.shape == ((3, 6, 4) if orientation in range(5, 9) else (3, 4, 6))


def test_grey_images_among_coloured_ones_become_rgb(tmp_path):
    """In a coloured source a grey image, or one with a palette, has three channels."""
    write_images(tmp_path)
    Image.new("L", (5, 4), 77).save(tmp_path / "train" / "ant" / "0.png")
    palette = Image.new("P", (5, 4), 1)
    palette.putpalette([1, 2, 3, 9, 8, 7])
    palette.save(tmp_path / "train" / "ant" / "1.png", transparency=b"\x40\x80")
    split = split_of("images", tmp_path, ["ant", "bee"])
    rows = split.index_train.tolist()
    assert (split.pixels_train[rows.index(0)] == 77).all()
    assert split.pixels_train[rows.index(1), :, 0, 0].tolist() == [9, 8, 7]


def test_pair_of_grey_classes_in_a_coloured_source_has_three_channels(tmp_path):
    """The number of channels belongs to the source, so that it agrees with the description."""
    write_images(tmp_path, "L")
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir()
        for i in range(3):
            Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / part / "cat" / f"{i}.png")
    assert describe("images", tmp_path).image_shape == (3, 4, 5)
    assert split_of("images", tmp_path, ["ant", "bee"]).pixels_train.shape == (8, 3, 4, 5)


@pytest.mark.parametrize("linked", ["nothing", "folder", "part", "class", "file"])
def test_the_fingerprint_covers_what_is_read_and_nothing_else(tmp_path, linked):
    """A changed, new or renamed image is noticed, also behind links; what is not read is not."""
    real, folder = tmp_path / "real", tmp_path / "images"
    write_images(real, "L")
    links = {"folder": "", "part": "train", "class": "train/ant", "file": "train/ant/0.png"}
    if linked != "folder":
        shutil.copytree(real, folder)
    if linked in links:
        link = folder / links[linked]
        if link.exists():
            link.rename(tmp_path / "moved")
        link.symlink_to(real / links[linked])
    image = (folder / "train/ant/0.png").resolve()
    seen = [fingerprint("images", folder)]
    (folder / ".DS_Store").write_text("x")
    (folder / "results").mkdir()
    (folder / "results/0.png").write_text("x")
    (folder / "train/notes.txt").write_text("x")
    (folder / "train/.cache").mkdir()
    (folder / "train/.cache/0.png").write_text("x")
    (folder / "train/ant/._0.png").write_text("x")
    (folder / "train/ant/.cache").mkdir()
    (folder / "train/ant/.cache/0.png").write_text("x")
    assert fingerprint("images", folder) == seen[0]
    os.utime(image, (1, 1))
    seen.append(fingerprint("images", folder))
    shutil.copy2(image, folder / "train/ant/more.png")
    seen.append(fingerprint("images", folder))
    (folder / "train/ant/more.png").rename(folder / "train/ant/other.png")
    seen.append(fingerprint("images", folder))
    assert len(set(seen)) == 4
    (folder / "test/bee/0.png").unlink()
    (folder / "test/bee/0.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"test/bee/0\.png cannot be read: No such file"):
        fingerprint("images", folder)


def test_a_split_names_the_files_of_its_images(tmp_path):
    """Images of class folders have the names of their files, in a stored split too."""
    write_images(tmp_path)
    split = split_of("images", tmp_path, ["ant", "bee"], 4)
    save_split(tmp_path / "split.npz", split)
    for found in (split, load_split(tmp_path / "split.npz"), split.first(2)):
        for part, index in (("train", found.index_train), ("test", found.index_test)):
            n_ant = 4 if part == "train" else 3
            for i, row in enumerate(index):
                name = f"{part}/{('ant', 'bee')[i % 2]}/{row % n_ant}.png"
                assert getattr(found, f"files_{part}")[i] == name
    assert split_of("digits", None, ["3", "8"], 10).files_train is None


def test_coloured_image_in_a_grey_source_is_an_error(tmp_path):
    """Colour is not thrown away: the coloured file and a grey one are named."""
    write_images(tmp_path, "L")
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "train" / "bee" / "2.png")
    with pytest.raises(DataError) as caught:
        split_of("images", tmp_path, ["ant", "bee"])
    assert_words(caught, ["train/bee/2.png is a colour image", "train/ant/0.png", "convert all"])


def test_image_of_sixteen_bits_is_an_error(tmp_path):
    """Pixels of more than eight bits are refused instead of being clipped."""
    write_images(tmp_path)
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(tmp_path / "test" / "ant" / "1.png")
    with pytest.raises(DataError, match=r"test/ant/1\.png has the pixel type 'I;16'.*8 bits"):
        split_of("images", tmp_path, ["ant", "bee"])


@pytest.mark.parametrize("which", ["0.png", "2.png"])
def test_images_of_unequal_size_are_an_error(tmp_path, which):
    """Two files of different size are named with their sizes."""
    write_images(tmp_path)
    Image.new("RGB", (4, 5)).save(tmp_path / "train" / "bee" / which)
    with pytest.raises(DataError) as caught:
        split_of("images", tmp_path, ["ant", "bee"])
    assert_words(caught, [f"train/bee/{which} is 4 x 5", "train/ant/0.png is 5 x 4", "resize"])


@pytest.mark.parametrize("damage", ["text", "truncated", "flipped", "other format", "folder"])
def test_unreadable_image_is_an_error(tmp_path, damage):
    """A file that cannot be decoded as PNG or JPEG is named."""
    write_images(tmp_path, size=(40, 40))
    file = tmp_path / "test" / "bee" / "1.png"
    whole = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "other format":
        Image.new("RGB", (40, 40)).save(file, format="BMP")
    elif damage == "flipped":
        file.write_bytes(whole[:200] + bytes(b ^ 255 for b in whole[200:300]) + whole[300:])
    else:
        file.write_bytes(b"text" if damage == "text" else whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"test/bee/1\.png cannot be read as a PNG or JPEG"):
        split_of("images", tmp_path, ["ant", "bee"])


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    """An image with more pixels than Pillow's limit is refused before it is decoded."""
    write_images(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(DataError, match=r"ant/0\.png cannot be read.*decompression bomb"):
        describe("images", tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(DataError, match=r"ant/0\.png cannot be read.*decompression bomb"):
        describe("images", tmp_path)


def test_text_bomb_inside_a_png_is_refused(tmp_path):
    """A PNG whose compressed text unpacks to many megabytes is refused."""
    write_images(tmp_path)
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "x" * 2_000_000, zip=True)
    Image.new("RGB", (5, 4)).save(tmp_path / "train" / "ant" / "0.png", pnginfo=info)
    with pytest.raises(DataError, match=r"ant/0\.png cannot be read"):
        describe("images", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "train" / "cat").mkdir(), ["train/cat is empty", "train/CLASS/*.png"]),
        (lambda f: (f / "test" / "ant").rename(f / "test" / "asp"), ["'ant', 'asp'", "only one"]),
        (lambda f: (f / "test").rename(f / "tests"), ["test is no folder", "test/CLASS"]),
        (lambda f: (f / "train" / "ant" / "x.webp").touch(), ["ant/x.webp", "no other files"]),
    ],
)
def test_impossible_image_folders_are_an_error(tmp_path, change, words):
    """Empty, missing or unmatched class folders and files of other kinds are named."""
    write_images(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError) as caught:
        describe("images", tmp_path)
    assert_words(caught, words)


def test_folder_without_class_folders_is_an_error(tmp_path):
    """Images that lie in train itself are not taken for a class."""
    (tmp_path / "train").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "train" / "0.png")
    with pytest.raises(DataError, match=r"train has no class folders.*train/CLASS"):
        describe("images", tmp_path)
