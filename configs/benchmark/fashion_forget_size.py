"""Unlearn a class of Fashion-MNIST, 28x28, from 1, 10 or 100 % of its images.

    vdu benchmark --config=configs/benchmark/fashion_forget_size.py \\
        --workdir=runs/benchmark/fashion_forget_size \\
        --config.data.manual_dir=/usr/share/datasets/fashion-mnist

The settings are those of configs/benchmark/fashion_methods.py without tuning, the same for every
size of the forget set. Cost and figures: docs/results/fashion_forget_size.md.
"""

import fashion_methods

from vdu_jax import config as vdu_config

SHARES = (0.01, 0.1, 1.0)  # of 6000 images


def get_config():
    config = fashion_methods.get_config()
    config.benchmark.seeds = (0,)
    config.benchmark.method_seeds = {}
    config.benchmark.grids = {}
    config.relearn.images = 0
    config.forget.limit = 0

    methods, changes = {}, {}
    for base in ("vdu", "vdu_extended", "demixing"):
        for share in SHARES:
            name = f"{base}_{100 * share:.0f}_percent"
            methods[name] = vdu_config.change_method(base, config.methods[base], {})
            changes[name] = {"forget": {"fraction": share}}
    config.methods = methods
    config.benchmark.changes = changes
    return config
