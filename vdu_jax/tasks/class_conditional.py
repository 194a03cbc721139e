"""Images of a class that is asked for, with classifier-free guidance.

The setting of Selective Amnesia (Heng and Soh 2023, arXiv 2305.10120) and SalUn (Fan et al. 2024,
arXiv 2310.12508): the model is told a class by its number and must forget to draw some of them.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vdu_jax.data.loader import Source
from vdu_jax.diffusion import guidance
from vdu_jax.metrics.conditions import condition_accuracy
from vdu_jax.metrics.rates import percent
from vdu_jax.types import ScoreFn


class ClassConditional(NamedTuple):
    """See `conditions.Condition`: the condition of an image is its class, a number.

    Attributes:
      classes: C, of the data. With `drop` > 0 the network knows one more, C, which says nothing.
      drop: share of the training images whose class is not told (Ho and Salimans 2022, alg. 1).
      scale: of guidance when images are drawn; 1 asks for the class alone.
    """

    classes: int
    drop: float
    scale: float

    @property
    def inputs(self) -> dict[str, Any]:
        return {"drop": self.drop, "guidance": self.scale}

    @property
    def nothing(self) -> int | None:
        """The class that says nothing, or None if the network knows none."""
        return self.classes if self.drop > 0 else None

    def source(self, source: Source) -> Source:
        """Its batches have "cond" (n,) int32, the class, and "negative", the one of nothing."""
        return Labelled(source, self.nothing)

    def asked(self, count: int) -> tuple[np.ndarray, ...]:
        """The classes in turn, so that each has as many images."""
        return (np.arange(count, dtype=np.int32) % self.classes,)

    def told(self, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(labels, np.int32),)

    def cond(self, asked: Any) -> Any:
        return asked

    def drawing(self, predict_eps: ScoreFn) -> ScoreFn:
        """See `guidance.guided`."""
        return predict_eps if self.scale == 1 else guidance.guided(predict_eps, self.scale)

    def drawing_cond(self, asked: Any) -> Any:
        return asked if self.scale == 1 else (asked, jnp.full_like(asked, self.nothing))

    def without(self, count: int) -> Any:
        """The class of nothing; a network that knows none is told the first one."""
        return jnp.full((count,), self.nothing or 0, jnp.int32)

    def asked_to_forget(self, count: int, classes: tuple[int, ...]) -> np.ndarray:
        return np.isin(self.asked(count)[0], classes)

    def figures(self, probabilities: np.ndarray, classes: tuple[int, ...]) -> dict[str, Any]:
        """ "forget" and "others", the shares drawn as asked, and "unlearning_accuracy" in percent;
        see `metrics.conditions`."""
        (asked,) = self.asked(len(probabilities))
        accuracy = condition_accuracy(probabilities, asked, classes)
        shares = {kind: share._asdict() for kind, share in accuracy._asdict().items()}
        return shares | {"unlearning_accuracy": accuracy.unlearning_accuracy}

    @property
    def about_columns(self) -> str:
        return (
            "UA: images asked for with a class to be forgotten that are not of it; others: asked "
            "for with another class, and of it."
        )

    @property
    def columns(self) -> dict[str, str]:
        return {
            "unlearning_accuracy": "UA %",
            "others_right": "others %",
            "u_fid_others": "u-FID of others",
        }

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        measured = figures["conditions"]
        right = percent(measured["forget"])
        wrong = right | {
            "value": measured["unlearning_accuracy"],
            "low": 100 - right["high"],
            "high": 100 - right["low"],
        }
        return {
            "unlearning_accuracy": wrong,
            "others_right": percent(measured["others"]),
            "u_fid_others": measured["u_fid"],
        }


class Labelled:
    """A source whose images come with their class as a condition; see `data.loader.Source`."""

    def __init__(self, source: Source, nothing: int | None):
        self._source, self._nothing = source, nothing
        self.positions = source.positions

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The source's, with "cond" and, if there is a class of nothing, "negative"."""
        part = self._source.batch(indices)
        part = part | {"cond": part["label"]}
        if self._nothing is None:
            return part
        return part | {"negative": np.full_like(part["label"], self._nothing)}
