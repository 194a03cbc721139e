"""Difference of two sets of named arrays, and the files of golden numbers."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
ENTRIES = 4096  # numbers of a component that a golden file keeps
MEASURES = ("absolute", "relative", "relative L2")
MADE_WITH = "made_with"


class Difference(NamedTuple):
    """Difference of two sets of arrays, each measure that of the worst array.

    Attributes:
      absolute: max|Δ|.
      relative: max|Δ| / max|reference|.
      l2: ‖Δ‖ / ‖reference‖.
    """

    absolute: float
    relative: float
    l2: float

    def of(self, measure: str) -> float:
        """The difference in a measure, one of `MEASURES`."""
        return self[MEASURES.index(measure)]


def difference(ours: Arrays, reference: Arrays) -> Difference:
    """Compare two sets of arrays in float64; a number that is not finite differs infinitely.

    Args:
      ours: arrays by name.
      reference: arrays of the same names and shapes.

    Raises:
      ValueError: if names or shapes differ.
    """
    if ours.keys() != reference.keys():
        raise ValueError(f"arrays differ: {sorted(ours.keys() ^ reference.keys())}")
    worst = np.zeros(3)
    for name, array in ours.items():
        a, b = np.asarray(array, np.float64), np.asarray(reference[name], np.float64)
        if a.shape != b.shape:
            raise ValueError(f"{name}: shape {a.shape}, the reference has {b.shape}")
        gap = np.abs(a - b)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = [
                gap.max(),
                gap.max() / np.abs(b).max(),
                np.linalg.norm(gap) / np.linalg.norm(b),
            ]
        # 0/0, two arrays of zeros, is no difference; every other NaN is one.
        errors = [0.0 if gap.max() == 0 else np.inf if np.isnan(f) else f for f in errors]
        worst = np.maximum(worst, errors)
    return Difference(*map(float, worst))


def by_layer(tensors: Arrays) -> dict[str, np.ndarray]:
    """Join the weight and bias of each layer into one vector.

    The gradient of the bias of attention keys is 0 by symmetry, so its relative error is undefined
    without the weight.

    Args:
      tensors: arrays by their names in PyTorch, LAYER.weight and LAYER.bias.

    Returns:
      {LAYER: vector}.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for name in sorted(tensors):
        layers.setdefault(name.rpartition(".")[0], []).append(np.ravel(tensors[name]))
    return {name: np.concatenate(parts) for name, parts in layers.items()}


def compact(arrays: Arrays) -> dict[str, np.ndarray]:
    """Reduce a component's arrays to the numbers that a golden file keeps.

    Small arrays are kept whole. A large array is reduced to a fixed random part of its entries and
    its root mean square, which changes with every entry.

    Args:
      arrays: arrays by name.

    Returns:
      float32 vectors by name; NAME/rms is the root mean square of NAME.
    """
    limit = max(16, ENTRIES // len(arrays))
    kept: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        values = np.ravel(np.asarray(array, np.float64))
        if values.size > limit:
            kept[f"{name}/rms"] = np.array([np.sqrt(np.mean(values**2))], np.float32)
            random = np.random.RandomState(zlib.crc32(name.encode()))
            values = values[np.sort(random.permutation(values.size)[:limit])]
        kept[name] = values.astype(np.float32)
    return kept


def group(component: str) -> str:
    """Name of a component's golden file: the first part of the component's name."""
    return component.partition("/")[0]


def golden_folder() -> Path:
    """Folder of the golden files, in the installed package."""
    return Path(__file__).parent / "golden"


def read_golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the golden arrays of a component.

    Args:
      name: name of the component.

    Returns:
      (arrays by name, versions of the packages that made them).

    Raises:
      ValueError: if there are none.
    """
    path = golden_folder() / f"{group(name)}.npz"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; make it with tests/parity/make_golden.py")
    with np.load(path, allow_pickle=False) as file:
        arrays = {k.partition(":")[2]: file[k] for k in file.files if k.startswith(f"{name}:")}
        made_with = {
            k.partition(":")[2]: str(file[k]) for k in file.files if k.startswith(f"{MADE_WITH}:")
        }
    if not arrays:
        raise ValueError(f"{path} has no {name}; make it again with tests/parity/make_golden.py")
    return arrays, made_with
