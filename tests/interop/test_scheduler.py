import pytest

from vdu_jax import config as vdu_config
from vdu_jax.diffusion import samplers, schedule
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
    diffusion, sampler, notes = scheduler.read_config(DDPM_CIFAR10, "x")
    assert notes == ()
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
    diffusion, sampler, notes = scheduler.read_config(written, "x")
    assert notes == ()
    assert diffusion == config.diffusion.to_dict()
    assert {k: config.sampler[k] for k in ("variance", "clip_x0", "spacing")} == {
        k: sampler[k] for k in ("variance", "clip_x0", "spacing")
    }


def test_samplers_that_are_ours_too():
    name = "DPMSolverMultistepScheduler"
    config = {"_class_name": name, "timestep_spacing": "trailing"}
    _, sampler, notes = scheduler.read_config(config, "x")
    assert (sampler["name"], sampler["clip_x0"], sampler["eta"]) == ("dpm++2m", False, 0)
    assert notes == ()
    _, sampler, _ = scheduler.read_config(config | {"algorithm_type": "sde-dpmsolver++"}, "x")
    assert sampler["eta"] == 1
    _, sampler, notes = scheduler.read_config({"_class_name": "DDIMScheduler"}, "x")
    assert (sampler["name"], sampler["spacing"], notes) == ("ddim", "leading", ())


SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.03}


@pytest.mark.parametrize("name", sorted(scheduler.KINDS))
def test_every_scheduler_of_the_same_noise(name):
    """Its noise schedule is taken, a sampler proposed that ours can make, and said so."""
    diffusion, sampler, notes = scheduler.read_config(SCALED | {"_class_name": name}, "file")
    assert diffusion == vdu_config.default().diffusion.to_dict() | {
        "schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.03
    }  # fmt: skip
    config = vdu_config.default()
    config.diffusion.update(diffusion)
    config.sampler.update(sampler)
    samplers.make_plan(
        schedule.make_schedule("scaled_linear", 1000, 0.001, 0.03),
        config.sampler.name,
        config.sampler.steps,
        eta=config.sampler.eta,
        spacing=config.sampler.spacing,
        variance=config.sampler.variance,
    )
    if name in ("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler"):
        assert notes == ()
    else:
        (note,) = notes
        assert note.startswith("file: ") and f"config.sampler proposes {sampler['name']}" in note
        assert name in note or "timestep_spacing = 'linspace'" in note


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "PNDMScheduler is not one of"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "EulerDiscrete"),
        ({"steps_offset": 1}, "steps_offset = 1 has no counterpart"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, "set_alpha_to_one = False"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3,
             "use_karras_sigmas": True, "algorithm_type": "dpmsolver"},
            "solver_order = 3, use_karras_sigmas = True, algorithm_type = 'dpmsolver', "
            "timestep_spacing = 'linspace'",
        ),
    ],
)  # fmt: skip
def test_what_a_sampler_does_otherwise_is_said(changed, said):
    diffusion, _, (note,) = scheduler.read_config(DDPM_CIFAR10 | changed, "file")
    assert said in note
    assert diffusion == scheduler.read_config(DDPM_CIFAR10, "file").diffusion


def test_a_class_has_its_own_defaults():
    """Heun's betas are not DDPM's where the file leaves them out."""
    heun = {"_class_name": "HeunDiscreteScheduler"}
    diffusion, _, _ = scheduler.read_config(heun, "x")
    assert (diffusion["beta_start"], diffusion["beta_end"]) == (0.00085, 0.012)
    assert scheduler.read_noise(heun, "x") == diffusion
    assert scheduler.read_noise({"_class_name": "LCMScheduler"}, "x")["schedule"] == "scaled_linear"


def test_the_index_names_the_class():
    diffusion, sampler, (note,) = scheduler.read_config(DDPM_CIFAR10, "x", "DDIMScheduler")
    assert sampler["name"] == "ddim" and "model_index.json names DDIMScheduler" in note
    without = {k: v for k, v in DDPM_CIFAR10.items() if k != "_class_name"}
    assert scheduler.read_config(without, "x", "DDPMScheduler").diffusion == diffusion
    with pytest.raises(UserError, match="_class_name = None"):
        scheduler.read_config(without, "x")


def test_few_steps_of_training_are_not_outnumbered_by_those_of_sampling():
    _, sampler, _ = scheduler.read_config(
        {"_class_name": "DDIMScheduler", "num_train_timesteps": 20}, "x"
    )
    assert sampler["steps"] == 20


@pytest.mark.parametrize(
    "changed",
    [
        # As of google/ddpm-celebahq-256 and -church-256.
        {"timestep_values": None},
        {"surprise": False, "another": None},
        {"clip_sample": False, "clip_sample_range": 3.0},
        {"timestep_spacing": "trailing", "steps_offset": 1},
        {"dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0},  # without thresholding
        {"skip_prk_steps": True, "use_karras_sigmas": True, "algorithm_type": "dpmsolver"},
        {"predict_epsilon": True},
        {"predict_epsilon": None},
        {"tensor_format": "pt"},
        {"_use_default_values": ["thresholding"], "_name_or_path": "x"},
        {"variance_type": "fixed_small_log"},
        {"_class_name": "GaussianDDPMScheduler"},
        {"_class_name": "DDPMParallelScheduler"},
        {"beta_schedule": "squaredcos_cap_v2", "beta_start": None, "beta_end": 7},
        {"_class_name": "DDIMScheduler", "variance_type": "learned"},
        {"thresholding": None, "rescale_betas_zero_snr": None, "clip_sample": None},
    ],
)
def test_what_says_nothing_is_accepted(changed):
    assert scheduler.read_config(DDPM_CIFAR10 | changed, "x").notes == ()


def test_old_names_of_keys():
    old = {
        "_class_name": "GaussianDDPMScheduler",
        "timesteps": 500,
        "clip_predicted_image": False,
        "beta_schedule": "squaredcos_cap_v2",
    }
    diffusion, sampler, _ = scheduler.read_config(old, "x")
    assert (diffusion["num_steps"], sampler["clip_x0"], sampler["steps"]) == (500, False, 500)
    with pytest.raises(UserError, match="timesteps = 500 .*old name of num_train_timesteps"):
        scheduler.read_config(old | {"num_train_timesteps": 1000}, "x")


@pytest.mark.parametrize(
    "changed",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": "ScoreSdeVeScheduler"},
        {"_class_name": "CMStochasticIterativeScheduler"},
        {"_class_name": ["DDPMScheduler"]},
        {"beta_schedule": "sigmoid"},
        {"beta_start": 0},
        {"beta_end": 1.5},
        {"beta_end": None},
        {"num_train_timesteps": 2.5},
        {"num_train_timesteps": float("inf")},
        {"trained_betas": [0.1, 0.2]},
        {"prediction_type": "sample"},
        {"predict_epsilon": False},
        {"prediction_type": "v_prediction", "predict_epsilon": True},
        {"timestep_values": [1, 2]},
        {"variance_type": "learned_range"},
        {"variance_type": "fixed_large_log"},
        {"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "deis"},
        {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
        {"thresholding": True},
        {"thresholding": "no"},
        {"rescale_betas_zero_snr": True},
        {"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True},
        {"clip_sample_range": 2.0},
        {"timestep_spacing": "random"},
        {"surprise": 1},
        {"surprise": 0},
        {"surprise": []},
    ],
)
def test_what_changes_the_result_is_refused_by_key(changed):
    key = list(changed)[-1]
    with pytest.raises(UserError, match=rf"^file: {key} = "):
        scheduler.read_config(DDPM_CIFAR10 | changed, "file")
