"""The variational autoencoder of latents (Rombach et al. 2022, arXiv 2112.10752, sec. 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.models import layers
from vdu_jax.types import Params


class Latents(NamedTuple):
    """A diagonal Gaussian over latents.

    Attributes:
      mean: (B, h, w, latent channels).
      log_variance: (B, h, w, latent channels).
    """

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw latents (B, h, w, latent channels), one for each image."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


class _Blocks(nn.Module):
    """The blocks that encoder and decoder share."""

    channels: int
    block_out_channels: Sequence[int]
    layers_per_block: int
    num_groups: int
    mid_attention: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @property
    def types(self) -> dict:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def norm(self) -> dict:
        return dict(num_groups=self.num_groups, epsilon=1e-6, **self.types)

    def resnet(self, name: str, features: int, x: jax.Array) -> jax.Array:
        return layers.ResnetBlock(features, name=name, **self.norm)(x, None)

    def middle(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        x = self.resnet("mid_block_resnets_0", features, x)
        if self.mid_attention:
            x = layers.AttentionBlock(name="mid_block_attentions_0", **self.norm)(x)
        return self.resnet("mid_block_resnets_1", features, x)

    def output(self, x: jax.Array, features: int) -> jax.Array:
        x = nn.silu(layers.GroupNorm(name="conv_norm_out", **self.norm)(x))
        return layers.conv(features, name="conv_out", **self.types)(x)


class Encoder(_Blocks):
    """Encoder: (B, H, W, image channels) -> (B, h, w, channels), h = H / 2^(levels − 1)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        widths = self.block_out_channels
        x = layers.conv(widths[0], name="conv_in", **self.types)(x)
        for level, features in enumerate(widths):
            block = f"down_blocks_{level}"
            for layer in range(self.layers_per_block):
                x = self.resnet(f"{block}_resnets_{layer}", features, x)
            if level != len(widths) - 1:
                name = f"{block}_downsamplers_0"
                x = layers.Downsample(features, padding=0, name=name, **self.types)(x)
        return self.output(self.middle(x), self.channels)


class Decoder(_Blocks):
    """Decoder: (B, h, w, latent channels) -> (B, H, W, channels), H = 2^(levels − 1) h."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        widths = tuple(reversed(self.block_out_channels))
        x = self.middle(layers.conv(widths[0], name="conv_in", **self.types)(z))
        for level, features in enumerate(widths):
            block = f"up_blocks_{level}"
            for layer in range(self.layers_per_block + 1):
                x = self.resnet(f"{block}_resnets_{layer}", features, x)
            if level != len(widths) - 1:
                x = layers.Upsample(features, name=f"{block}_upsamplers_0", **self.types)(x)
        return self.output(x, self.channels)


class AutoencoderKL(nn.Module):
    """Encode images to a Gaussian over latents, and decode latents to images.

    H and W must be divisible by 2^(levels − 1).

    Attributes:
      channels: channels of the images.
      latent_channels: channels of the latents.
      block_out_channels: channels at each resolution of the encoder, finest first.
      layers_per_block: residual blocks at each resolution of the encoder; one more in the decoder.
      num_groups: groups of every group norm; divides every number in `block_out_channels`.
      mid_attention: attention between the two residual blocks at the coarsest resolution.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    channels: int = 3
    latent_channels: int = 4
    block_out_channels: Sequence[int] = (128, 256, 512, 512)
    layers_per_block: int = 2
    num_groups: int = 32
    mid_attention: bool = True
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        shared: layers.Settings = dict(
            block_out_channels=self.block_out_channels,
            layers_per_block=self.layers_per_block,
            num_groups=self.num_groups,
            mid_attention=self.mid_attention,
            **types,
        )
        self.encoder = Encoder(2 * self.latent_channels, **shared)
        self.decoder = Decoder(self.channels, **shared)
        self.quant_conv = layers.conv(2 * self.latent_channels, 1, **types)
        self.post_quant_conv = layers.conv(self.latent_channels, 1, **types)

    def encode(self, images: jax.Array) -> Latents:
        """Encode images (B, H, W, C) in [-1, 1] to a Gaussian over unscaled latents."""
        moments = self.quant_conv(self.encoder(images.astype(self.dtype))).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Latents(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decode unscaled latents (B, h, w, latent channels) to unclipped images (B, H, W, C)."""
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype))).astype(jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstruct images (B, H, W, C) from their mean latents."""
        return self.decode(self.encode(images).mean)


def init_params(net: AutoencoderKL, key: jax.Array) -> Params:
    """Initialise the parameters of an autoencoder. Usable under `jit` and `eval_shape`."""
    side = 2 ** (len(net.block_out_channels) - 1)
    return net.init(key, jnp.zeros((1, side, side, net.channels)))["params"]
