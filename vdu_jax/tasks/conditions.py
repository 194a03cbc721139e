"""What an image of a model of pixels is asked for with: a `Condition`, or nothing.

A condition is a hashable value, so what is compiled for it is shared.
"""

from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data.loader import Source
from vdu_jax.tasks.class_conditional import ClassConditional
from vdu_jax.tasks.unconditional import Unconditional
from vdu_jax.types import ScoreFn


class Condition(Protocol):
    """How images are asked for, and what that means for training, drawing and measuring.

    Attributes:
      drop: share of the training images that are seen without their condition.
      inputs: what of it changes results, by which finished stages are told apart; empty for none.
    """

    drop: float
    inputs: dict[str, Any]

    def source(self, source: Source) -> Source:
        """A source of images and labels, with what the network is told of each image."""

    def asked(self, count: int) -> tuple[np.ndarray, ...]:
        """What the images of any model are asked for with: arrays (count, …), the same for all."""

    def told(self, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """What images of these classes (n,) would have been asked for with."""

    def cond(self, *asked: Any) -> Any:
        """The network's condition, for images that were asked for so; None for none."""

    def drawing(self, predict_eps: ScoreFn) -> ScoreFn:
        """The predictor of ε that images are drawn with; its condition is `drawing_cond`."""

    def drawing_cond(self, *asked: Any) -> Any:
        """What `drawing`'s function is called with as a condition."""

    def without(self, count: int) -> Any:
        """The condition of `count` images of which nothing is known."""

    def asked_to_forget(self, count: int, classes: tuple[int, ...]) -> np.ndarray | None:
        """(count,) bool, which of `asked(count)` ask for classes to be forgotten; None if nothing
        is asked for."""

    def figures(self, probabilities: np.ndarray, classes: tuple[int, ...]) -> dict[str, Any]:
        """How often `asked(N)` drew what they asked for, by a classifier's probabilities (N, K);
        empty if nothing is asked for."""

    @property
    def about_columns(self) -> str:
        """See `vdu_jax.tasks.Task`."""

    @property
    def columns(self) -> dict[str, str]:
        """See `vdu_jax.tasks.Task`."""

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        """See `vdu_jax.tasks.Task`."""


def of(config: ConfigDict) -> Condition:
    """The condition of a config of pixels: the network's classes say which."""
    rows, section = config.model.num_class_embeds, config.condition
    if not rows:
        return Unconditional()
    return ClassConditional(rows - (section.drop > 0), section.drop, section.guidance)
