"""Fréchet distance between two sets of features, the FID of Heusel et al. 2017 (arXiv 1706.08500).

u-FID is this distance between a model's images and D_r; always name the features it is taken in and
the number of images. It is biased upwards, the more the fewer images there are (`expected_bias`).
"""

from typing import NamedTuple

import numpy as np


class FeatureStats(NamedTuple):
    """mean (F,), covariance (F, F) with divisor N − 1, count N; float64."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int  # type: ignore[assignment]  # hides tuple.count


def feature_stats(features: np.ndarray, weights: np.ndarray | None = None) -> FeatureStats:
    """Statistics of features (N, F).

    Args:
      weights: (N,) ≥ 0, how much each row counts; only their ratios matter. None for equal ones.

    Raises:
      ValueError: with fewer than 2 rows of positive weight, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    counted = len(features) if weights is None else np.count_nonzero(weights)
    if features.ndim != 2 or counted < 2:
        raise ValueError(f"need at least 2 feature rows, got an array of shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite")
    size = features.shape[1]
    return FeatureStats(
        features.mean(0) if weights is None else np.average(features, axis=0, weights=weights),
        np.cov(features, rowvar=False, aweights=weights).reshape(size, size),
        int(counted),
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


def expected_bias(
    sample: np.ndarray, whole: FeatureStats, count: int, *, splits: int = 64, seed: int = 0
) -> float:
    """The expected distance between `count` images and a reference if both have one distribution.

    This is the bias of the Fréchet distance, which depends on both numbers of images and on the
    features (Chong and Forsyth 2020, arXiv 1911.07023). For n and m images of one Gaussian in F
    features of variance v it is about v F (F + 5) (1/n + 1/m) / 4 if n, m ≫ F, and less if not.

    The reference is split at random into `count` images and the rest, and the distance of the two
    is taken; if it has fewer than 2 `count` images, into halves. The mean over splits is scaled by
    1/n + 1/m for the numbers asked for, over that for the numbers measured.

    Limits: both are taken to be drawn independently. Images with the reference's very shares of
    classes, as those of a stratified split, lie closer, and so do any images to a small reference
    with the very shares of the distribution, such as a balanced data set. If the reference holds
    fewer images than twice the features, the bias is too low: by a tenth in most cases, by half
    where `count` is larger than the reference, too. For a model whose images differ from the
    reference it is another one of the same order.

    Args:
      sample: (S, F) features of images drawn at random from the reference, up to all of it.
      whole: statistics of the whole reference, those of `sample` included.
      count: images whose distance to the reference is asked for, at least 2.
      splits: how many are averaged at most, each at the cost of one Fréchet distance: as many as
        bring the standard error of the mean to a twentieth of it, and at least 4.
      seed: of the splits.

    Raises:
      ValueError: with fewer than 4 reference images, or a `count` or `sample` of fewer than 2.
    """
    size = min(count, whole.count // 2, len(sample))
    if size < 2:
        raise ValueError(
            f"need a count ≥ 2, at least 4 reference images and 2 of them at hand, got {count}, "
            f"{whole.count} and {len(sample)}"
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
    """Statistics of the rows of `whole` that are not in `part`."""
    rest = whole.count - part.count
    mean = (whole.count * whole.mean - part.count * part.mean) / rest
    gap = part.mean - mean
    scatter = (whole.count - 1) * whole.covariance - (part.count - 1) * part.covariance
    scatter -= part.count * rest / whole.count * np.outer(gap, gap)
    return FeatureStats(mean, scatter / (rest - 1), rest)
