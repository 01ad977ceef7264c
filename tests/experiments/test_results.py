"""RESULTS.md and docs/results: what is there beside what was published, else `not run`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from records import make_predictions, make_record, write_record

from answer_page import ANSWERS, unfounded_numbers
from archive import read_archive, read_results, write_archive
from pages import results_pages
from results import main
from studies import STUDIES, asked_for, gather_study

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
PUBLISHED = yaml.safe_load((EXPERIMENTS / "published" / "accuracies.yaml").read_text())
PRESETS = {name: yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text()) for name in STUDIES}
TERMS = ["lantk-kr-v1", "lantk-kr-v2", "lantk-fjlt-v1", "lantk-fjlt-v2"]
PAIRS = ["deer-dog", "cat-deer", "cat-frog", "deer-frog", "bird-frog"]


def write_up(timings=None, **records_by_study) -> dict[str, list[str]]:
    """Return the lines of all pages for the given records, all other presets not run."""
    studies = {name: gather_study(preset) for name, preset in PRESETS.items()}
    for key, records in records_by_study.items():
        name = key.replace("_", "-")
        found = [(record, make_predictions(record)) for record in records]
        studies[name] = gather_study(PRESETS[name], found, timings)
    pages = results_pages(studies, PUBLISHED, "a test", "a command")
    return {path: text.splitlines() for path, text in pages.items()}


def page(pages: dict[str, list[str]], title: str) -> list[str]:
    """Return the page with a title."""
    return next(lines for lines in pages.values() if lines[0] == f"# {title}")


def section(pages: dict[str, list[str]], title: str, protocol: str = "") -> list[str]:
    """Return the lines of the page with a title, from the given protocol on."""
    found = page(pages, title)
    return found[next(i for i, s in enumerate(found) if s.startswith(f"## {protocol}")) :]


def row(lines: list[str], name: str, table: int = 0) -> list[str]:
    """Return the cells of one row, in the table of a section with a number."""
    found = [s for s in lines if s.startswith(f"| {name} ")]
    return [cell.strip() for cell in found[table].strip("|").split("|")][1:]


@pytest.fixture(scope="module")
def nothing() -> dict[str, list[str]]:
    """Return all pages before anything was run."""
    return write_up()


def test_before_anything_is_run_every_cell_says_so(nothing):
    """With no results every cell is `not run`, with the published number beside it."""
    pairs = section(nothing, "Five class pairs", "Oracle")
    published = ["85.15", "83.55", "86.95", "87.55", "86.35", "85.91"]
    assert row(pairs, "CNTK") == [*(f"not run ({value})" for value in published), "-"]
    assert row(pairs, "CNN")[-2:] == ["not run (89.83)", "not run (3.92 / 27.8 %)"]
    ten = section(nothing, "Ten classes", "Oracle")
    assert row(ten, "LANTK-FJLT-V2")[-1] == "not run (failed)"
    depths = section(nothing, "Depths, ten classes", "Honest")
    assert row(depths, "21")[-1] == "not run (52.22)"
    growth = section(nothing, "Error against n, five class pairs", "Slopes")
    assert set(row(growth, "LANTK-KR-V1")) == {"not run"}
    tables = [s for lines in nothing.values() for s in lines if s.startswith("|")]
    cells = [cell.strip() for s in tables for cell in s[1:-1].split("|")[1:]]
    assert not [cell for cell in cells if cell[:1].isdigit() and cell[:2] != "n "]


def test_published_averages_are_the_seeds_own(nothing):
    """Averages and improvements of the published numbers are computed to those of the seed."""
    pairs = section(nothing, "Five class pairs", "Oracle")
    assert row(pairs, "LANTK-best")[-2:] == ["not run (86.95)", "not run (1.04 / 7.4 %)"]
    assert row(pairs, "LANTK-FJLT-V1")[-2:] == ["not run (86.70)", "not run (0.79 / 5.6 %)"]


def test_honest_is_compared_with_published_cntk_only(nothing):
    """What was chosen on a test set stands beside nothing that was not, but CNTK has no choice."""
    pairs = section(nothing, "Five class pairs", "Honest")
    assert row(pairs, "CNTK")[0] == "not run (85.15)"
    assert row(pairs, "LANTK-KR-V1")[0] == "not run"


def test_half_a_study_shows_what_it_has():
    """Pairs and variants that were run are shown, averages wait, lantk-best wants all four."""
    records = [make_record("cntk", 0.85, task=task) for task in PAIRS]
    records += [make_record("lantk-kr-v1", 0.86, task="deer-dog")]
    records += [make_record(term, 0.86, task="cat-frog") for term in TERMS]
    pairs = section(write_up(chen2020=records), "Five class pairs", "Oracle")
    assert row(pairs, "CNTK")[-2:] == ["85.00 (85.91)", "-"]
    assert row(pairs, "LANTK-KR-V1")[:2] == ["86.00 (85.65)", "not run (83.90)"]
    assert row(pairs, "LANTK-KR-V1")[-2:] == ["not run (86.41)", "not run (0.50 / 3.5 %)"]
    best = [cell.partition(" (")[0] for cell in row(pairs, "LANTK-best")]
    assert best == ["not run", "not run", "86.00", "not run", "not run", "not run", "not run"]
    assert row(pairs, "LANTK-KR-V1", table=2)[:3] == ["not run"] * 3


def test_ten_classes_have_a_column_for_every_n():
    """The n of the preset are columns, and a larger one that was run besides is added."""
    records = [make_record("cntk", 0.44, task="all", n_train=2000)]
    records += [make_record("cntk", 0.65, task="all", n_train=n) for n in (50000, 100)]
    ten = section(write_up(chen2020_ten=records), "Ten classes", "Honest")
    assert row(ten, "CNTK")[:2] == ["44.00 (44.01)", "not run (50.44)"]
    assert row(ten, "CNTK")[-1] == "65.00"
    assert len(row(ten, "CNTK")) == 5


def test_depths_take_each_column_from_its_own_study():
    """Kernel and network of each readout and n fill their own column, by depth."""

    def record(variant, accuracy, architecture):
        sizes = {"task": "all", "n_train": 2000, "seed": 0 if variant == "cnn" else None}
        return make_record(variant, accuracy, architecture=architecture, **sizes)

    gap = "arora2019-gap-6"
    lines = write_up(
        arora2019_vanilla=[record("cnn", 0.6, "arora2019-vanilla-3")],
        arora2019_vanilla_2k=[record("cntk", 0.41, "arora2019-vanilla-3")],
        arora2019_gap=[record("cntk", 0.75, gap), record("cnn", 0.83, gap)],
        arora2019_gap_2k=[record("cntk", 0.52, "arora2019-gap-21")],
    )
    depths = section(lines, "Depths, ten classes", "Honest")
    ours = {d: [c.split(" (")[0] for c in row(depths, d)] for d in ("3", "6", "21")}
    missing = "not run"
    assert ours == {
        "3": ["60.00", missing, "41.00", missing, missing, missing],
        "6": [missing, missing, missing, "83.00", "75.00", missing],
        "21": [missing, missing, missing, missing, missing, "52.00"],
    }
    # No network's choice is known to be honest, so none stands beside ours.
    assert row(depths, "6")[3:5] == ["83.00", "75.00 (76.73)"]
    oracle = section(lines, "Depths, ten classes", "Oracle")
    assert row(oracle, "6")[3:5] == ["83.00 (83.75)", "75.00 (76.73)"]
    assert "p = " in row(depths, "6", table=1)[3] or "p < " in row(depths, "6", table=1)[3]


def test_growth_wants_every_task_and_every_n():
    """An average wants all tasks and a slope all n; one that lacks some is not run."""
    ns = PRESETS["growth"]["task"]["n_train"]
    records = [
        make_record(variant, 1 - 4 / n**0.5, task=task, n_train=n, n_test=10000)
        for task in PAIRS
        for n in ns
        for variant in ("cntk", "lantk-kr-v1")
        if (variant, task, n) != ("lantk-kr-v1", "cat-frog", 2000)
    ]
    growth = section(write_up(growth=records), "Error against n, five class pairs", "Honest")
    assert row(growth, "CNTK")[2] == "91.06"
    assert row(growth, "LANTK-KR-V1")[1:3] == ["87.35", "not run"]
    slopes = row(growth, "LANTK-KR-V1", table=2)
    assert slopes[:3] == ["-0.500", "-0.500", "not run"]
    assert slopes[-3:] == ["not run"] * 3
    assert row(growth, "CNTK", table=2)[5] == "-0.500 ± 0.000"


def test_windows_stand_side_by_side():
    """Each has a row in percent; gains are over no window, terms beside their own window's CNTK."""
    records = []
    for window, plain in ((1, 0.8), (3, 0.85), (5, 0.82)):
        pool = [{"average_pool": {"size": window, "stride": 1}}] * (window > 1)
        name = "chen2020" if window == 1 else f"chen2020-lap-{window}"
        found = [
            make_record(variant, accuracy, task=task, seed=seed, architecture=name, n_train=1000)
            for task in PAIRS
            for variant, accuracy, seed in (
                ("cntk", plain, None),
                ("cntk-rbf", plain + 0.01, None),
                ("lantk-kr-v1", plain + 0.02, None),
                ("lantk-kr-v1-shuffled", plain + 0.015, 0),
            )
        ]
        for record in found:
            record["architecture"]["layers"] = ["relu", *pool, "flatten", "dense"]
            if record["task"] == "cat-deer" and window == 5:
                record["protocols"]["honest"] |= {"validation_accuracy": 0.9}
        records += found
    lines = page(write_up(lap=records), "Local average pooling")
    assert "Not run." not in lines
    honest = lines[: lines.index("### On top of it")]
    assert row(honest, "chen2020-lap-3")[:2] == ["85.00", "85.00"]
    # Validation is equal but in one pair, and ties go to the smaller window.
    assert row(honest, "cntk-lap")[:2] == ["80.00", "82.00"]
    assert row(honest, "Window of cntk-lap") == ["1", "5", "1", "1", "1"]
    assert row(honest, "chen2020-lap-3 minus CNTK")[0].startswith("+5.00 ± ")
    claims = [line.split("|") for line in lines if line.startswith("| LANTK-KR-V1 minus its shuff")]
    assert [cells[2].strip()[:5] for cells in claims] == ["+0.50"] * 3
    assert [cells[-2].strip() for cells in claims] == PRESETS["lap"]["architecture"]
    assert "Not run." in page(write_up(), "Local average pooling")


def test_every_table_says_where_it_comes_from():
    """Data, n, hardware, commit, time and the command stand above each table."""
    timings = pd.DataFrame({"job": ["gram/a/1-of-1", "cnn/a/seed0"], "seconds": [90, 30]})
    records = [make_record("cnn", task="deer-dog", seed=seed) for seed in (0, 1)]
    lines = write_up(timings, chen2020=records)
    facts = page(lines, "Five class pairs")[4:13]
    names = ["Published", "Data", "Images", "Seeds", "Unlike the preset"]
    names += ["Hardware", "Commit", "Time", "Again"]
    assert [fact.partition(":")[0] for fact in facts] == [f"- {name}" for name in names]
    text = "\n".join(facts)
    assert "n_train = 40, n_test = 400" in text
    assert "2 networks a cell" in text
    assert "A CPU, 2 cores" in text
    assert "abc123" in text
    assert "2.0 minutes of jobs (gram 1.5, cnn 0.5)" in text
    assert "--configfile experiments/chen2020.yaml" in text
    assert "a test" in lines["RESULTS.md"][4]
    assert "    a command" in lines["RESULTS.md"]


def facts_of(pages: dict[str, list[str]], title: str) -> dict[str, str]:
    """Return what stands above a table, by name."""
    found = page(pages, title)[4:]
    found = found[: found.index("")]
    return {name: text for name, _, text in (s.removeprefix("- ").partition(": ") for s in found)}


def test_settings_unlike_the_preset_are_flagged():
    """Folds, epochs, weights and numbers of seeds that are not the preset's are in one line."""
    name = "Five class pairs"
    record = make_record("lantk-kr-v1", task="deer-dog")
    record["settings"] = {"folds": 5, "honest_weights": [0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03]}
    record["settings"]["honest_weights"] += [0.1, 0.3, 1.0, 3.0]
    assert "Unlike the preset" not in facts_of(write_up(chen2020=[record]), name)
    record["settings"] |= {"folds": 2, "oracle_weights": [1.0]}
    others = [make_record("cnn", task="deer-dog", seed=0)]
    others += [make_record("lantk-kr-v1-shuffled", task="deer-dog", seed=0)]
    assert facts_of(write_up(chen2020=[record, *others]), name)["Unlike the preset"] == (
        "epochs 2 (preset: 300), folds 2 (preset: 5),"
        " oracle_weights [1.0] (preset: [0.001, 0.01, 0.1, 1]), permutations 1 (preset: 3),"
        " number of seeds 1 (preset: 3)"
    )


def test_seeds_of_a_network_are_not_label_permutations():
    """The shuffled twin of a network's kernel is a network of its own, one for each seed."""
    names = ("after-kernel-10", "after-kernel-10-shuffled", "cnn")
    records = [
        make_record(variant, task="deer-dog", case="deer-dog", n_train=1000, n_test=1000, seed=seed)
        for variant in names
        for seed in PRESETS["after-kernels"]["cnn"]["seeds"]
    ]
    facts = facts_of(write_up(**{"after-kernels": records}), "Kernels of the network")
    assert facts["Seeds"] == "2 networks a cell"
    assert "permutations" not in facts.get("Unlike the preset", "")
    assert "number of seeds" not in facts.get("Unlike the preset", "")


def test_a_curve_takes_of_another_preset_what_its_own_asks_for():
    """The point of n = 1,000: one seed of the networks, and no twins."""
    preset = PRESETS["after-kernels-growth"]
    evaluations = [
        (make_record(variant, task="deer-dog", n_train=n_train, seed=seed), pd.DataFrame())
        for variant, n_train, seed in (
            ("after-kernel-10", 1000, 0),
            ("after-kernel-10", 1000, 1),
            ("after-kernel-10-shuffled", 1000, 0),
            ("cntk", 1000, None),
            ("cntk", 2000, None),
        )
    ]
    taken = [(r["variant"], r["seed"]) for r, _ in asked_for(preset, evaluations)]
    assert taken == [("after-kernel-10", 0), ("cntk", None)]


def test_what_a_preset_does_not_ask_for_is_left_out_and_said():
    """Another n, variant, seed or permutation fills no cell, and one line names them all."""
    records = [make_record("cntk", 0.8, task="deer-dog")]
    records += [make_record("cnn", 0.9, task="deer-dog", seed=seed) for seed in (0, 7)]
    records[2]["protocols"] = {"honest": records[2]["protocols"]["honest"] | {"accuracy": 0.1}}
    records += [make_record("cntk", 0.7, task="deer-dog", n_train=20, case="deer-dog.n20")]
    records += [make_record("lantk-fjlt-v2-text", task="deer-dog")]
    records += [make_record("lantk-kr-v1-shuffled", task="deer-dog", seed=3)]
    records += [make_record("cntk", task="deer-dog", architecture=None)]
    records += [make_record("cntk", task="cat-dog")]
    lines = write_up(chen2020=records)
    pairs = section(lines, "Five class pairs", "Honest")
    assert row(pairs, "CNTK")[0] == "80.00 (85.15)"
    assert row(pairs, "CNN")[0] == "90.00"
    assert not any("text" in line for line in pairs)
    assert facts_of(lines, "Five class pairs")["Left out, not in the preset"] == (
        "architecture aaaaaaaa, cnn of seed 7, lantk-fjlt-v2-text,"
        " lantk-kr-v1-shuffled of seed 3, n = 20, task cat-dog"
    )


def test_leftovers_alone_are_no_results():
    """A folder that holds nothing that its preset asks for is not run, but for what it holds."""
    lines = write_up(arora2019_gap_2k=[make_record("cntk", task="all", n_train=50000)])
    depths = section(lines, "Depths, ten classes", "Honest")
    assert row(depths, "3")[-1] == "not run (49.71)"
    facts = facts_of(lines, "Depths, ten classes")
    assert facts["Left out, not in the preset"] == "arora2019-gap-2k: architecture chen2020"


def test_the_page_of_results_has_the_published_rows(nothing):
    """RESULTS.md has the rows that were published, and of the honest ones CNTK's beside them."""
    lines = nothing["RESULTS.md"]
    pairs = lines[lines.index("## Five class pairs") :]
    for name in PUBLISHED["chen2020"]["accuracy"]:
        assert row(pairs, name.upper().replace("BEST", "best"), table=1)[0].startswith("not run (")
    assert row(pairs, "LANTK-KR-V1")[0] == "not run"
    assert not [s for s in pairs if s.startswith("| cntk-ridge")]
    assert row(lines[lines.index("## Depths, ten classes") :], "21", table=1)[-1] == (
        "not run (52.22)"
    )
    links = {path for path in nothing if path != "RESULTS.md"}
    assert {link for s in lines for link in re.findall(r"\]\((docs/results/.*?)\)", s)} == links


def test_the_script_reads_folders_that_no_workflow_finished(tmp_path, capsys):
    """Evaluations are read without table.csv; missing folders are not run, wrong names refused."""
    write_record(tmp_path / "chen2020", make_record("cntk", 0.85, task="deer-dog"))
    (tmp_path / "chen2020" / "evaluations" / "deer-dog" / ".tmp-1-cnn.json").write_text("{")
    out = ["--out", str(tmp_path / "out")]
    folders = [str(tmp_path / name) for name in ("chen2020", "growth")]
    main(["--results", *folders, *out, "--data-note", "no images"])
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "| 85.00 (85.15) | not run (83.55)" in text
    assert "Data: no images." in text
    command = f"python experiments/results.py --results {' '.join(folders)}"
    assert f"\n    {command} --data-note 'no images'\n" in text
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "other"), *out])
    assert "other: wanted results folders of chen2020," in capsys.readouterr().err
    assert (tmp_path / "out" / "RESULTS.md").read_text() == text


def test_the_results_pages_are_those_of_the_records(tmp_path, monkeypatch):
    """All pages are, byte for byte, what their own command makes of the records that are kept."""
    monkeypatch.chdir(tmp_path)
    kept = (ROOT / "RESULTS.md").read_text()
    command = re.search(r"^    python experiments/results.py (.*)$", kept, re.MULTILINE)[1]
    main(shlex.split(command))
    pages = sorted(tmp_path.rglob("*.md"))
    there = [ROOT / "RESULTS.md", *(ROOT / "docs" / "results").iterdir()]
    assert [ROOT / path.relative_to(tmp_path) for path in pages] == sorted(there)
    for path in pages:
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()
    # The paragraphs of the answers stand in the page, so their numbers are in its tables.
    assert "Paragraphs are left out" not in kept
    prose = [part for part in ANSWERS.read_text().split("\n\n") if "<!--" not in part]
    assert all(" ".join(part.split()) in kept for part in prose)
    tables = [line for line in kept.splitlines() if line.startswith("|")]
    assert unfounded_numbers(prose, tables) == []


def test_kept_evaluations_give_the_same_tables(tmp_path):
    """Scores cut to five digits keep their signs, so copies give the tables of the originals."""
    results, kept = tmp_path / "results" / "chen2020", tmp_path / "kept"
    for i, variant in enumerate(("cntk", "lantk-kr-v1")):
        write_record(results, make_record(variant, 0.8 + i / 20, task="deer-dog", n_train=10000))
    whole = ["--results", str(results)]
    main([*whole, "--out", str(tmp_path / "one")])
    main([*whole, "--out", str(tmp_path / "two"), "--keep", str(kept)])
    one, two = (tmp_path / name / "docs" / "results" for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_text() == (two / path.name).read_text() != ""
    assert sorted(path.name for path in (kept / "chen2020").iterdir()) == [
        "predictions.parquet",
        "records.parquet",
    ]


def test_keeping_adds_to_what_is_kept(tmp_path):
    """An evaluation that is there is replaced, the others stay; scores have five digits."""
    results, kept = tmp_path / "chen2020", tmp_path / "kept"
    out = ["--out", str(tmp_path / "out"), "--keep", str(kept)]
    for variant, accuracy in (("cntk", 0.8), ("lantk-kr-v1", 0.8), ("cntk", 0.9)):
        shutil.rmtree(results, ignore_errors=True)
        path = write_record(results, make_record(variant, accuracy, task="deer-dog"))
        predictions = pd.read_csv(path.with_suffix(".csv"))
        predictions["honest"] *= 1.23456789
        predictions.to_csv(path.with_suffix(".csv"), index=False)
        main(["--results", str(results), *out])
    found = read_archive(kept / "chen2020")
    accuracies = {key: found[key][0]["protocols"]["honest"]["accuracy"] for key in found}
    assert accuracies == {("deer-dog", "cntk"): 0.9, ("deer-dog", "lantk-kr-v1"): 0.8}
    predictions = found["deer-dog", "cntk"][1]
    assert set(predictions["honest"].abs()) == {0.61728}
    assert set(predictions["oracle"].abs()) == {0.5}


@pytest.mark.parametrize("task", ["all", "deer-dog"])
def test_an_archive_gives_back_what_it_was_given(task, tmp_path):
    """Records, and predictions with their types, in the order of a results folder."""
    both, one = (
        make_record("cntk", 0.1 + 0.2, task=task, protocols=protocols)
        for protocols in (("honest", "oracle"), ("oracle",))
    )
    given = {("b", "cntk"): (both, make_predictions(both))}
    given["b", "cntk-ridge"] = one, make_predictions(one)
    given["a", "cntk"] = one, make_predictions(one)
    if task != "all":  # scores, not classes
        given["a", "cntk"][1].loc[7, "oracle"] = float("nan")
        given["b", "cntk"][1]["oracle"] = np.arange(400) / 3
    write_archive(tmp_path, given)
    found = read_results(tmp_path)
    assert list(found) == [("a", "cntk"), ("b", "cntk-ridge"), ("b", "cntk")]
    for key, (record, predictions) in given.items():
        assert json.dumps(found[key][0]) == json.dumps(record)
        pd.testing.assert_frame_equal(found[key][1], predictions, check_exact=True)


@pytest.mark.parametrize(
    "preset", sorted(p.parent.name for p in EXPERIMENTS.glob("records/*/records.parquet"))
)
def test_kept_predictions_are_those_of_the_records(preset):
    """Each record names its variant, data and provenance; its accuracies are those of its rows."""
    for (case, name), (record, predictions) in read_archive(
        EXPERIMENTS / "records" / preset
    ).items():
        seed = "" if record["seed"] is None else f"-seed{record['seed']}"
        assert (case, name) == (record["case"], record["variant"] + seed)
        assert record["provenance"]["commit"]
        assert record["data"]["digest"]
        assert list(predictions) == ["index", "label", *record["protocols"]]
        assert len(predictions) == record["n_test"]
        for protocol, choice in record["protocols"].items():
            found, label = predictions[protocol], predictions["label"]
            right = found == label if len(record["classes"]) > 2 else (found > 0) == (label > 0)
            assert right.mean() == pytest.approx(choice["accuracy"], abs=1e-12)
