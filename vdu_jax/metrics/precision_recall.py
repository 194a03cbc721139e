"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CHUNK = 1000  # rows of distances in memory


class PrecisionRecall(NamedTuple):
    """Improved precision and recall.

    Attributes:
      precision: share of the images that are like the reference, in [0, 1].
      recall: share of the reference that is like the images, in [0, 1].
    """

    precision: float
    recall: float


def precision_recall(
    features: np.ndarray, reference: np.ndarray, *, neighbours: int = 3
) -> PrecisionRecall:
    """Compute improved precision and recall.

    Args:
      features: (M, F) features of drawn images.
      reference: (N, F) features of real images.
      neighbours: k, as for `precision`.

    Raises:
      ValueError: for k or fewer rows.
    """
    return PrecisionRecall(
        precision(features, reference, neighbours=neighbours),
        recall(features, reference, neighbours=neighbours),
    )


def precision(features: np.ndarray, reference: np.ndarray, *, neighbours: int = 3) -> float:
    """Improved precision: the share of images that are like the reference (eq. 1).

    A point is like a set if it lies in the ball around a point of the set whose radius is the
    distance to that point's k-th nearest neighbour in the set. Distances are float64, with `CHUNK`
    rows of them in memory.

    Args:
      features: (M, F) features of drawn images, M > k.
      reference: (N, F) features of real images, N > k.
      neighbours: k ≥ 1; 3 in the source.

    Returns:
      The share in [0, 1].

    Raises:
      ValueError: for k or fewer rows.
    """
    x, y = _centred(features, reference, neighbours)
    return _share_inside(x, y, _radii(y, neighbours))


def recall(features: np.ndarray, reference: np.ndarray, *, neighbours: int = 3) -> float:
    """Improved recall: the share of the reference that is like the images (eq. 2).

    Args:
      features: (M, F) features of drawn images, M > k.
      reference: (N, F) features of real images, N > k.
      neighbours: k ≥ 1, as for `precision`.

    Returns:
      The share in [0, 1].

    Raises:
      ValueError: for k or fewer rows.
    """
    x, y = _centred(features, reference, neighbours)
    return _share_inside(y, x, _radii(x, neighbours))


def _centred(
    features: np.ndarray, reference: np.ndarray, neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centre both on the reference's mean, where distances lose fewer digits."""
    if min(len(features), len(reference)) <= neighbours:
        raise ValueError(
            f"need more than {neighbours} feature rows of each, got {len(features)} and "
            f"{len(reference)}"
        )
    centre = np.mean(reference, 0, np.float64)
    return features - centre, reference - centre


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield squared distances (CHUNK, N) of chunks of x to all of y.

    Distances below the rounding error are set to 0, so that equal points have the distance 0.
    """
    norms_x, norms_y = (np.einsum("if,if->i", z, z) for z in (x, y))
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        total = norms_x[rows, None] + norms_y
        squared = total - 2 * (x[rows] @ y.T)
        squared[squared <= 1e-12 * total] = 0
        yield squared


def _radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance (N,) of each point to its k-th nearest other point."""
    # Index k, not k − 1: the nearest point is the point itself.
    return np.concatenate(
        [np.partition(d, neighbours, axis=1)[:, neighbours] for d in _distances(x, x)]
    )


def _share_inside(x: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    """Share of the points x that lie in at least one ball; `radii` are squared radii."""
    return float(np.concatenate([(d <= radii).any(1) for d in _distances(x, centres)]).mean())
