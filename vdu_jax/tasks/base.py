"""What is the same for every kind of model: its folders, its checkpoints, and drawing."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.diffusion.parameterization import Parameterization, make_parameterization
from vdu_jax.diffusion.schedule import make_schedule
from vdu_jax.runtime import artifacts, operations, parallel, processes
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.types import Params

ORIGINAL = "original"


class Request(NamedTuple):
    """Images to be drawn.

    Attributes:
      count: N, how many.
      asked: what each is asked for with: arrays or lists of N rows; none of unconditional models.
      about: what of it tells requests of as many images apart.
    """

    count: int
    asked: tuple[Any, ...]
    about: dict[str, Any]


class Replay(NamedTuple):
    """What the original model drew to hold on to.

    Attributes:
      images: (N, H, W, C) uint8. forget_like: (N,) bool, which of them are to be left out.
      for_scorer: arrays that the task's cleaning came to beside that.
    """

    images: np.ndarray
    forget_like: np.ndarray
    for_scorer: dict[str, np.ndarray]


class BaseTask:
    """A config's model and data in a workdir; see `vdu_jax.tasks.Task`.

    Args:
      workdir: of the run, or None where nothing is read or written.
    """

    inputs: dict[str, Any] = {}

    def __init__(self, config: ConfigDict, workdir: Path | None):
        self.config = config
        self.workdir = None if workdir is None else Path(workdir)

    # Folders

    def stage(
        self, name: str, sections: Sequence[str], upstream: Sequence[str] = (), **more: Any
    ) -> StageDir:
        """A stage's folder, keyed by the config sections and finished stages that it depends on.

        The upstream "original" is the model to be unlearned, wherever it lies.

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
        """What tells the model to be unlearned from others.

        Raises:
          UserError: if it has not been trained yet.
        """
        return self.checkpoint_fingerprint(self.original_folder())

    def checkpoint_fingerprint(self, folder: Path) -> str:
        """What tells the model of a folder from others."""
        return artifacts.finished(folder)["fingerprint"]

    @property
    def num_forget(self) -> int:
        """|D_f|."""
        return len(self.forget_retain.forget)

    # Checkpoints

    @property
    def weights(self) -> str:
        """Which of training's parameters are its model: "ema" if it keeps an average, or
        "params"."""
        return "ema" if self.config.train.ema_decay > 0 else "params"

    @property
    def abstract_params(self) -> Params:
        """Shapes and placement of the network's parameters; nothing is allocated."""
        return parallel.placed(self.param_shapes, parallel.make_mesh(self.config.parallel.fsdp))

    def load_snapshot(self, folder: Path, step: int, weights: str, like: Params = None) -> Params:
        """Parameters under `folder`/snapshots.

        Args:
          weights: "params" or, of a training run, "ema".
          like: their shapes, where they are not the whole network's.
        """
        like = self.abstract_params if like is None else like
        return restore(folder, step, stored_weights(folder, weights), like)

    def load_parts(
        self, folder: Path, steps: Sequence[int], weights: str, count: int
    ) -> Iterator[tuple[int, Params]]:
        """The parameters of several steps, in `count` parts each; see `Store.restore_parts`."""
        with Store(folder / "snapshots", read_only=True) as store:
            weights = stored_weights(folder, weights)
            yield from store.restore_parts(steps, weights, self.abstract_params, count)

    # Drawing

    def draw_original(self, request: Request, seed: int, label: str = "sample") -> np.ndarray:
        """The images (N, H, W, C) uint8 that the model to be unlearned draws of a seed.

        They are kept beside that model, in `drawn/`: whatever is unlearned from it, they are the
        same.
        """
        what = {
            "model": self.original_fingerprint(),
            "weights": self.weights,
            "sampler": self.config.sampler.to_dict(),
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
        """Where `draw_original` keeps what it drew."""
        return self.original_folder() / "drawn"


def restore(folder: Path, step: int, name: str, like: Params) -> Params:
    """The parameters that `fit` saved as `name` in a folder, of the shapes of `like`, see
    `parallel.placed`."""
    with Store(folder / "snapshots", read_only=True) as store:
        return store.restore(step, name, like)


def stored_weights(folder: Path, weights: str) -> str:
    """What `weights` are in a model's folder: an imported one has "params" only."""
    return "params" if folder.name == "import" else weights


@functools.cache
def report_once(line: str) -> None:
    """A line on standard error, once in this process; nothing if it is empty."""
    if line:
        processes.report(line)


def hashable(section: ConfigDict) -> tuple:
    """A config section as a hashable value."""
    return tuple(section.to_dict().items())


def parameterization_of(diffusion: Mapping | tuple) -> Parameterization:
    """What a section `diffusion`, or its items, says that the network predicts, at its levels."""
    values = dict(diffusion)
    prediction, name = values.pop("prediction"), values.pop("schedule")
    return make_parameterization(prediction, make_schedule(name, **values))


def plan_settings(section: Mapping) -> dict[str, Any]:
    """What a section `sampler` gives `samplers.make_plan`, beside the schedule."""
    how = {key: section[key] for key in ("name", "eta", "spacing", "variance")}
    return {"num_steps": section["steps"], **how}


def initialise(init: Callable[[jax.Array], Params], key: jax.Array) -> Params:
    """`init(key)`, made on the CPU where there is one, and compiled quickly: it runs once.

    A draw for each array compiles for longer than it runs: for CIFAR-10's network 27 s on an H100,
    6 s on a CPU, whose numbers also are the same beside every accelerator.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS=cuda
        return jax.jit(init)(key)
    with jax.default_device(cpu):
        return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(key)


def draw_flops(draw: Callable, params: Params, asked: tuple) -> float:
    """Operations of drawing one image; the arguments are what `Task.drawing(1)` gives."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return operations.count(jax.jit(draw), params, keys, *asked)


def map_batches(fn: Callable, images: np.ndarray, batch_size: int) -> Any:
    """`fn` over uint8 images in padded batches of one size; the results' rows concatenated.

    The batches are split over all devices.
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


def loader(source: data.loader.Source, batch_size: int, seed: int) -> Iterator[dict]:
    """Shuffled batches; each process has its share. See `data.make_loader`."""
    return data.make_loader(
        source,
        batch_size,
        seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def layout(config: ConfigDict) -> parallel.Layout:
    """How a step is spread over the devices."""
    section = config.parallel
    return parallel.Layout(section.fsdp, section.mode, section.accumulate)
