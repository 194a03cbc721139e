"""Gaussian posteriors p(θ | D) of a trained model: from checkpoints, a Fisher, or low-rank (SWAG).

Every family has `energy(posterior, params)`, the stability term of VDU.
"""

from vdu_jax.posterior.fisher import diagonal_fisher, laplace
from vdu_jax.posterior.gaussian import (
    GaussianPosterior,
    energy,
    floor_variance,
    layer_summary,
    num_parameters,
    relative_floor,
    shrink_variance,
)
from vdu_jax.posterior.low_rank import LowRankPosterior, low_rank
from vdu_jax.posterior.natural import natural
from vdu_jax.posterior.streaming import Moments, finish, start, update

Posterior = GaussianPosterior | LowRankPosterior

__all__ = [
    "GaussianPosterior",
    "LowRankPosterior",
    "Moments",
    "Posterior",
    "diagonal_fisher",
    "energy",
    "finish",
    "floor_variance",
    "laplace",
    "layer_summary",
    "low_rank",
    "natural",
    "num_parameters",
    "relative_floor",
    "shrink_variance",
    "start",
    "update",
]
