"""Regret of the rules that select a snapshot, on published cells.

    python benchmarks/step_rule.py [docs/results/*/results.json]

Regret is the u-FID of the selected snapshot minus the lowest u-FID among the snapshots whose PUL,
by the classifier of the evaluation, is at most one point lower. "drift" is the rule for a constant
learning rate, "last" the rule for one that decays to 0 (`forget_detector.choose_step`). Files of
earlier versions have no interval of the estimated PUL. It is then computed as the rule does, with
the classifier's forget rate of the original model in place of the detector's.
"""

import argparse
import collections
import glob
import json
from pathlib import Path

import timing

from vdu_jax import forget_detector


def snapshots(published: dict, cell: str) -> list[forget_detector.Snapshot]:
    """Return the snapshots of a cell, with the figures that the rule had."""
    rows, of = published["cells"], cell.split("/", 1)[1]
    original, images = rows[f"original/{of}"]["forget_rate"], published["config"]["curve"]["images"]
    found = []
    for row in rows[cell]["curve"]:
        rate = original * (1 - row["estimated_pul"] / 100)
        made = forget_detector.make_snapshot(row["step"], original, rate, images, row["drift"])
        high = row.get("estimated_pul_high", made.estimated_pul_high)
        found.append(made._replace(estimated_pul_high=high, estimated_pul=row["estimated_pul"]))
    return found


def regrets(published: dict, decay: str, decays: bool) -> list[tuple[float, float]]:
    """Return (regret, PUL %) of the selected snapshot of each cell with such a learning rate.

    Args:
      published: contents of a results.json.
      decay: "linear" or "constant".
      decays: whether the rule for a decaying rate selects.
    """
    found = []
    for cell, row in published["cells"].items():
        name = cell.split("/")[0]
        entry = published["config"]["methods"].get(name, {})
        if entry.get("decay", "constant") != decay or len(row.get("curve", ())) < 2:
            continue
        step, _ = forget_detector.choose_step(
            snapshots(published, cell), entry["target_pul"], decays and not row["stopped"]
        )
        kept = next(r for r in row["curve"] if r["step"] == step)
        best = min(r["u_fid"] for r in row["curve"] if r["pul"] >= kept["pul"] - 1)
        found.append((kept["u_fid"] - best, kept["pul"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="results.json files; all published by default")
    files = parser.parse_args().files or sorted(glob.glob("docs/results/*/results.json"))
    rows, whole = [], collections.defaultdict(list)
    for file in files:
        published = json.loads(Path(file).read_text())
        if "cells" not in published:
            print(f"{file}: no comparison of methods, left out\n")
            continue
        for decay, rule in (("linear", "drift"), ("linear", "last"), ("constant", "drift")):
            found = regrets(published, decay, rule == "last")
            whole[decay, rule] += found
            if found:
                rows.append([Path(file).parent.name, decay, rule, len(found), *means(found)])
    rows += [["all", *key, len(found), *means(found)] for key, found in whole.items() if found]
    print(timing.rows(["results", "learning rate", "rule", "cells", "regret", "PUL %"], rows))


def means(pairs: list[tuple[float, float]]) -> list[float]:
    """Return the means of the first and of the second values."""
    return [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]


if __name__ == "__main__":
    main()
