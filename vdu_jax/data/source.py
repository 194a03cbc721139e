"""Prepared data sets and random access to their images, decoded on first touch."""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from vdu_jax.data.loader import Source
from vdu_jax.data.pixels import to_model_range
from vdu_jax.data.registry import check_settings, get_spec
from vdu_jax.errors import UserError

if TYPE_CHECKING:
    from tensorflow_datasets.core.data_sources.base import BaseDataSource

    from vdu_jax.data.builders import Builder

DEFAULT_CACHE_BYTES = 512 * 2**20
_CHUNK = 1024
# Errors of a full, read-only or failing disk, which the user can mend.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class Dataset(NamedTuple):
    """A prepared data set: plain data, no open file.

    Attributes:
      name: the registered name.
      image_shape: (H, W, C).
      class_names: one name per label, in the order of the labels.
      directory: the folder in which TFDS keeps the prepared files.
      account: a line on the files that are read and left out of the user's own folder; "" for
        other data sets.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    directory: str
    account: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def load(
    name: str,
    data_dir: str | os.PathLike,
    manual_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    background: str = "",
) -> Dataset:
    """Load a data set; prepare it under `data_dir` first if necessary.

    Preparation writes to a temporary directory that is renamed when complete, so an
    interrupted preparation is never used as data. Processes that share `data_dir` wait for each
    other.

    Args:
      name: one of `dataset_names()`.
      data_dir: the folder for prepared data sets.
      manual_dir: the folder with the user's copies of the original files (nothing is downloaded
        then), or for "image_folder" the folder of images. Empty or None downloads. A prepared data
        set other than "image_folder" does not read manual_dir again.
      image_size: side of the images in pixels, 4 to 4096. Required for "image_folder"; for other
        data sets None or their own size.
      channels: 1 (grayscale) or 3 (RGB). Required for "image_folder"; for other data sets None or
        their own number.
      background: colour under transparent pixels of "image_folder", "white" or "black"; ""
        refuses such images.

    Returns:
      The data set; `open_split` reads its images.

    Raises:
      UserError: if the name is unknown, a file is missing or damaged, the download fails, or
        `data_dir` is full or not writable.
    """
    check_settings(name, image_size, channels, background)
    spec = get_spec(name)
    data_dir = Path(data_dir).expanduser()
    arguments: dict[str, Any] = {"data_dir": data_dir, "manual_dir": manual_dir or None}
    if spec.image_shape is None:
        arguments |= {"image_size": image_size, "channels": channels, "background": background}

    from vdu_jax.data import builders  # imports TFDS, which is slow

    builder = getattr(builders, spec.builder)(**arguments)
    if not _is_prepared(builder):
        try:
            _prepare(name, builder, data_dir)
        except UserError as error:
            raise UserError(str(error)) from error  # TFDS may have added lines to the message
        except (OSError, RuntimeError) as error:
            raise _cannot_prepare(name, data_dir, error) from error
    return Dataset(
        name=name,
        image_shape=tuple(builder.info.features["image"].shape),
        class_names=tuple(builder.info.features["label"].names),
        directory=os.fspath(builder.data_dir),
        account=getattr(builder, "account", ""),
    )


def _cannot_prepare(name: str, data_dir: Path, error: Exception) -> Exception:
    """The exception to raise after `error` ended a preparation.

    Returns:
      A UserError if the disk is the cause, else `error` itself.
    """
    text = str(error)
    # ArrayRecord's writer raises RuntimeError with the system's words in it.
    code = getattr(error, "errno", None) or next(
        (code for code in _DISK_ERRORS if os.strerror(code) in text), None
    )
    if code is None and not isinstance(error, OSError):
        return error
    reason = text if code is None else os.strerror(code)
    do = (
        "free some space there, or set data.dir to a folder with more"
        if code in (errno.ENOSPC, errno.EDQUOT)
        else "check that the directory is writable and has free space"
    )
    file = getattr(error, "filename", None)
    return UserError(
        f"cannot prepare {name} in data_dir={data_dir} ({reason}{f': {file}' if file else ''}); "
        f"{do}, and run again (an incomplete preparation is never used)"
    )


def _is_prepared(builder: "Builder") -> bool:
    directory = Path(builder.data_dir)
    if not directory.exists():
        return False
    # A complete directory appears by a rename, so one without an index was changed later.
    if not (directory / "dataset_info.json").exists():
        raise UserError(
            f"{directory} is not a complete data set; delete it to have it prepared again"
        )
    return True


def _prepare(name: str, builder: "Builder", data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / f".{builder.name}.lock", "w") as lock:
        # On a file system without locks the final rename still lets only one process win.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Left by killed processes: no live process can own them while this one has the lock.
            for left in (data_dir / builder.name).rglob("incomplete.*"):
                shutil.rmtree(left, ignore_errors=True)
        if _is_prepared(builder):  # another process did it while this one waited
            builder.info.read_from_directory(builder.data_dir)
            return
        print(f"preparing {name} in {builder.data_dir}", file=sys.stderr)
        # TFDS prints to stdout, which is reserved for results.
        with contextlib.redirect_stdout(io.StringIO()):
            tfds.display_progress_bar(sys.stderr.isatty())
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    force_checksums_validation=True, try_download_gcs=False
                ),
                file_format="array_record",
            )


class ImageSource:
    """Random access to one split or to a part of it (a Grain RandomAccessDataSource).

    `source[i]` is {"image": (H, W, C) uint8 in [0, 255], "label": int}. An image is decoded when
    it is first read, and kept in memory up to `cache_bytes`.

    A method that may see only the forget data gets `source.subset(forget)`: that view has no
    index for any other image, and a cache of its own.

    Attributes:
      positions: (N,) int64, the index of each image in its split.
      labels: (N,) int64 classes, read without decoding an image; not writable.
      image_shape: (H, W, C).
      num_classes: number of classes of the data set, also in a subset.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[int]], Sequence[bytes]],
        labels: np.ndarray,
        image_shape: tuple[int, int, int],
        num_classes: int,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        positions: np.ndarray | None = None,
    ) -> None:
        """Make a source of N images.

        Args:
          fetch: maps n indices in [0, N) to n images as PNG bytes.
          labels: (N,) integer classes.
          image_shape: (H, W, C).
          num_classes: number of classes of the data set.
          cache_bytes: limit of the decoded images kept in memory, in bytes.
          positions: (N,) the index of each image in its split; None for 0 … N − 1.
        """
        self._fetch = fetch
        self.positions = np.arange(len(labels)) if positions is None else positions
        self.labels = np.array(labels, np.int64)
        self.labels.flags.writeable = False
        self.image_shape = image_shape
        self.num_classes = num_classes
        self._cache_bytes = cache_bytes
        capacity = min(len(self.labels), cache_bytes // int(np.prod(self.image_shape)))
        # The operating system backs these pages only when they are first written.
        self._cache = np.empty((capacity, *self.image_shape), np.uint8)
        self._slots = np.full(len(self.labels), -1, np.int64)
        self._used = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSource({len(self)} images of shape {self.image_shape})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        images, labels = self.read([index])
        return {"image": images[0], "label": int(labels[0])}

    def read(
        self, indices: Sequence[int] | np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read images and labels.

        Args:
          indices: (n,) integers in [0, N); None for all images.

        Returns:
          (images (n, H, W, C) uint8 in [0, 255], labels (n,) int64).

        Raises:
          IndexError: if an index is outside [0, N); negative indices do not wrap.
        """
        indices = np.arange(len(self)) if indices is None else self._check(indices)
        slots = self._slots[indices]
        missing = np.flatnonzero(slots < 0)
        if not missing.size:
            return self._cache[slots], self.labels[indices]
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        cached = slots >= 0
        images[cached] = self._cache[slots[cached]]
        for start in range(0, missing.size, _CHUNK):
            rows = missing[start : start + _CHUNK]
            for row, png in zip(rows, self._fetch(indices[rows].tolist()), strict=True):
                images[row] = _decode(png, self.image_shape)
            self._remember(indices[rows], images[rows])
        return images, self.labels[indices]

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Read images as the networks take them.

        Args:
          indices: (n,) integers in [0, N).

        Returns:
          {"image": (n, H, W, C) float32 in [-1, 1], "label": (n,) int32}.

        Raises:
          IndexError: if an index is outside [0, N).
        """
        images, labels = self.read(indices)
        return {"image": to_model_range(images), "label": labels.astype(np.int32)}

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSource":
        """A view restricted to `indices`, in that order.

        Args:
          indices: (n,) integers in [0, N), at least one.

        Returns:
          A source of n images, with a cache of its own. It can read no other image.

        Raises:
          IndexError: if an index is outside [0, N).
          ValueError: if there is no index.
        """
        chosen = self._check(indices).copy()
        if not chosen.size:
            raise ValueError("a subset needs at least one image")
        fetch = self._fetch
        return ImageSource(
            lambda local: fetch(chosen[local].tolist()),
            self.labels[chosen],
            self.image_shape,
            self.num_classes,
            self._cache_bytes,
            self.positions[chosen],
        )

    def _check(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise IndexError(f"indices must be a vector of integers, not {indices!r}")
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"index out of range for {len(self)} images")
        return indices.astype(np.int64)

    def _remember(self, indices: np.ndarray, images: np.ndarray) -> None:
        with self._lock:
            for index, image in zip(indices, images, strict=True):
                if self._used == len(self._cache):
                    return
                if self._slots[index] < 0:
                    self._cache[self._used] = image
                    # Set last: a reader without the lock must see only slots that are filled.
                    self._slots[index] = self._used
                    self._used += 1


class ArraySource:
    """Images in memory, as a source for `make_loader`.

    Attributes:
      positions: (N,) int64, 0 … N − 1.
      image_shape: (H, W, C).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Make a source of N images.

        Args:
          images: (N, H, W, C) uint8 in [0, 255].
          labels: (N,) integer classes; None for all 0.
        """
        self._images = images
        self._labels = np.zeros(len(images)) if labels is None else labels
        self.positions = np.arange(len(images))
        self.image_shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `ImageSource.batch`."""
        images = to_model_range(self._images[indices])
        return {"image": images, "label": self._labels[indices].astype(np.int32)}


class Mirrored:
    """A source of 2N images: those of another source, then each of them turned left to right.

    Attributes:
      positions: (2N,) int64; an image and its mirror image have the same.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.positions = np.tile(source.positions, 2)

    def __len__(self) -> int:
        return 2 * len(self._source)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `loader.Source.batch`."""
        turned, of = np.divmod(indices, len(self._source))
        batch = self._source.batch(of)
        image, rows = batch["image"], turned.astype(bool)[:, None, None, None]
        return batch | {"image": np.where(rows, image[:, :, ::-1], image)}


def open_split(dataset: Dataset, split: str, cache_bytes: int = DEFAULT_CACHE_BYTES) -> ImageSource:
    """Open a split of a prepared data set.

    Args:
      dataset: a data set that `load` returned.
      split: "train" or "test".
      cache_bytes: limit of the decoded images kept in memory, in bytes; for this source and for
        each subset of it.

    Returns:
      The split's images, in the order of the original files.

    Raises:
      UserError: if there is no such split, or the prepared files are missing or damaged.
    """
    import tensorflow_datasets as tfds

    @contextlib.contextmanager
    def readable() -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # its type depends on where the damage in the file is
            raise UserError(
                f"the prepared data in {dataset.directory} cannot be read "
                f"({type(error).__name__}: {error}); delete that directory to have it prepared "
                "again"
            ) from error

    with readable():
        builder = tfds.builder_from_directory(dataset.directory)
        if split not in builder.info.splits:
            raise UserError(f"{dataset.name} has no split {split!r}; use 'train' or 'test'")
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        labels = _labels(records, Path(dataset.directory) / f"labels-{split}.npy")

    def fetch(indices: Sequence[int]) -> list[bytes]:
        with readable():
            return [record["image"] for record in records.__getitems__(list(indices))]

    return ImageSource(fetch, labels, dataset.image_shape, dataset.num_classes, cache_bytes)


def _decode(png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).reshape(shape)


def _labels(records: "BaseDataSource", cache: Path) -> np.ndarray:
    """(N,) int64 labels; cached in a file, because parsing 60 000 records takes seconds."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        labels = np.load(cache, allow_pickle=False)
        if labels.shape == (len(records),) and labels.dtype == np.int64:
            return labels
    labels = np.empty(len(records), np.int64)
    for start in range(0, len(records), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(records)))
        labels[chunk.start : chunk.stop] = [r["label"] for r in records.__getitems__(list(chunk))]
    # A shared data_dir may be read-only; then the labels are parsed each time.
    with contextlib.suppress(OSError):
        temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                np.save(file, labels)
            os.replace(temporary, cache)
        finally:
            temporary.unlink(missing_ok=True)
    return labels
