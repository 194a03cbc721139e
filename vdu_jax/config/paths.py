"""Expansion of `~` and environment variables in the settings that are paths."""

import os
import string
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from vdu_jax.errors import UserError

# Every setting that is a path or a tuple of paths, for all kinds of models.
PATHS = (
    "data.dir", "data.manual_dir", "model.folder", "train.init_from", "posterior.runs",
    "unlearn.init_from", "detector.folder", "evaluate.inception_weights", "classifier.dir",
)  # fmt: skip


def expand_path(text: str, where: str) -> str:
    """A path with `~`, `~user`, `$NAME` and `${NAME}` replaced; `$$` is a dollar sign.

    Args:
      text: the path.
      where: text before the path in messages, e.g. "--workdir=".

    Raises:
      UserError: for an environment variable that is unset or empty, a `$` without a name, or an
        unknown user or home folder.
    """
    if "$" in text:
        try:
            text = string.Template(text).substitute(_Environment())
        except KeyError as error:
            raise UserError(
                f"{where}{text}: the environment variable {error.args[0]} is not set, or empty; "
                "set it, or write the path out"
            ) from None
        except ValueError:
            raise UserError(
                f"{where}{text}: a $ without the name of an environment variable; write $$ for a "
                "dollar sign"
            ) from None
    if text.startswith("~"):
        try:
            expanded = os.path.expanduser(text)
        except ValueError:  # a null byte; opening the path says so
            expanded = text
        if expanded.startswith("~"):
            user = text.split("/", 1)[0]
            raise UserError(f"{where}{text}: there is no home folder {user}; write the path out")
        return expanded
    return text


class _Environment(Mapping):
    """Environment variables that are not empty."""

    def __getitem__(self, name: str) -> str:
        value = os.environ[name]
        if not value:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def expand_paths(config: ConfigDict, paths: Sequence[str] = PATHS) -> None:
    """Expand the paths of a config in place.

    Settings that are missing or of another type are left for `config.validate` to refuse.

    Args:
      config: all settings.
      paths: dotted names of settings that are a path or a tuple of paths.

    Raises:
      UserError: as `expand_path`.
    """
    for path in paths:
        section_name, key = path.split(".")
        section = config.get(section_name)
        value = section.get(key) if isinstance(section, ConfigDict) else None
        where = f"config key {path} = "
        if isinstance(value, str):
            section[key] = expand_path(value, where)
        elif isinstance(value, tuple | list):
            section[key] = type(value)(
                expand_path(item, where) if isinstance(item, str) else item for item in value
            )
