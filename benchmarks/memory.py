"""Measure the memory of this process, as Linux and glibc report it."""

import ctypes
from pathlib import Path


def status(key: str) -> int:
    """Return the value of a line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def baseline() -> int:
    """Reset the peak and return the resident size in bytes, the argument of `taken`."""
    ctypes.CDLL(None).malloc_trim(0)  # retained free memory would hide new allocations
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    return before


def taken(before: int) -> int:
    """Return the peak resident size since `baseline`, in bytes above its result."""
    return status("VmHWM") - before
