"""One workflow at a time writes to a results folder, and its jobs end with it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from snakemake.exceptions import WorkflowError

from lantk.workflow import lease
from lantk.workflow.lease import (
    LOCK_NAME,
    LeaseError,
    bring_back_from_the_future,
    hold_while_executing,
    holding,
)

# A workflow with one job. The job says when it runs, and unwinds for a while when it is ended.
WORKFLOW = """
import subprocess, sys
from lantk.workflow.lease import holding
with holding(sys.argv[1]):
    job = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, text=True)
    print(job.stdout.readline().strip(), flush=True)
    print(job.wait(), flush=True)
    sys.stdin.readline()
"""
JOB = """
import os, signal, sys, time
from lantk.workflow import lease
lease._GRACE_SECONDS = 3.0
mode = sys.argv[1]
ended = lease.end_with_workflow()
def unwind(*_):
    time.sleep(1.5)
    open(mode, "w").write(f"unwound {ended.is_set()}")
    sys.exit(1)
signal.signal(signal.SIGTERM, unwind if mode != "deaf" else signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""


def start(folder, *job):
    """Start a workflow with a job; return its process and the number of the job's."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKFLOW, folder, *job],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
    )
    return process, int(process.stdout.readline())


def job(name):
    return [sys.executable, "-c", JOB, name]


def is_alive(pid):
    """Return whether a process runs; one that has ended may wait to be asked for its status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


def test_a_held_folder_is_refused_with_who_holds_it(folder):
    """The second is told the process, machine and command of the first; another folder is free."""
    with holding(folder) as is_held:
        assert is_held
        with (
            pytest.raises(LeaseError, match=rf"another workflow.* process {os.getpid()} on .*`"),
            holding(folder),
        ):
            pass
        with holding(folder.with_name("other")) as is_other_held:
            assert is_other_held
    assert (folder / LOCK_NAME).read_text() == ""
    with holding(folder):
        pass


def test_a_killed_workflow_frees_its_folder_and_ends_its_job(folder):
    """After SIGKILL the job unwinds; the next workflow gets the folder once it has ended."""
    process, pid = start(folder, *job("orderly"))
    with pytest.raises(LeaseError, match="another workflow"), holding(folder):
        pass
    with process:
        process.kill()
    with holding(folder):
        assert not is_alive(pid)
        assert (folder.parent / "orderly").read_text() == "unwound True"


def test_a_job_that_does_not_hear_is_ended(folder):
    """A job that no signal reaches, as in long compiled code, is ended after a while."""
    process, pid = start(folder, *job("deaf"))
    with process:
        process.kill()
    with holding(folder):
        assert not is_alive(pid)


def test_a_job_ends_with_the_shell_it_was_started_from(folder):
    """When only the shell between workflow and job is killed, the job does not go on alone."""
    shell = ["bash", "-c", '"$@"; true', "bash", *job("shell")]
    process, pid = start(folder, *shell)
    with open(f"/proc/{pid}/stat") as file:
        os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
    with process:
        assert process.stdout.readline().strip() == "-9"
        end = time.monotonic() + 20
        while is_alive(pid) and time.monotonic() < end:
            time.sleep(0.1)
        # The workflow goes on meanwhile.
        assert process.poll() is None
        assert (folder.parent / "shell").read_text() == "unwound False"


def test_a_job_that_no_workflow_started_is_left_alone(monkeypatch):
    """By hand, or under a workflow on another machine, nothing is watched."""
    for value in (None, f"another-machine:token:/nowhere/{LOCK_NAME}"):
        if value is not None:
            monkeypatch.setenv("LANTK_WORKFLOW_LOCK", value)
        n_threads = lease.threading.active_count()
        assert not lease.end_with_workflow().is_set()
        assert lease.threading.active_count() == n_threads


def test_a_workflow_that_another_machine_left_is_not_taken_for_dead(folder):
    """Where the holder was elsewhere, its end cannot be seen: a person decides."""
    lock = folder / LOCK_NAME
    folder.mkdir()
    record = {"pid": 7, "host": "node9", "boot": "x", "started": "then", "command": "snakemake"}
    lock.write_text(json.dumps(record))
    with pytest.raises(LeaseError, match=r"process 7 on node9.*delete .*\.workflow\.lock"):
        holding(folder).__enter__()
    assert json.loads(lock.read_text()) == record
    # The same machine after it was started again.
    lock.write_text(json.dumps(record | {"host": lease.socket.gethostname()}))
    with holding(folder) as is_held:
        assert is_held


def test_jobs_in_a_queue_outlive_a_workflow_that_was_killed(folder):
    """What went to a scheduler may go on after a SIGKILL: a person looks first."""
    with holding(folder, has_queue=True):
        left = (folder / LOCK_NAME).read_text()
    with holding(folder, has_queue=True):
        pass
    (folder / LOCK_NAME).write_text(left)
    with pytest.raises(LeaseError, match=r"queue of its scheduler.*delete .*\.workflow\.lock"):
        holding(folder).__enter__()


def test_a_lock_that_cannot_be_opened_is_named(folder):
    """Where another thing, or a file of another user, is in the way, the message names the file."""
    for name in (LOCK_NAME, ".workflow-jobs.lock"):
        (folder / name).mkdir(parents=True)
        with pytest.raises(LeaseError, match=rf"cannot be written \({name}: "):
            holding(folder).__enter__()
        (folder / name).rmdir()


def test_a_file_system_that_cannot_lock_is_told(folder, monkeypatch, capsys):
    """Without locks nothing is held, which is said, and jobs are not told to watch."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    with holding(folder) as is_held:
        assert not is_held
        assert "LANTK_WORKFLOW_LOCK" not in os.environ
    assert "cannot lock files" in capsys.readouterr().err


def plugin(is_dry):
    return SimpleNamespace(
        common_settings=SimpleNamespace(dryrun_exec=is_dry, non_local_exec=False)
    )


@pytest.mark.parametrize(
    ("is_dry", "is_main", "is_held"),
    [(False, True, True), (True, True, False), (False, False, False)],
)
def test_only_a_run_of_the_user_holds_the_folder(folder, is_dry, is_main, is_held):
    """Dry runs and jobs of a workflow look only; a run has no need of Snakemake's own lock."""
    seen = []
    workflow = SimpleNamespace(
        is_main_process=is_main,
        execution_settings=SimpleNamespace(lock=True),
        execute=lambda executor_plugin: seen.append((folder / LOCK_NAME).exists()),
    )
    hold_while_executing(workflow, folder)
    workflow.execute(executor_plugin=plugin(is_dry))
    assert seen == [is_held]
    assert workflow.execution_settings.lock is not is_held


def test_a_refusal_is_an_error_that_snakemake_prints_in_one_sentence(folder):
    """What Snakemake raises to be printed without a traceback is what a second run raises."""
    workflow = SimpleNamespace(is_main_process=True, execute=lambda **_: None)
    hold_while_executing(workflow, folder)
    with holding(folder), pytest.raises(WorkflowError, match="another workflow"):
        workflow.execute(executor_plugin=plugin(False))


def test_files_from_the_future_are_dated_from_now(folder):
    """A file of tomorrow is dated from now, one of this minute or of the past stays."""
    folder.mkdir()
    now = time.time()
    for name, shift in (("tomorrow", 86400), ("just", 5), ("past", -86400)):
        (folder / name).write_text("x")
        os.utime(folder / name, (now + shift, now + shift))
    bring_back_from_the_future(folder)
    assert (folder / "tomorrow").stat().st_mtime == pytest.approx(now, abs=30)
    assert (folder / "just").stat().st_mtime == pytest.approx(now + 5)
    assert (folder / "past").stat().st_mtime == pytest.approx(now - 86400)
