"""What `vdu plan` says of text-to-image models."""

import json

import pytest
import text_to_image

from vdu_jax import cli, text_config
from vdu_jax.interop import stable_diffusion
from vdu_jax.stages.text_to_image import plan


def test_a_method_holds_the_network_once_and_its_own_part_as_often_as_it_needs(
    text_settings, tmp_path
):
    """Of a folder without weights."""
    folder = text_to_image.write_folder(tmp_path)
    for part in stable_diffusion.PARTS.values():
        for path in folder.rglob(part.weights):
            path.unlink()
    config = text_settings
    config.unlock()
    config.model.folder = str(folder)
    config.posterior.folders = ("older",)
    config.methods = {
        "vdu": text_config.method("vdu", "cross_attention"),
        "small": text_config.method("vdu", "cross_attention", rank=1),
        "esd": text_config.method("esd"),
    }
    found = plan.make(config, 1)
    size, stages = 4 * found["parameters"], found["stages"]
    assert set(stages) == {"unlearn/vdu", "unlearn/small", "unlearn/esd", "sample"}
    rows = stages["unlearn/vdu"]
    part = rows["parameters"]
    assert 0 < part < size / 4
    assert rows["optimiser"] == pytest.approx(2 * part, abs=16) and rows["gradients"] == part
    # Mean and variance of the part, and the rest.
    assert rows["objective"] == pytest.approx(2 * part + size - part, abs=16)
    rows = stages["unlearn/small"]
    assert rows["parameters"] < part / 2
    assert rows["objective"] == pytest.approx(2 * part + part + size - part, abs=16)
    rows = stages["unlearn/esd"]
    assert rows["parameters"] == rows["objective"] == size  # itself and the original
    assert stages["sample"]["parameters"] > size


def test_a_model_of_ones_own_is_planned_before_it_is_trained(text_config_file, capsys):
    arguments = ["plan", f"--config={text_config_file}", "--json", "--config.methods={}"]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["stages"]) == {"train", "sample"}
    rows = found["stages"]["train"]
    assert rows["average"] == rows["parameters"] == 4 * found["parameters"]
