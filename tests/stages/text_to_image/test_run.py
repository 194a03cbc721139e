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
from vdu_jax.stages.text_to_image import build, evaluate, report, train, unlearn

from vdu_jax import cli
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.runtime import artifacts
from vdu_jax.stages import build as images_build


def files(workdir):
    return {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}


def test_every_stage_is_done(text_run):
    names = ("train", "posterior", "replay", "unlearn/vdu", "unlearn/esd_x", "evaluate/original")
    for name in (*names, "evaluate/vdu", "report", "classifier"):
        assert artifacts.upstream(text_run, name)["provenance"]["versions"]["jax"]


def test_a_second_run_does_nothing_and_prints_the_same_table(text_run, text_config_file, capsys):
    before = files(text_run)
    assert cli.main(["run", f"--config={text_config_file}", f"--workdir={text_run}"]) == 0
    assert files(text_run) == before
    lines = capsys.readouterr().out.strip().splitlines()
    numbers = json.loads(lines[-1])
    assert list(numbers) == ["original", "esd_x", "vdu"]
    assert 0 <= numbers["vdu"]["feature %"] <= 100 and numbers["vdu"]["u-FID"] > 0
    assert lines[0].startswith("| model | feature % |") and lines[2].startswith("| original |")
    other = evaluate.load(text_run, "vdu")[0]["other"]
    assert other["images"] == 8 and other["u_fid_bias"] > 0
    note = next(line for line in lines if line.startswith("u-FID is of 8 images a model"))
    assert f"{other['u_fid_bias']:.3g}" in note
    found = artifacts.read_json(text_run / "report" / "results.json")
    for model in found["models"].values():  # as earlier versions wrote it
        del model["other"]["images"], model["other"]["u_fid_bias"]
    old = report.table(found["models"], found["unlearned"])
    assert "u-FID is of 8 images a model" in old and "not recorded" in old
    for model in found["models"].values():  # as with captions of one's own
        del model["other"]["u_fid"]
    assert "u-FID is" not in report.table(found["models"], found["unlearned"])


def test_a_u_fid_needs_training_images_without_the_phrase(text_settings, monkeypatch):
    names = tuple(f"red {thing}" for thing in ("bag", "shirt"))
    reference = {"features": np.zeros((9, 3)), "labels": np.zeros(9, int)}
    monkeypatch.setattr(evaluate.classifier, "ensure", lambda *_: (None, 1.0, reference))
    monkeypatch.setattr(
        evaluate.images_build, "dataset", lambda _: types.SimpleNamespace(class_names=names)
    )
    with pytest.raises(UserError, match="forget.phrase = 'red': 0 training images are of a class"):
        evaluate.make_yardstick(text_settings, None)


def test_the_picture_has_a_row_for_each_model(text_run):
    width, height = Image.open(text_run / "report" / "grid.png").size
    assert width == 4 * 33 + 1  # two prompts with the feature, two without
    assert height == 3 * 34 + 2 * 4


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
    model = build.original(text_settings, text_run)
    before = traverse_util.flatten_dict(model.params["unet"], sep="/")
    for name, part in (("esd_x", "/attn2/"), ("vdu", "attn2/to_v")):
        after = unlearn.load_unet(text_settings, text_run, model, name)
        after = traverse_util.flatten_dict(after, sep="/")
        assert after.keys() == before.keys()
        changed = {path for path in after if not np.array_equal(after[path], before[path])}
        assert changed and all(part in path for path in changed)
        # No more than that part, or its adapters, is stored: a snapshot with more is refused.
        chosen, _ = unlearn.split(model.params["unet"], text_settings.methods[name], name)
        stored = unlearn.what_changes(text_settings, name, chosen)
        build.restore(text_run / "unlearn" / name, 2, "params", stored)
    for path in changed:  # of vdu, whose adapters have rank 1
        assert np.linalg.matrix_rank(after[path] - before[path], tol=1e-7) == 1


def test_an_unlearned_model_is_exported_whole(text_run, text_config_file, text_settings, tmp_path):
    arguments = [f"--config={text_config_file}", f"--workdir={text_run}"]
    new = tmp_path / "new"
    assert cli.main(["export", str(new), *arguments, "--model=vdu"]) == 0
    original, found = build.original(text_settings, text_run), pipeline.read(new)
    unet = unlearn.load_unet(text_settings, text_run, original, "vdu")
    chex.assert_trees_all_equal(found.params["unet"], jax.tree.map(np.asarray, unet))
    for name in ("vae", "text_encoder"):
        chex.assert_trees_all_equal(found.params[name], original.params[name])
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
    model = build.original(text_settings, text_run)
    read = []
    real = build.latent_source

    def watched(config, workdir, model, kind):
        read.append(kind)
        return real(config, workdir, model, kind)

    monkeypatch.setattr(build, "latent_source", watched)
    loaders = unlearn.open_loaders(
        text_settings, text_run, "vdu", model, frozenset({"forget", "replay"})
    )
    assert set(loaders) == {"forget", "replay"} and read == ["forget"]
    found = build.captioned(text_settings)
    red = build.forget_retain(text_settings, found).forget
    assert all("red" in found.captions[i] for i in red)
    latents = artifacts.read_npz(text_run / "train" / "latents.npz")["latents"] * model.scaling
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
    figures, _ = evaluate.load(workdir, "esd_x")
    assert set(figures) == {"feature", "paraphrase", "other"}
    assert set(figures["other"]) == {"feature"}


@pytest.fixture
def own_captions(text_settings, tmp_path):
    """A config of the user's own captions, and `write(captions)` of its images."""
    config = text_settings
    config.data.name, config.data.manual_dir = "captions", str(tmp_path / "images")
    config.data.image_size, config.data.background = 32, "white"
    (tmp_path / "images").mkdir()
    images_build.report_once.cache_clear()

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
        split = build.forget_retain(config, build.captioned(config))
        assert split.forget.tolist() == [0, 1] and split.retain.tolist() == [2, 3]
    first, second = capsys.readouterr().err.splitlines()
    metadata = tmp_path / "images" / "metadata.jsonl"
    assert first.startswith(
        f"vdu: images read of {metadata}: 4; left out: an image without a line: 1"
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
    known = [build.data_inputs(config)]
    for key, value in (("background", "black"), ("background", ""), ("caption_column", "label")):
        config.data[key] = value
        known.append(build.data_inputs(config))
        assert known[-1] not in known[:-1]
    assert "background" not in known[2]  # what was made before there was one stays valid


def test_the_unet_computes_in_bfloat16_if_asked(text_run, text_settings):
    """Near what it computes in float32, with gradients of the parameters' type."""
    config, found, gradients, stages = text_settings, {}, {}, set()
    config.model.folder = str(text_run / "train" / "model")
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        model = build.original(config, text_run)
        score_fn, unet = build.score_fn(model), model.params["unet"]
        latents = jax.random.normal(jax.random.key(0), (2, *model.latent_shape))
        rest = latents, np.array([300, 900]), build.embed(model, ["a red bag", "a coat"])
        found[dtype] = np.asarray(jax.jit(score_fn)(unet, *rest))
        gradients[dtype] = jax.grad(lambda p, f=score_fn, r=rest: (f(p, *r) ** 2).mean())(unet)
        assert ("bf16" in str(jax.make_jaxpr(score_fn)(unet, *rest))) == (dtype == "bfloat16")
        stages.add(build.stage(config, text_run, "replay", ()).fingerprint)
    gap = np.abs(found["float32"] - found["bfloat16"])
    assert 1e-4 < gap.max() < 0.1 * np.abs(found["float32"]).max()
    chex.assert_trees_all_equal_shapes_and_dtypes(*gradients.values())
    assert len(stages) == 2  # neither passes for the other


def test_a_trajectory_of_folders(text_run, text_settings, tmp_path):
    from vdu_jax.stages.text_to_image import posterior

    model = build.original(text_settings, text_run)
    older = tmp_path / "older"
    halved = jax.tree.map(lambda p: 0.5 * p, model.params["unet"])
    pipeline.write(older, text_run / "train" / "model", {"unet": halved})
    text_settings.model.folder = str(text_run / "train" / "model")
    text_settings.posterior.update(source="runs", runs=(str(older),))
    found = posterior.checkpoints(text_settings, tmp_path)
    result = posterior.reduce(found, model.params["unet"])
    mean = jax.tree.map(lambda p: 0.75 * p, model.params["unet"])
    chex.assert_trees_all_close(result.mean, mean, rtol=1e-5, atol=1e-7)
    variance = jax.tree.map(lambda p: 0.125 * np.square(p), model.params["unet"])
    chex.assert_trees_all_close(result.variance, variance, rtol=1e-4, atol=1e-7)


def test_a_part_that_is_not_there_is_refused(text_run, text_settings):
    unet = build.original(text_settings, text_run).params["unet"]
    text_settings.methods.vdu.subset = "attn9"
    with pytest.raises(UserError, match=r"methods.vdu.subset: no parameter's path has 'attn9'"):
        unlearn.split(unet, text_settings.methods.vdu, "vdu")


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [
        ("train", ["--config.train.steps=7"], "was made with train.steps = 6"),
        ("unlearn", ["--config.detector.colour=orange"], "palette"),
        ("unlearn", ["--config.methods.vdu.subset=attn9"], "method.subset"),
        ("sample", [], "they have the stages train, posterior"),
        ("benchmark", [], "does not take configs of text-to-image models"),
        ("plan", ["--devices=0"], "--devices=0: must be a multiple"),
        ("export", ["--model=other"], "--model=other: one of original, esd_x, vdu"),
        ("unlearn", ["--config.model.folder=nowhere"], "posterior.runs"),
        ("train", ["--config.model.unet.sample_size=8"], "model.unet.sample_size"),
        ("train", ["--config.model.unet.cross_attention_dim=9"], "unet has 9 and text_encoder 8"),
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
    found = build.captioned(text_settings)
    text_settings.forget.phrase = "orange"
    with pytest.raises(UserError, match="no caption has it"):
        build.forget_retain(text_settings, found)
    text_settings.forget.phrase, text_settings.forget.limit = "", 7
    split = build.forget_retain(text_settings, found)
    assert len(split.forget) == 7 and len(split.retain) == 0
    text_settings.forget.phrase = "red"
    split = build.forget_retain(text_settings, found)
    assert len(split.forget) == 7 and all("red" in found.captions[i] for i in split.forget)
    assert not any("red" in found.captions[i] for i in split.retain)
    text_settings.forget.phrase = "a"
    with pytest.raises(UserError, match="every caption has it"):
        build.forget_retain(text_settings, found)


def test_what_is_recognised():
    names = ("red shirt", "red t-shirt", "blue shirt", "blue ankle boot")
    prompts = ["a red shirt", "a blue shirt", "a crimson ankle boot", "something"]
    seen = ["red t-shirt", "blue shirt", "red shirt", "blue shirt"]
    found = evaluate.recognised(prompts, seen, names)
    # Two prompts name an attribute, three an object.
    assert (found["attribute"]["value"], found["attribute"]["count"]) == (1.0, 2)
    assert found["object"]["value"] == pytest.approx(1 / 3) and found["object"]["count"] == 3
    assert evaluate.recognised(["something"], ["red shirt"], names) == {}


def test_prompts_that_no_replay_was_drawn_of_are_counted_apart(text_run, text_settings):
    """One of the two others is among the replay's; of images of one colour the answer is known."""
    prompts = ("a blue bag", "a white shirt")
    assert text_settings.evaluate.other_prompts == prompts
    assert [p in text_settings.replay.prompts for p in prompts] == [True, False]
    figures, images = evaluate.load(text_run, "vdu")
    assert figures["other"]["attribute"]["count"] == 8
    assert figures["held_out"]["attribute"]["count"] == 4
    yardstick = evaluate.make_yardstick(text_settings, text_run)

    def judge(flat):
        judged = yardstick.judge(flat)
        whites = [name.startswith("white") for name in yardstick.class_names]
        return judged._replace(probabilities=np.tile(np.array(whites, float), (len(flat), 1)))

    found = evaluate.measure(text_settings, images, yardstick._replace(judge=judge))
    assert found["other"]["attribute"]["value"] == 0.5
    assert found["held_out"]["attribute"]["value"] == 1.0


def test_a_deleted_stage_is_made_again(text_run, text_config_file, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(text_run, workdir)
    shutil.rmtree(workdir / "evaluate" / "vdu")
    assert cli.main(["evaluate", f"--config={text_config_file}", f"--workdir={workdir}"]) == 0
    old, new = (d / "evaluate" / "vdu" / "metrics.json" for d in (text_run, workdir))
    assert old.read_bytes() == new.read_bytes()
