"""Training and unlearning methods, one file each, all of the type `vdu_jax.types.Objective`.

A factory takes the pure pieces that the method needs (score function, schedule, posterior) and
its hyper-parameters, and returns the objective. `FACTORIES` names those that a config's
`methods.<name>.objective` can ask for; a factory's keyword-only arguments are that method's keys
in the config.
"""

from vdu_jax.objectives.ddpm import ddpm
from vdu_jax.objectives.vdu import vdu
from vdu_jax.objectives.vdu_extended import vdu_extended

FACTORIES = {"vdu": vdu, "vdu_extended": vdu_extended}

__all__ = ["FACTORIES", "ddpm", "vdu", "vdu_extended"]
