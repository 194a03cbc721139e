"""Stage directories, atomic file writes, and the lock of a workdir.

    workdir/<stage>/inputs.json    written first: the settings and upstream stages it depends on
    workdir/<stage>/…              the stage's own files
    workdir/<stage>/done.json      written last: summary, fingerprint, provenance
    workdir/<stage>/timings.json   seconds; a file of its own, so that equal runs give equal files

Every write is atomic: a file is written under a temporary name and renamed. If several processes
run a stage, the leader writes the files and looks for them, and the others use its answers.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vdu_jax import config
from vdu_jax.errors import UserError
from vdu_jax.runtime import preemption, processes, provenance


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Context manager for an atomic file write.

    Args:
      path: the file; its folder is created.

    Yields:
      A temporary path beside `path`. The file written there replaces `path` when the block ends
      without an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with preemption.temporary(temporary):
            yield temporary
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(directory: Path) -> Iterator[Path]:
    """Context manager for an atomic write of a folder.

    Args:
      directory: the folder; its parent is created.

    Yields:
      A temporary folder beside `directory`, which replaces `directory` when the block ends without
      an error.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        with preemption.temporary(temporary):
            temporary.chmod(0o755)
            yield temporary
            remove(directory)
            temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(directory: Path) -> None:
    """Delete a folder atomically, if it exists: no part of it is ever left under its name."""
    gone = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)  # left by a process that was stopped here
    if directory.is_dir():
        directory.rename(gone)
        shutil.rmtree(gone)


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Context manager that holds a lock file; the system releases it if the process dies.

    Args:
      path: the lock file. It exists while a process holds the lock, and names the process.
      wait: whether to wait for a process that holds the lock.

    Yields:
      Whether this process holds the lock; False only without `wait`.
    """
    with contextlib.ExitStack() as stack:
        file = _lock(path, wait)
        if file is not None:
            stack.enter_context(file)
            stack.enter_context(preemption.temporary(path))
            stack.callback(path.unlink, missing_ok=True)  # while it is held
        yield file is not None


def _lock(path: Path, wait: bool) -> IO | None:
    """The open lock file, which names this process; None if another process has the lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        except FileNotFoundError:
            pass  # its holder has just deleted the file: try again
        except BlockingIOError:
            file.close()
            return None
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.truncate(0)
    file.write(json.dumps({"host": platform.node(), "pid": os.getpid(), "since": since}))
    file.flush()
    return file


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Context manager that keeps other commands from writing to a workdir.

    Args:
      workdir: the workdir; it is created.

    Raises:
      UserError: if another process writes to it; the message names the process.
    """
    with contextlib.ExitStack() as stack:
        processes.from_leader(_claim, Path(workdir), stack)
        yield


def _claim(workdir: Path, stack: contextlib.ExitStack) -> None:
    path = workdir / ".lock"
    # A command that fails before it writes anything leaves no folder.
    for folder in [f for f in (workdir, *workdir.parents) if not f.exists()][::-1]:
        stack.callback(_remove_empty, folder)
    try:
        free = stack.enter_context(lock(path, wait=False))
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            processes.report(f"{workdir}: no locks on its file system; let only one process use it")
        elif not workdir.is_dir() or os.access(workdir, os.W_OK):
            raise
        return  # the workdir cannot be written to, so no lock is needed
    if not free:
        try:
            holder = json.loads(path.read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError):  # its holder is just writing or deleting the file
            who = "another process"
        raise UserError(f"{workdir} is in use by {who}: wait for its end, or use another --workdir")


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; the leader does it for all processes.

    Args:
      path: the file; its folder is created.
      data: contents of the file.
    """

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    processes.from_leader(write)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; see `write_bytes`."""
    write_bytes(path, text.encode())


def exists(path: Path) -> bool:
    """Whether the leader finds a file or folder; the same answer in every process."""
    return processes.from_leader(Path(path).exists)


def dumps(value: Any, indent: int | None = 2) -> str:
    """Serialise a value to JSON with sorted keys.

    Args:
      value: a JSON value that may also hold scalars and arrays of NumPy or JAX, which become
        numbers and lists.
      indent: spaces per level; None for one line.

    Raises:
      TypeError: if another object is in it.
    """

    def plain(item: Any) -> Any:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        if hasattr(item, "__array__"):
            return np.asarray(item).tolist()
        raise TypeError(f"not JSON: {type(item)}")

    return json.dumps(value, indent=indent, sort_keys=True, default=plain, allow_nan=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; see `dumps` and `write_bytes`."""
    write_text(path, dumps(value) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a stage; the leader reads it for all processes.

    Args:
      path: the file.

    Raises:
      UserError: if the file is missing or damaged.
    """

    def read() -> Any:
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the stage that writes it again") from None
        except ValueError as error:
            line = f"{path} is damaged ({error}); delete its folder and run again"
            raise UserError(line) from None

    return processes.from_leader(read)


def holds(path: Path, value: Any) -> bool:
    """Whether a JSON file exists and holds a value.

    Args:
      path: the file.
      value: see `dumps`.
    """
    return exists(path) and read_json(path) == json.loads(dumps(value))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write named arrays to a compressed .npz file atomically; the leader does it for all."""

    def write() -> None:
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            # mypy takes a name for the argument `allow_pickle`.
            np.savez_compressed(f, **arrays)  # type: ignore[arg-type]

    processes.from_leader(write)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the named arrays of an .npz file; pickles in it are refused.

    Args:
      path: the file.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that writes it again") from None
    except Exception as error:  # zipfile, zlib and NumPy each raise their own kinds
        raise UserError(f"{path} is damaged ({error}); delete its folder and run again") from None


def flatten(prefix: str, value: Any) -> dict[str, Any]:
    """Flatten nested mappings: {"a": {"b": 1}} becomes {"prefix.a.b": 1}.

    Args:
      prefix: start of the keys; "" for none.
      value: a mapping, or a value, of which tuples become lists, as in JSON.
    """
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key in sorted(value):
            flat |= flatten(f"{prefix}.{key}" if prefix else str(key), value[key])
        return flat
    return {prefix: list(value) if isinstance(value, tuple | list) else value}


class StageDir:
    """The folder of one stage: what it depends on, and whether it is finished.

    Attributes:
      workdir: the run's folder.
      name: name of the stage, e.g. "train" or "unlearn/plain".
      path: the stage's folder, workdir/name.
      inputs: the settings and fingerprints that the result depends on, flattened.
      fingerprint: a short hash of the inputs.
    """

    def __init__(self, workdir: Path, name: str, inputs: Mapping[str, Any]) -> None:
        """Describe a stage; nothing is written.

        Args:
          workdir: the run's folder.
          name: name of the stage.
          inputs: the config sections and `upstream` fingerprints that the result depends on. Of a
            section the settings that `config.section_inputs` leaves out are none.
        """
        self.workdir, self.name = Path(workdir), name
        self.path = self.workdir / name
        effective = {
            key: config.section_inputs(key, value) if isinstance(value, Mapping) else value
            for key, value in inputs.items()
        }
        self.inputs = json.loads(dumps(flatten("", effective)))
        self.fingerprint = fingerprint(self.inputs)

    def _check_same(self, overwrite: bool) -> None:
        recorded = self.path / "inputs.json"
        if not recorded.exists():
            return
        old = read_json(recorded)
        if old == self.inputs:
            return
        if overwrite:
            remove(self.path)
            return
        keys = sorted(old.keys() | self.inputs.keys())
        keys = [k for k in keys if old.get(k) != self.inputs.get(k)]
        # A changed setting is the cause of the changed upstream fingerprint, so it comes first.
        key = next((k for k in keys if not k.startswith("upstream.")), keys[0])
        raise UserError(
            f"{self.path} was made with {key} = {old.get(key)!r}, the config now says "
            f"{self.inputs.get(key)!r}: use another --workdir, or --overwrite to replace it "
            "(`vdu benchmark` has no such flag: delete that folder)"
        )

    def done(self, overwrite: bool = False) -> bool:
        """Whether the stage is finished with the same inputs.

        Args:
          overwrite: whether to delete a folder that was made with other inputs.

        Raises:
          UserError: if the folder was made with other inputs, without `overwrite`.
        """

        def look() -> bool:
            self._check_same(overwrite)
            return (self.path / "done.json").exists()

        return processes.from_leader(look)

    def begin(self) -> Path:
        """Create the folder, record the inputs, and return the path; call it after `done`."""
        if not exists(self.path / "inputs.json"):
            write_json(self.path / "inputs.json", self.inputs)
        self._started = time.monotonic()
        return self.path

    def finish(
        self, summary: Mapping[str, Any], seconds: Mapping[str, float] | None = None
    ) -> None:
        """Mark the stage as finished.

        Args:
          summary: results for later stages, as JSON values.
          seconds: durations of parts of the stage, for timings.json.
        """
        total = time.monotonic() - self._started
        write_json(self.path / "timings.json", {"total": total} | dict(seconds or {}))
        write_json(
            self.path / "done.json",
            {
                "fingerprint": self.fingerprint,
                "summary": dict(summary),
                "provenance": provenance.collect(),
            },
        )


def file_hash(path: Path) -> str:
    """A short hash of a file's contents; cached until the file is modified."""
    return _file_hash(Path(path), Path(path).stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, modified: int) -> str:
    del modified
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """A short hash of a stage's inputs, a JSON value."""
    return hashlib.sha256(dumps(inputs, indent=None).encode()).hexdigest()[:16]


# Folder -> command, where the folder is not named after the command that makes it.
COMMANDS = {"samples": "sample", "classifier": "evaluate"}


def upstream(workdir: Path, name: str) -> dict[str, Any]:
    """Read `done.json` of a stage that must be finished before this one.

    Args:
      workdir: the run's folder.
      name: name of the stage, e.g. "train" or "unlearn/plain".

    Raises:
      UserError: if the stage is not finished.
    """
    path = Path(workdir) / name / "done.json"
    if not exists(path):
        stage = name.split("/")[0]
        raise UserError(
            f"{path.parent} holds no finished stage: run `vdu {COMMANDS.get(stage, stage)}` "
            "with the same --config and --workdir first (or `vdu run` for all)"
        )
    return read_json(path)


def finished(folder: Path) -> dict[str, Any]:
    """Read `done.json` of a stage's folder, which may lie in another workdir; see `upstream`."""
    return upstream(folder.parent, folder.name)


def timings(folder: Path) -> dict[str, float]:
    """Seconds that a finished stage took, from its `timings.json`."""
    return read_json(folder / "timings.json")
