"""The command line: `vdu COMMAND [--config=FILE --workdir=DIR --config.a.b=VALUE …]`.

`commands` is the table of commands and flags, `arguments` and `config_file` read a command line,
`environment` starts JAX, `running` calls the stages and tools, `status` reads a workdir,
`completion` answers shells.
"""

import contextlib
import errno
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import vdu_jax
from vdu_jax.cli import completion
from vdu_jax.cli.arguments import parse
from vdu_jax.cli.commands import COMMANDS, STAGES, TOOLS, help_of, overview
from vdu_jax.cli.environment import set_up_jax, starting_jax
from vdu_jax.cli.running import run_stages, run_tool, validate
from vdu_jax.errors import UserError, did_you_mean
from vdu_jax.runtime import malloc, preemption, terminal

if TYPE_CHECKING:
    from absl.flags import FlagValues

PIPE_CLOSED = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
      argv: its words without the program; the process's by default.

    Returns:
      The exit code: 0; 2 for a user's mistake; 128 + n after signal n; 1 if another process of the
      run was lost; that of SIGPIPE if nobody reads what is printed.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the locale lacks is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        code = _flush() or code
    except Exception as error:
        if code := _print_failed(error):
            pass
        elif _is_distributed():
            traceback.print_exc()
            code = 1
        else:
            raise
    if _is_distributed():
        from vdu_jax.runtime import processes

        failed = code in (1, 2, PIPE_CLOSED)
        processes.leave(failed)
        if failed:
            # JAX would have this process wait for the others before it ends, and they for it.
            _flush()
            os._exit(code)
    return code


def _main(argv: list[str]) -> int:
    stage, *rest = argv or ["--help"]
    if stage == completion.ASK:
        completion.answer(rest)
        return 0
    debug = "--debug" in rest
    try:
        if _print_help(stage, rest):
            return 0
        if stage not in COMMANDS:
            raise _unknown(stage)
        set_up_jax(malloc.RETURN_FREED if stage == "posterior" else malloc.KEEP_FREED)
        _quiet_threads()
        values, arguments = parse(rest, stage)
        config = values["config"].value
        if COMMANDS[stage].devices:
            with starting_jax():
                _join(stage, values)
        if config is not None:
            from vdu_jax.runtime import processes

            processes.from_leader(validate, config)  # one mistake, one line
        try:
            if stage in TOOLS:
                return run_tool(stage, arguments, values, config)
            run_stages(stage, config, Path(values.workdir), values.overwrite)
        except preemption.Interrupted as stop:
            processes.report(f"{stop}; the same command continues")
            return 128 + stop.signum
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                return PIPE_CLOSED
            if error.filename is None and error.errno is None:
                raise
            where = error.filename or (values.workdir if "workdir" in values else stage)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            do = "free some; the same command continues" if full else "check its path"
            raise UserError(f"{where}: {error.strerror or error}; {do}") from error
        except Exception as error:
            if not _is_lost_peer(error):
                raise
            why = str(error).splitlines()[0]
            line = f"another process was lost ({why}); start all again: the same command continues"
            return _report(line, code=1)
    except UserError as error:
        if debug:
            raise
        return _report(error, code=2)
    return 0


def _print_help(stage: str, rest: Sequence[str]) -> bool:
    """Print help or the version if the command line asks for it; whether it does."""
    words = ("-h", "-help", "--help")
    named: str | None = stage
    if stage in (*words, "help"):
        named = next((word for word in rest if word not in words), None)
        if named is None:
            print(overview())
            return True
    elif stage == "--version":
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}: --version stands alone")
        print(f"vdu {vdu_jax.__version__}")
        return True
    elif not set(words) & set(rest[: rest.index("--")] if "--" in rest else rest):
        return False
    if named is None or named not in COMMANDS:
        raise _unknown(str(named))
    print(help_of(named))
    return True


def _unknown(command: str) -> UserError:
    if command.startswith("-"):
        return UserError(f"{command}: the command comes first; see `vdu --help`")
    near = did_you_mean(command, COMMANDS) or f"; one of {', '.join(COMMANDS)}"
    return UserError(f"unknown command {command!r}{near}")


def _print_failed(error: Exception) -> int:
    """The exit code if `error` is that something could not be printed, else 0."""
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED if _nobody_reads() else 0
    # Files have names.
    if isinstance(error, OSError) and error.filename is None and error.errno is not None:
        return _report(f"what is printed cannot be written: {error.strerror}", code=2)
    return 0


def _flush() -> int:
    """Write out what was printed; the exit code if that is not possible, else 0."""
    code = 0
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            _redirect(stream)
            code = _print_failed(error) or PIPE_CLOSED
    return code


def _nobody_reads() -> bool:
    """Whether standard output or error is a pipe whose reader is gone; it is redirected then."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                _redirect(stream)
                closed = True
    return closed


def _redirect(stream: TextIO) -> None:
    """Discard what a stream still holds: Python would write it again at exit, and report that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _quiet_threads() -> None:
    """Print no traceback of an OSError in a thread: it is raised again where it is waited for."""

    def hook(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            threading.__excepthook__(args)

    threading.excepthook = hook


def _is_distributed() -> bool:
    """Whether this process is one of several that run a stage together."""
    processes = sys.modules.get("vdu_jax.runtime.processes")  # a mistake need not wait for JAX
    return processes is not None and processes.joined()


def _join(stage: str, values: "FlagValues") -> None:
    """Meet the other processes of a stage, if any; only the leader prints results."""
    if stage in TOOLS or not values.coordinator:
        return
    from vdu_jax.runtime import processes

    processes.connect(values.coordinator, values.processes, values.process)
    if not processes.is_leader():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for all that follows


def _is_lost_peer(error: Exception) -> bool:
    """Whether an exception is XLA's for a collective operation that failed."""
    status = r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
    return _is_distributed() and re.match(status, str(error)) is not None


def _report(message: str | Exception, code: int) -> int:
    """Print an error, with the number of a process other than the leader; returns `code`."""
    who = ""
    if _is_distributed():
        from vdu_jax.runtime import processes

        if processes.reported_by_leader(message):
            return code
        who = "" if processes.is_leader() else f"process {processes.index()}: "
    label = terminal.paint("error", "error")
    print(f"vdu: {who}{label}: {message}", file=sys.stderr)
    return code


__all__ = [
    "STAGES", "TOOLS", "main", "parse", "run_stages", "run_tool", "set_up_jax", "validate",
]  # fmt: skip
