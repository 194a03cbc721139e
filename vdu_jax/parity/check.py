"""`vdu check`: compare this machine's numbers with PyTorch's, which come with the package."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vdu_jax.errors import UserError
from vdu_jax.parity import compare
from vdu_jax.parity.components import COMPONENTS, PRECISIONS, Component
from vdu_jax.runtime import progress, provenance


class Result(NamedTuple):
    """Result of the comparison of a component in one precision.

    Attributes:
      component: name of the component.
      about: what is compared, in a few words.
      precision: one of `PRECISIONS`.
      max_abs: see `compare.Difference.absolute`.
      max_rel: see `compare.Difference.relative`.
      l2: see `compare.Difference.l2`.
      measure: the measure with a tolerance, one of `compare.MEASURES`.
      error: the difference in that measure.
      tolerance: its largest allowed value.
    """

    component: str
    about: str
    precision: str
    max_abs: float
    max_rel: float
    l2: float
    measure: str
    error: float
    tolerance: float

    @property
    def verdict(self) -> str:
        """ "ok" if the error is within the tolerance, else "FAIL"."""
        return "ok" if self.error <= self.tolerance else "FAIL"


def result(
    component: Component, precision: str, ours: compare.Arrays, reference: compare.Arrays
) -> Result:
    """Compare a component's arrays with those of the reference.

    Args:
      component: the component.
      precision: one of `PRECISIONS`.
      ours: our arrays by name.
      reference: PyTorch's arrays by name, of the same shapes.

    Raises:
      ValueError: if names or shapes differ.
    """
    differences = compare.difference(ours, reference)
    return Result(
        component.name,
        component.about,
        precision,
        *differences,
        component.measure,
        differences.of(component.measure),
        component.tolerance[precision],
    )


def against_golden(component: Component, precision: str) -> Result:
    """Compute a component on the default device and compare it with its golden numbers.

    Args:
      component: the component.
      precision: one of `PRECISIONS`.
    """
    golden, _ = compare.read_golden(component.name)
    return result(component, precision, compare.compact(component.run(precision)), golden)


def table(results: Iterable[Result]) -> str:
    """Format results as a table, one line per result."""
    line = "{:<32} {:<9} {:>8} {:>8}  {:<20} {}".format
    rows = [line("component", "precision", "max abs", "max rel", "tolerance", "verdict")]
    for r in results:
        bound = f"{r.tolerance:.2g} {r.measure}"
        numbers = f"{r.max_abs:.1e}", f"{r.max_rel:.1e}"
        rows.append(line(r.component, r.precision, *numbers, bound, r.verdict))
    return "\n".join(rows)


def run(precisions: Sequence[str] = ("float32",), as_json: bool = False) -> int:
    """Check every component and print the table.

    Args:
      precisions: names in `PRECISIONS`.
      as_json: whether to print JSON instead of the table.

    Returns:
      1 if a component is out of tolerance, else 0.

    Raises:
      UserError: for an unknown precision.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UserError(f"--precision={precision}: must be one of {', '.join(PRECISIONS)}")
    environment = provenance.collect()
    _, made_with = compare.read_golden(COMPONENTS[0].name)
    results = []
    with progress.bar(len(COMPONENTS) * len(precisions), "check", unit="component") as bar:
        for precision in precisions:
            for component in COMPONENTS:
                bar.set_postfix_str(component.name, refresh=False)
                results.append(against_golden(component, precision))
                bar.update()
    failed = [r for r in results if r.verdict != "ok"]
    if as_json:
        rows = [r._asdict() | {"verdict": r.verdict} for r in results]
        summary = {"ok": not failed, "environment": environment, "golden": made_with}
        print(json.dumps(summary | {"results": rows}))
    else:
        versions = {"vdu-jax": environment["vdu_jax"]} | environment["versions"]
        print(f"device    {environment['devices']}, {environment['platform']}")
        print(f"versions  {listed(versions)}")
        print(f"golden    {listed(made_with)}\n")
        print(table(results))
        print(f"\n{len(results) - len(failed)} of {len(results)} within tolerance")
    return 1 if failed else 0


def listed(versions: Mapping[str, str]) -> str:
    """Format versions by name as one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


__all__ = ["PRECISIONS", "Result", "against_golden", "listed", "result", "run", "table"]
