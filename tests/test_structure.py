"""The rooms of the package: who imports whom, and what each rule says it depends on."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lantk"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and path.parent.name != "verbs"
}
# The command line: it may import everything, and nothing imports it.
VERBS = sorted((PACKAGE / "verbs").glob("*.py"))

# Module -> what of ours it may import. Imports run one way.
ALLOWED = {
    "lantk.errors": set(),
    "lantk.variants": {"lantk.errors"},
    "lantk.options": set(),
    "lantk.lease": {"lantk.errors"},
    "lantk.storage": set(),
    "lantk.provenance": set(),
    "lantk.compiled": set(),
    "lantk.pair_tiles": {"lantk.compiled"},
    "lantk.pair_features": {"lantk.pair_tiles"},
    "lantk.sketch": {"lantk.compiled", "lantk.errors", "lantk.pair_tiles"},
    "lantk.contract": {"lantk.errors", "lantk.label_terms", "lantk.variants"},
    "lantk.architecture": {"lantk.errors"},
    "lantk.products": {"lantk.compiled", "lantk.pair_tiles"},
    "lantk.solve": {"lantk.errors", "lantk.products"},
    "lantk.download": {"lantk.errors", "lantk.storage"},
    "lantk.sources": {"lantk.errors"},
    "lantk.tasks": {"lantk.errors", "lantk.sources"},
    "lantk.data": {"lantk.download", "lantk.sources", "lantk.storage", "lantk.tasks"},
    "lantk.bounds": {"lantk.errors"},
    "lantk.experiment": {
        "lantk.architecture",
        "lantk.bounds",
        "lantk.data",
        "lantk.errors",
        "lantk.kernel.bands",
        "lantk.passwords",
        "lantk.tasks",
        "lantk.variants",
    },
    "lantk.kernel.reference": {"lantk.architecture"},
    "lantk.kernel.plan": {"lantk.architecture"},
    "lantk.kernel.bands": {"lantk.architecture", "lantk.errors", "lantk.kernel.plan"},
    "lantk.kernel.sides": {"lantk.errors"},
    "lantk.kernel.cpu": {"lantk.compiled", "lantk.kernel.plan"},
    "lantk.kernel.cuda": {"lantk.kernel.plan", "lantk.kernel.sides"},
    "lantk.kernel.tiles": {"lantk.kernel.cpu", "lantk.kernel.plan", "lantk.kernel.sides"},
    "lantk.kernel.gram": {
        "lantk.architecture",
        "lantk.kernel.bands",
        "lantk.kernel.cuda",
        "lantk.kernel.plan",
        "lantk.kernel.sides",
        "lantk.kernel.tiles",
    },
    "lantk.kernel.forecast": {"lantk.kernel.bands", "lantk.kernel.cpu", "lantk.kernel.gram"},
    "lantk.network": {"lantk.architecture", "lantk.errors"},
    "lantk.training": {"lantk.network"},
    "lantk.tangent": {"lantk.network"},
    "lantk.elasticity": {"lantk.errors", "lantk.products"},
    "lantk.two_layer": {
        "lantk.elasticity",
        "lantk.label_terms",
        "lantk.pair_features",
        "lantk.products",
    },
    "lantk.nth": {"lantk.errors"},
    "lantk.learning_rate": {"lantk.network", "lantk.training"},
    "lantk.checkpoint": {"lantk.errors", "lantk.storage"},
    "lantk.label_terms": {
        "lantk.errors",
        "lantk.nth",
        "lantk.pair_features",
        "lantk.products",
        "lantk.sketch",
        "lantk.solve",
        "lantk.variants",
    },
    "lantk.statistics": set(),
    "lantk.evaluate": {"lantk.elasticity", "lantk.statistics"},
    "lantk.solve_device": {"lantk.solve"},
    "lantk.after_kernel": {
        "lantk.elasticity",
        "lantk.evaluate",
        "lantk.label_terms",
        "lantk.network",
        "lantk.predict",
        "lantk.tangent",
        "lantk.training",
        "lantk.variants",
    },
    "lantk.predict": {
        "lantk.elasticity",
        "lantk.errors",
        "lantk.evaluate",
        "lantk.label_terms",
        "lantk.pair_features",
        "lantk.products",
        "lantk.solve",
        "lantk.solve_device",
    },
    "lantk.passwords": set(),
    "lantk.timings": set(),
    "lantk.tracking.values": {"lantk.timings", "lantk.variants"},
    "lantk.tracking.run": {"lantk.errors", "lantk.tracking.values", "lantk.variants"},
    "lantk.tracking.reading": {
        "lantk.failures",
        "lantk.leaderboard",
        "lantk.tracking.values",
        "lantk.tracking.run",
        "lantk.timings",
        "lantk.variants",
    },
    "lantk.tracking.dashboard": {"lantk.tracking.views", "lantk.passwords"},
    "lantk.tracking.views": set(),
    "lantk.tracking.server": {"lantk.errors", "lantk.passwords"},
    "lantk.tracking.store": {"lantk.passwords", "lantk.tracking.run", "lantk.storage"},
    "lantk.tracking.logged": {"lantk.tracking.run"},
    "lantk.tracking.check": {"lantk.tracking.values", "lantk.tracking.logged"},
    "lantk.tracking.sync": {
        "lantk.tracking.dashboard",
        "lantk.tracking.views",
        "lantk.passwords",
        "lantk.tracking.reading",
        "lantk.tracking.run",
        "lantk.tracking.check",
        "lantk.tracking.logged",
        "lantk.tracking.store",
    },
    "lantk.leaderboard": {"lantk.statistics", "lantk.variants"},
    "lantk.failures": {"lantk.variants"},
    "lantk.terminal": {"lantk.failures", "lantk.report", "lantk.statistics", "lantk.tables"},
    "lantk.tables": {"lantk.statistics", "lantk.variants"},
    "lantk.report": {"lantk.statistics", "lantk.tables", "lantk.variants"},
    "lantk.findings": {"lantk.statistics", "lantk.tables", "lantk.variants"},
    "lantk.decomposition": {
        "lantk.report",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.answers": {
        "lantk.decomposition",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.answer_page": {
        "lantk.answers",
        "lantk.decomposition",
        "lantk.report",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.captions": {
        "lantk.decomposition",
        "lantk.findings",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.html_tables": {
        "lantk.findings",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.html_report": {
        "lantk.answers",
        "lantk.captions",
        "lantk.decomposition",
        "lantk.failures",
        "lantk.findings",
        "lantk.html_tables",
        "lantk.report",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.results": {
        "lantk.answer_page",
        "lantk.leaderboard",
        "lantk.report",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.figure_style": {"lantk.storage"},
    "lantk.network_figures": {
        "lantk.decomposition",
        "lantk.errors",
        "lantk.figure_style",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.weight_figure": {
        "lantk.figure_style",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
    "lantk.figures": {
        "lantk.errors",
        "lantk.figure_style",
        "lantk.report",
        "lantk.statistics",
        "lantk.tables",
        "lantk.variants",
    },
}
# Third-party module -> the one place that imports it.
ONLY_IN = {
    "mlflow": {"lantk.tracking.sync", "lantk.tracking.logged", "lantk.tracking.store"},
    "matplotlib": {
        "lantk.figure_style",
        "lantk.figures",
        "lantk.network_figures",
        "lantk.weight_figure",
    },
    "torch": {
        "lantk.after_kernel",
        "lantk.checkpoint",
        "lantk.network",
        "lantk.solve_device",
        "lantk.tangent",
        "lantk.training",
        "lantk.two_layer",
    },
    "numba": {"lantk.compiled", "lantk.kernel.cpu", "lantk.kernel.gram", "lantk.pair_tiles"},
    "cupy": {"lantk.kernel.cuda"},
    "argparse": {"lantk.options"},
    "jsonschema": {"lantk.experiment"},
    "jinja2": {"lantk.html_report"},
    "snakemake": {"lantk.lease"},
}


def imported(tree):
    """Return the dotted names that a tree imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            # `from lantk import data` names a module; `from lantk.data import x` is in one.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def own(names):
    return {name for name in names if name in MODULES}


def closure(modules):
    """Return the modules with all that they import of ours, directly or not."""
    found, waiting = set(), set(modules)
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= own(imported(ast.parse(MODULES[module].read_text()))) - found
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    """Each module imports only what its room allows."""
    names = imported(ast.parse(MODULES[module].read_text()))
    assert own(names) <= ALLOWED[module]
    for library, homes in ONLY_IN.items():
        uses = any(name == library or name.startswith(f"{library}.") for name in names)
        assert not uses or module in homes, f"{module} imports {library}"


def test_a_light_import_stays_light():
    """Neither the package nor the command line imports anything heavy at the top level."""
    for path in (PACKAGE / "__init__.py", PACKAGE / "__main__.py", *VERBS):
        top = [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {n.split(".")[0] for n in imported(ast.Module(top, []))}
        assert not names & {"numpy", "torch", "numba", "pandas", "scipy", "mlflow"}


def rules():
    """Return rule name -> (verb, code files) from the text of the rules."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for text in re.split(r"^ *rule\b", path.read_text(), flags=re.MULTILINE)[1:]:
            code = re.search(r"code=(\[[^]]*\])", text)
            verb = re.search(r"python -m lantk (?:mlflow )?([a-z-]+)", text)
            # Rules made in a loop have no name of their own here.
            name = text.partition(":")[0].strip() or verb[1]
            found[name] = (verb[1], ast.literal_eval(code[1]))
    return found


@pytest.mark.parametrize("rule", sorted(rules()))
def test_rules_list_the_code_that_they_run(rule):
    """A rule's code inputs are the import closure of its verb, so that an edit re-runs it."""
    verb, code = rules()[rule]
    functions = {
        node.name: node
        for path in VERBS
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    reached, waiting = set(), {verb.replace("-", "_")}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        used = [n for n in ast.walk(functions[name]) if isinstance(n, ast.Name)]
        own_variables = {n.id for n in used if isinstance(n.ctx, ast.Store)}
        own_variables |= {n.arg for n in ast.walk(functions[name]) if isinstance(n, ast.arg)}
        waiting |= ({n.id for n in used} & set(functions)) - own_variables - reached
    modules = set().union(*(own(imported(functions[name])) for name in reached))
    files = {str(MODULES[m].relative_to(ROOT)) for m in closure(modules)}
    if "lantk/kernel/cuda.py" in files:
        files.add("lantk/kernel/planes.cu")
    wanted = sorted(files)
    assert code == wanted


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
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
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
