"""CLIP (Radford et al. 2021, arXiv 2103.00020): similarity of images and texts.

A metric must not depend on the device, so the network computes in float32 with exact products.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.models import layers
from vdu_jax.models.stable_diffusion.text_encoder import EncoderLayer, TextEncoder
from vdu_jax.types import Params


class VisionEncoder(nn.Module):
    """CLIP's image encoder: (B, S, S, 3) -> (B, hidden_size), the normalised class token.

    A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) with a layer norm before the
    first block.

    Attributes:
      image_size: S, the side of the images in pixels.
      patch_size: side of a patch in pixels; divides S.
      hidden_size: size of a token; a multiple of `num_heads`.
      intermediate_size: width of the perceptrons' inner layer.
      num_layers: number of transformer blocks.
      num_heads: attention heads of a block.
      activation: a name in `text_encoder.ACTIVATIONS`.
      epsilon: ε of the layer norms, > 0.
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=jnp.float32, param_dtype=jnp.float32)
        norm: layers.Settings = dict(epsilon=self.epsilon, use_fast_variance=False, **types)
        sides = (self.patch_size, self.patch_size)
        patches = nn.Conv(
            self.hidden_size,
            sides,
            sides,
            padding="VALID",
            use_bias=False,
            name="patch_embedding",
            **types,
        )(images)
        patches = patches.reshape(len(images), -1, self.hidden_size)
        normal = nn.initializers.normal(0.02)
        first = self.param("class_embedding", normal, (self.hidden_size,))
        first = jnp.broadcast_to(first, (len(images), 1, self.hidden_size))
        x = jnp.concatenate([first, patches], axis=1)
        table = nn.Embed(x.shape[1], self.hidden_size, name="position_embedding", **types)
        x = nn.LayerNorm(name="pre_layrnorm", **norm)(x + table(jnp.arange(x.shape[1])))
        for index in range(self.num_layers):
            x = EncoderLayer(
                self.num_heads,
                self.intermediate_size,
                self.activation,
                self.epsilon,
                causal=False,
                name=f"layers_{index}",
                **types,
            )(x)
        return nn.LayerNorm(name="post_layernorm", **norm)(x[:, 0])


class CLIP(nn.Module):
    """Both encoders of CLIP, each followed by a projection to (B, projection_size).

    The embedding of a text is that of its end token, the token with the highest number.

    Attributes:
      vision: the image encoder.
      text: the text encoder.
      projection_size: P, the size of an embedding.
    """

    vision: VisionEncoder
    text: TextEncoder
    projection_size: int = 768

    def setup(self) -> None:
        self.visual_projection = nn.Dense(self.projection_size, use_bias=False)
        self.text_projection = nn.Dense(self.projection_size, use_bias=False)
        # log(1/0.07), the initial inverse temperature (Radford et al. 2021, sec. 2.5).
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())

    def embed_images(self, images: jax.Array) -> jax.Array:
        """Embed standardised images: (B, S, S, 3) -> (B, P), each of length 1."""
        with jax.default_matmul_precision("highest"):
            return _unit(self.visual_projection(self.vision(images)))

    def embed_texts(self, tokens: jax.Array) -> jax.Array:
        """Embed texts: (B, L) token numbers -> (B, P), each of length 1."""
        with jax.default_matmul_precision("highest"):
            at_end = self.text(tokens)[jnp.arange(len(tokens)), tokens.argmax(-1)]
            return _unit(self.text_projection(at_end))

    def compare(self, images: jax.Array, texts: jax.Array) -> jax.Array:
        """Compare images with embedded texts.

        Args:
          images: (B, S, S, 3), standardised.
          texts: (M, P), from `embed_texts`.

        Returns:
          (B, M) logits: cosine similarities, scaled by the learned temperature.
        """
        similarity = jnp.matmul(self.embed_images(images), texts.T, precision="highest")
        return jnp.exp(self.logit_scale) * similarity

    def __call__(self, images: jax.Array, tokens: jax.Array) -> jax.Array:
        """Compare images (B, S, S, 3) with texts (M, L); (B, M) logits, see `compare`."""
        return self.compare(images, self.embed_texts(tokens))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def init_params(net: CLIP, key: jax.Array) -> Params:
    """Initialise the parameters of CLIP. Usable under `jit` and `eval_shape`."""
    side = net.vision.image_size
    return net.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros((1, 1), jnp.int32))["params"]
