"""Distilling the score of the retained data into the network, from D_f alone. Ours.

`demixing` has the derivation: with w(x_t) the probability that x_t was noised from the forget data,

    ε_r = ε_θ* + c,   c = w (ε_r − ε_f)

is what a model of the retained data alone would predict, and c has a closed form over D_f and
cleaned replay. Using ε_θ* + c while sampling needs no training: see Safe Denoiser (Kim et al. 2025,
arXiv 2502.08011) and, for a classifier's w, Dynamic Negative Guidance (Koulischer et al. 2024,
arXiv 2410.14398) and Discriminator Guidance (Kim et al. 2023, arXiv 2211.17091). Here the corrected
prediction is distilled into the weights, so that sampling costs what it did and D_f can be deleted.

The target is ε_θ* + c wherever x_t lies: at noised D_f *and* at noised replay. `demixing` asks for
ε_θ* at replay, which contradicts the correction wherever w is neither 0 nor 1, and those are the
times at which a sample's class is decided.
"""

import numpy as np

from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.demixing import distil
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, ScoreFn

# p(t) ∝ FLOOR + PEAK exp(−½ ((t/T − ½) / WIDTH)²)
FLOOR, PEAK, WIDTH = 0.25, 1.5, 0.15


def time_density(num_steps: int) -> np.ndarray:
    """(T,) unnormalised density of the times of the loss.

    c is 0 at high noise, where both parts of the mixture look alike, and at low noise, where w is 0
    or 1 and D_f is far from what is drawn; it is learned in between.
    """
    away = (np.arange(num_steps) / num_steps - 0.5) / WIDTH
    return FLOOR + PEAK * np.exp(-0.5 * away**2)


def retained_score(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    forget_share: float = 0.0,
    reference_images: int = 1000,
    replay_weight: float = 1.5,
    gamma: float = 0.0,
    anchor: str = "pretrained",
    drop_condition: float = 0.0,
) -> Objective:
    """L = E v_t ‖ε_θ − (ε_θ* + c)‖²(x_t) + λ E‖ε_θ − (ε_θ* + c)‖²(x'_t) + γ S(θ).

    x_t is noised D_f and x'_t noised replay, at stratified times of `time_density`. v_t, ‖·‖² and S
    are those of `demixing`.

    Where images come with a condition, it says which part x_t is of: w is 1 for D_f and 0 for
    replay, so that what is asked for with a forgotten condition is drawn as any retained image.
    Kernels decide w for the images that are seen without it.

    Args:
      forget_share: π, the share of the model's samples that is forget-like, in (0, 1); 0 for the
        share that the cleaning of replay found (the stage fills it in).
      reference_images: how many images, at most, stand for p_f and for p_r.
      replay_weight: λ ≥ 0.
      gamma: γ ≥ 0, weight of the stability term.
      anchor: "mean" or "pretrained", as for `vdu`.
      drop_condition: share of the images that are seen without their condition, in [0, 1]; only for
        networks that know a condition.

    Raises:
      ValueError: for a setting out of range.
    """
    density = time_density(parameterization.schedule.num_steps)
    return distil(
        score_fn,
        parameterization,
        posterior,
        num_forget,
        forget_share=forget_share,
        reference_images=reference_images,
        replay_weight=replay_weight,
        gamma=gamma,
        anchor=anchor,
        density=density,
        everywhere=True,
        drop_condition=drop_condition,
    )
