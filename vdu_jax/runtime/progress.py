"""Progress bars with an ETA, and lines on what is done, on standard error."""

import sys
from pathlib import Path

import tqdm

from vdu_jax.runtime import preemption, processes, terminal


class Bar(tqdm.tqdm):
    """A bar that `preemption` knows of until its last line is written."""

    def close(self) -> None:
        super().close()
        preemption.bars.discard(self)


def bar(total: int, label: str, initial: int = 0, unit: str = "step") -> tqdm.tqdm:
    """A tqdm bar, which the leader alone shows; in a log file a new line every half minute.

    Args:
      total: how many units there are.
      label: what stands before the bar.
      initial: units that an earlier process has done.
      unit: what is counted.
    """
    interactive = sys.stderr.isatty()
    made = Bar(
        total=total,
        initial=initial,
        desc=label,
        unit=unit,
        disable=not processes.is_leader(),
        dynamic_ncols=interactive,
        ncols=None if interactive else 100,
        ascii=not interactive,
        mininterval=0.5 if interactive else 30.0,
        maxinterval=1.0 if interactive else 60.0,
    )
    if not made.disable:
        preemption.bars.add(made)
    return made


def report_done(name: str, folder: Path, seconds: float | None, more: str = "") -> None:
    """Print on standard error that a stage or a cell is done, in the leader only.

    Args:
      name: what is done.
      folder: where it lies.
      seconds: how long it took; None if it was done already.
      more: what else is said of new work, from the punctuation on.
    """
    if seconds is None:
        done = terminal.paint("done already", "skipped")
        processes.report(f"{name}: {done} for this config, in {folder}")
    else:
        done, took = terminal.paint("done", "done"), terminal.duration(seconds)
        processes.report(f"{name}: {done} in {took}, written to {folder}{more}")
