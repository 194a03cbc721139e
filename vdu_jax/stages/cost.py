"""The cost of unlearning in floating-point operations, compared with training.

Updates are the smaller part of the cost: replay is sampled and cleaned before them, and images are
sampled and scored at each snapshot to choose the step that is kept. Operations are counted in the
programs (`operations.count`), so they are the same on every machine, even where images were read
back instead of sampled again. Seconds are in timings.json.
"""

from typing import NamedTuple

from vdu_jax import tasks
from vdu_jax.runtime import artifacts
from vdu_jax.stages import unlearn


class Cost(NamedTuple):
    """Floating-point operations of one method.

    Attributes:
      updates: of the optimiser's steps, and of the objective's preparation for them.
      replay: of sampling and cleaning replay; 0 for a retrained model.
      curve: of sampling and scoring images at every snapshot; 0 for a retrained model.
      training: of training the original; None if it was not trained here.
    """

    updates: float
    replay: float
    curve: float
    training: float | None

    @property
    def total(self) -> float:
        """Operations of updates, replay and curve together."""
        return self.updates + self.replay + self.curve

    def percent(self, operations: float) -> float | None:
        """A number of operations in percent of training; None if that is not known."""
        return 100 * operations / self.training if self.training else None


def of_method(task: tasks.Task, name: str) -> Cost:
    """The cost of a finished method.

    Args:
      task: the config's task.
      name: name of the method.

    Raises:
      UserError: if the method has not finished.
    """
    summary = artifacts.upstream(task.workdir, f"unlearn/{name}")["summary"]
    training = None
    if task.last_checkpoint()[1] is not None:  # a diffusers folder records no operations
        training = artifacts.finished(task.original_folder())["summary"].get("flops")
    if unlearn.is_retrained(task.config, name):
        return Cost(summary["flops"], 0.0, 0.0, training)
    points = len(summary["snapshots"])
    return Cost(summary["flops"], task.replay_flops(), task.curve_flops(points), training)
