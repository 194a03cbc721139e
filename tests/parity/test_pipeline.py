"""Whole folders through PyTorch: diffusers makes them, loads ours, and draws the same images."""

import re

import exported_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
from diffusers import DDPMPipeline, DDPMScheduler, EMAModel, UNet2DModel

from vdu_jax import cli, tasks
from vdu_jax.diffusion import samplers
from vdu_jax.interop import folder, inception, unet2d

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A pipeline that diffusers made and saved, with its moving average."""
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
    )
    average = EMAModel(network.parameters(), model_cls=UNet2DModel, model_config=network.config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    scheduler = DDPMScheduler(variance_type="fixed_large", beta_schedule="squaredcos_cap_v2")
    path = tmp_path_factory.mktemp("source") / "pipeline"
    DDPMPipeline(network, scheduler).save_pretrained(path)
    average.save_pretrained(path / "unet_ema")
    return path


@pytest.fixture(scope="module")
def round_trip(source, tmp_path_factory):
    root = tmp_path_factory.mktemp("trip")
    assert cli.main(["import", str(source), f"--workdir={root / 'w'}"]) == 0
    assert cli.main(["export", str(root / "out"), f"--workdir={root / 'w'}"]) == 0
    return root / "out"


def test_the_round_trip_changes_no_byte_of_what_it_read(source, round_trip):
    read = [p.relative_to(round_trip) for p in round_trip.rglob("*") if p.is_file()]
    assert len(read) == 4
    for name in read:
        assert (round_trip / name).read_bytes() == (source / name).read_bytes(), name


def test_the_moving_average_of_diffusers_is_read(source, tmp_path):
    assert cli.main(["import", str(source), f"--workdir={tmp_path}", "--weights=ema"]) == 0
    stored = UNet2DModel.from_pretrained(source / "unet_ema").state_dict()
    found = folder.read(source, "ema").tensors
    assert found.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def ours(path):
    """(predictor of ε, parameters, schedule, image shape) of an exported folder."""
    from vdu_jax.stages import importing

    model = folder.read(path)
    config = importing.settings_of(model, path)
    task = tasks.of(config, image_shape=model.image_shape)
    params = unet2d.to_params(model.tensors, task.abstract_params, path)
    predicts = task.parameterization
    return predicts.noise_predictor(task.score_fn), params, predicts.schedule, model.image_shape


def test_ddpm_pipeline_draws_images(round_trip):
    pipeline = DDPMPipeline.from_pretrained(round_trip)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, num_inference_steps=20, generator=torch.manual_seed(1), output_type="np"
    ).images
    assert images.shape == (2, 16, 16, 3)
    assert images.std() > 0.05


def test_the_same_noise_gives_the_same_image_after_50_ddim_steps(round_trip):
    score_fn, params, schedule, shape = ours(round_trip)
    start = np.random.RandomState(0).randn(4, *shape).astype(np.float32)
    plan = samplers.make_plan(schedule, "ddim", 50, spacing="trailing")
    mine = jax.jit(lambda p, x: samplers.integrate(score_fn, p, plan, x))(
        params, jnp.asarray(start)
    )
    theirs = exported_run.ddim(round_trip, start, 50)
    assert theirs.std() > 0.1
    assert np.abs(np.asarray(mine) - theirs).max() <= 1e-3


def test_an_unlearned_model_is_loaded_by_pytorch(unet_run, unet_file, tmp_path):
    out = tmp_path / "plain"
    argv = [f"--config={unet_file}", f"--workdir={unet_run}", "--model=plain"]
    assert cli.main(["export", str(out), *argv]) == 0
    score_fn, params, _, shape = ours(out)
    x = np.random.RandomState(0).randn(3, *shape).astype(np.float32)
    t = np.array([0, 7, 49])
    network = DDPMPipeline.from_pretrained(out).unet
    with torch.no_grad():
        theirs = network(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(t)).sample
    mine = score_fn(params, x, t)
    assert np.abs(np.asarray(mine) - theirs.permute(0, 2, 3, 1).numpy()).max() <= 2e-5


def test_a_pickled_model_is_imported_once_it_is_converted_as_the_refusal_says(
    source, tmp_path, capsys
):
    pickled = tmp_path / "pickled"
    UNet2DModel.from_pretrained(source / "unet").save_pretrained(pickled, safe_serialization=False)
    argv = ["import", str(pickled), f"--workdir={tmp_path / 'w'}"]
    assert cli.main(argv) == 2
    (command,) = re.findall(r"`vdu (convert [^`]+)`", capsys.readouterr().err)
    assert cli.main(command.split()) == 0
    assert cli.main(argv) == 0
    converted = folder.read(pickled).tensors
    for name, tensor in folder.read(source).tensors.items():
        np.testing.assert_array_equal(converted[name], tensor)


def test_a_file_like_pytorch_fids_is_converted_and_loaded(tmp_path):
    """Its weights, its unused last layer and its counts, with random numbers."""
    state = reference.inception_state()
    torch.save(state, tmp_path / "inception.pth")
    path = tmp_path / "inception.safetensors"
    assert cli.main(["convert", str(tmp_path / "inception.pth"), str(path)]) == 0
    params = inception.load(path)
    loaded = inception.tensors_from_params(params)
    assert len(loaded) == 470 and "fc.weight" in state
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, state[name].numpy())
