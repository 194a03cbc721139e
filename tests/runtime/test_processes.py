"""What several processes agree on; with real processes in test_parallel.py and launch/."""

import signal
import socket
import subprocess
import sys

import pytest

from vdu_jax.errors import UserError
from vdu_jax.runtime import processes


@pytest.mark.parametrize(
    ("coordinator", "which", "line"),
    [
        ("here", {"processes": 2, "process": 0}, "--coordinator=here: must be HOST:PORT, or auto"),
        ("here:port", {"processes": 2, "process": 0}, "must be HOST:PORT"),
        ("here:1", {"processes": 2}, "needs --processes=N and --process=I"),
        ("here:1", {"processes": 2, "process": 2}, "I from 0 to N - 1"),
        ("auto", {"processes": 2}, "leave them out"),
        ("auto", {}, "the processes cannot connect"),  # no cluster here
    ],
)
def test_how_to_meet_is_checked(coordinator, which, line):
    with pytest.raises(UserError, match=line):
        processes.connect(coordinator, **which)


def test_alone_everything_is_a_plain_call():
    assert processes.is_leader() and processes.count() == 1 and not processes.joined()
    value = object()
    assert processes.from_leader(lambda: value) is value
    assert processes.gather([value]) == [value]
    assert [processes.LaggedMax()(n) for n in (3, 0)] == [3, 0]


JOINED = """
import os, signal, sys, threading
from vdu_jax.runtime import preemption, processes

preemption.listen()
port, index, stopped = map(int, sys.argv[1:])
processes.connect(f"localhost:{port}", 2, index)
if index == stopped:
    os.kill(os.getpid(), signal.SIGTERM)
threading.Event().wait(300)
"""


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_to_one_ends_all_and_one_says_so(stopped):
    """Outside a fit; JAX has a handler of SIGTERM of its own."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", JOINED, str(port)]
    started = [
        subprocess.Popen([*command, str(i), str(stopped)], stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    lines = [[x for x in text.splitlines() if x.startswith("vdu:")] for text in said]
    assert lines[stopped] == ["vdu: stopped by SIGTERM; the same command continues"]
    assert lines[1 - stopped] == [] and "Traceback" not in said[0] + said[1]
    assert started[stopped].returncode == 128 + signal.SIGTERM
    assert started[1 - stopped].returncode == 1
