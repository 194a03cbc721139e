"""Relabelling of the forget data, in the salient parameters alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.objectives import salun
from vdu_jax.objectives.salun import SalUnNoise, SalUnState, salient


def make(toy, **settings):
    return salun(toy.score_fn, toy.predicts, toy.posterior, 40, **settings)


def batch(toy):
    return {"forget": {"image": toy.images(0, 6)}, "replay": {"image": toy.images(1, 9)}}


def noise(toy):
    """Each image of D_f with a replay image of its own choice."""
    partner = batch(toy)["replay"]["image"][[3, 0, 8, 3, 1, 7]]
    return SalUnNoise(toy.noising(5, 6), toy.noising(6, 9), partner)


def open_mask(toy):
    return SalUnState(jax.tree.map(lambda p: jnp.ones(p.shape, bool), toy.start))


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_loss_by_hand(toy, weight):
    given, data = noise(toy), batch(toy)
    loss, metrics = make(toy, replay_weight=weight).loss(toy.params, open_mask(toy), data, given)
    draw = toy.noised(given.forget, data["forget"]["image"])
    level = toy.levels[given.forget.t][:, None, None, None]
    wanted = (draw.xt - np.sqrt(level) * given.partner) / np.sqrt(1 - level)
    error = toy.error(toy.params, draw.xt, wanted)[0]
    error = error * np.minimum(1, (1 - level) / level).ravel()
    replayed = toy.noised(given.replay, data["replay"]["image"])
    kept = toy.error(toy.params, replayed.xt, replayed.eps)[0].mean()
    assert float(metrics["relabelled_error"]) == pytest.approx(error.mean(), rel=1e-3)
    assert float(loss) == pytest.approx(error.mean() + weight * kept, rel=1e-3)


def test_another_condition_by_hand(toy):
    """The prediction given a class is led to that given another, which is a constant."""

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return params["a"] * xt + params["b"] + (params["a"] * cond)[:, None, None, None]

    data = batch(toy)
    conds = {"forget": np.full(6, 2.0), "replay": np.arange(9.0)}
    data = {kind: part | {"cond": conds[kind]} for kind, part in data.items()}
    partner = conds["replay"][[3, 0, 8, 3, 1, 7]]
    given = noise(toy)._replace(partner=partner)
    made = salun(score_fn, toy.predicts, toy.posterior, 40, relabel="condition", replay_weight=0.0)

    def of(params):
        return made.loss(params, open_mask(toy), data, given)

    loss, metrics = of(toy.params)
    a = float(toy.params["a"])
    weights = np.asarray(toy.predicts.simple_weights)[given.forget.t]
    gaps = weights * (a * (2.0 - partner)) ** 2
    assert float(metrics["relabelled_error"]) == pytest.approx(gaps.mean(), rel=1e-4)
    assert float(loss) == pytest.approx(gaps.mean(), rel=1e-4)
    # d/da through the first prediction alone: 2 w a (c − c') (x_t + c), a mean over pixels.
    draw = toy.noised(given.forget, data["forget"]["image"])
    expected = weights * 2 * a * (2.0 - partner) * (np.mean(draw.xt, (1, 2, 3)) + 2.0)
    gradient = jax.grad(lambda p: of(p)[0])(toy.params)["a"]
    assert float(gradient) == pytest.approx(expected.mean(), rel=1e-3)


def test_a_partner_s_condition_is_one_of_the_replay_s(toy):
    made_of = {kind: part | {"cond": np.arange(len(part["image"])) + 10 * (kind == "replay")}
               for kind, part in batch(toy).items()}  # fmt: skip
    partner = make(toy, relabel="condition").draw(jax.random.key(0), made_of).partner
    assert partner.shape == (6,) and set(np.asarray(partner)) <= set(range(10, 19))


def test_no_gradient_reaches_what_is_not_salient(toy):
    mask = {"a": jnp.array(False), "b": jnp.array([True, False])}
    loss = make(toy).loss
    given, data = noise(toy), batch(toy)
    masked = jax.grad(lambda p: loss(p, SalUnState(mask), data, given)[0])(toy.params)
    whole = jax.grad(lambda p: loss(p, open_mask(toy), data, given)[0])(toy.params)
    assert float(masked["a"]) == 0 and float(masked["b"][1]) == 0
    assert float(masked["b"][0]) == float(whole["b"][0]) != 0
    assert float(whole["a"]) != 0


def test_the_mask_holds_the_largest_gradients_of_all_tensors_together():
    gradient = {"a": jnp.array([-9.0, 1.0, 2.0]), "b": jnp.array([[3.0, -8.0, 0.5]])}
    mask = salient(gradient, 0.5)
    assert mask["a"].tolist() == [True, False, False]
    assert mask["b"].tolist() == [[True, True, False]]
    assert all(m.all() for m in jax.tree.leaves(salient(gradient, 1.0)))


def test_the_mask_is_taken_over_batches_of_the_forget_data(toy):
    images = [toy.images(seed, 8) for seed in range(4)]
    batches = {"forget": ({"image": images[i]} for i in range(4))}
    state = make(toy, mask_batches=4, share=0.34).init(toy.start, batches, jax.random.key(0))
    assert next(batches["forget"], None) is None  # all were taken
    total = {"a": 0.0, "b": np.zeros(2)}
    for index, x0 in enumerate(images):
        key = jax.random.fold_in(jax.random.key(0), index)
        noising = process.draw_noising(key, toy.schedule, x0)
        draw = toy.noised(jax.tree.map(np.asarray, noising), x0)
        _, by_a, by_b = toy.error(toy.start, draw.xt, draw.eps)
        total["a"] += by_a.mean()
        total["b"] += by_b.mean(0)
    sizes = np.abs([total["a"], *total["b"]])
    largest = np.argmax(sizes)
    found = np.array([bool(state.mask["a"]), *np.asarray(state.mask["b"])])
    assert found[largest] and found.sum() <= 2


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"share": 1.1}, {"mask_batches": 0}, {"replay_weight": -1.0}]
)
def test_settings_out_of_range_raise(toy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(toy, **wrong)


def test_it_sees_no_retained_data(toy):
    assert make(toy).sees == {"forget", "replay"}
