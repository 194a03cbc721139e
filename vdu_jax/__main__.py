"""`vdu`, and `python -m vdu_jax`: signals are handled before anything else is imported."""

import sys

from vdu_jax.runtime import preemption


def main() -> int:
    """Be the process of a command; returns its exit code."""
    preemption.listen()
    from vdu_jax import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
