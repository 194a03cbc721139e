"""The U-Net that sees a text. Its numbers are compared with PyTorch's in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models import network
from vdu_jax.models.stable_diffusion import unet_condition

NET = unet_condition.UNetCondition(
    out_channels=2,
    text_width=6,
    block_out_channels=(8, 8),
    layers_per_block=1,
    attention_levels=(0,),
    num_heads=(2, 2),
    num_groups=2,
)
T = jnp.array([3, 700])


@pytest.fixture(scope="module")
def params():
    """Fresh, and then moved: residual blocks, and the time with them, begin as nothing."""
    fresh = jax.jit(lambda key: network.init_params(NET, key, (4, 4, NET.out_channels)))(
        jax.random.key(0)
    )
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.1 * draw.normal(size=p.shape).astype(np.float32), fresh)


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(0)
    return draw.normal(size=(2, 4, 4, 2)), draw.normal(size=(2, 5, 6))


def predict(params, xt, text, net=NET):
    return np.asarray(jax.jit(network.make_score_fn(net))(params, xt, T, text))


def test_the_text_is_a_set_of_which_every_token_counts(params, inputs):
    """Cross-attention knows no order: that is in the tokens' embeddings."""
    xt, text = inputs
    found = predict(params, xt, text)
    np.testing.assert_allclose(predict(params, xt, text[:, ::-1]), found, atol=1e-5)
    for token in range(5):
        changed = text.copy()
        changed[:, token] += 1
        assert np.abs(predict(params, xt, changed) - found).max() > 1e-4


def test_each_image_has_its_own_text_and_time(params, inputs):
    xt, text = inputs
    same = np.stack([xt[0], xt[0]]), np.stack([text[0], text[0]])
    first, second = predict(params, *same)
    assert np.abs(first - second).max() > 1e-3  # times differ
    other = same[1].copy()
    other[1] += 1
    found = predict(params, same[0], other)
    np.testing.assert_allclose(found[0], first, atol=1e-5)
    assert np.abs(found[1] - second).max() > 1e-3


def test_rematerialisation_and_linear_projections_change_nothing(params, inputs):
    xt, text = inputs
    found = predict(params, xt, text)
    np.testing.assert_allclose(predict(params, xt, text, NET.clone(remat=True)), found, atol=1e-5)

    def as_dense(path, leaf):
        pointwise = path[-2].key in ("proj_in", "proj_out") and leaf.ndim == 4
        return leaf[0, 0] if pointwise else leaf

    dense = jax.tree_util.tree_map_with_path(as_dense, params)
    np.testing.assert_allclose(
        predict(dense, xt, text, NET.clone(linear_projection=True)), found, atol=1e-5
    )


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_output(params, inputs):
    xt, text = inputs
    score_fn = network.make_score_fn(NET.clone(dtype=jnp.bfloat16))
    jaxpr = jax.make_jaxpr(score_fn)(params, xt, T, text)
    assert "bf16" in str(jaxpr)
    assert jaxpr.out_avals[0].dtype == jnp.float32
