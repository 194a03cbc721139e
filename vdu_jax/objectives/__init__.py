"""Training and unlearning methods, one file each, all of the type `vdu_jax.types.Objective`.

A factory takes a method's pure inputs (network, parameterization, posterior) and hyper-parameters,
and returns the objective. `FACTORIES` has the unlearning methods by the names that a config's
`methods.<name>.objective` can have; the keyword-only arguments of a factory are that method's keys
in the config. Four other functions are no unlearning methods: `ddpm` trains a network,
`autoencoder` trains an autoencoder, `on_part` restricts any objective to a part of the parameters,
`adapted` to low-rank adapters.
"""

from vdu_jax.objectives.adapted import adapted
from vdu_jax.objectives.autoencoder import autoencoder
from vdu_jax.objectives.ddpm import ddpm
from vdu_jax.objectives.demixing import demixing
from vdu_jax.objectives.erase_diff import erase_diff
from vdu_jax.objectives.esd import esd
from vdu_jax.objectives.fine_tune import fine_tune
from vdu_jax.objectives.gradient_ascent import gradient_ascent
from vdu_jax.objectives.on_part import on_part
from vdu_jax.objectives.retained_score import retained_score
from vdu_jax.objectives.retrain import retrain
from vdu_jax.objectives.salun import salun
from vdu_jax.objectives.selective_amnesia import selective_amnesia
from vdu_jax.objectives.siss import siss
from vdu_jax.objectives.vdu import vdu
from vdu_jax.objectives.vdu_extended import vdu_extended

METHODS = (
    demixing, erase_diff, esd, fine_tune, gradient_ascent, retained_score, retrain, salun,
    selective_amnesia, siss, vdu, vdu_extended,
)  # fmt: skip
FACTORIES = {factory.__name__: factory for factory in METHODS}

__all__ = ["FACTORIES", "METHODS", "adapted", "autoencoder", "ddpm", "on_part", *FACTORIES]
