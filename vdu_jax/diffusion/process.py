"""The forward process q(x_t | x_0) and the noise-prediction error of a network."""

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
    """Reshape (B,) to (B, 1, …, 1), to broadcast against `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """Noise images: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, eq. 4).

    Args:
      schedule: the noise schedule.
      x0: (B, H, W, C) in [-1, 1], clean images.
      t: (B,) integers in [0, T).
      eps: (B, H, W, C), the noise.

    Returns:
      x_t, (B, H, W, C).
    """
    chex.assert_equal_shape([x0, eps])
    a = bcast(schedule.alphas_cumprod[t], x0)
    return jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * eps


def predict_x0(schedule: Schedule, xt: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """Invert `q_sample`: the x_0 that gives `xt` with the noise `eps`.

    Args:
      schedule: the noise schedule.
      xt: (B, H, W, C), noised images.
      t: (B,) integers in [0, T).
      eps: (B, H, W, C), the noise in `xt`, usually predicted.

    Returns:
      x_0, (B, H, W, C), not clipped.
    """
    a = bcast(schedule.alphas_cumprod[t], xt)
    return (xt - jnp.sqrt(1 - a) * eps) / jnp.sqrt(a)


def bind_condition(score_fn: ScoreFn, part: Part) -> ScoreFn:
    """Bind the condition of a batch to a score function.

    Args:
      score_fn: the network.
      part: a batch of one kind of data, perhaps with "cond" (B, …).

    Returns:
      `score_fn` with that condition, or itself if the batch has none.
    """
    if "cond" not in part:
        return score_fn
    return functools.partial(score_fn, cond=part["cond"])


def exact_weights(schedule: Schedule) -> jax.Array:
    """Weights of the evidence bound: the factors of the *summed* squared error of ε.

    β_t² / (2 σ_t² α_t (1 − ᾱ_t)) with σ_t² = β̃_t (Ho et al. 2020, eq. 12). At t = 0, where β̃_0 = 0,
    σ_0² is β̃_1, as in the code of Ho et al.

    Args:
      schedule: the noise schedule.

    Returns:
      (T,) float32.
    """
    variance = jnp.concatenate([schedule.posterior_variance[1:2], schedule.posterior_variance[1:]])
    # 1 − ᾱ is taken from the betas: 1 minus the float32 ᾱ_0 = 0.9999 keeps only 4 digits.
    level = -jnp.expm1(jnp.cumsum(jnp.log1p(-schedule.betas)))
    return schedule.betas**2 / (2 * variance * (1 - schedule.betas) * level)


class Noising(NamedTuple):
    """Times and noise of a batch of images.

    Attributes:
      t: (B,) int32 in [0, T).
      eps: (B, H, W, C), standard normal.
    """

    t: jax.Array
    eps: jax.Array


def draw_noising(
    key: jax.Array,
    schedule: Schedule,
    x0: jax.Array,
    stratified: bool = False,
    density: np.ndarray | None = None,
) -> Noising:
    """Draw a time in [0, T) and noise ε ~ N(0, I) for each image.

    Args:
      key: the random key.
      schedule: the noise schedule.
      x0: (B, H, W, C), the images to be noised; only their shape and type count.
      stratified: space the times evenly over their distribution, with a common random shift and in
        a random order. Each time keeps its distribution, and a mean over the batch varies less
        (Kingma et al. 2021, arXiv 2107.00630, sec. I.1).
      density: (T,) > 0, the unnormalised distribution of stratified times; None is uniform.
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
    """Noise a batch and collect the inputs of the network.

    Args:
      schedule: the noise schedule.
      part: a batch of one kind of data.
      noising: times and noise of its images.

    Returns:
      "xt" (B, H, W, C), "t" (B,), and "cond" if the batch has it.
    """
    xt = q_sample(schedule, part["image"], noising.t, noising.eps)
    inputs = {"xt": xt, "t": noising.t}
    return inputs | {"cond": part["cond"]} if "cond" in part else inputs


def predict_together(score_fn: ScoreFn, params: Params, *parts: Part) -> list[jax.Array]:
    """Predict for several batches by one call of the network.

    The rows of the batches are interleaved as far as their numbers allow. Devices over which each
    batch is split then share the joint batch in the same way, and no row moves between them.

    Args:
      score_fn: the network.
      params: its parameters.
      *parts: batches from `network_inputs`; all with a condition or none.

    Returns:
      The prediction (B_i, H, W, C) of each batch.
    """
    count = math.gcd(*(len(part["t"]) for part in parts))

    def folded(array: jax.Array) -> jax.Array:
        return array.reshape(count, -1, *array.shape[1:])

    def unfolded(array: jax.Array) -> jax.Array:
        return array.reshape(-1, *array.shape[2:])

    def join(*arrays: jax.Array) -> jax.Array:
        return unfolded(jnp.concatenate([folded(array) for array in arrays], axis=1))

    joint = jax.tree.map(join, *parts)
    eps = folded(bind_condition(score_fn, joint)(params, joint["xt"], joint["t"]))
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
    """Noise-prediction error e(θ; x_0, t, ε) = mean over pixels of (ε_θ(x_t, t) − ε)².

    Ho et al. 2020, eq. 14 without the expectation.

    Args:
      score_fn: a network that predicts ε.
      params: its parameters.
      schedule: the noise schedule.
      x0: (B, H, W, C) in [-1, 1], clean images.
      noising: times and noise of each image.
      dropout_key: (B,) random keys, for a network with dropout; see `vdu_jax.types.ScoreFn`.

    Returns:
      (B,) errors.
    """
    xt = q_sample(schedule, x0, noising.t, noising.eps)
    prediction = score_fn(params, xt, noising.t, dropout_key=dropout_key)
    return jnp.square(prediction - noising.eps).mean(tuple(range(1, x0.ndim)))
