"""The files of a results folder, read as MLflow runs.

The files are the truth, and a tracking store is a view of them (`tracking.sync`). A variant that
only the leaderboard knows is a run too, and so is a job that failed, with the end of its log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lantk.experiment.records import Listing, Record, read_predictions, read_record
from lantk.experiment.settings import PROTOCOLS
from lantk.experiment.timings import read_gram_cost, read_job_cost
from lantk.experiment.variants import DERIVED, case_key, evaluation_job, first_of_job
from lantk.report.leaderboard import leaderboard
from lantk.tracking.run import Run, TrackingError
from lantk.tracking.values import (
    case_params,
    cost_metrics,
    curves,
    derived_metrics,
    record_metrics,
    setting_params,
    variant_params,
)
from lantk.variant import Variant
from lantk.workflow.failures import FailedJob, find_failed_jobs, task_of

_LOG_LINES, _NOTE_LINES, _LINE_WIDTH = 200, 12, 300
# Protocol -> row of the leaderboard.
_Rows = dict[str, Mapping[str, Any]]
# File, record and predictions of a result; those of a case by variant and seed.
_Evaluation = tuple[Path, Record, pd.DataFrame]
_Evaluations = dict[tuple[str, int | None], _Evaluation]


def read_runs(results: Path, listing: Listing) -> list[Run]:
    """Return the runs that the files under `results` describe, in the order of the listing.

    Evaluations that are not there are left out. A failed job that is to blame for some is one run
    with the status ``FAILED``: in the place of its evaluation, or at the end where there are more.
    Evaluations that the listing does not name are not read.

    Raises
    ------
    TrackingError
        If there is neither an evaluation nor a failed job, or a file is not what it should be.
    """
    found = {case: _read_case(results, case, listing) for case in listing.cases}
    rows = _leaderboard_rows(found)
    runs = [
        run
        for case, evaluations in found.items()
        for run in _case_runs(results, case, evaluations, rows.get(case, {}))
    ]
    runs += _failed_runs(results, listing, runs)
    if not runs:
        raise TrackingError(
            f"no evaluation found in {results}: wanted evaluations/CASE/STEM.json of"
            f" {', '.join(listing.cases)}. Run the workflow first, or check `results` in the"
            " configuration"
        )
    places = {case: i for i, case in enumerate(listing.cases)}
    names = [name for name, _ in listing.stems.values()]
    order = {name: i for i, name in enumerate([*dict.fromkeys(names), *DERIVED])}
    return sorted(
        runs,
        key=lambda r: (
            (len(places), 0, 0) if r.job else (places[r.case], order[r.variant], r.seed or 0)
        ),
    )


def _read_case(results: Path, case: str, listing: Listing) -> _Evaluations:
    """Return the evaluations of one case that are there."""
    found = {}
    for stem, of_stem in listing.stems.items():
        path = results / "evaluations" / case / f"{stem}.json"
        if path.exists():
            with _naming(path):
                found[of_stem] = path, read_record(path, listing.protocols), read_predictions(path)
    return found


def _case_runs(
    results: Path, case: str, found: _Evaluations, rows: Mapping[str, _Rows]
) -> list[Run]:
    """Return the runs of one case: of its evaluations, then of what only the leaderboard has."""
    runs: list[Run] = []
    left = dict(rows)
    for of_stem, evaluation in sorted(found.items(), key=lambda item: item[0][1] or 0):
        # What the leaderboard says of several seeds is logged with the first.
        own = left.pop(of_stem[0], {})
        with _naming(evaluation[0]):
            runs.append(_finished_run(results, case, of_stem, evaluation, own))
    derived = [variant for variant in DERIVED if variant in rows]
    return runs + [_derived_run(case, variant, rows[variant], runs) for variant in derived]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what an evaluation that is broken raises into an error that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"{path} is not an evaluation: {error!r}. Delete it and run the workflow again"
        ) from error
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"{path}, or the predictions beside it, cannot be read: {error}. Delete both and run"
            " the workflow again"
        ) from error


def _leaderboard_rows(found: Mapping[str, _Evaluations]) -> dict[str, dict[str, _Rows]]:
    """Return case -> variant -> protocol -> row of the leaderboard."""
    evaluations = [evaluation for of_case in found.values() for evaluation in of_case.values()]
    if not evaluations:
        return {}
    try:
        board = leaderboard([(record, predictions) for _, record, predictions in evaluations])
    except (KeyError, TypeError, AttributeError):
        for path, record, predictions in evaluations:
            with _naming(path):
                leaderboard([(record, predictions)])
        raise
    names = {case_key(r): case for case, of_case in found.items() for _, r, _ in of_case.values()}
    rows: dict[str, dict[str, _Rows]] = {}
    for row in board[board["protocol"].isin(PROTOCOLS)].to_dict("records"):
        of_case = rows.setdefault(names[row["task"], row["architecture"], row["n_train"]], {})
        of_case.setdefault(row["variant"], {})[row["protocol"]] = row
    return rows


def _finished_run(
    results: Path, case: str, of_stem: tuple[str, int | None], evaluation: _Evaluation, rows: _Rows
) -> Run:
    (variant, seed), (path, record, _) = of_stem, evaluation
    provenance = record.get("provenance") or {}
    params = variant_params(variant, seed) | case_params(record) | setting_params(record)
    benchmarks = results / "benchmarks"
    v = Variant.of(variant)
    name = f"evaluate/{case}/{evaluation_job(params['family'], first_of_job(seed))}"
    if v.is_network:
        name = f"{params['family']}/{case}/seed{seed}"
    job = read_job_cost(benchmarks / f"{name}.jsonl")
    of_gram = benchmarks / f"gram{v.gram_ending}" / record["task"]
    gram = None if v.is_network else read_gram_cost(of_gram)
    metrics = record_metrics(record, rows)
    files = {
        "evaluation.json": path,
        "predictions.csv": path.with_suffix(".csv"),
        "figure.png": results / "figures" / f"{case}.png",
        "table.md": results / "table.md",
    }
    model = results / "models" / case / f"{variant}.npz"
    return Run(
        case=case,
        variant=variant,
        seed=seed,
        params=params,
        tags=_tags(case, record["task"], variant, seed)
        | {"source": params["source"], "commit": str(provenance.get("commit") or "unknown")},
        data={key: str(record["data"][key]) for key in ("source", "digest")},
        ended=path.stat().st_mtime,
        metrics=metrics | cost_metrics(job, gram),
        curves=curves(record.get("curve") or []),
        artifacts={name: file for name, file in files.items() if file.exists()},
        model=model if seed is None and model.exists() else None,
        provenance=provenance,
        seconds=job.seconds if job else metrics.get("seconds", 0.0),
    )


def _derived_run(case: str, variant: str, rows: _Rows, siblings: Sequence[Run]) -> Run:
    """Return the run of a variant that only the leaderboard has; the rest is its siblings'."""
    first = siblings[0]
    without = ("evaluation.json", "predictions.csv")
    return Run(
        case=case,
        variant=variant,
        seed=None,
        params=_shared_params(first) | variant_params(variant, None),
        tags=_tags(case, first.params["task"], variant, None) | _shared_tags(first),
        data=first.data,
        ended=max(run.ended for run in siblings),
        metrics=derived_metrics(rows),
        artifacts={k: v for k, v in first.artifacts.items() if k not in without},
        provenance={k: v for k, v in first.provenance.items() if k != "code"},
    )


def _failed_runs(results: Path, listing: Listing, finished: Sequence[Run]) -> list[Run]:
    """Return a run for each failed job that results are missing because of."""
    siblings = {run.case: run for run in reversed(finished)}
    jobs = find_failed_jobs(results, listing.cases, list(listing.stems))
    return [_failed_run(results, listing, job, siblings) for job in jobs if job.results]


def _failed_run(
    results: Path, listing: Listing, job: FailedJob, siblings: Mapping[str, Run]
) -> Run:
    """Return the run of a failed job: of its result, or with what its results have in common."""
    params, tags = [], []
    for case, stem in job.results:
        of_stem, sibling = listing.stems[stem], siblings.get(case)
        shared = _shared_params(sibling) if sibling else {"task": task_of(results, case)}
        params.append(variant_params(*of_stem) | shared)
        tags.append(
            _tags(case, shared["task"], *of_stem) | (_shared_tags(sibling) if sibling else {})
        )
    (case, stem), *others = job.results
    variant, seed = listing.stems[stem]
    is_one_case = all(other == case for other, _ in others)
    log = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    # MLflow cuts long tags, so that they would never agree: a few lines of some width.
    lines = [line[:_LINE_WIDTH] for line in job.last_lines[-_NOTE_LINES:]]
    missing = f", and {len(job.results)} results are missing because of it" if others else ""
    note = "\n".join([f"The job **{job.name}** failed{missing}:", "", "```", *lines, "```"])
    return Run(
        case="" if others else case,
        variant="" if others else variant,
        seed=None if others else seed,
        job=job.name if others else "",
        params=_in_all(params),
        tags=_in_all(tags) | {"failed_job": job.name, "mlflow.note.content": note},
        data=siblings[case].data if is_one_case and case in siblings else {},
        ended=job.log.stat().st_mtime,
        status="FAILED",
        texts={"failure.log": "\n".join([*log, ""])},
    )


def _in_all(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the items that all mappings have."""
    first, *others = mappings
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}


def _shared_params(run: Run) -> dict[str, Any]:
    """Return the parameters that all runs of a case share."""
    own = variant_params(run.variant, run.seed)
    return {k: v for k, v in run.params.items() if k not in own and not k.startswith("setting_")}


def _shared_tags(run: Run) -> dict[str, str]:
    return {key: run.tags[key] for key in ("source", "commit")}


def _tags(case: str, task: str, variant: str, seed: int | None) -> dict[str, str]:
    found = {"case": case, "task": task, "variant": variant}
    return found if seed is None else found | {"seed": str(seed)}
