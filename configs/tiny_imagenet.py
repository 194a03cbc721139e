"""Unlearn class 0 (goldfish) from a model of tinyImageNet, 64x64.

    vdu run --config=configs/tiny_imagenet.py --workdir=runs/tiny_imagenet

The network has four resolutions. tiny-imagenet-200.zip is downloaded, or read from
--config.data.manual_dir. Cost: needs an accelerator. Figures: not yet measured.
"""

import cifar10


def get_config():
    config = cifar10.get_config()
    config.data.name = "tiny_imagenet"
    config.data.cache_mb = 2048
    config.forget.classes = (0,)
    config.model.block_out_channels = (128, 128, 256, 256)
    config.model.attention_levels = (2, 3)
    config.classifier.widths = (64, 128, 256, 256)
    config.classifier.min_accuracy = 0.4  # 200 classes
    return config
