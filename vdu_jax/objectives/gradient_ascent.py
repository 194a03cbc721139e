"""Gradient ascent on the forget data, also called NegGrad."""

import jax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.posterior import Posterior
from vdu_jax.types import Batch, Metrics, Objective, Params, ScoreFn, no_state


def gradient_ascent(
    score_fn: ScoreFn, parameterization: Parameterization, posterior: Posterior, num_forget: int
) -> Objective:
    """L = −E e(θ; x_0, t, ε), x_0 from D_f: the training loss with its sign turned.

    The usual baseline, NegGrad in Alberti et al. 2025 (OpenReview SuHScQv5gP). Nothing bounds it or
    keeps the rest: see `runtime.fit.Guard`.
    """
    del posterior, num_forget
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def draw(key: jax.Array, batch: Batch) -> process.Noising:
        return process.draw_noising(key, schedule, batch["forget"]["image"])

    def loss(
        params: Params, state: tuple, batch: Batch, noising: process.Noising
    ) -> tuple[jax.Array, Metrics]:
        del state
        x0 = batch["forget"]["image"]
        error = process.eps_error(
            process.bind_condition(predict_eps, batch["forget"]), params, schedule, x0, noising
        )
        ascent = (parameterization.simple_weights[noising.t] * error).mean()
        return -ascent, {"forget_error": error.mean()}

    return Objective(
        sees=frozenset({"forget"}),
        needs=frozenset(),
        init=no_state,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=False,
    )
