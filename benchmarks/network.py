"""Time the network against PyTorch's: forward pass, training step and DDIM steps, in three sizes.

    python benchmarks/network.py [--sizes=small,medium,cifar10] [--compile] [--dtype=bfloat16]
                                 [--batch=N] [--images=N] [--repeats=7] [--json=FILE]

Our side runs what the stages run: jitted `training.make_step` and `samplers.integrate`, with the
flags that `vdu` sets. The other side runs diffusers' `UNet2DModel` with the same settings and Adam:
eager and, with --compile, through torch.compile. On a GPU it uses channels_last, TF32 products,
cuDNN's autotuner and autocast for bfloat16. Each side runs in its own process, with one thread per
core; the sides take turns. They have the same batches, no dropout and no moving average.

--batch (forward pass and training step) and --images (drawn at once by DDIM) apply to every size.
Needs the extra torch. Takes 20 minutes on 2 cores.
"""

import argparse
import os
import statistics
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import timing

from vdu_jax import cli

PIXELS, CHANNELS = 32, 3
DDIM_STEPS = 5
TIMED = ("forward", "training step", "DDIM")


class Size(NamedTuple):
    """A network and its batches.

    Attributes:
      batch: images of a forward pass and of a training step.
      settings: settings of `config.model` that differ from the default.
      images: images that DDIM draws at once.
    """

    batch: int
    settings: dict
    images: int = 64


TINY = {"block_out_channels": (8,), "layers_per_block": 1, "num_groups": 4, "attention_levels": ()}
SIZES = {
    "small": Size(64, {"block_out_channels": (32, 64, 64), "layers_per_block": 1}),
    "medium": Size(32, {"block_out_channels": (64, 128, 128)}),
    "cifar10": Size(8, {"block_out_channels": (128, 256, 256, 256)}),
    "tiny": Size(2, TINY, images=2),  # for trying out a script
}


def settings_of(size: Size, dtype: str) -> dict:
    """Return the settings of the network of a size."""
    from vdu_jax import config as vdu_config

    settings = vdu_config.default().model.to_dict()
    del settings["name"]
    return settings | {"attention_levels": (1,), "num_groups": 32, "dtype": dtype} | size.settings


def ours(size: Size, dtype: str) -> tuple[dict, dict]:
    """Return name -> timed call of this package, and its parameters and operations.

    "product" multiplies two square matrices, which shows the rate that the device can reach.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from vdu_jax import objectives
    from vdu_jax.diffusion import samplers
    from vdu_jax.diffusion.parameterization import epsilon
    from vdu_jax.diffusion.schedule import make_schedule
    from vdu_jax.models import network, unet
    from vdu_jax.runtime import operations
    from vdu_jax.tasks import initialise

    net = unet.from_settings(settings_of(size, dtype), CHANNELS)
    shape = (PIXELS, PIXELS, CHANNELS)
    params = initialise(lambda key: network.init_params(net, key, shape), jax.random.key(0))
    score_fn, schedule = network.make_score_fn(net), make_schedule()
    images = jax.random.uniform(jax.random.key(1), (size.batch, *shape), minval=-1, maxval=1)
    times = jnp.arange(size.batch)
    forward = jax.jit(score_fn)
    plan = samplers.make_plan(schedule, "ddim", DDIM_STEPS)
    start = jax.random.normal(jax.random.key(3), (size.images, *shape))
    sample = jax.jit(lambda params, x: samplers.integrate(score_fn, params, plan, x))
    batch = {"retain": {"image": images}}
    objective = objectives.ddpm(score_fn, epsilon(schedule))
    training = timing.Step(objective, params, optax.adam(1e-4), batch)
    side = 512 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(4), (side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.dot)
    calls = {
        "forward": lambda: timing.done(forward(params, images, times)),
        "training step": training,
        "DDIM": lambda: timing.done(sample(params, start)),
        "product": lambda: timing.done(product(matrix, matrix)),
        "memory": timing.device_peak,
    }
    one = operations.count(forward, params, images, times) / size.batch
    flops = {
        "forward": one * size.batch,
        "training step": training.flops,
        "DDIM": one * size.images * DDIM_STEPS,
        "product": 2.0 * side**3,
    }
    count = sum(x.size for x in jax.tree.leaves(params))
    return calls, {"parameters": count, "flops": flops}


def theirs(size: Size, dtype: str, compiled: bool) -> tuple[dict, dict]:
    """Return name -> timed call of PyTorch, and its parameters."""
    import diffusers
    import torch

    from vdu_jax.interop import unet2d

    torch.set_num_threads(os.cpu_count())
    # XLA uses TF32 for float32 products and the fastest cuDNN algorithm by default.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    config = unet2d.write_config(settings_of(size, dtype), (PIXELS, PIXELS, CHANNELS))
    config.pop("_class_name")
    memory = torch.channels_last if gpu else torch.contiguous_format
    net = diffusers.UNet2DModel(**config).to(device, memory_format=memory)
    run = torch.compile(net) if compiled else net
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    scheduler = diffusers.DDIMScheduler(1000, clip_sample=True, timestep_spacing="trailing")
    scheduler.set_timesteps(DDIM_STEPS)
    images = torch.rand((size.batch, CHANNELS, PIXELS, PIXELS), device=device) * 2 - 1
    images = images.contiguous(memory_format=memory)
    times = torch.arange(size.batch, device=device)
    start = torch.randn((size.images, CHANNELS, PIXELS, PIXELS), device=device)
    low = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def done():
        if gpu:
            torch.cuda.synchronize()

    def forward():
        with torch.inference_mode(), low:
            run(images, times)
        done()

    def train():
        noise, t = torch.randn_like(images), torch.randint(0, 1000, (size.batch,), device=device)
        xt = scheduler.add_noise(images, noise, t)
        with low:
            loss = ((run(xt, t).sample - noise) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done()

    def sample():
        with torch.inference_mode(), low:
            x = start
            for t in scheduler.timesteps:
                x = scheduler.step(run(x, t).sample, t, x).prev_sample
        done()

    def memory():
        return torch.cuda.max_memory_allocated() if gpu else 0

    calls = {"forward": forward, "training step": train, "DDIM": sample, "memory": memory}
    return calls, {"parameters": sum(p.numel() for p in net.parameters())}


def serve(side: str, size: Size, dtype: str) -> None:
    """Run as the process of a `timing.Side`."""
    if side == "ours":
        cli.set_up_jax()  # as `vdu` does; PyTorch runs with its own defaults
        calls, about = ours(size, dtype)
    else:
        calls, about = theirs(size, dtype, compiled=side == "torch.compile")
    timing.serve(calls, about)


def chosen(name: str, batch: int | None, images: int | None) -> Size:
    """Return a size of `SIZES`, with other numbers of images where they are given."""
    size = SIZES[name]
    return size._replace(batch=batch or size.batch, images=images or size.images)


def sides(
    name: str, size: Size, dtype: str, names: list[str], env: Mapping[str, str] | None = None
) -> dict[str, timing.Side]:
    """Start a process for each side, with the variables `env` added to its environment."""
    flags = (f"--sizes={name}", f"--dtype={dtype}")
    flags += (f"--batch={size.batch}", f"--images={size.images}")
    made = {
        side: timing.Side(f"--serve={side}", *flags, script=__file__, env=env) for side in names
    }
    (_,) = {side.said["parameters"] for side in made.values()}
    return made


def compile_together(made: dict[str, timing.Side], what: str) -> None:
    """Make the first call of every side at the same time, so that all compile in parallel."""
    for side in made.values():
        side.start(what)
    for side in made.values():
        side.wait()


def measure(made: dict[str, timing.Side], what: str, repeats: int) -> dict:
    """Time a call of each side, in turns; return the seconds and their medians."""
    together = {label: partial(side.call, what) for label, side in made.items()}
    times = timing.in_turns(together, repeats)
    return {"seconds": times, "median": timing.medians(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="small,medium,cifar10", help="separated by commas")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, help="images of a forward pass and of a training step")
    parser.add_argument("--images", type=int, help="images that DDIM draws at once")
    parser.add_argument("--repeats", type=int, default=7, help="times each call is timed")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, chosen(given.sizes, given.batch, given.images), given.dtype)

    names = ["ours", "PyTorch", *(["torch.compile"] if given.compile else [])]
    found, lines = {}, []
    for name in given.sizes.split(","):
        size = chosen(name, given.batch, given.images)
        timing.say(f"{name}: compiling")
        made = sides(name, size, given.dtype, names)
        for what in TIMED:  # before any timing, so that compiling cannot disturb it
            compile_together(made, what)
        about = made["ours"].said
        of_size = {"parameters": about["parameters"], "batch": size.batch, "images": size.images}
        for what in TIMED:
            timing.say(f"{name}: {what}")
            of_size[what] = measure(made, what, given.repeats)
        for side in made.values():
            side.close()
        found[name] = of_size
    other = names[1:]
    ratios = {}
    for what in TIMED:
        speeds = {side: [] for side in other}
        for name, of_size in found.items():
            median = of_size[what]["median"]
            for side in other:
                speeds[side].append(median[side] / median["ours"])
            last = [speeds[side][-1] for side in other]
            lines.append([what, name, of_size["batch"], *median.values(), *last])
        ratios[what] = {side: statistics.geometric_mean(speeds[side]) for side in other}
    header = ["what", "network", "batch", *(f"{side}, s" for side in names)]
    table = timing.rows([*header, *(f"times {side}'s speed" for side in other)], lines)
    figures = {"dtype": given.dtype, "ddim_steps": DDIM_STEPS}
    timing.publish(figures | {"sizes": found, "geometric_mean": ratios}, table, given.json)


if __name__ == "__main__":
    main()
