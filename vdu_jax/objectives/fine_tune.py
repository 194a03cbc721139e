"""Fine-tuning on the retained data, and nothing else."""

from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.ddpm import ddpm
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, ScoreFn


def fine_tune(
    score_fn: ScoreFn, parameterization: Parameterization, posterior: Posterior, num_forget: int
) -> Objective:
    """L = E e(θ; x_0, t, ε), x_0 from D_r: training goes on without the forget data.

    The usual baseline. It needs the retained data, so it is outside the data-constrained setting.
    """
    del posterior, num_forget
    return ddpm(score_fn, parameterization)
