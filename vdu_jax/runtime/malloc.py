"""How glibc allocates memory: one pool for all threads, and what is freed kept or given back.

XLA allocates the working memory of a step anew each time, and what that costs is glibc's choice
(docs/performance.md). This module imports nothing heavy, since it comes before the first thread.
"""

import contextlib
import ctypes
import os
from collections.abc import Mapping

# Environment variable -> mallopt's parameter and value (malloc.h).
# With one for each thread the peak is a seventh higher (docs/scaling.md). And a block of more than
# 64 MiB fits into no pool but the first: a thread with another one gets it from the kernel, as
# fresh pages, and gives it back, whatever the settings below say.
ONE_POOL = {"MALLOC_ARENA_MAX": (-8, 1)}
# Freed memory is kept ...
KEEP_FREED = ONE_POOL | {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, -1)}
# ... unless the peak matters more: then blocks of 1 MiB and more are always given back.
RETURN_FREED = ONE_POOL | {"MALLOC_MMAP_THRESHOLD_": (-3, 2**20)}


def choose(choice: Mapping[str, tuple[int, int]]) -> None:
    """Set glibc's allocator, where the environment does not; elsewhere nothing happens.

    A pool that a thread already has stays, so `ONE_POOL` is set before the first thread starts.

    Args:
      choice: `ONE_POOL`, `KEEP_FREED` or `RETURN_FREED`.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for name, (parameter, value) in choice.items():
            if name not in os.environ:
                mallopt(parameter, value)
