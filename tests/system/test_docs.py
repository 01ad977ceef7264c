"""The documentation: its commands run, its links lead somewhere, its messages are said."""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from work_tree import copy_project

from lantk.cli.main import _parser
from lantk.experiment.checks import check_settings

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = [ROOT / "RESULTS.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]
OTHERS = ("CHANGELOG.md", "benchmarks/README.md", "experiments/records/README.md")
LINKED = [*PAGES, *RESULTS, *(ROOT / name for name in OTHERS)]
# The default experiment, made small: what the pages change is laid over it.
SMALL = {
    "task": {"pairs": [[3, 8]], "n_train": 20, "n_test": 30},
    "variants": ["cntk", "lantk-kr-v1", "lantk-kr-v1-shuffled", "cnn"],
    "label_weights": {"honest": [0, 0.1], "oracle": [0.1]},
    "permutations": 1,
    "folds": 2,
    "cnn": {"epochs": 1},
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    marks: dict[str, str]
    """What HTML comments above it say: `file`, `not run`, `from`."""
    language: str
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}\n{self.body}"


@functools.cache
def blocks(page):
    """Return the fenced blocks of a page."""
    text, found = page.read_text(), []
    fence = r"((?:^<!-- [^>]*? -->\n)*)^```(\w*)\n(.*?)^```$"
    for match in re.finditer(fence, text, re.MULTILINE | re.DOTALL):
        marks = dict(re.findall(r"<!-- ([a-z ]+): (.*?) -->", match[1], re.DOTALL))
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(page, line, marks, match[2], match[3]))
    return found


def blocks_of(language):
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def merged(base, change):
    """Return a configuration with another over it, as Snakemake lays them."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        is_group = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if is_group else value
    return result


def run(tree, command):
    """Run a command in the work tree; return what it printed, or fail with that."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The package is imported from where it is: compiled code is kept by the path of its source.
    here = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    environment = os.environ | here | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=500
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{shlex.join(command)}\n{output[-4000:]}"
    return output


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project with a small default experiment, which has been run."""
    folder = tmp_path_factory.mktemp("docs") / "work tree"
    copy_project(folder, "experiments", "docs")
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(merged(default, SMALL), sort_keys=False))
    run(folder, ["snakemake", "--cores", "2"])
    return folder


def runnable(arguments):
    """Return a command at small size; None if it is only looked at."""
    program = arguments[0]
    if program == "make":
        targets = [argument for argument in arguments[1:] if "=" not in argument]
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
        return None
    if program == "snakemake":
        if "-n" in arguments or "--unlock" in arguments:
            return arguments
        is_preset = any(argument.startswith("experiments/") for argument in arguments)
        if is_preset or "--config" in arguments:
            return [program, "-n", *arguments[1:]]
        # Up to the table: figures and runs are made as those of the default experiment.
        targets = ["table"] if "--configfile" in arguments else []
        if "shapes.yaml" in arguments:
            targets.append("results/shapes/models/disk-ring/models.json")
        return [program, *targets, *arguments[1:]]
    if arguments[:3] == ["python", "-m", "lantk"]:
        check_options(arguments[3:])
        if arguments[3:5] == ["mlflow", "dashboard"]:
            return (
                None  # It serves until it is stopped: tests/tracking/test_dashboard.py starts it.
            )
        # A rate that is given is not measured.
        return arguments + (["--rate", "4e5"] if arguments[3] == "plan" else [])
    if program == "python" and arguments[1].startswith("docs/"):
        return arguments
    raise AssertionError(
        f"{shlex.join(arguments)}: no test knows how to run this; write"
        " `<!-- not run: reason -->` above the block"
    )


def check_options(arguments):
    """Fail if the command line does not take these arguments."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            _parser().parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{shlex.join(arguments)}: {said.getvalue()}")


def commands(block):
    """Return the commands of a shell block, each as a list of words."""
    lines = block.body.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page, tree):
    """The files of a page are written, and its commands and Python run one after the other."""
    for block in blocks(page):
        if "file" in block.marks:
            (tree / block.marks["file"]).write_text(block.body)
        elif "not run" in block.marks:
            assert len(block.marks["not run"]) > 10, f"{block}\nneeds a reason"
        elif block.language == "python":
            # As a module of its own, in the folder that the page is read in.
            run(tree, ["python", "-W", "error", "-c", block.body])
        elif block.language == "sh":
            for words in commands(block):
                expand_and_run(tree, words)


@functools.cache
def ran():
    """Return the commands that have run: the same one twice shows nothing new."""
    return set()


def expand_and_run(tree, words):
    command = runnable(words)
    if command is None or tuple(command) in ran():
        return
    found = [sorted(map(str, tree.glob(word))) if "*" in word else [word] for word in command]
    run(tree, [word for group in found for word in group])
    ran().add(tuple(command))


def test_a_finished_experiment_has_nothing_to_do(tree):
    """What the tutorial says of a second run holds."""
    assert "Nothing to be done" in run(tree, ["snakemake", "-n"])


def test_every_block_has_a_language_that_is_checked():
    """No block escapes for want of a language, and one that is not run says why."""
    for page in PAGES:
        for block in blocks(page):
            assert block.language in {"sh", "python", "yaml", "text"}, block
        assert len(blocks(page)) == len(re.findall(r"^ *```\w", page.read_text(), re.MULTILINE))


def test_commands_in_a_line_exist():
    """Verbs and make targets that a page names in passing are there."""
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", text):
            if code.startswith("make "):
                target = re.escape(code.split()[1])
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: {code}"
            elif code.startswith("python -m lantk ") and "--help" not in code:
                check_options(shlex.split(code)[3:])


@pytest.mark.parametrize("block", blocks_of("yaml"), ids=lambda b: f"{b.page.stem}-{b.line}")
def test_configurations_are_accepted(block):
    """Every piece of configuration on a page passes the check, laid over the default."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    for text in block.body.split("\n# or\n"):
        change = yaml.safe_load(text)
        assert change, block
        check_settings(merged(default, change))


def prose(page):
    """Return a page without code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return text


@functools.cache
def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        n_before = sum(re.sub(r"-\d+$", "", other) == anchor for other in found)
        found.append(f"{anchor}-{n_before}" if n_before else anchor)
    return set(found)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Links between files name files that are there, and headings that they have."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}"


def load_script(name):
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_is_in_step():
    """docs/configuration.md is what the settings make of it."""
    script = load_script("make_configuration")
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == script.reference(), "run python docs/make_configuration.py"


def test_the_list_of_licences_is_in_step():
    """docs/licences.md lists every locked package at its version, with what it declares."""
    script = load_script("make_licences")
    text = (ROOT / "docs" / "licences.md").read_text()
    assert text == script.licences_page(), "run python docs/make_licences.py"
    assert "not declared" not in text


def test_every_key_has_a_section():
    """Every key of config.yaml has a section, a description and an example."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    text = (ROOT / "docs" / "configuration.md").read_text()

    def keys_of(value, outer=""):
        if not isinstance(value, dict):
            return [outer]
        return [key for k, v in value.items() for key in keys_of(v, f"{outer}.{k}".lstrip("."))]

    for name in keys_of(default):
        section = re.search(rf"^##+ `{name}`\n(.*?)(?=^##|\Z)", text, re.M | re.S)
        assert section, name
        assert "```yaml" in section[1], f"{name} has no example"


@functools.cache
def fixed_texts(package):
    """Return the fixed parts of every text in the Python files of an installed package."""
    found = set()
    for path in Path(importlib.util.find_spec(package).origin).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                # What str.format fills in is not fixed; parts of f-strings are texts of their own.
                found |= {" ".join(part.split(" ")) for part in node.value.split("{}")}
    return {" ".join(text.split()) for text in found if len(text) >= _SHORTEST}


def covered(message, texts):
    """Return which letters of a message are in a run of some text's beginning."""
    is_covered = [False] * len(message)
    for text in texts:
        start = message.find(text[:_SHORTEST])
        if len(text) >= _SHORTEST and start >= 0:
            pairs = enumerate(zip(text, message[start:], strict=False))
            n_equal = next(
                (i for i, (a, b) in pairs if a != b), min(len(text), len(message) - start)
            )
            is_covered[start : start + n_equal] = [True] * n_equal
    return is_covered


_SHORTEST = 8
# Names, paths and numbers, which are those of the example.
_FILLED_IN = re.compile(r"'[^']*'|\S*/\S*|\.{3}|\[.*\]|\(\d[^)]*\)|\d[\d.,e+-]*")
QUOTED = [block for block in blocks_of("text") if block.page.name == "faq.md"]


@pytest.mark.parametrize("block", QUOTED, ids=lambda b: f"{b.page.stem}-{b.line}")
def test_quoted_messages_are_in_the_code(block):
    """The fixed parts of a message that a page quotes are in the code, and are much of it."""
    message = " ".join(block.body.split())
    is_covered = covered(message, fixed_texts(block.marks.get("from", "lantk")))
    shown = "".join(a if known else "_" for a, known in zip(message, is_covered, strict=True))
    n_fixed = len(_FILLED_IN.sub("", message))
    assert sum(is_covered) >= 0.5 * n_fixed, f"{block}found in the code: {shown}"


def test_figures_are_drawn_by_their_script(tmp_path):
    """The script of the figures draws each that a page shows and that no other script makes."""
    options = ["--source", "digits", "--pair", "3", "8", "--n-train", "130"]
    run(ROOT, ["python", "docs/make_figures.py", *options, "--out", str(tmp_path)])
    pages = [
        (ROOT / "docs" / f"{name}.md").read_text() for name in ("how-it-works", "architectures")
    ]
    shown = set(re.findall(r"\]\((\S+\.png)\)", "".join(pages)))
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn
    assert shown - drawn == {"deer-dog.png", "sketch.png"}
    assert drawn <= shown


@pytest.mark.parametrize("page", ["README.md", "docs/how-it-works.md"])
def test_quoted_results_are_those_of_the_results_pages(page):
    """Each gain with its interval that a page shows in a table stands in that row of a result."""
    interval = re.compile(r"[+-]\d+\.\d+ ± \d+\.\d+")
    named = re.compile(r"\| `?(LANTK-[\w-]+|lantk-[\w-]+|cntk-\w+)")
    results = [line for path in RESULTS for line in path.read_text().splitlines()]
    rows = [line for line in (ROOT / page).read_text().splitlines() if named.match(line)]
    quoted = [(named.match(row)[1], interval.findall(row)) for row in rows]
    quoted = [(name, found) for name, found in quoted if found]
    assert len(quoted) >= 5
    for name, found in quoted:
        theirs = [set(interval.findall(line)) for line in results if line.startswith(f"| {name} ")]
        assert any(set(found) <= there for there in theirs), (name, found)
