import gzip
import io

import numpy as np
import pytest
from PIL import Image

from vdu_jax.data import formats
from vdu_jax.errors import UserError

# --- IDX ---


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 28, 28)])
def test_idx_round_trip(tmp_path, archives, shape, compress):
    array = archives.pixels(0, *shape)
    data = archives.idx_bytes(array)
    # The name says nothing about the compression, on purpose.
    file = tmp_path / "some-file"
    file.write_bytes(gzip.compress(data) if compress else data)
    out = formats.read_idx(file, ndim=len(shape))
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, array)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: b"\x01" + d[1:], "magic"),
        (lambda d: d[:2] + b"\x0d" + d[3:], "0x0d"),
        (lambda d: d[:3] + b"\x02" + d[4:], "2 dimensions"),
        (lambda d: d[:9], "header"),
        (lambda d: d[:-1], "header declares"),
        (lambda d: d + b"\0", "header declares"),
        (lambda d: d[:4] + b"\xff" * 12 + d[16:], "header declares"),
        (lambda d: b"", "magic"),
        (lambda d: gzip.compress(d)[:-20], "gzip"),
        (lambda d: gzip.compress(d)[:40] + b"\0" * 20 + gzip.compress(d)[60:], "gzip"),
    ],
)
def test_malformed_idx_names_the_file_and_the_fault(tmp_path, archives, damage, says):
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(archives.idx_bytes(archives.pixels(0, 4, 6, 6))))
    with pytest.raises(UserError, match=says) as error:
        formats.read_idx(file, ndim=3)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_missing_idx_file(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        formats.read_idx(tmp_path / "nowhere")


# --- CIFAR-10 ---


@pytest.mark.parametrize("form", ["tar", "folder", "parent"])
def test_cifar_round_trip(tmp_path, archives, form):
    blobs, images, labels = archives.cifar_blobs()
    if form == "tar":
        path = tmp_path / "cifar-10-binary.tar.gz"
        archives.write_cifar_tar(path, blobs)
    else:
        archives.write_tree(tmp_path / "cifar-10-batches-bin", blobs)
        path = tmp_path / "cifar-10-batches-bin" if form == "folder" else tmp_path
    out = formats.read_cifar10_binary(path)
    np.testing.assert_array_equal(out["train"][0], images[:5].reshape(-1, 32, 32, 3))
    np.testing.assert_array_equal(out["train"][1], labels[:5].ravel())
    np.testing.assert_array_equal(out["test"][0], images[5])
    np.testing.assert_array_equal(out["test"][1], labels[5])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda blob: blob[:-1], "multiple of 3073"),
        (lambda blob: blob[:-3073], "shorter or longer"),
        (lambda blob: b"", "0 bytes"),
        (lambda blob: b"\x0a" + blob[1:], "above 9"),
        (None, "lacks data_batch_3.bin"),
    ],
)
def test_malformed_cifar(tmp_path, archives, damage, says):
    blobs, _, _ = archives.cifar_blobs()
    blob = blobs.pop("data_batch_3.bin")
    if damage:
        blobs["data_batch_3.bin"] = damage(blob)
    path = tmp_path / "cifar.tar.gz"
    archives.write_cifar_tar(path, blobs)
    archives.write_tree(tmp_path / "folder", blobs)
    for form in (path, tmp_path / "folder"):
        with pytest.raises(UserError, match=says) as error:
            formats.read_cifar10_binary(form)
        assert str(form) in str(error.value)


def test_truncated_cifar_archive(tmp_path, archives):
    path = tmp_path / "cifar.tar.gz"
    archives.write_cifar_tar(path, archives.cifar_blobs()[0])
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match="truncated or corrupt"):
        formats.read_cifar10_binary(path)


# --- Tiny ImageNet ---


def _decode(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("form", ["zip", "folder", "parent"])
def test_tiny_imagenet(tmp_path, archives, form):
    members = archives.tiny_imagenet_members()
    if form == "zip":
        path = tmp_path / "tiny-imagenet-200.zip"
        archives.write_zip(path, members)
    else:
        archives.write_tree(tmp_path / "tiny-imagenet-200", members)
        path = tmp_path / "tiny-imagenet-200" if form == "folder" else tmp_path
    wnids, names = formats.tiny_imagenet_classes(path)
    assert wnids == ["n00000000", "n00000001", "n00000002"]
    assert names[1] == "thing (n00000001)"

    train = list(formats.iter_tiny_imagenet(path, "train"))
    assert [label for _, label in train] == [0, 0, 1, 1, 2, 2]
    expected = _decode(members["train/n00000001/images/n00000001_1.JPEG"])
    np.testing.assert_array_equal(train[3][0], expected)
    gray = train[0][0]
    assert gray.shape == (64, 64, 3) and (gray[..., :1] == gray).all()

    val = list(formats.iter_tiny_imagenet(path, "val"))
    assert [label for _, label in val] == [2, 1, 0]  # file order runs against class order
    np.testing.assert_array_equal(val[0][0], _decode(members["val/images/val_001.JPEG"]))


def test_malformed_tiny_imagenet(tmp_path, archives):
    members = archives.tiny_imagenet_members()
    broken = "val/images/val_002.JPEG"
    cases = {
        "val_annotations": {"val/val_annotations.txt": b"val_001.JPEG"},
        "readable image": {broken: members[broken][:200]},
        "lacks " + broken: {broken: None},
        "absent from wnids": {"wnids.txt": b"n00000000\nn00000001"},
        "repeats an id": {"wnids.txt": b"n00000000\nn00000000"},
        "not 64x64": {broken: archives.jpeg(archives.pixels(0, 32, 32, 3))},
        "no val image of class n00000003": {"wnids.txt": members["wnids.txt"] + b"\nn00000003"},
    }
    for i, (says, change) in enumerate(cases.items()):
        path = tmp_path / f"{i}.zip"
        archives.write_zip(path, {k: v for k, v in (members | change).items() if v is not None})
        with pytest.raises(UserError, match=says) as error:
            list(formats.iter_tiny_imagenet(path, "val"))
        assert str(path) in str(error.value)


def test_corrupt_zip(tmp_path, archives):
    path = tmp_path / "tiny.zip"
    archives.write_zip(path, archives.tiny_imagenet_members())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated or corrupt zip"):
        list(formats.iter_tiny_imagenet(path, "train"))
    flipped = bytearray(data)
    flipped[data.index(b"n00000001_0.JPEG") + 300] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"n00000001_0.JPEG .*is corrupt"):
        list(formats.iter_tiny_imagenet(path, "train"))
