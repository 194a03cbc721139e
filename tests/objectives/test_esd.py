"""Guided away from a teacher that was fine-tuned on the forget data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.objectives import esd
from vdu_jax.objectives.esd import ESDState


def make(toy, **settings):
    return esd(toy.score_fn, toy.predicts, toy.posterior, 40, **settings)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_loss_and_gradient_by_hand(toy, guidance):
    forget = {"a": jnp.float32(0.9), "b": jnp.float32([0.2, 0.3])}
    state = ESDState(toy.start, forget)
    x0, noising = toy.images(0, 6), toy.noising(3, 6)
    grad_fn = jax.value_and_grad(make(toy, guidance=guidance).loss, has_aux=True)
    (loss, metrics), grad = grad_fn(toy.params, state, {"forget": {"image": x0}}, noising)

    draw = toy.noised(noising, x0)
    original, taught = (float(p["a"]) * draw.xt + np.asarray(p["b"]) for p in state)
    target = original - guidance * (taught - original)
    error, by_a, by_b = toy.error(toy.params, draw.xt, target)
    assert float(loss) == pytest.approx(error.mean(), rel=1e-4)
    assert float(grad["a"]) == pytest.approx(by_a.mean(), rel=1e-3)
    np.testing.assert_allclose(grad["b"], by_b.mean(0), rtol=1e-3, atol=1e-4)
    plain = toy.error(toy.params, draw.xt, draw.eps)[0].mean()
    assert float(metrics["forget_error"]) == pytest.approx(plain, rel=1e-4)


def test_the_targets_are_constants(toy):
    state, noising = ESDState(toy.start, toy.params), toy.noising(3, 6)
    batch = {"forget": {"image": toy.images(0, 6)}}
    by_state = jax.grad(lambda s: make(toy).loss(toy.params, s, batch, noising)[0])(state)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(by_state))


def test_the_teacher_knows_the_forget_data_better(toy):
    objective = make(toy, teacher_steps=150, teacher_learning_rate=1e-2)
    x0 = 0.2 * toy.images(0, 64)
    taken = itertools.count()
    batches = {"forget": ({"image": x0, "index": next(taken)} for _ in itertools.count())}
    state = objective.init(toy.start, batches, jax.random.key(0))
    assert next(taken) == 150
    noising = process.draw_noising(jax.random.key(9), toy.schedule, jnp.asarray(x0))
    before, after = (
        float(process.eps_error(toy.score_fn, p, toy.schedule, x0, noising).mean()) for p in state
    )
    assert after < 0.9 * before
    np.testing.assert_array_equal(state.original["b"], toy.start["b"])


def test_a_text_is_erased_by_the_network_itself(toy):
    """L = ‖ε_θ(x_t, c) − [ε_θ*(x_t) − η (ε_θ*(x_t, c) − ε_θ*(x_t))]‖² (eq. 7)."""

    def score_fn(params, xt, t, cond, *, dropout_key=None):
        return params["a"] * xt + params["b"] + cond[:, None, None, :]

    x0, noising = toy.images(0, 6), toy.noising(3, 6)
    given, negative = (toy.images(i, 6)[:, 0, 0] for i in (1, 2))
    objective = esd(
        score_fn,
        toy.predicts,
        toy.posterior,
        40,
        teacher="condition",
        guidance=2.0,
        teacher_steps=1,
    )
    state = objective.init(toy.start, {}, jax.random.key(0))  # no image is taken
    batch = {"forget": {"image": x0, "cond": given, "negative": negative}}
    loss, _ = objective.loss(toy.params, state, batch, noising)

    xt = toy.noised(noising, x0).xt
    without = float(toy.start["a"]) * xt + np.asarray(toy.start["b"]) + negative[:, None, None]
    away = without - 2.0 * (given - negative)[:, None, None]
    error, *_ = toy.error(toy.params, xt, away - given[:, None, None])
    assert float(loss) == pytest.approx(error.mean(), rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": "other"},
        {"guidance": -1.0},
        {"teacher_steps": 0},
        {"teacher_learning_rate": 0.0},
    ],
)
def test_settings_out_of_range_raise(toy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(toy, **wrong)
