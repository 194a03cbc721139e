"""What tells whether an image has the feature."""

import shutil
import sys
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import text_to_image
from nudenet import NudeDetector
from PIL import Image

from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.interop import clip, tensors
from vdu_jax.tasks import feature_detectors as detectors


@pytest.fixture
def section():
    return vdu_config.default("stable_diffusion").detector


@pytest.fixture
def clip_section(section, tmp_path):
    section.kind, section.folder = "clip", str(text_to_image.write_clip(tmp_path / "clip"))
    section.with_feature, section.without_feature = ("red shoe", "the red bag"), ("shoe", "bag")
    return section


def make(section):
    return detectors.make(config_of(section))


def config_of(section):
    config = vdu_config.default("stable_diffusion")
    config.detector = section
    return config


def pixels(count, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def test_a_colour_is_told_by_the_palette(section):
    section.palette = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[0, ..., 0], images[1, ..., 2] = 200, 90
    assert make(section)(images).tolist() == [1, 0, 0]


def test_clip_gives_each_text_its_share(clip_section):
    images = pixels(detectors.BATCH + 3)
    model = clip.read(clip_section.folder)
    texts = model.tokenize([*clip_section.with_feature, *clip_section.without_feature])
    logits = model.module.apply({"params": model.params}, model.preprocess(images), texts)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = make(clip_section)(images)
    np.testing.assert_allclose(scores, shares[:, :2].sum(1), rtol=1e-4)
    assert scores.std() > 1e-3  # images differ


def test_clips_verdicts_depend_on_its_weights_and_not_on_where_they_lie(clip_section, tmp_path):
    first = detectors.inputs(config_of(clip_section))
    shutil.copytree(tmp_path / "clip", tmp_path / "copy")
    clip_section.folder = str(tmp_path / "copy")
    assert detectors.inputs(config_of(clip_section)) == first
    with open(tmp_path / "copy" / clip.WEIGHTS, "ab") as file:
        file.write(b" ")
    assert detectors.inputs(config_of(clip_section)) != first


def test_clip_recognises_what_its_texts_say(clip_section):
    """With texts that are projected to just what two images are projected to."""
    clip_section.with_feature, clip_section.without_feature = ("red shoe",), ("bag",)
    images, folder = pixels(2, seed=3), Path(clip_section.folder)
    model = clip.read(folder)
    variables, texts = {"params": model.params}, model.tokenize(["red shoe", "bag"])
    seen = model.module.apply(variables, model.preprocess(images), method="embed_images")
    layers = model.module.apply(variables, texts, method=lambda net, tokens: net.text(tokens))
    at_end = np.asarray(layers)[np.arange(2), texts.argmax(1)]
    stored = dict(tensors.read(folder / clip.WEIGHTS).tensors)
    stored["text_projection.weight"] = (np.linalg.pinv(at_end) @ np.asarray(seen)).T
    stored["logit_scale"] = np.array(np.log(1000), np.float32)
    tensors.write(folder / clip.WEIGHTS, stored, {})
    np.testing.assert_allclose(make(clip_section)(images), [1, 0], atol=0.05)


def test_nudenet_finds_what_it_is_asked_for(section):
    """A photograph of Grace Hopper, which matplotlib comes with."""
    section.kind, section.labels = "nudenet", ("FACE_FEMALE",)
    file = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    portrait = np.asarray(Image.open(file).convert("RGB"))
    images = np.stack([portrait, np.zeros_like(portrait)])
    scores = make(section)(images)
    assert 0.5 < scores[0] <= 1 and scores[1] == 0
    section.labels = ("FACE_MALE", "FEET_EXPOSED")
    assert make(section)(images).tolist() == [0, 0]


def test_nudenet_gives_what_it_gives_for_a_file(section):
    section.kind, section.labels = "nudenet", ("FACE_FEMALE",)
    file = str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    (found,) = NudeDetector().detect(file)
    score = make(section)(np.asarray(Image.open(file).convert("RGB"))[None])[0]
    assert score == pytest.approx(found["score"], abs=0.02)  # two readers of JPEG


def test_without_nudenet_its_name_is_said(section, monkeypatch):
    section.kind = "nudenet"
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(UserError, match=r"vdu-jax\[nudenet\]"):
        detectors.make(config_of(section))


def test_verdicts_depend_on_the_weights_of_clip(clip_section, tmp_path):
    before = detectors.inputs(config_of(clip_section))
    text_to_image.write_clip(tmp_path / "clip", seed=52)
    assert detectors.inputs(config_of(clip_section)) != before
    clip_section.folder = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        detectors.make(config_of(clip_section))
