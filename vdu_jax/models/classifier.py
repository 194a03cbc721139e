"""A small residual classifier: it counts classes for PUL and gives features for u-FID."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from vdu_jax.models import layers


class ResidualBlock(nn.Module):
    """Pre-activation residual block with group norm: (B, H, W, C) -> (B, H', W', features).

    He et al. 2016 (arXiv 1603.05027).

    Attributes:
      features: channels of the output.
      stride: stride of the first convolution.
      num_groups: groups of the group norms; divides C and `features`.
      dropout: dropout rate before the second convolution, in [0, 1).
    """

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
    """Classifier: (B, H, W, C) in [-1, 1] -> logits (B, num_classes), features (B, widths[-1]).

    Attributes:
      num_classes: number of classes.
      widths: channels at each resolution, multiples of 8; the resolution halves from one to the
        next.
      blocks: residual blocks at each resolution.
      dropout: dropout rate inside the blocks, in [0, 1); active only if not `deterministic`.
      stride: stride of the first convolution; 2 halves the resolution at once.
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
