"""The rooms of the package: who imports whom, and what each rule says it depends on."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import lantk
from lantk.workflow.code import code_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lantk"
# Third party -> the only modules that import it, or rooms, which end in a point.
ONLY_IN = {
    "mlflow": {
        "lantk.tracking.logged",
        "lantk.tracking.models",
        "lantk.tracking.store",
        "lantk.tracking.sync",
    },
    "matplotlib": {
        "lantk.report.case_figures",
        "lantk.report.figure_style",
        "lantk.report.figures",
        "lantk.report.network_figures",
    },
    "torch": {
        "lantk.network.after_kernels",
        "lantk.network.checkpoint",
        "lantk.network.layers",
        "lantk.network.tangent",
        "lantk.network.training",
        "lantk.solvers.gpu",
    },
    "numba": {
        "lantk.compiled",
        "lantk.kernel.cpu.rows",
        "lantk.kernel.gram",
        "lantk.label_terms.pair_sums",
        "lantk.solvers.tiles",
    },
    "cupy": {"lantk.kernel.cuda.launcher"},
    "argparse": {"lantk.cli."},
    "pydantic": {"lantk.experiment.checks"},
    "jinja2": {"lantk.report.html_report"},
    "snakemake": {"lantk.workflow.lease", "lantk.workflow.progress"},
}


def imported(tree):
    """Return the dotted names that a tree imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            # `from lantk import data` names a module; `from lantk.data.splits import x` is in one.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_its_place(library):
    """What a third party does is asked of it in one place, which alone imports it."""
    users = set()
    for path in PACKAGE.rglob("*.py"):
        names = imported(ast.parse(path.read_text()))
        if any(name == library or name.startswith(f"{library}.") for name in names):
            users.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    rooms = tuple(place for place in ONLY_IN[library] if place.endswith("."))
    assert users
    assert {name for name in users if not name.startswith(rooms)} <= ONLY_IN[library]


def test_a_light_import_stays_light():
    """Neither the package nor the command line imports anything heavy at the top level."""
    for path in (PACKAGE / "__init__.py", PACKAGE / "__main__.py", *(PACKAGE / "cli").glob("*.py")):
        top = [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {n.split(".")[0] for n in imported(ast.Module(top, []))}
        assert not names & {"numpy", "torch", "numba", "pandas", "scipy", "mlflow"}


def test_the_package_shows_its_public_names_and_no_others():
    """`dir` lists what `__all__` promises; each of these names is there and says what it is."""
    assert dir(lantk) == sorted(lantk.__all__)
    for name in lantk.__all__:
        assert name == "__version__" or getattr(lantk, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'grams'"):
        _ = lantk.grams
    assert (PACKAGE / "py.typed").exists()


def test_the_package_loads_nothing_that_is_not_asked_for():
    """Importing the package loads none of its rooms and, of others, the standard library alone."""
    shown = "import sys; old = set(sys.modules); import lantk; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "lantk"
    }


def test_the_command_line_starts_no_threads_before_a_verb_says_how_many():
    """NumPy, whose threads are counted when it is loaded, is left to the verb that runs."""
    shown = "import sys, lantk.cli.main; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_nobody_is_sent_to_an_index_for_this_project():
    """It is on none, so what was found there under its name would be another's."""
    tops = [ROOT / name for name in ("README.md", "CHANGELOG.md", "config.yaml", "Snakefile")]
    inside = [
        p for name in ("docs", "lantk", "rules", "experiments") for p in ROOT.glob(f"{name}/**/*")
    ]
    texts = [p for p in [*tops, *inside] if p.suffix in (".md", ".py", ".smk", ".yaml", ".j2", "")]
    sends = re.compile(r"\blantk\[|install +(-\S+ +)*['\"]?lantk\b")
    found = [p for p in texts if p.is_file() and sends.search(p.read_text())]
    assert len(texts) > 100
    assert not found


@pytest.mark.parametrize("rules", sorted((ROOT / "rules").glob("*.smk")), ids=lambda p: p.stem)
def test_rules_depend_on_the_code_that_they_run(rules):
    """A rule's code inputs are those of the verb that its command calls."""
    for text in re.split(r"^ *rule\b", rules.read_text(), flags=re.MULTILINE)[1:]:
        verb = re.search(r"python -m lantk (?:mlflow )?([a-z-]+)", text)[1]
        assert re.findall(r"code=(.*),", text) == [f'code_of("{verb}")']


def test_code_of_a_verb_is_what_it_loads(tmp_path):
    """All modules that a verb has loaded in a run are among its code."""
    loaded = (
        "import sys\n"
        "from lantk.cli.main import main\n"
        "own = set(sys.modules)\n"  # the command line's, for every verb
        "status = main(sys.argv[1:])\n"
        "names = [n for n in sys.modules if n.startswith('lantk.') and n not in own]\n"
        "print(*[sys.modules[name].__file__ for name in names], sep='\\n')\n"
        "sys.exit(status)\n"
    )
    split = ["split", "--source", "digits", "--pair", "3", "8", "--n-train", "4", "--n-test", "2"]
    split += ["--out", str(tmp_path / "split.npz")]
    gram = ["gram", "--split", str(tmp_path / "split.npz"), "--architecture", "chen2020"]
    gram += ["--out", str(tmp_path / "grams")]
    for arguments in (split, gram):
        done = subprocess.run(
            [sys.executable, "-c", loaded, *arguments], capture_output=True, text=True, check=True
        )
        files = {str(Path(line).relative_to(ROOT)) for line in done.stdout.splitlines() if line}
        rooms = {name for name in files if not name.endswith("__init__.py")}
        rooms -= {name for name in rooms if name.startswith("lantk/cli/")}
        assert rooms
        assert rooms <= set(code_of(arguments[0]))
    assert {"lantk/kernel/cuda/planes.cu", "lantk/kernel/cpu/loops.py"} <= set(code_of("gram"))
    assert "lantk/network/training.py" not in code_of("evaluate")
    assert "lantk/experiment/records.py" in code_of("evaluate"), "imported above the functions"
    assert "lantk/experiment/config.py" not in code_of("figure"), "for type checkers only"
    assert "lantk/estimators/model.py" in code_of("predict")
    assert "lantk/data/unlabelled.py" not in code_of("evaluate"), "its predict is a function"


def test_no_logic_in_rules():
    """Every rule is a shell command with a log and an environment, and holds no Python."""
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text()
        assert not re.search(r"^\s+(run|script|notebook):", text, re.MULTILINE)
        assert (
            len(re.findall(r"^ *rule\b", text, re.M))
            == text.count("    log:")
            == text.count("    conda:")
        )


def test_environment_agrees_with_the_lock():
    """The versions in the conda environment are those of the lock."""
    files = (ROOT / "envs" / name for name in ("lock.txt", "torch.txt"))
    lock = set(re.findall(r"^\S+==\S+", "\n".join(p.read_text() for p in files), re.M))
    environment = yaml.safe_load((ROOT / "envs" / "lantk.yaml").read_text())
    assert {name.lower() for name in environment["dependencies"][-1]["pip"]} <= lock


def read_lock(name):
    """Return the lines of packages in a file of the lock, and the hashes of each."""
    text = (ROOT / "envs" / name).read_text().replace("\\\n", "")
    lines = [line.split(" --hash=") for line in text.splitlines() if not line.startswith("#")]
    return {words[0].strip(): [word.strip() for word in words[1:]] for words in lines}


def test_every_locked_file_has_its_hash():
    """Each package is locked at one version with hashes; PyTorch in two builds of this version."""
    shared, index, cpu = (read_lock(f"{name}.txt") for name in ("lock", "torch", "torch-cpu"))
    for line, hashes in (shared | index | cpu).items():
        assert re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; .*)?", line)
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in hashes), line
    assert len(set(shared) & set(index)) == 0
    ((build, _),) = cpu.items()
    assert build.removesuffix("+cpu") in index
    assert not re.search("https?:|file:|--index", "".join(shared | index | cpu))


def test_what_the_package_needs_is_locked():
    """Every dependency of the package and of its development is in the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {**project["optional-dependencies"], "": project["dependencies"]}
    del groups["cuda"]
    wanted = [text for group in groups.values() for text in group if not text.startswith("lantk[")]
    locked = {line.partition("==")[0] for line in read_lock("lock.txt") | read_lock("torch.txt")}
    assert {re.match(r"[\w-]+", text)[0].lower() for text in wanted} <= locked


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_leave_nothing_to_the_default_experiment(path):
    """A preset sets every key that an experiment depends on, and its own results folder."""
    preset, default = (yaml.safe_load(p.read_text()) for p in (path, ROOT / "config.yaml"))
    assert set(default) - set(preset) == {"tracking"}
    for key, value in default.items():
        if isinstance(value, dict) and key in preset:
            assert set(value) == set(preset[key]), key
    assert preset["results"] == f"results/{path.stem}"
