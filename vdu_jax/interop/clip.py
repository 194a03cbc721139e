"""CLIP from a folder of transformers (`CLIPModel.save_pretrained`), with its tokenizer.

DIR/config.json, DIR/model.safetensors
DIR/vocab.json, DIR/merges.txt    or tokenizer.json
DIR/preprocessor_config.json      mean and deviation of the pixels; optional
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from vdu_jax.errors import UserError
from vdu_jax.interop import folder, stable_diffusion, tokenizer, unet2d, weights
from vdu_jax.models import clip
from vdu_jax.types import Params

WEIGHTS = "model.safetensors"
# Mean and deviation of pixels in [0, 1], as published with CLIP.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Model(NamedTuple):
    """CLIP with its parameters, tokenizer and pixel statistics.

    Attributes:
      module: the network; see `models.clip`.
      params: its parameters.
      tokenize: see `tokenizer.Tokenize`.
      mean: (3,) mean of the training pixels, in [0, 1].
      deviation: (3,) standard deviation of the training pixels.
    """

    module: clip.CLIP
    params: Params
    tokenize: tokenizer.Tokenize
    mean: np.ndarray
    deviation: np.ndarray

    def preprocess(self, images: np.ndarray) -> np.ndarray:
        """Crop images to the central square, resize them (bicubic) and normalise them.

        Args:
          images: (N, H, W, 3 or 1) uint8 in [0, 255].

        Returns:
          (N, S, S, 3) float32, S the network's image size.
        """
        side = self.module.vision.image_size
        resized = np.empty((len(images), side, side, 3), np.float32)
        for row, pixels in zip(resized, images, strict=True):
            image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
            row[:] = np.asarray(fitted)
        return (resized / 255.0 - self.mean) / self.deviation


def read_config(config: Mapping[str, Any], where: Path | str) -> clip.CLIP:
    """Make the network of a `config.json`.

    Unknown keys are ignored, because old versions of transformers wrote many that change nothing.

    Args:
      config: the `config.json`.
      where: its path, for errors.

    Raises:
      UserError: naming the key, if our network can't express its value.
    """
    whole = stable_diffusion.Reader(config, where, ["CLIPModel"])
    whole.one_of("model_type", ["clip"])
    text, vision = (config.get(f"{tower}_config") or {} for tower in ("text", "vision"))
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise UserError(f"{where}: text_config and vision_config must be objects")
    read = stable_diffusion.Reader(vision, f"{where}, vision_config", ["CLIPVisionModel"])
    read.one_of("num_channels", [3])
    size, patch = read.count("image_size", 224), read.count("patch_size", 32)
    if size % patch:
        raise read.refuse("patch_size", f"it must divide image_size = {size}")
    settings = stable_diffusion.tower_settings(
        read, hidden_size=768, intermediate_size=3072, num_heads=12
    )
    tower = clip.VisionEncoder(image_size=size, patch_size=patch, **settings)
    known = {key: text[key] for key in stable_diffusion.TEXT_KEYS if key in text}
    return clip.CLIP(
        vision=tower,
        text=stable_diffusion.read_text_encoder(known, f"{where}, text_config"),
        projection_size=whole.count("projection_dim", 512),
    )


def tensor_name(path: tuple[str, ...], attention: Mapping[str, str] = unet2d.MODERN) -> str:
    """Name in transformers of a parameter.

    Args:
      path: the parameter's path, e.g. ("vision", "layers_0", "mlp_fc1", "kernel").
      attention: not used; see `unet2d.tensor_name`.
    """
    del attention
    tower, *rest = path
    if tower not in ("text", "vision"):
        return stable_diffusion.text_name(path)
    if rest[0] in ("class_embedding", "patch_embedding"):
        rest[0] = f"embeddings.{rest[0]}"
    return f"{tower}_model.{stable_diffusion.text_name(tuple(rest))}"


PART = stable_diffusion.Part(
    WEIGHTS, read_config, clip.init_params, tensor_name, stable_diffusion.is_position
)


def read(directory: Path) -> Model:
    """Read CLIP from a folder.

    Args:
      directory: the folder, DIR in the module's docstring.

    Raises:
      UserError: naming the file, key or tensor that is missing, damaged or can't be expressed.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder")
    config, _ = folder.read_json(directory / "config.json")
    module = read_config(config, str(directory / "config.json"))
    files = weights.find(directory, WEIGHTS)
    params = PART.to_params(module, weights.read(files, PART.ignored).tensors, str(files.file))
    mean, deviation = MEAN, DEVIATION
    if (directory / "preprocessor_config.json").is_file():
        where = directory / "preprocessor_config.json"
        said, _ = folder.read_json(where)
        mean, deviation = said.get("image_mean", mean), said.get("image_std", deviation)
        for key, value in (("image_mean", mean), ("image_std", deviation)):
            if not unet2d.same_kind(value, [1.0]) or len(value) != 3:
                raise UserError(f"{where}: {key} = {value!r}: it must be three numbers")
    statistics = np.array(mean, np.float32), np.array(deviation, np.float32)
    tokenize = tokenizer.load(directory, module.text.max_length)
    return Model(module, params, tokenize, *statistics)
