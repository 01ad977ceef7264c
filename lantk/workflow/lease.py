"""A results folder belongs to one workflow at a time, and its jobs end with that workflow.

A running workflow holds an exclusive lock of the system on a file in the folder. Whatever ends it,
SIGKILL included, the system frees the lock: nothing stale is left to be removed. Its jobs look each
second whether that lock is still held, and by their workflow; if not, they end themselves. They
share the lock of a second file, which the next workflow waits for before it starts any job.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lantk.errors import LantkError
from lantk.files import lock_within

LOCK_NAME = ".workflow.lock"
_JOBS_NAME = ".workflow-jobs.lock"
# Tells jobs the machine of their workflow, its token, and the file that it holds.
_VARIABLE = "LANTK_WORKFLOW_LOCK"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_PATIENCE_SECONDS = 60.0
_PROBE_SECONDS = 1.0
_WATCH_SECONDS = 1.0
_SETTLING_SECONDS = 0.2
# Compiled code hears of a signal when it returns to Python; after this it is not waited for.
_GRACE_SECONDS = 10.0
# Clocks of the machines that share a file system differ by less.
_CLOCK_SKEW_SECONDS = 60.0


class LeaseError(LantkError):
    """The results folder belongs to another workflow, or cannot be written."""


def hold_while_executing(
    workflow: Any, results: str | os.PathLike[str], prepare: Callable[[], None] = lambda: None
) -> None:
    """Let a Snakemake workflow hold its results folder while it runs jobs, and prepare it for them.

    Only the process that a user started holds it, and not for a dry run, a report, a list. Where
    the folder is held, Snakemake's own lock, which outlives a SIGKILL, is left out.
    """
    # Nothing that Snakemake calls before it takes its own lock can be written in a Snakefile.
    execute = workflow.execute

    def execute_alone(**settings: Any) -> Any:
        from snakemake.exceptions import WorkflowError

        executor = settings["executor_plugin"].common_settings
        if executor.dryrun_exec or not workflow.is_main_process:
            return execute(**settings)
        try:
            with holding(results, has_queue=executor.non_local_exec) as is_held:
                if is_held:
                    workflow.execution_settings.lock = False
                bring_back_from_the_future(results)
                with _naming(Path(results) / "listing.json"):
                    prepare()
                return execute(**settings)
        except LeaseError as error:
            raise WorkflowError(str(error)) from None

    workflow.execute = execute_alone


@contextmanager
def holding(results: str | os.PathLike[str], *, has_queue: bool = False) -> Iterator[bool]:
    """Hold a results folder for the length of a block; jobs that it starts end with it.

    Yields whether it is held: some shared file systems cannot lock, which is said on standard
    error. The folder is made where it is not there. Where jobs go to a scheduler, which
    `has_queue` says, they outlive a workflow that is killed.

    Raises
    ------
    LeaseError
        If another workflow holds the folder, one whose jobs cannot be seen from here did not end
        in order, or the folder cannot be written.
    """
    lock = Path(results).absolute() / LOCK_NAME
    with _naming(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        # Python's descriptors are not inherited: no child can hold on to it.
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with _naming(lock):
            is_held = _take(descriptor, lock)
        if not is_held:
            yield False
            return
        record = _own_record() | {"has_queue": has_queue}
        _check_left_behind(lock, record)
        with _naming(lock):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(record).encode(), 0)
        try:
            # Jobs of a workflow that was killed now find the folder in other hands.
            jobs = lock.with_name(_JOBS_NAME)
            with _naming(jobs):
                _wait_for_jobs(jobs)
            os.environ[_VARIABLE] = f"{record['boot']}:{record['token']}:{lock}"
            yield True
        finally:
            os.environ.pop(_VARIABLE, None)
            with suppress(OSError):  # a disk that fails turns read-only
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def bring_back_from_the_future(results: str | os.PathLike[str]) -> None:
    """Date files of a results folder from now that a wrong clock dated from later.

    Whatever is made of such a file is older than it, and would be made again by each run until
    that time has come.
    """
    now = time.time()
    # Files come and go while jobs of another machine write, and some may be another user's.
    for folder, folders, files in os.walk(results):
        for name in folders + files:
            path = os.path.join(folder, name)
            with suppress(OSError):
                if os.lstat(path).st_mtime > now + _CLOCK_SKEW_SECONDS:
                    os.utime(path, (now, now), follow_symlinks=False)


def end_with_workflow() -> threading.Event:
    """End this process when the workflow that started it has ended, or the shell between them.

    It gets SIGTERM, so that it can unwind; if that takes too long it is ended at once, which
    leaves nothing half-written either. A process that no workflow of this machine started is left
    alone. Returns an event, set before the signal is sent where it was the workflow that ended.
    """
    ended = threading.Event()
    machine, _, rest = os.environ.get(_VARIABLE, "").partition(":")
    token, _, path = rest.partition(":")
    # On another machine the scheduler ends jobs, and a lock may be no news from here.
    if machine == _machine():
        lock = Path(path)
        with suppress(OSError):
            # Kept, open and locked, until this process has ended.
            jobs = os.open(lock.with_name(_JOBS_NAME), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(jobs, fcntl.LOCK_SH | fcntl.LOCK_NB)
        watch = threading.Thread(
            target=_watch, args=(lock, token, os.getppid(), ended), daemon=True
        )
        watch.start()
    return ended


def _watch(lock: Path, token: str, parent: int, ended: threading.Event) -> None:
    """End this process once the workflow is gone, or was killed with the shell left out."""
    while (is_held := _is_held(lock, token)) and os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    if is_held:
        # The shell in between is gone, or the next workflow holds the lock and has yet to say so.
        time.sleep(_SETTLING_SECONDS)
        is_held = _is_held(lock, token)
    if not is_held:
        ended.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _is_held(lock: Path, token: str) -> bool:
    """Return whether a folder is held by the workflow of this token, as far as can be seen."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return True  # deleted with the results, or out of reach for a while
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        # A record that cannot be read is no news.
        return _read_record(lock).get("token", token) == token
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _take(descriptor: int, lock: Path) -> bool:
    """Lock a file, or say why not; return whether its file system can lock at all."""
    try:
        # A job that looks whether its workflow lives has it for a moment.
        is_free = lock_within(descriptor, _PROBE_SECONDS)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _say(
            f"The file system of {lock.parent} cannot lock files ({error.strerror}): do not start"
            " a second workflow on these results; jobs of a workflow that is killed go on"
        )
        return False
    if not is_free:
        raise LeaseError(
            f"another workflow is writing to {lock.parent}: {_describe(_read_record(lock))}. Wait"
            " until it has ended, or end it with Ctrl-C where it was started; a workflow with"
            " another `results` folder may run beside it"
        )
    return True


def _wait_for_jobs(jobs: Path) -> None:
    """Wait until jobs of a workflow that was killed have ended."""
    descriptor = os.open(jobs, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if lock_within(descriptor, 0):
            return
        _say("Waiting until the jobs of a workflow that was killed have ended")
        if not lock_within(descriptor, _PATIENCE_SECONDS):
            raise LeaseError(
                "jobs of a workflow that was killed have not ended within"
                f" {_PATIENCE_SECONDS:.0f} s and may still write to {jobs.parent}. See which they"
                f" are, `fuser -v {shlex.quote(str(jobs))}`, and end them"
            )
    finally:
        os.close(descriptor)


def _check_left_behind(lock: Path, own: dict[str, Any]) -> None:
    """Refuse what a workflow of another machine left, or one whose jobs may still be queued."""
    record = _read_record(lock)
    if record.get("has_queue"):
        raise LeaseError(
            f"a workflow that wrote to {lock.parent} was killed: {_describe(record)}. Its jobs may"
            " still be in the queue of its scheduler: cancel them, or wait until they have ended;"
            f" then delete {lock} and start again"
        )
    # A lock may not reach as far as another machine.
    if record and all(record.get(key) != own[key] for key in ("host", "boot")):
        raise LeaseError(
            f"a workflow on another machine is writing to {lock.parent} or was killed:"
            f" {_describe(record)}. If it no longer runs there, delete {lock} and start again"
        )


def _own_record() -> dict[str, Any]:
    return {
        "token": secrets.token_hex(8),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _machine(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _machine() -> str:
    """Return what tells running systems apart: locks of the same one always meet."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def _read_record(lock: Path) -> dict[str, Any]:
    """Return what the holder of a lock wrote, or nothing where it has ended in order."""
    try:
        return dict(json.loads(lock.read_text()))
    except (OSError, ValueError):
        return {}


def _describe(record: dict[str, Any]) -> str:
    if not record:
        return "it has just started"
    return (
        f"process {record.get('pid')} on {record.get('host')}, started {record.get('started')}"
        f" (`{record.get('command')}`)"
    )


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Turn an error of the system into one that names the file that cannot be used."""
    try:
        yield
    except OSError as error:
        raise LeaseError(
            f"the results folder {file.parent} cannot be written ({file.name}: {error.strerror}):"
            " make folder and file writable or free some space, or choose another folder with"
            " `results`"
        ) from error


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
