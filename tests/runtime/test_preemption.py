"""Signals, in processes of their own."""

import os
import signal
import subprocess
import sys

import pytest

START = """
import gc, hashlib, os, signal, sys, threading
from pathlib import Path
from vdu_jax.runtime import preemption
from vdu_jax.runtime.preemption import Interrupted, SignalWatch

def send(signum=signal.SIGINT):
    os.kill(os.getpid(), signum)

def blocked(other=lambda: None):
    "Work in C that lets other threads run, as `other`, but no handler of Python's."
    gate = threading.Lock()
    gate.acquire()
    threading.Thread(target=lambda: (gate.acquire(), other()), daemon=True).start()
    sys.setswitchinterval(1000)  # no other thread runs before this one is in C
    gate.release()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

preemption.listen()
"""


def run(code, handler="SIG_DFL"):
    """Exit code and standard error; signals have `handler` when the process starts."""
    start = f"""
import os, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.{handler})
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
    command = [sys.executable, "-c", start, START + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stderr


def line(name):
    return f"vdu: stopped by {name}; the same command continues\n"


SWALLOWED = {
    "by except": """
try:
    send()
except BaseException:
    pass
""",
    "in a garbage collection": """
gc.callbacks.append(lambda *_: send())
gc.collect()
""",
    "in __del__": """
class Last:
    def __del__(self):
        send()
Last()
""",
    "from a thread": """
thread = threading.Thread(target=send)
thread.start()
thread.join()
""",
    "while the main thread is blocked": """
blocked(send)
""",
}


@pytest.mark.parametrize("how", SWALLOWED)
def test_a_signal_ends_the_process_wherever_it_comes(how):
    assert run(SWALLOWED[how] + "sys.exit(0)") == (128 + signal.SIGINT, line("SIGINT"))


def test_sigterm_has_its_own_exit_code():
    assert run("send(signal.SIGTERM)") == (128 + signal.SIGTERM, line("SIGTERM"))


def test_no_traceback_of_threads_or_atexit():
    code = """
import atexit
from concurrent.futures import ThreadPoolExecutor
atexit.register(lambda: 1 / 0)
pool = ThreadPoolExecutor()
pool.submit(blocked)
def wait():
    threading.Event().wait()
threading.Thread(target=wait).start()
send()
"""
    assert run(code) == (128 + signal.SIGINT, line("SIGINT"))


def test_a_signal_that_was_ignored_stays_ignored():
    code = "send(); send(signal.SIGTERM)\nwith SignalWatch(): send()"
    assert run(code, "SIG_IGN") == (0, "")


def test_what_is_half_written_is_deleted(tmp_path):
    code = f"""
root = Path({str(tmp_path)!r})
(root / "file").write_text("half")
(root / "folder").mkdir()
(root / "folder" / "file").write_text("half")
(root / "kept").write_text("whole")
with preemption.temporary(root / "kept"):
    pass
with preemption.temporary(root / "file"), preemption.temporary(root / "folder"):
    with preemption.temporary(root / "not yet there"):
        send()
"""
    assert run(code)[0] == 128 + signal.SIGINT
    assert os.listdir(tmp_path) == ["kept"]


WATCHES = {
    "one is noted, and the block saves": (
        """
with SignalWatch() as watch:
    send()
    assert watch.received == signal.SIGINT
    print("saved", file=sys.stderr)
    sys.exit(128 + watch.received)
""",
        (130, "saved\n"),
    ),
    "one that the block does not act on ends the process after it": (
        """
with SignalWatch():
    send()
    print("saved", file=sys.stderr)
print("not reached", file=sys.stderr)
""",
        (130, "saved\n" + line("SIGINT")),
    ),
    "a second ends it": (
        """
with SignalWatch():
    send()
    send(signal.SIGTERM)
    print("not reached", file=sys.stderr)
""",
        (143, line("SIGTERM")),
    ),
    "a second ends it while the main thread is blocked": (
        """
preemption.PATIENCE = 0.0
def twice():
    for signum in (signal.SIGINT, signal.SIGTERM):  # delivered at once, not in the kernel's order
        signal.pthread_kill(threading.get_ident(), signum)
with SignalWatch():
    blocked(twice)
""",
        (143, line("SIGTERM")),
    ),
    "none is left when the block has ended": (
        """
with SignalWatch():
    pass
send()
""",
        (130, line("SIGINT")),
    ),
    "one more ends it after the block has raised": (
        """
try:
    with SignalWatch() as watch:
        send()
        raise Interrupted(watch.received, "saved")
except Interrupted:
    print("saved", file=sys.stderr)
send(signal.SIGTERM)
""",
        (143, "saved\n" + line("SIGTERM")),
    ),
}


@pytest.mark.parametrize("how", WATCHES)
def test_within_a_fit(how):
    code, expected = WATCHES[how]
    assert run(code) == expected


def test_when_all_is_done_the_exit_code_stays():
    code = """
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), signum=signal.SIGINT):
        kill(pid, signum)
last = Last()  # until Python tears itself down
"""
    assert run(code) == (0, "")


# The last closes a bar as tqdm does, up to its last line.
BARS = {"open": "", "closed": "bar.close()", "being closed": "tqdm.tqdm.close = stop; bar.close()"}


@pytest.mark.parametrize("how", BARS)
def test_the_line_is_one_of_its_own_after_a_progress_bar(how):
    code = f"""
import tqdm
from vdu_jax.runtime import progress
def stop(bar):
    bar.disable = True
    send()
bar = progress.bar(3, "work")
{BARS[how]}
send()
"""
    _, err = run(code)
    assert err.endswith("\n" + line("SIGINT")) and "\n\n" not in err and "work" in err


def test_other_processes_are_told_first_and_the_line_is_one_of_them():
    code = """
preemption.before_end.append(lambda: print("told", file=sys.stderr) or True)
send()
"""
    assert run(code) == (128 + signal.SIGINT, "told\n")
