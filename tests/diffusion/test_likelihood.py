"""The evidence bound against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from vdu_jax.diffusion import likelihood
from vdu_jax.diffusion.schedule import from_betas, make_schedule

nll_of = jax.jit(likelihood.discretised_gaussian_nll, static_argnames="levels")
GRID = np.linspace(-1, 1, 256)


def images(values):
    return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


def test_prior_term_is_the_kl_to_a_standard_normal():
    schedule = make_schedule("linear", 50, 1e-3, 0.1)  # far from pure noise at its end
    level = np.prod(1 - np.asarray(schedule.betas, np.float64))
    x0 = np.array([[-1.0, 0.3], [0.0, 0.9]])

    def kl(x):
        q = scipy.stats.norm(np.sqrt(level) * x, np.sqrt(1 - level))
        p = scipy.stats.norm()
        return scipy.integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -9, 9)[0]

    expected = [sum(kl(x) for x in row) for row in x0]
    out = likelihood.prior_term(schedule, jnp.asarray(x0, jnp.float32).reshape(2, 1, 2, 1))
    np.testing.assert_allclose(out, expected, rtol=1e-4)


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("mean", [-1.3, 0.0, 0.42])
@pytest.mark.parametrize("log_std", [-6.0, -3.0, 0.5])
def test_discretised_gaussian_sums_to_one(levels, mean, log_std):
    grid = images(np.linspace(-1, 1, levels))
    nll = nll_of(grid, mean, log_std, levels)
    assert nll.shape == (levels,)
    assert np.exp(-np.asarray(nll, np.float64)).sum() == pytest.approx(1, abs=2e-4)


def log_mass(x, mean, std, levels=256):
    """log(Φ(u) − Φ(l)) in float64, from the side on which nothing cancels."""
    half = 1 / (levels - 1)
    upper, lower = (x - mean + half) / std, (x - mean - half) / std
    upper = np.where(x > 1 - half, np.inf, upper)
    lower = np.where(x < -1 + half, -np.inf, lower)
    flip = upper + lower > 0
    top, bottom = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
    log_top, log_bottom = scipy.stats.norm.logcdf(top), scipy.stats.norm.logcdf(bottom)
    return log_top + np.log1p(-np.exp(log_bottom - log_top))


@pytest.mark.parametrize("std", [0.003, 0.02, 0.3, 3.0])
def test_discretised_gaussian_is_a_difference_of_cdfs(std):
    """Down to e^−200 000: 667 standard deviations away."""
    mean = 0.123
    nll = nll_of(images(GRID), mean, np.log(std))
    x = np.asarray(GRID, np.float32).astype(np.float64)
    np.testing.assert_allclose(nll, -log_mass(x, mean, std), rtol=2e-3, atol=2e-4)
    edges = np.r_[-np.inf, (GRID[1:] + GRID[:-1]) / 2, np.inf]
    plain = np.diff(scipy.stats.norm.cdf(edges, mean, std))
    near = np.abs(GRID - mean) < 3 * std
    np.testing.assert_allclose(-np.log(plain[near]), nll[near], rtol=2e-3, atol=2e-4)


def test_discretised_gaussian_sums_over_pixels():
    x0 = images(GRID[:6]).reshape(2, 3, 1, 1)
    parts = nll_of(images(GRID[:6]), 0.0, 0.0).reshape(2, 3).sum(1)
    np.testing.assert_allclose(nll_of(x0, 0.0, 0.0), parts, rtol=1e-6)


def tight_schedule():
    """Even steps in log(1 − ᾱ), then in log ᾱ: the true reverse variance is then close to β̃_t.

    With a linear schedule the bound is over a bit loose, however good the network.
    """
    noisy = np.r_[1e-5, np.geomspace(1.5e-5, 0.5, 200)]
    levels = np.r_[1 - noisy, np.geomspace(0.5, 1e-4, 200)[1:]]
    return from_betas(1 - levels / np.r_[1, levels[:-1]])


SCHEDULE = tight_schedule()
BRIEF = from_betas(np.asarray(SCHEDULE.betas)[:201])  # ᾱ_T = 0.5: the prior term is 0.16 bits


@pytest.fixture(scope="module")
def x0():
    """Gaussian data on the grid, standard deviation 1/4."""
    pixels = 0.25 * np.random.default_rng(0).normal(size=(256, 8, 8, 1))
    return jnp.asarray(np.clip(np.round((pixels + 1) * 127.5), 0, 255) / 127.5 - 1, jnp.float32)


@pytest.fixture(scope="module")
def bound(gaussian, x0):
    """The data, and the bound of its optimal network."""
    data = gaussian(SCHEDULE, 0.0, 0.25)
    run = jax.jit(lambda x0, key: likelihood.bits_per_dim(data.score_fn, {}, SCHEDULE, x0, key))
    return data, x0, run


def expected_bits(data, schedule):
    """E over x0, x_t and ε of the bound, in float64: every term has a closed form."""
    betas = np.asarray(schedule.betas, np.float64)
    levels = data.alphas_cumprod
    previous = np.append(1, levels[:-1])
    variance = betas * (1 - previous) / (1 - levels)
    weights = betas[1:] ** 2 / (2 * variance[1:] * (1 - betas[1:]) * (1 - levels[1:]))
    signal = levels * data.std**2
    steps = (weights * (signal / (signal + 1 - levels))[1:]).sum()  # Var(ε | x_t)
    end = levels[-1]
    prior = 0.5 * (end * data.std**2 - end - np.log1p(-end))
    # x0 − E[x0 | x_1] is normal; the decoder's −log mass of it by Gauss–Hermite quadrature.
    spread = np.sqrt(data.std**2 * (1 - levels[0]) / (signal[0] + 1 - levels[0]))
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    masses = log_mass(np.zeros(60), spread * nodes, np.sqrt(variance[1]))
    decoder = -(mass / mass.sum() * masses).sum()
    return (steps + prior + decoder) / np.log(2)


@pytest.mark.parametrize("schedule", [SCHEDULE, BRIEF], ids=["tight", "brief"])
def test_bits_per_dim_of_the_optimal_network_is_its_expectation(gaussian, x0, schedule):
    data = gaussian(schedule, 0.0, 0.25)
    run = jax.jit(lambda x0, key: likelihood.bits_per_dim(data.score_fn, {}, schedule, x0, key))
    bits = run(x0, jax.random.key(0))
    assert bits.shape == (256,)
    four_errors = 4 * float(bits.std()) / 16
    assert four_errors < 0.1
    assert float(bits.mean()) == pytest.approx(expected_bits(data, schedule), abs=four_errors)


def test_bits_per_dim_bounds_the_entropy_closely(bound):
    data, x0, run = bound
    entropy = (scipy.stats.norm(0, data.std).entropy() - np.log(2 / 255)) / np.log(2)
    bits = np.mean([run(x0, jax.random.key(seed)).mean() for seed in range(3)])
    # In expectation 0.24 bits are left: the data's own bins at the first steps, and 400 of them.
    assert entropy < bits < entropy + 0.3


def test_bits_per_dim_is_per_image_and_worse_for_what_the_network_does_not_know(bound):
    _, x0, run = bound
    odd = jnp.asarray(np.random.default_rng(1).choice(GRID, x0.shape), jnp.float32)
    mixed = jnp.concatenate([x0[:32], odd[:32]])
    bits, plain = run(mixed, jax.random.key(0)), run(x0, jax.random.key(0))
    np.testing.assert_allclose(bits[:32], plain[:32], rtol=1e-4)
    assert bits[32:].min() > bits[:32].max() + 0.5


def test_bits_per_dim_grows_by_a_worse_network(bound):
    data, x0, run = bound

    def worse(params, xt, t, cond=None, *, dropout_key=None):
        return 0.8 * data.score_fn(params, xt, t)

    key = jax.random.key(0)
    bits = jax.jit(lambda x0: likelihood.bits_per_dim(worse, {}, SCHEDULE, x0, key))(x0)
    assert float(bits.mean()) > float(run(x0, key).mean()) + 0.1
