"""Read and write model folders of Hugging Face diffusers with a `UNet2DModel`.

    DIR/model_index.json
    DIR/unet/config.json                            (or the files of unet/ in DIR itself)
    DIR/unet/diffusion_pytorch_model.safetensors    (or a variant, or shards: see `weights`)
    DIR/unet_ema/…                                  (the moving average; optional)
    DIR/scheduler/scheduler_config.json
    DIR/vdu_jax.json                                (in exports of vdu-jax: config and checksums)

The last file has a checksum of every tensor. It finds a tensor that was damaged, exchanged or
permuted later, even if its shape is right.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import contents, kinds, scheduler, tensors, unet2d
from vdu_jax.interop import weights as weight_files
from vdu_jax.runtime import artifacts

ARCHITECTURE = "unet"  # `model.name` of the networks in these folders
ORIGIN = "vdu_jax.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET_FOLDERS = {"params": "unet", "ema": "unet_ema"}
# Version of diffusers whose format is written; its readers only require that one is named.
DIFFUSERS_VERSION = "0.33.0"


class ModelFolder(NamedTuple):
    """A network and its noise schedule, with config settings and the tensors as stored.

    Attributes:
      settings: the sections "model", "diffusion" and "sampler" of a config. The last two are empty
        without a scheduler's file, because the noise schedule is then unknown.
      image_shape: (H, W, C); H = W = 0 if the folder does not say.
      tensors: see `tensors.TensorFile`.
      metadata: see `tensors.TensorFile`.
      weights: the tensors' file or the index of their shards, relative to the folder.
      texts: contents of the JSON files, by path relative to the folder.
      shards: see `weights.Stored`.
      notes: lines for the user on choices that were made, and on differences from the folder.
    """

    settings: Mapping[str, Mapping[str, Any]]
    image_shape: tuple[int, int, int]
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    weights: str
    texts: dict[str, str]
    shards: dict[str, dict[str, Any]] = {}
    notes: tuple[str, ...] = ()


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """Read a JSON object.

    Args:
      path: the file.

    Returns:
      (object, text of the file).

    Raises:
      UserError: if the file is missing or holds anything else.
    """
    try:
        text = path.read_bytes().decode("utf-8")  # `read_text` would change the line ends
        value = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        content = contents.look(path) if path.is_file() else None
        if content is not None and content.kind in ("empty", "lfs", "html"):
            raise UserError(f"{path} is {content.what}: {content.do}") from error
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
        raise kinds.refuse_folder(directory, kinds.READS_PIXELS)
    return directory


def read(directory: Path, weights: str = "params", variant: str | None = "") -> ModelFolder:
    """Read the folder of a pipeline, or of a single `UNet2DModel`.

    Args:
      directory: the folder, DIR in the module's docstring.
      weights: "params" for unet/, "ema" for unet_ema/.
      variant: variant of the tensors' files; see `weights.find`.

    Raises:
      UserError: naming the file, key or tensor that is missing, damaged or can't be expressed, or
        the kind of a model that cannot be read.
    """
    directory = Path(directory)
    if directory.is_file():
        raise kinds.refuse_file(directory, kinds.READS_PIXELS)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    texts: dict[str, str] = {}
    index: dict[str, Any] = {}
    notes: list[str] = []

    def load(path: Path) -> dict[str, Any]:
        value, texts[path.relative_to(directory).as_posix()] = read_json(path)
        return value

    if (directory / "model_index.json").is_file():
        index = load(directory / "model_index.json")
        kinds.check_pixels(index, directory / "model_index.json")
    elif around := kinds.index_around(directory):
        kinds.check_not_latent(*around)
    elif latents := [n for n in kinds.LATENT_NAMES if (directory / n).is_dir()]:
        raise UserError(
            f"{directory} has a folder {latents[0]}: its network works on latents: "
            f"{kinds.READS_PIXELS}"
        )
    network = _network_folder(directory, weights)
    config = load(network / "config.json")
    if kind := kinds.describe_network(config):
        do = kinds.USE_TEXT if "text-to-image" in kind else kinds.READS_PIXELS
        raise UserError(f"{network / 'config.json'} belongs to {kind}: {do}")
    model, image_shape = unet2d.read_config(config, network / "config.json")
    settings = {"model": model, "diffusion": {}, "sampler": {}}
    path = scheduler_file(directory, index)
    if path is not None:
        read = scheduler.read_config(load(path), path, scheduler_class(index))
        settings["diffusion"], settings["sampler"] = read.diffusion, read.sampler
        notes += read.notes
    if rows := model["num_class_embeds"]:
        notes.append(
            f"the network has {rows} classes. If the data has one less, the last one stands for no "
            "class, as guidance needs: leave condition.drop above 0. Else set it to 0"
        )
    files = weight_files.find(network, WEIGHTS, variant)
    if files.shards:
        load(files.file)
    if files.variant and not variant:
        notes.append(f"{files.file}: the variant {files.variant}, the only weights in its folder")
    if files.others and not variant:
        others = " and ".join(files.others)
        notes.append(f"{files.file} is read; --variant selects {others} instead")
    if weights == "params" and (directory / UNET_FOLDERS["ema"]).is_dir():
        notes.append(f"{network} is read; --weights=ema selects the moving average instead")
    stored = weight_files.read(files)
    if (directory / ORIGIN).is_file() and weights == "params":
        _check_origin(load(directory / ORIGIN), stored.tensors, directory / ORIGIN, files.file)
    relative = files.file.relative_to(directory).as_posix()
    return ModelFolder(
        settings, image_shape, stored.tensors, stored.metadata, relative, texts, stored.shards,
        tuple(notes),
    )  # fmt: skip


def scheduler_class(index: Mapping[str, Any]) -> str | None:
    """Class of the scheduler that a model_index.json names; None if it names none."""
    parts = kinds.components(index)
    return next((parts[name] for name in kinds.SCHEDULERS if name in parts), None)


def scheduler_file(directory: Path, index: Mapping[str, Any]) -> Path | None:
    """Path of a pipeline's scheduler_config.json.

    Args:
      directory: the pipeline's folder.
      index: its model_index.json; empty for a network alone.

    Returns:
      The file in the scheduler's folder or in `directory`; None if there is none.

    Raises:
      UserError: if the index names a scheduler that has no file.
    """
    name = "scheduler_config.json"
    for path in (*(directory / part / name for part in kinds.SCHEDULERS), directory / name):
        if path.is_file():
            return path
    if scheduler_class(index) is not None:
        raise UserError(
            f"{directory / 'scheduler' / name} is missing, which model_index.json names: get the "
            "model again"
        )
    return None


def _check_origin(
    origin: Mapping[str, Any], stored: Mapping[str, np.ndarray], where: Path, file: Path
) -> None:
    expected, sums = origin.get("sha256"), tensors.checksums(stored)
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
    """Make the folder of a trained model, for `DDPMPipeline.from_pretrained`.

    A class-conditional model has no model_index.json, because no pipeline of diffusers passes a
    class to a UNet2DModel; its parts can be loaded one by one.

    Args:
      settings: the sections "model", "diffusion" and "sampler" of its config.
      image_shape: (H, W, C).
      named: tensors by their names in PyTorch.
      origin: JSON object for vdu_jax.json: where the model comes from.
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
    if settings["model"]["num_class_embeds"]:
        del files["model_index.json"]
    files = {name: value | version for name, value in files.items()}
    files[ORIGIN] = dict(origin) | {"sha256": tensors.checksums(named)}
    texts = {name: artifacts.dumps(value) + "\n" for name, value in files.items()}
    return ModelFolder(
        dict(settings), image_shape, dict(named), {"format": "pt"}, f"unet/{WEIGHTS}", texts
    )


def write(directory: Path, model: ModelFolder, overwrite: bool = False) -> None:
    """Write a model's folder atomically.

    Args:
      directory: the folder.
      model: its contents.
      overwrite: whether to replace the folder of another model.

    Raises:
      UserError: if `directory` exists and is no model, or exists without `overwrite`.
    """
    directory = Path(directory)
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already: name another folder, or use --overwrite")
    if directory.exists() and not (directory / model.weights).is_file():
        raise UserError(
            f"{directory} is no exported model, so it is not overwritten: name another folder"
        )
    with artifacts.atomic_folder(directory) as temporary:
        for name, text in model.texts.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")
        file = temporary / model.weights
        weight_files.write(file.parent, file.name, model.tensors, model.metadata, model.shards)
