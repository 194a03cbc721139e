"""Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567), the variant for FID.

The network of TF-GAN and pytorch-fid differs from the paper's in its pooling branches: averages
exclude the zero padding, and the last block pools by maxima. The network is for inference only:
batch norms use their stored statistics. Modules are named as in torchvision.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.types import Params

FEATURES = 2048  # size of the feature vector


class StoredNorm(nn.Module):
    """Batch norm with stored statistics: scale (x − mean) / √(var + 1e-3) + bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones, zeros, shape = nn.initializers.ones, nn.initializers.zeros, x.shape[-1:]
        scale = self.param("scale", ones, shape)
        bias = self.param("bias", zeros, shape)
        mean = self.param("mean", zeros, shape)
        var = self.param("var", ones, shape)
        return (x - mean) * (jax.lax.rsqrt(var + 1e-3) * scale) + bias


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU: (B, H, W, C) -> (B, H', W', features).

    Attributes:
      features: channels of the output.
      kernel: (height, width) of the kernel in pixels.
      stride: stride of both axes.
      padding: "SAME" or "VALID".
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=False,
            # Accelerators round the factors to fewer bits by default, which changes the FID.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )
        return nn.relu(StoredNorm(name="bn")(conv(x)))


def mean_pool(x: jax.Array) -> jax.Array:
    """Average 3x3 windows at stride 1, without the padding."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def max_pool(x: jax.Array) -> jax.Array:
    """Take the maximum of 3x3 windows at stride 1."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def halve(x: jax.Array) -> jax.Array:
    """Take the maximum of 3x3 windows at stride 2, without padding."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _chain(x: jax.Array, *layers: tuple) -> jax.Array:
    """Apply layers (name, features, kernel) in sequence."""
    for name, features, kernel in layers:
        x = ConvNorm(features, kernel, name=name)(x)
    return x


def _reduce(x: jax.Array, name: str, features: int) -> jax.Array:
    return ConvNorm(features, (3, 3), 2, "VALID", name=name)(x)


class BlockA(nn.Module):
    """Branches of 1x1, 5x5 and two 3x3 convolutions, at 35x35 (fig. 5 of the paper).

    Attributes:
      pool_features: channels of the pooling branch.
    """

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                _chain(x, ("branch1x1", 64, (1, 1))),
                _chain(x, ("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))),
                _chain(
                    x,
                    ("branch3x3dbl_1", 64, (1, 1)),
                    ("branch3x3dbl_2", 96, (3, 3)),
                    ("branch3x3dbl_3", 96, (3, 3)),
                ),
                _chain(mean_pool(x), ("branch_pool", self.pool_features, (1, 1))),
            ],
            -1,
        )


class BlockB(nn.Module):
    """Strided convolutions beside max pooling, from 35x35 to 17x17 (fig. 10)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        double = _chain(x, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)))
        return jnp.concatenate(
            [_reduce(x, "branch3x3", 384), _reduce(double, "branch3x3dbl_3", 96), halve(x)], -1
        )


class BlockC(nn.Module):
    """7x7 convolutions factored into 1x7 and 7x1, at 17x17 (fig. 6).

    Attributes:
      width: channels inside the branches.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, row, column = self.width, (1, 7), (7, 1)
        return jnp.concatenate(
            [
                _chain(x, ("branch1x1", 192, (1, 1))),
                _chain(
                    x,
                    ("branch7x7_1", width, (1, 1)),
                    ("branch7x7_2", width, row),
                    ("branch7x7_3", 192, column),
                ),
                _chain(
                    x,
                    ("branch7x7dbl_1", width, (1, 1)),
                    ("branch7x7dbl_2", width, column),
                    ("branch7x7dbl_3", width, row),
                    ("branch7x7dbl_4", width, column),
                    ("branch7x7dbl_5", 192, row),
                ),
                _chain(mean_pool(x), ("branch_pool", 192, (1, 1))),
            ],
            -1,
        )


class BlockD(nn.Module):
    """As block B, with a 7x7 convolution in one branch, from 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        small = _chain(x, ("branch3x3_1", 192, (1, 1)))
        large = _chain(
            x,
            ("branch7x7x3_1", 192, (1, 1)),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
        )
        return jnp.concatenate(
            [_reduce(small, "branch3x3_2", 320), _reduce(large, "branch7x7x3_4", 192), halve(x)], -1
        )


class BlockE(nn.Module):
    """Branches that fork into 1x3 and 3x1, at 8x8 (fig. 7).

    Attributes:
      pool: the pooling branch, `mean_pool` or `max_pool`.
    """

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _chain(x, ("branch3x3_1", 384, (1, 1)))
        double = _chain(x, ("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)))
        return jnp.concatenate(
            [
                _chain(x, ("branch1x1", 320, (1, 1))),
                _chain(single, ("branch3x3_2a", 384, (1, 3))),
                _chain(single, ("branch3x3_2b", 384, (3, 1))),
                _chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
                _chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
                _chain(self.pool(x), ("branch_pool", 192, (1, 1))),
            ],
            -1,
        )


def resize(x: jax.Array, size: int) -> jax.Array:
    """Resize images as PyTorch's `interpolate(mode="bilinear", align_corners=False)`.

    Args:
      x: (B, H, W, C).
      size: side of the result in pixels.

    Returns:
      (B, size, size, C), without antialiasing.
    """
    shape = (x.shape[0], size, size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


class InceptionV3(nn.Module):
    """Inception-v3: images (B, H, W, 3) in [0, 1] -> features before the last layer, (B, 2048) ≥ 0.

    Attributes:
      resolution: side in pixels to which images are resized first, at least 75; 299 for FID.
    """

    resolution: int = 299

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = 2 * resize(x.astype(jnp.float32), self.resolution) - 1
        x = ConvNorm(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = halve(x)
        x = ConvNorm(80, name="Conv2d_3b_1x1")(x)
        x = ConvNorm(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = halve(x)
        for name, pool_features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pool_features, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(width, name=f"Mixed_{name}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(mean_pool, name="Mixed_7b")(x)
        x = BlockE(max_pool, name="Mixed_7c")(x)
        return x.mean((1, 2))


def param_shapes() -> Params:
    """Return the parameters' tree with `jax.ShapeDtypeStruct` leaves, without allocating memory."""
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    return jax.eval_shape(InceptionV3(75).init, jax.random.key(0), image)["params"]


def make_feature_fn(net: InceptionV3) -> Callable[[Params, jax.Array], jax.Array]:
    """Make the feature function of Inception-v3.

    Args:
      net: the network.

    Returns:
      `feature_fn(params, x) -> (B, 2048)` for images x (B, H, W, 1 or 3) in [-1, 1]. Grey images
      are repeated over three channels.
    """

    apply: Callable[..., Any] = net.apply  # its own type also has what `mutable` adds

    def feature_fn(params: Params, x: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
        return apply({"params": params}, (x + 1) / 2)

    return feature_fn
