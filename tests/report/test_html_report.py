"""The HTML report: what it says is what the results say, and it needs nothing but itself."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from records import make_predictions, make_record, write_record

from lantk.cli.main import main
from lantk.experiment.variants import GAP_LEVELS
from lantk.report.blocks import ROWS
from lantk.report.claims import judge, main_claims, network_claims
from lantk.report.html_report import Results, html_report
from lantk.report.html_tables import choice_table, confusion_tables, strips_of
from lantk.report.leaderboard import leaderboard
from lantk.workflow.failures import FailedJob

ACCURACIES = {
    "cntk": 0.80,
    "cntk-ridge": 0.81,
    "lantk-kr-v1": 0.84,
    "lantk-kr-v2": 0.82,
    "lantk-fjlt-v1": 0.79,
    "lantk-fjlt-v2": 0.80,
    "cnn": 0.93,
}
TWINS = {f"{v}-shuffled": a - 0.01 for v, a in ACCURACIES.items() if v.startswith("lantk")}
HOSTILE = '<script>alert("x")</script>'


class _Page(HTMLParser):
    """The parts of a page: tables as lists of rows of texts, images, links, ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self._region = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        if found.get("role") == "region":
            self._region = found["aria-label"]
            self.tables[self._region] = []
        elif tag == "tr":
            self.tables[self._region].append([])
        elif tag in ("td", "th"):
            self._in_cell = True
            self.tables[self._region][-1].append("")
        elif tag == "small":
            self.handle_data(" | ")
        elif tag == "img":
            self.images.append(found)
        elif tag == "a":
            self.links.append(found["href"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.tables[self._region][-1][-1] += data

    def rows(self, name: str) -> dict[str, dict[str, str]]:
        """Return row -> column -> text of one table."""
        header, *rows = self.tables[name]
        return {row[0].strip(): dict(zip(header, row, strict=True)) for row in rows}


def make_results(tasks=("3-8", "1-8", "8-9"), ns=(40,), accuracies=None, **changes) -> Results:
    """Return the results of an experiment, its accuracies different from task to task."""
    shown = (ACCURACIES | TWINS) if accuracies is None else accuracies
    records = [
        make_record(
            variant,
            accuracy + 0.01 * i * (variant == "cnn") - 2 / n,
            task=task,
            n_train=n,
            seed=0 if variant == "cnn" or variant.endswith("-shuffled") else None,
            case=task if len(ns) == 1 else f"{task}.n{n}",
        )
        for i, task in enumerate(tasks)
        for n in ns
        for variant, accuracy in shown.items()
    ]
    for record in records:
        record["diagnostics"] |= {"alignment_k": 0.1, "alignment_z": 0.3, "sign_agreement": 0.7}
    timings = pd.DataFrame(
        {"job": ["fetch", "gram/3-8/1-of-1"], "seconds": [0.5, 9000.0], "peak_memory_mb": [None, 7]}
    )
    given = {
        "folder": Path("results/digits"),
        "table": leaderboard([(r, make_predictions(r)) for r in records]),
        "records": records,
        "timings": timings,
    }
    return Results(**given | changes)


def draw_png(path: Path, shape: tuple[int, int] = (60, 120)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text("Description", "CNTK +1.25")
    Image.fromarray(np.full((*shape, 3), 200, np.uint8)).save(path, pnginfo=info)
    return path.read_bytes()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    """Results with every part that a report can have."""
    png = draw_png(tmp_path_factory.mktemp("figures") / "a.png", (500, 1440))
    tasks = ("3-8", "1-8", "8-9", "0-6", "1-7")
    names = ["gap", "alignment", *tasks, "3-8/lantk-kr-v1"]
    links = {"all runs": "http://127.0.0.1:5000/#/a", "3-8": "javascript:alert(1)"}
    config = {"data": {"source": "digits"}, "note": HOSTILE}
    return make_results(
        tasks, figures=dict.fromkeys(names, png), tracking={"links": links, "config": config}
    )


@pytest.fixture(scope="module")
def report(results) -> str:
    return html_report(results)


def test_tables_hold_the_numbers_of_the_leaderboard(results, report):
    """Each accuracy, interval and p-value of table.csv stands in its row, column and protocol."""
    page = _Page(report)
    for row in results.table.itertuples():
        name = f"Test accuracy in percent, {row.protocol}"
        rows = page.rows(name) | page.rows(f"{name}: controls")
        texts = rows[ROWS.get(row.variant, row.variant)][row.task].split(" | ")
        assert texts[0].endswith(f"{100 * row.accuracy:.2f}")
        assert texts[1] == f"{100 * row.ci_low:.2f} to {100 * row.ci_high:.2f}"
        if row.variant != "cntk":
            p = "p < 0.001" if row.p_value < 0.001 else f"p = {row.p_value:.3f}"
            assert texts[2] == p
            is_marked = row.p_value < 0.05
            assert ("than CNTK" in texts[0]) == is_marked


NETWORK = {
    **{name: 0.84 for name in GAP_LEVELS if name.startswith("after-kernel-0")},
    **{"after-kernel-10": 0.9, "after-kernel-0-shuffled": 0.84, "after-kernel-10-shuffled": 0.85},
}


def test_claims_stand_where_networks_kernels_were_run(report):
    """Each claim with its points and verdict; in a section of its own, which others lack."""
    found = make_results(accuracies=ACCURACIES | TWINS | NETWORK)
    page = _Page(html_report(found))
    rows = page.rows("Claims on the network's kernels")
    _, claims = judge(main_claims(found.table), network_claims(found.table))
    assert [*rows] == [claim.name for claim in claims]
    for claim in claims:
        row = rows[claim.name]
        points = row["Points, these tasks"].replace("\N{MINUS SIGN}", "-")
        assert points.startswith(f"{claim.estimate.points:+.2f} ±")
        assert points.endswith(claim.verdicts[0])
        assert row["Other tasks"].endswith(claim.verdicts[1])
    assert "network" in page.ids
    assert "network" not in _Page(report).ids


def test_eigenvectors_stand_beside_the_relative_ratio():
    """Of a kernel without Z; means over the tasks, in percent."""
    found = make_results()
    for record in found.records:
        for point in record["curve"]:
            point |= {"relative_ratio_train": 0.6, "relative_ratio_test": 0.55, "alignment": 0.1}
        if not record["variant"].startswith("lantk"):
            share = {"3-8": 0.2, "1-8": 0.3, "8-9": 0.4}[record["task"]]
            record["diagnostics"] |= {"top10_trace_share": 0.5, "top10_label_share": share}
    table = leaderboard([(r, make_predictions(r)) for r in found.records])
    shown = make_results(records=found.records, table=table)
    rows = _Page(html_report(shown)).rows("Elasticity in percent, honest")
    assert rows["CNTK"]["Top 10: trace / labels"] == "50.0 % / 30.0 %"
    assert rows["LANTK-KR-V1"]["Top 10: trace / labels"] == ""
    assert rows["LANTK-KR-V1"]["Alignment"] == "0.100"


def test_a_ratio_that_does_not_exist_is_not_called_missing():
    """A diagonal that is not positive leaves a dash; the other columns keep theirs."""
    found = make_results()
    for record in found.records:
        is_known = (record["variant"], record["task"]) != ("lantk-kr-v1", "1-8")
        for point in record["curve"]:
            for rows in ("train", "test"):
                point[f"relative_ratio_{rows}"] = 0.6 if is_known else None
    table = leaderboard([(r, make_predictions(r)) for r in found.records])
    rows = _Page(html_report(make_results(records=found.records, table=table))).rows(
        "Elasticity in percent, honest"
    )
    assert rows["LANTK-KR-V1"]["3-8"] == "60.00 / 60.00"
    assert rows["LANTK-KR-V1"]["1-8"] == rows["LANTK-KR-V1"]["Mean"] == "-"


def test_averages_and_what_labels_are_worth(results, report):
    """The average, the improvement over CNTK and the label gain are those of the leaderboard."""
    page = _Page(report)
    means = results.table[results.table["protocol"] == "honest"].groupby("variant")["accuracy"]
    means = 100 * means.mean()
    row = page.rows("Test accuracy in percent, honest")["CNN"]
    assert row["Average"] == f"{means['cnn']:.2f}"
    gain = means["cnn"] - means["cntk"]
    share = 100 * gain / (100 - means["cntk"])
    assert row["Improvement (abs / rel.)"].split(" | ")[0] == f"{gain:.2f} / {share:.1f} %"
    row = page.rows("Worth of labels, honest")["LANTK-KR-V1"]
    assert row["Gain over CNTK"].startswith(f"+{means['lantk-kr-v1'] - means['cntk']:.2f}")
    worth = means["lantk-kr-v1"] - means["lantk-kr-v1-shuffled"]
    assert row["Label gain"].startswith(f"+{worth:.2f}")


def test_every_figure_is_inside_and_says_what_it_shows(results, report):
    """Each figure is an image in the page, its alternative what it says of itself."""
    images = _Page(report).images
    assert len(images) == len(results.figures)
    for image in images:
        assert image["src"].startswith("data:image/png;base64,")
        assert (image["width"], image["height"]) == ("720", "250")
        assert image["alt"].endswith(". CNTK +1.25.")
    assert "Accuracy against label weight: 3-8." in images[2]["alt"]


def test_contents_lead_somewhere(report):
    """Every link is to a place in the page, or to the dashboard; no script stands in one."""
    page = _Page(report)
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.links if link[0] != "#"] == ["http://127.0.0.1:5000/#/a"]


def test_equal_results_give_an_equal_report(results, report):
    """Nothing in the report depends on when or where it was written."""
    assert html_report(results) == report


def test_names_from_outside_are_text():
    """Markup in class names, cases, logs and the configuration is shown, not run."""
    found = make_results(tasks=("3-8",))
    for record in found.records:
        record |= {"classes": [HOSTILE, "8"], "case": HOSTILE}
        record["provenance"]["commit"] = HOSTILE
    failed = FailedJob(HOSTILE, Path("a.log"), (HOSTILE,), ())
    tracking = {"config": {"note": HOSTILE}, "links": {HOSTILE: "https://a/?b=\"'<"}}
    table = found.table.assign(task=HOSTILE)
    report = html_report(
        Results(
            found.folder,
            table,
            found.records,
            found.timings,
            tracking=tracking,
            missing=[(HOSTILE, HOSTILE)],
            failed=[failed],
        )
    )
    assert HOSTILE not in report
    assert _Page(report).tags.count("script") == 1  # our own
    assert HOSTILE in unescape(report)


def test_claims_come_first_and_speak_of_what_validation_chose(results, report):
    """The label term of the claims is LANTK-best, and the gain that of the honest rows."""
    page = _Page(report)
    assert next(iter(page.tables)) == "Claims"
    row = page.rows("Claims")["LANTK-best minus its shuffled twin"]
    rows = results.table[results.table["protocol"] == "honest"].set_index(["variant", "task"])
    worth = rows.loc["lantk-best", "accuracy"] - rows.loc["lantk-best-shuffled", "accuracy"]
    assert row["Points, these tasks"].startswith(f"{100 * worth.mean():+.2f}")
    assert row["Protocol"] == "honest"


def test_oracle_alone_is_called_optimistic():
    """Where only the oracle was run, the claims say that choices saw the test images."""
    records = [
        make_record(variant, accuracy, task=task, protocols=("oracle",))
        for task in ("3-8", "1-8")
        for variant, accuracy in (("cntk", 0.8), ("lantk-kr-v1", 0.82))
    ]
    table = leaderboard([(record, make_predictions(record)) for record in records])
    page = html_report(Results(Path("a"), table, records, make_results().timings))
    assert "Protocol: oracle;" in page
    assert "is optimistic" in page
    assert "Honest:" not in page


@pytest.mark.parametrize(
    "case",
    ["several n", "one task, several n", "several architectures", "ten classes", "no network"],
)
def test_report_of_other_experiments(case):
    """Several n or architectures, ten classes and runs without networks have a report too."""
    if case == "several n":
        found = make_results(ns=(40, 80, 160))
    elif case == "one task, several n":
        found = make_results(tasks=("3-8",), ns=(40, 80, 160))
    elif case == "ten classes":
        found = make_results(tasks=("all",), accuracies={"cntk": 0.5, "lantk-kr-v1": 0.6})
    elif case == "several architectures":
        records = [
            make_record(variant, accuracy, architecture=name, case=f"3-8.{name}")
            for name in ("chen2020", "other")
            for variant, accuracy in (("cntk", 0.8), ("lantk-kr-v1", 0.82))
        ]
        table = leaderboard([(record, make_predictions(record)) for record in records])
        found = make_results(records=records, table=table)
    else:
        found = make_results(accuracies={k: v for k, v in ACCURACIES.items() if k != "cnn"})
    page = _Page(html_report(found))
    shown = {cells[0].strip() for rows in page.tables.values() for cells in rows[1:]}
    assert {ROWS.get(v, v) for v in found.table["variant"]} <= shown
    assert ("exponents" in page.ids) == ("several n" in case)
    assert "mlflow" not in page.ids  # without tracking.json


def test_a_folder_of_little_has_a_report():
    """CNTK alone, without figures and times, makes a page that says nothing can be compared."""
    found = make_results(accuracies={"cntk": 0.8}, timings=make_results().timings[:0])
    report = html_report(found)
    assert "No label term can be compared" in report
    assert "time" not in _Page(report).ids


def test_choices_are_those_of_the_records():
    """The table of choices holds each chosen weight with its validation and test accuracy."""
    records = [make_record("lantk-kr-v1"), make_record("cnn", seed=0), make_record("cntk")]
    records[0]["curve"][2]["n_negative"] = 2
    table = choice_table(records)
    rows = [dict(zip(table.header, [c.text for c in cells], strict=True)) for cells in table.rows]
    assert [row["Variant"] for row in rows] == ["LANTK-KR-V1", "CNN, seed 0"]
    assert rows[0] | {"Validation curve": ""} == {
        "Case": "3-8",
        "Variant": "LANTK-KR-V1",
        "Validation curve": "",
        "Honest choice": "r = 0.01",
        "Negative eigenvalues there": "2",
        "Validation, chosen": "78.10",
        "Validation, weight 0": "78.00",
        "Test, honest": "80.00",
        "Oracle choice": "r = 0.01",
        "Test, oracle": "80.00",
    }
    assert rows[1]["Honest choice"] == "epoch 2"
    # The ring is at the third of the three weights that were validated.
    assert table.rows[0][2].curve.chosen[0] == table.rows[0][2].curve.width - 5
    singular = make_record("cntk-ridge")
    singular["curve"] = singular["curve"][1:]
    singular.setdefault("diagnostics", {})["kernel_is_singular"] = 1.0
    assert "none: K is singular" in [cell.text for cell in choice_table([singular]).rows[0]]


@pytest.mark.parametrize("n_classes", [3, 21])
def test_classes_are_told_where_they_are_few(n_classes):
    """A row of the confusion matrix for each class, and no table of very many."""
    record = make_record("cntk") | {"classes": [*range(n_classes)]}
    counts = [[5] * n_classes] * n_classes
    record["protocols"] = {"honest": {"balanced_accuracy": 0.5, "confusion": counts}}
    tables = dict(confusion_tables([record, record | {"variant": "lantk-kr-v1-shuffled"}]))
    found = [[cell.text for cell in cells] for table in tables.values() for cells in table.rows]
    rows = [["CNTK", "honest", "50.00", str(i), "5", "5", "5"] for i in range(3)]
    assert found == (rows if n_classes == 3 else [])


def test_strips_share_one_axis(results):
    """Drawn intervals stand on one axis, with 0 at one place, in the order of their values."""
    claims = main_claims(results.table)
    small, large = strips_of([claims[0].estimate.here, claims[2].estimate.here])
    assert small.zero == large.zero
    assert small.zero <= small.low <= small.middle <= small.high <= 94
    assert small.middle < large.middle


def run_report(folder: Path) -> tuple[int, str]:
    out = folder / "report.html"
    status = main(["report", "--results", str(folder), "--out", str(out)])
    return status, out.read_text() if out.exists() else ""


def write_results(folder: Path, stems: dict[str, float]) -> None:
    for task in ("3-8", "1-8"):
        for variant, accuracy in stems.items():
            write_record(folder, make_record(variant, accuracy, task=task))


def test_verb_reads_a_finished_folder(tmp_path):
    """The verb finds records, figures and times; without tracking.json the table orders."""
    write_results(tmp_path, {"cntk": 0.8, "lantk-kr-v1": 0.85, "lantk-plugin": 0.9})
    draw_png(tmp_path / "figures" / "gap.png")
    draw_png(tmp_path / "figures" / "3-8" / "lantk-kr-v1.png")
    listing = ["--cases", "3-8", "1-8", "--variants", "cntk", "lantk-kr-v1"]
    assert main(["collect", "--results", str(tmp_path), *listing]) == 0
    status, report = run_report(tmp_path)
    page = _Page(report)
    assert status == 0
    assert len(page.images) == 2
    assert page.tables["Test accuracy in percent, honest"][0][:3] == ["Variant", "3-8", "1-8"]
    # A variant that the table does not have is left over from another configuration.
    assert "lantk-plugin" not in report
    assert "unfinished" not in page.ids


def test_verb_says_what_is_missing_and_why(tmp_path):
    """Of an unfinished folder the report names the results that are not there, and what failed."""
    write_results(tmp_path, {"cntk": 0.8})
    variants = ["cntk", "lantk-kr-v1"]
    kept = {"cases": ["3-8", "1-8"], "variants": variants, "permutations": 1, "seeds": []}
    (tmp_path / "tracking.json").write_text(json.dumps({"listing": kept}))
    log = tmp_path / "logs" / "evaluate" / "3-8" / "lantk-kr-v1.log"
    log.parent.mkdir(parents=True)
    log.write_text("lantk evaluate: the matrix is singular\n")
    status, report = run_report(tmp_path)
    assert status == 0
    assert "2 results are not there" in report
    assert "lantk evaluate: the matrix is singular" in unescape(report)


def test_verb_wants_results(tmp_path, capsys):
    """An empty folder has no report, and the message says what to do."""
    assert run_report(tmp_path) == (1, "")
    assert "run the workflow first" in capsys.readouterr().err


@pytest.fixture
def shown(browser_page, tmp_path, report):
    """The report in a real browser."""
    path = tmp_path / "report.html"
    path.write_text(report)
    browser_page.goto(path.as_uri())
    return browser_page


def first_cells(page, table: int = 0) -> list[str]:
    return page.locator("table.sortable").nth(table).locator("tbody th").all_inner_texts()


def test_no_request_leaves_the_machine(shown):
    """The page loads itself and data inside it, nothing else, and complains of nothing."""
    assert {url.partition(":")[0] for url in shown.requests} <= {"file", "data"}
    assert shown.errors == []


def test_tables_sort_by_click(shown):
    """A click on a head sorts downwards, a second one upwards, a third restores the order."""
    head = shown.locator("table.sortable").first.locator("thead th").nth(1)
    cells = shown.locator("table.sortable").first.locator("tbody tr > :nth-child(2)")
    values = [float(cell.get_attribute("data-value")) for cell in cells.all()]
    before = first_cells(shown)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    order = sorted(range(len(values)), key=lambda i: -values[i])
    assert first_cells(shown) == [before[i] for i in order]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_cells(shown)[0] == before[int(np.argmin(values))]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert first_cells(shown) == before


def test_tables_sort_by_keyboard(shown):
    """Heads are reached with Tab and sort on Enter and on the space bar."""
    button = shown.locator("table.sortable").first.locator("thead button").first
    button.focus()
    shown.keyboard.press("Enter")
    assert first_cells(shown) == sorted(first_cells(shown), key=str.lower)
    shown.keyboard.press("Space")
    assert first_cells(shown) == sorted(first_cells(shown), key=str.lower, reverse=True)
    shown.keyboard.press("Tab")
    second = shown.locator("table.sortable").first.locator("thead button").nth(1)
    assert second.evaluate("(button) => button === document.activeElement")


def test_a_phone_needs_no_sideways_scroll(shown):
    """At 375 pixels the page is no wider than the screen; tables scroll in their own boxes."""
    shown.set_viewport_size({"width": 375, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") == 375
    box = shown.locator(".scroll").first
    assert box.evaluate("(box) => box.scrollWidth > box.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(shown, scheme):
    """axe-core finds no violation of WCAG A or AA in either colour scheme, folded parts open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    shown.emulate_media(color_scheme=scheme)
    shown.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    tags = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    found = axe.Axe().run(shown.page, options=tags)
    assert found.violations_count == 0, found.generate_report()


def test_page_prints(shown):
    """Printing gives a PDF of several pages, dark scheme or not."""
    shown.emulate_media(color_scheme="dark")
    pdf = shown.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
    shown.emulate_media(media="print", color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert shown.evaluate(colour) == "rgb(255, 255, 255)"


def test_injected_scripts_do_not_run(browser_page, tmp_path, report):
    """Even markup that got past the escaping could not run: the page's policy allows one script."""
    path = tmp_path / "report.html"
    mark = "<script>window.injected = true</script>"
    path.write_text(report.replace("</main>", f"{mark}<img src=x onerror='{mark}'></main>"))
    browser_page.goto(path.as_uri())
    assert browser_page.evaluate("window.injected") is None
    assert any("Content Security Policy" in error for error in browser_page.errors)
