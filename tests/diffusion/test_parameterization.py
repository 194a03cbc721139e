"""What a network predicts, and what becomes of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import (
    PARAMETERIZATIONS,
    epsilon,
    loss_weights,
    make_parameterization,
    relabelled_error,
    simple_error,
    v_prediction,
)
from vdu_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("linear", 100, 1e-3, 0.2)
LEVELS = np.cumprod(1 - np.asarray(SCHEDULE.betas, np.float64))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(params, xt, t, cond=None, *, dropout_key=None):
    assert dropout_key is None
    return params * xt + 0.1 * cond


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_conversion_there_and_back_is_the_simple_loss_of_the_network(name):
    """The weighted error of the noise is the squared error of what the network itself predicts."""
    predicts = make_parameterization(name, SCHEDULE)
    x0, eps, t = normal(0, 4, 3, 3, 2), normal(1, 4, 3, 3, 2), np.array([0, 10, 50, 99])
    a = LEVELS[t][:, None, None, None]
    own = {"epsilon": eps, "v_prediction": np.sqrt(a) * eps - np.sqrt(1 - a) * x0}[name]
    xt = process.q_sample(SCHEDULE, x0, t, eps)
    np.testing.assert_allclose(predicts.eps(own, xt, t), eps, atol=1e-5)
    np.testing.assert_allclose(predicts.x0(own, xt, t), x0, atol=2e-3)
    bound = process.bind_condition(network, {"image": x0, "cond": 1.0})
    error = simple_error(bound, 0.8, predicts, x0, process.Noising(t, eps))
    np.testing.assert_allclose(error, np.square(0.8 * xt + 0.1 - own).mean((1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"), [("epsilon", np.ones(100)), ("v_prediction", 1 / LEVELS)]
)
def test_the_weights_of_the_simple_loss(name, expected):
    predicts = make_parameterization(name, SCHEDULE)
    np.testing.assert_allclose(loss_weights(predicts), expected, rtol=1e-5)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_the_weights_of_the_bound_are_those_of_an_error_of_the_noise(name):
    found = loss_weights(make_parameterization(name, SCHEDULE), "exact")
    np.testing.assert_array_equal(found, process.exact_weights(SCHEDULE))


def test_unknown_weighting_raises():
    with pytest.raises(ValueError, match="unknown weighting 'snr'; one of simple, exact"):
        loss_weights(epsilon(SCHEDULE), "snr")


def test_relabelled_error_is_the_eps_error_of_the_other_image_at_high_noise():
    """And at low noise the squared error of the predicted image, so that it stays bounded."""
    x0, target, eps = normal(0, 4, 3, 3, 2), normal(1, 4, 3, 3, 2), normal(2, 4, 3, 3, 2)
    t = np.array([0, 10, 60, 95])
    a = LEVELS[t][:, None, None, None]
    assert a[1] > 0.5 > a[2]
    xt = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
    prediction = normal(3, *xt.shape)
    image_error = ((xt - np.sqrt(1 - a) * prediction) / np.sqrt(a) - target) ** 2
    eps_error = (prediction - (xt - np.sqrt(a) * target) / np.sqrt(1 - a)) ** 2
    expected = np.where(a > 0.5, image_error, eps_error).mean((1, 2, 3))
    found = relabelled_error(
        lambda p, x, t: prediction, None, epsilon(SCHEDULE), x0, process.Noising(t, eps), target
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_relabelled_error_vanishes_for_a_network_that_denoises_to_the_target():
    x0, target, eps = normal(0, 3, 3, 3, 2), normal(1, 3, 3, 3, 2), normal(2, 3, 3, 3, 2)
    t = np.array([5, 50, 90])

    def score_fn(params, xt, t):
        a = LEVELS[np.asarray(t)][:, None, None, None]
        return (xt - np.sqrt(a) * target) / np.sqrt(1 - a)

    noising, predicts = process.Noising(t, eps), epsilon(SCHEDULE)
    error = relabelled_error(score_fn, None, predicts, x0, noising, target)
    assert np.abs(error).max() < 1e-6
    assert relabelled_error(score_fn, None, predicts, x0, noising, x0)[0] > 0.5


def test_a_network_that_predicts_v_gives_the_noise_of_its_image():
    """ε from v = √ᾱ ε − √(1−ᾱ) x_0 (Salimans and Ho 2022), at every level."""
    x0, eps = normal(0, 4, 3, 3, 2), normal(1, 4, 3, 3, 2)
    t = np.array([0, 10, 50, 99])
    a = LEVELS[t][:, None, None, None]
    v = (np.sqrt(a) * eps - np.sqrt(1 - a) * x0).astype(np.float32)
    xt, predicts = process.q_sample(SCHEDULE, x0, t, eps), v_prediction(SCHEDULE)
    predict = predicts.noise_predictor(lambda *args, **_: jnp.asarray(v))
    np.testing.assert_allclose(predict({}, xt, t), eps, atol=1e-5)
    np.testing.assert_allclose(predicts.eps(v, xt, t), eps, atol=1e-5)
    np.testing.assert_allclose(predicts.x0(v, xt, t), x0, atol=1e-3)


def test_the_simple_loss_of_such_a_network_is_its_own_squared_error():
    x0, eps, v = normal(0, 4, 3, 3, 2), normal(1, 4, 3, 3, 2), normal(2, 4, 3, 3, 2)
    t = np.array([0, 10, 50, 99])
    a = LEVELS[t][:, None, None, None]
    noising = process.Noising(t, eps)
    error = simple_error(lambda *args, **_: jnp.asarray(v), {}, v_prediction(SCHEDULE), x0, noising)
    expected = np.square(v - (np.sqrt(a) * eps - np.sqrt(1 - a) * x0)).mean((1, 2, 3))
    np.testing.assert_allclose(error, expected, rtol=1e-4)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="unknown prediction 'sample'; one of epsilon"):
        make_parameterization("sample", SCHEDULE)
