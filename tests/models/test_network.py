"""What is asked of every network, whatever its architecture: dropout by image, features, labels."""

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
SHAPE = (8, 8, 3)


def make(name, **changes):
    settings = vdu_config.model(name, **SMALL[name] | changes).to_dict()
    assert settings.pop("name") == name
    return registry.ARCHITECTURES[name].make(settings, SHAPE[-1])


def inputs(net, count=4):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: network.init_params(net, jax.random.key(0), SHAPE))
    params = jax.tree.map(lambda p: (0.2 * rng.normal(size=p.shape)).astype(p.dtype), shapes)
    xt = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    cond = jnp.arange(count) % 3 if net.num_class_embeds else None
    return params, xt, np.arange(count) * 200, cond


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


def test_an_image_s_prediction_features_and_dropout_are_its_own(net):
    params, xt, t, cond = inputs(net)
    score_fn, feature_fn = jax.jit(network.make_score_fn(net)), network.make_feature_fn(net)
    keys = jax.random.split(jax.random.key(1), len(xt))
    part = jax.tree.map(lambda a: a[1:3], (xt, t, cond))
    for whole, rows in (
        (score_fn(params, xt, t, cond), score_fn(params, *part)),
        (
            score_fn(params, xt, t, cond, dropout_key=keys),
            score_fn(params, *part, dropout_key=keys[1:3]),
        ),
        (feature_fn(params, xt, t, cond), feature_fn(params, *part)),
    ):
        assert whole.shape[0] == 4 and whole.dtype == jnp.float32
        np.testing.assert_allclose(whole[1:3], rows, rtol=2e-4, atol=2e-5)
    plain = score_fn(params, xt, t, cond)
    assert plain.shape == xt.shape
    assert np.abs(plain - score_fn(params, xt, t, cond, dropout_key=keys)).max() > 1e-3


def test_the_label_tells(net):
    if not net.num_class_embeds:
        return
    params, xt, t, cond = inputs(net)
    score_fn = jax.jit(network.make_score_fn(net))
    assert np.abs(score_fn(params, xt, t, cond) - score_fn(params, xt, t, 2 - cond)).max() > 1e-3
