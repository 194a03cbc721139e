"""What counts as a clean end of an interrupted command."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def says_so_last():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return runpy.run_path(str(BENCHMARKS / "interrupts.py"))["says_so_last"]
    finally:
        sys.path.remove(str(BENCHMARKS))


STOPPED = "vdu: stopped by SIGINT; the same command continues\n"


@pytest.mark.parametrize(
    ("err", "clean"),
    [
        (STOPPED, True),
        ("vdu: train: done already\n\rtrain:  10%|1  | 1/10\n" + STOPPED, True),
        ("vdu: stopped at step 3 of 4, state saved; the same command continues\n", True),
        ("", False),
        ("vdu: warning: few images\n", False),
        (STOPPED + STOPPED, False),
        (STOPPED + "Exception ignored in: <function>\n", False),
        ("Traceback (most recent call last):\n" + STOPPED, False),
        ("\ttrain:  10%|1  | 1/10 " + STOPPED, False),  # it continues a progress bar's line
    ],
)
def test_one_last_line_says_that_it_was_stopped(says_so_last, err, clean):
    assert says_so_last(err) == clean
