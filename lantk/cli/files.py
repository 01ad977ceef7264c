"""What several verbs read and write: Gram matrices, label terms, evaluations, times of jobs."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import resource
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from lantk.errors import LantkError, numbering
from lantk.experiment.records import Listing, Record, read_predictions, read_record
from lantk.experiment.settings import PROTOCOLS


def spell_out(architecture: Any) -> dict[str, Any]:
    """Return the digest and the layers of an architecture."""
    return {"digest": architecture.digest, "layers": architecture.to_list()}


def with_name(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture spelt out, with its name in front, null if it has none."""
    from lantk.kernel.grammar import find_name

    return {"name": find_name(architecture["layers"])} | architecture


def load_gram(
    args: argparse.Namespace, *, flips: bool = False
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return the split, both Gram matrices (memory-mapped if in one band) and their record.

    `flips` says whether they should be of the kernel that is averaged over mirror images.
    """
    import numpy as np

    from lantk.data.split_files import load_split
    from lantk.kernel.bands import Band, assemble

    drawn = load_split(args.split)
    remedy = "compute it again with the verb gram"
    records, bands, blocks, devices, diagonal = [], [], [], set(), []
    for named in _all_bands(args.gram):
        path = named.with_suffix(".json")
        try:
            record = json.loads(path.read_text())
            start, stop = record["rows"]
            bands.append(Band(start, stop, record["first_column"]))
            blocks.append(np.load(path.with_suffix(".npy"), mmap_mode="r"))
            if not is_whole(path, record):
                raise LantkError("the block has changed since it was written")
            records.append({name: record[name] for name in ("split", "architecture")})
            devices.add(record["device"])
            diagonal += record["diagonal_test"]
        except (ValueError, KeyError, TypeError, EOFError, LantkError) as error:
            raise LantkError(
                f"{path}, or the block beside it, is broken ({error}): {remedy}{_in_cache(path)}"
            ) from error
        # Only records of the kernel over flips say so.
        if record.get("flips", False) != flips:
            raise LantkError(
                f"{path} is of the kernel {'without' if flips else 'with'} flips, and the variant"
                f" stands on that {'with' if flips else 'without'}: {remedy}"
                f"{' and --flips' if flips else ', without --flips'}"
            )
        if record["split"] != drawn.digest:
            raise LantkError(
                f"{path} was computed from other images than {args.split}: {remedy}"
                f"{_in_cache(path)}"
            )
    if any(record != records[0] for record in records):
        raise LantkError(
            f"the bands {', '.join(map(str, args.gram))} are of different architectures: {remedy}"
        )
    try:
        k = assemble(bands, blocks, len(drawn.y_train), len(drawn.y_test))
    except LantkError as error:
        raise LantkError(f"{', '.join(map(str, args.gram))}: {error}") from error
    if args.n_train is not None and args.n_train < len(drawn.y_train):
        # Splits are nested: fewer train images are the leading rows and columns.
        n = args.n_train
        drawn, k = drawn.first(n), (np.array(k[0][:n, :n]), np.array(k[1][:, :n]))
    found = {
        "devices": sorted(devices),
        "n_train": len(drawn.y_train),
        "diagonal_test": np.array(diagonal),
    }
    return drawn, *k, records[0] | found


def in_source(args: argparse.Namespace, error: Exception) -> str:
    """Return the message of an error, with the source's own rows or file names in it."""
    if not isinstance(error, LantkError) or not error.rows or "split" not in args:
        return str(error)
    from lantk.data.split_files import load_split

    drawn = load_split(args.split)
    rows: dict[str, Any] = {"x_train": drawn.index_train, "x_test": drawn.index_test}
    note = f" (Images are numbered as in the source, {drawn.source}, from 0.)"
    if drawn.files_train is not None and drawn.files_test is not None:
        rows, note = {"x_train": drawn.files_train, "x_test": drawn.files_test}, ""
    try:
        with numbering({name: (name, of_part) for name, of_part in rows.items()}, note):
            raise error
    except LantkError as named:
        return str(named)


def digest_block(path: Path) -> str:
    """Return the SHA-256 of a file: what the record of a band says of the block beside it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path, record: dict[str, Any]) -> bool:
    """Return whether the block beside a record at `path` has the bytes that it was written with."""
    # Records of earlier versions do not say.
    return "sha256" not in record or digest_block(path.with_suffix(".npy")) == record["sha256"]


def _in_cache(path: Path) -> str:
    """Return what to do before, where a file is a link: a shared cache would give it again."""
    if not path.is_symlink():
        return ""
    return f". It lies in a shared cache: first delete {os.readlink(path)} there"


def _all_bands(given: list[Path]) -> list[Path]:
    """Return the files of all bands; the first one alone stands for all.

    Their names could be more than a command line holds, which is 128 KiB on Linux.
    """
    from lantk.kernel.bands import name_bands

    number = re.fullmatch(r"1-of-([1-9]\d*)", given[0].stem)
    if len(given) > 1 or number is None:
        return given
    return [given[0].with_name(f"{name}.json") for name in name_bands(int(number[1]))]


def load_fitted(args: argparse.Namespace, term: str, gram_record: dict[str, Any]) -> Any:
    """Return what a label term learned, if it is this term's on this Gram matrix."""
    from lantk.archives import opening_npz

    remedy = "fit it again with the verb label-term"
    with opening_npz(args.label_term, remedy) as archive:
        names = [name for name in archive if name.startswith("fitted.")]
        fitted = {name.removeprefix("fitted."): archive[name] for name in names}
        origin = str(archive["origin"])
    if origin != fit_origin(args, term, gram_record):
        raise LantkError(
            f"{args.label_term} was fitted for another variant or on another Gram matrix than"
            f" {term} on {args.gram[0]}: {remedy}"
        )
    return fitted


def fit_origin(args: argparse.Namespace, term: str, gram_record: dict[str, Any]) -> str:
    digest = gram_record["architecture"]["digest"]
    return json.dumps([term, gram_record["split"], gram_record["n_train"], digest, args.estimator])


def label_array(drawn: Any) -> Any:
    """Return train labels as fits take them: -1 and +1, or one-hot."""
    from lantk.labels import as_targets, count_outputs

    return as_targets(drawn.y_train, count_outputs(len(drawn.names)))


def find_term(variant: str, estimator: str) -> Callable[[], Any]:
    """Return what makes an unfitted label term, of ours or of the user's own."""
    from lantk.label_terms.registry import label_term
    from lantk.label_terms.trial import load_term_class
    from lantk.variant import Variant

    if Variant.of(variant).is_own_term:
        return load_term_class(variant)
    return functools.partial(label_term, variant, estimator=estimator)


def read_listing(args: argparse.Namespace) -> Listing | None:
    """Return what is named on the command line, the rest as listing.json keeps it; or None."""
    found: dict[str, Any] = {
        field.name: vars(args)[field.name]
        for field in fields(Listing)
        if vars(args).get(field.name) is not None
    }
    if len(found) < len(fields(Listing)):
        kept = read_kept(args.results)
        found = (kept["listing"] if kept else {}) | found
    if not set(found) >= {"cases", "variants"}:
        return None
    return Listing(**{k: v if isinstance(v, int) else tuple(v) for k, v in found.items()})  # type: ignore[arg-type]


def require_listing(args: argparse.Namespace) -> Listing:
    """Return what `read_listing` returns; raise LantkError where nothing names it."""
    listing = read_listing(args)
    if listing is None:
        raise LantkError(
            f"{args.results} has no listing.json that names its results: give --cases and"
            " --variants, or run the workflow, which writes it"
        )
    return listing


def read_kept(results: Path) -> dict[str, Any] | None:
    """Return the ``listing`` and ``config`` of the last workflow or sync, finished or not; or None.

    They are in listing.json, which a workflow writes before its first job; tracking.json repeats
    them, and is read where it was copied without the other.
    """
    for path in (results / "listing.json", results / "tracking.json"):
        try:
            record = json.loads(path.read_text())
            listing = {
                name: record["listing"][name]
                for name in ("cases", "variants", "permutations", "seeds")
            }
            listing["protocols"] = record["listing"].get("protocols", [*PROTOCOLS])
            config = record.get("config") or {}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_kept(path, repr(error)) from error
        lists = [names for name, names in listing.items() if name != "permutations"]
        is_number = isinstance(listing["permutations"], int)
        if not (is_number and all(isinstance(names, list) for names in lists)):
            raise _not_kept(path, "its listing is of other types")
        if not isinstance(config, dict):
            raise _not_kept(path, "its config is no mapping")
        return {"listing": listing, "config": config}
    return None


def _not_kept(path: Path, why: str) -> LantkError:
    return LantkError(
        f"{path} is not what a workflow writes ({why}): delete it and run the workflow again"
    )


def read_evaluations(
    paths: Iterable[Path], protocols: Collection[str] | None = None
) -> list[tuple[Record, Any]]:
    """Return records with their predictions, of all protocols or of those that are given."""
    return [(read_record(path, protocols), read_predictions(path)) for path in paths]


def read_benchmarks(results: Path, listing: Listing, bands: Collection[str]) -> Any:
    """Return seconds and peak memory of the jobs behind the table, from Snakemake's benchmarks."""
    folder = results / "benchmarks"
    paths = sorted(folder.rglob("*.jsonl"))
    return _read_jobs(
        folder, [p for p in paths if _is_listed(p.relative_to(folder), listing, bands)]
    )


def _is_listed(path: Path, listing: Listing, bands: Collection[str]) -> bool:
    """Return whether a benchmark is of a job behind the table; others are left over."""
    from lantk.experiment.variants import (
        NETWORK_FAMILY,
        PERMUTATIONS_A_JOB,
        evaluation_job,
        family_of,
    )
    from lantk.variant import NETWORKS, Variant

    # RULE, RULE/TASK, gram/GRAM/BAND, NETWORK or after-kernel/CASE/seedN, RULE/CASE/FAMILY.
    rule, *job = path.with_suffix("").parts
    families = {Variant.of(family_of(variant)).name for variant in listing.variants}
    if rule in (*NETWORKS, NETWORK_FAMILY) and rule not in families:
        return False
    known = {*bands, *(f"seed{seed}" for seed in listing.seeds), *families}
    known |= {Variant.of(variant).name for variant in listing.variants}
    firsts = range(0, listing.permutations, PERMUTATIONS_A_JOB)
    known |= {evaluation_job(family, first) for family in families for first in firsts}
    is_whole = rule != "gram" or len(job) == 2
    # The name of a case begins with its task and architecture.
    is_case = not job or any(f"{case}.".startswith(f"{job[0]}.") for case in listing.cases)
    return is_case and is_whole and set(job[1:]) <= known


def read_timings(results: Path) -> Any:
    """Return the times of a results folder, finished or not."""
    import pandas as pd

    if (results / "timings.csv").exists():
        return pd.read_csv(results / "timings.csv")
    folder = results / "benchmarks"
    return _read_jobs(folder, sorted(folder.rglob("*.jsonl")))


def _read_jobs(folder: Path, paths: Iterable[Path]) -> Any:
    import pandas as pd

    from lantk.experiment.timings import read_job_cost

    rows = []
    for path in paths:
        cost = read_job_cost(path)
        if cost is not None:
            name = str(path.relative_to(folder).with_suffix(""))
            rows.append({"job": name} | cost._asdict())
    return pd.DataFrame(rows, columns=["job", "seconds", "peak_memory_mb"])


def write_cost(path: Path, seconds: float) -> None:
    """Write seconds and peak memory of this process as Snakemake writes them in a benchmark."""
    from lantk.files import writing

    with writing(path) as temporary:
        temporary.write_text(json.dumps({"s": seconds, "max_rss": _peak_mb()}) + "\n")


def _peak_mb() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    try:
        # Not getrusage: on Linux its peak includes that of the process which started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in bytes on macOS
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:"))
