"""Regret of the rule that keeps a step, over published cells whose learning rate decays to 0.

    python benchmarks/step_rule.py [docs/results/*/results.json]

Regret is the u-FID of the step that the rule keeps minus the lowest u-FID among the snapshots whose
PUL, by the evaluation's classifier, is at most one point lower. "drift" is the rule for a constant
rate, "last" that for a decaying one (`forget_detector.choose_step`). Files of an earlier version
have no interval of the estimated PUL; it is computed as the rule does, with the classifier's rate
of the original in the detector's place.
"""

import argparse
import glob
import json
from pathlib import Path

import timing

from vdu_jax import forget_detector


def snapshots(published: dict, cell: str) -> list[forget_detector.Snapshot]:
    """What the rule knew of each snapshot of a cell."""
    rows, of = published["cells"], cell.split("/", 1)[1]
    original, images = rows[f"original/{of}"]["forget_rate"], published["config"]["curve"]["images"]
    found = []
    for row in rows[cell]["curve"]:
        rate = original * (1 - row["estimated_pul"] / 100)
        made = forget_detector.make_snapshot(row["step"], original, rate, images, row["drift"])
        high = row.get("estimated_pul_high", made.estimated_pul_high)
        found.append(made._replace(estimated_pul_high=high, estimated_pul=row["estimated_pul"]))
    return found


def regrets(published: dict, decays: bool) -> list[tuple[float, float]]:
    """(regret, PUL in percent) of the kept step of each cell with a decaying rate."""
    found = []
    for cell, row in published["cells"].items():
        name = cell.split("/")[0]
        entry = published["config"]["methods"].get(name, {})
        if entry.get("decay") != "linear" or not row.get("curve"):
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
    parser.add_argument("files", nargs="*")
    files = parser.parse_args().files or sorted(glob.glob("docs/results/*/results.json"))
    rows, whole = [], {"drift": [], "last": []}
    for file in files:
        published = json.loads(Path(file).read_text())
        if "cells" not in published or "targets" in published["config"].get("benchmark", {}):
            continue
        for rule, decays in (("drift", False), ("last", True)):
            found = regrets(published, decays)
            whole[rule] += found
            if found:
                rows.append([Path(file).parent.name, rule, len(found), *means(found)])
    rows += [["all", rule, len(found), *means(found)] for rule, found in whole.items() if found]
    print(timing.rows(["results", "rule", "cells", "regret", "PUL %"], rows))


def means(pairs: list[tuple[float, float]]) -> list[float]:
    return [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]


if __name__ == "__main__":
    main()
