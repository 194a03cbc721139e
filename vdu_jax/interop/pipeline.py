"""Read and write folders of diffusers' `StableDiffusionPipeline`.

DIR/model_index.json
DIR/unet/, DIR/vae/, DIR/text_encoder/    config.json and safetensors
DIR/tokenizer/                            see `tokenizer.load`
DIR/scheduler/scheduler_config.json       only the noise schedule is read
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from vdu_jax.errors import UserError
from vdu_jax.interop import (
    folder,
    kinds,
    layout,
    scheduler,
    stable_diffusion,
    tensors,
    tokenizer,
    weights,
)
from vdu_jax.runtime import artifacts
from vdu_jax.types import Params

SCALING = 0.18215  # default of the autoencoder's scaling_factor


class TextToImage(NamedTuple):
    """A text-to-image model: networks, parameters, tokenizer and noise schedule.

    Attributes:
      modules: networks, by the names of `stable_diffusion.PARTS`.
      params: their parameters, by the same names.
      tokenize: see `tokenizer.Tokenize`.
      diffusion: settings of the noise schedule, as `config.diffusion`.
      scaling: factor by which the U-Net's latents are larger than the autoencoder's.
      latent_shape: (h, w, channels) of the latents that the model was trained on.
    """

    modules: dict[str, nn.Module]
    params: dict[str, Params]
    tokenize: tokenizer.Tokenize
    diffusion: Mapping[str, Any]
    scaling: float
    latent_shape: tuple[int, int, int]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that the model was trained on."""
        vae, (height, width, _) = self.modules["vae"], self.latent_shape
        factor = 2 ** (len(vae.block_out_channels) - 1)
        return factor * height, factor * width, vae.channels


def read(directory: Path) -> TextToImage:
    """Read the folder of a pipeline.

    Args:
      directory: the folder, DIR in the module's docstring.

    Raises:
      UserError: naming the file, key or tensor that is missing, damaged or can't be expressed.
    """
    directory = Path(directory)
    if directory.is_file():
        raise kinds.refuse_file(directory, kinds.READS_TEXT)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    if not (directory / "model_index.json").is_file():
        raise _no_pipeline(directory)
    index, _ = folder.read_json(directory / "model_index.json")
    kinds.check_text(index, directory / "model_index.json")
    for inner in (*stable_diffusion.PARTS, "tokenizer", "scheduler"):
        if not (directory / inner).is_dir():
            raise UserError(f"{directory} has no folder {inner}: get the model again")
    configs, modules = read_networks(directory)
    params = {}
    for name, part in stable_diffusion.PARTS.items():
        files = weights.find(directory / name, part.weights)
        stored = weights.read(files, part.ignored).tensors
        params[name] = part.to_params(modules[name], stored, files.file)
    where = directory / "scheduler" / "scheduler_config.json"
    named = folder.scheduler_class(index)
    diffusion = scheduler.read_noise(folder.read_json(where)[0], where, named)
    return TextToImage(
        modules,
        params,
        tokenizer.load(directory / "tokenizer", modules["text_encoder"].max_length),
        diffusion,
        scaling_factor(configs["vae"], directory / "vae" / "config.json"),
        (
            *latent_sides(configs["unet"], directory / "unet" / "config.json"),
            modules["unet"].out_channels,
        ),
    )


def _no_pipeline(directory: Path) -> UserError:
    """The error for a folder without a model_index.json."""
    where = directory / "config.json"
    if where.is_file():
        kind = kinds.describe_network(folder.read_json(where)[0]) or "a single network"
        return UserError(
            f"{where} belongs to {kind}: name the pipeline's folder; {kinds.READS_TEXT}"
        )
    if (directory / "unet").is_dir():
        return UserError(
            f"{directory} is no diffusers pipeline: model_index.json is not there; "
            f"{kinds.READS_TEXT}"
        )
    return kinds.refuse_folder(directory, f"model_index.json is not there; {kinds.READS_TEXT}")


def scaling_factor(config: Mapping[str, Any], where: Path | str) -> float:
    """Factor of an autoencoder's latents.

    Args:
      config: the autoencoder's config.json.
      where: its path, for errors.

    Raises:
      UserError: if the factor is not a number > 0.
    """
    value = config.get("scaling_factor")
    value = SCALING if value is None else value
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UserError(f"{where}: scaling_factor = {value!r}: it must be a number > 0")
    return float(value)


def read_networks(directory: Path) -> tuple[dict[str, dict], dict[str, nn.Module]]:
    """Read the networks of a pipeline's folder, without their parameters.

    Args:
      directory: the folder.

    Returns:
      (config.json, linen module) of each network, two dicts by the names of
      `stable_diffusion.PARTS`.

    Raises:
      UserError: see `read`.
    """
    directory, configs, modules = Path(directory), {}, {}
    index = directory / "model_index.json"
    if directory.is_file():
        raise kinds.refuse_file(directory, kinds.READS_TEXT)
    if index.is_file():
        kinds.check_text(folder.read_json(index)[0], index)
    for name, part in stable_diffusion.PARTS.items():
        where = directory / name / "config.json"
        configs[name], _ = folder.read_json(where)
        modules[name] = part.read_config(configs[name], where)
    check_fit(directory, modules)
    return configs, modules


def check_fit(where: Path | str, modules: Mapping[str, nn.Module]) -> None:
    """Check that the networks of a model fit together.

    Args:
      where: the model's folder, for errors.
      modules: networks, by the names of `stable_diffusion.PARTS`.

    Raises:
      UserError: if the latents or the text embeddings of two networks differ in size.
    """
    unet, vae, text = (modules[name] for name in ("unet", "vae", "text_encoder"))
    for what, one, other in (
        ("channels of the latents", unet.out_channels, ("vae", vae.latent_channels)),
        ("width of a token's embedding", unet.text_width, ("text_encoder", text.hidden_size)),
    ):
        if one != other[1]:
            raise UserError(
                f"{where}: {what}: {one} in unet, {other[1]} in {other[0]}; take the networks of "
                "one model"
            )


def latent_sides(config: Mapping[str, Any], where: Path | str) -> tuple[int, int]:
    """Height and width of the latents that a U-Net was trained on.

    Args:
      config: the U-Net's config.json.
      where: its path, for errors.

    Raises:
      UserError: if `sample_size` is neither one nor two whole numbers in 1..4096.
    """
    size = config.get("sample_size") or 64
    sides = list(size) if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(s) is int and 1 <= s <= 4096 for s in sides):
        raise UserError(f"{where}: sample_size = {size!r}: it must be one or two whole numbers")
    height, width = sides
    return height, width


def write(directory: Path, source: Path, params: Mapping[str, Params]) -> list[str]:
    """Copy a pipeline's folder with other parameters in some of its networks, atomically.

    Tensors keep their names, types, files and metadata, so with the parameters of `source` the new
    folder has the same bytes. Files that could hold the source's weights are not copied beside new
    ones: other variants of a network, single files, and folders that are no part of the pipeline,
    such as unet_ema/ or .git/.

    Args:
      directory: the new folder.
      source: the folder to copy.
      params: new parameters by network, e.g. {"unet": …}.

    Returns:
      The files and folders that were not copied, relative to `source`.

    Raises:
      UserError: if `directory` exists, or `source` cannot be read.
    """
    directory, source = Path(directory), Path(source)
    if directory.exists():
        raise UserError(f"{directory} exists already: name another folder")
    files = {
        name: weights.find(source / name, stable_diffusion.PARTS[name].weights) for name in params
    }
    index, _ = folder.read_json(source / "model_index.json")
    skipped = _not_copied(source, kinds.components(index), files)
    with artifacts.atomic_folder(directory) as temporary:
        shutil.copytree(
            source,
            temporary,
            dirs_exist_ok=True,
            ignore=lambda at, names: [n for n in names if Path(at, n) in skipped],
        )
        for name, tree in params.items():
            part = stable_diffusion.PARTS[name]
            stored = weights.read(files[name], part.ignored)
            named = part.to_tensors(tree, stored.tensors)
            file = files[name].file.name
            weights.write(temporary / name, file, named, stored.metadata, stored.shards)
    return sorted(path.relative_to(source).as_posix() for path in skipped)


def _not_copied(
    source: Path, parts: Mapping[str, str], networks: Mapping[str, weights.Found]
) -> set[Path]:
    """Paths in a pipeline's folder that a copy with new weights for `networks` must not have."""
    skipped = {
        path
        for path in source.iterdir()
        if (path.is_dir() and path.name not in parts)
        or (path.is_file() and weights.is_weights(path.name))
    }
    for name, files in networks.items():
        kept = {files.file.name, *files.shards}
        skipped |= {
            path
            for path in (source / name).iterdir()
            if path.name not in kept and (path.is_dir() or weights.is_weights(path.name))
        }
    return skipped


# model_index.json of a new folder.
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# Entries of the parts' config.json in a new folder, beside their settings.
ABOUT: dict[str, dict[str, Any]] = {
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderKL"},
    "text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"},
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,  # diffusers warns without it, and ignores it with this spacing
        "timestep_spacing": "trailing",
    },
}


def create(
    directory: Path,
    configs: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Params],
    vocabulary: tokenizer.Vocabulary,
) -> None:
    """Write the folder of a new model atomically; an existing `directory` is replaced.

    Args:
      directory: the folder.
      configs: the config.json of each of `stable_diffusion.PARTS`, and of "scheduler".
      params: the parameters of each of `stable_diffusion.PARTS`.
      vocabulary: the tokenizer's vocabulary.
    """
    version = {"_diffusers_version": folder.DIFFUSERS_VERSION}
    with artifacts.atomic_folder(directory) as temporary:
        for name, config in configs.items():
            file = "scheduler_config.json" if name == "scheduler" else "config.json"
            artifacts.write_json(temporary / name / file, ABOUT[name] | dict(config) | version)
        for name, tree in params.items():
            part = stable_diffusion.PARTS[name]
            named = layout.to_pytorch(tree, part.tensor_name)
            tensors.write(temporary / name / part.weights, named, {"format": "pt"})
        max_length = configs["text_encoder"]["max_position_embeddings"]
        tokenizer.write(vocabulary, temporary / "tokenizer", max_length)
        artifacts.write_json(temporary / "model_index.json", INDEX | version)
