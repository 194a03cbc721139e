"""Evaluation of pixel models: PUL of the forget classes, and quality of the retained ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.errors import UserError
from vdu_jax.metrics import pul, tradeoff
from vdu_jax.metrics.quality import (
    Reference,
    counted_distance,
    distance,
    distance_at_shares,
    make_reference,
)
from vdu_jax.runtime import parallel, processes, progress
from vdu_jax.tasks import classifier, features
from vdu_jax.tasks.base import ORIGINAL, Replay
from vdu_jax.types import Params

if TYPE_CHECKING:
    from vdu_jax.tasks.images import ImageTask

FEW = 20  # the original's images of the forget classes below which PUL is too uncertain


class ImageEvaluator:
    """The `vdu_jax.tasks.Evaluator` of pixel models.

    Members without a docstring do what `vdu_jax.tasks.Evaluator` says.

    The data set's classifier counts the forget classes. u-FID and the other metrics of quality use
    the features that `evaluate.features` names.

    Args:
      task: the models' task.
      original: the original's images by the names of `ImageTask.requests`.
      overwrite: whether to train the classifier again.

    Attributes:
      reference: features of D_r.

    Raises:
      UserError: if the classifier is too weak, or the original makes no image of the forget
        classes.
    """

    def __init__(
        self, task: "ImageTask", original: dict[str, np.ndarray], overwrite: bool = False
    ) -> None:
        config = task.config
        self._task, self._config = task, config
        self._forget = tuple(config.forget.classes)
        self._classify, self._accuracy, reference = classifier.ensure(
            config, task.workdir, overwrite
        )
        images = original["images"]
        judged = self._classify(images)
        showing = int(np.isin(judged.probabilities.argmax(-1), self._forget).sum())
        if not showing:
            raise UserError(
                f"none of the original's {len(images)} images is of forget.classes "
                f"{self._forget}: train it longer, or raise evaluate.images"
            )
        self._predict, reference = features.ensure(config, self._classify, reference)
        warn_of_few(showing, len(images), "evaluate.images")
        if self._predict is not self._classify:
            judged = self._predict(images)
        self._original = judged
        labels = reference["labels"]
        self.reference: Reference = retained(config, reference["features"], labels)
        self._shares = np.bincount(labels, minlength=judged.probabilities.shape[-1]) / len(labels)
        self._shares[list(self._forget)] = 0  # shares of D_r's classes, up to a factor

    def measure(
        self, model: str, drawn: dict[str, np.ndarray], load: Callable[[], Params]
    ) -> tuple[dict[str, Any], np.ndarray]:
        is_original = model == ORIGINAL
        judged = self._original if is_original else self._predict(drawn["images"])
        figures, kept = self._figures(judged), judged.features
        figures["u_fid_at_shares"] = distance_at_shares(
            kept, judged.probabilities.argmax(-1), self._shares, self.reference
        )
        if is_original:
            figures["u_fid_all"] = distance(kept, self.reference)
            few = self._config.curve.images
            some = kept[:few]
            kept = kept[~np.isin(judged.probabilities.argmax(-1), self._forget)]
            figures["at_curve_images"] = {
                "all": counted_distance(some, self.reference),
                "retained": counted_distance(kept[:few], self.reference),
            }
        condition = self._task.condition
        asked = condition.asked_to_forget(len(judged.probabilities), self._forget)
        if asked is not None:
            others = counted_distance(judged.features[~asked], self.reference)
            of_conditions = condition.figures(judged.probabilities, self._forget)
            figures["conditions"] = of_conditions | others
        if self._config.evaluate.bits_per_dim_images:
            figures |= self.evidence(model, load())
        return figures, kept

    def measure_curve(self, images: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        judged = self._predict(images)
        figures = self._figures(judged)
        return {k: figures[k] for k in ("pul", "pul_interval")}, judged.features

    def of_run(self, replay: Replay) -> dict[str, Any]:
        return {
            "classifier": {"accuracy": self._accuracy},
            "images": self._config.evaluate.images,
            "forget_classes": self._forget,
            **self.held_out_distance(),
            "replay": self.replay_cleaning(replay),
        }

    def _figures(self, judged: classifier.Predictions) -> dict[str, Any]:
        """The classifier's figures for one model's images."""
        original = self._original.probabilities
        forgotten = forgetting(self._config, judged.probabilities, original, self._forget)
        return forgotten | {
            "confidence": pul.confidence(judged.probabilities),
            "histogram": pul.histogram(judged.probabilities),
        }

    def held_out_distance(self) -> dict[str, Any]:
        """u-FID of the held-out retained images: the value that real images reach."""
        held_out = self._task.open_split("test")
        keep = np.flatnonzero(~np.isin(held_out.labels, self._forget))
        measured = None
        if len(keep) >= 2:
            images, _ = held_out.read(keep)
            measured = distance(self._predict(images).features, self.reference)
        return {
            "u_fid_held_out": measured,
            "held_out_images": len(keep),
            "u_fid_held_out_bias": self.reference.bias(len(keep)),
        }

    def replay_cleaning(self, replay: Replay) -> dict[str, int]:
        """Confusion counts of the forget detector on replay, the classifier being the truth."""
        classes = self._classify(replay.images).probabilities.argmax(-1)
        truly, removed = np.isin(classes, self._forget), replay.forget_like
        return {
            "images": len(removed),
            "removed": int(removed.sum()),
            "removed_rightly": int((removed & truly).sum()),
            "removed_wrongly": int((removed & ~truly).sum()),
            "left_in": int((~removed & truly).sum()),
        }

    def evidence(self, model: str, params: Params) -> dict[str, Any]:
        """Bits per dimension of held-out images of the forget and of the retained classes.

        Args:
          model: name of the model, for the progress bar.
          params: its parameters.

        Returns:
          "bits_per_dim", the means by kind ("forget", "retain"), None without a held-out image;
          and "bits_per_dim_of", the numbers of images and the standard errors.
        """
        config, task = self._config, self._task
        source, bound = task.open_split("test"), task.evidence_bound()
        is_forget = np.isin(source.labels, self._forget)
        mesh = parallel.make_mesh()
        means, of = {}, {}
        for kind, members in (("forget", is_forget), ("retain", ~is_forget)):
            indices = choose(
                np.flatnonzero(members),
                config.evaluate.bits_per_dim_images,
                config.evaluate.seed,
            )
            images, labels = source.read(indices)
            told, values = task.condition.told(labels), []
            with progress.bar(len(images), f"evidence {model} {kind}", unit="image") as bar:
                for first in range(0, len(images), config.sampler.batch_size):
                    x0 = data.to_model_range(images[first : first + config.sampler.batch_size])
                    key = jax.random.fold_in(jax.random.key(config.evaluate.seed), first)
                    part = (rows[first : first + len(x0)] for rows in told)
                    some = [parallel.spread(rows, mesh) for rows in (x0, *part)]
                    values.extend(parallel.fetch(bound(params, some[0], key, *some[1:])))
                    bar.update(len(x0))
            spread = tradeoff.spread(list(map(float, values))) if values else None
            means[kind] = spread and spread.mean
            of[kind] = {"images": len(indices), "standard_error": spread and spread.standard_error}
        return {"bits_per_dim": means, "bits_per_dim_of": of}


def forgetting(
    config: ConfigDict, probabilities: np.ndarray, original: np.ndarray, classes: tuple[int, ...]
) -> dict[str, Any]:
    """PUL with its confidence interval, and the share of images of the forget classes.

    Args:
      config: all settings; `config.evaluate` has the bootstrap's.
      probabilities: (N, K), of the model's images.
      original: (M, K), of the original's images.
      classes: the forget classes.

    Returns:
      "pul" and "pul_interval" in percent, "forget_rate" in [0, 1].
    """
    how = {"resamples": config.evaluate.bootstrap, "seed": config.evaluate.seed}
    interval = pul.pul(probabilities, original, classes, **how)
    return {
        "pul": interval.value,
        "pul_interval": [interval.low, interval.high],
        "forget_rate": pul.forget_rate(probabilities, classes),
    }


def retained(config: ConfigDict, features: np.ndarray, labels: np.ndarray) -> Reference:
    """The reference of D_r for u-FID and the other metrics of quality.

    Args:
      config: all settings.
      features: (N, F), of all training images.
      labels: (N,), their classes.
    """
    kept = features[~np.isin(labels, tuple(config.forget.classes))]
    return make_reference(kept, config.evaluate.reference_images, config.evaluate.seed)


def choose(indices: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Choose indices at random, because the first ones may all be of one class.

    Args:
      indices: (N,).
      limit: at most so many.
      seed: of the choice.

    Returns:
      The chosen indices in increasing order.
    """
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(indices, min(len(indices), limit), replace=False))


def warn_of_few(showing: int, images: int, key: str) -> None:
    """Warn on standard error if few of the original's images show what is to be forgotten.

    Args:
      showing: number of images that show it.
      images: number of images.
      key: the setting to raise.
    """
    if showing < FEW:
        processes.report(
            f"warning: only {showing} of the original's {images} images show what is to be "
            f"forgotten, which makes PUL uncertain: raise {key}"
        )


def classified_rate(task: "ImageTask", overwrite: bool) -> Callable[[np.ndarray], float]:
    """`rate(images)`: share of images (N, H, W, C) uint8 that the classifier calls forget classes.

    Args:
      task: the models' task.
      overwrite: whether to train the classifier again.
    """
    classify, _, _ = classifier.ensure(task.config, task.workdir, overwrite)
    forget = tuple(task.config.forget.classes)

    def rate(images: np.ndarray) -> float:
        return pul.forget_rate(classify(images).probabilities, forget)

    return rate
