"""Small files in the true formats of the official archives."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_idx_set(directory, n_train=30, n_test=12):
    """The four MNIST files; returns {split: (images (N, 28, 28), labels)}."""
    directory.mkdir(parents=True, exist_ok=True)
    out = {}
    sizes = [("train", "train", n_train), ("test", "t10k", n_test)]
    for seed, (split, prefix, n) in enumerate(sizes):
        images = pixels(seed, n, 28, 28)
        labels = (np.arange(n) * 7 % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = directory / f"{prefix}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(idx_bytes(array)))
        out[split] = images, labels
    return out


def cifar_blobs(per_file=4):
    """{member name: bytes} and the arrays they hold, images channels last."""
    blobs, images, labels = {}, [], []
    for i, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        chw = pixels(100 + i, per_file, 3, 32, 32)
        y = ((np.arange(per_file) + i) % 10).astype(np.uint8)
        blobs[name] = np.concatenate([y[:, None], chw.reshape(per_file, -1)], 1).tobytes()
        images.append(chw.transpose(0, 2, 3, 1))
        labels.append(y)
    return blobs, np.stack(images), np.stack(labels)


def write_cifar_tar(path, blobs):
    with tarfile.open(path, "w:gz") as tar:
        for name, blob in blobs.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))


def jpeg(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG")
    return out.getvalue()


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def tiny_imagenet_members(classes=3, per_class=2):
    """{member name: bytes}; wnids.txt is not sorted, and one image is grayscale."""
    wnids = [f"n{k:08d}" for k in range(classes)]
    members = {
        "wnids.txt": "\n".join(reversed(wnids)).encode(),
        "words.txt": "\n".join(f"{w}\tthing, object" for w in wnids).encode(),
    }
    rows = []
    for k, wnid in enumerate(wnids):
        for i in range(per_class):
            color = pixels(1000 + 10 * k + i, 64, 64, 3)
            image = color[..., 0] if (k, i) == (0, 0) else color
            members[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(image)
        members[f"val/images/val_{classes - k:03d}.JPEG"] = jpeg(pixels(2000 + k, 64, 64, 3))
        rows.append(f"val_{classes - k:03d}.JPEG\t{wnid}\t0\t0\t62\t62")
    members["val/val_annotations.txt"] = "\n".join(rows).encode()
    return members


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)


def write_tree(root, members):
    for name, data in members.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
