import json
import shutil

import numpy as np
import pytest

from vdu_jax.errors import UserError
from vdu_jax.interop import folder, unet2d

Q, K = (f"mid_block.attentions.0.to_{x}.weight" for x in "qk")


def test_what_is_written_is_read(pipeline_dir, params):
    model = folder.read(pipeline_dir)
    assert model.image_shape == (8, 8, 1)
    assert model.settings["model"]["block_out_channels"] == (8, 16)
    assert model.settings["diffusion"]["num_steps"] == 1000
    assert set(model.texts) == {
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
    }
    np.testing.assert_array_equal(model.tensors["conv_in.bias"], params["conv_in"]["bias"])


def test_the_index_is_what_diffusers_asks_for(pipeline_dir):
    index = json.loads((pipeline_dir / "model_index.json").read_text())
    assert index.pop("_diffusers_version")
    assert index == {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }


@pytest.mark.parametrize("keep", [("scheduler", "index"), ("scheduler",), ()])
def test_a_flat_folder_and_a_plain_network(pipeline_dir, tmp_path, keep):
    flat = tmp_path / "flat"
    shutil.copytree(pipeline_dir / "unet", flat)
    if "scheduler" in keep:
        shutil.copy(pipeline_dir / "scheduler" / "scheduler_config.json", flat)
    if "index" in keep:
        shutil.copy(pipeline_dir / "model_index.json", flat)
    model, usual = folder.read(flat), folder.read(pipeline_dir)
    assert model.settings["model"] == usual.settings["model"]
    assert model.settings["diffusion"] == (usual.settings["diffusion"] if keep else {})
    assert len(model.texts) == 1 + len(keep)
    folder.write(tmp_path / "again", model)
    assert {p.name: p.read_bytes() for p in flat.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
    }


def test_the_moving_average_beside_the_raw_weights(pipeline_dir, edit_tensors):
    shutil.copytree(pipeline_dir / "unet", pipeline_dir / "unet_ema")
    edit_tensors(
        pipeline_dir / "unet_ema" / folder.WEIGHTS,
        lambda t: t.update({"conv_out.bias": np.float32([7])}),
    )
    assert folder.read(pipeline_dir, "ema").tensors["conv_out.bias"] == 7
    assert folder.read(pipeline_dir).tensors["conv_out.bias"] != 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: shutil.rmtree(d / "unet"), "neither unet/ nor config.json"),
        (lambda d: (d / "unet" / "config.json").unlink(), "config.json cannot be read"),
        (lambda d: (d / "unet" / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda d: (d / "unet" / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda d: (d / "unet" / folder.WEIGHTS).unlink(), "no such file"),
        (
            lambda d: (d / "unet" / folder.WEIGHTS).rename(
                d / "unet" / "diffusion_pytorch_model.bin"
            ),
            "diffusion_pytorch_model.bin is a pickle.*`vdu convert",
        ),
        (
            lambda d: (d / "unet" / folder.WEIGHTS).rename(
                d / "unet" / f"{folder.WEIGHTS}.index.json"
            ),
            "index.json cannot be read as JSON",
        ),
        (lambda d: (d / "unet" / "config.json").write_text("<html>"), "is an HTML page"),
        (
            lambda d: (d / "unet" / "config.json").write_text("version https://git-lfs"),
            "git lfs pull",
        ),
        (lambda d: (d / "unet" / "config.json").write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
        (lambda d: (d / "unet" / "config.json").write_text("[" * 99999), "cannot be read as JSON"),
    ],
)
def test_what_is_missing_or_damaged_is_named(pipeline_dir, change, said):
    change(pipeline_dir)
    with pytest.raises(UserError, match=said):
        folder.read(pipeline_dir)


def test_without_a_scheduler_nothing_is_said_of_the_noise(pipeline_dir):
    model = folder.read(pipeline_dir / "unet")
    assert (model.settings["diffusion"], model.settings["sampler"]) == ({}, {})


def test_another_scheduler_is_noted(pipeline_dir, edit_json):
    where = pipeline_dir / "scheduler" / "scheduler_config.json"
    index = pipeline_dir / "model_index.json"
    edit_json(where, _class_name="PNDMScheduler")
    edit_json(index, scheduler=["diffusers", "PNDMScheduler"])
    (note,) = folder.read(pipeline_dir).notes
    assert str(where) in note and "PNDMScheduler is not one of the samplers here" in note
    edit_json(index, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    with pytest.raises(UserError, match="FlowMatchEulerDiscreteScheduler"):
        folder.read(pipeline_dir)


def test_a_variant_is_read_and_noted(pipeline_dir):
    usual = pipeline_dir / "unet" / folder.WEIGHTS
    variant = usual.with_name("diffusion_pytorch_model.bf16.safetensors")
    usual.rename(variant)
    model = folder.read(pipeline_dir)
    assert model.weights == "unet/diffusion_pytorch_model.bf16.safetensors"
    assert "the variant bf16" in model.notes[0]
    assert folder.read(pipeline_dir, variant="bf16").notes == ()
    shutil.copy(variant, variant.with_name("diffusion_pytorch_model.ema.safetensors"))
    with pytest.raises(UserError, match=r"--variant=bf16\|ema"):
        folder.read(pipeline_dir)


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_are_written_as_they_were_read(pipeline_dir, tmp_path, split_weights, variant):
    split_weights(pipeline_dir / "unet", variant)
    model = folder.read(pipeline_dir)
    assert len(model.shards) == 3
    folder.write(tmp_path / "again", model)
    files = [p.relative_to(pipeline_dir) for p in pipeline_dir.rglob("*") if p.is_file()]
    again = [p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*")]
    assert set(files) == {p for p in again if (tmp_path / "again" / p).is_file()}
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (pipeline_dir / file).read_bytes()


def test_no_folder_and_no_average(pipeline_dir, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        folder.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="no folder unet_ema"):
        folder.read(pipeline_dir, "ema")


def test_nothing_of_the_users_is_overwritten(pipeline_dir, tmp_path):
    model = folder.read(pipeline_dir)
    with pytest.raises(UserError, match="exists already"):
        folder.write(pipeline_dir, model)
    folder.write(pipeline_dir, model._replace(texts={}), overwrite=True)
    assert not (pipeline_dir / "model_index.json").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no exported model"):
        folder.write(mine, model, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failed_write_leaves_nothing(pipeline_dir, tmp_path, monkeypatch):
    model = folder.read(pipeline_dir)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.tensors, "write", full)
    with pytest.raises(OSError, match="No space"):
        folder.write(tmp_path / "new", model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pipeline"]


@pytest.mark.parametrize(
    "change",
    [
        # Two tensors of one shape exchanged; one permuted without a change of shape; one number.
        lambda t: t.update({Q: t[K], K: t[Q]}),
        lambda t: t.update({Q: t[Q].T}),
        lambda t: t[Q].__setitem__((0, 0), t[Q][0, 0] + 1e-6),
    ],
)
def test_checksums_find_what_shapes_do_not(tmp_path, edit_tensors, settings, params, change):
    model = folder.pipeline(settings, (8, 8, 1), unet2d.to_tensors(params), {"run": "mine"})
    folder.write(tmp_path / "ours", model)
    assert json.loads(folder.read(tmp_path / "ours").texts[folder.ORIGIN])["run"] == "mine"
    edit_tensors(tmp_path / "ours" / "unet" / folder.WEIGHTS, change)
    with pytest.raises(UserError, match=r"tensor mid_block\.attentions\.0\.to_[qk]\.weight is not"):
        folder.read(tmp_path / "ours")
