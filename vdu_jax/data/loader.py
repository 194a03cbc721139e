"""Batches from a source of images: shuffled, sharded over processes, resumable."""

import functools
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from vdu_jax.data.splits import stable_permutation
from vdu_jax.errors import UserError


class Source(Protocol):
    """N images with their labels or conditions: the input of `make_loader`.

    Attributes:
      positions: (N,) int64, the index of each image in its split.
    """

    @property
    def positions(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read the images at `indices`.

        Args:
          indices: (n,) integers in [0, N).

        Returns:
          Arrays by name, each with n rows; "image" (n, H, W, C) float32 in [-1, 1] is one of them.
        """


class BatchIterator(Protocol):
    """An iterator of batches whose position can be saved and restored."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> dict[str, Any]:
        """The position, as a dict of JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue with the batch that was next when `state` was taken.

        Args:
          state: from `get_state` of an iterator made with the same arguments.
        """


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
    """Make a shuffled, resumable iterator of batches.

    All processes walk the same stream of indices, one permutation per epoch after the other.
    Process p takes the p-th part of each global batch. So the parts are disjoint, they are together
    the batch that a single process would see, in the same order, and a run may be resumed with
    another number of processes. A batch may span two epochs, so it may be larger than the source.

    Args:
      source: N images; an image is decoded when its batch is due.
      batch_size: images of a global batch; a multiple of `process_count`.
      seed: seed of the permutations, any integer; different seeds give unrelated orders.
      process_index: number of this process, in [0, process_count).
      process_count: number of processes.
      num_epochs: passes over the source; None repeats for ever. An incomplete last batch is
        dropped (`source.read` gives each image once).
      shuffle: False keeps the source's order.
      num_threads: threads that prepare batches ahead; 0 prepares a batch when it is asked for,
        which is fastest once the images are cached.

    Returns:
      An iterator of dicts: the arrays of `source.batch`, with b = batch_size / process_count rows,
      and "index" (b,) int32, each image's `source.positions`. It is Grain's; `set_state(state)`
      on a loader with the same source, batch_size and seed continues with exactly the batches
      that follow `state = get_state()`.

    Raises:
      UserError: if batch_size is not positive, not divisible by process_count, or larger than all
        epochs together.
      ValueError: if process_index is out of range.
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
    # 16-bit cycle), and forget sets are small; one permutation per epoch costs nothing.
    @functools.lru_cache(maxsize=2)  # a batch may span two epochs
    def order(epoch: int) -> np.ndarray:
        return stable_permutation(size, seed, epoch) if shuffle else np.arange(size)

    def read(step: int) -> dict[str, np.ndarray]:
        first = step * batch_size + process_index * share
        epochs, offsets = np.divmod(np.arange(first, first + share), size)
        indices = np.concatenate([order(int(e))[offsets[epochs == e]] for e in np.unique(epochs)])
        return source.batch(indices) | {"index": source.positions[indices].astype(np.int32)}

    steps = sys.maxsize if num_epochs is None else num_epochs * size // batch_size
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    # Grain iterates over steps and not images, so its state is the number of the next batch.
    return iter(grain.MapDataset.range(steps).map(read).to_iter_dataset(options))
