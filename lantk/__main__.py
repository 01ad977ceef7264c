"""The command line: ``python -m lantk VERB``. Parse, load, call one function, save.

Verbs import what they need when they run, so that ``--threads`` is in force before any library
that starts threads is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lantk.errors import LantkError
from lantk.options import OPTIONS

# Images of a heat map: more would be points smaller than a pixel.
_SHOWN_IMAGES = 500
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
    """Write the train and test images of a class pair, or of several classes at once."""
    from lantk import data
    from lantk.tasks import resolve_classes, resolve_pair

    if (args.pair is None) == (args.classes is None):
        raise LantkError("wanted one of --pair CLASS CLASS and --classes all|CLASS CLASS CLASS...")
    description = data.describe(args.source, args.path)
    names = description.class_names
    asked = args.pair or args.classes
    classes = [names[c] if isinstance(c, int) and c < len(names) else c for c in asked]
    sizes, scaling = (args.n_train, args.n_test), args.scaling
    if args.pair:
        pair = resolve_pair(description, classes)
        drawn = data.split_pair(args.source, args.path, pair, *sizes, args.seed, scaling=scaling)
    else:
        task = resolve_classes(description, "all" if classes == ["all"] else classes)
        drawn = data.split_classes(args.source, args.path, task, *sizes, scaling=scaling)
    data.save_split(args.out, drawn)


def gram(args: argparse.Namespace) -> None:
    """Write row bands of the Gram matrices of a split, float32: one, or all that are not there.

    Several architectures are computed in one pass, each into a folder of its own.
    """
    from lantk.architecture import parse_architecture
    from lantk.data import load_split
    from lantk.kernel.bands import count_bands, count_visits, find_band, name_bands
    from lantk.kernel.gram import gram_band, uses_gpu
    from lantk.storage import writing_array

    if len(args.architecture) != len(args.out):
        raise LantkError(
            f"{len(args.architecture)} architectures and {len(args.out)} folders: wanted one folder"
            " in --out for each architecture, in the same order"
        )
    drawn = load_split(args.split)
    networks = [parse_architecture(given) for given in args.architecture]
    x_train, x_test = drawn.x_train, drawn.x_test
    sizes = len(x_train), len(x_test)
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
            "device": "cuda" if uses_gpu(args.device) else "cpu",
        }
        jobs = [
            (network, folder / f"{name}.json", {"architecture": _spell_out(network)} | common)
            for network, folder in zip(networks, args.out, strict=True)
        ]
        if args.band is None:
            jobs = [job for job in jobs if not _is_written(*job[1:], shape)]
        if not jobs:
            continue
        with _progress(f"entries of band {name}") as progress, contextlib.ExitStack() as files:
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
                device=args.device,
                scratch_bytes=args.memory_mb * 2**20 or None,
                progress=progress,
            )
        for _, path, record in jobs:
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
    visits = count_visits([architecture], *shape[1:])
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
    from lantk.storage import writing

    drawn, k_train_train, _, record = _load_gram(args)
    term = _find_term(args.variant, args.estimator)()
    vectors = None
    if term.needs_x:
        vectors = image_vectors(drawn.x_train, append_one=drawn.is_binary)
    term.fit(k_train_train, _label_array(drawn), vectors)
    with writing(args.out) as temporary:
        origin = _origin(args, args.variant, record)
        # A prefix, so that no learned name is one of savez's own.
        fitted = {f"fitted.{name}": value for name, value in term.fitted().items()}
        np.savez(temporary, allow_pickle=False, origin=origin, **fitted)


def evaluate(args: argparse.Namespace) -> None:
    """Choose label weights, predict the test images, and write results and predictions.

    The variants are a family: a label term and its controls, or the kernel and its own, which share
    the factor of the kernel and the features of pairs.
    """
    from lantk.evaluate import assess, oracle_label_path
    from lantk.label_terms import LeastSquares, image_vectors
    from lantk.pair_features import PairedVectors
    from lantk.predict import predict
    from lantk.variants import families, split_control, variant_name

    if len(families(args.variants)) > 1:
        raise LantkError(
            f"--variants {' '.join(args.variants)} are of several families: evaluate a label term"
            " with its own controls, or cntk with cntk-ridge and oracle-label"
        )
    drawn, k_train_train, k_test_train, record = _load_gram(args)
    term = split_control(args.variants[0])[0]
    probe = None if term in ("cntk", "oracle-label") else _find_term(term, args.estimator)()
    vectors: dict[str, Any] = {"x_train": None, "x_test": None}
    if probe is not None and probe.needs_x:
        vectors = {
            name: image_vectors(getattr(drawn, name), append_one=drawn.is_binary)
            for name in vectors
        }
        if "honest" in args.protocols and isinstance(probe, LeastSquares):
            # Every fold fits features anew: what pairs share is computed once.
            store = PairedVectors(vectors["x_train"], vectors["x_test"])
            n_train = len(drawn.y_train)
            vectors = {"x_train": store[:n_train], "x_test": store[n_train:]}
    if probe is not None and args.label_term is not None:
        probe.restore(_load_fitted(args, term, record), vectors["x_train"])
    members = _find_members(args, probe if args.label_term is not None else None)
    solver = _find_solver(args.device)
    start = time.perf_counter()
    with _progress("solves") as progress:
        paths = predict(
            k_train_train,
            k_test_train,
            _label_array(drawn),
            members,
            folds=args.folds,
            seed=args.fold_seed,
            device=solver,
            progress=progress,
            **vectors,
        )
    # The members of a family are solved together: each is given its share of the time.
    seconds = (time.perf_counter() - start) / len(members)
    entries = [(m.name, m.permutation, path) for m, path in zip(members, paths, strict=True)]
    if "oracle-label" in args.variants and "oracle" in args.protocols:
        plain = next(path for name, _, path in entries if name == "cntk")
        ceiling = oracle_label_path(plain, drawn.y_test, args.oracle_weights)
        entries.append(("oracle-label", None, ceiling))
    for name, permutation, path in entries:
        if name not in args.variants:
            continue
        is_ridge, knows_test_labels = name == "cntk-ridge", name == "oracle-label"
        results, scores = assess(
            path,
            drawn.y_test,
            protocols=["oracle"] if knows_test_labels else args.protocols,
            oracle_weights=args.oracle_ridges if is_ridge else args.oracle_weights,
            is_ridge=is_ridge,
        )
        if not knows_test_labels:
            results["diagnostics"]["seconds"] = seconds
        settings = {
            **_settings_of(args, name),
            "device": solver or "cpu",
            "gram_device": "+".join(record["devices"]),
        }
        stem = variant_name(name) + ("" if permutation is None else f"-seed{permutation}")
        head = {"case": args.case, "variant": variant_name(name), "seed": permutation}
        head["architecture"] = _named(record["architecture"])
        _write_evaluation(args.out / f"{stem}.json", head, drawn, settings, results, scores)


def cnn(args: argparse.Namespace) -> None:
    """Train the finite network and write results and predictions; go on where it was interrupted.

    Every minute the state of the training goes into a file beside --out.
    """
    import functools

    from lantk.architecture import parse_architecture
    from lantk.checkpoint import Checkpoint
    from lantk.data import load_split
    from lantk.evaluate import assess_network
    from lantk.learning_rate import train_at_best_rate
    from lantk.network import Network, default_channels, default_parameterization
    from lantk.training import find_device

    drawn, architecture = load_split(args.split), parse_architecture(args.architecture)
    drawn = drawn if args.n_train is None else drawn.first(args.n_train)
    n_outputs = 1 if drawn.is_binary else len(drawn.names)
    drawing: dict[str, Any] = {
        "channels": args.channels or default_channels(architecture, n_outputs),
        "parameterization": default_parameterization(architecture),
    }
    schedule: dict[str, Any] = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "loss": args.loss,
        "targets": (0.0, 1.0) if drawn.is_binary else args.targets,
        "device": find_device(args.device).type,
    }
    asked: dict[str, Any] = {"learning_rates": args.learning_rate, "seed": args.seed}
    origin = {"split": drawn.digest, "architecture": architecture.to_list()}
    checkpoint = Checkpoint(
        args.out.with_suffix(".checkpoint"), origin | drawing | schedule | asked
    )
    shape = drawn.pixels_train.shape[1:]
    with _progress("epochs") as progress:
        done = train_at_best_rate(
            functools.partial(
                Network, architecture, shape, n_outputs=n_outputs, seed=args.seed, **drawing
            ),
            drawn.x_train,
            drawn.y_train,
            drawn.x_test,
            resume=_load_checkpoint(checkpoint),
            keep=checkpoint.save,
            progress=progress,
            **schedule,
            **asked,
        )
    results, predictions = assess_network(
        done.history.test_predictions,
        done.history.train_loss,
        drawn.y_test,
        protocols=args.protocols,
        validation_accuracy=done.best_validation_accuracy,
    )
    results["diagnostics"] = {"n_parameters": done.history.n_parameters, "seconds": done.seconds}
    choice = {
        "learning_rate": done.learning_rate,
        "learning_rates": args.learning_rate,
        "learning_rate_accuracies": done.validation_accuracy,
    }
    head = {"case": args.case, "variant": args.variant, "seed": args.seed}
    head["architecture"] = _named(_spell_out(architecture))
    settings = drawing | schedule | choice
    _write_evaluation(args.out, head, drawn, settings, results, predictions)
    checkpoint.remove()


def table(args: argparse.Namespace) -> None:
    """Collect evaluations into table.csv, exponents.csv, table.md; benchmarks into timings.csv."""
    from lantk.leaderboard import leaderboard
    from lantk.report import table_markdown
    from lantk.statistics import error_exponents
    from lantk.storage import writing

    frame = leaderboard(_read_evaluations(_evaluation_paths(args)))
    exponents = error_exponents(frame)
    with writing(args.results / "timings.csv") as temporary:
        _read_benchmarks(args).to_csv(temporary, index=False)
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
        records = [json.loads(path.read_text()) for path in _evaluation_paths(args)]
        (weight_figure if args.kind == "weight" else alignment_figure)(records, args.out)


def results_(args: argparse.Namespace) -> None:
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
        found = _read_evaluations(path for path in paths if path.name[0] != ".")
        if found:
            preset = studies[folder.name].preset
            studies[folder.name] = gather_study(preset, found, _read_timings(folder))
    published = yaml.safe_load((args.experiments / "published" / "accuracies.yaml").read_text())
    asked = ["--results", *args.results, "--experiments", args.experiments]
    asked += ["--out", args.out, "--data-note", args.data_note]
    command = shlex.join(["python", "-m", "lantk", "results", *map(str, asked)])
    with writing(args.out) as temporary:
        temporary.write_text(results_markdown(studies, published, args.data_note, command))


def heat_map(args: argparse.Namespace) -> None:
    """Draw K, Z and K + lambda Z among the first train images, sorted by class."""
    import numpy as np

    from lantk.figures import gram_figure
    from lantk.label_terms import image_vectors
    from lantk.variants import variant_name

    drawn, k_train_train, _, record = _load_gram(args)
    name = variant_name(args.variant)
    term = _find_term(args.variant, args.estimator)()
    vectors = image_vectors(drawn.x_train, append_one=drawn.is_binary) if term.needs_x else None
    term.restore(_load_fitted(args, args.variant, record), vectors)
    evaluation = json.loads(args.evaluation.read_text())
    chosen = {name: found["label_weight"] for name, found in evaluation["protocols"].items()}
    # At weight 0, which validation may choose, there would be nothing to see.
    protocol = next((name for name, weight in chosen.items() if weight), next(iter(chosen)))
    weight = chosen[protocol]
    factor = next(p["label_factor"] for p in evaluation["curve"] if p["label_weight"] == weight)
    n = min(_SHOWN_IMAGES, len(drawn.y_train))
    k = np.asarray(k_train_train[:n, :n])
    z = term.train_block(k_train_train, vectors)[:n, :n]
    heading = f"K + lambda Z, r = {weight:g} ({protocol})"
    matrices = {"K": k, "Z": z, heading: k + factor * z}
    title = f"{args.case}, {name}: the first {n:,} of {len(drawn.y_train):,} train images"
    gram_figure(matrices, drawn.y_train[:n], args.out, title, drawn.names)


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
        name = run.__name__.rstrip("_").replace("_", "-")
        sub = verbs.add_parser(name, help=text, description=text)
        for option in (*options, "threads"):
            keywords = dict(OPTIONS[option])
            sub.add_argument(keywords.pop("flag", f"--{option}"), **keywords)
        sub.set_defaults(run=run)

    sizes = ("n-train", "n-test", "seed")
    planned = ("plan-n-train", "plan-n-test", "image", "memory-mb", "plan-bands", "rate")
    grids = ("honest-weights", "oracle-weights", "honest-ridges", "oracle-ridges")
    weights = ("protocols", *grids, "folds", "fold-seed")
    training = ("epochs", "batch-size", "learning-rate", "loss", "targets", "channels", "seed")
    listing = ("results", "cases", "variants", "seeds", "permutations")
    verb(fetch, "source", "path", "out")
    verb(split, "source", "path", "pair", "classes", *sizes, "scaling", "out")
    verb(gram, "split", "architectures", "device", "memory-mb", "bands", "band", "out-folders")
    verb(plan, "architecture", "device", *planned)
    verb(label_term, "split", "gram", "case-n-train", "variant", "estimator", "out")
    family = ("case", "case-n-train", "family", "permutations", "estimator")
    verb(evaluate, "split", "gram", *family, "label-term", *weights, "device", "out-folder")
    described = ("split", "case", "case-n-train", "architecture")
    verb(cnn, *described, *training, "device", "protocols", "variant", "out")
    verb(table, *listing, "table-bands")
    verb(figure, *listing, "kind", "out")
    verb(results_, "results-folders", "experiments", "data-note", "out")
    drawing = ("case", "case-n-train", "variant", "estimator", "label-term", "evaluation", "out")
    verb(heat_map, "split", "gram", *drawing)
    verb(track, "results", "config", "out")
    verb(show, "results")
    return parser


def _spell_out(architecture: Any) -> dict[str, Any]:
    return {"digest": architecture.digest, "layers": architecture.to_list()}


def _named(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture spelt out, with its name in front, null if it has none."""
    from lantk.architecture import find_name

    return {"name": find_name(architecture["layers"])} | architecture


def _is_written(path: Path, record: dict[str, Any], shape: tuple[int, int]) -> bool:
    """Return whether a whole band of the same images and architecture is there, of any device."""
    import numpy as np

    try:
        found = json.loads(path.read_text()) | {"device": record["device"]}
        block = np.load(path.with_suffix(".npy"), mmap_mode="r")
        is_it = bool(found == record) and block.shape == shape and block.dtype == np.float32
    except (OSError, ValueError, TypeError, EOFError):
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
    if args.n_train is not None and args.n_train < len(drawn.y_train):
        # Splits are nested: fewer train images are the leading rows and columns.
        n = args.n_train
        drawn, k = drawn.first(n), (np.array(k[0][:n, :n]), np.array(k[1][:, :n]))
    found = {"devices": sorted(devices), "n_train": len(drawn.y_train)}
    return drawn, *k, records[0] | found


def _load_fitted(args: argparse.Namespace, term: str, gram_record: dict[str, Any]) -> Any:
    """Return what a label term learned, if it is this term's on this Gram matrix."""
    from lantk.sources import opening_npz

    remedy = "fit it again with the verb label-term"
    with opening_npz(args.label_term, remedy) as archive:
        names = [name for name in archive if name.startswith("fitted.")]
        fitted = {name.removeprefix("fitted."): archive[name] for name in names}
        origin = str(archive["origin"])
    if origin != _origin(args, term, gram_record):
        raise LantkError(
            f"{args.label_term} was fitted for another variant or on another Gram matrix than"
            f" {term} on {args.gram[0]}: {remedy}"
        )
    return fitted


def _origin(args: argparse.Namespace, term: str, gram_record: dict[str, Any]) -> str:
    digest = gram_record["architecture"]["digest"]
    return json.dumps([term, gram_record["split"], gram_record["n_train"], digest, args.estimator])


def _label_array(drawn: Any) -> Any:
    """Return train labels as fits take them: -1 and +1, or one-hot."""
    import numpy as np

    return drawn.y_train if drawn.is_binary else np.eye(len(drawn.names))[drawn.y_train]


def _find_term(variant: str, estimator: str) -> Callable[[], Any]:
    """Return what makes an unfitted label term, of ours or of the user's own."""
    from lantk.contract import load_term_class
    from lantk.label_terms import label_term
    from lantk.variants import is_own_term

    if is_own_term(variant):
        return load_term_class(variant)
    return functools.partial(label_term, variant, estimator=estimator)


def _settings_of(args: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Return the settings that the results of a variant depend on."""
    settings: dict[str, Any] = {}
    if "honest" in args.protocols and variant != "oracle-label":
        settings |= {"folds": args.folds, "fold_seed": args.fold_seed}
    if variant != "cntk":
        kind = "ridges" if variant == "cntk-ridge" else "weights"
        names = [f"{protocol}_{kind}" for protocol in args.protocols]
        settings |= {name: vars(args)[name] for name in names}
    if "-fjlt-" in variant:
        settings["estimator"] = args.estimator
    return settings


def _find_members(args: argparse.Namespace, fitted: Any) -> list[Any]:
    """Return the members of the family that are to be predicted; `fitted` is its fitted term."""
    from lantk.predict import Member
    from lantk.variants import split_control

    honest = "honest" in args.protocols
    asked = [w for name in args.protocols for w in vars(args)[f"{name}_weights"]]
    ridges = [w for name in args.protocols for w in vars(args)[f"{name}_ridges"]]
    members: list[Any] = []
    makers: dict[str, Any] = {}
    if "cntk" in args.variants or "oracle-label" in args.variants:
        members.append(Member("cntk", validated=[0.0] if honest else []))
    for variant in args.variants:
        if variant in ("cntk", "oracle-label"):
            continue
        term, control = split_control(variant)
        fitted_name = variant if control == "offdiagonal" else term
        # Members with the same maker share a fit.
        make = makers.setdefault(fitted_name, _find_term(fitted_name, args.estimator))
        is_ridge = variant == "cntk-ridge"
        validated = args.honest_ridges if is_ridge else args.honest_weights
        for permutation in range(args.permutations) if control == "shuffled" else [None]:
            members.append(
                Member(
                    variant,
                    ridges if is_ridge else asked,
                    validated if honest else [],
                    make,
                    permutation,
                    only_diagonal=control == "diagonal",
                    fitted=fitted if permutation is None and fitted_name == term else None,
                )
            )
    return members


def _load_checkpoint(checkpoint: Any) -> dict[str, Any] | None:
    """Return the state to go on from, if there is one of the same computation, and say so."""
    from lantk.checkpoint import CheckpointError

    try:
        state: dict[str, Any] | None = checkpoint.load()
    except CheckpointError as error:
        print(f"lantk cnn: {error}; training starts anew", file=sys.stderr)
        return None
    if state is not None:
        print(f"lantk cnn: goes on from {checkpoint.path}", file=sys.stderr)
    return state


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
    path: Path,
    head: dict[str, Any],
    drawn: Any,
    settings: dict[str, Any],
    results: dict[str, Any],
    predictions: Any,
) -> None:
    """Write predictions, then the record that says they are whole; `head` names the result."""
    from lantk.provenance import collect_provenance
    from lantk.storage import writing

    predictions.insert(0, "index", drawn.index_test)
    predictions.insert(1, "label", drawn.y_test)
    with writing(path.with_suffix(".csv")) as temporary:
        predictions.to_csv(temporary, index=False)
    record = head | {
        "task": drawn.slug,
        "classes": list(drawn.names),
        "n_train": len(drawn.y_train),
        "n_test": len(drawn.y_test),
        "data": {"source": drawn.source, "digest": drawn.digest, "scaling": drawn.scaling},
        "settings": settings,
    }
    _write_json(path, record | results | {"provenance": collect_provenance()})


def _evaluation_paths(args: argparse.Namespace) -> list[Path]:
    """Return the records of all cases, in the order of the table."""
    from lantk.variants import stems

    names = stems(args.variants, args.permutations, args.seeds)
    folder = args.results / "evaluations"
    return [folder / case / f"{name}.json" for case in args.cases for name in names]


def _read_evaluations(paths: Iterable[Path]) -> list[tuple[dict[str, Any], Any]]:
    """Return records with their predictions."""
    import pandas as pd

    return [(json.loads(path.read_text()), pd.read_csv(path.with_suffix(".csv"))) for path in paths]


def _read_benchmarks(args: argparse.Namespace) -> Any:
    """Return seconds and peak memory of the jobs behind the table, from Snakemake's benchmarks."""
    folder = args.results / "benchmarks"
    return _read_jobs(
        folder,
        [path for path in sorted(folder.rglob("*.jsonl")) if _is_of_table(path, folder, args)],
    )


def _is_of_table(path: Path, folder: Path, args: argparse.Namespace) -> bool:
    """Return whether a benchmark is of a job behind the table; others are left over."""
    from lantk.variants import family_of, variant_name

    # RULE, RULE/TASK, gram/GRAM/BAND, cnn/CASE/seedN, RULE/CASE/FAMILY.
    rule, *job = path.relative_to(folder).with_suffix("").parts
    known = {*args.bands, *(f"seed{seed}" for seed in args.seeds if "cnn" in args.variants)}
    known |= {variant_name(variant) for variant in args.variants}
    known |= {variant_name(family_of(variant)) for variant in args.variants}
    is_whole = rule != "gram" or len(job) == 2
    # The name of a case begins with its task and architecture.
    is_case = not job or any(f"{case}.".startswith(f"{job[0]}.") for case in args.cases)
    return is_case and is_whole and set(job[1:]) <= known


def _read_jobs(folder: Path, paths: Iterable[Path]) -> Any:
    import pandas as pd

    rows = []
    for path in paths:
        measured = json.loads(path.read_text().splitlines()[-1])
        seconds, memory = measured["s"], measured["max_rss"]
        # Memory is sampled, and a job this short is over before the first sample means much.
        memory = memory if seconds > 2 else None
        name = str(path.relative_to(folder).with_suffix(""))
        rows.append({"job": name, "seconds": seconds, "peak_memory_mb": memory})
    return pd.DataFrame(rows, columns=["job", "seconds", "peak_memory_mb"])


def _read_timings(results: Path) -> Any:
    """Return the times of a results folder, finished or not."""
    import pandas as pd

    if (results / "timings.csv").exists():
        return pd.read_csv(results / "timings.csv")
    folder = results / "benchmarks"
    return _read_jobs(folder, sorted(folder.rglob("*.jsonl")))


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
