"""The command itself: its version, its two names, and what it says of extras that are missing."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import lantk
from lantk.cli import main as command

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
# Hides modules, then runs the command.
HIDING = (
    "import sys\n"
    "hidden, *sys.argv[1:] = sys.argv[1:]\n"
    "sys.modules |= dict.fromkeys(hidden.split())\n"
    "from lantk.cli.main import main; sys.exit(main())"
)


def distribution(text):
    """Return the name of a requirement as the index writes it."""
    return re.match(r"[\w-]+", text)[0].lower().replace("_", "-")


def hiding(modules, *arguments):
    """Run the command where modules cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", HIDING, " ".join(modules), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_version_is_said_by_all(capsys):
    """Package, project and command have one version."""
    with pytest.raises(SystemExit, match="0"):
        command.main(["--version"])
    assert capsys.readouterr().out == f"lantk {lantk.__version__}\n"
    assert PROJECT["version"] == lantk.__version__


@pytest.mark.parametrize("name", ["lantk", "__main__.py"])
def test_help_names_the_command_as_it_was_called(name, capsys, monkeypatch):
    """`lantk` and `python -m lantk` are one; help shows which was typed."""
    monkeypatch.setattr(sys, "argv", [f"/somewhere/bin/{name}"])
    with pytest.raises(SystemExit, match="0"):
        command.main(["mlflow", "sync", "--help"])
    called = {"lantk": "lantk"}.get(name, "python -m lantk")
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {called} mlflow sync ")
    assert f"\n  {called} mlflow sync --results" in out


@pytest.mark.parametrize("extra", ["network", "study"])
def test_every_package_of_an_extra_is_known(extra):
    """Each requirement of an extra has its module in the list, or is of the library as well."""
    brought = {
        distribution(name)
        for module, names in packages_distributions().items()
        for name in names
        if module in command._EXTRAS[extra]
    }
    listed = {distribution(text) for text in PROJECT["optional-dependencies"][extra]}
    # scikit-learn requires threadpoolctl.
    assert listed - {"lantk", "threadpoolctl"} <= brought


@pytest.mark.parametrize(
    ("hidden", "verb", "extra"),
    [("pandas", "collect", "study"), ("torch", "cnn", "network")],
)
def test_a_missing_package_names_its_extra(hidden, verb, extra, tmp_path):
    """A verb whose package is not installed says what to install, without a traceback."""
    split = tmp_path / "split.npz"
    arguments = {
        "collect": ["--results", str(tmp_path), "--cases", "3-8", "--variants", "cntk"],
        "cnn": [
            *("--split", str(split), "--case", "3-8", "--architecture", "chen2020"),
            *("--variant", "cnn", "--out", str(tmp_path / "cnn.json")),
        ],
    }[verb]
    done = hiding([hidden], verb, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"lantk {verb}: {hidden} is not installed in this Python")
    assert f"pip install '.[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_package_of_nobody_is_a_fault():
    """A module that no extra brings is reported with its traceback."""
    plan = ("plan", "--n-train", "200", "--n-test", "100", "--rate", "1000")
    done = hiding(["lantk.kernel.plan"], *plan)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "\nlantk plan: " in done.stderr
    assert "lantk.kernel.plan" in done.stderr.splitlines()[-1]


def test_planning_needs_no_extra():
    """Help and the plan of a matrix work with what the library itself needs."""
    hidden = sorted(set().union(*command._EXTRAS.values()))
    shown = hiding(hidden, "gram", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    plan = ("plan", "--n-train", "200", "--n-test", "100", "--rate", "1000")
    planned = hiding(hidden, *plan)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "different entries/s" in planned.stdout


PLAN = "plan --n-train 200 --n-test 100 --rate 1000"


def test_a_pipe_that_breaks_elsewhere_is_an_error(capsys, monkeypatch):
    """Only a reader of what is printed may go in silence."""

    def fail(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("lantk.kernel.grammar.parse_architecture", fail)
    assert command.main(PLAN.split()) == 1
    assert capsys.readouterr().err == "lantk plan: [Errno 32] Broken pipe\n"


@pytest.mark.parametrize(
    ("arguments", "shell", "status", "says"),
    [
        (PLAN, "| true", 141, ""),
        ("--version", "| true", 141, ""),
        ("table --results nowhere", "2>&1 | true", 141, ""),
        (PLAN, ">&-", 0, ""),
        ("table --results nowhere", ">&- 2>&- <&-", 1, ""),
        (PLAN, "> /dev/full", 1, "No space left on device"),
    ],
)
def test_output_that_nobody_reads_ends_a_verb_quietly(arguments, shell, status, says, tmp_path):
    """A reader that has gone gives 141, a closed stream is no fault, a full disk is one line."""
    command = f"{sys.executable} -m lantk {arguments} {shell}; echo ${{PIPESTATUS[0]}} > status"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert int((tmp_path / "status").read_text()) == status
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("\n") == bool(says)
