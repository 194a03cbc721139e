"""Model folders of Hugging Face diffusers, read and written.

    DIR/model_index.json
    DIR/unet/config.json                                  (or all of it in DIR itself)
    DIR/unet/diffusion_pytorch_model.safetensors          (or a variant, or shards: see `weights`)
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
from vdu_jax.interop import contents, kinds, scheduler, tensors, unet2d
from vdu_jax.interop import weights as weight_files
from vdu_jax.runtime import artifacts

ARCHITECTURE = "unet"  # the only `model.name` that these folders hold
ORIGIN = "vdu_jax.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET_FOLDERS = {"params": "unet", "ema": "unet_ema"}
# What diffusers of this version wrote; its readers only ask that there is one.
DIFFUSERS_VERSION = "0.33.0"


class ModelFolder(NamedTuple):
    """One network and its schedule, in our settings and with the tensors as stored.

    Attributes:
      settings: "model", "diffusion" and "sampler", as in a config; without a scheduler's file the
        latter two are empty: the noise schedule is not known.
      image_shape: (H, W, C); H = W = 0 if the folder does not say.
      tensors, metadata: see `tensors.TensorFile`.
      weights: the tensors' file or the index of their shards, relative to the folder.
      texts: the JSON files that were read, by their paths relative to the folder.
      shards: see `weights.Stored`.
      notes: lines on what was chosen, or is not as the folder says.
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
    """A JSON object in a file, and the file's text.

    Raises:
      UserError: if it is missing or holds anything else.
    """
    try:
        text = path.read_bytes().decode("utf-8")  # with its ends of lines
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
    """Read a pipeline's folder, or that of a plain `UNet2DModel`.

    Args:
      weights: "params" for unet/, "ema" for unet_ema/.
      variant: of the tensors' files; see `weights.find`.

    Raises:
      UserError: naming the file, key or tensor that is missing, damaged or can't be expressed, or
        what kind of model it is that cannot be read.
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
        raise UserError(f"{network / 'config.json'} is of {kind}: {do}")
    model, image_shape = unet2d.read_config(config, network / "config.json")
    settings = {"model": model, "diffusion": {}, "sampler": {}}
    path = scheduler_file(directory, index)
    if path is not None:
        read = scheduler.read_config(load(path), path, scheduler_class(index))
        settings["diffusion"], settings["sampler"] = read.diffusion, read.sampler
        notes += read.notes
    if rows := model["num_class_embeds"]:
        notes.append(
            f"the network knows {rows} classes. If the data has one less, the last one says "
            "nothing, which guidance needs: leave condition.drop above 0. Else set it to 0"
        )
    files = weight_files.find(network, WEIGHTS, variant)
    if files.shards:
        load(files.file)
    if files.variant and not variant:
        notes.append(f"{files.file}: the variant {files.variant}, the only weights in its folder")
    if files.others and not variant:
        others = " and ".join(files.others)
        notes.append(f"{files.file} is read; {others} is there too, for --variant")
    if weights == "params" and (directory / UNET_FOLDERS["ema"]).is_dir():
        notes.append(f"{network} is read; the moving average is there too, for --weights=ema")
    stored = weight_files.read(files)
    if (directory / ORIGIN).is_file() and weights == "params":
        _check_origin(load(directory / ORIGIN), stored.tensors, directory / ORIGIN, files.file)
    relative = files.file.relative_to(directory).as_posix()
    return ModelFolder(
        settings, image_shape, stored.tensors, stored.metadata, relative, texts, stored.shards,
        tuple(notes),
    )  # fmt: skip


def scheduler_class(index: Mapping[str, Any]) -> str | None:
    """The class of the scheduler that a model_index.json names."""
    parts = kinds.components(index)
    return next((parts[name] for name in kinds.SCHEDULERS if name in parts), None)


def scheduler_file(directory: Path, index: Mapping[str, Any]) -> Path | None:
    """The scheduler's file of a pipeline, in a folder of its own or beside the network's files.

    Raises:
      UserError: if the pipeline's index names a scheduler and there is no file of one.
    """
    name = "scheduler_config.json"
    for path in (*(directory / part / name for part in kinds.SCHEDULERS), directory / name):
        if path.is_file():
            return path
    if scheduler_class(index) is not None:
        raise UserError(
            f"{directory / 'scheduler' / name} is missing, which model_index.json names: get it "
            "again"
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
    """The folder of a model of ours, which `DDPMPipeline.from_pretrained` loads.

    Of a class-conditional one the parts alone: no pipeline there tells a UNet2DModel a class.

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
    if settings["model"]["num_class_embeds"]:
        del files["model_index.json"]
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
        file = temporary / model.weights
        weight_files.write(file.parent, file.name, model.tensors, model.metadata, model.shards)
