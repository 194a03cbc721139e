"""The stages together, on a run of a few steps."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from vdu_jax import cli, data, tasks
from vdu_jax.posterior import diagonal_fisher
from vdu_jax.runtime import artifacts
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.stages import evaluate, posterior, replay, report, sample, train, unlearn
from vdu_jax.tasks import images

STAGES = ("train", "posterior", "replay", "samples/original", "evaluate/original", "report")


def files(workdir):
    return {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}


def test_every_stage_is_done(finished_run):
    more = ("unlearn/plain", "unlearn/extended", "samples/plain", "evaluate/plain", "classifier")
    for name in (*STAGES, *more):
        assert artifacts.upstream(finished_run, name)["provenance"]["versions"]["jax"]


def test_a_second_run_does_nothing_and_prints_the_same_table(finished_run, config_file, capsys):
    before = files(finished_run)
    assert cli.main(["run", f"--config={config_file}", f"--workdir={finished_run}"]) == 0
    assert files(finished_run) == before
    lines = capsys.readouterr().out.strip().splitlines()
    table = json.loads(lines[-1])
    assert list(table) == ["original", "extended", "plain"]
    assert set(table["plain"]) == {"pul", "u_fid", "u_fid_bias", "images", "steps", "seconds"}
    assert table["plain"]["images"] == 60 and "  images" in lines[0]
    assert str(finished_run / "report" / "report.html") in lines[-2]


def test_the_same_config_gives_byte_identical_metrics(finished_run, config_file, tmp_path):
    assert cli.main(["run", f"--config={config_file}", f"--workdir={tmp_path}"]) == 0
    for name in ("evaluate/metrics.json", "posterior/layers.json", "unlearn/plain/metrics.jsonl"):
        assert (finished_run / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_deleted_stage_is_made_again_and_no_other(finished_run, config_file, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "evaluate")
    before = files(workdir)
    assert cli.main(["evaluate", f"--config={config_file}", f"--workdir={workdir}"]) == 0
    after = files(workdir)
    assert {p: t for p, t in after.items() if p in before} == before
    old, new = (d / "evaluate" / "metrics.json" for d in (finished_run, workdir))
    assert old.read_bytes() == new.read_bytes()


def test_a_method_that_is_added_is_measured_and_the_others_are_left(finished_run, config, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    before = files(workdir / "evaluate" / "plain") | files(workdir / "evaluate" / "original")
    config.methods = dict(config.methods) | {"again": config.methods.plain}
    for stage in (unlearn, sample, evaluate):
        stage.run(config, workdir)
    models = artifacts.read_json(workdir / "evaluate" / "metrics.json")["models"]
    assert models["again"] == models["plain"]
    after = files(workdir / "evaluate" / "plain") | files(workdir / "evaluate" / "original")
    assert after == before


def test_images_of_the_original_are_drawn_once(finished_run, config, tmp_path, monkeypatch):
    """Another class unlearned from the same model draws none of them again."""
    config.unlearn.init_from = str(finished_run)
    config.classifier.dir = str(finished_run)
    config.forget.classes = (0, 1, 2, 3, 4, 5, 6, 7)
    drawn = []

    def counted(task, params, request, seed, label):
        drawn.append(label)
        return draw(task, params, request, seed, label)

    draw = images.ImageTask.draw
    monkeypatch.setattr(images.ImageTask, "draw", counted)
    posterior.run(config, tmp_path)
    replay.run(config, tmp_path)
    sample.run_model(config, tmp_path, "original")
    assert drawn == []
    np.testing.assert_array_equal(
        *(sample.load(d, "original")["images"] for d in (tmp_path, finished_run))
    )
    config.replay.seed = 9
    replay.run(config, tmp_path, overwrite=True)
    assert drawn == ["sample original"]
    assert not np.array_equal(replay.load(tmp_path).images, replay.load(finished_run).images)
    assert not (tmp_path / "classifier").exists()


def test_the_posterior_is_the_mean_and_variance_of_the_kept_checkpoints(finished_run, config):
    task = tasks.of(config, finished_run)
    loaded = [task.load_snapshot(finished_run / "train", step, "params") for step in (6, 9, 12)]
    stored = posterior.load(task)
    floor = artifacts.upstream(finished_run, "posterior")["summary"]["floor"]

    def check(mean, variance, *values):
        values = np.asarray(values, np.float64)
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            variance, np.maximum(values.var(0, ddof=1), floor), rtol=2e-3, atol=1e-12
        )

    jax.tree.map(check, stored.mean, stored.variance, *loaded)
    assert int(stored.count) == 3 and floor > 0


def test_the_posterior_over_runs_takes_the_last_step_of_each(
    finished_run, config_file, config, tmp_path
):
    second = tmp_path / "second"
    common = [f"--config={config_file}", "--config.train.seed=5"]
    assert cli.main(["train", *common, f"--workdir={second}"]) == 0
    workdir = tmp_path / "pooled"
    shutil.copytree(finished_run / "train", workdir / "train")
    config.posterior.source, config.posterior.runs = "runs", (str(second),)
    posterior.run(config, workdir)
    task = tasks.of(config, workdir)
    a, b = (task.load_snapshot(d / "train", 12, "params") for d in (workdir, second))
    mean = posterior.load(task).mean
    jax.tree.map(
        lambda m, x, y: np.testing.assert_allclose(m, (x + y) / 2, rtol=1e-5, atol=1e-7), mean, a, b
    )
    differ = jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b))
    assert max(differ) > 0


@pytest.fixture
def trained(finished_run, tmp_path):
    """A workdir with the run's model and nothing else."""
    shutil.copytree(finished_run / "train", tmp_path / "trained" / "train")
    return tmp_path / "trained"


def test_the_low_rank_posterior_has_the_checkpoints_deviations(trained, finished_run, config):
    config.posterior.family = "low_rank"
    posterior.run(config, trained)
    task = tasks.of(config, trained)
    stored = posterior.load(task)
    diagonal = posterior.load(tasks.of(config, finished_run))
    jax.tree.map(np.testing.assert_array_equal, stored.mean, diagonal.mean)
    jax.tree.map(np.testing.assert_array_equal, stored.variance, diagonal.variance)
    for index, step in enumerate((6, 9, 12)):
        params = task.load_snapshot(trained / "train", step, "params")
        jax.tree.map(
            lambda d, p, m, i=index: np.testing.assert_allclose(d[i], p - m, atol=1e-7),
            stored.deviations, params, stored.mean,
        )  # fmt: skip
    layers = "posterior/layers.json"
    assert (trained / layers).read_bytes() == (finished_run / layers).read_bytes()
    assert "their deviations" in artifacts.upstream(trained, "posterior")["summary"]["about"]


def test_the_fisher_posterior_lies_around_the_original(trained, config):
    config.posterior.family, config.posterior.fisher_images = "fisher", 60
    config.posterior.prior_precision, config.posterior.floor_quantile = 1e-3, 0.0
    posterior.run(config, trained)
    task = tasks.of(config, trained)
    params, stored = task.original_params, posterior.load(task)
    jax.tree.map(np.testing.assert_array_equal, stored.mean, params)
    assert int(stored.count) == 1

    drawn = task.draw(params, task.request("posterior"), config.posterior.fisher_seed, "")
    x0 = data.to_model_range(drawn)
    fisher = diagonal_fisher(
        task.score_fn, task.parameterization, params,
        [{"image": x0[:50]}, {"image": x0[50:]}], jax.random.key(config.posterior.fisher_seed),
    )  # fmt: skip
    trained_on = artifacts.upstream(trained, "train")["summary"]["images"]
    jax.tree.map(
        lambda v, f: np.testing.assert_allclose(v, 1 / (trained_on * f + 1e-3), rtol=1e-4),
        stored.variance, fisher,
    )  # fmt: skip
    config.posterior.training_images = 10
    posterior.run(config, trained, overwrite=True)
    wider = posterior.load(task)
    jax.tree.map(
        lambda v, f: np.testing.assert_allclose(v, 1 / (10 * f + 1e-3), rtol=1e-4),
        wider.variance, fisher,
    )  # fmt: skip


def test_a_fisher_posterior_depends_on_the_sampler_and_others_do_not(trained, config):
    from vdu_jax.errors import UserError

    config.posterior.family, config.posterior.fisher_images = "fisher", 50
    posterior.run(config, trained)
    config.sampler.steps = 2
    with pytest.raises(UserError, match=r"sampler\.steps"):
        posterior.run(config, trained)
    config.posterior.family = "diagonal"
    posterior.run(config, trained, overwrite=True)
    config.sampler.steps = 3
    posterior.run(config, trained)


def test_methods_reach_no_retained_image(finished_run, config, tmp_path, monkeypatch):
    """Unlearning works while every read of a retained image raises."""
    from vdu_jax.data import source as source_lib

    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    for name in ("unlearn", "replay"):
        shutil.rmtree(workdir / name)
    retained = set(tasks.of(config, workdir).forget_retain.retain.tolist())
    seen, real = set(), source_lib.ImageSource.__init__

    def guarded(self, fetch, *args, **kwargs):
        def checked(indices):
            seen.update(indices)
            assert not retained & set(indices), "a retained image was read"
            return fetch(indices)

        # Only the whole split's fetch sees the split's own indices; views go through it.
        real(self, fetch if "subset" in fetch.__qualname__ else checked, *args, **kwargs)

    monkeypatch.setattr(source_lib.ImageSource, "__init__", guarded)
    replay.run(config, workdir)
    unlearn.run(config, workdir)
    assert seen
    with pytest.raises(AssertionError, match="retained"):
        tasks.of(config).open_split("train").read(sorted(retained)[:1])


def test_loaders_hold_what_is_seen_and_nothing_else(finished_run, config):
    loaders = unlearn.open_loaders(tasks.of(config, finished_run), "plain", frozenset({"forget"}))
    assert set(loaders) == {"forget"}
    labels = np.concatenate([next(loaders["forget"])["label"] for _ in range(40)])
    assert set(labels.tolist()) <= set(config.forget.classes)


def test_models_start_from_the_same_noise(finished_run, config):
    original = sample.load(finished_run, "original")["images"].astype(int)
    plain = sample.load(finished_run, "plain")["images"].astype(int)
    together = np.abs(original - plain).mean()
    shuffled = np.abs(original - np.roll(plain, 1, 0)).mean()
    assert 0 < together < shuffled / 2


def test_a_damaged_checkpoint_is_refused_by_the_posterior(finished_run, config, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run / "train", workdir / "train")
    for file in (workdir / "train" / "snapshots" / "00000009" / "params" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    from vdu_jax.errors import UserError

    with pytest.raises(UserError, match="snapshots/00000009.* is damaged"):
        posterior.run(config, workdir)
    assert not (workdir / "posterior" / "done.json").exists()


def test_the_report_is_one_file_with_all_that_is_promised(finished_run):
    page = (finished_run / "report" / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:)?//|url\(|<script", page)
    models = ["original", "extended", "plain"]
    pattern = r"<figcaption>(.*?)</figcaption><img alt=\"samples of (.*?)\""
    assert re.findall(pattern, page) == [(model, model) for model in models]
    assert page.count("data:image/png;base64,") == 3
    for text in (
        "commit",
        "&#34;seed&#34;",
        "Mean and variance over 3 checkpoints; median",
        "gamma",
        "jaxlib",
        "PUL % [95 %]",
        "KID × 1000",
        "its bias",
        "60 images a model",
        "50 images a point",
        "bits per dimension, forget (images)",
        "in all, % of training",
    ):
        assert text in page


def test_the_report_s_plot_has_the_values_of_every_snapshot(finished_run):
    page = (finished_run / "report" / "report.html").read_text()
    metrics = artifacts.read_json(finished_run / "evaluate" / "metrics.json")
    shown = re.findall(r'<g class="point .*?aria-label="(.*?)"', page)
    expected = []
    for model, curve in metrics["curves"].items():
        kept = artifacts.upstream(finished_run, f"unlearn/{model}")["summary"]["kept_step"]
        for row in curve:
            low, high = row["pul_interval"]
            values = f"PUL {row['pul']:.1f} [{low:.1f}, {high:.1f}] %, u-FID {row['u_fid']:.2f}"
            end = ", kept" if row["step"] == kept else ""
            expected.append(f"{model}, step {row['step']}: {values}{end}")
            cells = f"<td>{row['step']}</td><td>{row['pul']:.1f} [{low:.1f}, {high:.1f}]</td>"
            assert f'<th scope="row">{model}</th>{cells}' in page
    assert shown == expected and len(shown) == 4


def test_the_evaluation_of_an_earlier_version_is_reported(finished_run, config, tmp_path, capsys):
    """Without bias, numbers of images and standard errors; the counts are in the histogram."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "report")
    for model in ("original", "plain", "extended"):
        path = workdir / "evaluate" / model / "metrics.json"
        metrics = artifacts.read_json(path)
        for row in (metrics["figures"], *metrics.get("curve", ())):
            for key in ("images", "u_fid_bias", "at_curve_images", "bits_per_dim_of"):
                row.pop(key, None)
        for key in ("reference", "held_out_images", "u_fid_held_out_bias"):
            metrics.get("run", {}).pop(key, None)
        path.write_text(json.dumps(metrics))
    report.run(config, workdir)
    table = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert table["plain"]["u_fid_bias"] is None
    for model, row in json.loads((finished_run / "report" / "table.json").read_text()).items():
        assert table[model]["images"] == row["images"], model


def test_an_original_that_draws_no_retained_image_is_reported(
    finished_run, config, tmp_path, capsys
):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "report")
    path = workdir / "evaluate" / "original" / "metrics.json"
    metrics = artifacts.read_json(path)
    none = {"images": 0, "u_fid": None, "u_fid_bias": None}
    metrics["figures"] |= none | {"kid": None, "precision": None, "recall": None}
    metrics["figures"]["at_curve_images"]["retained"] = none
    path.write_text(json.dumps(metrics))
    report.run(config, workdir)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["original"]["u_fid"] is None


def test_metrics_hold_the_figures(finished_run):
    metrics = artifacts.read_json(finished_run / "evaluate" / "metrics.json")
    assert list(metrics["models"]) == ["extended", "original", "plain"]
    original = metrics["models"]["original"]
    assert original["pul"] == 0.0
    assert sum(original["histogram"]) == 60
    assert original["bits_per_dim"]["forget"] > 0
    plain = metrics["models"]["plain"]
    assert metrics["features"] == "classifier"
    assert set(plain["kid"]) == {"value", "standard_error"}
    assert 0 <= plain["precision"] <= 1 and 0 <= plain["recall"] <= 1
    retained = sum(original["histogram"]) - sum(original["histogram"][:9])
    assert (plain["images"], original["images"]) == (60, retained)
    assert metrics["curves"]["plain"][0]["images"] == 50
    # Of as many images as the points of the curve, where there are as many.
    few = original["at_curve_images"]
    assert (few["all"]["images"], few["retained"]["images"]) == (50, min(50, retained))
    assert plain["u_fid_bias"] > 0 and metrics["reference"]["features"] == 16
    of = original["bits_per_dim_of"]["retain"]
    assert of["images"] == 2 and of["standard_error"] > 0
    counts = metrics["replay"]
    assert counts["removed"] == counts["removed_rightly"] + counts["removed_wrongly"]
    assert [r["step"] for r in metrics["curves"]["plain"]] == [2, 4]


def test_train_snapshots_are_the_last_ones(finished_run):
    with Store(finished_run / "train" / "snapshots", read_only=True) as store:
        assert store.steps() == [6, 9, 12]


def test_mirror_images_are_trained_on_where_asked(config, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def look(objective, params, loaders, *rest, **more):
        epochs = (image for _ in range(250) for image in next(loaders["retain"])["image"])
        raise Seen(len({image.tobytes() for image in epochs}))

    monkeypatch.setattr(train, "fit", look)
    images = []
    for flip in (False, True):
        config.train.flip = flip
        with pytest.raises(Seen) as seen:
            train.run(config, tmp_path / str(flip))
        images += seen.value.args
    assert images[1] > 1.9 * images[0] > 1000  # some digits are their own mirror image


def test_train_refuses_a_batch_that_does_not_divide(config, tmp_path, monkeypatch):
    from vdu_jax.errors import UserError
    from vdu_jax.runtime import parallel

    class Three:
        size = 3

    monkeypatch.setattr(parallel, "make_mesh", lambda fsdp: Three)
    with pytest.raises(UserError, match=r"train\.batch_size = 16: does not divide over 3 devices"):
        train.run(config, tmp_path)
