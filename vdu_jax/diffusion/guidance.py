"""Guidance: change a trained network's prediction while sampling; drop conditions for training."""

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import empirical, process
from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Cond, Params, Part, ScoreFn


def guided(score_fn: ScoreFn, scale: float) -> ScoreFn:
    """Classifier-free guidance: combine the conditional and the unconditional prediction.

    ε = ε(x_t; negative) + s (ε(x_t; cond) − ε(x_t; negative)), Ho and Salimans 2022 (arXiv
    2207.12598), eq. 6 with s = 1 + w.

    Args:
      score_fn: a conditional network that predicts ε.
      scale: s, the guidance scale; 1 is the conditional prediction alone.

    Returns:
      A predictor of ε whose condition is a pair (cond, negative), each with a row for each image:
      class numbers (B,) or text embeddings (B, L, D). `negative` is the condition of an image that
      has none, or one to keep images away from. The predictor raises ValueError without the pair.
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
    """Predict the ε of the retained data alone, ε_θ + c, without training.

    c is `empirical.correction`, as in Safe Denoiser (Kim et al. 2025, arXiv 2502.08011). Every call
    costs two products of x_t with the images, and the images must be kept.
    `objectives.retained_score` distils the corrected prediction into the network.

    Args:
      score_fn: a network that predicts ε of all training data.
      schedule: its noise schedule.
      forget: (N, H, W, C) in [-1, 1], D_f.
      replay: (M, H, W, C) in [-1, 1], images drawn from the model, without forget-like ones.
      share: share of the model's images that are forget-like, in (0, 1).

    Returns:
      A predictor of ε with the arguments of `score_fn`.
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
    """Draw which images are seen without their condition.

    Args:
      key: the random key.
      share: share of the images whose condition is dropped, in [0, 1].
      count: number of images.

    Returns:
      A key for further draws, and (count,) bool. With `share` 0 nothing is drawn: `key` itself and
      None.
    """
    if share <= 0:
        return key, None
    key, drop_key = jax.random.split(key)
    return key, jax.random.bernoulli(drop_key, share, (count,))


def drop_condition(part: Part, dropped: jax.Array | None) -> Part:
    """Replace the condition of the dropped images by "negative".

    One network then learns both predictions that guidance needs (Ho and Salimans 2022, alg. 1).

    Args:
      part: the batch, with "cond" and "negative", the condition of an image that has none.
      dropped: (B,) bool; None drops no condition.

    Returns:
      The batch with its new "cond".
    """
    if dropped is None:
        return part
    cond = jnp.where(process.bcast(dropped, part["cond"]), part["negative"], part["cond"])
    return dict(part) | {"cond": cond}
