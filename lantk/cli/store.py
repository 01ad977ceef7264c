"""The verbs that write to MLflow and show what is there."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from lantk.cli.files import read_kept, require_listing
from lantk.errors import LantkError
from lantk.experiment.records import Listing, keep_listing
from lantk.files import write_json

# What verbs but `sync` find in listing.json, since they have no such options.
_NOT_GIVEN = dict.fromkeys(("config", *Listing.__dataclass_fields__))


def sync(args: argparse.Namespace) -> None:
    """Log every result as an MLflow run; runs that are there already are left alone."""
    import lantk.tracking.sync as tracking

    target = _target(args)
    _keep_listing(target)
    try:
        report = tracking.sync(target)
    except LantkError as error:
        raise LantkError(f"{error}. To sync again: `{target.sync_command}`") from error
    print(_keep_record(target, report)["hint"])


def verify(args: argparse.Namespace) -> int:
    """Compare the runs in MLflow with the results; end with status 1 where they differ."""
    import lantk.tracking.sync as tracking
    from lantk.tracking.check import drift_text

    target = _target(args)
    n_runs, drift = tracking.verify(target)
    where = f"experiment {target.experiment_name!r} of {target.store.shown}"
    if not drift:
        print(f"{n_runs} runs agree with {args.results}: {where}")
        return 0
    print(
        f"{len(drift)} runs differ between {args.results} and the {where}:\n"
        f"{drift_text(drift)}\nTo mend it: {target.sync_command}\n"
        "What still differs then is mended by rebuild in place of sync, which logs all runs of"
        " this folder again"
    )
    return 1


def rebuild(args: argparse.Namespace) -> None:
    """Make the runs of a results folder anew, in a new store where the old one is unusable."""
    import lantk.tracking.sync as tracking

    target = _target(args)
    _keep_listing(target)
    report, aside = tracking.rebuild(target)
    if aside is not None:
        print(
            f"The store could not be used and was put aside as {aside}. Where it held runs of other"
            " results folders, rebuild each of them too; their results are what counts"
        )
    print(_keep_record(target, report)["hint"])


def links(args: argparse.Namespace) -> None:
    """Print how to open the dashboard, and a link to everything there is to see."""
    from lantk.tracking.dashboard import links_text

    record = _read_record(args.results)
    print(record["hint"] if args.short else links_text(record, args.results))


def dashboard(args: argparse.Namespace) -> None:
    """Start the MLflow server on this machine, with links to what there is to see."""
    import contextlib

    import lantk.tracking.dashboard as board

    record = _read_record(args.results)
    if board.is_server(record["uri"]):
        print(board.links_text(record, args.results))
        return
    store = _target(args).existing_store()
    board.check_port(args.port)
    address = board.local_address(args.port)
    print(board.links_text(record, args.results, address))
    print(f"\nThe dashboard of {store.shown} starts, in some seconds, and runs until Ctrl-C.")
    # The bare address would open MLflow's pages for language models.
    first = next(iter(board.links_at(record, address).values()))
    print(f"To begin with:\n{first}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        board.serve(store.uri, args.port)


def _target(args: argparse.Namespace) -> Any:
    """Return the results and the experiment; what is not given is what the last run was given."""
    from lantk.tracking.sync import Target

    given = argparse.Namespace(**_NOT_GIVEN | vars(args))
    config, uri = given.config, None
    # A configuration that is given says where runs go, even by saying nothing.
    if not config:
        kept = read_kept(args.results)
        if kept is None or not kept["config"]:
            raise LantkError(
                f"there is no {args.results / 'listing.json'} with a configuration: run the"
                " workflow, which writes it"
            )
        config = kept["config"]
        # Where the last sync failed, nothing says where the runs went before it.
        if (args.results / "tracking.json").exists():
            uri = _recorded_uri(_read_record(args.results))
    listing = require_listing(given)
    settings = config.get("tracking") or {}
    return Target(
        results=args.results,
        listing=listing,
        config=config,
        uri=settings.get("uri") or os.environ.get("MLFLOW_TRACKING_URI") or uri,
        experiment=settings.get("experiment"),
    )


def _read_record(results: Path) -> dict[str, Any]:
    """Return what the last sync of a results folder kept."""
    path = results / "tracking.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        _ = record["links"], record["uri"]
    except FileNotFoundError:
        raise LantkError(
            f"there is no {path}: run the workflow, whose last job `track` writes it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise LantkError(
            f"{path} is not what `mlflow sync` writes ({error!r}): delete it and run the workflow"
        ) from error
    return record


def _recorded_uri(record: dict[str, Any]) -> str | None:
    """Return the store of the last sync, if something named it."""
    uri: str = record["uri"]
    if record.get("is_default_store"):
        return None  # it is found beside the results, wherever they were moved
    if "***" in uri and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise LantkError(
            f"the runs are in {uri}, and its password is kept nowhere: set MLFLOW_TRACKING_URI to"
            " the whole address"
        )
    return uri


def _keep_listing(target: Any) -> None:
    """Write listing.json before a store is touched, so that a sync can catch up by itself."""
    target.check()
    if target.results.is_dir():
        keep_listing(target.results, target.listing, target.config)


def _keep_record(target: Any, report: Any) -> dict[str, Any]:
    """Write and return tracking.json: where the runs are, and what was listed."""
    from lantk.tracking.dashboard import dashboard_hint

    n_runs = report.created + report.unchanged
    record = {
        "uri": report.uri,
        "is_default_store": target.uri is None,
        "experiment": target.experiment_name,
        "experiment_id": report.experiment_id,
        "links": report.links,
        "hint": dashboard_hint(
            target.results, n_runs, report.failed, target.experiment_name, report.uri
        ),
        "counts": report.counts,
        "config": dict(target.config),
        "listing": vars(target.listing),
    }
    write_json(target.results / "tracking.json", record)
    return record
