"""The method that docs/extending.md adds works as it is written there."""

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
from vdu_jax.runtime import artifacts
from vdu_jax.stages import unlearn

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "extending.md"
CODE, TEST = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def _fixtures_of_objectives():
    path = TESTS / "objectives" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fixtures_of_objectives", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = _fixtures_of_objectives().toy  # the page's test lies in that folder, and asks for it


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
