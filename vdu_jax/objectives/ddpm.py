"""Pretraining by the noise-prediction loss of Ho et al. 2020 (arXiv 2006.11239)."""

from typing import NamedTuple

import jax

from vdu_jax.diffusion import guidance, process
from vdu_jax.diffusion.parameterization import Parameterization, loss_weights
from vdu_jax.types import Batch, Metrics, Objective, Params, ScoreFn, no_state


class DDPMNoise(NamedTuple):
    """Random numbers of a training step.

    Attributes:
      noising: times and noise of each image.
      dropped: (B,) bool, the images whose condition is dropped; None if none ever is.
      dropout_key: (B,) random keys of the network's dropout; None without dropout.
    """

    noising: process.Noising
    dropped: jax.Array | None
    dropout_key: jax.Array | None


def ddpm(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    *,
    weighting: str = "simple",
    dropout: bool = False,
    drop_condition: float = 0.0,
    kind: str = "retain",
) -> Objective:
    """Noise-prediction loss L = E w_t e(θ; x_0, t, ε) (Ho et al. 2020, eq. 14 for w_t = 1).

    e is `process.eps_error`, the mean over pixels of the squared error of ε.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      weighting: w_t, "simple" or "exact", see `parameterization.loss_weights`.
      dropout: draw dropout masks; for networks with a dropout rate above 0.
      drop_condition: share of images whose condition is dropped, in [0, 1]; see
        `guidance.drop_condition`.
      kind: the data to train on, one of `types.KINDS`. As long as nothing is to be forgotten,
        "retain" is the whole training set.

    Raises:
      ValueError: for an unknown weighting.
    """
    weights = loss_weights(parameterization, weighting)
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def draw(key: jax.Array, batch: Batch) -> DDPMNoise:
        x0 = batch[kind]["image"]
        noise_key, dropout_key = jax.random.split(key)
        noise_key, dropped = guidance.draw_dropped(noise_key, drop_condition, len(x0))
        noising = process.draw_noising(noise_key, schedule, x0)
        dropout_keys = jax.random.split(dropout_key, len(x0)) if dropout else None
        return DDPMNoise(noising, dropped, dropout_keys)

    def loss(
        params: Params, state: tuple, batch: Batch, noise: DDPMNoise
    ) -> tuple[jax.Array, Metrics]:
        del state
        part, noising = guidance.drop_condition(batch[kind], noise.dropped), noise.noising
        error = process.eps_error(
            process.bind_condition(predict_eps, part),
            params,
            schedule,
            part["image"],
            noising,
            dropout_key=noise.dropout_key,
        )
        return (weights[noising.t] * error).mean(), {"error": error.mean()}

    return Objective(
        sees=frozenset({kind}),
        needs=frozenset(),
        init=no_state,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=False,
    )
