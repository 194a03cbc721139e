"""The Inception-v3 network of the Fréchet Inception distance, for inference.

Szegedy et al. 2016 (arXiv 1512.00567) in the variant whose published weights every FID is taken
with (Heusel et al. 2017, arXiv 1706.08500): average pooling counts no padding, and the last block
pools by maximum. Module names are those of torchvision and pytorch-fid, so that weights map one to
one.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.types import Params

FEATURES = 2048
SIZE = 299  # pixels that images are resized to


class ConvNormRelu(nn.Module):
    """Convolution, batch norm with stored statistics, ReLU.

    Attributes:
      features: output channels. kernel: (height, width). padding: zeros on both sides, likewise.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pads = [(p, p) for p in self.padding]
        x = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            pads,
            use_bias=False,
            name="conv",
        )(x)
        return nn.relu(StoredNorm(name="bn")(x))


class StoredNorm(nn.Module):
    """Batch norm with the statistics of its training, all kept as parameters of shape (C,)."""

    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        mean = self.param("mean", nn.initializers.zeros_init(), shape)
        var = self.param("var", nn.initializers.ones_init(), shape)
        return (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias


def max_pool(x: jax.Array, stride: int, padding: int = 0) -> jax.Array:
    """Largest of 3×3 pixels."""
    return nn.max_pool(x, (3, 3), (stride, stride), [(padding, padding)] * 2)


def avg_pool(x: jax.Array) -> jax.Array:
    """Mean of the up to 3×3 pixels around each, those outside the image left out."""
    return nn.avg_pool(x, (3, 3), (1, 1), [(1, 1)] * 2, count_include_pad=False)


def layer(x: jax.Array, name: str, features: int, kernel=1, stride: int = 1) -> jax.Array:
    """A named `ConvNormRelu` that keeps the size, or, with stride 2, takes no padding."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (0, 0) if stride == 2 else (height // 2, width // 2)
    return ConvNormRelu(features, (height, width), stride, padding, name=name)(x)


class BlockA(nn.Module):
    """35×35 (figure 5 of the paper). pool_features: channels of the pooled branch."""

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = layer(x, "branch1x1", 64)
        five = layer(layer(x, "branch5x5_1", 48), "branch5x5_2", 64, 5)
        three = layer(layer(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3)
        three = layer(three, "branch3x3dbl_3", 96, 3)
        pool = layer(avg_pool(x), "branch_pool", self.pool_features)
        return jnp.concatenate([one, five, three, pool], axis=-1)


class BlockB(nn.Module):
    """From 35×35 to 17×17 (figure 10)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = layer(x, "branch3x3", 384, 3, stride=2)
        double = layer(layer(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3)
        double = layer(double, "branch3x3dbl_3", 96, 3, stride=2)
        return jnp.concatenate([three, double, max_pool(x, 2)], axis=-1)


class BlockC(nn.Module):
    """17×17 with factorised 7×7 convolutions (figure 6). features: channels inside."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.features
        one = layer(x, "branch1x1", 192)
        seven = layer(layer(x, "branch7x7_1", inner), "branch7x7_2", inner, (1, 7))
        seven = layer(seven, "branch7x7_3", 192, (7, 1))
        double = layer(layer(x, "branch7x7dbl_1", inner), "branch7x7dbl_2", inner, (7, 1))
        double = layer(double, "branch7x7dbl_3", inner, (1, 7))
        double = layer(double, "branch7x7dbl_4", inner, (7, 1))
        double = layer(double, "branch7x7dbl_5", 192, (1, 7))
        pool = layer(avg_pool(x), "branch_pool", 192)
        return jnp.concatenate([one, seven, double, pool], axis=-1)


class BlockD(nn.Module):
    """From 17×17 to 8×8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = layer(layer(x, "branch3x3_1", 192), "branch3x3_2", 320, 3, stride=2)
        seven = layer(layer(x, "branch7x7x3_1", 192), "branch7x7x3_2", 192, (1, 7))
        seven = layer(seven, "branch7x7x3_3", 192, (7, 1))
        seven = layer(seven, "branch7x7x3_4", 192, 3, stride=2)
        return jnp.concatenate([three, seven, max_pool(x, 2)], axis=-1)


class BlockE(nn.Module):
    """8×8 with its filter banks widened (figure 7). pool: of the pooled branch."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = layer(x, "branch1x1", 320)
        three = layer(x, "branch3x3_1", 384)
        three = [
            layer(three, "branch3x3_2a", 384, (1, 3)),
            layer(three, "branch3x3_2b", 384, (3, 1)),
        ]
        double = layer(layer(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, 3)
        double = [
            layer(double, "branch3x3dbl_3a", 384, (1, 3)),
            layer(double, "branch3x3dbl_3b", 384, (3, 1)),
        ]
        pool = layer(self.pool(x), "branch_pool", 192)
        return jnp.concatenate([one, *three, *double, pool], axis=-1)


def stem(x: jax.Array, name: str, features: int, kernel: int, stride: int = 1, padding: int = 0):
    """A layer of the first part, which pads where it says so."""
    return ConvNormRelu(features, (kernel, kernel), stride, (padding, padding), name=name)(x)


class Inception(nn.Module):
    """(B, H, W, 3) in [-1, 1], H and W ≥ 75 -> features (B, 2048) ≥ 0, the last average pool."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = stem(x, "Conv2d_1a_3x3", 32, 3, stride=2)
        x = stem(x, "Conv2d_2a_3x3", 32, 3)
        x = max_pool(stem(x, "Conv2d_2b_3x3", 64, 3, padding=1), 2)
        x = stem(x, "Conv2d_3b_1x1", 80, 1)
        x = max_pool(stem(x, "Conv2d_4a_3x3", 192, 3), 2)
        for name, pool_features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pool_features, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, features in zip("bcde", (128, 160, 160, 192), strict=True):
            x = BlockC(features, name=f"Mixed_6{name}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(avg_pool, name="Mixed_7b")(x)
        x = BlockE(lambda y: max_pool(y, 1, padding=1), name="Mixed_7c")(x)
        return x.mean((1, 2))


def resize(x: jax.Array, size: int) -> jax.Array:
    """(B, H, W, C) -> (B, size, size, C), bilinear between pixel centres, without smoothing first.

    What pytorch-fid does: `F.interpolate(mode="bilinear", align_corners=False)`.
    """
    shape = (x.shape[0], size, size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def features(params: Params, x: jax.Array, size: int = SIZE) -> jax.Array:
    """Features (B, 2048) of images (B, H, W, C) in [-1, 1], C = 3, or 1 for grey ones.

    Args:
      size: pixels that the images are resized to; distances with the published weights mean
        nothing at another size.

    Raises:
      ValueError: for another number of channels.
    """
    if x.shape[-1] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {x.shape[-1]}")
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    return Inception().apply({"params": params}, resize(x, size))


def abstract_params() -> Params:
    """Shapes of the parameters; nothing is allocated."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
