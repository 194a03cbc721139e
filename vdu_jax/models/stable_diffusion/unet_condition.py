"""The text-conditional U-Net of latents (Rombach et al. 2022, arXiv 2112.10752)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.models import layers, unet


class CrossAttention(nn.Module):
    """Attention of x (B, N, C) to `context` (B, L, D), or to x itself: -> (B, N, C).

    Attributes:
      num_heads: attention heads; divides C.
      attention: an implementation of attention, see `layers.attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_heads: int
    attention: str
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        width = x.shape[-1]

        def project(name: str, source: jax.Array) -> jax.Array:
            out = nn.Dense(width, use_bias=False, name=name, **types)(source)
            return out.reshape(*source.shape[:2], self.num_heads, -1)

        context = x if context is None else context
        h = layers.attend(
            project("to_q", x), project("to_k", context), project("to_v", context), self.attention
        )
        return nn.Dense(width, name="to_out", **types)(h.reshape(x.shape))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text and a gated perceptron, each with a residual sum.

    x (B, N, C), text (B, L, D) -> (B, N, C).

    Attributes:
      num_heads: attention heads; divides C.
      attention: an implementation of attention, see `layers.attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_heads: int
    attention: str
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def norm(name: str) -> jax.Array:
            return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name, **types)(x)

        heads = self.num_heads, self.attention
        x = x + CrossAttention(*heads, name="attn1", **types)(norm("norm1"))
        x = x + CrossAttention(*heads, name="attn2", **types)(norm("norm2"), text)
        width = x.shape[-1]
        h = nn.Dense(8 * width, name="ff_net_0_proj", **types)(norm("norm3"))
        h, gate = jnp.split(h, 2, axis=-1)
        h = h * nn.gelu(gate, approximate=False)
        return x + nn.Dense(width, name="ff_net_2", **types)(h)


class SpatialTransformer(nn.Module):
    """Transformer blocks over all pixels, with a residual connection.

    x (B, H, W, C), text (B, L, D) -> (B, H, W, C).

    Attributes:
      num_heads: attention heads; divides C.
      num_layers: number of transformer blocks.
      num_groups: groups of the group norm; divides C.
      linear_projection: project into and out of the blocks by dense layers (Stable Diffusion 2)
        instead of 1×1 convolutions (Stable Diffusion 1). Both compute the same function.
      attention: an implementation of attention, see `layers.attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_heads: int
    num_layers: int = 1
    num_groups: int = 32
    linear_projection: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        batch, height, width, channels = x.shape

        def project(name: str, h: jax.Array) -> jax.Array:
            if self.linear_projection:
                return nn.Dense(channels, name=name, **types)(h)
            return layers.conv(channels, 1, name=name, **types)(h)

        h = layers.GroupNorm(self.num_groups, 1e-6, name="norm", **types)(x)
        h = project("proj_in", h).reshape(batch, height * width, channels)
        for index in range(self.num_layers):
            name = f"transformer_blocks_{index}"
            h = TransformerBlock(self.num_heads, self.attention, name=name, **types)(h, text)
        return x + project("proj_out", h.reshape(x.shape))


class UNetCondition(nn.Module):
    """The conditional U-Net: latents (B, h, w, C), t (B,), text (B, L, D) -> ε or v (B, h, w, C).

    h and w must be divisible by 2^(levels − 1).

    Attributes:
      out_channels: C, channels of the latents.
      text_width: D, the size of a text embedding.
      block_out_channels: channels at each resolution, finest first.
      layers_per_block: residual blocks at each resolution on the way down; one more on the way up.
      attention_levels: resolutions (0 = finest) whose residual blocks are followed by transformers.
      num_heads: attention heads at each resolution; the middle has those of the last.
      transformer_layers: number of blocks in each transformer.
      linear_projection: see `SpatialTransformer`.
      num_groups: groups of every group norm; divides every number in `block_out_channels`.
      norm_eps: ε of the residual blocks' group norms, > 0.
      flip_sin_to_cos: see `layers.timestep_embedding`.
      freq_shift: see `layers.timestep_embedding`.
      downsample_padding: as for `unet.UNet`.
      mid_block_scale_factor: as for `unet.UNet`, for the residual blocks.
      attention: an implementation of attention, see `layers.attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
      remat: recompute the activations of a block for its gradients, to save memory.
    """

    out_channels: int = 4
    text_width: int = 768
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: Sequence[int] = (0, 1, 2)
    num_heads: Sequence[int] = (8, 8, 8, 8)
    transformer_layers: int = 1
    linear_projection: bool = False
    num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1.0
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def example_cond(self) -> jax.Array:
        """Return the condition of one image, a text of one token (1, 1, D); see `network`."""
        return jnp.zeros((1, 1, self.text_width))

    @nn.compact
    def __call__(self, xt: jax.Array, t: jax.Array, text: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm: layers.Settings = dict(num_groups=self.num_groups, epsilon=self.norm_eps, **types)
        channels = tuple(self.block_out_channels)
        resnet_block, transformer = layers.ResnetBlock, SpatialTransformer
        if self.remat:
            resnet_block, transformer = nn.remat(resnet_block), nn.remat(transformer)
        text = text.astype(self.dtype)

        def resnet(name: str, level: int, x: jax.Array, scale: float) -> jax.Array:
            block = resnet_block(channels[level], output_scale_factor=scale, name=name, **norm)
            return block(x, temb)

        def attention(name: str, level: int, x: jax.Array, scale: float) -> jax.Array:
            del scale  # diffusers never divides the residual sums of transformers
            return transformer(
                self.num_heads[level],
                self.transformer_layers,
                self.num_groups,
                self.linear_projection,
                self.attention,
                name=name,
                **types,
            )(x, text)

        temb = layers.timestep_embedding(
            t, channels[0], flip_sin_to_cos=self.flip_sin_to_cos, freq_shift=self.freq_shift
        )
        temb = layers.TimestepEmbedding(4 * channels[0], name="time_embedding", **types)(
            temb.astype(self.dtype)
        )
        x = layers.conv(channels[0], name="conv_in", **types)(xt.astype(self.dtype))
        x = unet.u_shape(self, x, resnet, attention)
        x = nn.silu(layers.GroupNorm(name="conv_norm_out", **norm)(x))
        return layers.conv(self.out_channels, name="conv_out", **types)(x).astype(jnp.float32)
