"""What is refused in a config of a text-to-image model."""

import pytest

from vdu_jax import text_config
from vdu_jax.errors import UserError
from vdu_jax.text_config import method, needs_posterior, validate


@pytest.fixture
def config():
    config = text_config.default()
    config.forget.prompts = ("a red bag",)
    config.replay.prompts = ("a blue bag",)
    config.evaluate.other_prompts = ("a white dress",)
    config.detector.palette = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    config.methods.vdu = method("vdu", "cross_attention")
    return config


def test_a_sound_config_passes(config):
    validate(config)
    assert config.methods.vdu.subset == "cross_attention"


def test_esd_erases_the_text_unless_told_otherwise(config):
    assert method("esd").params.teacher == "condition"
    assert method("esd", teacher="fine_tuned").params.teacher == "fine_tuned"


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
        ("sampler.name", "ddpm", "must be one of"),
        ("sampler.guidance", -1.0, "must be ≥ 0"),
        ("curve.seed", 3, "must differ"),
        ("train.autoencoder.steps", 0, "must be > 0"),
        ("train.drop_condition", 1.5, "must lie in [0, 1]"),
        ("train.snapshots", 1, "K ≥ 2"),
        ("posterior.count", 1, "must be 0 (all) or K ≥ 2"),
        ("posterior.folders", ("v1-1",), "model.folder"),
        ("model.folder", "v1-4", "posterior.folders"),
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


def test_an_entry_that_is_not_of_this_kind_is_refused(config):
    from vdu_jax import config as images

    config.methods.plain = images.method("vdu")
    with pytest.raises(UserError, match=r"text_config\.method"):
        validate(config)
    del config.methods["plain"]
    config.methods.again = method("retrain")
    with pytest.raises(UserError, match="objective"):
        validate(config)


def test_one_folder_will_do_for_methods_without_a_posterior(config):
    config.model.folder = "v1-4"
    config.methods = {"esd_x": method("esd", "cross_attention")}
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
        with pytest.raises(UserError, match="posterior.folders"):
            validate(config)
    else:
        validate(config)
