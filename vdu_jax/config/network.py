"""The sections `model`, `condition` and `diffusion`: network, conditioning, noise schedule."""

from typing import Any

from ml_collections import ConfigDict

from vdu_jax.config.check import TEXT_TO_IMAGE, Check, check_type, is_text_to_image
from vdu_jax.errors import UserError, did_you_mean

STABLE_DIFFUSION = {
    "folder": "",  # Stable Diffusion folder of diffusers; "" trains a model
    "dtype": "float32",  # type that the U-Net computes in, or "bfloat16"; parameters stay float32
    # The U-Net to train, in the keys of its config.json in a diffusers folder.
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
    # The autoencoder to train, in the keys of its config.json.
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
    # The text encoder, which is not trained, in the keys of its config.json.
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
    },
    # The noise schedule, in the keys of scheduler_config.json.
    "scheduler": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
    },
}
DIFFUSION = {
    "schedule": "linear",  # noise schedule: "linear", "scaled_linear" or "cosine"
    "num_steps": 1000,  # T, the number of noise levels
    "beta_start": 1e-4,  # β of the first level; not for "cosine"
    "beta_end": 0.02,  # β of the last level; not for "cosine"
    "prediction": "epsilon",  # output of the network: "epsilon" or "v_prediction"
}


def model(name: str, **changes: Any) -> ConfigDict:
    """The section `model` of an architecture.

    Args:
      name: a name in `models.registry.ARCHITECTURES`, or `TEXT_TO_IMAGE`.
      changes: settings of the architecture that differ from its defaults.

    Raises:
      UserError: for an unknown name or setting, or a value of the wrong type.
    """
    from vdu_jax.models import registry

    settings = {key: a.settings for key, a in registry.ARCHITECTURES.items()}
    settings[TEXT_TO_IMAGE] = STABLE_DIFFUSION
    Check(ConfigDict({"model": {"name": name}})).one_of("model.name", settings)
    section = ConfigDict({"name": name, **settings[name]})
    for key, value in changes.items():
        if key not in section:
            raise UserError(
                f"config key model.{key}: there is no such setting of {name!r}"
                f"{did_you_mean(key, section)}"
            )
        check_type(f"model.{key}", value, section[key])
        section[key] = value
    return section


def defaults(architecture: str) -> dict[str, Any]:
    """The sections with their defaults.

    Args:
      architecture: as in `config.default`.
    """
    text = architecture == TEXT_TO_IMAGE
    # Of text-to-image models, and of networks that know classes (model.num_class_embeds > 0).
    condition = {
        # Share of the training images whose class or caption is dropped, for classifier-free
        # guidance. Above 0 a class-conditional network has one more embedding than classes; for an
        # imported network it says whether it has.
        "drop": 0.1,
        "guidance": 3.0 if text else 1.0,  # scale of classifier-free guidance; 1 for none
    }
    sections = {"model": model(architecture).to_dict(), "condition": condition}
    return sections if text else sections | {"diffusion": dict(DIFFUSION)}


def check(c: Check) -> None:
    """Refuse networks and noise schedules that cannot work.

    The networks of a text-to-image model are checked in `tasks.text_to_image`, where they are read.

    Raises:
      UserError: with the key.
    """
    from vdu_jax import data

    c.share("condition.drop", below_one=True)
    c.not_negative("condition.guidance")
    if c.text:
        c.one_of("model.dtype", ("float32", "bfloat16"))
        c.require("model.folder", lambda v: not v or v.strip(), "must name a folder")
        if not c.config.model.folder:
            _check_guidance(c)
        return
    info = data.static_info(c.config.data.name)
    validate_model(c.config, c.config.data.image_size if info is None else info[0][0])
    validate_diffusion(c.config)
    if c.config.model.num_class_embeds:
        _check_guidance(c)
        if info is not None:
            check_classes(c.config, info[1])
        return
    for key, value in defaults("unet")["condition"].items():
        c.require(
            f"condition.{key}",
            lambda v, value=value: v == value,
            "is for networks that know classes: set model.num_class_embeds",
        )


def _check_guidance(c: Check) -> None:
    if not c.config.condition.drop:
        c.require(
            "condition.guidance",
            lambda v: v == 1,
            "guidance needs the prediction without a condition, which is learned with "
            "condition.drop > 0; set that, or 1 here",
        )


def check_classes(config: ConfigDict, num_classes: int) -> None:
    """Refuse a class-conditional network that does not fit the number of classes of the data.

    Args:
      config: all settings.
      num_classes: C of the data set. The network must have C class embeddings, and one more if
        `condition.drop` > 0. An unconditional network fits any data.

    Raises:
      UserError: with the key.
    """
    rows, more = config.model.num_class_embeds, config.condition.drop > 0
    if rows and rows != num_classes + more:
        why = ", and one more embedding means no class (condition.drop > 0)" if more else ""
        raise UserError(
            f"config key model.num_class_embeds = {rows}: {config.data.name} has {num_classes} "
            f"classes{why}: set {num_classes + more}, or 0 for an unconditional network"
        )


def validate_model(config: ConfigDict, image_size: int) -> None:
    """Refuse settings of a pixel model that cannot work.

    Args:
      config: all settings.
      image_size: height and width of the images in pixels.

    Raises:
      UserError: with the key.
    """
    from vdu_jax.models import network, registry

    c = Check(config)
    registry.ARCHITECTURES[config.model.name].check(c, image_size)
    network.check_shared(c)


def validate_diffusion(config: ConfigDict) -> None:
    """Refuse settings of the noise schedule that cannot work.

    Args:
      config: all settings of a pixel model.

    Raises:
      UserError: with the key.
    """
    from vdu_jax.diffusion import parameterization, schedule

    c = Check(config)
    c.one_of("diffusion.schedule", schedule.NAMES)
    c.one_of("diffusion.prediction", parameterization.PARAMETERIZATIONS)
    c.require("diffusion.num_steps", lambda v: 2 <= v <= 10**6, "must lie in 2..1000000")
    for key in ("diffusion.beta_start", "diffusion.beta_end"):
        c.require(key, lambda v: 0 < v < 1, "must lie in (0, 1)")


def num_steps(config: ConfigDict) -> int:
    """T, the number of noise levels; 1000 for a diffusers folder, whose own is not read yet."""
    if not is_text_to_image(config):
        return config.diffusion.num_steps
    steps = config.model.scheduler.get("num_train_timesteps", 1000)
    known = type(steps) is int and not config.model.folder
    return steps if known else 1000
