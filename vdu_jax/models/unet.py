"""The DDPM U-Net as a linen module, and the `ScoreFn` closed over it.

Structure and names follow the `UNet2DModel` of Hugging Face diffusers, so that its weights map
one to one; the network of Ho et al. 2020 (arXiv 2006.11239) is one setting of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.models import layers
from vdu_jax.types import Params, ScoreFn


class UNet(nn.Module):
    """Noise predictor ε_θ(x_t, t): (B, H, W, C), (B,) -> (B, H, W, out_channels).

    H and W must be divisible by 2^(levels − 1).

    Attributes:
      out_channels: channels of the predicted noise.
      block_out_channels: channels at each resolution, finest first.
      layers_per_block: residual blocks at each resolution on the way down (one more on the way up).
      attention_levels: resolutions (0 = finest) whose residual blocks are followed by attention.
      mid_attention: attention between the two residual blocks at the coarsest resolution.
      attention_head_dim: channels per attention head; `None` for a single head.
      num_groups, norm_eps: of every group norm.
      dropout: rate inside the residual blocks, active only with a `dropout` key.
      time_scale_shift: "default" (add the time embedding) or "scale_shift".
      flip_sin_to_cos, freq_shift: of `layers.timestep_embedding`.
      downsample_padding: 1, or 0 for Ho et al.'s one-sided padding.
      mid_block_scale_factor: the middle block's residual sums are divided by it.
      center_input_sample: map inputs in [0, 1] to [-1, 1] first.
      dtype: compute type. param_dtype: storage type of the parameters.
      remat: forget what a block computes and compute it again for its gradients, to save memory.
      attention: an implementation of `layers.attend`.
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
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    remat: bool = False
    attention: str = "xla"

    @nn.compact
    def __call__(self, xt: jax.Array, t: jax.Array, *, deterministic: bool = True) -> jax.Array:
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm = dict(num_groups=self.num_groups, epsilon=self.norm_eps, **types)
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
        x = 2 * xt - 1 if self.center_input_sample else xt
        x = layers.conv(channels[0], name="conv_in", **types)(x.astype(self.dtype))
        x = u_shape(self, x, resnet, attention, self.mid_attention)
        x = nn.silu(layers.GroupNorm(name="conv_norm_out", **norm)(x))
        x = layers.conv(self.out_channels, name="conv_out", kernel_init=layers.zero_init, **types)(
            x
        )
        return x.astype(jnp.float32)


Block = Callable[[str, int, jax.Array, float], jax.Array]
"""(name, resolution, activation, what the residual sum is divided by) -> activation."""


def u_shape(
    net: nn.Module, x: jax.Array, resnet: Block, attention: Block, mid_attention: bool = True
) -> jax.Array:
    """The way down and up of a U-Net, between its first and its last convolution.

    Called by the compact method of `net`, whose attributes it takes: `block_out_channels`,
    `layers_per_block`, `attention_levels`, `downsample_padding`, `mid_block_scale_factor`, and the
    types. What comes out of the middle and of each resolution on the way up is sown as the
    intermediates "mid" and "up".

    Args:
      x: (B, H, W, block_out_channels[0]).
      resnet, attention: the blocks, made under their names where they have their place.
      mid_attention: whether there is attention in the middle.
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
    net.sow("intermediates", "mid", x)

    for up, level in enumerate(reversed(range(len(channels)))):
        block = f"up_blocks_{up}"
        for index in range(net.layers_per_block + 1):
            x = layer(block, index, level, jnp.concatenate([x, skips.pop()], axis=-1))
        net.sow("intermediates", "up", x)
        if level != 0:
            x = layers.Upsample(channels[level], name=f"{block}_upsamplers_0", **types)(x)
    return x


def from_settings(settings: Mapping[str, Any], channels: int) -> UNet:
    """The network of `config.model`'s settings, for images of `channels` channels.

    They are `UNet`'s attributes as a config file writes them: types by name, tuples perhaps as
    lists, and `attention_head_dim = 0` for a single head.
    """
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    values |= {key: jnp.dtype(values[key]) for key in ("dtype", "param_dtype")}
    values["attention_head_dim"] = values["attention_head_dim"] or None
    return UNet(channels, **values)


def init_params(net: UNet, key: jax.Array, image_shape: tuple[int, int, int]) -> Params:
    """Fresh parameters for images (H, W, C). jit- and `eval_shape`-compatible."""
    xt = jnp.zeros((1, *image_shape), jnp.float32)
    return net.init(key, xt, jnp.zeros((1,), jnp.int32))["params"]


def make_score_fn(net: UNet) -> ScoreFn:
    """The pure `ScoreFn` of an unconditional network; see `vdu_jax.types.ScoreFn`."""

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        del cond
        if dropout_key is None:
            return net.apply({"params": params}, xt, t)

        # Each image by its own key: its masks do not depend on the batch that it is part of.
        def one(x, t, key):
            rngs = {"dropout": key}
            found = net.apply({"params": params}, x[None], t[None], deterministic=False, rngs=rngs)
            return found[0]

        return jax.vmap(one)(xt, t, dropout_key)

    return score_fn


def make_feature_fn(net: UNet) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """`feature_fn(params, xt, t) -> (B, F)`: the network's own description of an image.

    The activations after the middle block and after each resolution of the way up, averaged over
    space and concatenated. Denoising networks learn linearly separable features of this kind
    (Baranchuk et al. 2022, arXiv 2112.03126; Xiang et al. 2023, arXiv 2303.09769).
    """

    def feature_fn(params, xt, t):
        _, state = net.apply({"params": params}, xt, t, mutable=["intermediates"])
        kept = state["intermediates"]
        maps = [*kept["mid"], *kept["up"]]
        return jnp.concatenate([m.astype(jnp.float32).mean((1, 2)) for m in maps], axis=-1)

    return feature_fn
