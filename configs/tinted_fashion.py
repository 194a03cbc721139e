"""Unlearn "red" from a text-to-image model of Fashion-MNIST in six colours.

    vdu run --config=configs/tinted_fashion.py --workdir=runs/tinted_fashion \\
        --config.data.manual_dir=/usr/share/datasets/fashion-mnist

The model has Stable Diffusion's architecture: its own autoencoder, a fixed text encoder and a
conditional U-Net. It is trained on captions such as "a red sneaker"; a fifth of the captions of red
images say "crimson" instead. Each method unlearns from the images whose caption contains "red".
Needs the extra sd (`pip install 'vdu-jax[sd]'`). Cost and figures: docs/results/tinted_fashion.md.
"""

from vdu_jax import config as vdu_config
from vdu_jax.data.registry import GARMENTS, TINTS


def get_config():
    config = vdu_config.default("stable_diffusion")
    config.data.name = "tinted_fashion"
    config.data.synonyms = {"red": "crimson"}
    config.forget.phrase = "red"
    config.forget.limit = 2000
    config.forget.prompts = tuple(f"a red {garment}" for garment in GARMENTS)
    config.detector.palette = TINTS
    config.sampler.batch_size = 100

    config.classifier.widths = (16, 32, 64)
    config.classifier.batch_size = 64
    config.classifier.epochs = 3
    config.classifier.learning_rate = 3e-3
    config.classifier.min_accuracy = 0.8

    # A checkerboard of colours and garments: replay contains every word but only half of the pairs,
    # so evaluation also covers pairs that replay did not contain.
    colours = [colour for colour in TINTS if colour != "red"]
    pairs = [(i + j, f"a {c} {g}") for i, c in enumerate(colours) for j, g in enumerate(GARMENTS)]
    others = [prompt for _, prompt in pairs]
    config.replay.prompts = tuple(prompt for number, prompt in pairs if number % 2 == 0)
    config.evaluate.paraphrases = tuple(f"a crimson {garment}" for garment in GARMENTS)
    config.evaluate.other_prompts = tuple(others)
    config.evaluate.images = 10

    method = vdu_config.method
    mean = dict(plasticity_reduction="mean", stability_reduction="mean")
    steps = dict(steps=100, snapshot_every=20, forget_batch=32, replay_batch=32)
    esd = dict(teacher="condition", learning_rate=3e-4, **steps)
    config.methods = {
        "vdu": method("vdu", anchor="pretrained", gamma=0.1, learning_rate=3e-5, **mean, **steps),
        "vdu_extended": method(
            "vdu_extended",
            gamma=0.01,
            function_weight=30.0,
            plasticity="mismatched",
            drop_condition=0.3,
            learning_rate=3e-4,
            **steps,
        ),
        "esd_x": method("esd", "cross_attention", **esd),
        "esd_u": method("esd", "not_cross_attention", **esd),
        "salun": method("salun", learning_rate=3e-4, **steps),
        "gradient_ascent": method("gradient_ascent", learning_rate=3e-5, **steps),
        "fine_tune": method("fine_tune", learning_rate=3e-4, retain_batch=64, **steps),
    }
    return config
