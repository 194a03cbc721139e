"""Variational Diffusion Unlearning (VDU) as published (Panda et al. 2025, arXiv 2510.04058)."""

from typing import NamedTuple

import chex
import jax

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization, loss_weights
from vdu_jax.posterior import Posterior, energy, num_parameters
from vdu_jax.types import Batch, Batches, Metrics, Objective, Params, ScoreFn

ANCHORS = ("mean", "pretrained")
REDUCTIONS = ("sum", "mean")


class VDUState(NamedTuple):
    """State of VDU.

    Attributes:
      posterior: the posterior whose mean is the anchor, see `anchored`.
    """

    posterior: Posterior


def anchored(posterior: Posterior, params: Params, anchor: str) -> Posterior:
    """Choose the parameters that the stability term pulls to.

    Args:
      posterior: p(θ | D).
      params: θ*, the pretrained parameters.
      anchor: "mean" keeps the posterior's mean μ*, "pretrained" replaces it by θ*.

    Returns:
      The posterior with the chosen mean.

    Raises:
      ValueError: if structure or shapes of posterior and parameters differ.
    """
    chex.assert_trees_all_equal_shapes(posterior.mean, params, exception_type=ValueError)
    return posterior if anchor == "mean" else posterior._replace(mean=params)


def check_anchor(anchor: str) -> None:
    """Raise ValueError for an anchor that is not one of `ANCHORS`."""
    if anchor not in ANCHORS:
        raise ValueError(f"unknown anchor {anchor!r}; one of {', '.join(ANCHORS)}")


def reduction_scale(reduction: str, count: int) -> float:
    """Return the factor from a mean over `count` terms to the named reduction.

    Args:
      reduction: "sum" or "mean".
      count: number of terms.

    Raises:
      ValueError: for an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; one of {', '.join(REDUCTIONS)}")
    return float(count) if reduction == "sum" else 1.0


def vdu(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    gamma: float = 0.5,
    anchor: str = "mean",
    weighting: str = "simple",
    plasticity_reduction: str = "sum",
    stability_reduction: str = "sum",
) -> Objective:
    """Variational Diffusion Unlearning (Panda et al. 2025, arXiv 2510.04058).

        L(θ) = −(1−γ) Σ_{x0 ∈ D_f} E_{t,ε}[w_t e(θ; x0, t, ε)] + γ Σ_i (θ_i − μ*_i)² / (2 σ*²_i)

    The first term, the plasticity inducer, lowers the evidence bound of the forget data. It is
    estimated on a batch and scaled to all of D_f. It has no lower bound, so `runtime.fit.Guard`
    stops a diverging run. The second term, the stability regulariser, is KL(q ‖ p(θ|D)) of
    mean-field Gaussians with fixed variances of q.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: p(θ | D), with positive variances.
      num_forget: |D_f|, the number of forget images.
      gamma: γ in [0, 1], the weight of stability; 0 only forgets, 1 only stays.
      anchor: where stability pulls to, "mean" (μ*) or "pretrained" (θ*), see `anchored`.
      weighting: w_t, "simple" or "exact", see `parameterization.loss_weights`.
      plasticity_reduction: "sum" over D_f as in the paper, or "mean" (divided by |D_f|).
      stability_reduction: "sum" over parameters as in the paper, or "mean" (divided by d).

    Raises:
      ValueError: for a setting out of range.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], not {gamma}")
    check_anchor(anchor)
    weights = loss_weights(parameterization, weighting)
    dim = num_parameters(posterior.mean)
    plasticity_scale = reduction_scale(plasticity_reduction, num_forget)
    stability_scale = reduction_scale(stability_reduction, dim) / dim
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def init(params: Params, batches: Batches, key: jax.Array) -> VDUState:
        del batches, key
        return VDUState(anchored(posterior, params, anchor))

    def draw(key: jax.Array, batch: Batch) -> process.Noising:
        return process.draw_noising(key, schedule, batch["forget"]["image"])

    def loss(
        params: Params, state: VDUState, batch: Batch, noising: process.Noising
    ) -> tuple[jax.Array, Metrics]:
        x0 = batch["forget"]["image"]
        error = process.eps_error(
            process.bind_condition(predict_eps, batch["forget"]), params, schedule, x0, noising
        )
        plasticity = plasticity_scale * (weights[noising.t] * error).mean()
        stability = energy(state.posterior, params)
        total = -(1 - gamma) * plasticity + gamma * stability_scale * stability
        return total, {"forget_error": error.mean(), "energy": stability / dim}

    return Objective(
        sees=frozenset({"forget"}),
        needs=frozenset({"posterior"}),
        init=init,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=False,
    )
