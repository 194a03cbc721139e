"""The stages of feature unlearning together, on a run of a few steps."""

import json
import shutil
import types

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from vdu_jax import cli, tasks
from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.runtime import artifacts, parallel
from vdu_jax.stages import benchmark, evaluate, posterior, replay, sample, train, unlearn
from vdu_jax.tasks import base
from vdu_jax.tasks.text_to_image import evaluator, latents, networks

STEPS = dict(steps=2, snapshot_every=1, forget_batch=4, replay_batch=4, log_every=1)


def files(workdir):
    return {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}


def test_every_stage_is_done(text_run):
    names = ("train", "posterior", "replay", "unlearn/vdu", "unlearn/esd_x", "samples/vdu")
    for name in (*names, "evaluate/original", "evaluate/vdu", "relearn/vdu", "report"):
        assert artifacts.upstream(text_run, name)["provenance"]["versions"]["jax"]
    assert (text_run / "report" / "report.html").stat().st_size > 10_000


def test_a_second_run_does_nothing_and_prints_the_same_table(text_run, text_config_file, capsys):
    before = files(text_run)
    assert cli.main(["run", f"--config={text_config_file}", f"--workdir={text_run}"]) == 0
    assert files(text_run) == before
    lines = capsys.readouterr().out.strip().splitlines()
    numbers = json.loads(lines[-1])
    assert list(numbers) == ["original", "esd_x", "vdu"]
    assert 0 <= numbers["vdu"]["feature"] <= 100 and numbers["vdu"]["u_fid"] > 0
    assert lines[0].split()[:3] == ["model", "PUL", "%"] and "feature %" in lines[0]
    figures = evaluate.load(text_run, "vdu")["figures"]
    assert figures["images"] == 8 and figures["u_fid_bias"] > 0
    assert figures["kid"]["value"] is not None and 0 <= figures["precision"] <= 1
    page = (text_run / "report" / "report.html").read_text()
    for said in ("Unlearning &#39;red&#39; from tinted_fashion", "by paraphrase %", "Relearning"):
        assert said in page


def test_pul_is_the_detectors_share_against_the_originals(text_run, text_settings):
    task = tasks.of(text_settings, text_run)
    judge = task.evaluator(sample.load(text_run, "original"))
    red, other = (np.full((8, 32, 32, 3), colour, np.uint8) for colour in ((112, 97, 126), 9))
    other[..., 1] = 200
    figures, _ = judge.measure("vdu", {"feature": np.concatenate([red[:2], other[:6]])}, None)
    assert figures["pul"] == pytest.approx(75) and figures["forget_rate"] == 0.25
    assert figures["prompts"]["feature"]["feature"]["count"] == 8


def test_a_u_fid_needs_training_images_without_the_phrase(text_settings, monkeypatch):
    names = tuple(f"red {thing}" for thing in ("bag", "shirt"))
    reference = {"features": np.zeros((9, 3)), "labels": np.zeros(9, int)}
    monkeypatch.setattr(evaluator.classifier, "ensure", lambda *_: (None, 1.0, reference))
    monkeypatch.setattr(
        evaluator.datasets, "prepared", lambda _: types.SimpleNamespace(class_names=names)
    )
    with pytest.raises(UserError, match="forget.phrase = 'red': 0 training images are of a class"):
        evaluator.make_reference_of(text_settings, None, False)


def test_without_the_feature_in_the_original_there_is_no_pul(text_run, text_settings, capsys):
    drawn = {"feature": np.full((8, 32, 32, 3), (0, 200, 0), np.uint8)}
    judge = tasks.of(text_settings, text_run).evaluator(drawn)
    figures, _ = judge.measure("vdu", drawn, None)
    assert figures["pul"] is None and figures["forget_rate"] == 0
    assert "warning: only 0 of the original's 8 images show" in capsys.readouterr().err


def test_what_was_trained_is_a_folder_like_any_other(text_run, tmp_path):
    folder = text_run / "train" / "model"
    model = pipeline.read(folder)
    assert model.image_shape == (32, 32, 3) and model.latent_shape == (16, 16, 4)
    latents = artifacts.read_npz(text_run / "train" / "latents.npz")["latents"]
    assert latents.std() * model.scaling == pytest.approx(1, rel=1e-4)
    picture = tmp_path / "grid.png"
    arguments = ["generate", str(folder), str(picture), "--prompt=a red bag", "--steps=2"]
    assert cli.main([*arguments, "--images=1"]) == 0
    assert Image.open(picture).size == (34, 34)


def test_only_the_chosen_part_changes(text_run, text_settings):
    task = tasks.of(text_settings, text_run)
    before = traverse_util.flatten_dict(task.original_params, sep="/")
    for name, part in (("esd_x", "/attn2/"), ("vdu", "attn2/to_v")):
        after = unlearn.load_kept(task, name)
        after = traverse_util.flatten_dict(after, sep="/")
        assert after.keys() == before.keys()
        changed = {path for path in after if not np.array_equal(after[path], before[path])}
        assert changed and all(part in path for path in changed)
        # No more than that part, or its adapters, is stored: a snapshot with more is refused.
        chosen, _ = unlearn.split(task.original_params, text_settings.methods[name], name)
        stored = unlearn.what_changes(text_settings, name, chosen)
        like = parallel.placed(stored, parallel.make_mesh())
        task.load_snapshot(text_run / "unlearn" / name, 2, "params", like)
    for path in changed:  # of vdu, whose adapters have rank 1
        assert np.linalg.matrix_rank(after[path] - before[path], tol=1e-7) == 1


def test_an_unlearned_model_is_exported_whole(text_run, text_config_file, text_settings, tmp_path):
    arguments = [f"--config={text_config_file}", f"--workdir={text_run}"]
    new = tmp_path / "new"
    assert cli.main(["export", str(new), *arguments, "--model=vdu"]) == 0
    task, found = tasks.of(text_settings, text_run), pipeline.read(new)
    unet = unlearn.load_kept(task, "vdu")
    chex.assert_trees_all_equal(found.params["unet"], jax.tree.map(np.asarray, unet))
    for name in ("vae", "text_encoder"):
        chex.assert_trees_all_equal(found.params[name], task.model.params[name])
    copy = tmp_path / "copy"
    assert cli.main(["export", str(copy), *arguments]) == 0
    for path in (text_run / "train" / "model").rglob("*.*"):
        assert (
            path.read_bytes()
            == (copy / path.relative_to(text_run / "train" / "model")).read_bytes()
        )


def test_no_retained_image_reaches_a_method_that_did_not_ask_for_it(
    text_run, text_settings, monkeypatch
):
    task, read = tasks.of(text_settings, text_run), []
    real = type(task).source

    def watched(self, kind):
        read.append(kind)
        return real(self, kind)

    monkeypatch.setattr(type(task), "source", watched)
    loaders = unlearn.open_loaders(task, "vdu", frozenset({"forget", "replay"}))
    assert set(loaders) == {"forget", "replay"} and read == ["forget"]
    found = task.captioned
    red = task.forget_retain.forget
    assert all("red" in found.captions[i] for i in red)
    latents = artifacts.read_npz(text_run / "train" / "latents.npz")["latents"] * task.model.scaling
    known = {row.tobytes() for row in latents[red].astype(np.float32)}
    for _ in range(5):
        assert all(row.tobytes() in known for row in next(loaders["forget"])["image"])


def test_captions_of_ones_own_and_a_folder_that_is_there(text_run, text_settings, tmp_path):
    """Without training, classes or a posterior."""
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for number, text in enumerate(("a red hat", "a red hat", "something red")):
        Image.fromarray(np.full((40, 32, 3), 60 * number, np.uint8)).save(images / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    (images / "metadata.jsonl").write_text("\n".join(rows))
    config = text_settings
    config.model.folder = str(text_run / "train" / "model")
    config.data.name, config.data.manual_dir, config.data.image_size = "captions", str(images), 32
    config.forget.phrase = ""
    config.unlock()
    del config.methods["vdu"]
    workdir = tmp_path / "work"
    cli.validate(config)
    cli.run_stages("run", config, workdir, overwrite=False)
    assert not (workdir / "train").exists() and not (workdir / "posterior").exists()
    assert artifacts.upstream(workdir, "latents/forget")["summary"]["images"] == 3
    figures = evaluate.load(workdir, "esd_x")["figures"]
    assert set(figures["prompts"]) == {"feature", "paraphrase", "other"}
    assert set(figures["prompts"]["other"]) == {"feature"} and "u_fid" not in figures
    # Nothing is written into a folder that is the user's.
    assert not (text_run / "train" / "model" / "drawn").exists()


@pytest.fixture
def own_captions(text_settings, tmp_path):
    """A config of the user's own captions, and `write(captions)` of its images."""
    config = text_settings
    config.data.name, config.data.manual_dir = "captions", str(tmp_path / "images")
    config.data.image_size, config.data.background = 32, "white"
    (tmp_path / "images").mkdir()
    base.report_once.cache_clear()

    def write(*captions, mode="RGB"):
        rows = []
        for number, text in enumerate(captions):
            Image.new(mode, (32, 32)).save(tmp_path / "images" / f"{number}.png")
            rows.append(json.dumps({"file_name": f"{number}.png", "text": text}))
        (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(rows))

    return config, write


def test_what_is_read_and_what_is_nearly_the_phrase_is_said_once(own_captions, tmp_path, capsys):
    config, write = own_captions
    write("a cafe\u0301 table", "un caf\u00e9", "two caf\u00e9s", "a shoe")
    (tmp_path / "images" / "more.png").write_bytes(b"")
    config.forget.phrase = "caf\u00e9"
    for _ in range(2):
        split = latents.forget_retain(config, latents.captioned(config))
        assert split.forget.tolist() == [0, 1] and split.retain.tolist() == [2, 3]
    first, second = capsys.readouterr().err.splitlines()
    metadata = tmp_path / "images" / "metadata.jsonl"
    assert first.startswith(
        f"vdu: images read from {metadata}: 4; left out: images without a line: 1"
    )
    assert second == (
        "vdu: forget.phrase = 'café': 2 of 4 captions have it; 1 more have it as a part of other "
        "words, as 'two cafés', and are retained"
    )


def test_images_that_cannot_be_read_are_missed_before_training(own_captions, tmp_path):
    config, write = own_captions
    write("a red hat", "a blue hat", mode="RGBA")
    config.data.background = ""
    with pytest.raises(UserError, match=r"0\.png has transparent pixels.* 1 are refused"):
        train.run(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_setting_that_changes_images_or_captions_is_an_input(own_captions):
    config, write = own_captions
    write("a red hat")
    known = [latents.inputs(config)]
    for key, value in (("background", "black"), ("background", ""), ("caption_column", "label")):
        config.data[key] = value
        known.append(latents.inputs(config))
        assert known[-1] not in known[:-1]


def test_the_unet_computes_in_bfloat16_if_asked(text_run, text_settings):
    """Near what it computes in float32, with gradients of the parameters' type."""
    config, found, gradients, stages = text_settings, {}, {}, set()
    config.model.folder = str(text_run / "train" / "model")
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        task = tasks.of(config, text_run)
        model, score_fn, unet = task.model, task.score_fn, task.original_params
        noise = jax.random.normal(jax.random.key(0), (2, *model.latent_shape))
        rest = noise, np.array([300, 900]), networks.embed(model, ["a red bag", "a coat"])
        found[dtype] = np.asarray(jax.jit(score_fn)(unet, *rest))
        gradients[dtype] = jax.grad(lambda p, f=score_fn, r=rest: (f(p, *r) ** 2).mean())(unet)
        assert ("bf16" in str(jax.make_jaxpr(score_fn)(unet, *rest))) == (dtype == "bfloat16")
        stages.add(task.stage("replay", ()).fingerprint)
    gap = np.abs(found["float32"] - found["bfloat16"])
    assert 1e-4 < gap.max() < 0.1 * np.abs(found["float32"]).max()
    chex.assert_trees_all_equal_shapes_and_dtypes(*gradients.values())
    assert len(stages) == 2  # neither passes for the other


def test_a_trajectory_of_folders(text_run, text_settings, tmp_path):
    original = pipeline.read(text_run / "train" / "model").params["unet"]
    older = tmp_path / "older"
    halved = jax.tree.map(lambda p: 0.5 * p, original)
    pipeline.write(older, text_run / "train" / "model", {"unet": halved})
    text_settings.model.folder = str(text_run / "train" / "model")
    text_settings.posterior.update(source="runs", runs=(str(older),))
    task = tasks.of(text_settings, tmp_path)
    found = posterior.checkpoint_list(task)
    assert found == [(older, None), (text_run / "train" / "model", None)]
    result = posterior.reduce(task, found)
    mean = jax.tree.map(lambda p: 0.75 * p, original)
    chex.assert_trees_all_close(result.mean, mean, rtol=1e-5, atol=1e-7)
    variance = jax.tree.map(lambda p: 0.125 * np.square(p), original)
    chex.assert_trees_all_close(result.variance, variance, rtol=1e-4, atol=1e-7)


def test_a_part_that_is_not_there_is_refused(text_run, text_settings):
    unet = tasks.of(text_settings, text_run).original_params
    text_settings.methods.vdu.subset = "attn9"
    with pytest.raises(UserError, match=r"methods.vdu.subset: no parameter's path matches 'attn9'"):
        unlearn.split(unet, text_settings.methods.vdu, "vdu")


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [
        ("train", ["--config.train.steps=7"], "was made with train.steps = 6"),
        ("unlearn", ["--config.detector.colour=orange"], "palette"),
        ("unlearn", ["--config.methods.vdu.subset=attn9"], "method.subset"),
        ("benchmark", [], "benchmark.targets"),
        ("export", ["--weights=ema", "--model=vdu"], "vdu has one kind of weights"),
        ("export", ["--overwrite"], "--overwrite is not for text-to-image models"),
        ("plan", ["--devices=0"], "--devices=0: must be a multiple"),
        ("export", ["--model=other"], "--model=other: must be one of original, esd_x, vdu"),
        ("unlearn", ["--config.model.folder=nowhere"], "posterior.runs"),
        ("train", ["--config.model.unet.sample_size=8"], "model.unet.sample_size"),
        ("train", ["--config.model.unet.cross_attention_dim=9"], "9 in unet, 8 in text_encoder"),
    ],
)
def test_a_mistake_is_one_line(
    text_run, text_config_file, tmp_path, capsys, command, changes, said
):
    workdir = text_run
    if "model.unet" in "".join(changes):
        workdir = tmp_path / "other"
    arguments = [f"--config={text_config_file}", *changes]
    arguments += [f"--workdir={workdir}"] if command != "plan" else []
    where = [str(tmp_path / "new")] if command == "export" else []
    before = files(text_run)
    assert cli.main([command, *where, *arguments]) == 2
    assert files(text_run) == before
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vdu: error: ") and said in error


def test_a_detector_that_is_not_there_is_missed_before_training(text_config_file, tmp_path, capsys):
    arguments = ["train", f"--config={text_config_file}", f"--workdir={tmp_path / 'new'}"]
    changes = ["--config.detector.kind=clip", f"--config.detector.folder={tmp_path / 'clip'}"]
    texts = ["--config.detector.with_feature=('red',)", "--config.detector.without_feature=('b',)"]
    assert cli.main([*arguments, *changes, *texts]) == 2
    assert not (tmp_path / "new").exists()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"vdu: error: {tmp_path / 'clip'}: no such folder"


def test_a_model_that_was_not_trained_is_asked_for(text_config_file, tmp_path, capsys):
    arguments = [f"--config={text_config_file}", f"--workdir={tmp_path / 'empty'}"]
    assert cli.main(["replay", *arguments]) == 2
    assert "run `vdu train`" in capsys.readouterr().err


def test_without_the_phrase_in_a_caption_there_is_nothing_to_forget(text_settings):
    found = latents.captioned(text_settings)
    text_settings.forget.phrase = "orange"
    with pytest.raises(UserError, match="no caption has it"):
        latents.forget_retain(text_settings, found)
    text_settings.forget.phrase, text_settings.forget.limit = "", 7
    split = latents.forget_retain(text_settings, found)
    assert len(split.forget) == 7 and len(split.retain) == 0
    text_settings.forget.phrase = "red"
    split = latents.forget_retain(text_settings, found)
    assert len(split.forget) == 7 and all("red" in found.captions[i] for i in split.forget)
    assert not any("red" in found.captions[i] for i in split.retain)
    text_settings.forget.phrase = "a"
    with pytest.raises(UserError, match="every caption has it"):
        latents.forget_retain(text_settings, found)


def test_what_is_recognised():
    names = ("red shirt", "red t-shirt", "blue shirt", "blue ankle boot")
    prompts = ["a red shirt", "a blue shirt", "a crimson ankle boot", "something"]
    seen = ["red t-shirt", "blue shirt", "red shirt", "blue shirt"]
    found = evaluator.recognised(prompts, seen, names)
    # Two prompts name an attribute, three an object.
    assert (found["attribute"]["value"], found["attribute"]["count"]) == (1.0, 2)
    assert found["object"]["value"] == pytest.approx(1 / 3) and found["object"]["count"] == 3
    assert evaluator.recognised(["something"], ["red shirt"], names) == {}


def test_prompts_that_no_replay_was_drawn_of_are_counted_apart(text_run, text_settings):
    """One of the two others is among the replay's; of images of one colour the answer is known."""
    prompts = ("a blue bag", "a white shirt")
    assert text_settings.evaluate.other_prompts == prompts
    assert [p in text_settings.replay.prompts for p in prompts] == [True, False]
    figures = evaluate.load(text_run, "vdu")["figures"]["prompts"]
    assert figures["other"]["attribute"]["count"] == 8
    assert figures["held_out"]["attribute"]["count"] == 4
    judge = tasks.of(text_settings, text_run).evaluator(sample.load(text_run, "original"))
    real, whites = judge._predict, [name.startswith("white") for name in judge._names]

    def predict(images):
        probabilities = np.tile(np.array(whites, float), (len(images), 1))
        return real(images)._replace(probabilities=probabilities)

    judge._predict = predict
    found, _ = judge.measure("vdu", sample.load(text_run, "vdu"), None)
    assert found["prompts"]["other"]["attribute"]["value"] == 0.5
    assert found["prompts"]["held_out"]["attribute"]["value"] == 1.0


@pytest.mark.parametrize("family", ["low_rank", "fisher"])
def test_every_family_of_posteriors_is_there(text_run, text_settings, tmp_path, family):
    workdir, config = tmp_path / "work", text_settings
    shutil.copytree(text_run / "train", workdir / "train")
    config.posterior.update(family=family, fisher_images=5, variance_floor=1e-6)
    config.unlock()
    config.methods = {"vdu": vdu_config.method("vdu", "cross_attention", **STEPS)}
    cli.validate(config)
    posterior.run(config, workdir)
    replay.run(config, workdir)
    unlearn.run(config, workdir)
    task = tasks.of(config, workdir)
    chex.assert_trees_all_equal_shapes(posterior.load(task).mean, task.param_shapes)
    assert artifacts.upstream(workdir, "posterior")["summary"]["family"] == family
    assert np.isfinite(unlearn.curve_images(task, workdir / "unlearn" / "vdu", "vdu", 2)).all()


def test_retraining_sees_no_forget_image_and_starts_anew(text_run, text_settings, tmp_path):
    workdir, config = tmp_path / "work", text_settings
    shutil.copytree(text_run / "train", workdir / "train")
    config.unlock()
    config.methods = {"retrain": vdu_config.method("retrain")}
    cli.validate(config)
    posterior.run(config, workdir)
    assert not (workdir / "posterior").exists()  # no method takes it
    replay.run(config, workdir)
    unlearn.run(config, workdir)
    summary = artifacts.upstream(workdir, "unlearn/retrain")["summary"]
    assert summary["sees"] == ["retain"] and summary["steps"] == config.train.steps
    task = tasks.of(config, workdir)
    gap = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), unlearn.load_kept(task, "retrain"),
        task.original_params,
    )  # fmt: skip
    assert max(jax.tree.leaves(gap)) > 1e-4


def test_a_sampler_with_noise_draws_other_images(text_run, text_settings):
    drawn = []
    changes = ({}, {"eta": 1.0}, {"name": "ddpm", "steps": 5}, {"name": "dpm++2m", "eta": 0.0})
    for some in changes:
        text_settings.sampler.update(some)
        task = tasks.of(text_settings, text_run)
        drawn.append(task.draw(task.original_params, task.request("relearn"), 3, "test"))
        assert not any(np.array_equal(drawn[-1], other) for other in drawn[:-1])


def test_a_model_of_another_workdir_is_unlearned(text_run, text_settings, tmp_path):
    text_settings.unlearn.init_from = str(text_run)
    task = tasks.of(text_settings, tmp_path)
    own = tasks.of(text_settings.copy_and_resolve_references(), tmp_path)
    assert not task.has_training and task.original_folder() == text_run / "train"
    chex.assert_trees_all_equal(
        task.original_params, pipeline.read(text_run / "train" / "model").params["unet"]
    )
    own.config.model.unet.layers_per_block = 2
    with pytest.raises(UserError, match="model.unet.layers_per_block = 2: the model in .* has 1"):
        own.original_folder()
    own.config.unlearn.init_from = str(tmp_path)
    with pytest.raises(UserError, match="holds no model: run `vdu train` there first"):
        own.original_folder()


def test_a_benchmark_of_targets(text_run, text_settings, tmp_path):
    """One target to report and one to tune on; a second run makes nothing."""
    config, workdir = text_settings, tmp_path / "work"
    shutil.copytree(text_run / "train", workdir / "seed-0" / "train")  # what it would train
    config.unlock()
    config.methods = {"esd": vdu_config.method("esd", teacher="condition", **STEPS)}
    config.relearn.images = 0
    blue = {"forget": {"phrase": "blue", "prompts": ("a blue bag",)}}
    blue |= {"replay": {"prompts": ("a red bag",)}, "evaluate": {"other_prompts": ("a red bag",)}}
    config.benchmark.targets = {"blue": blue, "tuned": {}}
    config.benchmark.update(tuning_target="tuned", seeds=(0,))
    config.benchmark.grids = {"esd": ({"learning_rate": 1e-4},)}
    vdu_config.validate(config)
    vdu_config.validate_benchmark(config)
    benchmark.run(config, workdir)
    published = artifacts.read_json(workdir / "results.json")
    assert set(published["cells"]) == {"original/blue/0", "esd/blue/0"}
    assert published["tuned"]["esd"]["settings"]["learning_rate"] == 1e-4
    assert published["columns"][0] == ["feature", "feature %"]
    table = (workdir / "table.md").read_text()
    assert "by paraphrase %" in table and "| esd |" in table
    before = files(workdir / "seed-0")
    benchmark.run(config, workdir)
    assert files(workdir / "seed-0") == before


def test_a_deleted_stage_is_made_again(text_run, text_config_file, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(text_run, workdir)
    shutil.rmtree(workdir / "evaluate" / "vdu")
    assert cli.main(["evaluate", f"--config={text_config_file}", f"--workdir={workdir}"]) == 0
    old, new = (d / "evaluate" / "vdu" / "metrics.json" for d in (text_run, workdir))
    assert old.read_bytes() == new.read_bytes()
