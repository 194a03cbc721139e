"""The part of a task that all kinds of models share: folders, checkpoints, stored samples."""

import abc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import data
from vdu_jax.config import ORIGINAL
from vdu_jax.diffusion.parameterization import Parameterization, make_parameterization
from vdu_jax.diffusion.schedule import make_schedule
from vdu_jax.runtime import artifacts, operations, parallel, processes
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.types import Params


class Request(NamedTuple):
    """Images to be sampled and their conditions.

    Attributes:
      count: N, the number of images.
      asked: the conditions: arrays or lists of N rows each; empty for unconditional models.
      about: the conditions as JSON values, an input of the stage that samples the images.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which a request has no use for
    asked: tuple[Any, ...]
    about: dict[str, Any]


Checkpoint = tuple[Path, int | None]
"""(folder, step) of stored parameters; the step is None for a diffusers folder."""


class Replay(NamedTuple):
    """Images of the original model, which methods learn to preserve.

    Attributes:
      images: (N, H, W, C) uint8.
      forget_like: (N,) bool, the images that resemble D_f and are left out.
      for_scorer: arrays that the task's cleaning made for its scorer.
    """

    images: np.ndarray
    forget_like: np.ndarray
    for_scorer: dict[str, np.ndarray]


class BaseTask(abc.ABC):
    """The part of `vdu_jax.tasks.Task` that is the same for all kinds of models.

    Args:
      config: all settings.
      workdir: the run's folder; None for a task that neither reads nor writes files.

    Attributes:
      config: all settings.
      inputs: the settings of the condition that change results; an input of every stage.
    """

    inputs: dict[str, Any] = {}

    def __init__(self, config: ConfigDict, workdir: Path | None) -> None:
        self.config = config
        self._workdir = None if workdir is None else Path(workdir)

    @property
    def workdir(self) -> Path:
        """The run's folder. A planned task has none, and nothing asks it for one."""
        assert self._workdir is not None, "a task that was only planned has no workdir"
        return self._workdir

    # Answered by each kind of model; see `vdu_jax.tasks.Task`.

    @property
    @abc.abstractmethod
    def param_shapes(self) -> Params:
        """Shapes of the network's parameters."""

    @property
    @abc.abstractmethod
    def original_params(self) -> Params:
        """θ*: the parameters of the model to be unlearned."""

    @property
    @abc.abstractmethod
    def forget_retain(self) -> data.ForgetRetain:
        """Indices of D_f and D_r in the training images."""

    @abc.abstractmethod
    def original_folder(self) -> Path:
        """The folder of the model to be unlearned."""

    @abc.abstractmethod
    def draw(self, params: Params, request: Request, seed: int, label: str) -> np.ndarray:
        """See `vdu_jax.tasks.Task.draw`."""

    # Folders

    def stage(
        self, name: str, sections: Sequence[str], upstream: Sequence[str] = (), **more: Any
    ) -> StageDir:
        """A stage's folder, with the inputs by which a finished stage is recognised.

        Args:
          name: path of the folder in the workdir.
          sections: sections of the config that the stage depends on.
          upstream: finished stages that it depends on, by name. "original" is the model to be
            unlearned, in whichever folder it lies.
          more: further inputs, JSON values.

        Raises:
          UserError: if an upstream stage has not finished, or the model was made with other
            settings than the config's.
        """
        self.original_folder()
        inputs = {s: self.config[s].to_dict() for s in sections} | more | self.inputs
        inputs["upstream"] = {
            u: self.original_fingerprint()
            if u == ORIGINAL
            else artifacts.upstream(self.workdir, u)["fingerprint"]
            for u in upstream
        }
        return StageDir(self.workdir, name, inputs)

    def original_fingerprint(self) -> str:
        """A hash of what identifies the model to be unlearned.

        Raises:
          UserError: if it has not been trained yet.
        """
        return self.checkpoint_fingerprint(self.original_folder())

    def checkpoint_fingerprint(self, folder: Path) -> str:
        """A hash of what identifies the model in a folder.

        Raises:
          UserError: if the stage that makes it has not finished.
        """
        return artifacts.finished(folder)["fingerprint"]

    @property
    def num_forget(self) -> int:
        """|D_f|, the number of images to be forgotten."""
        return len(self.forget_retain.forget)

    # Checkpoints

    @property
    def weights(self) -> str:
        """Which parameters of a training run are its model: "ema" if it keeps them, or "params"."""
        return "ema" if self.config.train.ema_decay > 0 else "params"

    @property
    def abstract_params(self) -> Params:
        """Shapes of the network's parameters and their placement on the devices."""
        return parallel.placed(self.param_shapes, parallel.make_mesh(self.config.parallel.fsdp))

    def load_snapshot(
        self, folder: Path, step: int | None, weights: str, like: Params = None
    ) -> Params:
        """Read the parameters of one checkpoint.

        Args:
          folder: folder of a model or method; checkpoints lie in its `snapshots/`.
          step: which checkpoint; None for a diffusers folder, which has no steps.
          weights: "params" or, for a training run, "ema".
          like: shapes of the stored parameters; None for the whole network's.

        Raises:
          UserError: if the checkpoint is missing, damaged or of another network.
        """
        like = self.abstract_params if like is None else like
        return restore(folder, _saved(step), stored_weights(folder, weights), like)

    def load_parts(
        self, folder: Path, steps: Sequence[int | None], weights: str, count: int
    ) -> Iterator[tuple[int, Params]]:
        """Read the parameters of several checkpoints in parts, so that one part is held at a time.

        Args:
          folder: as in `load_snapshot`.
          steps: as `step` in `load_snapshot`.
          weights: as in `load_snapshot`.
          count: number of parts of each checkpoint.

        Yields:
          Index of the part and the part, a tree with None for the arrays of other parts; see
          `Store.restore_parts`.
        """
        with Store(folder / "snapshots", read_only=True) as store:
            weights = stored_weights(folder, weights)
            saved = list(map(_saved, steps))
            yield from store.restore_parts(saved, weights, self.abstract_params, count)

    # Drawing

    def draw_original(self, request: Request, seed: int, label: str = "sample") -> np.ndarray:
        """Sample images from the original, or read them back.

        They are stored in `drawn/` in the original's folder, because they are the same whatever is
        unlearned from it.

        Args:
          request: number of images and their conditions.
          seed: of the noise.
          label: of the progress bar.

        Returns:
          (N, H, W, C) uint8.
        """
        what = {
            "model": self.original_fingerprint(),
            "weights": self.weights,
            "sampler": vdu_config.section_inputs("sampler", self.config.sampler.to_dict()),
            "seed": seed,
            "count": request.count,
            **request.about,
            **self.inputs,
        }
        file = self.drawn_folder() / f"{artifacts.fingerprint(what)}.npz"
        if not artifacts.exists(file):
            images = self.draw(self.original_params, request, seed, f"{label} {ORIGINAL}")
            artifacts.write_npz(file, images=images)
        return artifacts.read_npz(file)["images"]

    def drawn_folder(self) -> Path:
        """The folder in which `draw_original` stores images."""
        return self.original_folder() / "drawn"


def _saved(step: int | None) -> int:
    """The step of a checkpoint that was saved here; a diffusers folder has none."""
    assert step is not None, "a diffusers folder is read by its own task"
    return step


def restore(folder: Path, step: int, name: str, like: Params) -> Params:
    """Read parameters that `runtime.fit.fit` saved.

    Args:
      folder: folder that `fit` wrote to.
      step: step of the snapshot.
      name: "params" or "ema".
      like: shapes and placement of the parameters; see `parallel.placed`.

    Raises:
      UserError: if the snapshot is missing, damaged or of another network.
    """
    with Store(folder / "snapshots", read_only=True) as store:
        return store.restore(step, name, like)


def stored_weights(folder: Path, weights: str) -> str:
    """The name under which a folder stores a model's parameters.

    Args:
      folder: folder of a trained or imported model; an imported one has only "params".
      weights: "params" or "ema".
    """
    return "params" if folder.name == "import" else weights


@functools.cache
def report_once(line: str) -> None:
    """Print a line on standard error, once in a process; an empty line is not printed."""
    if line:
        processes.report(line)


def hashable(section: ConfigDict) -> tuple:
    """A config section as a hashable value."""
    return tuple(section.to_dict().items())


def parameterization_of(diffusion: Mapping | tuple) -> Parameterization:
    """The parameterization and noise schedule of a section `diffusion`, or of its items."""
    values = dict(diffusion)
    prediction, name = values.pop("prediction"), values.pop("schedule")
    return make_parameterization(prediction, make_schedule(name, **values))


def plan_settings(section: Mapping) -> dict[str, Any]:
    """The arguments of `samplers.make_plan`, besides the schedule, from a section `sampler`."""
    how = {key: section[key] for key in ("name", "eta", "spacing", "timesteps", "variance")}
    return {"num_steps": section["steps"], **how}


def initialise(init: Callable[[jax.Array], Params], key: jax.Array) -> Params:
    """Initial parameters `init(key)`, drawn on the CPU and compiled without optimisation.

    The CPU draws the same numbers on every machine. Compiling takes longer than the single run:
    27 s on an H100 and 6 s on a CPU for CIFAR-10's network.

    Args:
      init: a function that can be jitted.
      key: a random key.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS=cuda
        return jax.jit(init)(key)
    with jax.default_device(cpu):
        return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(key)


def draw_flops(draw: Callable, params: Params, asked: tuple) -> float:
    """Floating-point operations of sampling one image.

    Args:
      draw: the function that `Task.drawing(1)` returns.
      params: shapes of its parameters.
      asked: shapes of its conditions.
    """
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return operations.count(jax.jit(draw), params, keys, *asked)


def map_batches(fn: Callable, images: np.ndarray, batch_size: int) -> Any:
    """Apply a function to many images in batches of one size, split over all devices.

    Args:
      fn: maps images (b, H, W, C) in [-1, 1] to a pytree of arrays (b, …).
      images: (N, H, W, C) uint8. The last batch is padded, and its padding's rows are dropped.
      batch_size: b, rounded up to a multiple of the devices.

    Returns:
      The pytree with arrays (N, …), N ≥ 1.
    """
    mesh = parallel.make_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows = []
    for first in range(0, len(images), batch_size):
        part = data.to_model_range(images[first : first + batch_size])
        missing = batch_size - len(part)
        padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")
        count = len(part)
        outputs = parallel.fetch(fn(parallel.spread(padded, mesh)))
        rows.append(jax.tree.map(lambda a, n=count: a[:n], outputs))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)


def loader(source: data.loader.Source, batch_size: int, seed: int) -> data.loader.BatchIterator:
    """Endless shuffled batches of a source; each process gets its share. See `data.make_loader`.

    Args:
      source: images.
      batch_size: images in a step, over all processes.
      seed: of the order.
    """
    return data.make_loader(
        source,
        batch_size,
        seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def layout(config: ConfigDict) -> parallel.Layout:
    """The layout of an update step over the devices, from `config.parallel`."""
    section = config.parallel
    return parallel.Layout(section.fsdp, section.mode, section.accumulate)
