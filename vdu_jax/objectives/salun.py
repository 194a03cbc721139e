"""Saliency unlearning, SalUn (Fan et al. 2024, arXiv 2310.12508)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization, relabelled_error, simple_error
from vdu_jax.posterior import Posterior
from vdu_jax.types import Batch, Batches, Metrics, Objective, Params, Part, ScoreFn

RELABELS = ("image", "condition")


class SalUnState(NamedTuple):
    """State of SalUn.

    Attributes:
      mask: the parameters' structure, bool: True where a parameter may change.
    """

    mask: Params


class SalUnNoise(NamedTuple):
    """Random numbers of a step.

    Attributes:
      forget: times and noise of each forget image.
      replay: times and noise of each replay image.
      partner: the replay image (B, H, W, C), or its condition (B, …), that each forget image is
        relabelled with.
    """

    forget: process.Noising
    replay: process.Noising
    partner: jax.Array


def salient(gradient: Params, share: float) -> Params:
    """Mark the parameters whose gradients are largest in absolute value (Fan et al. 2024, eq. 3).

    Args:
      gradient: the gradient of the forget loss.
      share: share of all parameters to mark, in (0, 1].

    Returns:
      The same structure, bool.
    """
    sizes = jnp.concatenate([jnp.abs(g).ravel() for g in jax.tree.leaves(gradient)])
    threshold = jnp.quantile(sizes, 1 - share)
    return jax.tree.map(lambda g: jnp.abs(g) >= threshold, gradient)


def salun(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    share: float = 0.5,
    mask_batches: int = 20,
    replay_weight: float = 1.0,
    relabel: str = "image",
) -> Objective:
    """Saliency unlearning, SalUn (Fan et al. 2024, arXiv 2310.12508).

        L = E r(θ; x_f) + β E e(θ; x_r), with gradients for the salient parameters alone

    `init` takes the mask of salient parameters from the gradient of the forget error at θ*. The
    source relabels a noised forget image with another condition c' (eq. 7):
    r = ‖ε_θ(x_t|c) − ε_θ(x_t|c')‖², a mean over pixels, without gradient through the second
    prediction. An unconditional network instead learns to denoise the forget image to a replay
    image, drawn from the model itself: r is `parameterization.relabelled_error`. The second term is
    on replay, where the source has retained data.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
      share: share of the parameters that may change, in (0, 1]; 0.5 in the source.
      mask_batches: batches of D_f over which the gradient of the mask is summed, ≥ 1.
      replay_weight: β ≥ 0.
      relabel: "condition", the source's form, with c' from a replay image; or "image".

    Raises:
      ValueError: for a setting out of range.
    """
    del posterior, num_forget
    if not 0 < share <= 1 or mask_batches < 1 or replay_weight < 0:
        raise ValueError(
            f"share = {share} must lie in (0, 1], mask_batches = {mask_batches} must be ≥ 1, "
            f"replay_weight = {replay_weight} must be ≥ 0"
        )
    if relabel not in RELABELS:
        raise ValueError(f"unknown relabel {relabel!r}; one of {', '.join(RELABELS)}")
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)
    of_partner = {"image": "image", "condition": "cond"}[relabel]

    @jax.jit
    def forget_gradient(params: Params, part: Part, key: jax.Array) -> Params:
        x0, bound = part["image"], process.bind_condition(score_fn, part)
        noising = process.draw_noising(key, schedule, x0)
        return jax.grad(lambda p: simple_error(bound, p, parameterization, x0, noising).mean())(
            params
        )

    def init(params: Params, batches: Batches, key: jax.Array) -> SalUnState:
        total = jax.tree.map(jnp.zeros_like, params)
        for index in range(mask_batches):
            part = next(batches["forget"])
            gradient = forget_gradient(params, part, jax.random.fold_in(key, index))
            total = jax.tree.map(jnp.add, total, gradient)
        return SalUnState(salient(total, share))

    def draw(key: jax.Array, batch: Batch) -> SalUnNoise:
        forget_key, replay_key, pair_key = jax.random.split(key, 3)
        x0, replay = batch["forget"]["image"], batch["replay"]["image"]
        return SalUnNoise(
            process.draw_noising(forget_key, schedule, x0),
            process.draw_noising(replay_key, schedule, replay),
            batch["replay"][of_partner][jax.random.randint(pair_key, (len(x0),), 0, len(replay))],
        )

    def loss(
        params: Params, state: SalUnState, batch: Batch, noise: SalUnNoise
    ) -> tuple[jax.Array, Metrics]:
        # A parameter outside the mask is a constant: no gradient reaches it.
        params = jax.tree.map(
            lambda p, m: jnp.where(m, p, jax.lax.stop_gradient(p)), params, state.mask
        )
        x0, replay = batch["forget"]["image"], batch["replay"]["image"]
        if relabel == "condition":
            xt = process.q_sample(schedule, x0, noise.forget.t, noise.forget.eps)
            predicted, other = (
                predict_eps(params, xt, noise.forget.t, cond)
                for cond in (batch["forget"]["cond"], noise.partner)
            )
            weights = process.bcast(parameterization.simple_weights[noise.forget.t], xt)
            gap = jnp.square(predicted - jax.lax.stop_gradient(other))
            relabelled = (weights * gap).mean()
        else:
            bound = process.bind_condition(score_fn, batch["forget"])
            relabelled = relabelled_error(
                bound, params, parameterization, x0, noise.forget, noise.partner
            ).mean()
        bound = process.bind_condition(score_fn, batch["replay"])
        kept = simple_error(bound, params, parameterization, replay, noise.replay).mean()
        metrics = {"relabelled_error": relabelled, "replay_error": kept}
        return relabelled + replay_weight * kept, metrics

    return Objective(
        sees=frozenset({"forget", "replay"}),
        needs=frozenset(),
        init=init,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=True,
    )
