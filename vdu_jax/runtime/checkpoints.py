"""Orbax checkpoints: a folder of numbered steps, each a few named items.

`Store` is a thin wrapper around `orbax.checkpoint.CheckpointManager`. It saves asynchronously, and
turns a user's mistakes (no checkpoint, another network, a damaged file) into one line.

    <step>/            written by Orbax
    <step>.sums.json   size and CRC-32 of each of its files, taken when the step was complete

The checksums are needed because Orbax detects a truncated file, but not a changed bit.
"""

import contextlib
import errno
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts, parallel, processes

# Orbax logs every save at INFO, and logs every exception with its traceback before it raises it.
absl_logging.set_verbosity(absl_logging.FATAL)

DIGITS = 8  # in the name of a step's folder
MARGIN = 2**20  # bytes of disk space that a save leaves free
IN_FLIGHT = 4  # Orbax's read buffer in a run of several processes, in sizes of the largest tensor


def abstract(tree: Any) -> Any:
    """Shapes, types and sharding of a pytree of arrays, as a target of `Store.restore`."""

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))

    return jax.tree.map(leaf, tree)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            tuple(leaf.shape)
        )
        for path, leaf in leaves
    }


def parts(tree: Any, count: int) -> list[Any]:
    """Divide a pytree into parts with about equal numbers of elements.

    Args:
      tree: a pytree of arrays or shapes.
      count: largest number of parts.

    Returns:
      Trees of the same structure, in the order of the leaves, with None in place of the leaves of
      other parts.
    """
    leaves, structure = jax.tree.flatten(tree)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    middles = np.cumsum(sizes) - np.array(sizes) / 2
    of_leaf = (middles * count / sum(sizes)).astype(int)
    return [
        jax.tree.unflatten(
            structure,
            [leaf if p == part else None for leaf, p in zip(leaves, of_leaf, strict=True)],
        )
        for part in sorted(set(of_leaf))
    ]


def whole(trees: Sequence[Any]) -> Any:
    """Join the parts that `parts` made into one tree."""

    def given(*leaves: Any) -> Any:
        return next(leaf for leaf in leaves if leaf is not None)

    return jax.tree.map(given, *trees, is_leaf=lambda leaf: leaf is None)


def checksum(path: Path) -> list[int]:
    """[size in bytes, CRC-32] of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return [size, crc]


class Damaged(UserError):
    """A checkpoint, or one of its items, is missing or cannot be read.

    Attributes:
      what: the first part of the message, without the remedy.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self.what = what
        super().__init__(
            f"{what}: restore it from a backup, or delete {folder} and run its stage again"
        )


class Store:
    """Checkpoints in a folder; a context manager that waits for the last save.

    Attributes:
      directory: the folder.
      read_only: whether the folder belongs to another stage.
    """

    def __init__(self, directory: Path, keep: int | None = None, read_only: bool = False) -> None:
        """Open a folder of checkpoints.

        Args:
          directory: the folder; it is created unless `read_only`.
          keep: number of newest steps to keep; None keeps all.
          read_only: for a folder that belongs to another stage.

        Raises:
          UserError: if the folder of a read-only store does not exist.
        """
        self.directory, self.read_only = Path(directory).absolute(), read_only
        self._found_whole: int | None = None  # checked by `restore_newest`; not checked again
        if read_only and not self.directory.is_dir():
            raise UserError(f"no checkpoints at {self.directory}: run the stage that makes them")
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                read_only=read_only,
                create=not read_only,
                enable_async_checkpointing=not read_only,
                step_format_fixed_length=DIGITS,
            ),
        )

        # Steps without checksums: an earlier process was stopped before it took them.
        self._doubtful = set() if read_only else set(processes.from_leader(self._unsummed))

    def _unsummed(self) -> list[int]:
        return [step for step in self.steps() if not self._sums(step).exists()]

    def steps(self) -> list[int]:
        """Numbers of the saved steps, in increasing order."""
        return sorted(self._manager.all_steps())

    def _folder(self, step: int) -> Path:
        return self.directory / f"{step:0{DIGITS}d}"

    def _sums(self, step: int) -> Path:
        return self.directory / f"{step:0{DIGITS}d}.sums.json"

    def _sum_up(self) -> None:
        """Take the checksums of the complete steps that have none yet."""
        for step in set(self._unsummed()) - self._doubtful:
            folder = self._folder(step)
            files = (f for f in sorted(folder.rglob("*")) if f.is_file())
            sums = {str(f.relative_to(folder)): checksum(f) for f in files}
            artifacts.write_json(self._sums(step), sums)
        kept = {self._sums(step) for step in self.steps()}
        for path in set(self.directory.glob("*.sums.json")) - kept:
            path.unlink()

    def damage(self, step: int, name: str = "") -> str | None:
        """Check the files of a step against their checksums.

        Args:
          step: number of the step.
          name: name of an item; "" checks all items.

        Returns:
          The first fault, in words; None if there is none, or if the step has no checksums because
          the process was stopped before it took them.
        """
        return processes.from_leader(self._damage, step, name)

    def _damage(self, step: int, name: str) -> str | None:
        if not self._sums(step).exists():
            return None
        try:
            taken = artifacts.read_json(self._sums(step)).items()
        except (UserError, AttributeError):
            return f"{self._sums(step)} is damaged"
        for file, sums in taken:
            path = self._folder(step) / file
            if name and not file.startswith(f"{name}/"):
                continue
            if not path.is_file():
                return f"{path} is missing"
            if checksum(path) != sums:
                return f"{path} is damaged: its checksum is not that of the saved file"
        return None

    def restore_newest(
        self,
        like: Mapping[str, Any],
        json: Sequence[str] = (),
        check: Callable[[int, Mapping[str, Any]], None] = lambda step, items: None,
    ) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest undamaged step; newer damaged steps are reported and deleted.

        Args:
          like: the target of each pytree, by name; see `restore`.
          json: names of JSON items.
          check: `(step, items) -> None`; raises `Damaged` for a step that cannot be used.

        Returns:
          (step, items by name); None if no step was saved.

        Raises:
          UserError: if every step is damaged (none is deleted then), or a step belongs to another
            network.
        """
        damaged: list[tuple[int, Damaged]] = []
        for step in reversed(self.steps()):
            items: dict[str, Any] = {}
            error = None
            try:
                if damage := self.damage(step):
                    raise self._damaged(damage)
                self._found_whole = step
                items |= {name: self.restore(step, name, tree) for name, tree in like.items()}
                items |= {name: self.restore_json(step, name) for name in json}
                check(step, items)
            except Damaged as raised:
                error = raised
            if any(processes.gather(np.array([error is not None]))):
                self._found_whole = None
                damaged.append((step, error or self._damaged(f"{self._folder(step)} is damaged")))
                continue
            for newer, why in damaged:
                processes.report(f"{why.what}; going on from step {step}")
                self._delete(newer)
            return step, items
        if damaged:
            raise UserError(
                f"{damaged[0][1].what}, and so is every older step in {self.directory}: restore "
                f"the files from a backup, or delete {self.directory.parent} to start from step 0"
            )
        return None

    def _delete(self, step: int) -> None:
        self._manager.delete(step)
        processes.from_leader(self._sums(step).unlink, True)
        self._doubtful.discard(step)

    def save(
        self, step: int, trees: Mapping[str, Any], json: Mapping[str, Any] | None = None
    ) -> None:
        """Start to save a step; returns once the arrays are copied.

        A step that is already saved is kept, unless it is damaged or has no checksums.

        Args:
          step: number of the step.
          trees: pytrees of arrays by name.
          json: JSON values by name.

        Raises:
          OSError: if the disk is full.
        """
        self.wait()
        if step in self._manager.all_steps():
            if step not in self._doubtful and self.damage(step) is None:
                return
            self._delete(step)
        processes.from_leader(self._check_disk_space, parallel.total_bytes(list(trees.values())))
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items |= {name: ocp.args.JsonSave(value) for name, value in (json or {}).items()}
        with self._disk_space_reported():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def _check_disk_space(self, size: int) -> None:
        """Raise an OSError if `size` bytes do not fit on the disk, before Orbax writes any."""
        # Compression rarely saves more than a tenth; MARGIN is for small files, which take blocks.
        if shutil.disk_usage(self.directory).free < 0.9 * size + MARGIN:
            raise OSError(
                errno.ENOSPC,
                f"no disk space for a checkpoint of {size:,} bytes",
                str(self.directory),
            )

    @contextlib.contextmanager
    def _disk_space_reported(self) -> Iterator[None]:
        """Turn what Orbax and TensorStore raise when the disk is full into an OSError."""
        try:
            yield
        except Exception as error:
            if os.strerror(errno.ENOSPC) not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory)) from error

    def restore(self, step: int, name: str, like: Any) -> Any:
        """Restore one pytree of one step.

        Args:
          step: number of the step.
          name: name of the pytree.
          like: its structure, shapes, types and sharding; see `abstract`.

        Raises:
          Damaged: if the step or the item is missing or damaged.
          UserError: if it belongs to another network; the message names the first tensor that
            differs.
        """
        self.check(step, name, like)
        try:
            args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like)})
            return self._manager.restore(step, args=args)[name]
        except Exception as error:
            raise self._damaged(f"{self._where(step, name)} is damaged ({error})") from error

    def restore_parts(
        self, steps: Sequence[int], name: str, like: Any, count: int
    ) -> Iterator[tuple[int, Any]]:
        """Restore one pytree of several steps, one part at a time, to bound the memory.

        A single process gets NumPy arrays, which Orbax reads in half the time; several processes
        get arrays with the sharding of `like`. All steps of a folder are of one network, so only
        the first is compared with `like`.

        Args:
          steps: numbers of the steps.
          name: name of the pytree.
          like: its structure, shapes, types and sharding; see `abstract`.
          count: parts per step; see `parts`.

        Yields:
          (index of the part, part), in the order of the steps. A part is the tree with None in
          place of the arrays of other parts.

        Raises:
          Damaged: if a step or the item is missing or damaged.
          UserError: if the first step belongs to another network.
        """
        self.check(steps[0], name, like)
        largest = max(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(like))
        # Bounds Orbax's buffers to a few tensors instead of a part; it applies to JAX arrays only.
        handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=IN_FLIGHT * largest / 1e9)
        with ocp.Checkpointer(handler) as reader:
            for step in steps:
                if step != steps[0]:
                    self._check_files(step, name)
                for index, part in enumerate(parts(like, count)):
                    if processes.count() == 1:
                        kinds = jax.tree.map(
                            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), part
                        )
                    else:
                        kinds = ocp.checkpoint_utils.construct_restore_args(part)
                    args = ocp.args.PyTreeRestore(part, kinds, partial_restore=True)
                    try:
                        yield index, reader.restore(self._folder(step) / name, args=args)
                    except ValueError as error:
                        what = f"{self._where(step, name)} is damaged ({error})"
                        raise self._damaged(what) from error

    def _check_files(self, step: int, name: str) -> None:
        """Raise `Damaged` if a step is missing or its item damaged."""
        if step not in self._manager.all_steps():
            raise self._damaged(f"{self.directory} has no checkpoint of step {step}")
        if step != self._found_whole and (damage := self.damage(step, name)):
            raise self._damaged(damage)

    def _damaged(self, what: str) -> Damaged:
        return Damaged(what, self.directory.parent)

    def _where(self, step: int, name: str) -> str:
        return f"{self.directory} step {step} ({name})"

    def check(self, step: int, name: str, like: Any) -> None:
        """Check that a pytree of a step can be restored into `like`; nothing is restored.

        Args:
          step: number of the step.
          name: name of the pytree.
          like: its structure and shapes.

        Raises:
          Damaged: if the step or the item is missing or damaged.
          UserError: if it belongs to another network.
        """
        where = self._where(step, name)
        self._check_files(step, name)
        try:
            with ocp.StandardCheckpointer() as reader:
                stored = reader.metadata(self._folder(step) / name)
            shapes = _shapes(stored.item_metadata.tree)
        except Exception as error:
            # Orbax also fails if only one of its own files is missing.
            raise self._damaged(f"{where} is missing or damaged") from error
        wanted = _shapes(like)
        for tensor in sorted(shapes.keys() | wanted.keys()):
            if shapes.get(tensor) != wanted.get(tensor):
                raise UserError(
                    f"{where} belongs to another network: {tensor} is "
                    f"{shapes.get(tensor, 'absent')} there and {wanted.get(tensor, 'absent')} in "
                    "the config's model; use the config that it was made with"
                )
        self._doubtful.discard(step)

    def restore_json(self, step: int, name: str) -> Any:
        """Restore one JSON item of one step.

        Args:
          step: number of the step.
          name: name of the item.

        Raises:
          Damaged: if it is missing or damaged.
        """
        args = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
        try:
            return self._manager.restore(step, args=args)[name]
        except Exception as error:
            raise self._damaged(f"{self._where(step, name)} is damaged ({error})") from error

    def wait(self) -> None:
        """Block until all saves and their checksums are on the disk."""
        with self._disk_space_reported():
            self._manager.wait_until_finished()
        processes.from_leader(self._sum_up)

    def close(self) -> None:
        """Wait for the last save and close the store."""
        if not self.read_only:
            self.wait()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
