"""Class unlearning from diffusion models of pixels, unconditional or class-conditional.

The two kinds differ only in their `conditions.Condition`.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import data, forget_detector
from vdu_jax.diffusion import likelihood, samplers
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.errors import UserError
from vdu_jax.interop import folder, unet2d
from vdu_jax.metrics import frechet
from vdu_jax.models import network, registry
from vdu_jax.runtime import artifacts, operations, parallel, processes, sampling
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.tasks import base, classifier, conditions, datasets, evaluators, features
from vdu_jax.tasks.base import BaseTask, Checkpoint, Replay, Request
from vdu_jax.types import Params, ScoreFn

Shape = tuple[int, int, int]
# Settings that may differ from those of a stored model: they do not change its parameters.
NON_WEIGHT_SETTINGS = ("model.dtype", "model.param_dtype", "model.dropout")


class ImageTask(BaseTask):
    """The `vdu_jax.tasks.Task` of pixel models.

    Members without a docstring do what `vdu_jax.tasks.Task` says.

    Args:
      config: all settings.
      workdir: the run's folder; None for a task that neither reads nor writes files.
      image_shape: (H, W, C); None opens the data set to learn it.

    Attributes:
      condition: the network's condition.
      inputs: the settings of the condition that change results; an input of every stage.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path | None = None, image_shape: Shape | None = None
    ) -> None:
        super().__init__(config, workdir)
        self.condition = conditions.of(config)
        self.inputs = {"condition": self.condition.inputs} if self.condition.inputs else {}
        self._image_shape = image_shape

    @staticmethod
    def takes(config: ConfigDict) -> bool:
        return not vdu_config.is_text_to_image(config)

    @classmethod
    def planned(cls, config: ConfigDict) -> "ImageTask":
        return cls(config, None, declared_shape(config))

    # The network

    @property
    def image_shape(self) -> Shape:
        return self._image_shape or self.dataset.image_shape

    @property
    def module(self) -> nn.Module:
        """The network that `config.model` describes."""
        parallel_settings = {k: self.config.parallel[k] for k in ("remat", "attention")}
        settings = self.config.model.to_dict() | parallel_settings
        architecture = registry.ARCHITECTURES[settings.pop("name")]
        return architecture.make(settings, self.image_shape[-1])

    @property
    def score_fn(self) -> ScoreFn:
        return network.make_score_fn(self.module)

    @property
    def parameterization(self) -> Parameterization:
        return base.parameterization_of(base.hashable(self.config.diffusion))

    @property
    def param_shapes(self) -> Params:
        return _param_shapes(self.module, self.image_shape)

    @property
    def abstract_params(self) -> Params:
        return _abstract_params(self.module, self.image_shape, self.config.parallel.fsdp)

    def init_params(self) -> Params:
        module, shape = self.module, self.image_shape
        key = jax.random.key(self.config.train.init_seed)
        return base.initialise(lambda key: network.init_params(module, key, shape), key)

    # Data

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The prepared data set; see `datasets.prepared`."""
        return datasets.prepared(self.config)

    def open_split(self, split: str) -> data.ImageSource:
        """The images and labels of the split "train" or "test", without conditions."""
        return datasets.open_split(self.config, self.dataset, split)

    @functools.cached_property
    def forget_retain(self) -> data.ForgetRetain:
        """Indices of D_f and D_r in the training split."""
        section, source = self.config.forget, self.open_split("train")
        return data.forget_retain_indices(
            source.labels,
            section.classes,
            fraction=section.fraction,
            limit=section.limit,
            seed=section.seed,
            num_classes=source.num_classes,
        )

    @property
    def drop_condition(self) -> float:
        return self.condition.drop

    def check(self) -> None:
        pass  # `config.validate` and opening the data set check all that later stages need

    def prepare_training(self) -> None:
        self.open_split("train")

    def make_ready(self, path: Path) -> dict[str, Any]:
        del path
        return {}

    def export_trained(self, path: Path, params: Params) -> dict[str, Any]:
        del path, params
        return {"class_names": self.dataset.class_names}

    def source(self, kind: str) -> data.loader.Source:
        whole = self.open_split("train")
        if kind != "all":
            # The view holds no index of other images, so it cannot decode them.
            whole = whole.subset(getattr(self.forget_retain, kind))
        return self.condition.source(whole)

    def shown_again(self, count: int, seed: int) -> data.loader.Source:
        forget = self.forget_retain.forget
        order = np.random.default_rng(seed).permutation(len(forget))
        return self.condition.source(self.open_split("train").subset(forget[order[:count]]))

    def drawn_source(self, images: np.ndarray, request: Request) -> data.loader.Source:
        return self.condition.source(data.ArraySource(images, *request.asked))

    def replay_source(self, replay: Replay) -> data.loader.Source:
        kept = ~replay.forget_like
        asked = (rows[kept] for rows in self.request("replay").asked)
        return self.condition.source(data.ArraySource(replay.images[kept], *asked))

    def batch_shapes(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        images = np.zeros((1, *self.image_shape), np.uint8)
        one = self.condition.source(data.ArraySource(images)).batch(np.zeros(1, int))
        return {k: jax.ShapeDtypeStruct((count, *v.shape[1:]), v.dtype) for k, v in one.items()}

    # The model to be unlearned

    @property
    def has_training(self) -> bool:
        return not self.config.unlearn.init_from

    def train_stage(self) -> StageDir:
        config = self.config
        inputs = {s: config[s].to_dict() for s in ("diffusion", "model", "train")}
        if config.model.num_class_embeds:
            inputs["train"]["drop_condition"] = config.condition.drop
        if config.train.init_from:
            start = model_folder(config.train.init_from)
            # The fingerprint, because a moved model is the same model.
            inputs["train"]["init_from"] = artifacts.finished(start)["fingerprint"]
        return StageDir(self.workdir, "train", inputs | {"data": datasets.inputs(config)})

    def start_params(self) -> Params:
        if not self.config.train.init_from:
            return self.init_params()
        folder = model_folder(self.config.train.init_from)
        check_network(self.config, folder)
        return self.load_last(folder, "params")

    def original_folder(self) -> Path:
        if self.has_training:
            self.train_stage().done()
            return self.workdir / "train"
        folder = model_folder(self.config.unlearn.init_from)
        check_network(self.config, folder)
        return folder

    @property
    def original_params(self) -> Params:
        return self.load_last(self.original_folder(), self.weights)

    def load_last(self, folder: Path, weights: str) -> Params:
        """Read the last parameters in a model's folder.

        Args:
          folder: folder of a trained or imported model.
          weights: "params" or "ema"; an imported model has only one kind.

        Raises:
          UserError: if the stage has not finished, or the model makes images of another shape.
        """
        summary = artifacts.finished(folder)["summary"]
        made_for = tuple(summary.get("image_shape", self.image_shape))
        if made_for[0] and made_for != tuple(self.image_shape):
            raise UserError(
                f"the model in {folder} makes images {made_for}, those of the config's data.name "
                f"are {tuple(self.image_shape)} (height, width, channels): choose a data set of "
                "that shape"
            )
        return self.load_snapshot(folder, summary["steps"], weights)

    def trajectory(self) -> list[Checkpoint]:
        original = self.original_folder()
        if original.name == "import":
            raise UserError(
                f"config key posterior.source = 'trajectory': {original} is a single checkpoint; "
                "use 'runs', with further imported workdirs in posterior.runs, or "
                "posterior.family = 'fisher'"
            )
        return [(original, step) for step in self.trained_steps()]

    def last_checkpoint(self) -> Checkpoint:
        original = self.original_folder()
        return original, artifacts.finished(original)["summary"]["steps"]

    def trained_steps(self) -> list[int]:
        return artifacts.finished(self.original_folder())["summary"].get("snapshots", [])

    def runs(self) -> list[Checkpoint]:
        folders = list(map(model_folder, self.config.posterior.runs))
        for path in folders:
            check_network(self.config, path)
        others = [(f, artifacts.finished(f)["summary"]["steps"]) for f in folders]
        return [self.last_checkpoint(), *others]

    @property
    def trained_on(self) -> int:
        return len(self.open_split("train"))

    # Drawing

    def request(self, use: str) -> Request:
        counts = {"posterior": "fisher_images"}
        count = self.config[use][counts.get(use, "images")]
        return Request(count, self.condition.asked(count), {})

    def requests(self) -> dict[str, Request]:
        return {"images": self.request("evaluate")}

    def draw(self, params: Params, request: Request, seed: int, label: str) -> np.ndarray:
        sampler = _sampler(
            self.module,
            base.hashable(self.config.diffusion),
            base.hashable(self.config.sampler),
            self.condition,
            self.image_shape,
            self.config.parallel.fsdp,
        )
        return sampler(params, seed, request.count, label, *request.asked)

    def shown(self, drawn: dict[str, np.ndarray], count: int) -> np.ndarray:
        return drawn["images"][:count]

    def drawing(self, count: int) -> tuple[Callable, Params, tuple]:
        sections = base.hashable(self.config.diffusion), base.hashable(self.config.sampler)
        draw = _draw(self.module, *sections, self.condition, self.image_shape)
        asked = self.condition.asked(count)
        shapes = tuple(jax.ShapeDtypeStruct(rows.shape, rows.dtype) for rows in asked)
        return draw, self.param_shapes, shapes

    def evidence_bound(self) -> Callable:
        """A function that bounds bits per dimension; see `likelihood.bits_per_dim`.

        Returns:
          `bound(params, x0, key, *told) -> (B,)`, for images x0 (B, H, W, C) in [-1, 1] and the
          conditions `Condition.told` of their labels.
        """
        diffusion = base.hashable(self.config.diffusion)
        return _evidence_bound(self.module, diffusion, self.condition)

    def features(self) -> Callable[[Params, np.ndarray], np.ndarray]:
        """A function that computes the network's own features of images.

        Each image is noised to the levels `replay.feature_times` with one fixed noise for all
        images; the features of the levels are concatenated.

        Returns:
          `features(params, images) -> (N, F)`, for images (N, H, W, C) uint8.
        """
        compute = _features(
            self.module,
            base.hashable(self.config.diffusion),
            tuple(self.config.replay.feature_times),
            self.condition,
            self.image_shape,
        )
        size = self.config.sampler.batch_size
        return lambda params, images: base.map_batches(
            functools.partial(compute, params), images, size
        )

    # What is forget-like

    def clean(self, images: np.ndarray) -> tuple[Replay, dict[str, Any]]:
        section = self.config.replay
        forget = self.open_split("train").subset(self.forget_retain.forget)
        params, compute = self.original_params, self.features()
        forget_images, _ = forget.read()
        try:
            cleaning = forget_detector.fit_detector(
                compute(params, forget_images), compute(params, images), section.recall
            )
        except ValueError as error:
            raise UserError(
                f"replay cannot be cleaned: {error} (forget.fraction, forget.limit, replay.images)"
            ) from None
        forget_like = cleaning.forget_like
        asked = self.condition.asked_to_forget(len(images), tuple(self.config.forget.classes))
        if asked is not None:
            forget_like = forget_like | asked
        if section.kernel_time:
            schedule = self.parameterization.schedule
            level = int(section.kernel_time * schedule.num_steps)
            forget_like = forget_detector.kernel_forget_like(
                data.to_model_range(forget_images),
                data.to_model_range(images),
                forget_like,
                float(schedule.alphas_cumprod[level]),
            )
        kept = len(images) - int(forget_like.sum())
        if kept < 2:
            raise UserError(
                f"replay: {kept} of the original's {len(images)} images are not forget-like, so "
                "nothing can be preserved: train the model longer, raise replay.images, or lower "
                "replay.recall"
            )
        summary = {
            "removed_by_detector": int(cleaning.forget_like.sum()),
            "recall": cleaning.recall,
        }
        return Replay(images, forget_like, cleaning.detector._asdict()), summary

    def scorer_inputs(self) -> dict[str, Any]:
        return {}

    def scorer(
        self, original: Params, replay: Replay
    ) -> Callable[[int, np.ndarray], forget_detector.Snapshot]:
        compute, rule = self.features(), forget_detector.Detector(**replay.for_scorer)
        of_replay = compute(original, replay.images)
        reference = frechet.feature_stats(of_replay[~replay.forget_like])
        original_rate = rule.rate(of_replay)
        if not original_rate:
            processes.report(
                f"warning: the detector finds no forget image among the {len(replay.images)} of "
                "replay, so every estimated PUL is 0 and the first snapshot is kept: raise "
                "replay.images, or train the model longer"
            )

        def score(step: int, images: np.ndarray) -> forget_detector.Snapshot:
            of_images = compute(original, images)
            drift = frechet.frechet_distance(frechet.feature_stats(of_images), reference)
            rate = rule.rate(of_images)
            return forget_detector.make_snapshot(step, original_rate, rate, len(images), drift)

        return score

    def replay_flops(self) -> float:
        drawn, judged = self._image_flops()
        return self.config.replay.images * (drawn + judged) + self.num_forget * judged

    def curve_flops(self, points: int) -> float:
        drawn, judged = self._image_flops()
        images = points * self.request("curve").count
        return images * (drawn + judged) + self.config.replay.images * judged

    def _image_flops(self) -> tuple[float, float]:
        """Floating-point operations of sampling an image, and of computing its features."""
        sections = (base.hashable(self.config[name]) for name in ("diffusion", "sampler"))
        times = tuple(self.config.replay.feature_times)
        return _image_flops(self.module, *sections, self.condition, self.image_shape, times)

    # What is measured

    def evaluation_inputs(self) -> dict[str, Any]:
        return {
            "data": datasets.inputs(self.config),
            "classifier": classifier.inputs(self.config),
            "evaluate": features.inputs(self.config),
        }

    @property
    def subject(self) -> str:
        names = self.dataset.class_names
        return ", ".join(f"{names[c]} (class {c})" for c in self.config.forget.classes)

    @property
    def class_names(self) -> Sequence[str]:
        return self.dataset.class_names

    @property
    def columns(self) -> dict[str, str]:
        return self.condition.columns

    @property
    def about_columns(self) -> str:
        return self.condition.about_columns

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        return self.condition.column_values(figures)

    def relearning_inputs(self) -> dict[str, Any]:
        return {
            "data": datasets.inputs(self.config),
            "classifier": classifier.inputs(self.config),
        }

    def evaluator(
        self, original: dict[str, np.ndarray], overwrite: bool = False
    ) -> evaluators.ImageEvaluator:
        return evaluators.ImageEvaluator(self, original, overwrite)

    def forget_rate(self, overwrite: bool = False) -> Callable[[np.ndarray], float]:
        return evaluators.classified_rate(self, overwrite)

    def export(
        self,
        directory: Path,
        load: Callable[[], Params],
        origin: dict[str, Any],
        overwrite: bool,
    ) -> str:
        config = self.config
        if config.model.name != folder.ARCHITECTURE:
            raise UserError(
                f"config key model.name = {config.model.name!r}: only {folder.ARCHITECTURE!r} can "
                "be exported to diffusers; its checkpoints stay usable by the other commands"
            )
        settings = {s: config[s].to_dict() for s in ("model", "diffusion", "sampler")}
        is_original = origin["model"] == base.ORIGINAL
        where = (
            self.original_folder() if is_original else self.workdir / "unlearn" / origin["model"]
        )
        made = artifacts.finished(where)
        origin = origin | {"summary": made["summary"], "provenance": made["provenance"]}
        named = unet2d.to_tensors(load())
        exported = folder.pipeline(settings, self.image_shape, named, origin)
        folder.write(directory, exported, overwrite)
        if rows := config.model.num_class_embeds:
            return (
                f"no pipeline of diffusers asks for a class: UNet2DModel.from_pretrained"
                f"({str(directory)!r}, subfolder='unet') takes class_labels in 0..{rows - 1}"
            )
        return ""


def declared_shape(config: ConfigDict) -> Shape:
    """(H, W, C) of the images of a config's data set, without opening it.

    Raises:
      UserError: if it depends on the user's files and `data.image_size` or `data.channels` is 0.
    """
    info = data.static_info(config.data.name)
    if info is not None:
        return info[0]
    section = config.data
    if not section.image_size or not section.channels:
        raise UserError(
            f"config keys data.image_size and data.channels must be set for {section.name}, whose "
            "image size is not known without its files"
        )
    return (section.image_size, section.image_size, section.channels)


def model_folder(workdir: Path | str) -> Path:
    """The folder of a workdir's own model: `train`, or else `import`.

    Args:
      workdir: workdir of `vdu train` or `vdu import`.

    Raises:
      UserError: if it has neither.
    """
    for name in ("train", "import"):
        if artifacts.exists(Path(workdir) / name / "inputs.json"):
            return Path(workdir) / name
    raise UserError(f"{workdir} holds no model: run `vdu train` or `vdu import` there first")


def check_network(config: ConfigDict, folder: Path) -> None:
    """Refuse a stored model whose network or noise schedule differs from the config's.

    A setting that did not exist when the model was stored counts as having its default.

    Args:
      config: all settings.
      folder: folder of a trained or imported model.

    Raises:
      UserError: naming the first setting that differs; or if the model was imported without a noise
        schedule and `unlearn.assume_schedule` is False.
    """
    recorded = artifacts.read_json(folder / "inputs.json")

    def settings(
        config: ConfigDict, sections: Sequence[str] = ("model", "diffusion")
    ) -> dict[str, Any]:
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
    # The name first: other settings may not exist in both architectures.
    asked = {"model.name": config.model.name} | settings(config)
    for key, value in asked.items():
        if key not in NON_WEIGHT_SETTINGS and recorded[key] != value:
            raise UserError(
                f"config key {key} = {value!r}: the model in {folder} has {recorded[key]!r}; set "
                "it to that"
            )


def _schedule_is_known(folder: Path) -> bool:
    """Whether a model's folder records the noise schedule that it was trained with."""
    if folder.name != "import":
        return True
    return bool(artifacts.finished(folder)["summary"]["settings"]["diffusion"])


# Compiled functions are cached, so that all stages of a process share them; networks and conditions
# are hashable.


@functools.lru_cache(maxsize=4)
def _sampler(
    module: nn.Module,
    diffusion: tuple,
    settings: tuple,
    condition: conditions.Condition,
    image_shape: Shape,
    fsdp: int,
) -> Callable:
    draw = _draw(module, diffusion, settings, condition, image_shape)
    size = dict(settings)["batch_size"]
    return sampling.make_sampler(draw, image_shape, batch_size=size, fsdp=fsdp)


def _draw(
    module: nn.Module,
    diffusion: tuple,
    settings: tuple,
    condition: conditions.Condition,
    image_shape: Shape,
) -> Callable:
    predicts, values = base.parameterization_of(diffusion), dict(settings)
    predict = condition.drawing(predicts.noise_predictor(network.make_score_fn(module)))
    plan = samplers.make_plan(predicts.schedule, **base.plan_settings(values))
    clip = values["clip_x0"]

    def draw(params: Params, keys: jax.Array, *asked: jax.Array) -> jax.Array:
        cond = condition.drawing_cond(*asked)
        return samplers.sample(predict, params, plan, keys, image_shape, clip_x0=clip, cond=cond)

    return draw


@functools.lru_cache(maxsize=4)
def _evidence_bound(
    module: nn.Module, diffusion: tuple, condition: conditions.Condition
) -> jax.stages.Wrapped:
    predicts = base.parameterization_of(diffusion)
    predict = predicts.noise_predictor(network.make_score_fn(module))

    @jax.jit
    def bound(params: Params, x0: jax.Array, key: jax.Array, *told: jax.Array) -> jax.Array:
        predict_told = functools.partial(predict, cond=condition.cond(*told))
        return likelihood.bits_per_dim(predict_told, params, predicts.schedule, x0, key)

    return bound


@functools.lru_cache(maxsize=4)
def _features(
    module: nn.Module,
    diffusion: tuple,
    times: tuple[float, ...],
    condition: conditions.Condition,
    image_shape: Shape,
) -> jax.stages.Wrapped:
    noise = base.parameterization_of(diffusion).schedule
    feature_fn = network.make_feature_fn(module)
    eps = jax.random.normal(jax.random.key(0), (len(times), *image_shape))
    steps = [int(share * noise.num_steps) for share in times]

    @jax.jit
    def compute(params: Params, x0: jax.Array) -> jax.Array:
        parts = []
        for step, pattern in zip(steps, eps, strict=True):
            a = noise.alphas_cumprod[step]
            xt = jnp.sqrt(a) * x0 + jnp.sqrt(1 - a) * pattern
            t, cond = jnp.full((len(x0),), step), condition.without(len(x0))
            parts.append(feature_fn(params, xt, t, cond))
        return jnp.concatenate(parts, axis=-1)

    return compute


@functools.lru_cache(maxsize=4)
def _image_flops(
    module: nn.Module,
    diffusion: tuple,
    settings: tuple,
    condition: conditions.Condition,
    image_shape: Shape,
    times: tuple,
) -> tuple[float, float]:
    params = _param_shapes(module, image_shape)
    draw = _draw(module, diffusion, settings, condition, image_shape)
    compute = _features(module, diffusion, times, condition, image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    drawn = base.draw_flops(draw, params, condition.asked(1))
    return drawn, operations.count(compute, params, image)


@functools.lru_cache(maxsize=4)
def _abstract_params(module: nn.Module, image_shape: Shape, fsdp: int) -> Params:
    return parallel.placed(_param_shapes(module, image_shape), parallel.make_mesh(fsdp))


@functools.lru_cache(maxsize=4)
def _param_shapes(module: nn.Module, image_shape: Shape) -> Params:
    return jax.eval_shape(
        lambda key: network.init_params(module, key, image_shape), jax.random.key(0)
    )
