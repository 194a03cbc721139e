"""`UserError`, the exception for a user's mistake, and helpers to write its messages."""

import re
from collections.abc import Iterable
from typing import Any

LONGEST = 80  # characters of a value in a message
# An installed package has no configs/ beside it.
CONFIGS = "https://github.com/vdu-jax/vdu-jax/tree/main/configs"


class UserError(Exception):
    """A user's mistake: a config key, a path, a checkpoint or a data file.

    The message is a single line that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with code 2. Any other exception is a fault of the
    library and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # One line, without memory addresses: they differ from run to run and help nobody.
        super().__init__(re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(message).split())))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the names nearest to `name`, or "" if none is near.

    Args:
      name: the name that is not known.
      known: the names that are.
    """
    import difflib  # only a mistake pays for this import

    near = difflib.get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def shown(value: Any) -> str:
    """Return a value as text for a message: at most `LONGEST` characters, objects as their type."""
    text = repr(value) if _is_plain(value) else f"({type(value).__name__})"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


__all__ = ["CONFIGS", "UserError", "did_you_mean", "shown"]
