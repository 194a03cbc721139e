"""Guidance: other predictions from a trained network, while sampling."""

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import empirical, process
from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Cond, Params, Part, ScoreFn


def guided(score_fn: ScoreFn, scale: float) -> ScoreFn:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

    ε = ε(x_t; negative) + s (ε(x_t; text) − ε(x_t; negative)), eq. 6 with s = 1 + w.

    The condition of the new function is a pair (text, negative), each (B, L, D); negative is the
    embedding of an empty prompt, or of what the image is to be kept away from.

    Args:
      scale: s; 1 is the text alone.
    """

    def predict(
        params: Params,
        xt: jax.Array,
        t: jax.Array,
        cond: Cond = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        if cond is None:
            raise ValueError("guidance needs cond = (condition, negative), not None")
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *cond)
        twice = jax.tree.map(lambda a: jnp.concatenate([a, a]), (xt, t, dropout_key))
        eps = score_fn(params, *twice[:2], both, dropout_key=twice[2])
        given, negative = jnp.split(eps, 2)
        return negative + scale * (given - negative)

    return predict


def without_forget(
    score_fn: ScoreFn, schedule: Schedule, forget: jax.Array, replay: jax.Array, share: float
) -> ScoreFn:
    """The predictor of ε of the retained data alone: ε_θ + c, with no training.

    c is `empirical.correction`. Kin to Safe Denoiser (Kim et al. 2025, arXiv 2502.08011). Every
    call costs two products of x_t with the images, which must be kept; `objectives.retained_score`
    distils it into the network.

    Args:
      score_fn: predicts ε of all training data.
      forget: (N, H, W, C) in [-1, 1], D_f.
      replay: (M, H, W, C) in [-1, 1], cleaned images of the model.
      share: of the model's images that are forget-like, in (0, 1).
    """

    def predict(
        params: Params,
        xt: jax.Array,
        t: jax.Array,
        cond: Cond = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        eps = score_fn(params, xt, t, cond, dropout_key=dropout_key)
        return eps + empirical.correction(schedule, forget, replay, share, xt, t)

    return predict


def draw_dropped(key: jax.Array, share: float, count: int) -> tuple[jax.Array, jax.Array | None]:
    """A key for what else is drawn, and which of `count` images are seen without their condition.

    Args:
      share: of the images, in [0, 1].

    Returns:
      The key, and (count,) bool, or None if `share` is 0; nothing is drawn then.
    """
    if share <= 0:
        return key, None
    key, drop_key = jax.random.split(key)
    return key, jax.random.bernoulli(drop_key, share, (count,))


def drop_condition(part: Part, dropped: jax.Array | None) -> Part:
    """A part of a batch in which the `dropped` images have no condition.

    So one network learns both predictions that guidance needs (Ho and Salimans 2022, alg. 1).

    Args:
      part: "image", "cond" and "negative", the condition of an image that has none.
      dropped: (B,) bool; None if none is.
    """
    if dropped is None:
        return part
    cond = jnp.where(process.bcast(dropped, part["cond"]), part["negative"], part["cond"])
    return dict(part) | {"cond": cond}
