"""The features that u-FID and the other metrics of quality are taken in (`evaluate.features`).

    <data.dir>/features/<data set>-train-inception-<key>/NNNNN.npz   features (n, 2048)

Inception's features of a data set are the same for every run, and on a CPU they take an hour and
more. So they are kept beside the data set, `CHUNK` images in a file and in their order; what is
there when a run is stopped is not computed again. The key depends on the network's weights and on
the data set.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

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


def inputs(config: ConfigDict) -> dict:
    """`config.evaluate` as far as it changes results: which weights, not where they lie.

    Raises:
      UserError: if the weights are needed and not there.
    """
    section = config.evaluate.to_dict()
    section["inception_weights"] = (
        _weights_hash(config) if section["features"] == "inception" else ""
    )
    return section


def ensure(
    config: ConfigDict, judge: Callable[[np.ndarray], Predictions], reference: dict
) -> tuple[Callable[[np.ndarray], Predictions], dict]:
    """The classifier's `judge` and the training images' (features, labels), with the features
    replaced by those of the network that the config names."""
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
    """(N, 2048) of uint8 images (N, H, W, C)."""
    rows = []
    for first in range(0, len(images), BATCH):
        part = images[first : first + BATCH]
        rows.append(base.map_batches(compute, part, BATCH))
        bar.update(len(part))
    return np.concatenate(rows)


def _of_training_images(config: ConfigDict, compute: Callable) -> dict:
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
    """Where the features of a data set's training images in the config's weights are kept."""
    # TFDS names it by its version and, if it is the user's own, by a digest of the files.
    version = Path(dataset.directory).parts[-2:]
    identity = (version, _weights_hash(config), NET.resolution, CHUNK)
    digest = hashlib.sha256(repr(identity).encode() + source.labels.tobytes()).hexdigest()[:16]
    root = Path(config.data.dir).expanduser()
    return root / "features" / f"{dataset.name}-train-inception-{digest}"


def _weights_hash(config: ConfigDict) -> str:
    weights.check_file(config.evaluate.inception_weights)
    return artifacts.file_hash(Path(config.evaluate.inception_weights).expanduser())
