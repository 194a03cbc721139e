"""Images drawn from the original model, and the detector that cleans them of forget-like ones.

Sees D_f and the model; no retained data.

    replay/images.npz     images (N, H, W, C) uint8, forget_like (N,) bool
    replay/detector.npz   see vdu_jax.detector.Detector
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data, detector, tasks
from vdu_jax.errors import UserError
from vdu_jax.metrics import frechet
from vdu_jax.runtime import artifacts, processes
from vdu_jax.stages import build


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    stage = build.stage(
        config, workdir, "replay", ("replay", "sampler", "forget"), upstream=("original",)
    )
    if stage.done(overwrite):
        return
    found = build.dataset(config)
    source = build.open_split(config, found, "train")
    forget = source.subset(build.forget_retain(config, source).forget)
    params = build.load_pretrained(config, workdir, found.image_shape)
    path = stage.begin()
    images = build.draw_original(
        config, workdir, found.image_shape, config.replay.seed, config.replay.images
    )
    features = build.features(config, found.image_shape)
    forget_images, _ = forget.read()
    try:
        cleaning = detector.fit_detector(
            features(params, forget_images), features(params, images), config.replay.recall
        )
    except ValueError as error:
        raise UserError(
            f"replay cannot be cleaned: {error} (forget.fraction, forget.limit, replay.images)"
        ) from None
    forget_like = cleaning.forget_like
    asked = tasks.of(config).asked_to_forget(len(images), tuple(config.forget.classes))
    if asked is not None:
        forget_like = forget_like | asked
    if config.replay.kernel_time:
        schedule = build.schedule(config)
        level = int(config.replay.kernel_time * schedule.num_steps)
        forget_like = detector.kernel_forget_like(
            data.to_model_range(forget_images),
            data.to_model_range(images),
            forget_like,
            float(schedule.alphas_cumprod[level]),
        )
    kept = len(images) - int(forget_like.sum())
    if kept < 2:
        raise UserError(
            f"replay: {kept} of the original's {len(images)} images are not like those to be "
            "forgotten, so there is nothing to hold on to: train the model longer, raise "
            "replay.images, or lower replay.recall"
        )
    artifacts.write_npz(path / "images.npz", images=images, forget_like=forget_like)
    artifacts.write_npz(path / "detector.npz", **cleaning.detector._asdict())
    stage.finish(
        {
            "images": len(images),
            "removed": int(forget_like.sum()),
            "removed_by_detector": int(cleaning.forget_like.sum()),
            "recall": cleaning.recall,
            "forget_images": len(forget),
        }
    )


class Replay(NamedTuple):
    """images: all (N, H, W, C) uint8. forget_like: (N,) bool. detector: for other images."""

    images: np.ndarray
    forget_like: np.ndarray
    detector: detector.Detector

    def source(self, task: tasks.Task) -> data.loader.Source:
        """The images that are not forget-like, with what they were asked for with."""
        kept = ~self.forget_like
        asked = (rows[kept] for rows in task.asked(len(self.images)))
        return task.source(data.ArraySource(self.images[kept], *asked))


def load(workdir: Path) -> Replay:
    """What `run` wrote."""
    artifacts.upstream(workdir, "replay")
    stored = artifacts.read_npz(Path(workdir) / "replay" / "images.npz")
    rule = detector.Detector(**artifacts.read_npz(Path(workdir) / "replay" / "detector.npz"))
    return Replay(stored["images"], stored["forget_like"], rule)


class Judge:
    """Estimates PUL and drift of a model from its images, with D_f and the original model alone."""

    def __init__(self, config: ConfigDict, workdir: Path, params, image_shape: tuple):
        replay = load(workdir)
        self._features = build.features(config, image_shape)
        self._params, self._rule = params, replay.detector
        features = self._features(params, replay.images)
        self._reference = frechet.feature_stats(features[~replay.forget_like])
        self._original_rate = self._rule.rate(features)
        if not self._original_rate:
            processes.report(
                f"warning: the detector finds no forget image among the {len(replay.images)} of "
                "replay, so every estimated PUL is 0 and the first snapshot is kept: raise "
                "replay.images, or train the model longer"
            )

    def __call__(self, step: int, images: np.ndarray) -> detector.Snapshot:
        features = self._features(self._params, images)
        rate = self._rule.rate(features)
        drift = frechet.frechet_distance(frechet.feature_stats(features), self._reference)
        return detector.Snapshot(step, detector.estimated_pul(self._original_rate, rate), drift)
