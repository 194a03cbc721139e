"""Compare all methods at unlearning a class from models of MNIST, 28x28.

    vdu benchmark --config=configs/benchmark/mnist_methods.py --workdir=runs/benchmark/mnist

Three forget classes and three training seeds. The network, its training and the methods are those
of configs/benchmark/fashion_methods.py, so that the two data sets can be compared. Each model is
evaluated on 2000 images. The four IDX files are downloaded, or read from --config.data.manual_dir.
Cost and figures: not yet measured.
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
