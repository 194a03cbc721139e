"""Accuracy on the classes that are asked for."""

import numpy as np
import pytest

from vdu_jax.metrics.conditions import condition_accuracy


def test_counts_by_hand():
    """Asked for 0 0 0 1 1 2, drawn 0 1 2 1 1 0; class 0 is to be forgotten."""
    probabilities = np.eye(3)[[0, 1, 2, 1, 1, 0]]
    found = condition_accuracy(probabilities, np.array([0, 0, 0, 1, 1, 2]), (0,))
    assert found.forget[0::3] == (1 / 3, 3) and found.others[0::3] == (2 / 3, 3)
    assert found.unlearning_accuracy == pytest.approx(200 / 3)
    assert found.forget.low < 1 / 3 < found.forget.high


def test_a_model_that_draws_what_it_is_asked_for_has_unlearned_nothing():
    asked = np.arange(40) % 4
    found = condition_accuracy(np.eye(4)[asked], asked, (1, 3))
    assert found.unlearning_accuracy == 0 and found.others.value == 1
    assert found.forget.count == found.others.count == 20


def test_other_numbers_of_images_are_refused_and_so_is_a_kind_without_any():
    with pytest.raises(ValueError, match="3 images but 2 requested classes"):
        condition_accuracy(np.eye(3), np.arange(2), (0,))
    with pytest.raises(ValueError, match="at least 1 image"):
        condition_accuracy(np.eye(3), np.arange(3), (7,))
