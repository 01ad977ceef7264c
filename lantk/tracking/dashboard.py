"""The MLflow dashboard: its address, links to what there is to see, and its server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from lantk.errors import LantkError
from lantk.experiment.passwords import without_password, without_user
from lantk.tracking.views import CHARTS, LIST, view_key

_HOST = "127.0.0.1"
_PORT = 5000
# Without job processes and with one worker there are 2 processes instead of 15.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",  # of MLflow's own use of its libraries
}
_UVICORN = "--log-level warning --timeout-graceful-shutdown 5"
_STOP_SECONDS = 10.0


def is_server(uri: str) -> bool:
    """Return whether a tracking URI is of a server, which shows its own dashboard."""
    return uri.startswith(("http://", "https://"))


def base_address(uri: str) -> str:
    """Return where the dashboard of a store is: the server itself, or this machine."""
    return without_user(uri).rstrip("/") if is_server(uri) else local_address(_PORT)


def local_address(port: int) -> str:
    """Return where a dashboard on this machine is."""
    return f"http://{_HOST}:{port}"


def links(
    base: str, experiment_id: str, results_id: str, run_ids: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return label -> address: all runs as charts and as a list, then one comparison a case.

    `run_ids` maps a case to the runs to compare.
    """

    def address(page: str, **values: str) -> str:
        # Without a type a fresh browser opens its view for language models, which has no runs.
        query = urlencode(values | {"workflowType": "machine_learning"}, quote_via=quote)
        return f"{base}/#/{page}?{query}"

    def shown(view: str, mode: str) -> str:
        page, key = f"experiments/{experiment_id}/runs", view_key(results_id, view)
        return address(page, compareRunsMode=mode, viewStateShareKey=key)

    found = {"all runs as charts": shown(CHARTS, "CHART"), "list of runs": shown(LIST, "TABLE")}
    for case, ids in run_ids.items():
        chosen = json.dumps(list(ids))
        found[case] = address("compare-runs", runs=chosen, experiments=json.dumps([experiment_id]))
    return found


def links_at(record: Mapping[str, Any], base: str) -> dict[str, str]:
    """Return the links of a ``tracking.json`` for a dashboard at another address."""
    return {
        label: f"{base}/#/{address.partition('/#/')[2]}"
        for label, address in record["links"].items()
    }


def dashboard_hint(results: Path, n_runs: int, n_failed: int, experiment: str, uri: str) -> str:
    """Return what to print at the end of a workflow: where the runs are, and how to see them."""
    folder = shlex.quote(str(results))
    failed = f" ({n_failed} of them failed)" if n_failed else ""
    runs = f"{n_runs} runs{failed}" if n_runs > 1 else f"1 run{' (failed)' if n_failed else ''}"
    lines = [f"{runs} in the MLflow experiment {experiment!r}. To see them:"]
    if is_server(uri):
        lines.append(f"  open {base_address(uri)}")
    else:
        lines.append(f"  python -m lantk mlflow dashboard --results {folder}")
    lines.append(f"  python -m lantk mlflow links --results {folder}   (prints the addresses)")
    return "\n".join(lines)


def links_text(record: Mapping[str, Any], results: Path, base: str | None = None) -> str:
    """Return every link of a ``tracking.json``, for a dashboard that runs at `base`.

    If that is absent, how to start one comes first.
    """
    lines = []
    if base is None and not is_server(record["uri"]):
        command = f"python -m lantk mlflow dashboard --results {shlex.quote(str(results))}"
        lines = ["The links work while the dashboard runs (Ctrl-C ends it):", f"  {command}", ""]
    addresses = record["links"] if base is None else links_at(record, base)
    for label, address in addresses.items():
        is_case = "compare-runs" in address
        lines.append(f"{label}, variants compared: {address}" if is_case else f"{label}: {address}")
    return "\n".join(lines)


def check_port(port: int) -> None:
    """Raise `LantkError` if no dashboard can listen on a port of this machine."""
    with socket.socket() as probe:
        # As the server does: a port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise LantkError(
                f"port {port} of this machine cannot be used ({error}): perhaps another dashboard"
                f" runs there. End it, or choose another port, such as --port {port % 60000 + 1}"
            ) from error


def serve(uri: str, port: int) -> None:
    """Run ``mlflow server`` for this machine until something ends it, such as Ctrl-C.

    Raises
    ------
    LantkError
        If it ended by itself.
    """
    import psutil

    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port)]
    try:
        # In a session of its own: Ctrl-C reaches this process alone, which ends all of the server.
        # The address is no argument, which every user could read: it may hold a password.
        status = subprocess.Popen(
            [*command, "--workers", "1", "--uvicorn-opts", _UVICORN],
            env=os.environ | _SETTINGS | {"MLFLOW_BACKEND_STORE_URI": uri},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ).wait()
    finally:
        # Asked of the system, since a signal may come while `Popen` is at work. MLflow passes none
        # on to the process that it starts.
        started = psutil.Process().children(recursive=True)
        for process in psutil.Process().children():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        psutil.wait_procs(started, _STOP_SECONDS)
    shown = without_password(uri)
    raise LantkError(f"the MLflow server of {shown} ended with status {status}; see above why")
