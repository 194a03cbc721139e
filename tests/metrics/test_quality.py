"""The contract that every metric of `METRICS` keeps, on features whose distance is known."""

import json

import numpy as np
import pytest

from vdu_jax.metrics import quality
from vdu_jax.metrics.quality import METRICS, value_of


def make_reference(limit=60):
    return quality.make_reference(np.random.default_rng(0).normal(size=(120, 5)), limit, 0)


def figures(features, reference, seed=7):
    return quality.quality(np.asarray(features), reference, seed)


@pytest.fixture(params=METRICS, ids=lambda metric: metric.key)
def metric(request):
    return request.param


def test_real_images_are_better_than_others(metric):
    """Those of the reference, of its distribution, and ever further off it, in this order."""
    reference, rng = make_reference(), np.random.default_rng(1)
    drawn = [reference.some, *(rng.normal(size=(60, 5)) + shift for shift in (0, 1, 9))]
    found = [value_of(figures(features, reference)[metric.key]) for features in drawn]
    assert np.isfinite(found).all()
    distances = np.abs(np.array(found) - found[0])
    assert (np.diff(distances) >= 0).all() and distances[-1] > 0.1


def test_too_few_images_give_none(metric):
    reference = make_reference()
    rows = reference.some[: metric.needs]
    assert figures(rows, reference)[metric.key] is not None
    assert figures(rows[:-1], reference)[metric.key] is None
    few = make_reference(metric.needs - 1)  # of the reference
    assert figures(reference.some, few)[metric.key] is None


def test_the_seed_decides(metric):
    reference, rows = make_reference(), np.random.default_rng(2).normal(size=(40, 5))
    one, other = (figures(rows, reference)[metric.key] for _ in range(2))
    assert one == other


def test_the_order_of_images_does_not_matter(metric):
    """Where none are left out by chance."""
    reference = make_reference()
    rows = np.random.default_rng(3).normal(size=(60, 5))
    one, other = (value_of(figures(x, reference)[metric.key]) for x in (rows, rows[::-1]))
    assert one == pytest.approx(other, rel=1e-6)


def test_a_figure_can_be_written_and_shown(metric):
    figure = figures(make_reference().some[:40], make_reference())[metric.key]
    assert json.loads(json.dumps(figure)) == figure
    if isinstance(figure, dict):
        assert figure.keys() == {"value", "standard_error"}
    assert metric.name in metric.head and metric.digits >= 0


def test_no_two_metrics_share_a_column():
    for what in ("key", "name", "head", "column"):
        assert len({getattr(metric, what) for metric in METRICS}) == len(METRICS)


def test_keys_and_heads_are_those_of_published_files():
    heads = {metric.column: metric.head for metric in METRICS}
    assert heads == {"kid_1000": "KID × 1000", "precision": "precision", "recall": "recall"}


def test_names_are_listed_in_words():
    assert quality.names() == "u-FID, KID, precision and recall"
    assert quality.listed(["u-FID"]) == "u-FID"
