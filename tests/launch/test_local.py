"""`launch/local.py`: stages run by two processes, through stops, losses and mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vdu_jax import cli

LAUNCH = Path(__file__).parents[2] / "launch" / "local.py"
STEPS = 60


def start(stage, config_file, workdir, *flags, devices=1):
    spread = ["--processes=2", f"--devices={devices}"]
    stage = [sys.executable, "-m", "vdu_jax", stage, f"--config={config_file}"]
    return subprocess.Popen(
        [sys.executable, str(LAUNCH), *spread, "--", *stage, f"--workdir={workdir}", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def end(process, timeout=500):
    """Exit code, standard output and error, without what Gloo says of its connections."""
    out, err = process.communicate(timeout=timeout)
    out, err = ("\n".join(x for x in t.split("\n") if "[Gloo]" not in x) for t in (out, err))
    return process.returncode, out, err


def train(config_file, workdir):
    return start("train", config_file, workdir, f"--config.train.steps={STEPS}")


def train_alone(config_file, workdir):
    """The same in this process."""
    flags = [f"--config={config_file}", f"--workdir={workdir}", f"--config.train.steps={STEPS}"]
    return cli.main(["train", *flags])


def part_of(process):
    """The pids of the two processes, the leader first."""
    while True:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            if parent == process.pid:
                found |= {flag: int(folder.name) for flag in command if b"--process=" in flag}
        if len(found) == 2:
            return [found[b"--process=0"], found[b"--process=1"]]
        time.sleep(0.1)


def losses(workdir):
    lines = (workdir / "train" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert train_alone(config_file, workdir) == 0
    return losses(workdir)


def stop(config_file, workdir, which, number):
    """Two processes until a state is saved that was not there; then a signal to one of them."""

    def saved():
        return {int(state.name) for state in (workdir / "train" / "state").glob("[0-9]" * 8)}

    before = saved()
    process = train(config_file, workdir)
    pids = part_of(process)
    while not saved() - before:
        assert process.poll() is None, end(process)
        time.sleep(0.02)
    os.kill(pids[which], number)
    code, _, err = end(process)
    assert code == 128 + number and "Traceback" not in err
    assert max(saved()) < STEPS, "the signal came too late"
    return err, max(saved())


def test_whatever_stops_one_ends_both_and_what_is_saved_goes_on(config_file, tmp_path, undisturbed):
    """A signal, then the loss of the second and of the first; one process makes the last steps."""
    err, done = stop(config_file, tmp_path, 1, signal.SIGTERM)
    assert err.count("state saved; the same command continues") == 1
    for lost in (1, 0):
        err, after = stop(config_file, tmp_path, lost, signal.SIGKILL)
        assert after > done
        assert f"local.py: process {lost} was ended by SIGKILL" in err
        (line,) = (line for line in err.splitlines() if line.startswith("vdu:"))
        assert "was lost" in line and "start all again: the same command continues" in line
        done = after
    assert train_alone(config_file, tmp_path) == 0
    assert losses(tmp_path) == pytest.approx(undisturbed, rel=1e-5)


ONE_METHOD = """
from tiny import get_config as base

def get_config():
    config = base()
    del config.methods.plain
    config.evaluate.bits_per_dim_images = 0
    return config
"""


def test_all_stages_give_what_one_process_gives(config_file, tmp_path, finished_run):
    config_file = config_file.with_name("one_method.py")
    config_file.write_text(ONE_METHOD)
    shutil.copytree(finished_run / "train", tmp_path / "work" / "train")
    shutil.rmtree(tmp_path / "work" / "train" / "drawn")
    code, out, err = end(start("run", config_file, tmp_path / "work"))
    assert code == 0, err
    found = json.loads((tmp_path / "work" / "evaluate" / "metrics.json").read_text())
    expected = json.loads((finished_run / "evaluate" / "metrics.json").read_text())
    assert found["models"].keys() == {"original", "extended"}
    for model, figures in found["models"].items():
        for key in ("u_fid", "pul", "confidence", "precision"):
            assert figures[key] == pytest.approx(expected["models"][model][key], rel=1e-3), model
    assert json.loads(out.strip().splitlines()[-1]).keys() == found["models"].keys()


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--config.train.batch_size=15", "train.batch_size = 15: does not divide over 2 devices"),
        ("--config.train.steps=0", "config key train.steps = 0: must be > 0"),
    ],
)
def test_a_mistake_is_one_line_for_all(config_file, tmp_path, flag, line):
    code, out, err = end(start("train", config_file, tmp_path, flag))
    assert code == 2 and "vdu" not in out
    (said,) = (text for text in err.splitlines() if text.startswith("vdu:"))
    assert said.startswith("vdu: error: ") and line in said and "Traceback" not in err
    assert not (tmp_path / "train").exists()


def test_tools_run_alone(config_file, tmp_path):
    code, _, err = end(start("benchmark", config_file, tmp_path))
    assert code == 2
    assert "`vdu benchmark` does not take --coordinator: it runs in one process" in err


def test_ctrl_c_in_a_terminal_comes_once(tmp_path):
    """A terminal signals its whole group; a second signal would keep a fit from saving."""
    code = "import os; print(os.getpgrp() == os.getpid())"
    command = [sys.executable, str(LAUNCH), "--processes=2", "--", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("True") == 2
