import pytest

from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.interop import scheduler

# The scheduler_config.json of google/ddpm-cifar10-32 on the Hugging Face Hub.
DDPM_CIFAR10 = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}


def test_the_published_cifar10_schedule():
    diffusion, sampler = scheduler.read_config(DDPM_CIFAR10, "x")
    default = vdu_config.default()
    assert diffusion == default.diffusion.to_dict()
    assert sampler == {
        "name": "ddpm",
        "steps": 1000,
        "spacing": "leading",
        "clip_x0": True,
        "variance": "fixed_large",
    }


@pytest.mark.parametrize("schedule", scheduler.SCHEDULES)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_there_and_back(schedule, variance, prediction):
    config = vdu_config.default()
    config.diffusion.update(schedule=schedule, num_steps=77, beta_start=0.001, beta_end=0.3)
    config.diffusion.prediction = prediction
    config.sampler.update(variance=variance, clip_x0=False, spacing="linspace")
    written = scheduler.write_config(config.diffusion, config.sampler)
    diffusion, sampler = scheduler.read_config(written, "x")
    assert diffusion == config.diffusion.to_dict()
    assert {k: config.sampler[k] for k in ("variance", "clip_x0", "spacing")} == {
        k: sampler[k] for k in ("variance", "clip_x0", "spacing")
    }


def test_other_samplers():
    name = "DPMSolverMultistepScheduler"
    _, sampler = scheduler.read_config({"_class_name": name, "timestep_spacing": "trailing"}, "x")
    assert (sampler["name"], sampler["clip_x0"], sampler["eta"]) == ("dpm++2m", False, 0)
    config = {"_class_name": name, "timestep_spacing": "trailing"}
    _, sampler = scheduler.read_config(config | {"algorithm_type": "sde-dpmsolver++"}, "x")
    assert sampler["eta"] == 1
    _, sampler = scheduler.read_config({"_class_name": "DDIMScheduler"}, "x")
    assert (sampler["name"], sampler["spacing"]) == ("ddim", "leading")


@pytest.mark.parametrize(
    "changed",
    [
        {"_class_name": "PNDMScheduler"},
        {"_class_name": ["DDPMScheduler"]},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": [0.1, 0.2]},
        {"prediction_type": "sample"},
        {"variance_type": "learned_range"},
        {"thresholding": True},
        {"rescale_betas_zero_snr": True},
        {"steps_offset": 1},
        {"clip_sample_range": 2.0},
        {"_class_name": "DDIMScheduler", "set_alpha_to_one": False},
        {"_class_name": "DPMSolverMultistepScheduler"},  # linspace by default, not our grid
        {"algorithm_type": "dpmsolver"},
        {"surprise": 1},
    ],
)
def test_what_cannot_be_expressed_is_refused_by_key(changed):
    key = "timestep_spacing" if changed.get("_class_name", "").__contains__("Multi") else None
    key = key or list(changed)[-1]
    with pytest.raises(UserError, match=rf"^file: {key} = "):
        scheduler.read_config(DDPM_CIFAR10 | changed, "file")
