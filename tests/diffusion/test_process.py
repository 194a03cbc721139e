"""The forward process and the ε-error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("linear", 100, 1e-3, 0.2)
LEVELS = np.cumprod(1 - np.asarray(SCHEDULE.betas, np.float64))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_q_sample_is_its_formula_with_a_time_per_image():
    x0, eps, t = normal(0, 3, 4, 2, 1), normal(1, 3, 4, 2, 1), np.array([0, 40, 99])
    a = LEVELS[t][:, None, None, None]
    xt = process.q_sample(SCHEDULE, x0, t, eps)
    np.testing.assert_allclose(xt, np.sqrt(a) * x0 + np.sqrt(1 - a) * eps, rtol=1e-5, atol=1e-5)


def test_q_sample_has_the_moments_of_the_forward_chain():
    """One-step noising x ← √(1−β) x + √β z, iterated, gives the same mean and variance."""
    mean, variance = 0.7, 0.0
    for beta in np.asarray(SCHEDULE.betas, np.float64)[:31]:
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    n = 40_000
    x0, t = jnp.full((n, 1, 1, 1), 0.7), jnp.full((n,), 30)
    xt = process.q_sample(SCHEDULE, x0, t, jax.random.normal(jax.random.key(0), x0.shape))
    assert float(xt.mean()) == pytest.approx(mean, abs=4 * np.sqrt(variance / n))
    assert float(xt.var()) == pytest.approx(variance, rel=4 * np.sqrt(2 / n))


def test_q_sample_rejects_noise_of_another_shape():
    with pytest.raises(AssertionError):
        process.q_sample(SCHEDULE, np.zeros((2, 4, 4, 1)), np.zeros(2, int), np.zeros((2, 4, 4, 3)))


def test_predict_x0_inverts_q_sample():
    x0, eps, t = normal(0, 4, 3, 3, 2), normal(1, 4, 3, 3, 2), np.array([0, 10, 50, 80])
    xt = process.q_sample(SCHEDULE, x0, t, eps)
    np.testing.assert_allclose(process.predict_x0(SCHEDULE, xt, t, eps), x0, atol=1e-3)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_exact_weights_formula(name):
    schedule = make_schedule(name, 200)
    betas = np.asarray(schedule.betas, np.float64)
    levels = np.cumprod(1 - betas)
    previous = np.append(1, levels[:-1])
    sigma2 = betas * (1 - previous) / (1 - levels)
    sigma2[0] = sigma2[1]
    expected = betas**2 / (2 * sigma2 * (1 - betas) * (1 - levels))
    # 1 − ᾱ of a float32 ᾱ has lost digits at small t.
    np.testing.assert_allclose(process.exact_weights(schedule), expected, rtol=1e-3)


def test_exact_weights_are_the_kl_between_reverse_gaussians():
    """w_t ‖ε̂ − ε‖² = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) for equal variances β̃_t."""
    t, eps, guess, x0 = 20, 0.3, -0.5, 0.4
    beta, level, previous = float(SCHEDULE.betas[t]), LEVELS[t], LEVELS[t - 1]

    def reverse_mean(x0):
        first = np.sqrt(previous) * beta / (1 - level) * x0
        return first + np.sqrt(1 - beta) * (1 - previous) / (1 - level) * xt

    xt = np.sqrt(level) * x0 + np.sqrt(1 - level) * eps
    predicted = (xt - np.sqrt(1 - level) * guess) / np.sqrt(level)
    variance = beta * (1 - previous) / (1 - level)
    kl = (reverse_mean(x0) - reverse_mean(predicted)) ** 2 / (2 * variance)
    weight = process.exact_weights(SCHEDULE)[t]
    assert float(weight) * (guess - eps) ** 2 == pytest.approx(kl, rel=1e-4)


def test_draw_noising_is_uniform_in_time_and_normal_in_noise():
    x0 = jnp.zeros((20_000, 2, 1, 1))
    t, eps = process.draw_noising(jax.random.key(0), SCHEDULE, x0)
    counts = np.bincount(t, minlength=100)
    assert len(counts) == 100 and counts.min() > 0  # 0 … 99, both ends included
    assert ((counts - 200) ** 2 / 200).sum() < 99 + 4 * np.sqrt(2 * 99)
    assert eps.shape == x0.shape
    assert float(eps.mean()) == pytest.approx(0, abs=0.02)
    assert float(eps.var()) == pytest.approx(1, abs=0.03)
    assert abs(np.corrcoef(t, eps[:, 0, 0, 0])[0, 1]) < 0.03


def test_draw_noising_depends_on_its_key():
    x0 = jnp.zeros((8, 2, 2, 1))
    one, same, other = (
        process.draw_noising(jax.random.key(seed), SCHEDULE, x0) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.eps, same.eps)
    np.testing.assert_array_equal(one.t, same.t)
    assert np.any(one.eps != other.eps) and np.any(one.t != other.t)


def test_eps_error_by_hand():
    x0, eps, t = normal(0, 3, 2, 2, 2), normal(1, 3, 2, 2, 2), np.array([0, 40, 99])

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        assert dropout_key is None
        return params * xt + t[:, None, None, None] / 100 + cond

    predict = process.bind_condition(score_fn, {"image": x0, "cond": 0.1})
    noising = process.Noising(jnp.asarray(t), jnp.asarray(eps))
    error = process.eps_error(predict, 0.8, SCHEDULE, x0, noising)
    a = LEVELS[t][:, None, None, None]
    xt = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
    expected = ((0.8 * xt + t[:, None, None, None] / 100 + 0.1 - eps) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(error, expected, rtol=1e-5)


def test_eps_error_hands_the_dropout_key_on():
    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return jax.random.normal(dropout_key, xt.shape)

    x0, key = jnp.zeros((2, 3, 3, 1)), jax.random.key(5)
    noising = process.Noising(jnp.zeros(2, int), jax.random.normal(key, x0.shape))
    error = process.eps_error(score_fn, {}, SCHEDULE, x0, noising, dropout_key=key)
    np.testing.assert_array_equal(error, np.zeros(2))


def test_stratified_times_are_uniform_and_spread():
    x0 = jnp.zeros((10, 1, 1, 1))
    draw = jax.vmap(lambda k: process.draw_noising(k, SCHEDULE, x0, stratified=True).t)
    t = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    steps = SCHEDULE.num_steps
    assert t.min() == 0 and t.max() == steps - 1
    # One in each tenth, wherever in the batch; each place is uniform by itself.
    assert (np.sort(t // (steps / 10), axis=1) == np.arange(10)).mean() > 0.9
    assert np.abs(t.mean(0) / steps - 0.5).max() < 0.03
    loose = jax.vmap(lambda k: process.draw_noising(k, SCHEDULE, x0).t)
    other = np.asarray(loose(jax.random.split(jax.random.key(0), 2000)))
    assert t.mean(1).std() < other.mean(1).std() / 3


@pytest.mark.parametrize("sizes", [(4, 4), (2, 6), (6, 4, 8), (5,)])
@pytest.mark.parametrize("conditioned", [False, True])
def test_parts_predicted_together_are_each_as_alone(sizes, conditioned):
    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        prediction = params * xt + process.bcast(jnp.asarray(t, jnp.float32), xt)
        return prediction if cond is None else prediction + cond[:, :1, None, None]

    parts = []
    for seed, size in enumerate(sizes):
        part = {"image": normal(seed, size, 3, 2, 1)}
        if conditioned:
            part["cond"] = normal(seed + 9, size, 2)
        noising = process.draw_noising(jax.random.key(seed), SCHEDULE, part["image"])
        parts.append(process.network_inputs(SCHEDULE, part, noising))
    calls = []

    def once(*arguments, **given):
        calls.append(arguments)
        return score_fn(*arguments, **given)

    together = process.predict_together(once, 2.0, *parts)
    assert len(calls) == 1
    for part, found in zip(parts, together, strict=True):
        alone = process.bind_condition(score_fn, part)(2.0, part["xt"], part["t"])
        np.testing.assert_array_equal(found, alone)


def test_devices_that_share_each_part_share_the_whole_alike():
    """With 4 devices each quarter of the joined batch is of that quarter of every part."""
    parts = [
        {"xt": np.arange(n, dtype=np.float32)[:, None], "t": np.full(n, kind)}
        for kind, n in enumerate((8, 24))
    ]
    seen = []

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        seen.append((np.asarray(xt)[:, 0], np.asarray(t)))
        return xt

    process.predict_together(score_fn, {}, *parts)
    for quarter, (x, t) in enumerate(zip(*(np.split(a, 4) for a in seen[0]), strict=True)):
        for kind, size in enumerate((2, 6)):
            assert x[t == kind].tolist() == list(range(quarter * size, (quarter + 1) * size))
