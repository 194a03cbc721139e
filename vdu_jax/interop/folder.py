"""Model folders of Hugging Face diffusers, read and written.

    DIR/model_index.json
    DIR/unet/config.json                                  (or all of it in DIR itself)
    DIR/unet/diffusion_pytorch_model.safetensors
    DIR/unet_ema/…                                        (the moving average, if there is one)
    DIR/scheduler/scheduler_config.json
    DIR/vdu_jax.json                                      (of our own models: where they come from)

The last holds a checksum of every tensor, so that one that was damaged, exchanged or permuted
later is found even where its shape tells nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import scheduler, tensors, unet2d
from vdu_jax.runtime import artifacts

ORIGIN = "vdu_jax.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET_FOLDERS = {"params": "unet", "ema": "unet_ema"}
# What diffusers of this version wrote; its readers only ask that there is one.
DIFFUSERS_VERSION = "0.33.0"


class ModelFolder(NamedTuple):
    """One network and its schedule, in our settings and with the tensors as stored.

    Attributes:
      settings: "model", "diffusion" and "sampler", as in a config; without a scheduler's file the
        latter two are empty.
      image_shape: (H, W, C); H = W = 0 if the folder does not say.
      tensors, metadata: see `tensors.TensorFile`.
      weights: the tensors' file, relative to the folder.
      texts: the JSON files that were read, by their paths relative to the folder.
    """

    settings: dict[str, dict]
    image_shape: tuple[int, int, int]
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    weights: str
    texts: dict[str, str]


def read_json(path: Path) -> tuple[dict, str]:
    """A JSON object in a file, and the file's text.

    Raises:
      UserError: if it is missing or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value, text


def _network_folder(directory: Path, weights: str) -> Path:
    inside = directory / UNET_FOLDERS[weights]
    if inside.is_dir():
        return inside
    if weights == "ema":
        raise UserError(f"{directory} has no folder unet_ema: it keeps no moving average")
    if not (directory / "config.json").is_file():
        raise UserError(
            f"{directory} is no diffusers model: neither unet/ nor config.json is there"
        )
    return directory


def weights_file(network: Path, name: str = WEIGHTS) -> Path:
    """The file with a network's tensors; where there is none of that name, its variant fp16.

    Raises:
      UserError: if there is neither.
    """
    variant = name.replace(".safetensors", ".fp16.safetensors")
    for found in (network / name, network / variant):
        if found.is_file():
            return found
    pickled = [p for p in sorted(network.glob("*")) if p.suffix in tensors.PICKLES]
    if pickled:
        tensors.refuse_pickle(pickled[0], network / name)
    if (network / f"{name}.index.json").is_file():
        raise UserError(
            f"{network} holds its weights in several files: save the model again with "
            "max_shard_size above its size"
        )
    raise UserError(f"{network / name}: no such file")


def read(directory: Path, weights: str = "params") -> ModelFolder:
    """Read a pipeline's folder, or that of a plain `UNet2DModel`.

    Args:
      weights: "params" for unet/, "ema" for unet_ema/.

    Raises:
      UserError: naming the file, key or tensor that is missing, damaged or can't be expressed.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    network = _network_folder(directory, weights)
    texts = {}

    def load(path: Path) -> dict:
        value, texts[path.relative_to(directory).as_posix()] = read_json(path)
        return value

    model, image_shape = unet2d.read_config(load(network / "config.json"), network / "config.json")
    settings = {"model": model, "diffusion": {}, "sampler": {}}
    if (directory / "model_index.json").is_file():
        load(directory / "model_index.json")
    for path in (
        directory / "scheduler" / "scheduler_config.json",
        directory / "scheduler_config.json",
    ):
        if path.is_file():
            settings["diffusion"], settings["sampler"] = scheduler.read_config(load(path), path)
            break
    file = weights_file(network)
    stored = tensors.read(file)
    relative = file.relative_to(directory).as_posix()
    if (directory / ORIGIN).is_file() and weights == "params":
        _check_origin(load(directory / ORIGIN), stored.tensors, directory / ORIGIN, file)
    return ModelFolder(settings, image_shape, stored.tensors, stored.metadata, relative, texts)


def _check_origin(origin: dict, found: Mapping[str, np.ndarray], where: Path, file: Path) -> None:
    expected, sums = origin.get("sha256"), tensors.checksums(found)
    if not isinstance(expected, dict):
        raise UserError(f"{where} is damaged: it has no sha256 of the tensors")
    for name in sorted(expected.keys() & sums.keys()):
        if sums[name] != expected[name]:
            raise UserError(
                f"{file}: tensor {name} is not the one that was exported (its checksum is in "
                f"{where}): get it again"
            )


def pipeline(
    settings: Mapping[str, Mapping[str, Any]],
    image_shape: tuple[int, int, int],
    named: Mapping[str, np.ndarray],
    origin: Mapping[str, Any],
) -> ModelFolder:
    """The folder of a model of ours, which `DDPMPipeline.from_pretrained` loads.

    Args:
      origin: JSON-able: where the model comes from.
    """
    version = {"_diffusers_version": DIFFUSERS_VERSION}
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    files = {
        "model_index.json": index,
        "unet/config.json": unet2d.write_config(settings["model"], image_shape),
        "scheduler/scheduler_config.json": scheduler.write_config(
            settings["diffusion"], settings["sampler"]
        ),
    }
    files = {name: value | version for name, value in files.items()}
    files[ORIGIN] = dict(origin) | {"sha256": tensors.checksums(named)}
    texts = {name: artifacts.dumps(value) + "\n" for name, value in files.items()}
    return ModelFolder(
        dict(settings), image_shape, dict(named), {"format": "pt"}, f"unet/{WEIGHTS}", texts
    )


def write(directory: Path, model: ModelFolder, overwrite: bool = False) -> None:
    """Write a folder, whole or not at all.

    Raises:
      UserError: if there is something at `directory` already and `overwrite` is off, or something
        that is no model.
    """
    directory = Path(directory)
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already: name another folder, or --overwrite")
    if directory.exists() and not (directory / model.weights).is_file():
        raise UserError(f"{directory} is no exported model: it is not overwritten")
    with artifacts.atomic_folder(directory) as temporary:
        for name, text in model.texts.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")
        tensors.write(temporary / model.weights, model.tensors, model.metadata)
