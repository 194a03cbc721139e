"""The contract that every data set of `NAMES` keeps, from small files in the official formats."""

import numpy as np
import pytest

from vdu_jax.data import NAMES, load, open_split, static_info
from vdu_jax.errors import UserError


def write_cifar10(archives, folder):
    folder.mkdir()
    archives.write_tree(folder / "cifar-10-batches-bin", archives.cifar_blobs()[0])


def write_tiny_imagenet(archives, folder):
    folder.mkdir()
    members = archives.tiny_imagenet_members(classes=200, per_class=1)
    archives.write_zip(folder / "tiny-imagenet-200.zip", members)


def write_folder(archives, folder):
    files = {f"train/{c}/{i}.png": archives.pixels(i, 9, 7, 3) for c in "ab" for i in range(12)}
    archives.write_tree(folder, {name: archives.png(image) for name, image in files.items()})


# Data set -> writes its original files into a folder; the others have none.
WRITERS = {
    "mnist": lambda archives, folder: archives.write_idx_set(folder),
    "fashion_mnist": lambda archives, folder: archives.write_idx_set(folder),
    "tinted_fashion": lambda archives, folder: archives.write_idx_set(folder),
    "cifar10": write_cifar10,
    "tiny_imagenet": write_tiny_imagenet,
    "image_folder": write_folder,
}
SETTINGS = {"image_folder": {"image_size": 8, "channels": 3}}


def prepare(name, archives, folder):
    """The data set and its splits, name -> (images, labels)."""
    manual = folder / "manual" if name in WRITERS else None
    if manual and not manual.exists():
        WRITERS[name](archives, manual)
    found = load(name, folder / "data", manual, **SETTINGS.get(name, {}))
    return found, {split: open_split(found, split).read() for split in ("train", "test")}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_it_is_prepared_as_the_registry_says(name, archives, tmp_path):
    found, splits = prepare(name, archives, tmp_path)
    said = static_info(name)
    if said is not None:
        assert (found.image_shape, found.num_classes) == said
    assert found.name == name and found.num_classes >= 2
    assert len(set(found.class_names)) == found.num_classes
    for images, labels in splits.values():
        assert images.dtype == np.uint8 and images.shape == (len(labels), *found.image_shape)
        assert len(labels) and labels.min() >= 0 and labels.max() < found.num_classes
        assert len(np.unique(images)) > 1 and images.max() > 127  # 0..255, not 0..1


def test_prepared_elsewhere_it_is_the_same(name, archives, tmp_path):
    _, one = prepare(name, archives, tmp_path)
    (tmp_path / "data").rename(tmp_path / "before")
    _, other = prepare(name, archives, tmp_path)
    for split in one:
        for before, after in zip(one[split], other[split], strict=True):
            np.testing.assert_array_equal(before, after)


def test_files_that_it_does_not_read_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"data\.manual_dir|holds no"):
        load(name, tmp_path / "data", tmp_path, **SETTINGS.get(name, {}))
