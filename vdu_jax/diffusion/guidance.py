"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)."""

import jax
import jax.numpy as jnp

from vdu_jax.types import ScoreFn


def guided(score_fn: ScoreFn, scale: float) -> ScoreFn:
    """ε = ε(x_t; negative) + s (ε(x_t; text) − ε(x_t; negative)), eq. 6 with s = 1 + w.

    The condition of the new function is a pair (text, negative), each (B, L, D); negative is the
    embedding of an empty prompt, or of what the image is to be kept away from.

    Args:
      scale: s; 1 is the text alone.
    """

    def predict(params, xt, t, cond=None, *, dropout_key=None):
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *cond)
        twice = jnp.concatenate([xt, xt]), jnp.concatenate([t, t])
        eps = score_fn(params, *twice, both, dropout_key=dropout_key)
        given, negative = jnp.split(eps, 2)
        return negative + scale * (given - negative)

    return predict
