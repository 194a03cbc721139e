"""The corrected prediction is the target wherever the network is asked, in between above all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import empirical, process
from vdu_jax.objectives import retained_score
from vdu_jax.objectives.demixing import DemixingNoise, DemixingState
from vdu_jax.objectives.retained_score import time_density

SHARE = 0.4


def test_a_model_of_the_retained_images_has_no_loss_and_that_of_all_has(toy):
    """Of ten images four are D_f; the networks are the exact denoisers of all and of the rest."""
    images = jnp.asarray(toy.images(0, 10))
    forget, rest = images[:4], images[4:]

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        of_all = empirical.denoise(toy.schedule, images, xt, t).eps
        of_rest = empirical.denoise(toy.schedule, rest, xt, t).eps
        return of_all + params["unlearned"] * (of_rest - of_all)

    whole, unlearned = ({"unlearned": jnp.full(1, x)} for x in (0.0, 1.0))
    trained = toy.posterior._replace(mean=whole, variance=jax.tree.map(jnp.ones_like, whole))
    objective = retained_score(score_fn, toy.predicts, trained, 4, forget_share=SHARE)
    state = DemixingState(whole, forget, rest, trained)
    batch = {"forget": {"image": forget}, "replay": {"image": rest}}
    noise = objective.draw(jax.random.key(0), batch)
    _, metrics = objective.loss(unlearned, state, batch, noise)
    _, before = objective.loss(whole, state, batch, noise)
    for part in ("corrected", "drift"):
        assert float(metrics[part]) < 1e-4 * float(before[part])
        assert float(before[part]) > 1e-3


def test_a_condition_says_which_part_an_image_is_of(toy):
    """D_f is taught to be drawn as the rest is, replay to stay; without it kernels decide."""
    images = jnp.asarray(toy.images(0, 10))
    forget, rest = images[:4], images[4:]
    batch = {
        "forget": {"image": forget, "cond": jnp.full(4, 7.0), "negative": jnp.zeros(4)},
        "replay": {"image": rest, "cond": jnp.full(6, 8.0), "negative": jnp.zeros(6)},
    }

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return 0.5 * xt + params["shift"] + 0.01 * cond[:, None, None, None]

    start = {"shift": jnp.zeros(1)}
    trained = toy.posterior._replace(mean=start, variance=jax.tree.map(jnp.ones_like, start))
    state = DemixingState(start, forget, rest, trained)

    def metrics(drop):
        objective = retained_score(
            score_fn, toy.predicts, trained, 4, forget_share=SHARE, drop_condition=drop
        )
        noise = objective.draw(jax.random.key(0), batch)
        found = objective.loss(start, state, batch, noise)[1]
        return noise, float(found["corrected"]), float(found["drift"])

    def expected(noising, share):
        """Mean square of the correction, weighted as at D_f."""
        image = forget if len(noising.t) == 4 else rest
        xt = process.q_sample(toy.schedule, image, *noising)
        c = empirical.correction(toy.schedule, forget, rest, share, xt, noising.t)
        level = toy.levels[noising.t][:, None, None, None]
        weight = np.minimum(1, (1 - level) / level) if len(image) == 4 else 1.0
        return float((weight * np.square(c)).mean())

    noise, corrected, drift = metrics(0.0)
    assert noise.forget_dropped is None and drift == 0
    certain = expected(noise.forget, jnp.ones(4))
    assert corrected == pytest.approx(certain, rel=1e-4) and corrected > 0
    noise, corrected, drift = metrics(1.0)
    assert noise.forget_dropped.all() and noise.replay_dropped.all()
    assert corrected == pytest.approx(expected(noise.forget, SHARE), rel=1e-4)
    assert drift == pytest.approx(expected(noise.replay, SHARE), rel=1e-4) and drift > 0


@pytest.mark.parametrize(("weight", "gamma"), [(0.0, 0.0), (2.0, 0.3)])
def test_loss_by_hand(toy, weight, gamma):
    noise = DemixingNoise(toy.noising(5, 6), toy.noising(6, 9))
    data = {"forget": {"image": toy.images(0, 6)}, "replay": {"image": toy.images(1, 9)}}
    start = DemixingState(
        toy.start,
        jnp.asarray(toy.images(0, 6)),
        jnp.asarray(toy.images(2, 9)),
        toy.posterior._replace(mean=toy.start),
    )
    objective = retained_score(
        toy.score_fn,
        toy.predicts,
        toy.posterior,
        6,
        forget_share=SHARE,
        replay_weight=weight,
        gamma=gamma,
    )
    loss, metrics = objective.loss(toy.params, start, data, noise)

    def error(kind, weigh):
        t, eps = getattr(noise, kind)
        level = toy.levels[t][:, None, None, None]
        xt = np.sqrt(level) * data[kind]["image"] + np.sqrt(1 - level) * eps
        c = empirical.correction(
            toy.schedule, start.forget, start.replay, SHARE, jnp.asarray(xt, jnp.float32), t
        )
        change = sum(
            (np.asarray(toy.params[k], np.float64) - np.asarray(toy.start[k])) * x
            for k, x in (("a", xt), ("b", 1.0))
        )
        return (weigh(level) * (change - np.asarray(c)) ** 2).mean()

    corrected = error("forget", lambda level: np.minimum(1, (1 - level) / level))
    drift = error("replay", lambda level: 1.0)
    away = float(metrics["energy"])
    assert float(loss) == pytest.approx(corrected + weight * drift + gamma * away, rel=1e-3)


def test_times_lie_where_the_correction_acts():
    density = time_density(1000)
    assert density.argmax() == 500 and density.max() == pytest.approx(1.75)
    assert density[0] == pytest.approx(0.25 + 1.5 * np.exp(-0.5 / 0.3**2), rel=1e-6)
    assert density[350] == pytest.approx(0.25 + 1.5 * np.exp(-0.5), rel=1e-6)


@pytest.mark.parametrize(
    "bad",
    [{"forget_share": 1.0}, {"reference_images": 0}, {"replay_weight": -1.0}, {"gamma": -1.0},
     {"anchor": "x"}, {"drop_condition": 1.1}],
)  # fmt: skip
def test_settings_out_of_range(toy, bad):
    with pytest.raises(ValueError):
        retained_score(toy.score_fn, toy.predicts, toy.posterior, 6, **{"forget_share": 0.3} | bad)


def test_times_of_a_batch_follow_the_density(toy):
    density = time_density(toy.schedule.num_steps)
    x0 = jnp.zeros((2000, 1))
    t = process.draw_noising(jax.random.key(1), toy.schedule, x0, True, density).t
    found = np.bincount(t, minlength=len(density)) / len(t)
    np.testing.assert_allclose(found, density / density.sum(), atol=1.01 / len(t) * 2)
