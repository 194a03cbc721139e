"""Classes as conditions: what is asked for, told in training, and drawn with."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import config as vdu_config
from vdu_jax import data
from vdu_jax.errors import UserError
from vdu_jax.tasks import conditions
from vdu_jax.tasks.class_conditional import ClassConditional
from vdu_jax.tasks.unconditional import Unconditional

CONDITION = ClassConditional(classes=3, drop=0.25, scale=2.0)
NO_DROP = ClassConditional(classes=3, drop=0.0, scale=1.0)


def small_source():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 2, 2, 1), np.uint8)
    return data.ArraySource(images, np.array([2, 0, 1, 1, 0]))


def test_every_class_is_asked_for_equally_often_whatever_the_count():
    (many,), (few,) = CONDITION.asked(300), CONDITION.asked(7)
    assert np.bincount(many).tolist() == [100, 100, 100]
    assert few.tolist() == [0, 1, 2, 0, 1, 2, 0] and np.array_equal(many[:7], few)
    assert CONDITION.asked_to_forget(7, (1, 2)).tolist() == [
        False,
        True,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("condition", "nothing"), [(CONDITION, [3, 3]), (NO_DROP, None)])
def test_a_batch_tells_each_image_s_class_and_what_says_nothing(condition, nothing):
    source = condition.source(small_source())
    part = source.batch(np.array([3, 0]))
    assert part["cond"].tolist() == [1, 2] and part["cond"].dtype == np.int32
    assert ("negative" in part) == (nothing is not None)
    if nothing:
        assert part["negative"].tolist() == nothing and part["negative"].dtype == np.int32
    plain = small_source().batch(np.array([3, 0]))
    assert np.array_equal(part["image"], plain["image"])
    assert len(source) == 5 and source.positions.tolist() == [0, 1, 2, 3, 4]


def test_guidance_extrapolates_from_nothing_to_the_class():
    """ε = ε(nothing) + s (ε(class) − ε(nothing)) of a network that predicts its label."""

    def predict(params, xt, t, cond=None, *, dropout_key=None):
        return params * cond[:, None].astype(float) + 0 * xt

    (asked,) = CONDITION.asked(3)
    asked, xt = jnp.asarray(asked), jnp.zeros((3, 1))
    drawn = CONDITION.drawing(predict)(10.0, xt, jnp.zeros(3), CONDITION.drawing_cond(asked))
    np.testing.assert_allclose(drawn[:, 0], [30 + 2 * (c * 10 - 30) for c in (0, 1, 2)])
    plain = NO_DROP.drawing(predict)(10.0, xt, jnp.zeros(3), NO_DROP.drawing_cond(asked))
    np.testing.assert_allclose(plain[:, 0], [0, 10, 20])


def test_of_an_image_of_which_nothing_is_known():
    assert CONDITION.without(2).tolist() == [3, 3]
    assert NO_DROP.without(2).tolist() == [0, 0]  # the same for all
    assert Unconditional().without(2) is None


def conditional(**changes):
    config = vdu_config.default()
    config.model = vdu_config.model("unet", num_class_embeds=11)
    config.condition.update(changes)
    return config


def test_the_config_says_which_condition():
    assert conditions.of(vdu_config.default()) == Unconditional()
    assert conditions.of(conditional(guidance=1.5)) == ClassConditional(10, 0.1, 1.5)
    assert conditions.of(conditional(drop=0.0)).classes == 11
    assert hash(conditions.of(conditional())) == hash(conditions.of(conditional()))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model.num_class_embeds": 10}, "digits has 10 classes, and one more.*set 11"),
        ({"condition.drop": 0.0}, "digits has 10 classes: set 10"),
        ({"condition.drop": 1.0}, r"condition.drop = 1.0: must lie in \[0, 1\)"),
        ({"condition.guidance": -1.0}, "condition.guidance = -1.0: must be ≥ 0"),
        ({"condition.drop": 0.0, "condition.guidance": 2.0}, "condition.guidance = 2.0: guidance"),
        ({"model.num_class_embeds": 0, "condition.guidance": 2.0}, "is for networks that know"),
        ({"model.num_class_embeds": 0, "condition.drop": 0.2}, "is for networks that know"),
    ],
)
def test_what_does_not_fit_is_one_line(change, line):
    config = conditional()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=line):
        vdu_config.validate(config)


@pytest.mark.parametrize(
    ("objective", "setting", "without_nothing"),
    [
        ("esd", {"teacher": "condition"}, False),
        ("salun", {"relabel": "condition"}, True),
        ("vdu_extended", {"plasticity": "mismatched"}, True),
        ("vdu_extended", {"drop_condition": 0.1}, False),
    ],
)
def test_forms_of_methods_that_need_a_condition(objective, setting, without_nothing):
    """Refused for an unconditional network; some need a network that knows nothing as a class."""
    config = conditional()
    config.methods = {"m": vdu_config.method(objective, **setting)}
    vdu_config.validate(config)
    config.model.num_class_embeds, config.condition.drop = 10, 0.0
    if without_nothing:
        vdu_config.validate(config)
    else:
        with pytest.raises(UserError, match="is for networks with a condition"):
            vdu_config.validate(config)
    config.model.num_class_embeds, config.condition.drop = 0, 0.1
    with pytest.raises(UserError, match="is for networks with a condition"):
        vdu_config.validate(config)
