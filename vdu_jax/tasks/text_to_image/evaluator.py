"""Evaluation of text-to-image models: how often they show a feature, and whether others remain.

There are three kinds of prompts: "feature" prompts name the feature, "paraphrase" prompts mean it
without naming it, and "other" prompts ask for something else. The other prompts without replay
images are counted a second time as "held_out".

The feature's detector decides whether an image shows the feature. Where captions are made from
class names such as "red sneaker", the data set's classifier also recognises the attribute (the
first word) and the object (the other words), and u-FID compares with the training images without
the feature. With the user's own captions there is no classifier and no u-FID.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data import phrases
from vdu_jax.errors import UserError
from vdu_jax.metrics import pul
from vdu_jax.metrics.quality import Reference, counted_distance, make_reference
from vdu_jax.metrics.rates import percent, rate
from vdu_jax.tasks import classifier, datasets, feature_detectors, features
from vdu_jax.tasks.base import ORIGINAL, Replay
from vdu_jax.tasks.evaluators import forgetting, warn_of_few
from vdu_jax.tasks.text_to_image.latents import has_classes
from vdu_jax.types import Params

if TYPE_CHECKING:
    from vdu_jax.tasks.text_to_image.task import TextToImage

# Key of a column -> its heading, the kind of prompts, the share that is counted.
COLUMNS = {
    "feature": ("feature %", "feature", "feature"),
    "by_paraphrase": ("by paraphrase %", "paraphrase", "feature"),
    "elsewhere": ("elsewhere %", "other", "feature"),
    "attribute_right": ("attribute right %", "other", "attribute"),
    "held_out_right": ("held out right %", "held_out", "attribute"),
    "object_right": ("object right %", "other", "object"),
    "object_right_with_feature": ("object right, feature asked %", "feature", "object"),
}
ABOUT = (
    "Shares of images. feature, by paraphrase, elsewhere: images that show the feature when the "
    "prompt names it, means it without naming it, or asks for something else. attribute right, "
    "object right: images that show the attribute or the object of their prompt, for prompts "
    "without the feature (held out: prompts without replay images) and with it."
)


class TextEvaluator:
    """The `vdu_jax.tasks.Evaluator` of text-to-image models.

    Members without a docstring do what `vdu_jax.tasks.Evaluator` says.

    Args:
      task: the models' task.
      original: the original's images by the names of `TextToImage.requests`.
      overwrite: whether to train the classifier again.

    Attributes:
      reference: features of the training images without the feature; None with own captions.

    Raises:
      UserError: if the classifier is too weak, or no training image is without the feature.
    """

    def __init__(
        self, task: "TextToImage", original: dict[str, np.ndarray], overwrite: bool = False
    ) -> None:
        config = task.config
        self._task, self._config = task, config
        self._has_feature = feature_detectors.make(config)
        self._original = self._shares(original["feature"])
        showing = int((self._original[:, 1] > 0.5).sum())
        warn_of_few(showing, len(self._original), "evaluate.images, or train the model longer")
        self._predict: Callable[[np.ndarray], classifier.Predictions] | None = None
        self.reference: Reference | None = None
        if has_classes(config):
            self._predict, self._accuracy, self._names, self.reference = make_reference_of(
                config, task.workdir, overwrite
            )

    def measure(
        self, model: str, drawn: dict[str, np.ndarray], load: Callable[[], Params]
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        del load
        # The original's shares are reused, because the detector may be a large network.
        of_feature = self._original if model == ORIGINAL else self._shares(drawn["feature"])
        figures, kept = self._forgetting(of_feature), None
        figures["prompts"] = of_prompts = {}
        requests = self._task.requests()
        for kind, images in drawn.items():
            shares = of_feature if kind == "feature" else self._shares(images)
            of_prompts[kind] = {"feature": rate(shares[:, 1] > 0.5)._asdict()}
            if self._predict is None:
                continue
            judged = self._predict(images)
            asked = requests[kind].asked[0]
            seen = [self._names[place] for place in judged.probabilities.argmax(-1)]
            of_prompts[kind] |= recognised(asked, seen, self._names)
            if kind == "other":
                known, kept = self._config.replay.prompts, judged.features
                new = [pair for pair in zip(asked, seen, strict=True) if pair[0] not in known]
                prompts, of_new = [prompt for prompt, _ in new], [one for _, one in new]
                of_prompts["held_out"] = recognised(prompts, of_new, self._names)
        if kept is None and self.reference is not None:  # no other prompts
            kept = np.zeros((0, len(self.reference.stats.mean)))
        if model == ORIGINAL and self.reference is not None and self._predict is not None:
            section = self._config.curve
            images = self._task.draw_original(self._task.request("curve"), section.seed, "curve")
            others = self._predict(images[self._asked_on_curve :]).features
            counted = counted_distance(others, self.reference)
            figures["at_curve_images"] = {"all": counted, "retained": counted}
        return figures, kept

    def measure_curve(self, images: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
        asked = self._asked_on_curve
        figures = self._forgetting(self._shares(images[:asked]))
        kept = None if self._predict is None else self._predict(images[asked:]).features
        return {k: figures[k] for k in ("pul", "pul_interval")}, kept

    def of_run(self, replay: Replay) -> dict[str, Any]:
        del replay
        about: dict[str, Any] = {
            "images": sum(request.count for request in self._task.requests().values()),
            "phrase": self._config.forget.phrase,
        }
        return about | (
            {"classifier": {"accuracy": self._accuracy}} if self._predict is not None else {}
        )

    @property
    def _asked_on_curve(self) -> int:
        """Number of a snapshot's images whose prompt names the feature; they come first."""
        return len(self._config.forget.prompts) * self._config.curve.images

    def _shares(self, images: np.ndarray) -> np.ndarray:
        """The detector's scores as probabilities (N, 2) of "without the feature" and "with"."""
        scores = self._has_feature(images)
        return np.stack([1 - scores, scores], axis=-1)

    def _forgetting(self, shares: np.ndarray) -> dict[str, Any]:
        """PUL, or None if the original never shows the feature, and the share that shows it."""
        if (self._original[:, 1] > 0.5).any():
            return forgetting(self._config, shares, self._original, (1,))
        forget_rate = pul.forget_rate(shares, (1,))
        return {"pul": None, "pul_interval": [None, None], "forget_rate": forget_rate}


def make_reference_of(
    config: ConfigDict, workdir: Path, overwrite: bool
) -> tuple[Callable[[np.ndarray], classifier.Predictions], float, tuple[str, ...], Reference]:
    """The data set's classifier, and the reference of training images without the feature.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether to train the classifier again.

    Returns:
      `classify(images) -> Predictions` with the features of `evaluate.features`; its accuracy on
      held-out images, in [0, 1]; the names of its classes; and the reference of the training images
      whose class name does not contain `forget.phrase`.

    Raises:
      UserError: if fewer than 2 training images are of such a class.
    """
    classify, accuracy, reference = classifier.ensure(config, workdir, overwrite)
    predict, reference = features.ensure(config, classify, reference)
    names = datasets.prepared(config).class_names
    has_phrase = [phrases.mentions(name, config.forget.phrase) for name in names]
    kept = reference["features"][~np.array(has_phrase)[reference["labels"]]]
    if len(kept) < 2:
        raise UserError(
            f"config key forget.phrase = {config.forget.phrase!r}: {len(kept)} training images "
            "are of a class without it, and u-FID needs 2: choose a phrase that fewer classes have"
        )
    section = config.evaluate
    limited = make_reference(kept, section.reference_images, section.seed)
    return predict, accuracy, tuple(names), limited


def recognised(
    prompts: Sequence[str], seen: Sequence[str], class_names: tuple[str, ...]
) -> dict[str, dict]:
    """How often an image shows the attribute and the object of its prompt.

    Args:
      prompts: N prompts.
      seen: name of the class that the classifier sees in each image, such as "red sneaker".
      class_names: names of all classes.

    Returns:
      "attribute" and "object": rates over the prompts that name one; a key is absent if none does.
    """
    parts = [name.split(" ", 1) for name in class_names]
    rates = {}
    for index, what in enumerate(("attribute", "object")):
        words = {part[index] for part in parts if len(part) == 2}
        right = [
            phrases.mentions(prompt, one.split(" ", 1)[index])
            for prompt, one in zip(prompts, seen, strict=True)
            if any(phrases.mentions(prompt, word) for word in words)
        ]
        if right:
            rates[what] = rate(right)._asdict()
    return rates


def column_values(figures: Mapping[str, Any]) -> dict[str, Any]:
    """See `vdu_jax.tasks.Task.column_values`."""

    of_prompts = figures["prompts"]
    return {
        key: share and percent(share)
        for key, (_, kind, what) in COLUMNS.items()
        for share in [of_prompts.get(kind, {}).get(what)]
    }
