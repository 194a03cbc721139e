"""Readers of the official formats of data sets: IDX, CIFAR-10 binary, Tiny ImageNet.

Each function reads the files that a data set's authors distribute, packed or extracted. A file
that is missing, truncated or malformed raises a UserError with the file and the remedy. Images are
uint8 in [0, 255], channels last; labels are integers from 0.
"""

import gzip
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vdu_jax.data.images import decode_image
from vdu_jax.errors import UserError

_AGAIN = "download the file again or copy it whole"


# --- IDX: MNIST and its successors -------------------------------------------------------


def read_idx(path: str | os.PathLike, ndim: int | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist).

    The layout is: two zero bytes, a type code (8 = uint8), the number of dimensions, each
    dimension as a big-endian uint32, then the data. Gzip is recognised by content, not by name.

    Args:
      path: the file, plain or gzip-compressed.
      ndim: required number of dimensions (1 for labels, 3 for images), or None for any.

    Returns:
      uint8 array with the dimensions that the file declares.

    Raises:
      UserError: if the file is missing, not IDX, of another type or rank, or not exactly as long
        as its header declares.
    """
    path = Path(path)
    data = _read_maybe_gzip(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise UserError(f"{path} is not an IDX file (wrong magic number); {_AGAIN}")
    if data[2] != 8:
        raise UserError(
            f"{path} holds IDX type code {data[2]:#04x}, but images and labels are unsigned "
            "bytes (0x08); use the official file"
        )
    rank = data[3]
    if ndim is not None and rank != ndim:
        raise UserError(
            f"{path} has {rank} dimensions where {ndim} are expected; check that image and "
            "label files are not swapped"
        )
    start = 4 + 4 * rank
    if rank == 0 or len(data) < start:
        raise UserError(f"{path} ends inside its IDX header; {_AGAIN}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=rank, offset=4))
    # Python integers, because a corrupt header may declare more than 2^63 bytes.
    declared = 1
    for n in shape:
        declared *= n
    if len(data) - start != declared:
        raise UserError(
            f"{path} has {len(data) - start} bytes of data but its header declares {declared} "
            f"(shape {shape}); {_AGAIN}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _read_maybe_gzip(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is a truncated or corrupt gzip file ({error}); {_AGAIN}"
        ) from error


# --- CIFAR-10, binary version ------------------------------------------------------------

_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_CIFAR_RECORD = 1 + 3 * 32 * 32


def read_cifar10_binary(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the binary version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
      path: cifar-10-binary.tar.gz, or a folder that is or contains cifar-10-batches-bin.

    Returns:
      {"train": (images (N, 32, 32, 3) uint8, labels (N,) int64), "test": ...}, in file order.

    Raises:
      UserError: if a file is missing or damaged. All six files must have the same number of
        records, as the official ones have, so a file cut at a record's boundary is refused, too.
    """
    path = Path(path)
    blobs = _cifar_folder(path) if path.is_dir() else _cifar_tar(path)
    for name, blob in blobs.items():
        if not blob or len(blob) % _CIFAR_RECORD:
            raise UserError(
                f"{name} in {path} has {len(blob)} bytes, not a multiple of {_CIFAR_RECORD}; "
                f"{_AGAIN}"
            )
        if len(blob) != len(next(iter(blobs.values()))):
            raise UserError(f"{name} in {path} is shorter or longer than its siblings; {_AGAIN}")
    out = {}
    for split, names in _CIFAR_FILES.items():
        records = np.frombuffer(b"".join(blobs[n] for n in names), np.uint8)
        records = records.reshape(-1, _CIFAR_RECORD)
        labels = records[:, 0].astype(np.int64)
        if labels.max() > 9:
            raise UserError(f"{path} has a CIFAR-10 label above 9 ({labels.max()}); {_AGAIN}")
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        out[split] = (np.ascontiguousarray(images), labels)
    return out


def _cifar_names() -> list[str]:
    return [name for names in _CIFAR_FILES.values() for name in names]


def _cifar_folder(path: Path) -> dict[str, bytes]:
    folder = path / _CIFAR_FOLDER if (path / _CIFAR_FOLDER).is_dir() else path
    missing = [name for name in _cifar_names() if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}; put cifar-10-binary.tar.gz, or the folder "
            f"{_CIFAR_FOLDER} extracted from it, into data.manual_dir"
        )
    return {name: (folder / name).read_bytes() for name in _cifar_names()}


def _cifar_tar(path: Path) -> dict[str, bytes]:
    wanted, contents = set(_cifar_names()), {}
    try:
        # "r:*" detects the compression; members are read in memory and never extracted.
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in wanted and member.isfile():
                    file = tar.extractfile(member)
                    assert file is not None  # a regular file has contents
                    contents[name] = file.read()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a truncated or corrupt archive ({error}); {_AGAIN}") from error
    missing = sorted(wanted - set(contents))
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; use the *binary version* of CIFAR-10, "
            "cifar-10-binary.tar.gz"
        )
    return {name: contents[name] for name in _cifar_names()}


# --- Tiny ImageNet -----------------------------------------------------------------------


class _Tree:
    """The files of tiny-imagenet-200, from the zip or from the extracted folder alike."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = None
        if path.is_dir():
            nested = path / "tiny-imagenet-200"
            self._root = nested if nested.is_dir() else path
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; check the path") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path} is a truncated or corrupt zip ({error}); {_AGAIN}") from error
        self._members = {}
        for name in self._zip.namelist():
            self._members[name.removeprefix("tiny-imagenet-200/")] = name

    def read(self, name: str) -> bytes:
        try:
            if self._zip is None:
                return (self._root / name).read_bytes()
            return self._zip.read(self._members[name])
        except (KeyError, FileNotFoundError) as error:
            raise UserError(
                f"{self.path} lacks {name}; use the official tiny-imagenet-200.zip, or the "
                "folder tiny-imagenet-200 extracted from it"
            ) from error
        except (zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{name} in {self.path} is corrupt ({error}); {_AGAIN}") from error

    def lines(self, name: str) -> list[str]:
        return [line for line in self.read(name).decode("utf-8", "replace").splitlines() if line]

    def train_files(self) -> list[str]:
        if self._zip is None:
            files = (p.relative_to(self._root) for p in self._root.glob("train/*/images/*.JPEG"))
            return sorted(p.as_posix() for p in files)
        return sorted(n for n in self._members if n.startswith("train/") and n.endswith(".JPEG"))


def tiny_imagenet_classes(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Classes of Tiny ImageNet: WordNet ids and readable names.

    Class k is the k-th id in sorted order, as in torchvision's `ImageFolder`. A name is the first
    synonym and the id, because synonyms need not be unique.

    Args:
      path: tiny-imagenet-200.zip, or a folder that is or contains tiny-imagenet-200.

    Returns:
      (ids, names), one of each per class.

    Raises:
      UserError: if a file is missing or damaged.
    """
    tree = _Tree(Path(path))
    wnids = sorted(line.strip() for line in tree.lines("wnids.txt"))
    words = dict(line.split("\t", 1) for line in tree.lines("words.txt") if "\t" in line)
    if not wnids or len(set(wnids)) != len(wnids):
        raise UserError(f"wnids.txt in {path} is empty or repeats an id; {_AGAIN}")
    names = [f"{words.get(w, w).split(',')[0].strip()} ({w})" for w in wnids]
    return wnids, names


def iter_tiny_imagenet(path: str | os.PathLike, split: str) -> Iterator[tuple[np.ndarray, int]]:
    """Images and labels of Tiny ImageNet, in sorted file order.

    Grayscale images are repeated over three channels.

    Args:
      path: tiny-imagenet-200.zip, or a folder that is or contains tiny-imagenet-200.
      split: "train" or "val" (the archive's test images have no labels).

    Yields:
      (image (64, 64, 3) uint8, label in [0, 200)).

    Raises:
      UserError: if a file is missing or damaged, or a label is not in wnids.txt.
      ValueError: for another split.
    """
    path = Path(path)
    tree = _Tree(path)
    label_of = {wnid: k for k, wnid in enumerate(tiny_imagenet_classes(path)[0])}
    if split == "train":
        pairs = [(name, name.split("/")[1]) for name in tree.train_files()]
    elif split == "val":
        rows = [line.split("\t") for line in tree.lines("val/val_annotations.txt")]
        if any(len(row) < 2 for row in rows):
            raise UserError(f"val/val_annotations.txt in {path} is malformed; {_AGAIN}")
        pairs = sorted((f"val/images/{row[0]}", row[1]) for row in rows)
    else:
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")
    absent = sorted(set(label_of) - {wnid for _, wnid in pairs})
    if absent:
        raise UserError(f"{path} has no {split} image of class {absent[0]}; {_AGAIN}")
    for name, wnid in pairs:
        if wnid not in label_of:
            raise UserError(f"{name} in {path} has class {wnid}, absent from wnids.txt; {_AGAIN}")
        image = decode_image(tree.read(name), f"{name} in {path}", channels=3)
        if image.shape != (64, 64, 3):
            raise UserError(f"{name} in {path} is {image.shape[:2]}, not 64x64; {_AGAIN}")
        yield image, label_of[wnid]
