"""What is refused in a config of a text-to-image model."""

import pytest

from vdu_jax import config as vdu_config
from vdu_jax.config import method, needs_posterior, validate
from vdu_jax.errors import UserError


@pytest.fixture
def config():
    config = vdu_config.default("stable_diffusion")
    config.forget.prompts = ("a red bag",)
    config.replay.prompts = ("a blue bag",)
    config.evaluate.other_prompts = ("a white dress",)
    config.detector.palette = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    config.methods.vdu = method("vdu", "cross_attention")
    return config


def test_a_sound_config_passes(config):
    validate(config)
    assert config.methods.vdu.subset == "cross_attention"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.name", "flowers", "must be one of"),
        ("data.name", "captions", "data.image_size"),
        ("data.templates", (), "at least one"),
        ("data.image_size", 64, "data.image_size=64 does not fit tinted_fashion"),
        ("data.channels", 1, "data.channels=1 does not fit tinted_fashion"),
        ("data.background", "white", "data.background='white' does not fit tinted_fashion"),
        ("data.background", "pink", "must be 'white' or 'black'"),
        ("data.caption_column", "caption", "is for data.name = 'captions'"),
        ("forget.phrase", "\u200b ", "must have a letter in it"),
        ("forget.prompts", (), "prompts that ask for the feature"),
        ("forget.fraction", 0.0, "must lie in (0, 1]"),
        ("replay.prompts", ("a red bag",), "must not have 'red' in it"),
        ("evaluate.other_prompts", ("Red!",), "must not have 'red' in it"),
        ("evaluate.paraphrases", ("red",), "must not have 'red' in it"),
        ("detector.palette", {"blue": (0, 0, 255)}, "must give 'red'"),
        ("detector.palette", {"red": (0, 0, 255), "blue": (0, 0)}, "must give 'red'"),
        ("detector.palette", {"red": (0, 0, 255), "no": (0, 0, 0)}, "must give 'red'"),
        ("detector.kind", "clap", "must be one of clip, colour, nudenet"),
        ("detector.kind", "clip", "detector.folder"),
        ("model.dtype", "float16", "must be one of"),
        ("sampler.name", "euler", "must be one of"),
        ("sampler.steps", 1001, "must lie in 1..1000"),
        ("sampler.clip_x0", True, "latents have no range"),
        ("condition.guidance", -1.0, "must be ≥ 0"),
        ("curve.seed", 3, "must differ"),
        ("train.autoencoder.steps", 0, "must be > 0"),
        ("condition.drop", 1.0, "must lie in [0, 1)"),
        ("condition.drop", 0.0, "condition.guidance = 3.0"),
        ("train.weighting", "snr", "must be one of"),
        ("train.ema_decay", 1.0, "must lie in [0, 1)"),
        ("train.snapshots", 1, "K ≥ 2"),
        ("posterior.count", 1, "must be 0 (all) or K ≥ 2"),
        ("posterior.source", "runs", "posterior.runs = ()"),
        ("model.folder", "v1-4", "posterior.source = 'trajectory': one folder"),
        ("model.folder", " ", "must name a folder"),
        ("relearn.images", 49, "or ≥ 50 over all of forget.prompts"),
        ("relearn.seed", 2, "must differ"),
        ("evaluate.bootstrap", 9, "must be ≥ 100"),
        ("evaluate.features", "vgg", "must be one of"),
        ("parallel.mode", "tpu", "must be one of"),
        ("classifier.epochs", 0, "must be > 0"),
        ("methods.vdu.subset", "(", "methods.vdu.subset"),
        ("methods.vdu.rank", -1, "methods.vdu.rank"),
        ("methods.vdu.steps", 0, "must be > 0"),
        ("methods.vdu.params.gamma", 2.0, "gamma"),
    ],
)
def test_a_mistake_names_its_key(config, key, value, said):
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section[part]
    if isinstance(value, dict):
        del section[last]
    section[last] = value
    with pytest.raises(UserError) as error:
        validate(config)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_settings_of_image_models_are_refused(config):
    for key in ("bits_per_dim_images", "feature_times", "classes"):
        section = {"b": "evaluate", "f": "replay", "c": "forget"}[key[0]]
        config[section][key] = 1
        with pytest.raises(UserError, match=f"{section}.{key}: there is no such setting"):
            validate(config)
        del config[section][key]
    config.diffusion = vdu_config.default().diffusion
    with pytest.raises(UserError, match="config key diffusion: there is no such setting"):
        validate(config)


def test_the_kind_of_model_is_its_architecture(config):
    assert vdu_config.is_text_to_image(config)
    for other in (vdu_config.default(), {}, {"model": 3}, None, 3, "text"):
        assert not vdu_config.is_text_to_image(other)
    assert vdu_config.model("stable_diffusion", folder="v1-4").folder == "v1-4"


def test_a_folder_is_the_model(config):
    config.model.folder = "v1-4"
    config.posterior.update(source="runs", runs=("v1-2", "v1-3"))
    validate(config)
    config.posterior.count = 4
    with pytest.raises(UserError, match="give 3 checkpoints, and K ≥ 4"):
        validate(config)
    config.posterior.family = "fisher"
    validate(config)
    config.unlearn.init_from = "runs/mine"
    with pytest.raises(UserError, match="unlearn.init_from = 'runs/mine'.*model.folder"):
        validate(config)
    config.unlearn.init_from = ""
    config.methods.gold = method("retrain")
    with pytest.raises(UserError, match="methods.gold.objective = 'retrain'"):
        validate(config)


def test_relearning_draws_of_every_prompt(config):
    config.forget.prompts = ("a red bag", "a red shoe")
    config.relearn.images = 25
    validate(config)


BLUE = {
    "forget": {"phrase": "blue", "prompts": ("a blue bag",)},
    "replay": {"prompts": ("a red bag",)},
    "detector": {"colour": "blue"},
}


def test_a_comparison_of_targets(config):
    config.benchmark.targets = {"red": {}, "blue": BLUE}
    vdu_config.validate_benchmark(config)
    made = vdu_config.target_config(config, "blue")
    assert made.forget.phrase == made.detector.colour == "blue"
    assert config.forget.phrase == config.detector.colour == "red"
    config.benchmark.grids = {"vdu": ({"gamma": 0.2}, {"rank": 1})}
    config.benchmark.tuning_target = "blue"
    vdu_config.validate_benchmark(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": {}}, "benchmark.targets"),
        ({"targets": {"blue": BLUE}, "tuning_target": "blue"}, "that is not for tuning"),
        ({"tuning_target": "green"}, "benchmark.tuning_target = 'green'"),
        ({"grids": {"vdu": ({},)}}, "benchmark.tuning_target = ''"),
        ({"targets": {"a/b": {}}}, "use letters"),
        ({"targets": {"blue": 3}}, "benchmark.targets.blue = 3"),
        ({"targets": {"blue": {"train": {"steps": 3}}}}, "benchmark.targets.blue"),
        ({"targets": {"blue": {"forget": {"phrases": "x"}}}}, "did you mean phrase"),
        ({"targets": {"blue": {"forget": {"phrase": 3}}}}, "forget.phrase = 3: must be text"),
        ({"targets": {"blue": {"forget": {"phrase": "blue"}}}}, "targets.blue: .*replay.prompts"),
    ],
)
def test_comparisons_of_targets_that_cannot_be_are_refused(config, changes, said):
    config.benchmark.targets = {"red": {}}
    with config.unlocked(), config.ignore_type():
        for key, value in changes.items():
            config.benchmark[key] = value
    with pytest.raises(UserError, match=said):
        vdu_config.validate_benchmark(config)


def test_inputs_of_a_method_are_without_what_it_does_not_use():
    plain = method("vdu").to_dict()
    assert vdu_config.section_inputs("method", plain).keys() == plain.keys() - {"subset", "rank"}
    assert vdu_config.section_inputs("method", method("vdu", "attn", 2).to_dict())["rank"] == 2


def test_one_folder_will_do_for_methods_without_a_posterior(config):
    config.model.folder = "v1-4"
    config.methods = {"esd_x": method("esd", "cross_attention", teacher="condition")}
    validate(config)


@pytest.mark.parametrize(
    ("entry", "takes"),
    [
        (method("vdu"), True),
        (method("vdu_extended", stability="function"), True),  # its energy is logged
        (method("esd"), False),
        (method("salun"), False),
        (method("salun", optimizer="natural"), True),
    ],
)
def test_who_takes_the_posterior(config, entry, takes):
    config.model.folder = "v1-4"
    config.methods = {"one": entry}
    assert needs_posterior(config) == takes
    if takes:
        with pytest.raises(UserError, match="posterior.source"):
            validate(config)
    else:
        validate(config)
