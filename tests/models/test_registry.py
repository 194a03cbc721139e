"""Architectures by name: settings, the sections made of them, and what is refused."""

import pytest

from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.models import network, registry


@pytest.mark.parametrize("name", registry.ARCHITECTURES)
def test_an_architecture_has_the_shared_settings_and_names_no_other_s(name):
    settings = registry.ARCHITECTURES[name].settings
    assert network.SHARED.items() <= settings.items() and "name" not in settings
    section = vdu_config.model(name)
    assert section.to_dict() == {"name": name, **settings}


@pytest.mark.parametrize("name", registry.ARCHITECTURES)
@pytest.mark.parametrize(
    ("key", "value"),
    [("num_class_embeds", 1), ("dropout", 1.0), ("dtype", "float64"), ("param_dtype", "half")],
)
def test_shared_settings_are_checked_for_every_architecture(name, key, value):
    config = vdu_config.default()
    config.model = vdu_config.model(name, **{key: value})
    with pytest.raises(UserError, match=f"config key model.{key}"):
        vdu_config.validate(config)


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("unett", {}, "model.name = 'unett': must be one of .*unet; did you mean unet\\?"),
        (
            "unet",
            {"num_group": 8},
            "model.num_group: there is no such setting of 'unet'.*num_groups",
        ),
        ("unet", {"num_groups": "8"}, "model.num_groups = '8': must be a whole number"),
    ],
)
def test_what_there_is_not_is_one_line(name, changes, line):
    with pytest.raises(UserError, match=line):
        vdu_config.model(name, **changes)


def test_a_config_with_an_unknown_architecture_is_one_line():
    config = vdu_config.default()
    config.model.name = "transformer"
    with pytest.raises(UserError, match="model.name = 'transformer': must be one of"):
        vdu_config.validate(config)
