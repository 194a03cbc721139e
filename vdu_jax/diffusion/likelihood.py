"""The evidence bound in bits per dimension (Ho et al. 2020, eq. 5 and 13)."""

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import process
from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Params, ScoreFn


def prior_term(schedule: Schedule, x0: jax.Array) -> jax.Array:
    """Prior term of the evidence bound, L_T = KL(q(x_T | x_0) ‖ N(0, I)).

    Args:
      schedule: the noise schedule.
      x0: (B, H, W, C) in [-1, 1].

    Returns:
      (B,) nats.
    """
    a = schedule.alphas_cumprod[-1]
    kl = 0.5 * (a * jnp.square(x0) - a - jnp.log1p(-a))
    return kl.sum(tuple(range(1, x0.ndim)))


def discretised_gaussian_nll(
    x0: jax.Array, mean: jax.Array, log_std: jax.Array, levels: int = 256
) -> jax.Array:
    """Negative log-likelihood of a discretised Gaussian (Ho et al. 2020, eq. 13).

    Each pixel has the mass that N(mean, std²) gives to its bin. The outermost bins extend to
    infinity.

    Args:
      x0: (B, H, W, C) on a grid of `levels` values in [-1, 1].
      mean: (B, H, W, C).
      log_std: logarithm of the standard deviation, to be broadcast against `x0`.
      levels: number of grid values, at least 2.

    Returns:
      (B,) nats, summed over pixels.
    """
    half = 1.0 / (levels - 1)
    scale = jnp.exp(-log_std)
    log_cdf = jax.scipy.stats.norm.logcdf
    upper, lower = (x0 - mean + half) * scale, (x0 - mean - half) * scale
    # log(Φ(u) − Φ(l)) cancels in the upper tail, so both ends are mirrored into the lower one.
    flip = upper + lower > 0
    top, bottom = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    log_top, log_bottom = log_cdf(top), log_cdf(bottom)
    gap = jnp.minimum(log_bottom - log_top, -1e-7)
    inside = log_top + jnp.log(-jnp.expm1(gap))
    log_mass = jnp.where(
        x0 < -1 + half, log_cdf(upper), jnp.where(x0 > 1 - half, log_cdf(-lower), inside)
    )
    return -log_mass.sum(tuple(range(1, x0.ndim)))


def bits_per_dim(
    score_fn: ScoreFn,
    params: Params,
    schedule: Schedule,
    x0: jax.Array,
    key: jax.Array,
    *,
    levels: int = 256,
) -> jax.Array:
    """Upper bound on −log₂ p(x_0) per dimension (Ho et al. 2020, eq. 5).

    The bound is estimated with one noise draw at each of the T steps, which costs T evaluations of
    the network. The reverse variance is β̃_t (at t = 0: β̃_1), as in `process.exact_weights`.

    Args:
      score_fn: a network that predicts ε.
      params: its parameters.
      schedule: the noise schedule.
      x0: (B, H, W, C) on a grid of `levels` values in [-1, 1].
      key: the random key of the noise.
      levels: number of grid values; 256 for 8-bit images.

    Returns:
      (B,) bits per dimension.
    """
    batch, dims = x0.shape[0], x0[0].size
    weights = process.exact_weights(schedule)

    def term(total: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        eps = jax.random.normal(jax.random.fold_in(key, t), x0.shape)
        times = jnp.full((batch,), t)
        error = process.eps_error(score_fn, params, schedule, x0, process.Noising(times, eps))
        return total + weights[t] * error * dims, None

    steps = jnp.arange(1, schedule.num_steps)
    total, _ = jax.lax.scan(term, jnp.zeros(batch), steps)

    times = jnp.zeros((batch,), jnp.int32)
    eps = jax.random.normal(jax.random.fold_in(key, 0), x0.shape)
    x1 = process.q_sample(schedule, x0, times, eps)
    mean = process.predict_x0(schedule, x1, times, score_fn(params, x1, times))
    log_std = 0.5 * jnp.log(schedule.posterior_variance[1])
    total += discretised_gaussian_nll(x0, mean, log_std, levels) + prior_term(schedule, x0)
    return total / (dims * jnp.log(2.0))
