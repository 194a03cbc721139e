"""Pretraining: the noise-prediction loss of Ho et al. 2020 (arXiv 2006.11239)."""

import jax

from vdu_jax.diffusion import guidance, process
from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Objective, ScoreFn, no_state


def ddpm(
    score_fn: ScoreFn,
    schedule: Schedule,
    *,
    weighting: str = "simple",
    dropout: bool = False,
    drop_condition: float = 0.0,
    kind: str = "retain",
) -> Objective:
    """E w_t e(θ; x_0, t, ε) (Ho et al. 2020, eq. 14 for w_t = 1).

    Args:
      weighting: see `process.loss_weights`.
      dropout: draw dropout masks; for networks with a dropout rate above 0.
      drop_condition: share of images that are seen without their condition, in [0, 1]; see
        `guidance.drop_condition`.
      kind: the data that it sees. Before anything is to be forgotten, "retain" is the whole
        training set.
    """
    weights = process.loss_weights(schedule, weighting)

    def loss(params, state, batch, key):
        del state
        part, x0 = batch[kind], batch[kind]["image"]
        noise_key, dropout_key = jax.random.split(key)
        if drop_condition > 0:
            noise_key, drop_key = jax.random.split(noise_key)
            part = guidance.drop_condition(drop_key, part, drop_condition)
        noising = process.draw_noising(noise_key, schedule, x0)
        error = process.eps_error(
            process.bind_condition(score_fn, part),
            params,
            schedule,
            x0,
            noising,
            dropout_key=dropout_key if dropout else None,
        )
        return (weights[noising.t] * error).mean(), {"error": error.mean()}

    return Objective(frozenset({kind}), no_state, loss)
