"""Unconditional images: the setting of DDPM and of Panda et al. (arXiv 2510.04058)."""

from typing import Any, NamedTuple

import numpy as np

from vdu_jax.data.loader import Source
from vdu_jax.types import ScoreFn


class Unconditional(NamedTuple):
    """The `conditions.Condition` of an unconditional network.

    Members without a docstring do what `conditions.Condition` says.

    Attributes:
      drop: 0: there is no condition to drop.
    """

    drop: float = 0.0

    @property
    def inputs(self) -> dict[str, Any]:
        return {}

    def source(self, source: Source) -> Source:
        return source

    def asked(self, count: int) -> tuple[np.ndarray, ...]:
        del count
        return ()

    def told(self, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        del labels
        return ()

    def cond(self, *asked: Any) -> None:
        del asked

    def drawing(self, predict_eps: ScoreFn) -> ScoreFn:
        return predict_eps

    def drawing_cond(self, *asked: Any) -> None:
        del asked

    def without(self, count: int) -> None:
        del count

    def asked_to_forget(self, count: int, classes: tuple[int, ...]) -> None:
        del count, classes

    def figures(self, probabilities: np.ndarray, classes: tuple[int, ...]) -> dict[str, Any]:
        del probabilities, classes
        return {}

    @property
    def about_columns(self) -> str:
        return ""

    @property
    def columns(self) -> dict[str, str]:
        return {}

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        del figures
        return {}
