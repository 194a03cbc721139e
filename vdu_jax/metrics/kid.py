"""Kernel Inception Distance, KID (Binkowski et al. 2018, arXiv 1801.01401)."""

from typing import NamedTuple

import numpy as np

CHUNK = 1000  # rows of the kernel matrix in memory


class Estimate(NamedTuple):
    """A mean over subsets.

    Attributes:
      value: the mean.
      standard_error: its standard error over the subsets; None if all subsets are equal.
    """

    value: float
    standard_error: float | None


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, MMD² (Binkowski et al., eq. 4).

        Σ_{i≠j} k(x_i, x_j) / M(M−1) + Σ_{i≠j} k(y_i, y_j) / N(N−1) − 2 Σ_{i,j} k(x_i, y_j) / MN

    The kernel is k(a, b) = (a · b / F + 1)³.

    Args:
      x: (M, F) features, M ≥ 2.
      y: (N, F) features, N ≥ 2.

    Returns:
      The estimate, which can be negative.

    Raises:
      ValueError: for fewer than 2 rows.
    """
    return float(_squared_mmds(x, y, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def kid(
    x: np.ndarray, y: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Estimate:
    """Kernel Inception Distance: the mean of MMD² over random subsets.

    Each subset is drawn without replacement. The subsets of one set share images, so the standard
    error tells how well the mean over subsets is known, and nothing about images that were not
    drawn. It tells least if a set has no more than `subset_size` images, which are then in every
    subset.

    Args:
      x: (M, F) features, M ≥ 2.
      y: (N, F) features, N ≥ 2.
      subsets: number of subsets, at least 2.
      subset_size: rows of each subset; at most all rows of the smaller set are taken.
      seed: seed of the subsets.

    Returns:
      The mean and its standard error.

    Raises:
      ValueError: for fewer than 2 rows, or fewer than 2 subsets.
    """
    if subsets < 2:
        raise ValueError(f"need at least 2 subsets, got {subsets}")
    size = min(subset_size, len(x), len(y))
    rng = np.random.default_rng(seed)

    def draw(total: int) -> np.ndarray:
        chosen = np.zeros((subsets, total))
        for row in chosen:
            row[rng.choice(total, size, replace=False)] = 1
        return chosen

    values = _squared_mmds(x, y, draw(len(x)), draw(len(y)))
    if size == len(x) == len(y):
        return Estimate(float(values.mean()), None)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(subsets)))


def _squared_mmds(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Estimate MMD² (S,) from the rows that in_x (S, M) and in_y (S, N) mark with 1."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"need at least 2 feature rows of each, got {len(x)} and {len(y)}")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def within(z: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        diagonal = (np.einsum("if,if->i", z, z) / z.shape[1] + 1) ** 3
        count = chosen.sum(1)
        return (_kernel_sums(z, z, chosen, chosen) - chosen @ diagonal) / (count * (count - 1))

    between = _kernel_sums(x, y, in_x, in_y) / (in_x.sum(1) * in_y.sum(1))
    return within(x, in_x) + within(y, in_y) - 2 * between


def _kernel_sums(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Sum k over the marked pairs, (S,); each k is computed once, CHUNK rows at a time."""
    sums = np.zeros(len(in_x))
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        base = x[rows] @ y.T / x.shape[1] + 1
        sums += ((in_x[:, rows] @ (base * base * base)) * in_y).sum(1)
    return sums
