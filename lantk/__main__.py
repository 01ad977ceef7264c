"""The command line: ``python -m lantk VERB``. Parse, load, call one function, save.

Verbs import what they need when they run, so that ``--threads`` is in force before any library
that starts threads is loaded.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lantk.errors import LantkError
from lantk.options import OPTIONS

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def fetch(args: argparse.Namespace) -> None:
    """Make sure that the data are there and whole, and describe them."""
    from dataclasses import asdict

    from lantk import data

    data.fetch(args.source, args.path)
    digest = data.digest_source(args.source, args.path)
    _write_json(args.out, asdict(data.describe(args.source, args.path)) | {"digest": digest})


def split(args: argparse.Namespace) -> None:
    """Write the train and test images of one class pair."""
    from lantk import data

    description = data.describe(args.source, args.path)
    names = description.class_names
    classes = [names[c] if isinstance(c, int) and c < len(names) else c for c in args.pair]
    pair = data.resolve_pair(description, classes)
    n_train, n_test = data.resolve_sizes(description, pair, args.n_train, args.n_test)
    drawn = data.split_pair(args.source, args.path, pair, n_train, n_test, args.seed)
    data.save_split(args.out, drawn)


def gram(args: argparse.Namespace) -> None:
    """Write row bands of the Gram matrices of a split, float32: one, or all that are not there."""
    from lantk.architecture import parse_architecture
    from lantk.data import load_split
    from lantk.kernel.bands import count_bands, count_visits, find_band, name_bands
    from lantk.kernel.gram import gram_band, uses_gpu
    from lantk.storage import writing_array

    drawn, architecture = load_split(args.split), parse_architecture(args.architecture)
    x_train, x_test = drawn.x_train, drawn.x_test
    sizes = len(x_train), len(x_test)
    names = [args.band]
    if args.band is None:
        visits = count_visits(architecture, *x_train.shape[2:])
        names = name_bands(args.bands or count_bands(*sizes, visits, args.device))
    for name in names:
        band, path = find_band(name, *sizes), args.out / f"{name}.json"
        record = {
            "architecture": _spell_out(architecture),
            "split": drawn.digest,
            "rows": [band.start, band.stop],
            "first_column": band.first,
            "device": "cuda" if uses_gpu(args.device) else "cpu",
        }
        if args.band is None and _is_written(path, record, band.shape(sizes[0])):
            print(f"band {name} is there already: {path}", file=sys.stderr)
            continue
        if args.band is None and path.exists():
            print(
                f"band {name} is broken, or of other images or another architecture, and is"
                f" written again: {path}",
                file=sys.stderr,
            )
        # The record says that the block beside it is whole.
        path.unlink(missing_ok=True)
        with (
            _progress(f"entries of band {name}") as progress,
            writing_array(path.with_suffix(".npy"), band.shape(sizes[0]), "float32") as out,
        ):
            gram_band(
                architecture,
                x_train,
                x_test,
                band,
                out,
                device=args.device,
                scratch_bytes=args.memory_mb * 2**20 or None,
                progress=progress,
            )
        _write_json(path, record)
        print(f"band {name} is written: {path}", file=sys.stderr)


def plan(args: argparse.Namespace) -> None:
    """Show the jobs of a Gram matrix beforehand: memory, and time at the rate measured here."""
    from lantk.architecture import parse_architecture
    from lantk.kernel.bands import count_bands, count_visits, name_bands, plan_bands
    from lantk.kernel.forecast import forecast, measure_rate
    from lantk.kernel.gram import SCRATCH_BYTES

    architecture, shape = parse_architecture(args.architecture), tuple(args.image)
    sizes = args.n_train, args.n_test
    visits = count_visits(architecture, *shape[1:])
    n_bands = args.bands or count_bands(*sizes, visits, args.device)
    bands = plan_bands(*sizes, n_bands)
    rate = args.rate or measure_rate(architecture, shape, device=args.device, threads=args.threads)
    # What a GPU works in is its own memory.
    scratch_bytes = args.memory_mb * 2**20 or SCRATCH_BYTES["cpu"]
    scratch_bytes *= args.device != "cuda"
    jobs = forecast(bands, *sizes, shape, rate=rate, scratch_bytes=scratch_bytes)
    print(
        f"{'band':>10} {'rows':>17} {'entries':>15} {'minutes':>9} {'memory MB':>10} {'file MB':>9}"
    )
    for name, job in zip(name_bands(n_bands), jobs, strict=True):
        rows = f"{job.band.start:,} - {job.band.stop:,}"
        print(
            f"{name:>10} {rows:>17} {job.entries:>15,} {job.seconds / 60:>9,.1f}"
            f" {job.memory_bytes / 1e6:>10,.0f} {job.file_bytes / 1e6:>9,.0f}"
        )
    entries, seconds = sum(job.entries for job in jobs), sum(job.seconds for job in jobs)
    n_bytes = sum(job.file_bytes for job in jobs)
    print(
        f"{'all':>10} {'':>17} {entries:>15,} {seconds / 60:>9,.1f} {'':>10} {n_bytes / 1e6:>9,.0f}"
    )
    source = "as given" if args.rate else "measured here just now; --rate gives another machine's"
    print(f"one job after another, at {rate:,.4g} different entries/s ({source})")


def label_term(args: argparse.Namespace) -> None:
    """Fit a label term on all of train and write what it learned."""
    import numpy as np

    from lantk.label_terms import image_vectors
    from lantk.label_terms import label_term as make_label_term
    from lantk.storage import writing

    drawn, k_train_train, _, record = _load_gram(args)
    term = make_label_term(args.variant)
    vectors = image_vectors(drawn.x_train) if term.needs_x else None
    term.fit(k_train_train, drawn.y_train, vectors)
    with writing(args.out) as temporary:
        origin = _origin(args.variant, record)
        np.savez(temporary, allow_pickle=False, origin=origin, **term.fitted())


def evaluate(args: argparse.Namespace) -> None:
    """Choose label weights, predict the test images, and write results and predictions."""
    import functools

    from lantk.evaluate import assess
    from lantk.label_terms import image_vectors
    from lantk.label_terms import label_term as make_label_term
    from lantk.predict import predict

    drawn, k_train_train, k_test_train, record = _load_gram(args)
    term = None if args.variant == "cntk" else make_label_term(args.variant)
    vectors: dict[str, Any] = {"x_train": None, "x_test": None}
    if term is not None:
        if term.needs_x:
            vectors = {name: image_vectors(getattr(drawn, name)) for name in vectors}
        term.restore(_load_fitted(args, record), vectors["x_train"])
    weights = {"honest": args.honest_weights, "oracle": args.oracle_weights}
    solver = _find_solver(args.device)
    asked = [weight for name in args.protocols for weight in weights[name]]
    start = time.perf_counter()
    with _progress("solves") as progress:
        path = predict(
            k_train_train,
            k_test_train,
            drawn.y_train,
            term,
            weights=asked,
            validated=args.honest_weights if "honest" in args.protocols else [],
            make_term=functools.partial(make_label_term, args.variant) if term else None,
            folds=args.folds,
            seed=args.fold_seed,
            device=solver,
            progress=progress,
            **vectors,
        )
    results, scores = assess(
        path, drawn.y_test, protocols=args.protocols, oracle_weights=args.oracle_weights
    )
    results["diagnostics"]["seconds"] = time.perf_counter() - start
    settings = {
        "folds": args.folds,
        "fold_seed": args.fold_seed,
        "honest_weights": args.honest_weights,
        "oracle_weights": args.oracle_weights,
        "device": solver or "cpu",
        "gram_device": "+".join(record["devices"]),
    }
    _write_evaluation(args, drawn, record["architecture"], settings, results, scores)


def cnn(args: argparse.Namespace) -> None:
    """Train the finite network and write results and predictions."""
    from lantk.architecture import parse_architecture
    from lantk.data import load_split
    from lantk.evaluate import assess_network
    from lantk.network import Network, train

    drawn, architecture = load_split(args.split), parse_architecture(args.architecture)
    network = Network(
        architecture, drawn.pixels_train.shape[1:], channels=args.channels, seed=args.seed
    )
    with _progress("epochs") as progress:
        history = train(
            network,
            drawn.x_train,
            drawn.y_train,
            drawn.x_test,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            seed=args.seed,
            device=args.device,
            progress=progress,
        )
    results, scores = assess_network(
        history.test_scores, history.train_loss, drawn.y_test, protocols=args.protocols
    )
    results["diagnostics"] = {"n_parameters": history.n_parameters, "seconds": history.seconds}
    settings = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "channels": network.channels,
        "device": str(next(network.parameters()).device),
    }
    _write_evaluation(args, drawn, _spell_out(architecture), settings, results, scores)


def table(args: argparse.Namespace) -> None:
    """Collect evaluations into table.csv and table.md, and benchmarks into timings.csv."""
    import pandas as pd

    from lantk.evaluate import leaderboard
    from lantk.report import table_markdown
    from lantk.storage import writing

    paths = [path for pair in args.pairs for path in _evaluation_paths(args, pair)]
    evaluations = [
        (json.loads(path.read_text()), pd.read_csv(path.with_suffix(".csv"))) for path in paths
    ]
    frame = leaderboard(evaluations)
    with writing(args.results / "timings.csv") as temporary:
        _read_benchmarks(args).to_csv(temporary, index=False)
    with writing(args.results / "table.md") as temporary:
        temporary.write_text(table_markdown(frame))
    with writing(args.results / "table.csv") as temporary:
        frame.to_csv(temporary, index=False)


def figure(args: argparse.Namespace) -> None:
    """Draw accuracy against label weight for one class pair."""
    from lantk.report import weight_figure

    (pair,) = args.pairs
    evaluations = [json.loads(path.read_text()) for path in _evaluation_paths(args, pair)]
    weight_figure(evaluations, args.out)


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
    _write_json(args.out, record)


def show(args: argparse.Namespace) -> None:
    """Print the table and how to open the dashboard."""
    if not (args.results / "tracking.json").exists():
        raise LantkError(f"no finished results in {args.results}: run the workflow first")
    print((args.results / "table.md").read_text())
    print(json.loads((args.results / "tracking.json").read_text())["hint"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    args = _parser().parse_args(argv)
    # A scheduler's time limit ends a job this way: unwind, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.threads is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(args.threads)))
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"lantk {args.verb}: interrupted; no file is half-written", file=sys.stderr)
        return 130
    except Exception as error:
        # Our own errors and the system's say what to change; anything else is a fault of ours,
        # and shows where.
        if not isinstance(error, LantkError | OSError):
            traceback.print_exc()
        print(f"lantk {args.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lantk", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run: Callable[[argparse.Namespace], None], *options: str) -> None:
        text = run.__doc__ or ""
        sub = verbs.add_parser(run.__name__.replace("_", "-"), help=text, description=text)
        for option in (*options, "threads"):
            keywords = dict(OPTIONS[option])
            sub.add_argument(keywords.pop("flag", f"--{option}"), **keywords)
        sub.set_defaults(run=run)

    sizes = ("n-train", "n-test", "seed")
    planned = ("plan-n-train", "plan-n-test", "image", "memory-mb", "plan-bands", "rate")
    weights = ("protocols", "honest-weights", "oracle-weights", "folds", "fold-seed")
    training = ("epochs", "batch-size", "learning-rate", "channels", "seed", "device")
    listing = ("results", "pairs", "variants", "seeds")
    verb(fetch, "source", "path", "out")
    verb(split, "source", "path", "pair", *sizes, "out")
    verb(gram, "split", "architecture", "device", "memory-mb", "bands", "band", "out-folder")
    verb(plan, "architecture", "device", *planned)
    verb(label_term, "split", "gram", "variant", "out")
    verb(evaluate, "split", "gram", "variant", "label-term", *weights, "device", "out")
    verb(cnn, "split", "architecture", *training, "protocols", "variant", "out")
    verb(table, *listing, "table-bands")
    verb(figure, *listing, "out")
    verb(track, "results", "config", "out")
    verb(show, "results")
    return parser


def _spell_out(architecture: Any) -> dict[str, Any]:
    return {"digest": architecture.digest, "layers": architecture.to_list()}


def _is_written(path: Path, record: dict[str, Any], shape: tuple[int, int]) -> bool:
    """Return whether a whole band of the same images and architecture is there, of any device."""
    import numpy as np

    try:
        found = json.loads(path.read_text()) | {"device": record["device"]}
        block = np.load(path.with_suffix(".npy"), mmap_mode="r")
    except (OSError, ValueError, TypeError, EOFError):
        return False
    return bool(found == record) and block.shape == shape and block.dtype == np.float32


def _load_gram(args: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return the split, both Gram matrices (memory-mapped if in one band) and their record."""
    import numpy as np

    from lantk.data import load_split
    from lantk.kernel.bands import Band, assemble

    drawn = load_split(args.split)
    remedy = "compute it again with the verb gram"
    records, bands, blocks, devices = [], [], [], set()
    for named in args.gram:
        path = named.with_suffix(".json")
        try:
            record = json.loads(path.read_text())
            start, stop = record["rows"]
            bands.append(Band(start, stop, record["first_column"]))
            blocks.append(np.load(path.with_suffix(".npy"), mmap_mode="r"))
            records.append({name: record[name] for name in ("split", "architecture")})
            devices.add(record["device"])
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise LantkError(
                f"{path}, or the block beside it, is broken ({error}): {remedy}"
            ) from error
        if record["split"] != drawn.digest:
            raise LantkError(f"{path} was computed from other images than {args.split}: {remedy}")
    if any(record != records[0] for record in records):
        raise LantkError(
            f"the bands {', '.join(map(str, args.gram))} are of different architectures: {remedy}"
        )
    try:
        k = assemble(bands, blocks, len(drawn.y_train), len(drawn.y_test))
    except LantkError as error:
        raise LantkError(f"{', '.join(map(str, args.gram))}: {error}") from error
    return drawn, *k, records[0] | {"devices": sorted(devices)}


def _load_fitted(args: argparse.Namespace, gram_record: dict[str, Any]) -> dict[str, Any]:
    """Return what a label term learned, if it is this variant's on this Gram matrix."""
    from lantk.sources import opening_npz

    if args.label_term is None:
        raise LantkError(f"{args.variant} needs --label-term, a file that label-term wrote")
    remedy = "fit it again with the verb label-term"
    with opening_npz(args.label_term, remedy) as archive:
        fitted = dict(archive)
        origin = str(archive["origin"])
    if origin != _origin(args.variant, gram_record):
        raise LantkError(
            f"{args.label_term} was fitted for another variant or on another Gram matrix than"
            f" {args.variant} on {args.gram[0]}: {remedy}"
        )
    del fitted["origin"]
    return fitted


def _origin(variant: str, gram_record: dict[str, Any]) -> str:
    return json.dumps([variant, gram_record["split"], gram_record["architecture"]["digest"]])


def _find_solver(device: str) -> str | None:
    """Return the GPU that solves, as PyTorch names it, or None for the CPU."""
    if device == "auto":
        try:
            # Loading PyTorch takes a second: not where there is no driver to use.
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return None
    from lantk.solve_device import find_device

    return find_device(device)


def _write_evaluation(
    args: argparse.Namespace,
    drawn: Any,
    architecture: dict[str, Any],
    settings: dict[str, Any],
    results: dict[str, Any],
    scores: Any,
) -> None:
    """Write predictions, then the record that says they are whole."""
    from lantk.provenance import collect_provenance
    from lantk.storage import writing

    scores.insert(0, "index", drawn.index_test)
    scores.insert(1, "label", drawn.y_test)
    with writing(args.out.with_suffix(".csv")) as temporary:
        scores.to_csv(temporary, index=False)
    record = {
        "pair": drawn.slug,
        "classes": list(drawn.names),
        "variant": args.variant,
        "seed": getattr(args, "seed", None),
        "n_train": len(drawn.y_train),
        "n_test": len(drawn.y_test),
        "data": {"source": drawn.source, "digest": drawn.digest},
        "architecture": architecture,
        "settings": settings,
    }
    _write_json(args.out, record | results | {"provenance": collect_provenance()})


def _evaluation_paths(args: argparse.Namespace, pair: str) -> list[Path]:
    """Return the records of one pair, in the order of the table."""
    folder = args.results / "evaluations" / pair
    return [
        folder / f"{name}.json"
        for variant in args.variants
        for name in ([f"cnn-seed{seed}" for seed in args.seeds] if variant == "cnn" else [variant])
    ]


def _read_benchmarks(args: argparse.Namespace) -> Any:
    """Return seconds and peak memory of the jobs behind the table, from Snakemake's benchmarks."""
    import pandas as pd

    folder = args.results / "benchmarks"
    known = {
        *args.variants,
        *args.bands,
        *(f"seed{seed}" for seed in args.seeds if "cnn" in args.variants),
    }
    rows = []
    for path in sorted(folder.rglob("*.jsonl")):
        # RULE, RULE/PAIR, RULE/PAIR/VARIANT, gram/PAIR/BAND or RULE/PAIR/seedN; others are left
        # over.
        rule, *job = path.relative_to(folder).with_suffix("").parts
        is_whole = rule != "gram" or len(job) == 2
        if set(job[:1]) <= set(args.pairs) and set(job[1:]) <= known and is_whole:
            measured = json.loads(path.read_text().splitlines()[-1])
            seconds, memory = measured["s"], measured["max_rss"]
            # Memory is sampled, and a job this short is over before the first sample means much.
            memory = memory if seconds > 2 else None
            name = "/".join([rule, *job])
            rows.append({"job": name, "seconds": seconds, "peak_memory_mb": memory})
    return pd.DataFrame(rows, columns=["job", "seconds", "peak_memory_mb"])


def _write_json(path: Path, content: Any) -> None:
    from lantk.storage import writing

    with writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


class _progress:
    """A bar on a terminal, a line every half minute in a log; yields a progress callable."""

    def __init__(self, unit: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit=f" {unit}", unit_scale=True, disable=None)
        self._unit, self._start = unit, time.monotonic()
        self._next = self._start + 30

    def __enter__(self) -> Callable[..., None]:
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _update(self, done: int, total: int, loss: float | None = None) -> None:
        if not self._bar.disable:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() > self._next:
            self._next = time.monotonic() + 30
            left = (time.monotonic() - self._start) * (total - done) / done / 60
            trained = "" if loss is None else f", train loss {loss:.4f}"
            text = f"{done:,} of {total:,} {self._unit}{trained}, about {left:.1f} min left"
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
