"""From config sections to the pure pieces that the stages share.

The networks are hashable, so the compiled samplers built here are shared by the stages of one
process.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import data, tasks
from vdu_jax.diffusion import likelihood, samplers
from vdu_jax.diffusion.parameterization import Parameterization, make_parameterization
from vdu_jax.diffusion.schedule import Schedule, make_schedule
from vdu_jax.errors import UserError
from vdu_jax.models import network, registry
from vdu_jax.runtime import artifacts, parallel, processes, sampling
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.types import Params, ScoreFn


def dataset(config: ConfigDict) -> data.Dataset:
    """The prepared data set, checked against what depends on its classes and size."""
    section = config.data
    found = data.load(
        section.name,
        section.dir,
        section.manual_dir or None,
        image_size=section.image_size or None,
        channels=section.channels or None,
        background=section.background,
    )
    report_once(found.account)
    classes = config.forget.classes
    if max(classes) >= found.num_classes or len(classes) >= found.num_classes:
        raise UserError(
            f"config key forget.classes = {tuple(classes)}: {section.name} has the classes "
            f"0..{found.num_classes - 1}, and at least one must remain"
        )
    vdu_config.check_classes(config, found.num_classes)
    return found


@functools.cache
def report_once(line: str) -> None:
    """A line on standard error, once in this process; nothing if it is empty."""
    if line:
        processes.report(line)


def open_split(config: ConfigDict, found: data.Dataset, split: str) -> data.ImageSource:
    return data.open_split(found, split, cache_bytes=config.data.cache_mb * 2**20)


def loader(source: data.ImageSource, batch_size: int, seed: int):
    """Shuffled batches; each process has its share. See `data.make_loader`."""
    return data.make_loader(
        source,
        batch_size,
        seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def forget_retain(config: ConfigDict, source: data.ImageSource) -> data.ForgetRetain:
    """Indices of D_f and D_r in the training split."""
    section = config.forget
    return data.forget_retain_indices(
        source.labels,
        section.classes,
        fraction=section.fraction,
        limit=section.limit,
        seed=section.seed,
        num_classes=source.num_classes,
    )


def net(config: ConfigDict, image_shape: tuple[int, int, int]) -> nn.Module:
    """The network that `config.model` describes; see `vdu_jax.models.network`."""
    settings = config.model.to_dict() | {k: config.parallel[k] for k in ("remat", "attention")}
    return registry.ARCHITECTURES[settings.pop("name")].make(settings, image_shape[-1])


def layout(config: ConfigDict) -> parallel.Layout:
    section = config.parallel
    return parallel.Layout(section.fsdp, section.mode, section.accumulate)


def _items(section: ConfigDict) -> tuple:
    """A config section as a hashable value."""
    return tuple(section.to_dict().items())


def parameterization(config: ConfigDict) -> Parameterization:
    """What the network predicts (`diffusion.prediction`), at the levels of the noise schedule."""
    return parameterization_of(_items(config.diffusion))


def parameterization_of(diffusion: Mapping | tuple) -> Parameterization:
    """`parameterization` of a section `diffusion`, or of its items."""
    values = dict(diffusion)
    prediction, name = values.pop("prediction"), values.pop("schedule")
    return make_parameterization(prediction, make_schedule(name, **values))


def schedule(config: ConfigDict) -> Schedule:
    return parameterization(config).schedule


def score_fn(config: ConfigDict, image_shape: tuple[int, int, int]) -> ScoreFn:
    """The network as it is: `parameterization` says what it predicts."""
    return network.make_score_fn(net(config, image_shape))


def noise_predictor(config: ConfigDict, image_shape: tuple[int, int, int]) -> ScoreFn:
    """The network as a predictor of ε, whatever it predicts itself."""
    return parameterization(config).noise_predictor(score_fn(config, image_shape))


def sampler(config: ConfigDict, image_shape: tuple[int, int, int]) -> Callable:
    """`sampler(params, seed, count, label) -> images`, each asked for as the task says.

    See `runtime.sampling.make_sampler`.
    """
    return _sampler(
        net(config, image_shape),
        _items(config.diffusion),
        _items(config.sampler),
        tasks.of(config),
        image_shape,
        config.parallel.fsdp,
    )


@functools.lru_cache(maxsize=4)
def _sampler(
    module, diffusion: tuple, settings: tuple, task: tasks.Task, image_shape: tuple, fsdp: int
) -> Callable:
    draw = _draw(module, diffusion, settings, task, image_shape)
    size = dict(settings)["batch_size"]
    made = sampling.make_sampler(draw, image_shape, batch_size=size, fsdp=fsdp)

    def sampler(params: Params, seed: int, count: int, label: str) -> np.ndarray:
        return made(params, seed, count, label, *task.asked(count))

    return sampler


def drawing(config: ConfigDict, image_shape: tuple[int, int, int]) -> Callable:
    """`draw(params, keys, *asked) -> images` in [-1, 1], what a sampler compiles."""
    sections = _items(config.diffusion), _items(config.sampler)
    return _draw(net(config, image_shape), *sections, tasks.of(config), image_shape)


def _draw(module, diffusion: tuple, settings: tuple, task: tasks.Task, image_shape: tuple):
    predicts, values = parameterization_of(diffusion), dict(settings)
    predict = task.drawing(predicts.noise_predictor(network.make_score_fn(module)))
    name, steps, clip = values["name"], values["steps"], values["clip_x0"]
    how = {key: values[key] for key in ("eta", "spacing", "variance")}
    plan = samplers.make_plan(predicts.schedule, name, steps, **how)

    def draw(params, keys, *asked):
        cond = task.drawing_cond(*asked)
        return samplers.sample(predict, params, plan, keys, image_shape, clip_x0=clip, cond=cond)

    return draw


def evidence_bound(config: ConfigDict, image_shape: tuple[int, int, int]) -> Callable:
    """`bound(params, x0, key, *told) -> (B,)` bits per dimension; see `likelihood.bits_per_dim`.

    What is told of the images is from `Task.told`.
    """
    return _evidence_bound(net(config, image_shape), _items(config.diffusion), tasks.of(config))


@functools.lru_cache(maxsize=4)
def _evidence_bound(module: nn.Module, diffusion: tuple, task: tasks.Task) -> Callable:
    predicts = parameterization_of(diffusion)
    predict = predicts.noise_predictor(network.make_score_fn(module))

    @jax.jit
    def bound(params, x0, key, *told):
        predict_told = functools.partial(predict, cond=task.cond(*told))
        return likelihood.bits_per_dim(predict_told, params, predicts.schedule, x0, key)

    return bound


def features(config: ConfigDict, image_shape: tuple[int, int, int]) -> Callable:
    """`features(params, images) -> (N, F)`: the network's own features of uint8 images.

    Each image is noised to the levels `replay.feature_times`, with one fixed noise pattern for
    all images, and the features of the levels are concatenated.
    """
    return _features(
        net(config, image_shape),
        _items(config.diffusion),
        tuple(config.replay.feature_times),
        config.sampler.batch_size,
        tasks.of(config),
        image_shape,
    )


@functools.lru_cache(maxsize=4)
def _features(
    module, diffusion: tuple, times: tuple, batch_size: int, task: tasks.Task, image_shape: tuple
):
    noise = parameterization_of(diffusion).schedule
    feature_fn = network.make_feature_fn(module)
    eps = jax.random.normal(jax.random.key(0), (len(times), *image_shape))
    steps = [int(share * noise.num_steps) for share in times]

    @jax.jit
    def compute(params, x0):
        parts = []
        for step, pattern in zip(steps, eps, strict=True):
            a = noise.alphas_cumprod[step]
            xt = jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * pattern
            t, cond = jnp.full((len(x0),), step), task.without(len(x0))
            parts.append(feature_fn(params, xt, t, cond))
        return jnp.concatenate(parts, axis=-1)

    def run(params: Params, images: np.ndarray) -> np.ndarray:
        return map_batches(functools.partial(compute, params), images, batch_size)

    return run


def map_batches(fn: Callable, images: np.ndarray, batch_size: int) -> np.ndarray:
    """`fn` over uint8 images in padded batches of one size; the results' rows concatenated.

    The batches are split over all devices.
    """
    mesh = parallel.make_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows = []
    for first in range(0, len(images), batch_size):
        part = data.to_model_range(images[first : first + batch_size])
        missing = batch_size - len(part)
        padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
        count = len(part)
        found = parallel.fetch(fn(parallel.spread(padded, mesh)))
        rows.append(jax.tree.map(lambda a, n=count: a[:n], found))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)


def optimizer(learning_rate, clip_norm: float | None = None) -> optax.GradientTransformation:
    adam = optax.adam(learning_rate)
    return adam if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adam)


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Linear warm-up, then constant, or cosine or linear decay to 0."""
    section = config.train
    warmup, steps = section.warmup_steps, section.steps
    after = {
        "constant": optax.constant_schedule(section.learning_rate),
        "cosine": optax.cosine_decay_schedule(section.learning_rate, max(1, steps - warmup)),
        "linear": optax.linear_schedule(section.learning_rate, 0.0, max(1, steps - warmup)),
    }[section.decay]
    rise = optax.linear_schedule(0.0, section.learning_rate, max(1, warmup))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def last_snapshots(config: ConfigDict) -> range:
    """The steps of training whose parameters are kept, the last one first."""
    section = config.train
    last, every = section.steps, section.snapshot_every
    return range(last, max(0, last - every * section.snapshots), -every)


def initialise(init: Callable[[jax.Array], Params], key: jax.Array) -> Params:
    """`init(key)`, made on the CPU where there is one, and compiled quickly: it runs once.

    A draw for each array compiles for longer than it runs: for CIFAR-10's network 27 s on an H100,
    6 s on a CPU, whose numbers also are the same beside every accelerator.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS=cuda
        return jax.jit(init)(key)
    with jax.default_device(cpu):
        return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(key)


def abstract_params(config: ConfigDict, image_shape: tuple[int, int, int]) -> Params:
    """Shapes and placement of the network's parameters; nothing is allocated."""
    return _abstract_params(net(config, image_shape), image_shape, config.parallel.fsdp)


@functools.lru_cache(maxsize=4)
def _abstract_params(module: nn.Module, image_shape: tuple[int, int, int], fsdp: int) -> Params:
    return parallel.placed(_param_shapes(module, image_shape), parallel.make_mesh(fsdp))


def param_shapes(config: ConfigDict, image_shape: tuple[int, int, int]) -> Params:
    """Shapes of the network's parameters, on no device in particular."""
    return _param_shapes(net(config, image_shape), image_shape)


@functools.lru_cache(maxsize=4)
def _param_shapes(module: nn.Module, image_shape: tuple[int, int, int]) -> Params:
    return jax.eval_shape(
        lambda key: network.init_params(module, key, image_shape), jax.random.key(0)
    )


def model_folder(workdir: Path) -> Path:
    """The folder of a workdir's own model: `train`, or else `import`.

    Raises:
      UserError: if there is neither.
    """
    for name in ("train", "import"):
        if artifacts.exists(Path(workdir) / name / "inputs.json"):
            return Path(workdir) / name
    raise UserError(f"{workdir} holds no model: run `vdu train` or `vdu import` there first")


def original_folder(config: ConfigDict, workdir: Path) -> Path:
    """The folder of the model to be unlearned: of this run, or where `unlearn.init_from` says.

    Raises:
      UserError: if that is another network than the config's.
    """
    if not config.unlearn.init_from:
        train_stage(config, workdir).done()
        return Path(workdir) / "train"
    folder = model_folder(config.unlearn.init_from)
    check_network(config, folder)
    return folder


# Settings that change nothing about what stored parameters compute.
FREE = ("model.dtype", "model.param_dtype", "model.dropout")


def check_network(config: ConfigDict, folder: Path) -> None:
    """Refuse a stored model whose network or noise schedule is not the config's.

    A setting that is younger than the model has its default in it.

    Raises:
      UserError: naming the first setting that differs, or if the noise schedule of an imported
        model is not known and the config does not say that it has it.
    """
    recorded = artifacts.read_json(folder / "inputs.json")

    def settings(config, sections=("model", "diffusion")):
        return artifacts.flatten("", {s: config[s].to_dict() for s in sections})

    name = recorded.get("model.name", "unet")
    recorded = settings(vdu_config.default(name)) | recorded
    if not _schedule_is_known(folder):
        if not config.unlearn.assume_schedule:
            raise UserError(
                f"config key diffusion: the model in {folder} came without a noise schedule: set "
                "diffusion to the one it was trained with, and unlearn.assume_schedule = True"
            )
        recorded |= settings(config, ("diffusion",))
    asked = {"model.name": config.model.name} | settings(config)  # the name before what it has
    for key, value in asked.items():
        if key not in FREE and recorded[key] != value:
            raise UserError(
                f"config key {key} = {value!r}: the model in {folder} has {recorded[key]!r}; set "
                "it to that"
            )


def _schedule_is_known(folder: Path) -> bool:
    """Whether a model's folder says what noise schedule it was trained with."""
    if folder.name != "import":
        return True
    return bool(artifacts.finished(folder)["summary"]["settings"]["diffusion"])


def load_last(
    config: ConfigDict, folder: Path, image_shape: tuple[int, int, int], weights: str
) -> Params:
    """The last parameters in a model's folder; an imported model has one kind of weights only.

    Raises:
      UserError: if it has not finished, or was made for images of another size.
    """
    summary = artifacts.finished(folder)["summary"]
    made_for = tuple(summary.get("image_shape", image_shape))
    if made_for[0] and made_for != tuple(image_shape):
        raise UserError(
            f"the model in {folder} makes images {made_for}, those of the config's data.name are "
            f"{tuple(image_shape)} (height, width, channels): choose a data set of that shape"
        )
    return load_snapshot(config, folder, summary["steps"], weights, image_shape)


def weights(config: ConfigDict) -> str:
    """Which of a training run's parameters are its model: the moving average if it keeps one."""
    return "ema" if config.train.ema_decay > 0 else "params"


def load_pretrained(config: ConfigDict, workdir: Path, image_shape: tuple[int, int, int]) -> Params:
    """θ*: the last checkpoint of the model to be unlearned, its moving average if it keeps one."""
    return load_last(config, original_folder(config, workdir), image_shape, weights(config))


def draw_original(config: ConfigDict, workdir: Path, image_shape: tuple, seed: int, count: int):
    """`count` images (count, H, W, C) uint8 of a seed from the model to be unlearned.

    They are kept beside that model, in `drawn/`: whatever is unlearned from it, they are the same.
    """
    folder = original_folder(config, workdir)
    what = {
        "model": artifacts.finished(folder)["fingerprint"],
        "weights": "ema" if config.train.ema_decay > 0 else "params",
        "sampler": config.sampler.to_dict(),
        "seed": seed,
        "count": count,
        **condition_inputs(config),
    }
    file = folder / "drawn" / f"{artifacts.fingerprint(what)}.npz"
    if not artifacts.exists(file):
        params = load_pretrained(config, workdir, image_shape)
        images = sampler(config, image_shape)(params, seed, count, "sample original")
        artifacts.write_npz(file, images=images)
    return artifacts.read_npz(file)["images"]


def load_snapshot(
    config: ConfigDict, directory: Path, step: int, weights: str, image_shape: tuple
) -> Params:
    """Parameters under `directory`/snapshots; weights "params" or, of a training run, "ema"."""
    with Store(directory / "snapshots", read_only=True) as store:
        like = abstract_params(config, image_shape)
        return store.restore(step, _stored_weights(directory, weights), like)


def load_snapshot_parts(
    config: ConfigDict,
    directory: Path,
    steps: Sequence[int],
    weights: str,
    image_shape: tuple,
    count: int,
) -> Iterator[tuple[int, Params]]:
    """The same of several steps, in `count` parts each; see `Store.restore_parts`."""
    with Store(directory / "snapshots", read_only=True) as store:
        like = abstract_params(config, image_shape)
        yield from store.restore_parts(steps, _stored_weights(directory, weights), like, count)


def _stored_weights(directory: Path, weights: str) -> str:
    """What `weights` are in a model's folder: an imported one has "params" only."""
    return "params" if directory.name == "import" else weights


def data_inputs(config: ConfigDict) -> dict:
    """What of `config.data` changes results: not where files lie."""
    # Without a background all images are opaque, so it needs no mention.
    also = ("background",) if config.data.background else ()
    return {k: config.data[k] for k in ("name", "image_size", "channels", *also)}


def condition_inputs(config: ConfigDict) -> dict:
    """What of the images' condition changes results; empty without one."""
    inputs = tasks.of(config).inputs
    return {"condition": inputs} if inputs else {}


def train_stage(config: ConfigDict, workdir: Path) -> StageDir:
    """The folder of `train`."""
    inputs = {s: config[s].to_dict() for s in ("diffusion", "train")}
    inputs["model"] = vdu_config.model_inputs(config.model.to_dict())
    if config.model.num_class_embeds:
        inputs["train"]["drop_condition"] = config.condition.drop
    if config.train.init_from:
        start = model_folder(config.train.init_from)
        # What it is, not where it lies.
        inputs["train"]["init_from"] = artifacts.finished(start)["fingerprint"]
    return StageDir(workdir, "train", inputs | {"data": data_inputs(config)})


def stage(config: ConfigDict, workdir: Path, name: str, sections, upstream=(), **more) -> StageDir:
    """A later stage's folder, keyed by the config sections and finished stages it depends on.

    The upstream "original" is the model to be unlearned, wherever it lies.

    Raises:
      UserError: if an upstream stage has not finished, or the model was made with other settings
        than the config's.
    """
    original = original_folder(config, workdir)
    inputs = {s: config[s].to_dict() for s in sections} | more | condition_inputs(config)
    inputs["upstream"] = {
        u: (artifacts.finished(original) if u == "original" else artifacts.upstream(workdir, u))[
            "fingerprint"
        ]
        for u in upstream
    }
    return StageDir(workdir, name, inputs)
