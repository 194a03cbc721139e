"""Models of other kinds, each refused by what it is, wherever a model is named."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from vdu_jax.errors import UserError
from vdu_jax.interop import folder, kinds, pipeline

PARTS = {
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}
VAE = {"vae": ["diffusers", "AutoencoderKL"]}
TEXT = {"text_encoder": ["transformers", "CLIPTextModel"]}
TRANSFORMER = {"transformer": ["diffusers", "Transformer2DModel"]}


def write_index(directory, name, parts):
    directory.mkdir()
    (directory / "model_index.json").write_text(json.dumps({"_class_name": name} | parts))
    return directory


@pytest.mark.parametrize(
    ("name", "parts", "said"),
    [
        ("LDMPipeline", PARTS | {"vqvae": ["diffusers", "VQModel"]}, "latents of an autoencoder"),
        ("DDPMPipeline", PARTS | {"vqvae": ["diffusers", "VQModel"]}, "latents of its vqvae"),
        ("DDPMPipeline", PARTS | VAE, "latents of its vae"),
        ("DDIMPipeline", PARTS | {"first": ["diffusers", "AutoencoderTiny"]}, "its first"),
        ("MyPipeline", PARTS | VAE, "latents of its vae"),
        (["mine", "MyPipeline"], PARTS, "unknown pipeline.*import .*unet where it is one"),
        (None, PARTS, "unknown pipeline"),
        (3, PARTS, "unknown pipeline"),
        ("StableDiffusionPipeline", VAE | TEXT, "text-to-image .*`vdu generate`.* model.folder"),
        ("StableDiffusion3Pipeline", VAE | TRANSFORMER, r"transformer \(SD 3\)"),
        ("FluxPipeline", VAE | TRANSFORMER, r"transformer \(Flux\)"),
        ("PixArtAlphaPipeline", VAE | TRANSFORMER, r"transformer \(PixArt\)"),
        ("DiTPipeline", VAE | TRANSFORMER, r"class-conditional transformer .*\(DiT\)"),
        ("StableDiffusionXLPipeline", VAE | TEXT, r"two text encoders \(SDXL\)"),
        ("StableDiffusionInpaintPipeline", VAE | TEXT, "image-to-image"),
        ("HunyuanDiTSomethingPipeline", VAE | TRANSFORMER, "network is a transformer"),
        ("ScoreSdeVePipeline", PARTS, "variance-exploding"),
        ("ConsistencyModelPipeline", PARTS, "consistency model"),
        ("SomethingNewPipeline", PARTS | TEXT, "takes text"),
        (
            "DDPMPipeline",
            PARTS | {"controlnet": ["diffusers", "ControlNetModel"]},
            "controlnet = C",
        ),
        ("DDPMPipeline", PARTS | {"surprise": 3}, "surprise = 3"),
    ],
)
def test_a_pipeline_that_is_not_on_pixels_is_named(tmp_path, name, parts, said):
    directory = write_index(tmp_path / "m", name, parts)
    with pytest.raises(UserError, match=said) as refused:
        folder.read(directory)
    assert str(directory / "model_index.json") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [*kinds.PIXELS, "DDPM", "DDIM"])
def test_pixel_pipelines_and_their_old_names(pipeline_dir, edit_json, name):
    more = {"vae": None, "other": [None, None], "id2label": None, "requires_safety_checker": False}
    edit_json(pipeline_dir / "model_index.json", _class_name=name, **more)
    assert folder.read(pipeline_dir).image_shape == (8, 8, 1)


def test_the_first_versions_of_diffusers(pipeline_dir, edit_json):
    """Names of June 2022."""
    (pipeline_dir / "scheduler").rename(pipeline_dir / "noise_scheduler")
    index = {
        "_class_name": "DDPM",
        "_module": "modeling_ddpm.py",
        "noise_scheduler": ["diffusers", "GaussianDDPMScheduler"],
        "unet": ["diffusers", "UNetModel"],
    }
    (pipeline_dir / "model_index.json").write_text(json.dumps(index))
    edit_json(pipeline_dir / "unet" / "config.json", _class_name="UNetModel")
    where = pipeline_dir / "noise_scheduler" / "scheduler_config.json"
    edit_json(where, _class_name="GaussianDDPMScheduler")
    model = folder.read(pipeline_dir)
    assert model.settings["sampler"]["name"] == "ddpm" and model.notes == ()


def test_the_network_of_a_latent_pipeline_is_refused_alone_too(pipeline_dir):
    index = {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]} | PARTS
    (pipeline_dir / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="latents"):
        folder.read(pipeline_dir / "unet")
    (pipeline_dir / "model_index.json").unlink()
    folder.read(pipeline_dir)
    (pipeline_dir / "vqvae").mkdir()
    with pytest.raises(UserError, match="has a folder vqvae: its network works on latents"):
        folder.read(pipeline_dir)


def test_a_scheduler_that_the_index_names_must_be_there(pipeline_dir):
    (pipeline_dir / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(UserError, match=r"scheduler_config\.json is missing, which model_index"):
        folder.read(pipeline_dir)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "the network of a text-to-image model"),
        ({"_class_name": "FluxTransformer2DModel"}, "a transformer"),
        ({"_class_name": "AutoencoderKL"}, "an autoencoder"),
        ({"_class_name": "VQModel"}, "an autoencoder"),
        ({"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}, "a text encoder"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "a model of transformers"),
        ({"peft_type": "LORA"}, "an adapter"),
    ],
)
def test_a_network_of_another_kind_is_named(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for read in (folder.read, pipeline.read):
        with pytest.raises(UserError, match=rf"config\.json belongs to {said}"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "original layout: .*from_single_file"),
        ("conditioner.embedders.0.weight", "single-file checkpoint of SDXL"),
        ("model.diffusion_model.joint_blocks.0.x", "single-file checkpoint of SD 3"),
        ("double_blocks.0.img_attn.weight", "single-file checkpoint of Flux"),
        ("lora_unet_down_blocks.weight", "a LoRA"),
        ("unet.down_blocks.0.to_q.lora.up.weight", "a LoRA"),
        ("input_blocks.0.0.weight", "guided-diffusion"),
        ("down_blocks.0.resnets.0.conv1.weight", "a network's weights alone"),
        ("weight", "unknown layout"),
    ],
)
def test_single_files_are_named_by_their_tensors(tmp_path, name, said):
    path = tmp_path / "model.safetensors"
    save_file({name: np.zeros(2, np.float32)}, path)
    for read in (folder.read, pipeline.read, pipeline.read_networks):
        with pytest.raises(UserError, match=rf"model\.safetensors is .*{said}"):
            read(path)
    with pytest.raises(UserError, match=said):  # the only thing in a folder
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("v1-5.ckpt", b"PK\x03\x04", "in one pickle.*from_single_file"),
        ("v1-5.ckpt", b"\x80\x02", "in one pickle.*from_single_file"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("x.safetensors", b"junk", "damaged or no safetensors file"),
        ("config.json", b"{}", "is one file of a model: name its folder"),
        ("model_index.json", b"{}", "is one file of a model: name its folder"),
        ("notes.txt", b"hello", "is not a folder"),
        ("model.zip", b"PK\x03\x04", "is not a folder"),
        ("page", b"<html>", "is an HTML page"),
    ],
)
def test_a_file_where_a_folder_is_needed(tmp_path, file, content, said):
    (tmp_path / file).write_bytes(content)
    for read in (folder.read, pipeline.read):
        with pytest.raises(UserError, match=said) as refused:
            read(tmp_path / file)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["transformer/config.json"], "network is a transformer"),
        (["pytorch_lora_weights.safetensors"], "an adapter"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter"),
        (["import/inputs.json"], "a workdir of vdu: name it in train.init_from"),
        (["refs/main", "snapshots/abc/x"], "a cache folder of the Hugging Face Hub: .*abc"),
        (["checkpoint-500/x", "checkpoint-1000/x"], "a training run: .*checkpoint-1000$"),
        (["unet_ema/config.json"], "--weights=ema"),
        (["scheduler_config.json"], "scheduler_config.json alone"),
        (["v1-5-pruned.ckpt"], "in one pickle"),
        (["thesis.txt"], "neither unet/ nor config.json"),
    ],
)
def test_a_folder_without_a_model_is_named(tmp_path, files, said):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=said):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "parts", "said"),
    [
        ("FluxPipeline", VAE | TRANSFORMER, "'FluxPipeline' is .*Flux.*must be a StableDiffu"),
        ("StableDiffusionXLPipeline", VAE | TEXT, "SDXL"),
        ("DDPMPipeline", PARTS, "unconditional model, which takes no text.*`vdu import`"),
        ("LDMPipeline", PARTS | VAE, "latents of an autoencoder"),
        ("StableDiffusionPipeline", {"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet"),
    ],
)
def test_what_turns_no_text_to_images_here_is_named(tmp_path, name, parts, said):
    directory = write_index(tmp_path / "m", name, parts)
    for read in (pipeline.read, pipeline.read_networks):
        with pytest.raises(UserError, match=said):
            read(directory)
