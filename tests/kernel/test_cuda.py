"""The CUDA engine, on a device where there is one, and always in emulation where g++ is found."""

import json
import math
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from emulator import COMPILER, Emulator
from hypothesis import given, settings
from hypothesis import strategies as st

from lantk.kernel import reference
from lantk.kernel.cuda import engine as cuda
from lantk.kernel.cuda import launcher as cuda_launcher
from lantk.kernel.cuda import layout as cuda_layout
from lantk.kernel.gram import gram as gram_cpu
from lantk.kernel.grammar import parse_architecture
from lantk.kernel.images import KernelError, survey
from lantk.kernel.plan import make_plans

GOLDEN = Path(__file__).parents[1] / "golden"
ARCHITECTURES = json.loads((GOLDEN / "kernels.json").read_text())
VALUES = np.load(GOLDEN / "kernels.npz")
FIXED_ENDS = json.loads((GOLDEN / "fixed_ends.json").read_text())
# What the arithmetic allows, in parts of a case's largest value.
TOLERANCES = {"float32": 2e-5, "float64": 1e-9}
# The path for planes of any size, in blocks that are small, since each thread is emulated.
BY_BLOCKS = cuda_layout.Path(0, 64)

POOLED = [{"conv": {"size": 3}}, "relu", {"conv": {"size": 3}}, "relu"]
POOLED += ["global_average_pool", "dense"]
STRIDED = [{"conv": {"size": 3}}, "relu", {"conv": {"size": 3, "stride": 2}}, "relu"]
STRIDED += [{"conv": {"size": 3, "trained": False}}, "relu", "flatten", "dense"]


@pytest.fixture(params=["emulator", "device"])
def launcher(request):
    """What makes launchers."""
    if request.param == "emulator":
        if COMPILER is None:
            pytest.skip("no g++ is found, so the CUDA kernels are not emulated")
        return Emulator
    if not cuda_launcher.is_available():
        pytest.skip("no CUDA device is found, so the kernels do not run on one")
    return cuda_launcher.CupyLauncher


@pytest.fixture(params=["chosen path", "by blocks"])
def path(request, monkeypatch):
    """The path that the engine chooses, then the general one, which takes any plane."""
    if request.param == "by blocks":
        monkeypatch.setattr(cuda, "choose_path", lambda plan, dtype: BY_BLOCKS)
    return request.param


def taps(launcher, networks, x, y=None, *, kernel="ntk", dtype="float32", scratch_bytes=2**22):
    """Return the Gram matrices of several architectures, as `lantk.gram_taps` does."""
    networks = [parse_architecture(network) for network in networks]
    digests = {}
    side1 = survey("x1", x, dtype, digests)
    side2 = side1 if y is None else survey("x2", y, dtype, digests)
    results = [np.full((len(x), len(side2.images)), np.nan, dtype) for _ in networks]
    for plan in make_plans(networks, kernel, *x.shape[2:]):
        engine = cuda.CudaEngine(plan, dtype, x.shape[1], scratch_bytes, launcher())
        some = [results[i] for i in plan.members]
        assert sum(engine.fill(some, side1, side2)) == results[0].size
    return results


def gram(launcher, network, x, y=None, **options):
    return taps(launcher, [network], x, y, **options)[0]


def draw_images(n=6, channels=3, height=8, width=8, seed=0):
    """Return random images: one half black, two of them equal up to a power of two."""
    x = np.random.default_rng(seed).normal(size=(n, channels, height, width))
    x[1, :, : height // 2] = 0
    x[n - 1] = 4 * x[0]
    return x


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_golden_values(case, launcher, path):
    """Every golden case, both precisions, and diagonals as exact as the reference's."""
    x = VALUES[f"{case}/images"] / 127.5 - 1
    for dtype, tolerance in TOLERANCES.items():
        for kernel in ("ntk", "nngp")[: 1 if dtype == "float32" else 2]:
            wanted = VALUES[f"{case}/{kernel}"]
            found = gram(launcher, ARCHITECTURES[case], x, kernel=kernel, dtype=dtype)
            off = ~np.eye(len(x), dtype=bool)
            assert np.abs(found - wanted)[off].max() < tolerance * np.abs(wanted).max()
            # Golden diagonals have themselves lost digits.
            np.testing.assert_allclose(np.diag(found), np.diag(wanted), rtol=6e-7)
            assert (found == found.T).all()


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_golden_values_with_fixed_ends(depth, launcher, path):
    """`arora2019-gap-D` leaves out the NTK of its first convolution and of its last layer."""
    i, c, u, w = np.meshgrid(range(3), range(3), range(8), range(8), indexing="ij")
    x = np.sin(0.37 * (i + 1) * w + 0.11 * (c + 1) * u + 0.5 * i)
    x += 0.5 * np.cos(0.23 * u * (c + 1) - 0.19 * w * (i + 1) + c)
    found = gram(launcher, f"arora2019-gap-{depth}", x, dtype="float64")
    np.testing.assert_allclose(found, np.array(FIXED_ENDS[f"depth{depth}"]), rtol=1e-9)


@st.composite
def networks(draw):
    """Draw a small architecture: any filter sizes, strides, ReLUs, readout, untrained layers."""
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        size, stride = draw(st.sampled_from([1, 3, 5, 9])), draw(st.sampled_from([1, 1, 2, 3]))
        layers.append({"conv": {"size": size, "stride": stride, "trained": draw(st.booleans())}})
        layers += ["relu"] * draw(st.booleans())
    # A trained last layer whenever nothing else is trained.
    is_fixed = not any(layer["conv"]["trained"] for layer in layers if layer != "relu")
    readout = draw(st.sampled_from(["flatten", "global_average_pool"]))
    return [*layers, readout, {"dense": {"trained": is_fixed or draw(st.booleans())}}]


def check_against_reference(launcher, layers, height, width, kernel, seed):
    x = draw_images(4, 3, height, width, seed)
    # The reference knows equal images only if they are equal to the last bit.
    x[3] = x[0]
    y = np.concatenate([x[2:], x[:1] + 0.5])
    for other, dtype in ((None, "float64"), (y, "float64"), (y, "float32")):
        wanted = reference.gram(layers, x, other, kernel=kernel)
        found = gram(launcher, layers, x, other, kernel=kernel, dtype=dtype)
        tolerance = TOLERANCES[dtype] * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def check_random_networks(launcher, n):
    """Compare `n` architectures on images of as many shapes."""

    @settings(max_examples=n, deadline=None, derandomize=True)
    @given(
        layers=networks(),
        height=st.integers(1, 9),
        width=st.integers(1, 9),
        kernel=st.sampled_from(["ntk", "nngp"]),
        seed=st.integers(0, 2**16),
    )
    def agree(layers, height, width, kernel, seed):
        check_against_reference(launcher, layers, height, width, kernel, seed)

    agree()


def test_warps_agree_with_the_reference(launcher):
    """Any small architecture on images of any shape; each is compiled by itself."""
    check_random_networks(launcher, 10)


def test_blocks_agree_with_the_reference(launcher, monkeypatch):
    """Any small architecture on images of any shape, by the path that takes any plane."""
    monkeypatch.setattr(cuda, "choose_path", lambda plan, dtype: BY_BLOCKS)
    check_random_networks(launcher, 30)


@pytest.mark.parametrize(
    ("layers", "height", "width"),
    [
        # A stride that the sides do not divide: displacements d and d - side part ways.
        ([{"conv": {"size": 3, "stride": 2}}, *POOLED], 9, 6),
        ([{"conv": {"size": 3, "stride": 2}}, *POOLED], 6, 7),
        # More columns than 32, more rows than 32, one row.
        ([*POOLED[:-2], "flatten", "dense"], 5, 40),
        ([*POOLED[:-2], "flatten", "dense"], 50, 6),
        (POOLED, 1, 20),
        # Lanes that stride apart, and filters that reach over several.
        ([{"conv": {"size": 5, "stride": 2}}, "relu"] * 3 + ["flatten", "dense"], 15, 16),
        ([{"conv": {"size": 7, "stride": 1}}, "relu"] * 2 + ["flatten", "dense"], 9, 10),
        # Convolutions without ReLUs between, untrained ones, and no trained one but the last.
        ([{"conv": {"size": 3}}, {"conv": {"size": 3}}, "relu", "flatten", "dense"], 6, 6),
        ([{"conv": {"size": 3, "trained": False}}, "relu"] * 2 + ["flatten", "dense"], 6, 6),
        ([{"conv": {"size": 3, "trained": False}}] * 2 + ["flatten", "dense"], 6, 6),
        # Layers that are like the readout's.
        ([{"conv": {"size": 1}}, "relu"] * 4 + ["flatten", "dense"], 6, 6),
        # A plane that is no warp's.
        (STRIDED, 70, 41),
    ],
)
def test_odd_ones(layers, height, width, launcher):
    """Shapes and layers that each take a way of their own through the kernels."""
    check_against_reference(launcher, layers, height, width, "ntk", 0)


@pytest.mark.parametrize("layers", ["chen2020", POOLED, STRIDED])
def test_agrees_with_the_cpu(layers, launcher):
    """Both engines give the same values to the rounding of either."""
    x = draw_images(5, height=12, width=12)
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-11)):
        wanted = gram_cpu(layers, x, dtype=dtype)
        found = gram(launcher, layers, x, dtype=dtype)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("layers", [STRIDED, POOLED])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bytes_from_everywhere(layers, dtype, launcher, path):
    """An entry is the same bytes whatever the tile, the band, the order and the side of images."""
    x = draw_images(7, 1, 6, 6)
    whole = gram(launcher, layers, x, dtype=dtype)
    tiled = gram(launcher, layers, x, dtype=dtype, scratch_bytes=1)
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_array_equal(gram(launcher, layers, x, x.copy(), dtype=dtype), whole)
    band = gram(launcher, layers, x[2:5], x, dtype=dtype)
    np.testing.assert_array_equal(band, whole[2:5])
    turned = gram(launcher, layers, x, x[2:5], dtype=dtype, scratch_bytes=1)
    np.testing.assert_array_equal(turned, whole[:, 2:5])
    assert (whole == whole.T).all()
    assert (whole[0] * 4 == whole[-1]).all()


@pytest.mark.parametrize("readout", ["vanilla", "gap"])
def test_taps_are_separate_walks(readout, launcher, path):
    """One walk that is read at several depths gives the bytes of a walk for each."""
    x = draw_images(3)
    names = [f"arora2019-{readout}-{depth}" for depth in (3, 7, 4)]
    for name, k in zip(names, taps(launcher, names, x), strict=True):
        np.testing.assert_array_equal(k, gram(launcher, name, x))


def test_taps_before_a_stride(launcher, path):
    """Displacements that a stride does not divide count before it and end there."""
    shallow = [{"conv": {"size": 3}}, "relu", "global_average_pool", "dense"]
    deep = [*shallow[:2], {"conv": {"size": 3, "stride": 2}}, "relu", *shallow[2:]]
    deeper = [*deep[:2], {"conv": {"size": 3, "stride": 2}}, "relu", {"conv": {"size": 3}}]
    deeper += ["relu", *shallow[2:]]
    for height, width in ((8, 8), (6, 5)):
        x = draw_images(3, height=height, width=width)
        found = taps(launcher, [shallow, deep, deeper], x, dtype="float64")
        for k, layers in zip(found, [shallow, deep, deeper], strict=True):
            np.testing.assert_allclose(k, reference.gram(layers, x), rtol=1e-9)


def test_equal_images(launcher, path):
    """Equal images have c = 1: with all layers trained K(x, x) = 3 NNGP(x, x)."""
    layers = [{"conv": {"size": 3}}, "relu", {"conv": {"size": 3}}, "relu", "flatten", "dense"]
    x = draw_images()
    ntk, nngp = (gram(launcher, layers, x, kernel=kernel) for kernel in ("ntk", "nngp"))
    np.testing.assert_allclose(np.diag(ntk), 3 * np.diag(nngp), rtol=2e-7)
    np.testing.assert_allclose(ntk[0, -1], 4 * ntk[0, 0], rtol=0)


@pytest.mark.parametrize("readout", ["flatten", "global_average_pool"])
def test_equal_images_lose_no_digit(readout, launcher, path):
    """Where only the displacement 0 counts, K(x, x) in float32 errs by its last rounding alone."""
    x = np.random.default_rng(0).normal(size=(40, 5, 1, 1)).astype("float32")
    layers = [*[{"conv": {"size": 1}}, "relu"] * 6, readout, "dense"]
    wanted = [reference.entry(layers, one, one)[1] for one in x.astype(float)]
    found = np.diag(gram(launcher, layers, x))
    np.testing.assert_allclose(found, wanted, rtol=np.finfo("float32").eps / 2)


def test_black_images(launcher, path):
    """An image of zeros has the kernel 0 with every image, itself included."""
    x = draw_images(3)
    x[1] = 0
    for layers in (POOLED, STRIDED):
        k = gram(launcher, layers, x)
        assert not k[1].any()
        assert (np.diag(k)[[0, 2]] > 0).all()


@pytest.mark.parametrize("kind", ["float16", "float32", "longdouble"])
def test_images_of_any_float_type(kind, launcher):
    """Images give the same bytes in every type that holds them."""
    x = draw_images(3).astype("float16")
    wanted = gram(launcher, STRIDED, x.astype("float64"))
    np.testing.assert_array_equal(gram(launcher, STRIDED, x.astype(kind)), wanted)


def test_scales_of_images(launcher):
    """Powers of two go straight through, far beyond what float32 images could bear."""
    x = draw_images(3)
    wanted = gram(launcher, STRIDED, x).astype(float)
    scaled = x * np.array([2.0**400, 2.0**-390, 2.0**-400]).reshape(3, 1, 1, 1)
    found = gram(launcher, STRIDED, scaled[:1], scaled[1:])
    np.testing.assert_array_equal(found, wanted[:1, 1:] * [2.0**10, 1])


def test_overflow_is_refused(launcher):
    """A kernel beyond the type's largest number names the images and what to do."""
    x = draw_images(5)
    x[3] *= 1e30
    with pytest.raises(
        KernelError, match=r"images 3 and 3 of x1 overflows float32: divide the images"
    ):
        gram(launcher, STRIDED, x)


def test_underflow_is_refused(launcher):
    """A device makes 0 of what is below the normal range: that is refused, unless images are."""
    x = draw_images(5)
    x[3] *= 1e-22
    with pytest.raises(KernelError, match=r"images 3 and 3 of x1 underflows float32.*: multiply"):
        gram(launcher, STRIDED, x)
    x[3] = 0
    assert not gram(launcher, STRIDED, x)[3].any()


def test_results_may_be_views(launcher, tmp_path):
    """Values land in transposed views and in memory maps as in arrays of their own."""
    x, y = draw_images(6), draw_images(5, seed=1)
    wanted = gram(launcher, STRIDED, x, y)
    (plan,) = make_plans([parse_architecture(STRIDED)], "ntk", 8, 8)
    on_disk = np.lib.format.open_memmap(tmp_path / "k.npy", "w+", "float32", (6, 5))
    for result in (np.empty((5, 6), np.float32).T, on_disk):
        digests = {}
        sides = survey("x1", x, "float32", digests), survey("x2", y, "float32", digests)
        engine = cuda.CudaEngine(plan, "float32", 3, 1, launcher())
        assert list(engine.fill([result], *sides)) == [16, 4, 8, 2]
        np.testing.assert_array_equal(result, wanted)


@settings(deadline=None, derandomize=True)
@given(
    image_bytes=st.integers(1, 10**6),
    entry_bytes=st.integers(1, 100),
    block_bytes=st.integers(1, 10**7),
    visits=st.integers(1, 10**8),
    blocks=st.integers(1, 600),
    budget=st.integers(1, 10**10),
)
def test_memory_is_shared_within_the_budget(
    image_bytes, entry_bytes, block_bytes, visits, blocks, budget
):
    """Tiles and blocks stay below the budget wherever the smallest ones do, and leave none idle."""

    def take(side, n):
        return 2 * side * image_bytes + side**2 * entry_bytes + n * block_bytes

    side, found = cuda_layout.share_memory(
        image_bytes, entry_bytes, block_bytes, visits, blocks, budget
    )
    assert side % 4 == 0
    assert 1 <= found <= blocks
    assert side == 4 or take(side, found) <= budget
    is_held_back = (side + 4) ** 2 * visits > 10**11 or side >= 4096
    assert is_held_back or take(side + 4, found) > budget


@pytest.mark.parametrize("layers", ["chen2020", POOLED])
def test_what_is_allocated_stays_within_the_budget(layers):
    """The arrays of an engine take no more than the memory that it is given."""
    if COMPILER is None:
        pytest.skip("no g++ is found, so the CUDA kernels are not emulated")
    (plan,) = make_plans([parse_architecture(layers)], "ntk", 32, 32)
    for path in (None, BY_BLOCKS):
        for budget in (2**21, 2**25):
            with pytest.MonkeyPatch.context() as patch:
                if path is not None:
                    patch.setattr(cuda, "choose_path", lambda plan, dtype: BY_BLOCKS)
                emulator = Emulator(blocks=132)
                cuda.CudaEngine(plan, "float32", 3, budget, emulator)
            assert 0.4 * budget < emulator.n_bytes < 1.01 * budget or layers == POOLED


def test_paths():
    """Planes that fit the registers of a warp are run by warps, with lanes as the plane is."""

    def choose(layers, height, width, dtype="float32"):
        (plan,) = make_plans([parse_architecture(layers)], "ntk", height, width)
        return cuda.choose_path(plan, dtype)

    assert choose("chen2020", 32, 32) == (8, 512)
    assert choose("chen2020", 32, 32, "float64") == (8, 256)
    assert choose("arora2019-gap-21", 28, 28) == (8, 512)
    assert choose(POOLED, 32, 64) == (8, 256)
    assert choose(POOLED, 8, 128) == (8, 512)
    assert choose(POOLED, 3, 300) == (32, 512)
    assert choose(POOLED, 64, 64) == (0, 256)
    # Lanes of three columns (of 24) serve a stride of 3, those of four (of 32) do not.
    thirds = [{"conv": {"size": 3, "stride": 3}}, "relu", "flatten", "dense"]
    assert choose(thirds, 24, 24) == (8, 512)
    assert choose(thirds, 24, 32) != (8, 512)
    wide = [{"conv": {"size": 9}}, "relu", "flatten", "dense"]
    assert choose(wide, 32, 32) == (0, 256)


@settings(deadline=None, derandomize=True)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.integers(1, 3),
    is_torus=st.tuples(st.booleans(), st.booleans()),
)
def test_every_displacement_is_listed_once(height, width, stride, is_torus):
    """Listed planes with their mirror images are all displacements, those of a column together."""
    layers = [{"conv": {"size": 3, "stride": stride}}, "relu", "global_average_pool", "dense"]
    (plan,) = make_plans([parse_architecture(layers)], "ntk", height, width)
    # Only where the stride divides a side can it be gone round.
    goes_round = [
        torus and side % stride == 0 for torus, side in zip(is_torus, plan.shape, strict=True)
    ]
    listed = cuda_layout.list_displacements(plan, tuple(goes_round)).tolist()
    found = []
    for y, x, kind in listed:
        signs = {
            cuda_layout.ALONE: [1],
            cuda_layout.MIRRORED: [1, -1],
            cuda_layout.HALVED: [0.5, -0.5],
        }[kind]
        for sign in signs:
            d = [int(math.copysign(1, sign)) * c for c in (y, x)]
            parts = [
                {c % side, c % side - side} - {-side} if torus else {c}
                for c, side, torus in zip(d, plan.shape, goes_round, strict=True)
            ]
            found += [(v, w, abs(sign)) for v in parts[0] for w in parts[1]]
    count = {}
    for v, w, weight in found:
        count[v, w] = count.get((v, w), 0) + weight
    wanted = [
        (v, w)
        for v in range(-height + 1, height)
        for w in range(-width + 1, width)
        if v % stride == 0 and w % stride == 0
    ]
    assert count == dict.fromkeys(wanted, 1)
    columns = [x for _, x, _ in listed]
    assert len(set(columns)) == 1 + sum(a != b for a, b in pairwise(columns))


def make_source(name, side, dtype):
    (plan,) = make_plans([parse_architecture(name)], "ntk", side, side)
    path = cuda.choose_path(plan, dtype)
    layers, _ = cuda_layout.lay_out(plan, 3, path)
    return cuda_layout.make_source(plan, dtype, 3, path, layers), path


def compile_for_device(source, architecture, folder):
    """Return the compiler's report on registers, or skip where no compiler is at hand."""
    options = [*cuda_launcher.OPTIONS, f"-arch={architecture}"]
    if shutil.which("nvcc"):
        (folder / "planes.cu").write_text(source)
        command = ["nvcc", "-cubin", *options, "-Xptxas=-v", "-o", folder / "planes.cubin"]
        done = subprocess.run(
            [*command, folder / "planes.cu"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr
    try:
        from cupy.cuda import nvrtc

        program = nvrtc.createProgram(source, "planes.cu", [], [])
    except (ImportError, RuntimeError):
        pytest.skip("neither nvcc nor CuPy with NVRTC is found, so the kernels are not compiled")
    nvrtc.compileProgram(program, [*options, "--ptxas-options=-v"])
    return nvrtc.getProgramLog(program)


@pytest.mark.parametrize("name", ["chen2020", "arora2019-gap-3", "arora2019-gap-21"])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_planes_stay_in_registers(name, architecture, tmp_path):
    """NVIDIA's compiler keeps S and T (64 registers) in the share of one of 512 threads, 128.

    Around the planes it may put aside a few numbers, once for each plane: that costs nothing.
    """
    source, path = make_source(name, 32, "float32")
    report = compile_for_device(source, architecture, tmp_path)
    entry = re.search(r"function 'compare'.*?Used (\d+) registers", report, re.DOTALL)
    assert int(entry[1]) * path.threads <= 2**16
    assert int(re.search(r"(\d+) bytes spill stores", entry[0])[1]) <= 64


@pytest.mark.parametrize("side", [32, 96])
def test_all_of_the_source_compiles(side, tmp_path):
    """NVIDIA's compiler takes the source in float64 too, and for planes that fit no warp."""
    source, path = make_source("chen2020", side, "float64")
    assert (path.lanes_x > 0) == (side == 32)
    assert "function 'compare'" in compile_for_device(source, "sm_90", tmp_path)
