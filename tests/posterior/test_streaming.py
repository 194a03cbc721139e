"""Streaming moments against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import posterior


def checkpoints(k, centre, spread, seed=0):
    """k float32 checkpoints scattered around a common centre."""
    rng = np.random.default_rng(seed)
    middle = {"a": centre + rng.normal(size=(20, 30)), "b": {"c": centre + rng.normal(size=(7,))}}
    return [
        jax.tree.map(lambda m: (m + spread * rng.normal(size=m.shape)).astype(np.float32), middle)
        for _ in range(k)
    ]


def stream(trees):
    moments = posterior.start(trees[0])
    for tree in trees[1:]:
        moments = posterior.update(moments, tree)
    return posterior.finish(moments)


def float64_moments(trees):
    def stacked(f):
        return jax.tree.map(lambda *leaves: f(np.stack(leaves).astype(np.float64)), *trees)

    return stacked(lambda x: x.mean(0)), stacked(lambda x: x.var(0, ddof=1))


def assert_close(tree, expected, **kwargs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **kwargs), tree, expected)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_mean_and_unbiased_variance(k):
    trees = checkpoints(k, 0.0, 0.5)
    result, (mean, variance) = stream(trees), float64_moments(trees)
    assert int(result.count) == k
    assert_close(result.mean, mean, rtol=1e-5, atol=1e-6)
    assert_close(result.variance, variance, rtol=1e-5, atol=1e-9)


def test_a_small_spread_around_a_large_mean_keeps_its_digits():
    """Weights near 10 that moved by 0.001, where E[θ²] − E[θ]² in float32 gives nothing right."""
    trees = checkpoints(20, 10.0, 1e-3)
    result, (mean, variance) = stream(trees), float64_moments(trees)
    assert_close(result.mean, mean, rtol=1e-6)
    assert_close(result.variance, variance, rtol=0.01)
    naive = np.mean([t["a"] ** 2 for t in trees], 0) - np.mean([t["a"] for t in trees], 0) ** 2
    assert np.abs(naive * 20 / 19 / variance["a"] - 1).max() > 1


def test_the_order_of_checkpoints_does_not_matter():
    trees = checkpoints(8, 1.0, 0.1)
    one, other = stream(trees), stream([trees[i] for i in (5, 2, 7, 0, 1, 6, 4, 3)])
    assert_close(one.mean, other.mean, rtol=1e-5, atol=1e-6)
    assert_close(one.variance, other.variance, rtol=1e-4)


def test_equal_checkpoints_have_no_variance():
    tree = checkpoints(1, 3.0, 0.1)[0]
    result = stream([tree] * 4)
    assert_close(result.variance, jax.tree.map(np.zeros_like, tree))
    assert_close(result.mean, tree)


def test_half_precision_checkpoints_are_accumulated_in_float32():
    trees = checkpoints(6, 1.0, 0.3)
    trees = [jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), tree) for tree in trees]
    result = stream(trees)
    assert result.mean["a"].dtype == result.variance["a"].dtype == jnp.float32
    exact = [jax.tree.map(lambda p: np.asarray(p, np.float32), t) for t in trees]
    assert_close(result.variance, float64_moments(exact)[1], rtol=1e-4)


def test_structure_is_kept():
    trees = checkpoints(2, 0.0, 1.0)
    result = stream(trees)
    for tree in (result.mean, result.variance):
        assert jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, trees[0])


def test_one_checkpoint_has_no_variance():
    with pytest.raises(ValueError, match="at least 2"):
        posterior.finish(posterior.start({"a": jnp.ones(3)}))


@pytest.mark.parametrize(("name", "shape"), [("a", (4,)), ("a", (3, 1)), ("b", (3,))])
def test_another_shape_or_structure_raises(name, shape):
    with pytest.raises(ValueError):
        posterior.update(posterior.start({"a": jnp.ones(3)}), {name: jnp.ones(shape)})
