"""Which settings glibc is told, and that all threads of a command share one pool."""

import ctypes
import os
import subprocess
import sys
import types

import pytest

from vdu_jax.runtime import malloc


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        # By the numbers of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD.
        (malloc.KEEP_FREED, {-8: 1, -4: 0, -1: -1}),
        (malloc.RETURN_FREED, {-8: 1, -3: 2**20}),
    ],
)
def test_freed_memory_is_kept_or_given_back_as_chosen(monkeypatch, choice, chosen):
    told = []
    libc = types.SimpleNamespace(mallopt=lambda *given: told.append(given))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in malloc.KEEP_FREED | malloc.RETURN_FREED:
        os.environ.pop(name, None)
    malloc.choose(choice)
    assert dict(told) == chosen
    told.clear()
    os.environ["MALLOC_ARENA_MAX"] = "4"  # whoever sets a variable has decided
    malloc.choose(choice)
    assert dict(told) == {k: v for k, v in chosen.items() if k != -8}


def test_all_threads_of_a_command_share_one_pool():
    """Else the thread that stands in for signals has one of its own, which XLA's threads share."""
    if not hasattr(ctypes.CDLL(None), "malloc_info"):
        pytest.skip("glibc only")
    code = """
import ctypes, sys
from vdu_jax.__main__ import main
sys.argv = ["vdu", "--version"]
main()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.stdout.count("<heap nr=") == 1
