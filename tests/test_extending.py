"""What docs/extending.md adds works as it is written there, and keeps the project's contracts."""

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from vdu_jax import config as vdu_config
from vdu_jax import objectives, tasks
from vdu_jax.data import builders
from vdu_jax.data import registry as data_registry
from vdu_jax.errors import UserError
from vdu_jax.metrics import quality
from vdu_jax.models import registry
from vdu_jax.runtime import artifacts
from vdu_jax.stages import (
    evaluate,
    plan,
    posterior,
    relearn,
    replay,
    report,
    sample,
    train,
    unlearn,
)

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "extending.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.S))  # file -> text


def _line(start):
    """A line that the page adds to a registry, without the comma."""
    (found,) = re.findall(rf"^    ({re.escape(start)}.*),$", PAGE, re.M)
    return found


def _module(monkeypatch, path):
    """A file of the page as the module that it is there."""
    module = types.ModuleType(path.removesuffix(".py").replace("/", "."))
    exec(compile(BLOCKS[path], path, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def _tests_of(*parts):
    """A file of tests/ as a module."""
    spec = importlib.util.spec_from_file_location("_".join(parts)[:-3], TESTS.joinpath(*parts))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _contract(module):
    """The tests of a module."""
    return [name for name in vars(module) if name.startswith("test_")]


toy = _tests_of("objectives", "conftest.py").toy  # the page's test lies there, and asks for it
OF_METHODS = _tests_of("objectives", "test___init__.py")
OF_NETWORKS = _tests_of("models", "test_network.py")
OF_DATA = _tests_of("data", "test_registry.py")
OF_METRICS = _tests_of("metrics", "test_quality.py")
OF_TASKS = _tests_of("tasks", "test_contract.py")


def test_every_file_of_the_page_is_run_here():
    assert list(BLOCKS) == [
        "vdu_jax/objectives/bounded_ascent.py",
        "tests/objectives/test_bounded_ascent.py",
        "vdu_jax/models/plain.py",
        "vdu_jax/data/builders.py",
        "configs/squares.py",
        "vdu_jax/metrics/coverage.py",
        "tests/metrics/test_coverage.py",
        "vdu_jax/tasks/squares.py",
    ]
    assert PAGE.count("```") == 2 * len(BLOCKS)


@pytest.fixture
def bounded_ascent(monkeypatch):
    """The factory of the page, where the page puts it."""
    module = _module(monkeypatch, "vdu_jax/objectives/bounded_ascent.py")
    monkeypatch.setitem(objectives.FACTORIES, "bounded_ascent", module.bounded_ascent)
    return module.bounded_ascent


@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_its_test_passes(bounded_ascent, toy, bound):
    names = {}
    exec(BLOCKS["tests/objectives/test_bounded_ascent.py"], names)
    names["test_loss_by_hand"](toy, bound)


def test_its_test_can_fail(bounded_ascent, toy):
    names = {}
    test = BLOCKS["tests/objectives/test_bounded_ascent.py"]
    exec(test.replace("-error.clip", "-2 * error.clip"), names)
    with pytest.raises(AssertionError):
        names["test_loss_by_hand"](toy, 0.5)


@pytest.mark.parametrize(
    "contract",
    [
        "test_the_condition_of_each_kind_of_data_reaches_the_network",
        "test_the_simple_weights_weigh_every_error",
        "test_all_that_is_random_in_a_step_has_a_row_for_each_image",
    ],
)
def test_it_keeps_the_contract_of_every_method(bounded_ascent, monkeypatch, toy, contract):
    monkeypatch.setitem(OF_METHODS.SETTINGS, "bounded_ascent", {"bound": 1e9})
    getattr(OF_METHODS, contract)(toy, "bounded_ascent")


@pytest.fixture
def plain(monkeypatch):
    """The architecture of the page, in the registry."""
    architecture = _module(monkeypatch, "vdu_jax/models/plain.py").ARCHITECTURE
    monkeypatch.setitem(registry.ARCHITECTURES, "plain", architecture)
    monkeypatch.setitem(OF_NETWORKS.SMALL, "plain", {"width": 8})


@pytest.mark.parametrize("classes", [0, 3])
def test_the_architecture_keeps_the_contract_of_every_network(plain, classes):
    net = OF_NETWORKS.make("plain", num_class_embeds=classes, dropout=0.5)
    OF_NETWORKS.test_networks_of_equal_settings_are_equal(net)
    OF_NETWORKS.test_without_a_dropout_key_the_network_is_deterministic(net)
    OF_NETWORKS.test_an_images_dropout_masks_hang_on_its_own_key_alone(net)
    OF_NETWORKS.test_images_and_times_of_a_batch_do_not_mix(net)
    OF_NETWORKS.test_every_parameter_matters(net)
    OF_NETWORKS.test_an_image_s_features_are_its_own(net)
    OF_NETWORKS.test_the_label_tells(net)


def test_a_config_can_ask_for_the_architecture(plain, config, tmp_path):
    """Trained, unlearned and planned for."""
    config.model = vdu_config.model("plain", width=8)
    config.methods = {"plain": config.methods["plain"]}
    vdu_config.validate(config)
    for stage in (train, posterior, replay, unlearn):
        stage.run(config, tmp_path)
    assert artifacts.upstream(tmp_path, "unlearn/plain")["summary"]["kept_step"] in (2, 4)
    assert plan.make(config, 1)["parameters"] == 9 * (1 * 8 + 8 * 8 + 8 * 1) + 8 + 8 + 1 + 8 * 8 + 8
    config.model.width = 7
    with pytest.raises(UserError, match="model.width = 7: must be an even number"):
        vdu_config.validate(config)


def test_a_config_can_ask_for_it(bounded_ascent, config, finished_run, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(finished_run, workdir)
    settings = dict(steps=2, snapshot_every=2, forget_batch=8, log_every=1)
    config.methods = {"mine": vdu_config.method("bounded_ascent", bound=0.5, **settings)}
    vdu_config.validate(config)
    unlearn.run(config, workdir)
    summary = artifacts.upstream(workdir, "unlearn/mine")["summary"]
    assert summary["sees"] == ["forget"] and summary["kept_step"] == 2
    config.methods = {"mine": vdu_config.method("bounded_ascent", bound=-1.0, **settings)}
    with pytest.raises(UserError, match=r"methods.mine.params: bound must be > 0"):
        vdu_config.validate(config)


@pytest.fixture
def squares(monkeypatch):
    """The data set of the page, in the registry."""
    names = dict(vars(builders))
    exec(BLOCKS["vdu_jax/data/builders.py"], names)
    monkeypatch.setattr(builders, "Squares", names["Squares"], raising=False)
    line = eval(f"{{{_line(chr(34) + 'squares')}}}", vars(data_registry))
    monkeypatch.setitem(data_registry.NAMES, "squares", line["squares"])


def test_the_data_set_keeps_the_contract_of_every_data_set(squares, tmp_path):
    for number, name in enumerate(_contract(OF_DATA)):
        folder = tmp_path / str(number)
        folder.mkdir()
        test = getattr(OF_DATA, name)
        test("squares", *([folder] if "refused" in name else [None, folder]))


def test_its_config_is_valid_and_planned(squares, config):
    names, small = {}, config.model
    exec(BLOCKS["configs/squares.py"], names)
    config = names["get_config"]()
    vdu_config.validate(config)
    config.model = small
    assert plan.make(config, 1)["parameters"] > 0
    config.forget.classes = (2,)
    with pytest.raises(UserError, match=r"forget.classes = \(2,\)"):
        vdu_config.validate(config)


@pytest.fixture
def coverage(monkeypatch):
    """The metric of the page, in the table."""
    names = vars(quality) | {"coverage": _module(monkeypatch, "vdu_jax/metrics/coverage.py")}
    metric = eval(_line("Metric("), names)
    metrics = (*quality.METRICS, metric)
    for module in (quality, evaluate, OF_METRICS):
        monkeypatch.setattr(module, "METRICS", metrics)
    return metric


def test_the_metric_s_test_passes(coverage):
    names = {}
    exec(BLOCKS["tests/metrics/test_coverage.py"], names)
    names["test_by_hand"]()


def test_the_metric_keeps_the_contract_of_every_metric(coverage):
    contract = [getattr(OF_METRICS, name) for name in _contract(OF_METRICS)]
    ran = [test(coverage) for test in contract if test.__code__.co_varnames[:1] == ("metric",)]
    assert len(ran) == 5
    OF_METRICS.test_no_two_metrics_share_a_column()
    OF_METRICS.test_keys_and_heads_are_those_of_published_files()


def test_the_metric_is_evaluated_and_reported(coverage, finished_run, config, tmp_path):
    """And a finished evaluation that has not got it is reported without."""
    workdir = tmp_path / "work"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "report")
    report.run(config, workdir)
    assert "coverage" not in (workdir / "report" / "report.html").read_text()
    for folder in ("evaluate", "report"):
        shutil.rmtree(workdir / folder)
    evaluate.run(config, workdir)
    found = evaluate.load(workdir, "plain")["figures"]
    assert 0 <= found["coverage"] <= 1 and found["recall"] is not None
    report.run(config, workdir)
    page = (workdir / "report" / "report.html").read_text()
    assert '<th scope="col">coverage</th>' in page and f"<td>{found['coverage']:.3f}</td>" in page


@pytest.fixture
def squares_task(monkeypatch, squares, config, tmp_path):
    """The task of the page, in the registry, and a small config of it."""
    module = _module(monkeypatch, "vdu_jax/tasks/squares.py")
    (line,) = re.findall(r"^    TASKS: .* = (.*)$", PAGE, re.M)
    monkeypatch.setattr(tasks, "TASKS", eval(line, vars(tasks) | vars(module)))
    config.data.name, config.data.dir = "squares", str(tmp_path / "data")
    config.forget.classes = (0,)
    config.relearn.images = 50
    config.relearn.checks = (1,)
    monkeypatch.setitem(OF_TASKS.CONFIGS, "SquaresTask", lambda: config)
    monkeypatch.setitem(OF_TASKS.EVALUATORS, "SquaresTask", module.SquaresEvaluator)
    return module


@pytest.mark.parametrize("contract", _contract(OF_TASKS))
def test_the_task_keeps_the_contract_of_every_task(squares_task, contract, tmp_path):
    test = getattr(OF_TASKS, contract)
    arguments = {"kind": squares_task.SquaresTask, "tmp_path": tmp_path}
    test(*(arguments[name] for name in test.__code__.co_varnames[: test.__code__.co_argcount]))


def test_every_stage_runs_the_task(squares_task, config, tmp_path):
    vdu_config.validate(config)
    workdir = tmp_path / "work"
    for stage in (train, posterior, replay, unlearn, sample, evaluate, relearn, report):
        stage.run(config, workdir)
    assert not (workdir / "classifier").exists()
    figures = evaluate.gather(config, workdir)["models"]
    for model, row in figures.items():
        images = artifacts.read_npz(workdir / "samples" / model / "images.npz")["images"]
        left, right = images[:, :, :4].astype(int), images[:, :, 4:].astype(int)
        is_left = left.sum((1, 2, 3)) >= right.sum((1, 2, 3))
        assert row["forget_rate"] == pytest.approx(np.mean(is_left))
    assert figures["original"]["pul"] == 0 and "u_fid" not in figures["original"]
    page = (workdir / "report" / "report.html").read_text()
    assert "Unlearning left (class 0) from squares" in page and "u-FID" not in page
