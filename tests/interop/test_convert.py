"""Checkpoints of PyTorch become safetensors files; nothing in them is run."""

import os
import sys

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
    for content in (b"", b"hello world", whole[: len(whole) // 2], whole[:-1]):
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


def test_without_pytorch_it_says_what_to_install(tmp_path, new, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"anything")
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
    (tmp_path / "x.pth").write_bytes(b"anything")
    refused(tmp_path / "x.pth", tmp_path / "new.bin", r"must end in \.safetensors")
