"""Layers shared by the networks.

Images are (B, H, W, C). Every layer computes in `dtype` and stores its parameters in
`param_dtype`; normalisation statistics and softmax are always taken in float32.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = jnp.dtype

Settings = dict[str, Any]
"""Keyword arguments of a linen module."""

variance_scaling = nn.initializers.variance_scaling
default_init = variance_scaling(1.0, "fan_avg", "uniform")
# Ho et al. initialise the last layer of each block (almost) at zero, so that each block starts as
# the identity.
zero_init = nn.initializers.zeros_init()


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494): (B, …, C) -> (B, …, C).

    The parameters `scale` and `bias`, each (C,), are those of `flax.linen.GroupNorm`. The reduction
    has two steps, over space per channel and then over the channels of a group: on a CPU that is
    several times faster than one reduction over a 5-dimensional view.

    Attributes:
      num_groups: groups; divides C.
      epsilon: added to the variance, > 0.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(f"{channels} channels are not divisible into {self.num_groups} groups")
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), self.param_dtype)
        x32 = x.astype(jnp.float32)
        space = tuple(range(1, x.ndim - 1))

        def group_mean(per_channel: jax.Array) -> jax.Array:  # (B, C) -> (B, C)
            grouped = per_channel.reshape(len(per_channel), self.num_groups, -1).mean(-1)
            return jnp.repeat(grouped, channels // self.num_groups, axis=-1)

        mean = group_mean(x32.mean(space))
        centred = x32 - jnp.expand_dims(mean, space)
        # E[x²] − E[x]² would lose digits in float32, hence the centred values.
        variance = group_mean(jnp.square(centred).mean(space))
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale.astype(jnp.float32)
        return (centred * jnp.expand_dims(factor, space) + bias.astype(jnp.float32)).astype(
            self.dtype
        )


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **settings: Any,
) -> jax.Array:
    """Convolve as `lax.conv_general_dilated`, for `flax.linen.Conv`.

    If the output has fewer pixels than the kernel, XLA exchanges image and kernel, which takes a
    CPU over ten times as long. Such a convolution is one product over gathered patches instead.

    Args:
      x: (B, H, W, C).
      kernel: (h, w, C, K).
      strides: (2,) strides in pixels.
      padding: (2,) pairs, the zeros before and after each axis.
      **settings: further arguments of `lax.conv_general_dilated`.

    Returns:
      (B, H', W', K).
    """
    rows, columns, channels, features = kernel.shape
    across = [(0, 0), *padding, (0, 0)]
    height, width = (
        (size + sum(pads) - k) // stride + 1
        for size, pads, k, stride in zip(
            x.shape[1:3], padding, (rows, columns), strides, strict=True
        )
    )
    if height * width >= rows * columns:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    x = jnp.pad(x, across)
    down, right = (
        slice(None, s * (n - 1) + 1, s) for s, n in zip(strides, (height, width), strict=True)
    )
    shifted = [x[:, i:, j:][:, down, right] for i in range(rows) for j in range(columns)]
    patches = jnp.concatenate(shifted, axis=-1)
    return jnp.dot(
        patches,
        kernel.reshape(rows * columns * channels, features),
        precision=settings.get("precision"),
    )


def conv(
    features: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: Sequence[tuple[int, int]] | None = None,
    **kwargs: Any,
) -> nn.Conv:
    """Make a square convolution with PyTorch's symmetric zero padding.

    Args:
      features: channels of the output.
      kernel: side of the kernel in pixels.
      stride: stride of both axes.
      padding: zeros before and after each axis; None for ⌊kernel/2⌋ everywhere.
      **kwargs: further arguments of `flax.linen.Conv`.
    """
    if padding is None:
        padding = [(kernel // 2, kernel // 2)] * 2
    kwargs.setdefault("kernel_init", default_init)
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=padding,
        conv_general_dilated=convolve,
        **kwargs,
    )


def timestep_embedding(
    t: jax.Array, dim: int, *, flip_sin_to_cos: bool = False, freq_shift: float = 1.0
) -> jax.Array:
    """Sinusoidal embedding of the time step (Ho et al. 2020, after Vaswani et al. 2017).

    Args:
      t: (B,) times in [0, T), in units of training steps.
      dim: size of the embedding.
      flip_sin_to_cos: put the cosines first.
      freq_shift: less than dim/2; the frequencies are 10000^(-i / (dim/2 - freq_shift)).

    Returns:
      (B, dim) float32.

    Raises:
      ValueError: if dim/2 is not above freq_shift.
    """
    half = dim // 2
    if half <= freq_shift:
        raise ValueError(
            f"freq_shift = {freq_shift}: must be < {half} for a time embedding of size {dim}"
        )
    exponent = -math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = t.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class TimestepEmbedding(nn.Module):
    """Two dense layers on the sinusoidal embedding: (B, dim) -> (B, features).

    Attributes:
      features: size of the output and of the inner layer.
      dtype: compute type.
      param_dtype: storage type of the parameters.
      kernel_init: initialiser of both kernels.
    """

    features: int
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = default_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kwargs: Settings = dict(
            dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=self.kernel_init
        )
        x = nn.Dense(self.features, name="linear_1", **kwargs)(x)
        return nn.Dense(self.features, name="linear_2", **kwargs)(nn.silu(x))


class ResnetBlock(nn.Module):
    """Residual block: (B, H, W, C), time embedding (B, D) or None -> (B, H, W, features).

    Ho et al. 2020, appendix B. The time embedding acts between the two convolutions.

    Attributes:
      features: channels of the output.
      num_groups: groups of the group norms; divides C and `features`.
      epsilon: ε of the group norms, > 0.
      dropout: dropout rate before the second convolution, in [0, 1).
      time_scale_shift: "default" adds the embedding; "scale_shift" scales and shifts by it (Nichol
        and Dhariwal 2021, arXiv 2102.09672).
      output_scale_factor: divisor of the residual sum, > 0.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    features: int
    num_groups: int = 32
    epsilon: float = 1e-6
    dropout: float = 0.0
    time_scale_shift: str = "default"
    output_scale_factor: float = 1.0
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, temb: jax.Array | None, deterministic: bool = True
    ) -> jax.Array:
        types: Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm: Settings = dict(num_groups=self.num_groups, epsilon=self.epsilon, **types)
        h = nn.silu(GroupNorm(name="norm1", **norm)(x))
        h = conv(self.features, name="conv1", **types)(h)
        scale_shift = self.time_scale_shift == "scale_shift"
        if temb is not None:
            temb = nn.Dense(
                self.features * (2 if scale_shift else 1),
                name="time_emb_proj",
                kernel_init=default_init,
                **types,
            )(nn.silu(temb))[:, None, None, :]
            if not scale_shift:
                h = h + temb
        h = GroupNorm(name="norm2", **norm)(h)
        if scale_shift and temb is not None:
            scale, shift = jnp.split(temb, 2, axis=-1)
            h = h * (1 + scale) + shift
        h = nn.Dropout(self.dropout)(nn.silu(h), deterministic=deterministic)
        h = conv(self.features, name="conv2", kernel_init=zero_init, **types)(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, name="conv_shortcut", **types)(x)
        return (x + h) / self.output_scale_factor


ATTENTIONS = ("xla", "cudnn")
# The largest head that cuDNN's fused kernel takes on every GPU that has it.
_CUDNN_HEAD_DIM = 128


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, implementation: str = "xla"
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), softmax in float32.

    Args:
      query: (B, N, heads, C).
      key: (B, L, heads, C).
      value: (B, L, heads, C).
      implementation: "xla", which holds all B × heads × N × L weights in memory, or "cudnn", a
        fused kernel on NVIDIA GPUs that does not. The fused kernel serves self-attention (N = L)
        in 16-bit types with C ≤ 128, a multiple of 8; anything else is computed as by "xla".

    Returns:
      (B, N, heads, C).

    Raises:
      RuntimeError: from JAX, for "cudnn" without cuDNN.
    """
    size = query.shape[-1]
    fused = (
        implementation == "cudnn"
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and size <= _CUDNN_HEAD_DIM
        and size % 8 == 0
        and query.shape == key.shape
    )
    chosen: Literal["cudnn", "xla"] = "cudnn" if fused else "xla"
    return jax.nn.dot_product_attention(query, key, value, implementation=chosen)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels with a residual connection: (B, H, W, C) -> (B, H, W, C).

    Ho et al. 2020, appendix B.

    Attributes:
      num_groups: groups of the group norm; divides C.
      epsilon: ε of the group norm, > 0.
      head_dim: channels of each head, divides C; None for one head over all channels.
      output_scale_factor: divisor of the residual sum, > 0.
      attention: an implementation of attention, see `attend`.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    head_dim: int | None = None
    output_scale_factor: float = 1.0
    attention: str = "xla"
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        types: Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        batch, height, width, channels = x.shape
        heads = channels // (self.head_dim or channels)
        h = GroupNorm(self.num_groups, self.epsilon, name="group_norm", **types)(x)
        h = h.reshape(batch, height * width, channels)

        def project(name: str) -> jax.Array:
            out = nn.Dense(channels, name=name, kernel_init=default_init, **types)(h)
            return out.reshape(batch, height * width, heads, channels // heads)

        h = attend(project("to_q"), project("to_k"), project("to_v"), self.attention)
        h = h.reshape(batch, -1, channels)
        h = nn.Dense(channels, name="to_out", kernel_init=zero_init, **types)(h)
        return (x + h.reshape(x.shape)) / self.output_scale_factor


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution: (B, H, W, C) -> (B, H/2, W/2, features).

    Attributes:
      features: channels of the output.
      padding: 1; or 0 to pad by one on the right and bottom only, as Ho et al.'s code does.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    features: int
    padding: int = 1
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pads = [(0, 1)] * 2 if self.padding == 0 else [(self.padding, self.padding)] * 2
        types: Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return conv(self.features, stride=2, padding=pads, name="conv", **types)(x)


class Upsample(nn.Module):
    """Double the resolution by repetition, then convolve: (B, H, W, C) -> (B, 2H, 2W, features).

    Attributes:
      features: channels of the output.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    features: int
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        x = jnp.broadcast_to(
            x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
        ).reshape(batch, 2 * height, 2 * width, channels)
        types: Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return conv(self.features, name="conv", **types)(x)
