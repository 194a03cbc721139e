"""Which files hold a network's tensors: variants, shards, and what is no safetensors."""

import json

import numpy as np
import pytest

from vdu_jax.errors import UserError
from vdu_jax.interop import tensors, weights

NAME = "diffusion_pytorch_model.safetensors"
STEM = "diffusion_pytorch_model"
VALUES = {name: np.float32([i, i + 0.5]) for i, name in enumerate("abcd")}
SHARDS = {
    f"{STEM}-0000{i}-of-00003.safetensors": names for i, names in enumerate(("ab", "c", "d"), 1)
}
# Of a variant: as diffusers writes it today, and as two older versions did.
INDICES = (
    f"{NAME}.index.fp16.json",
    f"{STEM}.fp16.safetensors.index.json",
    f"{NAME}.fp16.index.json",
)


def put(path, names="abcd", metadata=None):
    tensors.write(path, {n: VALUES[n] for n in names}, metadata or {"format": "pt"})


def put_shards(folder, index=f"{NAME}.index.json", variant=""):
    mapping = {}
    for file, names in SHARDS.items():
        file = file.replace(STEM, f"{STEM}.{variant}") if variant else file
        put(folder / file, names)
        mapping |= dict.fromkeys(names, file)
    text = json.dumps({"metadata": {"total_size": 32}, "weight_map": mapping})
    (folder / index).write_text(text)
    return folder / index


def read(folder, variant=""):
    return weights.read(weights.find(folder, NAME, variant))


@pytest.mark.parametrize("variant", ["bf16", "fp16", "fp32", "ema", "non_ema", "anything-else"])
def test_the_only_variant_is_read(tmp_path, variant):
    put(tmp_path / f"{STEM}.{variant}.safetensors")
    found = weights.find(tmp_path, NAME)
    assert (found.variant, found.shards) == (variant, {})
    np.testing.assert_array_equal(weights.read(found).tensors["d"], VALUES["d"])
    assert weights.find(tmp_path, NAME, variant) == found


def test_the_usual_file_comes_before_variants(tmp_path):
    put(tmp_path / NAME, "a")
    put(tmp_path / f"{STEM}.fp16.safetensors", "b")
    put(tmp_path / f"{STEM}.ema.safetensors", "c")
    assert set(read(tmp_path).tensors) == {"a"}
    assert set(read(tmp_path, "fp16").tensors) == {"b"}
    with pytest.raises(UserError, match=r"--variant=bf16: .*: ema, fp16, the usual one"):
        read(tmp_path, "bf16")


def test_of_several_variants_one_is_to_be_chosen(tmp_path):
    put(tmp_path / f"{STEM}.fp16.safetensors", "b")
    put_shards(tmp_path, f"{NAME}.index.bf16.json", "bf16")
    with pytest.raises(UserError, match=r"variants bf16, fp16: .*--variant=bf16\|fp16"):
        read(tmp_path)
    with pytest.raises(UserError, match="variants bf16, fp16: leave only one"):
        weights.find(tmp_path, NAME)
    assert set(read(tmp_path, "fp16").tensors) == {"b"}
    assert set(read(tmp_path, "bf16").tensors) == set("abcd")


def test_shards_are_one(tmp_path):
    put_shards(tmp_path)
    found = read(tmp_path)
    assert {n: list(v) for n, v in found.tensors.items()} == {n: list(v) for n, v in VALUES.items()}
    assert {f: s["tensors"] for f, s in found.shards.items()} == {
        f: list(names) for f, names in SHARDS.items()
    }
    again = tmp_path / "again"
    again.mkdir()
    weights.write(again, f"{NAME}.index.json", found.tensors, found.metadata, found.shards)
    for file in SHARDS:
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes()
    assert len(list(again.iterdir())) == 3


@pytest.mark.parametrize("index", INDICES)
def test_shards_of_a_variant(tmp_path, index):
    put_shards(tmp_path, index, "fp16")
    found = weights.find(tmp_path, NAME)
    assert found.variant == "fp16" and len(found.shards) == 3
    assert set(weights.read(found).tensors) == set("abcd")


def test_tensors_that_are_ignored_may_be_in_any_shard(tmp_path):
    index = put_shards(tmp_path)
    found = weights.read(weights.find(tmp_path, NAME), lambda name: name in "ad")
    assert set(found.tensors) == set("bc")
    assert found.shards[f"{STEM}-00003-of-00003.safetensors"]["tensors"] == []
    assert index.is_file()


def edit_index(folder, change):
    path = folder / f"{NAME}.index.json"
    value = json.loads(path.read_text())
    change(value["weight_map"])
    path.write_text(json.dumps(value))


SECOND = f"{STEM}-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / SECOND).unlink(), rf"{SECOND} is missing, shard 2 of 3 by"),
        (lambda d: (d / SECOND).write_bytes(b""), rf"{SECOND} is an empty file"),
        (lambda d: put(d / SECOND, "d"), rf"{SECOND} lacks the tensor c"),
        (lambda d: put(d / SECOND, "cd"), rf"{SECOND} holds the tensor d, which .*not list there"),
        (lambda d: edit_index(d, lambda m: m.update(x=SECOND)), f"{SECOND} lacks the tensor x"),
        (lambda d: edit_index(d, lambda m: m.pop("a")), "holds the tensor a"),
        (lambda d: edit_index(d, lambda m: m.update(c="../x")), "c lies in '../x'"),
        (lambda d: edit_index(d, lambda m: m.update(c=3)), "c lies in 3"),
        (lambda d: edit_index(d, lambda m: m.clear()), "has no weight_map"),
        (lambda d: (d / f"{NAME}.index.json").write_text("[]"), "has no weight_map"),
        (lambda d: (d / f"{NAME}.index.json").write_text("{"), "cannot be read as JSON"),
        (lambda d: (d / f"{NAME}.index.json").unlink(), r"index\.json is missing, the index of"),
        (lambda d: put(d / NAME), "the same weights twice"),
    ],
)
def test_a_shard_that_is_missing_or_wrong_is_named(tmp_path, damage, said):
    put_shards(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=said) as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), f"{NAME}: no such file: get the weights"),
        ((f"{STEM}.bin",), rf"{STEM}\.bin is a pickle.*vdu convert .*bin .*{NAME}`"),
        (("pytorch_model.bin",), rf"pytorch_model\.bin is a pickle.*{NAME}`"),
        (
            (f"{STEM}.bin.index.json", f"{STEM}-00001-of-00002.bin"),
            rf"{STEM}\.bin\.index\.json lists pickles.*vdu convert .*index\.json .*{NAME}`",
        ),
        ((f"{STEM}-00001-of-00002.bin",), rf"one of 2 shards.*{STEM}\.bin\.index\.json"),
        (("diffusion_flax_model.msgpack",), "the folder has diffusion_flax_model.msgpack"),
        (("model.safetensors",), "the folder has model.safetensors"),
    ],
)
def test_what_is_there_instead_is_said(tmp_path, files, said):
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=said):
        weights.find(tmp_path, NAME)


def test_a_variant_that_is_a_pickle(tmp_path):
    put(tmp_path / NAME)
    (tmp_path / f"{STEM}.fp16.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{STEM}\.fp16\.bin is a pickle.*fp16\.safetensors`"):
        weights.find(tmp_path, NAME, "fp16")


def test_names_of_weights():
    for name in (NAME, "a.bin", "a.msgpack", "a.safetensors.index.fp16.json", "a.bin.index.json"):
        assert weights.is_weights(name)
    for name in ("config.json", "index.json", "merges.txt", "model_index.json"):
        assert not weights.is_weights(name)
