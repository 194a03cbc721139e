"""The Fréchet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
import scipy.linalg

from vdu_jax.metrics import frechet
from vdu_jax.metrics.frechet import FeatureStats, expected_bias, feature_stats, frechet_distance


def spd(seed, size, rank=None):
    root = np.random.default_rng(seed).normal(size=(size, rank or 2 * size))
    return root @ root.T / root.shape[1]


def stats(mean, covariance):
    return FeatureStats(np.asarray(mean, float), np.asarray(covariance, float), 100)


def test_diagonal_gaussians_have_a_closed_form():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    expected = 5 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    distance = frechet_distance(stats(mean_a, np.diag(a)), stats(mean_b, np.diag(b)))
    assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_matrix_root(seed):
    rng = np.random.default_rng(seed)
    a, b = stats(rng.normal(size=6), spd(seed, 6)), stats(rng.normal(size=6), spd(seed + 50, 6))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    gap = a.mean - b.mean
    expected = gap @ gap + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_is_symmetric_and_zero_for_equal_statistics():
    a, b = stats(np.arange(5), spd(0, 5)), stats(np.ones(5), spd(1, 5))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, b) > 1


def test_rank_deficient_covariances_give_finite_distances():
    """Few images, many features; the distance of commuting low-rank covariances is known."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    a = basis[:, :3] @ np.diag([1.0, 4.0, 9.0]) @ basis[:, :3].T
    b = basis[:, 1:5] @ np.diag([1.0, 1.0, 4.0, 16.0]) @ basis[:, 1:5].T
    expected = 1 + (2 - 1) ** 2 + (3 - 1) ** 2 + 4 + 16
    zero = np.zeros(20)
    assert frechet_distance(stats(zero, a), stats(zero, b)) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(stats(zero, a), stats(zero, a)) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(stats(zero, a), stats(zero, 0 * a)) == pytest.approx(14, rel=1e-8)


def test_is_invariant_to_rotation_and_quadratic_in_scale():
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    a, b = stats(np.arange(5), spd(0, 5)), stats(np.ones(5), spd(1, 5))

    def moved(s, matrix):
        return stats(matrix @ s.mean, matrix @ s.covariance @ matrix.T)

    distance = frechet_distance(a, b)
    assert frechet_distance(moved(a, turn), moved(b, turn)) == pytest.approx(distance, rel=1e-9)
    triple = 3 * np.eye(5)
    assert frechet_distance(moved(a, triple), moved(b, triple)) == pytest.approx(9 * distance)


def test_estimates_the_distance_of_the_distributions_sampled():
    rng = np.random.default_rng(0)
    a = feature_stats(rng.normal(0, 1, (40_000, 3)))
    b = feature_stats(rng.normal([1, 0, 0], [2, 1, 1], (40_000, 3)))
    assert frechet_distance(a, b) == pytest.approx(2, abs=0.1)


def test_feature_stats_are_numpys_in_float64():
    features = (100 + np.random.default_rng(0).normal(size=(50, 4))).astype(np.float32)
    result = feature_stats(features)
    exact = features.astype(np.float64)
    assert result.count == 50 and result.covariance.dtype == result.mean.dtype == np.float64
    np.testing.assert_allclose(result.mean, exact.mean(0), rtol=1e-12)
    centred = exact - exact.mean(0)
    np.testing.assert_allclose(result.covariance, centred.T @ centred / 49, rtol=1e-9)


def test_one_feature_is_a_one_by_one_covariance():
    result = feature_stats(np.array([[1.0], [2.0], [4.0]]))
    assert result.covariance.shape == (1, 1)
    assert result.covariance[0, 0] == pytest.approx(7 / 3)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (5,), (2, 2, 2)])
def test_too_few_rows_or_another_shape_raise(shape):
    with pytest.raises(ValueError, match="at least 2 feature rows"):
        feature_stats(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_raise(bad):
    features = np.zeros((4, 2))
    features[1, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        feature_stats(features)


def gaussian(seed, count, scale):
    return np.random.default_rng(seed).normal(size=(count, len(scale))) * scale


def bias(features, count, **settings):
    return expected_bias(features, feature_stats(features), count, **settings)


SCALES = {"equal": np.ones(64), "falling": 1 / np.sqrt(np.arange(1, 65))}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("count", [20, 500, 8000])
def test_the_expected_bias_is_the_mean_distance_of_equal_gaussians(count, scale):
    """With fewer and more images than features, and with more than half of the reference."""
    actual = [
        frechet_distance(
            feature_stats(gaussian(seed, count, scale)),
            feature_stats(gaussian(100 + seed, 1000, scale)),
        )
        for seed in range(8)
    ]
    found = [bias(gaussian(200 + seed, 1000, scale), count) for seed in range(8)]
    assert np.mean(found) == pytest.approx(np.mean(actual), rel=0.08)


def test_the_expected_bias_in_far_more_features_than_images():
    """One sample each is enough: of so many features the distance hardly scatters."""
    scale = np.ones(512)
    reference = gaussian(0, 1250, scale).astype(np.float32)
    whole = feature_stats(reference)
    actual = frechet_distance(feature_stats(gaussian(1, 125, scale)), whole)
    assert actual > 0.5 * 512  # and 0 for infinitely many images
    assert expected_bias(reference, whole, 125, splits=1) == pytest.approx(actual, rel=0.03)


@pytest.mark.parametrize("count", [400, 4000, 40_000])
def test_the_expected_bias_has_a_closed_form_for_many_images(count):
    """v F (F + 5) (1/n + 1/m) / 4, of Gaussians with F features of variance v."""
    expected = 9 * 16 * 21 * (1 / count + 1 / 4000) / 4
    found = bias(gaussian(3, 4000, np.full(16, 3.0)), count)
    assert found == pytest.approx(expected, rel=0.1)


def test_the_expected_bias_needs_only_a_sample_of_the_reference():
    features = gaussian(4, 4000, np.ones(32))
    whole = feature_stats(features)
    some = features[np.random.default_rng(0).choice(4000, 500, replace=False)]
    for count in (100, 3000):
        expected = expected_bias(features, whole, count)
        assert expected_bias(some, whole, count) == pytest.approx(expected, rel=0.08)


def test_the_expected_bias_is_averaged_until_it_is_known(monkeypatch):
    """In few features, where one split says little, over more splits than in many."""
    taken = []
    real = frechet.frechet_distance
    monkeypatch.setattr(frechet, "frechet_distance", lambda *a: taken.append(a) or real(*a))
    bias(gaussian(8, 500, np.ones(3)), 100)
    few = len(taken)
    bias(gaussian(8, 500, np.ones(100)), 100)
    assert few > 30 and len(taken) - few == 4
    taken.clear()
    bias(gaussian(8, 500, np.ones(3)), 100, splits=7)
    assert len(taken) == 7


def test_the_expected_bias_depends_on_its_seed_alone():
    features = gaussian(5, 200, np.ones(4))
    assert bias(features, 50, seed=1) == bias(features, 50, seed=1)
    assert bias(features, 50, seed=1) != bias(features, 50, seed=2)


def test_what_is_left_of_a_reference_has_the_statistics_of_its_rows():
    features = gaussian(6, 50, np.ones(7)) + 30
    rest = frechet._without(feature_stats(features), feature_stats(features[:20]))
    expected = feature_stats(features[20:])
    assert rest.count == 30
    np.testing.assert_allclose(rest.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(rest.covariance, expected.covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rows", "count"), [(3, 10), (50, 1), (50, 0)])
def test_the_expected_bias_of_too_few_images_raises(rows, count):
    with pytest.raises(ValueError, match=f"got {count}, {rows} and {rows}"):
        bias(gaussian(7, rows, np.ones(3)), count)
