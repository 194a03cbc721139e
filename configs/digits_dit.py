"""scikit-learn's 8x8 digits with a diffusion transformer in place of the U-Net: unlearn the 3.

    vdu run --config=configs/digits_dit.py --workdir=runs/digits_dit

A DiT of 4 blocks on patches of 2x2 pixels. All else is that of configs/digits.py, unless set here.
Cost: some 9 minutes on two CPU cores that other work shared. Seen, with one seed: extended VDU, PUL
95 % at u-FID 3.17; plain VDU, 62 % at 6.39; the original 2.54, where the U-Net is at 1.04.
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
    # The posterior's checkpoints come from the last 28 % of training. From its last 5 %, where the
    # learning rate is almost 0, variances were a hundredth of these, and PUL stayed below 40 %.
    config.train.snapshot_every = 200
    config.train.save_state_every = 1000

    config.methods.extended.learning_rate = 1e-3
    config.methods.extended.steps = 96
    return config
