"""`python -m vdu_jax.cli` is `vdu`."""

import sys

from vdu_jax.cli import main

sys.exit(main())
