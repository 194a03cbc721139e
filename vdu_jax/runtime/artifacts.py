"""Stage directories: what a stage wrote, from which inputs, and whether it finished.

    workdir/<stage>/inputs.json    written first: the settings and upstream stages it depends on
    workdir/<stage>/…              the stage's own files
    workdir/<stage>/done.json      written last: summary, fingerprint, provenance
    workdir/<stage>/timings.json   seconds; apart, so that equal runs give equal files

Every file appears whole or not at all: it is written under a temporary name and renamed. Of several
processes that run a stage together the leader writes, and what it sees is what all go by.
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

from vdu_jax.errors import UserError
from vdu_jax.runtime import preemption, processes, provenance


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an error."""
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
    """A temporary folder beside `directory`, moved to it when the block ends without an error.

    What is at `directory` by then is replaced.
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
    """Delete a folder, if it is there: at once, or, if this is cut off, not at all."""
    gone = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)  # what was left when this was cut off
    if directory.is_dir():
        directory.rename(gone)
        shutil.rmtree(gone)


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Keep other processes out of what `path` stands for; the system releases it for the dead.

    The file is there while a process holds it, and says which.

    Args:
      wait: for the one that holds it; without, the block is told False if there is one.
    """
    with contextlib.ExitStack() as stack:
        file = _lock(path, wait)
        if file is not None:
            stack.enter_context(file)
            stack.enter_context(preemption.temporary(path))
            stack.callback(path.unlink, missing_ok=True)  # while it is held
        yield file is not None


def _lock(path: Path, wait: bool) -> IO | None:
    """The open file, locked, with this process in it; None if another one has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        except FileNotFoundError:
            pass  # the one who had it has deleted it: once more
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
    """Keep other commands from writing to a workdir.

    Raises:
      UserError: if another one does: which process, and since when.
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
        return  # nothing can be written there
    if not free:
        try:
            holder = json.loads(path.read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError):  # it has just taken it, or released it
            who = "another process"
        raise UserError(f"{workdir} is in use by {who}: wait for its end, or use another --workdir")


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_bytes(path: Path, data: bytes) -> None:
    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    processes.from_leader(write)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def exists(path: Path) -> bool:
    return processes.from_leader(Path(path).exists)


def dumps(value: Any, indent: int | None = 2) -> str:
    """JSON with sorted keys and NumPy scalars and arrays as plain numbers and lists."""

    def plain(item: Any) -> Any:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        if hasattr(item, "__array__"):
            return np.asarray(item).tolist()
        raise TypeError(f"not JSON: {type(item)}")

    return json.dumps(value, indent=indent, sort_keys=True, default=plain, allow_nan=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, dumps(value) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours.

    Raises:
      UserError: if it is missing or damaged.
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
    """Whether a JSON file of ours is there and holds `value`."""
    return exists(path) and read_json(path) == json.loads(dumps(value))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    def write() -> None:
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            # mypy takes a name for the argument `allow_pickle`.
            np.savez_compressed(f, **arrays)  # type: ignore[arg-type]

    processes.from_leader(write)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file of ours; nothing pickled is ever loaded.

    Raises:
      UserError: if it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that writes it again") from None
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise UserError(f"{path} is damaged ({error}); delete its folder and run again") from None


def flatten(prefix: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"prefix.a.b": 1}, tuples as lists, as JSON will read it back."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key in sorted(value):
            flat |= flatten(f"{prefix}.{key}" if prefix else str(key), value[key])
        return flat
    return {prefix: list(value) if isinstance(value, tuple | list) else value}


class StageDir:
    """The folder of one stage.

    Args:
      workdir: the run's folder. name: the stage's, e.g. "train" or "unlearn/plain".
      inputs: what the result depends on: config sections and `upstream` fingerprints.
    """

    def __init__(self, workdir: Path, name: str, inputs: Mapping[str, Any]) -> None:
        self.workdir, self.name = Path(workdir), name
        self.path = self.workdir / name
        self.inputs = json.loads(dumps(flatten("", inputs)))
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
        # A changed setting explains more than the changed upstream that follows from it.
        key = next((k for k in keys if not k.startswith("upstream.")), keys[0])
        raise UserError(
            f"{self.path} was made with {key} = {old.get(key)!r}, the config now says "
            f"{self.inputs.get(key)!r}: use another --workdir, or --overwrite to replace it "
            "(`vdu benchmark` has no such flag: delete that folder)"
        )

    def done(self, overwrite: bool = False) -> bool:
        """Whether the stage finished with these very inputs.

        Raises:
          UserError: if its folder holds the work of other inputs and `overwrite` is off; with
            `overwrite` that work is deleted.
        """

        def look() -> bool:
            self._check_same(overwrite)
            return (self.path / "done.json").exists()

        return processes.from_leader(look)

    def begin(self) -> Path:
        """Create the folder and record the inputs; returns the path. Call after `done`."""
        if not exists(self.path / "inputs.json"):
            write_json(self.path / "inputs.json", self.inputs)
        self._started = time.monotonic()
        return self.path

    def finish(
        self, summary: Mapping[str, Any], seconds: Mapping[str, float] | None = None
    ) -> None:
        """Mark the stage as done."""
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
    """A short hash of what a file holds; computed once while it stays as it is."""
    return _file_hash(Path(path), Path(path).stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, modified: int) -> str:
    del modified
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """A short hash of a stage's inputs."""
    return hashlib.sha256(dumps(inputs, indent=None).encode()).hexdigest()[:16]


# Folders that are not named after the command that makes them.
COMMANDS = {"samples": "sample", "classifier": "evaluate"}


def upstream(workdir: Path, name: str) -> dict[str, Any]:
    """`done.json` of a stage that must have run before.

    Raises:
      UserError: if it has not finished.
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
    """`upstream` of a model's folder, which may lie in another workdir."""
    return upstream(folder.parent, folder.name)


def timings(folder: Path) -> dict[str, float]:
    """`timings.json` of a finished stage."""
    return read_json(folder / "timings.json")
