"""Images with a text each: of a data set's class names, or the user's own folder.

A folder of the user's holds images and `metadata.jsonl`, in the convention of Hugging Face's
`imagefolder`: a line for each image, {"file_name": "a.png", "text": "a red shoe"}.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdu_jax.data import images
from vdu_jax.data.pixels import to_model_range
from vdu_jax.data.source import ImageSource
from vdu_jax.errors import UserError

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Captioned:
    """N images with their texts.

    Attributes:
      read: indices (n,) -> (n, H, W, C) uint8; images are read when they are asked for.
      captions: N texts.
      image_shape: (H, W, C).
    """

    read: Callable[[np.ndarray], np.ndarray]
    captions: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.captions)

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """0 … N − 1: with `batch`, what a loader asks of a source."""
        return np.arange(len(self))

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"image": (n, H, W, C) float32 in [-1, 1]}."""
        return {"image": to_model_range(self.read(indices))}

    def subset(self, indices: np.ndarray) -> "Captioned":
        """Those at `indices`, in that order; no other image can be reached through it."""
        indices, read = np.asarray(indices), self.read
        captions = tuple(self.captions[i] for i in indices)
        return Captioned(lambda some: read(indices[some]), captions, self.image_shape)


def mentions(text: str, phrase: str) -> bool:
    """Whether a text has a phrase as whole words, in whatever case; "t-shirt" has no "shirt"."""
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text, re.IGNORECASE) is not None


def of_classes(
    source: ImageSource,
    class_names: Sequence[str],
    templates: Sequence[str],
    synonyms: Mapping[str, str],
    seed: int,
) -> Captioned:
    """A data set with captions made of its class names.

    Args:
      templates: texts with {} for the name, e.g. "a {}"; each image has one, drawn by `seed`.
      synonyms: word -> another; every fifth image, drawn by `seed`, has the other.

    Raises:
      UserError: for a template without {}.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"caption template {template!r}: it must have one {{}} for the name")
    # Of a frozen stream: the same on every machine and with every version of NumPy.
    drawn = np.random.RandomState(seed)
    which = drawn.randint(len(templates), size=len(source))
    other = drawn.randint(5, size=len(source)) == 0
    captions = []
    for label, template, says_other in zip(source.labels, which, other, strict=True):
        words = class_names[label].split(" ")
        if says_other:
            words = [synonyms.get(word, word) for word in words]
        captions.append(templates[template].format(" ".join(words)))
    return Captioned(lambda some: source.read(some)[0], tuple(captions), source.image_shape)


def of_folder(directory: Path, image_size: int, channels: int = 3) -> Captioned:
    """The user's own folder; images are cropped to squares and resized to `image_size` pixels.

    Raises:
      UserError: naming the line of `metadata.jsonl` that is wrong, or the image that is not there.
    """
    directory = Path(directory)
    path = directory / METADATA
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: write a line of JSON for each image, "
            '{"file_name": "a.png", "text": "a red shoe"}'
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    files, captions, seen = [], [], set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, text = _row(line, f"{path}: line {number}")
        file = directory / name
        if name in seen or not file.is_file():
            wrong = "is named twice" if name in seen else "is not there"
            raise UserError(f"{path}: line {number}: {file} {wrong}")
        seen.add(name)
        files.append(file)
        captions.append(text)
    if not files:
        raise UserError(f"{path} names no image")

    def read(some: np.ndarray) -> np.ndarray:
        return np.stack([images.read_image(files[i], image_size, channels) for i in some])

    return Captioned(read, tuple(captions), (image_size, image_size, channels))


def _row(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from None
    values = [row.get(key) for key in ("file_name", "text")] if isinstance(row, dict) else [None]
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise UserError(f'{where}: it must have "file_name" and "text", both of them text')
    return values[0], values[1]
