"""Evaluation in Inception's features, on the run of a few steps, with random weights.

Images are scaled to 75 pixels instead of 299, which takes a twentieth of the time, and every 32nd
feature is kept, for the roots of 2048x2048 matrices take seconds each.
"""

import shutil

import jax
import numpy as np
import pytest

from vdu_jax import cli
from vdu_jax import config as vdu_config
from vdu_jax.interop import inception as weights
from vdu_jax.interop import tensors
from vdu_jax.metrics import frechet, kid
from vdu_jax.models import inception
from vdu_jax.parity import components
from vdu_jax.runtime import artifacts
from vdu_jax.stages import evaluate, report, sample
from vdu_jax.tasks import classifier, datasets, features

TRAINING_IMAGES = 150


@pytest.fixture(scope="module")
def params():
    """Random ones, which keep activations of the order of 1."""
    return components.inception_params()


@pytest.fixture(scope="module")
def weights_file(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    tensors.write(path, weights.tensors_from_params(params), {"format": "pt"})
    return path


@pytest.fixture
def small(monkeypatch):
    """Small images for the network, few of its features, and few training images."""
    whole = inception.make_feature_fn
    monkeypatch.setattr(
        inception, "make_feature_fn", lambda net: lambda p, x: whole(net)(p, x)[:, ::32]
    )
    monkeypatch.setattr(features, "NET", inception.InceptionV3(75))
    monkeypatch.setattr(features, "CHUNK", 100)
    real = datasets.open_split

    def first_images(config, found, split):
        source = real(config, found, split)
        return source.subset(range(TRAINING_IMAGES)) if split == "train" else source

    monkeypatch.setattr(datasets, "open_split", first_images)


@pytest.fixture
def inception_config(config, weights_file, tmp_path):
    config.evaluate.features = "inception"
    config.evaluate.inception_weights = str(weights_file)
    config.evaluate.reference_images = 50
    config.evaluate.bits_per_dim_images = 0
    with config.methods.unlocked():
        del config.methods.extended
    shutil.copytree(config.data.dir, tmp_path / "data")
    config.data.dir = str(tmp_path / "data")
    return config


def test_a_run_is_evaluated_in_inceptions_features(
    finished_run, inception_config, small, params, tmp_path, capsys
):
    config, workdir = inception_config, tmp_path / "work"
    vdu_config.validate(config)
    shutil.copytree(finished_run, workdir)
    old = artifacts.read_json(workdir / "evaluate" / "metrics.json")
    shutil.rmtree(workdir / "evaluate")
    evaluate.run(config, workdir)
    new = artifacts.read_json(workdir / "evaluate" / "metrics.json")
    assert (old["features"], new["features"]) == ("classifier", "inception")

    # The classifier's figures are the same in both; the distances are not.
    assert new["replay"] == old["replay"]
    for model, figures in new["models"].items():
        for key in ("pul", "pul_interval", "forget_rate", "confidence", "histogram"):
            assert figures[key] == old["models"][model][key], key
        assert figures["u_fid"] != old["models"][model]["u_fid"]

    # They are those of the network's features, computed here without the stage.
    source = datasets.open_split(config, datasets.prepared(config), "train")
    images, labels = source.read()
    nines, drawn = images[labels == 9], sample.load(workdir, "plain")["images"]
    feature_fn = jax.jit(inception.make_feature_fn(inception.InceptionV3(75)))
    x = np.concatenate([nines, drawn]).astype(np.float32) / 127.5 - 1
    seen = np.asarray(feature_fn(params, x))
    of_nines, of_drawn = seen[: len(nines)], seen[len(nines) :]
    assert new["models"]["plain"]["u_fid"] == pytest.approx(
        frechet.frechet_distance(frechet.feature_stats(of_drawn), frechet.feature_stats(of_nines)),
        rel=1e-3,
    )
    # All nines are drawn into every subset.
    assert new["models"]["plain"]["kid"]["value"] == pytest.approx(
        kid.kid(of_drawn, of_nines, seed=config.evaluate.seed).value, rel=0.05
    )
    assert new["curves"]["plain"][0]["u_fid"] != old["curves"]["plain"][0]["u_fid"]
    assert new["u_fid_held_out"] < new["models"]["plain"]["u_fid"]

    (folder,) = (tmp_path / "data" / "features").iterdir()
    assert folder.name.startswith("digits-train-inception-")
    kept = [artifacts.read_npz(p)["features"] for p in sorted(folder.iterdir())]
    assert [len(c) for c in kept] == [100, 50]
    np.testing.assert_allclose(np.concatenate(kept)[labels == 9], of_nines, rtol=1e-3, atol=1e-3)

    shutil.rmtree(workdir / "report")
    report.run(config, workdir)
    assert "u-FID in Inception-v3's features" in capsys.readouterr().out
    page = " ".join((workdir / "report" / "report.html").read_text().split())
    assert "in Inception-v3's features" in page


def cached(config):
    """The cache's files and when they were written, after `ensure`; and the features."""
    _, reference = features.ensure(config, None, {})
    folder = features.cache_folder(
        config,
        datasets.prepared(config),
        datasets.open_split(config, datasets.prepared(config), "train"),
    )
    return {p: p.stat().st_mtime_ns for p in sorted(folder.iterdir())}, reference


def test_the_cache_goes_on_where_it_was_stopped(inception_config, small, monkeypatch):
    def brightness(net):
        return lambda params, x: x.mean((1, 2))

    monkeypatch.setattr(inception, "make_feature_fn", brightness)
    real, written = artifacts.write_npz, []

    def killed_at_the_second(path, **arrays):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        real(path, **arrays)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(artifacts, "write_npz", killed_at_the_second)
        cached(inception_config)
    before = written[0].stat().st_mtime_ns
    files, reference = cached(inception_config)
    assert len(files) == 2 and files[written[0]] == before
    assert cached(inception_config)[0] == files  # nothing is computed twice

    source = datasets.open_split(inception_config, datasets.prepared(inception_config), "train")
    images, labels = source.read()
    np.testing.assert_allclose(
        reference["features"][:, 0], (images / 127.5 - 1).mean((1, 2, 3)), atol=1e-5
    )
    np.testing.assert_array_equal(reference["labels"], labels)


def test_other_weights_images_or_sizes_have_another_cache(
    inception_config, weights_file, tmp_path, monkeypatch
):
    config, found = inception_config, datasets.prepared(inception_config)
    source = datasets.open_split(config, found, "train")
    folders = [features.cache_folder(config, found, source)]
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights_file, moved)
    config.evaluate.inception_weights = str(moved)
    assert features.cache_folder(config, found, source) == folders[0]
    moved.write_bytes(weights_file.read_bytes()[:-1])
    folders.append(features.cache_folder(config, found, source))
    folders.append(features.cache_folder(config, found, source.subset(range(9))))
    other = found._replace(directory="data/vdu_digits/2.0.0")
    folders.append(features.cache_folder(config, other, source))
    monkeypatch.setattr(features, "NET", inception.InceptionV3(75))
    folders.append(features.cache_folder(config, found, source))
    assert len(set(folders)) == 5


def test_the_stage_depends_on_what_the_weights_are_not_where(
    inception_config, weights_file, tmp_path
):
    first = features.inputs(inception_config)
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights_file, moved)
    inception_config.evaluate.inception_weights = str(moved)
    assert features.inputs(inception_config) == first
    moved.write_bytes(b"other")
    assert features.inputs(inception_config) != first
    inception_config.evaluate.features = "classifier"
    unused = features.inputs(inception_config)
    inception_config.evaluate.inception_weights = ""
    assert features.inputs(inception_config) == unused


def test_an_evaluation_in_other_features_is_not_taken_for_this_one(
    finished_run, config_file, weights_file, capsys
):
    arguments = [f"--config={config_file}", f"--workdir={finished_run}"]
    arguments += ["--config.evaluate.features=inception"]
    assert cli.main(["evaluate", *arguments]) == 2
    assert "evaluate.inception_weights = ''" in capsys.readouterr().err
    arguments += [f"--config.evaluate.inception_weights={weights_file}"]
    assert cli.main(["evaluate", *arguments]) == 2
    assert "evaluate.features = 'classifier', the config now says" in capsys.readouterr().err


def test_the_classifiers_features_are_left_as_they_are(config):
    reference = {"features": np.zeros((2, 3)), "labels": np.zeros(2)}
    assert features.ensure(config, classifier.make_classifier_fn, reference) == (
        classifier.make_classifier_fn,
        reference,
    )
