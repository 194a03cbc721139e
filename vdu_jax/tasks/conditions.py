"""Conditions of pixel models: none, or a class.

A `Condition` is hashable, so that functions compiled for it are shared by the stages of a process.
"""

from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data.loader import Source
from vdu_jax.tasks.class_conditional import ClassConditional
from vdu_jax.tasks.unconditional import Unconditional
from vdu_jax.types import ScoreFn


class Condition(Protocol):
    """How a network is conditioned, for training, sampling and measuring.

    "asked" are the conditions that images are requested with: arrays with a row for each image, or
    none for an unconditional network.
    """

    @property
    def drop(self) -> float:
        """Share of the training images that are seen without their condition, in [0, 1)."""

    @property
    def inputs(self) -> dict[str, Any]:
        """The settings that change results, an input of every stage; empty for none."""

    def __hash__(self) -> int: ...

    def source(self, source: Source) -> Source:
        """A source with the conditions of its images.

        Args:
          source: images with "label", the class.
        """

    def asked(self, count: int) -> tuple[np.ndarray, ...]:
        """The conditions of `count` images, the same for every model: arrays (count, …)."""

    def told(self, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """The conditions that belong to images of classes `labels` (n,)."""

    def cond(self, *asked: Any) -> Any:
        """The network's condition made from `asked`; None for an unconditional network."""

    def drawing(self, predict_eps: ScoreFn) -> ScoreFn:
        """The predictor of ε that images are sampled with, e.g. with guidance.

        Args:
          predict_eps: the network's own prediction of ε.
        """

    def drawing_cond(self, *asked: Any) -> Any:
        """The condition that `drawing`'s predictor takes, made from `asked`."""

    def without(self, count: int) -> Any:
        """The network's condition for `count` images without a known class; None for none."""

    def asked_to_forget(self, count: int, classes: tuple[int, ...]) -> np.ndarray | None:
        """Which of `asked(count)` request a forget class: (count,) bool; None if unconditional.

        Args:
          count: number of images.
          classes: the forget classes.
        """

    def figures(self, probabilities: np.ndarray, classes: tuple[int, ...]) -> dict[str, Any]:
        """How often images show the class that they were requested with.

        Args:
          probabilities: (N, K), the classifier's for the images of `asked(N)`.
          classes: the forget classes.

        Returns:
          Figures for metrics.json; empty if unconditional.
        """

    @property
    def about_columns(self) -> str:
        """See `vdu_jax.tasks.Task`."""

    @property
    def columns(self) -> dict[str, str]:
        """See `vdu_jax.tasks.Task`."""

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        """See `vdu_jax.tasks.Task`."""


def of(config: ConfigDict) -> Condition:
    """The condition of a pixel model's config: a class if `model.num_class_embeds` > 0."""
    rows, section = config.model.num_class_embeds, config.condition
    if not rows:
        return Unconditional()
    return ClassConditional(rows - (section.drop > 0), section.drop, section.guidance)
