"""Progress bars with an ETA on standard error."""

import sys

import tqdm


def bar(total: int, label: str, initial: int = 0, unit: str = "step") -> tqdm.tqdm:
    """A tqdm bar; in a log file it prints a line every half minute instead of redrawing."""
    interactive = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=unit,
        dynamic_ncols=interactive,
        ncols=None if interactive else 100,
        ascii=not interactive,
        mininterval=0.5 if interactive else 30.0,
        maxinterval=1.0 if interactive else 60.0,
    )
