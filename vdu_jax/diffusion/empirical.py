"""The optimal denoiser of a finite set of images, in closed form (Karras et al. 2022, eq. 57)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.diffusion.process import bcast
from vdu_jax.diffusion.schedule import Schedule


class Denoised(NamedTuple):
    """The optimal prediction at x_t for a finite set of images.

    Attributes:
      eps: (B, H, W, C), E[ε | x_t].
      log_density: (B,) log-density of x_t, up to a constant that depends on t alone.
    """

    eps: jax.Array
    log_density: jax.Array


def denoise(schedule: Schedule, images: jax.Array, xt: jax.Array, t: jax.Array) -> Denoised:
    """Compute E[ε | x_t] and the density of x_t if x_0 is uniform over a finite set of images.

    x_t then has the density of a mixture of Gaussians around √ᾱ_t x, and E[x_0 | x_t] is the mean
    of the images weighted by their responsibilities (Karras et al. 2022, arXiv 2206.00364, eq. 57).

    Args:
      schedule: the noise schedule.
      images: (N, H, W, C) in [-1, 1], the set.
      xt: (B, H, W, C), noised images.
      t: (B,) integers in [0, T).
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
    """Correction c that turns the ε of the mixture π p_f + (1 − π) p_r into the ε of p_r.

    c = w(x_t) (ε_r − ε_f)(x_t), where w(x_t) is the probability that x_t comes from p_f. Two finite
    sets of images stand for p_f and p_r. `objectives.demixing` derives it.

    Args:
      schedule: the noise schedule.
      forget: (N, H, W, C) in [-1, 1], images that stand for p_f.
      replay: (M, H, W, C) in [-1, 1], images that stand for p_r.
      share: π, the share of p_f in the mixture, in (0, 1); or (B,) in [0, 1] with a share for each
        x_t, which is 1 or 0 where a condition tells whether x_t comes from p_f.
      xt: (B, H, W, C), noised images.
      t: (B,) integers in [0, T).

    Returns:
      c, (B, H, W, C).
    """
    of_forget = denoise(schedule, forget, xt, t)
    of_replay = denoise(schedule, replay, xt, t)
    odds = jnp.log(share / (1 - share)) + of_forget.log_density - of_replay.log_density
    return bcast(jax.nn.sigmoid(odds), xt) * (of_replay.eps - of_forget.eps)
