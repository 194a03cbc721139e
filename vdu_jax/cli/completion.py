r"""Shell completion, from the table of commands.

`vdu completion bash|zsh|fish` prints a script. At each Tab the script calls `vdu __complete WORD…`
with the words up to the cursor, and gets one candidate a line for the last of them:
CANDIDATE\tDESCRIPTION; or the line `FILES`, where a path is expected. A candidate that ends in "="
or "." is to be continued, so no space follows it.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vdu_jax.cli.commands import COMMANDS, DEBUG, Command, Flag
from vdu_jax.errors import shown

if TYPE_CHECKING:
    from ml_collections import ConfigDict

ASK = "__complete"
FILES = ":files"  # no candidate begins with a colon
KEY = "--config."


class Candidate(NamedTuple):
    """What may stand in place of a word.

    Attributes:
      word: all of it.
      about: a short description; "" for none.
    """

    word: str
    about: str = ""


def answer(words: Sequence[str]) -> None:
    """Print the candidates for the last of `words`, those after `vdu`."""
    found = candidates(words)
    lines = [FILES] if found is None else ["\t".join(filter(None, one)) for one in found]
    print("\n".join(lines))


def candidates(words: Sequence[str]) -> list[Candidate] | None:
    """What may stand in place of the last of `words`; None for a path."""
    *before, typed = words or [""]
    found = _candidates(before, typed)
    return found and [one for one in found if one.word.startswith(typed)]


def _candidates(before: Sequence[str], typed: str) -> list[Candidate] | None:
    commands = [Candidate(name, command.about) for name, command in COMMANDS.items()]
    if not before:
        return [*commands, Candidate("help"), Candidate("--help"), Candidate("--version")]
    if before[0] == "help" and len(before) == 1:
        return commands
    command = COMMANDS.get(before[0])
    if command is None:
        return []
    name, equals, _ = typed.removeprefix("--").partition("=")
    if equals:
        return _values(command.flag(name), f"--{name}=")
    if len(before) > 1 and before[-1].startswith("--") and "=" not in before[-1]:
        flag = command.flag(before[-1].removeprefix("--"))
        if before[-1].startswith(KEY) or (flag is not None and flag.value):
            return _values(flag, "")
    takes_keys = command.flag("config") is not None
    if typed.startswith(KEY) and takes_keys:
        return list(_keys(_config(before), typed.removeprefix(KEY)))
    expected = command.arguments[_count_positional(command, before[1:]) :][:1]
    if not expected or typed.startswith("-"):
        return list(_flags(command, before))
    choices = expected[0].choices
    return [Candidate(choice) for choice in choices] if choices else None


def _flags(command: Command, before: Sequence[str]) -> Iterator[Candidate]:
    """The flags that have not been given yet."""
    given = {word.partition("=")[0] for word in before}
    for flag in (*command.flags, DEBUG):
        if f"--{flag.name}" not in given:
            yield Candidate(f"--{flag.name}{'=' if flag.value else ''}", flag.about)
        if flag.name == "config":
            yield Candidate(KEY, "change one setting of that file")
    yield Candidate("--help")


def _values(flag: Flag | None, prefix: str) -> list[Candidate] | None:
    """Values of a flag, each after `prefix`; None for a path, an empty list where none is known."""
    if flag is not None and flag.path:
        return None
    return [Candidate(prefix + choice) for choice in flag.choices] if flag else []


def _count_positional(command: Command, words: Sequence[str]) -> int:
    """How many of `words` are positional arguments."""
    count, is_value = 0, False
    for word in words:
        flag = command.flag(word.removeprefix("--")) if word.startswith("--") else None
        count += not is_value and not word.startswith("-")
        # A word after a flag without "=" is the flag's value.
        is_value = word.startswith(KEY) and "=" not in word or bool(flag and flag.value)
    return count


def _config(words: Sequence[str]) -> "ConfigDict":
    """The config of the file that `words` name, or else the defaults."""
    from vdu_jax import config
    from vdu_jax.cli import config_file

    path = ""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--config":
            path = after
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
    if not path:
        return config.default()
    # A file that is wrong is reported when the command runs; what it prints is no candidate.
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        return config_file.load(config.expand_path(path, "--config="))
    return config.default()


def _keys(section: "ConfigDict", typed: str) -> Iterator[Candidate]:
    """The settings and sections in the section that is typed so far."""
    *sections, _ = typed.split(".")
    for part in sections:
        section = section.get(part) if hasattr(section, "items") else None
    for key, value in section.items() if hasattr(section, "items") else ():
        word = f"{KEY}{'.'.join([*sections, str(key)])}"
        if hasattr(value, "items"):
            yield Candidate(f"{word}.", "section")
        else:
            yield Candidate(f"{word}=", f"{shown(value)} in the config")


BASH = r"""# Completion of vdu in bash, made by `vdu completion bash`.
_vdu() {
    # The words as they were typed: bash itself splits them at = and colons.
    local line=${COMP_LINE:0:COMP_POINT} words
    read -r -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local word=${words[${#words[@]}-1]} prefix="" candidate
    [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && prefix=${word%"${word##*=}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        if [[ $candidate == :files ]]; then
            compopt -o default 2> /dev/null
        elif [[ -n $candidate ]]; then
            COMPREPLY+=("${candidate#"$prefix"}")
            [[ $candidate == *[=.] ]] && compopt -o nospace 2> /dev/null
        fi
    done < <("${words[0]/#\~/$HOME}" __complete "${words[@]:1}" 2> /dev/null)
}
complete -F _vdu vdu
"""

ZSH = r"""#compdef vdu
# Completion of vdu in zsh, made by `vdu completion zsh`.
_vdu() {
    emulate -L zsh
    local -a before lines closed open closed_about open_about
    local program=${(Q)~words[1]} line candidate
    before=("${(@Q)words[2,CURRENT-1]}")
    lines=("${(@f)$("$program" __complete "${before[@]}" "$PREFIX" 2> /dev/null)}")
    if [[ $lines[1] == :files ]]; then
        compset -P '--*='
        _files
        return
    fi
    for line in $lines; do
        candidate=${line%%$'\t'*}
        if [[ $candidate == *[=.] ]]; then
            open+=($candidate) open_about+=("${line/$'\t'/  -- }")
        elif [[ -n $candidate ]]; then
            closed+=($candidate) closed_about+=("${line/$'\t'/  -- }")
        fi
    done
    compadd -l -d closed_about -a closed
    compadd -l -S '' -d open_about -a open
}
if [[ $funcstack[1] == _vdu ]]; then
    _vdu "$@"
else
    compdef _vdu vdu
fi
"""

FISH = r"""# Completion of vdu in fish, made by `vdu completion fish`.
function __vdu_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -l lines ($program __complete $words[2..-1] "$word" 2> /dev/null)
    if test "$lines[1]" = :files
        set -l prefix (string match -r -- '^--[^=]*=' "$word")
        for path in (__fish_complete_path (string replace -r -- '^--[^=]*=' '' "$word"))
            echo "$prefix$path"
        end
    else
        string join \n -- $lines
    end
end
complete -c vdu -f -a '(__vdu_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
