"""A small residual classifier: it counts classes for PUL, and its features carry u-FID."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from vdu_jax.models import layers


class ResidualBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027) with group norm."""

    features: int
    stride: int = 1
    num_groups: int = 8
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        h = nn.relu(layers.GroupNorm(self.num_groups)(x))
        if x.shape[-1] != self.features or self.stride != 1:
            x = layers.conv(self.features, 1, stride=self.stride, use_bias=False)(h)
        h = layers.conv(self.features, stride=self.stride, use_bias=False)(h)
        h = nn.relu(layers.GroupNorm(self.num_groups)(h))
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        return x + layers.conv(self.features, use_bias=False)(h)


class Classifier(nn.Module):
    """(B, H, W, C) in [-1, 1] -> logits (B, num_classes) and features (B, widths[-1]).

    Attributes:
      num_classes: number of classes.
      widths: channels at each resolution; the resolution halves from one to the next.
      blocks: residual blocks at each resolution.
      dropout: rate inside the blocks, active with a `dropout` key only.
      stride: of the first convolution.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 128)
    blocks: int = 1
    dropout: float = 0.1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
        x = layers.conv(self.widths[0], stride=self.stride)(x)
        for level, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if level > 0 and block == 0 else 1
                x = ResidualBlock(width, stride, dropout=self.dropout)(x, deterministic)
        features = nn.relu(layers.GroupNorm(8)(x)).mean((1, 2))
        return nn.Dense(self.num_classes)(features), features
