"""Stop on SIGINT (Ctrl-C) or SIGTERM: at once, or within a fit once its state is saved.

Every write may be cut off at any moment, as by `kill -9`, and the same command continues. So a
signal ends the process from its handler and raises no exception. An exception could be lost,
because Python only prints one that is raised in a callback of C++, in `__del__` or in a garbage
collection; and in threads and event loops it would leave tracebacks.

This module does not import JAX, so that signals are handled before JAX is imported.
"""

import atexit
import contextlib
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 1.0  # seconds in which the main thread must handle a signal

# Called before a signal ends the process; each returns whether another process reports the signal.
before_end: list[Callable[[], bool]] = []

# Progress bars whose line on the terminal may be unfinished.
bars: weakref.WeakSet = weakref.WeakSet()

_temporaries: set[Path] = set()
_ending = threading.RLock()  # a second signal may interrupt the end of the first
_noticed = threading.Event()  # the main thread has handled the first signal


class Interrupted(Exception):
    """A run received a signal and has saved its state.

    Attributes:
      signum: number of the signal.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[None]:
    """Context manager: a signal that ends the process in the block deletes a file or folder."""
    _temporaries.add(path)
    try:
        yield
    finally:
        _temporaries.discard(path)


def end(signum: int) -> None:
    """End the process with exit code 128 + `signum` and one line on standard error."""
    with _ending:
        _noticed.set()
        for path in list(_temporaries):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
        if not any([call() for call in before_end]):
            name = signal.Signals(signum).name
            line = f"vdu: stopped by {name}; the same command continues\n"
            midline = os.isatty(2) or len(bars) > 0  # the line has "^C" or a bar
            with contextlib.suppress(OSError):
                # Not print: the signal may have interrupted a print.
                os.write(2, ("\n" + line if midline else line).encode())
        os._exit(128 + signum)


def listen() -> None:
    """Install the handlers of SIGINT and SIGTERM; call this first, and in the main thread.

    A signal that was ignored when the process started (`nohup`, `command &` in a script) stays
    ignored.
    """
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda signum, frame: end(signum))
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_stand_in, args=(read,), name="signals", daemon=True).start()
    # At exit Python restores the default handlers, which would end a finished run by a signal.
    atexit.register(_ignore)


def _ignore() -> None:
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _stand_in(wakeups: int) -> None:
    """Handle signals while the main thread cannot, e.g. in a compilation that takes minutes."""
    first = True
    while received := os.read(wakeups, 1):
        # A fit notices the first signal when its step is done, however long the step takes.
        if not first or not (_noticed.wait(PATIENCE) or SignalWatch.active):
            end(received[0])
        first = False


class SignalWatch:
    """Context manager that notes a signal, so that the block can save and raise `Interrupted`.

    A second signal acts as without the block. So does a signal to which the block has not reacted
    when it ends.

    Attributes:
      received: number of the signal, or None.
      active: whether a block of any watch is being executed.
    """

    active = False

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[signal.Signals, Any] = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.received = signum
        _noticed.set()
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                handler = signal.getsignal(signum)
                if handler is not signal.SIG_IGN:
                    self._old[signum] = signal.SIG_DFL if handler is None else handler
                    signal.signal(signum, self._note)
            SignalWatch.active = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        SignalWatch.active = False
        self._restore()
        if self.received is not None and kind is None:
            signal.raise_signal(self.received)
