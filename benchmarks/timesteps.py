"""Choose the time steps of a sampler for a trained model, so that fewer evaluations do.

    python benchmarks/timesteps.py --config=configs/benchmark/digits_methods.py
        --workdir=runs/benchmark/digits/seed-0 [--steps=4,5,6] [--images=200] [--reference=100]
        [--evaluations=100] [--json=FILE] [--config.KEY=VALUE …]

`workdir` must contain the trained model of the config (`vdu train`). The times are those whose
samples are nearest to samples of --reference even steps from the same noise (`timesteps.search`);
the distance is the root mean square over pixels in [-1, 1]. Both are from the original model alone.
The table has the distance on noise that the search did not see, beside that of even steps. The
lines below it go into a config. A sampler with noise has no such distance, so `sampler.eta` must
be 0 and `sampler.name` not "ddpm".
"""

import argparse
import os
from pathlib import Path

import timing

from vdu_jax import cli

SEED = 5


def distances(task, images: int, reference: int):
    """Return `(timesteps, part) -> distance` for part 0, of the search, and 1, of the test."""
    import jax
    import numpy as np

    from vdu_jax.diffusion import samplers
    from vdu_jax.tasks import base

    config, predicts = task.config, task.parameterization
    predict = task.condition.drawing(predicts.noise_predictor(task.score_fn))
    settings = base.plan_settings(config.sampler)
    params, asked = task.original_params, task.condition.asked(2 * images)
    keys = jax.random.split(jax.random.key(SEED), 2 * images)

    @jax.jit
    def draw(params, plan, keys, *asked):
        cond = task.condition.drawing_cond(*asked)
        clip, shape = config.sampler.clip_x0, task.image_shape
        return samplers.sample(predict, params, plan, keys, shape, clip_x0=clip, cond=cond)

    def drawn(part: int, **times):
        plan = samplers.make_plan(predicts.schedule, **settings | times)
        rows = slice(part * images, (part + 1) * images)
        return np.asarray(draw(params, plan, keys[rows], *(row[rows] for row in asked)))

    many = [drawn(part, num_steps=reference, timesteps=()) for part in (0, 1)]

    def distance(times, part: int = 0) -> float:
        found = drawn(part, num_steps=len(times), timesteps=tuple(map(int, times)))
        return float(np.sqrt(np.square(found - many[part]).mean()))

    return distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="config file of the run")
    parser.add_argument("--workdir", required=True, type=Path, help="of the run")
    parser.add_argument("--steps", default="4,5,6", help="numbers of steps, separated by commas")
    parser.add_argument("--images", type=int, default=200, help="images of each distance")
    parser.add_argument("--reference", type=int, default=100, help="steps of the samples to match")
    parser.add_argument("--evaluations", type=int, default=100, help="distances of a search")
    parser.add_argument("--json", help="also write the figures to this file")
    given, more = parser.parse_known_args()

    from vdu_jax import config as vdu_config
    from vdu_jax import tasks
    from vdu_jax.diffusion import samplers, timesteps

    config, rows, lines = timing.read_config(given.config, *more), [], []
    section = config.sampler
    if section.name == "ddpm" or section.eta:
        parser.error(
            f"sampler.name = {section.name!r}, sampler.eta = {section.eta}: a sampler with noise "
            "has no distance; use --config.sampler.name=dpm++2m --config.sampler.eta=0.0"
        )
    if vdu_config.is_text_to_image(config):
        parser.error("a text-to-image model: its times cannot be searched here")
    task, total = tasks.of(config, given.workdir), config.diffusion.num_steps
    distance = distances(task, given.images, given.reference)
    for steps in map(int, given.steps.split(",")):
        even = samplers.time_grid(total, steps)
        start = timesteps.power_grid(total, steps)
        best, _ = timesteps.search(distance, total, steps, given.evaluations)
        found = [distance(grid, 1) for grid in (even, start, best)]
        rows.append([steps, *found])
        line = f"config.sampler.update(steps={steps}, timesteps={tuple(best.tolist())})"
        lines.append(line)
        timing.say(f"{steps} steps: {found[0]:.4f} -> {found[2]:.4f}")
    table = timing.rows(["steps", "even", f"power {timesteps.POWER}", "searched"], rows)
    results = {"rows": rows, "lines": lines, "images": given.images, "reference": given.reference}
    timing.publish(results, "\n".join([table, "", *lines]), given.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cli.set_up_jax()  # as `vdu` does
    main()
