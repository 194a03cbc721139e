"""CLIP's folders."""

import json
import math

import numpy as np
import pytest
import text_to_image
from PIL import Image

from vdu_jax.errors import UserError
from vdu_jax.interop import clip, tensors

# Of the config.json of openai/clip-vit-large-patch14, what is not a default, and some of the rest.
LARGE = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        "model_type": "clip_text_model",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_beams": 1,
        "temperature": 1.0,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "top_k": 50,
    },
}


@pytest.fixture
def folder(tmp_path):
    return text_to_image.write_clip(tmp_path / "clip")


@pytest.mark.parametrize(
    ("config", "parameters"), [(LARGE, 427_616_513), ({"model_type": "clip"}, 151_277_313)]
)
def test_the_published_models_have_their_number_of_parameters(config, parameters):
    """ViT-L/14 and ViT-B/32."""
    shapes = clip.PART.tensor_shapes(clip.read_config(config, "x"))
    assert sum(map(math.prod, shapes.values())) == parameters


def test_names_of_tensors():
    shapes = clip.PART.tensor_shapes(clip.read_config(LARGE, "x"))
    assert shapes["logit_scale"] == ()
    assert shapes["visual_projection.weight"] == (768, 1024)
    assert shapes["vision_model.embeddings.class_embedding"] == (1024,)
    assert shapes["vision_model.embeddings.patch_embedding.weight"] == (1024, 3, 14, 14)
    assert shapes["vision_model.embeddings.position_embedding.weight"] == (257, 1024)
    assert shapes["vision_model.pre_layrnorm.weight"] == (1024,)
    assert shapes["vision_model.encoder.layers.23.self_attn.out_proj.bias"] == (1024,)
    assert shapes["text_model.embeddings.token_embedding.weight"] == (49408, 768)


def test_a_folder_is_read(folder):
    model = clip.read(folder)
    stored = tensors.read(folder / clip.WEIGHTS).tensors
    np.testing.assert_array_equal(
        model.params["visual_projection"]["kernel"], stored["visual_projection.weight"].T
    )
    tokens = model.tokenize(["red shoe"])
    assert tokens.shape == (1, model.module.text.max_length)
    assert tokens.max() == model.module.text.vocab_size - 1  # the end
    np.testing.assert_allclose(model.mean, clip.MEAN)


def test_pixels_are_standardised_as_the_folder_says(folder):
    said = {"image_mean": [0.5, 0.25, 0.0], "image_std": [0.5, 0.25, 1.0]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    model = clip.read(folder)
    side = model.module.vision.image_size
    images = np.zeros((2, 40, 40, 3), np.uint8)
    images[1] = 255
    found = model.preprocess(images)
    assert found.shape == (2, side, side, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], np.broadcast_to([-1, -1, 0], found[0].shape), atol=1e-6)
    np.testing.assert_allclose(found[1], np.broadcast_to([1, 3, 1], found[1].shape), atol=1e-6)


def test_the_central_square_is_seen_and_grey_is_three_times_the_same(folder):
    model = clip.read(folder)
    wide = np.random.RandomState(0).randint(0, 256, (1, 24, 36, 1)).astype(np.uint8)
    found = model.preprocess(wide) * model.deviation + model.mean
    assert model.module.vision.image_size == 24  # so nothing is resized
    expected = np.broadcast_to(wide[:, :, 6:30] / 255.0, found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pixels_are_resized_as_pillow_does_it(folder):
    model = clip.read(folder)
    pixels = np.random.RandomState(1).randint(0, 256, (1, 60, 60, 3)).astype(np.uint8)
    found = model.preprocess(pixels) * model.deviation + model.mean
    expected = Image.fromarray(pixels[0]).resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[0], np.asarray(expected) / 255.0, atol=1e-5)


def without(folder, name):
    (folder / name).unlink()


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: without(folder, "config.json"), "config.json cannot be read"),
        (lambda folder: without(folder, "model.safetensors"), "model.safetensors: no such file"),
        (lambda folder: without(folder, "merges.txt"), "merges.txt"),
        (lambda folder: with_config(folder, model_type="siglip"), "model_type = 'siglip'"),
        (lambda folder: with_config(folder, vision_config=3), "must be objects"),
        (
            lambda folder: with_config(folder, vision_config={"patch_size": 5}),
            "patch_size = 5 can't be expressed: it must divide image_size = 224",
        ),
        (lambda folder: with_config(folder, projection_dim=21), "text_projection.weight"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, damage, said):
    damage(folder)
    with pytest.raises(UserError) as error:
        clip.read(folder)
    assert said in str(error.value) and str(folder) in str(error.value)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        clip.read(tmp_path / "nowhere")
