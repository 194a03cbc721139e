"""Parameterizations: what a network predicts (ε or v), and its conversion to ε and x_0.

A `Parameterization` belongs to a noise schedule. A function that takes one also takes the network
as it is, and converts the network's output. All other functions take a predictor of ε.
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
    """What a network's output means at the noise levels of a schedule.

    Attributes:
      schedule: the noise schedule of the forward process.
      eps: `(output, xt, t) -> ε`, the noise in x_t according to the network's output. `output`,
        `xt` and ε are (B, H, W, C), t is (B,) integers in [0, T).
      simple_weights: (T,) float32, the factor from the squared error of ε to the squared error of
        the network's own output, which the simple loss takes (Ho et al. 2020, eq. 14).
    """

    schedule: Schedule
    eps: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    simple_weights: jax.Array

    def x0(self, output: jax.Array, xt: jax.Array, t: jax.Array) -> jax.Array:
        """Predict the clean image (B, H, W, C) from the network's output.

        Args:
          output: (B, H, W, C), the network's output at `xt` and `t`.
          xt: (B, H, W, C), noised images.
          t: (B,) integers in [0, T).
        """
        return process.predict_x0(self.schedule, xt, t, self.eps(output, xt, t))

    def noise_predictor(self, score_fn: ScoreFn) -> ScoreFn:
        """Turn the network into a predictor of ε with the same arguments."""

        def predict(
            params: Params, xt: jax.Array, t: jax.Array, *cond: Any, **given: Any
        ) -> jax.Array:
            return self.eps(score_fn(params, xt, t, *cond, **given), xt, t)

        return predict


def epsilon(schedule: Schedule) -> Parameterization:
    """Parameterization of a network that predicts ε (Ho et al. 2020, arXiv 2006.11239).

    Args:
      schedule: the noise schedule.
    """
    weights = jnp.ones_like(schedule.alphas_cumprod)
    return Parameterization(schedule, lambda output, xt, t: output, weights)


def v_prediction(schedule: Schedule) -> Parameterization:
    """Parameterization of a network that predicts v = √ᾱ_t ε − √(1 − ᾱ_t) x_0.

    Hence ε = √ᾱ_t v + √(1 − ᾱ_t) x_t, and an error of v is 1/√ᾱ_t times that of ε (Salimans and Ho
    2022, arXiv 2202.00512, sec. 4). At high noise v is nearly −x_0, whereas a predicted ε is nearly
    x_t and has the image in its last digits only.

    Args:
      schedule: the noise schedule.
    """

    def eps(v: jax.Array, xt: jax.Array, t: jax.Array) -> jax.Array:
        a = process.bcast(schedule.alphas_cumprod[t], xt)
        return jnp.sqrt(a) * v + jnp.sqrt(1 - a) * xt

    return Parameterization(schedule, eps, schedule.inverse_alphas_cumprod)


PARAMETERIZATIONS = {"epsilon": epsilon, "v_prediction": v_prediction}
"""Parameterizations by their names in configs and in diffusers' `prediction_type`."""


def make_parameterization(name: str, schedule: Schedule) -> Parameterization:
    """Make a parameterization by name.

    Args:
      name: "epsilon" or "v_prediction".
      schedule: the noise schedule.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in PARAMETERIZATIONS:
        raise ValueError(f"unknown prediction {name!r}; one of {', '.join(PARAMETERIZATIONS)}")
    return PARAMETERIZATIONS[name](schedule)


def loss_weights(parameterization: Parameterization, weighting: str = "simple") -> jax.Array:
    """Loss weights w_t of the squared error of ε.

    Args:
      parameterization: the network's parameterization.
      weighting: "simple" for its `simple_weights`; "exact" for `process.exact_weights`, those of
        the evidence bound, whatever the network predicts.

    Returns:
      (T,) float32.

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
    """Squared error of the network's own output, the term of the simple loss.

    Args:
      score_fn: the network.
      params: its parameters.
      parameterization: its parameterization.
      x0: (B, H, W, C) in [-1, 1], clean images.
      noising: times and noise of each image.

    Returns:
      (B,) means over pixels (Ho et al. 2020, eq. 14 without the expectation).
    """
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
    """Error of denoising x_t, noised from x_0, to another image.

    It is the mean over pixels of (ε_θ(x_t, t) − ε')², weighted as the simple loss, where
    ε' = (x_t − √ᾱ_t target) / √(1 − ᾱ_t) is the noise that leads from the target to x_t. At low
    noise ε' can be arbitrarily large; there the squared error of the predicted image counts
    instead.

    Args:
      score_fn: the network.
      params: its parameters.
      parameterization: its parameterization.
      x0: (B, H, W, C) in [-1, 1], the images that are noised.
      noising: times and noise of each image.
      target: (B, H, W, C) in [-1, 1], the images that the network is to denoise to.

    Returns:
      (B,) weighted squared errors.
    """
    schedule, t = parameterization.schedule, noising.t
    xt = process.q_sample(schedule, x0, t, noising.eps)
    a = schedule.alphas_cumprod[t]
    gap = parameterization.x0(score_fn(params, xt, t), xt, t) - target
    # ‖ε_θ − ε'‖² = ᾱ/(1 − ᾱ) ‖x̂_0 − target‖².
    factor = jnp.minimum(1.0, parameterization.simple_weights[t] * a / (1 - a))
    return factor * jnp.square(gap).mean(tuple(range(1, x0.ndim)))
