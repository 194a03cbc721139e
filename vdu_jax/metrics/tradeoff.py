"""The trade-off of forgetting and quality, and figures over repeated runs."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A mean over repeated runs.

    Attributes:
      mean: the mean.
      standard_error: its standard error; None for a single value.
      count: number of values.
    """

    mean: float
    standard_error: float | None
    count: int  # type: ignore[assignment]  # hides tuple.count


def spread(values: Sequence[float]) -> Spread:
    """Compute mean and standard error (sample standard deviation / √n) of n values.

    Args:
      values: n ≥ 1 numbers.

    Raises:
      ValueError: if there is no value.
    """
    count = len(values)
    if not count:
        raise ValueError("a mean needs at least 1 value")
    mean = math.fsum(values) / count
    if count == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    return Spread(mean, math.sqrt(variance / count), count)


def u_fid_at(curve: Sequence[tuple[float, float]], pul: float) -> float | None:
    """Interpolate the u-FID at which a method first reaches a PUL.

    It compares methods at equal forgetting. Between two points of the curve, the logarithm of u-FID
    is linear in PUL.

    Args:
      curve: (PUL in percent, u-FID > 0) of successive steps; the original model comes first.
      pul: the PUL to reach, in percent.

    Returns:
      The u-FID; None if the curve never reaches that PUL.
    """
    previous = None
    for point in curve:
        if point[0] >= pul:
            if previous is None or previous[0] >= point[0]:
                return point[1]
            share = (pul - previous[0]) / (point[0] - previous[0])
            low, high = math.log(previous[1]), math.log(point[1])
            return math.exp(low + share * (high - low))
        previous = point
    return None
