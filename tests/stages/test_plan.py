"""What `vdu plan` says, against what a process really takes and what arrays really hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vdu_jax import cli
from vdu_jax import config as vdu_config
from vdu_jax.errors import UserError
from vdu_jax.stages import plan

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "configs" / "digits.py"


def test_the_plan_for_digits_is_what_training_takes():
    command = [sys.executable, str(ROOT / "benchmarks" / "training_peak.py"), str(DIGITS)]
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    planned, taken = map(int, done.stdout.split())
    assert planned == pytest.approx(taken, rel=0.15)


def test_methods_are_planned_with_what_they_keep(config):
    method = vdu_config.method
    config.methods = {
        "vdu": method("vdu", optimizer="natural"),
        "esd": method("esd", teacher_steps=2),
        "demixing": method("demixing", reference_images=64),
    }
    whole = plan.make(config, 1)
    size = 4 * whole["parameters"]
    found = whole["stages"]
    assert set(found) == {"train", "unlearn/vdu", "unlearn/esd", "unlearn/demixing", "sample"}
    for name, copies in (("vdu", 2), ("esd", 2)):  # mean and variance; two teachers
        assert found[f"unlearn/{name}"]["objective"] == pytest.approx(copies * size, abs=16)
    assert found["unlearn/demixing"]["objective"] >= 3 * size + 2 * 64 * 8 * 8 * 4
    assert found["train"]["optimiser"] == pytest.approx(2 * size, abs=32)
    assert found["train"]["average"] == size and found["unlearn/vdu"]["average"] == 0
    assert found["unlearn/vdu"]["optimiser"] == pytest.approx(size, abs=32)  # the variance
    for rows in found.values():
        assert rows["total"] == sum(v for k, v in rows.items() if k != "total")


def test_a_transformer_is_planned_as_any_network(capsys):
    path = ROOT / "configs" / "digits_dit.py"
    assert cli.main(["plan", f"--config={path}", "--config.model.depth=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # A block, then patches, time, and the last layer, of weights and biases; 64 numbers a token.
    block = 18 * 64**2 + 15 * 64
    others = (4 + 1) * 64 + (256 + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 128 + (64 + 1) * 4
    assert found["parameters"] == block + others
    assert set(found["stages"]) == {"train", "unlearn/extended", "unlearn/plain", "sample"}
    assert found["stages"]["train"]["optimiser"] == pytest.approx(8 * found["parameters"], abs=32)
    assert all(stage["activations"] > 0 for stage in found["stages"].values())


def test_more_devices_hold_less_each(config):
    config.methods = {}
    one = plan.make(config, 1)["stages"]["train"]
    config.parallel.fsdp = 4
    four = plan.make(config, 4)["stages"]["train"]
    for what in ("parameters", "average", "optimiser", "gradients"):
        assert one[what] / 4 <= four[what] <= one[what] * (1 / 4 + 0.05)
    assert four["activations"] < one["activations"]
    with pytest.raises(UserError, match=r"--devices=6: must be a multiple of .*fsdp = 4"):
        plan.make(config, 6)


def test_whether_it_fits_is_the_exit_code(config_file, capsys):
    arguments = ["plan", f"--config={config_file}", "--config.methods={}"]
    assert cli.main([*arguments, "--memory=0.001"]) == 1
    assert "does not fit 0.001 GiB: train, sample" in capsys.readouterr().out
    assert cli.main([*arguments, "--memory=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["memory_gib"] == 1 and found["devices"] == 1
    assert cli.main([*arguments, "--devices=0"]) == 2
