"""A Slurm cluster of one node on this machine, with its state, key and sockets in one folder.

    python tests/system/slurm/cluster.py PROGRAM ARGUMENT ...

runs a program with the cluster up, and stops the cluster again; with --check it only says whether
one can be started here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
# Daemons lie where the path of a plain user does not lead.
SEARCH_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
PATIENCE_S = 60

# No accounting database and no control groups: what a job used is read from /proc, every second.
CONFIGURATION = """
ClusterName=lantk
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
# How long finished jobs can be asked about: longer than all tests take.
MinJobAge=7200
# Jobs start, and are cleaned up, as soon as they can.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,defer_batch
CompleteWait=0
InactiveLimit=0
KillWait=5
GresTypes=gpu
# What is counted may be more than this machine has: jobs use much less than they ask for.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=100000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NoCluster(RuntimeError):
    """Slurm cannot be started here; the message says why."""


def check() -> None:
    """Raise NoCluster where a program is missing, or the user is not root."""
    missing = [name for name in DAEMONS + CLIENTS if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        raise NoCluster(f"not installed: {', '.join(missing)} (Debian: slurm-wlm and munge)")
    if os.geteuid() != 0:
        raise NoCluster("its daemons are started as root, and this is another user")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait(is_ready, what: str, folder: Path) -> None:
    """Wait until something holds; say what the daemons wrote when it does not."""
    until = time.monotonic() + PATIENCE_S
    while not is_ready():
        if time.monotonic() > until:
            logs = "\n".join(
                f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-20:])
                for log in sorted(folder.glob("*.log"))
            )
            raise NoCluster(f"{what} not within {PATIENCE_S} s\n{logs}")
        time.sleep(0.1)


def _stop(pid_file: Path) -> None:
    """End the daemon whose process id a file holds, and wait until it is gone."""
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            os.kill(pid, 0)  # raises once it is gone
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(cpus: int) -> Iterator[dict[str, str]]:
    """Start the daemons, and stop them by their pid files whatever happens.

    Parameters
    ----------
    cpus
        Jobs of one CPU that run at once. Slurm counts them, nothing binds jobs to them.

    Yields
    ------
    dict
        The environment in which Slurm's own commands, and Snakemake, find this cluster.

    Raises
    ------
    NoCluster
        A program is missing, the user is not root, or a daemon does not come up.
    """
    check()
    # Short: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="lantk-slurm-"))
    folder.chmod(0o755)  # munged wants its socket within reach of all; the key is root's alone
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=host,
            cpus=cpus,
            controller_port=_free_port(),
            node_port=_free_port(),
        )
    )
    # No GPU need be here for one to be asked for.
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    key = folder / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(128))
    # Slurm's commands by wrappers: inside a job Snakemake clears SLURM_CONF before it calls srun,
    # and /etc/slurm is not ours.
    wrappers = folder / "bin"
    wrappers.mkdir()
    for name in CLIENTS:
        program = shutil.which(name, path=SEARCH_PATH)
        (wrappers / name).write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {program} "$@"\n')
        (wrappers / name).chmod(0o755)
    # Nothing of a job that this may itself run in.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    } | {"PATH": os.pathsep.join([str(wrappers), SEARCH_PATH])}

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def start(*command: str) -> None:
        # A file, not a pipe: what a daemon inherits stays open as long as the daemon lives.
        with (folder / f"{command[0]}.start.log").open("w") as log:
            if subprocess.run(command, env=environment, stdout=log, stderr=log).returncode:
                raise NoCluster(f"{command[0]} did not start: {Path(log.name).read_text()}")

    # Ended by a signal, as by a time limit on tests, the daemons are stopped as after Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        start(
            *("munged", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"),
            *(f"--seed-file={folder}/munged.seed", "--num-threads=2"),
        )
        start("slurmctld", "-c", "-f", str(configuration))
        _wait(lambda: "UP" in call("scontrol", "ping").stdout, "slurmctld", folder)
        start("slurmd", "-c", "-f", str(configuration))
        _wait(
            lambda: "State=IDLE" in call("scontrol", "show", "node", host).stdout,
            "slurmd",
            folder,
        )
        yield environment
    finally:
        if (folder / "slurmctld.pid").exists():
            call("scancel", "--quiet", "--user=root")
            _wait(lambda: not call("squeue", "--noheader").stdout.strip(), "end of jobs", folder)
        for daemon in ("slurmd", "slurmctld", "munged"):
            _stop(folder / f"{daemon}.pid")
        shutil.rmtree(folder)
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["--check"]:
            sys.exit(check())
        with running(cpus=os.cpu_count() or 1) as surroundings:
            sys.exit(subprocess.run(sys.argv[1:], env=surroundings).returncode)
    except NoCluster as error:
        sys.exit(f"A Slurm cluster cannot be started: {error}")
