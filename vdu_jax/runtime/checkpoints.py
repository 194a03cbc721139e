"""Orbax checkpoints: a folder of numbered steps, each a few named items.

`Store` is a thin wrapper around `orbax.checkpoint.CheckpointManager` that saves asynchronously
and turns what a user can get wrong (no checkpoint, another network, a damaged file) into one line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from vdu_jax.errors import UserError

absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax logs every save at INFO

DIGITS = 8  # of a step's folder name


def abstract(tree: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    """Shapes, types and placement of a pytree: what to restore into."""

    def leaf(x):
        place = sharding if sharding is not None else getattr(x, "sharding", None)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    return jax.tree.map(leaf, tree)


def _shapes(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            tuple(leaf.shape)
        )
        for path, leaf in leaves
    }


class Store:
    """Checkpoints in `directory`.

    Args:
      keep: how many of the newest to keep; `None` for all.
      read_only: for a folder that another stage owns.
    """

    def __init__(self, directory: Path, keep: int | None = None, read_only: bool = False):
        self.directory = Path(directory).absolute()
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

    def steps(self) -> list[int]:
        """The saved steps, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, trees: Mapping[str, Any], json: Mapping[str, Any] | None = None):
        """Start saving; returns once the arrays are copied. A step saved before is left as it is.

        Args:
          trees: pytrees of arrays by name. json: JSON-able values by name.
        """
        if step in self._manager.all_steps():
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items |= {name: ocp.args.JsonSave(value) for name, value in (json or {}).items()}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, step: int, name: str, like: Any) -> Any:
        """One pytree of one step, in the structure and placement of `like` (see `abstract`).

        Raises:
          UserError: if the step or the item is missing or damaged, or belongs to another network
            (the first tensor that differs is named).
        """
        where = f"{self.directory} step {step} ({name})"
        if step not in self._manager.all_steps():
            raise UserError(f"{self.directory} has no checkpoint of step {step}")
        try:
            with ocp.StandardCheckpointer() as reader:
                stored = reader.metadata(self.directory / f"{step:0{DIGITS}d}" / name)
            found = _shapes(stored.item_metadata.tree)
        except Exception as error:
            raise UserError(f"{where} is missing or damaged ({error}): make it again") from error
        wanted = _shapes(like)
        for tensor in sorted(found.keys() | wanted.keys()):
            if found.get(tensor) != wanted.get(tensor):
                raise UserError(
                    f"{where} belongs to another network: {tensor} is "
                    f"{found.get(tensor, 'absent')} there and {wanted.get(tensor, 'absent')} in "
                    "the config's model"
                )
        try:
            args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like)})
            return self._manager.restore(step, args=args)[name]
        except Exception as error:
            raise UserError(f"{where} is damaged: {error}") from error

    def restore_json(self, step: int, name: str) -> Any:
        """One JSON item of one step."""
        args = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
        try:
            return self._manager.restore(step, args=args)[name]
        except Exception as error:
            raise UserError(f"{self.directory} step {step} ({name}) is damaged: {error}") from error

    def wait(self) -> None:
        """Block until every save has reached the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
