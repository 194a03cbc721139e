"""Checks of settings: of their types, and that they can work. A failure names the key."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vdu_jax.errors import UserError, did_you_mean, shown

TEXT_TO_IMAGE = "stable_diffusion"  # `config.model.name` of a text-to-image model
# Sections whose keys are the user's own.
USER_KEYED_SECTIONS = (
    "methods", "guard", "benchmark.method_seeds", "benchmark.grids", "benchmark.changes",
    "benchmark.targets", "synonyms", "palette", "unet", "vae", "text_encoder", "scheduler",
)  # fmt: skip
LARGEST = 2**31 - 1  # whole number; JAX counts in 32 bits
WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
KINDS = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    tuple: (tuple, list),
    ConfigDict: (Mapping, ConfigDict),
}


def is_text_to_image(config: Any) -> bool:
    """Whether a config is of a text-to-image model; False for what is no config at all."""
    model = config.get("model") if hasattr(config, "get") else None
    return hasattr(model, "get") and model.get("name") == TEXT_TO_IMAGE


def must_be(example: Any) -> str:
    """What a value of the type of `example` is called."""
    return WORDS.get(type(example), "a section" if isinstance(example, ConfigDict) else "a tuple")


def check_types(given: Any, wanted: ConfigDict, prefix: str) -> None:
    """Refuse a section that lacks a setting, has one too many, or one of another type.

    Raises:
      UserError: with the key.
    """
    if not isinstance(given, ConfigDict):
        raise UserError(f"config key {prefix or 'config'} = {shown(given)}: must be a section")
    path = f"{prefix}." if prefix else ""
    for key in [*wanted, *given]:
        name = f"{path}{key}"
        if key not in wanted:
            near = did_you_mean(str(key), wanted)
            raise UserError(f"config key {name}: there is no such setting{near}")
        if key not in given:
            raise UserError(f"config key {name} is missing: start from vdu_jax.config.default()")
        value, example = given[key], wanted[key]
        if not isinstance(example, ConfigDict):
            check_type(name, value, example)
        elif name not in USER_KEYED_SECTIONS and key not in USER_KEYED_SECTIONS:
            check_types(value, example, name)
        elif not isinstance(value, ConfigDict):
            raise UserError(f"config key {name} = {shown(value)}: must be a section")


def check_type(key: str, value: Any, example: Any) -> None:
    """Refuse a value of another type than `example`, and whole numbers beyond `LARGEST`.

    Raises:
      UserError: with the key.
    """
    kind = type(example)
    fine = kind not in KINDS or isinstance(value, KINDS[kind])
    if not fine or (isinstance(value, bool) and kind in (int, float)):
        raise UserError(f"config key {key} = {shown(value)}: must be {must_be(example)}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"config key {key} = {value}: must be at most {LARGEST}")
    if isinstance(value, tuple | list):
        for item in value if example else ():
            check_type(key, item, example[0])


class Check:
    """The checks of one config; every failure is a UserError that names the key.

    Attributes:
      config: the config.
      text: whether it is of a text-to-image model.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.text = is_text_to_image(config)

    def get(self, key: str) -> Any:
        value = self.config
        for part in key.split("."):
            value = value[part]
        return value

    def require(self, key: str, ok: Callable[[Any], bool], must: str) -> None:
        value = self.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config key {key} = {value}: must be a finite number")
        try:
            fine = ok(value)
        except TypeError:  # of another kind altogether, such as None
            fine = False
        if not fine:
            plain = value.to_dict() if isinstance(value, ConfigDict) else value
            raise UserError(f"config key {key} = {shown(plain)}: {must}")

    def one_of(self, key: str, names) -> None:
        must = f"must be one of {', '.join(map(str, sorted(names)))}"
        value = self.get(key)
        near = did_you_mean(value, map(str, names)) if isinstance(value, str) else ""
        self.require(key, lambda v: v in names, must + near)

    def positive(self, *keys: str) -> None:
        for key in keys:
            self.require(key, lambda v: v > 0, "must be > 0")

    def not_negative(self, *keys: str) -> None:
        for key in keys:
            self.require(key, lambda v: v >= 0, "must be ≥ 0")

    def share(self, *keys: str, above_zero: bool = False, below_one: bool = False) -> None:
        """A share lies in [0, 1], without the ends that are excluded."""
        bounds = f"{'(' if above_zero else '['}0, 1{')' if below_one else ']'}"

        def ok(v):
            return 0 <= v <= 1 and not (above_zero and v == 0) and not (below_one and v == 1)

        for key in keys:
            self.require(key, ok, f"must lie in {bounds}")

    def not_empty(self, *keys: str, must: str) -> None:
        for key in keys:
            self.require(key, lambda v: len(v) > 0, must)

    def increasing_ints(self, key: str, low: int, high: int | None = None) -> None:
        def ok(values):
            whole = all(isinstance(v, int) for v in values)
            return whole and all(low <= v and (high is None or v <= high) for v in values)

        bound = f"≥ {low}" if high is None else f"in {low}..{high}"
        self.require(key, ok, f"must be a tuple of whole numbers {bound}")
