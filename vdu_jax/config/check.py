"""Checks of settings: their types and ranges. The error of a failed check names the key."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vdu_jax.errors import UserError, did_you_mean, shown

TEXT_TO_IMAGE = "stable_diffusion"  # `config.model.name` of a text-to-image model
# Sections whose keys the user chooses.
USER_KEYED_SECTIONS = (
    "methods", "guard", "benchmark.method_seeds", "benchmark.grids", "benchmark.changes",
    "benchmark.targets", "synonyms", "palette", "unet", "vae", "text_encoder", "scheduler",
)  # fmt: skip
LARGEST = 2**31 - 1  # JAX's default integers have 32 bits
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
    """Whether a config is for a text-to-image model; False for any other value."""
    model: Any = config.get("model") if hasattr(config, "get") else None
    return hasattr(model, "get") and model.get("name") == TEXT_TO_IMAGE


def must_be(example: Any) -> str:
    """The type of `example` in words, for "must be …" in messages."""
    return WORDS.get(type(example), "a section" if isinstance(example, ConfigDict) else "a tuple")


def check_types(given: Any, wanted: ConfigDict, prefix: str) -> None:
    """Refuse a section with a missing or unknown setting, or a setting of the wrong type.

    Args:
      given: the section to check.
      wanted: the same section with its defaults.
      prefix: dotted name of the section in messages; "" for the whole config.

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
    """Refuse a value of another type than `example`, and integers beyond ±`LARGEST`.

    Args:
      key: dotted name of the setting, for the message.
      value: its value. A float may be given as an integer, and a tuple as a list.
      example: its default. The items of a tuple are checked against the first of `example`.

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
    """Checks of the settings of one config.

    Each method takes dotted keys, such as "train.steps", and raises a `UserError` that names the
    key if the check fails.

    Args:
      config: all settings, or some sections.

    Attributes:
      config: the config.
      text: whether the config is for a text-to-image model.
    """

    def __init__(self, config: ConfigDict) -> None:
        self.config = config
        self.text = is_text_to_image(config)

    def get(self, key: str) -> Any:
        """The value of a setting."""
        value = self.config
        for part in key.split("."):
            value = value[part]
        return value

    def require(self, key: str, ok: Callable[..., object], must: str) -> None:
        """Check a setting with a function.

        Args:
          key: dotted name of the setting.
          ok: `ok(value)` is true for a value that is allowed. A TypeError counts as false.
          must: the message's last part: what the value must be, or what to do.

        Raises:
          UserError: if the value is not allowed, or is NaN or infinite.
        """
        value = self.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config key {key} = {value}: must be a finite number")
        try:
            fine = ok(value)
        except TypeError:  # e.g. None compared with a number
            fine = False
        if not fine:
            plain = value.to_dict() if isinstance(value, ConfigDict) else value
            raise UserError(f"config key {key} = {shown(plain)}: {must}")

    def one_of(self, key: str, names: Collection[Any]) -> None:
        """Check that a setting is one of some values.

        Args:
          key: dotted name of the setting.
          names: the allowed values; the message lists them.
        """
        must = f"must be one of {', '.join(map(str, sorted(names)))}"
        value = self.get(key)
        near = did_you_mean(value, map(str, names)) if isinstance(value, str) else ""
        self.require(key, lambda v: v in names, must + near)

    def positive(self, *keys: str) -> None:
        """Check that settings are greater than 0."""
        for key in keys:
            self.require(key, lambda v: v > 0, "must be > 0")

    def not_negative(self, *keys: str) -> None:
        """Check that settings are at least 0."""
        for key in keys:
            self.require(key, lambda v: v >= 0, "must be ≥ 0")

    def share(self, *keys: str, above_zero: bool = False, below_one: bool = False) -> None:
        """Check that settings lie in [0, 1].

        Args:
          keys: dotted names of the settings.
          above_zero: whether 0 is refused.
          below_one: whether 1 is refused.
        """
        bounds = f"{'(' if above_zero else '['}0, 1{')' if below_one else ']'}"

        def ok(v: float) -> bool:
            return 0 <= v <= 1 and not (above_zero and v == 0) and not (below_one and v == 1)

        for key in keys:
            self.require(key, ok, f"must lie in {bounds}")

    def not_empty(self, *keys: str, must: str) -> None:
        """Check that sequences have at least one item; `must` ends the message."""
        for key in keys:
            self.require(key, lambda v: len(v) > 0, must)

    def increasing_ints(self, key: str, low: int, high: int | None = None) -> None:
        """Check that a setting is a tuple of integers in a range.

        Args:
          key: dotted name of the setting.
          low: smallest allowed integer.
          high: largest allowed integer; None for no bound.
        """

        def ok(values: Sequence[int]) -> bool:
            whole = all(isinstance(v, int) for v in values)
            return whole and all(low <= v and (high is None or v <= high) for v in values)

        bound = f"≥ {low}" if high is None else f"in {low}..{high}"
        self.require(key, ok, f"must be a tuple of whole numbers {bound}")
