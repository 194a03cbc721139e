"""What glibc does with freed memory, and that all threads of a command share one pool."""

import ctypes
import os
import subprocess
import sys

import pytest

from vdu_jax.runtime import malloc

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc, whose settings these are"
)

# Prints how many of 100 MiB, used in two threads and freed, the process still holds. A small block
# that stays lies above each large one.
HOLD = """
import ctypes, sys, threading
from vdu_jax.runtime import malloc
malloc.choose(getattr(malloc, sys.argv[1]))

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use():
    blocks = [(libc.malloc(20 * 2**20), libc.malloc(2**17 - 64))[0] for _ in range(5)]
    for block in blocks:
        ctypes.memset(block, 1, 20 * 2**20)
    for block in blocks:
        libc.free(block)

before = resident()
use()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print((resident() - before) / 2**20)
"""

# Prints glibc's own account of its pools after a command.
POOLS = """
import ctypes, sys
from vdu_jax.__main__ import main
sys.argv = ["vdu", "--version"]
main()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def printed(code, *arguments, **environment):
    left = {k: v for k, v in os.environ.items() if k not in malloc.KEEP_FREED | malloc.RETURN_FREED}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=left | environment
    )
    return done.stdout


def test_freed_memory_is_kept_or_given_back_as_chosen():
    # The second thread takes what the first has freed, but for a block or two that a small one
    # has got in the way of.
    assert 95 < float(printed(HOLD, "KEEP_FREED")) < 150
    assert float(printed(HOLD, "RETURN_FREED")) < 10


def test_whoever_sets_a_variable_has_decided():
    variables = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    assert float(printed(HOLD, "KEEP_FREED", **variables)) < 10


def test_all_threads_of_a_command_share_one_pool():
    """Else the thread that stands in for signals has one of its own, which XLA's threads share."""
    assert printed(POOLS).count("<heap nr=") == 1
