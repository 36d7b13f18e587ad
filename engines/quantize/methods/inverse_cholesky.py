"""Factors of the inverse of a large symmetric matrix, in place; knows linear algebra, nothing of models.

LAPACK as numpy offers it copies its argument several times over, which at 13,824 columns is 0.8 GB a copy. Blocked
loops over matrix products need one copy, and BLAS does all but the diagonal blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_BLOCK = 256


def inverse_cholesky(matrix: Float32) -> Float32:
    """The upper triangular U with ``inverse(matrix) = U.T @ U``; U takes the place of ``matrix`` (K, K).

    Below its diagonal, U is zero. Factors and inverts the matrix with its order reversed, as the reverse of a lower
    triangle is an upper one.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite.
    """
    reverse = matrix[::-1, ::-1]
    _cholesky(reverse)
    _invert_lower(reverse)
    return matrix


def _cholesky(matrix: Float32) -> None:
    """Overwrite a symmetric matrix with its lower Cholesky factor, one strip of columns after another."""
    for start in range(0, len(matrix), _BLOCK):
        end = start + _BLOCK
        diagonal = np.linalg.cholesky(matrix[start:end, start:end].astype(np.float64))
        matrix[start:end, start:end] = diagonal
        matrix[start:end, end:] = 0
        below = matrix[end:, start:end] @ np.linalg.inv(diagonal).T.astype(np.float32)
        matrix[end:, start:end] = below
        for row in range(end, len(matrix), _BLOCK):  # the lower triangle of what is left
            matrix[row:, row : row + _BLOCK] -= below[row - end :] @ below[row - end : row - end + _BLOCK].T


def _invert_lower(matrix: Float32) -> None:
    """Overwrite a lower triangular matrix with its inverse, one strip of rows after another."""
    for start in range(0, len(matrix), _BLOCK):
        end = start + _BLOCK
        diagonal = np.linalg.inv(matrix[start:end, start:end].astype(np.float64)).astype(np.float32)
        matrix[start:end, :start] = -diagonal @ (matrix[start:end, :start] @ matrix[:start, :start])
        matrix[start:end, start:end] = diagonal
