import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vdu_jax.data import ImageSource, forget_retain_indices, make_loader, open_split, source
from vdu_jax.errors import UserError

SHAPE = (4, 4, 3)


@pytest.fixture
def fake(archives):
    """Builds (source, images, log of fetched positions) over encoded images in memory."""

    def build(n=20, forbidden=(), **arguments):
        images, log = archives.pixels(0, n, *SHAPE), []

        def fetch(positions):
            assert not set(positions) & set(forbidden), "a forbidden image was read"
            log.extend(positions)
            return [archives.png(images[i]) for i in positions]

        return ImageSource(fetch, np.arange(n) % 5, SHAPE, 5, **arguments), images, log

    return build


def test_it_is_a_grain_source(fake):
    import grain

    src, images, _ = fake()
    assert isinstance(src, grain.sources.RandomAccessDataSource)
    element = grain.MapDataset.source(src)[7]
    np.testing.assert_array_equal(element["image"], images[7])
    assert element["image"].dtype == np.uint8
    assert element["label"] == 2 and isinstance(element["label"], int)
    assert len(list(src)) == 20


def test_read_returns_what_was_asked_in_order(fake):
    src, images, _ = fake()
    for indices in ([3, 3, 0], [19, 3, 5, 0], range(20), None, np.array([], int)):
        x, y = src.read(indices)
        expected = list(range(20)) if indices is None else list(indices)
        np.testing.assert_array_equal(x, images[expected])
        np.testing.assert_array_equal(y, np.array(expected, int) % 5)
    x, _ = src.read([1])
    x[:] = 0  # the caller's copy, not the cache
    np.testing.assert_array_equal(src.read([1])[0], images[[1]])


def test_each_image_is_decoded_once(fake):
    src, _, log = fake()
    src.read([4, 5])
    assert log == [4, 5]  # and nothing that was not reached
    src.read([5, 6, 4])
    assert log == [4, 5, 6]
    src.read()
    src.read()
    assert sorted(log) == list(range(20))


@pytest.mark.parametrize("room", [0, 6])
def test_cache_limit(fake, room):
    src, images, log = fake(cache_bytes=room * int(np.prod(SHAPE)) + 1)
    for _ in range(2):
        np.testing.assert_array_equal(src.read()[0], images)
    assert len(log) == 20 + (20 - room)
    assert src._cache.nbytes <= room * int(np.prod(SHAPE))


@pytest.mark.parametrize("bad", [[20], [-1], [0.5], [[1]], [True]])
def test_indices_out_of_reach(fake, bad):
    src, _, _ = fake()
    for call in (src.read, src.subset):
        with pytest.raises(IndexError):
            call(bad)


def test_labels_cannot_be_written(fake):
    src, _, _ = fake()
    with pytest.raises(ValueError, match="read-only"):
        src.labels[0] = 1
    with pytest.raises(ValueError, match="at least one"):
        src.subset([])


def test_a_subset_reaches_only_its_own_images(fake):
    labels = np.arange(20) % 5
    forget, retain = forget_retain_indices(labels, [3])
    src, images, log = fake(forbidden=retain.tolist())
    view = src.subset(forget)
    assert len(view) == 4 and (view.labels == 3).all() and view.num_classes == 5
    np.testing.assert_array_equal(view.read()[0], images[forget])
    batches = make_loader(view, 3, seed=0)
    for _ in range(10):
        batch = next(batches)
        assert (batch["label"] == 3).all() and set(batch["index"]) <= set(forget)
    np.testing.assert_array_equal(view.subset([2, 0]).positions, forget[[2, 0]])
    for beyond in (len(view), int(retain[-1]), -1):
        with pytest.raises(IndexError):
            view[beyond]
    assert set(log) == set(forget.tolist())
    with pytest.raises(AssertionError, match="forbidden"):  # the trap itself works
        src.read(retain[:1])


def test_a_subset_of_a_subset(fake):
    src, images, _ = fake()
    view = src.subset([10, 3, 7]).subset([2, 0])
    np.testing.assert_array_equal(view.read()[0], images[[7, 10]])
    assert view.labels.tolist() == [2, 0]


def test_a_mirrored_source_has_each_image_and_its_mirror_image(fake):
    plain = fake()[0].subset([3, 9, 4])
    twice = source.Mirrored(plain)
    assert len(twice) == 6
    np.testing.assert_array_equal(twice.positions, [3, 9, 4, 3, 9, 4])
    given, made = plain.batch(np.array([0, 2])), twice.batch(np.array([0, 5, 2]))
    np.testing.assert_array_equal(made["image"][0], given["image"][0])
    np.testing.assert_array_equal(made["image"][1], np.flip(given["image"][1], 1))
    np.testing.assert_array_equal(made["image"][2], given["image"][1])
    np.testing.assert_array_equal(made["label"], given["label"][[0, 1, 1]])


def test_threads_share_the_cache(fake):
    src, images, _ = fake(n=200)
    order = [np.random.default_rng(k).permutation(200) for k in range(4)]
    wrong = []

    def work(indices):
        for i in indices:
            if not (src[i]["image"] == images[i]).all():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(o,)) for o in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and src._used == 200


# --- prepared data ---


def test_labels_agree_with_images_and_decode_nothing(digits, monkeypatch):
    def refuse(*args):
        raise AssertionError("an image was decoded")

    decode = source._decode
    (Path(digits.directory) / "labels-train.npy").unlink(missing_ok=True)
    monkeypatch.setattr(source, "_decode", refuse)
    for _ in range(2):  # parsed, then from the file beside the data
        src = open_split(digits, "train")
        assert src.labels.dtype == np.int64 and np.unique(src.labels).tolist() == list(range(10))
    monkeypatch.setattr(source, "_decode", decode)
    # Each label against the one stored in the same record as the image.
    import tensorflow_datasets as tfds

    records = tfds.builder_from_directory(digits.directory).as_data_source("train")
    for i in (0, 1, 500, len(src) - 1):
        record = records[i]
        assert record["label"] == src.labels[i] == src[i]["label"]
        np.testing.assert_array_equal(record["image"], src[i]["image"])


def test_damaged_label_file_is_made_again(digits):
    truth = open_split(digits, "test").labels
    file = Path(digits.directory) / "labels-test.npy"
    np.save(file, truth[:-1])  # of another length
    np.testing.assert_array_equal(open_split(digits, "test").labels, truth)
    file.write_bytes(b"\x80\x04garbage")  # a pickle's first bytes: must not be loaded
    np.testing.assert_array_equal(open_split(digits, "test").labels, truth)
    np.testing.assert_array_equal(np.load(file), truth)


def test_unknown_split(digits):
    with pytest.raises(UserError, match="no split 'valid'"):
        open_split(digits, "valid")


def test_importing_the_package_imports_neither_tfds_nor_grain():
    code = (
        "import sys, vdu_jax.data as d; d.static_info('cifar10');"
        "bad = {'tensorflow_datasets', 'grain', 'jax', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    root = Path(source.__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
