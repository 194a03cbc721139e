"""From the words of a command line to flags, positional arguments and a config."""

import keyword
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vdu_jax.cli.commands import COMMANDS, DEBUG, NOTES, STAGES, Argument, Flag, takers
from vdu_jax.errors import UserError, did_you_mean, shown

if TYPE_CHECKING:
    from absl.flags import FlagValues
    from ml_collections import ConfigDict

TRUTH = ("true", "t", "1", "false", "f", "0")  # as absl has it
NUMBER = re.compile(r"-\.?\d")
# Stage -> the section of the config with its settings, where that has another name.
SECTIONS = {"unlearn": "methods", "sample": "sampler"}


class Words(NamedTuple):
    """The words of a command line by kind. The text of a switch without a value is None.

    Attributes:
      flags: name -> text.
      overrides: (key, text) of each --config.KEY, in their order.
      positional: the positional arguments.
    """

    flags: dict[str, str | None]
    overrides: list[tuple[str, str | None]]
    positional: list[str]


def parse(argv: Sequence[str], command: str = "run") -> tuple["FlagValues", list[str]]:
    """The flags and positional arguments of a command line (without the program and the command).

    Returns:
      absl's flag values, of the flags that the command takes, and its positional arguments. The
      flag "config" is a ConfigDict, or None if it is not given.

    Raises:
      UserError: for a flag that the command does not take or would not use, an unknown key, a value
        of the wrong type, a path that cannot be expanded, or a missing argument.
    """
    from ml_collections import config_flags

    from vdu_jax import config as vdu_config
    from vdu_jax.cli import config_file

    given = sort(command, argv)
    check_complete(command, given)
    values = make_values(command, given.flags)
    config = None
    if values.config:
        config = config_file.load(values.config)
        # Sorted again, for now it is known which settings are switches.
        given = sort(command, argv, lambda key: _is_bool(config, key))
        override(config, given.overrides)
        vdu_config.expand_paths(config)
        delattr(values, "config")
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=[])
    elif given.overrides:
        raise UserError(f"--config.{given.overrides[0][0]}: --config=FILE is missing")
    check_count(command, given.positional)
    check_use(command, given.flags, values, config)
    taken = zip(COMMANDS[command].arguments, given.positional, strict=True)
    return values, [read_argument(argument, text) for argument, text in taken]


def command_takes_config(command: str) -> bool:
    return COMMANDS[command].flag("config") is not None


def sort(
    command: str, argv: Sequence[str], is_switch: Callable[[str], bool] = lambda key: False
) -> Words:
    """Sort the words of a command line by kind. Values come with = or after a space.

    Args:
      is_switch: whether a config key is a switch: only a truth word after a space is its value.

    Raises:
      UserError: for a flag that the command does not take, that is given twice, or has no value.
    """
    words, rest = Words({}, [], []), list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words.positional.extend(rest)
            break
        if not _is_flag(word):
            words.positional.append(word)
            continue
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        text = value if equals else None
        negated = name.startswith("no") and (
            name.startswith("noconfig.") or _is_switch(COMMANDS[command].flag(name[2:]))
        )
        if negated:
            name = name[2:]
            if equals:
                raise UserError(f"{word}: --no{name} takes no value")
            text = "false"
        key = name.removeprefix("config.") if name.startswith("config.") else None
        if key is None:
            flag = COMMANDS[command].flag(name)
        elif command_takes_config(command):
            flag = None
        else:
            raise refusal(command, "config", text)
        if key is None and flag is None:
            raise refusal(command, name, text)
        switch = _is_switch(flag) if key is None else is_switch(key)
        takes_next = rest and not _is_flag(rest[0])
        if text is None and takes_next and (not switch or rest[0].lower() in TRUTH):
            text = rest.pop(0)
        if key is not None:
            if any(key == other for other, _ in words.overrides):
                raise UserError(f"--config.{key} is given twice; give it once")
            words.overrides.append((key, text))
            continue
        if name in words.flags:
            raise UserError(f"--{name} is given twice; give it once")
        if text is None and not switch:
            raise UserError(f"--{name} has no value; give {_usage(command, name)}")
        words.flags[name] = text
    return words


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-" and not NUMBER.match(word)


def _is_switch(flag: Flag | None) -> bool:
    return flag is not None and not flag.value


def refusal(command: str, name: str, text: str | None) -> UserError:
    """The error for a flag that a command does not take: why, and what may have been meant."""
    if note := NOTES.get((command, name)):
        return UserError(f"`vdu {command}` does not take --{name}: {note}")
    line = f"`vdu {command}` has no flag --{name}"
    others = takers(name)
    if others:
        line = f"`vdu {command}` does not take --{name}, a flag of {', '.join(others)}"
    keys = config_keys(command, name)
    if keys:
        value = "VALUE" if text is None else text
        options = " or ".join(f"--config.{key}={value}" for key in keys)
        return UserError(f"{line}; for the setting of the config write {options}")
    flags = [f"--{flag.name}" for flag in COMMANDS[command].flags]
    near = "" if others else did_you_mean(f"--{name.split('.')[0]}", flags)
    return UserError(line + (near or f"; see `vdu {command} --help`"))


def config_keys(command: str, name: str) -> list[str]:
    """Up to three config keys that end in `name`: those of the command's section, if any."""
    if not command_takes_config(command):
        return []
    from vdu_jax import config

    keys = [key for key, _ in _leaves(config.default()) if key.rsplit(".", 1)[-1] == name]
    keys += [f"methods.METHOD.{name}"] if name in config.method("vdu") else []
    section = SECTIONS.get(command, command)
    own = [key for key in keys if key.split(".")[0] == section]
    return own[:3] or (keys if command not in STAGES and len(keys) <= 3 else [])


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a section and of those in it: (key with dots, value)."""
    for key, value in section.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_complete(command: str, given: Words) -> None:
    """Refuse a command line without a flag that the command needs.

    Raises:
      UserError: naming the flag.
    """
    for name in COMMANDS[command].required:
        if name not in given.flags:
            raise UserError(f"--{name} is missing; give {_usage(command, name)}")


def _usage(command: str, name: str) -> str:
    flag = COMMANDS[command].flag(name)
    return f"--{name}" if flag is None else flag.usage


def check_count(command: str, positional: Sequence[str]) -> None:
    """Refuse too few or too many positional arguments.

    Raises:
      UserError: naming the first that is missing or not expected.
    """
    names = [argument.name for argument in COMMANDS[command].arguments]
    if len(positional) < len(names):
        raise UserError(f"{names[len(positional)]} is missing; see `vdu {command} --help`")
    if len(positional) > len(names):
        extra = positional[len(names)]
        raise UserError(f"unexpected argument {shown(extra)}; see `vdu {command} --help`")


def read_argument(argument: Argument, text: str) -> str:
    """A positional argument: an expanded path, or one of its choices.

    Raises:
      UserError: for another word, or a path that cannot be expanded.
    """
    from vdu_jax.config import expand_path

    if not argument.choices:
        return expand_path(text, f"{argument.name} ")
    if text not in argument.choices:
        near = did_you_mean(text, argument.choices)
        must = f"must be {' or '.join(argument.choices)}{near}"
        raise UserError(f"{argument.name} {shown_text(text)}: {must}")
    return text


def make_values(command: str, given: Mapping[str, str | None]) -> "FlagValues":
    """absl's flag values of all flags of a command.

    Raises:
      UserError: for a value that a flag cannot have.
    """
    from absl import flags

    from vdu_jax.config import WORDS, expand_path

    values = flags.FlagValues()
    define: dict[type, Callable] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
    }
    if not command_takes_config(command):
        flags.DEFINE_string("config", None, "not taken", flag_values=values)
    for flag in (*COMMANDS[command].flags, DEBUG):
        define[flag.kind](flag.name, flag.default, flag.about, flag_values=values)
        if flag.name not in given:
            continue
        text = given[flag.name]
        text = "true" if text is None else text
        if text == "" and not flag.blank:
            raise UserError(f"--{flag.name}= has no value; give {flag.usage}")
        if flag.path:
            text = expand_path(text, f"--{flag.name}=")
        try:
            values[flag.name].parse(text)
        except flags.Error:
            must = WORDS[flag.kind].replace("True or False", "true or false")
            raise UserError(f"--{flag.name}={shown_text(text)}: must be {must}") from None
        _check_range(flag, values[flag.name].value, text)
    values.mark_as_parsed()
    return values


def shown_text(text: str) -> str:
    return shown(text)[1:-1] if len(text) > 70 else text


def _check_range(flag: Flag, value: Any, text: str) -> None:
    must = ""
    if flag.choices and value not in flag.choices:
        must = f"must be {' or '.join(flag.choices)}{did_you_mean(text, flag.choices)}"
    elif isinstance(value, float) and not math.isfinite(value):
        must = "must be a finite number"
    elif flag.low is not None and value < flag.low:
        must = f"must be ≥ {flag.low:g}"
    elif flag.above is not None and value <= flag.above:
        must = f"must be > {flag.above:g}"
    if must:
        raise UserError(f"--{flag.name}={shown_text(text)}: {must}")


def check_use(
    command: str,
    given: Mapping[str, str | None],
    values: "FlagValues",
    config: "ConfigDict | None",
) -> None:
    """Refuse flags that have no effect beside the others, or with this config.

    Raises:
      UserError: naming the flag.
    """
    from vdu_jax.config import is_text_to_image

    if "against" in given and "only" not in given:
        raise UserError("--against is for --only: the published figures to compare a cell with")
    if {"onto", "only"} <= given.keys():
        raise UserError("--onto is for whole comparisons; with --only, name it with --against")
    for name in ("processes", "process"):
        if name in given and "coordinator" not in given:
            raise UserError(f"--{name} goes with --coordinator=HOST:PORT, which is missing")
    if "negative" in given and values.guidance == 1:
        raise UserError("--negative has no effect at --guidance=1: leave one of them out")
    if command == "export" and "overwrite" in given and is_text_to_image(config):
        raise UserError(
            "--overwrite is not for text-to-image models: leave it out; a new DIR is written, and "
            "none replaced"
        )


def override(config: "ConfigDict", overrides: Sequence[tuple[str, str | None]]) -> None:
    """Change settings of a config in place, in the order given.

    Raises:
      UserError: for a key that is not there, a value of another type, or a key that would replace
        what an earlier one has set.
    """
    done: list[tuple[str, ...]] = []
    for key, text in overrides:
        parts = find(config, key)
        for earlier in done:
            if earlier[: len(parts)] == parts:
                raise UserError(
                    f"--config.{key} replaces what --config.{'.'.join(earlier)} has set: give it "
                    "first, or give one of them"
                )
        done.append(parts)
        _set(config, key, parts, text)


def find(config: "ConfigDict", key: str) -> tuple[str, ...]:
    """The parts of a config key.

    Raises:
      UserError: for the first part that is not there, with keys that may have been meant.
    """
    parts = _split(key)
    section, path = config, ""
    for part in parts:
        if not hasattr(section, "items"):
            raise UserError(f"--config.{key}: {path} is a setting and has none of its own")
        if part not in section:
            where = f"config section {path}" if path else "config"
            line = f"--config.{key}: the {where} has no {shown(part)}"
            within = [k for k, _ in _leaves(section) if k.rsplit(".", 1)[-1] == part]
            if within:
                full = [f"--config.{path}{'.' if path else ''}{k}" for k in within[:3]]
                raise UserError(f"{line}; did you mean {' or '.join(full)}?")
            near = did_you_mean(part, section)
            if not near and len(section) <= 10:
                near = f"; it has {', '.join(map(str, section)) or 'nothing'}"
            raise UserError(line + near)
        section, path = section[part], f"{path}.{part}" if path else part
    return parts


def _split(key: str) -> tuple[str, ...]:
    from ml_collections.config_flags import config_path

    if "[" not in key:
        return tuple(key.split("."))
    try:
        return tuple(map(str, config_path.split(key)))
    except Exception:  # of Python's parser
        raise UserError(f"--config.{key}: is no key; write --config.SECTION.KEY=VALUE") from None


def _is_bool(config: "ConfigDict", key: str) -> bool:
    try:
        return isinstance(_value(config, find(config, key)), bool)
    except UserError:  # reported by `override`
        return False


def _value(config: "ConfigDict", parts: Sequence[str]) -> Any:
    value: Any = config
    for part in parts:
        value = value[part]
    return value


def _is_name(part: str) -> bool:
    return part.isidentifier() and not keyword.iskeyword(part)


def _set(config: "ConfigDict", key: str, parts: Sequence[str], text: str | None) -> None:
    from absl import flags
    from ml_collections import config_flags

    from vdu_jax.config import must_be

    now = _value(config, parts)
    if text is None and not isinstance(now, bool):
        raise UserError(f"--config.{key} has no value; give --config.{key}=VALUE")
    text = "true" if text is None else text
    # Names such as my-method are no Python names.
    path = "".join(f".{part}" if _is_name(part) else f"[{part!r}]" for part in parts)
    word = f"--config{path}={text}"
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=["vdu", word]
        )
        values(["vdu", word])
    except Exception:  # absl's, ast's, or ml_collections' own
        must = must_be(now)
        must += ", e.g. '(3,)'" if must == "a tuple" else ""
        must += ", e.g. '{}'" if must == "a section" else ""
        raise UserError(f"--config.{key}={shown_text(text)}: must be {must}") from None
