"""The verbs that lay out what was evaluated."""

from __future__ import annotations

import argparse
import json

from lantk.errors import LantkError
from lantk.verbs.files import evaluation_paths, read_benchmarks, read_evaluations, read_timings


def table(args: argparse.Namespace) -> None:
    """Collect evaluations into table.csv, exponents.csv, table.md; benchmarks into timings.csv."""
    from lantk.leaderboard import leaderboard
    from lantk.report import table_markdown
    from lantk.statistics import error_exponents
    from lantk.storage import writing

    frame = leaderboard(read_evaluations(evaluation_paths(args)))
    exponents = error_exponents(frame)
    with writing(args.results / "timings.csv") as temporary:
        read_benchmarks(args).to_csv(temporary, index=False)
    with writing(args.results / "exponents.csv") as temporary:
        exponents.to_csv(temporary, index=False)
    with writing(args.results / "table.md") as temporary:
        temporary.write_text(table_markdown(frame, exponents))
    with writing(args.results / "table.csv") as temporary:
        frame.to_csv(temporary, index=False)


def figure(args: argparse.Namespace) -> None:
    """Draw accuracy against label weight of one case, or one of the figures of all cases."""
    import pandas as pd

    from lantk.figures import alignment_figure, gap_figure, growth_figure
    from lantk.weight_figure import weight_figure

    if args.kind in ("gap", "growth"):
        frame = pd.read_csv(args.results / "table.csv")
        (gap_figure if args.kind == "gap" else growth_figure)(frame, args.out)
    else:
        records = [json.loads(path.read_text()) for path in evaluation_paths(args)]
        (weight_figure if args.kind == "weight" else alignment_figure)(records, args.out)


def results(args: argparse.Namespace) -> None:
    """Lay out the tables of several results folders beside the published ones, as Markdown.

    Evaluations that are there are read, whether or not the workflow has finished; a cell without
    one says so.
    """
    import shlex

    import yaml

    from lantk.results import STUDIES, gather_study, results_markdown
    from lantk.storage import writing

    unknown = sorted({folder.name for folder in args.results} - set(STUDIES))
    if unknown:
        raise LantkError(f"{', '.join(unknown)}: wanted results folders of {', '.join(STUDIES)}")
    presets = {name: args.experiments / f"{name}.yaml" for name in STUDIES}
    studies = {name: gather_study(yaml.safe_load(p.read_text())) for name, p in presets.items()}
    for folder in args.results:
        paths = sorted(folder.glob("evaluations/*/*.json"))
        found = read_evaluations(path for path in paths if path.name[0] != ".")
        if found:
            preset = studies[folder.name].preset
            studies[folder.name] = gather_study(preset, found, read_timings(folder))
    published = yaml.safe_load((args.experiments / "published" / "accuracies.yaml").read_text())
    asked = ["--results", *args.results, "--experiments", args.experiments]
    asked += ["--out", args.out, "--data-note", args.data_note]
    command = shlex.join(["python", "-m", "lantk", "results", *map(str, asked)])
    with writing(args.out) as temporary:
        temporary.write_text(results_markdown(studies, published, args.data_note, command))
