"""What holds for every exact Gram matrix: laws, equal bytes, messages, memory."""

import threading
import tracemalloc

import numpy as np
import pytest

from lantk.compiled import entry_point
from lantk.kernel import reference
from lantk.kernel.bands import Band
from lantk.kernel.cpu import loops as cpu
from lantk.kernel.cpu.engine import tile_side
from lantk.kernel.cpu.measure import read_block
from lantk.kernel.cuda import launcher as cuda_launcher
from lantk.kernel.gram import gram, gram_band, gram_diagonal, gram_taps
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.images import KernelError
from lantk.kernel.plan import make_plans

GAP = [
    {"conv": {"size": 3, "trained": False}},
    "relu",
    {"conv": {"size": 3, "stride": 2}},
    "relu",
    "global_average_pool",
    "dense",
]
ARCHITECTURES = pytest.mark.parametrize("architecture", ["chen2020", GAP], ids=["flatten", "gap"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def draw_images(n, side=8, seed=0):
    """Return n images of uniform pixels in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, side, side))


def assert_same_bytes(found, wanted):
    """Compare two arrays bit by bit, not by value."""
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


@ARCHITECTURES
@DTYPES
def test_the_kernel_is_homogeneous(architecture, dtype):
    """K(a x, b x') = a b K(x, x'): bit by bit for powers of two, whatever their size."""
    x, y = draw_images(3), draw_images(2, seed=1)
    k = gram(architecture, x, y, dtype=dtype)
    assert_same_bytes(
        gram(architecture, x * 2.0**40, y * 2.0**-45, dtype=dtype), k * k.dtype.type(2.0**-5)
    )
    scaled = gram(architecture, -3 * x, -0.7 * y, dtype=dtype)
    np.testing.assert_allclose(scaled, 2.1 * k, rtol=1e3 * np.finfo(dtype).eps)


def test_float32_holds_images_of_any_scale():
    """Pixels whose squares are not float32 numbers give the kernel of the same images scaled."""
    x, y = draw_images(3), draw_images(2, seed=1)
    k = gram("chen2020", x, y)
    np.testing.assert_allclose(gram("chen2020", x * 1e-30, y * 1e30), k, rtol=1e-6)


@ARCHITECTURES
@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_underflow_is_refused_like_overflow(architecture, kernel):
    """At any scale of the pixels a kernel is right to six digits, or refused with what to do."""
    x = draw_images(3)
    right = gram(architecture, x, kernel=kernel, dtype="float64")
    refused = []
    for exponent in range(-45, -85, -2):
        scaled = (x * 2.0**exponent).astype(np.float32)
        for columns in (None, scaled[1:]):
            try:
                k = gram(architecture, scaled, columns, kernel=kernel).astype(float)
            except KernelError:
                refused.append(exponent)
            else:
                wanted = right if columns is None else right[:, 1:]
                np.testing.assert_allclose(k * 2.0 ** (-2 * exponent), wanted, rtol=1e-5)
    assert refused
    assert -45 not in refused


def test_underflow_is_refused_in_every_part_of_a_matrix():
    """Several architectures, a band, the mirror image, a diagonal of test images, and float64."""
    x = draw_images(100)
    x[98] *= 1e-22
    names = ["arora2019-vanilla-3", "arora2019-vanilla-4"]
    message = (
        r"images 98 and 98 of x1 underflows float32, which has all its digits from 1.2e-38 on:"
    )
    message += " multiply the images by a constant, or ask `lantk.gram` for float64"
    with pytest.raises(KernelError, match=message):
        gram_taps(names, x)
    with pytest.raises(KernelError, match="images 98 and 98 of x_train underflows float32"):
        gram_band(["chen2020"], x, x[:0], Band(90, 100, 90), [np.empty((10, 10), np.float32)])
    with pytest.raises(
        KernelError, match=r"image 98 of x_test and image \d+ of x_train underflows"
    ):
        gram_band(["chen2020"], 1e-20 * x[:96], x, Band(190, 196, 0), [np.empty((6, 96), "f4")])
    with pytest.raises(KernelError, match="images 98 and 98 of x1 underflows float32"):
        gram_diagonal("chen2020", x)
    with pytest.raises(KernelError, match=r"underflows float64.* by a constant$"):
        gram("chen2020", x[:2] * 1e-160, dtype="float64")
    assert gram("chen2020", x[97:], dtype="float64").min() > 0


def test_images_that_keep_their_scale_are_refused_where_it_is_lost():
    """Erf and biases see the scale of the pixels; a plain network beside them does not."""
    x = draw_images(3).astype(np.float32)
    layers = [{"conv": {"size": 3}}, "erf", "flatten", "dense"]
    with pytest.raises(
        KernelError, match=r"image 0 of x1 has no pixel beyond .* underflow float32"
    ):
        gram(layers, 1e-21 * x)
    plain, biased = "arora2019-vanilla-2", [{"conv": {"size": 3}}, "relu", "flatten"]
    biased.append({"dense": {"bias": 1}})
    small = 2.0**-30 * x
    assert_same_bytes(gram_taps([plain, biased], small)[0], gram(plain, small))


def test_what_is_zero_stays_zero():
    """Black images, and images without a pixel in common, have a kernel of 0 at any scale."""
    linear = [{"conv": {"size": 1}}, "flatten", "dense"]
    x = np.zeros((3, 1, 4, 4))
    x[0, 0, 0], x[1, 0, 1] = 1e-16, 1e-17
    k = gram(linear, x)
    assert k[0, 0] > 0
    assert k[1, 1] > 0
    k[[0, 1], [0, 1]] = 0
    assert not k.any()
    assert not gram("chen2020", 1e-25 * x[2:], x).any()


@ARCHITECTURES
def test_the_kernel_is_symmetric_and_does_not_mix_images(architecture):
    """K = K^T, and permuted images give the permuted matrix, bit by bit."""
    x = draw_images(7)
    k = gram(architecture, x)
    assert_same_bytes(k.T.copy(), k)
    order = np.random.default_rng(1).permutation(7)
    assert_same_bytes(gram(architecture, x[order]), k[np.ix_(order, order)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_diagonal_counts_the_trained_layers(dtype):
    """With flatten and all L layers trained K(x, x) of the NTK is L times that of the NNGP."""
    x = draw_images(4, side=12)
    ntk, nngp = (gram("chen2020", x, kernel=kernel, dtype=dtype) for kernel in ("ntk", "nngp"))
    np.testing.assert_allclose(np.diag(ntk), 8 * np.diag(nngp), rtol=2 * np.finfo(dtype).eps)


@ARCHITECTURES
@DTYPES
def test_black_images_and_black_patches(architecture, dtype):
    """A black image has kernel 0 with all, itself too, and black patches are legal."""
    x = draw_images(4)
    x[1] = 0
    x[2, :, :5] = 0
    x[3, :, :, 3:] = -0.0
    k = gram(architecture, x, dtype=dtype)
    assert not k[1].any()
    assert not k[:, 1].any()
    wanted = reference.gram(architecture, x)
    tolerance = {"float32": 2e-5, "float64": 1e-9}[dtype] * wanted.max()
    np.testing.assert_allclose(k, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("architecture", "bound"), [("chen2020", 1e-4), ("arora2019-vanilla-21", 1e-3)]
)
def test_near_duplicates_lose_no_more_than_stated(architecture, bound):
    """One pixel off by 1/255 costs float32 at most 1e-4 of `chen2020`, 1e-3 at depth 21."""
    x = draw_images(6, side=32)
    near = x.copy()
    near[:, 1, 5, 7] += 1 / 255
    k, exact = (
        np.diag(gram(architecture, x, near, dtype=dtype)) for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(k, exact, rtol=bound)


@ARCHITECTURES
@DTYPES
def test_equal_images_are_exact_wherever_they_stand(architecture, dtype):
    """An image that is in both sets has the diagonal's value, and so has its double, times two."""
    x = draw_images(5)
    x[1, :, 2:4] = 0
    x[4] = x[1]
    x[4, :, 2:4] = -0.0
    k = gram(architecture, x, dtype=dtype)
    assert k[1, 4] == k[1, 1] == k[4, 4]
    across = gram(architecture, np.concatenate([x[:2], 2 * x[2:3]]), x, dtype=dtype)
    assert_same_bytes(across[:2], k[:2])
    assert across[2, 2] == 2 * k[2, 2]
    exact = np.diag(reference.gram(architecture, x))
    np.testing.assert_allclose(np.diag(k), exact, rtol=50 * np.finfo(dtype).eps)


@ARCHITECTURES
def test_bytes_do_not_depend_on_how_the_work_is_cut(architecture):
    """Threads, tiles, ragged sizes, bands and the side of an image leave every byte as it is."""
    side = 8 if architecture == "chen2020" else 3
    x = draw_images(2 * cpu.LANES + 11, side)
    x[150] = x[3]
    whole = gram(architecture, x, threads=1)
    for options in ({"threads": 3}, {"scratch_bytes": 1}, {"threads": 2, "scratch_bytes": 1}):
        assert_same_bytes(gram(architecture, x, **options), whole)
    assert_same_bytes(gram(architecture, x, x), whole)
    for n in (1, 2, cpu.LANES, cpu.LANES + 1):
        assert_same_bytes(gram(architecture, x[:n]), whole[:n, :n].copy())
        assert_same_bytes(gram(architecture, x[:n], x), whole[:n].copy())
        assert_same_bytes(gram(architecture, x, x[:n]), whole[:, :n].copy())
    a, b = 70, 130
    assert_same_bytes(gram(architecture, x[a:b]), whole[a:b, a:b].copy())
    assert_same_bytes(gram(architecture, x[a:b], x[b:]), whole[a:b, b:].copy())


@DTYPES
@pytest.mark.parametrize("architecture", ["chen2020", "arora2019-gap-3"])
def test_flips_are_the_mean_over_four_pairs_of_images(architecture, dtype):
    """With flips an entry is the mean of K over (x, f x) x (x', f x'), whichever way it is cut.

    A symmetric image, equal to its own mirror image, is exact like any pair of equal images, and a
    symmetric matrix is so bit by bit.
    """
    x, others = draw_images(7), draw_images(3, seed=1)
    x[2] = (x[2] + x[2][..., ::-1]) / 2
    others[1] = x[4][..., ::-1]
    k = gram(architecture, x, flips=True, dtype=dtype)
    lower = gram(architecture, others, x, flips=True, dtype=dtype)
    for found, a, b in ((k, x, x), (lower, others, x)):
        four = [gram(architecture, u, v, dtype="float64") for u in both(a) for v in both(b)]
        np.testing.assert_allclose(found, np.mean(four, axis=0), rtol=20 * np.finfo(dtype).eps)
    assert_same_bytes(k.T.copy(), k)
    assert_same_bytes(gram(architecture, x[:3], flips=True, dtype=dtype), k[:3, :3].copy())
    assert_same_bytes(gram(architecture, x[:3], x[3:], flips=True, dtype=dtype), k[:3, 3:].copy())
    diagonal = gram_diagonal(architecture, x, flips=True, dtype=dtype)
    assert_same_bytes(diagonal, np.diag(k).copy())


def both(images):
    return images, images[..., ::-1]


def test_asymmetric_padding_tells_an_image_from_its_mirror_image():
    """At stride 2 on even sides K(f x, f x') is not K(x, x'), so flips take all four."""
    x, mirrored = both(draw_images(4))
    k, of_mirrored = (gram("chen2020", images, dtype="float64") for images in (x, mirrored))
    assert np.abs(k - of_mirrored).max() > 1e-3 * k.max()


def test_messages_with_flips_name_the_images_of_the_caller():
    """What is wrong with a pair of an image and a mirror image is said of the images."""
    x, others = draw_images(3), draw_images(2, seed=1)
    others[1] *= 1e30
    x[2] *= 1e30
    with pytest.raises(KernelError, match=r"image 1 of x1 and image 2 of x2 overflows"):
        gram("chen2020", others, x, flips=True)
    with pytest.raises(KernelError, match=r"images 2 and 2 of x1 overflows|image 2 of x1"):
        gram("chen2020", x, flips=True)


def test_concurrent_calls():
    """Calls from several Python threads at once return what one call returns."""
    x = draw_images(20)
    wanted = gram("chen2020", x)
    results = [None] * 4

    def work(i):
        results[i] = gram("chen2020", x, threads=2)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results:
        assert_same_bytes(result, wanted)


def test_inputs_are_read_in_any_layout_and_not_changed():
    """Strided, read-only, half-precision and nested-list images are read and left as they are."""
    x = draw_images(4).astype(np.float16).astype(np.float64)
    wanted = gram("chen2020", x)
    strided = np.asfortranarray(x)
    strided.flags.writeable = False
    for images in (strided, x[::-1][::-1], x.astype(np.float16), x.astype(np.float32), x.tolist()):
        assert_same_bytes(gram("chen2020", images), wanted)
    before = x.copy()
    gram("chen2020", x, x[:2])
    assert_same_bytes(x, before)


def test_progress_counts_the_entries():
    """`progress` sees growing counts that end at the number of entries."""
    square, oblong = [draw_images(130)], [draw_images(100), draw_images(3)]
    for images, n, flips in (
        *((square, 130 * 130, flips) for flips in (False, True)),
        *((oblong, 300, flips) for flips in (False, True)),
    ):
        calls = []
        gram("chen2020", *images, flips=flips, progress=lambda *call, of=calls: of.append(call))
        done = [call[0] for call in calls]
        assert done == sorted(set(done))
        assert calls[-1] == (n, n)
        assert {call[1] for call in calls} == {n}


def test_an_exception_in_progress_ends_the_job():
    """What `progress` raises, an interrupt for example, reaches the caller and ends the threads."""

    def interrupt(n_done, n_total):
        raise KeyboardInterrupt

    n_threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt) as caught:
        gram("chen2020", draw_images(130), device="cpu", progress=interrupt, threads=2)
    # Even while the exception, and with it the frame of the call, is kept.
    assert caught.tb is not None
    assert threading.active_count() == n_threads


def change(x, place, value):
    """Return a copy of x with one value changed."""
    x = x.copy()
    x[place] = value
    return x


X = draw_images(3)
LAST = X.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((2, 3, 8, 8), np.uint8),), {}, "x1 holds uint8: wanted floats, so scale first"),
        ((X, np.zeros((2, 3, 8, 8), int)), {}, "x2 holds int64: wanted floats, so scale first"),
        ((X > 0,), {}, "x1 holds bool"),
        ((X[0],), {}, r"x1 has shape \(3, 8, 8\): wanted n x channels x height x width"),
        ((X[:0],), {}, r"x1 has shape \(0, 3, 8, 8\)"),
        ((X[:, :, :0],), {}, "none of them 0"),
        ((X, X[..., 1:]), {}, r"x1 are \(3, 8, 8\) and those of x2 \(3, 8, 7\)"),
        ((change(X, (1, 0, 2, 3), np.nan),), {}, "image 1 of x1 has pixels that are NaN"),
        ((X, change(X, (2, 1, 0, 0), -np.inf)), {}, "image 2 of x2 has pixels that are NaN or inf"),
        ((X[0],), {}, r"of grey images write x1\[:, None\], of a single image x1\[None\]"),
        ((X[0, 0],), {}, r"of vectors write x1\[:, :, None, None\]"),
        (
            (X[:, :2], LAST[..., :2]),
            {},
            r"channels of x2 come last, write x2.transpose\(0, 3, 1, 2",
        ),
        (
            (LAST[..., :2], X[:, :2]),
            {},
            r"channels of x1 come last, write x1.transpose\(0, 3, 1, 2",
        ),
        ((X, LAST), {}, r"x2 has shape \(3, 8, 8, 3\), .* write x2.transpose\(0, 3, 1, 2\)"),
        ((X,), {"layout": "channels_last"}, "layout is 'channels_last': wanted 'channels_first'"),
        ((X,), {"kernel": "rbf"}, "kernel is 'rbf': wanted 'ntk' or 'nngp'"),
        ((X,), {"dtype": "float16"}, "dtype is 'float16': wanted 'float32' or 'float64'"),
        ((X,), {"device": "tpu"}, "device is 'tpu': wanted 'auto' or 'cpu' or 'cuda'"),
        ((X,), {"threads": 0}, "threads is 0: wanted 1 or more"),
        ((1e25 * X,), {}, "images 0 and 0 of x1 overflows float32: divide the images"),
    ],
)
def test_bad_input_gets_a_message(arguments, options, message):
    """Every refusal says what was found and what was wanted."""
    with pytest.raises(ValueError, match=message):
        gram("chen2020", *arguments, **options)


@pytest.mark.parametrize(
    ("shape", "is_refused"),
    [
        ((32, 32, 3), True),
        ((8, 8, 1), True),
        ((5, 6, 4), True),
        ((2, 2, 1), True),
        ((28, 28, 2), False),
        ((3, 32, 32), False),
        ((3, 8, 3), False),
        ((4, 9, 1), False),
        ((9, 3, 3), False),
        ((9, 1, 1), False),
        ((1, 1, 9), False),
        ((2, 9, 3), False),
    ],
)
def test_channels_that_come_last_are_refused_unless_told_otherwise(shape, is_refused):
    """The last axis 1, 3 or 4, the second not, both others larger; (n, d, 1, 1) is vectors."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32)
    layers = [{"conv": {"size": 1}}, "relu", "flatten", "dense"]
    told = gram_taps([layers], x, layout="channels_first")[0]
    assert_same_bytes(np.diag(told), gram_diagonal(layers, x, layout="channels_first"))
    for compute in (gram, gram_diagonal, lambda a, x: gram_taps([a], x)[0]):
        if not is_refused:
            assert len(compute(layers, x)) == 2
            continue
        with pytest.raises(ValueError, match="looks like n x height") as caught:
            compute(layers, x)
        wanted = ["x1.transpose(0, 3, 1, 2)", f"{x.shape}", 'pass layout="channels_first"']
        assert all(word in str(caught.value) for word in wanted)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    """Where CuPy finds no GPU, `auto` means the CPU, and `cuda` says what to do."""
    monkeypatch.setattr(cuda_launcher, "is_available", lambda: False)
    assert_same_bytes(gram("chen2020", X), gram("chen2020", X, device="cpu"))
    with pytest.raises(ValueError, match="CuPy finds no GPU here: on a machine that has one"):
        gram("chen2020", X, device="cuda")


def test_layers_that_the_gpu_does_not_know_are_for_the_cpu(monkeypatch):
    """With a GPU, "auto" says in one line that it takes the CPU for them, and "cuda" refuses."""
    on_cpu = gram("chen2020-lap-3", X, device="cpu")
    monkeypatch.setattr(cuda_launcher, "is_available", lambda: True)
    with pytest.warns(UserWarning, match="computing on the CPU: the GPU knows convolutions"):
        found = gram("chen2020-lap-3", X)
    assert_same_bytes(found, on_cpu)
    with pytest.raises(ValueError, match="device is 'cuda', but the GPU knows convolutions"):
        gram("chen2020-lap-3", X, device="cuda")


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("chen2020", (3, 32, 32)),
        ("arora2019-gap-11", (1, 20, 12)),
        (GAP, (5, 9, 9)),
        ("myrtle5", (3, 16, 16)),
    ],
)
@pytest.mark.parametrize("budget", [2**25, 2**27, 2**28])
def test_a_tile_stays_within_its_budget(architecture, shape, budget):
    """The arrays of a tile and of two threads take no more than the budget, if a tile can."""
    plan = make_plans([parse_architecture(architecture)], "ntk", *shape[1:])[0]
    side = tile_side(plan, shape[0], "float32", 2, budget)
    block = read_block(plan, np.zeros((1, *shape), np.float32))
    scratch = cpu.make_scratch(plan, "float32")
    n_bytes = 2 * side // cpu.LANES * sum(array.nbytes for array in block[:3])
    n_bytes += 2 * sum(array.nbytes for array in scratch)
    assert side % cpu.LANES == 0
    assert side == cpu.LANES or n_bytes <= budget
    assert tile_side(plan, shape[0], "float32", 2, 1) == cpu.LANES


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_memory_stays_below_the_result_and_the_scratch(is_symmetric):
    """A call allocates its result, what it may work in, and a few numbers for each image."""
    x = draw_images(6 * cpu.LANES, side=16).astype(np.float32)
    budget = 12_000_000
    architecture = [{"conv": {"size": 3, "stride": 2}}, "relu", "flatten", "dense"]
    others = None if is_symmetric else x[::-1]
    gram(architecture, x[:2], device="cpu")
    tracemalloc.start()
    k = gram(architecture, x, others, device="cpu", threads=2, scratch_bytes=budget)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plan = make_plans([parse_architecture(architecture)], "ntk", 16, 16)[0]
    assert cpu.LANES < tile_side(plan, 3, "float32", 2, budget) < len(x)
    assert peak < k.nbytes + budget + 500 * 2 * len(x)


def test_without_a_writable_folder_the_kernel_compiles_and_warns():
    """Where Numba finds no place for compiled code, a warning says what to set."""
    names = {}
    exec("def double(x):\n    return 2 * x\n", names)
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR"):
        double = entry_point()(names["double"])
    assert double(3) == 6


@pytest.mark.parametrize("name", ["chen2020", "arora2019-vanilla-4", "arora2019-gap-4"])
def test_an_nngp_is_the_ntk_of_its_last_layer(name):
    """The architecture that trains its dense layer alone has the NNGP as tangent kernel."""
    x = np.random.default_rng(0).uniform(-1, 1, (3, 3, 8, 8))
    found = gram(f"{name}-nngp", x, dtype="float64")
    np.testing.assert_allclose(found, gram(name, x, kernel="nngp", dtype="float64"), rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 16, 21])
def test_the_diagonal_alone_is_that_of_the_whole(n):
    x = np.random.default_rng(1).uniform(-1, 1, (n, 3, 8, 8)).astype(np.float32)
    found = gram_diagonal("chen2020", x)
    assert found.dtype == np.float32
    assert found.shape == (n,)
    if n:
        np.testing.assert_allclose(found, np.diag(gram("chen2020", x)), rtol=1e-6)
