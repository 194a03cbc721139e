"""Folders of diffusers' `StableDiffusionPipeline`: read, written with other parameters, made new.

DIR/model_index.json
DIR/unet/, DIR/vae/, DIR/text_encoder/       config.json and safetensors
DIR/tokenizer/                               see `tokenizer.load`
DIR/scheduler/scheduler_config.json          its noise schedule alone; how to sample is ours
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

SCALING = 0.18215  # of the autoencoders whose config.json does not say


class TextToImage(NamedTuple):
    """The networks of a folder with their parameters, and what goes with them.

    Attributes:
      modules, params: by the names of `stable_diffusion.PARTS`.
      tokenize: see `tokenizer.Tokenize`.
      diffusion: as `config.diffusion`.
      scaling: the networks' latents are the autoencoder's times this.
      latent_shape: (h, w, channels) of the images that the model was trained on.
    """

    modules: dict[str, nn.Module]
    params: dict[str, Params]
    tokenize: tokenizer.Tokenize
    diffusion: Mapping[str, Any]
    scaling: float
    latent_shape: tuple[int, int, int]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        vae, (height, width, _) = self.modules["vae"], self.latent_shape
        factor = 2 ** (len(vae.block_out_channels) - 1)
        return factor * height, factor * width, vae.channels


def read(directory: Path) -> TextToImage:
    """Read a folder.

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
        return UserError(f"{where} is of {kind}: name the pipeline's folder; {kinds.READS_TEXT}")
    if (directory / "unet").is_dir():
        return UserError(
            f"{directory} is no diffusers pipeline: model_index.json is not there; "
            f"{kinds.READS_TEXT}"
        )
    return kinds.refuse_folder(directory, f"model_index.json is not there; {kinds.READS_TEXT}")


def scaling_factor(config: Mapping[str, Any], where: Path | str) -> float:
    """What an autoencoder's latents are multiplied by.

    Raises:
      UserError: if its config.json says no number > 0.
    """
    value = config.get("scaling_factor")
    value = SCALING if value is None else value
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UserError(f"{where}: scaling_factor = {value!r}: it must be a number > 0")
    return float(value)


def read_networks(directory: Path) -> tuple[dict[str, dict], dict[str, nn.Module]]:
    """The config.json of each network of a folder, and the networks, without their parameters.

    Raises:
      UserError: as `read`.
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
    """Raises: UserError, naming `where`, if the networks are not made for each other."""
    unet, vae, text = (modules[name] for name in ("unet", "vae", "text_encoder"))
    for what, one, other in (
        ("channels of the latents: unet", unet.out_channels, ("vae", vae.latent_channels)),
        (
            "numbers of a token's embedding: unet",
            unet.text_width,
            ("text_encoder", text.hidden_size),
        ),
    ):
        if one != other[1]:
            raise UserError(f"{where}: {what} has {one} and {other[0]} {other[1]}")


def latent_sides(config: Mapping[str, Any], where: Path | str) -> tuple[int, int]:
    """Height and width of the latents that a U-Net was trained on.

    Raises:
      UserError: if its config.json says neither one nor two numbers.
    """
    size = config.get("sample_size") or 64
    sides = list(size) if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(s) is int and 1 <= s <= 4096 for s in sides):
        raise UserError(f"{where}: sample_size = {size!r}: it must be one or two whole numbers")
    height, width = sides
    return height, width


def write(directory: Path, source: Path, params: Mapping[str, Params]) -> list[str]:
    """The folder `source` with other parameters in some of its networks, whole or not at all.

    The rest of the pipeline is copied as it is, and tensors keep their names, types, files and
    metadata: with the parameters that were read, the new folder has the same bytes. Nothing that
    could hold the source's weights is copied beside new ones: other variants of a network, single
    files, and folders that are no part of the pipeline, such as unet_ema/ or .git/.

    Args:
      params: of networks by name, e.g. {"unet": …}.

    Returns:
      The files and folders that were not copied, relative to `source`.

    Raises:
      UserError: if there is something at `directory` already, or `source` cannot be read.
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
    """What of a pipeline's folder is left out of one with new weights for `networks`."""
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


# Classes of a pipeline's parts, as its model_index.json names them.
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
# What all parts of a new folder say beside their settings.
ABOUT: dict[str, dict[str, Any]] = {
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderKL"},
    "text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"},
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,  # diffusers asks for it, and with this spacing does nothing with it
        "timestep_spacing": "trailing",
    },
}


def create(
    directory: Path,
    configs: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Params],
    vocabulary: tokenizer.Vocabulary,
) -> None:
    """A new folder, whole or not at all; what was at `directory` is replaced.

    Args:
      configs: what is to stand in the config.json of each of `stable_diffusion.PARTS`, and in the
        scheduler's.
      params: of each of them.
      vocabulary: of the tokenizer.
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
