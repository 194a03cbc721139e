"""CLIP's towers; their numbers are compared with transformers' in tests/parity."""

import jax
import numpy as np
import pytest

from vdu_jax.interop import clip as weights
from vdu_jax.models import clip
from vdu_jax.parity import inputs

NET = weights.read_config(inputs.CLIP, "x")


@pytest.fixture(scope="module")
def params():
    named = inputs.tensors(weights.PART.tensor_shapes(NET), seed=1)
    return weights.PART.to_params(NET, named, "x")


def images(seed, count=3):
    side = NET.vision.image_size
    return inputs.normal(seed, count, side, side, 3)


def test_embeddings_have_length_one_and_logits_are_their_scaled_cosines(params):
    variables, pictures, tokens = {"params": params}, images(0), inputs.CLIP_TOKENS
    seen = NET.apply(variables, pictures, method="embed_images")
    read = NET.apply(variables, tokens, method="embed_texts")
    assert seen.shape == (3, NET.projection_size) and read.shape == (2, NET.projection_size)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, rtol=1e-5)
    logits = NET.apply(variables, pictures, tokens)
    expected = np.exp(params["logit_scale"]) * np.asarray(seen) @ np.asarray(read).T
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_text_ends_at_its_first_end_token(params):
    tokens = np.array([[97, 5, 98, 98, 98], [97, 5, 98, 1, 2], [97, 6, 98, 98, 98]])
    read = NET.apply({"params": params}, tokens, method="embed_texts")
    np.testing.assert_allclose(read[0], read[1], atol=1e-6)
    assert np.abs(read[0] - read[2]).max() > 1e-2


def test_every_patch_and_its_place_count(params):
    """So attention is not causal: what comes last reaches the class token, which comes first."""
    patch, picture = NET.vision.patch_size, images(1, 1)
    embed = jax.jit(lambda x: NET.apply({"params": params}, x, method="embed_images"))
    whole = embed(picture)
    for row in range(0, picture.shape[1], patch):
        for column in range(0, picture.shape[2], patch):
            other = picture.copy()
            other[:, row : row + patch, column : column + patch] = 0
            assert np.abs(embed(other) - whole).max() > 1e-3
    assert np.abs(embed(np.roll(picture, patch, axis=1)) - whole).max() > 1e-3


def test_fresh_parameters_have_the_temperature_of_the_paper():
    fresh = jax.jit(clip.init_params, static_argnums=0)(NET, jax.random.key(0))
    assert np.exp(fresh["logit_scale"]) == pytest.approx(1 / 0.07, rel=1e-3)
    assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, weights.PART.param_shapes(NET))
