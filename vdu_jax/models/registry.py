"""The registry of architectures: the values of `config.model.name` for models of pixels.

A new architecture needs a file with its module (see `network`) and its `ARCHITECTURE`, and a line
here.
"""

from vdu_jax.models import dit, unet
from vdu_jax.models.network import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "dit": dit.ARCHITECTURE,
    "unet": unet.ARCHITECTURE,
}
"""Architecture by the name in `config.model.name`."""
