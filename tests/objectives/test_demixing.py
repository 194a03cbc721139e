"""The forget part is taken out of a mixture that is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import empirical, process
from vdu_jax.objectives import demixing
from vdu_jax.objectives.demixing import DemixingNoise, DemixingState


def make(toy, **settings):
    return demixing(toy.score_fn, toy.predicts, toy.posterior, 6, forget_share=0.3, **settings)


def batch(toy):
    return {"forget": {"image": toy.images(0, 6)}, "replay": {"image": toy.images(1, 9)}}


def state(toy):
    mean = toy.posterior._replace(mean=toy.start)
    return DemixingState(toy.start, jnp.asarray(toy.images(0, 6)), jnp.asarray(toy.images(2, 9)),
                         mean)  # fmt: skip


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_perfect_model_of_the_mixture_becomes_one_of_the_rest(toy, share):
    """D of 10 images of which a share is D_f: ε* + c is exactly the denoiser of the others."""
    everything = jnp.asarray(toy.images(0, 10))
    count = round(10 * share)
    forget, rest = everything[:count], everything[count:]
    t = jnp.array([2, 10, 30, 45, 49])
    xt = process.q_sample(
        toy.schedule, everything[:5], t, jax.random.normal(jax.random.key(0), (5, 4, 3, 2))
    )
    of_all = empirical.denoise(toy.schedule, everything, xt, t).eps
    target = of_all + empirical.correction(toy.schedule, forget, rest, share, xt, t)
    expected = empirical.denoise(toy.schedule, rest, xt, t).eps
    np.testing.assert_allclose(target, expected, atol=1e-3)
    assert float(jnp.abs(of_all - expected).max()) > 0.1


@pytest.mark.parametrize(("weight", "gamma"), [(0.0, 0.0), (2.0, 0.0), (0.5, 0.3)])
def test_loss_by_hand(toy, weight, gamma):
    noise, data, start = DemixingNoise(toy.noising(5, 6), toy.noising(6, 9)), batch(toy), state(toy)
    objective = make(toy, replay_weight=weight, gamma=gamma)
    loss, metrics = objective.loss(toy.params, start, data, noise)

    def prediction(params, xt):
        return np.asarray(params["a"], np.float64) * xt + np.asarray(params["b"], np.float64)

    draws = {}
    for kind in ("forget", "replay"):
        t, eps = getattr(noise, kind)
        level = toy.levels[t][:, None, None, None]
        draws[kind] = (np.sqrt(level) * data[kind]["image"] + np.sqrt(1 - level) * eps, t, level)
    xt, t, level = draws["forget"]
    shift = empirical.correction(
        toy.schedule, start.forget, start.replay, 0.3, jnp.asarray(xt, jnp.float32), t
    )
    gap = prediction(toy.params, xt) - prediction(toy.start, xt) - np.asarray(shift)
    expected = (np.minimum(1, (1 - level) / level) * gap**2).mean()
    assert float(metrics["corrected"]) == pytest.approx(expected, rel=1e-3)
    xt = draws["replay"][0]
    drift = ((prediction(toy.params, xt) - prediction(toy.start, xt)) ** 2).mean()
    assert float(metrics["drift"]) == pytest.approx(drift, rel=1e-3)
    away = float(metrics["energy"])
    assert away > 0
    assert float(loss) == pytest.approx(expected + weight * drift + gamma * away, rel=1e-3)


def test_the_sets_that_stand_for_the_parts(toy):
    rng = np.random.default_rng(0)

    def batches(images, size):
        while True:
            order = rng.permutation(len(images))
            for first in range(0, len(images), size):
                yield {"image": images[order[first : first + size]]}

    forget, replay = toy.images(0, 6), toy.images(1, 30)
    objective = make(toy, reference_images=20)
    start = objective.init(
        toy.params, {"forget": batches(forget, 3), "replay": batches(replay, 7)}, None
    )
    assert start.forget.shape[0] == 6 and start.replay.shape[0] == 20
    assert len(np.unique(start.forget, axis=0)) == 6  # every image of D_f, once
    jax.tree.map(np.testing.assert_array_equal, start.teacher, toy.params)
    jax.tree.map(np.testing.assert_array_equal, start.posterior.mean, toy.params)


@pytest.mark.parametrize(
    "bad",
    [{"forget_share": 1.0}, {"reference_images": 0}, {"replay_weight": -1.0}, {"gamma": -1.0},
     {"anchor": "x"}],
)  # fmt: skip
def test_settings_out_of_range(toy, bad):
    settings = {"forget_share": 0.3} | bad
    with pytest.raises(ValueError):
        demixing(toy.score_fn, toy.predicts, toy.posterior, 6, **settings)
