"""What is installed: a wheel out of the sdist, tried where only the library's needs are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import lantk

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "lantk")
TERMS = [
    *("lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2", "lantk-fjlt-v2-text"),
    *("lantk-plugin", "lantk-nth", "cntk-ridge", "cntk-rbf", "cntk-laplacian"),
]
# Two classes of images that differ in their brightest corner, and what a term makes of them.
TERM_SCRIPT = """
import json, sys
import numpy as np
import lantk
from lantk.label_terms import image_vectors

rng = np.random.default_rng(0)
y = np.where(np.arange(12) % 2, 1.0, -1.0)
images = rng.uniform(-1, 1, (18, 1, 4, 4))
images[:12, 0, 0, 0] += y
layers = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]
k, x = lantk.gram(layers, images, dtype="float32"), image_vectors(images)
found = {}
for name in sys.argv[1:]:
    term = lantk.label_term(name)
    train = term.fit_transform(k[:12, :12], y, x[:12])
    test = term.transform(k[12:, :12], x[12:])
    if name != "cntk-ridge":  # a diagonal on train rows and nothing on others
        found[name] = [[*np.shape(z), bool(np.isfinite(z).all())] for z in (train, test)]
print(json.dumps(found))
"""
GRAM_SCRIPT = """
import numpy as np
import lantk

images = np.random.default_rng(0).uniform(-1, 1, (4, 1, 6, 6))
depths = [[*[{"conv": {"size": 3}}, "relu"] * n, "flatten", "dense"] for n in (1, 2)]
taps = lantk.gram_taps(depths, images)
for depth, tap in zip(depths, taps):
    k = lantk.gram(depth, images)
    assert np.allclose(k, tap) and np.allclose(k, k.T) and np.linalg.eigvalsh(k).min() > 0
print(k.shape)
"""


def call(*command, cwd, **options):
    """Run a command outside the project, without what this process adds to its imports."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["NUMBA_OPT"] = "0"  # compiled anew there: quickly rather than well
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, **options
    )


def needed(requirements):
    """Return the distributions that requirements need, themselves and in turn."""
    found, waiting = {}, list(requirements)
    while waiting:
        wanted = Requirement(waiting.pop())
        if wanted.name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found[wanted.name] = distribution(wanted.name)
        waiting += found[wanted.name].requires or []
    return found


def package_files():
    """Return the files of the package, as paths from the project's root."""
    tracked = (path for path in (ROOT / "lantk").rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in tracked if path.parent.name != "__pycache__"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the sdist of a copy of the project, and a wheel of the sdist, offline."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "project"
    copy.mkdir()
    call("cp", "-r", *(ROOT / name for name in SOURCES), copy, cwd=folder, check=True)
    script = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    call(sys.executable, "-c", script, cwd=copy, check=True)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation")
    done = call(*pip, "--no-deps", "--wheel-dir", folder, sdist, cwd=folder)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """Install the wheel where only the four dependencies and what they require can be seen."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(call(python, "-c", where, cwd=folder, check=True).stdout.strip())
    for installed in needed(PROJECT["dependencies"]).values():
        tops = {path.parts[0] for path in installed.files if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            (packages / top).symlink_to(Path(installed.locate_file(top)).resolve())
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index")
    done = call(*pip, "--disable-pip-version-check", "--no-deps", built[1], cwd=folder)
    assert done.returncode == 0, done.stderr
    return python


def test_sdist_and_wheel_hold_the_whole_package(built):
    """Nothing of the package is left out on the way: CUDA code, templates, the marker of types."""
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= shipped
    names = set(zipfile.ZipFile(wheel).namelist())
    assert package_files() == {name for name in names if name.startswith("lantk/")}


def test_what_is_shipped_says_what_it_is(built):
    """The wheel has the version, the licence, the command and the extras of the project."""
    archive = zipfile.ZipFile(built[1])
    info = f"lantk-{lantk.__version__}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    python = re.search(r"^Requires-Python: (.*)$", metadata, re.MULTILINE)[1]
    assert SpecifierSet(python) == SpecifierSet(PROJECT["requires-python"])
    assert "\nLicense-Expression: MIT\n" in metadata
    extras = set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE))
    assert extras == {"network", "study", "postgresql", "cuda", "dev"}
    assert "lantk = lantk.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_environment_is_bare(bare):
    """What the workflow, the networks and the store need cannot be imported there."""
    absent = ("torch", "pandas", "mlflow", "snakemake", "matplotlib", "tqdm", "yaml", "pip")
    script = f"""
from importlib.util import find_spec
import lantk
print(lantk.__version__, [name for name in {absent} if find_spec(name)], lantk.__file__)
"""
    version, found, path = call(bare, "-c", script, cwd=bare.parent, check=True).stdout.split()
    assert (version, found) == (lantk.__version__, "[]")
    assert Path(path).is_relative_to(bare.parents[1])


def test_kernels_alone(bare):
    """`gram` and `gram_taps` agree, and give a symmetric positive definite matrix."""
    done = call(bare, "-c", GRAM_SCRIPT, cwd=bare.parent)
    assert (done.returncode, done.stdout) == (0, "(4, 4)\n"), done.stderr


def test_every_label_term_alone(bare):
    """Each label term is fitted and applied, to the train rows and to others."""
    with pytest.raises(ValueError, match="unknown label term") as refused:
        lantk.label_term("nothing")
    assert str(refused.value).partition("wanted one of ")[2].split(", ") == TERMS
    done = call(bare, "-c", TERM_SCRIPT, *TERMS, cwd=bare.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    matrices = [name for name in TERMS if name != "cntk-ridge"]
    assert found == {name: [[12, 12, True], [6, 12, True]] for name in matrices}


def test_a_model_alone(bare, tmp_path):
    """A saved model predicts there as it does here."""
    x = np.random.default_rng(0).normal(size=(20, 1, 6, 6))
    model = lantk.KernelClassifier(label_term="lantk-fjlt-v1", label_weight=0.1)
    model.fit(x, x[:, 0, 2, 2] > 0).save(tmp_path / "model.npz")
    np.save(tmp_path / "x.npy", x)
    code = "import numpy, lantk; print(*lantk.load('model.npz').predict(numpy.load('x.npy')))"
    done = call(bare, "-c", code, cwd=tmp_path)
    assert done.stdout.split() == [str(found) for found in model.predict(x)], done.stderr


def test_the_example_alone(bare):
    """What the example needs is the library, in which scikit-learn brings its images."""
    done = call(bare, ROOT / "examples" / "one_pair.py", cwd=bare.parent)
    assert done.returncode == 0, done.stderr
    assert "LANTK-KR-V1" in done.stdout


def test_the_command_alone(bare):
    """The command is there; what it can do alone it does, and else it names the extra."""
    command = bare.with_name("lantk")
    shown = [call(command, "--version", cwd=bare.parent)]
    shown += [call(bare, "-m", "lantk", "--version", cwd=bare.parent)]
    assert [done.stdout for done in shown] == [f"lantk {lantk.__version__}\n"] * 2
    plan = ("plan", "--n-train", 200, "--n-test", 100, "--rate", 1000)
    assert "different entries/s" in call(command, *plan, cwd=bare.parent, check=True).stdout
    collect = ("collect", "--results", bare.parent, "--cases", "3-8", "--variants", "cntk")
    done = call(command, *collect, cwd=bare.parent)
    assert done.returncode == 1
    assert re.match(r"lantk collect: \w+ is not installed .* pip install '\.\[study]'", done.stderr)
