"""Evaluate the corrected score during sampling, without training, on the models of a benchmark.

    python benchmarks/without_training.py --config=configs/benchmark/digits_methods.py
        --workdir=runs/benchmark/digits [--seeds=0,1,2] [--oracle] [--json=FILE]
        [--config.KEY=VALUE …]

The method `retained_score` distils the same score. `workdir` is that of `vdu benchmark` with the
same config; its models, replay and classifier are used. For each cell `guidance.without_forget`
draws `evaluate.images` images, which are measured like a cell of the benchmark. --oracle replaces
replay by all of D_r, and the share of the forget class by its share of the training data; the
difference is the cost of replay and its cleaning.
"""

import argparse
import functools
import json
from pathlib import Path

import timing

KEYS = ("pul", "u_fid", "u_fid_at_shares")


def reference_images(task, replay, oracle: bool):
    """Return (images of D_f, retained images, share of D_f); images in [-1, 1]."""
    from vdu_jax import data

    split, whole = task.forget_retain, task.open_split("train")
    forget, _ = whole.subset(split.forget).read()
    if oracle:
        retained, share = whole.subset(split.retain).read()[0], len(forget) / len(whole)
    else:
        retained, share = replay.images[~replay.forget_like], float(replay.forget_like.mean())
    return data.to_model_range(forget), data.to_model_range(retained), share


def draw(task, replay, oracle: bool):
    """Draw uint8 images (N, H, W, C) of the original model with the corrected score."""
    from vdu_jax.diffusion import guidance, samplers
    from vdu_jax.runtime import sampling
    from vdu_jax.tasks import base

    config, predicts = task.config, task.parameterization
    plan = samplers.make_plan(predicts.schedule, **base.plan_settings(config.sampler))
    predict = guidance.without_forget(
        predicts.noise_predictor(task.score_fn),
        predicts.schedule,
        *reference_images(task, replay, oracle),
    )
    run = functools.partial(samplers.sample, predict, clip_x0=config.sampler.clip_x0)
    sampler = sampling.make_sampler(
        lambda params, keys: run(params, plan, keys, task.image_shape),
        task.image_shape,
        batch_size=config.sampler.batch_size,
    )
    section = config.evaluate
    return sampler(task.original_params, section.seed, section.images, "sample corrected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="config file of the benchmark")
    parser.add_argument("--workdir", required=True, type=Path, help="of the benchmark")
    parser.add_argument("--seeds", default="", help="separated by commas; all by default")
    parser.add_argument("--oracle", action="store_true", help="use all of D_r in place of replay")
    parser.add_argument("--json", help="also write the figures to this file")
    given, more = parser.parse_known_args()

    from vdu_jax import tasks
    from vdu_jax.metrics.quality import quality
    from vdu_jax.runtime import artifacts
    from vdu_jax.stages import benchmark, evaluate, replay

    config, rows = timing.read_config(given.config, *more), {}
    seeds = map(int, given.seeds.split(",")) if given.seeds else config.benchmark.seeds
    for seed in seeds:
        for forget in config.benchmark.classes:
            new = benchmark.cell_config(config, given.workdir, "", forget, seed, {})
            new.evaluate.bits_per_dim_images = 0  # the corrected score has no parameters
            folder = benchmark.place(config, given.workdir / f"seed-{seed}", "", forget)
            task, stored = tasks.of(new, folder), replay.load(folder)
            evaluator = evaluate.make_evaluator(task)
            images = draw(task, stored, given.oracle)
            figures, kept = evaluator.measure("corrected", {"images": images}, dict)
            rows[f"{forget}/{seed}"] = row = figures | quality(
                kept, evaluator.reference, new.evaluate.seed
            )
            timing.say(f"class {forget}, seed {seed}: {shown(row)}")
    table = [[name, *(f"{row[k]:.2f}" for k in KEYS)] for name, row in rows.items()]
    means = [f"{sum(row[k] for row in rows.values()) / len(rows):.2f}" for k in KEYS]
    lines = timing.rows(["class/seed", *KEYS], [*table, ["mean", *means]])
    plain = json.loads(artifacts.dumps({"oracle": given.oracle, "cells": rows}))  # no arrays
    timing.publish(plain, lines, given.json)


def shown(row: dict) -> str:
    """Format the figures of a cell in one line."""
    return " ".join(f"{key} {row[key]:.2f}" for key in KEYS)


if __name__ == "__main__":
    main()
