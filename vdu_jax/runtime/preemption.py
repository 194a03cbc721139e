"""Stop cleanly on SIGTERM or Ctrl-C: the fit loop saves and raises `Interrupted`."""

import signal
import threading


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class SignalWatch:
    """Context manager that notes SIGTERM and SIGINT instead of dying at once.

    A second signal of the same kind acts as it would without us.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.received: int | None = None
        self._old = {}

    def _note(self, signum, frame):
        del frame
        self.received = signum
        signal.signal(signum, self._old[signum])

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for signum in self.SIGNALS:
                self._old[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exc):
        for signum, handler in self._old.items():
            signal.signal(signum, handler)
