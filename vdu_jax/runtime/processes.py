"""Coordination between processes: leader decisions, file writes, failure detection.

Every process calls every function here, in the same order. Process 0 is the leader: it alone writes
files and looks for them, and the others use its answers. Arrays are moved by XLA and saved by
Orbax. In a run of a single process every function is a plain call.
"""

import collections
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdu_jax.errors import UserError
from vdu_jax.runtime import preemption, terminal

T = TypeVar("T")

_leading = False  # whether the leader runs a function of `from_leader`


class LeaderError(UserError):
    """An error of the leader, raised in the other processes; the leader reports it."""


def connect(coordinator: str, processes: int | None = None, process: int | None = None) -> None:
    """Connect to the other processes of a run; call this before JAX uses a device.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" under Slurm, on a TPU pod or in Kubernetes,
        where JAX finds all three arguments.
      processes: number of processes.
      process: index of this process, in [0, processes).

    Raises:
      UserError: if the arguments do not fit together, or the other processes do not connect within
        five minutes.
    """
    if coordinator == "auto":
        if processes is not None or process is not None:
            raise UserError("--coordinator=auto finds --processes and --process: leave them out")
        settings: dict[str, Any] = {}
    else:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator={coordinator}: must be HOST:PORT, or auto")
        if processes is None or process is None or not 0 <= process < processes:
            raise UserError(
                "--coordinator needs --processes=N and --process=I with I from 0 to N - 1"
            )
        settings = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    # JAX's handler of SIGTERM would replace that of `preemption`, and only note the signal.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**settings)
    except (RuntimeError, ValueError) as error:
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        line = f"--coordinator={coordinator}: the processes cannot connect: {why}"
        raise UserError(line) from error
    global _watch
    if jax.process_count() > 1:
        _watch = Watch()
        _watch.start()
        preemption.before_end.append(_stopped)
        if not is_leader():
            ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)


def _lost(index: str) -> str:
    line = f"process {index} of this run was lost; start all again: the same command continues"
    return f"vdu: process {jax.process_index()}: error: {line}"


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_: int) -> None:
    """Report a lost leader on SIGABRT, which JAX raises when its coordinator's process is gone.

    It is a C handler, because a Python handler would run only after the abort.
    """
    os.write(2, f"{_lost('0')} (or JAX ended for a reason above)\n".encode())
    os._exit(1)


class Watch(threading.Thread):
    """Thread that ends this process when another process of the run is lost.

    Without it XLA and Orbax may wait for a lost process for minutes, and JAX then aborts with a
    stack trace. Each process increments a heartbeat counter in the coordinator's key-value store; a
    counter that stops means a lost process.
    """

    INTERVAL, TIMEOUT = 2.0, 30.0  # seconds
    ALIVE, FAILED = "vdu/alive/", "failed"

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        # JAX has no public API for the coordinator's store; Orbax uses this one, too.
        self._store: Any = distributed.global_state.client
        self._mine = f"{self.ALIVE}{jax.process_index()}"
        self._ended = threading.Event()

    def _say(self, word: str) -> None:
        self._store.key_value_set(self._mine, word, allow_overwrite=True)

    def run(self) -> None:
        """Send heartbeats, and check those of the other processes."""
        changed: dict[str, tuple[str, float]] = {}
        beats = 0
        try:
            while not self._ended.wait(self.INTERVAL):
                beats += 1
                self._say(str(beats))
                now = time.monotonic()
                for key, word in self._store.key_value_dir_get(self.ALIVE):
                    old, since = changed.get(key, ("", now))
                    changed[key] = (word, since if word == old else now)
                    if word == self.FAILED:  # that process reports its error
                        self._say(self.FAILED)
                        os._exit(1)
                    if now - changed[key][1] > self.TIMEOUT:
                        self._end(key.rsplit("/", 1)[1])
        except jax.errors.JaxRuntimeError:
            if not self._ended.is_set():
                self._end("0")

    def _end(self, lost: str) -> None:
        print(_lost(lost), file=sys.stderr, flush=True)
        os._exit(1)

    def leader_fails(self, patience: float = 3.0) -> bool:
        """Whether the leader, too, ends with an error within `patience` seconds."""
        self._ended.set()
        return self._failed(1, patience)

    def _failed(self, wanted: int, patience: float) -> bool:
        """Whether processes 0 … `wanted` − 1 end with an error within `patience` seconds."""
        keys = {f"{self.ALIVE}{index}" for index in range(wanted)}
        deadline = time.monotonic() + patience
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            while time.monotonic() < deadline:
                said = self._store.key_value_dir_get(self.ALIVE)
                if keys <= {key for key, word in said if word == self.FAILED}:
                    return True
                time.sleep(0.1)
        return False

    def stop(self, failed: bool) -> None:
        """Announce the end of this process; the others end, too, if it failed."""
        self._ended.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._say(self.FAILED) if failed else self._store.key_value_delete(self._mine)
        if failed and jax.process_index() == 0:
            # The store ends with the leader, and JAX aborts processes that still use it.
            self._failed(jax.process_count(), 2 * self.INTERVAL)


_watch: Watch | None = None


def leave(failed: bool) -> None:
    """Announce the end of this process to the others.

    Args:
      failed: whether it ends with an error; the others then end, too.
    """
    if _watch is not None:
        _watch.stop(failed)


def _stopped() -> bool:
    """End the other processes as a signal ends this one; returns whether the leader reports it."""
    said = not is_leader() and _watch is not None and _watch.leader_fails()
    leave(failed=True)
    return said


def reported_by_leader(error: str | Exception) -> bool:
    """Whether the leader reports the error that ends this process."""
    if is_leader() or _watch is None:
        return False
    return isinstance(error, LeaderError) or _watch.leader_fails()


def joined() -> bool:
    """Whether `connect` has joined this process to others."""
    return jax.distributed.is_initialized()


def count() -> int:
    """Number of processes."""
    return jax.process_count() if joined() else 1


def index() -> int:
    """Index of this process; 0 is the leader."""
    return jax.process_index() if joined() else 0


def is_leader() -> bool:
    """Whether this process is the leader."""
    return index() == 0


def from_leader(function: Callable[..., T], *args: Any) -> T:
    """Call a function in the leader alone, and return its result in every process.

    A call inside such a function is a plain call.

    Args:
      function: returns a JSON value.
      args: its arguments.

    Returns:
      In the leader the result itself; in the others the result as decoded from JSON.

    Raises:
      LeaderError: in the other processes, if the function failed in the leader.
    """
    global _leading
    if count() == 1 or _leading:
        return function(*args)
    value: Any = None
    failure = None
    if is_leader():
        _leading = True
        try:
            value = function(*args)
        except Exception as error:  # raised below, after the others have been told
            failure = error
        finally:
            _leading = False
    said = {"value": None if failure else value, "error": str(failure) if failure else None}
    heard = json.loads(_broadcast(json.dumps(said)))
    if failure:
        raise failure
    if heard["error"] is not None:
        raise LeaderError(heard["error"])
    return value if is_leader() else heard["value"]


def _broadcast(text: str) -> str:
    """Send the leader's text to every process; the text of the others is not used."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(
        1 << max(6, (length - 1).bit_length()), np.uint8
    )  # few sizes, so few compilations
    if is_leader():
        padded[:length] = data
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length]).decode()


def report(line: str) -> None:
    """Print a line on standard error, in the leader only."""
    if is_leader():
        print(f"vdu: {terminal.paint_label(line)}", file=sys.stderr)


def gather(tree: Any) -> Any:
    """Concatenate NumPy arrays of all processes along the first axis, in every process.

    Args:
      tree: a pytree of NumPy arrays (n, …), of the same shapes in every process.
    """
    return tree if count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


class LaggedMax:
    """The maximum of a number over all processes, the same in each at the same call.

    Results lag by two calls, so that no call blocks on the devices.
    """

    DELAY = 2

    def __init__(self) -> None:
        self._pending: collections.deque[jax.Array] = collections.deque()
        mesh = Mesh(np.asarray(jax.devices()), ("devices",))
        self._split = NamedSharding(mesh, PartitionSpec("devices"))
        self._reduce = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, mine: int) -> int:
        """The maximum of the numbers that were given two calls earlier; 0 in the first two calls.

        A single process gets its own number at once.

        Args:
          mine: this process's number, at least 0.
        """
        if count() == 1:
            return mine
        local = np.full(jax.local_device_count(), mine, np.int32)
        whole = jax.make_array_from_process_local_data(self._split, local)
        self._pending.append(self._reduce(whole))
        return int(self._pending.popleft()) if len(self._pending) > self.DELAY else 0
