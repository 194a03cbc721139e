"""KID against the double sum of its definition."""

import numpy as np
import pytest

from vdu_jax.metrics import kid as kid_lib
from vdu_jax.metrics.kid import kid, squared_mmd


def double_sum(x, y):
    """Eq. 4 of the paper, term by term."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def pairs(z):
        return [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]

    return np.mean(pairs(x)) + np.mean(pairs(y)) - 2 * np.mean([k(a, b) for a in x for b in y])


def sets(seed, m, n, size=5, shift=0.5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, size)), shift + rng.normal(size=(n, size))


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize(("m", "n"), [(7, 11), (12, 4), (2, 2)])
def test_is_the_double_sum(m, n, chunk, monkeypatch):
    monkeypatch.setattr(kid_lib, "CHUNK", chunk)
    x, y = sets(0, m, n)
    assert squared_mmd(x, y) == pytest.approx(double_sum(x, y), rel=1e-12)


def test_of_two_points_each_by_hand():
    x, y = np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([[2.0, 0.0], [0.0, 0.0]])
    # x·x' = 2, y·y' = 0; x·y = 2, 0, 0, 0; the kernel is (./2 + 1)³.
    assert squared_mmd(x, y) == pytest.approx(8 + 1 - 2 * (8 + 1 + 1 + 1) / 4)


def test_the_estimate_has_no_bias():
    """Over many small samples of equal distributions it averages to 0, on both sides of it."""
    values = np.array([squared_mmd(*sets(seed, 6, 9, shift=0)) for seed in range(3000)])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    # The biased estimate, with the pairs of a point and itself, would lie this far off.
    assert error < 0.05 and (values < 0).mean() > 0.3


def test_estimates_the_distance_of_known_distributions():
    """One feature, points a and b for sure: k(a,a) + k(b,b) − 2 k(a,b)."""
    x, y = np.full((5, 1), 1.0), np.full((8, 1), 2.0)
    assert squared_mmd(x, y) == pytest.approx(2**3 + 5**3 - 2 * 3**3)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_is_the_mean_and_standard_error_of_the_subsets(chunk, monkeypatch):
    monkeypatch.setattr(kid_lib, "CHUNK", chunk)
    x, y = sets(1, 40, 30)
    rng = np.random.default_rng(5)
    chosen_x = [np.sort(rng.choice(40, 10, replace=False)) for _ in range(20)]
    chosen_y = [np.sort(rng.choice(30, 10, replace=False)) for _ in range(20)]
    values = [squared_mmd(x[i], y[j]) for i, j in zip(chosen_x, chosen_y, strict=True)]
    result = kid(x, y, subsets=20, subset_size=10, seed=5)
    assert result.value == pytest.approx(np.mean(values), rel=1e-10)
    assert result.standard_error == pytest.approx(np.std(values, ddof=1) / np.sqrt(20), rel=1e-9)


def test_subsets_of_all_rows_are_the_whole():
    x, y = sets(2, 25, 25)
    result = kid(x, y)
    assert result.value == pytest.approx(squared_mmd(x, y), rel=1e-10)
    assert result.standard_error is None  # not 0: nothing is known of other images
    assert kid(x, y[:20]).standard_error > 0


def test_float32_features_lose_nothing():
    x, y = (z.astype(np.float32) + 30 for z in sets(3, 50, 60))
    exact = squared_mmd(x.astype(np.float64), y.astype(np.float64))
    assert squared_mmd(x, y) == exact


def test_depends_on_its_seed_alone():
    x, y = sets(4, 60, 60)
    assert kid(x, y, subset_size=20, seed=1) == kid(x, y, subset_size=20, seed=1)
    assert kid(x, y, subset_size=20, seed=1) != kid(x, y, subset_size=20, seed=2)


def test_too_little_raises():
    with pytest.raises(ValueError, match="at least 2 feature rows of each, got 1 and 3"):
        squared_mmd(np.zeros((1, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="at least 2 subsets"):
        kid(np.zeros((3, 2)), np.zeros((3, 2)), subsets=1)
