"""Faults that tests inject: what was killed, filled up or made read-only goes on at the next run.

``make test-faults KILLS=50 SEED=1`` kills more often than ``make test`` does.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time

import pytest
from harness import (
    LONGEST_SECONDS,
    Results,
    check_finished,
    check_no_orphans,
    check_readable,
    kill_at_random,
)
from work_tree import copy_project

from lantk.workflow.lease import LOCK_NAME

N_KILLS = int(os.environ.get("LANTK_KILLS", "5"))
SEED = int(os.environ.get("LANTK_KILLS_SEED", "0"))
pytestmark = [pytest.mark.rest, pytest.mark.timeout(1800)]
# So many kills hit one results folder before it is finished, at most.
N_IN_A_ROW = 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the project, in a folder with a space in its name."""
    return copy_project(tmp_path_factory.mktemp("work tree"))


@pytest.fixture(scope="module")
def undisturbed(tree):
    """Return the table of a run that nobody disturbs, and how many seconds it took."""
    results = Results(tree, "quiet/micro")
    start = time.monotonic()
    status, output = results.run()
    assert status == 0, output[-5000:]
    return (results.folder / "table.csv").read_bytes(), time.monotonic() - start


@pytest.mark.timeout(1800 + 300 * N_KILLS)
def test_a_killed_run_is_finished_by_the_next_one(tree, undisturbed, capsys):
    """After SIGKILL of any process at any moment the next run gives the undisturbed results."""
    table, seconds = undisturbed
    rng = random.Random(SEED)
    n_kills, n_rounds = 0, 0
    while n_kills < N_KILLS:
        results = Results(tree, f"round{n_rounds}/micro")
        n_left = rng.randint(1, min(N_IN_A_ROW, N_KILLS - n_kills))
        story = []
        while n_left:
            kind, what = kill_at_random(results, rng, seconds)
            story.append(f"{kind} {what}".rstrip())
            if kind == "nobody":
                break  # finished before its moment came
            n_kills, n_left = n_kills + 1, n_left - 1
            check_readable(results.folder)
            # The next run may begin while jobs of the killed one still end, or later.
            if rng.random() < 0.5:
                check_no_orphans(results)
        with capsys.disabled():
            print(f"\nseed {SEED}, round {n_rounds}, {n_kills} kills: {', '.join(story)}", end=" ")
        check_finished(results, table)
        with capsys.disabled():
            print("... as undisturbed", end="", flush=True)
        shutil.rmtree(results.folder.parent)
        n_rounds += 1


def test_a_second_workflow_is_refused_and_the_first_unharmed(tree, undisturbed):
    """Two at once on the same results: the second ends with one sentence, the first with results.

    The second comes while the first still plans its jobs, and a third while they run.
    """
    results = Results(tree, "twice/micro")
    first = results.start()
    second = Results(tree, "./twice/micro")
    lock = results.folder / LOCK_NAME
    until(lambda: lock.exists() and lock.stat().st_size > 0)
    assert not results.processes("job"), "the first is beyond its planning"
    for _ in range(2):
        status, output = second.run()
        assert status == 1
        assert f"another workflow is writing to {results.folder}: process {first.pid}" in output
        assert "Traceback" not in output
        assert "LockException" not in output
        until(lambda: (results.folder / "logs").exists())
    # What only looks is let in.
    status, output = second.run("--dry-run")
    assert (status, "another workflow" in output) == (0, False), output
    assert first.wait(LONGEST_SECONDS) == 0
    assert (results.folder / "table.csv").read_bytes() == undisturbed[0]
    assert lock.read_text() == ""


@pytest.fixture
def small_disk(tree, request):
    """Mount a small file system as a results folder; yield the results and how to remount it."""
    results = Results(tree, f"{request.node.name}/micro")
    results.folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(results.folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of its own cannot be mounted here: that takes root")
    try:
        yield (
            results,
            lambda options: subprocess.run(
                ["mount", "-o", f"remount,{options}", results.folder], check=True
            ),
        )
    finally:
        subprocess.run(["umount", "--lazy", results.folder], check=True)


def test_a_full_disk_is_named_and_the_next_run_goes_on(small_disk, undisturbed):
    """On a full disk the run ends and says so; when there is space, the next one finishes."""
    results, _ = small_disk
    filler = results.folder / "filler"
    # Some jobs go well before it is full.
    free = shutil.disk_usage(results.folder).free
    with filler.open("wb") as file:
        file.write(bytes(free - 60_000))
    status, output = results.run()
    assert status == 1
    assert "disk is full" in output.lower()
    check_readable(results.folder)
    filler.unlink()
    check_finished(results, undisturbed[0])


def test_results_that_cannot_be_written_are_refused_at_once(small_disk, undisturbed):
    """Results on a read-only file system end a run before any job, with the reason."""
    results, remount = small_disk
    remount("ro")
    status, output = results.run()
    remount("rw")
    assert status == 1
    assert f"{results.name} cannot be written (.workflow.lock: Read-only file system)" in output
    assert "Traceback" not in output
    assert not list(results.folder.iterdir())
    check_finished(results, undisturbed[0])


def test_a_clock_that_was_wrong_costs_one_run_at_most(tree, undisturbed):
    """Files dated from tomorrow, or from years ago, are not computed again and again."""
    # No file is small enough to be compared by its content, as it is with large experiments.
    results = Results(tree, "clock/micro", ("--max-checksum-file-size", "0"))
    status, output = results.run()
    assert status == 0, output[-3000:]
    day = 86400
    for shift, pattern in ((day, "grams/**/*.*"), (day, "label_terms/**/*.*"), (-9999 * day, "*")):
        for path in results.folder.glob(pattern):
            if path.is_file():
                os.utime(path, (time.time() + shift,) * 2)
    status, output = results.run()
    assert status == 0, output[-3000:]
    check_finished(results, undisturbed[0])


def until(is_so, seconds=120):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
