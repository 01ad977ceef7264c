"""Kernel regression with the kernels of a network in training: they have seen the labels.

At chosen epochs (taps) of the training of a finite network its own tangent kernel, or a part of it,
is taken between the images, and solved with a ridge as `cntk-ridge` is. Training has shown the
kernel the labels of every image it was trained on, so what is validated comes from networks that
were trained without the images that are held out. The shuffled twin is the kernel of a network
trained on permuted labels, solved with the true ones.

References
----------
Long, "Properties of the after kernel", 2021 (the kernel of a trained network).
Fort et al., "Deep learning versus kernel learning", NeurIPS 2020 (the kernel along training).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lantk.errors import numbering
from lantk.label_terms.controls import Ridge
from lantk.label_terms.registry import label_term
from lantk.labels import as_labels, as_targets, decide
from lantk.network.layers import Network, TrainingError
from lantk.network.tangent import Block, conjugate_block, tangent_blocks
from lantk.network.training import State, find_device, train
from lantk.regression.fits import Member
from lantk.regression.folds import ValidationError, permutation_parts, permuted, validation_folds
from lantk.regression.measures import ClassSums
from lantk.regression.paths import predict
from lantk.regression.protocols import WeightPath
from lantk.variant import Variant, VariantError

Images = NDArray[np.floating]


class _Ask(NamedTuple):
    """What a variant is a kernel of."""

    kernel: str
    epoch: int
    term: str
    """Label term on top of it, or nothing."""
    is_shuffled: bool


@dataclass(frozen=True)
class _Stage:
    """One network to train, and the rows that its kernels predict."""

    number: int
    is_shuffled: bool
    part: int
    """0 is all of train and predicts the test images; a fold predicts what it holds out."""
    fit: NDArray[np.intp]
    held_out: NDArray[np.intp]
    taps: dict[int, list[_Ask]]
    """Epoch -> kernels to take after it, each with its label term."""


def predict_after_kernels(
    make_network: Callable[[], Network],
    x_train: Images,
    y_train: NDArray,
    x_test: Images,
    variants: Sequence[str],
    *,
    ridges: Sequence[float],
    validated_ridges: Sequence[float] = (),
    weights: Sequence[float] = (),
    validated_weights: Sequence[float] = (),
    folds: int = 5,
    fold_seed: int = 0,
    n_held_out: int = 1,
    seed: int = 0,
    device: str = "auto",
    memory_mb: int = 6144,
    resume: State | None = None,
    keep: Callable[[State], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **schedule: Any,
) -> dict[str, WeightPath]:
    """Return, for each variant, the scores of its kernel on the test rows along the ridges.

    Parameters
    ----------
    make_network : callable
        Returns the untrained network, the same each time.
    x_train, x_test : ndarray, shape (n, channels, height, width)
        Scaled images.
    y_train : ndarray, shape (n_train,)
        Labels: -1 and +1 for one output, 0 ... k - 1 for k. No argument takes test labels.
    variants : sequence of str
        Such as ``after-kernel-10``, ``after-kernel-conv3-10``, ``conjugate-kernel-10-shuffled``.
    ridges, validated_ridges : sequence of float
        As shares of the mean diagonal of K; those to predict at, and those of them to validate.
    weights, validated_weights : sequence of float
        The same of label weights, for variants with a label term, which have no ridge.
    folds, fold_seed, n_held_out : int
        Number of stratified folds inside train, the seed that shuffles them, and how many of them
        are held out, each with networks of its own.
    seed : int
        Of the order of the images, and of the permutation of shuffled twins.
    device : {"auto", "cpu", "cuda"}
        Where networks are trained and kernels solved.
    memory_mb : int
        As for `tangent_blocks`.
    resume, keep : optional
        As for `train`; a state holds all that is done.
    progress : callable, optional
        Called as ``progress(done, total)`` after each epoch, over all networks, without those that
        it resumes from.
    **schedule
        Other arguments of `train`, its learning rate among them.

    Raises
    ------
    DivergenceError, TrainingError
        If a network diverges, or has no such layer.
    ValidationError, SolveError
        As `paths.predict` does, and if there are not so many folds to hold out.

    Notes
    -----
    Of a shuffled twin all labels are permuted but those that are solved for: the network's, and
    those of a label term on top. Epoch 0 has seen no label, so without a label term a twin is the
    variant itself there.
    """
    asked = {name: _ask(name) for name in variants}
    _check_layers(make_network(), variants)
    grids = {
        is_term: np.array(sorted(set(values)), np.float64)
        for is_term, values in ((False, ridges), (True, weights))
    }
    validated = {False: validated_ridges, True: validated_weights}
    labels = as_targets(y_train, make_network().n_outputs)
    folded = []
    if any(map(len, validated.values())):
        if not 1 <= n_held_out <= folds:
            raise ValidationError(
                f"{n_held_out} folds are to be held out of {folds}: wanted 1 to {folds}; change"
                " `n_held_out` or `folds`"
            )
        folded = validation_folds(labels, folds, fold_seed)[:n_held_out]
    parts = permutation_parts(labels, folds, fold_seed)
    stages = _plan_stages(set(asked.values()), len(y_train), folded)
    state: State = resume or {"done": {}, "stage": 0, "running": None}
    done, running = dict(state["done"]), state["running"]
    lengths = [max(stage.taps) for stage in stages]
    skipped = sum(lengths[: state["stage"]]) + (
        0 if running is None else len(running["train_loss"])
    )
    place = find_device(device)

    def run(stage: _Stage, running: State | None) -> None:
        network = make_network().to(place, torch.float32)
        # Networks and label terms see these labels; the true ones are solved for.
        x_fit = x_train[stage.fit]
        y_seen = permuted(y_train, seed if stage.is_shuffled else None, parts)[stage.fit]
        x_rows = x_test if stage.part == 0 else x_train[stage.held_out]

        def tap(epoch: int) -> None:
            wanted = stage.taps.get(epoch, [])
            missing = [ask for ask in wanted if _key(stage.number, ask) not in done]
            names = list(dict.fromkeys(ask.kernel for ask in missing))
            blocks = _kernels(network, x_fit, x_rows, names, memory_mb)
            for ask in missing:
                block, grid = blocks[ask.kernel], grids[bool(ask.term)]
                to_fit = as_targets(y_seen, network.n_outputs) if ask.is_shuffled else None
                path = _solve(block, labels[stage.fit], ask.term, grid, place, to_fit)
                done[_key(stage.number, ask)] = _to_tensors(path)

        def keep_all(now: State) -> None:
            epoch = len(now["train_loss"])
            tap(epoch)
            if keep is not None:
                keep({"done": done, "stage": stage.number, "running": now})
            if progress is not None:
                progress(sum(lengths[: stage.number]) + epoch - skipped, sum(lengths) - skipped)

        if running is None:
            tap(0)
        if max(stage.taps):
            options = schedule | {"epochs": max(stage.taps), "seed": seed, "device": place.type}
            train(network, x_fit, y_seen, x_rows[:0], resume=running, keep=keep_all, **options)

    for stage in stages[state["stage"] :]:
        rows = {"x_train": ("x_train", stage.fit)}
        if stage.part:
            rows["x_test"] = ("x_train", stage.held_out)
        with numbering(rows):
            run(stage, running)
        running = None

    return {
        name: _assemble(ask, stages, done, labels, grids[bool(ask.term)], validated[bool(ask.term)])
        for name, ask in asked.items()
    }


def _ask(variant: str) -> _Ask:
    """Return what a variant is; at epoch 0 a kernel has seen no label, a label term on it has."""
    v = Variant.of(variant)
    if v.kernel is None or v.epoch is None:
        raise VariantError(f"{variant!r} is no kernel of a network in training at an epoch")
    is_shuffled = v.is_shuffled and (v.epoch > 0 or v.term is not None)
    return _Ask(v.kernel, v.epoch, v.term or "", is_shuffled)


def _check_layers(network: Network, variants: Sequence[str]) -> None:
    """Raise TrainingError if a variant asks for a layer that the network does not train."""
    names = network.architecture.trained_layers
    for variant in variants:
        layer = Variant.of(variant).layer
        if layer is not None and layer not in names:
            raise TrainingError(
                f"{variant} asks for the layer {layer!r}, and those that the network trains are"
                f" {', '.join(names)}: name one of them"
            )


def _plan_stages(
    asked: set[_Ask], n_train: int, folded: Sequence[tuple[NDArray, NDArray]]
) -> list[_Stage]:
    """Return the networks to train, those of true labels first."""
    everything = np.arange(n_train)
    parts = [(everything, everything[:0]), *folded]
    stages: list[_Stage] = []
    for is_shuffled in (False, True):
        taps: dict[int, list[_Ask]] = {}
        for ask in sorted(asked):
            if ask.is_shuffled == is_shuffled:
                taps.setdefault(ask.epoch, []).append(ask)
        for part, (fit, held_out) in enumerate(parts if taps else []):
            stages.append(_Stage(len(stages), is_shuffled, part, fit, held_out, taps))
    return stages


def _key(stage: int, ask: _Ask) -> str:
    return f"{stage}/{ask.kernel}/{ask.epoch}/{ask.term}"


def _kernels(
    network: Network, x_train: Images, x_rows: Images, names: Sequence[str], memory_mb: int
) -> dict[str, Block]:
    """Return the kernels of the network as it is now, by name."""
    found = {}
    if any(name != "conjugate-kernel" for name in names):
        blocks = tangent_blocks(network, x_train, x_rows, memory_mb=memory_mb)
        for name in names:
            if name == "after-kernel":
                found[name] = _total(blocks.values())
            elif name != "conjugate-kernel":
                found[name] = blocks[name.removeprefix("after-kernel-")]
    if "conjugate-kernel" in names:
        found["conjugate-kernel"] = conjugate_block(network, x_train, x_rows)
    return found


def _total(blocks: Iterable[Block]) -> Block:
    """Return the sum of the layers' blocks, in room for one of them."""
    first, *others = blocks
    k, diagonal = first.k.copy(), first.diagonal.copy()
    for block in others:
        k += block.k
        diagonal += block.diagonal
    return Block(k, diagonal)


def _solve(
    block: Block,
    labels: NDArray,
    term: str,
    grid: NDArray,
    place: torch.device,
    to_fit: NDArray | None,
) -> WeightPath:
    """Return the scores of the rows along the ridges, or along the weights of a label term.

    A twin's term is fitted to the labels `to_fit`, and not to those that are solved for.
    """
    n_train = len(labels)
    solver = str(place) if place.type == "cuda" else None
    make_term = partial(label_term, term) if term else Ridge
    fitted = None
    if term and to_fit is not None:
        fitted = make_term().fit(block.k[:n_train], to_fit)
    member = Member("after-kernel", grid.tolist(), make_term=make_term, fitted=fitted)
    (path,) = predict(
        block.k[:n_train], block.k[n_train:], labels, [member], device=solver,
        diagonal_test=block.diagonal[n_train:],
    )  # fmt: skip
    return path


def _assemble(
    ask: _Ask,
    stages: Sequence[_Stage],
    done: Mapping[str, Mapping[str, Any]],
    labels: NDArray,
    grid: NDArray,
    validated: Sequence[float],
) -> WeightPath:
    """Return the path of a variant on all of train, with its accuracy on what was held out.

    A path lacks weight 0 where its kernel is singular: then 0 is not validated.
    """
    classes = as_labels(labels)
    n_correct, n_held, is_singular = np.zeros(len(grid)), 0, False
    for stage in stages:
        if stage.is_shuffled != ask.is_shuffled:
            continue
        path = _from_tensors(done[_key(stage.number, ask)])
        is_singular |= "kernel_is_singular" in path.diagnostics
        if stage.part == 0:
            of_train = path
        else:
            found = np.full(len(grid), np.nan)
            is_right = decide(path.scores) == classes[stage.held_out]
            found[np.isin(grid, path.weights)] = is_right.sum(axis=1)
            n_correct += found
            n_held += len(stage.held_out)
    if n_held:
        n_correct[~np.isin(grid, validated)] = np.nan
        left = np.isin(grid, of_train.weights)
        of_train.validation_accuracy[:] = (n_correct / n_held)[left]
    if is_singular:
        of_train.diagnostics["kernel_is_singular"] = 1.0
    return of_train


def _to_tensors(path: WeightPath) -> dict[str, Any]:
    """Return a path as a checkpoint holds it."""
    found: dict[str, Any] = {}
    for entry in fields(path):
        if entry.name == "fitted":
            continue  # nothing predicts with it later
        value = getattr(path, entry.name)
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value.copy())
        elif entry.name == "test_class_sums" and value is not None:
            value = [sums and [torch.from_numpy(part.copy()) for part in sums] for sums in value]
        found[entry.name] = value
    return found


def _from_tensors(found: Mapping[str, Any]) -> WeightPath:
    values = {}
    for name, value in found.items():
        if isinstance(value, torch.Tensor):
            value = value.numpy().copy()
        elif isinstance(value, list):
            value = [sums and ClassSums(*(part.numpy() for part in sums)) for sums in value]
        values[name] = value
    return WeightPath(**values)
