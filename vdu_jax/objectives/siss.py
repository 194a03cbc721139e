"""Subtracted importance sampled scores, SISS (Alberti et al. 2025, OpenReview SuHScQv5gP)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.posterior import Posterior
from vdu_jax.types import Batch, Metrics, Objective, Params, ScoreFn, no_state


class SISSNoise(NamedTuple):
    """Random numbers of a step.

    Attributes:
      noising: time and noise of each pair of a retained image x and a forget image a.
      from_forget: (B,) bool, True where m_t is noised from a.
    """

    noising: process.Noising
    from_forget: jax.Array


def siss(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    mixture: float = 0.5,
    share: float = 0.1,
) -> Objective:
    """Subtracted importance sampled scores, SISS (Alberti et al. 2025, OpenReview SuHScQv5gP).

        ∇L = ∇E[w_x ‖ε_θ(m_t, t) − ε_x‖²] − s ∇E[w_a ‖ε_θ(m_t, t) − ε_a‖²]

    x is a retained image, a a forget image. m_t is noised from a with probability λ, else from x.
    ε_x and ε_a are the noises that lead from x and from a to m_t. The importance weights
    w_x = q(m_t|x) / q_λ(m_t) and w_a = q(m_t|a) / q_λ(m_t) are those of the mixture
    q_λ = (1 − λ) q(·|x) + λ q(·|a) (eq. 10), so one evaluation of the network serves both terms.
    s gives the second gradient `share` times the norm of the first. The method needs the retained
    data.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
      mixture: λ in (0, 1); 0.5 in the source.
      share: norm of the forget gradient relative to the retain gradient, ≥ 0; the source recommends
        0.1.

    Raises:
      ValueError: for a setting out of range.
    """
    del posterior, num_forget
    if not 0 < mixture < 1 or share < 0:
        raise ValueError(f"mixture = {mixture} must lie in (0, 1), share = {share} must be ≥ 0")
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def draw(key: jax.Array, batch: Batch) -> SISSNoise:
        noise_key, choice_key = jax.random.split(key)
        a = batch["forget"]["image"]
        noising = process.draw_noising(noise_key, schedule, a)
        return SISSNoise(noising, jax.random.bernoulli(choice_key, mixture, (len(a),)))

    def loss(
        params: Params, state: tuple, batch: Batch, noise: SISSNoise
    ) -> tuple[jax.Array, Metrics]:
        del state
        noising, from_a = noise
        a = batch["forget"]["image"]
        retained = batch["retain"]["image"]
        x = retained[jnp.arange(len(a)) % len(retained)]
        source = jnp.where(process.bcast(from_a, a), a, x)
        predict = predict_eps
        if "cond" in batch["forget"]:
            of_a, of_x = (batch[kind]["cond"] for kind in ("forget", "retain"))
            of_x = of_x[jnp.arange(len(a)) % len(of_x)]
            cond = jnp.where(process.bcast(from_a, of_a), of_a, of_x)
            predict = process.bind_condition(predict_eps, {"cond": cond})
        mt = process.q_sample(schedule, source, noising.t, noising.eps)
        level = process.bcast(schedule.alphas_cumprod[noising.t], a)

        def noise_from(image: jax.Array) -> jax.Array:
            return (mt - jnp.sqrt(level) * image) / jnp.sqrt(1 - level)

        def log_density(eps: jax.Array) -> jax.Array:  # log q(m_t | image) up to a constant
            return -0.5 * jnp.square(eps).sum(tuple(range(1, a.ndim)))

        eps_x, eps_a = noise_from(x), noise_from(a)
        ratio = log_density(eps_a) - log_density(eps_x)
        # In this form an overflow of the exponential gives the weight 0, its limit.
        weight_x = 1 / (1 - mixture + mixture * jnp.exp(ratio))
        weight_a = 1 / ((1 - mixture) * jnp.exp(-ratio) + mixture)

        def terms(p: Params) -> tuple[jax.Array, jax.Array]:
            prediction = predict(p, mt, noising.t)
            axes = tuple(range(1, a.ndim))
            simple = parameterization.simple_weights[noising.t]
            error_x = simple * jnp.square(prediction - eps_x).mean(axes)
            error_a = simple * jnp.square(prediction - eps_a).mean(axes)
            # Where a weight is 0 its ε may be infinite, and 0 · ∞ would be NaN.
            return (
                jnp.where(weight_x > 0, weight_x * error_x, 0.0).mean(),
                jnp.where(weight_a > 0, weight_a * error_a, 0.0).mean(),
            )

        # vjp shares one forward pass between both gradients; no gradient flows through their norms.
        _, pull_back = jax.vjp(terms, jax.lax.stop_gradient(params))
        lengths = [optax.tree.norm(pull_back(which)) for which in ((1.0, 0.0), (0.0, 1.0))]
        scale = share * lengths[0] / jnp.maximum(lengths[1], 1e-12)
        keep, forget = terms(params)
        metrics = {"retain_error": keep, "forget_error": forget, "scale": scale}
        return keep - scale * forget, metrics

    return Objective(
        sees=frozenset({"forget", "retain"}),
        needs=frozenset(),
        init=no_state,
        draw=draw,
        loss=loss,
        is_mean=False,  # s depends on the gradients of the whole batch
        init_computes=False,
    )
