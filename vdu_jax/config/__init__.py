"""The settings: defaults and validation.

A config file starts from `default()` and changes what it needs; the files in configs/ are examples.
`validate` refuses settings that cannot work before anything is computed. Each module holds the
defaults of some sections and their checks. A section has only the settings that its kind of model
uses.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vdu_jax.config import benchmark, data, drawing, evaluate, methods, network, posterior, train
from vdu_jax.config.benchmark import (
    forgetting,
    target_config,
    targets,
    tuning_target,
    validate_benchmark,
)
from vdu_jax.config.check import (
    TEXT_TO_IMAGE,
    USER_KEYED_SECTIONS,
    WORDS,
    Check,
    check_types,
    is_text_to_image,
    must_be,
)
from vdu_jax.config.methods import (
    ORIGINAL,
    change_method,
    method,
    needs_posterior,
    takes_posterior,
    tiny_objective,
)
from vdu_jax.config.network import (
    check_classes,
    model,
    validate_diffusion,
    validate_model,
)
from vdu_jax.config.paths import PATHS, expand_path, expand_paths

# Settings that are younger than runs which are to go on, with the value that changes nothing. A
# "method" is an entry of `config.methods`.
YOUNGER: dict[str, dict[str, Any]] = {
    "classifier": {"flip": False, "shift": 0, "stride": 1},
    "data": {"background": "", "caption_column": "text"},
    "method": methods.WHOLE_NETWORK,
    "model": {"name": "unet", "num_class_embeds": 0},
    "sampler": {"timesteps": ()},
    "train": {"flip": False},
}


def default(architecture: str = "unet") -> ConfigDict:
    """All settings with their defaults. Relative paths start at the current directory.

    Args:
      architecture: a name in `models.registry.ARCHITECTURES` for a model of pixels, or
        `TEXT_TO_IMAGE`. It decides which settings exist.

    Returns:
      The config; `config.methods` is empty, fill it with `method`.

    Raises:
      UserError: for an unknown architecture.
    """
    text = architecture == TEXT_TO_IMAGE
    parts = [part.defaults(text) for part in (data, train, posterior, drawing, evaluate, benchmark)]
    sections = network.defaults(architecture) | {"methods": {}}  # name -> method(...)
    for part in parts:
        sections |= part
    return ConfigDict(sections)


def validate(config: ConfigDict) -> None:
    """Refuse a config that cannot work.

    Args:
      config: all settings, made from `default`.

    Raises:
      UserError: for the first setting that is missing, unknown, of the wrong type or out of range;
        the message has the key, its value, and what it must be.
    """
    named = isinstance(config.get("model"), ConfigDict) and "name" in config.model
    check_types(config, default(config.model.name) if named else default(), "")
    c = Check(config)
    for part in (data, network, train, drawing, evaluate, methods, posterior):
        part.check(c)


def section_inputs(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """A section as an input of a stage.

    Settings of `YOUNGER` are left out where they change nothing, so that a run continues with a
    version of this package that has more settings than the one that began it.

    Args:
      name: name of the section; "method" for an entry of `config.methods`.
      section: its settings.
    """
    younger = YOUNGER.get(name, {})
    return {k: v for k, v in section.items() if k not in younger or v != younger[k]}


__all__ = [
    "ORIGINAL", "PATHS", "TEXT_TO_IMAGE", "USER_KEYED_SECTIONS", "WORDS", "YOUNGER", "Check",
    "change_method", "check_classes", "check_types", "default", "expand_path", "expand_paths",
    "forgetting", "is_text_to_image", "method", "model", "must_be", "needs_posterior",
    "section_inputs", "takes_posterior", "target_config", "targets", "tiny_objective",
    "tuning_target", "validate", "validate_benchmark", "validate_diffusion", "validate_model",
]  # fmt: skip
