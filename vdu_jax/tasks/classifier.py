"""The data set's classifier, trained on demand and stored; only evaluators use it.

No unlearning method and no rule that keeps a step may use it, because it has seen the retained
data.

    classifier/params/0/        parameters
    classifier/reference.npz    features and labels of the training images: D_r for u-FID

The folder lies in the workdir, or in `classifier.dir`, where runs share it.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.errors import UserError
from vdu_jax.models.classifier import Classifier
from vdu_jax.runtime import artifacts, parallel, processes, progress
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.tasks import base, datasets
from vdu_jax.types import Params

BATCH = 500


class Predictions(NamedTuple):
    """A network's output for N images.

    Attributes:
      probabilities: (N, K) float32, of the data set's classes.
      features: (N, F) float32.
    """

    probabilities: np.ndarray
    features: np.ndarray


def make_net(config: ConfigDict, num_classes: int) -> Classifier:
    """The network that `config.classifier` describes.

    Args:
      config: all settings.
      num_classes: K, the number of its outputs.
    """
    section = config.classifier
    return Classifier(
        num_classes, tuple(section.widths), section.blocks, section.dropout, section.stride
    )


def augment(images: jax.Array, key: jax.Array, flip: bool, shift: int) -> jax.Array:
    """Flip and move images at random, each by itself.

    Args:
      images: (B, H, W, C).
      key: PRNG key.
      flip: whether half of them, chosen at random, are turned left to right.
      shift: largest distance along each axis, in pixels. What comes into view is a mirror image of
        what is there.
    """
    flip_key, shift_key = jax.random.split(key)
    if flip:
        turned = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(turned, images[:, :, ::-1], images)
    if shift:
        sides = ((0, 0), (shift, shift), (shift, shift), (0, 0))
        wider = jnp.pad(images, sides, mode="reflect")
        corners = jax.random.randint(shift_key, (len(images), 2), 0, 2 * shift + 1)

        def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

        images = jax.vmap(cut)(wider, corners)
    return images


def train(config: ConfigDict, net: Classifier, source: data.ImageSource) -> Params:
    """Train a classifier with AdamW and a cosine decay of the learning rate to 0.

    Args:
      config: all settings; `config.classifier` is used.
      net: the network.
      source: training images.

    Returns:
      The parameters after `classifier.epochs` passes.
    """
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
    def step(
        params: Params,
        opt_state: optax.OptState,
        batch: Mapping[str, jax.Array],
        dropout: jax.Array,
        shown: jax.Array,
    ) -> tuple[Params, optax.OptState, jax.Array]:
        images = augment(batch["image"], shown, section.flip, section.shift)

        def loss(params: Params) -> jax.Array:
            logits, _ = net.apply(
                {"params": params}, images, deterministic=False, rngs={"dropout": dropout}
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    # Placed as the step returns it; otherwise the second step would compile again.
    opt_state = parallel.init_sharded(optimizer.init, mesh, params)
    with progress.bar(steps, "classifier") as bar:
        for index in range(steps):
            batch = {name: parallel.spread(array, mesh) for name, array in next(loader).items()}
            dropout, shown = (jax.random.fold_in(key, i) for i in (index, steps + index))
            params, opt_state, _ = step(params, opt_state, batch, dropout, shown)
            bar.update()
    return params


def make_classifier_fn(net: Classifier, params: Params) -> Callable[[np.ndarray], Predictions]:
    """`classify(images) -> Predictions` for images (N, H, W, C) uint8.

    Args:
      net: the network.
      params: its parameters.
    """

    @jax.jit
    def apply(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = net.apply({"params": params}, x)
        logits, features = outputs
        return jax.nn.softmax(logits), features

    def judge(images: np.ndarray) -> Predictions:
        return Predictions(*base.map_batches(lambda x: apply(params, x), images, BATCH))

    return judge


def inputs(config: ConfigDict) -> dict[str, Any]:
    """The settings of `config.classifier` that change results."""
    return {k: v for k, v in config.classifier.to_dict().items() if k != "dir"}


def _make(
    config: ConfigDict, dataset: data.Dataset, net: Classifier, stage: artifacts.StageDir
) -> None:
    """Train the classifier, measure its accuracy, and write its folder."""
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


def ensure(
    config: ConfigDict, workdir: Path, overwrite: bool = False
) -> tuple[Callable[[np.ndarray], Predictions], float, dict[str, np.ndarray]]:
    """Train the classifier, or read it if it is there.

    Args:
      config: all settings.
      workdir: the run's folder, used if `classifier.dir` is empty.
      overwrite: whether to train it again.

    Returns:
      `classify(images) -> Predictions`; its accuracy on held-out images, in [0, 1]; and
      "features" (N, F) and "labels" (N,) of the training images.

    Raises:
      UserError: if its accuracy is below `classifier.min_accuracy`.
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
            # Several workdirs may share it (`classifier.dir`): one trains it, the others wait.
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
