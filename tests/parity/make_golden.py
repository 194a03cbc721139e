"""Write vdu_jax/parity/golden/*.npz from PyTorch: `python tests/parity/make_golden.py`."""

import datetime
import importlib.metadata
import platform

import numpy as np
import reference

from vdu_jax.parity import compare
from vdu_jax.runtime import progress

PACKAGES = ("torch", "diffusers", "transformers", "pytorch-fid", "numpy")


def versions():
    """What the reference ran with, recorded as strings in every file."""
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "date": datetime.date.today().isoformat(),
        "script": "tests/parity/make_golden.py",
    }


def main():
    """Compute every reference, and write a file for each group of them."""
    files = {}
    with progress.bar(len(reference.REFERENCE), "golden", unit="component") as bar:
        for name, function in reference.REFERENCE.items():
            arrays = files.setdefault(compare.group(name), {})
            for key, values in compare.compact(function()).items():
                arrays[f"{name}:{key}"] = values
            bar.update()
    made_with = {f"{compare.MADE_WITH}:{k}": np.array(v) for k, v in versions().items()}
    for group, arrays in files.items():
        np.savez_compressed(compare.golden_folder() / f"{group}.npz", **made_with, **arrays)


if __name__ == "__main__":
    main()
