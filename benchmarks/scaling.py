"""Show how planning, MLflow and the tables grow with an experiment, without computing any of it.

    python benchmarks/scaling.py [--quick] [--repeats 3] [--output FOLDER] [--docs docs/scaling.md]

Plans are made by Snakemake for CIFAR-10 that is not there (`--dry-run`), then once more where all
files are there and nothing is left to be done. Results of evaluations are fabricated, and go into
an SQLite store. Every number is of a process of its own: CPU seconds (of user and system, its
children included), wall-clock seconds, peak memory of its largest process. What is constant, the
start of a process, is the value at the smallest size and taken off before an exponent is fitted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import bench
import numpy as np

sys.path.insert(0, str(bench.ROOT / "tests"))
from records import make_record, write_record
from work_tree import copy_project

TERMS = ("lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2")
N_VARIANTS = 10  # of a case, where runs grow with the cases
OWN_TERMS = """import numpy as np

from lantk.label_terms.base import LabelTerm


class Mean(LabelTerm):
    fitted_names = ("mean",)

    def fit(self, k_train_train, y, x=None, solve=None):
        self.mean = np.mean(y)
        return self

    def transform(self, k, x=None):
        return np.full(k.shape, self.mean)
"""
TRIVIAL = (
    'rule all:\n    input: [f"out/{i}" for i in range(%d)]\nrule one:\n    output: "out/{i}"\n'
)
TRIVIAL += '    shell: "touch {output}"\n'


@dataclass(frozen=True)
class Growth:
    """What one thing costs as another grows."""

    what: str
    against: str
    sizes: list[int] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)
    """At each size: cpu, wall (seconds), memory (MiB), and what else was counted."""

    def exponent(self, key: str = "cpu") -> float:
        """Return the slope of log cost against log size, both less their first values.

        Exact where a cost is a constant and a power; not a number where too little grows.
        """
        sizes = np.array(self.sizes[1:], float) - self.sizes[0]
        costs = np.array([cost[key] for cost in self.costs[1:]]) - self.costs[0][key]
        if len(sizes) < 2 or (costs <= 0).any():
            return math.nan
        return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def run(command: Sequence[str], folder: Path, *, may_fail: bool = False) -> dict[str, Any]:
    """Run a command; return its CPU and wall-clock seconds, peak memory in MiB, and its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C: nothing is left running
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode and not may_fail:
        raise SystemExit(f"{' '.join(command)[:200]} ended with {process.returncode}:\n{text}")
    cpu = used.ru_utime + used.ru_stime
    return {"cpu": cpu, "wall": wall, "memory": used.ru_maxrss / 1024, "text": text}


def median_run(repeats: int, command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the run with the median of the CPU seconds."""
    runs = [run(command, folder) for _ in range(repeats)]
    return sorted(runs, key=lambda one: float(one["cpu"]))[repeats // 2]


def find(pattern: str, cost: dict[str, Any]) -> Any:
    """Return what a group matches in the output of a run, a number if it is one."""
    match = re.search(pattern, cost["text"], re.MULTILINE)
    if match is None:
        raise SystemExit(f"wanted {pattern!r} in the output, found:\n{cost['text'][-3000:]}")
    return int(match[1]) if match[1].isdigit() else match[1]


def numbers(cost: dict[str, Any]) -> dict[str, float]:
    """Return what was measured, without the output."""
    return {key: round(value, 3) for key, value in cost.items() if key != "text"}


def plan_config(
    n_pairs: int = 1, n_terms: int = 0, n_seeds: int = 10, bands: int | str = "auto"
) -> dict[str, Any]:
    """Return an experiment on class pairs, 10,000 + 2,000 images each; of 0, on all ten classes.

    The variants are those of the paper, their shuffled twins and the network, or `n_terms` label
    terms of one's own in place of the paper's.
    """
    pairs = [list(pair) for pair in itertools.combinations(range(10), 2)][:n_pairs]
    task: dict[str, Any] = {"pairs": pairs, "n_train": 10000, "n_test": 2000}
    if not pairs:
        task = {"pairs": None, "classes": "all", "n_train": 50000, "n_test": 10000}
    terms = [f"many_terms:Term{i}" for i in range(n_terms)] or list(TERMS)
    twins = [f"{term}-shuffled" for term in terms]
    return {
        "data": {"source": "cifar10", "path": "not-there"},
        "task": task,
        "variants": ["cntk", "cntk-ridge", *terms, *twins, "cnn"],
        "kernel": {"bands": bands},
        "cnn": {"seeds": list(range(1, n_seeds + 1))},
        "results": "results/big",
    }


PLANS: dict[str, tuple[Callable[[int], dict[str, Any]], tuple[int, ...]]] = {
    "class pairs": (lambda n: plan_config(n), (1, 5, 10, 20, 45)),
    "label terms": (lambda n: plan_config(n_terms=n), (1, 10, 100, 300, 900)),
    "row bands": (lambda n: plan_config(0, bands=n), (1, 9, 90, 900)),
}
RUNS, WIDTHS, JOBS = (10, 100, 300, 1000), (10, 100, 300), (10, 100, 300, 1000)


def pretend(tree: Path) -> None:
    """Make every file of a plan, empty, so that nothing is left to be done."""
    command = ["snakemake", "--configfile", "plan.json"]
    lines = run([*command, "--summary"], tree)["text"].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("output_file"))
    for line in lines[start + 1 :]:
        path = tree / line.partition("\t")[0]
        if "\t" in line:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    # The report's words at the end find nothing in empty files.
    run([*command, "--touch", "--cores", "1"], tree, may_fail=True)


def measure_plan(name: str, sizes: Sequence[int], repeats: int) -> list[Growth]:
    """Plan experiments of growing size: before anything is there, and when all is."""
    make = PLANS[name][0]
    first, again = Growth("plan", name), Growth("second run", name)
    start = Growth("start of a job", name)
    for size in sizes:
        print(f"plan of {size} {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder)
            copy_project(tree)
            config = make(size)
            classes = [f"class Term{i}(Mean):\n    pass\n" for i in range(size)]
            (tree / "many_terms.py").write_text("\n\n".join([OWN_TERMS, *classes]))
            (tree / "plan.json").write_text(json.dumps(config))
            command = ["snakemake", "--configfile", "plan.json", "--dry-run"]
            cost = median_run(repeats, command, tree)
            first.costs.append(numbers(cost) | {"jobs": find(r"^total +(\d+)", cost)})
            # A job on a cluster reads the workflow again, and of the plan its own branch.
            one = [*command, "--mode", "remote", "results/big/data.json"]
            start.costs.append(numbers(median_run(repeats, one, tree)))
            pretend(tree)
            cost = median_run(repeats, command, tree)
            find("(Nothing) to be done", cost)
            n_files = sum(path.is_file() for path in tree.glob("results/big/**/*"))
            again.costs.append(numbers(cost) | {"files": n_files})
        for growth in (first, again, start):
            growth.sizes.append(size)
    return [first, again, start]


VERBS = ("collect", "sync", "second sync", "sync of a change", "table", "report")


def measure_results(
    against: str, sizes: Sequence[int], verbs: Sequence[str] = VERBS
) -> list[Growth]:
    """Fabricate ever more results, in many cases or in one, and read them with the verbs."""
    found = {verb: Growth(verb, against) for verb in verbs}
    for size in sizes:
        print(f"results: {size} {against} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder, "results")
            width = min(size, N_VARIANTS) if against == "runs" else size
            cases = [f"{i}-{i + 1}" for i in range(size // width)]
            variants = ["cntk", *(f"many_terms:Term{i}" for i in range(width - 1))]
            rng = np.random.default_rng(0)
            for case, i in itertools.product(cases, range(width)):
                name = f"lantk-term{i - 1}" if i else "cntk"
                accuracy = float(rng.uniform(0.7, 0.9))
                record = make_record(name, accuracy, task=case, n_train=10000, n_test=2000)
                path = write_record(results, record)
            config = json.dumps({"results": "results"})
            listing = ["--results", "results", "--permutations", "1", "--seeds"]
            listing += ["--variants", *variants, "--cases", *cases]
            sync = ["lantk", "mlflow", "sync", *listing, "--config", config]
            # The table first: runs have copies of it.
            commands = {"collect": ["lantk", "collect", *listing, "--bands", "1-of-1"]}
            commands |= {"sync": sync, "second sync": sync, "sync of a change": sync}
            commands["table"] = ["lantk", "table", "--results", "results"]
            commands["report"] = ["lantk", "report", *listing, "--out", "report.html"]
            for verb in verbs:
                if verb == "sync of a change":
                    record["settings"]["folds"] = 6
                    path.write_text(json.dumps(record))
                found[verb].sizes.append(size)
                found[verb].costs.append(numbers(run(commands[verb], Path(folder))))
            megabytes = Path(folder, "report.html").stat().st_size / 1e6
            found["report"].costs[-1]["megabytes"] = round(megabytes, 2)
            stored = [results.with_name("mlflow.db"), *Path(folder, "mlflow-artifacts").rglob("*")]
            n_bytes = sum(path.stat().st_size for path in stored if path.is_file())
            found["sync"].costs[-1]["megabytes"] = round(n_bytes / 1e6, 2)
    return list(found.values())


def measure_jobs(sizes: Sequence[int]) -> list[Growth]:
    """Run jobs that do nothing, on two cores: what Snakemake needs to start and end one."""
    growth = Growth("empty jobs", "jobs")
    for size in sizes:
        print(f"{size} jobs ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Snakefile").write_text(TRIVIAL % size)
            command = ["snakemake", "--cores", "2", "--scheduler", "greedy", "--quiet", "all"]
            growth.sizes.append(size)
            growth.costs.append(numbers(run(command, Path(folder))))
    return [growth]


HEADER = (
    *("what", "against", "from - to", "CPU s", "wall s", "MiB", "counted"),
    *("s for each", "exponent"),
)


def table_row(growth: Growth) -> list[str]:
    """Return the cells of a growth: first and last value, and the exponents."""
    first, last = growth.costs[0], growth.costs[-1]
    added = growth.sizes[-1] - growth.sizes[0]
    counted = [
        f"{last[key]:,.{0 if float(last[key]).is_integer() else 1}f} {key}, exponent"
        f" {growth.exponent(key):.2f}"
        for key in ("jobs", "files", "megabytes")
        if key in last
    ]
    return [
        growth.what,
        growth.against,
        f"{growth.sizes[0]:,} - {growth.sizes[-1]:,}",
        *(f"{first[key]:,.1f} - {last[key]:,.1f}" for key in ("cpu", "wall")),
        f"{first['memory']:,.0f} - {last['memory']:,.0f}",
        "; ".join(counted),
        f"{(last['cpu'] - first['cpu']) / added:.4f}",
        f"{growth.exponent():.2f}",
    ]


def draw(results: Sequence[Growth], path: Path) -> None:
    """Draw CPU seconds beyond the start against size, a panel for each thing that grows."""
    names = list(dict.fromkeys(growth.against for growth in results))
    with bench.drawing(path, len(names), figsize=(2.4 * len(names), 3)) as (_, panels):
        for axes, name in zip(panels, names, strict=True):
            for i, growth in enumerate(g for g in results if g.against == name):
                added = [cost["cpu"] - growth.costs[0]["cpu"] for cost in growth.costs]
                style = {"marker": "osD^vx"[i % 6], "label": growth.what}
                # What a noisy clock makes negative has no place on a logarithmic axis.
                shown = [(n, s) for n, s in zip(growth.sizes, added, strict=True) if s > 0]
                axes.loglog(*zip(*(shown or [(1, 1)]), strict=True), **style)
            axes.set_xlabel(name)
            axes.legend(fontsize=6)
        panels[0].set_ylabel("CPU seconds beyond those at the smallest size")


def save(results: Sequence[Growth], machine: dict[str, Any], output: Path) -> str:
    """Write scaling.md, .json and .png; return the table."""
    raw = [{**vars(growth), "exponent": growth.exponent()} for growth in results]
    markdown = bench.save_record(
        output,
        "scaling",
        machine=machine,
        text="# Growth of planning, MLflow and tables\n\nFirst and last size. Exponents and seconds"
        " for each are of what is beyond the smallest size; nan, too little grows to tell.",
        header=HEADER,
        rows=[table_row(growth) for growth in results],
        raw=raw,
    )
    draw(results, output / "scaling.png")
    return markdown


def replace_table(page: Path, markdown: str) -> None:
    """Put the table and the machine between the marks of a page."""
    before, start, rest = page.read_text().partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise SystemExit(f"{page} has no <!-- measured --> and <!-- end --> on lines of their own")
    table = markdown[markdown.index("| what") :]
    page.write_text(f"{before}{start}{table}{end}{after}")


def main() -> None:
    """Measure every growth, and print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--repeats", type=int, default=3, help="of each plan; the median counts")
    parser.add_argument("--output", type=Path, default=bench.RESULTS)
    parser.add_argument("--docs", type=Path, help="a page whose measured table is replaced")
    args = parser.parse_args()
    versions = {name: metadata.version(name) for name in ("snakemake", "mlflow")}
    machine = bench.describe_machine(1, **versions)
    plans = {name: sizes for name, (_, sizes) in PLANS.items()}
    runs, widths, jobs, repeats = RUNS, WIDTHS, JOBS, args.repeats
    if args.quick:
        plans = dict.fromkeys(PLANS, (1, 2, 3))
        runs, widths, jobs, repeats = (10, 20, 40), (2, 4, 8), (1, 2, 4), 1
    results = [g for name, sizes in plans.items() for g in measure_plan(name, sizes, repeats)]
    results += measure_results("runs", runs) + measure_results("variants of a case", widths)
    results += measure_jobs(jobs)
    markdown = save(results, machine, args.output)
    print(markdown)
    if args.docs:
        replace_table(args.docs, markdown)


if __name__ == "__main__":
    main()
