"""CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020): tokens to embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.models import layers
from vdu_jax.types import Params

ACTIVATIONS = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
}
"""Activation functions by their names in transformers' configs."""


class EncoderLayer(nn.Module):
    """Pre-norm transformer block: self-attention and a perceptron, (B, L, D) -> (B, L, D).

    Attributes:
      num_heads: attention heads; divides D.
      intermediate_size: width of the perceptron's inner layer.
      activation: a name in `ACTIVATIONS`.
      epsilon: ε of the layer norms, > 0.
      dtype: compute type.
      param_dtype: storage type of the parameters.
      causal: mask the tokens after each token.
    """

    num_heads: int
    intermediate_size: int
    activation: str
    epsilon: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    causal: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm: layers.Settings = dict(epsilon=self.epsilon, use_fast_variance=False, **types)
        batch, length, width = x.shape
        h = nn.LayerNorm(name="layer_norm1", **norm)(x)

        def project(name: str) -> jax.Array:
            out = nn.Dense(width, name=f"self_attn_{name}", **types)(h)
            return out.reshape(batch, length, self.num_heads, -1)

        h = jax.nn.dot_product_attention(
            project("q_proj"), project("k_proj"), project("v_proj"), is_causal=self.causal
        )
        x = x + nn.Dense(width, name="self_attn_out_proj", **types)(h.reshape(x.shape))
        h = nn.LayerNorm(name="layer_norm2", **norm)(x)
        h = nn.Dense(self.intermediate_size, name="mlp_fc1", **types)(h)
        return x + nn.Dense(width, name="mlp_fc2", **types)(ACTIVATIONS[self.activation](h))


class TextEncoder(nn.Module):
    """CLIP's text encoder: (B, L) token numbers -> (B, L, hidden_size), after the last layer norm.

    Attributes:
      vocab_size: number of tokens; token numbers lie in [0, vocab_size).
      max_length: the largest L.
      hidden_size: size of an embedding; a multiple of `num_heads`.
      intermediate_size: width of the perceptrons' inner layer.
      num_layers: number of transformer blocks.
      num_heads: attention heads of a block.
      activation: a name in `ACTIVATIONS`.
      epsilon: ε of the layer norms, > 0.
      dtype: compute type.
      param_dtype: storage type of the parameters.
    """

    vocab_size: int = 49408
    max_length: int = 77
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        types: layers.Settings = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        embed: layers.Settings = dict(features=self.hidden_size, **types)
        x = nn.Embed(self.vocab_size, name="token_embedding", **embed)(tokens)
        positions = jnp.arange(tokens.shape[1])
        x = x + nn.Embed(self.max_length, name="position_embedding", **embed)(positions)
        for index in range(self.num_layers):
            x = EncoderLayer(
                self.num_heads,
                self.intermediate_size,
                self.activation,
                self.epsilon,
                name=f"layers_{index}",
                **types,
            )(x)
        return nn.LayerNorm(
            epsilon=self.epsilon, use_fast_variance=False, name="final_layer_norm", **types
        )(x)


def init_params(net: TextEncoder, key: jax.Array) -> Params:
    """Initialise the parameters of a text encoder. Usable under `jit` and `eval_shape`."""
    return net.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
