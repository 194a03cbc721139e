"""Unlearn trousers from a class-conditional model of Fashion-MNIST, 28x28.

    vdu run --config=configs/fashion_conditional.py --workdir=runs/fashion_conditional \\
        --config.data.manual_dir=/usr/share/datasets/fashion-mnist

The model is told which garment to draw. The data set is found as in configs/fashion_mnist.py. UA is
the percentage of the images requested as trousers that the classifier does not recognise as
trousers. ESD and SalUn have their forms for conditional networks. Cost and figures: not yet
measured; the learning rates are not tuned.
"""

import fashion_mnist

from vdu_jax import config as vdu_config


def get_config():
    config = fashion_mnist.get_config()
    config.model.num_class_embeds = 11  # ten garments, and "no class" for guidance
    config.condition.drop = 0.1
    config.condition.guidance = 1.5

    steps = dict(learning_rate=1e-4, steps=100, snapshot_every=25, target_pul=95.0)
    config.methods.extended = vdu_config.method(
        "vdu_extended",
        gamma=0.01,
        function_weight=30.0,
        drop_condition=0.1,
        forget_batch=16,
        replay_batch=48,
        **steps,
    )
    config.methods.esd = vdu_config.method("esd", teacher="condition", **steps)
    config.methods.salun = vdu_config.method("salun", relabel="condition", **steps)
    return config
