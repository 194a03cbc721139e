"""`vdu generate`, on a folder of Stable Diffusion's structure with random numbers in it."""

import json
import shutil

import numpy as np
import pytest
import text_to_image
from PIL import Image
from safetensors.numpy import save_file

from vdu_jax import cli
from vdu_jax.interop import pipeline
from vdu_jax.tasks.text_to_image import networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_to_image.write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return pipeline.read(folder)


def test_the_folder_is_read_whole(model):
    assert model.image_shape == (64, 64, 3)
    assert model.latent_shape == (8, 8, 4)
    assert model.scaling == 0.18215
    assert model.diffusion["prediction"] == "v_prediction"


def test_a_picture_comes_with_what_it_was_made_of(folder, tmp_path, capsys):
    picture = tmp_path / "grid.png"
    arguments = ["--prompt=a red shoe", "--steps=2", "--images=3", "--seed=5"]
    assert cli.main(["generate", str(folder), str(picture), *arguments]) == 0
    assert "3 images" in capsys.readouterr().out
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (64 + 2, 3 * 65 + 1, 3)
    assert pixels.std() > 10
    made_of = json.loads(picture.with_suffix(".json").read_text())
    assert (made_of["prompt"], made_of["seed"], made_of["steps"]) == ("a red shoe", 5, 2)
    assert made_of["provenance"]["versions"]["jax"]


def test_prompt_and_guidance_matter_and_the_seed_gives_the_noise(model):
    import jax

    keys = jax.random.split(jax.random.key(0), 2)
    red, bag, nothing = networks.embed(model, ["a red shoe", "the bag", ""])[:, None]
    params = {name: model.params[name] for name in ("unet", "vae")}
    draw = {s: jax.jit(networks.make_draw(model, 2, s)) for s in (1.0, 7.5)}

    def images(text, scale, negative=nothing):
        return np.asarray(
            draw[scale](params | {"negative": negative}, keys, np.repeat(text, 2, axis=0))
        )

    first = images(red, 7.5)
    np.testing.assert_array_equal(first, images(red, 7.5))
    assert np.abs(first[0] - first[1]).max() > 0.1
    assert np.abs(first - images(bag, 7.5)).max() > 0.1
    assert np.abs(first - images(red, 7.5, negative=bag)).max() > 0.1
    # Of the text alone, what it is to be kept away from does not matter.
    np.testing.assert_allclose(images(red, 1.0), images(red, 1.0, negative=bag), atol=1e-4)


def edit(name, **changes):
    def do(directory):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return do


@pytest.mark.parametrize(
    ("damage", "arguments", "said"),
    [
        (None, ["--steps=0"], "--steps=0: must lie in 1..1000"),
        (None, ["--images=0"], "--images=0: must lie in"),
        (None, ["--seed=-1"], "--seed=-1: must lie in"),
        (None, ["--precision=float8"], "must be float32 or bfloat16"),
        (None, ["--prompt="], "--prompt is given twice; give it once"),
        (lambda d: shutil.rmtree(d / "vae"), [], "has no folder vae"),
        (lambda d: (d / "model_index.json").unlink(), [], "model_index.json is not there"),
        (lambda d: (d / "unet" / "config.json").unlink(), [], "cannot be read as JSON"),
        (
            lambda d: (d / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
            [],
            "no such file",
        ),
        (lambda d: (d / "vae" / "config.json").write_text("<html>"), [], "is an HTML page"),
        (
            lambda d: (d / "text_encoder" / "model.safetensors").write_bytes(b"x" * 99),
            [],
            "is damaged or no safetensors file",
        ),
        (edit("model_index.json", _class_name="FluxPipeline"), [], "'FluxPipeline' is a text-to"),
        (
            edit("model_index.json", _class_name="DDPMPipeline", vae=None, text_encoder=None),
            [],
            "import it with `vdu import`",
        ),
        (edit("model_index.json", controlnet=["diffusers", "ControlNetModel"]), [], "controlnet"),
        (
            edit("model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
            [],
            "_class_name = 'FlowMatchEulerDiscreteScheduler'",
        ),
        (edit("scheduler/scheduler_config.json", beta_end=2), [], "beta_end = 2 can't"),
        (edit("vae/config.json", scaling_factor="big"), [], "scaling_factor = 'big'"),
        (
            lambda d: [
                (d / "unet" / "diffusion_pytorch_model.safetensors").rename(
                    d / "unet" / "diffusion_pytorch_model.fp16.safetensors"
                ),
                shutil.copy(
                    d / "unet" / "diffusion_pytorch_model.fp16.safetensors",
                    d / "unet" / "diffusion_pytorch_model.ema.safetensors",
                ),
            ],
            [],
            "variants ema, fp16: leave only one of them there",
        ),
        (edit("vae/config.json", latent_channels=8), [], "4 in unet, 8 in vae"),
        (edit("unet/config.json", cross_attention_dim=99), [], "99 in unet, 24 in text_encoder"),
        (edit("unet/config.json", sample_size="big"), [], "sample_size = 'big'"),
        (edit("scheduler/scheduler_config.json", beta_start=-1), [], "beta_start = -1"),
        (edit("scheduler/scheduler_config.json", num_train_timesteps=10), [], "--steps=50"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, capsys, damage, arguments, said):
    if damage is not None:
        folder = shutil.copytree(folder, tmp_path / "model")
        damage(folder)
    picture = tmp_path / "grid.png"
    given = ["generate", str(folder), str(picture), "--prompt=a bag", *arguments]
    assert cli.main(given) == 2
    assert not picture.exists()
    error = capsys.readouterr().err.strip()
    assert error.startswith("vdu: error: ") and said in error and "\n" not in error


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_single_file_is_named(tmp_path, capsys, suffix):
    path = tmp_path / f"v1-5.{suffix}"
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({key: np.zeros(1, np.float32)}, path)
    if suffix == "ckpt":
        path.write_bytes(b"\x80\x02")
    assert cli.main(["generate", str(path), "grid.png", "--prompt=a bag"]) == 2
    assert "StableDiffusionPipeline.from_single_file" in capsys.readouterr().err


def test_another_name_than_a_pictures_is_refused(folder, capsys):
    assert cli.main(["generate", str(folder), "grid.jpg", "--prompt=a bag"]) == 2
    assert "must end in .png" in capsys.readouterr().err
