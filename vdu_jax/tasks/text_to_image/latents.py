"""Captioned images, their split into D_f and D_r, and their latents as training data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.data import captions, phrases
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts
from vdu_jax.tasks import base, datasets


def captioned(config: ConfigDict) -> captions.Captioned:
    """The training images with their captions: a data set's, or the user's own.

    Raises:
      UserError: if the files or captions are missing or damaged.
    """
    section = config.data
    if not has_classes(config):
        listing = captions.of_folder(
            _own_folder(config),
            section.image_size,
            section.channels,
            section.caption_column,
            section.background,
        )
        base.report_once(listing.account)
        return listing
    dataset = datasets.prepared(config)
    source = datasets.open_split(config, dataset, "train")
    synonyms, seed = section.synonyms.to_dict(), section.caption_seed
    return captions.of_classes(source, dataset.class_names, section.templates, synonyms, seed)


def has_classes(config: ConfigDict) -> bool:
    """Whether the captions are made from a data set's class names."""
    return config.data.name != "captions"


def _own_folder(config: ConfigDict) -> Path:
    return Path(config.data.manual_dir).expanduser()


def forget_retain(config: ConfigDict, images: captions.Captioned) -> data.ForgetRetain:
    """Split images into D_f, whose caption contains `forget.phrase`, and D_r.

    Args:
      config: all settings; "" as the phrase puts all images into D_f.
      images: the training images.

    Returns:
      Indices of both. D_f is limited by `forget.fraction` and `forget.limit`.

    Raises:
      UserError: if no caption, or every caption, contains the phrase.
    """
    section = config.forget
    has = [not section.phrase or phrases.mentions(c, section.phrase) for c in images.captions]
    near = [
        caption
        for caption, whole in zip(images.captions, has, strict=True)
        if not whole and phrases.contains(caption, section.phrase)
    ]
    if near:
        base.report_once(
            f"forget.phrase = {section.phrase!r}: {sum(has)} of {len(has)} captions have it; "
            f"{len(near)} more have it as a part of other words, as {near[0]!r}, and are retained"
        )
    if not any(has):
        raise UserError(f"config key forget.phrase = {section.phrase!r}: no caption has it")
    if section.phrase and all(has):
        raise UserError(
            f"config key forget.phrase = {section.phrase!r}: every caption has it; set it to '' "
            "if all of the images are to be forgotten"
        )
    # One more image is retained here and dropped below: there may be no retained image at all.
    labels, limits = np.array([*has, False], np.int64), dict(section.items())
    limits = {key: limits[key] for key in ("fraction", "limit", "seed")}
    forget, retain = data.forget_retain_indices(labels, (1,), num_classes=2, **limits)
    return data.ForgetRetain(forget, retain[:-1])


def inputs(config: ConfigDict) -> dict[str, Any]:
    """The settings of `config.data` that change results, and a hash of the user's captions."""
    values = config.data.to_dict()
    keys = (
        "name", "image_size", "channels", "background", "templates", "synonyms", "caption_seed",
    )  # fmt: skip
    chosen = {key: values[key] for key in keys}
    if not has_classes(config):
        chosen["captions"] = artifacts.file_hash(captions.metadata_file(_own_folder(config)))
        chosen["caption_column"] = config.data.caption_column
    return chosen


class LatentSource:
    """Latents and text embeddings in memory, as a `data.loader.Source`.

    Args:
      latents: (N, h, w, channels), scaled.
      texts: N captions. The embedding of each distinct text is held once.
      embed: maps M texts to embeddings (M, L, D).

    Attributes:
      positions: (N,), 0 … N − 1.
    """

    def __init__(
        self,
        latents: np.ndarray,
        texts: Sequence[str],
        embed: Callable[[Sequence[str]], np.ndarray],
    ) -> None:
        distinct = ["", *sorted(set(texts))]
        places = {text: place for place, text in enumerate(distinct)}
        self.positions = np.arange(len(latents))
        self._latents, self._table = latents, embed(distinct)
        self._places = np.array([places[text] for text in texts])

    def __len__(self) -> int:
        return len(self._latents)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The latents and embeddings at `indices` (n,).

        Returns:
          "image" (n, h, w, channels), "cond" (n, L, D) of the captions, and "negative" (n, L, D) of
          the empty prompt.
        """
        negative = np.broadcast_to(self._table[:1], (len(indices), *self._table.shape[1:]))
        return {
            "image": self._latents[indices],
            "cond": self._table[self._places[indices]],
            "negative": np.ascontiguousarray(negative),
        }
