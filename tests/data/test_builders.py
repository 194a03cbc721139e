import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vdu_jax.data import NAMES, dataset_names, load, open_split, static_info
from vdu_jax.errors import UserError


def read(dataset, split):
    return open_split(dataset, split).read()


def test_digits_equal_scikit_learns(digits):
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    expected = np.round(pixels.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8)
    parts = {split: read(digits, split) for split in ("train", "test")}
    images = np.concatenate([x for x, _ in parts.values()])
    labels = np.concatenate([y for _, y in parts.values()])
    # The two splits together are the original, each image once and with its label.
    key = lambda x, y: sorted(zip(map(bytes, x), y.tolist(), strict=True))
    assert key(images, labels) == key(expected, target)

    share = len(parts["test"][1]) / len(target)
    assert 0.19 < share < 0.21
    counts = np.bincount(parts["test"][1]) / np.bincount(target)
    assert np.abs(counts - 0.2).max() < 0.01


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_sets_keep_pixels_and_order(tmp_path, archives, name):
    truth = archives.write_idx_set(tmp_path / "manual")
    dataset = load(name, tmp_path / "data", tmp_path / "manual")
    assert (dataset.image_shape, dataset.num_classes) == static_info(name)
    for split, (images, labels) in truth.items():
        x, y = read(dataset, split)
        np.testing.assert_array_equal(x[..., 0], images)
        np.testing.assert_array_equal(y, labels)


def test_tinted_fashion_is_fashion_mnist_in_colour(tmp_path, archives):
    truth = archives.write_idx_set(tmp_path / "manual", n_train=300)
    dataset = load("tinted_fashion", tmp_path / "data", tmp_path / "manual")
    assert (dataset.image_shape, dataset.num_classes) == static_info("tinted_fashion")
    assert dataset.class_names[0] == "red t-shirt" and dataset.class_names[57] == "white sneaker"
    for split, (grey, garments) in truth.items():
        images, labels = read(dataset, split)
        np.testing.assert_array_equal(labels % 10, garments)
        # The brightest channel of each tint shows the grey levels, and the margin is black.
        inside = images[:, 2:-2, 2:-2].astype(int)
        assert images.sum() == inside.sum()
        white = labels // 10 == 5
        np.testing.assert_array_equal(inside[white], np.repeat(grey[white][..., None], 3, -1))
        red = labels // 10 == 0
        np.testing.assert_array_equal(inside[red][..., 0], grey[red])
        np.testing.assert_allclose(inside[red][..., 1], grey[red] * (32 / 255), atol=0.51)
    labels = read(dataset, "train")[1] // 10
    counts = np.bincount(labels, minlength=6)
    assert (abs(counts - 50) < 4 * np.sqrt(300 * 5 / 36)).all()
    # Once and for all: what is published was made with these.
    assert labels[:10].tolist() == np.random.RandomState(0).randint(6, size=300)[:10].tolist()


def test_uncompressed_idx_files_do(tmp_path, archives):
    import gzip

    truth = archives.write_idx_set(tmp_path / "manual")
    for file in list((tmp_path / "manual").iterdir()):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    x, _ = read(load("mnist", tmp_path / "data", tmp_path / "manual"), "test")
    np.testing.assert_array_equal(x[..., 0], truth["test"][0])


@pytest.mark.parametrize("form", ["archive", "extracted"])
def test_cifar10(tmp_path, archives, form):
    blobs, images, labels = archives.cifar_blobs()
    manual = tmp_path / "manual"
    manual.mkdir()
    if form == "archive":
        archives.write_cifar_tar(manual / "cifar-10-binary.tar.gz", blobs)
    else:
        archives.write_tree(manual / "cifar-10-batches-bin", blobs)
    dataset = load("cifar10", tmp_path / "data", manual)
    assert (dataset.image_shape, dataset.num_classes) == static_info("cifar10")
    assert dataset.class_names[3] == "cat"
    x, y = read(dataset, "train")
    np.testing.assert_array_equal(x, images[:5].reshape(-1, 32, 32, 3))
    np.testing.assert_array_equal(y, labels[:5].ravel())
    x, y = read(dataset, "test")
    np.testing.assert_array_equal(x, images[5])


def test_tiny_imagenet_and_a_failed_preparation_before_it(tmp_path, archives):
    members = archives.tiny_imagenet_members(classes=200, per_class=1)
    manual, data = tmp_path / "manual", tmp_path / "data"
    manual.mkdir()
    archive = manual / "tiny-imagenet-200.zip"
    # The last image to be read is broken, so most of the work is done when it fails.
    archives.write_zip(archive, members | {"val/images/val_200.JPEG": b"broken"})
    with pytest.raises(UserError, match=r"val_200\.JPEG .*replace or remove") as error:
        load("tiny_imagenet", data, manual)
    assert "\n" not in str(error.value)
    assert not [p for p in (data / "vdu_tiny_imagenet").rglob("*") if p.is_file()]

    archives.write_zip(archive, members)
    dataset = load("tiny_imagenet", data, manual)
    assert (dataset.image_shape, dataset.num_classes) == static_info("tiny_imagenet")
    assert dataset.class_names[199] == "thing (n00000199)"
    x, y = read(dataset, "test")
    assert y.tolist() == list(range(199, -1, -1)) and x.shape == (200, 64, 64, 3)
    assert load("tiny_imagenet", data) == dataset  # from now on without the archive


def test_tiny_imagenet_must_have_its_200_classes(tmp_path, archives):
    archives.write_zip(tmp_path / "tiny-imagenet-200.zip", archives.tiny_imagenet_members())
    with pytest.raises(UserError, match="3 classes, not 200"):
        load("tiny_imagenet", tmp_path / "data", tmp_path)


# --- the user's own folder ---


def folder_of(archives, root, split="train", classes=("bee", "ant"), count=20, start=0):
    truth = {}
    for c, name in enumerate(classes):
        for i in range(count):
            truth[f"{split}/{name}/{i:03d}.png"] = archives.pixels(start + 100 * c + i, 8, 8, 3)
    archives.write_tree(root, {name: archives.png(x) for name, x in truth.items()})
    return truth


def load_folder(root, data, **arguments):
    return load("image_folder", data, root, **({"image_size": 8, "channels": 3} | arguments))


def test_image_folder_without_test_split(tmp_path, archives):
    truth = folder_of(archives, tmp_path / "mine")
    dataset = load_folder(tmp_path / "mine", tmp_path / "data")
    assert dataset.class_names == ("ant", "bee") and dataset.image_shape == (8, 8, 3)
    test_names = [f"train/{c}/{i:03d}.png" for c in ("ant", "bee") for i in (9, 19)]
    x, y = read(dataset, "test")
    np.testing.assert_array_equal(x, [truth[n] for n in test_names])
    assert y.tolist() == [0, 0, 1, 1]
    x, _ = read(dataset, "train")
    np.testing.assert_array_equal(x, [truth[n] for n in sorted(set(truth) - set(test_names))])


def test_image_folder_with_test_split_and_changes(tmp_path, archives):
    root, data = tmp_path / "mine", tmp_path / "data"
    folder_of(archives, root)
    truth = folder_of(archives, root, "test", count=3, start=1000)
    first = load_folder(root, data)
    np.testing.assert_array_equal(read(first, "test")[0], [truth[n] for n in sorted(truth)])
    assert len(open_split(first, "train")) == 40
    assert load_folder(root, data) == first
    # A changed folder, size or number of channels is never taken for what was prepared.
    (root / "train/ant/000.png").unlink()
    second = load_folder(root, data)
    assert len(open_split(second, "train")) == 39
    edited = archives.pixels(7, 8, 8, 3)
    (root / "train/ant/001.png").write_bytes(archives.png(edited))
    third = load_folder(root, data)
    np.testing.assert_array_equal(open_split(third, "train")[0]["image"], edited)
    assert load_folder(root, data, channels=1).image_shape == (8, 8, 1)
    assert len({d.directory for d in (first, second, third)}) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image_size": None}, "data.image_size"),
        ({"image_size": 0}, "data.image_size"),
        ({"channels": 2}, "data.channels"),
    ],
)
def test_image_folder_settings(tmp_path, archives, arguments, says):
    folder_of(archives, tmp_path, count=2)
    with pytest.raises(UserError, match=says):
        load_folder(tmp_path, tmp_path / "data", **arguments)


def test_image_folder_mistakes(tmp_path, archives):
    with pytest.raises(UserError, match=r"data\.manual_dir is empty"):
        load("image_folder", tmp_path, image_size=8, channels=3)
    with pytest.raises(UserError, match="no folder 'train'"):
        load_folder(tmp_path, tmp_path / "data")
    folder_of(archives, tmp_path, count=2)
    folder_of(archives, tmp_path, "test", classes=("wasp",), count=1)
    with pytest.raises(UserError, match="'wasp'"):
        load_folder(tmp_path, tmp_path / "data")


def test_an_image_folder_with_transparent_pixels(tmp_path, archives):
    root, data = tmp_path / "mine", tmp_path / "data"
    truth = folder_of(archives, root, classes=("ant",), count=4)
    hidden = np.dstack([np.full((8, 8, 3), (255, 0, 0), np.uint8), np.zeros((8, 8, 1), np.uint8)])
    for name in ("001", "003"):
        (root / f"train/ant/{name}.png").write_bytes(archives.png(hidden))
    said = r"001\.png has transparent pixels.*data\.background.*after it 1 are refused, too"
    # Of fewer than ten images the last one is test.
    (root / "train/ant/005.png").write_bytes(archives.png(truth["train/ant/000.png"]))
    with pytest.raises(UserError, match=said):
        load_folder(root, data)
    white = load_folder(root, data, background="white")
    black = load_folder(root, data, background="black")
    for dataset, level in ((white, 255), (black, 0)):
        images, _ = read(dataset, "train")
        assert (images[[1, 3]] == level).all()
        np.testing.assert_array_equal(images[0], truth["train/ant/000.png"])
    with pytest.raises(UserError, match="transparent pixels"):  # not what another setting prepared
        load_folder(root, data)


def test_a_copy_that_dropped_transparency_is_not_taken(tmp_path, archives):
    """Version 1.0.0 of a prepared folder, which has the same digest."""
    folder_of(archives, tmp_path / "mine")
    directory = Path(load_folder(tmp_path / "mine", tmp_path / "data").directory)
    assert directory.name == "2.0.0"


def test_an_image_folder_says_what_is_read(tmp_path, archives):
    root = tmp_path / "mine"
    folder_of(archives, root)
    archives.write_tree(root, {"train/ant/x.heic": b"", "val2/0.png": b""})
    assert load_folder(root, tmp_path / "data").account == (
        f"images read from {root}: train: ant 18, bee 18; test (every tenth image of train): ant "
        f"2, bee 2; left out: a folder beside train: 1, e.g. {root}/val2; unsupported type "
        f"(1 .heic): 1, e.g. {root}/train/ant/x.heic"
    )
    folder_of(archives, root, "valid", count=1)
    again = load_folder(root, tmp_path / "data")
    assert "train: ant 20, bee 20; test (valid/): ant 1, bee 1; left out" in again.account
    assert load_folder(root, tmp_path / "data") == again  # also where it is prepared already


# --- names, files that are not there, interruptions ---


def test_names():
    assert set(dataset_names()) == set(NAMES)
    assert static_info("image_folder") is None
    for call in (static_info, lambda name: load(name, "/nowhere")):
        with pytest.raises(UserError, match=r"'mnits'.*fashion_mnist"):
            call("mnits")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "tiny_imagenet"])
def test_missing_manual_files_are_named(tmp_path, name):
    with pytest.raises(UserError, match=r"data\.manual_dir=.*(ubyte\.gz|tar\.gz|\.zip)"):
        load(name, tmp_path / "data", tmp_path)
    with pytest.raises(UserError, match="not a directory"):
        load(name, tmp_path / "data", tmp_path / "absent")


@pytest.mark.parametrize("stage", ["host", "transfer", "checksum"])
def test_a_failed_download_points_to_manual_dir(tmp_path, monkeypatch, stage):
    import tensorflow_datasets as tfds

    from vdu_jax.data import builders

    def fail(*args, **kwargs):
        if stage == "host":
            raise OSError("no such host")
        if stage == "transfer":
            raise tfds.download.DownloadError("HTTP code: 404")
        raise tfds.download.download_manager.NonMatchingChecksumError("wrong checksum")

    if stage == "host":
        monkeypatch.setattr(builders.socket, "getaddrinfo", fail)
    else:
        monkeypatch.setattr(builders, "_check_host", lambda url: None)
        monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(
        UserError, match=r"cannot download https://www.cs.toronto.*data\.manual_dir"
    ):
        load("cifar10", tmp_path)


def test_registered_checksums_are_those_of_tfds():
    from tensorflow_datasets.core.download import checksums

    from vdu_jax.data import builders

    known = checksums.get_all_url_infos()
    for name in ("mnist", "fashion_mnist", "cifar10"):
        files = getattr(builders, NAMES[name].builder).FILES
        for url, size, sha256 in files.values():
            assert (int(known[url].size), known[url].checksum) == (size, sha256)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_size": 32}, r"data\.image_size=32 does not fit digits.*8"),
        ({"channels": 3}, r"data\.channels=3 does not fit digits.*1"),
        ({"background": "white"}, r"data\.background='white' does not fit digits.*opaque"),
        ({"manual_dir": "mine"}, r"data\.manual_dir=mine: digits reads no files"),
    ],
)
def test_settings_that_do_not_fit_a_fixed_set(tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        load("digits", tmp_path, **settings)


def test_an_interrupted_preparation_is_repeated(tmp_path, archives, monkeypatch):
    from vdu_jax.data import builders

    truth = archives.write_idx_set(tmp_path / "manual")
    data = tmp_path / "data"
    encode, calls = builders.encode_png, []

    def interrupt(image):
        calls.append(0)
        if len(calls) == 35:  # in the second split
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(builders, "encode_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", data, tmp_path / "manual")
    monkeypatch.undo()
    # What a killed process would have left behind, which cannot clean up.
    (data / "vdu_mnist/incomplete.ABCDEF_1.0.0").mkdir(parents=True)
    (data / "vdu_mnist/incomplete.ABCDEF_1.0.0/dataset_info.json").write_text("{}")
    x, _ = read(load("mnist", data, tmp_path / "manual"), "train")
    np.testing.assert_array_equal(x[..., 0], truth["train"][0])
    assert not list((data / "vdu_mnist").glob("incomplete.*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError("[prefix] " + os.strerror(errno.ENOSPC)),
        RuntimeError("Failed to finalize: write() failed: No space left on device; at byte 9"),
    ],
)
@pytest.mark.parametrize("place", ["shard", "index"])
def test_a_full_data_dir_is_one_line_and_prepared_anew(
    tmp_path, archives, monkeypatch, error, place
):
    from tensorflow_datasets.core import dataset_info, file_adapters

    truth = archives.write_idx_set(tmp_path / "manual")
    data = tmp_path / "data"

    def full(self, *args):
        raise error

    if place == "shard":
        adapter = file_adapters.ArrayRecordFileAdapter
        monkeypatch.setattr(adapter, "write_examples", staticmethod(lambda *a, **k: full(None)))
    else:
        monkeypatch.setattr(dataset_info.DatasetInfo, "write_to_directory", full)
    said = rf"cannot prepare mnist in data_dir={data} \(No space left.*set data\.dir to a folder"
    with pytest.raises(UserError, match=said) as raised:
        load("mnist", data, tmp_path / "manual")
    assert "\n" not in str(raised.value)
    monkeypatch.undo()
    x, _ = read(load("mnist", data, tmp_path / "manual"), "train")
    np.testing.assert_array_equal(x[..., 0], truth["train"][0])


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, archives, monkeypatch):
    from vdu_jax.data import builders

    def wrong(image):
        raise RuntimeError("a fault")

    archives.write_idx_set(tmp_path / "manual")
    monkeypatch.setattr(builders, "encode_png", wrong)
    with pytest.raises(RuntimeError, match="a fault"):
        load("mnist", tmp_path / "data", tmp_path / "manual")


def test_what_killed_preparations_left_is_removed(tmp_path, archives):
    archives.write_idx_set(tmp_path / "manual")
    left = tmp_path / "data/vdu_mnist/incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "vdu_mnist-train.array_record-00000-of-00001").write_bytes(b"half")
    load("mnist", tmp_path / "data", tmp_path / "manual")
    assert not left.exists()


def test_labels_that_cannot_be_kept_leave_nothing_behind(tmp_path, archives, monkeypatch):
    truth = archives.write_idx_set(tmp_path / "manual")
    dataset = load("mnist", tmp_path / "data", tmp_path / "manual")

    def full(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    np.testing.assert_array_equal(open_split(dataset, "train").labels, truth["train"][1])
    assert not [p for p in Path(dataset.directory).iterdir() if "labels-" in p.name]


def test_concurrent_preparations_do_the_work_once(tmp_path, archives, monkeypatch):
    from vdu_jax.data import builders

    archives.write_idx_set(tmp_path / "manual")
    original, calls, results = builders.Mnist._split_generators, [], []

    def slow(self, dl_manager):
        calls.append(0)
        time.sleep(0.3)
        return original(self, dl_manager)

    monkeypatch.setattr(builders.Mnist, "_split_generators", slow)
    work = lambda: results.append(load("mnist", tmp_path / "data", tmp_path / "manual"))
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(results) == 3
    assert results[0] == results[1] == results[2]


def test_an_unwritable_data_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data_dir=.*writable"):
        load("digits", tmp_path / "file")


def test_damaged_prepared_data(tmp_path, archives):
    archives.write_idx_set(tmp_path / "manual", n_train=200)
    dataset = load("mnist", tmp_path / "data", tmp_path / "manual")
    open_split(dataset, "train")  # leaves the labels beside the data
    directory = Path(dataset.directory)
    (shard,) = directory.glob("*train.array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="delete that directory"):
        open_split(dataset, "train").read()
    shard.unlink()
    with pytest.raises(UserError, match="delete that directory"):
        open_split(dataset, "train").read()
    (directory / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="delete it"):
        load("mnist", tmp_path / "data")
