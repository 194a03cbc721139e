"""The features for u-FID and the other metrics of quality (`evaluate.features`).

    <data.dir>/features/<data set>-train-inception-<key>/NNNNN.npz   features (n, 2048)

Inception's features of a data set are the same for every run and take more than an hour on a CPU.
They are stored beside the data set, `CHUNK` images in a file and in the data set's order, so that
an interrupted run computes only the missing files. <key> is a hash of the network's weights and the
data set.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.interop import inception as weights
from vdu_jax.models import inception
from vdu_jax.runtime import artifacts, parallel, progress
from vdu_jax.tasks import base, datasets
from vdu_jax.tasks.classifier import Predictions

NET = inception.InceptionV3()
BATCH = 50
CHUNK = 500


def inputs(config: ConfigDict) -> dict[str, Any]:
    """The settings of `config.evaluate`, with a hash of Inception's weights for their path.

    Raises:
      UserError: if Inception's weights are needed and missing.
    """
    section = config.evaluate.to_dict()
    section["inception_weights"] = (
        _weights_hash(config) if section["features"] == "inception" else ""
    )
    return section


def ensure(
    config: ConfigDict,
    judge: Callable[[np.ndarray], Predictions],
    reference: dict[str, np.ndarray],
) -> tuple[Callable[[np.ndarray], Predictions], dict[str, np.ndarray]]:
    """The classifier and the training images with the features that `evaluate.features` names.

    Args:
      config: all settings.
      judge: the classifier, `classify(images) -> Predictions`.
      reference: "features" (N, F) and "labels" (N,) of the training images, by the classifier.

    Returns:
      The same two. For "inception" the features are Inception's; probabilities and labels stay.

    Raises:
      UserError: if Inception's weights are missing.
    """
    if config.evaluate.features == "classifier":
        return judge, reference
    params = weights.load(config.evaluate.inception_weights)
    params = parallel.place(params, parallel.make_mesh())
    compute = functools.partial(jax.jit(inception.make_feature_fn(NET)), params)

    def judge_in_inception(images: np.ndarray) -> Predictions:
        with progress.bar(len(images), "inception", unit="image") as bar:
            features = _features(compute, images, bar)
        return judge(images)._replace(features=features)

    return judge_in_inception, _of_training_images(config, compute)


def _features(compute: Callable, images: np.ndarray, bar: tqdm.tqdm) -> np.ndarray:
    """Features (N, 2048) of images (N, H, W, C) uint8."""
    rows = []
    for first in range(0, len(images), BATCH):
        part = images[first : first + BATCH]
        rows.append(base.map_batches(compute, part, BATCH))
        bar.update(len(part))
    return np.concatenate(rows)


def _of_training_images(config: ConfigDict, compute: Callable) -> dict[str, np.ndarray]:
    """Inception's "features" and "labels" of the training images, computed where not stored."""
    dataset = datasets.prepared(config)
    source = datasets.open_split(config, dataset, "train")
    folder = cache_folder(config, dataset, source)
    files = {folder / f"{i:05d}.npz": i * CHUNK for i in range(-(-len(source) // CHUNK))}
    missing = {path: first for path, first in files.items() if not artifacts.exists(path)}
    done = min(len(source), CHUNK * (len(files) - len(missing)))
    if missing:
        with progress.bar(
            len(source), "inception, training images", initial=done, unit="image"
        ) as bar:
            for path, first in missing.items():
                images, _ = source.read(range(first, min(first + CHUNK, len(source))))
                artifacts.write_npz(path, features=_features(compute, images, bar))
    features = np.concatenate([artifacts.read_npz(path)["features"] for path in files])
    return {"features": features, "labels": source.labels}


def cache_folder(config: ConfigDict, dataset: data.Dataset, source: data.ImageSource) -> Path:
    """The folder that stores Inception's features of a data set's training images.

    Args:
      config: all settings; the weights are those of `evaluate.inception_weights`.
      dataset: the prepared data set.
      source: its training images.
    """
    # The last two parts are TFDS's version of the data set; for the user's own images it contains
    # a digest of the files.
    version = Path(dataset.directory).parts[-2:]
    identity = (version, _weights_hash(config), NET.resolution, CHUNK)
    digest = hashlib.sha256(repr(identity).encode() + source.labels.tobytes()).hexdigest()[:16]
    root = Path(config.data.dir).expanduser()
    return root / "features" / f"{dataset.name}-train-inception-{digest}"


def _weights_hash(config: ConfigDict) -> str:
    weights.check_file(config.evaluate.inception_weights)
    return artifacts.file_hash(Path(config.evaluate.inception_weights).expanduser())
