"""The networks of a Stable Diffusion folder: conversion of `config.json` and of tensor names.

Settings become the attributes of the modules in `models.stable_diffusion`. A value that a module
can't express is refused with its key. An unknown key is ignored if its value is null or false,
because every version of diffusers and transformers adds such keys.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import layout, unet2d
from vdu_jax.models import network
from vdu_jax.models.stable_diffusion import text_encoder, unet_condition, vae
from vdu_jax.types import Params

MOST_LAYERS = 100  # layers per block; more would take minutes to trace


class Reader:
    """Checked access to the values of a `config.json`.

    Attributes:
      values: the config.json.
      where: its path, for errors.
      used: the keys that have been read.
    """

    def __init__(self, config: Mapping[str, Any], where: Path | str, kinds: Sequence[str]) -> None:
        """Start to read a config.json.

        Args:
          config: the config.json.
          where: its path, for errors.
          kinds: allowed values of `_class_name`; the first is the default.

        Raises:
          UserError: for another class.
        """
        self.values, self.where, self.used = dict(config), where, {"_class_name"}
        kind = config.get("_class_name", kinds[0])
        if kind not in kinds:
            raise self.refuse("_class_name", f"it must be {' or '.join(kinds)}", kind)

    def refuse(self, key: str, need: str, value: Any = None) -> UserError:
        """Make the error for a value that can't be expressed.

        Args:
          key: the key.
          need: the values that can be expressed, in words.
          value: the value; None for that of the config.json.
        """
        value = self.values.get(key) if value is None else value
        return UserError(f"{self.where}: {key} = {value!r} can't be expressed: {need}")

    def take(self, key: str, default: Any) -> Any:
        """Read a value of the type of its default.

        Args:
          key: the key.
          default: a bool, number, string or list; the value if the key is missing or null.
        """
        self.used.add(key)
        value = self.values.get(key, default)
        if value is None:
            return default
        if not unet2d.same_kind(value, default):
            raise self.refuse(key, f"it must have the type of {default!r}")
        return value

    def count(self, key: str, default: Any, most: int = 2**16) -> Any:
        """Read a whole number, or a list of them.

        Args:
          key: the key.
          default: the value if the key is missing or null.
          most: the largest allowed number; the least is 1.
        """
        value = self.take(key, default)
        several = value if isinstance(value, list | tuple) else [value]
        if not all(type(number) is int and 1 <= number <= most for number in several):
            raise self.refuse(key, f"it must be whole and lie in 1..{most}", value)
        return value

    def groups(self, key: str, channels: Sequence[int]) -> int:
        """Read the number of groups of all group norms.

        Args:
          key: the key.
          channels: channels at each resolution; the number of groups must divide them.
        """
        value = self.count(key, 32)
        if any(width % value for width in channels):
            raise self.refuse(
                key, f"it must divide {', '.join(map(str, channels))} channels", value
            )
        return value

    def one_of(self, key: str, allowed: Sequence[Any]) -> Any:
        """Read one of several values.

        Args:
          key: the key.
          allowed: the values; the first is the default.
        """
        self.used.add(key)
        value = self.values.get(key, allowed[0])
        if value not in allowed:
            raise self.refuse(key, f"it must be {' or '.join(map(repr, allowed))}")
        return value

    def numbers(self, key: str, default: Sequence[int], count: int) -> tuple[int, ...]:
        """Read one number per resolution; a single number is for all.

        Args:
          key: the key.
          default: the numbers if the key is missing.
          count: number of resolutions.
        """
        self.used.add(key)
        value = self.values.get(key, default)
        value = [value] * count if isinstance(value, int) else value
        if not unet2d.same_kind(value, [1]) or len(value) != count:
            raise self.refuse(key, f"it must be one number or {count}")
        return tuple(value)

    def passed_over(self, *keys: str) -> None:
        """Ignore keys that change nothing here."""
        self.used.update(keys)

    def finish(self) -> None:
        """Refuse keys that were not read, unless their values are null or false."""
        for key, value in self.values.items():
            known = key in self.used or key.startswith("_")
            if not known and not unet2d.says_nothing(value):
                raise self.refuse(key, "the key is not known")


def read_unet(config: Mapping[str, Any], where: Path | str) -> unet_condition.UNetCondition:
    """Make the U-Net of the `config.json` of a `UNet2DConditionModel`.

    Args:
      config: the config.json.
      where: its path, for errors.

    Raises:
      UserError: naming the key, if the module can't express its value.
    """
    read = Reader(config, where, ["UNet2DConditionModel"])
    channels = tuple(read.count("block_out_channels", [320, 640, 1280, 1280]))
    count = len(channels)
    usual = ["CrossAttnDownBlock2D"] * (count - 1) + ["DownBlock2D"]
    down = read.take("down_block_types", usual)
    usual = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (count - 1)
    up = read.take("up_block_types", usual)
    attends = unet2d.attending_levels(down, up, "CrossAttn", count, read.refuse)
    # By an old mistake diffusers calls the number of heads the dimension of a head.
    heads = read.numbers("attention_head_dim", [8] * count, count)
    if read.values.get("num_attention_heads") is not None:
        heads = read.numbers("num_attention_heads", [8] * count, count)
    for width, number in zip(channels, heads, strict=True):
        if type(number) is not int or number < 1 or width % number:
            raise read.refuse("attention_head_dim", f"it must divide {width} channels")
    in_channels = read.count("in_channels", 4)
    if read.take("out_channels", 4) != in_channels:
        raise read.refuse("out_channels", f"it must equal in_channels = {in_channels}")
    read.one_of("act_fn", ["silu", "swish"])
    read.one_of("mid_block_type", ["UNetMidBlock2DCrossAttn"])
    read.one_of("time_embedding_type", ["positional"])
    read.one_of("resnet_time_scale_shift", ["default"])
    read.one_of("conv_in_kernel", [3])
    read.one_of("conv_out_kernel", [3])
    read.one_of("dropout", [0.0])
    read.one_of("attention_type", ["default"])
    read.one_of("resnet_out_scale_factor", [1.0])
    read.passed_over("sample_size", "upcast_attention", "addition_embed_type_num_heads")
    module = unet_condition.UNetCondition(
        out_channels=in_channels,
        text_width=read.count("cross_attention_dim", 1280),
        block_out_channels=channels,
        layers_per_block=read.count("layers_per_block", 2, MOST_LAYERS),
        attention_levels=tuple(level for level, attend in enumerate(attends) if attend),
        num_heads=heads,
        transformer_layers=read.count("transformer_layers_per_block", 1, MOST_LAYERS),
        linear_projection=read.take("use_linear_projection", False),
        num_groups=read.groups("norm_num_groups", channels),
        norm_eps=float(read.take("norm_eps", 1e-5)),
        flip_sin_to_cos=read.take("flip_sin_to_cos", True),
        freq_shift=float(read.take("freq_shift", 0)),
        downsample_padding=read.one_of("downsample_padding", [1, 0]),
        mid_block_scale_factor=float(read.take("mid_block_scale_factor", 1)),
    )
    read.finish()
    return module


def read_vae(config: Mapping[str, Any], where: Path | str) -> vae.AutoencoderKL:
    """Make the autoencoder of the `config.json` of an `AutoencoderKL`.

    Args:
      config: the config.json.
      where: its path, for errors.

    Raises:
      UserError: naming the key, if the module can't express its value.
    """
    read = Reader(config, where, ["AutoencoderKL"])
    channels = tuple(read.count("block_out_channels", [64]))
    read.one_of("down_block_types", [["DownEncoderBlock2D"] * len(channels)])
    read.one_of("up_block_types", [["UpDecoderBlock2D"] * len(channels)])
    image_channels = read.count("in_channels", 3)
    if read.take("out_channels", 3) != image_channels:
        raise read.refuse("out_channels", f"it must equal in_channels = {image_channels}")
    read.one_of("act_fn", ["silu", "swish"])
    read.one_of("use_quant_conv", [True])
    read.one_of("use_post_quant_conv", [True])
    read.one_of("shift_factor", [None, 0.0])
    read.passed_over("sample_size", "scaling_factor", "force_upcast")
    module = vae.AutoencoderKL(
        channels=image_channels,
        latent_channels=read.count("latent_channels", 4),
        block_out_channels=channels,
        layers_per_block=read.count("layers_per_block", 1, MOST_LAYERS),
        num_groups=read.groups("norm_num_groups", channels),
        mid_attention=read.take("mid_block_add_attention", True),
    )
    read.finish()
    return module


# Keys of `CLIPTextConfig` that do not change the text's embeddings.
TEXT_PASSED_OVER = (
    "model_type", "architectures", "torch_dtype", "dtype", "transformers_version",
    "attention_dropout", "dropout", "initializer_factor", "initializer_range", "projection_dim",
    "bos_token_id", "eos_token_id", "pad_token_id", "return_dict", "use_cache",
)  # fmt: skip
# Keys of `CLIPTextConfig` that `read_text_encoder` reads.
TEXT_KEYS = (
    "model_type", "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps",
)  # fmt: skip


def read_text_encoder(config: Mapping[str, Any], where: Path | str) -> text_encoder.TextEncoder:
    """Make the text encoder of the `config.json` of a `CLIPTextModel`.

    Args:
      config: the config.json.
      where: its path, for errors.

    Raises:
      UserError: naming the key, if the module can't express its value.
    """
    read = Reader(config, where, ["CLIPTextModel"])
    read.one_of("model_type", ["clip_text_model"])
    read.passed_over(*TEXT_PASSED_OVER)
    module = text_encoder.TextEncoder(
        vocab_size=read.count("vocab_size", 49408, 2**20),
        max_length=read.count("max_position_embeddings", 77),
        **tower_settings(read, hidden_size=512, intermediate_size=2048, num_heads=8),
    )
    read.finish()
    return module


def tower_settings(
    read: Reader, hidden_size: int, intermediate_size: int, num_heads: int
) -> dict[str, Any]:
    """Settings that CLIP's text and image encoders have in common.

    Args:
      read: the reader of the config.json.
      hidden_size: default width.
      intermediate_size: default width of the perceptron's hidden layer.
      num_heads: default number of attention heads.

    Returns:
      Attributes of `TextEncoder` and `VisionEncoder`.

    Raises:
      UserError: naming the key, if the modules can't express its value.
    """
    hidden = read.count("hidden_size", hidden_size)
    heads = read.count("num_attention_heads", num_heads)
    if hidden % heads:
        raise read.refuse("num_attention_heads", f"it must divide hidden_size = {hidden}")
    return {
        "hidden_size": hidden,
        "intermediate_size": read.count("intermediate_size", intermediate_size),
        "num_layers": read.count("num_hidden_layers", 12, MOST_LAYERS),
        "num_heads": heads,
        "activation": read.one_of("hidden_act", ["quick_gelu", "gelu"]),
        "epsilon": float(read.take("layer_norm_eps", 1e-5)),
    }


TEXT_PREFIX = "text_model."  # prefix of the text encoder's names before transformers 5
TEXT_NAMES = (
    (re.compile(r"^(token|position)_embedding$"), r"embeddings.\1_embedding"),
    (re.compile(r"^layers_(\d+)$"), r"encoder.layers.\1"),
    (re.compile(r"^(self_attn|mlp)_"), r"\1."),
)


def text_name(path: tuple[str, ...], attention: Mapping[str, str] = unet2d.MODERN) -> str:
    """Name in transformers of a parameter of CLIP's text or image encoder, without `TEXT_PREFIX`.

    Args:
      path: the parameter's path, e.g. ("layers_0", "mlp_fc1", "kernel").
      attention: not used; see `unet2d.tensor_name`.
    """
    del attention
    *modules, leaf = path
    for pattern, theirs in TEXT_NAMES:
        modules = [pattern.sub(theirs, module) for module in modules]
    return ".".join([*modules, layout.LEAVES.get(leaf, leaf)])


def is_position(name: str) -> bool:
    """Whether a tensor of CLIP is the constant 0, 1, … that old versions stored."""
    return name.endswith(".position_ids")


@functools.lru_cache(maxsize=16)
def _param_shapes(init_params: Callable[[Any, jax.Array], Params], module: nn.Module) -> Params:
    return jax.eval_shape(lambda: init_params(module, jax.random.key(0)))


def _init_unet(module: unet_condition.UNetCondition, key: jax.Array) -> Params:
    side = 2 ** (len(module.block_out_channels) - 1)  # the smallest side that it can halve
    return network.init_params(module, key, (side, side, module.out_channels))


class Part(NamedTuple):
    """A network of a folder: how it is read, and how its tensors are named.

    Attributes:
      weights: name of the file with its tensors.
      read_config: `(config.json, its path) -> module`.
      init_params: `(module, key) -> params`.
      tensor_name: `(path, attention=names of the attention layers) -> name in PyTorch`.
      ignored: `(name) -> bool`: whether a tensor is not a parameter here.
      prefix: prefix of the tensors' names in some versions.
    """

    weights: str
    read_config: Callable[[Mapping[str, Any], Path | str], nn.Module]
    init_params: Callable[[Any, jax.Array], Params]
    tensor_name: Callable[..., str]
    ignored: Callable[[str], bool] = lambda name: False
    prefix: str = ""

    def param_shapes(self, module: nn.Module) -> Params:
        """Shapes of the module's parameters, `jax.ShapeDtypeStruct`s; nothing is allocated."""
        return _param_shapes(self.init_params, module)

    def tensor_shapes(self, module: nn.Module) -> dict[str, tuple[int, ...]]:
        """Shapes in PyTorch of the module's tensors, by name."""
        return layout.pytorch_shapes(self.param_shapes(module), self.tensor_name)

    def to_params(
        self, module: nn.Module, named: Mapping[str, np.ndarray], where: Path | str
    ) -> Params:
        """Convert PyTorch's tensors to parameters of the module.

        Args:
          module: the network.
          named: tensors by their names in PyTorch.
          where: name of the file in errors.

        Raises:
          UserError: see `layout.from_pytorch`.
        """
        name_of = self._namer(named)
        return layout.from_pytorch(named, self.param_shapes(module), name_of, where)

    def to_tensors(self, params: Params, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Convert parameters to PyTorch's tensors; inverts `to_params`.

        Args:
          params: the parameters.
          like: the tensors that the parameters were made of; the result has their names and types.
        """
        named = layout.to_pytorch(params, self._namer(like))
        return {name: tensor.astype(like[name].dtype) for name, tensor in named.items()}

    def _namer(self, named: Mapping[str, Any]) -> layout.NameOf:
        """`tensor_name` for the version of diffusers or transformers that wrote these names."""
        name_of = functools.partial(self.tensor_name, attention=unet2d.attention_names(named))
        if self.prefix and any(name.startswith(self.prefix) for name in named):
            return lambda path: self.prefix + name_of(path)
        return name_of


PARTS = {
    "unet": Part(
        "diffusion_pytorch_model.safetensors",
        read_unet,
        _init_unet,
        unet2d.tensor_name,
    ),
    "vae": Part(
        "diffusion_pytorch_model.safetensors", read_vae, vae.init_params, unet2d.tensor_name
    ),
    "text_encoder": Part(
        "model.safetensors",
        read_text_encoder,
        text_encoder.init_params,
        text_name,
        is_position,
        TEXT_PREFIX,
    ),
}
"""The networks of a folder, by the names of their sub-folders."""
