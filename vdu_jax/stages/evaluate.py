"""Measure the original and the unlearned models: PUL, u-FID, class histogram, confidence.

    evaluate/metrics.json   the figures; equal configs give equal bytes

u-FID is taken in the classifier's features ("classifier" in the file). For the original it is
that of its retained-class samples against D_r, its own quality on what must stay; `u_fid_all`
counts all its samples.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.diffusion import likelihood
from vdu_jax.errors import UserError
from vdu_jax.metrics import frechet, pul
from vdu_jax.models import unet
from vdu_jax.runtime import artifacts, progress
from vdu_jax.stages import build, classifier, replay, sample, unlearn

FEATURES = "classifier"


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    workdir = Path(workdir)
    models = sample.models(config)
    stage = build.stage(
        config,
        workdir,
        "evaluate",
        ("evaluate", "forget", "classifier"),
        upstream=["replay", *(f"samples/{m}" for m in models)],
        data=build.data_inputs(config),
    )
    if stage.done(overwrite):
        return
    path = stage.begin()
    judge, accuracy, reference = classifier.ensure(config, workdir, overwrite)
    forget = tuple(config.forget.classes)
    is_retained = ~np.isin(reference["labels"], forget)
    retained = frechet.feature_stats(reference["features"][is_retained])
    judged = {model: judge(sample.load(workdir, model)) for model in models}
    original = judged[sample.ORIGINAL]
    if pul.forget_rate(original.probabilities, forget) == 0:
        raise UserError(
            f"none of the original's {len(original.features)} images is of forget.classes "
            f"{forget}: train it longer, or raise evaluate.images"
        )

    metrics = {
        "classifier": {"accuracy": accuracy},
        "features": FEATURES,
        "images": config.evaluate.images,
        "forget_classes": forget,
        "u_fid_held_out": held_out_distance(config, judge, retained, forget),
        "models": {},
        "curves": {},
        "replay": replay_cleaning(workdir, judge, forget),
    }
    for model in models:
        figures = measure(config, judged[model], original, retained, forget)
        if model == sample.ORIGINAL:
            figures["u_fid_all"] = figures["u_fid"]
            rest = ~np.isin(original.probabilities.argmax(-1), forget)
            figures["u_fid"] = distance(original.features[rest], retained)
        else:
            metrics["curves"][model] = curve(config, workdir, model, judge, original, retained)
        metrics["models"][model] = figures
    if config.evaluate.bits_per_dim_images:
        for model in models:
            metrics["models"][model]["bits_per_dim"] = evidence(config, workdir, model)
    artifacts.write_json(path / "metrics.json", metrics)
    stage.finish({"models": models})


def distance(features: np.ndarray, reference: frechet.FeatureStats) -> float | None:
    """Fréchet distance to the reference, or None for fewer than 2 images."""
    if len(features) < 2:
        return None
    return frechet.frechet_distance(frechet.feature_stats(features), reference)


def measure(config: ConfigDict, judged, original, retained, forget) -> dict:
    """The figures of one model's images."""
    interval = pul.pul(
        judged.probabilities,
        original.probabilities,
        forget,
        resamples=config.evaluate.bootstrap,
        seed=config.evaluate.seed,
    )
    return {
        "pul": interval.value,
        "pul_interval": [interval.low, interval.high],
        "u_fid": distance(judged.features, retained),
        "forget_rate": pul.forget_rate(judged.probabilities, forget),
        "confidence": pul.confidence(judged.probabilities),
        "histogram": pul.histogram(judged.probabilities),
    }


def curve(config: ConfigDict, workdir: Path, model: str, judge, original, retained) -> list[dict]:
    """PUL and u-FID of each snapshot of a method, from the images that its rule saw.

    The rule's own estimates stand beside them.
    """
    forget = tuple(config.forget.classes)
    path = workdir / "unlearn" / model
    image_shape = build.dataset(config).image_shape
    rows = []
    for snapshot in artifacts.upstream(workdir, f"unlearn/{model}")["summary"]["snapshots"]:
        images = unlearn.curve_images(config, path, model, snapshot["step"], image_shape)
        figures = measure(config, judge(images), original, retained, forget)
        rows.append(snapshot | {k: figures[k] for k in ("pul", "pul_interval", "u_fid")})
    return rows


def held_out_distance(config: ConfigDict, judge, retained, forget) -> float | None:
    """Fréchet distance of the held-out retained images to D_r: what real images score."""
    held_out = build.open_split(config, build.dataset(config), "test")
    keep = np.flatnonzero(~np.isin(held_out.labels, forget))
    images, _ = held_out.read(keep)
    return distance(judge(images).features, retained)


def replay_cleaning(workdir: Path, judge, forget) -> dict:
    """How many replay images the detector removed, and how many wrongly by the classifier."""
    replayed = replay.load(workdir)
    truly = np.isin(judge(replayed.images).probabilities.argmax(-1), forget)
    removed = replayed.forget_like
    return {
        "images": len(removed),
        "removed": int(removed.sum()),
        "removed_rightly": int((removed & truly).sum()),
        "removed_wrongly": int((removed & ~truly).sum()),
        "left_in": int((~removed & truly).sum()),
    }


def evidence(config: ConfigDict, workdir: Path, model: str) -> dict:
    """Bits per dimension on held-out images of the forget and of the retained classes."""
    found = build.dataset(config)
    source = build.open_split(config, found, "test")
    params = sample.load_params(config, workdir, model, found.image_shape)
    score_fn = unet.make_score_fn(build.net(config, found.image_shape))
    noise = build.schedule(config)
    bound = jax.jit(
        lambda params, x0, key: likelihood.bits_per_dim(score_fn, params, noise, x0, key)
    )
    split = data.forget_retain_indices(source.labels, config.forget.classes)
    result = {}
    for kind in ("forget", "retain"):
        indices = getattr(split, kind)[: config.evaluate.bits_per_dim_images]
        images, _ = source.read(indices)
        values = []
        with progress.bar(len(images), f"evidence {model} {kind}", unit="image") as bar:
            for first in range(0, len(images), config.sampler.batch_size):
                x0 = data.to_model_range(images[first : first + config.sampler.batch_size])
                key = jax.random.fold_in(jax.random.key(config.evaluate.seed), first)
                values.append(np.asarray(bound(params, jnp.asarray(x0), key)))
                bar.update(len(x0))
        result[kind] = float(np.concatenate(values).mean())
    return result
