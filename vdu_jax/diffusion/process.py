"""The forward process and the noise-prediction error."""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Params, ScoreFn

WEIGHTINGS = ("simple", "exact")


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


def noise_predictor(score_fn: ScoreFn, schedule: Schedule, prediction: str) -> ScoreFn:
    """The `ScoreFn`, which predicts ε, of a network that predicts "epsilon" or "v_prediction".

    v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans and Ho 2022, arXiv 2202.00512, sec. 4), hence
    ε = √ᾱ_t v + √(1 − ᾱ_t) x_t. At high noise ε is nearly x_t, and what is left of the image is in
    the last digits of a predicted ε; of a predicted v it is nearly all.
    """
    if prediction == "epsilon":
        return score_fn

    def predict(params, xt, t, cond=None, *, dropout_key=None):
        v = score_fn(params, xt, t, cond, dropout_key=dropout_key)
        a = bcast(schedule.alphas_cumprod[t], xt)
        return jnp.sqrt(a) * v + jnp.sqrt(1 - a) * xt

    return predict


def bind_condition(score_fn: ScoreFn, part: Mapping[str, jax.Array]) -> ScoreFn:
    """The score function with the condition of a part of a batch, if it has one.

    Args:
      part: {"image", …} of one kind of data; "cond" (B, …) is what its images come with.
    """
    if "cond" not in part:
        return score_fn
    return functools.partial(score_fn, cond=part["cond"])


def loss_weights(schedule: Schedule, weighting: str = "simple") -> jax.Array:
    """w_t of the evidence bound, (T,).

    "simple": the schedule's `simple_weights`, so 1 for a network that predicts ε (Ho et al. 2020,
    eq. 14). "exact": β_t² / (2 σ_t² α_t (1 − ᾱ_t)) with σ_t² = β̃_t
    (eq. 12), the factor of the *summed* squared error in the bound. At t = 0, where β̃_0 = 0, σ_0²
    is β̃_1, as in the code of Ho et al.

    Raises:
      ValueError: for an unknown weighting.
    """
    if weighting == "simple":
        return schedule.simple_weights
    if weighting != "exact":
        raise ValueError(f"unknown weighting {weighting!r}; one of {', '.join(WEIGHTINGS)}")
    variance = jnp.concatenate([schedule.posterior_variance[1:2], schedule.posterior_variance[1:]])
    # 1 − ᾱ from the betas: as a difference from the float32 ᾱ_0 = 0.9999 it keeps only 4 digits.
    level = -jnp.expm1(jnp.cumsum(jnp.log1p(-schedule.betas)))
    return schedule.betas**2 / (2 * variance * (1 - schedule.betas) * level)


def relabelled_error(
    score_fn: ScoreFn, params: Params, schedule: Schedule, x0: jax.Array, noising, target: jax.Array
) -> jax.Array:
    """How far the network is from denoising x_t, noised from x0, to another image: (B,).

    The mean over pixels of (ε_θ(x_t, t) − ε')², where ε' = (x_t − √ᾱ_t target) / √(1 − ᾱ_t) is the
    noise that would lead from the target to x_t, weighted as the simple loss; but where ε' can be
    arbitrarily large, at low noise, the squared error of the predicted image counts instead.

    Args:
      x0, target: (B, H, W, C) in [-1, 1].
    """
    xt = q_sample(schedule, x0, noising.t, noising.eps)
    a = schedule.alphas_cumprod[noising.t]
    prediction = score_fn(params, xt, noising.t)
    gap = predict_x0(schedule, xt, noising.t, prediction) - target
    # ‖ε_θ − ε'‖² = ᾱ/(1 − ᾱ) ‖x̂_0 − target‖².
    factor = jnp.minimum(1.0, schedule.simple_weights[noising.t] * a / (1 - a))
    return factor * jnp.square(gap).mean(tuple(range(1, x0.ndim)))


class Noising(NamedTuple):
    """One draw of times and noise: t (B,) int32, eps (B, H, W, C)."""

    t: jax.Array
    eps: jax.Array


def draw_noising(
    key: chex.PRNGKey, schedule: Schedule, x0: jax.Array, stratified: bool = False
) -> Noising:
    """t uniform in [0, T) and ε ~ N(0, I) for each image of x0 (B, H, W, C).

    Stratified times lie T/B apart, in a random order and with a common random shift: each is still
    uniform, and a mean over the batch varies less (Kingma et al. 2021, arXiv 2107.00630, sec. I.1).
    """
    t_key, eps_key = jax.random.split(key)
    count = len(x0)
    eps = jax.random.normal(eps_key, x0.shape, x0.dtype)
    if not stratified:
        return Noising(jax.random.randint(t_key, (count,), 0, schedule.num_steps), eps)
    shift_key, order_key = jax.random.split(t_key)
    places = (jax.random.uniform(shift_key) + jnp.arange(count) / count) % 1.0
    t = (jax.random.permutation(order_key, places) * schedule.num_steps).astype(jnp.int32)
    return Noising(jnp.minimum(t, schedule.num_steps - 1), eps)


def network_inputs(
    schedule: Schedule, part: Mapping[str, jax.Array], noising: Noising
) -> dict[str, jax.Array]:
    """What the network is told of a part of a batch: "xt" (B, H, W, C), "t" (B,), and "cond"."""
    xt = q_sample(schedule, part["image"], noising.t, noising.eps)
    told = {"xt": xt, "t": noising.t}
    return told | {"cond": part["cond"]} if "cond" in part else told


def predict_together(
    score_fn: ScoreFn, params: Params, *parts: Mapping[str, jax.Array]
) -> list[jax.Array]:
    """ε_θ(x_t, t) of each part, by one call of the network.

    The parts' rows alternate in it as their numbers allow: devices that share each part's batch
    share the whole alike, and nothing moves between them.

    Args:
      parts: from `network_inputs`; with a condition all or none.
    """
    count = math.gcd(*(len(part["t"]) for part in parts))

    def folded(array):
        return array.reshape(count, -1, *array.shape[1:])

    def unfolded(array):
        return array.reshape(-1, *array.shape[2:])

    def join(*arrays):
        return unfolded(jnp.concatenate([folded(array) for array in arrays], axis=1))

    whole = jax.tree.map(join, *parts)
    eps = folded(bind_condition(score_fn, whole)(params, whole["xt"], whole["t"]))
    ends = itertools.accumulate(len(part["t"]) // count for part in parts[:-1])
    return [unfolded(found) for found in jnp.split(eps, list(ends), axis=1)]


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


def simple_error(
    score_fn: ScoreFn, params: Params, schedule: Schedule, x0: jax.Array, noising: Noising
) -> jax.Array:
    """`eps_error` in the units of what the network predicts, the terms of the simple loss: (B,)."""
    error = eps_error(score_fn, params, schedule, x0, noising)
    return schedule.simple_weights[noising.t] * error
