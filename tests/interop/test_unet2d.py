import jax
import numpy as np
import pytest

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.errors import UserError
from vdu_jax.interop import unet2d

# The config.json of google/ddpm-cifar10-32 on the Hugging Face Hub.
DDPM_CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# Some of its tensors, as PyTorch shapes them.
DDPM_CIFAR10_TENSORS = {
    "conv_in.weight": (128, 3, 3, 3),
    "time_embedding.linear_1.weight": (512, 128),
    "down_blocks.0.downsamplers.0.conv.bias": (128,),
    "down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
    "down_blocks.1.attentions.1.group_norm.weight": (256,),
    "mid_block.attentions.0.to_out.0.weight": (256, 256),
    "up_blocks.3.resnets.0.conv1.weight": (128, 384, 3, 3),
    "up_blocks.2.upsamplers.0.conv.weight": (256, 256, 3, 3),
    "conv_out.weight": (3, 128, 3, 3),
}


def configured(settings):
    config = vdu_config.default()
    config.model.update(settings)
    return config


def test_the_published_cifar10_network():
    settings, shape = unet2d.read_config(DDPM_CIFAR10, "config.json")
    assert shape == (32, 32, 3)
    like = tasks.of(configured(settings), image_shape=shape).abstract_params
    assert sum(leaf.size for leaf in jax.tree.leaves(like)) == 35_746_307
    named = unet2d.to_tensors(jax.tree.map(lambda s: np.zeros(s.shape, np.float32), like))
    assert {k: named[k].shape for k in DDPM_CIFAR10_TENSORS} == DDPM_CIFAR10_TENSORS


def test_a_config_written_and_read_is_the_same():
    settings, shape = unet2d.read_config(DDPM_CIFAR10, "x")
    written = unet2d.write_config(settings, shape)
    assert unet2d.read_config(written, "x") == (settings, shape)
    shared = DDPM_CIFAR10.keys() & written.keys()
    assert {k: written[k] for k in shared} == {k: DDPM_CIFAR10[k] for k in shared}


@pytest.mark.parametrize("key", unet2d.RENAMED)
def test_every_setting_survives(key):
    settings, shape = unet2d.read_config(DDPM_CIFAR10, "x")
    value = settings[key]
    other = {bool: lambda v: not v, str: lambda v: "scale_shift"}.get(type(value), lambda v: v + 1)
    changed = settings | {key: 0 if key == "downsample_padding" else other(value)}
    if key == "downsample_padding":
        changed[key] = 1
    assert unet2d.read_config(unet2d.write_config(changed, shape), "x") == (changed, shape)


@pytest.mark.parametrize("size", [(28, 20), (8, 8), (0, 0)])
def test_image_sizes(size):
    theirs = {"sample_size": list(size) if size[0] else None}
    assert unet2d.read_config(DDPM_CIFAR10 | theirs, "x")[1] == (*size, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "UNet2DConditionModel"),
        ("time_embedding_type", "fourier"),
        ("time_embedding_dim", 7),
        ("mid_block_type", None),
        ("downsample_type", "resnet"),
        ("upsample_type", "resnet"),
        ("act_fn", "mish"),
        ("resnet_time_scale_shift", "ada_group"),
        ("class_embed_type", "timestep"),
        ("num_class_embeds", 1),
        ("num_class_embeds", 10.0),
        ("downsample_padding", 2),
        ("out_channels", 6),
        ("down_block_types", ["SkipDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]),
        ("up_block_types", ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"]),
        ("up_block_types", ["UpBlock2D"]),
        ("attn_norm_num_groups", 16),
        ("block_out_channels", []),
        ("block_out_channels", "wide"),
        ("block_out_channels", [None]),
        ("norm_eps", None),
        ("layers_per_block", "two"),
        ("sample_size", "large"),
        ("sample_size", [8, 8, 8]),
        ("center_input_sample", 1),
        ("cross_attention_dim", 768),
        ("surprise", 0),
        ("surprise", []),
        ("in_channels", 0),
        ("in_channels", 1.5),
        ("sample_size", ""),
        ("sample_size", True),
        ("num_class_embeds", False),  # an embedding of no classes
    ],
)
def test_what_the_network_cannot_express_is_refused_by_key(key, value):
    with pytest.raises(UserError, match=rf"^config\.json: {key} = ") as refused:
        unet2d.read_config(DDPM_CIFAR10 | {key: value}, "config.json")
    assert "\n" not in str(refused.value)


def test_scale_shift_needs_the_middle_attention_to_be_normalised():
    """diffusers leaves that group norm out, unless attn_norm_num_groups is set."""
    changed = DDPM_CIFAR10 | {"resnet_time_scale_shift": "scale_shift"}
    with pytest.raises(UserError, match="attn_norm_num_groups"):
        unet2d.read_config(changed, "x")
    settings, shape = unet2d.read_config(changed | {"attn_norm_num_groups": 32}, "x")
    assert unet2d.write_config(settings, shape)["attn_norm_num_groups"] == 32
    unet2d.read_config(changed | {"add_attention": False}, "x")


@pytest.mark.parametrize(
    "changed",
    [
        {"surprise": None, "another": False},
        {"class_embed_type": False},
        {"num_train_timesteps": 1000},  # of a time embedding of another type
        {"time_embedding_dim": 512},
        {"_class_name": "UNetModel"},
        {"_class_name": "UNetUnconditionalModel"},
        {"_name_or_path": "x"},
    ],
)
def test_what_says_nothing_is_accepted(changed):
    found = unet2d.read_config(DDPM_CIFAR10 | changed, "x")
    assert found == unet2d.read_config(DDPM_CIFAR10, "x")


def test_groups_of_an_attention_that_is_not_there():
    changed = DDPM_CIFAR10 | {"add_attention": False}
    expected = unet2d.read_config(changed, "x")
    assert unet2d.read_config(changed | {"attn_norm_num_groups": 7}, "x") == expected


def test_the_keys_of_a_moving_average_are_no_settings():
    ema = {"decay": 0.99, "power": 0.75, "optimization_step": 7}
    assert unet2d.read_config(DDPM_CIFAR10 | ema, "x") == unet2d.read_config(DDPM_CIFAR10, "x")


class TestTensors:
    def test_there_and_back(self, params):
        named = unet2d.to_tensors(params)
        assert all(v.dtype == np.float32 for v in named.values())
        back = unet2d.to_params(named, params, "x")
        jax.tree.map(np.testing.assert_array_equal, back, params)

    def test_layout(self, params):
        named = unet2d.to_tensors(params)
        kernel = params["down_blocks_1_resnets_0"]["conv1"]["kernel"]  # height, width, in, out
        weight = named["down_blocks.1.resnets.0.conv1.weight"]
        assert weight[5, 3, 0, 2] == kernel[0, 2, 3, 5]
        dense = params["mid_block_attentions_0"]["to_out"]["kernel"]
        assert named["mid_block.attentions.0.to_out.0.weight"][1, 2] == dense[2, 1]
        scale = params["conv_norm_out"]["scale"]
        np.testing.assert_array_equal(named["conv_norm_out.weight"], scale)

    def test_old_attention_names(self, params):
        old = unet2d.to_tensors(params, unet2d.DEPRECATED)
        assert "mid_block.attentions.0.proj_attn.weight" in old
        assert not any("to_" in name for name in old)
        assert unet2d.attention_names(old) is unet2d.DEPRECATED
        jax.tree.map(np.testing.assert_array_equal, unet2d.to_params(old, params, "x"), params)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: t.pop("conv_in.bias"), "1 tensors are missing, the first is conv_in.bias"),
            (lambda t: t.update(extra=t["conv_in.bias"]), "1 tensors are unexpected.* extra"),
            (
                lambda t: t.update(renamed=t.pop("conv_in.bias")),
                "missing, the first is conv_in.bias; 1 tensors are unexpected, the first is renam",
            ),
            (
                lambda t: t.update({"conv_in.weight": t["conv_in.weight"].transpose(2, 3, 1, 0)}),
                r"conv_in.weight has the shape \(3, 3, 1, 8\), .*\(8, 1, 3, 3\); its axes are perm",
            ),
            (
                lambda t: t.update({"conv_out.bias": np.zeros(3, np.float32)}),
                r"conv_out.bias has the shape \(3,\), the network needs \(1,\)$",
            ),
            (
                lambda t: t.update(
                    {"time_embedding.linear_1.weight": t["time_embedding.linear_1.weight"].T}
                ),
                "time_embedding.linear_1.weight .*permuted",
            ),
        ],
    )
    def test_tensors_that_do_not_fit_are_named(self, params, change, said):
        named = unet2d.to_tensors(params)
        change(named)
        with pytest.raises(UserError, match=said):
            unet2d.to_params(named, params, "weights")
