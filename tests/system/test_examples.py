"""The examples run as they are called, with the library alone, and say what they promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "one_pair.py"


def test_one_pair_prints_both_accuracies():
    """3s and 8s are told apart by both variants, at a label weight that train images chose."""
    done = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, check=True, timeout=300
    )
    head, cntk, lantk = done.stdout.splitlines()
    assert head == "digits, 3 against 8: n = 40 train + 317 test images"
    for name, line in (("CNTK", cntk), ("LANTK-KR-V1", lantk)):
        found = re.fullmatch(rf"{name} +([\d.]+)% at label weight ([\d.]+)", line)
        assert float(found[1]) > 95
        assert float(found[2]) in (0, 0.01, 0.03, 0.1, 0.3, 1)


def test_examples_need_the_library_alone():
    """Of the project an example imports the public package and its room of label terms."""
    tree = ast.parse(EXAMPLE.read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.startswith("lantk")} == {"lantk", "lantk.label_terms"}
    others = {name.partition(".")[0] for name in names} - {"lantk"}
    assert others <= {"numpy", "scipy", "sklearn"}
