"""What is compared with what."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import data, tasks
from vdu_jax.metrics import frechet, quality
from vdu_jax.stages import comparison, evaluate
from vdu_jax.tasks import classifier, datasets, evaluators, images


@pytest.fixture
def drawn():
    """Features and labels of 200 training images; the last feature is the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    return np.column_stack([rng.normal(size=(200, 4)), labels]).astype(np.float32), labels


@pytest.fixture
def forgetting(config):
    config.forget.classes = (2, 5)
    config.evaluate.reference_images = 60
    return config


def test_the_reference_is_the_retained_images_alone(forgetting, drawn):
    features, labels = drawn
    retained = evaluators.retained(forgetting, features, labels)
    rest = features[~np.isin(labels, (2, 5))]
    assert retained.stats.count == len(rest)
    np.testing.assert_array_equal(retained.stats.mean, frechet.feature_stats(rest).mean)
    assert len(retained.some) == 60 == len(np.unique(retained.some, axis=0))
    assert not set(retained.some[:, -1].tolist()) & {2, 5}
    # Not the first 60, which of a sorted data set would be a few classes.
    assert not np.array_equal(retained.some, rest[:60])
    forgetting.evaluate.reference_images = 1000
    np.testing.assert_array_equal(evaluators.retained(forgetting, features, labels).some, rest)


@pytest.mark.parametrize(
    ("count", "features", "shift", "said"),
    [
        (40, 64, 9, "of 40 images against 300 in 64 features; real images are expected at"),
        (40, 64, 9, "raise evaluate.images"),
        (1000, 5, 0, "compare it only with u-FIDs of as many images, or read KID"),
        (1, 5, 0, "1 images of what is retained, where u-FID and KID need 2, precision"),
        (1000, 5, 9, ""),
        (400, 64, 9, ""),
    ],
)
def test_too_few_images_for_a_u_fid_are_warned_of(capsys, count, features, shift, said):
    """Fewer than features, or so few that the bias is a third of the figure, or none."""
    rng = np.random.default_rng(0)
    retained = quality.make_reference(rng.normal(size=(300, features)), 300, 0)
    figures = quality.quality(rng.normal(size=(count, features)) + shift, retained, 0)
    evaluate.warn_of_bias("plain", "evaluate.images", figures, retained)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    for line in lines:
        assert line.startswith("vdu: warning: plain: ") and said in line
        assert ("raise" in line) == (count < 300)


def test_a_curve_is_not_told_to_read_a_figure_that_it_has_not(drawn, forgetting, capsys):
    retained = evaluators.retained(forgetting, *drawn)
    figures = quality.counted_distance(retained.some[:4], retained)
    evaluate.warn_of_bias("curve of plain", "curve.images", figures, retained)
    line = capsys.readouterr().err
    assert "raise curve.images" in line and "KID" not in line


def test_few_images_of_the_forget_classes_are_warned_of(capsys):
    evaluators.warn_of_few(19, 100, "evaluate.images")
    assert "only 19 of the original's 100 images" in capsys.readouterr().err
    evaluators.warn_of_few(20, 100, "evaluate.images")
    assert not capsys.readouterr().err


def test_the_images_of_earlier_files_are_counted_from_the_histogram():
    figures = {"histogram": [10, 20, 30]}
    assert comparison.image_count("plain", figures, (1,)) == 60
    assert comparison.image_count("original", figures, (1,)) == 40
    assert comparison.image_count("original", figures | {"images": 5}, (1,)) == 5


def test_images_for_the_evidence_bound_are_drawn_from_all_classes():
    """The first of a data set that is sorted by class would be of one."""
    chosen = evaluators.choose(np.arange(1000, 2000), 20, 3)
    assert len(np.unique(chosen)) == 20 and chosen.max() > 1500
    np.testing.assert_array_equal(chosen, evaluators.choose(np.arange(1000, 2000), 20, 3))
    assert len(evaluators.choose(np.arange(7), 20, 3)) == 7
    assert len(evaluators.choose(np.arange(0), 20, 3)) == 0


def test_what_is_held_out_may_lack_a_class(config, drawn, monkeypatch, tmp_path):
    """No image of the forget classes, then none of the others: a gap in the figures, no error."""
    config.forget.classes, config.evaluate.bits_per_dim_images = (3,), 5
    features, labels = drawn

    def classify(some):
        return classifier.Predictions(np.eye(10)[np.full(len(some), 3)], np.zeros((len(some), 5)))

    reference = {"features": features, "labels": labels}
    monkeypatch.setattr(classifier, "ensure", lambda *_: (classify, 1.0, reference))
    monkeypatch.setattr(
        images.ImageTask, "evidence_bound", lambda _: lambda p, x, key: jnp.arange(len(x))
    )
    evaluator = tasks.of(config, tmp_path).evaluator({"images": np.zeros((30, 8, 8, 1), np.uint8)})

    def held_out(*of):
        source = data.ArraySource(np.zeros((len(of), 8, 8, 1), np.uint8), np.array(of))
        monkeypatch.setattr(datasets, "open_split", lambda *_: source)

    held_out(1, 2, 2)
    found = evaluator.evidence("plain", {})
    assert found["bits_per_dim"] == {"forget": None, "retain": 1.0}
    of = found["bits_per_dim_of"]
    assert of["forget"] == {"images": 0, "standard_error": None}
    assert of["retain"] == {"images": 3, "standard_error": pytest.approx(1 / np.sqrt(3))}

    held_out(3, 3)
    figures = evaluator.held_out_distance()
    assert figures == {"u_fid_held_out": None, "held_out_images": 0, "u_fid_held_out_bias": None}
