"""Forget and retain splits, and train/test splits, from labels alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vdu_jax.errors import UserError


class ForgetRetain(NamedTuple):
    """Sorted, disjoint int64 indices into one split.

    Attributes:
      forget: (n_f,) the images of the forget classes that the method is given (D_f).
      retain: (n_r,) all images of all other classes (D_r).
    """

    forget: np.ndarray
    retain: np.ndarray


def forget_retain_indices(
    labels: np.ndarray,
    forget_classes: Sequence[int] | int,
    fraction: float = 1.0,
    limit: int = 0,
    seed: int = 0,
    num_classes: int | None = None,
) -> ForgetRetain:
    """Split a labelled data set into forget data and retained data.

    With `fraction` < 1 or a `limit`, the forget data is drawn at random from the forget classes.
    Their other images are then in neither array, because they are not retained data. For one seed
    the draws are nested: a smaller part is always contained in a larger one, so curves over the
    amount of forget data are comparable.

    Args:
      labels: (N,) integer class of each image.
      forget_classes: class numbers, at least one, in [0, num_classes).
      fraction: share of the forget classes' images to use, in (0, 1]; at least one image is used.
      limit: largest number of forget images; 0 for no limit.
      seed: seed of the random draw.
      num_classes: number of classes; None for the largest label plus one.

    Returns:
      The indices of the forget data and of the retained data.

    Raises:
      UserError: for no class, an unknown class, a class without images, all classes (nothing would
        be retained), or a fraction or limit out of range.
      ValueError: if `labels` is empty or not a vector.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not labels.size:
        raise ValueError(f"labels must be a non-empty vector, not of shape {labels.shape}")
    count = int(labels.max()) + 1 if num_classes is None else int(num_classes)
    classes = _check_classes(forget_classes, count)
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"forget fraction={fraction} is out of range; use a value in (0, 1]")
    if limit < 0:
        raise UserError(f"forget limit={limit} is negative; use 0 for all images, or a count")

    absent = np.setdiff1d(classes, labels)
    if absent.size:
        raise UserError(
            f"forget_classes={absent.tolist()} have no image in this data; choose among the "
            f"classes that are present: {np.unique(labels).tolist()}"
        )
    is_forget = np.isin(labels, classes)
    forget = np.flatnonzero(is_forget)
    retain = np.flatnonzero(~is_forget)
    if not retain.size:
        raise UserError(
            f"forget_classes={classes} covers all classes, so nothing would be retained; "
            "leave out at least one class"
        )
    keep = max(1, round(fraction * forget.size))
    if limit:
        keep = min(keep, limit)
    if keep < forget.size:
        forget = np.sort(forget[stable_permutation(forget.size, seed)[:keep]])
    return ForgetRetain(forget.astype(np.int64), retain.astype(np.int64))


def _check_classes(forget_classes: Sequence[int] | int, count: int) -> list[int]:
    if isinstance(forget_classes, (int, np.integer)):
        forget_classes = (forget_classes,)
    for value in forget_classes:
        integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not integral or not 0 <= value < count:
            raise UserError(
                f"forget_classes contains {value!r}, which is not a class of this data; "
                f"use integers from 0 to {count - 1}"
            )
    classes = sorted({int(value) for value in forget_classes})
    if not classes:
        raise UserError("forget_classes is empty; name at least one class to forget")
    return classes


def stable_permutation(size: int, seed: int, stream: int = 0) -> np.ndarray:
    """A random permutation that is the same with every version of NumPy.

    The streams of `RandomState` are frozen by NumPy's policy (NEP 19), unlike those of `Generator`.

    Args:
      size: number of elements.
      seed: any integer, also negative.
      stream: number of the permutation; different (seed, stream) give unrelated permutations.

    Returns:
      (size,) int64, the integers 0 … size − 1 in random order.
    """
    entropy = [2 * abs(int(seed)) + (seed < 0), stream]
    bits = np.random.MT19937(np.random.SeedSequence(entropy))
    return np.random.RandomState(bits).permutation(size)


def stratified_test_mask(labels: Sequence[int] | np.ndarray, every: int) -> np.ndarray:
    """Mark every `every`-th image of each class, in the given order, as test.

    A stride, not a random draw, so the split is the same on every machine and with every version
    of NumPy. A class with fewer than `every` images, but at least two, gives its last image.

    Args:
      labels: (N,) integer classes.
      every: stride, at least 2; about 1 / every of the images are test images.

    Returns:
      (N,) bool, True for test.
    """
    labels = np.asarray(labels)
    mask = np.zeros(labels.shape, bool)
    for value in np.unique(labels):
        members = np.flatnonzero(labels == value)
        chosen = members[every - 1 :: every]
        if not chosen.size and members.size >= 2:
            chosen = members[-1:]
        mask[chosen] = True
    return mask
