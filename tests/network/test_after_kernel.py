"""Kernel regression with the kernels of a network in training, against independent computations."""

import numpy as np
import pytest
import torch
from empirical import empirical_ntk

from lantk.label_terms.registry import label_term
from lantk.network.after_kernels import predict_after_kernels
from lantk.network.layers import Network, TrainingError
from lantk.network.training import train
from lantk.regression.folds import ValidationError, validation_folds

SHAPE, CHANNELS = (3, 8, 8), [2, 3, 3, 4, 4, 4, 4]
N, N_TEST = 20, 6
RIDGES = [0.01, 0.1, 1.0]
RNG = np.random.default_rng(0)
X, X_TEST = (RNG.standard_normal((n, *SHAPE)).astype(np.float32) for n in (N, N_TEST))
Y = np.where(np.arange(N) % 2, 1, -1)
SCHEDULE = {"batch_size": 8, "learning_rate": 1e-2}


def make_network(n_outputs=1):
    # With biases as in "standard", float32 kernels of tiny networks are nearly constant.
    return Network("chen2020", SHAPE, CHANNELS, n_outputs, "he", seed=1)


def run(variants, y=Y, x=X, **options):
    options = {"ridges": RIDGES, "validated_ridges": RIDGES, "folds": 5, "seed": 3} | options
    return predict_after_kernels(
        options.pop("make_network", make_network), x, y, X_TEST, variants,
        device="cpu", **SCHEDULE | options,
    )  # fmt: skip


def trained(x, y, epochs):
    network = make_network()
    if epochs:
        train(network, x, y, x[:0], epochs=epochs, seed=3, device="cpu", **SCHEDULE)
    return network


def ridge_scores(network, x_fit, y_fit, x_rows):
    """Return the scores along the ridges, by autograd and a plain solve."""
    network = network.double()
    k, k_rows = (empirical_ntk(network, rows.astype(float), x_fit) for rows in (x_fit, x_rows))
    unit = np.diag(k).mean() * np.eye(len(k))
    return np.array([k_rows @ np.linalg.solve(k + r * unit, y_fit) for r in RIDGES])


def permuted(y):
    """Return labels permuted inside each fold, fold by fold."""
    stream, found = np.random.default_rng([3, 0]), y.copy()
    for _, held in validation_folds(y, 5, 0):
        found[held] = stream.permutation(y[held])
    return found


@pytest.mark.parametrize("epochs", [0, 2])
def test_scores_are_those_of_the_trained_networks_own_kernel(epochs):
    """The network of that epoch by autograd, and ridges times the mean diagonal."""
    (path,) = run([f"after-kernel-{epochs}"]).values()
    wanted = ridge_scores(trained(X, Y, epochs), X, Y, X_TEST)
    np.testing.assert_allclose(path.scores, wanted, atol=1e-4 * abs(wanted).max())
    assert path.weights.tolist() == RIDGES


def test_a_twin_trains_on_permuted_labels_and_solves_with_the_true_ones():
    """At epoch 0, which has seen no label, it is the variant itself."""
    names = ["after-kernel-0", "after-kernel-0-shuffled", "after-kernel-2-shuffled"]
    plain, twin0, twin = run(names).values()
    np.testing.assert_array_equal(plain.scores, twin0.scores)
    np.testing.assert_array_equal(plain.validation_accuracy, twin0.validation_accuracy)
    wanted = ridge_scores(trained(X, permuted(Y), 2), X, Y, X_TEST)
    np.testing.assert_allclose(twin.scores, wanted, atol=1e-4 * abs(wanted).max())


@pytest.mark.parametrize("n_held_out", [1, 3])
def test_validation_is_by_networks_that_never_saw_what_is_held_out(n_held_out):
    """Each held-out fold has a network trained on the others, and true labels only there."""
    (path,) = run(["after-kernel-2"], n_held_out=n_held_out).values()
    n_right, n_all = np.zeros(len(RIDGES)), 0
    for fit, held in validation_folds(Y, 5, 0)[:n_held_out]:
        scores = ridge_scores(trained(X[fit], Y[fit], 2), X[fit], Y[fit], X[held])
        n_right += ((scores >= 0) == (Y[held] > 0)).sum(axis=1)
        n_all += len(held)
    np.testing.assert_allclose(path.validation_accuracy, n_right / n_all)


def test_a_twins_validation_permutes_what_it_trains_on_and_nothing_else():
    """A fold takes its rows of the one permutation of train, and the true labels are solved for."""
    (path,) = run(["after-kernel-2-shuffled"]).values()
    fit, held = validation_folds(Y, 5, 0)[0]
    network = trained(X[fit], permuted(Y)[fit], 2)
    scores = ridge_scores(network, X[fit], Y[fit], X[held])
    wanted = ((scores >= 0) == (Y[held] > 0)).mean(axis=1)
    np.testing.assert_allclose(path.validation_accuracy, wanted)


@pytest.mark.filterwarnings("error")
def test_ridge_0_is_no_candidate_where_images_are_equal():
    """The other ridges get what they always do, from folds that part the images or do not."""
    x = X.copy()
    x[6] = x[4]
    ridges = {"ridges": [0.0, *RIDGES], "validated_ridges": [0.0, *RIDGES], "n_held_out": 2}
    (path,) = run(["after-kernel-0"], x=x, **ridges).values()
    (wanted,) = run(["after-kernel-0"], x=x, n_held_out=2).values()
    assert path.weights.tolist() == RIDGES
    assert path.diagnostics["kernel_is_singular"] == 1
    np.testing.assert_array_equal(path.validation_accuracy, wanted.validation_accuracy)
    np.testing.assert_array_equal(path.scores, wanted.scores)


@pytest.mark.parametrize("n_held_out", [-1, 0, 6])
def test_folds_that_are_not_there_cannot_be_held_out(n_held_out):
    with pytest.raises(ValidationError, match=f"{n_held_out} folds are .* wanted 1 to 5"):
        run(["after-kernel-2"], n_held_out=n_held_out)


def test_layers_and_features_are_parts_of_one_kernel():
    """Scores of single layers and of the conjugate kernel are their own, and all are finite."""
    names = ["after-kernel-1", "after-kernel-conv3-1", "after-kernel-dense-1", "conjugate-kernel-1"]
    found = run(names)
    assert list(found) == names
    # Without a bias the dense layer's kernel is d times the conjugate kernel.
    np.testing.assert_allclose(found[names[2]].scores, found[names[3]].scores, rtol=1e-3)
    assert not np.allclose(found[names[0]].scores, found[names[1]].scores, rtol=1e-3)


def test_a_label_term_stands_on_the_kernel_of_the_epoch():
    """K + lambda Z with K that of the network, and the weights of label terms."""
    weights = [0.0, 0.1, 1.0]
    (path,) = run(
        ["after-kernel-1+lantk-kr-v1"], weights=weights, validated_weights=weights
    ).values()
    network = trained(X, Y, 1).double()
    k = empirical_ntk(network, X.astype(float))
    k_test = empirical_ntk(network, X_TEST.astype(float), X.astype(float))
    term = label_term("lantk-kr-v1").fit(k, Y.astype(float))
    z, z_test = term.train_block(k), term.transform(k_test)
    for weight, scores in zip(weights, path.scores, strict=True):
        factor = weight * abs(k).mean() / abs(z).mean()
        wanted = (k_test + factor * z_test) @ np.linalg.solve(k + factor * z, Y)
        np.testing.assert_allclose(scores, wanted, atol=2e-3 * abs(wanted).max())
    assert path.weights.tolist() == weights


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_twin_fits_its_label_term_to_permuted_labels(epoch):
    """Before training too, where the kernel has seen no label but Z has."""
    weights = [0.0, 1.0]
    options = {"weights": weights, "validated_weights": weights}
    (path,) = run([f"after-kernel-{epoch}+lantk-kr-v1-shuffled"], **options).values()
    y = permuted(Y)
    network = trained(X, y, epoch).double()
    k = empirical_ntk(network, X.astype(float))
    k_test = empirical_ntk(network, X_TEST.astype(float), X.astype(float))
    term = label_term("lantk-kr-v1").fit(k, y.astype(float))
    z = term.train_block(k)
    factor = abs(k).mean() / abs(z).mean()
    wanted = (k_test + factor * term.transform(k_test)) @ np.linalg.solve(k + factor * z, Y)
    np.testing.assert_allclose(path.scores[1], wanted, atol=2e-3 * abs(wanted).max())
    (fit, held), *_ = validation_folds(Y, 5, 0)
    network = trained(X[fit], y[fit], epoch).double()
    k = empirical_ntk(network, X[fit].astype(float))
    k_held = empirical_ntk(network, X[held].astype(float), X[fit].astype(float))
    term = label_term("lantk-kr-v1").fit(k, y[fit].astype(float))
    z = term.train_block(k)
    factor = abs(k).mean() / abs(z).mean()
    scores = (k_held + factor * term.transform(k_held)) @ np.linalg.solve(k + factor * z, Y[fit])
    assert path.validation_accuracy[1] == ((scores >= 0) == (Y[held] > 0)).mean()


def test_it_goes_on_from_every_state_to_the_same_bytes(tmp_path):
    """States are written and read as a checkpoint does; those of the second network too."""
    names = ["after-kernel-0", "after-kernel-2", "conjugate-kernel-1-shuffled"]
    states = []

    def keep(state):
        torch.save(dict(state), tmp_path / f"{len(states)}")
        states.append(tmp_path / f"{len(states)}")

    wanted = run(names, keep=keep)
    assert len(states) == 2 * (2 + 1)
    for path in states:
        found = run(names, resume=torch.load(path, weights_only=True))
        for name in names:
            for key in ("scores", "validation_accuracy", "relative_ratio"):
                np.testing.assert_array_equal(
                    getattr(found[name], key), getattr(wanted[name], key), f"{path.name} {key}"
                )
            for a, b in zip(found[name].test_class_sums, wanted[name].test_class_sums, strict=True):
                np.testing.assert_array_equal(a.sums, b.sums)


def test_progress_counts_to_its_total_and_without_what_was_done():
    calls, states = [], []

    def tell(done, total):
        calls.append((done, total))

    run(["after-kernel-2", "after-kernel-1-shuffled"], progress=tell, keep=states.append)
    assert calls == [(i, 6) for i in range(1, 7)]
    calls.clear()
    state = {**states[2], "running": None, "stage": 2}  # both networks of true labels are done
    run(["after-kernel-2", "after-kernel-1-shuffled"], progress=tell, resume=state)
    assert calls == [(1, 2), (2, 2)]


def test_several_classes_are_regressed_on_one_hot_labels():
    y = np.arange(N) % 3
    (path,) = run(["after-kernel-1"], y=y, folds=3, make_network=lambda: make_network(3)).values()
    assert path.scores.shape == (len(RIDGES), N_TEST, 3)
    assert np.isfinite(path.validation_accuracy).all()
    assert path.test_class_sums[0].classes.tolist() == [0, 1, 2]


def test_the_oracle_alone_trains_no_network_to_validate():
    calls = []
    (path,) = run(
        ["after-kernel-1"], validated_ridges=[], progress=lambda *a: calls.append(a)
    ).values()
    assert np.isnan(path.validation_accuracy).all()
    assert calls == [(1, 1)]


@pytest.mark.parametrize("layer", ["conv8", "dense"])
def test_a_layer_that_is_not_trained_is_refused(layer):
    name = "arora2019-gap-4"
    with pytest.raises(TrainingError, match=f"{layer}.*conv2, conv3"):
        run(
            [f"after-kernel-{layer}-1"],
            make_network=lambda: Network(name, SHAPE, [2, 2, 2], seed=1),
        )
