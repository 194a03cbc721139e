"""What "unlearn" means for one kind of model: a `Task`.

Stages train, draw and measure through the task of their config (`of`). They never look at a
condition, and know nothing of classes, prompts or latents.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data.loader import Source
from vdu_jax.diffusion.parameterization import Parameterization
from vdu_jax.forget_detector import Snapshot
from vdu_jax.metrics.quality import Reference
from vdu_jax.runtime.artifacts import StageDir
from vdu_jax.tasks.base import ORIGINAL, Replay, Request, initialise
from vdu_jax.tasks.images import ImageTask
from vdu_jax.tasks.text_to_image import TextToImage
from vdu_jax.types import Params, ScoreFn

__all__ = [
    "ORIGINAL", "TASKS", "Evaluator", "Replay", "Request", "Task", "initialise", "of", "planned",
]  # fmt: skip


class Evaluator(Protocol):
    """What every model of a workdir is measured with.

    Attributes:
      reference: what u-FID and `quality.METRICS` are taken against; None without them.
    """

    reference: Reference | None

    def measure(
        self, model: str, drawn: dict[str, np.ndarray], load: Callable[[], Params]
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Figures of a model and the features (N, F) of what it drew of all that is to stay.

        Args:
          model: "original" or a method. drawn: its images, by the names of `Task.requests`.
          load: its parameters.

        Returns:
          "pul" in percent and "pul_interval", and whatever else the task measures; and the
          features, or None without a reference.
        """

    def measure_curve(self, images: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
        """The same of a snapshot's images, drawn of `Task.request("curve")`: PUL alone."""

    def of_run(self, replay: Replay) -> dict[str, Any]:
        """What is the same for all models, and how well replay was cleaned."""


class Task(Protocol):
    """A config's model and data in a workdir: `Task(config, workdir)`.

    Attributes:
      config, workdir: what it was made of.
      inputs: what of conditions changes results, by which finished stages are told apart.
      image_shape: (H, W, C) of the images that are drawn.
      score_fn, parameterization: the network that learns and unlearns, and what it predicts.
      param_shapes, abstract_params: shapes of its parameters; the latter say where they are placed.
      weights: which of training's parameters are its model, "ema" or "params".
      original_params: θ*, those of the model to be unlearned.
      has_training: whether the model is to be trained here.
      trained_on: N, how many images the model was trained on.
      num_forget: |D_f|.
      subject: what is to be forgotten, in words. class_names: of `histogram`, if it is measured.
      columns: the task's own columns of tables, key -> head; see `column_values`.
      about_columns: what they are, for the report; "" if nothing needs to be said.
      drop_condition: share of the training images that are seen without their condition.
    """

    config: ConfigDict
    workdir: Path | None
    inputs: dict[str, Any]
    image_shape: tuple[int, int, int]
    score_fn: ScoreFn
    parameterization: Parameterization
    param_shapes: Params
    abstract_params: Params
    weights: str
    original_params: Params
    has_training: bool
    trained_on: int
    num_forget: int
    subject: str
    class_names: Sequence[str]
    columns: dict[str, str]
    about_columns: str
    drop_condition: float

    @staticmethod
    def takes(config: ConfigDict) -> bool:
        """Whether a config is of this kind of model."""

    @classmethod
    def planned(cls, config: ConfigDict) -> "Task":
        """The task of which shapes alone are asked: no data and no weights are read."""

    # Folders and checkpoints; `BaseTask` has most of them.

    def stage(self, name: str, sections, upstream=(), **more: Any) -> StageDir:
        """See `BaseTask.stage`."""

    def train_stage(self) -> StageDir:
        """The folder of `train`."""

    def original_folder(self) -> Path:
        """The folder of the model to be unlearned.

        Raises:
          UserError: if that is another network than the config's.
        """

    def original_fingerprint(self) -> str:
        """See `BaseTask.original_fingerprint`."""

    def load_snapshot(self, folder: Path, step: int, weights: str, like: Params = None) -> Params:
        """See `BaseTask.load_snapshot`."""

    def load_parts(self, folder: Path, steps, weights: str, count: int):
        """See `BaseTask.load_parts`."""

    def trajectory(self) -> list[tuple[Path, int]]:
        """(folder, step) of the checkpoints of the model's own training.

        Raises:
          UserError: if it has none.
        """

    def trained_steps(self) -> list[int]:
        """The steps of the model's own training that were kept, the first one first."""

    def runs(self) -> list[tuple[Path, int]]:
        """The same of the model and of those in `posterior.runs`."""

    def last_checkpoint(self) -> tuple[Path, int]:
        """The same of the model alone."""

    def checkpoint_fingerprint(self, folder: Path) -> str:
        """What a checkpoint's folder holds."""

    # Training

    def check(self) -> None:
        """Raises: UserError for what is missing and is needed late: said before long work."""

    def prepare_training(self) -> None:
        """Raises: UserError for data that cannot be trained on."""

    def make_ready(self, path: Path) -> dict[str, Any]:
        """Make in the folder of `train` what the network's data comes from; more of a summary."""

    def init_params(self) -> Params:
        """Fresh parameters of the network, from `train.init_seed`."""

    def start_params(self) -> Params:
        """What training starts from: those, or a model's that the config names."""

    def export_trained(self, path: Path, params: Params) -> dict[str, Any]:
        """Write what is read of a trained model beside its checkpoints; more of the summary."""

    # Data

    def source(self, kind: str) -> Source:
        """Training images: "all", "forget" or "retain"; a view of no others."""

    def shown_again(self, count: int, seed: int) -> Source:
        """At most `count` images of D_f, drawn by a seed; a view of no others."""

    def drawn_source(self, images: np.ndarray, request: Request) -> Source:
        """Images that were drawn of a request, as a source like those of training images."""

    def replay_source(self, replay: Replay) -> Source:
        """Those of replay that are not forget-like."""

    def batch_shapes(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        """What a loader gives of `count` images."""

    # Drawing

    def request(self, use: str) -> Request:
        """What is drawn for a section of the config: "replay", "posterior", "curve", "relearn"."""

    def requests(self) -> dict[str, Request]:
        """What every model draws for its evaluation: name -> request."""

    def draw(self, params: Params, request: Request, seed: int, label: str) -> np.ndarray:
        """Images (N, H, W, C) uint8. Image i of a seed has the same noise, whatever the model."""

    def draw_original(self, request: Request, seed: int, label: str = "sample") -> np.ndarray:
        """See `BaseTask.draw_original`."""

    def shown(self, drawn: dict[str, np.ndarray], count: int) -> np.ndarray:
        """At most `count` of a model's images, for a grid; the same places of every model."""

    def drawing(self, count: int) -> tuple[Callable, Params, tuple]:
        """What a sampler compiles for `count` images, `draw(params, keys, *asked)`, and the shapes
        of its params and of what is asked."""

    # Judging

    def clean(self, images: np.ndarray) -> tuple[Replay, dict[str, Any]]:
        """What of replay is forget-like, by D_f and the model alone; and more of a summary."""

    def scorer(self, original: Params, replay: Replay) -> Callable[[int, np.ndarray], Snapshot]:
        """`score(step, images)` of what a snapshot draws of `request("curve")`: how much is
        forgotten and how far the rest has moved, by D_f and the model alone."""

    def scorer_inputs(self) -> dict[str, Any]:
        """What the scorer depends on, beside replay, the model and "forget", "curve", "sampler"."""

    def replay_flops(self) -> float:
        """Operations of drawing replay and of `clean`; see `operations.count`."""

    def curve_flops(self, points: int) -> float:
        """Operations of drawing so many snapshots' images and of scoring them."""

    def evaluation_inputs(self) -> dict[str, Any]:
        """What the evaluator's figures depend on, beside the images."""

    def evaluator(self, original: dict[str, np.ndarray], overwrite: bool = False) -> Evaluator:
        """What models are measured with, given what the original drew of `requests`."""

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        """The task's own columns of a model's figures: numbers, None, or {"value", "low", "high",
        "count"}; shares in percent."""

    def relearning_inputs(self) -> dict[str, Any]:
        """What `forget_rate` depends on, beside the images."""

    def forget_rate(self, overwrite: bool = False) -> Callable[[np.ndarray], float]:
        """`rate(images)`: the share that shows what is to be forgotten, of `request("relearn")`."""

    # Export

    def export(
        self,
        directory: Path,
        load: Callable[[], Params],
        origin: dict[str, Any],
        overwrite: bool,
    ) -> str:
        """Write a model as a diffusers folder.

        Args:
          load: the model's parameters.
          origin: "model", "weights" and "config", of what it is.

        Returns:
          What its reader should know, or "".

        Raises:
          UserError: if the directory is there and is not to be replaced, or the model cannot be
            expressed.
        """


# The first that takes a config has it.
TASKS: tuple[type[Task], ...] = (TextToImage, ImageTask)


def of(config: ConfigDict, workdir: Path | None = None, **known: Any) -> Task:
    """The task of a config.

    Args:
      known: what the task's class is told beside, such as `image_shape` of a model of pixels where
        the data set is not to be asked.
    """
    return _kind(config)(config, workdir, **known)


def planned(config: ConfigDict) -> Task:
    """See `Task.planned`."""
    return _kind(config).planned(config)


def _kind(config: ConfigDict) -> type[Task]:
    return next(task for task in TASKS if task.takes(config))
