"""Fréchet distance between two sets of features, the FID of Heusel et al. 2017 (arXiv 1706.08500).

u-FID is this distance between a model's images and D_r; always name the features it is taken in.
"""

from typing import NamedTuple

import numpy as np


class FeatureStats(NamedTuple):
    """mean (F,), covariance (F, F) with divisor N − 1, count N; float64."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def feature_stats(features: np.ndarray) -> FeatureStats:
    """Statistics of features (N, F).

    Raises:
      ValueError: with fewer than 2 rows, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"need at least 2 feature rows, got an array of shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite")
    return FeatureStats(
        features.mean(0),
        np.cov(features, rowvar=False).reshape(features.shape[1], features.shape[1]),
        len(features),
    )


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) ≥ 0.

    The trace of the matrix root is taken from the eigenvalues of the symmetric √Σ_a Σ_b √Σ_a,
    which has the same spectrum as Σ_a Σ_b but no complex or negative part to cut away.
    """
    # NumPy's solver divides and conquers: for 2048 features several times faster than scipy's.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(spectrum, 0)).sum()
    gap = a.mean - b.mean
    distance = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(max(distance, 0.0))
