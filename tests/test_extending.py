"""What docs/extending.md adds works as it is written there, and keeps the project's contracts."""

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import pytest

from vdu_jax import config as vdu_config
from vdu_jax import objectives
from vdu_jax.errors import UserError
from vdu_jax.models import registry
from vdu_jax.runtime import artifacts
from vdu_jax.stages import plan, posterior, replay, train, unlearn

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "extending.md"
CODE, TEST, PLAIN = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def _tests_of(*parts):
    """A file of tests/ as a module."""
    spec = importlib.util.spec_from_file_location("_".join(parts)[:-3], TESTS.joinpath(*parts))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = _tests_of("objectives", "conftest.py").toy  # the page's test lies there, and asks for it
OF_METHODS = _tests_of("objectives", "test___init__.py")
OF_NETWORKS = _tests_of("models", "test_network.py")


@pytest.fixture
def bounded_ascent(monkeypatch):
    """The factory of the page, where the page puts it."""
    module = types.ModuleType("vdu_jax.objectives.bounded_ascent")
    exec(CODE, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(objectives.FACTORIES, "bounded_ascent", module.bounded_ascent)
    return module.bounded_ascent


@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_its_test_passes(bounded_ascent, toy, bound):
    names = {}
    exec(TEST, names)
    names["test_loss_by_hand"](toy, bound)


def test_its_test_can_fail(bounded_ascent, toy):
    names = {}
    exec(TEST.replace("-error.clip", "-2 * error.clip"), names)
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
    names = {}
    exec(PLAIN, names)
    monkeypatch.setitem(registry.ARCHITECTURES, "plain", names["ARCHITECTURE"])
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
