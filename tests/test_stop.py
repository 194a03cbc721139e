"""Signals and locks through the command line, in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vdu_jax import cli
from vdu_jax.runtime import artifacts

COMMANDS = ("run", *cli.STAGES, "benchmark", "plan", "export")  # that take a config
WRITERS = ("run", *cli.STAGES, "import")


# Signals have their default handlers, wherever the tests are started from.
START = """
import os, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "vdu_jax", *sys.argv[1:]])
"""


def start(*argv):
    """A `vdu` process."""
    command, pipe = [sys.executable, "-c", START, *map(str, argv)], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_while_the_config_is_read_is_no_mistake_of_the_config(tmp_path, command, name):
    config = tmp_path / "config.py"
    config.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    where = {"plan": [], "export": [tmp_path / "model"]}.get(command, [])
    where += [f"--workdir={tmp_path / 'w'}"] if command != "plan" else []
    process = start(command, *where, f"--config={config}")
    out, err = process.communicate()
    assert (process.returncode, out) == (128 + getattr(signal, name), "")
    assert err == f"vdu: stopped by {name}; the same command continues\n"
    assert not (tmp_path / "w").exists()


def test_a_fit_saves_its_state_first_and_the_same_command_continues(
    config_file, tmp_path, finished_run
):
    flags = ["train", f"--config={config_file}", f"--workdir={tmp_path}"]
    process = start(*flags)
    while not (tmp_path / "train" / "state" / "00000004").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    lines = [line for line in err.splitlines() if line.startswith("vdu:")]
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in err
    (line,) = lines
    assert line.endswith("; the same command continues")
    assert not (tmp_path / ".lock").exists()
    assert cli.main(flags) == 0
    metrics = "train/metrics.jsonl"
    assert (tmp_path / metrics).read_bytes() == (finished_run / metrics).read_bytes()


@pytest.mark.parametrize("command", WRITERS)
def test_a_workdir_in_use_is_refused(config_file, tmp_path, capsys, command, model_folder):
    argv = [command, *([model_folder] if command == "import" else [f"--config={config_file}"])]
    (tmp_path / "file").write_text("mine")
    with artifacts.claim(tmp_path):
        assert cli.main([*map(str, argv), f"--workdir={tmp_path}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"vdu: error: {tmp_path} is in use by process {os.getpid()} on ")
        assert sorted(os.listdir(tmp_path)) == [".lock", "file"]


@pytest.fixture(scope="module")
def model_folder(unet_run, unet_file, tmp_path_factory):
    """A diffusers folder; it is made while another process works in the workdir."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    with artifacts.claim(unet_run):
        flags = [f"--config={unet_file}", f"--workdir={unet_run}"]
        assert cli.main(["export", str(folder), *flags]) == 0
    return folder


def test_what_reads_only_is_not_kept_waiting(model_folder, config_file, finished_run, capsys):
    with artifacts.claim(finished_run):
        assert cli.main(["plan", f"--config={config_file}"]) == 0
    assert (model_folder / "model_index.json").exists()
