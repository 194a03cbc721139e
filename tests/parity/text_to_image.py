"""A folder of Stable Diffusion's structure, as small as it can be, with random numbers in it."""

import json

from vdu_jax.interop import clip, pipeline, stable_diffusion, tensors
from vdu_jax.parity import inputs

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.'!"
MERGES = ["r e", "re d</w>", "b a", "ba g</w>", "s h", "o e</w>", "sh oe</w>", "t h", "th e</w>"]
INDEX = pipeline.INDEX | {"_diffusers_version": "0.33.0"}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


def vocabulary():
    """Letters within and at the end of a word, what merges make of them, and the two marks."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    tokens += ["".join(merge.split()) for merge in MERGES]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write_tokenizer(directory, pad_token="<|endoftext|>"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary()))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    marks |= {"unk_token": "<|endoftext|>", "pad_token": pad_token}
    (directory / "special_tokens_map.json").write_text(json.dumps(marks))
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, "do_lower_case": True}
    (directory / "tokenizer_config.json").write_text(json.dumps(about | marks))


def write_clip(directory, seed=51):
    """What `CLIPModel.from_pretrained` and `interop.clip` read."""
    write_tokenizer(directory)
    config = inputs.CLIP | {"model_type": "clip"}
    end = len(vocabulary()) - 1
    config["text_config"] = config["text_config"] | {"vocab_size": end + 1, "eos_token_id": end}
    (directory / "config.json").write_text(json.dumps(config))
    drawn = inputs.tensors(clip.PART.tensor_shapes(clip.read_config(config, "clip")), seed)
    tensors.write(directory / clip.WEIGHTS, drawn, {"format": "pt"})
    return directory


def write_folder(directory, seed=50):
    """Everything that `StableDiffusionPipeline.from_pretrained` and `vdu generate` read."""
    write_tokenizer(directory / "tokenizer")
    text_encoder = inputs.GUIDED["text_encoder"] | {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": len(vocabulary()),
    }
    configs = {
        "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 8} | inputs.GUIDED["unet"],
        "vae": {"_class_name": "AutoencoderKL", "sample_size": 64} | inputs.AUTOENCODER,
        "text_encoder": text_encoder,
    }
    for name, config in configs.items():
        part = stable_diffusion.PARTS[name]
        (directory / name).mkdir(exist_ok=True)
        (directory / name / "config.json").write_text(json.dumps(config))
        shapes = part.tensor_shapes(part.read_config(config, name))
        drawn = inputs.tensors(shapes, seed)
        if name == "text_encoder":
            drawn = {f"{stable_diffusion.TEXT_PREFIX}{k}": v for k, v in drawn.items()}
        tensors.write(directory / name / part.weights, drawn, {"format": "pt"})
    (directory / "scheduler").mkdir(exist_ok=True)
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (directory / "model_index.json").write_text(json.dumps(INDEX))
    return directory
