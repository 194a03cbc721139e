"""Orbax checkpoints: a folder of numbered steps, each a few named items.

`Store` is a thin wrapper around `orbax.checkpoint.CheckpointManager` that saves asynchronously
and turns what a user can get wrong (no checkpoint, another network, a damaged file) into one line.

    <step>/            Orbax's
    <step>.sums.json   size and CRC-32 of each of its files, taken once it was whole on the disk

Orbax itself notices a truncated file, but not a changed bit.
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

# Orbax logs every save at INFO, and with its traceback whatever it raises as well.
absl_logging.set_verbosity(absl_logging.FATAL)

DIGITS = 8  # of a step's folder name
MARGIN = 2**20  # bytes that are to stay free
IN_FLIGHT = 4  # times the largest tensor: what several processes read at once of a part


def abstract(tree: Any) -> Any:
    """Shapes, types and placement of a pytree: what to restore into."""

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
    """A tree of anything with a shape, divided: trees with None in place of the rest.

    At most `count`; they follow the order of the leaves and have about equal numbers of elements.
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
    """The tree that `parts` divided."""

    def given(*leaves: Any) -> Any:
        return next(leaf for leaf in leaves if leaf is not None)

    return jax.tree.map(given, *trees, is_leaf=lambda leaf: leaf is None)


def checksum(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return [size, crc]


class Damaged(UserError):
    """A checkpoint, or an item of one, that is missing or cannot be read.

    Attributes:
      what: the message without what to do.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self.what = what
        super().__init__(
            f"{what}: put it back from a copy, or delete {folder} and run what made it again"
        )


class Store:
    """Checkpoints in `directory`.

    Args:
      keep: how many of the newest to keep; `None` for all.
      read_only: for a folder that another stage owns.
    """

    def __init__(self, directory: Path, keep: int | None = None, read_only: bool = False) -> None:
        self.directory, self.read_only = Path(directory).absolute(), read_only
        self._found_whole: int | None = None  # by `restore_newest`: not to read its files again
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

        # Steps that an earlier process was cut off before it took their checksums.
        self._doubtful = set() if read_only else set(processes.from_leader(self._unsummed))

    def _unsummed(self) -> list[int]:
        return [step for step in self.steps() if not self._sums(step).exists()]

    def steps(self) -> list[int]:
        """The saved steps, in order."""
        return sorted(self._manager.all_steps())

    def _folder(self, step: int) -> Path:
        return self.directory / f"{step:0{DIGITS}d}"

    def _sums(self, step: int) -> Path:
        return self.directory / f"{step:0{DIGITS}d}.sums.json"

    def _sum_up(self) -> None:
        """Take the checksums of the steps that are whole on the disk and have none yet."""
        for step in set(self._unsummed()) - self._doubtful:
            folder = self._folder(step)
            files = (f for f in sorted(folder.rglob("*")) if f.is_file())
            sums = {str(f.relative_to(folder)): checksum(f) for f in files}
            artifacts.write_json(self._sums(step), sums)
        kept = {self._sums(step) for step in self.steps()}
        for path in set(self.directory.glob("*.sums.json")) - kept:
            path.unlink()

    def damage(self, step: int, name: str = "") -> str | None:
        """What is wrong with the files of a step, or of one of its items; None if nothing is.

        A step that was cut off before its checksums were taken is believed.
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
                return f"{path} is damaged: its checksum is not that of what was saved"
        return None

    def restore_newest(
        self,
        like: Mapping[str, Any],
        json: Sequence[str] = (),
        check: Callable[[int, Mapping[str, Any]], None] = lambda step, items: None,
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest step that is whole, and its items by name; None if no step was saved.

        Newer steps, which are damaged, are named and deleted.

        Args:
          like: what to restore each pytree into; see `restore`. json: names of JSON items.
          check: called with a step and its items; it raises `Damaged` if they are of no use.

        Raises:
          UserError: if every step is damaged (none is deleted then), or one belongs to another
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
                f"{damaged[0][1].what}, and nothing older in {self.directory} is whole: put its "
                f"files back from a copy, or delete {self.directory.parent} to start from step 0"
            )
        return None

    def _delete(self, step: int) -> None:
        self._manager.delete(step)
        processes.from_leader(self._sums(step).unlink, True)
        self._doubtful.discard(step)

    def save(
        self, step: int, trees: Mapping[str, Any], json: Mapping[str, Any] | None = None
    ) -> None:
        """Start saving; returns once the arrays are copied.

        A step saved before is left as it is, unless it is damaged or may be.

        Args:
          trees: pytrees of arrays by name. json: JSON-able values by name.

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
        """Raise an OSError if `size` bytes do not fit, before Orbax has begun to write."""
        # Compressed they are rarely smaller than this; small files take whole blocks.
        if shutil.disk_usage(self.directory).free < 0.9 * size + MARGIN:
            raise OSError(
                errno.ENOSPC,
                f"no disk space for a checkpoint of {size:,} bytes",
                str(self.directory),
            )

    @contextlib.contextmanager
    def _disk_space_reported(self) -> Iterator[None]:
        """What Orbax and TensorStore raise when the disk is full, as an OSError."""
        try:
            yield
        except Exception as error:
            if os.strerror(errno.ENOSPC) not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory)) from error

    def restore(self, step: int, name: str, like: Any) -> Any:
        """One pytree of one step, in the structure and placement of `like` (see `abstract`).

        Raises:
          Damaged: if the step or the item is missing or damaged.
          UserError: if it belongs to another network (the first tensor that differs is named).
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
        """The same of several steps, each in `count` parts of about equal size, one at a time.

        A part is the tree with None in place of the arrays that are not in it. A process that is
        alone gets NumPy's, which Orbax reads in half the time; several get theirs in the placement
        of `like`. The steps of a folder are of one network: the first is compared with `like`.

        Returns:
          (index of the part, part), those of a step after those of the step before.

        Raises: as `restore`.
        """
        self.check(steps[0], name, like)
        largest = max(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(like))
        # Orbax's buffers, too, are to be a few tensors and not a part; heeded for JAX's only.
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
        """Raises: Damaged, if a step is missing or its item damaged."""
        if step not in self._manager.all_steps():
            raise self._damaged(f"{self.directory} has no checkpoint of step {step}")
        if step != self._found_whole and (damage := self.damage(step, name)):
            raise self._damaged(damage)

    def _damaged(self, what: str) -> Damaged:
        return Damaged(what, self.directory.parent)

    def _where(self, step: int, name: str) -> str:
        return f"{self.directory} step {step} ({name})"

    def check(self, step: int, name: str, like: Any) -> None:
        """Raises: UserError; see `restore`."""
        where = self._where(step, name)
        self._check_files(step, name)
        try:
            with ocp.StandardCheckpointer() as reader:
                stored = reader.metadata(self._folder(step) / name)
            shapes = _shapes(stored.item_metadata.tree)
        except Exception as error:
            # Orbax finds nothing where a file of its own is gone.
            raise self._damaged(f"{where} is missing or damaged") from error
        wanted = _shapes(like)
        for tensor in sorted(shapes.keys() | wanted.keys()):
            if shapes.get(tensor) != wanted.get(tensor):
                raise UserError(
                    f"{where} belongs to another network: {tensor} is "
                    f"{shapes.get(tensor, 'absent')} there and {wanted.get(tensor, 'absent')} in "
                    "the config's model"
                )
        self._doubtful.discard(step)

    def restore_json(self, step: int, name: str) -> Any:
        """One JSON item of one step.

        Raises:
          Damaged: if it is missing or damaged.
        """
        args = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
        try:
            return self._manager.restore(step, args=args)[name]
        except Exception as error:
            raise self._damaged(f"{self._where(step, name)} is damaged ({error})") from error

    def wait(self) -> None:
        """Block until every save has reached the disk, and its checksums."""
        with self._disk_space_reported():
            self._manager.wait_until_finished()
        processes.from_leader(self._sum_up)

    def close(self) -> None:
        if not self.read_only:
            self.wait()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
