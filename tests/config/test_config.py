from pathlib import Path

import pytest

from vdu_jax import cli
from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_config_is_valid_and_says_how_to_run_it(path):
    values, _ = cli.parse([f"--config={path}", "--workdir=x"])
    parsed = values["config"].value
    cli.validate(parsed)
    assert f"vdu run --config=configs/{path.name}" in path.read_text()
    assert parsed.methods


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("methods.plain.params.gamma", 1.5, "gamma must lie in [0, 1]"),
        ("methods.extended.params.stability", "both!", "unknown stability"),
        ("methods.plain.params.plasticity_reduction", "max", "unknown reduction"),
        ("methods.plain.params.anchor", "x", "unknown anchor"),
        ("methods.extended.params.drop_condition", 0.1, "is for networks with a condition"),
        ("methods.extended.params.plasticity", "mismatched", "is for networks with a condition"),
        ("methods.plain.steps", 0, "methods.plain.steps = 0: must be > 0"),
        ("methods.plain.snapshot_every", 5, "must be at most methods.plain.steps"),
        ("methods.plain.objective", "vdo", "must be one of"),
        ("model.freq_shift", 8.0, "must be less than half"),
        ("forget.classes", (10,), "forget.classes = (10,)"),
        ("forget.classes", (3, 3), "each once"),
        ("forget.classes", (), "must name classes"),
        ("forget.classes", tuple(range(10)), "leave at least one class"),
        ("forget.fraction", 0.0, "must lie in (0, 1]"),
        ("train.steps", 0, "train.steps = 0: must be > 0"),
        ("train.steps", -5, "must be > 0"),
        ("train.learning_rate", float("nan"), "finite"),
        ("train.snapshots", 1, "K ≥ 2 checkpoints"),
        ("posterior.count", 1, "K ≥ 2"),
        ("posterior.count", 9, "training keeps 3"),
        ("posterior.source", "runs", "posterior.runs"),
        ("posterior.family", "swag", "must be one of diagonal, fisher, low_rank"),
        ("methods.plain.optimizer", "sgd", "must be one of adam, natural"),
        ("posterior.shrinkage", 1.1, "must lie in [0, 1]"),
        ("data.name", "imagenet", "data.name = 'imagenet': must be one of"),
        ("data.background", "pink", "must be 'white' or 'black'"),
        ("data.background", "white", "data.background='white' does not fit digits"),
        ("data.image_size", 16, "data.image_size=16 does not fit digits"),
        ("data.channels", 3, "data.channels=3 does not fit digits"),
        ("model.block_out_channels", (8, 16, 32, 64, 128), "divisible by 16, not 8"),
        ("model.num_groups", 3, "must divide"),
        ("model.attention_levels", (2,), "in 0..0"),
        ("model.dtype", "float16", "must be one of"),
        ("diffusion.schedule", "exp", "must be one of"),
        ("sampler.steps", 51, "must lie in 1..50"),
        ("sampler.name", "euler", "must be one of"),
        ("sampler.timesteps", (49, 20), "must name sampler.steps = 3 times"),
        ("sampler.timesteps", (20, 49, 3), "each later than the next"),
        ("sampler.timesteps", (49, 20, 20), "each later than the next"),
        ("sampler.timesteps", (50, 20, 3), "must be a tuple of whole numbers in 0..49"),
        ("sampler.timesteps", (49.0, 20, 3), "must be a tuple of whole numbers in 0..49"),
        ("evaluate.seed", 1, "must differ"),
        ("evaluate.features", "vgg", "must be one of classifier, inception"),
        ("evaluate.features", "inception", "evaluate.inception_weights = ''"),
        ("evaluate.reference_images", 3, "must be ≥ 50"),
        ("evaluate.bootstrap", 99, "must be ≥ 100 for an interval"),
        ("relearn.seed", 2, "curve.seed, evaluate.seed, relearn.seed must differ"),
        ("relearn.seed", -1, "must be ≥ 0"),
        ("relearn.images", 49, "must be 0 (not measured) or ≥ 50"),
        ("relearn.forget_images", 0, "must be > 0"),
        ("relearn.batch_size", 0, "must be > 0"),
        ("relearn.learning_rate", 0.0, "must be > 0"),
        ("relearn.checks", (), "must name steps"),
        ("relearn.checks", (0, 1), "whole numbers ≥ 1"),
        ("relearn.checks", (1, 5, 2), "in order and each once"),
        ("relearn.checks", (1, 1), "in order and each once"),
        ("classifier.widths", (12,), "multiples of 8"),
        ("parallel.mode", "tpu", "must be one of"),
        ("parallel.attention", "flash", "must be one of cudnn, xla"),
        ("parallel.attention", "cudnn", "is for model.dtype = 'bfloat16'"),
    ],
)
def test_impossible_values_are_refused_by_key(unet_config, key, value, said):
    section, name = unet_config, key
    while "." in name:
        first, name = name.split(".", 1)
        section = section[first]
    section[name] = value
    with pytest.raises(UserError) as caught:
        vdu_config.validate(unet_config)
    assert said in str(caught.value)
    assert key.rsplit(".", 1)[0].split(".params")[0] in str(caught.value)


def test_named_timesteps_and_a_spacing_exclude_each_other(config):
    config.sampler.timesteps = (49, 20, 3)
    vdu_config.validate(config)
    config.sampler.spacing = "linspace"
    with pytest.raises(UserError, match="sampler.spacing = 'linspace': must be left out where"):
        vdu_config.validate(config)


@pytest.mark.parametrize("section", vdu_config.YOUNGER)
def test_a_younger_setting_counts_only_where_it_changes_something(section):
    """So that what was made before it existed is not refused: the default is the old way."""
    kind = vdu_config.TEXT_TO_IMAGE if section == "data" else "unet"
    every = vdu_config.default(kind).to_dict() | {"method": vdu_config.method("vdu").to_dict()}
    younger, whole = vdu_config.YOUNGER[section], every[section]
    assert younger.items() <= whole.items()
    assert vdu_config.section_inputs(section, whole).keys() == whole.keys() - younger.keys()
    for key in younger:
        changed = whole | {key: "other"}
        assert vdu_config.section_inputs(section, changed)[key] == "other"


def test_cudnn_is_refused_where_there_is_no_gpu(config):
    config.model.dtype, config.parallel.attention = "bfloat16", "cudnn"
    with pytest.raises(UserError, match="parallel.attention = 'cudnn': needs an NVIDIA GPU, and"):
        vdu_config.validate(config)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prior_precision", 0.0, "must be > 0"),
        ("prior_precision", float("nan"), "finite"),
        ("fisher_images", 0, "must be > 0"),
        ("training_images", -1, "must be ≥ 0"),
        ("fisher_seed", -1, "must be ≥ 0"),
        ("fisher_seed", 2, "must differ from replay.seed, curve.seed"),
    ],
)
def test_impossible_values_of_the_fisher_are_refused(config, key, value, said):
    config.posterior[key] = value
    vdu_config.validate(config)  # they say nothing about the other families
    config.posterior.family = "fisher"
    with pytest.raises(UserError, match=f"config key posterior.{key} = .*{said}"):
        vdu_config.validate(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.snapshots", 1), ("posterior.count", 1), ("posterior.source", "runs")],
)
def test_the_fisher_needs_one_checkpoint(config, key, value):
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match="K ≥ 2"):
        vdu_config.validate(config)
    config.posterior.family = "fisher"
    vdu_config.validate(config)


def is_there(config, section, key):
    return key in config.get(section, {})


@pytest.mark.parametrize("architecture", ["unet", "stable_diffusion"])
def test_every_setting_that_is_a_path_is_expanded(architecture, monkeypatch):
    monkeypatch.setenv("HERE", "/somewhere")
    config = vdu_config.default(architecture)
    named = ("dir", "manual_dir", "init_from", "runs", "folder", "inception_weights")
    found = {
        f"{section}.{key}"
        for section, values in config.items()
        if hasattr(values, "items")
        for key, value in values.items()
        if key in named or (isinstance(value, str) and ("/" in value or "~" in value))
    }
    there = {path for path in vdu_config.PATHS if is_there(config, *path.split("."))}
    assert found == there
    for path in there:
        section, key = path.split(".")
        value = "$HERE/x"
        config[section][key] = value if isinstance(config[section][key], str) else (value, "y")
    vdu_config.expand_paths(config)
    for path in there:
        section, key = path.split(".")
        assert config[section][key] in ("/somewhere/x", ("/somewhere/x", "y")), path


def test_a_name_near_to_what_is_known_is_suggested(config):
    config.train.decay = "linaer"
    with pytest.raises(UserError, match=r"must be one of constant, .*; did you mean linear\?"):
        vdu_config.validate(config)


def test_a_value_in_a_message_is_short_and_has_no_insides(config):
    with config.ignore_type():
        config.forget.classes = tuple(range(1000))
    with pytest.raises(UserError) as caught:
        vdu_config.validate(config)
    assert len(str(caught.value)) < 200 and "…" in str(caught.value)
    assert " at 0x" not in str(UserError(f"no such thing: {object()}"))


@pytest.mark.parametrize("changes", [{"steps": 7}, {"optimizer": "natural"}, {"guard": {"x": 1.0}}])
def test_a_retrained_model_has_no_settings_of_its_own(config, changes):
    config.methods = {"gold": vdu_config.method("retrain")}
    vdu_config.validate(config)
    config.methods.gold.update(changes)
    with pytest.raises(UserError, match="takes all its settings from config.train"):
        vdu_config.validate(config)


def test_a_method_takes_the_objectives_own_settings_and_no_others():
    entry = vdu_config.method("vdu_extended", function_weight=3.0, steps=7)
    assert entry.params.function_weight == 3.0 and entry.steps == 7
    with pytest.raises(UserError, match="no setting 'lambda_'"):
        vdu_config.method("vdu", lambda_=1)
    with pytest.raises(UserError, match="unknown objective 'esdd'"):
        vdu_config.method("esdd")
