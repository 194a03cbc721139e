"""Every method on MNIST, 28x28: three forget classes, three training seeds.

    vdu benchmark --config=configs/benchmark/mnist_methods.py --workdir=runs/benchmark/mnist

The four IDX files are downloaded, or read from --config.data.manual_dir. The network,
its training and the methods are those of configs/benchmark/fashion_methods.py, so that the two data
sets can be compared. A model draws 2000 images. Cost and figures: not yet measured.
"""

import fashion_methods


def get_config():
    config = fashion_methods.get_config()
    config.data.name = "mnist"
    config.classifier.min_accuracy = 0.99
    config.classifier.widths = (32, 64)
    config.classifier.stride = 2
    config.classifier.epochs = 4
    config.classifier.learning_rate = 2e-3
    config.classifier.weight_decay = 0.05
    config.evaluate.images = 2000
    config.forget.classes = (3,)
    config.benchmark.classes = (1, 3, 7)
    config.benchmark.tuning_class = 5
    return config
