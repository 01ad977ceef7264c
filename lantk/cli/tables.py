"""The verbs that lay out what was evaluated."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lantk.cli.files import (
    read_benchmarks,
    read_evaluations,
    read_listing,
    read_timings,
    require_listing,
)
from lantk.cli.progress import find_width
from lantk.errors import LantkError
from lantk.experiment.records import Listing, read_record


def collect(args: argparse.Namespace) -> None:
    """Collect evaluations into table.csv, exponents.csv, table.md; benchmarks into timings.csv."""
    from lantk.files import writing
    from lantk.report.comparisons import table_markdown
    from lantk.report.leaderboard import TABLE_COLUMNS, error_exponents, leaderboard

    listing = require_listing(args)
    evaluations = read_evaluations(listing.paths(args.results), listing.protocols)
    for record, _ in evaluations:
        lacking = [name for name in listing.protocols if name not in record["protocols"]]
        if lacking and record["variant"] != "oracle-label":
            raise LantkError(
                f"the result of {record['variant']} in {record['case']} lacks the protocol"
                f" {' and '.join(lacking)}: delete it and run the workflow again"
            )
    frame = leaderboard(evaluations)
    exponents = error_exponents(frame)
    with writing(args.results / "timings.csv") as temporary:
        read_benchmarks(args.results, listing, args.bands).to_csv(temporary, index=False)
    with writing(args.results / "exponents.csv") as temporary:
        exponents.to_csv(temporary, index=False)
    with writing(args.results / "table.md") as temporary:
        temporary.write_text(table_markdown(frame, exponents))
    with writing(args.results / "table.csv") as temporary:
        frame[TABLE_COLUMNS].to_csv(temporary, index=False)


def table(args: argparse.Namespace) -> None:
    """Print the leaderboard of the results that are there, and which are not."""
    import pandas as pd

    from lantk.report.leaderboard import leaderboard
    from lantk.report.terminal import claims_text, leaderboard_text, missing_text

    listing, written = read_listing(args), args.results / "table.csv"
    folder = args.results / "evaluations"
    asked = listing.paths(args.results) if listing else sorted(folder.glob("*/[!.]*.json"))
    missing = [path for path in asked if not path.exists()]
    if len(missing) < len(asked):
        frame = leaderboard(_read(args, listing, asked))
    elif listing is None and written.exists():
        frame = pd.read_csv(written)
    else:
        raise LantkError(f"no results in {folder}: run the workflow first")
    command = f"python -m lantk table --results {args.results}"
    print(f"{leaderboard_text(frame, find_width())}\n\n{claims_text(frame, command, find_width())}")
    if listing and missing:
        names = [(path.parent.name, path.stem) for path in missing]
        print(f"\n{missing_text(names, listing.cases)}")


def failures(args: argparse.Namespace) -> int:
    """Print the end of the log of each job that failed, and the command that goes on.

    The status is 1 where a job failed, unless it is the one that writes to MLflow.
    """
    from lantk.report.terminal import failures_text
    from lantk.workflow.failures import find_failed_jobs

    listing = require_listing(args)
    jobs = find_failed_jobs(args.results, listing.cases, list(listing.stems))
    print(failures_text(jobs, args.resume, find_width()))
    return int(any(job.log.stem != "track" for job in jobs))


def report(args: argparse.Namespace) -> None:
    """Write one HTML file with everything that was found, finished or not."""
    from lantk.files import writing
    from lantk.report.html_report import Results, html_report
    from lantk.report.leaderboard import leaderboard
    from lantk.workflow.failures import find_failed_jobs

    listing, folder = read_listing(args), args.results / "evaluations"
    asked = listing.paths(args.results) if listing else sorted(folder.glob("*/[!.]*.json"))
    there = [path for path in asked if path.exists()]
    if not there:
        raise LantkError(f"no results in {folder}: run the workflow first")
    evaluations = _read(args, listing, asked)
    failed = []
    if listing and len(there) < len(asked):
        failed = find_failed_jobs(args.results, listing.cases, list(listing.stems))
    kept = args.results / "tracking.json"
    results = Results(
        args.results,
        leaderboard(evaluations),
        [record for record, _ in evaluations],
        read_timings(args.results),
        _read_figures(args.results / "figures", [record["case"] for record, _ in evaluations]),
        json.loads(kept.read_text()) if kept.exists() else {},
        [(path.parent.name, path.stem) for path in asked if not path.exists()],
        failed,
    )
    with writing(args.out) as temporary:
        temporary.write_text(html_report(results))


def _read(args: argparse.Namespace, listing: Listing | None, asked: Sequence[Path]) -> list[Any]:
    """Return the evaluations that are there, of what is listed or of what a written table holds."""
    there = [path for path in asked if path.exists()]
    evaluations = read_evaluations(there, listing.protocols if listing else None)
    table = args.results / "table.csv"
    is_of_table = listing is None and table.exists()
    return _in_order_of_table(evaluations, table) if is_of_table else evaluations


def _in_order_of_table(evaluations: list[Any], path: Path) -> list[Any]:
    """Return the evaluations that a written table holds, in its order; others are left over."""
    import pandas as pd

    from lantk.experiment.variants import CASE_COLUMNS, case_key

    rows = pd.read_csv(path)[[*CASE_COLUMNS, "variant"]].itertuples(index=False, name=None)
    places = {tuple(map(str, row)): i for i, row in enumerate(dict.fromkeys(rows))}

    def place(evaluation: Any) -> int | None:
        record = evaluation[0]
        return places.get(tuple(map(str, (*case_key(record), record["variant"]))))

    return sorted((e for e in evaluations if place(e) is not None), key=place)  # type: ignore[arg-type]


def _read_figures(folder: Path, cases: list[str]) -> dict[str, bytes]:
    """Return the figures over all cases and those of some cases, by name."""
    from lantk.experiment.overviews import OVERVIEWS

    paths = [folder / f"{name}.png" for name in (*OVERVIEWS, *dict.fromkeys(cases))]
    paths += [
        path for case in dict.fromkeys(cases) for path in sorted(folder.glob(f"{case}/*.png"))
    ]
    found = [path for path in paths if path.exists()]
    return {str(path.relative_to(folder).with_suffix("")): path.read_bytes() for path in found}


def figure(args: argparse.Namespace) -> None:
    """Draw accuracy against label weight of one case, or one of the figures of all cases."""
    from lantk.experiment.overviews import OVERVIEWS
    from lantk.report import case_figures, figures, network_figures

    functions = vars(figures) | vars(network_figures) | vars(case_figures)
    draw = functions[f"{args.kind}_figure"]
    if args.kind == "weight" or OVERVIEWS[args.kind].is_of_records:
        listing = require_listing(args)
        paths = listing.paths(args.results)
        draw([read_record(path, listing.protocols) for path in paths], args.out)
    else:
        import pandas as pd

        draw(pd.read_csv(args.results / "table.csv"), args.out)
