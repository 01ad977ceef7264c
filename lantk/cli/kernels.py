"""The verbs from images to Gram matrices."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lantk.cli.files import digest_block, is_whole, spell_out, write_cost
from lantk.cli.progress import showing_progress, showing_work
from lantk.errors import LantkError, numbering
from lantk.files import write_json


def fetch(args: argparse.Namespace) -> None:
    """Make sure that the data are there and whole, and describe them."""
    from dataclasses import asdict

    if not sys.stderr.isatty():
        # Read when tqdm is imported: the bar of a download would fill a log.
        os.environ.setdefault("TQDM_DISABLE", "1")
    from lantk.data import splits as data

    with showing_work(f"fetching and checking the images of {args.source}"):
        data.fetch(args.source, args.path)
        digest = data.digest_source(args.source, args.path, args.layout)
    described = data.describe(args.source, args.path, args.layout)
    write_json(args.out, asdict(described) | {"digest": digest})


def split(args: argparse.Namespace) -> None:
    """Write the train and test images of a class pair, or of several classes at once."""
    from lantk.data import splits as data
    from lantk.data.split_files import save_split
    from lantk.data.tasks import counts_text, imbalance_warning, resolve_classes, resolve_pair

    if (args.pair is None) == (args.classes is None):
        raise LantkError("wanted one of --pair CLASS CLASS and --classes all|CLASS CLASS CLASS...")
    description = data.describe(args.source, args.path, args.layout)
    sizes = args.n_train, args.n_test
    options: dict[str, Any] = {
        "scaling": args.scaling,
        "zca": args.whitening,
        "layout": args.layout,
        "balance": args.balance,
    }
    if args.pair:
        pair = resolve_pair(description, args.pair)
        drawn = data.split_pair(args.source, args.path, pair, *sizes, args.seed, **options)
    else:
        asked = "all" if args.classes == ["all"] else args.classes
        task = resolve_classes(description, asked)
        drawn = data.split_classes(args.source, args.path, task, *sizes, **options)
    save_split(args.out, drawn)
    counts = drawn.train_counts, drawn.test_counts
    print(
        f"{drawn.slug}: {len(drawn.y_train):,} train images ({counts_text(counts[0])}),"
        f" {len(drawn.y_test):,} test images ({counts_text(counts[1])})",
        file=sys.stderr,
    )
    if warning := imbalance_warning(drawn.slug, *counts):
        print(f"warning: {warning}", file=sys.stderr)


def gram(args: argparse.Namespace) -> None:
    """Write row bands of the Gram matrices of a split, float32: one, or all that are not there.

    Several architectures are computed in one pass, each into a folder of its own. With flips, those
    of cntk-flips.
    """
    from lantk.data.split_files import load_split
    from lantk.files import writing_array
    from lantk.kernel.bands import count_bands, count_visits, find_band, name_bands
    from lantk.kernel.gram import device_of, gram_band, gram_diagonal
    from lantk.kernel.grammar import parse_architecture

    start = time.perf_counter()
    if len(args.architecture) != len(args.out):
        raise LantkError(
            f"{len(args.architecture)} architectures and {len(args.out)} folders: wanted one folder"
            " in --out for each architecture, in the same order"
        )
    drawn = load_split(args.split)
    networks = [parse_architecture(given) for given in args.architecture]
    x_train, x_test = drawn.x_train, drawn.x_test
    sizes = len(x_train), len(x_test)
    # A split has its channels first, whatever they look like.
    options = {"device": args.device, "layout": "channels_first", "flips": args.flips}
    names = [args.band]
    if args.band is None:
        visits = count_visits(networks, *x_train.shape[2:])
        names = name_bands(args.bands or count_bands(*sizes, visits, args.device))
    for name in names:
        band = find_band(name, *sizes)
        shape = band.shape(sizes[0])
        common = {
            "split": drawn.digest,
            "rows": [band.start, band.stop],
            "first_column": band.first,
            "device": device_of(networks, x_train.shape[2:], args.device),
        }
        if args.flips:
            common["flips"] = True
        jobs = [
            (network, folder / f"{name}.json", {"architecture": spell_out(network)} | common)
            for network, folder in zip(networks, args.out, strict=True)
        ]
        if args.band is None:
            jobs = [job for job in jobs if not _is_written(*job[1:], shape)]
        if not jobs:
            continue
        with (
            showing_progress(f"entries of band {name}") as progress,
            contextlib.ExitStack() as files,
        ):
            out = []
            for _, path, _ in jobs:
                # The record says that the block beside it is whole.
                path.unlink(missing_ok=True)
                block = writing_array(path.with_suffix(".npy"), shape, "float32")
                out.append(files.enter_context(block))
            gram_band(
                [network for network, _, _ in jobs],
                x_train,
                x_test,
                band,
                out,
                **options,
                scratch_bytes=args.memory_mb * 2**20 or None,
                progress=progress,
            )
            # Of train images K(x, x) stands in the block itself.
            lower = slice(max(band.start - sizes[0], 0), max(band.stop - sizes[0], 0))
            with numbering({"x1": ("x_test", range(sizes[1])[lower])}):
                diagonals = [
                    gram_diagonal(network, x_test[lower], **options) for network, _, _ in jobs
                ]
        for (_, path, record), diagonal in zip(jobs, diagonals, strict=True):
            own = {
                "diagonal_test": diagonal.tolist(),
                "sha256": digest_block(path.with_suffix(".npy")),
            }
            write_json(path, record | own)
            print(f"band {name} is written: {path}", file=sys.stderr)
    if args.cost is not None:
        write_cost(args.cost, time.perf_counter() - start)


def plan(args: argparse.Namespace) -> None:
    """Show the jobs of a Gram matrix beforehand: memory, and time at the rate measured here."""
    from lantk.kernel.bands import name_bands
    from lantk.kernel.forecast import forecast_gram
    from lantk.kernel.grammar import parse_architecture
    from lantk.kernel.images import looks_channels_last

    architecture, shape = parse_architecture(args.architecture), tuple(args.image)
    if looks_channels_last(shape) and args.layout is None:
        height, width, channels = shape
        raise LantkError(
            f"--image is {height} {width} {channels}, which looks like height, width and channels:"
            f" wanted --image {channels} {height} {width}, or --layout channels_first where an"
            f" image has {height} channels"
        )
    with showing_work("measuring the rate"):
        found = forecast_gram(
            architecture,
            args.n_train,
            args.n_test,
            shape,
            n_bands=args.bands,
            flips=args.flips,
            device=args.device,
            threads=args.threads,
            rate=args.rate,
            scratch_bytes=args.memory_mb * 2**20,
        )
    jobs = found.jobs
    print(
        f"{'band':>10} {'rows':>17} {'entries':>15} {'minutes':>9} {'memory MB':>10} {'file MB':>9}"
    )
    for name, job in zip(name_bands(len(jobs)), jobs, strict=True):
        rows = f"{job.band.start:,} - {job.band.stop:,}"
        print(
            f"{name:>10} {rows:>17} {job.entries:>15,} {job.seconds / 60:>9,.1f}"
            f" {job.memory_bytes / 1e6:>10,.0f} {job.file_bytes / 1e6:>9,.0f}"
        )
    entries, seconds = sum(job.entries for job in jobs), found.seconds
    n_bytes = sum(job.file_bytes for job in jobs)
    print(
        f"{'all':>10} {'':>17} {entries:>15,} {seconds / 60:>9,.1f} {'':>10} {n_bytes / 1e6:>9,.0f}"
    )
    source = "as given" if args.rate else "measured here just now; --rate gives another machine's"
    print(f"one job after another, at {found.rate:,.4g} different entries/s ({source})")


def _is_written(path: Path, record: dict[str, Any], shape: tuple[int, int]) -> bool:
    """Return whether a whole band of the same images and architecture is there, of any device."""
    import numpy as np

    try:
        found = json.loads(path.read_text())
        block = np.load(path.with_suffix(".npy"), mmap_mode="r")
        is_it = all(found[key] == record[key] for key in record if key != "device")
        is_it = is_it and ("flips" in found) == ("flips" in record)
        is_it = is_it and block.shape == shape and block.dtype == np.float32
        is_it = is_it and is_whole(path, found)
    except (OSError, ValueError, TypeError, LookupError, EOFError):
        is_it = False
    if is_it:
        print(f"band {path.stem} is there already: {path}", file=sys.stderr)
    elif path.exists():
        print(
            f"band {path.stem} is broken, or of other images or another architecture, and is"
            f" written again: {path}",
            file=sys.stderr,
        )
    return is_it
