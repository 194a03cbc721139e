"""How often a text-to-image model shows a feature, and whether it still draws all else.

Three kinds of prompts: "feature", which name it, "paraphrase", which mean it without naming it, and
"other"; those of the others that no replay was drawn of are counted again as "held_out". The
feature's detector says what an image shows. Where the captions are made of class names such as
"red sneaker", the data set's classifier says which attribute (the first word) and which object (the
others) an image shows, and u-FID is taken against the training images without the feature; with the
user's own captions the detector alone speaks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

# Key of a column -> its head, the kind of prompts, what is counted.
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
    "Shares of the images that were asked for: that show the feature when a prompt names it, means "
    "it without naming it, or asks for something else; and that show the attribute and the object "
    "of their prompt, where the prompt does not name the feature (held out: nor was replay drawn "
    "of it) or does."
)


class TextEvaluator:
    """See `vdu_jax.tasks.Evaluator`.

    Args:
      original: what the original model drew, see `TextToImage.requests`.

    Raises:
      UserError: if the classifier is too weak, or there is nothing to take u-FID against.
    """

    def __init__(self, task: Any, original: dict[str, np.ndarray], overwrite: bool = False):
        config = task.config
        self._task, self._config = task, config
        self._has_feature = feature_detectors.make(config)
        self._original = self._shares(original["feature"])
        showing = int((self._original[:, 1] > 0.5).sum())
        warn_of_few(showing, len(self._original), "evaluate.images, or train the model longer")
        self._predict, self.reference = None, None
        if has_classes(config):
            self._predict, self._accuracy, self._names, self.reference = make_reference_of(
                config, task.workdir, overwrite
            )

    def measure(
        self, model: str, drawn: dict[str, np.ndarray], load: Callable[[], Params]
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        del load
        # Asked once: the detector may be a large network.
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
                held_out = recognised(*zip(*new, strict=True), self._names) if new else {}
                of_prompts["held_out"] = held_out
        if kept is None and self.reference is not None:  # no other prompts
            kept = np.zeros((0, len(self.reference.stats.mean)))
        if model == ORIGINAL and self.reference is not None:
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
        """How many of a snapshot's images ask for the feature; they are the first."""
        return len(self._config.forget.prompts) * self._config.curve.images

    def _shares(self, images: np.ndarray) -> np.ndarray:
        """(N, 2): the detector's scores as those of two classes, without the feature and with."""
        scores = self._has_feature(images)
        return np.stack([1 - scores, scores], axis=-1)

    def _forgetting(self, shares: np.ndarray) -> dict[str, Any]:
        """PUL, None if the original never shows the feature, and the share that shows it."""
        if (self._original[:, 1] > 0.5).any():
            return forgetting(self._config, shares, self._original, (1,))
        forget_rate = pul.forget_rate(shares, (1,))
        return {"pul": None, "pul_interval": [None, None], "forget_rate": forget_rate}


def make_reference_of(
    config: ConfigDict, workdir: Any, overwrite: bool
) -> tuple[Callable, float, tuple[str, ...], Reference]:
    """The classifier with the features of the evaluation, its accuracy, its classes, and the
    training images whose class has no phrase.

    Raises:
      UserError: if there are none.
    """
    classify, accuracy, reference = classifier.ensure(config, workdir, overwrite)
    predict, reference = features.ensure(config, classify, reference)
    names = datasets.prepared(config).class_names
    has_phrase = [phrases.mentions(name, config.forget.phrase) for name in names]
    kept = reference["features"][~np.array(has_phrase)[reference["labels"]]]
    if len(kept) < 2:
        raise UserError(
            f"config key forget.phrase = {config.forget.phrase!r}: {len(kept)} training images "
            "are of a class without it, so there is nothing to take u-FID against"
        )
    section = config.evaluate
    limited = make_reference(kept, section.reference_images, section.seed)
    return predict, accuracy, tuple(names), limited


def recognised(
    prompts: Sequence[str], seen: Sequence[str], class_names: tuple[str, ...]
) -> dict[str, dict]:
    """How often the class that is seen agrees with its prompt in attribute and in object.

    Only of prompts that name one; absent if none does.
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
