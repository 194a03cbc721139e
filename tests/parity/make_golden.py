"""Write vdu_jax/parity/golden/*.npz from PyTorch.

    python tests/parity/make_golden.py [GROUP …]

A group is the first part of a component's name, and a file; without any, all are written.
"""

import datetime
import importlib.metadata
import platform
import sys

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


def main(groups):
    """Compute the references of some groups, all if none is named, and write a file for each."""
    known = {compare.group(name) for name in reference.REFERENCE}
    if unknown := set(groups) - known:
        sys.exit(f"{', '.join(sorted(unknown))}: no such group; one of {', '.join(sorted(known))}")
    wanted = {
        name: function
        for name, function in reference.REFERENCE.items()
        if compare.group(name) in (groups or known)
    }
    files = {}
    with progress.bar(len(wanted), "golden", unit="component") as bar:
        for name, function in wanted.items():
            arrays = files.setdefault(compare.group(name), {})
            for key, values in compare.compact(function()).items():
                arrays[f"{name}:{key}"] = values
            bar.update()
    made_with = {f"{compare.MADE_WITH}:{k}": np.array(v) for k, v in versions().items()}
    for group, arrays in files.items():
        np.savez_compressed(compare.golden_folder() / f"{group}.npz", **made_with, **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
