import json

import numpy as np
import pytest

from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts
from vdu_jax.runtime.artifacts import StageDir


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    artifacts.write_json(path, 1)
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_numpy_values_become_json_and_keys_are_sorted():
    text = artifacts.dumps({"b": np.float64(1.5), "a": np.arange(2)}, indent=None)
    assert text == '{"a": [0, 1], "b": 1.5}'


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_a_damaged_npz_is_named(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz is damaged"):
        artifacts.read_npz(path)


def test_no_pickle_is_loaded(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        artifacts.read_npz(path)


class TestStageDir:
    def finished(self, tmp_path, **inputs):
        stage = StageDir(tmp_path, "stage", {"train": inputs})
        stage.begin()
        stage.finish({"x": 1})
        return stage

    def test_the_same_inputs_are_done(self, tmp_path):
        self.finished(tmp_path, steps=3, shape=(1, 2))
        assert StageDir(tmp_path, "stage", {"train": {"shape": (1, 2), "steps": 3}}).done()

    def test_an_unfinished_stage_is_not_done(self, tmp_path):
        stage = StageDir(tmp_path, "stage", {})
        stage.begin()
        assert not stage.done()

    def test_other_inputs_are_refused_by_name_and_nothing_is_lost(self, tmp_path):
        self.finished(tmp_path, steps=3)
        other = StageDir(tmp_path, "stage", {"train": {"steps": 4}})
        with pytest.raises(UserError, match=r"train\.steps = 3, the config now says 4"):
            other.done()
        assert artifacts.upstream(tmp_path, "stage")["summary"] == {"x": 1}

    def test_overwrite_replaces(self, tmp_path):
        self.finished(tmp_path, steps=3)
        other = StageDir(tmp_path, "stage", {"train": {"steps": 4}})
        assert not other.done(overwrite=True)
        assert not other.path.exists()

    def test_a_missing_upstream_says_what_to_run(self, tmp_path):
        with pytest.raises(UserError, match="run `vdu unlearn`"):
            artifacts.upstream(tmp_path, "unlearn/plain")
