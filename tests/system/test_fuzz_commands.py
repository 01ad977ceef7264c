"""No text of a configuration, of data or of a name is a command: asked of a real shell."""

import functools
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from planner import Planner
from test_fuzz_config import LEAVES, changed, outcome

from lantk.experiment.checks import ConfigError, check_folder

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
# What a shell, Snakemake, Python, argparse or printf could read as something else than text.
HOSTILE = {
    "semicolon": "a;touch hacked",
    "substitution": "a$(touch hacked)b",
    "backticks": "a`touch hacked`b",
    "quote": "a'; touch hacked; '",
    "two quotes": 'a"; touch hacked; "',
    "and": "a && touch hacked",
    "pipe": "a | touch hacked & b",
    "redirection": "a > hacked < /dev/null",
    "signs": "$0 $$ $? ~ $(",
    "variables": "$HOME $LANTK_NOT_SET ~",
    "globs": "* ? [a-z] a**",
    "percent": "%s %n %% \\n \\\\",
    "hash": "a #b !c ^d =e",
    "spaces": "  a   b  ",
    "unicode": "é ü\u2028 名 \u202e",
    "dash": "--help",
    "line": "a\ntouch hacked\nb",
    "braces": "{input} {wildcards.task} {{x}}",
}
# Of a name like an option, of two lines, or with a variable that is not set the folder is refused;
# what is no folder travels.
REFUSED = {
    "results": ("dash", "line", "braces", "unicode", "variables"),
    "data.path": ("dash", "line", "unicode", "variables"),
}
PLAIN = "plain"
# Writes down what it was called with; the shell parses the rest of the line.
STUB = "#!/bin/bash\nprintf '%s\\0' \"$@\" > {calls}/call\n"


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    running = Planner(tmp_path_factory.mktemp("commands") / "tree")
    yield running
    running.close()


@pytest.fixture
def stub(tmp_path):
    """Return a folder to put first on PATH, whose python only writes its arguments down."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "calls").mkdir()
    program = tmp_path / "bin" / "python"
    program.write_text(STUB.format(calls=shlex.quote(str(tmp_path / "calls"))))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def calls(stub, jobs):
    """Return the arguments that a real shell passes on for the command of each job."""
    work = stub / "work"
    work.mkdir()
    found = []
    environment = os.environ | {"PATH": f"{stub / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for job in jobs:
        if job["command"] is None:
            continue
        for log in job["log"]:
            (work / log).parent.mkdir(parents=True, exist_ok=True)
        # As Snakemake runs it.
        subprocess.run(
            ["bash", "-c", f"set -euo pipefail; {job['command']}"],
            cwd=work,
            env=environment,
            check=True,
            timeout=60,
        )
        (call,) = (stub / "calls").iterdir()
        found.append((job["rule"], call.read_text().split("\0")[:-1]))
        call.unlink()
    logs = {(work / log).resolve() for job in jobs for log in job["log"]}
    assert {p.resolve() for p in work.rglob("*") if p.is_file()} <= logs, "a command wrote a file"
    shutil.rmtree(work)
    return found


def write_npz(path, labels=("ant", "bee")):
    """Write 12 + 10 images of 4 x 4 in two classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, n in (("train", 12), ("test", 10)):
        arrays[f"x_{part}"] = np.random.default_rng(0).integers(0, 256, (n, 1, 4, 4), np.uint8)
        arrays[f"y_{part}"] = np.array(labels)[np.arange(n) % 2]
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def takes_text(schema):
    """Return whether a key takes a text, other than one of a few words."""
    inner = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    is_text = schema.get("type") == "string" and not {"enum", "const"} & set(schema)
    return is_text or any(map(takes_text, inner))


TEXTS = {".".join(path) for path, schema in LEAVES.items() if takes_text(schema)}
# Where a key takes any text; of the others every value is refused that is not known.
FREE = {"data.path", "results", "tracking.uri", "tracking.experiment", "task.pairs"}
KNOWN = {"architecture", "variants", "task.classes"}


def test_every_key_that_takes_text_is_tried():
    """A key of the schema that takes text is one of those that are tried here."""
    assert TEXTS == FREE | KNOWN


def hostile_config(tree, text, marker):
    """Return a small configuration with a text at every key that takes any."""
    path = f"sets/{text}.npz"
    write_npz(tree / path, (f"1{text}", f"2{text}"))
    own = ["cntk", "cnn", "lantk-kr-v1", "lantk-kr-v1-shuffled", "lantk-fjlt-v1"]
    values = {
        ("data",): {"source": "npz", "path": path, "scaling": "range", "layout": None},
        ("task", "pairs"): [[f"1{text}", f"2{text}"]],
        ("task", "n_train"): 12,
        ("folds",): 2,
        ("variants",): own,
        ("results",): f"out/{'x' if '{' in text else text}",
        ("tracking", "experiment"): text,
        ("tracking", "uri"): f"sqlite:////{marker}/{text}.db",
    }
    return changed(values)


@functools.cache
def plan_once(planner, text):
    return planner.plan(hostile_config(planner.tree, text, "runs"))


def replaced(value, text):
    """Return a value in which the plain word stands for a text, inside of JSON as well."""
    if isinstance(value, str):
        if value.startswith("{"):
            return json.dumps(replaced(json.loads(value), text), sort_keys=True)
        return value.replace(PLAIN, text)
    if isinstance(value, list):
        return [replaced(member, text) for member in value]
    if isinstance(value, dict):
        return {key: replaced(member, text) for key, member in value.items()}
    return value


# A results folder has no braces.
TRIED = [case for case in HOSTILE if case == "braces" or case not in REFUSED["results"]]


@pytest.mark.parametrize("case", TRIED)
def test_a_shell_passes_every_text_on_as_it_is(planner, stub, case):
    """With a hostile text in all keys, every job is called as with a plain word in its place."""
    text = HOSTILE[case]
    answers = [plan_once(planner, PLAIN), planner.plan(hostile_config(planner.tree, text, "runs"))]
    assert all("jobs" in answer for answer in answers), answers
    plain, hostile = (calls(stub, answer["jobs"]) for answer in answers)
    # Class names are in no command: there is their number, and a slug made of letters.
    slugs = [
        {Path(job["output"][0]).stem for job in a["jobs"] if job["rule"] == "split"}
        for a in answers
    ]
    (plain_slug,), (slug,) = slugs
    assert all(sign.isalnum() or sign in "-._" for sign in slug)
    wanted = [
        (rule, replaced([word.replace(plain_slug, slug) for word in words], text))
        for rule, words in plain
    ]
    if "{" in text:
        wanted = [(rule, [w.replace(f"out/{text}", "out/x") for w in ws]) for rule, ws in wanted]
    assert len(hostile) >= 10
    assert hostile == wanted
    assert not list(planner.tree.rglob("hacked"))


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_folder_that_could_be_misread_is_refused(planner, key):
    """A folder like an option, of two lines, or with signs unseen is refused before any job."""
    for case in REFUSED[key]:
        text = HOSTILE[case]
        path = tuple(key.split("."))
        values = {path: text}
        if key == "data.path":
            values |= {("data", "source"): "npz"}
        answer = planner.plan(changed(values))
        assert answer["kind"] == "WorkflowError", answer
        assert key in answer["error"]
    assert not list(planner.tree.rglob("hacked"))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_text_that_is_no_name_of_ours_is_refused(case):
    """An architecture, variant, class or choice of any other name is refused before any plan."""
    text = HOSTILE[case]
    choices = [path for path, schema in LEAVES.items() if "enum" in schema]
    for path in [("architecture",), ("variants",), ("task", "classes"), *choices]:
        value = [text] if path[-1] in ("variants", "classes") else text
        values = {path: value} | ({("task", "pairs"): None} if path[-1] == "classes" else {})
        assert isinstance(outcome(changed(values)), str)
    assert isinstance(outcome(changed({("variants",): [f"os:{text}"]})), str)


def test_class_names_of_any_kind_are_in_no_command(planner, stub):
    """Whatever the classes of a data set are called, commands have their numbers and slugs."""
    names = [*HOSTILE.values(), "plain"]
    labels = [f"{text}!" for text in names]
    arrays = {"x": np.zeros((4 * len(labels), 1, 4, 4), np.uint8), "y": np.array(labels * 4)}
    parts = {f"{name}_{part}": a for name, a in arrays.items() for part in ("train", "test")}
    np.savez(planner.tree / "set.npz", **parts)
    values = {("data", "source"): "npz", ("data", "path"): "set.npz", ("folds",): 2}
    values |= {("task", "pairs"): [[label, "plain!"] for label in labels[:-1]]}
    values |= {("task", "n_train"): 8, ("variants",): ["cntk"]}
    answer = planner.plan(changed(values))
    assert "jobs" in answer, answer
    jobs = [job for job in answer["jobs"] if job["rule"] in ("split", "table", "evaluate_cntk")]
    for _, words in calls(stub, jobs):
        assert not any(label in word for word in words for label in labels)


def test_the_lines_that_end_a_run_quote_what_they_print():
    """In the Snakefile's own shell lines every text of the configuration is quoted."""
    lines = (ROOT / "Snakefile").read_text().partition("onsuccess:")[2]
    inserted = [part.partition("}")[0] for part in lines.replace("{{", "").split("{")[1:]]
    assert inserted
    assert all(part.endswith(":q") for part in inserted), inserted


def test_a_folder_is_planned_alike_however_it_is_spelt(planner):
    """With ./, // and / at the end of a path the jobs are those of the plain one."""
    write_npz(planner.tree / "sets/plain.npz")
    plans = []
    for results, path in (("out/x", "sets/plain.npz"), (".//out/./x/", "./sets//plain.npz")):
        values = {("data",): {"source": "npz", "path": path}, ("results",): results}
        values |= {("task", "pairs"): [["ant", "bee"]], ("task", "n_train"): 12, ("folds",): 2}
        plans.append(planner.plan(changed(values)))
    assert "jobs" in plans[0], plans[0]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", ["a", "../b", "/c", "é", "a b", "it's; $(x)", "x" * 150])
def test_ordinary_folders_are_taken(name):
    """Folders of names that can be shown, above or below, are no fault."""
    check_folder("results", name)


def test_hostile_texts_run_to_the_end(tmp_path):
    """The worst text in every key that takes it at once, in a run without a stub: one table."""
    text = "a '\"; touch hacked; $(touch hacked) `touch hacked` && * %s \\n"
    planner = Planner(tmp_path / "tree")
    config = hostile_config(planner.tree, text, "runs")
    planner.close()
    config["variants"] = ["cntk"]
    config["architecture"] = [{"conv": {"size": 3}}, "relu", "flatten", "dense"]
    store = f"{planner.tree}/{text}.db"
    config["tracking"]["uri"] = f"sqlite:///{store}"
    (planner.tree / "fuzz.json").write_text(json.dumps(config))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "snakemake", "--configfile", "fuzz.json", "--cores", "2"]
    done = subprocess.run(
        command, cwd=planner.tree, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (planner.tree / "out" / text / "report.html").is_file()
    assert Path(store).is_file()
    assert not list(planner.tree.rglob("hacked"))


def test_the_message_of_a_refused_folder_says_what_to_write():
    """A folder that begins with a dash is answered by the same one with ./ before it."""
    with pytest.raises(ConfigError, match=r"Write '\./--help'"):
        check_folder("results", "--help")
