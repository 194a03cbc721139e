"""Unlearn aeroplanes from a model of CIFAR-10, 32x32.

    vdu run --config=configs/cifar10.py --workdir=runs/cifar10

The network is that of Ho et al. 2020, with 35.7 M parameters. cifar-10-binary.tar.gz is downloaded,
or read from --config.data.manual_dir. Cost: 800 k training steps, as in Ho et al., take days on one
accelerator; a CPU is too slow. Figures: not yet measured.
"""

from vdu_jax import config as vdu_config


def get_config():
    config = vdu_config.default()
    config.data.name = "cifar10"
    config.forget.classes = (0,)

    config.model.block_out_channels = (128, 256, 256, 256)
    config.model.attention_levels = (1,)
    config.model.downsample_padding = 0
    config.model.dropout = 0.1

    config.train.flip = True  # as Ho et al.
    config.train.steps = 800_000
    config.train.warmup_steps = 5000
    config.train.snapshot_every = 20_000
    config.train.snapshots = 10

    config.replay.images = 10_000
    config.classifier.widths = (64, 128, 256)
    config.classifier.blocks = 2
    config.classifier.epochs = 40

    config.methods.vdu = vdu_config.method("vdu", learning_rate=1e-5, steps=1000, snapshot_every=50)
    config.methods.extended = vdu_config.method(
        "vdu_extended",
        gamma=0.01,
        function_weight=10.0,
        learning_rate=2e-5,
        forget_batch=64,
        replay_batch=192,
        steps=2000,
        snapshot_every=100,
    )
    return config
