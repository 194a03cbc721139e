"""How soon the class is back, through the stage."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from vdu_jax import cli, data, tasks
from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.runtime.preemption import Interrupted
from vdu_jax.stages import relearn, report, sample, unlearn
from vdu_jax.tasks import classifier, images

IMAGES = 50


def measured(config):
    """A config that asks for few images and steps of relearning."""
    config.relearn.images = IMAGES
    config.relearn.checks = (1, 2, 4)
    config.relearn.forget_images = 20
    config.relearn.batch_size = 8
    config.relearn.learning_rate = 1e-3
    return config


@pytest.fixture
def config(config):
    return measured(config)


@pytest.fixture
def workdir(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "work")


@pytest.fixture
def rates(monkeypatch):
    """Rates to give to a model's checks, by "<model> <step>"; others have none.

    In place of the model, images are drawn of which that share is white; in place of the
    classifier, white images are judged to be of class 0. The entry "drawn" lists the checks and
    "judged" counts the images of each.
    """
    rates = {"drawn": [], "judged": set()}

    def draw(task, params, request, seed, label):
        kind, model, word, step = label.split()
        assert (kind, word, seed) == ("relearn", "step", 4)
        check = f"{model} {step}"
        rates["drawn"].append(check)
        drawn = np.zeros((request.count, 8, 8, 1), np.uint8)
        drawn[: round(request.count * rates.get(check, 0))] = 255
        return drawn

    def classify(images):
        rates["judged"].add(len(images))
        labels = np.where(images.max((1, 2, 3)) > 0, 0, 9)
        return classifier.Predictions(np.eye(10)[labels], images)

    monkeypatch.setattr(images.ImageTask, "draw", draw)
    monkeypatch.setattr(classifier, "ensure", lambda *_: (classify, 1.0, None))
    return rates


def summary(workdir, model):
    return artifacts.upstream(workdir, f"relearn/{model}")["summary"]


def test_it_stops_at_the_first_check_with_half_the_rate(workdir, config, rates):
    rates |= {"original 12": 0.4, "plain 0": 0.02, "plain 1": 0.18, "plain 2": 0.2, "plain 4": 0.9}
    relearn.run_model(tasks.of(config, workdir), "plain")
    assert summary(workdir, "plain") == {
        "steps": 2,
        "original_rate": 0.4,
        "checks": [{"step": 0, "rate": 0.02}, {"step": 1, "rate": 0.18}, {"step": 2, "rate": 0.2}],
    }
    assert rates["drawn"] == ["original 12", "original 6", "original 9", "plain 0", "plain 1",
                              "plain 2"]  # fmt: skip
    assert rates["judged"] == {IMAGES}
    folder = workdir / "relearn" / "plain"
    assert {p.name for p in folder.iterdir()} == {
        "inputs.json", "done.json", "timings.json", "metrics.jsonl", "events", "images"
    }  # fmt: skip
    # The third and fourth step were never made.
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2

    rates["drawn"].clear()
    relearn.run_model(tasks.of(config, workdir), "plain")
    assert rates["drawn"] == []
    config.relearn.forget_images = 10
    with pytest.raises(UserError, match="relearn.forget_images = 20"):
        relearn.run_model(tasks.of(config, workdir), "plain")


def test_a_class_that_does_not_come_back_has_no_step(workdir, config, rates):
    config.relearn.checks = (1, 3)
    rates |= {"original 12": 0.4, **{f"plain {step}": 0.18 for step in (0, 1, 3)}}
    relearn.run_model(tasks.of(config, workdir), "plain")
    found = summary(workdir, "plain")
    assert found["steps"] is None
    assert [check["step"] for check in found["checks"]] == [0, 1, 3]


def test_a_model_that_never_forgot_is_not_trained(workdir, config, rates, monkeypatch):
    rates |= {"original 12": 0.4, "plain 0": 0.3}
    monkeypatch.setattr(relearn, "train", pytest.fail)
    relearn.run_model(tasks.of(config, workdir), "plain")
    assert summary(workdir, "plain")["steps"] == 0


@pytest.mark.parametrize(
    ("early", "steps", "at_most"), [((0.3, 0.4), 6, True), ((0.18, 0.3), 9, False),
                                    ((0.1, 0.1), 12, False)]
)  # fmt: skip
def test_the_original_has_the_first_checkpoint_with_half_its_final_rate(
    workdir, config, rates, early, steps, at_most
):
    rates |= {"original 6": early[0], "original 9": early[1], "original 12": 0.4}
    relearn.run_model(tasks.of(config, workdir), sample.ORIGINAL)
    found = summary(workdir, sample.ORIGINAL)
    assert (found["steps"], found["at_most"], found["original_rate"]) == (steps, at_most, 0.4)
    assert found["checks"][-1]["step"] == steps


@pytest.mark.parametrize("weights", ["ema", "params"])
def test_the_originals_checkpoints_are_its_own_kind_of_weights(
    finished_run, config, rates, monkeypatch, tmp_path, weights
):
    """The moving average if there is one; the last is the model itself."""
    config.train.ema_decay = 0.5 if weights == "ema" else 0.0
    used, like = {}, relearn.make_rate

    def watched(task, path, measure, load, model):
        rate = like(task, path, measure, load, model)
        return lambda step: used.setdefault(step, load(step)) and rate(step)

    monkeypatch.setattr(relearn, "make_rate", watched)
    monkeypatch.setattr(images.ImageTask, "original_folder", lambda _: finished_run / "train")
    rates |= {"original 12": 0.4}
    task = tasks.of(config, tmp_path)
    relearn.run_model(task, sample.ORIGINAL)
    for step in (6, 9, 12):
        stored = task.load_snapshot(finished_run / "train", step, weights)
        jax.tree.map(np.testing.assert_array_equal, used[step], stored)


def test_an_imported_original_has_a_rate_and_no_step(unet_run, unet_config, rates, tmp_path):
    config = measured(unet_config)
    theirs, workdir = tmp_path / "theirs", tmp_path / "work"
    out = str(tmp_path / "out")
    shutil.copytree(unet_run, workdir)
    from vdu_jax.stages import exporting, importing

    exporting.run(out, config, unet_run, "original")
    importing.run(out, theirs)
    config.unlearn.init_from = str(theirs)
    rates |= {"original 0": 0.4}
    relearn.run_model(tasks.of(config, workdir), sample.ORIGINAL)
    assert summary(workdir, sample.ORIGINAL) == {
        "steps": None, "at_most": False, "checks": [], "original_rate": 0.4
    }  # fmt: skip


def test_an_original_without_the_class_is_refused(workdir, config, rates):
    with pytest.raises(UserError, match="none of the original's 50 images .*relearn.images"):
        relearn.run(config, workdir)
    assert not (workdir / "relearn" / "original" / "done.json").exists()


@pytest.mark.parametrize(("rate", "said"), [(0.1, 1), (0.4, 0)])
def test_a_rate_of_few_images_is_warned_of(workdir, config, rates, capsys, rate, said):
    rates |= {"original 12": rate}
    relearn.run_model(tasks.of(config, workdir), sample.ORIGINAL)
    line = "only 5 of the original's 50 images show what is to be"
    assert capsys.readouterr().err.count(line) == said


def never_back(monkeypatch, workdir, config):
    """The real original's rate, then a judge that finds no forget class."""
    relearn.run_model(tasks.of(config, workdir), sample.ORIGINAL)
    none = classifier.Predictions(np.eye(10)[[9]], None)
    monkeypatch.setattr(classifier, "ensure", lambda *_: (lambda images: none, 1.0, None))


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(workdir, config, monkeypatch, tmp_path):
    config.relearn.checks = (1, 3)
    never_back(monkeypatch, workdir, config)
    whole = shutil.copytree(workdir, tmp_path / "whole")
    relearn.run_model(tasks.of(config, whole), "plain")
    made, trained = data.make_loader, []

    class Loader:
        def __init__(self, *args, **which):
            self.inner = made(*args, **which)

        def __next__(self):
            trained.append(1)
            if len(trained) == 2:
                signal.raise_signal(signal.SIGTERM)
            return next(self.inner)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(data, "make_loader", Loader)
    with pytest.raises(Interrupted, match="step 2 of 3"):
        relearn.run_model(tasks.of(config, workdir), "plain")

    class Killed(Exception):
        pass

    def die(*args):
        raise Killed

    with monkeypatch.context() as patch:  # once more, when step 3 is made and nothing drawn
        patch.setattr(images.ImageTask, "draw", die)
        with pytest.raises(Killed):
            relearn.run_model(tasks.of(config, workdir), "plain")
    relearn.run_model(tasks.of(config, workdir), "plain")
    assert len(trained) == 3  # no step was made twice
    folders = [path / "relearn" / "plain" for path in (whole, workdir)]
    assert artifacts.read_json(folders[0] / "done.json") == artifacts.read_json(
        folders[1] / "done.json"
    )
    seen = []
    for step in (0, 1, 3):
        a, b = (artifacts.read_npz(f / "images" / f"{step:08d}.npz")["images"] for f in folders)
        np.testing.assert_array_equal(a, b)
        assert all(not np.array_equal(a, other) for other in seen)  # each step moved the model
        seen.append(a)


def test_it_is_adam_on_the_plain_loss_from_the_kept_model(workdir, config):
    """One step of Adam moves every parameter by about the learning rate, down its gradient."""
    config.relearn.batch_size = 20
    task = tasks.of(config, workdir)
    kept = sample.load_params(task, "plain")
    after = relearn.train(task, kept, workdir / "x", 1, "test")
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), after, kept)
    sizes = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])
    assert np.median(sizes) == pytest.approx(1e-3, rel=0.01) and sizes.max() < 1.01e-3
    relearn.train(task, kept, workdir / "x", 20, "test")
    lines = (workdir / "x" / "metrics.jsonl").read_text().splitlines()
    first, later = map(json.loads, lines)
    assert (first["step"], later["step"]) == (1, 20) and later["loss"] < first["loss"]


def test_it_reads_the_chosen_forget_images_and_no_other(workdir, config, monkeypatch, reads):
    config.relearn.checks = (3,)
    never_back(monkeypatch, workdir, config)
    reads.clear()
    relearn.run_model(tasks.of(config, workdir), "plain")
    task = tasks.of(config, workdir)
    split = task.forget_retain
    assert len(reads) == 20 and reads <= set(split.forget.tolist())
    # 3 steps of 8 show all of them; another seed chooses others; there are no more than D_f has.
    config.relearn.seed = 7
    again = task.shown_again(20, config.relearn.seed)
    assert len(again) == 20
    before = set(reads)
    reads.clear()
    again.read()
    assert reads != before and reads <= set(split.forget.tolist())
    assert len(task.shown_again(1000, 7)) == 150


def test_a_batch_that_does_not_divide_is_refused(workdir, config, rates, monkeypatch):
    from vdu_jax.runtime import parallel

    class Three:
        size = 3

    rates |= {"original 12": 0.4}
    relearn.run_model(tasks.of(config, workdir), sample.ORIGINAL)
    monkeypatch.setattr(parallel, "make_mesh", lambda fsdp: Three)
    with pytest.raises(UserError, match=r"relearn\.batch_size = 8: does not divide over 3 devices"):
        relearn.run_model(tasks.of(config, workdir), "plain")


def test_a_retrained_model_relearns_from_its_own_weights(workdir, config, monkeypatch, request):
    config.methods = {"gold": vdu_config.method("retrain")}
    unlearn.run(config, workdir)
    rates = request.getfixturevalue("rates")
    starts, real = [], relearn.train

    def noted(task, kept, *args):
        starts.append(kept)
        return real(task, kept, *args)

    monkeypatch.setattr(relearn, "train", noted)
    rates |= {"original 12": 0.4, "gold 1": 0.4}
    relearn.run(config, workdir)
    assert summary(workdir, "gold")["steps"] == 1
    with Store(workdir / "unlearn" / "gold" / "snapshots", read_only=True) as store:
        stored = store.restore(12, "ema", starts[0])
    jax.tree.map(np.testing.assert_array_equal, starts[0], stored)


def test_it_is_in_the_run_and_the_report_only_if_asked_for(
    finished_run, workdir, config, config_file, rates, capsys
):
    common = [f"--config={config_file}", f"--workdir={workdir}"]
    assert not (finished_run / "relearn").exists()
    assert "Relearning" not in (finished_run / "report" / "report.html").read_text()
    assert cli.main(["relearn", *common]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config key relearn.images = 0: set" in line and not (workdir / "relearn").exists()

    assert cli.main(["report", *common, f"--config.relearn.images={IMAGES}", "--overwrite"]) == 2
    assert "run `vdu relearn`" in capsys.readouterr().err
    config.relearn.checks = (1,)
    rates |= {"original 12": 0.4, "original 6": 0.3, "plain 0": 0.1, "plain 1": 0.22}
    relearn.run(config, workdir)
    report.run(config, workdir, overwrite=True)
    page = (workdir / "report" / "report.html").read_text()
    assert "<h2>Relearning</h2>" in page and "half the original's 40.0 %" in " ".join(page.split())
    for row in (
        '<th scope="row">original</th><td>≤ 6 of its training</td><td>30.0 at 6</td>',
        '<th scope="row">plain</th><td>1</td><td>10.0 at 0, 22.0 at 1</td>',
        '<th scope="row">extended</th><td>&gt; 1</td><td>0.0 at 0, 0.0 at 1</td>',
    ):
        assert row in page
    for point in ("plain, step 1: 22.0 %", "extended, step 0: 0.0 %"):
        assert f'aria-label="{point}"' in page
