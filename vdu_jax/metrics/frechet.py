"""Fréchet distance between two sets of features, the FID of Heusel et al. 2017 (arXiv 1706.08500).

u-FID is this distance between a model's images and D_r. A u-FID is only comparable with another one
in the same features and with the same number of images: it is biased upwards, and the bias grows as
the number of images falls (`expected_bias`).
"""

from typing import NamedTuple

import numpy as np


class FeatureStats(NamedTuple):
    """Mean and covariance of features.

    Attributes:
      mean: (F,) float64.
      covariance: (F, F) float64, with divisor N − 1.
      count: N, the number of feature rows.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int  # type: ignore[assignment]  # hides tuple.count


def feature_stats(features: np.ndarray, weights: np.ndarray | None = None) -> FeatureStats:
    """Compute mean and covariance of features.

    Args:
      features: (N, F), N ≥ 2.
      weights: (N,) ≥ 0, the weights of the rows, of which only the ratios matter. None for equal
        weights.

    Returns:
      The statistics; `count` has the rows of positive weight.

    Raises:
      ValueError: for fewer than 2 rows of positive weight, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    counted = len(features) if weights is None else np.count_nonzero(weights)
    if features.ndim != 2 or counted < 2:
        raise ValueError(f"need at least 2 feature rows, got an array of shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite; check the images that they come from")
    size = features.shape[1]
    return FeatureStats(
        features.mean(0) if weights is None else np.average(features, axis=0, weights=weights),
        np.cov(features, rowvar=False, aweights=weights).reshape(size, size),
        int(counted),
    )


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """Fréchet distance of two Gaussians, ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).

    The trace of the matrix root comes from the eigenvalues of the symmetric matrix √Σ_a Σ_b √Σ_a,
    whose spectrum is that of Σ_a Σ_b without complex or negative parts from rounding.

    Args:
      a: statistics of the first set of features.
      b: statistics of the second set, in the same features.

    Returns:
      The distance, ≥ 0. It is the squared one, as in the definition of FID.
    """
    # NumPy's divide-and-conquer solver is several times faster than SciPy's for 2048 features.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    spectrum = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(spectrum, 0)).sum()
    gap = a.mean - b.mean
    distance = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(max(distance, 0.0))


def expected_bias(
    sample: np.ndarray, whole: FeatureStats, count: int, *, splits: int = 64, seed: int = 0
) -> float:
    """Estimate the bias of the Fréchet distance for a number of images.

    The bias is the expected distance between `count` images and the reference if both have the same
    distribution. It depends on both numbers of images and on the features (Chong and Forsyth 2020,
    arXiv 1911.07023). For n and m images of one Gaussian in F features of variance v it is about
    v F (F + 5) (1/n + 1/m) / 4 if n, m ≫ F, and less otherwise.

    The reference is split at random into `count` images and the rest, or into halves if it has
    fewer than 2 `count` images. The mean distance of the two parts over splits is multiplied by the
    ratio of 1/n + 1/m for the requested numbers to that for the measured numbers.

    Limits:

    - Images are assumed to be drawn independently. The distance is smaller for images with exactly
      the class shares of the reference (a stratified split), and for a small reference with exactly
      the class shares of the distribution (a balanced data set).
    - For a reference of fewer images than twice the features the estimate is too low: by a tenth in
      most cases, by half if `count` is also larger than the reference.
    - A model whose images differ from the reference has another bias, of the same order.

    Args:
      sample: (S, F) features of images drawn at random from the reference, up to all of them.
      whole: statistics of the whole reference, `sample` included.
      count: number of images whose distance has the bias, at least 2.
      splits: the largest number of splits, each at the cost of one Fréchet distance. After at least
        4, splitting stops when the standard error of the mean is at most a twentieth of it.
      seed: seed of the splits.

    Returns:
      The bias, ≥ 0.

    Raises:
      ValueError: for fewer than 4 reference images, or a `count` or `sample` of fewer than 2.
    """
    size = min(count, whole.count // 2, len(sample))
    if size < 2:
        raise ValueError(
            f"need a count ≥ 2, at least 4 reference images and a sample of at least 2 of them, "
            f"got {count}, {whole.count} and {len(sample)}"
        )
    rng = np.random.default_rng(seed)
    distances = []
    for _ in range(splits):
        part = feature_stats(sample[rng.choice(len(sample), size, replace=False)])
        distances.append(frechet_distance(part, _without(whole, part)))
        error = np.std(distances) / np.sqrt(len(distances))
        if len(distances) >= 4 and error <= 0.05 * np.mean(distances):
            break
    measured = 1 / size + 1 / (whole.count - size)
    return float(np.mean(distances)) * (1 / count + 1 / whole.count) / measured


def _without(whole: FeatureStats, part: FeatureStats) -> FeatureStats:
    """Compute the statistics of the rows of `whole` that are not in `part`."""
    rest = whole.count - part.count
    mean = (whole.count * whole.mean - part.count * part.mean) / rest
    gap = part.mean - mean
    scatter = (whole.count - 1) * whole.covariance - (part.count - 1) * part.covariance
    scatter -= part.count * rest / whole.count * np.outer(gap, gap)
    return FeatureStats(mean, scatter / (rest - 1), rest)
