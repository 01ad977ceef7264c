"""lantk-nth against brute force: the Lyapunov equation, and fourth derivatives by autograd."""

import numpy as np
import pytest
import torch

from lantk.label_terms.base import label_product_factors
from lantk.label_terms.feature_sets import two_layer_ntk
from lantk.label_terms.hierarchy import Hierarchy, SpectrumError, sample_label_part, solve_lyapunov

RNG = np.random.default_rng(0)
N = 6


def task(n=N, d=4):
    x = RNG.standard_normal((n, d))
    y = np.where(np.arange(n) % 2, 1.0, -1.0)
    return x, y, two_layer_ntk(x, x)


def test_lyapunov_factors_solve_the_equation():
    """U V^T is the solution by the n^2 x n^2 linear system, to 1e-10 of its largest entry."""
    _, y, h = task()
    alpha = np.linalg.solve(h, y)
    u, v = solve_lyapunov(*np.linalg.eigh(h), alpha[:, None], y[:, None], tolerance=1e-14)
    eye = np.eye(N)
    system = np.kron(h, eye) + np.kron(eye, h)
    wanted = np.linalg.solve(system, np.outer(alpha, y).ravel()).reshape(N, N)
    np.testing.assert_allclose(u @ v.T, wanted, atol=1e-10 * abs(wanted).max())


def test_truncation_is_as_stated():
    """Singular values below the tolerance are cut off, and what is cut is that small."""
    x = RNG.standard_normal((60, 8))
    h, y = two_layer_ntk(x, x), np.where(np.arange(60) % 2, 1.0, -1.0)
    decomposed = np.linalg.eigh(h)
    full = np.matmul(
        *(
            f if i == 0 else f.T
            for i, f in enumerate(
                solve_lyapunov(*decomposed, y[:, None], y[:, None], tolerance=1e-14)
            )
        )
    )
    for tolerance in (1e-3, 1e-6):
        u, v = solve_lyapunov(*decomposed, y[:, None], y[:, None], tolerance=tolerance)
        rest = np.linalg.norm(u @ v.T - full, 2) / np.linalg.norm(full, 2)
        assert rest < 3 * tolerance
        assert u.shape[1] < 20


def test_contraction_is_the_fourth_derivative_of_a_network():
    """The label part is sum_ij K4 C_ij with K4 by autograd, on the same weights, to 1e-10.

    K3 = <grad K2(a, b), grad f(c)> and K4 = <grad K3, grad f(d)> of a network with 64 neurons and
    outer weights +-1; autograd takes the derivative of the step function for zero, as the smooth
    terms do. The means over weights are those of width times K4.
    """
    n_neurons, d = 64, 4
    x, _, _ = task(N, d)
    c = RNG.standard_normal((N, N))
    u, values, v = np.linalg.svd(c)
    images = RNG.standard_normal((3, d))
    found = sample_label_part(images, x, (u * values, v.T), n_samples=n_neurons, seed=5).mean

    rng = np.random.default_rng(5)
    drawn = [rng.standard_normal((d, 32)).T for _ in range(n_neurons // 32)]
    inner = torch.tensor(np.concatenate(drawn), requires_grad=True)
    signs = np.where(np.arange(n_neurons) % 3, 1.0, -1.0)
    outer = torch.tensor(signs, requires_grad=True)

    def gradient(value):
        found = torch.autograd.grad(value, (outer, inner), create_graph=True, allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip((outer, inner), found, strict=True)
            ]
        )

    def gradients_of_outputs(vectors):
        return [
            gradient((outer * torch.relu(inner @ vector)).sum() / n_neurons**0.5)
            for vector in torch.tensor(vectors)
        ]

    on_train, on_images = gradients_of_outputs(x), gradients_of_outputs(images)
    wanted = np.zeros((3, N))
    for i, a in enumerate(on_images):
        for j, b in enumerate(on_train):
            second = gradient(a @ b)
            for k, first_of_c in enumerate(on_train):
                third = gradient(second @ first_of_c)
                wanted[i, j] += sum(
                    c[k, m] * (third @ last).item() for m, last in enumerate(on_train)
                )
    wanted *= n_neurons
    np.testing.assert_allclose(found, wanted, atol=1e-10 * abs(wanted).max())


def test_error_is_the_spread_of_other_weights():
    """The stated error predicts how far the means of other seeds lie, within a quarter."""
    x, y, h = task()
    u, v = solve_lyapunov(*np.linalg.eigh(h), y[:, None], y[:, None])
    parts = [sample_label_part(x, x, (u, v), n_samples=640, seed=s) for s in range(40)]
    spread = np.sqrt(np.var([p.mean for p in parts], axis=0, ddof=1).mean())
    stated = np.sqrt(np.mean([p.standard_error**2 for p in parts]))
    assert 0.75 < stated / spread < 1.33


def test_blocks_are_of_one_matrix():
    """Rows that are computed alone are those of the whole matrix, which is symmetric."""
    x, y, h = task()
    factors = solve_lyapunov(*np.linalg.eigh(h), y[:, None], y[:, None])
    whole = sample_label_part(x, x, factors, n_samples=64).mean
    some = sample_label_part(x[:2].copy(), x, factors, n_samples=64).mean
    np.testing.assert_allclose(some, whole[:2], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(whole, whole.T, rtol=1e-10, atol=1e-12)


def test_singular_kernel_is_refused():
    """Two images that are multiples of each other make H singular, and the message says so."""
    with pytest.raises(SpectrumError, match="equal but for brightness"):
        solve_lyapunov(np.array([0.0, 1.0]), np.eye(2), np.ones((2, 1)), np.ones((2, 1)))


def test_the_label_term_is_the_contraction_of_its_labels():
    """Z is that of the functions above with the same weights, on train and on other rows."""
    x, y, h = task()
    term = Hierarchy(n_samples=64, tolerance=1e-12, seed=7).fit(np.eye(N), y, x)
    alpha = np.linalg.solve(h, y)
    eye = np.eye(N)
    system = np.kron(h, eye) + np.kron(eye, h)
    c = np.linalg.solve(system, np.outer(alpha, y).ravel()).reshape(N, N)
    np.testing.assert_allclose(term.left_ @ term.right_.T, c, atol=1e-8 * abs(c).max())
    images = RNG.standard_normal((3, 4))
    for rows, found in (
        (x, term.train_block(h)),
        (images, term.transform(np.zeros((3, N)), images)),
    ):
        z = sample_label_part(rows, x, (c, eye), n_samples=64, seed=7).mean
        np.testing.assert_allclose(found, z, atol=1e-6 * abs(z).max())


def test_permuted_labels_give_another_term():
    x, y, h = task()
    found = [Hierarchy(n_samples=64).fit(h, labels, x) for labels in (y, y, np.sort(y))]
    first, again, other = (term.train_block(h) for term in found)
    np.testing.assert_array_equal(first, again)
    assert abs(first - other).max() > 0.1 * abs(first).max()
    assert found[0].diagnostics()["nth_samples"] == 64
    assert found[0].diagnostics()["nth_standard_error"] > 0


def test_one_hot_labels_are_contracted_class_by_class():
    """With one-hot labels C is the solution for sum_c s_c u_c u_c^T, the label product."""
    x, _, h = task()
    y = np.eye(3)[np.arange(N) % 3]
    term = Hierarchy(n_samples=64, tolerance=1e-12).fit(h, y, x)
    labels, signs = label_product_factors(y, N)
    right = np.linalg.solve(h, (labels * signs) @ labels.T)
    eye = np.eye(N)
    wanted = np.linalg.solve(np.kron(h, eye) + np.kron(eye, h), right.ravel()).reshape(N, N)
    np.testing.assert_allclose(term.left_ @ term.right_.T, wanted, atol=1e-8 * abs(wanted).max())
