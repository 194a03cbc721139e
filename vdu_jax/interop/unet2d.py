"""Conversion of the `UNet2DModel` of Hugging Face diffusers: `config.json` and tensor names.

Settings are those of `config.model`. Tensors are NumPy arrays by their names in PyTorch; the weight
of a convolution is (out, in, height, width), that of a dense layer (out, in).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import layout
from vdu_jax.types import Params

# The defaults of UNet2DModel's arguments, for keys that a config.json leaves out.
DEFAULTS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
LARGEST = 2**16  # side of an image, in pixels
# Keys that diffusers' moving average of a model adds to its config.json.
EMA_KEYS = {
    "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma",
    "power",
}  # fmt: skip
# Names of the class; the first two are from versions before 0.1.
CLASSES = ("UNetModel", "UNetUnconditionalModel", "UNet2DModel")
# The values that `models.unet` can express.
FIXED = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
    "downsample_padding": (0, 1),
}
# Setting here -> key in diffusers, with the same value.
RENAMED = {
    "layers_per_block": "layers_per_block",
    "mid_attention": "add_attention",
    "num_groups": "norm_num_groups",
    "norm_eps": "norm_eps",
    "dropout": "dropout",
    "time_scale_shift": "resnet_time_scale_shift",
    "flip_sin_to_cos": "flip_sin_to_cos",
    "freq_shift": "freq_shift",
    "downsample_padding": "downsample_padding",
    "mid_block_scale_factor": "mid_block_scale_factor",
    "center_input_sample": "center_input_sample",
}
FLOAT_SETTINGS = ("norm_eps", "dropout", "freq_shift", "mid_block_scale_factor")


def says_nothing(value: Any) -> bool:
    """Whether the value of an unknown key changes nothing: null or false.

    Versions of diffusers add and drop keys with such defaults.

    Args:
      value: a JSON value.
    """
    return value is None or value is False


def same_kind(value: Any, default: Any) -> bool:
    """Whether a JSON value has the type of a default: bool, number, string, or list of such.

    Args:
      value: the value.
      default: the default; a list's first element stands for all.
    """
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(default, list):
        return isinstance(value, list | tuple) and all(same_kind(v, default[0]) for v in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def attending_levels(
    down: Sequence[str],
    up: Sequence[str],
    prefix: str,
    count: int,
    refuse: Callable[[str, str], UserError],
) -> list[bool]:
    """The resolutions with attention, from the names of their blocks.

    Args:
      down: `down_block_types`.
      up: `up_block_types`.
      prefix: prefix of a block with attention, "Attn" or "CrossAttn".
      count: number of resolutions.
      refuse: `(key, need) -> error`, makes the error.

    Returns:
      Whether each resolution has attention, the finest first.

    Raises:
      UserError: for other names or another count, or if `up` does not mirror `down`.
    """
    attends = []
    for key, names, plain in (
        ("down_block_types", down, "DownBlock2D"),
        ("up_block_types", up, "UpBlock2D"),
    ):
        if not set(names) <= {plain, prefix + plain} or len(names) != count:
            raise refuse(key, f"it must be {count} of {plain}, {prefix + plain}")
        attends.append([name != plain for name in names])
    if attends[0] != attends[1][::-1]:
        raise refuse("up_block_types", "it must mirror down_block_types")
    return attends[0]


def read_config(
    config: Mapping[str, Any], where: Path | str
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Convert a `config.json` to settings.

    Args:
      config: the config.json.
      where: its path, for errors.

    Returns:
      (settings as `config.model`, image shape (H, W, C)); H = W = 0 if the file does not say.

    Raises:
      UserError: naming the key, if `models.unet` can't express its value.
    """

    def refuse(key: str, need: str) -> UserError:
        return UserError(f"{where}: {key} = {values.get(key)!r} can't be expressed: {need}")

    values = DEFAULTS | {k: v for k, v in config.items() if k not in EMA_KEYS}
    kind = values.get("_class_name", "UNet2DModel")
    if kind not in CLASSES:
        raise refuse("_class_name", "it must be UNet2DModel")
    for key, default in DEFAULTS.items():
        nullable = default is None or (key == "attention_head_dim" and values[key] is None)
        if not nullable and not same_kind(values[key], default):
            raise refuse(key, f"it must have the type of {default!r}")
    for key, value in values.items():
        if key not in DEFAULTS and not key.startswith("_") and not says_nothing(value):
            raise refuse(key, "the key is not known")
    for key, allowed in FIXED.items():
        value = values[key]
        if value not in allowed and not (key == "class_embed_type" and value is False):
            raise refuse(key, f"it must be {' or '.join(map(repr, allowed))}")
    channels = values["block_out_channels"]
    if not channels:
        raise refuse("block_out_channels", "it must name at least one resolution")
    if values["time_embedding_dim"] not in (None, 4 * channels[0]):
        raise refuse("time_embedding_dim", f"it must be null or {4 * channels[0]}")
    if type(values["in_channels"]) is not int or not 1 <= values["in_channels"] <= LARGEST:
        raise refuse("in_channels", f"it must be a whole number in 1..{LARGEST}")
    if values["in_channels"] != values["out_channels"]:
        raise refuse("out_channels", f"it must equal in_channels = {values['in_channels']}")

    classes = values["num_class_embeds"]
    if classes is not None and (type(classes) is not int or not 2 <= classes <= LARGEST):
        raise refuse("num_class_embeds", f"it must be null or a whole number in 2..{LARGEST}")

    kinds = (values["down_block_types"], values["up_block_types"])
    attends = attending_levels(*kinds, "Attn", len(channels), refuse)

    mid_has_no_norm = values["resnet_time_scale_shift"] == "scale_shift" and values["add_attention"]
    groups = [values["norm_num_groups"]] if mid_has_no_norm else [None, values["norm_num_groups"]]
    if values["add_attention"] and values["attn_norm_num_groups"] not in groups:
        raise refuse(
            "attn_norm_num_groups", f"it must be norm_num_groups = {values['norm_num_groups']}"
        )
    size = 0 if says_nothing(values["sample_size"]) else values["sample_size"]
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(type(s) is int and 0 <= s <= LARGEST for s in sides):
        raise refuse("sample_size", f"it must be null or one or two numbers in 1..{LARGEST}")
    height, width = sides

    settings = {ours: values[theirs] for ours, theirs in RENAMED.items()}
    settings |= {key: float(settings[key]) for key in FLOAT_SETTINGS}
    settings |= {
        "block_out_channels": tuple(channels),
        "attention_levels": tuple(i for i, attending in enumerate(attends) if attending),
        "attention_head_dim": values["attention_head_dim"] or 0,
        "num_class_embeds": classes or 0,
        "dtype": "float32",
        "param_dtype": "float32",
    }
    return settings, (height, width, values["in_channels"])


def write_config(settings: Mapping[str, Any], image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Convert settings to a `config.json`; inverts `read_config`.

    Args:
      settings: as `config.model`.
      image_shape: (H, W, C).
    """
    height, width, channels = image_shape
    attends = [
        i in settings["attention_levels"] for i in range(len(settings["block_out_channels"]))
    ]
    scale_shift = settings["time_scale_shift"] == "scale_shift"
    values = DEFAULTS | {theirs: settings[ours] for ours, theirs in RENAMED.items()}
    values |= {
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(settings["block_out_channels"]),
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        "attention_head_dim": settings["attention_head_dim"] or None,
        "num_class_embeds": settings["num_class_embeds"] or None,
        "attn_norm_num_groups": settings["num_groups"] if scale_shift else None,
    }
    return {"_class_name": "UNet2DModel"} | values


MODERN = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
# Names of the attention layers before diffusers 0.18; google/ddpm-* on the Hub still have them.
DEPRECATED = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "proj_attn"}
# Modules that are in a list in diffusers, and the two layers of a transformer's perceptron.
LISTS = re.compile(r"(blocks|resnets|attentions|samplers|layers)_(\d+)(?:_|$)")
FEED_FORWARD = {"ff_net_0_proj": "ff.net.0.proj", "ff_net_2": "ff.net.2"}


def tensor_name(path: tuple[str, ...], attention: Mapping[str, str] = MODERN) -> str:
    """Name in diffusers of a parameter of any of its networks.

    E.g. ("decoder", "mid_block_resnets_0", "conv1", "kernel") becomes
    "decoder.mid_block.resnets.0.conv1.weight".

    Args:
      path: the parameter's path.
      attention: names of the attention layers, `MODERN` or `DEPRECATED`.
    """
    *modules, leaf = path
    named = []
    for module in modules:
        module = FEED_FORWARD.get(module) or attention.get(module, module)
        if module.startswith("mid_block_"):
            named.append("mid_block")
            module = module.removeprefix("mid_block_")
        named.append(LISTS.sub(r"\1.\2.", module).rstrip("."))
    return ".".join([*named, layout.LEAVES[leaf]])


def namer(attention: Mapping[str, str] = MODERN) -> layout.NameOf:
    """`tensor_name` with fixed names of the attention layers."""
    return functools.partial(tensor_name, attention=attention)


def to_tensors(params: Params, attention: Mapping[str, str] = MODERN) -> dict[str, np.ndarray]:
    """Convert a parameter tree to named tensors in PyTorch's layout.

    Args:
      params: the parameters.
      attention: names of the attention layers, `MODERN` or `DEPRECATED`.
    """
    return layout.to_pytorch(params, namer(attention))


def attention_names(tensors: Mapping[str, Any]) -> Mapping[str, str]:
    """Names of the attention layers in these tensors: `DEPRECATED` or `MODERN`."""
    old = any(name.endswith(".proj_attn.weight") for name in tensors)
    return DEPRECATED if old else MODERN


def to_params(tensors: Mapping[str, np.ndarray], like: Params, where: Path | str) -> Params:
    """Convert PyTorch's tensors to parameters with the structure, shapes and types of `like`.

    Args:
      tensors: tensors by their names in PyTorch.
      like: arrays or `jax.ShapeDtypeStruct`s, e.g. from `eval_shape` of the network's init.
      where: name of the file in errors.

    Raises:
      UserError: naming the first tensor that is missing, unexpected, or of another shape.
    """
    return layout.from_pytorch(tensors, like, namer(attention_names(tensors)), where)
