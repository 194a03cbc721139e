"""The text-to-image model of a config, trained here or read from a folder of Stable Diffusion.

train/tokenizer/             vocabulary of the captions
train/autoencoder/           the autoencoder's training; see runtime.fit
train/latents.npz            mean latents of the images, (N, h, w, channels), not scaled
train/snapshots/<step>/      checkpoints of the U-Net: θ_1 … θ_K
train/model/                 a diffusers folder, which all later stages read
latents/<forget, retain>/    latents for a model that was not trained here

The autoencoder is trained first, then the U-Net on its latents with the captions as conditions. The
text encoder keeps its initial parameters: its random features tell captions of a small vocabulary
apart, and the U-Net's attention learns to read them. Nothing is trained if `model.folder` names a
model.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import data, objectives, posterior
from vdu_jax.data import captions
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.errors import UserError
from vdu_jax.forget_detector import Snapshot, make_snapshot
from vdu_jax.interop import pipeline, scheduler, stable_diffusion, tokenizer
from vdu_jax.models import network
from vdu_jax.runtime import artifacts, parallel, progress
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.runtime.fit import FitResult, fit
from vdu_jax.tasks import base, classifier, feature_detectors, features
from vdu_jax.tasks.base import BaseTask, Checkpoint, Replay, Request
from vdu_jax.tasks.text_to_image import evaluator, latents, networks
from vdu_jax.types import Params, ScoreFn

LATENTS = "latents.npz"


class TextToImage(BaseTask):
    """The `vdu_jax.tasks.Task` of text-to-image models; its network is the U-Net.

    Members without a docstring do what `vdu_jax.tasks.Task` says.

    Args:
      config: all settings.
      workdir: the run's folder; None for a task that neither reads nor writes files.
      model: the networks; None reads them from the model's folder.

    Attributes:
      inputs: the U-Net's type and the condition's settings; an input of every stage.
    """

    about_columns = evaluator.ABOUT
    class_names: Sequence[str] = ()

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path | None = None,
        model: pipeline.TextToImage | None = None,
    ) -> None:
        super().__init__(config, workdir)
        self.inputs = {"dtype": config.model.dtype, "condition": config.condition.to_dict()}
        self._model = model

    @staticmethod
    def takes(config: ConfigDict) -> bool:
        return vdu_config.is_text_to_image(config)

    @classmethod
    def planned(cls, config: ConfigDict) -> "TextToImage":
        return cls(config, None, networks.shapes(config))

    # The network

    @property
    def model(self) -> pipeline.TextToImage:
        """The networks and parameters of the original; during its training, the initial ones."""
        if self._model is None:
            self._model = networks.read(self.config, self._model_folder())
        return self._model

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.model.image_shape

    @property
    def score_fn(self) -> ScoreFn:
        unet = self.model.modules["unet"]
        return network.make_score_fn(unet.clone(remat=self.config.parallel.remat))

    @property
    def parameterization(self) -> Parameterization:
        return base.parameterization_of(self.model.diffusion)

    @functools.cached_property
    def param_shapes(self) -> Params:
        return stable_diffusion.PARTS["unet"].param_shapes(self.model.modules["unet"])

    def init_params(self) -> Params:
        return networks.init_params(self.config, "unet", self.model.modules["unet"])

    # Folders and checkpoints

    @property
    def has_training(self) -> bool:
        return not self.config.model.folder and not self.config.unlearn.init_from

    def train_stage(self) -> StageDir:
        inputs = {s: self.config[s].to_dict() for s in ("model", "train")}
        inputs["train"]["drop_condition"] = self.drop_condition
        return StageDir(self.workdir, "train", inputs | {"data": latents.inputs(self.config)})

    def original_folder(self) -> Path:
        config = self.config
        if config.model.folder:
            return Path(config.model.folder).expanduser()
        if not self.has_training:
            return _trained(config, config.unlearn.init_from)
        self.train_stage().done()
        return self.workdir / "train"

    def _model_folder(self) -> Path:
        """The diffusers folder of the original."""
        folder = self.original_folder()
        if self.config.model.folder:
            return folder
        artifacts.finished(folder)  # raises a UserError that names the stage to run
        return folder / "model"

    def checkpoint_fingerprint(self, folder: Path) -> str:
        if self.config.model.folder:
            return folder_fingerprint(folder)
        return super().checkpoint_fingerprint(folder)

    @property
    def original_params(self) -> Params:
        return self.model.params["unet"]

    def start_params(self) -> Params:
        return self.original_params

    def last_checkpoint(self) -> Checkpoint:
        folder = self.original_folder()
        if self.config.model.folder:
            return folder, None
        return folder, artifacts.finished(folder)["summary"]["steps"]

    def trajectory(self) -> list[Checkpoint]:
        folder = self.original_folder()
        if self.config.model.folder:
            raise UserError(
                f"config key posterior.source = 'trajectory': {folder} is a single checkpoint; use "
                "'runs', with older folders of its training in posterior.runs, or "
                "posterior.family = 'fisher'"
            )
        return [(folder, step) for step in self.trained_steps()]

    def trained_steps(self) -> list[int]:
        if self.config.model.folder:
            return []
        return artifacts.finished(self.original_folder())["summary"]["snapshots"]

    def runs(self) -> list[Checkpoint]:
        config, last = self.config, self.last_checkpoint()
        if config.model.folder:  # the last one of a trajectory
            return [*((Path(f).expanduser(), None) for f in config.posterior.runs), last]
        folders = [_trained(config, workdir) for workdir in config.posterior.runs]
        return [last, *((f, artifacts.finished(f)["summary"]["steps"]) for f in folders)]

    def load_snapshot(
        self, folder: Path, step: int | None, weights: str, like: Params = None
    ) -> Params:
        if step is not None:
            return super().load_snapshot(folder, step, weights, like)
        params, like = pipeline.read(folder).params["unet"], self.param_shapes
        if jax.tree.map(lambda a: a.shape, params) != jax.tree.map(lambda a: a.shape, like):
            raise UserError(f"{folder} holds another U-Net than the model to be unlearned")
        return params

    def load_parts(
        self, folder: Path, steps: Sequence[int | None], weights: str, count: int
    ) -> Iterator[tuple[int, Params]]:
        if None in steps:
            yield 0, self.load_snapshot(folder, None, weights)
        else:
            yield from super().load_parts(folder, steps, weights, count)

    def drawn_folder(self) -> Path:
        # A Stable Diffusion folder is the user's, or a cache; nothing is written into it.
        return (self.workdir if self.config.model.folder else self.original_folder()) / "drawn"

    # Training

    def check(self) -> None:
        feature_detectors.make(self.config)

    def prepare_training(self) -> None:
        _ = self._own_networks  # raises if they do not fit each other or the images
        unread = not artifacts.exists(self.train_stage().path / "inputs.json")
        if unread and not latents.has_classes(self.config):
            # An unreadable image is reported now, not in the middle of training.
            with progress.bar(len(self.captioned), "images", unit="image") as bar:
                for _ in captions.check_images(self.captioned):
                    bar.update(1)

    @functools.cached_property
    def _own_networks(self) -> tuple[tokenizer.Vocabulary, dict[str, dict], dict[str, nn.Module]]:
        vocabulary = tokenizer.learn(self.captioned.captions)
        configs, modules = networks.of_config(self.config, len(vocabulary.tokens))
        networks.check_images(configs, modules, self.captioned)
        return vocabulary, configs, modules

    def make_ready(self, path: Path) -> dict[str, Any]:
        vocabulary, configs, modules = self._own_networks
        length, captioned = modules["text_encoder"].max_length, self.captioned
        tokenizer.write(vocabulary, path / "tokenizer", length)
        tokenize = tokenizer.load(path / "tokenizer", length)
        autoencoder, result = self._fit_autoencoder(modules["vae"], path / "autoencoder")
        if not artifacts.exists(path / LATENTS):
            made = networks.encode(modules["vae"], autoencoder, captioned, "latents")
            artifacts.write_npz(path / LATENTS, latents=made)
        made = artifacts.read_npz(path / LATENTS)["latents"]
        scaling = 1.0 / float(made.std())
        params = {"vae": autoencoder} | {
            name: networks.init_params(self.config, name, modules[name])
            for name in ("text_encoder", "unet")
        }
        where = "config key model.scheduler"
        named = pipeline.ABOUT["scheduler"]["_class_name"]
        diffusion = scheduler.read_noise(configs["scheduler"], where, named)
        self._model = pipeline.TextToImage(
            modules, params, tokenize, diffusion, scaling, made.shape[1:]
        )
        sizes = {name: posterior.num_parameters(tree) for name, tree in params.items()}
        return {"scaling": scaling, "parameters_of": sizes, "autoencoder_flops": result.flops}

    def export_trained(self, path: Path, params: Params) -> dict[str, Any]:
        vocabulary, configs, _ = self._own_networks
        scaled = configs["vae"] | {"scaling_factor": self.model.scaling}
        unet = parallel.fetch(self.load_snapshot(path, self.config.train.steps, self.weights))
        params = self.model.params | {"unet": unet}
        pipeline.create(path / "model", configs | {"vae": scaled}, params, vocabulary)
        return {}

    def _fit_autoencoder(self, module: nn.Module, path: Path) -> tuple[Params, FitResult]:
        """Train the autoencoder with `train.autoencoder`; returns its last parameters."""
        section, captioned = self.config.train, self.captioned
        settings = section.autoencoder

        def encode(params: Params, images: jax.Array) -> Any:
            return module.apply({"params": params}, images, method="encode")

        def decode(params: Params, latents: jax.Array) -> Any:
            return module.apply({"params": params}, latents, method="decode")

        params = networks.init_params(self.config, "vae", module)
        one = jax.ShapeDtypeStruct((1, *captioned.image_shape), np.float32)
        latent_shape = jax.eval_shape(encode, params, one).mean.shape[1:]
        result = fit(
            objectives.autoencoder(encode, decode, latent_shape, kl_weight=settings.kl_weight),
            params,
            {"retain": base.loader(captioned, settings.batch_size, section.seed)},
            optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, settings.steps)),
            key=jax.random.key(section.seed),
            num_steps=settings.steps,
            directory=path,
            snapshot_steps=[settings.steps],
            save_state_every=section.save_state_every,
            log_every=section.log_every,
            label="autoencoder",
            layout=base.layout(self.config),
        )
        like = parallel.placed(params, parallel.make_mesh())
        return base.restore(path, result.steps, "params", like), result

    # Data

    @functools.cached_property
    def captioned(self) -> captions.Captioned:
        return latents.captioned(self.config)

    @functools.cached_property
    def forget_retain(self) -> data.ForgetRetain:
        return latents.forget_retain(self.config, self.captioned)

    @property
    def trained_on(self) -> int:
        return len(self.captioned)

    @property
    def drop_condition(self) -> float:
        return self.config.condition.drop

    def source(self, kind: str) -> latents.LatentSource:
        """Latents of the training images, see `Task.source`.

        They are those that the model was trained on. For a model that was not trained here they
        are computed once and stored in `latents/`.
        """
        if kind == "all":
            indices = np.arange(len(self.captioned))
        else:
            indices = getattr(self.forget_retain, kind)
        return self._source(kind, indices, slice(None))

    def shown_again(self, count: int, seed: int) -> latents.LatentSource:
        forget = self.forget_retain.forget
        order = np.random.default_rng(seed).permutation(len(forget))[:count]
        return self._source("forget", forget, order)

    def _source(self, kind: str, indices: np.ndarray, some: Any) -> latents.LatentSource:
        if not len(indices):
            raise UserError("config key forget.phrase = '': no images remain to be retained")
        chosen = self.captioned.subset(indices)
        if self.config.model.folder:
            made = self._encoded(kind, chosen)
        else:
            made = artifacts.read_npz(self.original_folder() / LATENTS)["latents"][indices]
        made = made[some] * np.float32(self.model.scaling)
        texts = [chosen.captions[i] for i in np.arange(len(chosen))[some]]
        return latents.LatentSource(made, texts, self._embed)

    def _embed(self, prompts: Sequence[str]) -> np.ndarray:
        return networks.embed(self.model, prompts)

    def _encoded(self, kind: str, chosen: captions.Captioned) -> np.ndarray:
        inputs = latents.inputs(self.config)
        cache = self.stage(f"latents/{kind}", ("forget",), (base.ORIGINAL,), data=inputs)
        if not cache.done(overwrite=True):
            path, model = cache.begin(), self.model
            made = networks.encode(
                model.modules["vae"], model.params["vae"], chosen, f"{kind} latents"
            )
            artifacts.write_npz(path / LATENTS, latents=made)
            cache.finish({"images": len(chosen)})
        return artifacts.read_npz(cache.path / LATENTS)["latents"]

    def drawn_source(self, images: np.ndarray, request: Request) -> latents.LatentSource:
        return self._of_images(images, request.asked[0], "drawn latents")

    def replay_source(self, replay: Replay) -> latents.LatentSource:
        kept = np.flatnonzero(~replay.forget_like)
        prompts = self.request("replay").asked[0]
        return self._of_images(replay.images[kept], [prompts[i] for i in kept], "replay latents")

    def _of_images(
        self, images: np.ndarray, texts: Sequence[str], label: str
    ) -> latents.LatentSource:
        captioned = captions.Captioned(lambda some: images[some], tuple(texts), images.shape[1:])
        vae = self.model.modules["vae"], self.model.params["vae"]
        made = networks.encode(*vae, captioned, label) * np.float32(self.model.scaling)
        return latents.LatentSource(made, texts, self._embed)

    def batch_shapes(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        text = jax.ShapeDtypeStruct((count, *networks.text_shape(self.model)), jnp.float32)
        image = jax.ShapeDtypeStruct((count, *self.model.latent_shape), jnp.float32)
        return {"image": image, "cond": text, "negative": text}

    # Drawing

    def request(self, use: str) -> Request:
        config = self.config
        naming, others = tuple(config.forget.prompts), tuple(config.replay.prompts)
        if use == "posterior":
            every, count = (*naming, *others), config.posterior.fisher_images
            return _asking([every[i % len(every)] for i in range(count)], 1)
        prompts = {"replay": others, "curve": (*naming, *others), "relearn": naming}[use]
        return _asking(prompts, config[use].images)

    def requests(self) -> dict[str, Request]:
        section = self.config.evaluate
        kinds = {
            "feature": tuple(self.config.forget.prompts),
            "paraphrase": tuple(section.paraphrases),
            "other": tuple(section.other_prompts),
        }
        return {kind: _asking(some, section.images) for kind, some in kinds.items() if some}

    def draw(self, params: Params, request: Request, seed: int, label: str) -> np.ndarray:
        (prompts,) = request.asked
        distinct = ["", *dict.fromkeys(prompts)]
        texts = networks.embed(self.model, distinct)
        places = {prompt: place for place, prompt in enumerate(distinct)}
        params = {"unet": params, "vae": self.model.params["vae"], "negative": texts[:1]}
        rows = texts[[places[prompt] for prompt in prompts]]
        sampler = networks.make_sampler(self.config, self.model)
        return sampler(params, seed, request.count, label, rows)

    def shown(self, drawn: dict[str, np.ndarray], count: int) -> np.ndarray:
        """See `Task.shown`: one image of each prompt, the prompts that name the feature first."""
        each = self.config.evaluate.images
        return np.concatenate([images[::each] for images in drawn.values()])[:count]

    def drawing(self, count: int) -> tuple[Callable, Params, tuple]:
        draw = networks.draw_of_config(self.config, self.model)
        return draw, *networks.drawing_shapes(self.model, count)

    # Judging

    def clean(self, images: np.ndarray) -> tuple[Replay, dict[str, Any]]:
        """No image is forget-like, because no replay prompt names the feature."""
        return Replay(images, np.zeros(len(images), bool), {}), {}

    def replay_flops(self) -> float:
        return self.request("replay").count * networks.draw_flops(self.config, self.model)

    def curve_flops(self, points: int) -> float:
        """See `Task.curve_flops`; the detector's operations are not counted."""
        sets = points + 1  # the original's images are sampled, too
        count = self.request("curve").count
        return sets * count * networks.draw_flops(self.config, self.model)

    def scorer_inputs(self) -> dict[str, Any]:
        return {"detector": feature_detectors.inputs(self.config)}

    def scorer(self, original: Params, replay: Replay) -> Callable[[int, np.ndarray], Snapshot]:
        """See `Task.scorer`: snapshots are scored by the feature's detector and other images.

        The estimated PUL compares how often images of `forget.prompts` show the feature. The drift
        is the mean squared difference in [0, 4] between the images of `replay.prompts` from the
        snapshot and from the original, pixel by pixel from the same noise.
        """
        del original, replay
        section, has_feature = self.config.curve, feature_detectors.make(self.config)
        asked = len(self.config.forget.prompts) * section.images
        before = self.draw_original(self.request("curve"), section.seed, "curve")

        def rate(images: np.ndarray) -> float:
            return float((has_feature(images[:asked]) > 0.5).mean())

        original_rate = rate(before)

        def score(step: int, images: np.ndarray) -> Snapshot:
            gap = (images[asked:].astype(float) - before[asked:]) / 127.5
            drift = float(np.square(gap).mean())
            return make_snapshot(step, original_rate, rate(images), asked, drift)

        return score

    def evaluation_inputs(self) -> dict[str, Any]:
        return {
            "data": latents.inputs(self.config),
            "detector": feature_detectors.inputs(self.config),
            "replay": {"prompts": list(self.config.replay.prompts)},
            "evaluate": features.inputs(self.config),
            "classifier": (
                classifier.inputs(self.config) if latents.has_classes(self.config) else {}
            ),
        }

    def evaluator(
        self, original: dict[str, np.ndarray], overwrite: bool = False
    ) -> evaluator.TextEvaluator:
        return evaluator.TextEvaluator(self, original, overwrite)

    def relearning_inputs(self) -> dict[str, Any]:
        return self.scorer_inputs()

    def forget_rate(self, overwrite: bool = False) -> Callable[[np.ndarray], float]:
        del overwrite
        has_feature = feature_detectors.make(self.config)
        return lambda images: float((has_feature(images) > 0.5).mean())

    @property
    def subject(self) -> str:
        return repr(self.config.forget.phrase or "all captions")

    @property
    def columns(self) -> dict[str, str]:
        return {key: head for key, (head, _, _) in evaluator.COLUMNS.items()}

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        return evaluator.column_values(figures)

    def export(
        self,
        directory: Path,
        load: Callable[[], Params],
        origin: dict[str, Any],
        overwrite: bool,
    ) -> str:
        del origin
        if overwrite:
            raise UserError("--overwrite: a text-to-image model is written only to a new DIR")
        source = self._model_folder()
        left_out = pipeline.write(directory, source, {"unet": load()})
        if not left_out:
            return ""
        return f"not copied from {source}, for they may hold its weights: {', '.join(left_out)}"


def _asking(prompts: Sequence[str], each: int) -> Request:
    """The request of `each` images for each prompt."""
    asked = [prompt for prompt in prompts for _ in range(each)]
    return Request(len(asked), (asked,), {"prompts": list(prompts), "each": each})


def _trained(config: ConfigDict, workdir: str) -> Path:
    """The folder of a model that `vdu train` made in another workdir.

    Args:
      config: all settings.
      workdir: the other workdir.

    Raises:
      UserError: if it holds no model, or one of other networks than the config's.
    """
    folder = Path(workdir) / "train"
    if not artifacts.exists(folder / "inputs.json"):
        raise UserError(f"{workdir} holds no model: run `vdu train` there first")
    recorded = artifacts.read_json(folder / "inputs.json")
    for key, value in artifacts.flatten("", {"model": config.model.to_dict()}).items():
        if key != "model.dtype" and recorded.get(key) != value:
            raise UserError(
                f"config key {key} = {value!r}: the model in {folder} has "
                f"{recorded.get(key)!r}; set it to that"
            )
    return folder


def folder_fingerprint(directory: Path) -> str:
    """A hash of the files of a folder's U-Net, autoencoder and text encoder."""
    files = sorted(
        path
        for part in ("unet", "vae", "text_encoder")
        for path in (Path(directory) / part).glob("*")
        if path.is_file()
    )
    return artifacts.fingerprint(
        {str(p.relative_to(directory)): artifacts.file_hash(p) for p in files}
    )
