"""The diffusion transformer (DiT), unconditional or class-conditional.

Peebles and Xie 2023 (arXiv 2212.09748) with adaLN-Zero, without a learned variance. Parameters have
the names of diffusers' `DiTTransformer2DModel`, with one difference: diffusers keeps a copy of the
time and class embeddings in every block; here, as in the paper's code, there is one.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.models import layers, network

FREQUENCIES = 256  # size of the sinusoidal time embedding
EPSILON = 1e-6  # ε of every layer norm
small_init = nn.initializers.normal(0.02)
# Xavier's bound of one matrix (D, 3 D): the paper's code draws queries, keys and values as one.
qkv_init = layers.variance_scaling(0.5, "fan_avg", "uniform")


def patch_init(key: jax.Array, shape: tuple[int, ...], dtype: layers.Dtype) -> jax.Array:
    """Initialise the kernel (h, w, C, D) of a patch embedding.

    The bound is Xavier's for the matrix (h w C, D), as in the paper's code, not a convolution's.
    """
    return layers.default_init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


def position_embedding(rows: int, columns: int, dim: int) -> np.ndarray:
    """Fixed sine-cosine embedding of the patches' positions.

    The first half of an embedding describes the column, the second the row, each by dim/4 sines and
    dim/4 cosines of the frequencies 10000^(-i / (dim/4)).

    Args:
      rows: rows of the grid of patches.
      columns: columns of the grid of patches.
      dim: size of the embedding, a multiple of 4.

    Returns:
      (rows · columns, dim) float32, row by row.

    Raises:
      ValueError: if `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a position embedding of size {dim}: the size must be a multiple of 4")
    frequencies = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))

    def embed(places: np.ndarray) -> np.ndarray:
        angles = places.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    row, column = np.mgrid[:rows, :columns]
    return np.concatenate([embed(column), embed(row)], axis=-1).astype(np.float32)


def unpatchify(tokens: jax.Array, rows: int, columns: int, patch: int) -> jax.Array:
    """Assemble images from their patches.

    Args:
      tokens: (B, rows · columns, patch² · C). Patches are in row-major order, and so are the pixels
        of a patch; the channels of a pixel are adjacent.
      rows: rows of the grid of patches.
      columns: columns of the grid of patches.
      patch: side of a patch in pixels.

    Returns:
      (B, H, W, C) with H = rows · patch and W = columns · patch.
    """
    images = tokens.reshape(len(tokens), rows, columns, patch, patch, -1)
    images = images.transpose(0, 1, 3, 2, 4, 5)
    return images.reshape(len(tokens), rows * patch, columns * patch, -1)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Scale and shift tokens: x (1 + scale) + shift, for x (B, N, D), shift and scale (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class PatchEmbed(nn.Module):
    """A linear map of each patch, plus its position embedding: (B, H, W, C) -> (B, N, features).

    Attributes:
      patch: side of a patch in pixels; divides H and W.
      features: size of a token, a multiple of 4.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    patch: int
    features: int
    dtype: layers.Dtype = jnp.float32
    param_dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height} x {width} pixels: both sides must be divisible by the patch "
                f"size {self.patch}"
            )
        x = layers.conv(
            self.features,
            self.patch,
            stride=self.patch,
            padding=[(0, 0)] * 2,
            kernel_init=patch_init,
            name="proj",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(x)
        batch, rows, columns, _ = x.shape
        places = position_embedding(rows, columns, self.features)
        return x.reshape(batch, rows * columns, self.features) + places.astype(self.dtype)


class Attention(nn.Module):
    """Self-attention between all tokens: (B, N, D) -> (B, N, D).

    Attributes:
      num_heads: attention heads; divides D.
      attention: an implementation of attention, see `layers.attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_heads: int
    attention: str = "xla"
    dtype: layers.Dtype = jnp.float32
    param_dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        batch, tokens, features = x.shape

        def project(name: str) -> jax.Array:
            out = nn.Dense(features, name=name, kernel_init=qkv_init, **types)(x)
            return out.reshape(batch, tokens, self.num_heads, features // self.num_heads)

        x = layers.attend(project("to_q"), project("to_k"), project("to_v"), self.attention)
        x = x.reshape(batch, tokens, features)
        return nn.Dense(features, name="to_out", kernel_init=layers.default_init, **types)(x)


def layer_norm(dtype: layers.Dtype) -> nn.LayerNorm:
    """Make a layer norm without scale and bias, which come from the conditioning.

    Args:
      dtype: compute type; the statistics are always in float32.
    """
    return nn.LayerNorm(EPSILON, dtype, use_bias=False, use_scale=False, use_fast_variance=False)


class AdaLayerNormZero(nn.Module):
    """Layer norm modulated by the conditioning (adaLN-Zero).

    (B, N, D), (B, D) -> the modulated tokens (B, N, D) that enter the attention, its gate (B, D),
    and the shift, scale and gate of the perceptron, each (B, D). The vectors are 0 at
    initialisation.

    Attributes:
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    dtype: layers.Dtype = jnp.float32
    param_dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, conditioning: jax.Array) -> tuple[jax.Array, ...]:
        vectors = nn.Dense(
            6 * x.shape[-1],
            kernel_init=layers.zero_init,
            name="linear",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(nn.silu(conditioning))
        shift, scale, *others = jnp.split(vectors, 6, axis=-1)
        return modulate(layer_norm(self.dtype)(x), shift, scale), *others


class Block(nn.Module):
    """A transformer block with adaLN-Zero: (B, N, D), (B, D) -> (B, N, D).

    The conditioning shifts and scales the inputs of attention and perceptron, and gates their
    outputs. The gates are 0 at initialisation, where the block is the identity. Dropout acts before
    the gates.

    Attributes:
      num_heads: attention heads; divides D.
      mlp_ratio: width of the perceptron's inner layer, as a multiple of D.
      dropout: dropout rate, in [0, 1).
      attention: an implementation of attention, see `layers.attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    attention: str = "xla"
    dtype: layers.Dtype = jnp.float32
    param_dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, conditioning: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense: layers.Settings = dict(kernel_init=layers.default_init, **types)
        features = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=deterministic)

        h, gate, *second = AdaLayerNormZero(name="norm1", **types)(x, conditioning)
        h = Attention(self.num_heads, self.attention, name="attn1", **types)(h)
        x = x + gate[:, None] * drop(h)

        shift, scale, gate = second
        h = modulate(layer_norm(self.dtype)(x), shift, scale)
        h = nn.Dense(int(features * self.mlp_ratio), name="ff_net_0_proj", **dense)(h)
        h = nn.Dense(features, name="ff_net_2", **dense)(nn.gelu(h, approximate=True))
        return x + gate[:, None] * drop(h)


class DiT(nn.Module):
    """The transformer ε_θ(x_t, t, label): (B, H, W, C), (B,), (B,) -> (B, H, W, out_channels).

    H and W must be divisible by `patch_size`. The embedding of the label is added to that of the
    time.

    The tokens (B, N, hidden_size) after half of the blocks and after all blocks are sown as
    "features". Features from the middle of a denoising network separate classes best (Xiang et al.
    2023, arXiv 2303.09769); the last layer computes the prediction from the final tokens alone.

    Attributes:
      out_channels: channels C of the images and of the prediction.
      patch_size: side of a patch in pixels; a token is a patch.
      hidden_size: size of a token, a multiple of 4 and of `num_heads`.
      depth: number of transformer blocks.
      num_heads: attention heads of a block.
      mlp_ratio: width of a perceptron's inner layer, as a multiple of `hidden_size`.
      dropout: dropout rate at the end of attention and perceptron, in [0, 1).
      num_class_embeds: rows of the class embedding; 0 for an unconditional network.
      dtype: compute type.
      param_dtype: storage type of the parameters.
      remat: recompute the activations of a block for its gradients, to save memory.
      attention: an implementation of attention, see `layers.attend`.
    """

    out_channels: int
    patch_size: int = 2
    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    dropout: float = 0.0
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
        zero: layers.Settings = dict(kernel_init=layers.zero_init, **types)
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block

        conditioning = self.embed_condition(t, label)
        x = PatchEmbed(self.patch_size, self.hidden_size, name="pos_embed", **types)(
            xt.astype(self.dtype)
        )
        for index in range(self.depth):
            x = block(
                self.num_heads,
                self.mlp_ratio,
                self.dropout,
                self.attention,
                name=f"transformer_blocks_{index}",
                **types,
            )(x, conditioning, deterministic)
            if index + 1 in ((self.depth + 1) // 2, self.depth):
                self.sow("intermediates", "features", x)

        modulations = nn.Dense(2 * self.hidden_size, name="proj_out_1", **zero)(
            nn.silu(conditioning)
        )
        x = modulate(layer_norm(self.dtype)(x), *jnp.split(modulations, 2, axis=-1))
        x = nn.Dense(self.patch_size**2 * self.out_channels, name="proj_out_2", **zero)(x)
        rows, columns = (size // self.patch_size for size in xt.shape[1:3])
        return unpatchify(x, rows, columns, self.patch_size).astype(jnp.float32)

    def embed_condition(self, t: jax.Array, label: jax.Array | None) -> jax.Array:
        """Embed the time and, if there is one, the label.

        Args:
          t: (B,) times in [0, T).
          label: (B,) integers in [0, num_class_embeds), or None.

        Returns:
          The sum of the embeddings, (B, hidden_size).
        """
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        sinusoidal = layers.timestep_embedding(t, FREQUENCIES, flip_sin_to_cos=True, freq_shift=0.0)
        embedding = layers.TimestepEmbedding(
            self.hidden_size, kernel_init=small_init, name="time_embedding", **types
        )(sinusoidal.astype(self.dtype))
        if label is None:
            return embedding
        table = nn.Embed(
            self.num_class_embeds,
            self.hidden_size,
            embedding_init=small_init,
            name="class_embedding",
            **types,
        )
        return embedding + table(label)


def from_settings(settings: Mapping[str, Any], channels: int) -> DiT:
    """Make the network of `config.model`'s settings.

    Args:
      settings: the attributes of `DiT` as a config file writes them: types by name.
      channels: channels C of the images.
    """
    types = {key: jnp.dtype(settings[key]) for key in ("dtype", "param_dtype")}
    return DiT(channels, **{**settings, **types})


def check(c: Any, image_size: int) -> None:
    """Check the settings of `config.model`; see `network.Architecture`.

    Args:
      c: a `vdu_jax.config.Check` of the config.
      image_size: side of the square images in pixels.

    Raises:
      UserError: for a setting that cannot work; it names the key.
    """
    model = c.config.model
    c.positive("model.patch_size", "model.num_heads", "model.mlp_ratio")
    c.require("model.depth", lambda v: 1 <= v <= 1000, "must lie in 1..1000")
    c.require(
        "model.patch_size",
        lambda v: image_size % v == 0,
        f"must divide the image size, {image_size}",
    )
    c.require(
        "model.hidden_size",
        lambda v: v > 0 and v % 4 == 0,
        "must be a positive multiple of 4 (sines and cosines of rows and columns)",
    )
    c.require(
        "model.num_heads",
        lambda v: model.hidden_size % v == 0,
        f"must divide model.hidden_size = {model.hidden_size}",
    )
    c.require(
        "model.mlp_ratio",
        lambda v: v * model.hidden_size >= 1,
        f"must be at least 1 / model.hidden_size = 1 / {model.hidden_size}",
    )


ARCHITECTURE = network.Architecture(
    settings={  # DiT-S/2
        "patch_size": 2,  # pixels a side of a patch
        "hidden_size": 384,  # width of a token
        "depth": 12,  # transformer blocks
        "num_heads": 6,  # attention heads
        "mlp_ratio": 4.0,  # width of the MLP over hidden_size
        **network.SHARED,
    },
    make=from_settings,
    check=check,
)
