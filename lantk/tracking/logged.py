"""One run in an MLflow store: what it should hold, how it is logged, brought up to date, retired.

The fingerprint is the last thing written to a run, so a run without one is unfinished. Parameters,
metrics and curves of a run never change; its tags and files follow the results in place, since a
table or a figure shows other variants too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lantk.tracking.run import Run, text_digest

# Limits of MLflow: a batch holds 1,000 things, 100 of them parameters; lengths in characters.
_PARAMS_PER_BATCH, _METRICS_PER_BATCH, _RUNS_PER_PAGE = 100, 900, 1000
_PARAM_LENGTH, _DIGEST_LENGTH = 6000, 36
_SUPERSEDED = " (superseded)"


@dataclass(frozen=True)
class LoggedRun:
    """What a store should hold of a run: the run, and what it shares with others of its folder."""

    run: Run
    folder_name: str
    """The results folder, as the configuration names it."""
    config_text: str
    kept_with: str | None = None
    """Name of the run that holds what is said of the whole folder, where that is too large for
    every run to have a copy; None where this one has it."""

    @property
    def identity(self) -> str:
        """A tag that stays when the content changes."""
        run = self.run
        return text_digest([self.folder_name, run.case, run.variant, run.seed], 16)

    @property
    def params(self) -> dict[str, str]:
        return {key: _param_text(value) for key, value in self.run.params.items()}

    @property
    def texts(self) -> dict[str, str]:
        """Name of an artifact -> its content, of those that are no files of the results."""
        run = self.run
        provenance = json.dumps(run.provenance, indent=2, sort_keys=True, default=str)
        written = {"config.json": self.config_text, "provenance.json": provenance}
        if self.kept_with is not None:
            # In place of the file, so that no older and smaller one is left in its place.
            written["config.json"] = json.dumps({"kept with the run": self.kept_with})
            if "table.md" in run.artifacts:
                written["table.md"] = f"Large, and kept with the run {self.kept_with!r} only."
        return {name: f"{text}\n" for name, text in written.items()} | dict(run.texts)

    @property
    def _copied(self) -> dict[str, Path]:
        """Name of an artifact -> the file of the results that it is a copy of."""
        texts = self.texts
        return {name: path for name, path in self.run.artifacts.items() if name not in texts}

    @property
    def files(self) -> dict[str, str]:
        """Name of an artifact -> first digits of the digest of its content."""
        content = {name: path.read_bytes() for name, path in self._copied.items()}
        content |= {name: text.encode() for name, text in self.texts.items()}
        return {name: hashlib.sha256(data).hexdigest()[:8] for name, data in content.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Name of an artifact -> its bytes."""
        sizes = {name: path.stat().st_size for name, path in self._copied.items()}
        return sizes | {name: len(text.encode()) for name, text in self.texts.items()}

    @property
    def tags(self) -> dict[str, str]:
        """All tags but the fingerprint."""
        tags = dict(self.run.tags)
        if "commit" in tags:
            tags["mlflow.source.git.commit"] = tags["commit"]
        return tags | {
            "results": self.folder_name,
            "results_id": results_id(self.folder_name),
            "config": text_digest(self.config_text, 16),
            "identity": self.identity,
            "files": json.dumps(self.files, sort_keys=True),
            "state": "current",
            "mlflow.source.name": "lantk",
            "mlflow.runName": self.run.name,
        }


def results_id(folder_name: str) -> str:
    """Return the tag that all runs of a results folder share."""
    return text_digest(folder_name, 16)


def find_runs(client: Any, experiment_id: str, folder_name: str, *, all_states: bool) -> list[Any]:
    """Return the runs of one results folder, unfinished ones included.

    Parameters
    ----------
    client : mlflow.MlflowClient
        Of the store.
    experiment_id, folder_name : str
        Which runs.
    all_states : bool
        Whether superseded runs count.
    """
    wanted = f"tags.results_id = '{results_id(folder_name)}'"
    wanted += "" if all_states else " and tags.state != 'superseded'"
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment_id], wanted, max_results=_RUNS_PER_PAGE, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def log_run(client: Any, experiment_id: str, wanted: LoggedRun) -> str:
    """Log a run and return its id."""
    from mlflow.entities import Metric, Param

    run = wanted.run
    end = round(run.ended * 1000)
    start = end - round(run.seconds * 1000)
    created = client.create_run(
        experiment_id, start_time=start, run_name=run.name, tags=wanted.tags
    )
    run_id = str(created.info.run_id)
    params = [Param(key, text) for key, text in wanted.params.items()]
    metrics = [Metric(key, value, end, 0) for key, value in run.metrics.items()]
    metrics += [Metric(k, v, end, step) for k, curve in run.curves.items() for step, v in curve]
    for some_metrics, some_params in zip_longest(
        _batches(metrics, _METRICS_PER_BATCH), _batches(params, _PARAMS_PER_BATCH), fillvalue=()
    ):
        client.log_batch(run_id, some_metrics, some_params, synchronous=True)
    if run.data:
        client.log_inputs(run_id, datasets=[_dataset_input(run)])
    _log_files(client, run_id, wanted, wanted.files)
    client.set_terminated(run_id, run.status, end_time=end)
    client.set_tag(run_id, "fingerprint", run.fingerprint)
    return run_id


def bring_up_to_date(client: Any, found: Any, wanted: LoggedRun) -> bool:
    """Write the tags and files in which a run of the same content differs; return if any did.

    Metrics that a clock decides are added where they were not known yet, and stay where they were.
    """
    from mlflow.entities import Metric, RunTag

    run_id, logged = found.info.run_id, found.data.tags
    stale = {key: text for key, text in wanted.tags.items() if logged.get(key) != text}
    end, known = round(wanted.run.ended * 1000), found.data.metrics
    late = [Metric(k, v, end, 0) for k, v in wanted.run.metrics.items() if k not in known]
    changed = set(damaged_files(client, run_id, wanted))
    if "files" in stale:
        old = json.loads(logged.get("files", "{}"))
        changed |= {name for name, digest in wanted.files.items() if old.get(name) != digest}
    if changed:
        _log_files(client, run_id, wanted, sorted(changed))
    if found.info.run_name != wanted.run.name:
        client.update_run(run_id, name=wanted.run.name)
    if stale or late:
        tags = [RunTag(key, text) for key, text in stale.items()]
        client.log_batch(run_id, late, tags=tags, synchronous=True)
    return bool(stale or late or changed)


def damaged_files(client: Any, run_id: str, wanted: LoggedRun) -> dict[str, str]:
    """Return name of a file -> what is wrong with it in a run: it is missing, or of another size.

    Its content is not read back, which would fetch every file from a server.
    """
    there = {file.path: file.file_size for file in client.list_artifacts(run_id)}
    damaged = {}
    for name, size in wanted.sizes.items():
        if name not in there:
            damaged[name] = "is not there"
        elif there[name] not in (None, size):  # some stores do not tell
            damaged[name] = f"has {there[name]} bytes, wanted {size}"
    return damaged


def mark_superseded(client: Any, old: Any, successor: str | None) -> None:
    """Say of a run that it is no longer part of the results, and by which it was replaced."""
    from mlflow.entities import RunTag

    note = "No longer part of the results on disk."
    if successor is not None:
        note = f"Superseded by run {successor}: the results on disk changed."
    tags = {"superseded_by": successor or "", "mlflow.note.content": note, "state": "superseded"}
    client.update_run(
        old.info.run_id, name=old.info.run_name.removesuffix(_SUPERSEDED) + _SUPERSEDED
    )
    client.log_batch(
        old.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()], synchronous=True
    )


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _param_text(value: Any) -> str:
    text = str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return text[:_PARAM_LENGTH]


def _dataset_input(run: Run) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    sizes = {key: run.params[key] for key in ("n_train", "n_test")}
    dataset = Dataset(
        name=f"{run.data['source']} {run.params['task']}",
        digest=run.data["digest"][:_DIGEST_LENGTH],
        source_type="lantk",
        source=json.dumps(dict(run.data)),
        profile=json.dumps(sizes),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train and test")])


def _log_files(
    client: Any, run_id: str, wanted: LoggedRun, names: Mapping[str, str] | Sequence[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="lantk-") as folder:
        for name in names:
            target = Path(folder, name)
            if name in wanted.texts:
                target.write_text(wanted.texts[name], encoding="utf-8")
            else:
                shutil.copyfile(wanted.run.artifacts[name], target)
        client.log_artifacts(run_id, folder)
