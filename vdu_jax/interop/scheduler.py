"""Read and write the schedulers of Hugging Face diffusers, `scheduler_config.json`.

One such file gives two sections of a config: the noise schedule (`config.diffusion`), which must
exist here exactly, and the sampler (`config.sampler`), which is only proposed: the same sampler if
it exists here, or else the nearest one with a note on the difference.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vdu_jax.diffusion.parameterization import PARAMETERIZATIONS
from vdu_jax.diffusion.samplers import SPACINGS, VARIANCES
from vdu_jax.errors import UserError
from vdu_jax.interop.unet2d import same_kind, says_nothing

# Name of a noise schedule here -> in diffusers.
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


class Kind(NamedTuple):
    """A scheduler class of diffusers.

    Attributes:
      sampler: the same sampler here, or the nearest one.
      exact: whether it is the same.
      eta: η of that sampler.
      spacing: default of `timestep_spacing`.
      clips: default of `clip_sample`; None if the class never clips.
      thresholds: whether the class uses `thresholding`.
      flows: whether the class uses `use_flow_sigmas`.
      betas: defaults of beta_start, beta_end and beta_schedule.
    """

    sampler: str
    exact: bool = False
    eta: float = 0.0
    spacing: str = "linspace"
    clips: bool | None = None
    thresholds: bool = False
    flows: bool = False
    betas: tuple[float, float, str] = (1e-4, 0.02, "linear")


NARROW = (0.00085, 0.012, "linear")
DPM = Kind("dpm++2m", thresholds=True, flows=True)
DDPM = Kind("ddpm", exact=True, spacing="leading", clips=True, thresholds=True)
DDIM = DDPM._replace(sampler="ddim")
FEW_STEPS = Kind(
    "ddim", spacing="leading", clips=False, thresholds=True, betas=(*NARROW[:2], "scaled_linear")
)
# The classes with the forward process of DDPM, whatever they call its noise levels.
KINDS = {
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DPMSolverMultistepScheduler": DPM._replace(exact=True),
    "DDIMInverseScheduler": DDIM._replace(exact=False, thresholds=False),
    "DEISMultistepScheduler": DPM,
    "DPMSolverMultistepInverseScheduler": DPM,
    "DPMSolverSDEScheduler": Kind("dpm++2m", eta=1.0, betas=NARROW),
    "DPMSolverSinglestepScheduler": DPM,
    "EulerAncestralDiscreteScheduler": Kind("ddim", eta=1.0),
    "EulerDiscreteScheduler": Kind("ddim"),
    "HeunDiscreteScheduler": Kind("dpm++2m", clips=False, betas=NARROW),
    "KDPM2AncestralDiscreteScheduler": Kind("dpm++2m", eta=1.0, betas=NARROW),
    "KDPM2DiscreteScheduler": Kind("dpm++2m", betas=NARROW),
    "LCMScheduler": FEW_STEPS,
    "LMSDiscreteScheduler": Kind("ddim"),
    "PNDMScheduler": Kind("ddim", spacing="leading"),
    "RePaintScheduler": Kind("ddpm", spacing="leading", clips=True),
    "SASolverScheduler": DPM._replace(eta=1.0),
    "TCDScheduler": FEW_STEPS,
    "UniPCMultistepScheduler": DPM,
}
# Names of the first versions -> current names.
RENAMED_CLASSES = {"GaussianDDPMScheduler": "DDPMScheduler"}
RENAMED_KEYS = {"timesteps": "num_train_timesteps", "clip_predicted_image": "clip_sample"}
# A value of the right type for each key; the numbers are the defaults of all classes.
EXAMPLES = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -math.inf,
    "rescale_betas_zero_snr": False,
    "use_flow_sigmas": False,
    "timestep_type": "discrete",
}
# Settings of diffusers' solver with which it equals the DPM-Solver++ here.
SOLVER = {
    "solver_order": (2,),
    "solver_type": ("midpoint",),
    "final_sigmas_type": ("zero",),
    "lambda_min_clipped": (-math.inf, None),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
}
ALGORITHMS = {"dpmsolver++": 0.0, "sde-dpmsolver++": 1.0, "dpmsolver": 0.0, "sde-dpmsolver": 1.0}
OURS = ("dpmsolver++", "sde-dpmsolver++")
# Known keys that only affect how other classes sample, or only apply with values of the keys above
# that are refused.
OTHER_KEYS = {
    "trained_betas", "dynamic_thresholding_ratio", "sample_max_value", "euler_at_final",
    "lower_order_final", "flow_shift", "use_dynamic_shifting", "time_shift_type", "skip_prk_steps",
    "interpolation_type", "sigma_min", "sigma_max", "original_inference_steps", "timestep_scaling",
    "predictor_order", "corrector_order", "tau_func", "predict_x0", "disable_corrector", "solver_p",
    "shift_terminal", "noise_sampler_seed", "eta", "tensor_format", "predict_epsilon",
    "set_alpha_to_zero",
}  # fmt: skip


class Scheduler(NamedTuple):
    """Config settings from a `scheduler_config.json`.

    Attributes:
      diffusion: settings of the noise schedule, as `config.diffusion`.
      sampler: settings of the proposed sampler, as `config.sampler`.
      notes: lines for the user on differences of the sampler from the file.
    """

    diffusion: dict[str, Any]
    sampler: dict[str, Any]
    notes: tuple[str, ...]


class _File:
    """A `scheduler_config.json` with current names and the defaults of its class."""

    def __init__(self, config: Mapping[str, Any], where: Path | str, named: str | None) -> None:
        self.where, self.said = where, dict(config)
        name = named or config.get("_class_name")
        if name is None:
            raise self.refuse("_class_name", "it must be the scheduler's class")
        name = RENAMED_CLASSES.get(name, name) if isinstance(name, str) else name
        if not isinstance(name, str) or name not in KINDS:
            raise self.refuse(
                "_class_name",
                f"its noise schedule is unknown; known classes are {', '.join(sorted(KINDS))}",
                name,
            )
        self.name, self.kind = name, KINDS[name]
        self.values = self._renamed()
        self._check_kinds()

    def refuse(self, key: str, need: str, value: Any = None) -> UserError:
        """Make the error for a value that can't be expressed.

        Args:
          key: the key.
          need: the values that can be expressed, in words.
          value: the value; None for that of the file.
        """
        value = self.said.get(key) if value is None else value
        return UserError(f"{self.where}: {key} = {value!r} can't be expressed: {need}")

    def _renamed(self) -> dict[str, Any]:
        start, end, schedule = self.kind.betas
        values = EXAMPLES | {
            "beta_start": start,
            "beta_end": end,
            "beta_schedule": schedule,
            "timestep_spacing": self.kind.spacing,
            "clip_sample": bool(self.kind.clips),
        }
        said = dict(self.said)
        for old, new in RENAMED_KEYS.items():
            value = said.pop(old, None)
            if value is None:
                continue
            if said.get(new, value) != value:
                raise self.refuse(old, f"it is an old name of {new}, which is {said[new]!r}")
            said[new] = value
        predicts = said.get("predict_epsilon")
        prediction = said.get("prediction_type", "epsilon")
        if predicts is not None and (predicts is not True or prediction != "epsilon"):
            raise self.refuse(
                "predict_epsilon", f"it must be true, beside prediction_type = {prediction!r}"
            )
        return values | said

    def _check_kinds(self) -> None:
        """Refuse unknown keys, and values of another type."""
        for key, value in self.values.items():
            if key.startswith("_") or says_nothing(value):
                continue
            if key in EXAMPLES:
                if not same_kind(value, EXAMPLES[key]):
                    raise self.refuse(key, f"it must have the type of {EXAMPLES[key]!r}", value)
            elif key in SOLVER:
                if not isinstance(value, bool):
                    raise self.refuse(key, "it must be true or false")
            elif key not in OTHER_KEYS:
                raise self.refuse(key, "the key is not known")

    def noise(self) -> dict[str, Any]:
        """Settings of the same noise schedule here."""
        values, names = self.values, {theirs: ours for ours, theirs in SCHEDULES.items()}
        steps, schedule = values["num_train_timesteps"], values["beta_schedule"]
        if schedule not in names:
            raise self.refuse("beta_schedule", f"it must be one of {', '.join(names)}")
        if values["prediction_type"] not in PARAMETERIZATIONS:
            raise self.refuse("prediction_type", f"it must be {' or '.join(PARAMETERIZATIONS)}")
        if values.get("trained_betas") is not None:
            raise self.refuse("trained_betas", "it must be null")
        if values["rescale_betas_zero_snr"]:
            raise self.refuse("rescale_betas_zero_snr", "it must be false")
        if self.kind.flows and values["use_flow_sigmas"]:
            raise self.refuse("use_flow_sigmas", "it must be false: flow matching is not known")
        if self.kind.flows and str(values["variance_type"]).startswith("learned"):
            raise self.refuse("variance_type", "a network that predicts variances is not known")
        if self.name == "EulerDiscreteScheduler" and values["timestep_type"] != "discrete":
            raise self.refuse("timestep_type", "it must be 'discrete'")
        if not (isinstance(steps, int | float) and 2 <= steps <= 10**6 and steps == int(steps)):
            raise self.refuse("num_train_timesteps", "it must be a whole number in 2..1000000")
        betas = {}
        for key, usual in (("beta_start", 1e-4), ("beta_end", 0.02)):
            fine = isinstance(values[key], int | float) and 0 < values[key] < 1
            if not fine and names[schedule] != "cosine":  # the cosine schedule ignores them
                raise self.refuse(key, "it must lie in (0, 1)")
            betas[key] = values[key] if fine else usual
        return {
            "schedule": names[schedule],
            "num_steps": int(steps),
            **betas,
            "prediction": values["prediction_type"],
        }

    def sampling(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Settings of the nearest sampler here, and notes on the differences."""
        values, kind = self.values, self.kind
        spacing, clips = values["timestep_spacing"], kind.clips is not None
        if spacing not in SPACINGS:
            raise self.refuse("timestep_spacing", f"it must be {' or '.join(SPACINGS)}")
        if kind.thresholds and values["thresholding"]:
            raise self.refuse("thresholding", "it must be false")
        if clips and values["clip_sample"] and values["clip_sample_range"] != 1.0:
            raise self.refuse("clip_sample_range", "it must be 1.0")
        sampler = {
            "name": kind.sampler,
            "steps": values["num_train_timesteps"] if kind.sampler == "ddpm" else 50,
            "spacing": "trailing" if kind.sampler == "dpm++2m" else spacing,
            "clip_x0": bool(clips and values["clip_sample"]),
        }
        sampler["steps"] = int(min(sampler["steps"], values["num_train_timesteps"]))
        if kind.sampler == "ddpm" and kind.exact:
            sampler["variance"] = self._variance()
        if kind.sampler != "ddpm" and (kind.eta or kind.sampler == "dpm++2m"):
            sampler["eta"] = kind.eta
        differs = []
        if self.name == "DPMSolverMultistepScheduler":
            if values["algorithm_type"] not in ALGORITHMS:
                raise self.refuse("algorithm_type", f"it must be {' or '.join(ALGORITHMS)}")
            sampler["eta"] = ALGORITHMS[values["algorithm_type"]]
            wanted = SOLVER | {"algorithm_type": OURS, "timestep_spacing": ("trailing",)}
            differs = [k for k, fine in wanted.items() if k in values and values[k] not in fine]
        elif kind.exact and kind.sampler == "ddim" and not values["set_alpha_to_one"]:
            differs.append("set_alpha_to_one")
        if kind.exact and spacing == "leading" and values["steps_offset"]:
            differs.append("steps_offset")
        ours = f"config.sampler proposes {sampler['name']} of {sampler['steps']} steps"
        if not kind.exact:
            said = f"{self.where}: {self.name} is not one of the samplers here; {ours}, the nearest"
        elif differs:
            changed = ", ".join(f"{key} = {self.values[key]!r}" for key in differs)
            said = f"{self.where}: {changed} has no counterpart here; {ours} without it"
        else:
            return sampler, ()
        return sampler, (f"{said}. The noise schedule is the file's",)

    def _variance(self) -> str:
        # "fixed_small_log" computes the same variance by way of its logarithm.
        variance = {"fixed_small_log": "fixed_small"}.get(
            self.values["variance_type"], self.values["variance_type"]
        )
        if variance not in VARIANCES:
            raise self.refuse("variance_type", f"it must be {' or '.join(VARIANCES)}")
        return variance


def read_config(
    config: Mapping[str, Any], where: Path | str, named: str | None = None
) -> Scheduler:
    """Convert a `scheduler_config.json` to config settings.

    Args:
      config: the scheduler_config.json.
      where: its path, for errors and notes.
      named: the class in the pipeline's model_index.json, which diffusers uses; None for the file's
        own `_class_name`.

    Raises:
      UserError: naming the key, if no noise schedule here can express its value, or it changes the
        predicted image as no sampler here can.
    """
    file = _File(config, where, named)
    diffusion, (sampler, notes) = file.noise(), file.sampling()
    own = config.get("_class_name", named)
    if named is not None and own != named:
        notes = (
            f"{where}: _class_name = {own!r}, but model_index.json names {named}: read as the "
            "latter, as diffusers does",
            *notes,
        )
    return Scheduler(diffusion, sampler, notes)


def write_config(diffusion: Mapping[str, Any], sampler: Mapping[str, Any]) -> dict[str, Any]:
    """Convert config settings to the `scheduler_config.json` of a `DDPMScheduler`.

    diffusers makes its other schedulers of that one, e.g. by
    `DDIMScheduler.from_config(pipeline.scheduler.config)`.

    Args:
      diffusion: settings of the noise schedule, as `config.diffusion`.
      sampler: settings of the sampler, as `config.sampler`.
    """
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


def read_noise(
    config: Mapping[str, Any], where: Path | str, named: str | None = None
) -> dict[str, Any]:
    """Convert the noise schedule of a `scheduler_config.json` to config settings.

    All schedulers in `KINDS` share the forward process and differ only in how they sample.

    Args:
      config: the scheduler_config.json.
      where: its path, for errors.
      named: see `read_config`.

    Returns:
      Settings as `config.diffusion`.

    Raises:
      UserError: naming the key, if no noise schedule here can express its value.
    """
    return _File(config, where, named).noise()
