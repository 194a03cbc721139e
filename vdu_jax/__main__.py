"""`vdu`, and `python -m vdu_jax`: memory and signals come before anything else is imported."""

import sys

from vdu_jax.runtime import malloc, preemption


def main() -> int:
    """Be the process of a command; returns its exit code."""
    malloc.choose(malloc.ONE_POOL)  # before the first thread, which signals are given
    preemption.listen()
    from vdu_jax import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
