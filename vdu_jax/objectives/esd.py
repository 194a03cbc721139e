"""Erased Stable Diffusion (Gandikota et al. 2023, arXiv 2303.07345), for an unconditional model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, Params, ScoreFn


class ESDState(NamedTuple):
    """original: θ*. forget: θ_f, the original fine-tuned on D_f."""

    original: Params
    forget: Params


def esd(
    score_fn: ScoreFn,
    schedule: Schedule,
    posterior: Posterior,
    num_forget: int,
    *,
    guidance: float = 1.0,
    teacher_steps: int = 100,
    teacher_learning_rate: float = 1e-4,
) -> Objective:
    """L = E‖ε_θ(x_t, t) − [ε_θ* − η (ε_f − ε_θ*)](x_t, t)‖² (mean over pixels), x_t noised D_f.

    The source erases a text's concept: ε_f is there the network's own prediction given the text
    (eq. 7). An unconditional network has none, so ε_f is that of θ* fine-tuned briefly on D_f,
    prepared by `init`.

    Args:
      guidance: η ≥ 0, the source's negative guidance (1 there).
      teacher_steps, teacher_learning_rate: of that fine-tuning, with Adam.

    Raises:
      ValueError: for a setting out of range.
    """
    del posterior, num_forget
    if guidance < 0 or teacher_steps < 1 or teacher_learning_rate <= 0:
        raise ValueError("guidance must be ≥ 0, teacher_steps ≥ 1, teacher_learning_rate > 0")
    optimizer = optax.adam(teacher_learning_rate)

    @jax.jit
    def teach(params, opt_state, x0, key):
        noising = process.draw_noising(key, schedule, x0)
        grads = jax.grad(lambda p: process.simple_error(score_fn, p, schedule, x0, noising).mean())(
            params
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def init(params, batches, key):
        teacher, opt_state = params, optimizer.init(params)
        for step in range(teacher_steps):
            x0 = next(batches["forget"])["image"]
            teacher, opt_state = teach(teacher, opt_state, x0, jax.random.fold_in(key, step))
        return ESDState(jax.tree.map(jnp.copy, params), teacher)

    def loss(params, state, batch, key):
        x0 = batch["forget"]["image"]
        noising = process.draw_noising(key, schedule, x0)
        xt = process.q_sample(schedule, x0, noising.t, noising.eps)
        original, forget = (score_fn(p, xt, noising.t) for p in state)
        target = jax.lax.stop_gradient(original - guidance * (forget - original))
        prediction = score_fn(params, xt, noising.t)
        forget_error = jnp.square(prediction - noising.eps).mean()
        weights = process.bcast(schedule.simple_weights[noising.t], xt)
        return (weights * jnp.square(prediction - target)).mean(), {"forget_error": forget_error}

    return Objective(frozenset({"forget"}), init, loss)
