"""Folders of Stable Diffusion, written. What reading refuses is tested with `vdu generate`."""

import json

import jax
import numpy as np
import pytest
import text_to_image

from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline, stable_diffusion, tensors, tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return text_to_image.write_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def model(source):
    return pipeline.read(source)


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def retype(directory, dtype):
    """All tensors in another type, in the files of a variant."""
    for name, part in stable_diffusion.PARTS.items():
        path = directory / name / part.weights
        stored = tensors.read(path)
        variant = path.with_name(path.name.replace(".safetensors", ".fp16.safetensors"))
        changed = {key: tensor.astype(dtype) for key, tensor in stored.tensors.items()}
        tensors.write(variant, changed, stored.metadata)
        path.unlink()


@pytest.mark.parametrize("half", [False, True])
def test_what_was_read_is_written_byte_by_byte(tmp_path, source, half):
    if half:
        source = text_to_image.write_folder(tmp_path / "half")
        retype(source, np.float16)
    pipeline.write(tmp_path / "copy", source, pipeline.read(source).params)
    assert contents(tmp_path / "copy") == contents(source)


def test_another_network_is_written_into_a_copy(tmp_path, source, model):
    changed = jax.tree.map(lambda p: p + 1, model.params["unet"])
    pipeline.write(tmp_path / "new", source, {"unet": changed})
    found = pipeline.read(tmp_path / "new")
    jax.tree.map(np.testing.assert_array_equal, found.params["unet"], changed)
    here, there = contents(tmp_path / "new"), contents(source)
    assert {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)} == {
        "unet/diffusion_pytorch_model.safetensors"
    }


def test_no_weights_of_the_source_lie_beside_new_ones(tmp_path, model):
    """A reader who asks for a variant, or a single file, would get the model before unlearning."""
    source = text_to_image.write_folder(tmp_path / "source")
    weights = "diffusion_pytorch_model"
    left_out = [
        f"unet/{weights}.fp16.safetensors",
        f"unet/{weights}.safetensors.index.fp16.json",
        f"unet/{weights}.bin",
        "unet/diffusion_flax_model.msgpack",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "unet_ema",
        ".git",
    ]
    for name in left_out:
        path = source / name
        if path.suffix or path.name.count("."):
            path = path / "pack" if path.name == ".git" else path
        else:
            path = path / f"{weights}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"the source's")
    (source / "vae" / f"{weights}.fp16.safetensors").write_bytes(b"of another network")
    (source / "README.md").write_text("kept")
    found = pipeline.write(tmp_path / "new", source, {"unet": model.params["unet"]})
    assert found == sorted(left_out)
    assert b"the source's" not in contents(tmp_path / "new").values()
    assert {"README.md", f"vae/{weights}.fp16.safetensors"} < contents(tmp_path / "new").keys()
    pipeline.read(tmp_path / "new")


def test_shards_of_a_network(tmp_path, model, split_weights):
    source = text_to_image.write_folder(tmp_path / "source")
    split_weights(source / "unet")
    found = pipeline.read(source)
    jax.tree.map(np.testing.assert_array_equal, found.params["unet"], model.params["unet"])
    assert pipeline.write(tmp_path / "copy", source, found.params) == []
    assert contents(tmp_path / "copy") == contents(source)


@pytest.mark.parametrize("value", ["big", [1], -1, float("inf"), True])
def test_a_scaling_factor_is_a_number(tmp_path, edit_json, value):
    source = text_to_image.write_folder(tmp_path / "source")
    edit_json(source / "vae" / "config.json", scaling_factor=value)
    with pytest.raises(UserError, match=r"vae/config\.json: scaling_factor = .*a number > 0"):
        pipeline.read(source)


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path, source, model):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        pipeline.write(tmp_path / "there", source, {})
    with pytest.raises(UserError, match="no such folder"):
        pipeline.write(tmp_path / "new", tmp_path / "there", {"unet": model.params["unet"]})
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_new_folder_is_read_as_it_was_made(tmp_path, source, model):
    configs = {
        name: json.loads((source / name / "config.json").read_text())
        for name in stable_diffusion.PARTS
    }
    scheduler = {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.01}
    configs["vae"]["scaling_factor"] = 0.5
    new = tmp_path / "new"
    vocabulary = tokenizer.learn(["a red bag"])
    configs["text_encoder"]["vocab_size"] = len(vocabulary.tokens)
    shape = (len(vocabulary.tokens), configs["text_encoder"]["hidden_size"])
    text = model.params["text_encoder"] | {"token_embedding": {"embedding": np.ones(shape, "f")}}
    params = model.params | {"text_encoder": text}
    pipeline.create(new, configs | {"scheduler": scheduler}, params, vocabulary)
    found = pipeline.read(new)
    assert found.modules["unet"] == model.modules["unet"] and found.scaling == 0.5
    assert found.diffusion["beta_end"] == 0.01 and found.diffusion["prediction"] == "epsilon"
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert len(set(found.tokenize(["a red bag"])[0])) == 5
