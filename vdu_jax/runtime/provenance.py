"""Provenance of a result: code, versions and devices."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import vdu_jax

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def commit() -> str:
    """Git commit of the source tree, with "+dirty" if it has changes; or "unknown"."""
    root = Path(vdu_jax.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def collect() -> dict[str, Any]:
    """Versions, commit, platform and devices, as a JSON value."""
    import jax

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    devices = jax.devices()
    return {
        "vdu_jax": vdu_jax.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "versions": versions,
    }
