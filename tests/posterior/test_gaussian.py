"""The Gaussian posterior: energy, floor, shrinkage and summary by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdu_jax import posterior


def tree(a, b):
    return {"a": jnp.asarray(a, jnp.float32), "b": {"c": jnp.asarray(b, jnp.float32)}}


GAUSSIAN = posterior.GaussianPosterior(
    mean=tree([[1.0, -2.0], [0.5, 0.0]], [3.0]),
    variance=tree([[0.25, 4.0], [0.0, 1.0]], [0.5]),
    count=jnp.int32(5),
)
POSITIVE = posterior.floor_variance(GAUSSIAN, 0.01)


def leaves(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]).astype(np.float64)


def test_num_parameters_counts_scalars():
    assert posterior.num_parameters(GAUSSIAN.mean) == 5
    assert posterior.num_parameters({"a": jnp.zeros(()), "b": jnp.zeros((2, 3, 4))}) == 25
    shapes = jax.eval_shape(lambda: GAUSSIAN.mean)
    assert posterior.num_parameters(shapes) == 5


def test_energy_by_hand():
    params = tree([[1.5, 0.0], [0.6, 2.0]], [2.0])
    expected = 0.25 / 0.5 + 4 / 8 + 0.01 / 0.02 + 4 / 2 + 1 / 1
    assert float(posterior.energy(POSITIVE, params)) == pytest.approx(expected, rel=1e-5)


def test_energy_is_the_negative_log_density_up_to_a_constant():
    rng = np.random.default_rng(0)
    points = [tree(rng.normal(size=(2, 2)), rng.normal(size=1)) for _ in range(4)]
    scale = np.sqrt(leaves(POSITIVE.variance))
    sums = [
        float(posterior.energy(POSITIVE, p))
        + scipy.stats.norm.logpdf(leaves(p), leaves(POSITIVE.mean), scale).sum()
        for p in points
    ]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-4)


def test_energy_is_zero_with_zero_gradient_at_the_mean():
    value, grad = jax.value_and_grad(posterior.energy, argnums=1)(POSITIVE, POSITIVE.mean)
    assert value == 0
    np.testing.assert_array_equal(leaves(grad), np.zeros(5))


def test_gradient_of_energy():
    params = tree([[1.5, 0.0], [0.6, 2.0]], [2.0])
    grad = jax.jit(jax.grad(posterior.energy, argnums=1))(POSITIVE, params)
    expected = (leaves(params) - leaves(POSITIVE.mean)) / leaves(POSITIVE.variance)
    np.testing.assert_allclose(leaves(grad), expected, rtol=1e-5)


def test_floor_raises_only_what_is_below():
    floored = posterior.floor_variance(GAUSSIAN, 0.3)
    np.testing.assert_allclose(leaves(floored.variance), [0.3, 4.0, 0.3, 1.0, 0.5])
    np.testing.assert_array_equal(leaves(floored.mean), leaves(GAUSSIAN.mean))
    assert int(floored.count) == 5


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0.0, [0.25, 4.0, 0.0, 1.0, 0.5]),
        (0.25, [0.515625, 3.328125, 0.328125, 1.078125, 0.5]),
        (1.0, [1.3125, 1.3125, 1.3125, 1.3125, 0.5]),
    ],
)
def test_shrinkage_moves_towards_the_tensors_mean(amount, expected):
    shrunk = posterior.shrink_variance(GAUSSIAN, amount)
    np.testing.assert_allclose(leaves(shrunk.variance), expected, rtol=1e-6)
    np.testing.assert_array_equal(leaves(shrunk.mean), leaves(GAUSSIAN.mean))


@pytest.mark.parametrize("floor", [0.0, -1e-8, float("nan"), float("inf")])
def test_a_floor_that_bounds_nothing_raises(floor):
    with pytest.raises(ValueError, match="floor must be > 0"):
        posterior.floor_variance(GAUSSIAN, floor)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_a_shrinkage_out_of_range_raises(amount):
    with pytest.raises(ValueError, match="amount must lie in"):
        posterior.shrink_variance(GAUSSIAN, amount)


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.6, 0.7), (1.0, 4.0)]
)
def test_relative_floor_is_a_quantile_over_all_tensors(quantile, expected):
    floor = posterior.relative_floor(GAUSSIAN, quantile)
    assert isinstance(floor, float) and floor == pytest.approx(expected)


def test_layer_summary_rows():
    first, second = posterior.layer_summary(GAUSSIAN)
    assert (first["name"], first["size"]) == ("a", 4)
    assert (second["name"], second["size"]) == ("b/c", 1)
    assert first["rms_mean"] == pytest.approx(np.sqrt((1 + 4 + 0.25) / 4))
    stds = [0.0, 0.5, 1.0, 2.0]
    assert first["std_median"] == pytest.approx(0.75)
    assert first["std_p05"] == pytest.approx(np.quantile(stds, 0.05))
    assert first["std_p95"] == pytest.approx(np.quantile(stds, 0.95))
    assert first["fraction_zero"] == 0.25 and second["fraction_zero"] == 0
    assert second["std_p05"] == second["std_p95"] == pytest.approx(np.sqrt(0.5))
