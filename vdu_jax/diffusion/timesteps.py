"""Choose the time steps of a sampler for a model, so that few of them do.

Times that are chosen for one model are better than a fixed grid (Watson et al. 2021, arXiv
2106.03802). The criterion here is that of Tong et al. 2024 (arXiv 2405.15506): the distance to
samples of many steps from the same noise.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

POWER = 1.5  # the search starts at times that fall like this power: denser near the image
FACTOR = 1.35  # by which the first tries widen one gap


def power_grid(num_train_steps: int, num_steps: int, power: float = POWER) -> np.ndarray:
    """Times t_i = (T − 1)(1 − i/n)^p, i < n: power 1 is even, 2 quadratic (Song et al. 2021, DDIM).

    Args:
      num_train_steps: T.
      num_steps: n, in 1..T.
      power: p, ≥ 1.

    Returns:
      (n,) strictly decreasing integers in [0, T), the first T − 1.

    Raises:
      ValueError: for numbers out of range.
    """
    if not 1 <= num_steps <= num_train_steps or power < 1:
        raise ValueError(f"{num_steps} of {num_train_steps} steps, power {power}: out of range")
    shares = (1 - np.arange(num_steps) / num_steps) ** power
    return _distinct(shares * (num_train_steps - 1), num_train_steps)


def search(
    distance: Callable[[np.ndarray], float],
    num_train_steps: int,
    num_steps: int,
    evaluations: int = 100,
) -> tuple[np.ndarray, float]:
    """Search the times with the least distance, by Nelder and Mead's method over their gaps.

    The first time stays T − 1, where sampling starts. The result is a local minimum: compare its
    distance on other noise before it is used.

    Args:
      distance: of the samples with given times (n,) from those of many steps, ≥ 0.
      num_train_steps: T.
      num_steps: n, in 2..T.
      evaluations: how often `distance` is called at most; at least n + 1.

    Returns:
      The times, (n,) decreasing integers in [0, T), and their distance. Those of `power_grid` are
      among the tries.

    Raises:
      ValueError: for numbers out of range.
    """
    if not 2 <= num_steps <= num_train_steps or evaluations <= num_steps:
        raise ValueError(
            f"{num_steps} of {num_train_steps} steps, {evaluations} evaluations: out of range"
        )
    known: dict[tuple[int, ...], float] = {}

    def times(logs: np.ndarray) -> np.ndarray:
        gaps = np.exp(logs - logs.max())
        later = num_train_steps * np.cumsum(gaps / gaps.sum())[:-1]
        return _distinct(num_train_steps - 1 - np.append(0, later), num_train_steps)

    def loss(logs: np.ndarray) -> float:
        grid = tuple(map(int, times(logs)))
        if grid not in known and len(known) < evaluations:
            known[grid] = float(distance(np.array(grid)))
        return known.get(grid, np.inf)

    logs = np.log(-np.diff(np.append(power_grid(num_train_steps, num_steps), -1.0)))
    first = np.vstack([logs, logs + np.log(FACTOR) * np.eye(num_steps)])
    limits = {"maxfev": 2 * evaluations, "initial_simplex": first, "xatol": 1e-3}
    minimize(loss, logs, method="Nelder-Mead", options=limits)
    best = min(known, key=known.__getitem__)
    return np.array(best), known[best]


def _distinct(times: np.ndarray, num_train_steps: int) -> np.ndarray:
    """Round decreasing times (n,) to different integers in [0, T)."""
    grid, count = np.round(times).astype(np.int64), len(times)
    lowest = np.arange(count)[::-1]  # room for the times after each
    grid = np.clip(grid, lowest, num_train_steps - 1 - np.arange(count))
    for i in range(1, count):
        grid[i] = min(grid[i], grid[i - 1] - 1)
    return grid
