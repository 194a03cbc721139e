"""The section `methods`: the unlearning methods to run and their settings."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vdu_jax.config.check import Check, check_types, must_be
from vdu_jax.errors import UserError, did_you_mean, shown

ORIGINAL = "original"
"""Name of the model that is unlearned; no method may have it."""

# Allowed values of objectives' settings for unconditional networks, and for conditional networks
# that were trained without dropping conditions.
WITHOUT_CONDITION = {
    "drop_condition": (0,),
    "plasticity": ("linear", "capped"),
    "teacher": ("fine_tuned",),
    "relabel": ("image",),
}
WITHOUT_NOTHING = {key: WITHOUT_CONDITION[key] for key in ("drop_condition", "teacher")}
WHOLE_NETWORK = {
    # Part of the network that may change: "all", "cross_attention", "not_cross_attention", or a
    # regular expression on the paths of parameters.
    "subset": "all",
    "rank": 0,  # rank of the change of each matrix (LoRA); 0 for any change
}


def method(objective: str, subset: str = "all", rank: int = 0, **changes: Any) -> ConfigDict:
    """An entry of `config.methods`: an objective, its optimiser, and the rule for the step to keep.

    Args:
      objective: a name in `objectives.FACTORIES`.
      subset: part of the network that may change: a name in `models.subset.NAMED`, or a regular
        expression on the paths of parameters.
      rank: rank of the change of each matrix (LoRA); only the factors change and are stored. 0 for
        changes of any rank. See `models.lora`.
      changes: other settings of the entry, or of the objective. An objective's settings are the
        keyword arguments of its factory, which documents them; the entry has them under `params`.

    Raises:
      UserError: for an unknown objective or setting, or a value of the wrong type.
    """
    entry = ConfigDict(
        {
            "objective": objective,  # the method's name
            **WHOLE_NETWORK,
            "steps": 200,  # optimiser steps
            "optimizer": "adam",  # "adam", or "natural": gradient descent scaled by the variances
            "learning_rate": 1e-4,  # learning rate; with "natural", 1/γ is the closed-form step
            "decay": "constant",  # learning-rate schedule: "constant", or "linear" to 0
            "beta2": 0.999,  # β2 of Adam
            "forget_batch": 32,  # forget images in a step
            "replay_batch": 96,  # replay images in a step, if the objective sees them
            "retain_batch": 96,  # retained images in a step, if the objective sees them
            "snapshot_every": 20,  # steps between snapshots, the points of the trade-off curve
            "log_every": 10,  # steps between lines of metrics
            # Keep the snapshot with the least drift among those whose estimated PUL reaches this
            # (percent). Estimates run some 3 points above the classifier's figure.
            "target_pul": 97.0,
            # Guard: metric -> largest value; beyond it the run ends, and earlier steps can be kept.
            "guard": {"forget_error": 10.0, "energy": 1e6},
            "params": _objective_defaults(objective),
        }
    )
    return change_method(objective, entry, {"subset": subset, "rank": rank} | changes)


def change_method(name: str, entry: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of an entry of `config.methods` with some settings changed.

    Args:
      name: name of the entry, for messages.
      entry: the entry.
      changes: setting -> value, as the `changes` of `method`.

    Raises:
      UserError: for an unknown setting, or a value of the wrong type.
    """
    entry = ConfigDict(entry.to_dict())
    for key, value in changes.items():
        section = entry if key in entry and key != "params" else entry.params
        if key not in section:
            known = [*entry, *entry.params]
            raise UserError(f"method {name!r} has no setting {key!r}{did_you_mean(key, known)}")
        try:
            section[key] = value
        except TypeError:
            must = must_be(section[key])
            raise UserError(f"method {name!r}: {key} = {shown(value)}: must be {must}") from None
    return entry


def _objective_defaults(name: str) -> dict[str, Any]:
    """The keyword-only arguments of an objective's factory and their defaults."""
    from vdu_jax import objectives

    if name not in objectives.FACTORIES:
        raise UserError(
            f"unknown objective {shown(name)}; one of {', '.join(sorted(objectives.FACTORIES))}"
            f"{did_you_mean(str(name), objectives.FACTORIES)}"
        )
    parameters = inspect.signature(objectives.FACTORIES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def tiny_objective(entry: ConfigDict) -> Any:
    """The `Objective` of an entry of `config.methods` for a network with one parameter.

    It shows what the objective sees and needs before a model exists.

    Raises:
      ValueError: for a setting of the objective that is out of range.
    """
    import jax.numpy as jnp

    from vdu_jax import objectives, posterior
    from vdu_jax.diffusion import parameterization, schedule

    one = {"w": jnp.ones(1)}
    tiny = posterior.GaussianPosterior(one, one, jnp.int32(2))
    predicts = parameterization.epsilon(schedule.make_schedule(num_steps=2))
    return objectives.FACTORIES[entry.objective](
        lambda params, xt, *_, **__: xt, predicts, tiny, 1, **entry.params
    )


def takes_posterior(entry: ConfigDict) -> bool:
    """Whether a method's loss or optimiser uses the posterior."""
    return "posterior" in tiny_objective(entry).needs or entry.optimizer == "natural"


def needs_posterior(config: ConfigDict) -> bool:
    """Whether any method of a config uses the posterior."""
    return any(map(takes_posterior, config.methods.values()))


def check(c: Check) -> None:
    """Refuse methods that cannot work with the config's kind of model.

    Raises:
      UserError: with the key.
    """
    allowed = _allowed_params(c)
    for name, entry in c.config.methods.items():
        check_method(c, name)
        for key in allowed.keys() & entry.params.keys():
            c.require(
                f"methods.{name}.params.{key}",
                lambda v, key=key: v in allowed[key],
                "is for networks with a condition (model.num_class_embeds, condition.drop)",
            )
        if c.text and c.config.model.folder:
            c.require(
                f"methods.{name}.objective",
                lambda v: v != "retrain",
                "is for models trained here: how the model of model.folder was trained is unknown",
            )


def _allowed_params(c: Check) -> Mapping[str, tuple]:
    """Setting of an objective -> its allowed values; a setting that is not named may be any."""
    if not c.text and not c.config.model.num_class_embeds:
        return WITHOUT_CONDITION
    knows_nothing = c.config.condition.drop or (c.text and c.config.model.folder)
    return {} if knows_nothing else WITHOUT_NOTHING


def check_method(c: Check, name: str) -> None:
    """Refuse an entry of `config.methods` that cannot work.

    Args:
      c: checks of the config.
      name: name of the entry.

    Raises:
      UserError: with the key.
    """
    from vdu_jax import objectives

    prefix, entry = f"methods.{name}", c.config.methods[name]
    if not name.replace("_", "").replace("-", "").isalnum() or name == ORIGINAL:
        raise UserError(f"config key {prefix}: use letters, digits, - and _; not {ORIGINAL!r}")
    if not isinstance(entry, ConfigDict) or "objective" not in entry:
        raise UserError(f"config key {prefix}: make it with vdu_jax.config.method(…)")
    c.one_of(f"{prefix}.objective", objectives.FACTORIES)
    wanted = method(entry.objective)
    check_types(entry, wanted, prefix)
    if entry.objective == "retrain":
        for key, value in wanted.to_dict().items():
            c.require(
                f"{prefix}.{key}",
                lambda v, key=key, value=value: entry.to_dict()[key] == value,
                "cannot be changed: a retrained model takes all its settings from config.train",
            )
    try:
        re.compile(entry.subset)
    except re.error as error:
        raise UserError(f"config key {prefix}.subset = {shown(entry.subset)}: {error}") from None
    c.not_negative(f"{prefix}.rank")
    c.one_of(f"{prefix}.optimizer", ("adam", "natural"))
    if entry.optimizer == "natural":
        c.require(
            f"{prefix}.rank", lambda v: v == 0, "must be 0: the natural step is of parameters"
        )
    c.one_of(f"{prefix}.decay", ("constant", "linear"))
    c.share(f"{prefix}.beta2", below_one=True)
    c.positive(
        *(f"{prefix}.{k}" for k in ("steps", "learning_rate", "snapshot_every", "log_every")),
        *(f"{prefix}.{k}" for k in ("forget_batch", "replay_batch", "retain_batch")),
    )
    c.require(
        f"{prefix}.snapshot_every",
        lambda v: v <= entry.steps,
        f"must be at most {prefix}.steps, or no step can be kept",
    )
    c.require(f"{prefix}.target_pul", lambda v: 0 < v <= 100, "must lie in (0, 100] percent")
    c.positive(*(f"{prefix}.guard.{metric}" for metric in entry.guard))
    for key in entry.params:
        c.require(
            f"{prefix}.params.{key}", lambda v: True, ""
        )  # `require` refuses NaN and infinity
    try:
        tiny_objective(entry)
    except ValueError as error:
        raise UserError(f"config key {prefix}.params: {error}") from None
