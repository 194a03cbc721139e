"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CHUNK = 1000


class PrecisionRecall(NamedTuple):
    """precision: share of the images that are like the reference, in [0, 1].
    recall: share of the reference that is like the images, in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    features: np.ndarray, reference: np.ndarray, *, neighbours: int = 3
) -> PrecisionRecall:
    """`precision` and `recall` of features (M, F) against a reference (N, F)."""
    return PrecisionRecall(
        precision(features, reference, neighbours=neighbours),
        recall(features, reference, neighbours=neighbours),
    )


def precision(features: np.ndarray, reference: np.ndarray, *, neighbours: int = 3) -> float:
    """Share of the features (M, F) that are like a reference (N, F), eq. 1.

    A point is like a set if it lies in the ball around one of the set's points that reaches to
    that point's k-th nearest neighbour in the set, k = `neighbours`. Memory is bounded by CHUNK
    rows of distances; float64.

    Raises:
      ValueError: with `neighbours` or fewer rows.
    """
    x, y = _centred(features, reference, neighbours)
    return _share_inside(x, y, _radii(y, neighbours))


def recall(features: np.ndarray, reference: np.ndarray, *, neighbours: int = 3) -> float:
    """Share of a reference (N, F) that is like the features (M, F), eq. 2; see `precision`.

    Raises:
      ValueError: with `neighbours` or fewer rows.
    """
    x, y = _centred(features, reference, neighbours)
    return _share_inside(y, x, _radii(x, neighbours))


def _centred(
    features: np.ndarray, reference: np.ndarray, neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both about the reference's centre, where distances lose fewer digits."""
    if min(len(features), len(reference)) <= neighbours:
        raise ValueError(
            f"need more than {neighbours} feature rows of each, got {len(features)} and "
            f"{len(reference)}"
        )
    centre = np.mean(reference, 0, np.float64)
    return features - centre, reference - centre


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances (CHUNK, N) of chunks of x to all of y.

    What is below the rounding error is 0, so that equal points are at no distance.
    """
    norms_x, norms_y = (np.einsum("if,if->i", z, z) for z in (x, y))
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        total = norms_x[rows, None] + norms_y
        squared = total - 2 * (x[rows] @ y.T)
        squared[squared <= 1e-12 * total] = 0
        yield squared


def _radii(x: np.ndarray, neighbours: int) -> np.ndarray:
    """(N,) squared distance of each point to its k-th nearest other point."""
    # The nearest point of all is the point itself.
    return np.concatenate(
        [np.partition(d, neighbours, axis=1)[:, neighbours] for d in _distances(x, x)]
    )


def _share_inside(x: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    """Share of the points x that lie in at least one ball; `radii` are squared."""
    return float(np.concatenate([(d <= radii).any(1) for d in _distances(x, centres)]).mean())
