"""The classifier's outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models.classifier import Classifier


@pytest.fixture(scope="module")
def run():
    """The compiled classifier with random parameters, and a batch."""
    net = Classifier(7, widths=(8, 16), dropout=0.5)
    x = np.random.default_rng(0).normal(size=(4, 8, 6, 1)).astype(np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: (0.3 * rng.normal(size=p.shape)).astype(np.float32), shapes)

    @jax.jit
    def apply(x, key=None):
        rngs = {} if key is None else {"dropout": key}
        return net.apply(params, x, deterministic=key is None, rngs=rngs)

    return apply, x, params["params"]


def test_logits_and_features_have_their_shapes(run):
    apply, x, _ = run
    logits, features = apply(x)
    assert logits.shape == (4, 7) and features.shape == (4, 16)
    assert features.dtype == jnp.float32
    assert np.all(features >= 0) and np.ptp(features, axis=0).max() > 1e-3


def test_logits_are_linear_in_the_features(run):
    apply, x, params = run
    logits, features = apply(x)
    head = params["Dense_0"]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-5)


def test_images_of_a_batch_do_not_mix(run):
    apply, x, _ = run
    logits, _ = apply(x)
    np.testing.assert_allclose(apply(x[::-1])[0], logits[::-1], atol=1e-5)
    assert np.abs(logits - logits[:1]).max() > 1e-3


def test_dropout_needs_a_key(run):
    apply, x, _ = run
    np.testing.assert_array_equal(apply(x)[0], apply(x)[0])
    one, two = (apply(x, jax.random.key(seed, impl="rbg"))[0] for seed in (1, 2))
    assert np.abs(one - apply(x)[0]).max() > 1e-3 and np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("stride", [1, 2])
def test_resolution_halves_from_width_to_width_and_by_the_first_stride(stride):
    net = Classifier(3, widths=(8, 8, 16), blocks=2, stride=stride)
    x = np.zeros((1, 8 * stride, 8 * stride, 3), np.float32)

    def capture():
        mutable = ["params", "intermediates"]
        return net.init_with_output(
            jax.random.key(0), x, mutable=mutable, capture_intermediates=True
        )[1]["intermediates"]

    blocks = jax.eval_shape(capture)
    shapes = [blocks[f"ResidualBlock_{i}"]["__call__"][0].shape for i in range(6)]
    assert shapes == [(1, 8, 8, 8)] * 2 + [(1, 4, 4, 8)] * 2 + [(1, 2, 2, 16)] * 2
