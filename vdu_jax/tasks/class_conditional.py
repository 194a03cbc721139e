"""Class-conditional images, with classifier-free guidance.

The setting of Selective Amnesia (Heng and Soh 2023, arXiv 2305.10120) and SalUn (Fan et al. 2024,
arXiv 2310.12508): the model is told a class by its number and must forget to draw some of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.data.loader import Source
from vdu_jax.diffusion import guidance
from vdu_jax.metrics.conditions import condition_accuracy
from vdu_jax.metrics.rates import percent
from vdu_jax.types import ScoreFn


class ClassConditional(NamedTuple):
    """The `conditions.Condition` of a class-conditional network: an image's class, an integer.

    Members without a docstring do what `conditions.Condition` says.

    Attributes:
      classes: C, the number of classes of the data. With `drop` > 0 the network has one more
        embedding, number C, which stands for no class.
      drop: share of the training images whose class is dropped, in [0, 1) (Ho and Salimans 2022,
        algorithm 1).
      scale: scale of classifier-free guidance when images are sampled; 1 for none.
    """

    classes: int
    drop: float
    scale: float

    @property
    def inputs(self) -> dict[str, Any]:
        return {"drop": self.drop, "guidance": self.scale}

    @property
    def nothing(self) -> int | None:
        """Number of the embedding that stands for no class; None if the network has none."""
        return self.classes if self.drop > 0 else None

    def source(self, source: Source) -> Source:
        """A source whose batches have "cond" (n,) int32, the class, and "negative", no class."""
        return Labelled(source, self.nothing)

    def asked(self, count: int) -> tuple[np.ndarray, ...]:
        """The class of image i is i mod C, so that all classes have equally many images."""
        return (np.arange(count, dtype=np.int32) % self.classes,)

    def told(self, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(labels, np.int32),)

    def cond(self, *asked: Any) -> Any:
        (classes,) = asked
        return classes

    def drawing(self, predict_eps: ScoreFn) -> ScoreFn:
        """The predictor with guidance; see `guidance.guided`."""
        return predict_eps if self.scale == 1 else guidance.guided(predict_eps, self.scale)

    def drawing_cond(self, *asked: Any) -> Any:
        (classes,) = asked
        if self.scale == 1:
            return classes
        assert self.nothing is not None, "config.check refuses guidance without condition.drop"
        return classes, jnp.full_like(classes, self.nothing)

    def without(self, count: int) -> jax.Array:
        """The embedding of no class, or class 0 for a network that has none."""
        return jnp.full((count,), self.nothing or 0, jnp.int32)

    def asked_to_forget(self, count: int, classes: tuple[int, ...]) -> np.ndarray:
        return np.isin(self.asked(count)[0], classes)

    def figures(self, probabilities: np.ndarray, classes: tuple[int, ...]) -> dict[str, Any]:
        """Shares of images that show the class of their condition; see `metrics.conditions`.

        Args:
          probabilities: (N, K), the classifier's for the images of `asked(N)`.
          classes: the forget classes.

        Returns:
          "forget" and "others", the shares for the two kinds of classes, and
          "unlearning_accuracy" in percent.
        """
        (asked,) = self.asked(len(probabilities))
        accuracy = condition_accuracy(probabilities, asked, classes)
        shares = {kind: share._asdict() for kind, share in accuracy._asdict().items()}
        return shares | {"unlearning_accuracy": accuracy.unlearning_accuracy}

    @property
    def about_columns(self) -> str:
        return (
            "UA: share of the images requested with a forget class that do not show it; others: "
            "share of the images requested with another class that show it."
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
    """A source whose images have their class as the condition; see `data.loader.Source`.

    Args:
      source: images with "label".
      nothing: number of the embedding that stands for no class; None if the network has none.

    Attributes:
      positions: as those of `source`.
    """

    def __init__(self, source: Source, nothing: int | None) -> None:
        self._source, self._nothing = source, nothing
        self.positions = source.positions

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The source's batch with "cond" and, if the network has the embedding, "negative"."""
        part = self._source.batch(indices)
        part = part | {"cond": part["label"]}
        if self._nothing is None:
            return part
        return part | {"negative": np.full_like(part["label"], self._nothing)}
