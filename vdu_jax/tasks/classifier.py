"""The data set's classifier: trained on demand, cached, and used by evaluators alone.

No unlearning method and no selection rule may see it, for it knows the retained data.

    classifier/params/0/        parameters
    classifier/reference.npz    features and labels of the training images: D_r for u-FID

The folder lies in the workdir, or in `classifier.dir` for runs to share it.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.errors import UserError
from vdu_jax.models.classifier import Classifier
from vdu_jax.runtime import artifacts, parallel, processes, progress
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.tasks import base, datasets

BATCH = 500


class Predictions(NamedTuple):
    """probabilities (N, K) and features (N, F), float32, of N images."""

    probabilities: np.ndarray
    features: np.ndarray


def make_net(config: ConfigDict, num_classes: int) -> Classifier:
    section = config.classifier
    return Classifier(
        num_classes, tuple(section.widths), section.blocks, section.dropout, section.stride
    )


def train(config: ConfigDict, net: Classifier, source: data.ImageSource):
    """Fresh parameters after `classifier.epochs` passes of AdamW with a cosine decay to 0."""
    section = config.classifier
    batch_size = min(section.batch_size, len(source))
    steps = max(1, section.epochs * len(source) // batch_size)
    loader = data.make_loader(source, batch_size, section.seed)
    key = jax.random.key(section.seed)
    first = np.zeros((1, *source.image_shape), np.float32)
    mesh = parallel.make_mesh()
    params = parallel.place(base.initialise(lambda k: net.init(k, first)["params"], key), mesh)
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(section.learning_rate, steps),
        weight_decay=section.weight_decay,
    )

    @jax.jit
    def step(params, opt_state, batch, key):
        def loss(params):
            logits, _ = net.apply(
                {"params": params},
                batch["image"],
                deterministic=False,
                rngs={"dropout": key},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    # Placed as the step returns it, or the second step would be compiled anew.
    opt_state = parallel.init_sharded(optimizer.init, mesh, params)
    with progress.bar(steps, "classifier") as bar:
        for index in range(steps):
            batch = {name: parallel.spread(array, mesh) for name, array in next(loader).items()}
            params, opt_state, _ = step(params, opt_state, batch, jax.random.fold_in(key, index))
            bar.update()
    return params


def make_classifier_fn(net: Classifier, params):
    """`judge(images) -> Predictions` for uint8 images (N, H, W, C)."""

    @jax.jit
    def apply(params, x):
        logits, features = net.apply({"params": params}, x)
        return Predictions(jax.nn.softmax(logits), features)

    return lambda images: base.map_batches(lambda x: apply(params, x), images, BATCH)


def inputs(config: ConfigDict) -> dict:
    """`config.classifier` as far as it changes results."""
    return {k: v for k, v in config.classifier.to_dict().items() if k != "dir"}


def _make(
    config: ConfigDict, dataset: data.Dataset, net: Classifier, stage: artifacts.StageDir
) -> None:
    """Train and measure the classifier."""
    source = datasets.open_split(config, dataset, "train")
    path = stage.begin()
    params = train(config, net, source)
    judge = make_classifier_fn(net, params)
    held_out = datasets.open_split(config, dataset, "test")
    images, labels = held_out.read()
    accuracy = float((judge(images).probabilities.argmax(-1) == labels).mean())
    if accuracy < config.classifier.min_accuracy:
        raise UserError(
            f"the classifier gets {accuracy:.1%} of the held-out images right, "
            f"classifier.min_accuracy asks for {config.classifier.min_accuracy:.1%}: train it "
            "longer (classifier.epochs) or make it wider (classifier.widths)"
        )
    images, labels = source.read()
    artifacts.write_npz(path / "reference.npz", features=judge(images).features, labels=labels)
    with Store(path / "params") as store:
        store.save(0, {"params": params})
        store.wait()
    stage.finish({"accuracy": accuracy, "held_out": len(held_out)})


def ensure(config: ConfigDict, workdir: Path, overwrite: bool = False):
    """The judge, its held-out accuracy, and the training images' (features, labels).

    Raises:
      UserError: if the classifier is too weak to count with (`classifier.min_accuracy`).
    """
    dataset = datasets.prepared(config)
    net = make_net(config, dataset.num_classes)
    stage = artifacts.StageDir(
        Path(config.classifier.dir or workdir),
        "classifier",
        {"classifier": inputs(config), "data": datasets.inputs(config)},
    )
    if not stage.done(overwrite):
        with contextlib.ExitStack() as stack:
            # Several workdirs may share it (`classifier.dir`): one makes it, the others wait.
            alone = artifacts.lock(stage.path.with_name(".classifier.lock"))
            processes.from_leader(stack.enter_context, alone)
            if not stage.done():
                _make(config, dataset, net, stage)
    shapes = jax.eval_shape(
        lambda key: net.init(key, np.zeros((1, *dataset.image_shape), np.float32))["params"],
        jax.random.key(0),
    )
    like = parallel.placed(shapes, parallel.make_mesh())
    with Store(stage.path / "params", read_only=True) as store:
        params = store.restore(0, "params", like)
    reference = artifacts.read_npz(stage.path / "reference.npz")
    accuracy = artifacts.finished(stage.path)["summary"]["accuracy"]
    return make_classifier_fn(net, params), accuracy, reference
