"""What unlearning costs in floating-point operations, beside what training took.

Updates are the smaller part of it: replay is drawn and cleaned before them, and at each snapshot
images are drawn and scored, by which a step is kept. Operations are counted in the programs
(`operations.count`), so they are the same on every machine, whatever was read back instead of drawn
again; seconds are in timings.json.
"""

from typing import NamedTuple

from vdu_jax import tasks
from vdu_jax.runtime import artifacts
from vdu_jax.stages import unlearn


class Cost(NamedTuple):
    """Floating-point operations.

    Attributes:
      updates: of the optimiser, and of what an objective prepares for them.
      replay: of drawing and cleaning it; 0 where the model is trained anew.
      curve: of drawing and scoring images at every snapshot; likewise.
      training: of the model that is unlearned; None where it was not trained here.
    """

    updates: float
    replay: float
    curve: float
    training: float | None

    @property
    def total(self) -> float:
        return self.updates + self.replay + self.curve

    def percent(self, operations: float) -> float | None:
        """Of training."""
        return 100 * operations / self.training if self.training else None


def of_method(task: tasks.Task, name: str) -> Cost:
    """The cost of a method that has finished."""
    summary = artifacts.upstream(task.workdir, f"unlearn/{name}")["summary"]
    training = None
    if task.last_checkpoint()[1] is not None:  # a folder from elsewhere has no step
        training = artifacts.finished(task.original_folder())["summary"].get("flops")
    if unlearn.is_retrained(task.config, name):
        return Cost(summary["flops"], 0.0, 0.0, training)
    points = len(summary["snapshots"])
    return Cost(summary["flops"], task.replay_flops(), task.curve_flops(points), training)
