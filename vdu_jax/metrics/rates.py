"""Rates: shares of images with confidence intervals."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Rate(NamedTuple):
    """A share of images with its 95 % interval.

    Attributes:
      value: the share, in [0, 1].
      low: lower end of the interval.
      high: upper end of the interval.
      count: number of images.
    """

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # hides tuple.count


def rate(outcomes: Iterable[Any]) -> Rate:
    """Compute the share of true outcomes with its 95 % interval.

    Args:
      outcomes: N ≥ 1 truth values, one for each image.

    Raises:
      ValueError: if there is no outcome.
    """
    outcomes = [bool(value) for value in outcomes]
    if not outcomes:
        raise ValueError("a rate needs at least 1 image")
    share = sum(outcomes) / len(outcomes)
    return Rate(share, *interval(share, len(outcomes)), len(outcomes))


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927), which also holds at 0 and 1.

    Args:
      share: in [0, 1].
      count: number of images, ≥ 1.

    Returns:
      Lower and upper end.
    """
    z = 1.959964
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def percent(share: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a stored `Rate` to percent: "value", "low" and "high" times 100, and "count"."""
    return {key: 100 * share[key] for key in ("value", "low", "high")} | {"count": share["count"]}
