"""Read a config file, and report in one line what is wrong with it."""

import difflib
import re
import sys
import traceback
import types
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from vdu_jax.config import WORDS
from vdu_jax.errors import CONFIGS, UserError, shown

MODULE = "vdu_config_file"  # the name of the file's module while it runs
START = f"start from a file of {CONFIGS}"


def load(path: str) -> ConfigDict:
    """The config that `get_config()` of a Python file returns.

    The file can import modules of its folder and of the folder above.

    Raises:
      UserError: for a file that cannot be read, is no Python, has no `get_config`, or raises.
    """
    where, file = f"--config={path}", Path(path)
    source = _read(where, file)
    folder = file.resolve().parent
    sys.path[:0] = [str(folder), str(folder.parent)]
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    module.__file__ = str(file)
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise _failed(where, file, error) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{where}: has no function get_config() that returns a config; {START}")
    try:
        config = get_config()
    except (Exception, SystemExit) as error:
        raise _failed(where, file, error) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{where}: get_config() returned {shown(config)}, which is no ConfigDict; does it end "
            "with `return config`?"
        )
    return ConfigDict(config) if isinstance(config, FrozenConfigDict) else config


def _read(where: str, file: Path) -> bytes:
    try:
        if file.is_dir():
            inside = sorted(entry.name for entry in file.glob("*.py"))
            example = f", e.g. --config={file / inside[0]}" if inside else ""
            raise UserError(f"{where}: is a folder; name a file{example}")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        beside = [str(entry) for entry in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = difflib.get_close_matches(str(file), beside, n=1)
        advice = f"did you mean {near[0]}?" if near else START
        raise UserError(f"{where}: no such file; {advice}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: cannot be read ({why}); check the path and its rights") from None


def _failed(where: str, file: Path, error: BaseException) -> UserError:
    """The one-line message for an error in a config file, or in what it calls."""
    if isinstance(error, SyntaxError) and error.filename in (str(file), None):
        line = f", line {error.lineno}" if error.lineno else ""
        return UserError(f"{where}{line}: is no Python ({error.msg}); {START}")
    frames = traceback.extract_tb(error.__traceback__)
    folder = file.resolve().parent
    own = [f for f in frames if f.filename == str(file) or _lies_in(f.filename, folder)]
    if own:
        frame = own[-1]
        other = "" if frame.filename == str(file) else f" of {Path(frame.filename).name}"
        code = f" ({frame.line[:60]})" if frame.line else ""
        where += f", line {frame.lineno}{other}{code}"
    elif isinstance(error, ValueError) and "null bytes" in str(error):
        return UserError(f"{where}: is no Python (it has null bytes); {START}")
    if isinstance(error, UserError):
        return UserError(f"{where}: {error}")
    return UserError(f"{where}: {_reason(error, frames)}")


def _lies_in(filename: str, folder: Path) -> bool:
    return Path(filename).parent in (folder, folder.parent)


# ml_collections' messages for a setting that is not there, and for a value of another type.
MISSING = re.compile(r"""^["'\\]*(?:Key ["'\\]*)?(\w+)["'\\]*(?:$| does not exist|\\n|\n)""")
SUGGESTED = re.compile(r"""Did you mean ["'\\]*([\w-]+)""")
OTHER_TYPE = re.compile(
    r"override field ['\"]?(\w+).* of original type .*cannot be casted to type <class '([\w.]+)'>",
    re.DOTALL,
)


def _reason(error: BaseException, frames: traceback.StackSummary) -> str:
    text = str(error)
    if frames and Path(frames[-1].filename).name == "config_dict.py":
        if match := OTHER_TYPE.search(text):
            words = {kind.__name__: word for kind, word in WORDS.items()}
            kind = match[2].rsplit(".", 1)[-1]
            return f"the setting {match[1]} must be {words.get(kind, f'a {kind}')}"
        if isinstance(error, AttributeError | KeyError) and (match := MISSING.search(text)):
            near = SUGGESTED.search(text)
            return f"there is no setting {match[1]}" + (
                f"; did you mean {near[1]}?" if near else f" in that section; {START}"
            )
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
