"""Settings and names of Stable Diffusion's networks."""

import math

import jax
import numpy as np
import pytest

from vdu_jax.errors import UserError
from vdu_jax.interop import stable_diffusion, unet2d
from vdu_jax.parity import inputs

PARTS = stable_diffusion.PARTS
# The config.json files of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-2-1.
UNET_1 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNET_2 = UNET_1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_1 = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
TEXT_2 = TEXT_1 | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}


@pytest.mark.parametrize(
    ("part", "config", "parameters"),
    [
        ("unet", UNET_1, 859_520_964),
        ("unet", UNET_2, 865_910_724),
        ("vae", VAE, 83_653_863),
        ("text_encoder", TEXT_1, 123_060_480),
        ("text_encoder", TEXT_2, 340_387_840),
    ],
)
def test_the_published_models_have_their_number_of_parameters(part, config, parameters):
    module = PARTS[part].read_config(config, "x")
    shapes = PARTS[part].tensor_shapes(module)
    assert sum(map(math.prod, shapes.values())) == parameters


def test_names_of_tensors():
    """As they are in the published files, old names of attention layers among them."""
    unet = PARTS["unet"].tensor_shapes(PARTS["unet"].read_config(UNET_1, "x"))
    assert unet["down_blocks.0.attentions.0.proj_in.weight"] == (320, 320, 1, 1)
    block = "up_blocks.3.attentions.2.transformer_blocks.0"
    assert unet[f"{block}.attn2.to_k.weight"] == (320, 768)
    assert unet[f"{block}.ff.net.0.proj.weight"] == (2560, 320)
    assert unet["mid_block.attentions.0.transformer_blocks.0.ff.net.2.bias"] == (1280,)
    assert unet["time_embedding.linear_1.weight"] == (1280, 320)
    linear = PARTS["unet"].tensor_shapes(PARTS["unet"].read_config(UNET_2, "x"))
    assert linear["down_blocks.0.attentions.0.proj_in.weight"] == (320, 320)
    vae = PARTS["vae"].tensor_shapes(PARTS["vae"].read_config(VAE, "x"))
    assert vae["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"] == (256, 128, 1, 1)
    assert vae["decoder.mid_block.attentions.0.to_out.0.weight"] == (512, 512)
    text = PARTS["text_encoder"].tensor_shapes(PARTS["text_encoder"].read_config(TEXT_1, "x"))
    assert text["embeddings.token_embedding.weight"] == (49408, 768)
    assert text["encoder.layers.11.self_attn.out_proj.bias"] == (768,)


def test_old_names_mean_the_same():
    part = PARTS["vae"]
    module = part.read_config(inputs.AUTOENCODER, "x")
    tensors = inputs.tensors(part.tensor_shapes(module))
    renamed = dict(tensors)
    for new, old in unet2d.DEPRECATED.items():
        for name in tensors:
            if f".{unet2d.MODERN[new]}." in name:
                renamed[name.replace(unet2d.MODERN[new], old)] = renamed.pop(name)
    assert renamed.keys() != tensors.keys()
    jax.tree.map(
        np.testing.assert_array_equal,
        part.to_params(module, renamed, "x"),
        part.to_params(module, tensors, "x"),
    )

    part = PARTS["text_encoder"]
    module = part.read_config(inputs.STABLE_DIFFUSION["1"]["text_encoder"], "x")
    tensors = inputs.tensors(part.tensor_shapes(module))
    old = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    assert part.ignored("text_model.embeddings.position_ids")
    found = part.to_params(module, old, "x")
    jax.tree.map(np.testing.assert_array_equal, found, part.to_params(module, tensors, "x"))
    # A table of embeddings has its rows where they were.
    table = tensors["embeddings.token_embedding.weight"]
    np.testing.assert_array_equal(found["token_embedding"]["embedding"], table)


@pytest.mark.parametrize(
    ("part", "config", "changed"),
    [
        ("unet", UNET_1, {"_class_name": "UNet2DModel"}),
        ("unet", UNET_1, {"down_block_types": ["DownBlock2D"] * 4}),
        ("unet", UNET_1, {"up_block_types": ["UpBlock2D"]}),
        ("unet", UNET_1, {"attention_head_dim": [8, 8]}),
        ("unet", UNET_1, {"attention_head_dim": 7}),
        ("unet", UNET_1, {"out_channels": 3}),
        ("unet", UNET_1, {"class_embed_type": "timestep"}),
        ("unet", UNET_1, {"addition_embed_type": "text_time"}),
        ("unet", UNET_1, {"only_cross_attention": True}),
        ("unet", UNET_1, {"cross_attention_dim": "768"}),
        ("unet", UNET_1, {"resnet_time_scale_shift": "scale_shift"}),
        ("vae", VAE, {"act_fn": "relu"}),
        ("vae", VAE, {"down_block_types": ["DownEncoderBlock2D"]}),
        ("vae", VAE, {"shift_factor": 0.1}),
        ("vae", VAE, {"use_quant_conv": False}),
        ("text_encoder", TEXT_1, {"hidden_act": "relu"}),
        ("text_encoder", TEXT_1, {"num_attention_heads": 7}),
        ("text_encoder", TEXT_1, {"model_type": "t5"}),
        ("text_encoder", TEXT_1, {"surprise": 1}),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_key(part, config, changed):
    key = "up_block_types" if "down_block_types" in changed and part == "unet" else list(changed)[0]
    with pytest.raises(UserError, match=rf"^file: {key} = "):
        PARTS[part].read_config(config | changed, "file")


def test_tensors_that_do_not_fit_are_refused_by_name():
    part = PARTS["unet"]
    module = part.read_config(inputs.STABLE_DIFFUSION["1"]["unet"], "x")
    tensors = inputs.tensors(part.tensor_shapes(module))
    missing = {k: v for k, v in tensors.items() if k != "conv_in.bias"}
    with pytest.raises(
        UserError, match=r"file does not fit .* missing, the first is conv_in\.bias"
    ):
        part.to_params(module, missing, "file")
    with pytest.raises(UserError, match=r"tensor conv_in\.bias has the shape \(3,\)"):
        part.to_params(module, tensors | {"conv_in.bias": np.zeros(3)}, "file")
