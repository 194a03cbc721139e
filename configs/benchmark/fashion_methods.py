"""Compare all methods at unlearning a class from models of Fashion-MNIST, 28x28.

    vdu benchmark --config=configs/benchmark/fashion_methods.py --workdir=runs/benchmark/fashion \\
        --config.data.manual_dir=/usr/share/datasets/fashion-mnist

Three forget classes and three training seeds. The methods that use retained data, and retraining,
run on the first seed only. The network is smaller than that of configs/fashion_mnist.py, because it
is trained six times. It predicts v, which gives recognisable garments after one epoch. Cost and
figures: docs/results/fashion_methods.md.
"""

import fashion_mnist

from vdu_jax import config as vdu_config


def get_config():
    config = fashion_mnist.get_config()
    config.model.block_out_channels = (16, 32, 64)
    config.diffusion.prediction = "v_prediction"
    config.train.steps = 2000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.sampler.steps = 10
    config.evaluate.images = 1000

    config.benchmark.classes = (1, 5, 8)  # trousers, sandals, bags
    config.benchmark.seeds = (0, 1, 2)
    config.benchmark.tuning_class = 7  # sneakers

    method = vdu_config.method
    means = dict(plasticity_reduction="mean", stability_reduction="mean")
    # A step uses as many images as a training step, or half as many.
    steps = dict(steps=60, snapshot_every=20, forget_batch=8, replay_batch=24, retain_batch=24)
    short = dict(steps=40, snapshot_every=10, forget_batch=16)
    falling = dict(decay="linear", beta2=0.95)
    # At most 1 % of the operations of training.
    frugal = dict(steps=28, snapshot_every=14, forget_batch=8, replay_batch=8, **falling)
    longer = dict(steps=100, snapshot_every=25, forget_batch=16, replay_batch=16, **falling)
    config.methods = {
        "retrain": method("retrain"),
        "vdu": method("vdu", anchor="pretrained", gamma=0.1, **means, **short),
        "gradient_ascent": method("gradient_ascent", **short),
        "esd": method("esd", **short),
        "salun": method("salun", **steps),
        "selective_amnesia": method("selective_amnesia", **steps),
        "fine_tune": method("fine_tune", **steps),
        "erase_diff": method("erase_diff", **steps),
        "siss": method("siss", **steps),
        "vdu_extended": method("vdu_extended", gamma=0.01, function_weight=10.0, **steps),
        "demixing": method("demixing", **frugal),
        "demixing_longer": method("demixing", **longer),
        # About 5 % of the operations of training.
        "retained_score": method(
            "retained_score",
            steps=150,
            snapshot_every=50,
            forget_batch=8,
            replay_batch=8,
            **falling,
        ),
    }
    once = ("retrain", "fine_tune", "erase_diff", "siss")
    config.benchmark.method_seeds = dict.fromkeys(once, (0,))
    rates = dict.fromkeys(set(config.methods) - {"retrain"}, (1e-4, 3e-4, 1e-3))
    rates |= dict.fromkeys(("vdu", "gradient_ascent"), (1e-5, 3e-5, 1e-4))
    config.benchmark.grids = {
        name: tuple({"learning_rate": rate} for rate in some) for name, some in rates.items()
    }
    return config
