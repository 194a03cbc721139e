"""How lines for people look: colours where a stream is a terminal, durations and sizes in words.

A stream that is no terminal, `NO_COLOR` and `TERM=dumb` turn colours off; `FORCE_COLOR` turns them
on where the stream is no terminal (https://no-color.org, https://force-color.org). Files and JSON
never have any. Imports nothing of JAX, so that mistakes are reported at once.
"""

import os
import sys
from typing import TextIO

STYLES = {
    "name": "1",  # bold
    "done": "32",  # green
    "skipped": "2",  # faint
    "warning": "33",  # yellow
    "error": "1;31",  # bold red
}
LABELS = ("warning", "error")  # first words of a line that have a style of their own


def has_colours(stream: TextIO | None) -> bool:
    """Whether what is written to `stream` may have colours."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    try:
        return os.environ.get("TERM") != "dumb" and stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """`text` in one of `STYLES`, or as it is where `stream` has no colours.

    Args:
      stream: where it will be written; standard error by default.
    """
    if not has_colours(sys.stderr if stream is None else stream):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def paint_label(line: str) -> str:
    """A line for standard error, whose first word is painted if it is one of `LABELS`."""
    label, colon, rest = line.partition(":")
    return paint(label, label) + colon + rest if label in LABELS else line


def duration(seconds: float) -> str:
    """A time in words, of two units at most: "0.4 s", "12 s", "3 min 2 s", "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """A number of bytes in words, in powers of 1000: "3.1 GB"."""
    value, units = float(count), iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 999.5 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 10 and unit != "bytes" else f"{value:.0f} {unit}"
