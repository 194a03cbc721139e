"""VDU with stability measured in function space and a plasticity term that saturates.

Beyond the paper. Two changes to `objectives.vdu`:

- Parameters that lie close in units of σ* may still compute something else. Staying close is
  therefore (also) asked of the *function*: λ E‖ε_θ(x_t, t) − ε_θ*(x_t, t)‖² on images drawn from
  the original model itself ("replay"), cleaned of forget-like ones. No retained data is needed.
- −e is unbounded. Capping e per example at what an uninformed prediction gives (1, for ε̂ = 0)
  ends forgetting where nothing is left to forget. Where images come with prompts, what is to be
  forgotten is what the prompt says of its image; so the cap may be the error that θ* itself makes
  at the same x_t with the prompt of another image, one of the replay. Where the pixels say more
  than the prompt, at low noise, that is θ*'s own error, and nothing is unlearned there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import guidance, process
from vdu_jax.diffusion.parameterization import Parameterization, loss_weights
from vdu_jax.objectives.vdu import anchored, check_anchor, reduction_scale
from vdu_jax.posterior import Posterior, energy, num_parameters
from vdu_jax.types import Batch, Batches, Metrics, Objective, Params, ScoreFn

STABILITIES = ("posterior", "function", "both")
PLASTICITIES = ("linear", "capped", "mismatched")


class ExtendedState(NamedTuple):
    """posterior: anchored. teacher: θ*, the parameters at the start."""

    posterior: Posterior
    teacher: Params


class ExtendedNoise(NamedTuple):
    """The random part of a step; None what its terms do not take.

    Attributes:
      forget: of each image of D_f. replay: of each replay image.
      dropped: (B,) bool, the replay images that are seen without their condition.
      other_cond: (B, …), a replay image's condition for each image of D_f.
    """

    forget: process.Noising
    replay: process.Noising | None
    dropped: jax.Array | None
    other_cond: jax.Array | None


def vdu_extended(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    gamma: float = 0.5,
    anchor: str = "pretrained",
    weighting: str = "simple",
    plasticity_reduction: str = "mean",
    stability_reduction: str = "mean",
    plasticity: str = "capped",
    cap: float = 1.0,
    stability: str = "both",
    function_weight: float = 30.0,
    drop_condition: float = 0.0,
) -> Objective:
    """L = −(1−γ) P(θ) + γ S(θ) + λ E‖ε_θ(x_t, t) − ε_θ*(x_t, t)‖².

    P is the plasticity of `vdu` with e replaced by min(e, cap) if `plasticity = "capped"`, and by
    min(e, cap e*) if "mismatched", e* being θ*'s with a prompt of the replay; S is its posterior
    energy. ‖·‖² is the mean over pixels, x_t noised replay, θ* the start.

    Args:
      posterior, num_forget, gamma, anchor, weighting, *_reduction: as for `vdu`.
      plasticity: "linear", "capped", or "mismatched", for networks that know a condition.
      cap: the bound on e, or its factor, > 0.
      stability: "posterior" (S alone), "function" (the last term alone), or "both".
      function_weight: λ ≥ 0.
      drop_condition: share of the replay that is seen without its condition, in [0, 1]; see
        `guidance.drop_condition`. Guidance draws with both predictions of the network, so both are
        to stay what they were. Only for networks that know a condition.

    Raises:
      ValueError: for a setting out of range.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], not {gamma}")
    check_anchor(anchor)
    if plasticity not in PLASTICITIES:
        raise ValueError(f"unknown plasticity {plasticity!r}; one of {', '.join(PLASTICITIES)}")
    if stability not in STABILITIES:
        raise ValueError(f"unknown stability {stability!r}; one of {', '.join(STABILITIES)}")
    if cap <= 0 or function_weight < 0:
        raise ValueError("cap must be > 0 and function_weight ≥ 0")
    if not 0 <= drop_condition <= 1:
        raise ValueError(f"drop_condition must lie in [0, 1], not {drop_condition}")
    weights = loss_weights(parameterization, weighting)
    dim = num_parameters(posterior.mean)
    plasticity_scale = reduction_scale(plasticity_reduction, num_forget)
    stability_scale = reduction_scale(stability_reduction, dim) / dim
    use_posterior = stability in ("posterior", "both")
    use_function = stability in ("function", "both")
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def init(params: Params, batches: Batches, key: jax.Array) -> ExtendedState:
        del batches, key
        return ExtendedState(anchored(posterior, params, anchor), params)

    def draw(key: jax.Array, batch: Batch) -> ExtendedNoise:
        forget_key, replay_key = jax.random.split(key)
        x0 = batch["forget"]["image"]
        forget = process.draw_noising(forget_key, schedule, x0)
        replay = dropped = other_cond = None
        if use_function:
            images = batch["replay"]["image"]
            replay_key, dropped = guidance.draw_dropped(replay_key, drop_condition, len(images))
            replay = process.draw_noising(replay_key, schedule, images)
        if plasticity == "mismatched":
            others = batch["replay"]["cond"]
            other_cond = others[jnp.arange(len(x0)) % len(others)]
        return ExtendedNoise(forget, replay, dropped, other_cond)

    def loss(
        params: Params, state: ExtendedState, batch: Batch, noise: ExtendedNoise
    ) -> tuple[jax.Array, Metrics]:
        x0, noising, again = batch["forget"]["image"], noise.forget, noise.replay
        parts = [process.network_inputs(schedule, batch["forget"], noising)]
        if again is not None:
            part = guidance.drop_condition(batch["replay"], noise.dropped)
            parts.append(process.network_inputs(schedule, part, again))
        predictions = process.predict_together(predict_eps, params, *parts)
        error = jnp.square(predictions[0] - noising.eps).mean(tuple(range(1, x0.ndim)))
        if plasticity == "capped":
            # In the units of what the network predicts, where an uninformed one has the error 1.
            bounded = jnp.minimum(error, cap / parameterization.simple_weights[noising.t])
        elif plasticity == "mismatched":
            assert noise.other_cond is not None  # `draw` made it for this plasticity
            predict = process.bind_condition(predict_eps, {"cond": noise.other_cond})
            bound = process.eps_error(predict, state.teacher, schedule, x0, noising)
            bounded = jnp.minimum(error, cap * jax.lax.stop_gradient(bound))
        else:
            bounded = error
        total = -(1 - gamma) * plasticity_scale * (weights[noising.t] * bounded).mean()
        posterior_energy = energy(state.posterior, params)
        metrics = {"forget_error": error.mean(), "energy": posterior_energy / dim}
        if use_posterior:
            total += gamma * stability_scale * posterior_energy
        if again is not None:
            (target,) = process.predict_together(predict_eps, state.teacher, parts[1])
            simple = process.bcast(parameterization.simple_weights[again.t], target)
            drift = (simple * jnp.square(predictions[1] - jax.lax.stop_gradient(target))).mean()
            total += function_weight * drift
            metrics["drift"] = drift
        return total, metrics

    sees = {"forget", "replay"} if use_function or plasticity == "mismatched" else {"forget"}
    return Objective(
        sees=frozenset(sees),
        needs=frozenset({"posterior"}),
        init=init,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=False,
    )
