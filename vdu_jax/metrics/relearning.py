"""Relearning steps: how many until a model makes the forget class again."""

from collections.abc import Iterable
from typing import NamedTuple


class Check(NamedTuple):
    """rate: in [0, 1], the share of a model's images that are of the forget classes after `step`
    optimiser steps."""

    step: int
    rate: float


def relearning_steps(checks: Iterable[Check], original_rate: float) -> int | None:
    """The first step whose rate is at least half the original's, or None if there is none.

    Only the checked steps are known: the class may have come back at any step after the check
    before.

    Raises:
      ValueError: if `original_rate` is 0, of which everything is more than half.
    """
    if original_rate <= 0:
        raise ValueError("the original model makes no image of the forget classes")
    return min((c.step for c in checks if c.rate >= original_rate / 2), default=None)
