"""The schedulers of Hugging Face diffusers: `scheduler_config.json`.

One file of theirs holds two things of ours: the noise schedule (`config.diffusion`) and the way to
sample (`config.sampler`).
"""

from collections.abc import Mapping
from typing import Any

from vdu_jax.diffusion.parameterization import PARAMETERIZATIONS
from vdu_jax.diffusion.samplers import VARIANCES
from vdu_jax.errors import UserError

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
CLASSES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpm++2m",
}
DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "clip_sample": True,
    "timestep_spacing": "leading",
    "algorithm_type": "dpmsolver++",
}
ALGORITHMS = {"dpmsolver++": 0.0, "sde-dpmsolver++": 1.0}  # of DPM-Solver; our eta
# What our samplers do, in their words. A key that is absent has this meaning too.
FIXED = {
    "trained_betas": None,
    "thresholding": False,
    "clip_sample_range": 1.0,
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": True,
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
}
IGNORED = {
    # Only read where a key of FIXED has another value, or by samplers of other kinds.
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "euler_at_final",
    "flow_shift",
    "lambda_min_clipped",
    "use_dynamic_shifting",
    "time_shift_type",
    "skip_prk_steps",
}


def read_config(config: Mapping[str, Any], where: str) -> tuple[dict, dict]:
    """Our `diffusion` and `sampler` settings from a `scheduler_config.json`.

    Raises:
      UserError: naming `where` and the key, if our schedules and samplers can't express its value.
    """

    def refuse(key: str, need: str) -> UserError:
        return UserError(f"{where}: {key} = {values.get(key)!r} can't be expressed: {need}")

    kind = str(config.get("_class_name", "DDPMScheduler"))
    spacing = {"timestep_spacing": "linspace"} if kind == "DPMSolverMultistepScheduler" else {}
    values = DEFAULTS | spacing | dict(config)
    if kind not in CLASSES:
        raise refuse("_class_name", f"it must be one of {', '.join(CLASSES)}")
    for key, value in values.items():
        if key in FIXED and value != FIXED[key]:
            raise refuse(key, f"it must be {FIXED[key]!r}")
        if key not in DEFAULTS.keys() | FIXED.keys() | IGNORED and not key.startswith("_"):
            raise refuse(key, "the key is not known")
    diffusion = read_noise(config, where)
    if kind == "DDPMScheduler" and values["variance_type"] not in VARIANCES:
        raise refuse("variance_type", f"it must be {' or '.join(VARIANCES)}")
    if kind == "DPMSolverMultistepScheduler" and values["timestep_spacing"] != "trailing":
        raise refuse("timestep_spacing", "it must be trailing")
    if values["algorithm_type"] not in ALGORITHMS:
        raise refuse("algorithm_type", f"it must be {' or '.join(ALGORITHMS)}")
    sampler = {
        "name": CLASSES[kind],
        "steps": values["num_train_timesteps"] if kind == "DDPMScheduler" else 50,
        "spacing": values["timestep_spacing"],
        # DPM-Solver++ does not clip in theirs.
        "clip_x0": values["clip_sample"] and kind != "DPMSolverMultistepScheduler",
    }
    if kind == "DDPMScheduler":
        sampler["variance"] = values["variance_type"]
    if kind == "DPMSolverMultistepScheduler":
        sampler["eta"] = ALGORITHMS[values["algorithm_type"]]
    return diffusion, sampler


def write_config(diffusion: Mapping[str, Any], sampler: Mapping[str, Any]) -> dict:
    """The `DDPMScheduler` of our settings, which diffusers turns into any other of its schedulers
    (`DDIMScheduler.from_config(pipeline.scheduler.config)`)."""
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion["num_steps"],
        "beta_start": diffusion["beta_start"],
        "beta_end": diffusion["beta_end"],
        "beta_schedule": SCHEDULES[diffusion["schedule"]],
        "trained_betas": None,
        "variance_type": sampler["variance"],
        "clip_sample": sampler["clip_x0"],
        "clip_sample_range": 1.0,
        "prediction_type": diffusion["prediction"],
        "thresholding": False,
        "timestep_spacing": sampler["spacing"],
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def read_noise(config: Mapping[str, Any], where: str) -> dict:
    """Our `diffusion` settings alone, from the file of any of their schedulers.

    All of them share one noise schedule and differ in how they sample.

    Raises:
      UserError: naming `where` and the key, if our schedules can't express its value.
    """
    values = DEFAULTS | dict(config)
    names = {theirs: ours for ours, theirs in SCHEDULES.items()}
    numbers = ("num_train_timesteps", "beta_start", "beta_end")
    for key, fits, need in (
        (
            "beta_schedule",
            lambda v: isinstance(v, str) and v in names,
            f"it must be one of {', '.join(names)}",
        ),
        (
            "prediction_type",
            lambda v: isinstance(v, str) and v in PARAMETERIZATIONS,
            f"it must be {' or '.join(PARAMETERIZATIONS)}",
        ),
        ("trained_betas", lambda v: v is None, "it must be null"),
        ("rescale_betas_zero_snr", lambda v: not v, "it must be false"),
        *((key, lambda v: type(v) in (int, float) and v > 0, "it must be > 0") for key in numbers),
    ):
        if not fits(values.get(key)):
            raise UserError(f"{where}: {key} = {values.get(key)!r} can't be expressed: {need}")
    return {
        "schedule": names[values["beta_schedule"]],
        "num_steps": int(values["num_train_timesteps"]),
        "beta_start": values["beta_start"],
        "beta_end": values["beta_end"],
        "prediction": values["prediction_type"],
    }
