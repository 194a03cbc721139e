"""Erased Stable Diffusion, ESD (Gandikota et al. 2023, arXiv 2303.07345)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization, simple_error
from vdu_jax.posterior import Posterior
from vdu_jax.types import Batch, Batches, Metrics, Objective, Params, Part, ScoreFn

TEACHERS = ("fine_tuned", "condition")


class ESDState(NamedTuple):
    """State of ESD.

    Attributes:
      original: θ*, the parameters at the start.
      forget: θ* fine-tuned on D_f; None for the teacher "condition".
    """

    original: Params
    forget: Params | None


def esd(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    guidance: float = 1.0,
    teacher: str = "fine_tuned",
    teacher_steps: int = 100,
    teacher_learning_rate: float = 1e-4,
) -> Objective:
    """Erased Stable Diffusion, ESD (Gandikota et al. 2023, arXiv 2303.07345).

        L = E‖ε_θ(x_t, t) − [ε_θ* − η (ε_f − ε_θ*)](x_t, t)‖² (mean over pixels), x_t noised D_f

    The source erases a condition c (eq. 7): ε_θ and ε_f are the predictions of θ and θ* given c,
    and ε_θ* is that of θ* without c. For an unconditional network ε_f is the prediction of θ*
    after a short fine-tuning on D_f, which `init` does.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
      guidance: η ≥ 0, the strength of negative guidance; 1 in the source.
      teacher: what predicts ε_f: "fine_tuned", or "condition", the source's form, for a network
        conditioned on a text or class. "condition" needs "negative" beside "cond" in the forget
        data: the condition without the concept.
      teacher_steps: Adam steps of the fine-tuning, ≥ 1.
      teacher_learning_rate: learning rate of the fine-tuning, > 0.

    Raises:
      ValueError: for a setting out of range.
    """
    del posterior, num_forget
    if teacher not in TEACHERS:
        raise ValueError(f"unknown teacher {teacher!r}; one of {', '.join(TEACHERS)}")
    if guidance < 0 or teacher_steps < 1 or teacher_learning_rate <= 0:
        raise ValueError(
            f"guidance = {guidance} must be ≥ 0, teacher_steps = {teacher_steps} must be ≥ 1, "
            f"teacher_learning_rate = {teacher_learning_rate} must be > 0"
        )
    optimizer = optax.adam(teacher_learning_rate)
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    @jax.jit
    def teach(
        params: Params, opt_state: optax.OptState, part: Part, key: jax.Array
    ) -> tuple[Params, optax.OptState]:
        x0, bound = part["image"], process.bind_condition(score_fn, part)
        noising = process.draw_noising(key, schedule, x0)
        grads = jax.grad(lambda p: simple_error(bound, p, parameterization, x0, noising).mean())(
            params
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def init(params: Params, batches: Batches, key: jax.Array) -> ESDState:
        if teacher == "condition":
            return ESDState(params, None)
        tuned, opt_state = params, optimizer.init(params)
        for step in range(teacher_steps):
            part = next(batches["forget"])
            tuned, opt_state = teach(tuned, opt_state, part, jax.random.fold_in(key, step))
        return ESDState(params, tuned)

    def draw(key: jax.Array, batch: Batch) -> process.Noising:
        return process.draw_noising(key, schedule, batch["forget"]["image"])

    def loss(
        params: Params, state: ESDState, batch: Batch, noising: process.Noising
    ) -> tuple[jax.Array, Metrics]:
        x0 = batch["forget"]["image"]
        xt = process.q_sample(schedule, x0, noising.t, noising.eps)
        predict = process.bind_condition(predict_eps, batch["forget"])
        if teacher == "condition":
            negative = batch["forget"]["negative"]
            original = predict_eps(state.original, xt, noising.t, negative)
            forget = predict(state.original, xt, noising.t)
        else:
            original, forget = (predict(p, xt, noising.t) for p in state)
        target = jax.lax.stop_gradient(original - guidance * (forget - original))
        prediction = predict(params, xt, noising.t)
        forget_error = jnp.square(prediction - noising.eps).mean()
        weights = process.bcast(parameterization.simple_weights[noising.t], xt)
        return (weights * jnp.square(prediction - target)).mean(), {"forget_error": forget_error}

    return Objective(
        sees=frozenset({"forget"}),
        needs=frozenset(),
        init=init,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=teacher == "fine_tuned",
    )
