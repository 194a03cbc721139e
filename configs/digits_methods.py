"""All methods on scikit-learn's 8x8 digits, beside VDU and a model retrained without the 3.

    vdu run --config=configs/digits_methods.py --workdir=runs/digits_methods

Cost: about 20 minutes on two CPU cores. Settings are not tuned: the sources' learning rate of 1e-4
where they have one, as many steps as VDU. Figures: docs/results.md.
"""

import digits

from vdu_jax import config as vdu_config


def get_config():
    config = digits.get_config()
    short = dict(steps=100, snapshot_every=20, learning_rate=1e-4)
    for name in ("erase_diff", "esd", "fine_tune", "salun", "selective_amnesia", "siss"):
        config.methods[name] = vdu_config.method(name, **short)
    config.methods.gradient_ascent = vdu_config.method(
        "gradient_ascent", steps=80, snapshot_every=10, learning_rate=2e-5
    )
    config.methods.retrain = vdu_config.method("retrain")
    return config
