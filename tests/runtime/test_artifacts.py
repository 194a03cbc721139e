import errno
import fcntl
import json
import os
import platform
import re
import subprocess
import sys

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

    def test_a_younger_setting_at_its_neutral_value_is_no_input_of_any_stage(self, tmp_path):
        old = StageDir(tmp_path, "stage", {"sampler": {"steps": 3}, "upstream": {"train": "ab"}})
        sections = {"sampler": {"steps": 3, "timesteps": ()}, "upstream": {"train": "ab"}}
        assert StageDir(tmp_path, "stage", sections).fingerprint == old.fingerprint
        sections["sampler"]["timesteps"] = (9, 4, 1)
        assert StageDir(tmp_path, "stage", sections).inputs["sampler.timesteps"] == [9, 4, 1]

    def test_overwrite_replaces(self, tmp_path):
        self.finished(tmp_path, steps=3)
        other = StageDir(tmp_path, "stage", {"train": {"steps": 4}})
        assert not other.done(overwrite=True)
        assert not other.path.exists()

    def test_a_missing_upstream_says_what_to_run(self, tmp_path):
        with pytest.raises(UserError, match="run `vdu unlearn`"):
            artifacts.upstream(tmp_path, "unlearn/plain")


class TestLocks:
    def held(self, workdir):
        """A process that works in a workdir until its standard input ends."""
        code = f"""
import sys
from pathlib import Path
from vdu_jax.runtime import artifacts
with artifacts.claim(Path({str(workdir)!r})):
    print("ready", flush=True)
    sys.stdin.read()
"""
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
        assert process.stdout.readline() == b"ready\n"
        return process

    def test_who_holds_a_workdir_is_named_until_it_ends_or_is_killed(self, tmp_path):
        for end in (lambda process: process.stdin.close(), lambda process: process.kill()):
            process = self.held(tmp_path)
            who = f"process {process.pid} on {re.escape(platform.node())} since 20..-..-.. ..:..:.."
            with pytest.raises(UserError, match=f"{tmp_path} is in use by {who}: wait for its end"):
                artifacts.claim(tmp_path).__enter__()
            end(process)
            process.wait()
            with artifacts.claim(tmp_path):
                assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
            assert not list(tmp_path.iterdir())

    def test_a_folder_in_which_nothing_was_written_is_gone(self, tmp_path):
        with pytest.raises(UserError), artifacts.claim(tmp_path / "a" / "b"):
            raise UserError("a mistake")
        assert not list(tmp_path.iterdir())
        with artifacts.claim(tmp_path / "a" / "b"):
            (tmp_path / "a" / "b" / "file").write_text("")
        assert [p.name for p in tmp_path.rglob("*")] == ["a", "b", "file"]

    def test_a_file_system_without_locks_is_named(self, tmp_path, capsys, monkeypatch):
        def flock(file, how):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(artifacts.fcntl, "flock", flock)
        with artifacts.claim(tmp_path):
            pass
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"vdu: {tmp_path}: no locks on its file system; let only one process use it"

    def test_what_cannot_be_opened_is_no_free_workdir(self, tmp_path):
        (tmp_path / ".lock").mkdir()
        with pytest.raises(IsADirectoryError):
            artifacts.claim(tmp_path).__enter__()

    def test_a_deleted_lock_file_is_not_the_lock(self, tmp_path, monkeypatch):
        """Between opening the file and locking it, its holder may delete it."""
        path, flock, deleted = tmp_path / "lock", fcntl.flock, []

        def late(file, how):
            if not deleted:
                deleted.append(path.unlink())
            flock(file, how)

        monkeypatch.setattr(artifacts.fcntl, "flock", late)
        with artifacts.lock(path) as mine:
            assert mine and path.exists()
            with artifacts.lock(path, wait=False) as free:
                assert not free


def test_a_folder_is_deleted_at_once_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "stage"
    (folder / "sub").mkdir(parents=True)

    class Killed(BaseException):
        pass

    def rmtree(path, *args, **kwargs):
        if path.exists():
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(artifacts.shutil, "rmtree", rmtree)
        artifacts.remove(folder)
    assert not folder.exists()
    folder.mkdir()
    artifacts.remove(folder)
    artifacts.remove(folder)
    assert not list(tmp_path.iterdir())
