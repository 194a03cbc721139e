"""What a network predicts, and how that becomes ε, x_0 and a weight of the loss.

A `Parameterization` belongs to a schedule and is the one place where the kind of a prediction is
said: whoever takes one takes the network as it is, and converts what the network gives through it.
Everything else works with predictors of ε.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import process
from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Params, ScoreFn

WEIGHTINGS = ("simple", "exact")


class Parameterization(NamedTuple):
    """What the output of a network means at the noise levels of a schedule.

    Attributes:
      schedule: of the forward process.
      eps: `(output, xt, t) -> ε`, the noise in x_t that an output of the network says; all
        (B, H, W, C), t (B,) integers in [0, T).
      simple_weights: (T,) float32, what turns the squared error of ε into that of the network's own
        output, as the simple loss takes it (Ho et al. 2020, eq. 14).
    """

    schedule: Schedule
    eps: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    simple_weights: jax.Array

    def x0(self, output: jax.Array, xt: jax.Array, t: jax.Array) -> jax.Array:
        """The image behind `xt` that an output says."""
        return process.predict_x0(self.schedule, xt, t, self.eps(output, xt, t))

    def noise_predictor(self, score_fn: ScoreFn) -> ScoreFn:
        """The network as a predictor of ε."""

        def predict(
            params: Params, xt: jax.Array, t: jax.Array, *cond: Any, **given: Any
        ) -> jax.Array:
            return self.eps(score_fn(params, xt, t, *cond, **given), xt, t)

        return predict


def epsilon(schedule: Schedule) -> Parameterization:
    """The network predicts ε (Ho et al. 2020, arXiv 2006.11239); its errors weigh 1."""
    weights = jnp.ones_like(schedule.alphas_cumprod)
    return Parameterization(schedule, lambda output, xt, t: output, weights)


def v_prediction(schedule: Schedule) -> Parameterization:
    """The network predicts v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans and Ho 2022, arXiv 2202.00512).

    Hence (sec. 4 there) ε = √ᾱ_t v + √(1 − ᾱ_t) x_t, and an error of v is 1/√ᾱ_t times that of ε.
    At high noise ε is nearly x_t, and what is left of the image is in the last digits of a
    predicted ε; of a predicted v it is nearly all.
    """

    def eps(v: jax.Array, xt: jax.Array, t: jax.Array) -> jax.Array:
        a = process.bcast(schedule.alphas_cumprod[t], xt)
        return jnp.sqrt(a) * v + jnp.sqrt(1 - a) * xt

    return Parameterization(schedule, eps, schedule.inverse_alphas_cumprod)


PARAMETERIZATIONS = {"epsilon": epsilon, "v_prediction": v_prediction}
"""By the names that configs and diffusers' `prediction_type` have for them."""


def make_parameterization(name: str, schedule: Schedule) -> Parameterization:
    """A named parameterization of a schedule.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in PARAMETERIZATIONS:
        raise ValueError(f"unknown prediction {name!r}; one of {', '.join(PARAMETERIZATIONS)}")
    return PARAMETERIZATIONS[name](schedule)


def loss_weights(parameterization: Parameterization, weighting: str = "simple") -> jax.Array:
    """w_t of the squared error of ε, (T,).

    "simple": the parameterization's `simple_weights`. "exact": `process.exact_weights`, those of
    the evidence bound, whatever the network predicts.

    Raises:
      ValueError: for an unknown weighting.
    """
    if weighting == "simple":
        return parameterization.simple_weights
    if weighting != "exact":
        raise ValueError(f"unknown weighting {weighting!r}; one of {', '.join(WEIGHTINGS)}")
    return process.exact_weights(parameterization.schedule)


def simple_error(
    score_fn: ScoreFn,
    params: Params,
    parameterization: Parameterization,
    x0: jax.Array,
    noising: process.Noising,
) -> jax.Array:
    """The squared error of what the network predicts, the terms of the simple loss: (B,)."""
    predict = parameterization.noise_predictor(score_fn)
    error = process.eps_error(predict, params, parameterization.schedule, x0, noising)
    return parameterization.simple_weights[noising.t] * error


def relabelled_error(
    score_fn: ScoreFn,
    params: Params,
    parameterization: Parameterization,
    x0: jax.Array,
    noising: process.Noising,
    target: jax.Array,
) -> jax.Array:
    """How far the network is from denoising x_t, noised from x0, to another image: (B,).

    The mean over pixels of (ε_θ(x_t, t) − ε')², where ε' = (x_t − √ᾱ_t target) / √(1 − ᾱ_t) is the
    noise that would lead from the target to x_t, weighted as the simple loss; but where ε' can be
    arbitrarily large, at low noise, the squared error of the predicted image counts instead.

    Args:
      x0, target: (B, H, W, C) in [-1, 1].
    """
    schedule, t = parameterization.schedule, noising.t
    xt = process.q_sample(schedule, x0, t, noising.eps)
    a = schedule.alphas_cumprod[t]
    gap = parameterization.x0(score_fn(params, xt, t), xt, t) - target
    # ‖ε_θ − ε'‖² = ᾱ/(1 − ᾱ) ‖x̂_0 − target‖².
    factor = jnp.minimum(1.0, parameterization.simple_weights[t] * a / (1 - a))
    return factor * jnp.square(gap).mean(tuple(range(1, x0.ndim)))
