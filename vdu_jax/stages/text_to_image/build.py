"""From config sections to the pieces that the stages share."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as images_config
from vdu_jax import data
from vdu_jax.data import captions, phrases
from vdu_jax.diffusion import guidance, samplers
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline, stable_diffusion
from vdu_jax.models import network
from vdu_jax.runtime import artifacts, parallel, progress, sampling
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.stages import build
from vdu_jax.types import Params, ScoreFn

ENCODE_BATCH = 50  # images or prompts at once
LATENTS = "latents.npz"


def as_images(config: ConfigDict) -> ConfigDict:
    """A config of images with the same data set and classifier."""
    made = images_config.default()
    keys = ["name", "dir", "manual_dir", "cache_mb"]
    if config.data.name == "image_folder":
        keys += ["image_size", "channels", "background"]
    for key in keys:
        made.data[key] = config.data[key]
    made.classifier, made.parallel = config.classifier, config.parallel
    return made


def captioned(config: ConfigDict) -> captions.Captioned:
    """The images that the model was trained on, or the user's own."""
    section = config.data
    if section.name == "captions":
        found = captions.of_folder(
            _own_folder(config),
            section.image_size,
            section.channels,
            section.caption_column,
            section.background,
        )
        build.report_once(found.account)
        return found
    as_dataset = as_images(config)
    found = build.dataset(as_dataset)
    source = build.open_split(as_dataset, found, "train")
    synonyms, seed = section.synonyms.to_dict(), section.caption_seed
    return captions.of_classes(source, found.class_names, section.templates, synonyms, seed)


def _own_folder(config: ConfigDict) -> Path:
    return Path(config.data.manual_dir).expanduser()


def forget_retain(config: ConfigDict, found: captions.Captioned) -> data.ForgetRetain:
    """Indices of the images whose caption has the phrase, and of all others.

    Raises:
      UserError: if no caption has it, or all have.
    """
    section = config.forget
    has = [not section.phrase or phrases.mentions(c, section.phrase) for c in found.captions]
    near = [
        caption
        for caption, whole in zip(found.captions, has, strict=True)
        if not whole and phrases.contains(caption, section.phrase)
    ]
    if near:
        build.report_once(
            f"forget.phrase = {section.phrase!r}: {sum(has)} of {len(has)} captions have it; "
            f"{len(near)} more have it as a part of other words, as {near[0]!r}, and are retained"
        )
    if not any(has):
        raise UserError(f"config key forget.phrase = {section.phrase!r}: no caption has it")
    if section.phrase and all(has):
        raise UserError(
            f"config key forget.phrase = {section.phrase!r}: every caption has it; set it to '' "
            "if all of the images are to be forgotten"
        )
    # With one more that is retained, for there may be no other.
    labels, limits = np.array([*has, False], np.int64), dict(section.items())
    limits = {key: limits[key] for key in ("fraction", "limit", "seed")}
    forget, retain = data.forget_retain_indices(labels, (1,), num_classes=2, **limits)
    return data.ForgetRetain(forget, retain[:-1])


def data_inputs(config: ConfigDict) -> dict:
    """What of `config.data` changes results: not where files lie, but what the captions are."""
    values = config.data.to_dict()
    keys = ("name", "image_size", "channels", "templates", "synonyms", "caption_seed")
    found = {key: values[key] for key in keys}
    if config.data.name == "captions":
        found["captions"] = artifacts.file_hash(captions.metadata_file(_own_folder(config)))
        if config.data.caption_column != captions.COLUMN:
            found["caption_column"] = config.data.caption_column
    if config.data.background:
        found["background"] = config.data.background
    return found


def own_networks(
    config: ConfigDict, vocab_size: int
) -> tuple[dict[str, dict], dict[str, nn.Module]]:
    """The config.json files of a model of one's own, and the networks that they describe.

    Args:
      vocab_size: of the tokenizer, which is learned from the captions.

    Raises:
      UserError: for a setting that can't be expressed, or networks that do not fit each other.
    """
    configs = {
        name: {key: list(v) if isinstance(v, tuple) else v for key, v in section.items()}
        for name, section in config.model.to_dict().items()
        if name not in ("name", "folder", "dtype")
    }
    configs["text_encoder"]["vocab_size"] = vocab_size
    modules = {
        name: part.read_config(pipeline.ABOUT[name] | configs[name], f"config key model.{name}")
        for name, part in stable_diffusion.PARTS.items()
    }
    pipeline.check_fit("config key model", modules)
    return configs, in_dtype(config, modules)


def in_dtype(config: ConfigDict, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The networks, with a U-Net that computes as the config says."""
    how = {"dtype": jnp.dtype(config.model.dtype), "attention": config.parallel.attention}
    return dict(modules) | {"unet": modules["unet"].clone(**how)}


def train_stage(config: ConfigDict, workdir: Path) -> StageDir:
    """The folder of `train`."""
    inputs = {s: config[s].to_dict() for s in ("model", "train")}
    inputs["train"]["drop_condition"] = config.condition.drop
    return StageDir(workdir, "train", inputs | {"data": data_inputs(config)})


def original_folder(config: ConfigDict, workdir: Path) -> Path:
    """The folder of the model to be unlearned.

    Raises:
      UserError: if it is to be trained and has not been.
    """
    if config.model.folder:
        return Path(config.model.folder).expanduser()
    stage = train_stage(config, workdir)
    if not stage.done():
        artifacts.finished(stage.path)  # says what to do
    return stage.path / "model"


def folder_fingerprint(directory: Path) -> str:
    """What a model's folder holds: a hash of its U-Net, autoencoder and text encoder."""
    files = sorted(
        path
        for part in ("unet", "vae", "text_encoder")
        for path in (Path(directory) / part).glob("*")
        if path.is_file()
    )
    return artifacts.fingerprint(
        {str(p.relative_to(directory)): artifacts.file_hash(p) for p in files}
    )


def stage(
    config: ConfigDict, workdir: Path, name: str, sections: Sequence[str], upstream=(), **more: Any
) -> StageDir:
    """A stage's folder, keyed by the model, and by config sections and finished stages."""
    inputs = {s: config[s].to_dict() for s in sections} | more
    if "sampler" in sections:
        inputs["sampler"]["guidance"] = config.condition.guidance
    inputs["upstream"] = {u: artifacts.upstream(workdir, u)["fingerprint"] for u in upstream}
    inputs["upstream"]["model"] = folder_fingerprint(original_folder(config, workdir))
    inputs["dtype"] = config.model.dtype
    return StageDir(workdir, name, inputs)


def original(config: ConfigDict, workdir: Path) -> pipeline.TextToImage:
    """The model to be unlearned, from its folder."""
    model = pipeline.read(original_folder(config, workdir))
    return model._replace(modules=in_dtype(config, model.modules))


def restore(folder: Path, step: int, name: str, like: Params) -> Params:
    """The parameters that `fit` saved as `name` in a folder, of the shapes of `like`."""
    like = parallel.placed(like, parallel.make_mesh())
    with Store(folder / "snapshots", read_only=True) as store:
        return store.restore(step, name, like)


def parameterization(model: pipeline.TextToImage) -> Parameterization:
    """What the U-Net predicts, at the levels of the model's own noise schedule."""
    return build.parameterization_of(model.diffusion)


def score_fn(model: pipeline.TextToImage, remat: bool = False) -> ScoreFn:
    """The U-Net as it is; its condition is a text's embeddings (B, L, D).

    Args:
      remat: compute a block's activations again for its gradients.
    """
    return network.make_score_fn(model.modules["unet"].clone(remat=remat))


def embed(model: pipeline.TextToImage, prompts: Sequence[str]) -> np.ndarray:
    """The text encoder's embeddings of prompts, (N, L, D) float32."""
    apply = _embedder(model.modules["text_encoder"])
    params, rows = {"params": model.params["text_encoder"]}, []
    for first in range(0, len(prompts), ENCODE_BATCH):
        tokens = model.tokenize(list(prompts[first : first + ENCODE_BATCH]))
        padded = np.pad(tokens, ((0, ENCODE_BATCH - len(tokens)), (0, 0)), mode="edge")
        rows.append(np.asarray(apply(params, padded), np.float32)[: len(tokens)])
    return np.concatenate(rows)


@functools.lru_cache(maxsize=4)
def _embedder(module: nn.Module) -> Callable:
    return jax.jit(module.apply)


@functools.lru_cache(maxsize=4)
def _encoder(module: nn.Module) -> Callable:
    return jax.jit(lambda params, x: module.apply({"params": params}, x, method="encode").mean)


def encode(vae, params: Params, found: captions.Captioned, label: str) -> np.ndarray:
    """The means of the images' latents, (N, h, w, channels) float32, not scaled."""
    apply, rows = _encoder(vae), []
    with progress.bar(len(found), label, unit="image") as bar:
        for first in range(0, len(found), ENCODE_BATCH):
            part = np.arange(first, min(first + ENCODE_BATCH, len(found)))
            whole = np.pad(part, (0, ENCODE_BATCH - len(part)), mode="edge")
            rows.append(np.asarray(apply(params, found.batch(whole)["image"]))[: len(part)])
            bar.update(len(part))
    return np.concatenate(rows)


class LatentSource:
    """Latents with their texts' embeddings, in memory, for `data.make_loader`.

    A batch is {"image": (n, h, w, channels), "cond", "negative": (n, L, D)}, the last of an empty
    prompt. Each text is kept once.

    Args:
      latents: (N, h, w, channels), scaled. texts: N of them.
      embed: texts -> (M, L, D).
    """

    def __init__(self, latents: np.ndarray, texts: Sequence[str], embed: Callable):
        distinct = ["", *sorted(set(texts))]
        places = {text: place for place, text in enumerate(distinct)}
        self.positions = np.arange(len(latents))
        self._latents, self._table = latents, embed(distinct)
        self._places = np.array([places[text] for text in texts])

    def __len__(self) -> int:
        return len(self._latents)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See the class."""
        negative = np.broadcast_to(self._table[:1], (len(indices), *self._table.shape[1:]))
        return {
            "image": self._latents[indices],
            "cond": self._table[self._places[indices]],
            "negative": np.ascontiguousarray(negative),
        }


def latent_source(
    config: ConfigDict, workdir: Path, model: pipeline.TextToImage, kind: str
) -> LatentSource:
    """D_f ("forget") or D_r ("retain").

    Its latents are those that the model was trained on; of a model that was not trained here they
    are computed once and kept in `latents/`.
    """
    found = captioned(config)
    indices = getattr(forget_retain(config, found), kind)
    if not len(indices):
        raise UserError("config key forget.phrase = '': no images remain to be retained")
    chosen = found.subset(indices)
    if config.model.folder:
        latents = _encoded(config, workdir, model, kind, chosen)
    else:
        file = train_stage(config, workdir).path / LATENTS
        latents = artifacts.read_npz(file)["latents"][indices]
    latents = latents * np.float32(model.scaling)
    return LatentSource(latents, chosen.captions, lambda texts: embed(model, texts))


def _encoded(
    config: ConfigDict,
    workdir: Path,
    model: pipeline.TextToImage,
    kind: str,
    chosen: captions.Captioned,
) -> np.ndarray:
    inputs = data_inputs(config)
    cache = stage(config, workdir, f"latents/{kind}", ("forget",), data=inputs)
    if not cache.done(overwrite=True):
        path = cache.begin()
        latents = encode(model.modules["vae"], model.params["vae"], chosen, f"{kind} latents")
        artifacts.write_npz(path / LATENTS, latents=latents)
        cache.finish({"images": len(chosen)})
    return artifacts.read_npz(cache.path / LATENTS)["latents"]


def make_draw(
    model: pipeline.TextToImage, steps: int, scale: float, name: str = "ddim", **how: Any
):
    """`(params, keys, text) -> images` in [-1, 1], text (B, L, D) the embeddings of their prompts.

    The params are those of the U-Net and of the autoencoder under their names, and "negative"
    (1, L, D), the embedding of what the images are to be kept away from.

    Args:
      scale: of guidance. name, how: of the sampler; see `samplers.make_plan`.
    """
    vae, predicts = model.modules["vae"], parameterization(model)
    predict = guidance.guided(predicts.noise_predictor(score_fn(model)), scale)
    plan = samplers.make_plan(predicts.schedule, name, steps, **how)

    def draw(params: Params, keys: jax.Array, text: jax.Array) -> jax.Array:
        cond = text, jnp.repeat(params["negative"], len(keys), axis=0)
        latents = samplers.sample(
            predict, params["unet"], plan, keys, model.latent_shape, clip_x0=False, cond=cond
        )
        images = vae.apply({"params": params["vae"]}, latents / model.scaling, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    return draw


def drawer(config: ConfigDict, model: pipeline.TextToImage) -> Callable:
    """`draw(unet_params, prompts, count, seed, label)`: uint8 images (P, count, H, W, C), `count`
    of each of P prompts.

    The same images of a call have the same noise, whatever the model.
    """
    # All that is compiled for, in a form that can be looked up.
    drawn_by = model._replace(
        modules=tuple(model.modules.items()),
        params=(),
        tokenize=None,
        diffusion=tuple(model.diffusion.items()),
    )
    scale, settings = config.condition.guidance, tuple(config.sampler.items())
    sampler = _sampler(drawn_by, scale, settings, config.parallel.fsdp)

    def draw(unet_params: Params, prompts: Sequence[str], count: int, seed: int, label: str):
        texts = embed(model, ["", *prompts])
        params = {"unet": unet_params, "vae": model.params["vae"], "negative": texts[:1]}
        rows = np.repeat(texts[1:], count, axis=0)
        images = sampler(params, seed, len(rows), label, rows)
        return images.reshape(len(prompts), count, *images.shape[1:])

    return draw


@functools.lru_cache(maxsize=4)
def _sampler(model: pipeline.TextToImage, scale: float, settings: tuple, fsdp: int) -> Callable:
    model = model._replace(modules=dict(model.modules), diffusion=dict(model.diffusion))
    values = dict(settings)
    how = {key: values[key] for key in ("eta", "spacing", "variance")}
    draw = make_draw(model, values["steps"], scale, values["name"], **how)
    size = values["batch_size"]
    return sampling.make_sampler(draw, model.image_shape, batch_size=size, fsdp=fsdp)


def prompts_of(config: ConfigDict) -> Mapping[str, tuple[str, ...]]:
    """The prompts that models are judged by: "feature", "paraphrase" and "other"."""
    return {
        "feature": tuple(config.forget.prompts),
        "paraphrase": tuple(config.evaluate.paraphrases),
        "other": tuple(config.evaluate.other_prompts),
    }
