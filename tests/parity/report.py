"""Write docs/parity.md, the comparison with PyTorch: `make parity`."""

import sys
from pathlib import Path

import make_golden
import reference

from vdu_jax.parity import check, components
from vdu_jax.runtime import progress, provenance

PATH = Path(__file__).resolve().parents[2] / "docs" / "parity.md"

PAGE = """\
# The same numbers as PyTorch

Every component against an independent PyTorch implementation, in float32 on a CPU: networks and
schedulers of Hugging Face diffusers, `torch.autograd` and `torch.optim.Adam`, pytorch-fid, and the
losses written from [method.md](method.md) in plain PyTorch. Written by `make parity`; the same
comparison is tested by `make test-parity`, and by `make test` and `vdu check` without PyTorch
against stored numbers.

- ours: {ours} on {devices}
- PyTorch: {theirs}

"max abs" is max|Δ|, "max rel" max|Δ| / max|reference|, "L2" ‖Δ‖ / ‖reference‖, each of the worst
array of the component. The PyTorch side computes in float64, so the differences are the rounding of
our float32.

| component | what | max abs | max rel | L2 | tolerance | verdict |
|---|---|---|---|---|---|---|
{rows}
"""


def row(r):
    numbers = f"{r.max_abs:.1e} | {r.max_rel:.1e} | {r.l2:.1e}"
    bound = f"{r.tolerance:.2g} {r.measure}"
    return f"| {r.component} | {r.about} | {numbers} | {bound} | {r.verdict} |"


def main():
    """Compare everything, write the page, and return 1 if something is out of tolerance."""
    results = []
    with progress.bar(len(components.COMPONENTS), "parity", unit="component") as bar:
        for component in components.COMPONENTS:
            theirs = reference.REFERENCE[component.name]()
            ours = component.run("float32")
            results.append(check.result(component, "float32", ours, theirs))
            bar.update()
    here = provenance.collect()
    theirs = {k: v for k, v in make_golden.versions().items() if k != "script"}
    page = PAGE.format(
        ours=check.listed({"vdu-jax": here["vdu_jax"]} | here["versions"]),
        devices=here["devices"],
        theirs=check.listed(theirs),
        rows="\n".join(map(row, results)),
    )
    PATH.write_text(page)
    print(check.table(results))
    return 0 if all(r.verdict == "ok" for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
