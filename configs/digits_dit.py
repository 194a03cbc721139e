"""Unlearn the 3 from a diffusion transformer (DiT) of scikit-learn's 8x8 digits.

    vdu run --config=configs/digits_dit.py --workdir=runs/digits_dit

The network is a DiT of 4 blocks on 2x2 patches. Settings that this file does not set are those of
configs/digits.py. Cost: about 9 minutes on two CPU cores shared with other work. Result, one seed:
the extended VDU reaches PUL 95 % at u-FID 3.17, plain VDU 62 % at 6.39; the original model has
u-FID 2.54, the U-Net of configs/digits.py 1.09.
"""

import digits

from vdu_jax import config as vdu_config


def get_config():
    config = digits.get_config()
    config.model = vdu_config.model("dit", patch_size=2, hidden_size=64, depth=4, num_heads=4)

    config.train.steps = 5000
    config.train.batch_size = 64
    config.train.learning_rate = 3e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.998
    # The posterior needs checkpoints from the last 28 % of training. In the last 5 % the learning
    # rate is almost 0: variances were a hundred times smaller, and PUL stayed below 40 %.
    config.train.snapshot_every = 200
    config.train.save_state_every = 1000

    config.methods.extended.learning_rate = 1e-3
    config.methods.extended.steps = 96
    return config
