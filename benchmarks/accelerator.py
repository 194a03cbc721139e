"""Run all accelerator benchmarks within a few minutes.

    python benchmarks/accelerator.py --out=DIR [--minutes=9] [--parts=check,network,…]
                                     [--images=DIR] [--rehearse]

The parts run in this order, each in its own process with a share of the minutes. Time that a part
does not use goes to the parts after it.

    check      `vdu check` in float32, TF32 and bfloat16, at the same time
    network    CIFAR-10's network against PyTorch's (needs torch and diffusers)
    steps      a step of each method against a training step; accumulate, remat
    posterior  mean and variance over 20 checkpoints, against only reading them
    train      CIFAR-10's network on --images (train/<class>/…, test/<class>/…) for the time that is
               left, then unlearn class 0, draw 5 000 images of each model and evaluate them
    generate   Stable Diffusion 1.5's networks with random weights: images, and a VDU step

DIR/<part>.json is rewritten after every figure, so an interrupted run keeps its figures.
DIR/accelerator.md contains all of them as tables, DIR/grids.png the images. --rehearse runs the
same code at sizes that take seconds. For a machine without this project's dependencies see
benchmarks/accelerator.sh.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import network
import posterior as posterior_benchmark
import steps as steps_benchmark
import timing
from ml_collections import ConfigDict

from vdu_jax import cli

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10.py"
PRECISIONS = ("float32", "tf32", "bfloat16")
METHODS = ("vdu", "vdu_extended", "demixing")
LOG_LINES = 40


class Sizes(NamedTuple):
    """The sizes of everything that is measured.

    Attributes:
      components: components of `vdu check`; () for all.
      network: key of `network.SIZES`.
      batch: images of a forward pass and of a training step of part network.
      images: images that DDIM draws at once in part network.
      repeats: times each call of part network is timed.
      data: data set whose image size the networks of parts steps and posterior have.
      model: settings of `config.model` that differ from configs/cifar10.py; all of them if they
        name another architecture.
      steps_batch: images of an update step, of all kinds together.
      steps_repeats: times each update step is timed.
      checkpoints: checkpoints of the posterior.
      pixels: height and width of the images of part train, in pixels.
      train_batch: batch size of training.
      train_steps: steps of training; None for as many as the time allows.
      figures: images on which each model is evaluated.
      text: sections of a text-to-image config's `model`.
      draws: numbers of images drawn at once in part generate.
      text_steps: sampling steps of part generate.
      text_batch: latents in the VDU step of part generate.
    """

    components: tuple[str, ...]
    network: str
    batch: int
    images: int
    repeats: int
    data: str
    model: dict
    steps_batch: int
    steps_repeats: int
    checkpoints: int
    pixels: int
    train_batch: int
    train_steps: int | None
    figures: int
    text: dict
    draws: tuple[int, ...]
    text_steps: int
    text_batch: int


def text_model(
    pixels: int, unet: tuple, vae: tuple, heads: int, width: int, layers: int, groups: int
) -> dict:
    """Return settings of networks built like Stable Diffusion 1's, with its config.json keys.

    Args:
      pixels: height and width of the images.
      unet: channels of the U-Net at each resolution.
      vae: channels of the autoencoder at each resolution.
      heads: attention heads of the U-Net.
      width: dimension of the text embeddings.
      layers: layers of the text encoder.
      groups: groups of each group norm.
    """
    cross, blocks = len(unet) - 1, max(1, layers // 6)
    return {
        "dtype": "bfloat16",
        "unet": {
            "sample_size": pixels // 2 ** (len(vae) - 1),
            "block_out_channels": unet,
            "down_block_types": ("CrossAttnDownBlock2D",) * cross + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * cross,
            "layers_per_block": blocks,
            "attention_head_dim": heads,  # diffusers' old key for the number of heads
            "cross_attention_dim": width,
            "norm_num_groups": groups,
        },
        "vae": {
            "block_out_channels": vae,
            "down_block_types": ("DownEncoderBlock2D",) * len(vae),
            "up_block_types": ("UpDecoderBlock2D",) * len(vae),
            "layers_per_block": blocks,
            "norm_num_groups": groups,
            "sample_size": pixels,
        },
        "text_encoder": {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, width // 64),
            "max_position_embeddings": 77,
        },
    }


WHOLE = Sizes(
    components=(),
    network="cifar10",
    batch=256,
    images=256,
    repeats=15,
    data="cifar10",
    model={},
    steps_batch=256,
    steps_repeats=15,
    checkpoints=20,
    pixels=32,
    train_batch=256,
    train_steps=None,
    figures=5000,
    text=text_model(512, (320, 640, 1280, 1280), (128, 256, 512, 512), 8, 768, 12, 32),
    draws=(1, 4),
    text_steps=20,
    text_batch=4,
)
REHEARSAL = Sizes(
    components=("posterior/mean", "frechet"),
    network="tiny",
    batch=2,
    images=2,
    repeats=1,
    data="digits",
    model={"name": "dit", "patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2},
    steps_batch=4,
    steps_repeats=1,
    checkpoints=3,
    pixels=8,
    train_batch=16,
    train_steps=12,
    figures=60,
    text=text_model(16, (8, 8), (8, 8), 2, 16, 1, 4),
    draws=(1,),
    text_steps=2,
    text_batch=1,
)


class Visit:
    """The inputs of a part, and its figures.

    Attributes:
      sizes: `WHOLE` or `REHEARSAL`.
      images: folder of images, or None.
      out: folder for the results.
      work: scratch folder.
      figures: figures of the part so far.
    """

    def __init__(self, part: str, given: argparse.Namespace):
        self.sizes = REHEARSAL if given.rehearse else WHOLE
        self.images = Path(given.images) if given.images else None
        self.out, self.work = Path(given.out), Path(given.work)
        self.figures: dict[str, Any] = {}
        self._path = self.out / f"{part}.json"
        self._end = time.monotonic() + given.limit
        self._lock = threading.Lock()

    def left(self) -> float:
        """Return the seconds until the part reaches its time limit."""
        return self._end - time.monotonic()

    def put(self, **figures: Any) -> None:
        """Add figures and rewrite the file of the part."""
        with self._lock:
            self.figures |= figures
            write(self._path, self.figures)

    def add(self, name: str, row: dict) -> None:
        """Append a row to the list of figures `name`."""
        self.put(**{name: [*self.figures.get(name, []), row]})


def write(path: Path, figures: dict) -> None:
    """Write figures as JSON, atomically."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(figures, indent=1, default=float) + "\n")
    partial.replace(path)


# --- check


def check(visit: Visit) -> None:
    """Check all components in each precision, in parallel processes, as most time is compiling."""

    def one(precision: str) -> None:
        command = [sys.executable, __file__, f"--precision={precision}"]
        command += [f"--components={','.join(visit.sizes.components)}"]
        env = os.environ | untuned()  # dozens of programs that run once each
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
            for line in process.stdout:
                visit.add("results", json.loads(line))
        visit.add("ended", {"precision": precision, "code": process.returncode})

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, PRECISIONS))


def check_precision(precision: str, names: list[str]) -> None:
    """Check these components, or all, and print a line of JSON for each."""
    from vdu_jax.parity import check
    from vdu_jax.parity.components import COMPONENTS

    for component in COMPONENTS:
        if not names or component.name in names:
            found = check.against_golden(component, precision)
            row = found._asdict() | {"verdict": found.verdict}
            print(json.dumps(row, default=float), flush=True)


def check_tables(figures: dict) -> str:
    """Return the figures of `check` in Markdown."""
    results = figures.get("results", [])
    lines = []
    for precision in PRECISIONS:
        rows = [row for row in results if row["precision"] == precision]
        if rows:
            worst = max(rows, key=lambda row: row["error"] / row["tolerance"])
            failed = [row["component"] for row in rows if row["verdict"] != "ok"]
            share = worst["error"] / worst["tolerance"]
            beside = f"{worst['component']} ({share:.2g} of its tolerance)"
            good = f"{len(rows) - len(failed)} of {len(rows)}"
            lines.append([precision, good, beside, ", ".join(failed) or "none"])
    return timing.rows(["precision", "within tolerance", "worst", "out of tolerance"], lines)


# --- network


def network_part(visit: Visit) -> None:
    """Time the calls of `network` against PyTorch's, eager first because it needs no compiling."""
    sizes = visit.sizes
    size = network.SIZES[sizes.network]._replace(batch=sizes.batch, images=sizes.images)
    pairs = [("bfloat16", "PyTorch", False), ("bfloat16", "PyTorch", True)]
    pairs += [("float32", "PyTorch", True)]
    pairs += [(dtype, "torch.compile", True) for dtype in ("bfloat16", "float32")]
    if not all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
        visit.put(without="PyTorch or diffusers is not installed: ours alone")
        pairs = [(dtype, None, tuned) for dtype, _, tuned in pairs[:3]]
    for dtype, other, tuned in pairs[: 2 if sizes is REHEARSAL else None]:
        names = ["ours", *filter(None, [other])]
        made = network.sides(sizes.network, size, dtype, names, None if tuned else untuned())
        about = made["ours"].said
        visit.put(parameters=about["parameters"])
        product = network.measure({"ours": made["ours"]}, "product", sizes.repeats)
        rate = about["flops"]["product"] / product["median"]["ours"]
        pair = {"dtype": dtype, "beside": other, "tuned": tuned}
        visit.add("products", pair | {"flops_per_second": rate})
        for what in network.TIMED:
            started = time.monotonic()
            network.compile_together(made, what)
            compiled = time.monotonic() - started
            found = network.measure(made, what, sizes.repeats)
            count = sizes.images if what == "DDIM" else sizes.batch
            for side, seconds in found["median"].items():
                speed = about["flops"][what] / seconds
                row = pair | {"what": what, "side": side, "images": count, "first": compiled}
                row |= {"seconds": seconds, "all_seconds": found["seconds"][side]}
                row |= {"images_per_second": count / seconds, "flops_per_second": speed}
                visit.add("calls", row | {"share_of_product": speed / rate})
        for name, side in made.items():
            visit.add("memory", pair | {"side": name, "bytes": side.call("memory")})
            side.close()


def untuned() -> dict[str, str]:
    """Return environment variables that turn off XLA's autotuning, so that it compiles faster."""
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()}


def network_tables(figures: dict) -> str:
    """Return the figures of `network_part` in Markdown."""
    calls = figures.get("calls", [])

    def key(row: dict) -> tuple:
        return row["dtype"], row["beside"], row["tuned"], row["what"]

    ours = {key(r): r["seconds"] for r in calls if r["side"] == "ours"}
    lines = []
    for row in calls:
        speed = [row["images_per_second"], row["flops_per_second"] / 1e12, row["share_of_product"]]
        name = row["side"] if row["tuned"] or row["side"] != "ours" else "ours, not tuned"
        place = [row["dtype"], row["what"], name, row["images"], row["seconds"]]
        lines.append([*place, *speed, row["seconds"] / ours[key(row)], row["first"]])
    header = ["type", "what", "side", "images", "s", "images/s", "TFLOP/s", "of the product's rate"]
    header += ["times our time", "first call of both, s"]
    memory = [[r["dtype"], r["side"], r["bytes"] / 2**30] for r in figures.get("memory", [])]
    rates = ", ".join(
        f"{r['flops_per_second'] / 1e12:.3g} TFLOP/s ({r['dtype']})"
        for r in figures.get("products", [])
    )
    return "\n\n".join(
        [
            f"XLA counts the operations of our program. A large matrix product reaches {rates}"
            "; float32 products are TF32 where the chip supports it."
            + (f" {figures['without']}." if "without" in figures else ""),
            timing.rows(header, lines),
            timing.rows(["type", "side", "peak memory of all three calls, GiB"], memory),
        ]
    )


# --- steps


def steps(visit: Visit) -> None:
    """Time update steps in turns, after compiling them in parallel."""
    from vdu_jax import config as vdu_config

    sizes = visit.sizes

    def made(method: str | None, **parallel: Any) -> timing.Step:
        config = steps_benchmark.read(str(CONFIG), list(METHODS))
        config.data.name = sizes.data
        set_model(config, sizes.model)
        config.parallel.update(parallel)
        kinds = len(vdu_config.tiny_objective(config.methods[method]).sees) if method else 1
        return steps_benchmark.step_of(config, method, sizes.steps_batch // kinds)

    base = "DDPM training"
    groups = [
        {base: made(None), "vdu": made("vdu")},
        {method: made(method) for method in METHODS[1:]},
        {f"{base}, accumulate = 4": made(None, accumulate=4)}
        | {f"{base}, remat": made(None, remat=True), "vdu, remat": made("vdu", remat=True)},
    ]
    visit.put(batch=sizes.steps_batch)
    # Each group is timed with the training step, so its ratios exist even if a later group is cut.
    for calls in groups:
        compile_together(calls)
        together = {base: groups[0][base]} | calls
        times = timing.in_turns(together, sizes.steps_repeats)
        medians = timing.medians(times)
        for name, step in calls.items():
            row = {"step": name, "seconds": medians[name], "all_seconds": times[name]}
            row |= {"times_training": medians[name] / medians[base]}
            visit.add("steps", row | {"flops": step.flops, "memory": step.memory})


def set_model(config: ConfigDict, settings: dict) -> None:
    """Set `config.model`, in bfloat16 unless the settings have a dtype."""
    from vdu_jax import config as vdu_config

    if "name" in settings:
        config.model = vdu_config.model(**settings)
    config.model.update({"dtype": "bfloat16", **settings})


def compile_together(calls: dict[str, timing.Step]) -> None:
    """Compile all steps in parallel threads, because XLA releases the GIL."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(timing.Step.compile, calls.values()))


def steps_tables(figures: dict) -> str:
    """Return the figures of `steps` in Markdown."""
    lines = [
        [r["step"], r["seconds"], r["times_training"], r["flops"] / r["seconds"] / 1e12]
        + [r["memory"] / 2**30]
        for r in figures.get("steps", [])
    ]
    header = ["step", "s", "times a training step", "TFLOP/s", "memory by XLA's account, GiB"]
    about = (
        f"{figures.get('batch')} images in total, of all kinds that a method uses; bfloat16, Adam."
    )
    return f"{about}\n\n{timing.rows(header, lines)}"


# --- posterior


def posterior(visit: Visit) -> None:
    """Time the posterior and the reading of the same checkpoints, in turns."""
    count = visit.sizes.checkpoints
    with tempfile.TemporaryDirectory(dir=visit.work) as folder:
        config, checkpoints = posterior_benchmark.set_up(Path(folder), count)
        set_model(config, visit.sizes.model)
        posterior_benchmark.write(config, checkpoints)
        calls = {
            "reading": lambda: posterior_benchmark.read(config, checkpoints),
            "posterior": lambda: posterior_benchmark.reduce(config, checkpoints),
        }
        times = timing.in_turns(calls, min(3, visit.sizes.repeats))
    best = {name: min(seconds) for name, seconds in times.items()}
    size = posterior_benchmark.size_of(config)
    speed = best["reading"] / best["posterior"]
    visit.put(checkpoints=count, bytes=size, seconds=times, best=best, speed=speed)
    visit.put(memory=timing.device_peak() / size)


def posterior_tables(figures: dict) -> str:
    """Return the figures of `posterior` in Markdown."""
    if "best" not in figures:
        return ""
    lines = [[name, value] for name, value in figures["best"].items()]
    about = (
        f"{figures['checkpoints']} checkpoints of {figures['bytes'] / 2**20:.0f} MiB each, best of "
        f"{len(figures['seconds']['reading'])}: {figures['speed']:.2f} times the speed of only "
        f"reading; at most {figures['memory']:.3g} sets of parameters on the device."
    )
    return f"{about}\n\n{timing.rows(['what', 's'], lines)}"


# --- train


def train(visit: Visit) -> None:
    """Train, unlearn and evaluate with the stages of `vdu`."""
    from vdu_jax.runtime import artifacts

    started = time.monotonic()
    config, workdir = training_config(visit), visit.work / "train"
    stage(config, workdir, "data")
    visit.put(data_seconds=time.monotonic() - started)
    plan_training(visit, config)
    for name in ("train", "posterior", "replay"):
        stage(config, workdir, name, visit)
    flops = artifacts.upstream(workdir, "train")["summary"]["flops"]
    seconds = artifacts.timings(workdir / "train")["fit"]
    visit.put(steps=config.train.steps, flops=flops, fit_seconds=seconds)
    methods = config.methods.to_dict()
    # Each method is evaluated before the next begins, so its figures exist if the time runs out.
    for last in range(1, len(METHODS) + 1):
        config.methods = {name: methods[name] for name in METHODS[:last]}
        for name in ("unlearn", "sample", "evaluate"):
            stage(config, workdir, name, visit)
        visit.put(metrics=artifacts.read_json(workdir / "evaluate" / "metrics.json"))
        draw_grids(visit, config, workdir)


def training_config(visit: Visit):
    """Return configs/cifar10.py in bfloat16, reduced to a few minutes."""
    sizes = visit.sizes
    config = timing.read_config(CONFIG)
    images = visit.images or generated_images(visit.work / "images", sizes.pixels)
    config.data.update({"name": "image_folder", "manual_dir": str(images), "channels": 3})
    config.data.image_size = sizes.pixels
    config.data.dir = str(visit.work / "data")
    set_model(config, sizes.model)
    config.train.update({"batch_size": sizes.train_batch, "ema_decay": 0.995, "warmup_steps": 100})
    config.sampler.update({"name": "dpm++2m", "steps": 20, "eta": 1.0, "batch_size": 256})
    config.replay.images, config.curve.images = 2000, 1000
    config.evaluate.images = sizes.figures
    config.evaluate.reference_images = 5000
    config.classifier.update({"epochs": 15, "batch_size": 256, "min_accuracy": 0.0})
    config.methods = {}
    from vdu_jax import config as vdu_config

    shared = {"forget_batch": 256, "steps": 200, "snapshot_every": 100}
    both = shared | {"forget_batch": 128, "replay_batch": 128, "learning_rate": 5e-5}
    extended = both | {"gamma": 0.01, "function_weight": 10.0}
    config.methods.vdu = vdu_config.method("vdu", gamma=0.1, learning_rate=1e-5, **shared)
    config.methods.vdu_extended = vdu_config.method("vdu_extended", **extended)
    config.methods.demixing = vdu_config.method("demixing", decay="linear", **both)
    if sizes is REHEARSAL:
        config.forget.classes = (0, 1)  # of three classes
        config.train.update({"warmup_steps": 2, "ema_decay": 0.5, "learning_rate": 1e-3})
        config.sampler.update({"steps": 2, "batch_size": 60})
        config.replay.images, config.curve.images = 120, 50
        config.classifier.update({"epochs": 1, "batch_size": 16, "widths": (8, 16)})
        for name in METHODS:
            config.methods[name].update({"steps": 2, "snapshot_every": 1})
            config.methods[name].update({"forget_batch": 8, "replay_batch": 8})
    return config


def generated_images(folder: Path, pixels: int) -> Path:
    """Write an image folder for the rehearsal: noisy images in three colours, one per class."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for label, colour in enumerate(np.eye(3) * 160 + 40):
        for split, count in (("train", 60), ("test", 20)):
            (folder / split / "rgb"[label]).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                noisy = np.clip(draw.normal(colour, 40, (pixels, pixels, 3)), 0, 255)
                path = folder / split / "rgb"[label] / f"{index}.png"
                Image.fromarray(noisy.astype(np.uint8)).save(path)
    return folder


def plan_training(visit: Visit, config) -> None:
    """Set the number of training steps to fill the time that the later stages leave.

    The times of a training step and of a batch of samples are measured here.
    """
    import jax

    from vdu_jax import tasks
    from vdu_jax.tasks.base import Request

    count = visit.sizes.train_steps
    if count is None:
        task = tasks.planned(config)
        step = steps_benchmark.step_of(config, None, config.train.batch_size)
        params, drawn = task.init_params(), config.sampler.batch_size
        request = Request(drawn, task.condition.asked(drawn), {})
        calls = {"step": step, "draw": lambda: task.draw(params, request, 0, "probe")}
        seconds = timing.medians(timing.in_turns(calls, 3))
        del step, params
        jax.clear_caches()
        models = 1 + len(config.methods)
        curve = sum(m.steps // m.snapshot_every for m in config.methods.values())
        images = models * config.evaluate.images + curve * config.curve.images
        images += config.replay.images
        # An update of a method costs more than a training step.
        updates = 4 * sum(m.steps for m in config.methods.values())
        later = seconds["draw"] * images / drawn + seconds["step"] * updates / 2
        # Compiling, the classifier and work on the host take about a minute.
        spare = visit.left() - later - 60
        count = max(200, int(spare / seconds["step"]))
        visit.put(probe=seconds | {"seconds_later": later, "seconds_for_training": spare})
    config.train.steps = count
    config.train.snapshots = 5
    config.train.snapshot_every = max(1, count // 20)
    config.train.save_state_every = count
    config.train.log_every = max(1, count // 40)


def stage(config, workdir: Path, name: str, visit: Visit | None = None) -> None:
    """Run a stage and, given a visit, add its seconds to the figures."""
    from vdu_jax import tasks

    started = time.monotonic()
    if name == "data":
        tasks.of(config).open_split("train")
    else:
        importlib.import_module(f"vdu_jax.stages.{name}").run(config, workdir, False)
    if visit:
        visit.add("stages", {"stage": name, "seconds": time.monotonic() - started})


def draw_grids(visit: Visit, config, workdir: Path) -> None:
    """Save one picture with the first images of each model in a row, from the same noise."""
    import numpy as np

    from vdu_jax import tasks
    from vdu_jax.runtime import pictures
    from vdu_jax.stages import sample

    models = sample.models(config)
    rows = [tasks.of(config, workdir).shown(sample.load(workdir, model), 20) for model in models]
    pictures.save(visit.out / "grids.png", pictures.grid(np.concatenate(rows), columns=20))
    visit.put(grid_rows=list(models))


def train_tables(figures: dict) -> str:
    """Return the figures of `train` in Markdown."""
    parts = []
    if figures.get("fit_seconds"):
        rate = figures["flops"] / figures["fit_seconds"] / 1e12
        parts.append(
            f"{figures['steps']} training steps in {figures['fit_seconds']:.0f} s, including "
            f"compiling and saving: {rate:.3g} TFLOP/s."
        )
    stages = [[r["stage"], r["seconds"]] for r in figures.get("stages", [])]
    parts.append(timing.rows(["stage", "s"], stages))
    if "metrics" in figures:
        accuracy = figures["metrics"]["classifier"]["accuracy"]
        names = ("pul", "u_fid", "confidence")
        models = figures["metrics"]["models"]
        lines = [[m, *(float(of.get(n, float("nan"))) for n in names)] for m, of in models.items()]
        parts.append(timing.rows(["model", "PUL, %", "u-FID", "confidence"], lines))
        parts.append(
            f"u-FID uses the features of the classifier, whose accuracy on held-out images is "
            f"{100 * accuracy:.1f} %. Images in --images may be JPEG-compressed."
        )
        parts.append(f"Rows of grids.png: {', '.join(figures.get('grid_rows', []))}.")
    return "\n\n".join(parts)


# --- generate


def generate(visit: Visit) -> None:
    """Time draws with each attention implementation, and a VDU step against its plan."""
    import jax
    import jax.numpy as jnp

    from vdu_jax import config as vdu_config
    from vdu_jax import tasks
    from vdu_jax.posterior import num_parameters
    from vdu_jax.tasks.text_to_image import networks

    sizes = visit.sizes
    config = vdu_config.default("stable_diffusion")
    config.model.update(sizes.text)
    model = networks.shapes(config)
    modules = {name: m.clone(dtype=jnp.bfloat16) for name, m in model.modules.items()}
    model = model._replace(modules=modules, scaling=0.18215)
    made = jax.jit(functools.partial(small_numbers, model.params))()
    text = jax.random.normal(jax.random.key(1), (1, *networks.text_shape(model)))
    params = {"unet": made["unet"], "vae": made["vae"], "negative": text}
    visit.put(parameters={name: num_parameters(tree) for name, tree in made.items()})
    attentions = ["xla"] + ["cudnn"] * (jax.default_backend() == "gpu")

    def compiled(attention: str, images: int) -> Callable | None:
        unet = modules["unet"].clone(attention=attention)
        of = model._replace(modules=modules | {"unet": unet})
        draw = networks.make_draw(of, sizes.text_steps, 7.5)
        keys = jax.random.split(jax.random.key(2), images)
        given = params, keys, jnp.repeat(text, images, axis=0)
        try:
            program = jax.jit(draw).lower(*given).compile()
        except Exception as error:  # cuDNN supports only some shapes on some chips
            visit.add("refused", {"attention": attention, "error": str(error)[:300]})
            return None
        return functools.partial(program, *given)

    for images in sizes.draws:
        with ThreadPoolExecutor() as pool:
            draws = list(pool.map(lambda name, images=images: compiled(name, images), attentions))
        calls = {
            name: lambda draw=draw: timing.done(draw())
            for name, draw in zip(attentions, draws, strict=True)
            if draw
        }
        times = timing.in_turns(calls, 3)
        for attention, seconds in timing.medians(times).items():
            row = {"attention": attention, "images": images, "all_seconds": times[attention]}
            visit.add("draws", row | {"seconds": seconds, "peak": timing.device_peak()})
    del draws, calls  # frees the device memory of their programs
    config.methods = {
        "vdu": vdu_config.method("vdu", "cross_attention", forget_batch=sizes.text_batch)
    }
    vdu_step(visit, tasks.planned(config), made["unet"])


def small_numbers(shapes):
    """Return parameters of these shapes, small enough that the images stay finite.

    They are values of a sine, because random generators for hundreds of arrays take minutes to
    compile.
    """
    import jax
    import jax.numpy as jnp

    def one(shape):
        place = jnp.arange(math.prod(shape.shape), dtype=jnp.float32).reshape(shape.shape)
        return (0.02 * jnp.sin(12.9898 * place)).astype(shape.dtype)

    return jax.tree.map(one, shapes)


def vdu_step(visit: Visit, task, unet) -> None:
    """Measure a VDU step on the U-Net's cross-attention: seconds, and memory against the plan."""
    import jax
    import jax.numpy as jnp
    import optax

    from vdu_jax import posterior as posterior_lib
    from vdu_jax.stages import plan
    from vdu_jax.stages import unlearn as unlearn_stage

    planned = plan.of_method(task, 1, "vdu")
    settings = task.config.methods.vdu
    count = settings.forget_batch
    part, rest = unlearn_stage.split(unet, settings, "vdu")
    variance = jax.tree.map(lambda p: jnp.full(p.shape, 1e-4), part)
    trained = posterior_lib.GaussianPosterior(part, variance, jnp.int32(2))
    made = unlearn_stage.make_objective(task, "vdu", (part, rest), trained, 100, 0.1)
    batch = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), task.batch_shapes(count))
    step = timing.Step(made, part, optax.adam(1e-5), {"forget": batch})
    step.compile()
    times = timing.in_turns({"step": step}, visit.sizes.steps_repeats)["step"]
    visit.put(
        vdu_step={
            "images": count,
            "seconds": statistics.median(times),
            "planned": sum(planned.values()),
            "by_xla": step.memory,
            "peak": timing.device_peak(),
        }
    )


def generate_tables(figures: dict) -> str:
    """Return the figures of `generate` in Markdown."""
    lines = [
        [r["attention"], r["images"], r["seconds"], r["seconds"] / r["images"], r["peak"] / 2**30]
        for r in figures.get("draws", [])
    ]
    header = ["attention", "images at once", "s", "s an image", "peak of the process so far, GiB"]
    parts = [timing.rows(header, lines)]
    parts += [f"Refused: {r['attention']}: {r['error']}" for r in figures.get("refused", [])]
    if "vdu_step" in figures:
        step = figures["vdu_step"]
        sizes = [step[k] / 2**30 for k in ("planned", "by_xla", "peak")]
        header = ["VDU step, latents", "s", "`vdu plan`, GiB", "by XLA's account", "peak so far"]
        parts.append(timing.rows(header, [[step["images"], step["seconds"], *sizes]]))
    return "\n\n".join(parts)


# --- the visit


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes:
      run: measures, and adds the figures to a visit.
      tables: returns the figures in Markdown.
      share: weight of the part when the minutes are divided.
      title: heading of the tables.
    """

    run: Callable[[Visit], None]
    tables: Callable[[dict], str]
    share: float
    title: str


PARTS = {
    "check": Part(check, check_tables, 12, "Agreement with PyTorch: `vdu check`"),
    "network": Part(network_part, network_tables, 40, "CIFAR-10's network"),
    "steps": Part(steps, steps_tables, 14, "Update steps of CIFAR-10's network"),
    "posterior": Part(posterior, posterior_tables, 4, "The posterior over checkpoints"),
    "train": Part(train, train_tables, 30, "Training and unlearning CIFAR-10's network"),
    "generate": Part(generate, generate_tables, 20, "Stable Diffusion 1.5's networks"),
}


def about() -> dict:
    """Return versions and devices of this process, the GPU's driver, and the date."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    driver = None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return timing.machine() | {"gpu": driver, "date": date}


def run_part(name: str, given: argparse.Namespace) -> None:
    """Run a part in this process."""
    if name != "network":  # its child processes include PyTorch's
        cli.set_up_jax()
    visit = Visit(name, given)
    if name not in ("network", "check"):  # their child processes need the device to themselves
        visit.put(about=about())
    PARTS[name].run(visit)
    if "about" not in visit.figures:
        visit.put(about=about())


def start_part(name: str, limit: float, given: argparse.Namespace, work: Path) -> dict:
    """Run a part in its own process, end it at its time limit, and return its figures.

    Args:
      name: key of `PARTS`.
      limit: seconds.
      given: arguments of this script.
      work: scratch folder.
    """
    path, log = Path(given.out) / f"{name}.json", work / f"{name}.log"
    command = [sys.executable, __file__, f"--run={name}", f"--out={given.out}", f"--work={work}"]
    command += [f"--limit={limit}"] + [f"--images={given.images}"] * bool(given.images)
    command += ["--rehearse"] * given.rehearse
    # Some parts have several processes on the device: none may preallocate all of its memory.
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if given.rehearse:  # compiling such small networks takes far longer than running them
        env.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also ends its child processes
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    ended = {None: f"cut at its limit of {limit:.0f} s", 0: "whole"}.get(code, f"failed ({code})")
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures |= {"ended": ended, "part_seconds": time.monotonic() - started}
    if code != 0:
        figures["log"] = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    write(path, figures)
    return figures


def page(found: dict[str, dict]) -> str:
    """Return all figures in Markdown."""
    known = next((f["about"] for f in found.values() if "about" in f), {})
    lines = ["# On an accelerator", ""]
    if known:
        versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
        lines += [
            f"{known['date']}: {known['devices']} ({known['gpu'] or 'no driver asked'}); "
            f"{known['processor']}; Python {known['python']}, {versions}; code {known['commit']}.",
            "",
        ]
    for name, figures in found.items():
        part = PARTS[name]
        lines += [f"## {part.title}", "", part.tables(figures), ""]
        lines += [f"Part `{name}`: {figures['ended']}, {figures['part_seconds']:.0f} s.", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="folder for the figures, required")
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of all parts")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--images", help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--rehearse", action="store_true", help="use tiny sizes, on any machine")
    for hidden in ("--run", "--work", "--precision", "--components"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.precision:
        cli.set_up_jax()
        check_precision(given.precision, given.components.split(",") if given.components else [])
        return 0
    if not given.out:
        parser.error("--out is missing: give a folder for the figures")
    if given.run:
        run_part(given.run, given)
        return 0
    names = given.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--parts: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if "train" in names and not given.images and not given.rehearse:
        parser.error("--images is missing: part train needs a folder of images")
    Path(given.out).mkdir(parents=True, exist_ok=True)
    end, found = time.monotonic() + 60 * given.minutes, {}
    with tempfile.TemporaryDirectory(prefix="vdu-accelerator-") as work:
        for index, name in enumerate(names):
            shares = [PARTS[other].share for other in names[index:]]
            limit = max(1.0, (end - time.monotonic()) * shares[0] / sum(shares))
            timing.say(f"{name}: at most {limit:.0f} s")
            found[name] = start_part(name, limit, given, Path(work))
            timing.say(f"{name}: {found[name]['ended']}, {found[name]['part_seconds']:.0f} s")
            (Path(given.out) / "accelerator.md").write_text(page(found))
    return int(any(figures["ended"].startswith("failed") for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())
