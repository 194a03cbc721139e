"""Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567), in the variant that FID is taken with.

The network of TF-GAN and pytorch-fid differs from the paper's in its pooling branches: their
averages leave the zero padding out, and that of the last block takes maxima. For inference only:
batch norms use their stored statistics. Modules are named as in torchvision.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.types import Params

FEATURES = 2048


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
    """Convolution without bias, batch norm, ReLU: (B, H, W, C) -> (B, H', W', features)."""

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
            # Accelerators would round the factors to fewer bits, and the FID with them.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )
        return nn.relu(StoredNorm(name="bn")(conv(x)))


def mean_pool(x: jax.Array) -> jax.Array:
    """Means of 3x3 windows at stride 1, over those of their pixels that lie in the image."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3x3 windows at stride 1."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def halve(x: jax.Array) -> jax.Array:
    """Maxima of the 3x3 windows that lie in the image, at stride 2."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _chain(x: jax.Array, *layers: tuple) -> jax.Array:
    """Layers (name, features, kernel) one after the other."""
    for name, features, kernel in layers:
        x = ConvNorm(features, kernel, name=name)(x)
    return x


def _reduce(x: jax.Array, name: str, features: int) -> jax.Array:
    return ConvNorm(features, (3, 3), 2, "VALID", name=name)(x)


class BlockA(nn.Module):
    """Fig. 5 of the paper, at 35x35: branches of 1x1, 5x5 and two 3x3 convolutions."""

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
    """Fig. 10, from 35x35 to 17x17: strided convolutions beside a maximum."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        double = _chain(x, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)))
        return jnp.concatenate(
            [_reduce(x, "branch3x3", 384), _reduce(double, "branch3x3dbl_3", 96), halve(x)], -1
        )


class BlockC(nn.Module):
    """Fig. 6, at 17x17: 7x7 convolutions factored into 1x7 and 7x1."""

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
    """From 17x17 to 8x8, as block B, with a 7x7 convolution in one branch."""

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
    """Fig. 7, at 8x8: branches that fork into 1x3 and 3x1.

    Attributes:
      pool: of the pooling branch; `mean_pool` or `max_pool`.
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
    """(B, H, W, C) -> (B, size, size, C), bilinear between pixel centres, without smoothing.

    PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    shape = (x.shape[0], size, size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


class InceptionV3(nn.Module):
    """Images (B, H, W, 3) in [0, 1] -> the mean features before the last layer, (B, 2048) ≥ 0.

    Attributes:
      resolution: the side to which images are scaled first, at least 75; FID's is 299.
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
    """The parameters' tree with `jax.ShapeDtypeStruct` leaves; nothing is allocated."""
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    return jax.eval_shape(InceptionV3(75).init, jax.random.key(0), image)["params"]


def make_feature_fn(net: InceptionV3) -> Callable[[Params, jax.Array], jax.Array]:
    """`feature_fn(params, x) -> (B, 2048)` for images x (B, H, W, 1 or 3) in [-1, 1].

    Grey images are repeated in the three channels.
    """

    apply: Callable[..., Any] = net.apply  # its own type also has what `mutable` adds

    def feature_fn(params: Params, x: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
        return apply({"params": params}, (x + 1) / 2)

    return feature_fn
