"""Distil the score of the retained data into the network, from D_f alone. A method of ours.

A model of the retained data alone would predict

    ε_r = ε_θ* + c,   c = w (ε_r − ε_f),

where w(x_t) is the probability that x_t was noised from the forget data (`demixing` derives it). c
has a closed form over D_f and cleaned replay. Sampling with ε_θ* + c needs no training: see Safe
Denoiser (Kim et al. 2025, arXiv 2502.08011) and, with w from a classifier, Dynamic Negative
Guidance (Koulischer et al. 2024, arXiv 2410.14398) and Discriminator Guidance (Kim et al. 2023,
arXiv 2211.17091). This method distils the corrected prediction into the weights: sampling costs no
more than before, and D_f can be deleted.

The target is ε_θ* + c at noised D_f *and* at noised replay. `demixing` has the target ε_θ* at
replay. That contradicts the correction wherever w is neither 0 nor 1, which are the times at which
the class of a sample is decided.
"""

import numpy as np

from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.demixing import distil
from vdu_jax.posterior import Posterior
from vdu_jax.types import Objective, ScoreFn

# p(t) ∝ FLOOR + PEAK exp(−½ ((t/T − ½) / WIDTH)²)
FLOOR, PEAK, WIDTH = 0.25, 1.5, 0.15


def time_density(num_steps: int) -> np.ndarray:
    """Unnormalised distribution of the times of the loss, with its peak at T/2.

    The correction c is 0 at high noise, where both parts of the mixture look alike, and at low
    noise, where w is 0 or 1 and samples are far from D_f. It is learned in between.

    Args:
      num_steps: T.

    Returns:
      (T,) positive weights.
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
    """Distil the score of the retained data into the network.

        L = E v_t ‖ε_θ − (ε_θ* + c)‖²(x_t) + λ E‖ε_θ − (ε_θ* + c)‖²(x'_t) + γ S(θ)

    x_t is noised D_f and x'_t noised replay, at stratified times of `time_density`. v_t, ‖·‖² and S
    are those of `demixing`.

    If images have a condition, it tells which part x_t comes from: w is 1 for D_f and 0 for replay.
    A request with a forgotten condition is then answered as a request for any retained image. For
    images whose condition is dropped, w comes from the two finite sets.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: p(θ | D), with positive variances.
      num_forget: |D_f|, the number of forget images.
      forget_share: π, the share of the model's samples that is forget-like, in (0, 1). With 0 the
        stage `unlearn` fills in the share that the cleaning of replay measured.
      reference_images: the largest number of forget images, and of replay images, that stand for
        p_f and p_r; ≥ 1.
      replay_weight: λ ≥ 0.
      gamma: γ ≥ 0, the weight of stability.
      anchor: "mean" or "pretrained", as for `vdu`.
      drop_condition: share of the images whose condition is dropped, in [0, 1]; for conditional
        networks only.

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
