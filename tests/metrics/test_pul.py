"""PUL, its interval, the class histogram and the confidence."""

import numpy as np
import pytest

from vdu_jax.metrics.pul import confidence, forget_rate, histogram, pul, total_variation


def predictions(*counts):
    """Probabilities of `counts[k]` images of class k, in mixed order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    return 0.6 * np.eye(len(counts))[labels] + 0.4 / len(counts)


def test_forget_rate_counts_the_most_likely_class():
    images = predictions(10, 30, 60)
    assert forget_rate(images, (1,)) == 0.3
    assert forget_rate(images, (0, 2)) == 0.7
    assert forget_rate(images, ()) == 0


@pytest.mark.parametrize(
    ("after", "before", "value"),
    [
        ((5, 95), (10, 90), 50.0),
        ((0, 100), (10, 90), 100.0),
        ((10, 90), (10, 90), 0.0),
        ((30, 70), (10, 90), -200.0),
        ((5, 195), (10, 90), 75.0),  # twice as many images: shares, not counts
    ],
)
def test_pul_of_known_counts(after, before, value):
    result = pul(predictions(*after), predictions(*before), (0,))
    assert result.value == pytest.approx(value)
    assert result.low <= result.value <= result.high


def test_pul_of_several_classes_counts_them_together():
    result = pul(predictions(2, 50, 3, 45), predictions(10, 40, 10, 40), (0, 2))
    assert result.value == pytest.approx(75)


def test_the_interval_covers_the_truth_in_about_95_of_100_draws():
    rng = np.random.default_rng(0)
    rate_before, rate_after, n, repeats = 0.2, 0.05, 1000, 600
    truth = 100 * (1 - rate_after / rate_before)
    covered = 0
    for seed in range(repeats):
        after, before = rng.binomial(n, [rate_after, rate_before])
        result = pul(
            predictions(after, n - after),
            predictions(before, n - before),
            (0,),
            resamples=400,
            seed=seed,
        )
        covered += result.low <= truth <= result.high
    # The standard error of the coverage is 0.9 %.
    assert 0.92 <= covered / repeats <= 0.98


def test_the_interval_narrows_with_the_square_root_of_the_images():
    def width(n):
        result = pul(predictions(n, 9 * n), predictions(2 * n, 8 * n), (0,))
        return result.high - result.low

    assert width(50) / width(5000) == pytest.approx(10, rel=0.15)


def test_the_interval_is_that_of_the_delta_method_for_many_images():
    n = 100_000
    result = pul(predictions(n // 20, n - n // 20), predictions(n // 5, n - n // 5), (0,))
    relative = np.sqrt((1 - 0.05) / (0.05 * n) + (1 - 0.2) / (0.2 * n))
    assert result.high - result.low == pytest.approx(2 * 1.96 * 25 * relative, rel=0.1)


def test_the_interval_depends_on_its_seed_alone():
    args = predictions(30, 70), predictions(50, 50), (0,)
    assert pul(*args, seed=1) == pul(*args, seed=1)
    assert pul(*args, seed=1) != pul(*args, seed=2)


def test_an_original_without_the_class_raises():
    with pytest.raises(ValueError, match="no image of the forget classes"):
        pul(predictions(5, 5), predictions(0, 10), (0,))


def test_histogram_counts_every_class_even_empty_ones():
    np.testing.assert_array_equal(histogram(predictions(4, 0, 7, 0)), [4, 0, 7, 0])


def test_confidence_is_the_mean_highest_probability():
    assert confidence(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])) == pytest.approx(0.6)
    assert confidence(np.full((3, 4), 0.25)) == 0.25


def test_total_variation():
    a, b = np.array([10, 0, 0]), np.array([0, 3, 3])
    assert total_variation(a, a) == total_variation(a, 7 * a) == 0
    assert total_variation(a, b) == 1
    # The largest difference of the probabilities of any set of classes.
    p, q = np.array([5, 3, 2]), np.array([1, 4, 5])
    sets = [np.array(s, bool) for s in np.ndindex(2, 2, 2)]
    assert total_variation(p, q) == pytest.approx(
        max(abs(p[s].sum() / 10 - q[s].sum() / 10) for s in sets)
    )
    with pytest.raises(ValueError, match="each needs at least 1"):
        total_variation(a, np.zeros(3))
