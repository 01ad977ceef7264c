"""Which jobs failed, from fabricated results folders; and what is said of them."""

import os
import shutil
import time

import pytest
from records import make_record, write_record

from lantk.experiment.overviews import OVERVIEWS
from lantk.report.terminal import failures_text
from lantk.workflow.failures import find_failed_jobs, resume_command

STEMS = ["cntk", "lantk-kr-v1", "lantk-kr-v1-shuffled-seed0", "cnn-seed0"]
CASES = ["3-8", "1-8"]
# Jobs of a case: log and benchmark under one name, and a file that it writes.
JOBS = {
    "split/{case}": "splits/{case}.npz",
    "gram/{case}/1-of-2": "grams/{case}/1-of-2",
    "gram/{case}/2-of-2": "grams/{case}/2-of-2",
    "label_term/{case}/lantk-kr-v1": "label_terms/{case}/lantk-kr-v1.npz",
    "evaluate/{case}/cntk": None,
    "evaluate/{case}/lantk-kr-v1": None,
    "cnn/{case}/seed0": None,
}
RECORDS = {
    "evaluate/{case}/cntk": ["cntk"],
    "evaluate/{case}/lantk-kr-v1": ["lantk-kr-v1", "lantk-kr-v1-shuffled-seed0"],
    "cnn/{case}/seed0": ["cnn-seed0"],
}


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def outputs(results, job, case):
    """Return the files that a job writes."""
    stems = RECORDS.get(job)
    if stems:
        return [results / "evaluations" / case / f"{stem}.json" for stem in stems]
    path = results / JOBS[job].format(case=case)
    if job.startswith("gram"):
        return [path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.npy")]
    return [path]


def succeed(results, job, case):
    touch(results / "logs" / f"{job.format(case=case)}.log")
    for path in outputs(results, job, case):
        touch(path)
    touch(results / "benchmarks" / f"{job.format(case=case)}.jsonl")


def fail(results, job, case="3-8", text="lantk evaluate: the matrix is singular\n"):
    """Leave what a failed job leaves: no results, and a log newer than its last benchmark."""
    for path in outputs(results, job, case):
        path.unlink(missing_ok=True)
    log = results / "logs" / f"{job.format(case=case)}.log"
    touch(log, text)
    later = time.time_ns() + 10**9
    os.utime(log, ns=(later, later))
    return log


@pytest.fixture
def results(tmp_path):
    """Return a finished results folder."""
    touch(tmp_path / "logs/fetch.log")
    for name in ("data.json", "table.csv", "tracking.json", "benchmarks/fetch.jsonl"):
        touch(tmp_path / name)
    for case in CASES:
        for job in JOBS:
            succeed(tmp_path, job, case)
    return tmp_path


def found(results):
    return find_failed_jobs(results, CASES, STEMS)


def test_a_finished_folder_has_no_failures(results):
    """Logs beside results are of jobs that went well."""
    assert found(results) == []


def test_an_evaluation_that_failed_names_its_results(results):
    """A log without results is a failed job; what it would have written is missing by it."""
    log = fail(results, "evaluate/{case}/lantk-kr-v1")
    (job,) = found(results)
    assert (job.name, job.log) == ("evaluate lantk-kr-v1 of 3-8", log)
    assert job.last_lines == ("lantk evaluate: the matrix is singular",)
    assert job.results == (("3-8", "lantk-kr-v1"), ("3-8", "lantk-kr-v1-shuffled-seed0"))


@pytest.mark.parametrize(
    ("job", "name", "n_missing"),
    [
        ("split/{case}", "split 3-8", 4),
        ("gram/{case}/2-of-2", "Gram matrix of 3-8, band 2-of-2", 3),
        ("label_term/{case}/lantk-kr-v1", "fit lantk-kr-v1 of 3-8", 2),
        ("cnn/{case}/seed0", "train cnn, seed 0, of 3-8", 1),
    ],
)
def test_the_first_failed_job_takes_the_blame(results, job, name, n_missing):
    """What waits for a failed job is missing because of it, older failed logs of its included."""
    fail(results, job)
    waits = [*JOBS][[*JOBS].index(job) + 1 :] if not job.startswith("cnn") else []
    # A network waits for no Gram matrix, and cntk for no label term.
    others = {"gram": ["cnn"], "label_term": ["cnn", "evaluate/{case}/cntk"]}
    for later in waits:
        if not later.startswith(tuple(others.get(job.split("/")[0], ["-"]))):
            fail(results, later, text="lantk evaluate: another, older failure\n")
    (failed,) = found(results)
    assert failed.name == name
    assert len(failed.results) == n_missing
    assert all(case == "3-8" for case, _ in failed.results)


@pytest.mark.parametrize(
    ("stem", "log", "name"),
    [
        ("cntk-flips", "gram-flips/3-8/1-of-1", "Gram matrix of 3-8 with flips, band 1-of-1"),
        ("cntk-flips-intercept", "evaluate/3-8/cntk-flips", "evaluate cntk-flips of 3-8"),
        ("cntk-intercept", "evaluate/3-8/cntk", "evaluate cntk of 3-8"),
        ("cnn-flips-seed0", "cnn-flips/3-8/seed0", "train cnn-flips, seed 0, of 3-8"),
        *(
            (f"{name}{ending}", f"evaluate/3-8/{name}", f"evaluate {name} of 3-8")
            for name, ending in (
                ("cntk-flips+lantk-kr-v1", "-shuffled-seed0"),
                ("cntk-intercept+lantk-fjlt-v1", "-offdiagonal"),
            )
        ),
    ],
)
def test_jobs_on_other_kernels_and_of_other_networks_take_the_blame(results, stem, log, name):
    """Each result on another kernel is traced to the Gram matrices and the job it stands on."""
    touch(results / "logs" / f"{log}.log", "lantk: it failed\n")
    (failed,) = find_failed_jobs(results, ["3-8"], [*STEMS, stem])
    assert (failed.name, failed.results) == (name, (("3-8", stem),))


def test_later_permutations_wait_for_no_fitted_label_term(results):
    """A job of the fourth permutation and later is blamed by its own log, not a fit's."""
    stems = [*STEMS, "lantk-kr-v1-shuffled-seed3"]
    fail(results, "label_term/{case}/lantk-kr-v1")
    touch(results / "logs/evaluate/3-8/lantk-kr-v1-from3.log", "lantk evaluate: disk is full\n")
    found = find_failed_jobs(results, ["3-8"], stems)
    missing = {job.name: job.results for job in found}
    assert missing["evaluate lantk-kr-v1-from3 of 3-8"] == (("3-8", "lantk-kr-v1-shuffled-seed3"),)


def test_data_that_cannot_be_fetched_are_missing_everywhere(results):
    """A failed fetch is one job, and every result of every case is missing because of it."""
    for case in CASES:
        for job in JOBS:
            for path in outputs(results, job, case):
                path.unlink()
    (results / "data.json").unlink()
    (results / "benchmarks/fetch.jsonl").unlink()
    (results / "logs/fetch.log").write_text("lantk fetch: no network\n")
    (job,) = found(results)
    assert job.name == "fetch the data"
    assert len(job.results) == len(CASES) * len(STEMS)


@pytest.mark.parametrize("text", ["lantk cnn: interrupted; no file is half-written\n", None])
def test_what_was_interrupted_or_not_reached_has_not_failed(results, text):
    """An interrupted job, and one whose results were deleted after it went well, did not fail."""
    job = "cnn/{case}/seed0"
    if text is None:
        outputs(results, job, "3-8")[0].unlink()
    else:
        fail(results, job, text=text)
    assert found(results) == []


def test_a_job_that_never_began_has_not_failed(results):
    """Without a log there was no job."""
    log = fail(results, "evaluate/{case}/cntk")
    log.unlink()
    assert found(results) == []


def test_a_failure_is_told_beside_results_of_an_earlier_run(results):
    """A Gram matrix that fails when computed anew is told, though evaluations are there."""
    fail(results, "gram/{case}/1-of-2")
    (job,) = found(results)
    assert job.name == "Gram matrix of 3-8, band 1-of-2"
    assert job.results == ()


def test_bands_of_another_number_are_left_over(results):
    """A failed band of another number does not count where all bands of one number are there."""
    touch(results / "logs/gram/3-8/2-of-3.log", "lantk gram: an old failure\n")
    fail(results, "evaluate/{case}/cntk")
    (job,) = found(results)
    assert job.name == "evaluate cntk of 3-8"


def test_cases_by_n_and_architecture_share_what_they_wait_for(tmp_path):
    """A failed Gram job is one failure for all architectures and n of its task."""
    touch(tmp_path / "logs/split/3-8.log")
    touch(tmp_path / "logs/gram/3-8/1-of-1.log", "lantk gram: no memory\n")
    for name in ("data.json", "splits/3-8.npz"):
        touch(tmp_path / name)
    cases = [f"3-8.arora2019-gap-{depth}.n{n}" for depth in (3, 4) for n in (20, 40)]
    (job,) = find_failed_jobs(tmp_path, cases, ["cntk"])
    assert job.name == "Gram matrix of 3-8, band 1-of-1"
    assert job.results == tuple((case, "cntk") for case in cases)


def test_a_log_ends_in_what_was_wrong(results):
    """Of a long log the end is told, without progress, colours and bars, and with the sentence."""
    progress = "".join(f"{i} of 99 solves, about 1.5 min left\n" for i in range(99))
    text = (
        "an early line\n" + progress + "fitting: 0.5 min so far\n 10%|#  \r 20%|## \rred\x1b[0m\n"
    )
    fail(results, "evaluate/{case}/cntk", text=text + "lantk evaluate: too large\n\n")
    (job,) = found(results)
    assert job.last_lines == ("an early line", "red", "lantk evaluate: too large")
    remedy = "".join(f"remedy {i}\n" for i in range(20))
    fail(results, "evaluate/{case}/cntk", text="noise\nlantk evaluate: too large\n" + remedy)
    (job,) = found(results)
    assert job.last_lines[0] == "lantk evaluate: too large"
    assert job.last_lines[-1] == "remedy 19"
    assert len(job.last_lines) == 10


def test_last_jobs_are_looked_at_when_all_results_are_there(results):
    """Tables, figures and runs that failed are told, in front of no result."""
    (results / "table.csv").unlink()
    touch(results / "logs/table.log", "lantk collect: no\n")
    touch(results / "logs/figure/3-8.log", "lantk figure: no\n")
    assert [(job.name, job.results) for job in found(results)] == [
        ("tables", ()),
        ("figure of 3-8", ()),
    ]
    fail(results, "evaluate/{case}/cntk")
    assert [job.name for job in found(results)] == ["evaluate cntk of 3-8"]


@pytest.mark.parametrize("kind", OVERVIEWS)
def test_every_figure_over_all_cases_can_fail(results, kind):
    """A figure that failed is named, whichever it is."""
    touch(results / f"logs/figure/{kind}.log", "lantk figure: no\n")
    (job,) = found(results)
    assert (job.name, job.last_lines) == (f"figure {kind}", ("lantk figure: no",))
    touch(results / f"figures/{kind}.png")
    assert found(results) == []


def test_a_record_of_the_package_counts_as_a_result(tmp_path):
    """Records are found where evaluations are written."""
    record = make_record("cnn", seed=0)
    path = write_record(tmp_path, record)
    touch(tmp_path / "logs/cnn/3-8/seed0.log", "lantk cnn: no\n")
    assert find_failed_jobs(tmp_path, ["3-8"], ["cnn-seed0"]) == []
    path.unlink()
    (job,) = find_failed_jobs(tmp_path, ["3-8"], ["cnn-seed0"])
    assert job.results == (("3-8", "cnn-seed0"),)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["/v/bin/snakemake", "--cores", "2"], "snakemake --cores 2"),
        (["/v/snakemake/__main__.py", "-c2"], "python -m snakemake -c2"),
        (["snakemake", "-F", "-c", "2"], "snakemake -c 2"),
        (["snakemake", "--forcerun", "track", "table", "-c", "2"], "snakemake -c 2"),
        (["snakemake", "-Rtrack", "-c", "2"], "snakemake -c 2"),
        (["snakemake", "-f", "results/x.csv", "-c2"], "snakemake results/x.csv -c2"),
        (["snakemake", "-c", "2", "-Fp", "all"], "snakemake -c 2 -p all"),
        (["snakemake", "--config", "results=a; rm b"], "snakemake --config 'results=a; rm b'"),
    ],
)
def test_the_command_to_resume_computes_nothing_twice(given, wanted):
    """It is the command that was given, quoted, without what forces finished jobs."""
    assert resume_command(given) == wanted


def test_an_environment_is_activated_first():
    """Where the shell that was left has not activated it, the command does."""
    found = resume_command(["snakemake", "-n"], "my env")
    assert found == ". 'my env'/bin/activate; snakemake -n"


def test_many_failures_are_told_in_short(results):
    """Each failed job is named with its log; of the sixth on, the last line stands for the log."""
    for case in CASES:
        for job in ("cnn/{case}/seed0", "evaluate/{case}/cntk", "evaluate/{case}/lantk-kr-v1"):
            text = f"first line of {job}\nlantk evaluate: last of {job}\n"
            fail(results, job, case, text=text.format(case=case))
    jobs = found(results)
    text = failures_text(jobs, "snakemake -c 2")
    assert text.startswith("6 jobs failed.")
    assert all(job.name in text and str(job.log) in text for job in jobs)
    assert text.count("first line of") == 5
    assert text.count("lantk evaluate: last of") == 6
    assert text.endswith("Finished jobs are kept. To go on:\n  snakemake -c 2")


def test_a_killed_job_is_told_as_one(results):
    """A log that says nothing of an end means a job that was killed, and the text says so."""
    fail(results, "cnn/{case}/seed0", text="5 of 30 epochs, train loss 0.1, about 1.5 min left\n")
    (job,) = found(results)
    assert job.last_lines == ()
    assert "killed" in failures_text([job], None)


def test_an_interrupted_workflow_is_told_how_to_go_on():
    """Without a failed job there is no list, and the command to go on is there."""
    text = failures_text([], "snakemake -c 2")
    assert "Failed" not in text
    assert "No job failed" in text
    assert "snakemake -c 2" in text


def test_long_messages_are_wrapped(results):
    """No line of a message is longer than the terminal."""
    fail(results, "evaluate/{case}/cntk", text="lantk evaluate: " + "too large " * 50)
    text = failures_text(found(results), None, width=80)
    assert max(len(line) for line in text.splitlines() if "log:" not in line) <= 80


def test_a_log_that_a_full_disk_kept_empty_says_so(results, monkeypatch):
    """Where the disk is full, the job could not write why it failed: that is said in its place."""
    fail(results, "evaluate/{case}/cntk", text="")
    usage = shutil.disk_usage(results)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    (job,) = found(results)
    assert "disk is full (0.0 MiB free)" in failures_text([job], None)
