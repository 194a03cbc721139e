"""The sections `sampler`, `replay`, `curve` and `relearn`: the images that a model samples."""

from typing import Any

from vdu_jax.config.check import Check
from vdu_jax.config.network import num_steps

SEEDS = ("replay.seed", "curve.seed", "evaluate.seed", "relearn.seed")


def defaults(text: bool) -> dict[str, Any]:
    """The sections with their defaults.

    Args:
      text: whether they are for a text-to-image model.
    """
    sampler = {
        "name": "ddim",  # "ddim", "dpm++2m" or "ddpm"
        "steps": 20 if text else 50,  # network evaluations for an image
        "eta": 0.0,  # η of ddim and dpm++2m: 0 is deterministic, 1 fully stochastic
        "variance": "fixed_large",  # variance of ddpm's steps: "fixed_large" or "fixed_small"
        "spacing": "trailing",  # grid of time steps: "trailing", "leading" or "linspace"
        # The time steps themselves, `steps` of them, decreasing; () for the grid of `spacing`.
        "timesteps": (),
        "clip_x0": not text,  # clip the predicted image to [-1, 1]; not for latents
        "batch_size": 20 if text else 250,  # images drawn at once
    }
    replay = {
        "images": 2000,  # images drawn from the original model
        "seed": 1,  # seed of these images
        # Noise levels (as shares of T) at which the model's own features are read.
        "feature_times": (0.1,),
        # Share of the forget images that the detector calls forget-like in its first rounds.
        "recall": 0.8,
        # Noise level (as a share of T) of the kernels that find what the detector leaves; 0 for
        # none.
        "kernel_time": 0.2,
    }
    curve = {
        "images": 500,  # images drawn at each snapshot, to choose one and to plot the curve
        "seed": 2,  # seed of these images
    }
    if text:
        replay = {
            "prompts": (),  # prompts that do not ask for the feature
            "images": 20,  # images drawn from the original model for each prompt
            "seed": 1,  # seed of these images
        }
        curve |= {
            "images": 5,  # images at each snapshot for each of forget.prompts and replay.prompts
        }
    relearn = {
        # Images drawn at each check (for each of forget.prompts, if there are any); 0 skips the
        # stage.
        "images": 0,
        "seed": 4,  # seed of these images, of the choice of forget images, of times and noise
        "forget_images": 64,  # forget images that the model is trained on again
        "batch_size": 32,  # forget images in a step
        "learning_rate": 1e-4,  # learning rate of Adam
        "checks": (1, 2, 5, 10, 20, 50, 100, 200, 500),  # steps at which images are drawn
    }
    return {"sampler": sampler, "replay": replay, "curve": curve, "relearn": relearn}


def check(c: Check) -> None:
    """Refuse sampler settings that cannot work, and equal seeds of sections that must differ.

    Raises:
      UserError: with the key.
    """
    _check_sampler(c)
    if c.text:
        c.positive("replay.images", "curve.images")
    else:
        _check_replay(c)
        few = "must be ≥ 50: fewer images measure nothing"
        c.require("curve.images", lambda v: v >= 50, few)
    c.require(
        "evaluate.seed",
        lambda v: len({c.get(key) for key in SEEDS}) == len(SEEDS),
        f"{', '.join(SEEDS)} must differ, or images are used twice",
    )
    c.not_negative(*SEEDS)
    each = len(c.config.forget.prompts) if c.text else 1
    c.require(
        "relearn.images",
        lambda v: v == 0 or (v > 0 and v * each >= 50),
        "must be 0 (not measured) or ≥ 50" + " over all of forget.prompts" * c.text,
    )
    c.positive("relearn.forget_images", "relearn.batch_size", "relearn.learning_rate")
    c.increasing_ints("relearn.checks", 1)
    c.require(
        "relearn.checks",
        lambda v: len(v) > 0 and list(v) == sorted(set(v)),
        "must name steps, in order and each once",
    )


def _check_sampler(c: Check) -> None:
    from vdu_jax.diffusion import samplers

    c.one_of("sampler.name", samplers.NAMES)
    c.one_of("sampler.spacing", samplers.SPACINGS)
    c.one_of("sampler.variance", samplers.VARIANCES)
    c.share("sampler.eta")
    total = num_steps(c.config)
    c.require("sampler.steps", lambda v: 1 <= v <= total, f"must lie in 1..{total}")
    c.increasing_ints("sampler.timesteps", 0, total - 1)
    steps, times = c.config.sampler.steps, c.config.sampler.timesteps
    c.require(
        "sampler.timesteps",
        lambda v: not v or (len(v) == steps and list(v) == sorted(set(v), reverse=True)),
        f"must name sampler.steps = {steps} times, each later than the next",
    )
    c.require(
        "sampler.spacing",
        lambda v: not times or v == "trailing",
        "must be left out where sampler.timesteps names the times",
    )
    c.positive("sampler.batch_size")
    if c.text:
        c.require("sampler.clip_x0", lambda v: not v, "latents have no range to clip to: set False")


def _check_replay(c: Check) -> None:
    c.require("replay.images", lambda v: v >= 100, "must be ≥ 100")
    c.require(
        "replay.feature_times",
        lambda v: len(v) > 0 and all(0 <= x < 1 for x in v),
        "must be a tuple of shares of T in [0, 1)",
    )
    c.require("replay.recall", lambda v: 0 < v < 1, "must lie in (0, 1)")
    c.require("replay.kernel_time", lambda v: 0 <= v < 1, "must be a share of T in [0, 1)")
