"""CLIP's text tower. Its numbers are compared with PyTorch's in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models.stable_diffusion import text_encoder

NET = text_encoder.TextEncoder(
    vocab_size=11, max_length=6, hidden_size=8, intermediate_size=16, num_layers=2, num_heads=2
)
TOKENS = jnp.array([[3, 1, 4, 1, 5, 9]])


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: text_encoder.init_params(NET, key))(jax.random.key(0))


def embed(params, tokens):
    return np.asarray(NET.apply({"params": params}, tokens))


def test_a_token_changes_what_follows_it_and_nothing_before(params):
    changed = TOKENS.at[0, 3].set(7)
    gap = np.abs(embed(params, TOKENS) - embed(params, changed)).max(-1)[0]
    np.testing.assert_allclose(gap[:3], 0, atol=1e-6)
    assert (gap[3:] > 1e-4).all()


def test_a_prompt_may_be_shorter_than_the_longest(params):
    np.testing.assert_allclose(
        embed(params, TOKENS[:, :4]), embed(params, TOKENS)[:, :4], atol=1e-5
    )


def test_the_same_token_differs_by_its_place(params):
    found = embed(params, jnp.array([[1, 1, 1]]))
    assert np.abs(found[0, 0] - found[0, 2]).max() > 1e-3


def test_activations_by_hand():
    x = jnp.array([-1.0, 0.5, 2.0])
    quick = [v / (1 + np.exp(-1.702 * v)) for v in (-1.0, 0.5, 2.0)]
    np.testing.assert_allclose(text_encoder.ACTIVATIONS["quick_gelu"](x), quick, rtol=1e-5)
    # x Φ(x), with Φ(−1), Φ(0.5), Φ(2) from a table.
    exact = [-0.158655, 0.345731, 1.954500]
    np.testing.assert_allclose(text_encoder.ACTIVATIONS["gelu"](x), exact, rtol=1e-5)
