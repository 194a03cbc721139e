"""The first step at which the class is back."""

import pytest

from vdu_jax.metrics.relearning import Check, relearning_steps

CHECKS = [Check(0, 0.0), Check(1, 0.02), Check(5, 0.06), Check(10, 0.04), Check(20, 0.11)]


@pytest.mark.parametrize(
    ("original", "steps"),
    [(0.1, 5), (0.12, 5), (0.121, 20), (0.22, 20), (0.23, None), (0.04, 1), (1e-9, 1)],
)
def test_the_first_step_at_half_the_original_rate(original, steps):
    assert relearning_steps(CHECKS, original) == steps
    assert relearning_steps(CHECKS[::-1], original) == steps


def test_half_of_a_count_is_exact():
    """30 of 100 images are half of 60 of 100, whatever 0.3 and 0.6 are in binary."""
    for count in range(1, 200):
        assert relearning_steps([Check(3, count / 997)], 2 * count / 997) == 3
        assert relearning_steps([Check(3, count / 997)], (2 * count + 1) / 997) is None


def test_a_model_that_never_forgot_needs_no_step():
    assert relearning_steps([Check(0, 0.06)], 0.1) == 0


def test_nothing_checked_is_nothing_found():
    assert relearning_steps([], 0.1) is None


def test_an_original_without_the_class_raises():
    with pytest.raises(ValueError, match="no image of the forget classes"):
        relearning_steps(CHECKS, 0.0)
