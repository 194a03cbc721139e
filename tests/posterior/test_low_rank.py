"""SWAG's covariance against dense linear algebra in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vdu_jax import posterior


def checkpoints(k, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    middle = {"a": rng.normal(size=(3, 4)), "b": {"c": rng.normal(size=(5,))}}
    return [
        jax.tree.map(
            lambda m: jnp.asarray(m + spread * rng.normal(size=m.shape), jnp.float32), middle
        )
        for _ in range(k)
    ]


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def covariance(p):
    """Σ as written in the paper, (d, d)."""
    k = int(p.count)
    columns = np.stack([flat(jax.tree.map(lambda d, i=i: d[i], p.deviations)) for i in range(k)], 1)
    return np.diag(flat(p.variance)) / 2 + columns @ columns.T / (2 * (k - 1))


def test_its_parts_are_the_checkpoints():
    trees = checkpoints(4)
    p = posterior.low_rank(iter(trees))
    stacked = np.stack([flat(t) for t in trees])
    np.testing.assert_allclose(flat(p.mean), stacked.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(p.variance), stacked.var(0, ddof=1), rtol=1e-4)
    assert int(p.count) == 4
    shapes = jax.tree.map(np.shape, p.deviations)
    assert shapes == {"a": (4, 3, 4), "b": {"c": (4, 5)}}
    for i, tree in enumerate(trees):
        deviation = flat(jax.tree.map(lambda d, i=i: d[i], p.deviations))
        np.testing.assert_allclose(deviation, flat(tree) - stacked.mean(0), atol=1e-6)


def test_the_diagonal_of_the_covariance_is_the_diagonal_familys():
    p = posterior.low_rank(checkpoints(5))
    np.testing.assert_allclose(np.diag(covariance(p)), flat(p.variance), rtol=1e-4)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_energy_and_gradient_against_a_dense_solve(k):
    p = posterior.floor_variance(posterior.low_rank(checkpoints(k)), 0.02)
    params = checkpoints(1, seed=7)[0]
    gap = flat(params) - flat(p.mean)
    pulled = np.linalg.solve(covariance(p), gap)
    value, grad = jax.jit(jax.value_and_grad(posterior.energy, argnums=1))(p, params)
    assert float(value) == pytest.approx(gap @ pulled / 2, rel=1e-4)
    np.testing.assert_allclose(flat(grad), pulled, rtol=1e-3, atol=1e-3)


def test_energy_is_the_negative_log_density_up_to_a_constant():
    p = posterior.floor_variance(posterior.low_rank(checkpoints(4)), 0.02)
    density = scipy.stats.multivariate_normal(flat(p.mean), covariance(p))
    points = checkpoints(4, seed=3)
    sums = [float(posterior.energy(p, t)) + density.logpdf(flat(t)) for t in points]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-4)


def test_energy_is_zero_at_the_mean():
    p = posterior.floor_variance(posterior.low_rank(checkpoints(3)), 1e-6)
    assert float(posterior.energy(p, p.mean)) == 0


@pytest.mark.parametrize("variance", [1e-6, 1e-11])
def test_a_direction_of_the_checkpoints_keeps_its_digits(variance):
    """Along one checkpoint's deviation δᵀ A⁻¹ δ is more than 10 000 times the energy."""
    rng = np.random.default_rng(0)
    trees = [{"w": jnp.asarray(1e-3 * rng.normal(size=100_000), jnp.float32)} for _ in range(5)]
    p = posterior.low_rank(trees)
    p = p._replace(variance={"w": jnp.full(100_000, variance)})
    b = np.asarray(p.deviations["w"], np.float64).T / np.sqrt(2 * 4)
    gap = np.asarray(trees[0]["w"], np.float64) - np.asarray(p.mean["w"], np.float64)
    z = np.linalg.solve(np.eye(5) + 2 / variance * b.T @ b, 2 / variance * b.T @ gap)
    rest = gap - b @ z
    expected = (2 / variance * rest @ rest + z @ z) / 2
    assert gap @ gap / variance > 1e4 * expected
    assert float(posterior.energy(p, trees[0])) == pytest.approx(expected, rel=0.01)


def test_equal_checkpoints_leave_the_diagonal_half():
    tree, other = checkpoints(2)
    p = posterior.floor_variance(posterior.low_rank([tree] * 3), 0.1)
    gap = flat(other) - flat(tree)
    assert float(posterior.energy(p, other)) == pytest.approx(gap @ gap / 0.1, rel=1e-4)


def test_floor_and_shrinkage_leave_the_deviations():
    p = posterior.low_rank(checkpoints(3))
    changed = posterior.floor_variance(posterior.shrink_variance(p, 1.0), 0.5)
    assert changed.deviations is p.deviations and changed.mean is p.mean
    assert flat(changed.variance).min() >= 0.5


@pytest.mark.parametrize("k", [0, 1])
def test_it_needs_two_checkpoints(k):
    with pytest.raises(ValueError, match="at least 2"):
        posterior.low_rank(checkpoints(k))


def test_checkpoints_of_another_network_raise():
    with pytest.raises(ValueError):
        posterior.low_rank([{"a": jnp.ones(3)}, {"a": jnp.ones(4)}])
