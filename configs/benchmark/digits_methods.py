"""Compare all methods at unlearning a class from models of scikit-learn's 8x8 digits.

    vdu benchmark --config=configs/benchmark/digits_methods.py --workdir=runs/benchmark/digits

Three forget classes and three training seeds. Every method except retraining has the same tuning
budget: four settings, tried on a class that is not reported and selected by a rule that uses only
the forget images and the model. Cost and figures: docs/results/digits_methods.md.
"""

import digits

from vdu_jax import config as vdu_config


def get_config():
    config = digits.get_config()
    # configs/digits.py has a smaller network, training and classifier, to keep the demo short.
    config.model.block_out_channels = (32, 64)
    config.model.attention_levels = (1,)
    config.train.steps = 1000
    config.train.learning_rate = 2e-3
    config.train.snapshot_every = 50
    config.train.save_state_every = 250
    config.classifier.epochs = 40
    config.classifier.batch_size = 128
    config.classifier.learning_rate = 2e-3

    config.train.snapshots = 20  # all: they show when the original learned the class
    config.posterior.count = 8
    config.replay.images = 2000
    config.sampler.steps = 10
    config.sampler.eta = 0.0
    config.sampler.batch_size = 500
    config.curve.images = 1000
    config.evaluate.images = 10_000
    config.relearn.images = 500
    config.relearn.checks = (5, 10, 20, 50, 100, 200)

    config.benchmark.classes = (1, 3, 7)
    config.benchmark.seeds = (0, 1, 2)
    config.benchmark.tuning_class = 5

    method = vdu_config.method
    means = dict(plasticity_reduction="mean", stability_reduction="mean")
    steps = dict(steps=100, snapshot_every=20)
    short = dict(steps=60, snapshot_every=10)
    falling = dict(decay="linear", beta2=0.95)
    few = dict(forget_batch=12, replay_batch=12, **falling)
    # At most 1 % of the operations of training.
    frugal = dict(steps=39, snapshot_every=13, **few)
    longer = dict(steps=100, snapshot_every=20, forget_batch=32, replay_batch=32, **falling)
    config.methods = {
        "retrain": method("retrain"),
        "vdu": method("vdu", anchor="pretrained", **means, **short),
        "gradient_ascent": method("gradient_ascent", **short),
        "esd": method("esd", **short),
        "salun": method("salun", **steps),
        "selective_amnesia": method("selective_amnesia", **steps),
        "fine_tune": method("fine_tune", **steps),
        "erase_diff": method("erase_diff", **steps),
        "siss": method("siss", **steps),
        "vdu_extended": method("vdu_extended", gamma=0.01, **steps),
        "demixing": method("demixing", **frugal),
        "demixing_longer": method("demixing", **longer),
        # About 5 % and 10 % of the operations of training.
        "retained_score": method("retained_score", steps=195, snapshot_every=39, **few),
        "retained_score_longer": method("retained_score", steps=390, snapshot_every=78, **few),
    }
    rates = tuple({"learning_rate": rate} for rate in (1e-5, 3e-5, 1e-4, 3e-4))
    grids = dict.fromkeys(
        ("gradient_ascent", "esd", "salun", "selective_amnesia", "fine_tune", "siss"), rates
    )
    grids["vdu"] = tuple(
        {"learning_rate": rate, "gamma": gamma} for rate in (1e-5, 3e-5) for gamma in (0.1, 0.5)
    )
    grids["erase_diff"] = tuple(
        {"learning_rate": rate, "strength": strength}
        for rate in (3e-5, 1e-4)
        for strength in (0.1, 1.0)
    )
    grids["vdu_extended"] = tuple(
        {"learning_rate": rate, "function_weight": weight}
        for rate in (1e-4, 3e-4)
        for weight in (10.0, 30.0)
    )
    grids["demixing"] = grids["demixing_longer"] = tuple(
        {"learning_rate": rate, "replay_weight": weight}
        for rate in (2e-4, 4e-4)
        for weight in (1.0, 1.5)
    )
    grids["retained_score"] = grids["retained_score_longer"] = tuple(
        {"learning_rate": rate, "replay_weight": weight}
        for rate in (1.5e-4, 2.5e-4)
        for weight in (1.0, 1.5)
    )
    config.benchmark.grids = grids
    return config
