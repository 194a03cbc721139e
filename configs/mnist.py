"""Unlearn the 3 from a model of MNIST, 28x28.

    vdu run --config=configs/mnist.py --workdir=runs/mnist

The network is that of configs/fashion_mnist.py. The four IDX files are downloaded, or read from
--config.data.manual_dir. Cost: as for configs/fashion_mnist.py. Figures: not yet measured.
"""

import fashion_mnist


def get_config():
    config = fashion_mnist.get_config()
    config.data.name = "mnist"
    config.forget.classes = (3,)
    return config
