"""Compare all methods at unlearning a class from models of MNIST, 28x28.

    vdu benchmark --config=configs/benchmark/mnist_methods.py --workdir=runs/benchmark/mnist

Three forget classes and three training seeds. The network and the methods are those of
configs/benchmark/fashion_methods.py. Training takes twice as many steps: after 2000 many samples
are no digit, and the classifier calls those of a model that was trained without the 3 a 3 a third
as often as the original's. The methods whose cost is a share of training take twice as many, too.
Each model is evaluated on 2000 images. The four IDX files are downloaded, or read from
--config.data.manual_dir. Cost and figures, of one class and one seed:
docs/results/mnist_methods.md.
"""

import fashion_methods


def get_config():
    config = fashion_methods.get_config()
    config.data.name = "mnist"
    config.train.steps = 4000
    for name in ("demixing", "demixing_longer", "retained_score"):
        config.methods[name].steps *= 2
        config.methods[name].snapshot_every *= 2
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
