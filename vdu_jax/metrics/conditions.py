"""How often a class-conditional model draws the class that it is asked for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vdu_jax.metrics.rates import Rate, rate


class ConditionAccuracy(NamedTuple):
    """Shares of images that a classifier puts into the class they were asked for with.

    Attributes:
      forget: of those asked for with a class to be forgotten. others: of the rest.
    """

    forget: Rate
    others: Rate

    @property
    def unlearning_accuracy(self) -> float:
        """UA of SalUn (Fan et al. 2024, arXiv 2310.12508), in percent: 100 − the first share."""
        return 100 * (1 - self.forget.value)


def condition_accuracy(
    probabilities: np.ndarray, asked: np.ndarray, forget: Sequence[int]
) -> ConditionAccuracy:
    """See `ConditionAccuracy`.

    Args:
      probabilities: (N, C) of a classifier. asked: (N,) classes in [0, C). forget: which of them
        are to be forgotten; images of them and of others are needed.

    Raises:
      ValueError: if N differs, or there are no images of either kind.
    """
    if len(probabilities) != len(asked):
        raise ValueError(f"{len(probabilities)} images, {len(asked)} classes asked for")
    right = np.asarray(probabilities).argmax(-1) == asked
    forgotten = np.isin(asked, tuple(forget))
    return ConditionAccuracy(rate(right[forgotten]), rate(right[~forgotten]))
