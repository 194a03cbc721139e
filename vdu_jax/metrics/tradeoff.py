"""A method's curve of forgetting against quality, and figures over repeated runs."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """mean, its standard error (None for a single value), and the number of values."""

    mean: float
    standard_error: float | None
    count: int  # type: ignore[assignment]  # hides tuple.count


def spread(values: Sequence[float]) -> Spread:
    """Of n values: mean, and sample standard deviation / √n.

    Raises:
      ValueError: without values.
    """
    count = len(values)
    if not count:
        raise ValueError("no values")
    mean = math.fsum(values) / count
    if count == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    return Spread(mean, math.sqrt(variance / count), count)


def u_fid_at(curve: Sequence[tuple[float, float]], pul: float) -> float | None:
    """u-FID at which a curve first reaches a PUL, so that methods are compared where they forget
    equally much.

    Between two points both figures are taken to change together: PUL linearly, the logarithm of
    u-FID linearly.

    Args:
      curve: (PUL in percent, u-FID > 0) of successive steps, the original's first.
      pul: percent.

    Returns:
      None if the curve never reaches it.
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
