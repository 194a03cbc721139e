"""Forget images become noise while Fisher and replay hold the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import relabelled_error
from vdu_jax.objectives import selective_amnesia
from vdu_jax.objectives.selective_amnesia import AmnesiaNoise, AmnesiaState


def make(toy, **settings):
    return selective_amnesia(toy.score_fn, toy.predicts, toy.posterior, 40, **settings)


def batch(toy):
    return {"forget": {"image": toy.images(0, 6)}, "replay": {"image": toy.images(1, 9)}}


def test_the_loss_is_its_three_terms(toy):
    fisher = {"a": jnp.float32(0.3), "b": jnp.float32([0.1, 0.7])}
    state, data, target = AmnesiaState(toy.start, fisher), batch(toy), toy.images(2, 6)
    noise = AmnesiaNoise(toy.noising(3, 6), toy.noising(4, 9), target)
    objective = make(toy, replay_weight=0.5, fisher_weight=3.0)
    assert objective.sees == {"forget", "replay"}
    loss, metrics = objective.loss(toy.params, state, data, noise)

    x0 = jnp.asarray(data["forget"]["image"])
    relabelled = relabelled_error(
        toy.score_fn, toy.params, toy.predicts, x0, noise.forget, target
    ).mean()
    replayed = toy.noised(noise.replay, data["replay"]["image"])
    kept = toy.error(toy.params, replayed.xt, replayed.eps)[0].mean()
    gaps = {k: np.asarray(toy.params[k]) - np.asarray(toy.start[k]) for k in "ab"}
    numbers = 4 * 3 * 2  # D, in one image
    pull = numbers * sum((np.asarray(fisher[k]) * gaps[k] ** 2).sum() for k in "ab")
    assert float(metrics["consolidation"]) == pytest.approx(pull, rel=1e-5)
    assert float(loss) == pytest.approx(float(relabelled) + 0.5 * kept + 3 * pull, rel=1e-4)


def test_the_target_is_uniform_in_the_range_of_images(toy):
    target = np.asarray(make(toy).draw(jax.random.key(2), batch(toy)).target)
    assert target.shape == (6, 4, 3, 2)
    assert -1 <= target.min() < -0.9 and 0.9 < target.max() <= 1


def test_the_fisher_is_the_mean_square_of_single_gradients(toy):
    images = [toy.images(seed, 5) for seed in (3, 4)]
    batches = {"replay": ({"image": x0} for x0 in images)}
    state = make(toy, fisher_batches=2).init(toy.start, batches, jax.random.key(0))
    by_a, by_b = [], []
    for index, x0 in enumerate(images):
        key = jax.random.fold_in(jax.random.key(0), index)
        noising = process.draw_noising(key, toy.schedule, x0)
        draw = toy.noised(jax.tree.map(np.asarray, noising), x0)
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
