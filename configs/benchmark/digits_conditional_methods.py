"""Compare all methods at unlearning a class from class-conditional models of 8x8 digits.

    vdu benchmark --config=configs/benchmark/digits_conditional_methods.py \\
        --workdir=runs/benchmark/digits_conditional

Three forget classes and three training seeds. ESD and SalUn have the conditional forms of their
papers. Every method except retraining has the same tuning budget: four settings, tried on a class
that is not reported and selected by a rule that uses only the forget images and the model. Cost and
figures: docs/results/digits_conditional_methods.md.
"""

import digits_conditional
import digits_methods

from vdu_jax import config as vdu_config


def get_config():
    config = digits_conditional.get_config()
    config.classifier.epochs = 40
    config.classifier.batch_size = 128
    config.classifier.learning_rate = 2e-3
    config.replay.images = 2000
    config.sampler.batch_size = 500
    config.curve.images = 500
    config.evaluate.images = 3000

    # The classes, seeds and grids of the comparison on unconditional digits.
    config.benchmark = digits_methods.get_config().benchmark

    method = vdu_config.method
    means = dict(plasticity_reduction="mean", stability_reduction="mean")
    steps = dict(steps=60, snapshot_every=20)
    config.methods = {
        "retrain": method("retrain"),
        "vdu": method("vdu", anchor="pretrained", **means, **steps),
        "gradient_ascent": method("gradient_ascent", **steps),
        "esd": method("esd", teacher="condition", **steps),
        "salun": method("salun", relabel="condition", **steps),
        "selective_amnesia": method("selective_amnesia", **steps),
        "fine_tune": method("fine_tune", **steps),
        "erase_diff": method("erase_diff", **steps),
        "siss": method("siss", **steps),
        "vdu_extended": method("vdu_extended", gamma=0.01, drop_condition=0.1, **steps),
        "demixing": method("demixing", **steps),
        "retained_score": method(
            "retained_score", drop_condition=0.1, decay="linear", beta2=0.95, **steps
        ),
    }
    grids = config.benchmark.grids
    grids["demixing"] = grids["retained_score"] = grids["salun"]  # learning rates
    # The class embedding alone determines the class, so these methods forget nothing with smaller
    # learning rates.
    grids["siss"] = grids["fine_tune"] = tuple(
        {"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3, 3e-3)
    )
    grids["vdu"] = tuple(
        {"learning_rate": rate, "gamma": gamma} for rate in (1e-4, 3e-4) for gamma in (0.1, 0.5)
    )
    grids["vdu_extended"] = tuple(
        {"learning_rate": rate, "function_weight": weight}
        for rate in (3e-4, 1e-3)
        for weight in (10.0, 30.0)
    )
    for name in set(grids) - set(config.methods):
        del grids[name]
    return config
