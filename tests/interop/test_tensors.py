import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vdu_jax.errors import UserError
from vdu_jax.interop import tensors


@pytest.fixture
def values():
    rng = np.random.RandomState(0)
    return {"b": rng.randn(3, 4).astype(np.float32), "a": rng.randn(3, 4).astype(np.float32)}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_there_and_back_bit_by_bit(tmp_path, values, dtype):
    values = {k: v.astype(dtype) for k, v in values.items()}
    tensors.write(tmp_path / "x.safetensors", values, {"format": "pt"})
    stored = tensors.read(tmp_path / "x.safetensors")
    assert stored.metadata == {"format": "pt"}
    assert stored.tensors.keys() == values.keys()
    for name, value in values.items():
        assert stored.tensors[name].dtype == dtype
        assert stored.tensors[name].tobytes() == value.tobytes()


def test_the_bytes_are_those_of_the_format(tmp_path):
    """https://github.com/huggingface/safetensors: 8 bytes of length, a JSON header, the data."""
    tensors.write(tmp_path / "x.safetensors", {"w": np.float32([1, 2])}, {"format": "pt"})
    raw = (tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert header == {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    assert raw[8 + length :] == np.float32([1, 2]).tobytes()


def test_transposed_arrays_are_written_as_they_look(tmp_path, values):
    tensors.write(tmp_path / "x.safetensors", {"t": values["a"].T}, {})
    np.testing.assert_array_equal(
        tensors.read(tmp_path / "x.safetensors").tensors["t"], values["a"].T
    )


def test_every_truncation_and_garbage_is_one_line(tmp_path, values):
    path = tmp_path / "x.safetensors"
    tensors.write(path, values, {"format": "pt"})
    whole = path.read_bytes()
    rng = np.random.RandomState(1)
    broken = [whole[:n] for n in (4, 8, 20, len(whole) - 1)]
    broken += [whole + b"x", b"\xff" * 8 + whole[8:], whole[:8] + b"?" + whole[9:], rng.bytes(99)]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged or no safetensors file"):
            tensors.read(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.arange(3), "type I64"),
        (np.float64([1]), "type F64"),
        (np.float32([1, np.nan]), "not finite"),
        (np.float16([np.inf]), "not finite"),
    ],
)
def test_what_is_no_weight_is_named(tmp_path, value, said):
    save_file({"good": np.float32([1]), "odd": value}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=f"tensor odd .*{said}"):
        tensors.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", tensors.PICKLES)
def test_pickles_are_refused_unopened(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(
        UserError, match=rf"is a pickle.*`vdu convert {path} .*weights\.safetensors"
    ):
        tensors.read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is an empty file: get the file again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "is an HTML page.*download the file itself"),
        (b"\n <html lang='en'>", "is an HTML page"),
        (b'{"error": "not found"}', "is a JSON file"),
        (b"\x80\x02}q\x00.", "is a pickle: use `vdu convert`"),
        (b"PK\x03\x04" + bytes(99), "is a zip archive"),
        (b"GGUF" + bytes(99), "is a GGUF file"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.safetensors {said}|x\.safetensors is .*{said}"):
        tensors.read(path)


@pytest.mark.parametrize("name", ["a.bin.index.json", "a.bin.index.fp16.json"])
def test_a_shard_is_not_converted_alone(tmp_path, name):
    """The command that is proposed takes all of them."""
    shards = [f"a-0000{i}-of-00002.bin" for i in (1, 2)]
    for shard in shards:
        (tmp_path / shard).write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match=r"one of 2 shards.*a\.bin\.index\.json"):
        tensors.refuse_pickle(tmp_path / shards[0])
    (tmp_path / name).write_text(json.dumps({"weight_map": dict(zip("xy", shards, strict=True))}))
    with pytest.raises(UserError, match=rf"`vdu convert {tmp_path / name} .*a\.safetensors`"):
        tensors.refuse_pickle(tmp_path / shards[1])


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        tensors.read(tmp_path / "x.safetensors")
