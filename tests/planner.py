"""Plan the workflow for many configurations: Snakemake is imported once, and forked for each.

As a program it reads a line of JSON (a configuration) at a time and answers with one: the jobs with
their commands, or the kind and text of the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from work_tree import copy_project

_SECONDS = 120


class Planner:
    """A running planner; its work tree is a copy of the project, where nothing has been run."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        copy_project(tree)
        # Forked where no thread runs, whatever the tests do.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def plan(self, config: Any) -> dict[str, Any]:
        """Return ``jobs``, or ``error`` and ``kind``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(config) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _plan(config: Any) -> dict[str, Any]:
    """Return the jobs of a configuration that is given as a file, as users do."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings import types

    file = Path("fuzz.json")
    file.write_text(json.dumps(config))
    with SnakemakeApi(types.OutputSettings(quiet={types.Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=types.ResourceSettings(cores=2),
            config_settings=types.ConfigSettings(configfiles=[file]),
            snakefile=Path("Snakefile"),
        )
        settings = types.ExecutionSettings(lock=False)
        workflow.dag().execute_workflow(executor="dryrun", execution_settings=settings)
        dag = workflow._workflow.dag
        jobs = [
            {
                "rule": job.rule.name,
                "command": job.shellcmd,
                "log": list(map(str, job.log)),
                "output": list(map(str, job.output)),
            }
            for job in dag.jobs
        ]
    return {"jobs": sorted(jobs, key=lambda job: (job["rule"], job["output"]))}


def _answer(config: Any, pipe: int) -> None:
    """Write the answer into a pipe, and nothing anywhere else."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        answer = _plan(config)
    except BaseException as error:
        answer = {"kind": type(error).__name__, "error": str(error)}
        answer["traceback"] = "".join(traceback.format_exception(error))[-3000:]
    with os.fdopen(pipe, "w") as file:
        json.dump(answer, file)


def main() -> None:
    """Answer until the input ends."""
    import snakemake.api  # noqa: F401, what every answer needs

    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            signal.alarm(_SECONDS)
            with contextlib.suppress(BaseException):
                _answer(json.loads(line), writing)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            answer = file.read()
        os.waitpid(child, 0)
        late = json.dumps({"kind": "Timeout", "error": f"no plan in {_SECONDS} seconds"})
        print(answer or late, flush=True)


if __name__ == "__main__":
    main()
