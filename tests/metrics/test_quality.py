"""Figures of features, what stands beside them, and the contract of every metric of `METRICS`."""

import json

import numpy as np
import pytest

from vdu_jax.metrics import frechet, kid, precision_recall, quality
from vdu_jax.metrics.quality import METRICS, value_of

SEED = 3


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)


@pytest.fixture
def reference(features):
    return quality.make_reference(features, 60, SEED)


def test_a_reference_is_all_images_and_some_of_them(features, reference):
    assert reference.stats.count == 200
    np.testing.assert_array_equal(reference.stats.mean, frechet.feature_stats(features).mean)
    rows = set(map(tuple, features))
    assert len(reference.some) == 60 == len(set(map(tuple, reference.some)) & rows)
    # Not the first 60, which of a sorted data set would be a few classes.
    assert not np.array_equal(reference.some, features[:60])
    np.testing.assert_array_equal(quality.make_reference(features, 1000, SEED).some, features)


def test_the_four_figures_are_those_of_the_metrics(reference):
    features = np.random.default_rng(1).normal(size=(80, 5))
    figures = quality.quality(features, reference, SEED)
    stats = frechet.feature_stats(features)
    assert figures["u_fid"] == frechet.frechet_distance(stats, reference.stats)
    assert tuple(figures["kid"].values()) == kid.kid(features, reference.some, seed=SEED)
    expected = precision_recall.precision_recall(features, reference.some, neighbours=3)
    assert (figures["precision"], figures["recall"]) == expected


@pytest.mark.parametrize(
    ("count", "absent"),
    [
        (0, {"u_fid", "u_fid_bias", "kid", "precision", "recall"}),
        (1, {"u_fid", "u_fid_bias", "kid", "precision", "recall"}),
        (3, {"precision", "recall"}),
        (4, set()),
    ],
)
def test_too_few_images_have_no_figure(reference, count, absent):
    figures = quality.quality(np.eye(5)[:count], reference, SEED)
    assert {name for name, value in figures.items() if value is None} == absent


def test_a_u_fid_has_its_number_of_images_and_its_bias(reference):
    features = np.random.default_rng(1).normal(size=(30, 5))
    figures = quality.quality(features, reference, SEED)
    expected = frechet.expected_bias(reference.some, reference.stats, 30, seed=SEED)
    assert (figures["images"], figures["u_fid_bias"]) == (30, expected)


def of_120(limit=60):
    return quality.make_reference(np.random.default_rng(0).normal(size=(120, 5)), limit, 0)


def figures(features, reference, seed=7):
    return quality.quality(np.asarray(features), reference, seed)


@pytest.fixture(params=METRICS, ids=lambda metric: metric.key)
def metric(request):
    return request.param


def test_real_images_are_better_than_others(metric):
    """Those of the reference, of its distribution, and ever further off it, in this order."""
    reference, rng = of_120(), np.random.default_rng(1)
    drawn = [reference.some, *(rng.normal(size=(60, 5)) + shift for shift in (0, 1, 9))]
    found = [value_of(figures(features, reference)[metric.key]) for features in drawn]
    assert np.isfinite(found).all()
    distances = np.abs(np.array(found) - found[0])
    assert (np.diff(distances) >= 0).all() and distances[-1] > 0.1


def test_too_few_images_give_none(metric):
    reference = of_120()
    rows = reference.some[: metric.needs]
    assert figures(rows, reference)[metric.key] is not None
    assert figures(rows[:-1], reference)[metric.key] is None
    few = of_120(metric.needs - 1)  # of the reference
    assert figures(reference.some, few)[metric.key] is None


def test_the_seed_decides(metric):
    reference, rows = of_120(), np.random.default_rng(2).normal(size=(40, 5))
    one, other = (figures(rows, reference)[metric.key] for _ in range(2))
    assert one == other


def test_the_order_of_images_does_not_matter(metric):
    """Where none are left out by chance."""
    reference = of_120()
    rows = np.random.default_rng(3).normal(size=(60, 5))
    one, other = (value_of(figures(x, reference)[metric.key]) for x in (rows, rows[::-1]))
    assert one == pytest.approx(other, rel=1e-6)


def test_a_figure_can_be_written_and_shown(metric):
    figure = figures(of_120().some[:40], of_120())[metric.key]
    assert json.loads(json.dumps(figure)) == figure
    if isinstance(figure, dict):
        assert figure.keys() == {"value", "standard_error"}
    assert metric.name in metric.head and metric.digits >= 0


def test_no_two_metrics_share_a_column():
    for what in ("key", "name", "head", "column"):
        assert len({getattr(metric, what) for metric in METRICS}) == len(METRICS)


def test_keys_and_heads_are_those_of_published_files():
    heads = {metric.column: metric.head for metric in METRICS}
    published = {"kid_1000": "KID × 1000", "precision": "precision", "recall": "recall"}
    assert heads.items() >= published.items()


def test_names_are_listed_in_words():
    assert quality.listed([]) == ""
    assert quality.listed(["u-FID"]) == "u-FID"
    assert quality.listed(["u-FID", "KID"]) == "u-FID and KID"
    assert quality.listed(["u-FID", "KID", "recall"]) == "u-FID, KID and recall"


def test_what_no_model_has_been_measured_with_has_no_column():
    """A file of a version with fewer metrics."""
    assert quality.measured([{"u_fid": 1.0}]) == []
    assert [metric.key for metric in quality.measured([{"recall": None}, {"kid": {}}])] == [
        "kid", "recall",
    ]  # fmt: skip


def two_classes(seed, counts, offset=0.0):
    """Features of two classes, far from each other, and their classes."""
    rng, classes = np.random.default_rng(seed), np.repeat([0, 1], counts)
    return rng.normal(size=(len(classes), 3)) + 4 * classes[:, None] + offset, classes


def test_reweighting_tells_other_shares_of_classes_from_worse_pictures():
    """D_r has classes 0 and 1 in halves, and none of class 2, which is to be forgotten."""
    reference = quality.make_reference(two_classes(0, (4000, 4000))[0], 100, SEED)
    shares = np.array([0.3, 0.3, 0.0])

    def both(features, classes):
        return (
            quality.distance(features, reference),
            quality.distance_at_shares(features, classes, shares, reference),
        )

    plain, reweighted = both(*two_classes(1, (3600, 400)))
    assert plain > 3 and reweighted < 0.05
    plain, reweighted = both(*two_classes(2, (2000, 2000), offset=1.0))
    assert plain > 2.5 and reweighted == pytest.approx(plain, rel=0.02)
    # Images of a class that D_r has not do not count.
    features, classes = two_classes(3, (2000, 2000))
    more, of_more = np.r_[features, np.full((500, 3), 50.0)], np.r_[classes, np.full(500, 2)]
    assert both(more, of_more)[1] == pytest.approx(both(features, classes)[1], rel=1e-6)
    assert both(features[:2000], classes[:2000])[1] is None  # nothing of class 1


def test_whole_weights_are_repeated_rows():
    rng = np.random.default_rng(0)
    features, counts = rng.normal(size=(40, 3)), rng.integers(0, 4, 40)
    weighted = frechet.feature_stats(features, counts)
    repeated = np.repeat(features, counts, axis=0)
    np.testing.assert_allclose(weighted.mean, repeated.mean(0), rtol=1e-12)
    # Up to the divisor, which for weights is V - sum of squares / V.
    total = counts.sum()
    scale = (total - (counts**2).sum() / total) / (total - 1)
    np.testing.assert_allclose(
        weighted.covariance * scale, np.cov(repeated, rowvar=False), rtol=1e-9
    )
    assert weighted.count == np.count_nonzero(counts)
