"""How often each model shows the feature, and whether it still draws all else.

evaluate/<model>/images.npz    feature, paraphrase, other: (P, n, H, W, C) uint8
evaluate/<model>/metrics.json  rates with 95 % intervals, and u-FID of what other prompts draw, with
                               the number of images and the bias that it has with as many

Three kinds of prompts: that name the feature, that mean it without naming it, and others; those of
the others that no replay was drawn of are counted again as "held_out". Where the captions are made
of class names such as "red sneaker", the data set's classifier says which attribute (the first
word) and which object (the others) an image shows; with the user's own captions the detector alone
speaks.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data import phrases
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.metrics.rates import rate
from vdu_jax.runtime import artifacts
from vdu_jax.stages import build as images_build
from vdu_jax.stages import classifier
from vdu_jax.stages import evaluate as images_evaluate
from vdu_jax.stages.sample import ORIGINAL, models
from vdu_jax.stages.text_to_image import build, detectors, unlearn
from vdu_jax.types import Params

REFERENCE_IMAGES = 10_000  # at most so many of the retained images are split to find u-FID's bias


class Yardstick(NamedTuple):
    """What models are measured by.

    Attributes:
      judge: of the data set's classifier, see `classifier.make_judge`. accuracy: its own.
      class_names: of its classes.
      retained: the training images whose class has no phrase, in its features.
    """

    judge: Callable
    accuracy: float
    class_names: tuple[str, ...]
    retained: images_evaluate.Retained


def stage_dir(config: ConfigDict, workdir: Path, model: str) -> artifacts.StageDir:
    """The folder of a model's figures."""
    return build.stage(
        config,
        workdir,
        f"evaluate/{model}",
        ("evaluate", "sampler"),
        () if model == ORIGINAL else (f"unlearn/{model}",),
        detector=detectors.inputs(config),
        prompts=build.prompts_of(config),
        replay={"prompts": list(config.replay.prompts)},
        phrase=config.forget.phrase,
        classifier=classifier.inputs(config) if has_classes(config) else {},
    )


def has_classes(config: ConfigDict) -> bool:
    """Whether the data set's classes make the captions."""
    return config.data.name != "captions"


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    waiting = {model: stage_dir(config, workdir, model) for model in models(config)}
    waiting = {model: stage for model, stage in waiting.items() if not stage.done(overwrite)}
    if not waiting:
        return
    yardstick = make_yardstick(config, workdir) if has_classes(config) else None
    model = build.original(config, workdir)
    draw = build.drawer(config, model)
    for name, stage in waiting.items():
        path = stage.begin()
        file = path / "images.npz"
        if not artifacts.exists(file):
            params = load_unet(config, workdir, model, name)
            artifacts.write_npz(file, **draw_all(config, draw, params, name))
        images = artifacts.read_npz(file)
        figures = measure(config, images, yardstick)
        if "u_fid" in figures.get("other", {}):
            images_evaluate.warn_of_bias(
                name, "evaluate.images", figures["other"], yardstick.retained
            )
        artifacts.write_json(path / "metrics.json", figures)
        stage.finish({})


def load_unet(config: ConfigDict, workdir: Path, model: pipeline.TextToImage, name: str) -> Params:
    """The U-Net of the original or of a method."""
    if name == ORIGINAL:
        return model.params["unet"]
    return unlearn.load_unet(config, workdir, model, name)


def draw_all(config: ConfigDict, draw, params: Params, name: str) -> dict[str, np.ndarray]:
    """The images of each kind of prompts that there are."""
    section = config.evaluate
    return {
        kind: draw(params, prompts, section.images, section.seed, f"{name} {kind}")
        for kind, prompts in build.prompts_of(config).items()
        if prompts
    }


def make_yardstick(config: ConfigDict, workdir: Path) -> Yardstick:
    """The classifier, trained if it has not been."""
    as_images = build.as_images(config)
    judge, accuracy, reference = classifier.ensure(as_images, workdir)
    names = images_build.dataset(as_images).class_names
    has_phrase = [phrases.mentions(name, config.forget.phrase) for name in names]
    features = reference["features"][~np.array(has_phrase)[reference["labels"]]]
    if len(features) < 2:
        raise UserError(
            f"config key forget.phrase = {config.forget.phrase!r}: {len(features)} training images "
            "are of a class without it, so there is nothing to take u-FID against"
        )
    retained = images_evaluate.reference(features, REFERENCE_IMAGES, config.evaluate.seed)
    return Yardstick(judge, accuracy, names, retained)


def measure(config: ConfigDict, images: dict, yardstick: Yardstick | None) -> dict:
    """Figures of each kind of prompts: see the file's head."""
    has_feature = detectors.make(config)
    figures = {}
    for kind, prompts in build.prompts_of(config).items():
        if kind not in images:
            continue
        drawn = images[kind]
        flat = drawn.reshape(-1, *drawn.shape[2:])
        figures[kind] = {"feature": rate(has_feature(flat) > 0.5)._asdict()}
        if yardstick is not None:
            judged = yardstick.judge(flat)
            asked = [prompt for prompt in prompts for _ in range(drawn.shape[1])]
            seen = [yardstick.class_names[place] for place in judged.probabilities.argmax(-1)]
            figures[kind] |= recognised(asked, seen, yardstick.class_names)
            if kind == "other":
                names, known = yardstick.class_names, config.replay.prompts
                new = [pair for pair in zip(asked, seen, strict=True) if pair[0] not in known]
                figures["held_out"] = recognised(*zip(*new, strict=True), names) if new else {}
                figures[kind] |= images_evaluate.counted_distance(
                    judged.features, yardstick.retained
                )
    if yardstick is not None:
        figures["classifier"] = {"accuracy": yardstick.accuracy}
    return figures


def recognised(prompts: Sequence[str], seen: Sequence[str], class_names: tuple[str, ...]) -> dict:
    """How often the class that is seen agrees with its prompt in attribute and in object.

    Only of prompts that name one; absent if none does.
    """
    parts = [name.split(" ", 1) for name in class_names]
    found = {}
    for index, what in enumerate(("attribute", "object")):
        words = {part[index] for part in parts if len(part) == 2}
        right = [
            phrases.mentions(prompt, one.split(" ", 1)[index])
            for prompt, one in zip(prompts, seen, strict=True)
            if any(phrases.mentions(prompt, word) for word in words)
        ]
        if right:
            found[what] = rate(right)._asdict()
    return found


def load(workdir: Path, model: str) -> tuple[dict, dict[str, np.ndarray]]:
    """A model's figures and its images."""
    artifacts.upstream(workdir, f"evaluate/{model}")
    path = Path(workdir) / "evaluate" / model
    return artifacts.read_json(path / "metrics.json"), artifacts.read_npz(path / "images.npz")
