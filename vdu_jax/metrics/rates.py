"""Shares of images, with intervals."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Rate(NamedTuple):
    """value in [0, 1], the ends of its 95 % interval, and the number of images."""

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # hides tuple.count


def rate(outcomes: Iterable[Any]) -> Rate:
    """The share of true ones, with its `interval`.

    Args:
      outcomes: (N,) bool, N ≥ 1.

    Raises:
      ValueError: of no images.
    """
    outcomes = [bool(value) for value in outcomes]
    if not outcomes:
        raise ValueError("a rate of no images")
    share = sum(outcomes) / len(outcomes)
    return Rate(share, *interval(share, len(outcomes)), len(outcomes))


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` images (Wilson 1927), sound at 0 and 1, too."""
    z = 1.959964
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def percent(share: Mapping[str, Any]) -> dict[str, Any]:
    """A `Rate`, as it is stored, with its share and interval in percent."""
    return {key: 100 * share[key] for key in ("value", "low", "high")} | {"count": share["count"]}
