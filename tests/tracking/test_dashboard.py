"""The MLflow dashboard, started by its verb and looked at with a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from urllib.error import URLError
from urllib.parse import parse_qs
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest
import yaml
from PIL import Image
from records import make_record, write_record

from lantk.experiment.records import Listing

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
VARIANTS = yaml.safe_load((ROOT / "config.yaml").read_text())["variants"]
CASES = ("3-8", "1-8")
LISTING = Listing(CASES, tuple(VARIANTS), 1, (0,))
# Case -> accuracy of each variant, no two alike.
ACCURACIES = {
    case: [round(start + 0.02 * i, 2) for i in range(len(LISTING.stems))]
    for case, start in zip(CASES, (0.71, 0.7), strict=True)
}
COLUMNS = ["index", "label", "honest", "oracle"]
# Enough height for all runs: the page draws only the rows that are in sight.
VIEWPORT = {"width": 1600, "height": 1500}


def write_results(results: Path) -> Path:
    """Write the results of the default variants for two pairs, each accuracy of its own."""
    for case in CASES:
        for i, (variant, seed) in enumerate(LISTING.stems.values()):
            record = make_record(variant, ACCURACIES[case][i], task=case, seed=seed)
            write_record(results, record)
        figure = results / "figures" / f"{case}.png"
        figure.parent.mkdir(exist_ok=True)
        Image.new("RGB", (120, 80), "teal").save(figure)
    return results


def run_verb(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
    """Run a verb to its end, in an environment that names no store."""
    return subprocess.run(
        [sys.executable, "-m", "lantk", "mlflow", *map(str, arguments)],
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true"}


def sync(results: Path) -> dict:
    """Log results with the verb; return what it wrote."""
    listing = ["--cases", *CASES, "--variants", *VARIANTS, "--permutations", 1, "--seeds", 0]
    config = json.dumps({"results": "results/digits", "variants": VARIANTS})
    done = run_verb("sync", "--results", results, *listing, "--config", config)
    assert done.returncode == 0, done.stderr
    return json.loads((results / "tracking.json").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Dashboard:
    """A dashboard that runs, and what it printed so far."""

    process: subprocess.Popen
    address: str
    links: dict[str, str]
    folder: Path
    """The working directory of its processes."""

    @property
    def comparison(self) -> str:
        """The link that compares the variants of the first case."""
        return self.links[f"{CASES[0]}, variants compared"]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def wait_until_it_answers(address: str, process: subprocess.Popen) -> None:
    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + 180
    while True:
        with suppress(URLError, ConnectionError, TimeoutError):
            opener.open(f"{address}/health", timeout=10).close()
            return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def starting(results: Path, port: int, folder: Path):
    """Start the verb; whatever happens, none of its processes is left."""
    command = [sys.executable, "-m", "lantk", "mlflow", "dashboard", "--results", results]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment() | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        # If the verb does not end what it started, this does.
        started = []
        if process.poll() is None:
            started = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
        process.communicate(timeout=60)
        for child in started:
            if child.is_running():
                child.kill()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Return results with a store."""
    folder = write_results(tmp_path_factory.mktemp("dashboard") / "results" / "digits")
    sync(folder)
    return folder


@pytest.fixture(scope="module")
def dashboard(results, tmp_path_factory):
    """Start one dashboard for all tests."""
    folder, port = tmp_path_factory.mktemp("elsewhere"), free_port()
    with starting(results, port, folder) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if lines[-1].startswith("http"):
                break
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(address, process)
        links = dict(line.split(": ", 1) for line in lines if ": http" in line)
        assert lines[-1] == next(iter(links.values()))
        yield Dashboard(process, address, links, folder)


@pytest.fixture
def page(browser_page, dashboard):
    """Return a page; what it asks for has to be on this machine."""
    browser_page.set_viewport_size(VIEWPORT)
    yield browser_page
    local = (dashboard.address, "data:", "blob:")
    assert [url for url in browser_page.requests if not url.startswith(local)] == []


def run_names(*cases: str) -> set[str]:
    found = set()
    for case in cases or CASES:
        for variant, seed in LISTING.stems.values():
            found.add(f"{case} {variant}" + ("" if seed is None else f" seed {seed}"))
        found |= {f"{case} lantk-best", f"{case} lantk-best-shuffled"}
    return found


def test_links_that_are_printed(dashboard):
    """There is a link to the charts, one to the list, and one to the comparison of each case."""
    labels = list(dashboard.links)
    assert labels[:2] == ["all runs as charts", "list of runs"]
    assert [label.split(",")[0] for label in labels[2:]] == [*CASES]
    assert all(link.startswith(f"{dashboard.address}/#/") for link in dashboard.links.values())


def test_list_of_runs(page, dashboard):
    """The list has a row for each run, with its accuracy, the best one first."""
    page.goto(dashboard.links["list of runs"])
    page.get_by_text(f"{len(run_names())} matching runs").wait_for()
    for name in run_names():
        page.get_by_role("link", name=name, exact=True).wait_for()
    cells = page.locator("[role=gridcell][col-id='metrics.`accuracy_honest`']")
    cells.first.wait_for()
    page.keep_screenshot("mlflow-list")
    # Rows stand in the document in the order in which they were drawn.
    texts = cells.evaluate_all(
        "cells => cells.map(c => [c.closest('[role=row]').ariaRowIndex, c.innerText])"
    )
    accuracies = [float(text) for _, text in sorted(texts, key=lambda cell: int(cell[0]))]
    assert len(accuracies) == len(run_names())
    assert accuracies == sorted(accuracies, reverse=True)


def test_charts(page, dashboard):
    """The first chart has one bar a variant, the mean of its honest accuracies over the cases."""
    accuracies = defaultdict(list)
    for case in CASES:
        for (variant, _), accuracy in zip(LISTING.stems.values(), ACCURACIES[case], strict=True):
            accuracies[variant].append(accuracy)
    page.goto(dashboard.links["all runs as charts"])
    page.get_by_text("accuracy_honest", exact=True).first.wait_for()
    chart = page.locator(".js-plotly-plot").first
    chart.locator(".bars .point").first.wait_for()
    page.keep_screenshot("mlflow-charts")
    (names, values), *others = chart.evaluate("plot => plot.data.map(bars => [bars.y, bars.x])")
    assert others == []
    bars = {name.removeprefix("param.variant."): x for name, x in zip(names, values, strict=True)}
    wanted = {variant: pytest.approx(mean(values)) for variant, values in accuracies.items()}
    assert {name: bars[name] for name in wanted} == wanted
    assert set(bars) - set(wanted) == {"lantk-best", "lantk-best-shuffled"}


def test_comparison_of_a_case(page, dashboard):
    """The comparison opens with lines from what a variant is to its accuracy, for each variant."""
    page.goto(dashboard.comparison)
    page.get_by_text("Parallel Coordinates Plot").wait_for()
    page.locator(".parcoords .axis-title").first.wait_for()
    page.keep_screenshot("mlflow-comparison")
    axes = page.locator(".parcoords .axis-title").all_text_contents()
    assert axes == ["control", "family", "kind", "accuracy_honest"]
    (plot,) = page.locator(".js-plotly-plot").evaluate_all("plots => plots.map(p => p.data[0])")
    *_, last = plot["dimensions"]
    assert len(last["values"]) == len(run_names()) / len(CASES)
    for name in run_names("3-8"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_artifacts_open(page, dashboard):
    """A figure and a table of predictions open in the page of a run."""
    run_id = json.loads(parse_qs(dashboard.comparison.partition("?")[2])["runs"][0])[0]
    run = f"{dashboard.address}/#/experiments/1/runs/{run_id}/artifacts"
    page.goto(f"{run}/figure.png?workflowType=machine_learning")
    figure = page.locator("img[src^=blob]").first
    figure.wait_for()
    assert figure.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 80]
    page.get_by_text("predictions.csv").first.click()
    page.get_by_text("Previewing the first 400 rows").wait_for()
    assert page.get_by_role("columnheader").all_inner_texts() == COLUMNS
    page.keep_screenshot("mlflow-predictions")


def test_taken_port(dashboard, results):
    """Where the port is taken, the message says so and names the option."""
    port = dashboard.address.rpartition(":")[2]
    done = run_verb("dashboard", "--results", results, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} of this machine cannot be used" in done.stderr
    assert "another port, such as --port" in done.stderr


def test_ctrl_c_ends_everything(dashboard):
    """Ctrl-C ends the dashboard with status 0, all its processes, and leaves no file behind."""
    children = dashboard.children()
    assert len(children) == 2
    dashboard.process.send_signal(signal.SIGINT)
    dashboard.process.communicate(timeout=60)
    assert dashboard.process.returncode == 0
    assert not [child for child in children if child.is_running()]
    assert list(dashboard.folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_everything(results, tmp_path, number):
    """A request to end, and a terminal that is closed, end the server too while it starts."""
    with starting(results, free_port(), tmp_path) as process:
        children = []
        while not children:
            assert process.poll() is None
            children = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert not [child for child in children if child.is_running()]


def test_no_store(results, tmp_path):
    """Where the store or its record is missing, the message names the command that makes it."""
    copy = tmp_path / "digits"
    copy.mkdir()
    done = run_verb("dashboard", "--results", copy)
    assert done.returncode == 1
    assert "tracking.json" in done.stderr
    shutil.copy(results / "tracking.json", copy)
    done = run_verb("dashboard", "--results", copy)
    assert done.returncode == 1
    assert f"python -m lantk mlflow sync --results {copy}" in done.stderr


def test_unusable_store(results, tmp_path):
    """Where the server ends by itself, so does the verb, after what the server said."""
    copy = tmp_path / "digits"
    copy.mkdir()
    shutil.copy(results / "tracking.json", copy)
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 100)
    done = run_verb("dashboard", "--results", copy, "--port", free_port())
    assert done.returncode == 1
    assert "file is not a database" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("ended with status 1; see above why")


def test_server_has_its_own_dashboard(results, tmp_path):
    """Where the store is a server, only the links are printed, and nothing is started."""
    record = json.loads((results / "tracking.json").read_text()) | {"uri": "http://host:1234"}
    (tmp_path / "tracking.json").write_text(json.dumps(record))
    done = run_verb("dashboard", "--results", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(record["links"])
