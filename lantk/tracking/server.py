"""A small MLflow server on this machine: started, waited for, ended with all its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from lantk.errors import LantkError
from lantk.experiment.passwords import without_passwords

HOST = "127.0.0.1"
# Importing MLflow takes seconds, and a minute on a machine that is busy.
_START_SECONDS, _STOP_SECONDS = 180.0, 10.0
_LINES_OF_LOG = 8
# Without job processes and with one worker there are 2 processes instead of 15.
_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_OPTIONS = ("--workers", "1", "--uvicorn-opts", "--log-level warning")


class Server:
    """An MLflow server that `serving` started."""

    def __init__(self, uri: str, port: int, log: IO[str]) -> None:
        self.address = f"http://{HOST}:{port}"
        self._uri, self._log = uri, log
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
        self._process = subprocess.Popen(
            [*command, *_OPTIONS],
            # Not an argument, which every user of the machine can read: it may hold a password.
            env=os.environ | _SETTINGS | {"MLFLOW_BACKEND_STORE_URI": uri},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C then reaches this process alone, which ends the others.
            start_new_session=True,
        )

    def wait_until_it_answers(self) -> None:
        """Return when the server answers; raise if it ended before that, or takes too long."""
        # No proxy: it could not reach this machine.
        opener = build_opener(ProxyHandler({}))
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LantkError(self._failure("ended before it answered"))
            with suppress(URLError, ConnectionError, TimeoutError):
                opener.open(f"{self.address}/health", timeout=10).close()
                return
            time.sleep(0.2)
        raise LantkError(self._failure(f"did not answer within {_START_SECONDS:.0f} s"))

    def wait_until_it_ends(self) -> None:
        """Raise when the server ended by itself, which it should not."""
        self._process.wait()
        raise LantkError(self._failure("ended"))

    def end(self) -> None:
        """End all its processes: first they are asked, then they are not."""
        group = self._process.pid
        try:
            os.killpg(group, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < deadline:
                self._process.poll()
                os.killpg(group, 0)
                time.sleep(0.05)
        except ProcessLookupError:  # none is left
            return
        finally:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            self._process.wait()

    def _failure(self, what: str) -> str:
        self._log.seek(0)
        lines = self._log.read().splitlines()[-_LINES_OF_LOG:]
        text = "\n  ".join([f"the MLflow server of {self._uri} {what}. It said last:", *lines])
        return without_passwords(text, self._uri)


@contextmanager
def serving(uri: str, port: int) -> Iterator[Server]:
    """Run a server on this machine, for this machine, as long as a block lasts.

    Parameters
    ----------
    uri : str
        The store, ``sqlite:///...`` or the address of another database.
    port : int
        Where to listen.

    Yields
    ------
    Server
        It answers by now.

    Raises
    ------
    LantkError
        If the port is taken, or the server does not come to answer; its last lines say why.

    Notes
    -----
    Two processes and about 0.5 GB of memory. They end with the block, whether it is left by
    Ctrl-C, by SIGTERM or by the terminal's end.
    """
    _check_port(port)
    with tempfile.TemporaryFile("w+", errors="replace") as log, _exit_at_hangup():
        server = None
        try:
            # A signal in the middle of a start would lose the process that was just made.
            with _signals_wait():
                server = Server(uri, port, log)
            server.wait_until_it_answers()
            yield server
        finally:
            if server is not None:
                with _signals_wait():
                    server.end()


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        # As the server does: a port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise LantkError(
                f"port {port} of this machine cannot be used ({error}): perhaps another dashboard"
                f" runs there. End it, or choose another port, such as --port {port % 60000 + 1}"
            ) from error


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let signals that end this process take effect at the end of a block, not within it."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _exit_at_hangup() -> Iterator[None]:
    """Unwind when the terminal is closed, unless it was asked to be ignored (nohup)."""
    before = signal.getsignal(signal.SIGHUP)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
