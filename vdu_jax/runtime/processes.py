"""Several processes that run the same program: who decides, who writes, who goes on.

Every process calls every function here, in the same order. The one with index 0 is the leader: it
alone writes files of ours and looks whether they are there, and all act on what it saw. Arrays are
Orbax's and XLA's business. In a single process all of this is a plain call.
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
from vdu_jax.runtime import preemption

T = TypeVar("T")

_leading = False  # inside a function that the leader alone runs


class LeaderError(UserError):
    """What stopped the leader, which reports it, in the other processes."""


def connect(coordinator: str, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes; to be called before JAX touches a device.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" under Slurm, on a TPU pod or in Kubernetes,
        where JAX finds all three.
      processes: how many there are. process: which one this is.

    Raises:
      UserError: if the three do not fit together, or the others do not come within five minutes.
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
    # JAX's handler of SIGTERM would take the place of ours, and only note the signal.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**settings)
    except (RuntimeError, ValueError) as error:
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        line = f"--coordinator={coordinator}: the processes do not meet: {why}"
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
    """The last word when JAX aborts, as it does at once when its coordinator's process is gone.

    A handler of C's, for Python's would be due after the abort.
    """
    os.write(2, f"{_lost('0')} (or JAX ended for a reason above)\n".encode())
    os._exit(1)


class Watch(threading.Thread):
    """Ends this process when another one is gone, whatever it waits for meanwhile.

    XLA and Orbax may wait for a lost process for minutes, and JAX then aborts with a stack trace.
    Every process counts up a number of its own in the store of JAX's coordinator.
    """

    INTERVAL, TIMEOUT = 2.0, 30.0  # seconds
    ALIVE, FAILED = "vdu/alive/", "failed"

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        # JAX has no public way to its coordinator's store; Orbax goes this one, too.
        self._store: Any = distributed.global_state.client
        self._mine = f"{self.ALIVE}{jax.process_index()}"
        self._ended = threading.Event()

    def _say(self, word: str) -> None:
        self._store.key_value_set(self._mine, word, allow_overwrite=True)

    def run(self) -> None:
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
                    if word == self.FAILED:  # it says why
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
        """Whether the leader ends with an error, too, within `patience` seconds."""
        self._ended.set()
        return self._failed(1, patience)

    def _failed(self, wanted: int, patience: float) -> bool:
        """Whether the first `wanted` processes end with an error within `patience` seconds."""
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
        """This process is about to end; the others go with it if it failed."""
        self._ended.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._say(self.FAILED) if failed else self._store.key_value_delete(self._mine)
        if failed and jax.process_index() == 0:
            # The store ends with the leader, and JAX aborts whoever is still there.
            self._failed(jax.process_count(), 2 * self.INTERVAL)


_watch: Watch | None = None


def leave(failed: bool) -> None:
    """To be called before this process ends; if it failed, the others end, too."""
    if _watch is not None:
        _watch.stop(failed)


def _stopped() -> bool:
    """Have the others end, too, as a signal ends this process; whether the leader reports it."""
    said = not is_leader() and _watch is not None and _watch.leader_fails()
    leave(failed=True)
    return said


def reported_by_leader(error: str | Exception) -> bool:
    """Whether what ends this process is reported by the leader anyway."""
    if is_leader() or _watch is None:
        return False
    return isinstance(error, LeaderError) or _watch.leader_fails()


def joined() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized()


def count() -> int:
    return jax.process_count() if joined() else 1


def index() -> int:
    return jax.process_index() if joined() else 0


def is_leader() -> bool:
    return index() == 0


def from_leader(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` as the leader finds it, in every process; the others do not call it.

    Inside such a function this is a plain call.

    Returns:
      In the leader what it returned, in the others the same by way of JSON.

    Raises:
      LeaderError: in the others, if it failed in the leader.
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
        except Exception as error:  # not to leave the others waiting
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
    """The leader's text."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(1 << max(6, (length - 1).bit_length()), np.uint8)  # few sizes to compile
    if is_leader():
        padded[:length] = data
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:length]).decode()


def report(line: str) -> None:
    """A line on standard error, once."""
    if is_leader():
        print(f"vdu: {line}", file=sys.stderr)


def gather(tree: Any) -> Any:
    """Every process's NumPy arrays (n, …), one after the other in the order of the processes."""
    return tree if count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


class LaggedMax:
    """The largest of the numbers that the processes name, the same for all at the same call.

    What is said in one call is heard two calls later, so that none waits for the devices to finish
    what they are at.
    """

    DELAY = 2

    def __init__(self) -> None:
        self._pending: collections.deque[jax.Array] = collections.deque()
        mesh = Mesh(np.asarray(jax.devices()), ("devices",))
        self._split = NamedSharding(mesh, PartitionSpec("devices"))
        self._reduce = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, mine: int) -> int:
        if count() == 1:
            return mine
        local = np.full(jax.local_device_count(), mine, np.int32)
        whole = jax.make_array_from_process_local_data(self._split, local)
        self._pending.append(self._reduce(whole))
        return int(self._pending.popleft()) if len(self._pending) > self.DELAY else 0
