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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from lantk.tracking.models import model_files
from lantk.tracking.run import Run, text_digest

# Limits of MLflow: a batch holds 1,000 metrics, or 100 parameters, which no run has; lengths in
# characters.
_METRICS_PER_BATCH, _RUNS_PER_PAGE = 1000, 1000
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
    """Name of the run, perhaps this one, that alone of its case holds what is said of the whole
    folder; None where every run has a copy."""

    @property
    def identity(self) -> str:
        """A tag that stays when the content changes."""
        run = self.run
        what = [run.job] if run.job else [run.case, run.variant, run.seed]
        return text_digest([self.folder_name, *what], 16)

    @property
    def params(self) -> dict[str, str]:
        return {key: _param_text(value) for key, value in self.run.params.items()}

    @property
    def contents(self) -> dict[str, bytes | Path]:
        """Name of an artifact -> its content, or the file that has it."""
        run = self.run
        provenance = json.dumps(run.provenance, indent=2, sort_keys=True, default=str)
        texts = {"config.json": self.config_text, "provenance.json": provenance}
        if self.kept_with not in (None, run.name):
            # In place of the file, so that no older and smaller one is left in its place.
            texts["config.json"] = json.dumps({"kept with the run": self.kept_with})
            if "table.md" in run.artifacts:
                texts["table.md"] = f"Large, and kept with the run {self.kept_with!r} only."
        texts = {name: f"{text}\n" for name, text in texts.items()} | dict(run.texts)
        found = {**run.artifacts, **texts, **self._model_files}
        return {k: v.encode() if isinstance(v, str) else v for k, v in found.items()}

    @cached_property
    def _model_files(self) -> dict[str, str | Path]:
        run = self.run
        if run.model is None:
            return {}
        return model_files(run.model, run.provenance.get("versions") or {})

    @property
    def tags(self) -> dict[str, str]:
        """All tags but the fingerprint."""
        tags = dict(self.run.tags)
        digests = {name: _digest(content) for name, content in self.contents.items()}
        if "commit" in tags:
            tags["mlflow.source.git.commit"] = tags["commit"]
        return tags | {
            "results": self.folder_name,
            "results_id": results_id(self.folder_name),
            "config": text_digest(self.config_text, 16),
            "identity": self.identity,
            "files": json.dumps(digests, sort_keys=True),
            "state": "current",
            "mlflow.source.name": "lantk",
            "mlflow.runName": self.run.name,
        }


def results_id(folder_name: str) -> str:
    """Return the tag that all runs of a results folder share."""
    return text_digest(folder_name, 16)


def find_runs(client: Any, experiment_id: str, folder_name: str, *, all_states: bool) -> list[Any]:
    """Return the runs of one results folder: unfinished ones, and superseded ones if asked for."""
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


def match_runs(
    existing: Sequence[Any], wanted: Sequence[LoggedRun]
) -> tuple[list[tuple[LoggedRun, list[Any]]], list[Any], list[Any]]:
    """Find for each run that should be there those that are, superseded ones left out before.

    Returns the pairs, of which the run with the same content comes first (after an interrupt two
    may be current); the unfinished runs; and those of what the results no longer have.
    """
    unfinished = [found for found in existing if "fingerprint" not in found.data.tags]
    by_identity: dict[str, list[Any]] = defaultdict(list)
    for found in existing:
        if "fingerprint" in found.data.tags:
            by_identity[found.data.tags["identity"]].append(found)
    pairs = []
    for run in wanted:
        of_run = by_identity.pop(run.identity, [])
        of_run.sort(key=lambda found: found.data.tags["fingerprint"] != run.run.fingerprint)
        pairs.append((run, of_run))
    return pairs, unfinished, [found for left in by_identity.values() for found in left]


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
    client.log_batch(run_id, params=params, synchronous=True)
    for first in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics[first : first + _METRICS_PER_BATCH], synchronous=True)
    if run.data:
        client.log_inputs(run_id, datasets=[_dataset_input(run)])
    _log_files(client, run_id, wanted.contents)
    client.set_terminated(run_id, run.status, end_time=end)
    client.set_tag(run_id, "fingerprint", run.fingerprint)
    return run_id


def bring_up_to_date(client: Any, found: Any, wanted: LoggedRun) -> bool:
    """Write the tags and files in which a run of the same content differs; return if any did.

    Metrics that a clock decides are added where they were not known yet, and stay where they were.
    """
    from mlflow.entities import Metric, RunTag

    run_id, logged, tags = found.info.run_id, found.data.tags, wanted.tags
    stale = [RunTag(key, text) for key, text in tags.items() if logged.get(key) != text]
    end, known = round(wanted.run.ended * 1000), found.data.metrics
    late = [Metric(k, v, end, 0) for k, v in wanted.run.metrics.items() if k not in known]
    old, new = json.loads(logged.get("files", "{}")), json.loads(tags["files"])
    changed = {name for name in new if old.get(name) != new[name]}
    changed |= set(damaged_files(client, run_id, wanted))
    if changed:
        _log_files(client, run_id, {name: wanted.contents[name] for name in sorted(changed)})
    if found.info.run_name != wanted.run.name:
        client.update_run(run_id, name=wanted.run.name)
    if stale or late:
        client.log_batch(run_id, late, tags=stale, synchronous=True)
    return bool(stale or late or changed)


def damaged_files(client: Any, run_id: str, wanted: LoggedRun) -> dict[str, str]:
    """Return name of a file -> what is wrong with it in a run: it is missing, or of another size.

    Its content is not read back, which would fetch every file from a server.
    """
    contents = wanted.contents
    folders = {str(PurePosixPath(name).parent) for name in contents} - {"."}
    listed = [file for path in (None, *folders) for file in client.list_artifacts(run_id, path)]
    there = {file.path: file.file_size for file in listed}
    damaged = {}
    for name, content in contents.items():
        n_bytes = content.stat().st_size if isinstance(content, Path) else len(content)
        if name not in there:
            damaged[name] = "is not there"
        elif there[name] not in (None, n_bytes):  # some stores do not tell
            damaged[name] = f"has {there[name]} bytes, wanted {n_bytes}"
    return damaged


def mark_superseded(client: Any, old: Any, note: str, successor: str = "") -> None:
    """Say of a run that it is no longer part of the results, why, and by which it was replaced."""
    from mlflow.entities import RunTag

    tags = {"superseded_by": successor, "mlflow.note.content": note, "state": "superseded"}
    run_id, name = old.info.run_id, old.info.run_name.removesuffix(_SUPERSEDED)
    client.update_run(run_id, name=f"{name}{_SUPERSEDED}")
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()], synchronous=True)


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


def _log_files(client: Any, run_id: str, contents: Mapping[str, bytes | Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="lantk-") as folder:
        for name, content in contents.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, file)
            else:
                file.write_bytes(content)
        client.log_artifacts(run_id, folder)


def _digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()[:8]
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
