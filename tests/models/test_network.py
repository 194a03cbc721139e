"""What is asked of every network, whatever its architecture: dropout by image, features, labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import config as vdu_config
from vdu_jax.models import network, registry

SMALL = {
    "dit": {"hidden_size": 16, "depth": 2, "num_heads": 2},
    "unet": {"block_out_channels": (8, 8), "layers_per_block": 1, "num_groups": 4},
}
SHAPE = (8, 12, 3)


def make(name, **changes):
    settings = vdu_config.model(name, **SMALL[name] | changes).to_dict()
    assert settings.pop("name") == name
    return registry.ARCHITECTURES[name].make(settings, SHAPE[-1])


@functools.cache
def tried(net):
    """Its compiled score function, random parameters (at initialisation the output is 0, which
    would hide everything), and images with their times and classes."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: network.init_params(net, jax.random.key(0), SHAPE))
    params = jax.tree.map(lambda p: (0.2 * rng.normal(size=p.shape)).astype(p.dtype), shapes)
    xt = rng.normal(size=(3, *SHAPE)).astype(np.float32)
    cond = np.arange(3) if net.num_class_embeds else None
    t = np.array([0, 30, 900], np.int32)
    return jax.jit(network.make_score_fn(net)), params, xt, t, cond


def rows(chosen, *parts):
    return jax.tree.map(lambda a: a[chosen], parts)


def test_every_architecture_is_tried_here():
    assert set(SMALL) == set(registry.ARCHITECTURES)


@pytest.fixture(params=[(name, classes) for name in SMALL for classes in (0, 3)], ids=str)
def net(request):
    name, classes = request.param
    return make(name, num_class_embeds=classes, dropout=0.5)


def test_networks_of_equal_settings_are_equal(net):
    """The compiled samplers are shared by them."""
    assert hash(net) == hash(net.clone()) and net == net.clone()
    assert net != net.clone(dropout=0.4)


def test_without_a_dropout_key_the_network_is_deterministic(net):
    score_fn, params, *given = tried(net)
    plain = score_fn(params, *given)
    np.testing.assert_array_equal(plain, score_fn(params, *given))
    keys = jax.random.split(jax.random.key(1), 3)
    one, same, two = (score_fn(params, *given, dropout_key=k) for k in (keys, keys, keys[::-1]))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - plain).max() > 0.01 and np.abs(one - two).max() > 0.01


def test_an_images_dropout_masks_hang_on_its_own_key_alone(net):
    """Whatever the batch that it is part of, and whatever its place in it."""
    score_fn, params, *given = tried(net)
    keys, some = jax.random.split(jax.random.key(1), 3), np.array([2, 0, 2])
    whole = score_fn(params, *given, dropout_key=keys)
    found = score_fn(params, *rows(some, *given), dropout_key=keys[some])
    np.testing.assert_allclose(found, whole[some], rtol=1e-4, atol=1e-5)
    # The same image under another key has other masks.
    other = score_fn(params, *rows(some, *given), dropout_key=keys[np.array([2, 0, 1])])
    np.testing.assert_allclose(other[0], whole[2], rtol=1e-4, atol=1e-5)
    assert np.abs(other[2] - whole[2]).max() > 0.01


def test_images_and_times_of_a_batch_do_not_mix(net):
    score_fn, params, xt, t, cond = tried(net)
    order = np.array([2, 0, 1])
    out = score_fn(params, xt, t, cond)
    assert out.shape == xt.shape and out.dtype == jnp.float32
    again = score_fn(params, *rows(order, xt, t, cond))
    np.testing.assert_allclose(again, out[order], rtol=1e-4, atol=1e-5)
    moved = score_fn(params, xt, np.array([0, 31, 900], np.int32), cond)
    np.testing.assert_allclose(moved[::2], out[::2], rtol=1e-4, atol=1e-5)
    assert np.abs(moved[1] - out[1]).max() > 1e-3


def test_every_parameter_matters(net):
    score_fn, params, *given = tried(net)
    weight = np.random.default_rng(3).normal(size=given[0].shape).astype(np.float32)
    grads = jax.jit(jax.grad(lambda p: (score_fn(p, *given) * weight).sum()))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        if "to_k" in name and "bias" in name:
            continue  # it adds one number to all logits of a query, which softmax ignores
        assert np.abs(grad).max() > 1e-4, name


def test_an_image_s_features_are_its_own(net):
    _, params, *given = tried(net)
    feature_fn, some = network.make_feature_fn(net), np.array([1, 2])
    whole = feature_fn(params, *given)
    assert len(whole) == 3 and whole.dtype == jnp.float32
    found = feature_fn(params, *rows(some, *given))
    np.testing.assert_allclose(whole[some], found, rtol=2e-4, atol=2e-5)


def test_the_label_tells(net):
    if not net.num_class_embeds:
        return
    score_fn, params, xt, t, cond = tried(net)
    assert np.abs(score_fn(params, xt, t, cond) - score_fn(params, xt, t, 2 - cond)).max() > 1e-3
