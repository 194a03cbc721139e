"""The tasks: what "unlearn" means for each kind of model.

A `Task` answers what differs between kinds of models: where the original lies, what the network
learns from, what is sampled, and what the samples are measured with. Stages get the task of their
config from `of`. They pass conditions on and never read them, so they know nothing of classes,
prompts or latents.
"""

from collections.abc import Callable, Iterator, Sequence
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
from vdu_jax.tasks.base import ORIGINAL, Checkpoint, Replay, Request, initialise
from vdu_jax.tasks.images import ImageTask
from vdu_jax.tasks.text_to_image import TextToImage
from vdu_jax.types import Params, ScoreFn

__all__ = [
    "ORIGINAL", "TASKS", "Checkpoint", "Evaluator", "Replay", "Request", "Task", "initialise",
    "of", "planned",
]  # fmt: skip


class Evaluator(Protocol):
    """The measurements of every model of a workdir."""

    @property
    def reference(self) -> Reference | None:
        """The real images that u-FID and `quality.METRICS` compare with; None without them."""

    def measure(
        self, model: str, drawn: dict[str, np.ndarray], load: Callable[[], Params]
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Measure one model.

        Args:
          model: "original" or the name of a method.
          drawn: the model's images (N, H, W, C) uint8, by the names of `Task.requests`.
          load: returns the model's parameters; called only where images are not enough.

        Returns:
          The figures, and the features (N, F) of the images that show nothing to be forgotten.
          The figures have "pul" in percent, "pul_interval" and "forget_rate", and whatever else
          the task measures. The features are None without a reference.
        """

    def measure_curve(self, images: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
        """Measure one snapshot of a method.

        Args:
          images: (N, H, W, C) uint8, sampled for `Task.request("curve")`.

        Returns:
          "pul" and "pul_interval", and the features as `measure` returns them.
        """

    def of_run(self, replay: Replay) -> dict[str, Any]:
        """The figures that are the same for all models, e.g. the classifier's accuracy.

        Args:
          replay: images of the original; how well they were cleaned may be one of the figures.
        """


class Task(Protocol):
    """One config's model and data in a workdir.

    `BaseTask` implements what is the same for all kinds of models: stage folders, checkpoints,
    and the samples of the original.

    Args:
      config: all settings.
      workdir: the run's folder; None for a task that neither reads nor writes files.
      known: keyword arguments of the implementing class; see `of`.
    """

    def __init__(self, config: ConfigDict, workdir: Path | None = None, **known: Any) -> None: ...

    @staticmethod
    def takes(config: ConfigDict) -> bool:
        """Whether a config describes this kind of model."""

    @classmethod
    def planned(cls, config: ConfigDict) -> "Task":
        """A task that knows shapes only: no data and no weights are read, and it has no workdir."""

    # What the task was made from

    @property
    def config(self) -> ConfigDict:
        """All settings."""

    @property
    def workdir(self) -> Path:
        """The run's folder."""

    @property
    def inputs(self) -> dict[str, Any]:
        """The settings of the condition that change results; an input of every stage."""

    # The network

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the sampled images."""

    @property
    def score_fn(self) -> ScoreFn:
        """The network that is trained and unlearned."""

    @property
    def parameterization(self) -> Parameterization:
        """What the network predicts, and its noise schedule."""

    @property
    def param_shapes(self) -> Params:
        """Shapes of the network's parameters."""

    @property
    def abstract_params(self) -> Params:
        """Shapes of the network's parameters and their placement on the devices."""

    @property
    def weights(self) -> str:
        """Which parameters of a training run are its model: "ema" or "params"."""

    @property
    def original_params(self) -> Params:
        """θ*: the parameters of the model to be unlearned."""

    @property
    def has_training(self) -> bool:
        """Whether the model is trained in this workdir."""

    @property
    def trained_on(self) -> int:
        """N, the number of images that the model was trained on."""

    @property
    def num_forget(self) -> int:
        """|D_f|, the number of images to be forgotten."""

    @property
    def drop_condition(self) -> float:
        """Share of the training images that are seen without their condition, in [0, 1)."""

    # Words for reports

    @property
    def subject(self) -> str:
        """The classes or the feature to be forgotten, in words."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes of the figure "histogram"; empty where it is not measured."""

    @property
    def columns(self) -> dict[str, str]:
        """The task's own columns of tables, key -> heading; see `column_values`."""

    @property
    def about_columns(self) -> str:
        """Explanation of `columns` for the report; "" where none is needed."""

    # Folders and checkpoints; `BaseTask` has most of them.

    def stage(
        self, name: str, sections: Sequence[str], upstream: Sequence[str] = (), **more: Any
    ) -> StageDir:
        """See `BaseTask.stage`."""

    def train_stage(self) -> StageDir:
        """The folder of the stage `train`."""

    def original_folder(self) -> Path:
        """The folder of the model to be unlearned.

        Raises:
          UserError: if that model is another network than the config's.
        """

    def original_fingerprint(self) -> str:
        """See `BaseTask.original_fingerprint`."""

    def checkpoint_fingerprint(self, folder: Path) -> str:
        """A hash of what identifies the model in a folder."""

    def load_snapshot(
        self, folder: Path, step: int | None, weights: str, like: Params = None
    ) -> Params:
        """See `BaseTask.load_snapshot`."""

    def load_parts(
        self, folder: Path, steps: Sequence[int | None], weights: str, count: int
    ) -> Iterator[tuple[int, Params]]:
        """See `BaseTask.load_parts`."""

    def trajectory(self) -> list[Checkpoint]:
        """The checkpoints of the original's training run, the oldest first.

        Raises:
          UserError: if the original is a single checkpoint.
        """

    def trained_steps(self) -> list[int]:
        """The steps of `trajectory`; empty for a single checkpoint."""

    def runs(self) -> list[Checkpoint]:
        """The original and the models in `posterior.runs`, one checkpoint each."""

    def last_checkpoint(self) -> Checkpoint:
        """The checkpoint that holds the original's parameters."""

    # Training

    def check(self) -> None:
        """Check what later stages need, before the first long computation.

        Raises:
          UserError: for what is missing.
        """

    def prepare_training(self) -> None:
        """Open and check the training data.

        Raises:
          UserError: for data that cannot be trained on.
        """

    def make_ready(self, path: Path) -> dict[str, Any]:
        """Make what training needs besides the images, such as an autoencoder's latents.

        Args:
          path: folder of the stage `train`.

        Returns:
          Entries for the summary of that stage.
        """

    def init_params(self) -> Params:
        """Fresh parameters of the network, drawn with `train.init_seed`."""

    def start_params(self) -> Params:
        """The parameters that training starts from: fresh ones, or those of `train.init_from`."""

    def export_trained(self, path: Path, params: Params) -> dict[str, Any]:
        """Write what later stages read of a trained model besides its checkpoints.

        Args:
          path: folder of the stage `train`.
          params: the parameters that training started from.

        Returns:
          Entries for the summary of that stage.
        """

    # Data

    def source(self, kind: str) -> Source:
        """A view of the training images that reaches no others.

        Args:
          kind: "all", "forget" or "retain".
        """

    def shown_again(self, count: int, seed: int) -> Source:
        """A view of randomly chosen images of D_f that reaches no others.

        Args:
          count: at most so many images.
          seed: of the choice.
        """

    def drawn_source(self, images: np.ndarray, request: Request) -> Source:
        """Sampled images as a source like those of training images.

        Args:
          images: (N, H, W, C) uint8.
          request: the request that they were sampled for.
        """

    def replay_source(self, replay: Replay) -> Source:
        """The replay images that are not forget-like, as `drawn_source`."""

    def batch_shapes(self, count: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch of `count` images."""

    # Sampling

    def request(self, use: str) -> Request:
        """The images that a stage samples.

        Args:
          use: a section of the config: "replay", "posterior", "curve" or "relearn".
        """

    def requests(self) -> dict[str, Request]:
        """The images that every model samples for its evaluation, name -> request."""

    def draw(self, params: Params, request: Request, seed: int, label: str) -> np.ndarray:
        """Sample images. Image i of a seed starts from the same noise, whatever the model.

        Args:
          params: of the network.
          request: number of images and their conditions.
          seed: of the noise.
          label: of the progress bar.

        Returns:
          (N, H, W, C) uint8.
        """

    def draw_original(self, request: Request, seed: int, label: str = "sample") -> np.ndarray:
        """See `BaseTask.draw_original`."""

    def shown(self, drawn: dict[str, np.ndarray], count: int) -> np.ndarray:
        """Images of a model for a grid, the same positions of every model.

        Args:
          drawn: the model's images by the names of `requests`.
          count: at most so many.
        """

    def drawing(self, count: int) -> tuple[Callable, Params, tuple]:
        """The function that a sampler compiles for `count` images, and the shapes of its arguments.

        Returns:
          `draw(params, keys, *asked) -> images`, the shapes of `params`, and those of `asked`.
        """

    # Scoring and measuring

    def clean(self, images: np.ndarray) -> tuple[Replay, dict[str, Any]]:
        """Find the replay images that are forget-like, from D_f and the model alone.

        Args:
          images: (N, H, W, C) uint8, sampled from the original.

        Returns:
          The replay, and entries for the summary of its stage.
        """

    def scorer(self, original: Params, replay: Replay) -> Callable[[int, np.ndarray], Snapshot]:
        """A function that scores a snapshot of a method, from D_f and the model alone.

        Args:
          original: θ*.
          replay: the cleaned replay.

        Returns:
          `score(step, images)`: how much is forgotten and how far the rest has drifted, from the
          snapshot's images (N, H, W, C) uint8 of `request("curve")`.
        """

    def scorer_inputs(self) -> dict[str, Any]:
        """Inputs of the scorer besides replay, the model and "forget", "curve", "sampler"."""

    def replay_flops(self) -> float:
        """Floating-point operations of sampling and cleaning replay; see `operations.count`."""

    def curve_flops(self, points: int) -> float:
        """Floating-point operations of sampling and scoring `points` snapshots."""

    def evaluation_inputs(self) -> dict[str, Any]:
        """Inputs of the evaluator's figures besides the images."""

    def evaluator(self, original: dict[str, np.ndarray], overwrite: bool = False) -> Evaluator:
        """The evaluator of the workdir's models.

        Args:
          original: the original's images by the names of `requests`.
          overwrite: whether what it trains, such as a classifier, is made again.
        """

    def column_values(self, figures: dict[str, Any]) -> dict[str, Any]:
        """The values of `columns` for one model's figures.

        Returns:
          A number, None, or {"value", "low", "high", "count"} for each key; shares in percent.
        """

    def relearning_inputs(self) -> dict[str, Any]:
        """Inputs of `forget_rate` besides the images."""

    def forget_rate(self, overwrite: bool = False) -> Callable[[np.ndarray], float]:
        """A function that measures how many images show what is to be forgotten.

        Args:
          overwrite: as in `evaluator`.

        Returns:
          `rate(images)` in [0, 1], for images (N, H, W, C) uint8 of `request("relearn")`.
        """

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
          directory: the new folder.
          load: returns the model's parameters.
          origin: which model it is: "model", "weights" and "config".
          overwrite: whether an existing folder may be replaced.

        Returns:
          A note for the user, or "".

        Raises:
          UserError: if the directory exists and may not be replaced, or diffusers has no such
            model.
        """


# In the order in which they are asked: the first that takes a config gets it.
TASKS: tuple[type[Task], ...] = (TextToImage, ImageTask)


def of(config: ConfigDict, workdir: Path | None = None, **known: Any) -> Task:
    """The task of a config.

    Args:
      config: all settings.
      workdir: the run's folder; None for a task that neither reads nor writes files.
      known: keyword arguments of the task's class, such as `image_shape` of a pixel model whose
        data set must not be opened.
    """
    return _kind(config)(config, workdir, **known)


def planned(config: ConfigDict) -> Task:
    """The task of a config, planned: it knows shapes only. See `Task.planned`."""
    return _kind(config).planned(config)


def _kind(config: ConfigDict) -> type[Task]:
    return next(task for task in TASKS if task.takes(config))
