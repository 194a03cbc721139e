"""Accuracy of a class-conditional model: how often it draws the requested class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vdu_jax.metrics.rates import Rate, rate


class ConditionAccuracy(NamedTuple):
    """Shares of images that a classifier assigns to the requested class.

    Attributes:
      forget: share among the images requested with a forget class.
      others: share among all other images.
    """

    forget: Rate
    others: Rate

    @property
    def unlearning_accuracy(self) -> float:
        """Unlearning accuracy (Fan et al. 2024, arXiv 2310.12508) in percent: 100 − `forget`."""
        return 100 * (1 - self.forget.value)


def condition_accuracy(
    probabilities: np.ndarray, asked: np.ndarray, forget: Sequence[int]
) -> ConditionAccuracy:
    """Measure how often images show the requested class.

    Args:
      probabilities: (N, C) class probabilities from a classifier.
      asked: (N,) requested classes in [0, C), some of them forget classes and some others.
      forget: the forget classes.

    Returns:
      The shares among the forget classes and among the others.

    Raises:
      ValueError: if the two N differ, or no image was requested with a forget class or with another
        class.
    """
    if len(probabilities) != len(asked):
        raise ValueError(
            f"{len(probabilities)} images but {len(asked)} requested classes; give one class per "
            "image"
        )
    right = np.asarray(probabilities).argmax(-1) == asked
    forgotten = np.isin(asked, tuple(forget))
    return ConditionAccuracy(rate(right[forgotten]), rate(right[~forgotten]))
