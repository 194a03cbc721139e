"""Detect the kind of model in a folder or file, and refuse other kinds by name."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from vdu_jax.errors import CONFIGS, UserError
from vdu_jax.interop import contents, tensors
from vdu_jax.interop.unet2d import says_nothing

PIXELS = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
TEXT = "StableDiffusionPipeline"
# Class names of the first versions -> current names.
RENAMED = {"DDPM": "DDPMPipeline", "DDIM": "DDIMPipeline", "PNDM": "PNDMPipeline"}
READS_PIXELS = (
    f"`vdu import` reads a UNet2DModel on pixels, in a {', '.join(PIXELS[:2])} or "
    f"{PIXELS[2]}, or its folder alone"
)
READS_TEXT = f"a text-to-image model must be a {TEXT} (Stable Diffusion 1 or 2)"
USE_TEXT = (
    "give the pipeline's folder to `vdu generate`, or to model.folder of a text-to-image config, "
    f"such as tinted_fashion.py of {CONFIGS}"
)
USE_PIXELS = "import it with `vdu import`"
# (pattern of a pipeline's class, kind of model); the first that fits counts.
PIPELINES = (
    (r"StableDiffusionPipeline$", "a text-to-image model (Stable Diffusion 1 or 2)"),
    (r"StableDiffusion3", "a text-to-image model whose network is a transformer (SD 3)"),
    (r"StableDiffusionXL", "a text-to-image model with two text encoders (SDXL)"),
    (r"Flux", "a text-to-image model whose network is a transformer (Flux)"),
    (r"PixArt", "a text-to-image model whose network is a transformer (PixArt)"),
    (r"DiTPipeline$", "a class-conditional transformer on the latents of an autoencoder (DiT)"),
    (r"LDMTextToImage", "a text-to-image model on the latents of an autoencoder (LDM)"),
    (r"LDM", "a model on the latents of an autoencoder (LDM)"),
    (r"ScoreSdeVe|KarrasVe", "a model of a variance-exploding process"),
    (r"LatentConsistency", "a text-to-image model distilled to few steps (LCM)"),
    (r"ConsistencyModel", "a consistency model"),
    (r"ControlNet", "a model that is controlled by an image (ControlNet)"),
    (
        r"Inpaint|Img2Img|ImageToImage|Upscale|Pix2Pix|Depth2Img|Variation",
        "an image-to-image model",
    ),
    (r"Video|AnimateDiff|CogVideo|Wan|LTX", "a video model"),
    (r"Audio|Music", "an audio model"),
    (r"Kandinsky|Wuerstchen|Cascade|UnCLIP|^IF", "a text-to-image model of several networks"),
)
# (pattern of a network's class, kind of network); the first that fits counts.
NETWORKS = (
    (r"^UNet2DConditionModel$", "the network of a text-to-image model"),
    (r"Transformer|^DiT", "a transformer"),
    (r"^Autoencoder|^VQModel|^AsymmetricAutoencoder", "an autoencoder"),
    (r"^CLIP|^T5", "a text encoder"),
    (r"ControlNet", "a ControlNet"),
    (r"Scheduler$", "a scheduler's settings"),
)
LATENTS = re.compile(r"^(Asymmetric)?Autoencoder|^VQModel|DecoderVAE$|^Autoencoding")
LATENT_NAMES = ("vae", "vqvae", "vqgan", "vq_model", "movq")
SCHEDULERS = ("scheduler", "noise_scheduler")  # the latter in the first versions
# Parts of a StableDiffusionPipeline; the safety checker and its parts are ignored.
TEXT_PARTS = {
    "unet", "vae", "text_encoder", "tokenizer", *SCHEDULERS, "safety_checker", "feature_extractor",
    "image_encoder", "requires_safety_checker",
}  # fmt: skip


def pipeline_class(index: Mapping[str, Any]) -> Any:
    """Class of the pipeline that a model_index.json names, by its current name.

    Args:
      index: the model_index.json.

    Returns:
      The name; of a class of the user's own, [module, class], the class. Any other value of
      `_class_name` as it is, also None.
    """
    name = index.get("_class_name")
    if isinstance(name, list) and name and isinstance(name[-1], str):
        name = name[-1]
    return RENAMED.get(name, name) if isinstance(name, str) else name


def components(index: Mapping[str, Any]) -> dict[str, str]:
    """Parts of a pipeline by name: their classes, or the `repr` of a value that is no class."""
    parts = {}
    for name, value in index.items():
        if name.startswith("_") or says_nothing(value) or value == [None, None]:
            continue
        is_class = isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
        parts[name] = value[1] if is_class else repr(value)
    return parts


def latent_parts(index: Mapping[str, Any]) -> list[str]:
    """Names of a pipeline's autoencoders; with one, the network works on latents, not pixels."""
    return [
        name
        for name, kind in components(index).items()
        if name in LATENT_NAMES or LATENTS.search(kind)
    ]


def describe(index: Mapping[str, Any]) -> str:
    """Kind of model of a model_index.json, in words."""
    name, parts = pipeline_class(index), components(index)
    if isinstance(name, str) and name not in PIXELS:
        for pattern, what in PIPELINES:
            if re.search(pattern, name):
                return what
    latents = latent_parts(index)
    if any("Transformer" in kind for kind in parts.values()) or "transformer" in parts:
        return "a model whose network is a transformer"
    if any(part.startswith("text_encoder") for part in parts):
        return "a model that takes text"
    if latents:
        return f"a model on the latents of its {' and '.join(latents)}, not on pixels"
    if name in PIXELS:
        return "an unconditional model, which takes no text"
    return "an unknown pipeline"


def _refusal(where: Path, index: Mapping[str, Any], do: str) -> UserError:
    name = index.get("_class_name")
    return UserError(f"{where}: _class_name = {name!r} is {describe(index)}: {do}")


def check_pixels(index: Mapping[str, Any], where: Path) -> None:
    """Check that a model_index.json is that of an unconditional model on pixels.

    Args:
      index: the model_index.json.
      where: its path.

    Raises:
      UserError: naming the kind of any other model.
    """
    name, parts = pipeline_class(index), components(index)
    if name == TEXT:
        raise _refusal(where, index, USE_TEXT)
    alone = ""
    if "unet" in parts and not latent_parts(index) and parts.keys() <= {"unet", *SCHEDULERS}:
        alone = f"; import {where.parent / 'unet'} where it is one"
    if name not in PIXELS or latent_parts(index):
        raise _refusal(where, index, READS_PIXELS + alone)
    for part, kind in parts.items():
        if part not in ("unet", *SCHEDULERS):
            raise UserError(
                f"{where}: {part} = {kind}: an unconditional model on pixels has no such part: "
                f"{READS_PIXELS}"
            )


def check_not_latent(index: Mapping[str, Any], where: Path) -> None:
    """Check that the pipeline around a network has no autoencoder.

    Args:
      index: the pipeline's model_index.json.
      where: its path.

    Raises:
      UserError: naming the pipeline.
    """
    if pipeline_class(index) == TEXT:
        raise _refusal(where, index, USE_TEXT)
    if latent_parts(index):
        raise _refusal(where, index, READS_PIXELS)


def check_text(index: Mapping[str, Any], where: Path) -> None:
    """Check that a model_index.json is that of a `StableDiffusionPipeline`.

    Args:
      index: the model_index.json.
      where: its path.

    Raises:
      UserError: naming the kind of any other model.
    """
    name, parts = pipeline_class(index), components(index)
    if name in PIXELS and not latent_parts(index):
        raise _refusal(where, index, f"{READS_TEXT}; {USE_PIXELS}")
    if name != TEXT:
        raise _refusal(where, index, READS_TEXT)
    for part, kind in parts.items():
        if part not in TEXT_PARTS:
            raise UserError(f"{where}: {part} = {kind}: the part is not supported: {READS_TEXT}")


def describe_network(config: Mapping[str, Any]) -> str:
    """Kind of network of a config.json, in words; "" if it is unknown."""
    names = config.get("architectures")
    name = config.get("_class_name") or (names[0] if isinstance(names, list) and names else "")
    if "peft_type" in config:
        return "an adapter (LoRA), not a complete model"
    if isinstance(name, str):
        for pattern, what in NETWORKS:
            if re.search(pattern, name):
                return what
    known = "model_type" in config and "_class_name" not in config
    return "a model of transformers" if known else ""


def refuse_file(path: Path, reads: str) -> UserError:
    """The error for a file that is given in place of a model's folder.

    Args:
      path: the file.
      reads: the models that the command reads, in words.
    """
    if path.suffix == ".json":
        return UserError(f"{path} is one file of a model: name its folder, {path.parent}")
    content = contents.look(path)
    if content is not None and content.kind not in ("safetensors", "pickle", "zip"):
        return UserError(f"{path} is {content.what}: {content.do}; {reads}")
    if path.suffix == ".safetensors" or path.suffix in tensors.PICKLES:
        return UserError(f"{path} is {_single_file(path)}; {reads}")
    return UserError(f"{path} is not a folder: {reads}")


FROM_SINGLE = (
    "make a folder of it in PyTorch, with diffusers' StableDiffusionPipeline.from_single_file(FILE)"
    ".save_pretrained(DIR), and name that in model.folder or `vdu generate`"
)
# (pattern of a tensor's name, kind of file); the first that fits counts.
LAYOUTS = (
    (r"lora_|\.lora[._]", "a LoRA, which is not a complete model: merge it into its model first"),
    (r"double_blocks\.", "a single-file checkpoint of Flux, whose network is a transformer"),
    (r"joint_blocks\.", "a single-file checkpoint of SD 3, whose network is a transformer"),
    (r"^conditioner\.embedders\.", "a single-file checkpoint of SDXL, with two text encoders"),
    (
        r"^model\.diffusion_model\.input_blocks",
        f"a single-file checkpoint of Stable Diffusion's original layout: {FROM_SINGLE}",
    ),
    (r"^input_blocks\.", "a checkpoint of OpenAI's guided-diffusion layout, not of diffusers'"),
    (
        r"^(down_blocks|conv_in)\.",
        "a network's weights alone: name the folder that has its config",
    ),
)


def _single_file(path: Path) -> str:
    if path.suffix != ".safetensors":
        return (
            "a checkpoint in one pickle, which can run code when loaded; if it is Stable "
            f"Diffusion's, {FROM_SINGLE}"
        )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = list(file.keys())
    except safetensors.SafetensorError:
        return "damaged or no safetensors file: get it again"
    for pattern, what in LAYOUTS:
        if any(re.search(pattern, name) for name in names):
            return what
    return "a safetensors file of an unknown layout"


def refuse_folder(directory: Path, reads: str) -> UserError:
    """The error for a folder without a model.

    Args:
      directory: the folder.
      reads: the models that the command reads, in words.
    """

    def error(what: str, do: str) -> UserError:
        return UserError(f"{directory} is {what}: {do}")

    here = {p.name: p for p in sorted(directory.iterdir())}
    if "transformer" in here:
        return error("a model whose network is a transformer", reads)
    if "adapter_config.json" in here or any(
        "lora" in n and n.endswith(".safetensors") for n in here
    ):
        return error("an adapter (LoRA), not a complete model", "merge it into its model first")
    for stage in ("train", "import"):
        if (directory / stage / "inputs.json").is_file():
            do = "name it in train.init_from or unlearn.init_from, or `vdu export` its model"
            return error("a workdir of vdu", do)
    snapshots = sorted((directory / "snapshots").glob("*/"))
    if snapshots and "refs" in here:
        return error("a cache folder of the Hugging Face Hub", f"name {snapshots[-1]}")
    steps = [n for n in here if re.fullmatch(r"checkpoint-\d+", n)]
    if steps:
        last = max(steps, key=lambda name: int(name.rpartition("-")[2]))
        return error("the folder of a training run", f"name a checkpoint, such as {here[last]}")
    if "unet_ema" in here:
        return error("a model's moving average alone", "import it with --weights=ema")
    if "scheduler_config.json" in here:
        return error("no model, but scheduler_config.json alone", reads)
    single = [p for n, p in here.items() if n.endswith((".safetensors", ".ckpt")) and p.is_file()]
    if single:
        return refuse_file(single[0], reads)
    return UserError(
        f"{directory} is no diffusers model: it has neither unet/ nor config.json; {reads}"
    )


def index_around(directory: Path) -> tuple[dict[str, Any], Path] | None:
    """The model_index.json of the pipeline around a network's folder.

    Args:
      directory: the network's folder.

    Returns:
      (model_index.json, its path); None if the folder is not part of a pipeline.
    """
    where = directory.absolute().parent / "model_index.json"
    try:
        index = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(index, dict) or directory.absolute().name not in {*index, "unet_ema"}:
        return None
    return index, where
