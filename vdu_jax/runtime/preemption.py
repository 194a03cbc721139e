"""Stop on SIGINT (Ctrl-C) or SIGTERM: at once, or within a fit once its state is saved.

Whatever is written may be cut off at any moment, as by `kill -9`: the same command continues. So a
signal ends the process from the handler itself and raises nothing. An exception could be lost, for
one that is raised in a callback of C++, in `__del__` or in a garbage collection is only printed;
and on its way through threads and event loops it would leave tracebacks.

Imports nothing of JAX, so that signals are handled before it is imported.
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
PATIENCE = 1.0  # seconds that the main thread is given to handle a signal

# Called before a signal ends the process; each returns whether another process reports the signal.
before_end: list[Callable[[], bool]] = []

# Progress bars whose line may be open: those that are not closed, or just being closed.
bars: weakref.WeakSet = weakref.WeakSet()

_temporaries: set[Path] = set()
_ending = threading.RLock()  # a second signal may interrupt the end of the first
_noticed = threading.Event()  # the main thread has handled the first signal


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[None]:
    """Have a file or folder deleted if a signal ends the process within the block."""
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
            midline = os.isatty(2) or len(bars) > 0  # ^C, or a bar
            with contextlib.suppress(OSError):
                # Not print: it may have been interrupted itself.
                os.write(2, ("\n" + line if midline else line).encode())
        os._exit(128 + signum)


def listen() -> None:
    """Have SIGINT and SIGTERM end this process. To be called first, and in the main thread.

    A signal that was ignored when the process started (`nohup`, `command &` in a script) stays so.
    """
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda signum, frame: end(signum))
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_stand_in, args=(read,), name="signals", daemon=True).start()
    # Python gives the default handlers back before it tears itself down, when all is done.
    atexit.register(_ignore)


def _ignore() -> None:
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _stand_in(wakeups: int) -> None:
    """Handle signals in place of a main thread that cannot: it may compile for minutes."""
    first = True
    while received := os.read(wakeups, 1):
        # A fit notices the first signal when its step is done, however long that takes.
        if not first or not (_noticed.wait(PATIENCE) or SignalWatch.active):
            end(received[0])
        first = False


class SignalWatch:
    """Context manager that notes a signal, for the block to save its state and raise `Interrupted`.

    A second signal acts as it would without the block, and so does one that the block has not acted
    on by its end.

    Attributes:
      received: the signal's number, or None.
    """

    active = False  # whether there is one

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
