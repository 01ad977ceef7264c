"""Runs as they are read from the files of a results folder, finished or not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from records import make_record, write_record

from lantk.experiment.records import Listing
from lantk.experiment.timings import read_gram_cost, read_job_cost
from lantk.experiment.variants import TERMS
from lantk.tracking.reading import read_runs
from lantk.tracking.run import Run, TrackingError

# Parameters of every run and their types.
CORE_PARAMS = {
    "control": str,
    "family": str,
    "kind": str,
    "variant": str,
    "task": str,
    "n_train": int,
    "n_test": int,
    "n_classes": int,
    "architecture": str,
    "architecture_digest": str,
    "source": str,
    "scaling": str,
}
VARIANTS = ("cntk", "lantk-kr-v1", "cnn")
LISTING = Listing(("3-8",), VARIANTS, permutations=2, seeds=(0, 1))
NAMES = {"3-8 cntk", "3-8 lantk-kr-v1", "3-8 cnn seed 0", "3-8 cnn seed 1"}
# As the default experiment has them, with a control of each kind.
MANY = Listing(
    ("3-8", "1-8"),
    ("cntk", "cntk-ridge", *TERMS[:4], *(f"{term}-shuffled" for term in TERMS[:4]), "cnn"),
    permutations=2,
    seeds=(0, 1),
)


def write_evaluation(results: Path, variant: str, accuracy=0.75, **changes) -> Path:
    """Write the files of one evaluation as the workflow does; return the JSON file."""
    return write_record(results, make_record(variant, accuracy, n_test=300, **changes))


def write_listed(results: Path, listing: Listing) -> Path:
    """Write every result that a listing names."""
    for case in listing.cases:
        for i, (variant, seed) in enumerate(listing.stems.values()):
            write_evaluation(results, variant, 0.7 + i / 100, task=case, seed=seed)
    return results


def write_benchmark(path: Path, seconds: float, memory: float = 100.0, ended: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"s": seconds, "max_rss": memory}) + "\n")
    if ended:
        os.utime(path, (ended, ended))


def write_log(results: Path, name: str, text: str) -> Path:
    log = results / "logs" / name
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    return log


def by_name(results: Path, listing: Listing = LISTING) -> dict[str, Run]:
    return {run.name: run for run in read_runs(results, listing)}


@pytest.fixture
def results(tmp_path) -> Path:
    """Return a folder with all results of `LISTING`."""
    return write_listed(tmp_path / "results", LISTING)


def test_every_run_has_the_core_and_every_key_one_type(tmp_path):
    """Runs of every kind have the core parameters and metrics, and a name has one type."""
    results = write_listed(tmp_path, MANY)
    runs = read_runs(results, MANY)
    assert len(runs) == 2 * (2 + 4 + 4 * 2 + 2 + 2)  # and lantk-best with its shuffled twin
    metrics = {f"{m}_{p}" for m in ("accuracy", "ci_low", "ci_high") for p in ("honest", "oracle")}
    types: dict[str, type] = {}
    for run in runs:
        assert metrics <= set(run.metrics), run.name
        assert all(type(value) is float for value in run.metrics.values())
        assert {key: type(run.params[key]) for key in CORE_PARAMS} == CORE_PARAMS, run.name
        for key, value in run.params.items():
            assert types.setdefault(key, type(value)) is type(value), (run.name, key)
        if run.params["kind"] == "label term":
            assert "label_weight_honest" in run.metrics


def test_runs_of_one_variant_have_the_same_keys(tmp_path):
    """Whatever the case or the seed, runs of one variant have the same parameters."""
    runs = read_runs(write_listed(tmp_path, MANY), MANY)
    for variant in {run.variant for run in runs}:
        assert len({frozenset(run.params) for run in runs if run.variant == variant}) == 1


def test_what_differs_within_a_case_comes_first(tmp_path):
    """By name, the first three parameters that differ in a case are control, family and kind."""
    runs = [run for run in read_runs(write_listed(tmp_path, MANY), MANY) if run.case == "3-8"]
    keys = sorted({key for run in runs for key in run.params})
    differ = [key for key in keys if len({str(run.params.get(key)) for run in runs}) > 1]
    assert differ[:3] == ["control", "family", "kind"]


def test_seeds_are_parameters_and_tags(tmp_path):
    """A network's seed and a permutation's are numbers under names of their own, and a tag."""
    runs = by_name(write_listed(tmp_path, MANY), MANY)
    network, shuffled = runs["3-8 cnn seed 1"], runs["3-8 lantk-kr-v1-shuffled seed 1"]
    assert network.params["network_seed"] == shuffled.params["permutation_seed"] == 1
    assert network.tags["seed"] == shuffled.tags["seed"] == "1"
    assert (shuffled.params["control"], shuffled.params["family"]) == ("shuffled", "lantk-kr-v1")


def test_own_label_terms_are_found_by_their_name(tmp_path):
    """A label term listed as module:Class has runs under its short name."""
    listing = Listing(("3-8",), ("my_terms:NearestMean", "my_terms:NearestMean-shuffled"), 1, ())
    write_evaluation(tmp_path, "lantk-nearest-mean")
    write_evaluation(tmp_path, "lantk-nearest-mean-shuffled", seed=0)
    runs = read_runs(tmp_path, listing)
    assert [run.variant for run in runs] == ["lantk-nearest-mean", "lantk-nearest-mean-shuffled"]
    assert {run.params["family"] for run in runs} == {"lantk-nearest-mean"}


def test_an_architecture_without_a_name_has_digits_of_its_digest(tmp_path):
    """The architecture is what the table calls it, and its digest stands beside it."""
    write_evaluation(tmp_path, "cntk", architecture=None)
    (run,) = read_runs(tmp_path, LISTING)
    assert run.params["architecture"] == "a" * 8
    assert run.params["architecture_digest"] == "a" * 16


def test_missing_values_are_left_out(results):
    """NaN, null and text are no metrics, and a null setting is no parameter."""
    run = by_name(results)["3-8 lantk-kr-v1"]
    assert run.metrics["solves"] == 11
    assert not {"smallest_eigenvalue", "solver", "epoch_honest"} & set(run.metrics)
    assert run.params["setting_folds"] == 5
    assert "setting_channels" not in run.params
    steps = [step for step, _ in run.curves["curve_validation_accuracy"]]
    assert steps == [0, 1, 2]  # the fourth weight was not validated
    weights = ((0, 0.0), (1, 0.001), (2, 0.01), (3, 0.1))
    assert run.curves["curve_label_weight"] == weights


def test_what_only_the_leaderboard_knows_is_logged_with_the_lowest_seed(results):
    """P-value and spread of several networks are metrics of the first that is there."""
    runs = by_name(results)
    assert "p_value_honest" in runs["3-8 cnn seed 0"].metrics
    assert "spread_honest" in runs["3-8 cnn seed 0"].metrics
    assert not {"p_value_honest", "spread_honest"} & set(runs["3-8 cnn seed 1"].metrics)
    (results / "evaluations" / "3-8" / "cnn-seed0.json").unlink()
    left = by_name(results)
    assert "p_value_honest" in left["3-8 cnn seed 1"].metrics


def test_label_gain_needs_no_table(tmp_path):
    """The label gain comes from the evaluations that are there, the table need not be written."""
    listing = Listing(("3-8",), ("lantk-kr-v1", "lantk-kr-v1-shuffled"), 2, ())
    for seed in (0, 1):
        write_evaluation(tmp_path, "lantk-kr-v1-shuffled", 0.7, seed=seed)
    write_evaluation(tmp_path, "lantk-kr-v1", 0.75)
    runs = by_name(tmp_path, listing)
    assert runs["3-8 lantk-kr-v1"].metrics["label_gain_honest"] == pytest.approx(0.05)
    assert "label_gain_honest" not in runs["3-8 lantk-kr-v1-shuffled seed 0"].metrics


def test_derived_runs_follow_from_what_is_there(tmp_path):
    """LANTK-best is a run once all it chooses from is there, and not before."""
    results = write_listed(tmp_path, MANY)
    run = by_name(results, MANY)["3-8 lantk-best"]
    assert run.metrics["accuracy_oracle"] == 0.75  # of the last of the four
    assert (run.params["family"], run.params["control"]) == ("lantk-best", "none")
    assert set(run.artifacts) == set()
    (results / "evaluations" / "3-8" / "lantk-kr-v1.json").unlink()
    names = set(by_name(results, MANY))
    assert "1-8 lantk-best" in names
    assert "3-8 lantk-best" not in names


def test_ridge_is_a_metric_and_its_grid_a_curve(tmp_path):
    """The chosen ridge is logged for each protocol, and the ridges tried are a curve."""
    write_evaluation(tmp_path, "cntk-ridge")
    (run,) = read_runs(tmp_path, Listing(("3-8",), ("cntk-ridge",), 1, ()))
    assert run.metrics["ridge_honest"] == 0.01
    assert [value for _, value in run.curves["curve_ridge"]] == [0.0, 0.001, 0.01, 0.1]
    assert "label_weight_honest" not in run.metrics


def test_cases_of_one_task_are_kept_apart(tmp_path):
    """Several n of one task are cases of their own, in the order of the listing."""
    for n in (40, 80):
        write_evaluation(tmp_path, "cntk", n_train=n, case=f"3-8.n{n}")
    runs = read_runs(tmp_path, Listing(("3-8.n80", "3-8.n40"), ("cntk",), 1, ()))
    assert [(run.name, run.params["n_train"]) for run in runs] == [
        ("3-8.n80 cntk", 80),
        ("3-8.n40 cntk", 40),
    ]


def test_what_is_not_listed_is_left_over(results):
    """A variant, a seed, a permutation or a case that is not listed, or half a file, is no run."""
    write_evaluation(results, "lantk-kr-v2")
    write_evaluation(results, "cnn", seed=2)
    write_evaluation(results, "cntk", task="1-8")
    results.joinpath("evaluations", "3-8", ".tmp-1-cntk.json").write_text("{")
    assert set(by_name(results)) == NAMES


def test_fingerprint_follows_content_but_not_time(results):
    """A fingerprint changes with metric, curve, prediction, data and code, not with time."""
    path = results / "evaluations" / "3-8" / "cntk.json"

    def fingerprint(**changes) -> str:
        path.write_text(json.dumps(json.loads(original) | changes))
        return by_name(results)["3-8 cntk"].fingerprint

    original = path.read_text()
    first = fingerprint()
    os.utime(path, (1, 1))
    write_benchmark(results / "benchmarks" / "evaluate" / "3-8" / "cntk.jsonl", 9.0)
    assert fingerprint(seconds=5.0, diagnostics={"solves": 11, "solve_seconds": 3.0}) == first
    different = [
        fingerprint(diagnostics={"solves": 12}),
        fingerprint(curve=[]),
        fingerprint(data={"source": "digits", "digest": "e" * 64, "scaling": "range"}),
        fingerprint(provenance={"code": "another"}),
        fingerprint(settings={"folds": 4}),
    ]
    predictions = path.with_suffix(".csv")
    predictions.write_text(predictions.read_text().replace("0.5", "0.25"))
    different.append(fingerprint())
    assert len({first, *different}) == 7


def test_duration_is_that_of_the_job(results):
    """A run ends when its record was written and lasts as long as the job that wrote it."""
    path = results / "evaluations" / "3-8" / "lantk-kr-v1.json"
    os.utime(path, (1000, 1000))
    write_benchmark(results / "benchmarks" / "evaluate" / "3-8" / "lantk-kr-v1.jsonl", 12.5, 300.0)
    write_benchmark(results / "benchmarks" / "cnn" / "3-8" / "seed1.jsonl", 7.0)
    write_benchmark(results / "benchmarks" / "gram" / "3-8" / "1-of-1.jsonl", 60.0, 800.0)
    runs = by_name(results)
    run = runs["3-8 lantk-kr-v1"]
    assert (run.ended, run.seconds) == (1000, 12.5)
    assert run.metrics["job_seconds"] == 12.5
    assert run.metrics["job_peak_memory_mb"] == 300
    assert (run.metrics["gram_seconds"], run.metrics["gram_peak_memory_mb"]) == (60, 800)
    network = runs["3-8 cnn seed 1"]
    assert network.seconds == 7.0
    assert "gram_seconds" not in network.metrics  # a network needs no Gram matrix
    assert "job_seconds" not in runs["3-8 cnn seed 0"].metrics


def test_what_stands_on_flips_has_the_cost_of_its_own_gram(tmp_path):
    """Gram matrices over flips are told apart from others; the network has neither."""
    term = "cntk-flips+lantk-kr-v1"
    listing = Listing(("3-8",), ("cntk", "cntk-flips-intercept", term, "cnn-flips"), 1, (0,))
    results = write_listed(tmp_path, listing)
    jobs = {"gram": 60.0, "gram-flips": 240.0, "evaluate": 5.0}
    for rule, seconds in jobs.items():
        names = ["1-of-1"] if rule != "evaluate" else ["cntk", "cntk-flips", term]
        for name in names:
            write_benchmark(results / "benchmarks" / rule / "3-8" / f"{name}.jsonl", seconds)
    write_benchmark(results / "benchmarks" / "cnn-flips" / "3-8" / "seed0.jsonl", 7.0)
    runs = {run.variant: run for run in by_name(results, listing).values()}
    assert runs["cntk"].metrics["gram_seconds"] == 60
    for variant in ("cntk-flips-intercept", term):
        found = runs[variant].metrics
        assert (found["gram_seconds"], found["job_seconds"]) == (240, 5)
    assert runs["cnn-flips"].seconds == 7.0
    assert "gram_seconds" not in runs["cnn-flips"].metrics
    kinds = {variant: run.params["kind"] for variant, run in runs.items()}
    assert kinds == {
        **dict.fromkeys(("cntk", "cntk-flips-intercept"), "kernel"),
        **{term: "label term", "cnn-flips": "network"},
    }


def test_a_family_shares_the_cost_of_its_job(tmp_path):
    """A shuffled twin and cntk-ridge have the cost of the job that their family is."""
    write_benchmark(tmp_path / "benchmarks" / "evaluate" / "3-8" / "cntk.jsonl", 3.0)
    write_benchmark(tmp_path / "benchmarks" / "evaluate" / "3-8" / "lantk-kr-v1.jsonl", 4.0)
    runs = by_name(write_listed(tmp_path, MANY), MANY)
    assert runs["3-8 cntk-ridge"].seconds == 3.0
    assert runs["3-8 lantk-kr-v1-shuffled seed 1"].seconds == 4.0


def test_memory_of_a_short_job_is_not_known(tmp_path):
    """Memory of two seconds is not known, and nothing of a file that is no benchmark."""
    path = tmp_path / "x.jsonl"
    write_benchmark(path, 2.0)
    assert read_job_cost(path) == (2.0, None)
    write_benchmark(path, 2.5)
    assert read_job_cost(path) == (2.5, 100.0)
    path.write_text("{}\n")
    assert read_job_cost(path) is None
    assert read_job_cost(tmp_path / "missing.jsonl") is None


def test_cost_of_bands_is_that_of_the_newest_whole_set(tmp_path):
    """Seconds of the bands are added, the largest memory counts, leftover bands do not."""
    for i, seconds in enumerate((5.0, 6.0), start=1):
        write_benchmark(tmp_path / f"{i}-of-2.jsonl", seconds, 100.0 * i, ended=2000)
    write_benchmark(tmp_path / "1-of-1.jsonl", 90.0, ended=1000)
    write_benchmark(tmp_path / "1-of-3.jsonl", 1.0, ended=3000)  # of a set that is not whole
    assert read_gram_cost(tmp_path) == (11.0, 200.0)
    assert read_gram_cost(tmp_path / "missing") is None


def test_a_failed_job_is_a_failed_run(results):
    """A failed job that has one result is a run in its place, with the end of its log."""
    (results / "evaluations" / "3-8" / "lantk-kr-v1.json").unlink()
    text = "\n".join(f"line {i}" for i in range(300))
    log = write_log(results, "evaluate/3-8/lantk-kr-v1.log", f"{text}\nlantk evaluate: it broke\n")
    os.utime(log, (1000, 1000))
    runs = by_name(results)
    assert set(runs) == NAMES
    run = runs["3-8 lantk-kr-v1"]
    assert run.status == "FAILED"
    assert run.ended == 1000
    assert run.tags["failed_job"] == "evaluate lantk-kr-v1 of 3-8"
    assert "lantk evaluate: it broke" in run.tags["mlflow.note.content"]
    lines = run.texts["failure.log"].splitlines()
    assert (len(lines), lines[-1]) == (200, "lantk evaluate: it broke")
    # What its case has in common is known all the same.
    assert {key: type(run.params[key]) for key in CORE_PARAMS} == CORE_PARAMS
    assert run.data == runs["3-8 cntk"].data
    assert run.fingerprint == by_name(results)["3-8 lantk-kr-v1"].fingerprint
    assert runs["3-8 cntk"].status == "FINISHED"


def test_a_failed_job_of_several_results_is_one_failed_run(tmp_path):
    """It is named after the job and has what its results share; what waited for it is no run."""
    write_log(tmp_path, "split/3-8.log", "")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "3-8.npz").touch()
    write_log(tmp_path, "gram/3-8/1-of-1.log", "lantk gram: no memory\n")
    listing = Listing(("3-8.n20", "3-8.n40"), VARIANTS, 1, (0,))
    ((name, run),) = by_name(tmp_path, listing).items()
    assert name == run.tags["failed_job"] == "Gram matrix of 3-8, band 1-of-1"
    assert run.status == "FAILED"
    assert run.params == {"control": "none", "task": "3-8"}
    assert run.tags["task"] == "3-8"
    assert "4 results are missing because of it" in run.tags["mlflow.note.content"]
    assert "no memory" in run.texts["failure.log"]


def test_a_workflow_that_fails_at_its_first_job_is_one_failed_run(tmp_path):
    """Of 32 results none is there because the data were not fetched: that is one run."""
    write_log(tmp_path, "fetch.log", "lantk fetch: no network\n")
    ((name, run),) = by_name(tmp_path, MANY).items()
    assert (name, run.status) == ("fetch the data", "FAILED")


def test_failed_jobs_of_a_case_are_a_run_each(results):
    """Each job is named after its result, or as a job where it has several, behind the results."""
    for stem in ("lantk-kr-v1", "lantk-kr-v1-shuffled-seed0", "cnn-seed1"):
        (results / "evaluations" / "3-8" / f"{stem}.json").unlink(missing_ok=True)
    for name in ("evaluate/3-8/lantk-kr-v1", "cnn/3-8/seed1"):
        write_log(results, f"{name}.log", "it broke\n")
    listing = Listing(("3-8",), (*VARIANTS, "lantk-kr-v1-shuffled"), 1, (0, 1))
    statuses = {name: run.status for name, run in by_name(results, listing).items()}
    assert [*statuses.items()] == [
        ("3-8 cntk", "FINISHED"),
        ("3-8 cnn seed 0", "FINISHED"),
        ("3-8 cnn seed 1", "FAILED"),
        ("evaluate lantk-kr-v1 of 3-8", "FAILED"),
    ]
    run = by_name(results, listing)["evaluate lantk-kr-v1 of 3-8"]
    assert run.params["n_train"] == 40
    assert (run.params["family"], "variant" in run.params) == ("lantk-kr-v1", False)
    assert run.data


def test_what_was_not_reached_is_no_run(results):
    """A result that is missing without a failed job to blame is no run."""
    (results / "evaluations" / "3-8" / "cntk.json").unlink()
    assert set(by_name(results)) == NAMES - {"3-8 cntk"}


def test_unreadable_results(tmp_path):
    """No result, half a file, one with keys missing, lost predictions: each message has a path."""
    with pytest.raises(TrackingError, match="no evaluation found"):
        read_runs(tmp_path, LISTING)
    write_evaluation(tmp_path, "cnn", seed=0)
    path = write_evaluation(tmp_path, "cntk")
    whole = path.read_text()
    for broken, message in (
        (whole[:100], r"cntk\.json, or the predictions beside it, cannot be read"),
        ('{"task": "3-8"}', r"cntk\.json is not an evaluation.*'protocols'"),
        (whole.replace('"n_test"', '"x"'), r"cntk\.json is not an evaluation.*'n_test'"),
        ("[]", r"cntk\.json is not an evaluation.*list"),
    ):
        path.write_text(broken)
        with pytest.raises(TrackingError, match=message):
            read_runs(tmp_path, LISTING)
    path.write_text(whole)
    path.with_suffix(".csv").unlink()
    with pytest.raises(TrackingError, match=r"predictions beside it, cannot be read.*cntk\.csv"):
        read_runs(tmp_path, LISTING)
