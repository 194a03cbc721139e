"""The published loss, its gradient and its scaling, against closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import posterior
from vdu_jax.objectives import vdu, vdu_extended

NUM_FORGET = 40


def make(toy, **kwargs):
    return vdu(toy.score_fn, toy.predicts, toy.posterior, NUM_FORGET, **kwargs)


def batch(toy, seed=0, n=6):
    return {"forget": {"image": toy.images(seed, n)}}


@pytest.mark.parametrize("weighting", ["simple", "exact"])
@pytest.mark.parametrize("anchor", ["mean", "pretrained"])
@pytest.mark.parametrize("plasticity_reduction", ["sum", "mean"])
@pytest.mark.parametrize("stability_reduction", ["sum", "mean"])
def test_loss_and_gradient_by_hand(
    toy, weighting, anchor, plasticity_reduction, stability_reduction
):
    gamma, noising, data = 0.3, toy.noising(7, 6), batch(toy)
    objective = make(
        toy,
        gamma=gamma,
        weighting=weighting,
        anchor=anchor,
        plasticity_reduction=plasticity_reduction,
        stability_reduction=stability_reduction,
    )
    loss, metrics, grad = toy.run(objective, data, noising)

    draw = toy.noised(noising, data["forget"]["image"], weighting)
    error, by_a, by_b = toy.error(toy.params, draw.xt, draw.eps)
    energy, pull = toy.energy(toy.params, toy.posterior.mean if anchor == "mean" else toy.start)
    forget = -(1 - gamma) * (NUM_FORGET if plasticity_reduction == "sum" else 1)
    stay = gamma / (1 if stability_reduction == "sum" else 3)
    w = draw.weights
    assert loss == pytest.approx(forget * (w * error).mean() + stay * energy, rel=2e-4)
    expected_a = forget * (w * by_a).mean() + stay * pull["a"]
    expected_b = forget * (w[:, None] * by_b).mean(0) + stay * pull["b"]
    assert float(grad["a"]) == pytest.approx(expected_a, rel=5e-4)
    np.testing.assert_allclose(grad["b"], expected_b, rtol=5e-4)
    assert float(metrics["forget_error"]) == pytest.approx(error.mean(), rel=1e-5)
    assert float(metrics["energy"]) == pytest.approx(energy / 3, rel=1e-5)


def test_the_defaults_are_the_papers_sums(toy):
    noising, data = toy.noising(1, 6), batch(toy)
    explicit = make(
        toy,
        gamma=0.5,
        anchor="mean",
        weighting="simple",
        plasticity_reduction="sum",
        stability_reduction="sum",
    )
    assert toy.run(make(toy), data, noising)[0] == toy.run(explicit, data, noising)[0]


def test_gamma_1_stays_whatever_the_data(toy):
    objective = make(toy, gamma=1.0)
    energy, pull = toy.energy(toy.params, toy.posterior.mean)
    for seed in range(2):
        loss, _, grad = toy.run(objective, batch(toy, seed), toy.noising(seed, 6))
        assert loss == pytest.approx(energy, rel=1e-5)
        np.testing.assert_allclose(grad["b"], pull["b"], rtol=1e-5)


def test_gamma_0_is_gradient_ascent_whatever_the_posterior(toy):
    noising, data = toy.noising(0, 6), batch(toy)
    tight = toy.posterior._replace(variance=jax.tree.map(lambda v: v / 1e3, toy.posterior.variance))
    loss, _, grad = toy.run(make(toy, gamma=0.0), data, noising)
    same = vdu(toy.score_fn, toy.predicts, tight, NUM_FORGET, gamma=0.0)
    assert loss == pytest.approx(toy.run(same, data, noising)[0], rel=1e-6)
    draw = toy.noised(noising, data["forget"]["image"])
    error, by_a, _ = toy.error(toy.params, draw.xt, draw.eps)
    assert loss == pytest.approx(-NUM_FORGET * error.mean(), rel=1e-5)
    assert float(grad["a"]) == pytest.approx(-NUM_FORGET * by_a.mean(), rel=1e-4)


def test_plasticity_scales_with_the_forget_set_and_not_with_the_batch(toy):
    data, noising = batch(toy), toy.noising(0, 6)

    def plasticity(num_forget, data, noising):
        objective = vdu(toy.score_fn, toy.predicts, toy.posterior, num_forget, gamma=0.0)
        return toy.run(objective, data, noising)[0]

    once = plasticity(40, data, noising)
    assert plasticity(80, data, noising) == pytest.approx(2 * once, rel=1e-5)
    twice = jax.tree.map(lambda a: np.concatenate([a, a]), (data, noising))
    assert plasticity(40, *twice) == pytest.approx(once, rel=1e-5)


def test_a_minibatch_is_an_unbiased_estimate_of_the_whole_loss(toy):
    """The whole loss, Σ over D_f and E over t and ε, has a closed form for a linear predictor."""
    data, gamma = toy.images(3, 20), 0.3
    objective = vdu(toy.score_fn, toy.predicts, toy.posterior, 20, gamma=gamma, weighting="exact")
    state = objective.init(toy.start, {}, jax.random.key(0))

    @jax.jit
    @jax.vmap
    def estimate(key):
        pick, draw = jax.random.split(key)
        images = jax.random.choice(pick, jnp.asarray(data), (4,), replace=False)
        some = {"forget": {"image": images}}
        return objective.loss(toy.params, state, some, objective.draw(draw, some))[0]

    losses = np.asarray(estimate(jax.random.split(jax.random.key(1), 20_000)), np.float64)

    a, b = (np.asarray(toy.params[k], np.float64) for k in "ab")
    level = toy.levels[:, None, None, None, None]
    mean_square = (a * np.sqrt(level) * data + b) ** 2  # of the part that is not noise
    by_time = (mean_square + (a * np.sqrt(1 - level) - 1) ** 2).mean((2, 3, 4))  # (T, images)
    plasticity = (toy.weights("exact")[:, None] * by_time).mean(0).sum()
    energy, _ = toy.energy(toy.params, toy.posterior.mean)
    whole = -(1 - gamma) * plasticity + gamma * energy
    standard_error = losses.std() / np.sqrt(len(losses))
    assert losses.mean() == pytest.approx(whole, abs=4 * standard_error)
    assert standard_error < 0.02 * (1 - gamma) * plasticity


def test_the_state_is_the_anchored_posterior(toy):
    mean = make(toy, anchor="mean").init(toy.start, {}, jax.random.key(0)).posterior
    assert mean.mean["a"] == toy.posterior.mean["a"]
    pretrained = make(toy, anchor="pretrained").init(toy.start, {}, jax.random.key(0)).posterior
    assert pretrained.mean["a"] == toy.start["a"]
    assert pretrained.variance["a"] == toy.posterior.variance["a"]


@pytest.mark.parametrize("factory", [vdu, vdu_extended])
@pytest.mark.parametrize("anchor", ["mean", "pretrained"])
def test_any_family_holds_the_parameters_by_its_own_energy(toy, factory, anchor):
    around = [toy.start, toy.params, toy.posterior.mean]
    family = posterior.floor_variance(posterior.low_rank(around), 0.01)
    options = dict(plasticity_reduction="sum", stability_reduction="sum")
    objective = factory(
        toy.score_fn, toy.predicts, family, NUM_FORGET, gamma=1.0, anchor=anchor, **options
    )
    data = batch(toy) | {"replay": {"image": toy.images(1, 4)}}
    loss, metrics, _ = toy.run(objective, data, objective.draw(jax.random.key(0), data))
    mean = family.mean if anchor == "mean" else toy.start
    expected = float(posterior.energy(family._replace(mean=mean), toy.params))
    assert float(metrics["energy"]) == pytest.approx(expected / 3, rel=1e-5)
    if factory is vdu:
        assert loss == pytest.approx(expected, rel=1e-5)


def test_it_sees_forget_alone(toy):
    objective = make(toy)
    assert objective.sees == {"forget"}
    state = objective.init(toy.start, {}, jax.random.key(0))
    other = {"retain": {"image": toy.images(0, 2)}}
    with pytest.raises(KeyError, match="forget"):
        objective.draw(jax.random.key(0), other)
    with pytest.raises(KeyError, match="forget"):
        objective.loss(toy.params, state, other, toy.noising(0, 2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(gamma=-0.1), "gamma"),
        (dict(gamma=1.1), "gamma"),
        (dict(gamma=float("nan")), "gamma"),
        (dict(weighting="snr"), "unknown weighting"),
        (dict(plasticity_reduction="max"), "unknown reduction 'max'; one of sum, mean"),
        (dict(stability_reduction="none"), "unknown reduction"),
    ],
)
def test_a_setting_out_of_range_raises(toy, setting, message):
    with pytest.raises(ValueError, match=message):
        make(toy, **setting)


def test_an_unknown_anchor_raises(toy):
    with pytest.raises(ValueError, match="unknown anchor 'median'; one of mean, pretrained"):
        make(toy, anchor="median").init(toy.start, {}, jax.random.key(0))


@pytest.mark.parametrize("wrong", [{"a": np.ones(())}, {"a": np.ones(()), "b": np.ones(3)}])
def test_a_posterior_of_another_network_raises(toy, wrong):
    with pytest.raises(ValueError):
        make(toy).init(wrong, {}, jax.random.key(0))
