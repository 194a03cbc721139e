"""Unlearn the 3 from a class-conditional model of scikit-learn's 8x8 digits.

    vdu run --config=configs/digits_conditional.py --workdir=runs/digits_conditional

The model is told which digit to draw. UA is the percentage of the images requested as a 3 that the
classifier does not recognise as a 3. Cost: about 6 minutes on two CPU cores, no download. Figures:
docs/results/digits_conditional.md.
"""

import digits

from vdu_jax import config as vdu_config


def get_config():
    config = digits.get_config()
    config.model.num_class_embeds = 11  # ten digits, and "no class" for guidance
    config.condition.drop = 0.1
    config.condition.guidance = 1.5

    config.methods.extended = vdu_config.method(
        "vdu_extended",
        gamma=0.01,
        function_weight=30.0,
        drop_condition=0.1,
        learning_rate=3e-4,
        steps=60,
        snapshot_every=20,
    )
    config.methods.esd = vdu_config.method(
        "esd", teacher="condition", learning_rate=1e-4, steps=60, snapshot_every=20
    )
    config.methods.salun = vdu_config.method(
        "salun", relabel="condition", learning_rate=3e-4, steps=60, snapshot_every=20
    )
    return config
