"""Forget images become noise while Fisher and replay hold the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.objectives import selective_amnesia
from vdu_jax.objectives.selective_amnesia import AmnesiaState


def make(toy, **settings):
    return selective_amnesia(toy.score_fn, toy.schedule, toy.posterior, 40, **settings)


def batch(toy):
    return {"forget": {"image": toy.images(0, 6)}, "replay": {"image": toy.images(1, 9)}}


def test_the_loss_is_its_three_terms(toy):
    fisher = {"a": jnp.float32(0.3), "b": jnp.float32([0.1, 0.7])}
    state, key, data = AmnesiaState(toy.start, fisher), jax.random.key(2), batch(toy)
    objective = make(toy, replay_weight=0.5, fisher_weight=3.0)
    assert objective.sees == {"forget", "replay"}
    loss, metrics = objective.loss(toy.params, state, data, key)

    forget_key, replay_key, noise_key = jax.random.split(key, 3)
    x0 = jnp.asarray(data["forget"]["image"])
    target = jax.random.uniform(noise_key, x0.shape, minval=-1, maxval=1)
    assert float(target.min()) < -0.9 and float(target.max()) > 0.9
    noising = process.draw_noising(forget_key, toy.schedule, x0)
    relabelled = process.relabelled_error(
        toy.score_fn, toy.params, toy.schedule, x0, noising, target
    ).mean()
    replayed = toy.draw(replay_key, data["replay"]["image"])
    kept = toy.error(toy.params, replayed.xt, replayed.eps)[0].mean()
    gaps = {k: np.asarray(toy.params[k]) - np.asarray(toy.start[k]) for k in "ab"}
    numbers = 4 * 3 * 2  # D, in one image
    pull = numbers * sum((np.asarray(fisher[k]) * gaps[k] ** 2).sum() for k in "ab")
    assert float(metrics["consolidation"]) == pytest.approx(pull, rel=1e-5)
    assert float(loss) == pytest.approx(float(relabelled) + 0.5 * kept + 3 * pull, rel=1e-4)


def test_the_fisher_is_the_mean_square_of_single_gradients(toy):
    images = [toy.images(seed, 5) for seed in (3, 4)]
    batches = {"replay": ({"image": x0} for x0 in images)}
    state = make(toy, fisher_batches=2).init(toy.start, batches, jax.random.key(0))
    by_a, by_b = [], []
    for index, x0 in enumerate(images):
        draw = toy.draw(jax.random.fold_in(jax.random.key(0), index), x0)
        _, a, b = toy.error(toy.start, draw.xt, draw.eps)
        by_a.extend(a)
        by_b.extend(b)
    assert float(state.fisher["a"]) == pytest.approx(np.square(by_a).mean(), rel=1e-3)
    np.testing.assert_allclose(state.fisher["b"], np.square(by_b).mean(0), rtol=1e-3)
    # Not the square of the mean gradient, in which images cancel each other.
    assert float(state.fisher["a"]) > 1.05 * np.mean(by_a) ** 2


@pytest.mark.parametrize(
    "wrong", [{"replay_weight": -1.0}, {"fisher_weight": -1.0}, {"fisher_batches": 0}]
)
def test_settings_out_of_range_raise(toy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(toy, **wrong)
