"""EraseDiff (Wu et al. 2024, arXiv 2401.05779)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization, simple_error
from vdu_jax.posterior import Posterior
from vdu_jax.types import Batch, Metrics, Objective, Params, ScoreFn, no_state


class EraseDiffNoise(NamedTuple):
    """Random numbers of a step.

    Attributes:
      retain: times and noise of each retained image.
      forget: times and noise of each forget image.
      target: u, (B, H, W, C) uniform in [0, 1).
    """

    retain: process.Noising
    forget: process.Noising
    target: jax.Array


def multiplier(retain_grad: Params, forget_grad: Params, strength: float) -> jax.Array:
    """Weight of the forget loss, λ = max(0, (η‖∇g‖² − ∇f·∇g) / ‖∇g‖²).

    It is the least weight with which a step along −(∇f + λ ∇g) also lowers g, at the rate η.

    Args:
      retain_grad: ∇f, the gradient of the retain loss.
      forget_grad: ∇g, the gradient of the forget loss, the same structure.
      strength: η > 0.

    Returns:
      λ, () float32.
    """
    squared = optax.tree.vdot(forget_grad, forget_grad)
    aligned = optax.tree.vdot(retain_grad, forget_grad)
    return jnp.maximum(0.0, (strength * squared - aligned) / jnp.maximum(squared, 1e-12))


def erase_diff(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    strength: float = 1.0,
) -> Objective:
    """EraseDiff (Wu et al. 2024, arXiv 2401.05779). It needs the retained data.

        L = E e(θ; x_r) + λ E‖ε_θ(x_t, t) − u‖², with x_t noised D_f and u uniform in [0, 1]

    The network learns to predict uniform noise for the forget data, given their condition if they
    have one, while it still learns the retained data. λ comes from the alignment of the two
    gradients at every step (`multiplier`). The source's inner loop, which estimates a lower bound
    of the forget loss, is left out, for that bound has no gradient of its own.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
      strength: η > 0, the rate at which the forget loss falls.

    Raises:
      ValueError: for a setting out of range.
    """
    del posterior, num_forget
    if strength <= 0:
        raise ValueError(f"strength must be > 0, not {strength}")
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def draw(key: jax.Array, batch: Batch) -> EraseDiffNoise:
        retain_key, forget_key, target_key = jax.random.split(key, 3)
        retained, x0 = batch["retain"]["image"], batch["forget"]["image"]
        return EraseDiffNoise(
            process.draw_noising(retain_key, schedule, retained),
            process.draw_noising(forget_key, schedule, x0),
            jax.random.uniform(target_key, x0.shape),
        )

    def loss(
        params: Params, state: tuple, batch: Batch, noise: EraseDiffNoise
    ) -> tuple[jax.Array, Metrics]:
        del state
        retained, x0 = batch["retain"]["image"], batch["forget"]["image"]
        kept, noising, target = noise
        xt = process.q_sample(schedule, x0, noising.t, noising.eps)
        retained_fn = process.bind_condition(score_fn, batch["retain"])
        predict = process.bind_condition(predict_eps, batch["forget"])
        weights = process.bcast(parameterization.simple_weights[noising.t], x0)

        def retain_loss(p: Params) -> jax.Array:
            return simple_error(retained_fn, p, parameterization, retained, kept).mean()

        def forget_loss(p: Params) -> jax.Array:
            return (weights * jnp.square(predict(p, xt, noising.t) - target)).mean()

        fixed = jax.lax.stop_gradient(params)  # no gradient through the weight
        weight = multiplier(jax.grad(retain_loss)(fixed), jax.grad(forget_loss)(fixed), strength)
        retain, forget = retain_loss(params), forget_loss(params)
        metrics = {"retain_error": retain, "erasure_error": forget, "multiplier": weight}
        return retain + weight * forget, metrics

    return Objective(
        sees=frozenset({"forget", "retain"}),
        needs=frozenset(),
        init=no_state,
        draw=draw,
        loss=loss,
        is_mean=False,  # λ depends on the gradients of the whole batch
        init_computes=False,
    )
