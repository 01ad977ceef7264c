"""Damaged and hostile data: npz files and images either read as they were, or refused."""

import io
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lantk.data.base import DataError
from lantk.data.sources import open_source
from lantk.data.splits import describe, digest_source, fingerprint, split_pair
from lantk.data.tasks import resolve_pair

pytestmark = pytest.mark.rest
# More of them, at random: LANTK_FUZZ_EXAMPLES=5000 pytest tests/data/test_fuzz_data.py
EXAMPLES = int(os.environ.get("LANTK_FUZZ_EXAMPLES", "0"))


def fuzz(default):
    """Return settings for so many examples, always the same ones unless more are asked for."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=EXAMPLES or default,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=checks,
    )


@st.composite
def damage(draw):
    """Return what cuts a file short, or replaces, inserts or repeats some of its bytes."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "replace", "insert", "repeat"]))
    place, width = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40))
    bits, text = draw(st.integers(1, 255)), draw(st.binary(min_size=1, max_size=40))

    def apply(whole):
        at = int(place * len(whole))
        if kind == "cut":
            return whole[:at]
        if kind == "flip":
            return whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]
        if kind == "replace":
            return whole[:at] + text + whole[at + len(text) :]
        return whole[:at] + (text if kind == "insert" else whole[at : at + width]) + whole[at:]

    return apply


def check_message(error, name):
    """Hold that a refusal is one line that says where."""
    assert name in str(error)
    assert "\n" not in str(error)


# npz


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape, descr="|u1", fortran_order=False, content=b""):
    """Return an array file that claims a shape, given as text, and holds other content."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + content


RANDOM = np.random.default_rng(0)
GOOD = {
    "x_train": npy(RANDOM.integers(0, 256, (12, 2, 4, 5), dtype=np.uint8)),
    "y_train": npy(np.array(["ant", "bee", "cat"] * 4)),
    "x_test": npy(RANDOM.integers(0, 256, (9, 2, 4, 5), dtype=np.uint8)),
    "y_test": npy(np.array(["ant", "bee", "cat"] * 3)),
}


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def read_all(source, path):
    """Return everything of a source: what it is described as, and every label and pixel."""
    found = describe(source, path)
    fingerprint(source, path)
    split_pair(source, path, resolve_pair(found, ["#0", "#1"]), None, None, 1)
    return found.class_names, found.train_counts, digest_source(source, path)


@fuzz(150)
@given(damage(), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
def test_a_damaged_npz_is_refused_or_unharmed(tmp_path, apply, compression):
    """Whatever bytes of the file are changed, its images are the same, or it is refused."""
    whole = write_zip(tmp_path / "whole.npz", GOOD, compression)
    (tmp_path / "set.npz").write_bytes(apply(whole.read_bytes()))
    try:
        found = read_all("npz", tmp_path / "set.npz")
    except DataError as error:
        check_message(error, "set.npz")
    else:
        assert found == read_all("npz", whole)


@fuzz(150)
@given(damage(), st.sampled_from(sorted(GOOD)))
def test_a_damaged_array_with_a_good_checksum_is_no_crash(tmp_path, apply, name):
    """An array file whose bytes are changed before it is packed is data of its own, or refused."""
    write_zip(tmp_path / "set.npz", GOOD | {name: apply(GOOD[name])})
    try:
        read_all("npz", tmp_path / "set.npz")
    except DataError as error:
        check_message(error, "npz")


def labels_with(code):
    """Return labels of which one holds a number in place of a character."""
    labels = np.array(["ant", "bee", "cat"] * 4)
    labels.view(np.uint32)[0] = code
    return npy(labels)


HOSTILE = {
    "labels that claim terabytes": ("y_train", header("(1000000000000,)", "<i8")),
    "labels beyond any number": ("y_train", header(f"({10**30},)", "<i8")),
    "no bytes, many labels": ("y_train", header("(1000000000000,)", "<U0")),
    "images that claim terabytes": ("x_train", header("(12, 2, 4, 10000000000)")),
    "negative sizes": ("x_train", header("(-12, -2, 4, 5)", content=bytes(480))),
    "a size that is true or false": ("x_train", header("(12, 2, 4, True)", content=bytes(96))),
    "a size that is a sum": ("x_train", header("(12, 2, 4, 2 + 3)", content=bytes(480))),
    "brackets without end": ("x_train", header("[" * 5000)),
    "signs without end": ("x_train", header("-" * 9000 + "1")),
    "a header of a gigabyte": ("x_train", b"\x93NUMPY\2\0\0\0\0\x40" + bytes(1 << 22)),
    "no array at all": ("y_train", b"hello"),
    "gigabytes that no header counts": ("x_train", header("(12, 2, 4, 5)", content=bytes(1 << 22))),
    "a type of many numbers": ("y_train", header("(12,)", ("<i4", (10**9,)))),
    "labels of a million characters": ("y_train", header("(12,)", "<U1000000")),
    "characters that are none": ("y_train", labels_with(0x7FFFFFFF)),
    "half a character": ("y_train", labels_with(0xD800)),
    "complex images": ("x_train", npy(np.zeros((12, 2, 4, 5), complex))),
    "images of records": ("x_train", npy(np.zeros((12, 2, 4, 5), [("a", "i4")]))),
    "dates for labels": ("y_train", npy(np.zeros(12, "M8[s]"))),
    "bytes for labels": ("y_train", npy(np.array([b"ant", b"bee", b"cat"] * 4))),
    "objects for labels": ("y_train", npy(np.array([None] * 12))),
    "objects for images": ("x_train", npy(np.full((12, 2, 4, 5), None))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_array_is_refused_in_little_memory(tmp_path, case):
    """What a header claims is refused before memory is taken for it."""
    name, content = HOSTILE[case]
    path = write_zip(tmp_path / "set.npz", GOOD | {name: content}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"set\.npz"):
            read_all("npz", path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_other_orders_of_bytes_and_axes_are_the_same_images(tmp_path):
    """Big-endian numbers and Fortran order, duplicates left out, give the images they stand for."""
    x = {part: RANDOM.normal(size=(12, 2, 4, 5)) for part in ("train", "test")}
    members = GOOD | {f"x_{part}": npy(a) for part, a in x.items()}
    members["y_test"] = members["y_train"]
    wanted = read_all("npz", write_zip(tmp_path / "plain.npz", members))
    swapped = {f"x_{part}": npy(np.asfortranarray(a.astype(">f8"))) for part, a in x.items()}
    labels = npy(np.array(["ant", "bee", "cat"] * 4, ">U3"))
    others = {"y_train": labels, "y_test": labels, "../../etc/more": b"ignored"}
    assert read_all("npz", write_zip(tmp_path / "other.npz", swapped | others)) == wanted


@pytest.mark.parametrize("source", ["npz", "images", "cifar10"])
@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000], ids=["name", "path"])
def test_an_impossible_path_is_refused(source, name):
    """A path that no file system takes is bad data, not a crash."""
    with pytest.raises(DataError):
        describe(source, name)


@pytest.mark.parametrize("source", ["npz", "images"])
def test_a_pipe_is_not_waited_for(tmp_path, source):
    """A pipe or device in place of a file is refused, since it might never end."""
    if source == "npz":
        path = pipe = tmp_path / "set.npz"
    else:
        path, pipe = tmp_path, tmp_path / "train" / "ant" / "0.png"
        write_images(tmp_path)
        pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="no plain file"):
        describe(source, path)


# images


def write_images(folder, names=("ant", "bee"), suffix=".png"):
    """Write three images a class for train, and three for test."""
    for part in ("train", "test"):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = RANDOM.integers(0, 256, (9, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@fuzz(60)
@given(damage(), st.sampled_from(["0", "2"]))
def test_a_damaged_image_is_no_crash(tmp_path, suffix, apply, stem):
    """An image whose bytes are changed is decoded, or named and refused; a PNG never differs."""
    folder = tmp_path / "set"
    if not folder.exists():
        write_images(folder, suffix=suffix)
    file = folder / "train" / "bee" / f"{stem}{suffix}"
    whole, wanted = file.read_bytes(), read_all("images", folder)
    try:
        file.write_bytes(apply(whole))
        found = read_all("images", folder)
    except DataError as error:
        check_message(error, str(folder))
    else:
        # The checksum of a PNG covers its pixels; what follows the end is not read.
        assert suffix == ".jpg" or found == wanted
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", os.fsdecode(b"\xff\xfe")], ids=ascii)
def test_a_class_folder_that_cannot_be_shown_is_refused(tmp_path, name):
    """Line breaks, control characters and bytes that are no text are refused in class names."""
    write_images(tmp_path, ("ant", name))
    for look in (describe, fingerprint):
        with pytest.raises(DataError, match="rename it"):
            look("images", tmp_path)


def test_names_equal_in_other_letters_are_two_classes(tmp_path):
    """Class names that look or are spelt alike have slugs of their own, safe in any shell."""
    names = ["é", "e\u0301", "it; touch x", "it' touch x", "x..", "a b", "$HOME", "-rf", "`ls`"]
    write_images(tmp_path, names)
    found = describe("images", tmp_path)
    pairs = [[a, b] for i, a in enumerate(names) for b in names[i + 1 :]]
    slugs = {resolve_pair(found, pair).slug for pair in pairs}
    assert len(slugs) == len(pairs)
    assert all(slug.replace("-", "").replace(".", "").replace("_", "").isalnum() for slug in slugs)


def test_linked_images_are_read_and_broken_links_refused(tmp_path):
    """A symbolic link to an image is that image; one to nothing, or to itself, is named."""
    write_images(tmp_path)
    file = tmp_path / "train" / "ant" / "1.png"
    wanted = read_all("images", tmp_path)
    shutil.move(file, tmp_path / "elsewhere.png")
    file.symlink_to(tmp_path / "elsewhere.png")
    assert read_all("images", tmp_path) == wanted
    for target in ("nowhere.png", file):
        file.unlink()
        file.symlink_to(target)
        for look in (read_all, fingerprint):
            with pytest.raises(DataError, match=r"ant/1\.png"):
                look("images", tmp_path)
    file.unlink()
    (tmp_path / "train/cat").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"train/cat is a symbolic link to nothing"):
        describe("images", tmp_path)


def test_many_classes_are_described_quickly(tmp_path):
    """Two thousand class folders are two thousand classes."""
    write_images(tmp_path, ["c0000"])
    for i in range(1, 2000):
        for part in ("train", "test"):
            folder = tmp_path / part / f"c{i:04}"
            folder.mkdir()
            (folder / "0.png").symlink_to(tmp_path / part / "c0000" / "0.png")
    assert len(describe("images", tmp_path).class_names) == 2000


def test_an_animation_is_its_first_frame(tmp_path):
    """Of an animated PNG the first frame counts."""
    write_images(tmp_path)
    first, second = (Image.new("RGB", (8, 9), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "train/ant/0.png", save_all=True, append_images=[second])
    found = describe("images", tmp_path)
    split = split_pair("images", tmp_path, resolve_pair(found, ["#0", "#1"]), None, None, 1)
    image = split.pixels_train[list(split.index_train).index(0)]
    assert (image == np.array([255, 0, 0])[:, None, None]).all()


@fuzz(40)
@given(damage())
def test_broken_exif_is_no_crash(tmp_path, apply):
    """Whatever stands in place of EXIF, the image is read, turned or as it is."""
    if not (tmp_path / "train").exists():
        write_images(tmp_path)
        (tmp_path / "train/ant/0.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    broken = b"Exif\0\0" + apply(exif.tobytes()[6:])
    Image.new("RGB", (8, 9), "red").save(tmp_path / "train/ant/0.jpg", exif=broken)
    assert open_source("images", tmp_path).read("train", np.array([0])).shape == (1, 3, 9, 8)
