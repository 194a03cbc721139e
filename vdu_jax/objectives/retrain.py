"""Retraining from scratch without the forget data, the gold standard of unlearning."""

from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.fine_tune import fine_tune
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, ScoreFn


def retrain(
    score_fn: ScoreFn, parameterization: Parameterization, posterior: Posterior, num_forget: int
) -> Objective:
    """Retraining: the loss of `fine_tune`, from newly initialised parameters.

    An objective does not choose its initial parameters. `stages.unlearn` initialises them for this
    one and takes all settings of `config.train`.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
    """
    return fine_tune(score_fn, parameterization, posterior, num_forget)
