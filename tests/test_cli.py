import os
import platform
import subprocess
import sys

import pytest

from vdu_jax import cli


def fails(capsys, *argv):
    """Run a command that must end in one line and exit code 2; returns the line."""
    assert cli.main([str(a) for a in argv]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vdu:")]
    assert len(lines) == 1 and lines[0].startswith("vdu: error: ")
    return lines[0]


def test_help_needs_no_jax():
    code = (
        "import sys; from vdu_jax import cli; assert cli.main(['--help']) == 0; "
        "assert 'jax' not in sys.modules and 'absl' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: vdu COMMAND" in done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc")
def test_freed_memory_is_kept_or_given_back_as_chosen():
    code = """
import sys
from pathlib import Path
import numpy as np
from vdu_jax import cli
cli.set_up_jax(getattr(cli, sys.argv[1]))

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
for _ in range(2):  # by default glibc gives the first back and, having learnt, keeps the second
    rows = [(np.ones(20_000_000, np.uint8), bytes(100_000)) for _ in range(5)]
    assert resident() - before > 90e6
    kept = [small for _, small in rows]
    del rows
    print(resident() - before)
"""

    def left(malloc, **choice):
        ours = cli.KEEP_FREED | cli.RETURN_FREED
        env = {k: v for k, v in os.environ.items() if k not in ours} | choice
        command = [sys.executable, "-c", code, malloc]
        done = subprocess.run(command, env=env, capture_output=True, check=True)
        return [int(line) for line in done.stdout.split()]

    assert min(left("KEEP_FREED")) > 90e6
    assert left("KEEP_FREED", MALLOC_MMAP_MAX_="65536")[0] < 10e6
    assert max(left("RETURN_FREED")) < 10e6


def test_a_wrong_stage(capsys):
    assert "unknown command 'trian'; did you mean train?" in fails(capsys, "trian")


def test_missing_flags(capsys, config_file):
    assert "--config is missing" in fails(capsys, "train", "--workdir=x")
    assert "--workdir is missing" in fails(capsys, "train", f"--config={config_file}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.train.stepz=3", "stepz"),
        ("--config.train.steps=many", "steps"),
        ("--config.train.steps=1.5", "steps"),
        ("--config.forget.classes=x", "classes"),
        ("--confg=x", "confg"),
        ("extra", "extra"),
        ("--config.train.steps=0", "train.steps = 0"),
    ],
)
def test_bad_overrides(capsys, tmp_path, config_file, override, said):
    workdir = tmp_path / "w"
    line = fails(capsys, "train", f"--config={config_file}", f"--workdir={workdir}", override)
    assert said in line
    assert not workdir.exists()


def test_a_config_that_is_not_there_or_fails(capsys, tmp_path):
    assert "no such file" in fails(capsys, "run", "--config=nothing.py", "--workdir=w")
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    return 1 / 0\n")
    assert "ZeroDivisionError" in fails(capsys, "run", f"--config={path}", "--workdir=w")
    path.write_text("def get_config():\n    raise ValueError('so it is')\n")
    assert "so it is" in fails(capsys, "run", f"--config={path}", "--workdir=w")


def test_a_stage_before_its_time(capsys, tmp_path, config_file):
    line = fails(capsys, "posterior", f"--config={config_file}", f"--workdir={tmp_path}")
    assert "run `vdu train`" in line


def test_a_workdir_that_cannot_be_written(capsys, tmp_path, config_file):
    file = tmp_path / "file"
    file.write_text("mine")
    line = fails(capsys, "train", f"--config={config_file}", f"--workdir={file}/work")
    assert str(file) in line
    assert file.read_text() == "mine"


def test_missing_and_truncated_originals(capsys, tmp_path, config_file):
    common = ["train", f"--config={config_file}", f"--workdir={tmp_path / 'w'}"]
    common += ["--config.data.name=mnist", f"--config.data.dir={tmp_path / 'data'}"]
    common += ["--config.model.block_out_channels=(8,16)"]
    missing = tmp_path / "nowhere"
    assert str(missing) in fails(capsys, *common, f"--config.data.manual_dir={missing}")
    manual = tmp_path / "manual"
    manual.mkdir()
    for name in ("train-images-idx3", "t10k-images-idx3", "train-labels-idx1", "t10k-labels-idx1"):
        (manual / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c half")
    line = fails(capsys, *common, f"--config.data.manual_dir={manual}")
    assert "-ubyte" in line
    assert not (tmp_path / "w").exists()


def test_another_network_or_config_leaves_the_run_as_it_was(capsys, finished_run, config_file):
    before = {p: p.read_bytes() for p in finished_run.rglob("*.json")}
    common = [f"--config={config_file}", f"--workdir={finished_run}"]
    line = fails(capsys, "train", *common, "--config.train.steps=15")
    assert "train.steps = 12, the config now says 15" in line
    line = fails(capsys, "replay", *common, "--config.replay.images=130")
    assert "replay.images = 120" in line
    line = fails(capsys, "sample", *common, "--config.model.layers_per_block=2", "--overwrite")
    assert "model.layers_per_block = 1, the config now says 2" in line
    assert {p: p.read_bytes() for p in finished_run.rglob("*.json")} == before


def test_check_refuses_what_it_does_not_know(capsys):
    assert "--precision=float16: must be of float32" in fails(
        capsys, "check", "--precision=float32,float16"
    )
    assert "unexpected argument" in fails(capsys, "check", "unet")


def test_convert_without_its_arguments(capsys, tmp_path):
    assert "FILE is missing" in fails(capsys, "convert")
    line = fails(capsys, "convert", tmp_path / "x.bin", tmp_path / "x.safetensors")
    assert "no such file" in line
