"""VDU with stability in function space and a bounded plasticity term; an extension of the paper.

Two changes to `objectives.vdu`:

- **Stability in function space.** Parameters close in units of σ* can still compute another
  function. The loss therefore also has λ E‖ε_θ(x_t, t) − ε_θ*(x_t, t)‖² on replay: images drawn
  from the original model, without forget-like ones. No retained data is needed.
- **Bounded plasticity.** −e has no lower bound. A cap on the error e of each image ends its
  forgetting. "capped" takes the error of an uninformed prediction (1, for ε̂ = 0). "mismatched", for
  images with prompts, takes the error of θ* at the same x_t with the prompt of a replay image. At
  low noise, where the pixels say more than the prompt, the cap is the error of θ* with the image's
  own prompt, and nothing is unlearned.
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
    """State of extended VDU.

    Attributes:
      posterior: the posterior whose mean is the anchor, see `vdu.anchored`.
      teacher: θ*, the parameters at the start.
    """

    posterior: Posterior
    teacher: Params


class ExtendedNoise(NamedTuple):
    """Random numbers of a step; None for those that no term of the loss uses.

    Attributes:
      forget: times and noise of each forget image.
      replay: times and noise of each replay image.
      dropped: (B,) bool, the replay images whose condition is dropped.
      other_cond: (B, …), the condition of a replay image for each forget image.
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
    """Extended VDU: stability in function space and bounded plasticity.

        L = −(1−γ) P(θ) + γ S(θ) + λ E‖ε_θ(x_t, t) − ε_θ*(x_t, t)‖²

    P and S are the plasticity and the posterior energy of `vdu`, with the error e in P replaced
    according to `plasticity`. ‖·‖² is the mean over pixels, x_t is noised replay, θ* are the
    parameters at the start.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: p(θ | D), with positive variances.
      num_forget: |D_f|, the number of forget images.
      gamma: γ in [0, 1], as for `vdu`.
      anchor: "mean" or "pretrained", as for `vdu`.
      weighting: w_t, "simple" or "exact", as for `vdu`.
      plasticity_reduction: "sum" or "mean", as for `vdu`.
      stability_reduction: "sum" or "mean", as for `vdu`.
      plasticity: "linear" keeps e; "capped" replaces it by min(e, cap); "mismatched", for
        conditional networks, by min(e, cap e*), where e* is the error of θ* with the condition of
        a replay image.
      cap: bound on e, in units of the error of the network's own output, or the factor on e*, > 0.
      stability: "posterior" (S alone), "function" (the last term alone), or "both".
      function_weight: λ ≥ 0.
      drop_condition: share of the replay images whose condition is dropped, in [0, 1]; for
        conditional networks only. Guidance uses both predictions of the network, so both are to
        stay. See `guidance.drop_condition`.

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
        raise ValueError(
            f"cap = {cap} must be > 0, function_weight = {function_weight} must be ≥ 0"
        )
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
        if use_function:
            assert again is not None  # `draw` makes it for this stability
            part = guidance.drop_condition(batch["replay"], noise.dropped)
            parts.append(process.network_inputs(schedule, part, again))
        predictions = process.predict_together(predict_eps, params, *parts)
        error = jnp.square(predictions[0] - noising.eps).mean(tuple(range(1, x0.ndim)))
        if plasticity == "capped":
            # The cap is in units of the network's own output, where an uninformed one has error 1.
            bounded = jnp.minimum(error, cap / parameterization.simple_weights[noising.t])
        elif plasticity == "mismatched":
            assert noise.other_cond is not None  # `draw` makes it for this plasticity
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
        if use_function:
            assert again is not None
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
