"""Training from scratch without the forget data: the gold standard of unlearning."""

from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.fine_tune import fine_tune
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, ScoreFn


def retrain(
    score_fn: ScoreFn, parameterization: Parameterization, posterior: Posterior, num_forget: int
) -> Objective:
    """The loss of `fine_tune`, but from fresh parameters, with all settings of `config.train`.

    An objective does not choose where it starts; `stages.unlearn` does so for this one.
    """
    return fine_tune(score_fn, parameterization, posterior, num_forget)
