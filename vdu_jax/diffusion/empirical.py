"""The optimal denoiser of a finite set of images, in closed form (Karras et al. 2022, eq. 57)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.diffusion.process import bcast
from vdu_jax.diffusion.schedule import Schedule


class Denoised(NamedTuple):
    """eps (B, H, W, C): the noise that is predicted. log_density (B,): of x_t, up to a constant
    that depends on t alone."""

    eps: jax.Array
    log_density: jax.Array


def denoise(schedule: Schedule, images: jax.Array, xt: jax.Array, t: jax.Array) -> Denoised:
    """E[ε | x_t] if x_0 is one of `images`, each as likely as the others.

    x_t then has the density of a mixture of Gaussians around √ᾱ_t x, and E[x_0 | x_t] is the mean
    of the images weighted by their shares of it.

    Args:
      images: (N, H, W, C) in [-1, 1]. xt: (B, H, W, C). t: (B,) integers in [0, T).
    """
    a = schedule.alphas_cumprod[t]
    flat, points = xt.reshape(len(xt), -1), images.reshape(len(images), -1)
    # ‖x_t − √ᾱ x‖² without ‖x_t‖², which is the same for all images.
    distance = a[:, None] * jnp.square(points).sum(-1) - 2 * jnp.sqrt(a)[:, None] * (
        flat @ points.T
    )
    logits = -distance / (2 * (1 - a))[:, None]
    x0 = (jax.nn.softmax(logits) @ points).reshape(xt.shape)
    level = bcast(a, xt)
    eps = (xt - jnp.sqrt(level) * x0) / jnp.sqrt(1 - level)
    constant = jnp.square(flat).sum(-1) / (2 * (1 - a))
    log_density = jax.nn.logsumexp(logits, -1) - jnp.log(len(images)) - constant
    return Denoised(eps, log_density)


def correction(
    schedule: Schedule,
    forget: jax.Array,
    replay: jax.Array,
    share: float | jax.Array,
    xt: jax.Array,
    t: jax.Array,
) -> jax.Array:
    """What a model of a mixture predicts too little of to be one of the retained part alone.

    Returns:
      c = w(x_t) (ε_r − ε_f)(x_t), (B, H, W, C), of the two finite sets; see `objectives.demixing`.

    Args:
      forget: (N, H, W, C) in [-1, 1], images that stand for p_f.
      replay: (M, H, W, C) in [-1, 1], images that stand for p_r.
      share: π, of p_f in the mixture, in (0, 1); or (B,) in [0, 1], one for each x_t: 1 where a
        condition says that it comes from p_f, 0 where it says that it does not.
      xt: (B, H, W, C).
      t: (B,) integers in [0, T).
    """
    of_forget = denoise(schedule, forget, xt, t)
    of_replay = denoise(schedule, replay, xt, t)
    odds = jnp.log(share / (1 - share)) + of_forget.log_density - of_replay.log_density
    return bcast(jax.nn.sigmoid(odds), xt) * (of_replay.eps - of_forget.eps)
