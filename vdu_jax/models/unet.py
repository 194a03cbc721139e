"""The DDPM U-Net, unconditional or class-conditional.

Structure and names follow `UNet2DModel` of Hugging Face diffusers, so that its weights map one to
one. The network of Ho et al. 2020 (arXiv 2006.11239) is one setting of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.models import layers, network


class UNet(nn.Module):
    """The U-Net ε_θ(x_t, t, label): (B, H, W, C), (B,), (B,) -> (B, H, W, out_channels).

    H and W must be divisible by 2^(levels − 1). The embedding of the label is added to that of the
    time. "features" are sown after the middle and after each resolution on the way up.

    Attributes:
      out_channels: channels C of the images and of the prediction.
      block_out_channels: channels at each resolution, finest first.
      layers_per_block: residual blocks at each resolution on the way down; one more on the way up.
      attention_levels: resolutions (0 = finest) whose residual blocks are followed by attention.
      mid_attention: attention between the two residual blocks at the coarsest resolution.
      attention_head_dim: channels per attention head; None for a single head.
      num_groups: groups of every group norm; divides every number in `block_out_channels`.
      norm_eps: ε of every group norm, > 0.
      dropout: dropout rate inside the residual blocks, in [0, 1).
      time_scale_shift: "default" (add the time embedding) or "scale_shift".
      flip_sin_to_cos: see `layers.timestep_embedding`.
      freq_shift: see `layers.timestep_embedding`.
      downsample_padding: 1, or 0 for Ho et al.'s one-sided padding.
      mid_block_scale_factor: divisor of the middle block's residual sums, > 0.
      center_input_sample: map inputs from [0, 1] to [-1, 1] first.
      num_class_embeds: rows of the class embedding; 0 for an unconditional network.
      dtype: compute type.
      param_dtype: storage type of the parameters.
      remat: recompute the activations of a block for its gradients, to save memory.
      attention: an implementation of attention, see `layers.attend`.
    """

    out_channels: int
    block_out_channels: Sequence[int] = (128, 256, 256, 256)
    layers_per_block: int = 2
    attention_levels: Sequence[int] = (1,)
    mid_attention: bool = True
    attention_head_dim: int | None = None
    num_groups: int = 32
    norm_eps: float = 1e-6
    dropout: float = 0.0
    time_scale_shift: str = "default"
    flip_sin_to_cos: bool = False
    freq_shift: float = 1.0
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1.0
    center_input_sample: bool = False
    num_class_embeds: int = 0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "xla"

    def example_cond(self) -> jax.Array | None:
        """Return the condition of one image, (1,) int32, or None; see `network`."""
        return network.label_rows(self)

    @nn.compact
    def __call__(
        self,
        xt: jax.Array,
        t: jax.Array,
        label: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Predict the noise (or v) in noised images.

        Args:
          xt: (B, H, W, C), noised images.
          t: (B,) times in [0, T).
          label: (B,) integers in [0, num_class_embeds); None for an unconditional network.
          deterministic: without dropout; if False, a "dropout" key is needed.

        Returns:
          (B, H, W, out_channels) float32.

        Raises:
          ValueError: if the label is missing, or given to an unconditional network.
        """
        network.check_cond(self, label)
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm: layers.Settings = dict(num_groups=self.num_groups, epsilon=self.norm_eps, **types)
        channels = tuple(self.block_out_channels)
        resnet_block, attention_block = layers.ResnetBlock, layers.AttentionBlock
        if self.remat:
            resnet_block = nn.remat(resnet_block, static_argnums=(3,))
            attention_block = nn.remat(attention_block)

        def resnet(name: str, level: int, x: jax.Array, scale: float) -> jax.Array:
            return resnet_block(
                channels[level],
                dropout=self.dropout,
                time_scale_shift=self.time_scale_shift,
                output_scale_factor=scale,
                name=name,
                **norm,
            )(x, temb, deterministic)

        def attention(name: str, level: int, x: jax.Array, scale: float) -> jax.Array:
            return attention_block(
                head_dim=self.attention_head_dim,
                output_scale_factor=scale,
                attention=self.attention,
                name=name,
                **norm,
            )(x)

        temb = layers.timestep_embedding(
            t, channels[0], flip_sin_to_cos=self.flip_sin_to_cos, freq_shift=self.freq_shift
        )
        temb = layers.TimestepEmbedding(4 * channels[0], name="time_embedding", **types)(
            temb.astype(self.dtype)
        )
        if label is not None:
            embed = nn.Embed(
                self.num_class_embeds,
                4 * channels[0],
                embedding_init=nn.initializers.normal(1.0),  # as diffusers
                name="class_embedding",
                **types,
            )
            temb = temb + embed(label)
        x = 2 * xt - 1 if self.center_input_sample else xt
        x = layers.conv(channels[0], name="conv_in", **types)(x.astype(self.dtype))
        x = u_shape(self, x, resnet, attention, self.mid_attention)
        x = nn.silu(layers.GroupNorm(name="conv_norm_out", **norm)(x))
        x = layers.conv(self.out_channels, name="conv_out", kernel_init=layers.zero_init, **types)(
            x
        )
        return x.astype(jnp.float32)


Block = Callable[[str, int, jax.Array, float], jax.Array]
"""`(name, level, activation, divisor of the residual sum) -> activation`; level 0 is the finest."""


def u_shape(
    net: nn.Module, x: jax.Array, resnet: Block, attention: Block, mid_attention: bool = True
) -> jax.Array:
    """Run the blocks of a U-Net between its first and its last convolution.

    The compact method of `net` calls it. The activations after the middle and after each resolution
    on the way up are sown as "features".

    Args:
      net: a module with the attributes `block_out_channels`, `layers_per_block`,
        `attention_levels`, `downsample_padding`, `mid_block_scale_factor`, `dtype` and
        `param_dtype`, as of `UNet`.
      x: (B, H, W, block_out_channels[0]).
      resnet: makes and calls a residual block.
      attention: makes and calls an attention block.
      mid_attention: whether the middle has attention.

    Returns:
      (B, H, W, block_out_channels[0]).
    """
    channels, types = net.block_out_channels, dict(dtype=net.dtype, param_dtype=net.param_dtype)
    last = len(channels) - 1

    def layer(block: str, index: int, level: int, x: jax.Array) -> jax.Array:
        x = resnet(f"{block}_resnets_{index}", level, x, 1.0)
        if level in net.attention_levels:
            x = attention(f"{block}_attentions_{index}", level, x, 1.0)
        return x

    skips = [x]
    for level, features in enumerate(channels):
        block = f"down_blocks_{level}"
        for index in range(net.layers_per_block):
            x = layer(block, index, level, x)
            skips.append(x)
        if level != last:
            name = f"{block}_downsamplers_0"
            x = layers.Downsample(features, net.downsample_padding, name=name, **types)(x)
            skips.append(x)

    scale = net.mid_block_scale_factor
    x = resnet("mid_block_resnets_0", last, x, scale)
    if mid_attention:
        x = attention("mid_block_attentions_0", last, x, scale)
    x = resnet("mid_block_resnets_1", last, x, scale)
    net.sow("intermediates", "features", x)

    for up, level in enumerate(reversed(range(len(channels)))):
        block = f"up_blocks_{up}"
        for index in range(net.layers_per_block + 1):
            x = layer(block, index, level, jnp.concatenate([x, skips.pop()], axis=-1))
        net.sow("intermediates", "features", x)
        if level != 0:
            x = layers.Upsample(channels[level], name=f"{block}_upsamplers_0", **types)(x)
    return x


def from_settings(settings: Mapping[str, Any], channels: int) -> UNet:
    """Make the network of `config.model`'s settings.

    Args:
      settings: the attributes of `UNet` as a config file writes them: types by name, tuples
        perhaps as lists, and `attention_head_dim = 0` for a single head.
      channels: channels C of the images.
    """
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
    }
    values |= {key: jnp.dtype(values[key]) for key in ("dtype", "param_dtype")}
    values["attention_head_dim"] = values["attention_head_dim"] or None
    return UNet(channels, **values)


def check(c: Any, image_size: int) -> None:
    """Check the settings of `config.model`; see `network.Architecture`.

    Args:
      c: a `vdu_jax.config.Check` of the config.
      image_size: side of the square images in pixels.

    Raises:
      UserError: for a setting that cannot work; it names the key.
    """
    model = c.config.model
    levels = len(model.block_out_channels)
    c.increasing_ints("model.block_out_channels", 1)
    c.require("model.block_out_channels", lambda v: levels > 0, "must name at least one resolution")
    c.require("model.layers_per_block", lambda v: 1 <= v <= 100, "must lie in 1..100")
    c.positive("model.num_groups", "model.norm_eps")
    c.positive("model.mid_block_scale_factor")
    c.require(
        "model.num_groups",
        lambda v: all(ch % v == 0 for ch in model.block_out_channels),
        "must divide every number in model.block_out_channels",
    )
    c.increasing_ints("model.attention_levels", 0, levels - 1)
    c.not_negative("model.attention_head_dim")
    attending = {model.block_out_channels[level] for level in model.attention_levels}
    if model.mid_attention:
        attending.add(model.block_out_channels[-1])
    c.require(
        "model.attention_head_dim",
        lambda v: v == 0 or all(channels % v == 0 for channels in attending),
        "must divide model.block_out_channels wherever there is attention",
    )
    c.require(
        "model.freq_shift",
        lambda v: v < model.block_out_channels[0] // 2,
        "must be less than half of the first number in model.block_out_channels",
    )
    c.one_of("model.time_scale_shift", ("default", "scale_shift"))
    c.one_of("model.downsample_padding", (0, 1))
    c.require(
        "model.block_out_channels",
        lambda v: image_size % 2 ** (levels - 1) == 0,
        f"{levels} resolutions need an image size divisible by {2 ** (levels - 1)}, not "
        f"{image_size}",
    )


ARCHITECTURE = network.Architecture(
    settings={
        "block_out_channels": (128, 256, 256, 256),  # channels at each resolution
        "layers_per_block": 2,  # residual blocks at each resolution
        "attention_levels": (1,),  # resolutions with self-attention, 0 being the highest
        "mid_attention": True,  # self-attention at the lowest resolution, in the middle block
        "attention_head_dim": 0,  # channels of an attention head; 0 for one head
        "num_groups": 32,  # groups of every group norm
        "norm_eps": 1e-6,  # ε of every group norm
        "time_scale_shift": "default",  # "default" adds the time embedding; or "scale_shift"
        "flip_sin_to_cos": False,  # cosines before sines in the time embedding
        "freq_shift": 1.0,  # shift of the time embedding's frequencies, as in diffusers
        "downsample_padding": 1,  # padding of strided convolutions; 0 as in Ho et al. 2020
        "mid_block_scale_factor": 1.0,  # divides the middle block's residual sums
        "center_input_sample": False,  # map inputs from [0, 1] to [-1, 1] first
        **network.SHARED,
    },
    make=from_settings,
    check=check,
)
