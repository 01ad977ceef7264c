"""The verbs that fit, solve, train and evaluate."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import Any

from lantk.cli.files import (
    find_term,
    fit_origin,
    label_array,
    load_fitted,
    load_gram,
    spell_out,
    with_name,
)
from lantk.cli.progress import showing_progress, showing_work
from lantk.errors import LantkError
from lantk.experiment.records import read_record, write_record
from lantk.files import writing
from lantk.variant import PLAIN_KERNELS, Variant

_SHOWN_IMAGES = 500  # of a heat map: more would be points smaller than a pixel


def label_term(args: argparse.Namespace) -> None:
    """Fit a label term on all of train and write what it learned."""
    import numpy as np

    drawn, k_train_train, _, record = load_gram(args)
    term = find_term(args.variant, args.estimator)()
    vectors = None
    if term.needs_x:
        vectors = _vectors_of(drawn, drawn.x_train)
    with showing_work(f"fitting {args.variant} to {len(drawn.y_train):,} images"):
        term.fit(k_train_train, label_array(drawn), vectors)
    with writing(args.out) as temporary:
        origin = fit_origin(args, args.variant, record)
        # A prefix, so that no learned name is one of savez's own.
        fitted = {f"fitted.{name}": value for name, value in term.fitted().items()}
        np.savez(temporary, allow_pickle=False, origin=origin, **fitted)


def evaluate(args: argparse.Namespace) -> None:
    """Choose label weights, predict the test images, and write results and predictions.

    The variants are a family: a label term and its controls, or the kernel and its own, which share
    the factor of the kernel and the features of pairs.
    """
    from lantk.cli.models import fitted_model
    from lantk.estimators.model import write_arrays
    from lantk.experiment.variants import families
    from lantk.regression.fits import pair_vectors
    from lantk.regression.paths import predict
    from lantk.regression.protocols import assess, oracle_label_path
    from lantk.solvers.factors import find_solver

    if len(families(args.variants)) > 1:
        raise LantkError(
            f"--variants {' '.join(args.variants)} are of several families: evaluate a label term"
            " with its own controls, or cntk with cntk-ridge, cntk-intercept and oracle-label"
        )
    first = Variant.of(args.variants[0])
    drawn, k_train_train, k_test_train, record = load_gram(args, flips=first.has_flips)
    term = next(filter(None, (Variant.of(name).addition for name in args.variants)), None)
    probe = find_term(term, args.estimator)() if term else None
    vectors: dict[str, Any] = {"x_train": None, "x_test": None}
    if probe is not None and probe.needs_x:
        vectors = {name: _vectors_of(drawn, getattr(drawn, name)) for name in vectors}
        if "honest" in args.protocols:
            with showing_work("comparing pairs of images"):
                pairs = pair_vectors(probe, vectors["x_train"], vectors["x_test"])
            vectors = {"x_train": pairs[0], "x_test": pairs[1]}
    if term and probe is not None and args.label_term is not None:
        with showing_work(f"loading {term}"):
            probe.restore(load_fitted(args, term, record), vectors["x_train"])
    members = _find_members(args, probe if args.label_term is not None else None)
    solver = find_solver(args.device)
    start = time.perf_counter()
    with showing_progress("solves") as progress:
        paths = predict(
            k_train_train,
            k_test_train,
            label_array(drawn),
            members,
            folds=args.folds,
            seed=args.fold_seed,
            device=solver,
            progress=progress,
            diagonal_test=record["diagonal_test"],
            **vectors,
        )
    # The members of a family are solved together: each is given its share of the time.
    seconds = (time.perf_counter() - start) / len(members)
    entries = [(m.name, m.permutation, path) for m, path in zip(members, paths, strict=True)]
    if "oracle-label" in args.variants and "oracle" in args.protocols:
        plain = next(path for name, _, path in entries if name == "cntk")
        ceiling = oracle_label_path(plain, drawn.y_test, args.oracle_weights)
        entries.append(("oracle-label", None, ceiling))
    with contextlib.ExitStack() as files:
        for name, permutation, path in [e for e in entries if e[0] in args.variants]:
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
            settings = _settings_of(args, name) | {"device": solver or "cpu"}
            settings["gram_device"] = "+".join(record["devices"])
            v = Variant.of(name)
            head = {"case": args.case, "variant": v.name, "seed": permutation}
            head["architecture"] = with_name(record["architecture"])
            file = args.out / f"{v.stem(permutation)}.json"
            write_record(file, head, drawn, settings, results, scores, files)
            if v.makes_model and "honest" in args.protocols:
                temporary = files.enter_context(writing(file.with_suffix(".npz")))
                write_arrays(temporary, fitted_model(v, path))


def cnn(args: argparse.Namespace) -> None:
    """Train the finite network and write results and predictions; go on where it was interrupted.

    Every minute the state of the training goes into a file beside --out.
    """
    import functools

    from lantk.data.split_files import load_split
    from lantk.kernel.grammar import parse_architecture
    from lantk.network.checkpoint import Checkpoint, save_weights
    from lantk.network.defaults import default_channels, default_parameterization
    from lantk.network.layers import Network
    from lantk.network.learning_rate import train_at_best_rate
    from lantk.network.training import find_device
    from lantk.regression.protocols import assess_network
    from lantk.workflow.code import code_of

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
    } | ({"flips": True} if args.variant == "cnn-flips" else {})
    asked: dict[str, Any] = {"learning_rates": args.learning_rate, "seed": args.seed}
    origin = {"split": drawn.digest, "architecture": architecture.to_list()}
    path = args.out.with_suffix(".checkpoint")
    checkpoint = Checkpoint(path, origin | drawing | schedule | asked, code_of("cnn"))
    shape = drawn.pixels_train.shape[1:]
    with showing_progress("epochs") as progress:
        done = train_at_best_rate(
            functools.partial(
                Network, architecture, shape, n_outputs=n_outputs, seed=args.seed, **drawing
            ),
            drawn.x_train,
            drawn.y_train,
            drawn.x_test,
            resume=_load_checkpoint(checkpoint, "cnn"),
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
    head["architecture"] = with_name(spell_out(architecture))
    settings = drawing | schedule | choice
    with contextlib.ExitStack() as files:
        write_record(args.out, head, drawn, settings, results, predictions, files)
        if args.weights is not None and args.models != "none":
            about = {"architecture": architecture.to_list(), "image_shape": shape, **drawing}
            about |= {"n_outputs": n_outputs, "seed": args.seed}
            save_weights(files.enter_context(writing(args.weights)), done.network, about)
    checkpoint.remove()


def after_kernels(args: argparse.Namespace) -> None:
    """Train networks, solve with their kernels at each tap, and write results and predictions.

    It goes on where it was interrupted: the state goes into a file in --out, once a minute.
    """
    import functools

    from lantk.data.split_files import load_split
    from lantk.experiment.variants import NETWORK_FAMILY, at_taps, families
    from lantk.kernel.grammar import parse_architecture
    from lantk.network.after_kernels import predict_after_kernels
    from lantk.network.checkpoint import Checkpoint
    from lantk.network.defaults import default_channels, default_parameterization
    from lantk.network.layers import Network
    from lantk.network.training import find_device
    from lantk.regression.protocols import assess
    from lantk.workflow.code import code_of

    variants = at_taps(args.variants, args.taps)
    if set(families(variants)) != {NETWORK_FAMILY}:
        raise LantkError(
            f"--variants {' '.join(args.variants)}: wanted kernels of networks only, such as"
            " after-kernel, conjugate-kernel-10 or after-kernel-conv3-shuffled"
        )
    drawn, architecture = load_split(args.split), parse_architecture(args.architecture)
    drawn = drawn if args.n_train is None else drawn.first(args.n_train)
    n_outputs = 1 if drawn.is_binary else len(drawn.names)
    drawing: dict[str, Any] = {
        "channels": args.channels or default_channels(architecture, n_outputs),
        "parameterization": args.parameterization or default_parameterization(architecture),
    }
    grids: dict[str, Any] = {}
    for kind in ("ridges", "weights"):
        asked = [value for name in args.protocols for value in vars(args)[f"{name}_{kind}"]]
        grids[kind] = sorted(set(asked))
        is_honest = "honest" in args.protocols
        grids[f"validated_{kind}"] = vars(args)[f"honest_{kind}"] if is_honest else []
    settings: dict[str, Any] = {
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "loss": args.loss,
        "targets": (0.0, 1.0) if drawn.is_binary else args.targets,
        "device": find_device(args.device).type,
        **grids,
        "folds": args.folds,
        "fold_seed": args.fold_seed,
        "n_held_out": args.held_out,
        "seed": args.seed,
    }
    origin = {"split": drawn.digest, "architecture": architecture.to_list(), "variants": variants}
    path = args.out / f"{NETWORK_FAMILY}-seed{args.seed}.checkpoint"
    checkpoint = Checkpoint(path, origin | drawing | settings, code_of("after-kernels"))
    shape = drawn.pixels_train.shape[1:]
    state = _load_checkpoint(checkpoint, "after-kernels")
    spent = state.pop("seconds") if state else 0.0
    start = time.perf_counter()

    def keep(now: Any) -> None:
        checkpoint.save({**now, "seconds": spent + time.perf_counter() - start})

    with showing_progress("epochs") as progress:
        paths = predict_after_kernels(
            functools.partial(
                Network, architecture, shape, n_outputs=n_outputs, seed=args.seed, **drawing
            ),
            drawn.x_train,
            drawn.y_train,
            drawn.x_test,
            variants,
            resume=state,
            keep=keep,
            progress=progress,
            **settings,
        )
    seconds = (spent + time.perf_counter() - start) / len(paths)
    with contextlib.ExitStack() as files:
        for variant, found in paths.items():
            v = Variant.of(variant)
            results, scores = assess(
                found,
                drawn.y_test,
                protocols=args.protocols,
                oracle_weights=args.oracle_weights if v.term else args.oracle_ridges,
                is_ridge=v.term is None,
                epoch=v.epoch,
            )
            results["diagnostics"]["seconds"] = seconds
            head = {"case": args.case, "variant": variant, "seed": args.seed}
            head["architecture"] = with_name(spell_out(architecture))
            file = args.out / f"{variant}-seed{args.seed}.json"
            write_record(file, head, drawn, drawing | settings, results, scores, files)
    checkpoint.remove()


def heat_map(args: argparse.Namespace) -> None:
    """Draw K, Z and K + lambda Z among the first train images, sorted by class."""
    import numpy as np

    from lantk.report.case_figures import gram_figure

    drawn, k_train_train, _, record = load_gram(args)
    name = Variant.of(args.variant).name
    term = find_term(args.variant, args.estimator)()
    vectors = _vectors_of(drawn, drawn.x_train) if term.needs_x else None
    term.restore(load_fitted(args, args.variant, record), vectors)
    evaluation = read_record(args.evaluation, args.protocols)
    chosen = {name: found["label_weight"] for name, found in evaluation["protocols"].items()}
    # At weight 0, which validation may choose, there would be nothing to see.
    protocol = next((name for name, weight in chosen.items() if weight), next(iter(chosen)))
    weight = chosen[protocol]
    factor = next(p["label_factor"] for p in evaluation["curve"] if p["label_weight"] == weight)
    n = min(_SHOWN_IMAGES, len(drawn.y_train))
    k = np.asarray(k_train_train[:n, :n])
    with showing_work(f"computing {name} for {len(drawn.y_train):,} images"):
        z = term.train_block(k_train_train, vectors)[:n, :n]
    heading = f"K + lambda Z, r = {weight:g} ({protocol})"
    matrices = {"K": k, "Z": z, heading: k + factor * z}
    title = f"{args.case}, {name}: the first {n:,} of {len(drawn.y_train):,} train images"
    gram_figure(matrices, drawn.y_train[:n], args.out, title, drawn.names)


def _settings_of(args: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Return the settings that the results of a variant depend on."""
    settings: dict[str, Any] = {}
    reads_folds = "honest" in args.protocols and variant != "oracle-label"
    if reads_folds or Variant.of(variant).is_shuffled:
        settings |= {"folds": args.folds, "fold_seed": args.fold_seed}
    if variant not in PLAIN_KERNELS:
        kind = "ridges" if variant == "cntk-ridge" else "weights"
        names = [f"{protocol}_{kind}" for protocol in args.protocols]
        settings |= {name: vars(args)[name] for name in names}
    if "-fjlt-" in variant:
        settings["estimator"] = args.estimator
    return settings


def _find_members(args: argparse.Namespace, fitted: Any) -> list[Any]:
    """Return the members of the family that are to be predicted; `fitted` is its fitted term."""
    from lantk.regression.fits import Member

    honest = "honest" in args.protocols
    asked = [w for name in args.protocols for w in vars(args)[f"{name}_weights"]]
    ridges = [w for name in args.protocols for w in vars(args)[f"{name}_ridges"]]
    permutations = range(args.first_permutation, args.first_permutation + args.permutations)
    members: list[Any] = []
    makers: dict[str, Any] = {}
    if "cntk" in args.variants or "oracle-label" in args.variants:
        members.append(Member("cntk", validated=[0.0] if honest else []))
    for variant in args.variants:
        v = Variant.of(variant)
        if variant in ("cntk", "oracle-label"):
            continue
        # Members with the same maker share a fit; a plain kernel has none.
        name, make = f"{v.addition}{'-offdiagonal' * v.is_off_diagonal}", None
        if v.addition is not None:
            make = makers.setdefault(name, find_term(name, args.estimator))
        is_ridge = variant == "cntk-ridge"
        validated = args.honest_ridges if is_ridge else args.honest_weights
        for permutation in permutations if v.is_shuffled else [None]:
            members.append(
                Member(
                    variant,
                    ridges if is_ridge else asked,
                    validated if honest else [],
                    make,
                    permutation,
                    only_diagonal=v.control == "diagonal",
                    has_intercept=v.has_intercept,
                    fitted=fitted if permutation is None and not v.is_off_diagonal else None,
                )
            )
    return members


def _vectors_of(drawn: Any, images: Any) -> Any:
    """Return what label terms take of images of a split."""
    from lantk.label_terms.base import image_vectors

    return image_vectors(images, append_one=drawn.is_binary, layout="channels_first")


def _load_checkpoint(checkpoint: Any, verb: str) -> dict[str, Any] | None:
    """Return the state to go on from, if there is one of the same computation, and say so."""
    from lantk.network.checkpoint import CheckpointError

    try:
        state: dict[str, Any] | None = checkpoint.load()
    except CheckpointError as error:
        print(f"lantk {verb}: {error}; training starts anew", file=sys.stderr)
        return None
    if state is not None:
        print(f"lantk {verb}: goes on from {checkpoint.path}", file=sys.stderr)
    return state
