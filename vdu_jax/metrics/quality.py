"""How close drawn images are to real ones: u-FID with its bias, KID, precision and recall.

All of it is of features (N, F), whatever network they come from.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vdu_jax.metrics import frechet, kid, precision_recall

NEIGHBOURS = 3  # of precision and recall


class Reference(NamedTuple):
    """Real images in some features, usually D_r.

    Attributes:
      stats: of all of them.
      some: (n, F) of a limited number of them.
      bias: number of images -> the u-FID that as many real ones are expected at, or None if there
        are too few of them or of the reference.
    """

    stats: frechet.FeatureStats
    some: np.ndarray
    bias: Callable[[int], float | None]


def make_reference(features: np.ndarray, limit: int, seed: int) -> Reference:
    """A reference of images with features (N, F), N ≥ 2, of which at most `limit` are kept."""
    limit = min(len(features), limit)
    chosen = np.random.default_rng(seed).choice(len(features), limit, replace=False)
    some, stats = features[np.sort(chosen)], frechet.feature_stats(features)

    @functools.cache
    def bias(count: int) -> float | None:
        if min(count, stats.count // 2, len(some)) < 2:
            return None
        return frechet.expected_bias(some, stats, count, seed=seed)

    return Reference(stats, some, bias)


def distance(features: np.ndarray, reference: Reference) -> float | None:
    """Fréchet distance to the reference, or None for fewer than 2 images."""
    if len(features) < 2:
        return None
    return frechet.frechet_distance(frechet.feature_stats(features), reference.stats)


def counted_distance(features: np.ndarray, reference: Reference) -> dict[str, Any]:
    """u-FID with what it must not be read without: the number of images and the expected bias."""
    return {
        "images": len(features),
        "u_fid": distance(features, reference),
        "u_fid_bias": reference.bias(len(features)),
    }


def quality(features: np.ndarray, reference: Reference, seed: int) -> dict[str, Any]:
    """u-FID, KID, precision and recall of features (N, F); None for too few images.

    Args:
      seed: of KID's subsets.
    """
    figures = counted_distance(features, reference)
    figures |= {"kid": None, "precision": None, "recall": None}
    if len(features) >= 2:
        figures["kid"] = kid.kid(features, reference.some, seed=seed)._asdict()
    if min(len(features), len(reference.some)) > NEIGHBOURS:
        figures |= precision_recall.precision_recall(
            features, reference.some, neighbours=NEIGHBOURS
        )._asdict()
    return figures
