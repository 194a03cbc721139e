"""The architectures that `config.model.name` chooses from.

To add one: a file with its module (see `network`) and its `ARCHITECTURE`, and a line here.
"""

from vdu_jax.models import dit, unet
from vdu_jax.models.network import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "dit": dit.ARCHITECTURE,
    "unet": unet.ARCHITECTURE,
}
