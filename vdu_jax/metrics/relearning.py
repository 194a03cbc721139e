"""Relearning steps: how many steps of training bring the forget class back."""

from collections.abc import Iterable
from typing import NamedTuple


class Check(NamedTuple):
    """The forget rate at a step of relearning.

    Attributes:
      step: number of optimizer steps.
      rate: share of the model's images that are of the forget classes, in [0, 1].
    """

    step: int
    rate: float


def relearning_steps(checks: Iterable[Check], original_rate: float) -> int | None:
    """Find the first checked step whose rate is at least half the original's.

    The class may have come back earlier, at any step since the check before.

    Args:
      checks: the forget rate at some steps.
      original_rate: forget rate of the original model, in (0, 1].

    Returns:
      The step; None if no rate is that high.

    Raises:
      ValueError: if `original_rate` is 0, for then every rate would be high enough.
    """
    if original_rate <= 0:
        raise ValueError(
            "the original model draws no image of the forget classes; draw more images"
        )
    return min((c.step for c in checks if c.rate >= original_rate / 2), default=None)
