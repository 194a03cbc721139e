"""Checkpoints of PyTorch become safetensors files; nothing in them is run."""

import io
import json
import os
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from vdu_jax.errors import UserError
from vdu_jax.interop import tensors
from vdu_jax.interop.convert import convert


@pytest.fixture
def torch():
    """For the tests marked with its name, which `make test-parity` runs."""
    import torch as module

    return module


@pytest.fixture
def new(tmp_path):
    return tmp_path / "new.safetensors"


def refused(source, destination, match):
    """Asserts that a conversion is refused and leaves nothing behind."""
    with pytest.raises(UserError, match=match):
        convert(source, destination)
    assert [p.name for p in destination.parent.iterdir() if "new" in p.name] == []


@pytest.mark.torch
@pytest.mark.parametrize("nested", [False, True])
def test_tensors_keep_names_types_and_values(torch, tmp_path, new, nested):
    state = {
        "w": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "half": torch.tensor([1.5, -2]).bfloat16(),
        "count": torch.tensor(7),
        "whole": torch.arange(4.0),
    }
    state |= {"tied": state["whole"], "part": state["whole"][1:3]}
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", new)
    stored = load_file(new)
    assert stored.keys() == state.keys() and stored["count"] == 7
    np.testing.assert_array_equal(stored["w"], np.arange(6).reshape(2, 3).T)
    assert stored["tied"].tolist() == [0, 1, 2, 3] and stored["part"].tolist() == [1, 2]
    assert stored["half"].astype(float).tolist() == [1.5, -2]
    with safe_open(new, "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert [p.name for p in tmp_path.iterdir() if p.name != "x.pth"] == [new.name]


@pytest.mark.torch
def test_parameters_of_a_module_are_read_by_the_rest_of_the_library(torch, tmp_path, new):
    layer = torch.nn.Linear(2, 3)
    torch.save(layer.state_dict(), tmp_path / "x.pth")
    convert(str(tmp_path / "x.pth"), str(new))
    stored = tensors.read(new).tensors
    np.testing.assert_array_equal(stored["weight"], layer.weight.detach().numpy())
    assert stored["bias"].dtype == np.float32


@pytest.mark.torch
def test_a_file_that_would_run_code_is_refused_and_runs_none(torch, tmp_path, new):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"w": torch.zeros(2), "trap": Trap()}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", new, r"x\.pth holds more than tensors and could run code")
    assert not (tmp_path / "sprung").exists()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", new, "could run code")


@pytest.mark.torch
def test_damaged_files_are_refused(torch, tmp_path, new):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.zeros(2)}, path)
    whole = path.read_bytes()
    for content in (b"hello world", b"\x80\x02<html>", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        refused(path, new, r"x\.pth is damaged or no PyTorch checkpoint")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"w": 3}, "entry 'w' is no named tensor but int"),
        ({"state_dict": {"a": "text"}}, "entry 'a' is no named tensor but str"),
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(torch, tmp_path, new, content, said):
    torch.save(content, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", new, said)


@pytest.mark.torch
def test_names_must_be_text(torch, tmp_path, new):
    torch.save({1: torch.zeros(2)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", new, "entry 1 ")


@pytest.mark.torch
def test_shards_become_one_file(torch, tmp_path, new):
    for file, names in SHARDS.items():
        torch.save({name: torch.full((2,), ord(name)) for name in names}, tmp_path / file)
    convert(write_index(tmp_path), new)
    assert {name: value[0] for name, value in load_file(new).items()} == {
        name: ord(name) for name in "abcd"
    }


SHARDS = {
    f"pytorch_model-0000{i}-of-00003.bin": names for i, names in enumerate(("ab", "c", "d"), 1)
}


def write_index(folder, name="pytorch_model.bin.index.json", **more):
    mapping = {tensor: file for file, names in SHARDS.items() for tensor in names} | more
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    return path


class FakeTensor:
    """What `convert` asks of a tensor."""

    def __init__(self, value):
        self.value = value

    def detach(self):
        return self

    clone = contiguous = detach


@pytest.fixture
def fake_torch(monkeypatch):
    """`load` reads what was put into `files`, as PyTorch is not among the packages of `make test`.
    What it says of real files is tested above."""
    module = types.ModuleType("torch")
    module.files, module.Tensor, module.saved = {}, FakeTensor, {}
    module.load = lambda path, **how: module.files[path.name]
    saver = types.ModuleType("safetensors.torch")

    def save(tensors, path, metadata):
        path.write_bytes(b"x")
        module.saved |= {name: tensor.value for name, tensor in tensors.items()}

    saver.save_file = save
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "safetensors.torch", saver)
    return module


def fill(folder, fake, **changes):
    for file, names in SHARDS.items():
        (folder / file).write_bytes(b"\x80\x02")
        fake.files[file] = {name: FakeTensor(ord(name)) for name in changes.get(names, names)}


def test_all_shards_of_an_index_are_merged(tmp_path, new, fake_torch, capsys):
    fill(tmp_path, fake_torch)
    index = write_index(tmp_path)
    convert(index, new)
    assert fake_torch.saved == {name: ord(name) for name in "abcd"} and new.exists()
    assert f"4 tensors of 3 shards of {index}" in capsys.readouterr().out


def test_shards_that_do_not_hold_what_the_index_says(tmp_path, new, fake_torch):
    fill(tmp_path, fake_torch, c="")
    fake_torch.files["pytorch_model-00002-of-00003.bin"] = {"x": FakeTensor(0)}
    refused(write_index(tmp_path), new, r"00002-of-00003\.bin lacks the tensor c")
    fill(tmp_path, fake_torch, c="cx")
    refused(write_index(tmp_path), new, r"00002-of-00003\.bin holds the tensor x")
    fill(tmp_path, fake_torch)
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    refused(write_index(tmp_path), new, r"00002-of-00003\.bin is missing, shard 2 of 3")
    fill(tmp_path, fake_torch)
    (tmp_path / "pytorch_model-00003-of-00003.bin").write_text("version https://git-lfs")
    refused(write_index(tmp_path), new, r"00003-of-00003\.bin is a Git LFS pointer")


@pytest.mark.parametrize("index", ["pytorch_model.bin.index.json", "x.bin.index.fp16.json", None])
def test_one_shard_alone_is_refused(tmp_path, new, fake_torch, index):
    fill(tmp_path, fake_torch)
    said = "one of 3 shards.*pytorch_model.bin.index.json"
    if index:
        said = f"only some of the tensors.*`vdu convert {write_index(tmp_path, index)} {new}`"
    refused(tmp_path / "pytorch_model-00001-of-00003.bin", new, said)
    assert not fake_torch.saved


def test_a_shard_without_a_number_is_known_by_its_index(tmp_path, new, fake_torch):
    for file in ("first.bin", "second.bin"):
        (tmp_path / file).write_bytes(b"\x80\x02")
    path = tmp_path / "x.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "first.bin", "b": "second.bin"}}))
    refused(tmp_path / "second.bin", new, f"vdu convert {path}")


def test_a_single_shard_is_whole(tmp_path, new, fake_torch):
    file = tmp_path / "pytorch_model-00001-of-00001.bin"
    file.write_bytes(b"\x80\x02")
    fake_torch.files[file.name] = {"a": FakeTensor(1)}
    convert(file, new)
    assert fake_torch.saved == {"a": 1}


def test_what_is_left_out_is_said(tmp_path, new, fake_torch, capsys):
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02")
    whole = {"state_dict": {"w": FakeTensor(1)}, "optimizer": {}, "epoch": 3}
    fake_torch.files["x.ckpt"] = whole
    convert(tmp_path / "x.ckpt", new)
    out = capsys.readouterr().out
    assert "1 tensors of" in out and "not in the state dict: epoch, optimizer" in out


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is an empty file, .*: get the file again"),
        (LFS, "is a Git LFS pointer.*`git lfs pull`"),
        (b"<!doctype html>\n<html></html>", "is an HTML page.*/resolve/"),
        (b'{"a": 1}', "is a JSON file.*name the file with the weights"),
        (b"[1, 2]", "is a JSON file"),
        (b"\xef\xbb\xbf" + b" <HTML>", "is an HTML page"),
        (struct.pack("<Q", 2) + b"{}", "is a safetensors file.*it needs no conversion"),
        (b"GGUF\x03" + bytes(50), "is a GGUF file"),
        (b"\x1f\x8b\x08" + bytes(50), "is a gzip archive.*unpack it"),
        (bytes(257) + b"ustar" + bytes(300), "is a tar archive.*unpack it"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"\x93NUMPY" + bytes(9), "is a NumPy array"),
        (zipped("a.npy", "b.npy"), "is a NumPy archive"),
        (zipped("x/data.pkl", "x/code/a.py"), "is a TorchScript program.*state_dict"),
        (zipped("readme.txt"), "is a zip archive.*unpack it"),
        (zipped("x/data.pkl")[:-3], "is damaged or no PyTorch checkpoint"),
        (b"hello world", "is damaged or no PyTorch checkpoint"),
        (b"{ not json", "is damaged or no PyTorch checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, new, monkeypatch, content, said):
    """Before PyTorch is asked for, and never as one that runs code."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.bin").write_bytes(content)
    refused(tmp_path / "x.bin", new, rf"x\.bin {said}")


def test_indices_that_name_no_checkpoints(tmp_path, new):
    index = tmp_path / "x.safetensors.index.json"
    index.write_text("{}")
    refused(index, new, "has no weight_map")
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    refused(index, new, "is a safetensors file.*it needs no conversion")


def test_without_pytorch_it_says_what_to_install(tmp_path, new, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"\x80\x02")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(tmp_path / "x.pth", new, r"pip install 'vdu-jax\[torch\]'")


def test_nothing_is_overwritten(tmp_path, new):
    (tmp_path / "x.pth").write_bytes(b"anything")
    new.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        convert(tmp_path / "x.pth", new)
    assert new.read_text() == "mine"


def test_paths_that_cannot_be_meant(tmp_path, new):
    refused(tmp_path / "x.pth", new, r"x\.pth: no such file")
    refused(tmp_path, tmp_path / "new", "is a folder: name the checkpoint")
    (tmp_path / "x.pth").write_bytes(b"anything")
    refused(tmp_path / "x.pth", tmp_path / "new.bin", r"must end in \.safetensors")
