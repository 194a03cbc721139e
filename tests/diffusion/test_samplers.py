"""Samplers on Gaussian data, where the optimal network and all solutions are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import samplers
from vdu_jax.diffusion.schedule import make_schedule

LINEAR = make_schedule("linear", 1025)  # T − 1 = 1024 halves evenly
SHORT = make_schedule("linear", 200, 1e-4, 0.1)
MEAN, STD = 0.3, 0.5
KINDS = {
    "ddpm": dict(name="ddpm"),
    "ddim": dict(name="ddim"),
    "ddim_eta": dict(name="ddim", eta=0.7),
    "dpm++2m": dict(name="dpm++2m"),
    "dpm++2m_eta": dict(name="dpm++2m", eta=1.0),
}


def affine(data, plan):
    """The (slope, offset) of the affine map start -> image that a deterministic plan is."""
    start = jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    run = jax.jit(lambda s: samplers.integrate(data.score_fn, {}, plan, s, clip_x0=False))
    zero, one = np.asarray(run(start), np.float64).ravel()
    return one - zero, zero


def exact_ode(data, last_time):
    """The same of the probability-flow ODE from T − 1 to `last_time`, then x̂_0.

    It keeps (x_t − α_t m) / S_t constant.
    """
    s_start, s_end = data.marginal_std[-1], data.marginal_std[last_time]
    to_x0 = data.alpha[last_time] * data.std**2 / s_end**2  # slope of E[x_0 | x_t] in x_t
    slope = to_x0 * s_end / s_start
    return slope, data.mean - slope * data.alpha[-1] * data.mean


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_ddim_is_its_exact_affine_map(gaussian, num_steps):
    data = gaussian(LINEAR, MEAN, STD)
    plan = samplers.make_plan(LINEAR, "ddim", num_steps)
    x = np.array([0.0, 1.0])
    times = np.asarray(plan.t)
    for here, there in zip(times, [*times[1:], None], strict=True):
        eps = data.eps(x, here)
        x0 = (x - data.sigma[here] * eps) / data.alpha[here]
        x = x0 if there is None else data.alpha[there] * x0 + data.sigma[there] * eps
    np.testing.assert_allclose(affine(data, plan), (x[1] - x[0], x[0]), rtol=1e-4, atol=2e-5)


def errors(data, name, intervals):
    plan = [samplers.make_plan(LINEAR, name, n + 1, spacing="linspace") for n in intervals]
    return np.array([np.subtract(affine(data, p), exact_ode(data, 0)) for p in plan])


def test_ddim_converges_to_the_ode_at_first_order(gaussian):
    error = errors(gaussian(LINEAR, MEAN, STD), "ddim", [128, 256, 512])
    np.testing.assert_allclose(error[:-1] / error[1:], 2, rtol=0.1)


def test_dpm_solver_converges_to_the_ode_at_second_order(gaussian):
    error = errors(gaussian(LINEAR, MEAN, STD), "dpm++2m", [64, 128, 256])
    np.testing.assert_allclose(error[:-1] / error[1:], 4, rtol=0.25)


def test_dpm_solver_beats_ddim_at_equal_cost(gaussian):
    data = gaussian(LINEAR, MEAN, STD)
    ddim, dpm = (np.abs(errors(data, name, [256])) for name in ("ddim", "dpm++2m"))
    assert np.all(dpm < ddim / 5)


def test_dpm_solver_of_one_step_predicts_x0(gaussian):
    data = gaussian(LINEAR, MEAN, STD)
    plan = samplers.make_plan(LINEAR, "dpm++2m", 1)
    np.testing.assert_allclose(affine(data, plan), exact_ode(data, -1), rtol=1e-4, atol=2e-5)


def moments(data, plan):
    """Mean and variance that a plan ends with, followed through its steps in float64."""
    rows = zip(*(np.asarray(column, np.float64) for column in plan), strict=True)
    mean, covariance = np.zeros(2), np.diag([1.0, 0.0])  # of x and of x̂_0 before
    for t, _, _, from_x, from_x0, from_previous, noise in rows:
        t = int(t)
        slope = data.alpha[t] * data.std**2 / data.marginal_std[t] ** 2
        offset = data.mean - slope * data.alpha[t] * data.mean
        turn = np.array([[from_x + from_x0 * slope, from_previous], [slope, 0.0]])
        mean = turn @ mean + np.array([from_x0 * offset, offset])
        covariance = turn @ covariance @ turn.T + np.diag([noise**2, 0.0])
    return mean[0], covariance[0, 0]


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_noise_in_dpm_solver_leaves_the_distribution_as_it_is(gaussian, eta):
    """The mean at once, the variance at second order in the step, for every η."""
    data = gaussian(LINEAR, MEAN, STD)
    plans = [
        samplers.make_plan(LINEAR, "dpm++2m", n + 1, eta=eta, spacing="linspace")
        for n in (64, 128, 256)
    ]
    means, variances = np.transpose([moments(data, plan) for plan in plans])
    np.testing.assert_allclose(means, MEAN, rtol=1e-3)
    error = variances - STD**2
    np.testing.assert_allclose(error[:-1] / error[1:], 4, rtol=0.25)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_moments_follow_the_reverse_chain(gaussian, variance):
    """Mean and variance against Ho et al. eq. 7 iterated in float64."""
    data = gaussian(SHORT, MEAN, STD)
    betas = np.asarray(SHORT.betas, np.float64)
    mean, var = 0.0, 1.0
    for t in reversed(range(200)):
        level, previous = data.alphas_cumprod[t], data.alphas_cumprod[t - 1] if t else 1.0
        slope = data.alpha[t] * STD**2 / data.marginal_std[t] ** 2
        from_x0 = np.sqrt(previous) * betas[t] / (1 - level)
        from_xt = np.sqrt(1 - betas[t]) * (1 - previous) / (1 - level)
        noise = betas[t] * ((1 - previous) / (1 - level) if variance == "fixed_small" else 1)
        x0_mean = MEAN + slope * (mean - data.alpha[t] * MEAN)
        mean = from_x0 * x0_mean + from_xt * mean
        var = (from_x0 * slope + from_xt) ** 2 * var + (noise if t else 0)
    plan = samplers.make_plan(SHORT, "ddpm", 200, variance=variance)
    x = draw(data.score_fn, plan, 64, (16, 16, 1), clip_x0=False)
    assert x.mean() == pytest.approx(mean, abs=4 * np.sqrt(var / x.size))
    assert x.var() == pytest.approx(var, rel=4 * np.sqrt(2 / x.size))


def draw(score_fn, plan, batch, shape, seed=0, **kwargs):
    keys = jax.random.split(jax.random.key(seed), batch)
    run = jax.jit(lambda keys: samplers.sample(score_fn, {}, plan, keys, shape, **kwargs))
    return np.asarray(run(keys))


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_reproduce_the_data(gaussian, kind):
    data = gaussian(LINEAR, MEAN, STD)
    steps = 1025 if kind == "ddpm" else 200
    plan = samplers.make_plan(LINEAR, num_steps=steps, **KINDS[kind])
    x = draw(data.score_fn, plan, 64, (16, 16, 1), clip_x0=False)
    # 16 384 independent pixels: 4 standard errors, and 1 % for what is left of the step size.
    assert x.mean() == pytest.approx(MEAN, abs=4 * STD / 128 + 0.01 * STD)
    assert x.std() == pytest.approx(STD, rel=4 / np.sqrt(2 * x.size) + 0.01)


@pytest.mark.parametrize("num_steps", [10, 200])
def test_ddim_with_eta_1_is_ddpm_with_small_variance(num_steps):
    ddim = samplers.make_plan(SHORT, "ddim", num_steps, eta=1.0)
    ddpm = samplers.make_plan(SHORT, "ddpm", num_steps, variance="fixed_small")
    assert float(ddpm.noise[0]) > 0.01
    for a, b in zip(ddim, ddpm, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_large_variance_is_beta_on_the_full_grid():
    plan = samplers.make_plan(SHORT, "ddpm", 200, variance="fixed_large")
    np.testing.assert_allclose(plan.noise[:-1] ** 2, SHORT.betas[:0:-1], rtol=1e-4)
    assert plan.noise[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_of_a_constant_image_ends_there(kind):
    """If x̂_0 is always 0.25, every sampler's last step gives exactly that."""
    levels = np.cumprod(1 - np.asarray(SHORT.betas, np.float64))
    alpha, sigma = (jnp.asarray(np.sqrt(a), jnp.float32) for a in (levels, 1 - levels))

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        column = (slice(None), None, None, None)
        return (xt - alpha[t][column] * 0.25) / sigma[t][column]

    plan = samplers.make_plan(SHORT, num_steps=20, **KINDS[kind])
    np.testing.assert_allclose(draw(score_fn, plan, 3, (2, 2, 1)), 0.25, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_key_alone(kind):
    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        context = xt.mean((1, 2), keepdims=True) + t[:, None, None, None] / 500
        return jnp.tanh(0.7 * xt + context)

    plan = samplers.make_plan(SHORT, num_steps=8, **KINDS[kind])
    keys = jax.random.split(jax.random.key(3), 6)
    run = jax.jit(lambda keys: samplers.sample(score_fn, {}, plan, keys, (4, 3, 2), clip_x0=False))
    whole = np.asarray(run(keys))
    assert whole.shape == (6, 4, 3, 2) and whole.dtype == np.float32
    order = np.array([4, 0, 2, 1, 5, 3])
    np.testing.assert_allclose(run(keys[order]), whole[order], rtol=1e-4, atol=1e-5)
    parts = np.concatenate([run(keys[:3]), run(keys[3:])])
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)
    gaps = np.abs(whole[:, None] - whole[None]).max((2, 3, 4)) + np.eye(6)
    assert gaps.min() > 0.1


def test_every_step_uses_fresh_noise_of_its_own(gaussian):
    """x̂_0 = 0 always: the variance after three steps is known if the four noises are independent.

    Had any two of them been the same, it would be about 1.3 times as large or more.
    """
    zero = gaussian(SHORT, 0.0, 1e-6)
    plan = samplers.make_plan(SHORT, "ddpm", 200, variance="fixed_large")
    plan = jax.tree.map(lambda values: values[:3], plan)
    variance = 1.0
    for a, s in np.stack([plan.x, plan.noise], -1).astype(np.float64):
        variance = a**2 * variance + s**2
    out = draw(zero.score_fn, plan, 64, (16, 16, 1), clip_x0=False)
    assert out.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / out.size))


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_keeps_images_within_bounds(kind):
    def wild(params, xt, t, cond=None, *, dropout_key=None):
        return -2.0 * xt

    plan = samplers.make_plan(SHORT, num_steps=10, **KINDS[kind])
    clipped = draw(wild, plan, 4, (4, 4, 1))
    assert np.abs(clipped).max() <= 1 and np.ptp(clipped) > 1
    assert np.abs(draw(wild, plan, 4, (4, 4, 1), clip_x0=False)).max() > 1


def test_condition_and_parameters_reach_the_network():
    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return xt * params + cond

    plan = samplers.make_plan(SHORT, "ddim", 1)
    start = jnp.ones((2, 1, 1, 1))
    out = samplers.integrate(
        score_fn, 0.5, plan, start, clip_x0=False, cond=jnp.array([0.1, 0.2]).reshape(2, 1, 1, 1)
    )
    level = np.prod(1 - np.asarray(SHORT.betas, np.float64))
    expected = (1 - np.sqrt(1 - level) * np.array([0.6, 0.7])) / np.sqrt(level)
    np.testing.assert_allclose(out.ravel(), expected, rtol=1e-4)


def test_deterministic_plans_have_no_noise_and_stochastic_ones_need_a_source():
    assert samplers.make_plan(SHORT, "ddim", 5).noise is None
    assert samplers.make_plan(SHORT, "dpm++2m", 5).noise is None
    for kind in ("ddpm", "ddim_eta", "dpm++2m_eta"):
        plan = samplers.make_plan(SHORT, num_steps=5, **KINDS[kind])
        with pytest.raises(ValueError, match="noise_fn"):
            samplers.integrate(lambda p, x, t, c: x, {}, plan, jnp.zeros((1, 2, 2, 1)))
        x, row = jnp.zeros((1, 2, 2, 1)), jax.tree.map(lambda column: column[0], plan)
        with pytest.raises(ValueError, match="needs noise"):
            samplers.step(row, x, x, x)


@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("total", [1, 7, 250, 1000])
def test_time_grids_decrease_strictly_inside_the_range(spacing, total):
    for n in {1, 2, 3, total // 3, total - 1, total} & set(range(1, total + 1)):
        grid = samplers.time_grid(total, n, spacing)
        assert len(grid) == n and np.issubdtype(grid.dtype, np.integer)
        assert np.all(np.diff(grid) < 0) and grid[0] < total and grid[-1] >= 0
    np.testing.assert_array_equal(samplers.time_grid(total, total, spacing), np.arange(total)[::-1])


def test_time_grids_of_lin_et_al():
    np.testing.assert_array_equal(samplers.time_grid(1000, 10, "leading"), np.arange(900, -1, -100))
    np.testing.assert_array_equal(
        samplers.time_grid(1000, 10, "trailing"), np.arange(999, 98, -100)
    )
    np.testing.assert_array_equal(samplers.time_grid(1000, 3, "trailing"), [999, 666, 332])
    np.testing.assert_array_equal(
        samplers.time_grid(1000, 10, "linspace"), np.arange(999, -1, -111)
    )


@pytest.mark.parametrize("num_steps", [0, -1, 201])
def test_number_of_steps_out_of_range_raises(num_steps):
    with pytest.raises(ValueError, match=r"1\.\.200"):
        samplers.make_plan(SHORT, "ddim", num_steps)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(name="euler"), "unknown sampler 'euler'; one of ddpm"),
        (dict(name="ddim", eta=1.5), "eta"),
        (dict(name="ddim", eta=-0.1), "eta"),
        (dict(name="dpm++2m", eta=1.1), "eta"),
        (dict(name="ddpm", variance="learned"), "unknown variance"),
        (dict(name="ddim", spacing="karras"), "unknown spacing 'karras'; one of leading"),
    ],
)
def test_unknown_settings_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        samplers.make_plan(SHORT, num_steps=5, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_timesteps_that_are_named_are_those_of_the_plan(kind):
    even = samplers.make_plan(LINEAR, num_steps=4, **KINDS[kind])
    named = samplers.make_plan(LINEAR, num_steps=4, timesteps=(1024, 768, 511, 255), **KINDS[kind])
    for column, expected in zip(named, even, strict=True):
        np.testing.assert_array_equal(column, expected)
    other = samplers.make_plan(LINEAR, num_steps=3, timesteps=(999, 40, 7), **KINDS[kind])
    assert other.t.tolist() == [999, 40, 7]
    np.testing.assert_allclose(other.alpha**2 + other.sigma**2, 1, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong", [(199, 50), (200, 50, 3), (199, 50, -1), (199, 50, 50), (3, 2, 9)]
)
def test_timesteps_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"3 decreasing numbers in 0\.\.199"):
        samplers.make_plan(SHORT, num_steps=3, timesteps=wrong)
