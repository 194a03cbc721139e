import itertools
import json

import numpy as np
import pytest

from vdu_jax.data import make_loader, open_split, to_model_range, to_uint8
from vdu_jax.errors import UserError


class Numbered:
    """Stands in for an ImageSource: image i has the label i, so batches tell their indices."""

    def __init__(self, n):
        self.n = n
        self.positions = np.arange(n)

    def __len__(self):
        return self.n

    def batch(self, indices):
        return {"image": np.zeros((len(indices), 2, 2, 1)), "label": np.asarray(indices, np.int32)}


def labels(batches, count=None):
    return [batch["label"].tolist() for batch in itertools.islice(batches, count)]


def test_model_range():
    levels = np.arange(256, dtype=np.uint8)
    x = to_model_range(levels)
    assert x.dtype == np.float32 and x[0] == -1 and x[255] == 1
    np.testing.assert_array_equal(to_uint8(x), levels)
    np.testing.assert_array_equal(to_uint8([-3.0, 3.0, 0.003, -1 + 0.6 / 127.5]), [0, 255, 128, 1])


def test_batches_of_real_images(digits):
    src = open_split(digits, "train")
    batch = next(make_loader(src, 32, seed=0))
    assert batch["image"].shape == (32, 8, 8, 1) and batch["image"].dtype == np.float32
    assert batch["label"].shape == (32,) and batch["label"].dtype == np.int32
    images, all_labels = src.read()
    by_pixels = {bytes(x): y for x, y in zip(images, all_labels, strict=True)}
    for image, label in zip(to_uint8(batch["image"]), batch["label"], strict=True):
        assert by_pixels[bytes(image)] == label


def test_each_epoch_is_another_permutation():
    stream = np.concatenate(labels(make_loader(Numbered(50), 10, seed=3, num_epochs=4)))
    epochs = stream.reshape(4, 50)
    assert (np.sort(epochs, 1) == np.arange(50)).all()
    assert len({tuple(e) for e in epochs}) == 4
    assert not (epochs[0] == np.arange(50)).all()


def test_seeds():
    stream = lambda seed, n=200: np.concatenate(
        labels(make_loader(Numbered(50), 50, seed), n // 50)
    )
    np.testing.assert_array_equal(stream(3), stream(3))
    epochs = {tuple(e) for seed in range(-2, 5) for e in stream(seed).reshape(4, 50)}
    assert len(epochs) == 7 * 4  # neighbouring seeds share no epoch


def test_without_shuffling():
    out = labels(make_loader(Numbered(5), 2, seed=0, shuffle=False, num_epochs=2))
    assert out == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]


def test_a_batch_larger_than_the_source():
    (batch,) = labels(make_loader(Numbered(4), 8, seed=0), 1)
    assert sorted(batch) == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(UserError, match="exceeds the 4 images in 1 epoch"):
        make_loader(Numbered(4), 8, seed=0, num_epochs=1)


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_resuming_equals_going_on(steps, num_threads):
    build = lambda: make_loader(Numbered(23), 5, seed=1, num_threads=num_threads)
    whole = labels(build(), 20)
    first = build()
    assert labels(first, steps) == whole[:steps]
    state = json.loads(json.dumps(first.get_state()))
    second = build()
    labels(second, 3)  # wherever it was before
    second.set_state(state)
    assert labels(second, 20 - steps) == whole[steps:]
    assert labels(first, 20 - steps) == whole[steps:]  # taking the state changed nothing


@pytest.mark.parametrize("count", [2, 3])
def test_processes_take_disjoint_parts_of_each_batch(count):
    # 23 images: an epoch divides by neither the batch nor the number of processes.
    single = labels(make_loader(Numbered(23), 12, seed=1), 23)
    parts = [
        labels(make_loader(Numbered(23), 12, 1, process_index=p, process_count=count), 23)
        for p in range(count)
    ]
    assert all(len(batch) == 12 // count for part in parts for batch in part)
    assert [list(itertools.chain(*batches)) for batches in zip(*parts, strict=True)] == single
    # Within an epoch no image is given to two processes, and none is left out.
    one = [
        labels(make_loader(Numbered(24), 12, 1, process_index=p, process_count=2, num_epochs=1))
        for p in range(2)
    ]
    flat = [set(itertools.chain(*part)) for part in one]
    assert not flat[0] & flat[1] and flat[0] | flat[1] == set(range(24))


def test_a_process_decodes_only_its_own_part():
    class Spy(Numbered):
        seen = 0

        def batch(self, indices):
            self.seen += len(indices)
            return super().batch(indices)

    spy = Spy(24)
    labels(make_loader(spy, 12, 1, process_index=1, process_count=2), 2)
    assert spy.seen == 12


def test_batch_size_must_divide():
    for batch_size, count in ((6, 4), (0, 1), (-2, 1)):
        with pytest.raises(UserError, match=f"batch_size={batch_size}"):
            make_loader(Numbered(24), batch_size, 0, process_count=count)
    with pytest.raises(ValueError, match="process_index"):
        make_loader(Numbered(24), 6, 0, process_index=2, process_count=2)
