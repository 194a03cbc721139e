"""The U-Net: its size, its switches and the functions closed over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models import network, unet

TINY = dict(
    out_channels=3,
    block_out_channels=(8, 8),
    layers_per_block=1,
    attention_levels=(1,),
    num_groups=4,
)


def count(net, shape):
    params = jax.eval_shape(lambda key: network.init_params(net, key, shape), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def randomised(net, shape, seed=0):
    """Random parameters: at initialisation the output is 0, which would hide everything."""
    shapes = jax.eval_shape(lambda key: network.init_params(net, key, shape), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: (0.2 * rng.normal(size=p.shape)).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def tiny():
    """A small network with dropout, its compiled score function, parameters and inputs."""
    net = unet.UNet(**TINY, dropout=0.5)
    xt = np.random.default_rng(1).normal(size=(3, 8, 12, 3)).astype(np.float32)
    t = np.array([0, 30, 900], np.int32)
    return net, jax.jit(network.make_score_fn(net)), randomised(net, (8, 12, 3)), xt, t


def test_ho_et_al_cifar10_network_has_its_published_size():
    net = unet.UNet(3, (128, 256, 256, 256), 2, attention_levels=(1,), mid_attention=True)
    assert count(net, (32, 32, 3)) == 35_746_307  # google/ddpm-cifar10-32


def test_ho_et_al_256_pixel_network_has_its_published_size():
    net = unet.UNet(3, (128, 128, 256, 256, 512, 512), 2, attention_levels=(4,))
    assert count(net, (256, 256, 3)) == 113_673_219  # google/ddpm-celebahq-256


def test_output_has_the_shape_of_the_input(tiny):
    _, score_fn, params, xt, t = tiny
    out = score_fn(params, xt, t)
    assert out.shape == xt.shape and out.dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({}, (4, 10, 3)),
        ({"out_channels": 2}, (8, 8, 1)),
        ({"time_scale_shift": "scale_shift", "attention_head_dim": 4}, (8, 8, 3)),
        ({"downsample_padding": 0, "mid_attention": False}, (6, 8, 3)),
        ({"block_out_channels": (4, 8, 8), "attention_levels": (0, 2)}, (12, 4, 3)),
    ],
)
def test_shapes_of_the_variants(change, shape):
    net = unet.UNet(**TINY | change)
    spec = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    times = jax.ShapeDtypeStruct((2,), jnp.int32)
    out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), spec, times)
    assert out.shape == (2, *shape[:2], net.out_channels)


def test_output_is_zero_at_initialisation():
    net = unet.UNet(3, (4,), 1, attention_levels=(0,), mid_attention=False, num_groups=2)
    key = jax.random.key(0, impl="rbg")  # compiles several times faster than threefry
    params = jax.jit(lambda key: network.init_params(net, key, (8, 8, 3)))(key)
    assert not np.any(params["conv_out"]["kernel"]) and np.any(params["conv_in"]["kernel"])
    xt = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    out = jax.jit(network.make_score_fn(net))(params, xt, np.array([3, 70]))
    np.testing.assert_array_equal(out, np.zeros_like(xt))


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_output(tiny):
    _, score_fn, params, xt, t = tiny
    net = unet.UNet(**TINY, dtype=jnp.bfloat16)

    @jax.jit
    def run(params):
        return net.apply({"params": params}, xt, t, mutable=["intermediates"])

    out, state = run(params)
    assert state["intermediates"]["features"][0].dtype == jnp.bfloat16
    assert out.dtype == jnp.float32
    exact = score_fn(params, xt, t)
    assert 1e-5 < np.sqrt(np.mean((out - exact) ** 2) / np.mean(np.square(exact))) < 0.05
    fresh = jax.eval_shape(lambda: network.init_params(net, jax.random.key(0), (8, 12, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {np.dtype("float32")}


def test_center_input_sample_maps_0_1_to_minus_1_1(tiny):
    _, score_fn, params, xt, t = tiny
    net = unet.UNet(**TINY, center_input_sample=True)
    centred = jax.jit(network.make_score_fn(net))(params, (xt + 1) / 2, t)
    np.testing.assert_allclose(centred, score_fn(params, xt, t), rtol=1e-3, atol=1e-4)


def test_features_are_spatial_means_of_mid_and_up_activations(tiny):
    net, _, params, xt, t = tiny
    feature_fn = jax.jit(network.make_feature_fn(net))
    features = feature_fn(params, xt, t)
    assert features.shape == (3, 8 + 8 + 8) and features.dtype == jnp.float32
    assert np.all(np.std(features, axis=0) > 0)

    @jax.jit
    def outputs(params):
        _, state = net.apply({"params": params}, xt, t, capture_intermediates=True)
        return state["intermediates"]

    kept = outputs(params)
    last = ["mid_block_resnets_1", "up_blocks_0_attentions_1", "up_blocks_1_resnets_1"]
    maps = [np.asarray(kept[name]["__call__"][0]) for name in last]
    expected = np.concatenate([m.mean((1, 2)) for m in maps], -1)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_settings_as_a_config_file_writes_them_give_the_network():
    settings = {
        "block_out_channels": [8, 16],
        "attention_head_dim": 0,
        "num_groups": 4,
        "dtype": "bfloat16",
        "param_dtype": "float32",
    }
    assert unet.from_settings(settings, 3) == unet.UNet(
        3, block_out_channels=(8, 16), num_groups=4, dtype=jnp.dtype(jnp.bfloat16)
    )
    assert unet.from_settings(settings | {"attention_head_dim": 4}, 3).attention_head_dim == 4
    hash(unet.from_settings(settings, 3))  # the compiled samplers are shared by equal networks


def test_a_label_adds_its_row_to_the_times_embedding(tiny):
    """Equal rows give equal predictions, and zeros those of the network without classes."""
    _, score_fn, params, xt, t = tiny
    net = unet.UNet(**TINY, num_class_embeds=3)
    labels = np.array([0, 2, 1])
    table = np.random.default_rng(2).normal(size=(3, 32)).astype(np.float32)
    apply = jax.jit(network.make_score_fn(net))

    def with_rows(rows):
        return apply(params | {"class_embedding": {"embedding": rows}}, xt, t, labels)

    np.testing.assert_allclose(with_rows(0 * table), score_fn(params, xt, t), rtol=1e-5, atol=1e-6)
    same = table.copy()
    same[2] = same[0]
    moved = np.abs(np.asarray(with_rows(table) - with_rows(same))).max((1, 2, 3))
    assert moved[1] > 1e-3 and np.all(moved[[0, 2]] == 0)
    shapes = jax.eval_shape(lambda: network.init_params(net, jax.random.key(0), (8, 12, 3)))
    assert shapes["class_embedding"]["embedding"].shape == (3, 32)


@pytest.mark.parametrize(("classes", "label"), [(0, np.zeros(3, int)), (3, None)])
def test_a_condition_where_none_is_known_is_refused_and_the_other_way_round(tiny, classes, label):
    _, _, params, xt, t = tiny
    score_fn = network.make_score_fn(unet.UNet(**TINY, num_class_embeds=classes))
    with pytest.raises(ValueError, match=f"num_class_embeds = {classes}"):
        score_fn(params, xt, t, label)
