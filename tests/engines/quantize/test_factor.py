"""The factor of an inverse: what it multiplies to, and what it refuses."""

import numpy as np
import pytest

from engines.quantize.methods.inverse_cholesky import inverse_cholesky


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
def test_its_square_is_the_inverse(size):
    rows = np.random.default_rng(size).normal(size=(2 * size, size))
    matrix = (rows.T @ rows / len(rows) + 0.01 * np.eye(size)).astype(np.float32)

    factor = inverse_cholesky(matrix.copy())

    np.testing.assert_allclose(factor.T @ factor @ matrix, np.eye(size), atol=2e-4)
    np.testing.assert_array_equal(factor, np.triu(factor))


def test_a_matrix_that_is_not_positive_definite_is_refused():
    matrix = np.eye(300, dtype=np.float32)
    matrix[280, 280] = -1

    with pytest.raises(np.linalg.LinAlgError):
        inverse_cholesky(matrix)
