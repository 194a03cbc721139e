"""The section `benchmark`: which methods, forget classes or targets, and seeds are compared."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vdu_jax.config.check import Check, check_type
from vdu_jax.config.methods import change_method, check_method
from vdu_jax.errors import UserError, did_you_mean, shown

# Sections that `benchmark.changes` may change for a method, and `benchmark.targets` for a target.
CHANGES = ("forget", "posterior", "replay", "curve", "sampler")
TARGETS = ("forget", "replay", "detector", "evaluate")


def defaults(text: bool) -> dict[str, Any]:
    """The section with its defaults.

    Args:
      text: whether it is for a text-to-image model.
    """
    forgotten: dict[str, Any]
    forgotten = {
        # What to forget: name -> {section: {setting: value}}, e.g.
        # {"blue": {"forget": {"phrase": "blue", …}, "detector": {"colour": "blue"}}}.
        "targets": {},
        "tuning_target": "",  # the target that serves only for choosing from `grids`
    }
    if not text:
        forgotten = {
            "classes": (),  # classes to forget, one in each cell
            "tuning_class": -1,  # class for choosing from `grids`, not among `classes`
        }
    shared = {
        "seeds": (0, 1, 2),  # training seeds: a model is trained for each
        "method_seeds": {},  # method -> its seeds, if not all of them; () leaves the method out
        # Candidates for tuning: method -> tuple of {setting: value}, as many for every method.
        "grids": {},
        # Ablations: method -> settings outside `methods` that differ in its cells, e.g.
        # {"posterior": {"count": 3}}.
        "changes": {},
    }
    return {"benchmark": forgotten | shared}


def validate_benchmark(config: ConfigDict) -> None:
    """Refuse a comparison that cannot work or would not be fair.

    Args:
      config: all settings, checked by `config.validate`.

    Raises:
      UserError: with the key, its value, and what it must be.
    """
    c, section = Check(config), config.benchmark
    (_check_targets if c.text else _check_classes)(c)
    c.increasing_ints("benchmark.seeds", 0)
    _each_once(c, "benchmark.seeds")
    c.not_empty("methods", must="must name at least one method")
    for key in ("method_seeds", "grids", "changes"):
        c.require(
            f"benchmark.{key}",
            lambda v: set(v) <= set(config.methods),
            "must name entries of methods",
        )
    for method in section.method_seeds:
        c.require(
            f"benchmark.method_seeds.{method}",
            lambda v: set(v) <= set(section.seeds),
            "must be a tuple of some of benchmark.seeds, or () to leave the method out",
        )
    for method in section.changes:
        c.require(
            f"benchmark.changes.{method}",
            lambda v: not set(v) - set(CHANGES),
            f"may change {', '.join(CHANGES[:-1])} and {CHANGES[-1]} only",
        )
    sizes = {len(grid) for grid in section.grids.values()}
    c.require("benchmark.grids", lambda v: len(sizes) < 2, "must all have as many candidates")
    for method, grid in section.grids.items():
        c.require(
            f"benchmark.grids.{method}",
            lambda v: all(isinstance(changes, Mapping | ConfigDict) for changes in v),
            "must be a tuple of dicts, {setting: value}",
        )
        trial = ConfigDict({"methods": {}})
        for index, changes in enumerate(grid):
            name = f"{method}-{index}"
            trial.methods[name] = change_method(method, config.methods[method], changes)
            check_method(Check(trial), name)


def _each_once(c: Check, key: str) -> None:
    c.require(key, lambda v: len(set(v)) == len(v) > 0, "must name some, each once")


def _check_classes(c: Check) -> None:
    from vdu_jax import data

    info = data.static_info(c.config.data.name)
    high = None if info is None else info[1] - 1
    c.increasing_ints("benchmark.classes", 0, high)
    _each_once(c, "benchmark.classes")
    if c.config.benchmark.grids:
        classes = c.config.benchmark.classes
        c.require(
            "benchmark.tuning_class",
            lambda v: v >= 0 and v not in classes and (high is None or v <= high),
            "must be a class that is not among benchmark.classes",
        )


def _check_targets(c: Check) -> None:
    section = c.config.benchmark
    compared = set(section.targets) - {section.tuning_target}
    c.require("benchmark.targets", lambda v: compared, "must name one that is not for tuning")
    if section.grids or section.tuning_target:
        must = "must be a key of benchmark.targets, which then serves for tuning only"
        c.require("benchmark.tuning_target", lambda v: v in section.targets, must)
    for name in section.targets:
        target_config(c.config, name)


def targets(config: ConfigDict) -> list[int | str]:
    """The classes, or the names of the targets, that the cells of a benchmark forget."""
    section = config.benchmark
    if "classes" in section:
        return list(section.classes)
    return [name for name in section.targets if name != section.tuning_target]


def tuning_target(config: ConfigDict) -> int | str:
    """The class, or the name of the target, on which settings are chosen from grids."""
    section = config.benchmark
    return section.tuning_class if "classes" in section else section.tuning_target


def forgetting(config: ConfigDict, target: int | str) -> ConfigDict:
    """A copy of the config that forgets one class or target.

    Args:
      config: all settings.
      target: one of `targets`, or `tuning_target`.

    Raises:
      UserError: as `target_config`.
    """
    if "classes" not in config.benchmark:
        return target_config(config, str(target))
    new = config.copy_and_resolve_references()
    new.forget.classes = (target,)
    return new


def target_config(config: ConfigDict, name: str) -> ConfigDict:
    """A copy of the config with the changes of one of `benchmark.targets`.

    Args:
      config: all settings.
      name: key of `benchmark.targets`.

    Raises:
      UserError: for a name with other characters than letters, digits, - and _, a change of an
        unknown setting or of another type, or a config that `config.validate` refuses.
    """
    from vdu_jax.config import validate

    key, changes = f"benchmark.targets.{name}", config.benchmark.targets[name]
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"config key {key}: use letters, digits, - and _")
    if not isinstance(changes, ConfigDict) or not all(
        section in TARGETS and isinstance(values, ConfigDict) for section, values in changes.items()
    ):
        raise UserError(
            f"config key {key} = {shown(changes)}: must be {{section: {{setting: value}}}} of "
            f"{', '.join(TARGETS)}"
        )
    new = ConfigDict(config.to_dict())
    for section, values in changes.items():
        for setting, value in values.items():
            if setting not in new[section]:
                near = did_you_mean(setting, new[section])
                raise UserError(
                    f"config key {key}.{section}.{setting}: there is no such setting{near}"
                )
            check_type(f"{key}.{section}.{setting}", value, new[section][setting])
            new[section][setting] = value
    try:
        validate(new)
    except UserError as error:
        said = str(error).removeprefix("config key ")
        raise UserError(f"config key {key}: with its changes, {said}") from None
    return new
