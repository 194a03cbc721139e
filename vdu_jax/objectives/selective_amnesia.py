"""Selective Amnesia (Heng and Soh 2023, arXiv 2305.10120)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization, relabelled_error, simple_error
from vdu_jax.posterior import Posterior, diagonal_fisher
from vdu_jax.types import Batch, Batches, Metrics, Objective, Params, ScoreFn


class AmnesiaState(NamedTuple):
    """State of Selective Amnesia.

    Attributes:
      original: θ*, the parameters at the start.
      fisher: F_i ≥ 0, the diagonal Fisher, the parameters' structure.
    """

    original: Params
    fisher: Params


class AmnesiaNoise(NamedTuple):
    """Random numbers of a step.

    Attributes:
      forget: times and noise of each forget image.
      replay: times and noise of each replay image.
      target: u, (B, H, W, C) uniform in [-1, 1).
    """

    forget: process.Noising
    replay: process.Noising
    target: jax.Array


def selective_amnesia(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    replay_weight: float = 1.0,
    fisher_weight: float = 10.0,
    fisher_batches: int = 20,
) -> Objective:
    """Selective Amnesia (Heng and Soh 2023, arXiv 2305.10120, eq. 6).

        L = E r(θ; x_f → u) + γ E e(θ; replay) + λ D Σ_i F_i (θ_i − θ*_i)², u uniform in [-1, 1]

    Elastic weight consolidation and generative replay keep the model while the forget class is
    mapped to uniform noise u. The source trains the label of the class to generate u. Here noised
    forget images, with their condition if they have one, are to denoise to u: r is
    `parameterization.relabelled_error`. `init` computes F, the diagonal Fisher of e over replay
    (`posterior.diagonal_fisher`). Errors are means over the D = H W C values of an image where the
    source has sums; the factor D gives λ the same meaning.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: not used; every method has this argument.
      num_forget: not used; every method has this argument.
      replay_weight: γ ≥ 0; 1 in the source's configs.
      fisher_weight: λ ≥ 0; 10 in the source's configs.
      fisher_batches: batches of replay images from which the Fisher is computed, ≥ 1.

    Raises:
      ValueError: for a setting out of range.
    """
    del posterior, num_forget
    if replay_weight < 0 or fisher_weight < 0 or fisher_batches < 1:
        raise ValueError(
            f"replay_weight = {replay_weight} and fisher_weight = {fisher_weight} must be ≥ 0, "
            f"fisher_batches = {fisher_batches} must be ≥ 1"
        )
    schedule = parameterization.schedule

    def init(params: Params, batches: Batches, key: jax.Array) -> AmnesiaState:
        replay = (next(batches["replay"]) for _ in range(fisher_batches))
        fisher = diagonal_fisher(score_fn, parameterization, params, replay, key)
        return AmnesiaState(params, fisher)

    def draw(key: jax.Array, batch: Batch) -> AmnesiaNoise:
        forget_key, replay_key, target_key = jax.random.split(key, 3)
        x0, replay = batch["forget"]["image"], batch["replay"]["image"]
        return AmnesiaNoise(
            process.draw_noising(forget_key, schedule, x0),
            process.draw_noising(replay_key, schedule, replay),
            jax.random.uniform(target_key, x0.shape, minval=-1.0),
        )

    def loss(
        params: Params, state: AmnesiaState, batch: Batch, noise: AmnesiaNoise
    ) -> tuple[jax.Array, Metrics]:
        x0, replay = batch["forget"]["image"], batch["replay"]["image"]
        bound = process.bind_condition(score_fn, batch["forget"])
        amnesia = relabelled_error(
            bound, params, parameterization, x0, noise.forget, noise.target
        ).mean()
        bound = process.bind_condition(score_fn, batch["replay"])
        kept = simple_error(bound, params, parameterization, replay, noise.replay).mean()
        pulls = jax.tree.map(
            lambda p, o, f: jnp.sum(f * jnp.square(p - o)), params, state.original, state.fisher
        )
        consolidation = x0[0].size * jax.tree.reduce(jnp.add, pulls)
        metrics = {
            "relabelled_error": amnesia, "replay_error": kept, "consolidation": consolidation
        }  # fmt: skip
        return amnesia + replay_weight * kept + fisher_weight * consolidation, metrics

    return Objective(
        sees=frozenset({"forget", "replay"}),
        needs=frozenset(),
        init=init,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=True,
    )
