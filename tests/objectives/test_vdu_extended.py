"""The extensions: a capped plasticity and a stability in function space."""

import jax
import numpy as np
import pytest

from vdu_jax.objectives import vdu, vdu_extended
from vdu_jax.objectives.vdu_extended import ExtendedNoise

NUM_FORGET = 40


def make(toy, **kwargs):
    return vdu_extended(toy.score_fn, toy.predicts, toy.posterior, NUM_FORGET, **kwargs)


def batch(toy, forget_scale=1.0):
    return {
        "forget": {"image": forget_scale * toy.images(0, 6)},
        "replay": {"image": toy.images(1, 9)},
    }


def noise(toy, seed):
    return ExtendedNoise(toy.noising(seed, 6), toy.noising(seed + 1, 9), None, None)


def moved(start, direction, step):
    return jax.tree.map(lambda p, d: p + step * d, start, direction)


@pytest.mark.parametrize("weighting", ["simple", "exact"])
@pytest.mark.parametrize("stability", ["posterior", "function", "both"])
@pytest.mark.parametrize("plasticity", ["linear", "capped"])
def test_loss_and_gradient_by_hand(toy, plasticity, stability, weighting):
    gamma, weight, cap, given, data = 0.2, 5.0, 0.62, noise(toy, 16), batch(toy)
    objective = make(
        toy,
        gamma=gamma,
        weighting=weighting,
        plasticity=plasticity,
        cap=cap,
        stability=stability,
        function_weight=weight,
    )
    loss, metrics, grad = toy.run(objective, data, given)

    draw = toy.noised(given.forget, data["forget"]["image"], weighting)
    error, by_a, by_b = toy.error(toy.params, draw.xt, draw.eps)
    inside = error < (cap if plasticity == "capped" else np.inf)
    if plasticity == "capped":
        assert 0 < inside.sum() < len(inside)  # the cap binds for some images only
    scale = -(1 - gamma)
    expected = scale * (draw.weights * np.where(inside, error, cap)).mean()
    expected_a = scale * (draw.weights * inside * by_a).mean()
    expected_b = scale * ((draw.weights * inside)[:, None] * by_b).mean(0)
    if stability in ("posterior", "both"):
        energy, pull = toy.energy(toy.params, toy.start)
        expected += gamma * energy / 3
        expected_a += gamma * pull["a"] / 3
        expected_b += gamma * pull["b"] / 3
    if stability in ("function", "both"):
        xt = toy.noised(given.replay, data["replay"]["image"]).xt
        teacher = np.asarray(toy.start["a"]) * xt + np.asarray(toy.start["b"])
        drift, drift_a, drift_b = toy.error(toy.params, xt, teacher)
        assert float(metrics["drift"]) == pytest.approx(drift.mean(), rel=1e-4)
        expected += weight * drift.mean()
        expected_a += weight * drift_a.mean()
        expected_b += weight * drift_b.mean(0)
    assert loss == pytest.approx(expected, rel=5e-4)
    assert float(grad["a"]) == pytest.approx(expected_a, rel=1e-3, abs=1e-4)
    np.testing.assert_allclose(grad["b"], expected_b, rtol=1e-3, atol=1e-4)


def test_linear_with_posterior_alone_is_plain_vdu(toy):
    data, noising = batch(toy), toy.noising(2, 6)
    settings = dict(gamma=0.3, anchor="mean", weighting="exact")
    sums = dict(plasticity_reduction="sum", stability_reduction="sum")
    plain = vdu(toy.score_fn, toy.predicts, toy.posterior, NUM_FORGET, **settings)
    extended = make(toy, plasticity="linear", stability="posterior", **settings, **sums)
    loss, _, grad = toy.run(plain, data, noising)
    other, _, other_grad = toy.run(extended, data, ExtendedNoise(noising, None, None, None))
    assert loss == pytest.approx(other, rel=1e-6)
    np.testing.assert_allclose(grad["b"], other_grad["b"], rtol=1e-5)


def test_beyond_the_cap_nothing_is_left_to_forget(toy):
    """All errors above the cap: the loss is flat, its value the cap's."""
    settings = dict(gamma=0.0, stability="posterior", cap=1e-6)
    loss, metrics, grad = toy.run(make(toy, **settings), batch(toy), noise(toy, 0))
    assert loss == pytest.approx(-1e-6) and float(metrics["forget_error"]) > 0.1
    assert float(grad["a"]) == 0 and not np.any(grad["b"])
    linear = make(toy, **settings, plasticity="linear")
    assert abs(float(toy.run(linear, batch(toy), noise(toy, 0))[2]["a"])) > 1e-3


def test_the_cap_bounds_the_loss_where_plain_vdu_diverges(toy):
    far = moved(toy.start, toy.start, 1e3)
    settings = dict(gamma=0.0, stability="posterior")
    data, given = batch(toy), noise(toy, 0)
    assert toy.run(make(toy, **settings), data, given, params=far)[0] == pytest.approx(-1)
    linear = make(toy, **settings, plasticity="linear")
    assert toy.run(linear, data, given, params=far)[0] < -1e3


def test_drift_is_zero_at_the_start_and_quadratic_after(toy):
    objective = make(toy, gamma=0.0, cap=1e-6, stability="function")
    data, given = batch(toy), noise(toy, 5)
    drift = [
        float(toy.run(objective, data, given, moved(toy.start, toy.params, step))[1]["drift"])
        for step in (0.0, 0.1, 0.2, -0.1)
    ]
    assert drift[0] == 0 and drift[1] > 1e-4
    assert drift[2] == pytest.approx(4 * drift[1], rel=1e-3)
    assert drift[3] == pytest.approx(drift[1], rel=1e-3)
    _, _, grad = toy.run(objective, data, given, params=toy.start)
    assert float(grad["a"]) == 0 and not np.any(grad["b"])


def test_the_function_term_pulls_only_the_student(toy):
    objective = make(toy, stability="function")
    data, given = batch(toy), noise(toy, 5)
    state = objective.init(toy.start, {}, jax.random.key(0))

    def by_teacher(teacher):
        return objective.loss(toy.params, state._replace(teacher=teacher), data, given)[0]

    grad = jax.jit(jax.grad(by_teacher))(toy.start)
    assert float(grad["a"]) == 0 and not np.any(grad["b"])
    assert by_teacher(toy.start) != by_teacher(toy.params)


def test_function_weight_scales_the_drift_alone(toy):
    data, given = batch(toy), noise(toy, 5)
    runs = [toy.run(make(toy, function_weight=w), data, given) for w in (0.0, 1.0, 3.0)]
    losses, drift = [r[0] for r in runs], float(runs[0][1]["drift"])
    assert losses[1] - losses[0] == pytest.approx(drift, rel=1e-3)
    assert losses[2] - losses[0] == pytest.approx(3 * drift, rel=1e-3)


def test_forget_and_replay_are_noised_independently(toy):
    same = {kind: {"image": toy.images(0, 6)} for kind in ("forget", "replay")}
    seen = []

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        seen.append(np.asarray(xt))
        return params["a"] * xt

    objective = vdu_extended(score_fn, toy.predicts, toy.posterior, NUM_FORGET)
    state = objective.init(toy.start, {}, jax.random.key(0))
    objective.loss(toy.params, state, same, objective.draw(jax.random.key(0), same))
    both, teacher = seen
    forget, student = both[0::2], both[1::2]  # one call, the rows alternate
    np.testing.assert_array_equal(teacher, student)
    assert np.abs(forget - teacher).min(0).max() > 0.1


def test_forgetting_ends_at_the_error_with_another_prompt(toy):
    """For each image by itself, at θ* and the same noise; of four prompts two images share one."""

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return params["a"] * xt + params["b"] + cond[:, :1, None, None]

    rng, key = np.random.default_rng(0), jax.random.key(1)
    own, other = (rng.normal(0, 0.5, (n, 2)).astype(np.float32) for n in (6, 4))
    data = {
        "forget": {"image": toy.images(0, 6), "cond": own},
        "replay": {"image": toy.images(1, 4), "cond": other},
    }
    settings = dict(gamma=0.0, plasticity="mismatched", stability="posterior", cap=0.9)
    objective = vdu_extended(score_fn, toy.predicts, toy.posterior, NUM_FORGET, **settings)
    assert objective.sees == {"forget", "replay"}
    given = objective.draw(key, data)
    np.testing.assert_array_equal(given.other_cond, other[[0, 1, 2, 3, 0, 1]])
    loss, _, grad = toy.run(objective, data, given)
    draw = toy.noised(jax.tree.map(np.asarray, given.forget), data["forget"]["image"])

    def error(params, prompts):
        return toy.error(params, draw.xt, draw.eps - prompts[:, :1, None, None])

    (found, by_a, by_b), (bound, *_) = (
        error(toy.params, own),
        error(toy.start, other[[0, 1, 2, 3, 0, 1]]),
    )
    inside = found < 0.9 * bound
    assert 0 < inside.sum() < 6
    assert loss == pytest.approx(-np.where(inside, found, 0.9 * bound).mean(), rel=5e-4)
    assert float(grad["a"]) == pytest.approx(-(inside * by_a).mean(), rel=1e-3)
    np.testing.assert_allclose(grad["b"], -(inside[:, None] * by_b).mean(0), rtol=1e-3)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (1.0, -3.0)])
def test_the_condition_of_replay_may_be_dropped(toy, share, expected):
    """For teacher and student alike; that of D_f is what it is to be forgotten by."""
    seen = []

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        seen.append(np.asarray(cond))
        return params["a"] * xt

    conditions = {"cond": np.full((6, 2), 1.0), "negative": np.full((6, 2), -3.0)}
    data = {kind: {"image": toy.images(0, 6)} | conditions for kind in ("forget", "replay")}
    settings = dict(drop_condition=share)
    objective = vdu_extended(score_fn, toy.predicts, toy.posterior, NUM_FORGET, **settings)
    state = objective.init(toy.start, {}, jax.random.key(0))
    objective.loss(toy.params, state, data, objective.draw(jax.random.key(0), data))
    both, teacher = seen
    forget, student = both[0::2], both[1::2]  # one call, the rows alternate
    np.testing.assert_array_equal(forget, np.full((6, 2), 1.0))
    np.testing.assert_array_equal(teacher, np.full((6, 2), expected))
    np.testing.assert_array_equal(student, teacher)


@pytest.mark.parametrize(
    ("stability", "kinds"),
    [
        ("posterior", {"forget"}),
        ("function", {"forget", "replay"}),
        ("both", {"forget", "replay"}),
    ],
)
def test_it_sees_what_its_terms_need(toy, stability, kinds):
    objective = make(toy, stability=stability)
    assert objective.sees == kinds
    data, key = batch(toy), jax.random.key(0)
    state = objective.init(toy.start, {}, key)
    needed = {kind: data[kind] for kind in kinds}
    given = objective.draw(key, needed)
    assert np.isfinite(objective.loss(toy.params, state, needed, given)[0])
    for kind in kinds:
        without = {k: v for k, v in data.items() if k != kind}
        with pytest.raises(KeyError, match=kind):
            objective.draw(key, without)
        with pytest.raises(KeyError, match=kind):
            objective.loss(toy.params, state, without, given)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(gamma=-0.1), "gamma"),
        (dict(gamma=2), "gamma"),
        (dict(plasticity="soft"), "unknown plasticity 'soft'; one of linear"),
        (dict(stability="none"), "unknown stability 'none'; one of posterior"),
        (dict(cap=0.0), "cap"),
        (dict(function_weight=-1.0), "function_weight"),
        (dict(drop_condition=1.1), "drop_condition"),
        (dict(weighting="snr"), "unknown weighting"),
        (dict(plasticity_reduction="max"), "unknown reduction"),
        (dict(stability_reduction="max"), "unknown reduction"),
    ],
)
def test_a_setting_out_of_range_raises(toy, setting, message):
    with pytest.raises(ValueError, match=message):
        make(toy, **setting)


def test_an_unknown_anchor_raises(toy):
    with pytest.raises(ValueError, match="unknown anchor"):
        make(toy, anchor="median").init(toy.start, {}, jax.random.key(0))
