"""The memory of this process, as Linux and glibc tell it."""

import ctypes
from pathlib import Path


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def baseline() -> int:
    """The resident size, in bytes, from which a peak is measured; `taken` is told it."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would hold what is measured
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    return before


def taken(before: int) -> int:
    """The highest resident size since `baseline`, in bytes above it."""
    return status("VmHWM") - before
