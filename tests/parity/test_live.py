"""Our numbers against PyTorch itself, on whole arrays and on settings drawn at random.

`make test-parity`; needs the extra torch.
"""

import json
import random

import diffusers
import jax
import make_golden
import numpy as np
import pytest
import reference
import text_to_image
import torch
import transformers

from vdu_jax.interop import clip, pipeline, tokenizer
from vdu_jax.parity import check, compare, components, inputs
from vdu_jax.tasks.text_to_image import networks

pytestmark = pytest.mark.torch

BY_NAME = {component.name: component for component in components.COMPONENTS}


def test_every_component_has_a_reference():
    assert BY_NAME.keys() == reference.REFERENCE.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_float32_agrees_with_pytorch(name):
    component = BY_NAME[name]
    theirs = reference.REFERENCE[name]()
    result = check.result(component, "float32", component.run("float32"), theirs)
    assert result.verdict == "ok", check.table([result])

    # And the golden file holds these numbers; a tenth of the tolerance is room for another CPU.
    golden, made_with = compare.read_golden(name)
    gap = compare.difference(compare.compact(theirs), golden)
    assert gap.of(component.measure) <= component.tolerance["float32"] / 10
    assert made_with.keys() == make_golden.versions().keys()


def test_the_cifar10_network_is_google_ddpm_cifar10_32():
    net = reference.network(inputs.UNETS["ddpm_cifar10"])
    assert sum(p.numel() for p in net.parameters()) == 35_746_307


def random_config(seed):
    """Settings of a U-Net over all that ours can express."""
    draw = random.Random(seed)
    levels = draw.randint(1, 4)
    groups, head_dim = draw.choice([2, 4]), draw.choice([None, 2, 4])
    scale_shift = draw.random() < 0.5
    multiple = 2 ** (levels - 1)
    return inputs.unet_config(
        (multiple * draw.randint(2, 5), multiple * draw.randint(2, 5)),
        draw.randint(1, 4),
        tuple(8 * draw.randint(1, 4) for _ in range(levels)),
        "".join(draw.choice("DA") for _ in range(levels)),
        layers_per_block=draw.randint(1, 2),
        norm_num_groups=groups,
        attn_norm_num_groups=groups if scale_shift else None,
        attention_head_dim=head_dim,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        add_attention=draw.random() < 0.7,
        norm_eps=draw.choice([1e-6, 1e-5, 1e-3]),
        flip_sin_to_cos=draw.random() < 0.5,
        freq_shift=draw.choice([0, 1]),
        downsample_padding=draw.choice([0, 1]),
        mid_block_scale_factor=draw.choice([1, 0.7, 2]),
        center_input_sample=draw.random() < 0.5,
        act_fn=draw.choice(["silu", "swish"]),
        num_class_embeds=draw.choice([None, 11]),
    )


def check_noise(name, config, measure, tolerance):
    """What both sides' function `name` predicts; with PyTorch in float32 too, as it is used."""
    for dtype in (torch.float64, torch.float32):
        theirs = getattr(reference, name)(config, dtype)
        with components.matmul_precision("float32"):
            ours = getattr(components, name)(config, "float32")
        assert getattr(compare.difference(ours, theirs), measure) <= tolerance, config
        assert np.abs(theirs["eps"]).max() > 0.1


@pytest.mark.parametrize("seed", range(8))
def test_a_unet_of_random_settings_agrees(seed):
    check_noise("forward", random_config(seed), "absolute", 2e-5)


def random_dit(seed):
    """Settings of a DiT over all that diffusers' can express."""
    draw = random.Random(seed)
    patch, heads = draw.choice([1, 2, 3, 4]), draw.randint(1, 4)
    return {
        "size": patch * draw.randint(1, 6),
        "channels": draw.randint(1, 4),
        "patch_size": patch,
        "hidden_size": 4 * heads * draw.randint(2, 6),
        "depth": draw.randint(1, 5),
        "num_heads": heads,
        "num_class_embeds": draw.choice([0, 11]),
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_dit_of_random_settings_agrees(seed):
    check_noise("dit_noise", random_dit(seed), "relative", 1e-5)


@pytest.mark.parametrize("name", inputs.UNETS)
def test_a_unet_agrees_with_pytorch_in_float32(name):
    theirs = reference.forward(inputs.UNETS[name], torch.float32)
    ours = BY_NAME[f"unet/{name}"].run("float32")
    assert compare.difference(ours, theirs).absolute <= 2e-5


PROMPTS = (
    "a red shoe",
    "",
    "The RED,  bag!!",
    "42 shoes' bags isn't re-read",
    "the " * 30,
    "\tred\n",
    "thebagshoe 7'll",
)


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "!"])
def test_the_tokenizer_is_that_of_transformers(tmp_path, pad_token):
    text_to_image.write_tokenizer(tmp_path, pad_token)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    found = theirs(
        list(PROMPTS), padding="max_length", max_length=12, truncation=True, return_tensors="np"
    )
    ours = tokenizer.load(tmp_path, 12)(PROMPTS)
    np.testing.assert_array_equal(ours, found.input_ids)


def new_folder(directory, source):
    """A folder that we make, of the networks in another, with a vocabulary of its own."""
    model, vocabulary = pipeline.read(source), tokenizer.learn(["a red shoe", "the bag"])
    configs = {
        name: json.loads((source / name / "config.json").read_text()) for name in model.modules
    }
    configs["text_encoder"]["vocab_size"] = len(vocabulary.tokens)
    configs["scheduler"] = {
        key: text_to_image.SCHEDULER[key]
        for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
    }
    text = model.params["text_encoder"]
    width = configs["text_encoder"]["hidden_size"]
    words = np.random.RandomState(0).standard_normal((len(vocabulary.tokens), width))
    text = text | {"token_embedding": {"embedding": words.astype(np.float32)}}
    pipeline.create(directory, configs, model.params | {"text_encoder": text}, vocabulary)
    return directory


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "a new folder"])
def test_a_picture_is_that_of_diffusers_pipeline(tmp_path, prediction):
    """The whole way, from a folder and a prompt to images, begun with the same latents."""
    folder = text_to_image.write_folder(tmp_path / "folder")
    if prediction == "a new folder":
        folder = new_folder(tmp_path / "new", folder)
    else:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(text_to_image.SCHEDULER | {"prediction_type": prediction}))
    model = pipeline.read(folder)
    keys = jax.random.split(jax.random.key(0), 2)
    text, negative = np.split(networks.embed(model, ["a red shoe", "the bag"]), 2)
    params = {name: model.params[name] for name in ("unet", "vae")}
    draw = jax.jit(networks.make_draw(model, 20, 7.5))
    with components.matmul_precision("float32"):
        ours = np.asarray(draw(params | {"negative": negative}, keys, np.repeat(text, 2, axis=0)))

    latents = [jax.random.normal(jax.random.fold_in(key, 0), model.latent_shape) for key in keys]
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    images = theirs(
        ["a red shoe"] * 2,
        negative_prompt=["the bag"] * 2,
        latents=reference.as_torch(np.stack(latents), torch.float32),
        num_inference_steps=20,
        guidance_scale=7.5,
        output_type="np",
    ).images
    assert np.abs(ours - (2 * images - 1)).max() <= 1e-2
    assert images.std() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_that_diffusers_wrote_is_written_again_byte_by_byte(tmp_path, dtype):
    made = text_to_image.write_folder(tmp_path / "made")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(made, torch_dtype=dtype)
    theirs.save_pretrained(tmp_path / "saved")
    pipeline.write(tmp_path / "copy", tmp_path / "saved", pipeline.read(tmp_path / "saved").params)
    files = [path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved").rglob("*")]
    for name in files:
        path = tmp_path / "saved" / name
        assert path.is_dir() or path.read_bytes() == (tmp_path / "copy" / name).read_bytes(), name
    assert len(files) > 10


def test_a_clip_that_transformers_saved(tmp_path):
    """Images and texts in, logits out, each with its own tokenizer and preprocessing."""
    folder = text_to_image.write_clip(tmp_path / "clip")
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    size = {"shortest_edge": inputs.CLIP["vision_config"]["image_size"]}
    processor = transformers.CLIPImageProcessor(size=size, crop_size=size["shortest_edge"])
    for part in (theirs, processor):
        part.save_pretrained(tmp_path / "saved")
    text_to_image.write_tokenizer(tmp_path / "saved")

    ours = clip.read(tmp_path / "saved")
    images = np.random.RandomState(0).randint(0, 256, (3, 40, 40, 3)).astype(np.uint8)
    texts = ["the red shoe", "bag"]
    found = ours.module.apply(
        {"params": ours.params}, ours.preprocess(images), ours.tokenize(texts)
    )
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(
        texts, padding="max_length", return_tensors="pt"
    )
    pixels = processor(images=list(images), return_tensors="pt")
    with torch.no_grad():
        expected = theirs(tokens["input_ids"], pixels["pixel_values"]).logits_per_image.numpy()
    # Their resizing of 8-bit pixels is not Pillow's to the last bit.
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.ptp(expected) > 0.1
