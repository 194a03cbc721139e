"""Gradient ascent on the forget data (NegGrad), a baseline."""

import jax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.posterior import Posterior
from vdu_jax.types import Batch, Metrics, Objective, Params, ScoreFn, no_state


def gradient_ascent(
    score_fn: ScoreFn, parameterization: Parameterization, posterior: Posterior, num_forget: int
) -> Objective:
    """Gradient ascent: the negative training loss L = −E e(θ; x_0, t, ε) with x_0 from D_f.

    A common baseline, NegGrad in Alberti et al. 2025 (OpenReview SuHScQv5gP). The loss has no lower
    bound and no term that keeps the other images; `runtime.fit.Guard` stops a diverging run.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
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
