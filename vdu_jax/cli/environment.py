"""Set up JAX and glibc, and report what is wrong with the devices of this machine."""

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from vdu_jax.errors import UserError
from vdu_jax.runtime import malloc

# XLA's fused CPU library calls: 1.5 times faster U-Nets. Set XLA_FLAGS to choose otherwise.
XLA_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type="
    "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"
)

EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}  # platform -> our extra for it


def set_up_jax(freed: Mapping[str, tuple[int, int]] = malloc.KEEP_FREED) -> None:
    """Set up fast CPU kernels, glibc's memory and a compilation cache, where nothing is set."""
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/vdu_jax/xla").expanduser())
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    malloc.choose(freed)


@contextlib.contextmanager
def starting_jax() -> Iterator[None]:
    """Context manager in which JAX starts: it is imported, meets other processes, finds devices.

    Raises:
      UserError: if JAX cannot start: an environment variable, a driver or a missing package.
    """
    _check_xla_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        import jax
    except ValueError as error:  # of a variable JAX_…
        raise UserError(f"an environment variable of JAX is wrong: {error}; unset it") from error
    try:
        yield
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        # JAX asserts that it found one of the platforms that it was told to use.
        text = str(error)
        if text and not re.search("backend|platform|device", text, re.IGNORECASE):
            raise
        raise UserError(_no_devices(text)) from error


def _no_devices(reason: str) -> str:
    import jax

    asked = os.environ.get("JAX_PLATFORMS", "") or getattr(jax.config, "jax_platforms", "") or ""
    reason = re.sub(r"^Unable to initialize backend '[^']*': |\s*\(set JAX_PLATFORMS.*", "", reason)
    reason = (reason.strip().splitlines() or ["there is no such device or no plugin for it"])[0]
    try:
        jax.config.update("jax_platforms", None)
        there = ", ".join(sorted({device.platform for device in jax.devices()}))
    except (RuntimeError, AssertionError):
        there = "none"
    extra = next((EXTRAS[name] for name in re.split(r"[,\s]+", asked) if name in EXTRAS), None)
    do = f"pip install 'vdu-jax[{extra}]' and see to its driver, or " if extra else ""
    if there == "none":
        return f"JAX finds no device: {reason}; look at the environment variables JAX_… and XLA_…"
    if not asked:
        return f"JAX cannot use this machine's devices: {reason}; JAX_PLATFORMS=cpu does without"
    return (
        f"JAX_PLATFORMS={asked}: {reason.rstrip('.')}; JAX finds {there} here: {do}unset "
        "JAX_PLATFORMS or set it to cpu"
    )


# XLA's parser ends the process, and nothing can catch that. So another process tries first.
TRY_FLAGS = "from jaxlib import xla_client; xla_client.make_cpu_client()"
SAID = re.compile(
    r"(Unknown flags? in XLA_FLAGS: .*|Couldn't interpret value .*|Could not open file \S+)"
)


@functools.cache
def _check_xla_flags(flags: str) -> None:
    if flags == XLA_FLAGS or not flags.strip() or _has_started():
        return
    done = subprocess.run(
        [sys.executable, "-c", TRY_FLAGS], capture_output=True, text=True, errors="replace"
    )
    said = SAID.search(done.stderr) if done.returncode else None
    if said:
        raise UserError(f"XLA_FLAGS: {said[0]}; leave it out of the environment variable XLA_FLAGS")


def _has_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()
