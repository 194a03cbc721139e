"""Every method through the stage, and no further into the data than it says."""

import itertools
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from vdu_jax import config as vdu_config
from vdu_jax import forget_detector, objectives, tasks, training
from vdu_jax.errors import UserError
from vdu_jax.metrics import pul
from vdu_jax.posterior import num_parameters
from vdu_jax.runtime import artifacts
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.stages import evaluate, posterior, replay, sample, unlearn

SMALL = {
    "demixing": {"reference_images": 20},
    "retained_score": {"reference_images": 20},
    "esd": {"teacher_steps": 2},
    "salun": {"mask_batches": 2},
    "selective_amnesia": {"fisher_batches": 1},
}
SHORT = {"steps": 2, "snapshot_every": 2, "forget_batch": 8, "log_every": 1}
SEES = {
    "gradient_ascent": {"forget"},
    "esd": {"forget"},
    "vdu": {"forget"},
    "demixing": {"forget", "replay"},
    "retained_score": {"forget", "replay"},
    "salun": {"forget", "replay"},
    "selective_amnesia": {"forget", "replay"},
    "vdu_extended": {"forget", "replay"},
    "fine_tune": {"retain"},
    "retrain": {"retain"},
    "erase_diff": {"forget", "retain"},
    "siss": {"forget", "retain"},
}


def test_every_method_is_listed_here():
    assert SEES.keys() == objectives.FACTORIES.keys()


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "work"
    shutil.copytree(finished_run, path)
    shutil.rmtree(path / "unlearn")
    return path


def method(name):
    if name == "retrain":
        return vdu_config.method(name)
    return vdu_config.method(
        name,
        steps=2,
        snapshot_every=2,
        forget_batch=8,
        replay_batch=8,
        retain_batch=8,
        log_every=1,
        learning_rate=1e-4,
        **SMALL.get(name, {}),
    )


@pytest.mark.parametrize("name", SEES)
def test_a_method_changes_the_model_and_reads_what_it_sees(workdir, config, name, reads):
    config.methods = {name: method(name)}
    vdu_config.validate(config)
    unlearn.run(config, workdir)
    summary = artifacts.upstream(workdir, f"unlearn/{name}")["summary"]
    last = config.train.steps if name == "retrain" else 2
    assert set(summary["sees"]) == SEES[name] and summary["kept_step"] == last

    task = tasks.of(config, workdir)
    split = task.forget_retain
    read = {kind: bool(reads & set(getattr(split, kind).tolist())) for kind in ("forget", "retain")}
    assert read == {kind: kind in SEES[name] for kind in read}

    before, after = task.original_params, sample.load_params(task, name)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    largest = max(jax.tree.leaves(moved))
    if name == "retrain":  # it took other batches, from the same fresh parameters
        assert 1e-3 < largest < 0.1
    else:
        assert 0 < largest < 1e-3  # two steps of Adam
    if name == "salun":
        still = sum(int((a == b).sum()) for a, b in zip(*map(jax.tree.leaves, (before, after)),
                                                        strict=True))  # fmt: skip
        total = sum(leaf.size for leaf in jax.tree.leaves(before))
        assert 0.4 < still / total < 0.6


def test_the_natural_optimizer_steps_by_the_posteriors_variance(workdir, config, monkeypatch):
    settings = {"steps": 1, "snapshot_every": 1, "gamma": 0.5, "learning_rate": 2.0}
    name = "natural"
    config.methods = {name: vdu_config.method("vdu", optimizer="natural", **settings)}
    vdu_config.validate(config)
    seen, real = [], training.make_update

    def watched(objective, *args, **kwargs):
        loss = objective.loss

        def noted(params, state, batch, noise):
            jax.debug.callback(lambda *a: seen.append(a), batch, noise)
            return loss(params, state, batch, noise)

        return real(objective._replace(loss=noted), *args, **kwargs)

    monkeypatch.setattr(training, "make_update", watched)
    unlearn.run(config, workdir)
    jax.effects_barrier()
    ((batch, noise),) = seen
    task = tasks.of(config, workdir)
    trained, before = posterior.load(task), task.original_params
    objective = unlearn.make_objective(task, name, (before, {}), trained, 150, 0.0)
    state = objective.init(before, {}, jax.random.key(0))
    grads = jax.jit(jax.grad(objective.loss, has_aux=True))(before, state, batch, noise)[0]
    after = sample.load_params(task, name)
    moved = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, after, before)
    jax.tree.map(
        lambda m, g, v: np.testing.assert_allclose(m, -2 * v * g, rtol=1e-3, atol=1e-7),
        moved, grads, trained.variance,
    )  # fmt: skip
    assert max(np.abs(m).max() for m in jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize("family", ["low_rank", "fisher"])
def test_the_methods_that_stay_by_the_posterior_take_any_family(
    finished_run, config, tmp_path, family
):
    for part in ("train", "replay"):
        shutil.copytree(finished_run / part, tmp_path / part)
    config.posterior.family, config.posterior.fisher_images = family, 50
    config.methods = {name: method(name) for name in ("vdu", "vdu_extended")}
    posterior.run(config, tmp_path)
    unlearn.run(config, tmp_path)
    for name in config.methods:
        summary = artifacts.upstream(tmp_path, f"unlearn/{name}")["summary"]
        assert summary["kept_step"] == 2 and summary["stopped"] is None


def test_models_are_measured_against_the_retrained_one(workdir, config, monkeypatch):
    config.methods = {"gold": method("retrain")}
    config.evaluate.bits_per_dim_images = 0
    unlearn.run(config, workdir)
    sample.run(config, workdir)
    # So short a run draws the same classes whatever it saw: the original is given others.
    counts = itertools.chain([np.array([45, 15])], itertools.repeat(np.array([15, 45])))
    monkeypatch.setattr(pul, "histogram", lambda probabilities: next(counts))
    evaluate.run(config, workdir, overwrite=True)
    models = artifacts.read_json(workdir / "evaluate" / "metrics.json")["models"]
    assert models["original"]["tv_to_retrained"] == 0.5
    assert models["gold"]["tv_to_retrained"] == 0


def test_replay_without_a_forget_image_is_warned_of(finished_run, config, tmp_path, capsys):
    """Every estimated PUL is 0 then, whatever the model draws."""
    shutil.copytree(finished_run / "replay", tmp_path / "replay")
    rule = dict(artifacts.read_npz(tmp_path / "replay" / "found.npz"))
    task = tasks.of(config, finished_run)
    params = task.original_params
    for bias, said in ((1e9, False), (-1e9, True)):
        rule["bias"] = np.float64(bias)
        artifacts.write_npz(tmp_path / "replay" / "found.npz", **rule)
        score = task.scorer(params, replay.load(tmp_path))
        found = "the detector finds no forget image among the 120 of replay"
        assert (found in capsys.readouterr().err) == said
    assert score(2, sample.load(finished_run, "plain")["images"]).estimated_pul == 0


@pytest.mark.parametrize("left", [0, 1, 2])
def test_replay_of_which_nothing_remains_is_refused(
    finished_run, tmp_path, config, monkeypatch, left
):
    """A trained network whose every image looks like D_f: one line, and no half-written folder."""
    workdir, fitted = tmp_path / "work", forget_detector.fit_detector
    shutil.copytree(finished_run / "train", workdir / "train")

    def all_but(positive, unlabelled, recall):
        found = fitted(positive, unlabelled, recall)
        return found._replace(forget_like=np.arange(len(unlabelled)) >= left)

    monkeypatch.setattr(forget_detector, "fit_detector", all_but)
    config.replay.kernel_time = 0.0
    if left == 2:
        replay.run(config, workdir)
        assert (~replay.load(workdir).forget_like).sum() == 2
        return
    with pytest.raises(UserError, match=f"replay: {left} of the original's 120 images are not"):
        replay.run(config, workdir)
    assert not (workdir / "replay" / "done.json").exists()


@pytest.mark.parametrize("which", ["subset", "rank", "both"])
def test_a_part_or_adapters_alone_change_and_are_stored(workdir, config, which):
    """The rest stays bit by bit; adapters change each matrix by one of a low rank."""
    subset = "all" if which == "rank" else "^transformer_blocks_0"
    settings = {"subset": subset, "rank": 0 if which == "subset" else 2}
    config.methods = {which: vdu_config.method("gradient_ascent", **SHORT, **settings)}
    vdu_config.validate(config)
    unlearn.run(config, workdir)
    task, folder = tasks.of(config, workdir), workdir / "unlearn" / which
    before, after = (
        traverse_util.flatten_dict(params, sep="/")
        for params in (task.original_params, sample.load_params(task, which))
    )
    assert before.keys() == after.keys()
    moved = {k for k in before if not np.array_equal(before[k], after[k])}
    inside = {k for k in before if subset == "all" or k.startswith("transformer_blocks_0")}
    if which == "subset":
        assert moved == inside < before.keys()
    else:
        assert moved and moved <= inside
    for path in moved if settings["rank"] else ():
        change = np.asarray(after[path], np.float64) - before[path]
        matrix = change.reshape(-1, change.shape[-1])
        assert min(matrix.shape) > 2 and np.linalg.matrix_rank(matrix, tol=1e-6) <= 2, path
    # No more is stored than what the optimiser moved.
    part, _ = unlearn.split(task.original_params, config.methods[which], which)
    changed = unlearn.what_changes(config, which, part)
    summary = artifacts.upstream(workdir, f"unlearn/{which}")["summary"]
    assert summary["parameters"] == num_parameters(changed) < num_parameters(task.original_params)
    with Store(folder / "snapshots", read_only=True) as store:
        store.check(2, "params", changed)
        with pytest.raises(UserError):
            store.check(2, "params", task.original_params)
    assert (folder / "curve" / "00000002.npz").exists()


def test_a_method_of_a_part_that_is_not_there_is_one_line(workdir, config):
    config.methods = {"m": vdu_config.method("gradient_ascent", subset="nowhere", **SHORT)}
    with pytest.raises(UserError, match="methods.m.subset: no parameter's path matches 'nowhere'"):
        unlearn.run(config, workdir)
    assert not (workdir / "unlearn" / "m").exists()


def test_a_config_without_a_method_that_takes_the_posterior_makes_none(
    finished_run, config, tmp_path
):
    for part in ("train", "replay"):
        shutil.copytree(finished_run / part, tmp_path / part)
    config.methods = {"esd": method("esd")}
    posterior.run(config, tmp_path)
    assert not (tmp_path / "posterior").exists()
    unlearn.run(config, tmp_path)
    stored = artifacts.read_json(tmp_path / "unlearn" / "esd" / "inputs.json")
    assert [k for k in stored if k.startswith("upstream.")] == [
        "upstream.original", "upstream.replay"
    ]  # fmt: skip
    config.methods = {"esd": method("esd"), "vdu": method("vdu")}
    posterior.run(config, tmp_path)
    assert artifacts.upstream(tmp_path, "posterior")["summary"]["count"] == 3
    unlearn.run(config, tmp_path)  # the finished one is still the same
    natural = vdu_config.method("gradient_ascent", optimizer="natural")
    assert vdu_config.takes_posterior(natural)
