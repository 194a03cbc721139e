"""Write docs/parity.md, the comparison with PyTorch: `make parity`."""

import argparse
import sys
from pathlib import Path

import exported_run
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
our float32. Not measured on a GPU or TPU: there, `vdu check` prints these lines for the device.

| component | what | max abs | max rel | L2 | tolerance | verdict |
|---|---|---|---|---|---|---|
{rows}

## An unlearned model in PyTorch

The models of `make demo` (`{config}`), exported with `vdu export` and loaded with
`DDPMPipeline.from_pretrained`; DDIM with 50 steps. How many of 2000 images the run's classifier
takes for each class, each framework with noise of its own; p is that of the χ² test that both draw
from one distribution. The gap is max|Δ| of the images that both make of the same noise.

| model | framework | {classes} | p | gap |
|---|---|{columns}|---|---|
{exported}

## Where diffusers differs

- DDIM with clipping takes the direction to x_t from the clipped x_0, as improved-diffusion does; in
  diffusers that is `use_clipped_model_output=True`, and it is off by default.
- Its DPM-Solver++ cannot clip, and its "leading" and "linspace" grids have n + 1 points; "trailing"
  is the same. Its DDPM with "fixed_large" and "trailing" adds noise to the final image.
- Its schedulers keep ᾱ in float32, so 1 − ᾱ has lost digits at small t; compared here is the same
  schedule in float64.
- Its DiT has a copy of the embeddings of time and class in every block, and the frequencies
  10000^(-i / 127); the paper's code has one for all blocks, and 10000^(-i / 128). So the copies are
  set equal, and the frequencies to the paper's.
"""


def row(r):
    numbers = f"{r.max_abs:.1e} | {r.max_rel:.1e} | {r.l2:.1e}"
    bound = f"{r.tolerance:.2g} {r.measure}"
    return f"| {r.component} | {r.about} | {numbers} | {bound} | {r.verdict} |"


GAP, LEAST_P = 1e-3, 0.01  # of the exported models


def exported_rows(name, found):
    """Two lines of the second table."""
    rows = [[name, "JAX", *found["jax"], "", ""]]
    rows.append([name, "PyTorch", *found["pytorch"], f"{found['p']:.2f}", f"{found['gap']:.1e}"])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def main():
    """Compare everything, write the page, and return 1 if something is out of tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="of the run whose models are exported")
    parser.add_argument("--workdir", required=True, type=Path, help="where it has finished")
    arguments = parser.parse_args()
    exported = {
        model: exported_run.compare(arguments.config, arguments.workdir, model)
        for model in ("original", "extended")
    }
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
        config=arguments.config,
        classes=" | ".join(map(str, range(len(exported["original"]["jax"])))),
        columns="|".join(["---"] * len(exported["original"]["jax"])),
        exported="\n".join(exported_rows(*item) for item in exported.items()),
    )
    PATH.write_text(page)
    print(check.table(results))
    close = all(e["gap"] <= GAP and e["p"] >= LEAST_P for e in exported.values())
    return 0 if close and all(r.verdict == "ok" for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
