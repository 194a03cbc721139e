"""Unlearn trousers from a model of Fashion-MNIST, 28x28.

    vdu run --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The network is small enough to train on two CPU cores. The four IDX files are downloaded, or read
from --config.data.manual_dir; Debian's package dataset-fashion-mnist installs them in
/usr/share/datasets/fashion-mnist. Cost and figures: docs/notes/results_history.md.
"""

from vdu_jax import config as vdu_config


def get_config():
    config = vdu_config.default()
    config.data.name = "fashion_mnist"
    config.forget.classes = (1,)  # trousers

    config.model.block_out_channels = (24, 48, 96)
    config.model.layers_per_block = 1
    config.model.attention_levels = (2,)
    config.model.num_groups = 8

    config.train.steps = 2500
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 100
    config.train.decay = "linear"
    config.train.ema_decay = 0.995
    config.train.snapshot_every = 100
    config.train.snapshots = 6
    config.train.save_state_every = 250
    config.train.log_every = 50

    config.sampler.name = "dpm++2m"
    config.sampler.steps = 20
    config.sampler.batch_size = 100
    config.replay.images = 1500
    config.forget.limit = 1000
    config.curve.images = 250
    config.evaluate.images = 1000
    config.classifier.widths = (16, 32, 64)
    config.classifier.batch_size = 64
    config.classifier.epochs = 5
    config.classifier.learning_rate = 3e-3
    config.classifier.min_accuracy = 0.89

    config.methods.plain = vdu_config.method(
        "vdu",
        gamma=0.1,
        anchor="pretrained",
        plasticity_reduction="mean",
        stability_reduction="mean",
        learning_rate=2e-5,
        steps=80,
        snapshot_every=10,
        target_pul=95.0,
    )
    config.methods.extended = vdu_config.method(
        "vdu_extended",
        gamma=0.01,
        function_weight=10.0,
        learning_rate=1e-4,
        forget_batch=16,
        replay_batch=48,
        steps=100,
        snapshot_every=25,
        target_pul=95.0,
    )
    return config
