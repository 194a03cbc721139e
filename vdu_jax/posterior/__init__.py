"""The trained posterior p(θ | D): per-parameter statistics over checkpoints, and its energy."""

from vdu_jax.posterior.gaussian import (
    GaussianPosterior,
    apply_floor,
    apply_shrinkage,
    energy,
    layer_summary,
    num_parameters,
    relative_floor,
)
from vdu_jax.posterior.streaming import Moments, finish, start, update

__all__ = [
    "GaussianPosterior",
    "Moments",
    "apply_floor",
    "apply_shrinkage",
    "energy",
    "finish",
    "layer_summary",
    "num_parameters",
    "relative_floor",
    "start",
    "update",
]
