"""Batches from a source of images: shuffled, sharded over processes, resumable."""

import functools
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from vdu_jax.data.splits import stable_permutation
from vdu_jax.errors import UserError


class Source(Protocol):
    """What `make_loader` reads from: N images, with whatever belongs to each.

    positions: (N,) of its images in the split that it is a part of.
    """

    positions: np.ndarray

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Of the images at `indices` (n,): arrays with n rows each, "image" among them."""


class BatchIterator(Protocol):
    """Batches whose order can be continued in another process.

    `set_state(state)` on an iterator over the same images continues after the batches that came
    before `state = get_state()`, a dict of JSON values.
    """

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


def make_loader(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    num_epochs: int | None = None,
    shuffle: bool = True,
    num_threads: int = 0,
) -> BatchIterator:
    """An iterator of what `source.batch` gives, and "index" (b,) int32.

    "index" is the image's `source.positions`. `batch_size` is the global one and
    b = batch_size // process_count. All processes walk the same stream of indices, the
    concatenation of one permutation per epoch, and of each global batch process p takes the p-th
    part. So the parts are disjoint, together they are the batch that a single process would see, in
    that order, and a run may be resumed with another number of processes. A batch may span two
    epochs, hence may be larger than the source.

    The iterator is Grain's: `get_state()` returns a dict of JSON values, `set_state(state)` on
    a loader built with the same source, batch_size and seed continues with exactly the batches
    that would have come.

    Args:
      source: what to read; images are decoded when their batch is due.
      seed: any integer; other seeds give unrelated orders.
      num_epochs: None repeats for ever. A last incomplete batch is dropped (use `source.read`
        to see each image once).
      shuffle: False keeps the source's order.
      num_threads: threads that prepare batches ahead; 0 prepares them when asked, which is
        best once the images are cached.

    Raises:
      UserError: batch_size not positive or not divisible by process_count, or larger than all
        the epochs together.
    """
    import grain

    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size} must be a positive multiple of the number of processes "
            f"({process_count}); change batch_size"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} is not in [0, {process_count})")
    if num_epochs is not None and num_epochs * len(source) < batch_size:
        raise UserError(
            f"batch_size={batch_size} exceeds the {len(source)} images in {num_epochs} epoch(s); "
            "use a smaller batch_size"
        )
    share, size = batch_size // process_count, len(source)

    # Grain's own shuffle takes 1.2 ms for *each* index of a set of 23 images (its cipher walks a
    # 16-bit cycle), and forget sets are small; one permutation an epoch costs nothing.
    @functools.lru_cache(maxsize=2)  # a batch touches two epochs at its border
    def order(epoch: int) -> np.ndarray:
        return stable_permutation(size, seed, epoch) if shuffle else np.arange(size)

    def read(step: int) -> dict[str, np.ndarray]:
        first = step * batch_size + process_index * share
        epochs, offsets = np.divmod(np.arange(first, first + share), size)
        indices = np.concatenate([order(int(e))[offsets[epochs == e]] for e in np.unique(epochs)])
        return source.batch(indices) | {"index": source.positions[indices].astype(np.int32)}

    steps = sys.maxsize if num_epochs is None else num_epochs * size // batch_size
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    # Grain iterates over steps, so that its state is the number of the next batch.
    return iter(grain.MapDataset.range(steps).map(read).to_iter_dataset(options))
