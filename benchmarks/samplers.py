"""Compare the u-FID and time of samplers on one trained model, with the same seeds and image count.

    python benchmarks/samplers.py --config=configs/digits.py --workdir=runs/digits
        [--samplers=ddpm:1000,ddim:50,dpm++2m:20] [--images=2000] [--seeds=3] [--json=FILE]
        [--config.KEY=VALUE …]

A sampler is NAME:STEPS, with even steps, or NAME:T0+T1+…, with these time steps.
`workdir` must contain the trained model of the config (`vdu train`). The classifier is trained if
it does not exist. u-FID is computed as in `vdu evaluate` for the original model: samples of
retained classes against D_r, in the features of the config, averaged over the seeds. u-FID falls as
the number of images grows, so only figures of one table can be compared. The column "images" counts
the images of retained classes. The column "bias" is the expected u-FID of as many real images
(`frechet.expected_bias`). 1000 steps for 2000 digits take minutes per seed on 2 cores.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import timing

from vdu_jax import cli


def measure_with(config, workdir: Path):
    """Return a function: uint8 images -> u-FID, its images and its bias; see `counted_distance`."""
    import numpy as np

    from vdu_jax.metrics.quality import counted_distance
    from vdu_jax.tasks import classifier, evaluators, features

    classify, _, reference = classifier.ensure(config, workdir)
    predict, reference = features.ensure(config, classify, reference)
    retained = evaluators.retained(config, reference["features"], reference["labels"])

    def u_fid(images) -> dict:
        of_class = classify(images).probabilities.argmax(-1)
        kept = images[~np.isin(of_class, tuple(config.forget.classes))]
        return counted_distance(predict(kept).features, retained)

    return u_fid


def draw(config, workdir: Path, name: str, steps: str, images: int, seeds: int):
    """Yield the images of each seed and the seconds taken; the first seed includes compiling."""
    from vdu_jax import tasks
    from vdu_jax.tasks.base import Request

    config = config.copy_and_resolve_references()
    times = tuple(map(int, steps.split("+"))) if "+" in steps else ()
    config.sampler.update(name=name, steps=len(times) or int(steps), timesteps=times)
    task = tasks.of(config, workdir)
    params, request = task.original_params, Request(images, task.condition.asked(images), {})
    for seed in range(seeds):
        started = time.perf_counter()
        found = task.draw(params, request, seed, f"{name} {steps} seed {seed}")
        yield found, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--workdir", required=True, type=Path, help="of the trained model")
    samplers = "ddpm:1000,ddim:50,dpm++2m:20"
    parser.add_argument("--samplers", default=samplers, help="separated by commas")
    parser.add_argument("--images", type=int, default=2000, help="images of each seed")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--json", help="also write the figures to this file")
    given, more = parser.parse_known_args()
    config = timing.read_config(given.config, *more)
    u_fid = measure_with(config, given.workdir)
    found, lines = {}, []
    for name, steps in (pair.split(":") for pair in given.samplers.split(",")):
        measured, times = [], []
        drawn = draw(config, given.workdir, name, steps, given.images, given.seeds)
        for images, seconds in drawn:
            measured.append(u_fid(images))
            times.append(seconds)
        scores, counts, biases = (
            [one[key] for one in measured] for key in ("u_fid", "images", "u_fid_bias")
        )
        found[f"{name}:{steps}"] = {
            "u_fid": scores, "images": counts, "u_fid_bias": biases, "seconds": times,
        }  # fmt: skip
        mean, first = statistics.mean(scores), statistics.mean(next(iter(found.values()))["u_fid"])
        span = f"{min(scores):.3g} to {max(scores):.3g}"
        of = f"{min(counts)} to {max(counts)}", statistics.mean(biases)
        lines.append([name, steps, mean, span, *of, mean / first, statistics.median(times)])
    header = ["sampler", "steps", "u-FID, mean", "of the seeds", "images", "bias"]
    header += ["of the first's", "s a seed"]
    figures = {"config": given.config, "images": given.images, "samplers": found}
    timing.publish(figures, timing.rows(header, lines), given.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cli.set_up_jax()  # as `vdu` does
    main()
