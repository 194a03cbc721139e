"""The settings of feature unlearning from a text-to-image model: defaults and validation.

A config of this kind has `kind = "text_to_image"`; `vdu_jax.config` has the others.
"""

import re
from typing import Any

from ml_collections import ConfigDict

from vdu_jax import config as images
from vdu_jax.errors import UserError, shown

KIND = "text_to_image"
# Of the objectives, those that need no class labels and no share of forget-like replay.
OBJECTIVES = (
    "erase_diff", "esd", "fine_tune", "gradient_ascent", "salun", "selective_amnesia", "siss",
    "vdu", "vdu_extended",
)  # fmt: skip
DETECTORS = ("colour", "clip", "nudenet")
# Every setting that is a path, or a tuple of paths.
PATHS = (
    "data.dir", "data.manual_dir", "model.folder", "posterior.folders", "detector.folder",
    "classifier.dir",
)  # fmt: skip
# Sections with keys of the user's own.
FREE = (*images.FREE, "synonyms", "palette", "unet", "vae", "text_encoder", "scheduler")


def method(objective: str, subset: str = "all", rank: int = 0, **changes: Any) -> ConfigDict:
    """One entry of `config.methods`, see `vdu_jax.config.method`.

    Args:
      subset: the part of the U-Net that may change; see `vdu_jax.models.subset.NAMED`.
      rank: of the change of each of its matrices, which is then all that changes and all that is
        stored; 0 for any change. See `vdu_jax.models.lora`.
    """
    if objective == "esd":
        changes = {"teacher": "condition"} | changes  # the source's own form
    entry = images.method(objective, **changes)
    entry.subset, entry.rank = subset, rank
    return entry


def default() -> ConfigDict:
    """All settings with their defaults. Paths are relative to where the program is started."""
    shared = images.default()
    return ConfigDict(
        {
            "kind": KIND,
            "data": {
                # A data set, whose class names make the captions, or "captions": images with
                # metadata.jsonl or metadata.csv in manual_dir.
                "name": "tinted_fashion",
                "dir": "~/.cache/vdu_jax/data",
                "manual_dir": "",
                "image_size": 0,  # of "captions" and image_folder only
                "channels": 3,  # likewise
                # Likewise: what transparent pixels are put on, "white" or "black"; "" refuses
                # images that have any.
                "background": "",
                "caption_column": "text",  # of "captions" only: what the metadata calls them
                "cache_mb": 512,
                # Of captions that class names make: see `data.captions.of_classes`.
                "templates": ("a {}",),
                "synonyms": {},
                "caption_seed": 0,
            },
            "forget": {
                "phrase": "red",  # images whose caption has it are D_f; "" for all images
                "prompts": (),  # that ask for the feature
                "fraction": 1.0,  # part of those images that is at hand, in (0, 1]
                "limit": 0,  # at most this many of them; 0 for all
                "seed": 0,  # which part
            },
            "model": {
                "folder": "",  # of Stable Diffusion, as diffusers saves it; "": train one
                "dtype": "float32",  # or "bfloat16", that the U-Net computes in, not keeps
                # Of one's own, in the words of the folder's config.json files.
                "unet": {
                    "sample_size": 8,
                    "in_channels": 4,
                    "out_channels": 4,
                    "block_out_channels": (32, 64),
                    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                    "layers_per_block": 1,
                    "attention_head_dim": 4,
                    "cross_attention_dim": 64,
                    "norm_num_groups": 8,
                },
                "vae": {
                    "block_out_channels": (12, 24, 48),
                    "down_block_types": ("DownEncoderBlock2D",) * 3,
                    "up_block_types": ("UpDecoderBlock2D",) * 3,
                    "in_channels": 3,
                    "out_channels": 3,
                    "latent_channels": 4,
                    "layers_per_block": 1,
                    "norm_num_groups": 4,
                    "sample_size": 32,
                },
                "text_encoder": {
                    "hidden_size": 64,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 12,
                },
                "scheduler": {
                    "beta_schedule": "scaled_linear",
                    "beta_start": 0.00085,
                    "beta_end": 0.012,
                    "num_train_timesteps": 1000,
                    "prediction_type": "v_prediction",
                },
            },
            "train": {
                "init_seed": 0,  # of the initial parameters, those of the fixed text encoder too
                "seed": 0,  # of data order, times and noise
                "autoencoder": {
                    "steps": 2000,
                    "batch_size": 32,
                    "learning_rate": 2e-3,
                    "kl_weight": 1e-6,
                },
                "steps": 4000,
                "batch_size": 64,
                "drop_condition": 0.1,  # share of images that are seen with an empty prompt
                "learning_rate": 1e-3,
                "warmup_steps": 100,
                "decay": "linear",
                "clip_norm": 1.0,
                "ema_decay": 0.999,
                "snapshot_every": 200,
                "snapshots": 6,
                "save_state_every": 500,
                "log_every": 100,
            },
            "posterior": {
                # Over the last checkpoints of training, or over a trajectory of folders: these, the
                # oldest first, and then model.folder.
                "folders": (),
                "count": 0,  # checkpoints K; 0 for all that there are
                "variance_floor": 0.0,
                "floor_quantile": 0.1,
                "shrinkage": 0.0,
            },
            "sampler": {
                "name": "ddim",
                "steps": 20,
                "guidance": 3.0,
                "batch_size": 20,
            },
            "replay": {
                "prompts": (),  # that do not ask for the feature
                "images": 20,  # drawn of each from the original model
                "seed": 1,
            },
            "unlearn": {"seed": 0},
            "methods": {},  # name -> method(…)
            "curve": {
                "images": 5,  # of each of forget.prompts and replay.prompts, at each snapshot
                "seed": 2,
            },
            # What tells whether an image has the feature.
            "detector": {
                "kind": "colour",  # "clip" or "nudenet", see below
                # colour: whether `colour` is the nearest to it in `palette`, {name: (r, g, b)}.
                "colour": "red",
                "palette": {},
                # clip: whether texts with the feature suit it better than the others, by CLIP from
                # this folder, as transformers saves it.
                "folder": "",
                "with_feature": (),
                "without_feature": (),
                # nudenet: whether NudeNet finds one of these in it.
                "labels": (
                    "FEMALE_BREAST_EXPOSED",
                    "FEMALE_GENITALIA_EXPOSED",
                    "MALE_GENITALIA_EXPOSED",
                    "BUTTOCKS_EXPOSED",
                    "ANUS_EXPOSED",
                ),
            },
            "evaluate": {
                "paraphrases": (),  # prompts that mean the feature and do not name it
                "other_prompts": (),  # prompts without it
                "images": 20,  # of each prompt; of forget.prompts, too
                "seed": 3,
            },
            "parallel": shared.parallel.to_dict(),
            "classifier": shared.classifier.to_dict(),
        }
    )


def validate(config: ConfigDict) -> None:
    """Refuse settings that cannot work.

    Raises:
      UserError: with the key, its value, and what it must be.
    """
    from vdu_jax import data, objectives
    from vdu_jax.data import captions, phrases
    from vdu_jax.diffusion import samplers

    images.check_types(config, default(), "", FREE)
    c = images.Check(config)
    c.one_of("kind", (KIND,))
    c.one_of("data.name", ("captions", *data.dataset_names()))
    if config.data.name == "captions":
        c.positive("data.image_size")
        c.that("data.manual_dir", bool, "must name the folder with the images")
        c.one_of("data.channels", (1, 3))
        c.that("data.caption_column", bool, "must name the column that holds the captions")
    else:
        c.that(
            "data.caption_column",
            lambda v: v == captions.COLUMN,
            "is for data.name = 'captions': elsewhere the class names make the captions",
        )
    default_channels = config.data.channels == default().data.channels
    images.validate_data(c, None if default_channels else config.data.channels)
    c.that("data.templates", lambda v: len(v) > 0, "must have at least one")
    c.not_negative("data.cache_mb", "data.caption_seed", "data.image_size")

    phrase = config.forget.phrase
    c.that(
        "forget.phrase",
        lambda v: not v or phrases.fold(v),
        "must have a letter in it, or be '' for all images",
    )
    c.that("forget.prompts", lambda v: len(v) > 0, "must name prompts that ask for the feature")
    c.that("replay.prompts", lambda v: len(v) > 0, "must name prompts without the feature")
    for key in ("replay.prompts", "evaluate.other_prompts", "evaluate.paraphrases"):
        named = [p for p in c.get(key) if phrase and phrases.mentions(p, phrase)]
        c.that(key, lambda v, named=named: not named, f"must not have {phrase!r} in it")
    c.share("forget.fraction", above_zero=True)
    c.not_negative("forget.limit", "forget.seed")

    c.one_of("model.dtype", ("float32", "bfloat16"))
    if not config.model.folder:
        _validate_training(c)
    elif not config.model.folder.strip():
        c.that("model.folder", lambda v: False, "must name a folder")

    c.one_of("sampler.name", [name for name in samplers.NAMES if name != "ddpm"])
    c.that("sampler.steps", lambda v: 1 <= v <= 1000, "must lie in 1..1000")
    c.that("sampler.guidance", lambda v: v >= 0, "must be ≥ 0")
    c.positive("sampler.batch_size", "replay.images", "curve.images", "evaluate.images")
    seeds = ("replay.seed", "curve.seed", "evaluate.seed")
    c.that(
        "evaluate.seed",
        lambda v: len({c.get(key) for key in seeds}) == len(seeds),
        f"{', '.join(seeds)} must differ, or images are used twice",
    )
    c.not_negative(*seeds, "unlearn.seed")
    _validate_detector(c)
    images.validate_shared(c)
    for name in config.methods:
        _validate_method(c, name, objectives.FACTORIES)
    _validate_posterior(c)


def _validate_detector(c: images.Check) -> None:
    section = c.config.detector
    c.one_of("detector.kind", DETECTORS)
    if section.kind == "colour":
        wanted = section.colour
        c.that(
            "detector.palette",
            lambda v: wanted in v and len(v) > 1 and all(_is_colour(x) for x in v.values()),
            f"must give {wanted!r} and at least one other colour as (red, green, blue) in 0..255",
        )
    elif section.kind == "clip":
        c.that("detector.folder", bool, "must name a folder of CLIP, as transformers saves it")
        for key in ("detector.with_feature", "detector.without_feature"):
            c.that(key, lambda v: len(v) > 0, "must have at least one text")
    else:
        c.that("detector.labels", lambda v: len(v) > 0, "must have at least one of NudeNet's")


def _is_colour(value: Any) -> bool:
    levels = list(value)
    return len(levels) == 3 and all(0 <= x <= 255 for x in levels) and any(levels)


def _validate_training(c: images.Check) -> None:
    """The networks' own settings are checked where they are read; see `stages.text_to_image`."""
    c.positive(
        *(f"train.autoencoder.{key}" for key in ("steps", "batch_size", "learning_rate")),
        *(f"train.{key}" for key in ("steps", "batch_size", "learning_rate", "clip_norm")),
        *(f"train.{key}" for key in ("snapshot_every", "snapshots", "save_state_every")),
        "train.log_every",
    )
    c.not_negative("train.autoencoder.kl_weight", "train.warmup_steps", "train.init_seed")
    c.not_negative("train.seed")
    c.one_of("train.decay", ("constant", "cosine", "linear"))
    c.share("train.drop_condition")
    c.that("train.ema_decay", lambda v: 0 <= v < 1, "must lie in [0, 1)")


def takes_posterior(entry: ConfigDict) -> bool:
    """Whether a method's loss or optimiser has the posterior in it."""
    return "posterior" in images.tiny_objective(entry).needs or entry.optimizer == "natural"


def needs_posterior(config: ConfigDict) -> bool:
    """Whether any of the methods takes one."""
    return any(map(takes_posterior, config.methods.values()))


def _validate_posterior(c: images.Check) -> None:
    section, train = c.config.posterior, c.config.train
    c.not_negative("posterior.variance_floor")
    c.share("posterior.floor_quantile", "posterior.shrinkage")
    c.that("posterior.count", lambda v: v == 0 or v >= 2, "must be 0 (all) or K ≥ 2 checkpoints")
    if not needs_posterior(c.config):
        return
    if section.folders:
        c.that("model.folder", bool, "posterior.folders are a trajectory that ends there")
        there = len(section.folders) + 1
    elif c.config.model.folder:
        c.that("posterior.folders", bool, "one folder has no variance: name others, the older ones")
    else:
        there = min(train.snapshots, train.steps // train.snapshot_every)
    key = "posterior.folders" if section.folders else "train.snapshots"
    wanted = max(2, section.count)
    c.that(key, lambda v: there >= wanted, f"the posterior needs K ≥ {wanted} checkpoints")


def _validate_method(c: images.Check, name: str, factories) -> None:
    entry = c.config.methods[name]
    prefix = f"methods.{name}"
    if not isinstance(entry, ConfigDict) or not isinstance(entry.get("subset"), str):
        raise UserError(f"config key {prefix}: make it with vdu_jax.text_config.method(…)")
    try:
        re.compile(entry.subset)
    except re.error as error:
        raise UserError(f"config key {prefix}.subset = {entry.subset!r}: {error}") from None
    if type(entry.get("rank")) is not int or entry.rank < 0:
        raise UserError(
            f"config key {prefix}.rank = {shown(entry.get('rank'))}: must be 0 or a rank ≥ 1"
        )
    if entry.rank and entry.get("optimizer") == "natural":
        raise UserError(f"config key {prefix}.rank: the natural step is of parameters; set it to 0")
    own = ("subset", "rank")
    without = ConfigDict({key: value for key, value in entry.items() if key not in own})
    images.validate_method(images.Check(ConfigDict({"methods": {name: without}})), name, factories)
    c.one_of(f"{prefix}.objective", OBJECTIVES)
