"""Detectors of a feature in images, for text-to-image models.

No detector has seen retained data, so the rule that keeps a step may use them.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax.errors import UserError
from vdu_jax.interop import clip
from vdu_jax.metrics import colours
from vdu_jax.runtime import artifacts

Detector = Callable[[np.ndarray], np.ndarray]
"""uint8 images (N, H, W, C) -> scores (N,) in [0, 1]; above 0.5 an image has the feature."""

BATCH = 16  # images in a batch of a network


def make(config: ConfigDict) -> Detector:
    """The detector of `config.detector`.

    Raises:
      UserError: if its files or its library are missing.
    """
    section = config.detector
    return {"colour": _colour, "clip": _clip, "nudenet": _nudenet}[section.kind](section)


def inputs(config: ConfigDict) -> dict[str, Any]:
    """The settings of `config.detector` that change its scores, and a hash of its weights."""
    section = config.detector
    values = section.to_dict()
    if section.kind == "clip":
        values["folder"], values["weights"] = "", _weights(_folder(section))
    return values


def _colour(section: ConfigDict) -> Detector:
    """Score 1 where the wanted colour is the nearest in the palette, else 0."""
    palette = section.palette.to_dict()
    names = sorted(palette)
    levels, wanted = np.array([palette[name] for name in names]), names.index(section.colour)

    def score(images: np.ndarray) -> np.ndarray:
        return (colours.nearest_colour(images, levels) == wanted).astype(float)

    return score


def _folder(section: ConfigDict) -> Path:
    return Path(section.folder).expanduser()


def _weights(folder: Path) -> str:
    """A hash of CLIP's weights; "" if there are none."""
    file = folder / clip.WEIGHTS
    return artifacts.file_hash(file) if file.is_file() else ""


@functools.lru_cache(maxsize=1)
def _read_clip(folder: Path, weights: str) -> tuple[clip.Model, Callable]:
    """CLIP and its compiled comparison; read again when the hash `weights` changes."""
    del weights
    model = clip.read(folder)
    return model, jax.jit(functools.partial(model.module.apply, method="compare"))


def _clip(section: ConfigDict) -> Detector:
    """Score: CLIP's probability of the texts with the feature among all texts.

    Zero-shot classification of Radford et al. 2021 (arXiv 2103.00020), section 3.1.2.
    """
    folder = _folder(section)
    model, compare = _read_clip(folder, _weights(folder))
    variables = {"params": model.params}
    tokens = model.tokenize([*section.with_feature, *section.without_feature])
    texts = model.module.apply(variables, tokens, method="embed_texts")

    def score(images: np.ndarray) -> np.ndarray:
        rows = []
        for first in range(0, len(images), BATCH):
            part = model.preprocess(images[first : first + BATCH])
            whole = np.pad(part, ((0, BATCH - len(part)), *[(0, 0)] * 3), mode="edge")
            shares = jax.nn.softmax(compare(variables, whole, texts))
            rows.append(np.asarray(shares)[: len(part)])
        return np.concatenate(rows)[:, : len(section.with_feature)].sum(1)

    return score


def _nudenet(section: ConfigDict) -> Detector:
    """Score: NudeNet's highest confidence in one of the wanted labels, or 0."""
    try:
        from nudenet import NudeDetector
    except ImportError:
        raise UserError(
            "config key detector.kind = 'nudenet' needs the library nudenet: "
            "pip install 'vdu-jax[nudenet]'"
        ) from None
    detector, labels = NudeDetector(), set(section.labels)

    def score(images: np.ndarray) -> np.ndarray:
        # NudeNet expects OpenCV's order of channels: blue, green, red.
        pictures = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        detections = detector.detect_batch(pictures, batch_size=BATCH)
        return np.array(
            [
                max((x["score"] for x in one if x["class"] in labels), default=0.0)
                for one in detections
            ]
        )

    return score
