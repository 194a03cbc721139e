"""Every stage with a network that knows classes, of a few steps: what it is told, and when."""

import json

import jax
import numpy as np
import pytest

from vdu_jax import cli, tasks
from vdu_jax.errors import UserError
from vdu_jax.stages import evaluate, exporting, importing, plan, replay, sample, unlearn

SMALL = """
from small import get_config as base
from vdu_jax import config as vdu_config

def get_config():
    config = base()
    config.model.num_class_embeds = 11
    config.condition.drop = 0.2
    config.condition.guidance = 1.5
    config.forget.classes = (2, 3, 4, 5, 6, 7, 8, 9)
    config.relearn.images = 50
    config.relearn.checks = (1,)
    method = vdu_config.method
    short = dict(steps=2, snapshot_every=2, forget_batch=8, replay_batch=8, retain_batch=8)
    config.methods = {
        "esd": method("esd", teacher="condition", **short),
        "salun": method("salun", relabel="condition", mask_batches=1, **short),
        "vdu_extended": method("vdu_extended", drop_condition=0.5, **short),
    }
    return config
"""


@pytest.fixture(scope="module")
def finished(unet_file, tmp_path_factory):
    """(workdir, config file) of a whole run."""
    folder = tmp_path_factory.mktemp("conditional")
    (folder / "small.py").write_text(unet_file.read_text())
    path = folder / "conditional.py"
    path.write_text(SMALL)
    workdir = folder / "work"
    assert cli.main(["run", f"--config={path}", f"--workdir={workdir}"]) == 0
    return workdir, path


def read(path, *flags):
    values, _ = cli.parse([f"--config={path}", "--workdir=unused", *flags])
    return values["config"].value


def test_the_figures_say_what_is_drawn_when_it_is_asked_for(finished):
    workdir, path = finished
    config = read(path)
    for model in sample.models(config):
        figures = evaluate.load(workdir, model)["figures"]
        found = figures["conditions"]
        # 60 images, of ten classes in turn, eight of which are to be forgotten.
        assert (found["forget"]["count"], found["others"]["count"], found["images"]) == (48, 12, 12)
        assert found["unlearning_accuracy"] == pytest.approx(100 * (1 - found["forget"]["value"]))
        assert found["u_fid"] > 0 and set(figures["bits_per_dim"]) == {"forget", "retain"}
    page = (workdir / "report" / "report.html").read_text()
    assert '<th scope="col">UA %</th>' in page and "(48)" in page
    table = json.loads((workdir / "report" / "table.json").read_text())
    assert all("unlearning_accuracy" in row for row in table.values())


def test_images_are_those_of_the_classes_asked_for_with_guidance(finished):
    """The same noise with another class, or another scale, draws another image."""
    workdir, path = finished
    config = read(path)
    task = tasks.of(config, workdir)
    params = task.original_params
    draw, _, _ = task.drawing(60)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(np.arange(60))
    (asked,) = task.request("evaluate").asked
    drawn = sample.load(workdir, sample.ORIGINAL)["images"].astype(float) / 127.5 - 1
    np.testing.assert_allclose(drawn, draw(params, keys, asked), atol=0.02)
    assert np.abs(draw(params, keys, (asked + 1) % 10) - draw(params, keys, asked)).max() > 1e-3
    stronger, _, _ = tasks.of(read(path, "--config.condition.guidance=4.0")).drawing(60)
    assert np.abs(stronger(params, keys, asked) - draw(params, keys, asked)).max() > 1e-3


def test_replay_asks_for_no_class_that_is_to_be_forgotten(finished):
    workdir, path = finished
    config = read(path)
    task, replayed = tasks.of(config, workdir), replay.load(workdir)
    (asked,) = task.condition.asked(len(replayed.images))
    assert np.all(replayed.forget_like[np.isin(asked, tuple(config.forget.classes))])
    source = task.replay_source(replayed)
    part = source.batch(np.arange(len(source)))
    assert set(part["cond"]) <= {0, 1} and set(part["negative"]) == {10}


def test_batches_tell_the_classes_of_their_images(finished):
    workdir, path = finished
    task = tasks.of(read(path), workdir)
    loaders = unlearn.open_loaders(task, "salun", frozenset({"forget", "retain"}))
    for kind, classes in (("forget", set(range(2, 10))), ("retain", {0, 1})):
        part = next(loaders[kind])
        assert np.array_equal(part["cond"], part["label"]) and set(part["cond"]) <= classes


def test_what_changes_results_is_a_stage_s_input_and_nothing_else(finished):
    workdir, path = finished

    def done(name, *flags):
        task = tasks.of(read(path, *flags), workdir)
        if name == "train":
            return task.train_stage().done()
        return task.stage(name, ("replay", "sampler", "forget"), ("original",)).done()

    assert done("train") and done("replay")
    assert done("train", "--config.condition.guidance=3.0")
    with pytest.raises(UserError, match="condition.guidance = 1.5, the config now says 3.0"):
        done("replay", "--config.condition.guidance=3.0")
    with pytest.raises(UserError, match="train.drop_condition = 0.2, the config now says 0.3"):
        done("train", "--config.condition.drop=0.3")


def test_the_plan_has_the_condition(finished):
    _, path = finished
    config = read(path)
    config.methods = {"salun": config.methods.salun}
    assert set(plan.make(config, 1)["stages"]) == {"train", "sample", "unlearn/salun"}


def test_an_export_is_imported_again_bit_by_bit(finished, tmp_path, capsys):
    workdir, path = finished
    exporting.run(tmp_path / "out", read(path), workdir)
    assert "class_labels in 0..10" in capsys.readouterr().out
    assert not (tmp_path / "out" / "model_index.json").exists()
    written = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())
    assert written["num_class_embeds"] == 11
    importing.run(tmp_path / "out", tmp_path / "back")
    assert "the network has 11 classes" in capsys.readouterr().out
    config = read(path, f"--config.unlearn.init_from={tmp_path / 'back'}")
    ours = tasks.of(read(path), workdir).original_params
    theirs = tasks.of(config, tmp_path / "unused").original_params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
