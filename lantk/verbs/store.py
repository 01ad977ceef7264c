"""The verbs that write to MLflow and show what is there."""

from __future__ import annotations

import argparse
import json

from lantk.errors import LantkError
from lantk.verbs.files import write_json


def track(args: argparse.Namespace) -> None:
    """Log every result as an MLflow run; runs that are there already are left alone."""
    from lantk.tracking import dashboard_hint, sync

    settings = args.config.get("tracking", {})
    report = sync(
        args.results,
        uri=settings.get("uri"),
        experiment=settings.get("experiment", "lantk"),
        config=args.config,
    )
    record = {
        "uri": report.uri,
        "experiment_id": report.experiment_id,
        "links": dict(report.links),
        "hint": dashboard_hint(report),
    }
    write_json(args.out, record)


def show(args: argparse.Namespace) -> None:
    """Print the table and how to open the dashboard."""
    if not (args.results / "tracking.json").exists():
        raise LantkError(f"no finished results in {args.results}: run the workflow first")
    print((args.results / "table.md").read_text())
    print(json.loads((args.results / "tracking.json").read_text())["hint"])
