"""What `vdu plan` says of text-to-image models."""

import json

import jax
import pytest
import text_to_image

from vdu_jax import cli, tasks
from vdu_jax import config as vdu_config
from vdu_jax.interop import pipeline, stable_diffusion
from vdu_jax.stages import plan


def test_a_method_holds_the_network_once_and_its_own_part_as_often_as_it_needs(text_settings):
    config = text_settings
    config.unlock()
    config.methods = {
        "vdu": vdu_config.method("vdu", "cross_attention"),
        "small": vdu_config.method("vdu", "cross_attention", rank=1),
    }
    task = tasks.planned(config)
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(task.param_shapes))
    rows = plan.of_method(task, 1, "vdu")
    part = rows["parameters"]
    assert 0 < part < size / 4
    assert rows["optimiser"] == pytest.approx(2 * part, abs=16) and rows["gradients"] == part
    # Mean and variance of the part, and the rest.
    assert rows["objective"] == pytest.approx(2 * part + size - part, abs=16)
    rows = plan.of_method(task, 1, "small")
    assert rows["parameters"] < part / 2
    assert rows["objective"] == pytest.approx(2 * part + part + size - part, abs=16)


def test_a_model_of_ones_own_is_planned_before_it_is_trained(text_config_file, capsys):
    arguments = ["plan", f"--config={text_config_file}", "--json", "--config.methods={}"]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["stages"]) == {"train", "sample"}
    rows = found["stages"]["train"]
    assert rows["average"] == rows["parameters"] == 4 * found["parameters"]
    assert found["stages"]["sample"]["parameters"] > rows["parameters"]  # the autoencoder, too


def test_of_a_folder_its_settings_are_enough(text_settings, tmp_path):
    folder = text_to_image.write_folder(tmp_path)
    expected = pipeline.read(folder)
    for part in stable_diffusion.PARTS.values():
        for path in folder.rglob(part.weights):
            path.unlink()
    text_settings.model.folder = str(folder)
    task = tasks.planned(text_settings)
    model = task.model
    assert model.modules == expected.modules and model.latent_shape == expected.latent_shape
    assert jax.tree.map(lambda s: s.shape, task.param_shapes) == jax.tree.map(
        lambda a: a.shape, expected.params["unet"]
    )
