"""What is added to a kernel: each kind says of itself what the matrix it stands for would."""

import numpy as np
import pytest

from lantk.solvers.additions import Dense, Diagonal, Nothing, add_label_term

N, M = 7, 3
RNG = np.random.default_rng(0)
SQUARE = RNG.normal(size=(N, N)).astype(np.float32)
SQUARE = SQUARE + SQUARE.T
ROWS = RNG.normal(size=(M, N)).astype(np.float32)
VALUES = RNG.normal(size=N)
ZEROS = np.zeros((M, N))
CASES = {
    "nothing": (Nothing(), np.zeros((N, N)), ZEROS),
    "diagonal": (Diagonal(VALUES), np.diag(VALUES), ZEROS),
    "dense": (Dense(SQUARE, ROWS), SQUARE.astype(float), ROWS.astype(float)),
    "dense, no other rows": (Dense(SQUARE), SQUARE.astype(float), ZEROS),
}


@pytest.mark.parametrize("case", CASES)
def test_an_addition_acts_as_its_matrix(case):
    """Products, diagonal, inner products and K + lambda Z are those of the matrix written out."""
    z, square, rows = CASES[case]
    k, vectors = RNG.normal(size=(N, N)).astype(np.float32), RNG.normal(size=(N, 2))
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(z.apply(vectors), square @ vectors, **close)
    found = np.broadcast_to(z.apply_rows(vectors), (M, 2))
    np.testing.assert_allclose(found, rows @ vectors, **close)
    np.testing.assert_allclose(z.diagonal(N), np.diag(square), **close)
    wanted = (k * square).sum(), np.square(square).sum()
    np.testing.assert_allclose(z.inner_products(k), wanted, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(add_label_term(k, z, 0.5), k + 0.5 * square, **close)


def test_adding_changes_no_input():
    """K + lambda Z is a new matrix."""
    k = SQUARE.astype(np.float64)
    add_label_term(k, Dense(SQUARE), 2.0)
    assert np.array_equal(k, SQUARE)
