"""MNIST, 28x28: unlearn the 3, with the network of configs/fashion_mnist.py.

    vdu run --config=configs/mnist.py --workdir=runs/mnist

The four IDX files are downloaded, or read from --config.data.manual_dir. Cost: as Fashion-MNIST.
Figures: not yet measured.
"""

import fashion_mnist


def get_config():
    config = fashion_mnist.get_config()
    config.data.name = "mnist"
    config.forget.classes = (3,)
    return config
