"""Demixing: take the forget data out of the mixture that the model has learned. A method of ours.

The training data are a mixture, p = π p_f + (1 − π) p_r, and so is the noised x_t. The optimal
prediction is then ε* = w ε_f + (1 − w) ε_r, where w(x_t) is the probability that x_t comes from p_f
and ε_f, ε_r are the optimal predictions for the two parts. A model of p_r alone would predict

    ε_r = ε* + w (ε_r − ε_f).

The trained network gives ε*. The correction w (ε_r − ε_f) needs p_f and p_r only as far as they
differ at x_t, so D_f and cleaned replay stand for them: w, ε_f and ε_r of the correction are those
of the two finite sets, in closed form (`diffusion.empirical`). No retained data is needed, and no
term is maximised.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.diffusion import empirical, guidance, process
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.objectives.vdu import anchored, check_anchor
from vdu_jax.posterior import Posterior, energy, num_parameters
from vdu_jax.types import Batch, Batches, Metrics, Objective, Params, Part, ScoreFn


class DemixingState(NamedTuple):
    """State of demixing.

    Attributes:
      teacher: θ*, the parameters at the start.
      forget: (N, H, W, C), the images that stand for p_f.
      replay: (M, H, W, C), the images that stand for p_r.
      posterior: the posterior whose mean is the anchor, see `vdu.anchored`.
    """

    teacher: Params
    forget: jax.Array
    replay: jax.Array
    posterior: Posterior


class DemixingNoise(NamedTuple):
    """Random numbers of a step.

    Attributes:
      forget: stratified times and noise of each forget image.
      replay: stratified times and noise of each replay image.
      forget_dropped: (B,) bool, the forget images whose condition is dropped; None if none is.
      replay_dropped: (B,) bool, the replay images whose condition is dropped; None if none is.
    """

    forget: process.Noising
    replay: process.Noising
    forget_dropped: jax.Array | None = None
    replay_dropped: jax.Array | None = None


def demixing(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    forget_share: float = 0.0,
    reference_images: int = 1000,
    replay_weight: float = 1.0,
    gamma: float = 0.0,
    anchor: str = "pretrained",
) -> Objective:
    """Demixing: teach a network its own prediction, corrected at noised forget data.

        L = E v_t ‖ε_θ − (ε_θ* + c)‖²(x_t) + λ E‖ε_θ − ε_θ*‖²(x'_t) + γ S(θ)

    c is `empirical.correction`, x_t is noised D_f and x'_t noised replay, both at stratified times.
    ‖·‖² is the mean over pixels, S the posterior energy of `vdu` divided by d. v_t is
    min(1, (1 − ᾱ_t)/ᾱ_t), so that at low noise the error of the predicted image counts. For a
    network that predicts v, the 1 in v_t and the factor 1 of the second term are the
    `simple_weights` of its parameterization.

    `retained_score` is the better method: here the targets of the first two terms contradict each
    other.

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

    Raises:
      ValueError: for a setting out of range.
    """
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
    )


def distil(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    posterior: Posterior,
    num_forget: int,
    *,
    forget_share: float,
    reference_images: int,
    replay_weight: float,
    gamma: float,
    anchor: str,
    density: np.ndarray | None = None,
    everywhere: bool = False,
    drop_condition: float = 0.0,
) -> Objective:
    """Make the objective that teaches a network its own corrected prediction.

    `demixing` and `retained_score` are settings of it.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      posterior: p(θ | D), with positive variances.
      num_forget: |D_f|, the number of forget images.
      forget_share: as for `demixing`.
      reference_images: as for `demixing`.
      replay_weight: as for `demixing`.
      gamma: as for `demixing`.
      anchor: as for `demixing`.
      density: (T,) unnormalised distribution of times, see `process.draw_noising`; None is uniform.
      everywhere: True for the target ε_θ* + c at noised replay, too, with w taken from the
        condition where an image has one. False for the target ε_θ* there, with w at D_f taken from
        the two finite sets.
      drop_condition: share of the images whose condition is dropped, in [0, 1].

    Raises:
      ValueError: for a setting out of range.
    """
    if not 0 <= forget_share < 1 or reference_images < 1 or replay_weight < 0 or gamma < 0:
        raise ValueError(
            f"forget_share = {forget_share} must lie in [0, 1), reference_images = "
            f"{reference_images} must be ≥ 1, replay_weight = {replay_weight} and gamma = {gamma} "
            "must be ≥ 0"
        )
    if not 0 <= drop_condition <= 1:
        raise ValueError(f"drop_condition must lie in [0, 1], not {drop_condition}")
    check_anchor(anchor)
    dim = num_parameters(posterior.mean)
    schedule = parameterization.schedule
    predict_eps = parameterization.noise_predictor(score_fn)

    def take(batches: Iterator[Part], count: int) -> jax.Array:
        parts: list[jax.Array] = []
        while sum(map(len, parts)) < count:
            parts.append(next(batches)["image"])
        return jnp.concatenate(parts)[:count]

    def init(params: Params, batches: Batches, key: jax.Array) -> DemixingState:
        del key
        forget = take(batches["forget"], min(reference_images, num_forget))
        replay = take(batches["replay"], reference_images)
        return DemixingState(params, forget, replay, anchored(posterior, params, anchor))

    def draw(key: jax.Array, batch: Batch) -> DemixingNoise:
        def of_kind(key: jax.Array, kind: str) -> tuple[process.Noising, jax.Array | None]:
            images = batch[kind]["image"]
            key, dropped = guidance.draw_dropped(key, drop_condition, len(images))
            return process.draw_noising(key, schedule, images, True, density), dropped

        forget_key, replay_key = jax.random.split(key)
        forget, forget_dropped = of_kind(forget_key, "forget")
        replay, replay_dropped = of_kind(replay_key, "replay")
        return DemixingNoise(forget, replay, forget_dropped, replay_dropped)

    def shares(part: Part, dropped: jax.Array | None, certain: float) -> float | jax.Array:
        """π of each image; where its condition is seen, the condition tells the part."""
        if not everywhere or "cond" not in part:
            return forget_share
        known = jnp.full(len(part["image"]), certain)
        return known if dropped is None else jnp.where(dropped, forget_share, known)

    def loss(
        params: Params, state: DemixingState, batch: Batch, noise: DemixingNoise
    ) -> tuple[jax.Array, Metrics]:
        parts, priors = [], []
        for kind, noising, dropped, certain in (
            ("forget", noise.forget, noise.forget_dropped, 1.0),
            ("replay", noise.replay, noise.replay_dropped, 0.0),
        ):
            priors.append(shares(batch[kind], dropped, certain))
            part = guidance.drop_condition(batch[kind], dropped)
            parts.append(process.network_inputs(schedule, part, noising))
        targets = process.predict_together(predict_eps, state.teacher, *parts)
        corrected_parts = range(2) if everywhere else range(1)  # D_f alone, or replay, too
        for i in corrected_parts:
            xt, t = parts[i]["xt"], parts[i]["t"]
            targets[i] += empirical.correction(
                schedule, state.forget, state.replay, priors[i], xt, t
            )
        predictions = process.predict_together(predict_eps, params, *parts)
        simple = process.bcast(parameterization.simple_weights, parts[0]["xt"])
        a = process.bcast(schedule.alphas_cumprod[parts[0]["t"]], parts[0]["xt"])
        weights = jnp.minimum(simple[parts[0]["t"]], (1 - a) / a), simple[parts[1]["t"]]
        corrected, drift = (
            (weight * jnp.square(prediction - jax.lax.stop_gradient(target))).mean()
            for weight, prediction, target in zip(weights, predictions, targets, strict=True)
        )
        away = energy(state.posterior, params) / dim
        total = corrected + replay_weight * drift + gamma * away
        forget_error = jnp.square(predictions[0] - noise.forget.eps).mean()
        metrics = {"corrected": corrected, "drift": drift, "energy": away}
        return total, metrics | {"forget_error": forget_error}

    return Objective(
        sees=frozenset({"forget", "replay"}),
        needs=frozenset({"posterior"}),
        init=init,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=False,
    )
