"""A full and a read-only disk, on small file systems of the tests' own."""

import json
import os
import shutil
import subprocess

import archives
import numpy as np
import pytest

from vdu_jax import cli, data
from vdu_jax.errors import UserError

MIB = 2**20


@pytest.fixture
def disk(tmp_path):
    """A folder with 3 MiB of room, and `change(option)` of how it is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("file systems cannot be mounted here")

    def change(option):
        subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)

    yield folder, change
    subprocess.run(["umount", str(folder)], check=True)


def one_line(capsys):
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "vdu:" in text)
    return line


def test_a_full_disk_ends_training_with_what_was_saved_whole(config_file, disk, capsys):
    folder, change = disk
    train = ["train", f"--config={config_file}", "--config.train.snapshots=12"]
    train += ["--config.train.snapshot_every=1", "--config.train.save_state_every=1"]
    assert cli.main([*train, f"--workdir={folder / 'work'}"]) == 2
    line = one_line(capsys)
    assert "no disk space for a checkpoint of" in line or "No space left on device" in line
    assert "free some; the same command continues" in line and "Traceback" not in line
    saved = list((folder / "work" / "train").glob("*/[0-9]*.sums.json"))
    assert saved and shutil.disk_usage(folder).free < 2 * MIB
    change("size=50m")
    assert cli.main([*train, f"--workdir={folder / 'work'}"]) == 0
    lines = (folder / "work" / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))  # each once


def test_a_full_data_dir_is_one_line_and_holds_nothing_half_prepared(disk, tmp_path):
    """Wherever it happens to be full: in the images, or in what describes them."""
    folder, change = disk
    truth = archives.write_idx_set(tmp_path / "manual", n_train=300)["train"]
    refused = 0
    for size in (16, 64, 280, 340, 400, 3072):
        change(f"size={size}k")
        try:
            dataset = data.load("mnist", folder / "data", tmp_path / "manual")
        except UserError as error:
            said = f"cannot prepare mnist in data_dir={folder / 'data'} (No space left on device"
            assert str(error).startswith(said) and "set data.dir to a folder" in str(error)
            refused += 1
        else:
            images, labels = data.open_split(dataset, "train").read()
            np.testing.assert_array_equal(images[..., 0], truth[0])
            np.testing.assert_array_equal(labels, truth[1])
    assert 1 <= refused <= 5


def test_a_read_only_workdir_is_one_line(config_file, disk, capsys, finished_run):
    folder, change = disk
    change("size=50m")
    shutil.copytree(finished_run / "train", folder / "train")
    change("ro")
    flags = [f"--config={config_file}", f"--workdir={folder}"]
    assert cli.main(["train", *flags]) == 0  # what is done needs nothing written
    assert "train: done already" in one_line(capsys)
    assert cli.main(["posterior", *flags]) == 2
    assert "Read-only file system" in one_line(capsys)
