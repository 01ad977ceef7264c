"""Lay out the tables of several results folders beside the published ones.

    python experiments/results.py --results results/chen2020 --keep experiments/records

writes RESULTS.md and docs/results from evaluations that are there, whether or not the workflow has
finished; a cell without one says so.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from side_pages import derivation_figure, limits_figure

from archive import keep_results, read_results
from lantk.cli.files import read_timings
from lantk.experiment.overviews import OVERVIEWS
from lantk.files import writing
from lantk.report.blocks import network_block
from lantk.report.claims import decompose
from lantk.report.network_figures import decomposition_figure, training_figure
from pages import results_pages
from studies import LARGEST_N, STUDIES, Study, asked_for, gather_study, in_order

EXPERIMENTS = Path(__file__).resolve().parent
_RECORDS = EXPERIMENTS / "records"


def main(argv: Sequence[str] | None = None) -> None:
    """Write RESULTS.md, docs/results and the figures of the answers."""
    parser = _parser()
    args = parser.parse_args(argv)
    whole = [_RECORDS / name for name in STUDIES]
    folders = args.results or whole
    unknown = sorted({folder.name for folder in folders} - set(STUDIES))
    if unknown:
        parser.error(f"{', '.join(unknown)}: wanted results folders of {', '.join(STUDIES)}")
    if args.keep is not None:
        for folder in folders:
            keep_results(folder, args.keep / folder.name)
        folders = [args.keep / name for name in STUDIES]
    is_whole = [folder.resolve() for folder in folders] == whole
    asked = [] if is_whole else ["--results", *map(str, folders)]
    asked += ["--data-note", args.data_note]
    studies = _gather(folders)
    checks = {path.stem: pd.read_csv(path) for path in sorted(_RECORDS.glob("*.csv"))}
    for name, draw in (("derivation", derivation_figure), ("limits", limits_figure)):
        if name in checks:
            draw(checks[name], args.out / "docs" / f"{name}.png")
    pictures = _draw(in_order(studies["after-kernels"]), args.out / "docs")
    published = yaml.safe_load((EXPERIMENTS / "published" / "accuracies.yaml").read_text())
    pages = results_pages(
        studies,
        published,
        args.data_note,
        shlex.join(["python", "experiments/results.py", *asked]),
        checks,
        {title: path.relative_to(args.out).as_posix() for title, path in pictures.items()},
    )
    for name, text in pages.items():
        with writing(args.out / name) as temporary:
            temporary.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="folders of results or of records, named as their presets; one that is missing was not"
        " run (default: all of experiments/records)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="add the evaluations to those in FOLDER/PRESET, scores to five digits, and lay out all"
        " that FOLDER holds (default: read them where they are)",
    )
    parser.add_argument(
        "--data-note",
        default="as named in each preset",
        help="what the images are, such as: CIFAR-10, JPEG copy",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path(),
        help="folder for RESULTS.md and docs (default: this one)",
    )
    return parser


def _gather(folders: Sequence[Path]) -> dict[str, Study]:
    """Return the study of every preset, of what some folders hold."""
    presets = {name: EXPERIMENTS / f"{name}.yaml" for name in STUDIES}
    studies = {name: gather_study(yaml.safe_load(p.read_text())) for name, p in presets.items()}
    found = {folder.name: list(read_results(folder).values()) for folder in folders}
    # The table of one n is also the last point of the curves over n.
    for curve, largest in LARGEST_N.items():
        last = asked_for(studies[curve].preset, found.get(largest, []))
        found[curve] = found.get(curve, []) + last
    for name, evaluations in found.items():
        timings = next((read_timings(folder) for folder in folders if folder.name == name), None)
        if evaluations:
            studies[name] = gather_study(studies[name].preset, evaluations, timings)
    return studies


def _draw(table: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Draw what there is of the figures of networks, and return title -> file."""
    block = network_block(table)
    if block is None:
        return {}
    found = {}
    if decompose(block) is not None:
        found[OVERVIEWS["decomposition"].title] = folder / "decomposition.png"
        decomposition_figure(table, folder / "decomposition.png")
    found[OVERVIEWS["training"].title] = folder / "training.png"
    training_figure(table, folder / "training.png")
    return found


if __name__ == "__main__":
    main()
