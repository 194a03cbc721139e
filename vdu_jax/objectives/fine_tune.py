"""Fine-tuning on the retained data, a baseline."""

from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.ddpm import ddpm
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, ScoreFn


def fine_tune(
    score_fn: ScoreFn, parameterization: Parameterization, posterior: Posterior, num_forget: int
) -> Objective:
    """Fine-tuning: the training loss L = E e(θ; x_0, t, ε) with x_0 from D_r alone.

    A common baseline. It needs the retained data, so it is outside the data-constrained setting.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
    """
    del posterior, num_forget
    return ddpm(score_fn, parameterization)
