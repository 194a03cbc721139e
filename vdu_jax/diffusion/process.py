"""The forward process and the noise-prediction error."""

import functools
import itertools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Params, Part, ScoreFn


def bcast(values: jax.Array, like: jax.Array) -> jax.Array:
    """(B,) -> (B, 1, …, 1), to broadcast against `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, eq. 4).

    Args:
      x0, eps: (B, H, W, C). t: (B,) integers in [0, T).
    """
    chex.assert_equal_shape([x0, eps])
    a = bcast(schedule.alphas_cumprod[t], x0)
    return jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * eps


def predict_x0(schedule: Schedule, xt: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """The x_0 that `q_sample` would have turned into `xt` with this `eps`."""
    a = bcast(schedule.alphas_cumprod[t], xt)
    return (xt - jnp.sqrt(1 - a) * eps) / jnp.sqrt(a)


def bind_condition(score_fn: ScoreFn, part: Part) -> ScoreFn:
    """The score function with the condition of a part of a batch, if it has one.

    Args:
      part: {"image", …} of one kind of data; "cond" (B, …) is what its images come with.
    """
    if "cond" not in part:
        return score_fn
    return functools.partial(score_fn, cond=part["cond"])


def exact_weights(schedule: Schedule) -> jax.Array:
    """The factor of the *summed* squared error of ε in the evidence bound, (T,).

    β_t² / (2 σ_t² α_t (1 − ᾱ_t)) with σ_t² = β̃_t (Ho et al. 2020, eq. 12). At t = 0, where β̃_0 = 0,
    σ_0² is β̃_1, as in the code of Ho et al.
    """
    variance = jnp.concatenate([schedule.posterior_variance[1:2], schedule.posterior_variance[1:]])
    # 1 − ᾱ from the betas: as a difference from the float32 ᾱ_0 = 0.9999 it keeps only 4 digits.
    level = -jnp.expm1(jnp.cumsum(jnp.log1p(-schedule.betas)))
    return schedule.betas**2 / (2 * variance * (1 - schedule.betas) * level)


class Noising(NamedTuple):
    """One draw of times and noise: t (B,) int32, eps (B, H, W, C)."""

    t: jax.Array
    eps: jax.Array


def draw_noising(
    key: jax.Array,
    schedule: Schedule,
    x0: jax.Array,
    stratified: bool = False,
    density: np.ndarray | None = None,
) -> Noising:
    """t in [0, T) and ε ~ N(0, I) for each image of x0 (B, H, W, C).

    Args:
      stratified: times lie a B-th of the distribution apart, in a random order and with a common
        random shift: each still has the distribution, and a mean over the batch varies less (Kingma
        et al. 2021, arXiv 2107.00630, sec. I.1).
      density: (T,) > 0, what stratified times are proportional to; None for uniform ones.
    """
    t_key, eps_key = jax.random.split(key)
    count, last = len(x0), schedule.num_steps - 1
    eps = jax.random.normal(eps_key, x0.shape, x0.dtype)
    if not stratified:
        return Noising(jax.random.randint(t_key, (count,), 0, schedule.num_steps), eps)
    shift_key, order_key = jax.random.split(t_key)
    places = (jax.random.uniform(shift_key) + jnp.arange(count) / count) % 1.0
    places = jax.random.permutation(order_key, places)
    if density is None:
        t = (places * schedule.num_steps).astype(jnp.int32)
    else:
        up_to = np.cumsum(density, dtype=np.float64) / np.sum(density, dtype=np.float64)
        t = jnp.searchsorted(jnp.asarray(up_to, jnp.float32), places, side="right")
    return Noising(jnp.minimum(t, last).astype(jnp.int32), eps)


def network_inputs(schedule: Schedule, part: Part, noising: Noising) -> dict[str, jax.Array]:
    """What the network is told of a part of a batch: "xt" (B, H, W, C), "t" (B,), and "cond"."""
    xt = q_sample(schedule, part["image"], noising.t, noising.eps)
    told = {"xt": xt, "t": noising.t}
    return told | {"cond": part["cond"]} if "cond" in part else told


def predict_together(score_fn: ScoreFn, params: Params, *parts: Part) -> list[jax.Array]:
    """ε_θ(x_t, t) of each part, by one call of the network.

    The parts' rows alternate in it as their numbers allow: devices that share each part's batch
    share the whole alike, and nothing moves between them.

    Args:
      parts: from `network_inputs`; with a condition all or none.
    """
    count = math.gcd(*(len(part["t"]) for part in parts))

    def folded(array: jax.Array) -> jax.Array:
        return array.reshape(count, -1, *array.shape[1:])

    def unfolded(array: jax.Array) -> jax.Array:
        return array.reshape(-1, *array.shape[2:])

    def join(*arrays: jax.Array) -> jax.Array:
        return unfolded(jnp.concatenate([folded(array) for array in arrays], axis=1))

    whole = jax.tree.map(join, *parts)
    eps = folded(bind_condition(score_fn, whole)(params, whole["xt"], whole["t"]))
    ends = itertools.accumulate(len(part["t"]) // count for part in parts[:-1])
    return [unfolded(piece) for piece in jnp.split(eps, list(ends), axis=1)]


def eps_error(
    score_fn: ScoreFn,
    params: Params,
    schedule: Schedule,
    x0: jax.Array,
    noising: Noising,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """e(θ; x_0, t, ε) = mean over pixels of (ε_θ(x_t, t) − ε)², per example: (B,).

    Ho et al. 2020, eq. 14 without the expectation.

    Args:
      dropout_key: (B,) keys, for a network with dropout; see `vdu_jax.types.ScoreFn`.
    """
    xt = q_sample(schedule, x0, noising.t, noising.eps)
    prediction = score_fn(params, xt, noising.t, dropout_key=dropout_key)
    return jnp.square(prediction - noising.eps).mean(tuple(range(1, x0.ndim)))
