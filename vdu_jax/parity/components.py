"""Components that are compared with PyTorch: our side of each, and its tolerances.

Tolerances of float32 are a contract that holds on a CPU. Those of the other precisions are meant to
catch a wrong kernel, not to bound the rounding tightly:

- bfloat16 (8 bits of mantissa, in the network only): 4 to 8 times the difference on a CPU.
- TF32 (11 bits of mantissa, in the operands of matrix products only): a quarter of bfloat16's,
  since its operands are rounded 8 times finer and all else stays in float32. This is reasoned, not
  measured.

A component without a network keeps float32's tolerance in every precision. So do Inception and
CLIP, whose products always use the highest precision. Neither a GPU nor a TPU has been measured.

A function with a last argument `precision`, one of `PRECISIONS`, is the `Component.ours` of a
component, once its other arguments are bound; it returns arrays by name.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vdu_jax import objectives, posterior, training
from vdu_jax.diffusion import guidance, parameterization, process, samplers
from vdu_jax.diffusion.schedule import NAMES as SCHEDULES
from vdu_jax.diffusion.schedule import Schedule, make_schedule
from vdu_jax.interop import clip as clip_weights
from vdu_jax.interop import inception as inception_weights
from vdu_jax.interop import layout, stable_diffusion, unet2d
from vdu_jax.metrics import frechet
from vdu_jax.models import dit, inception, network, unet
from vdu_jax.objectives.ddpm import DDPMNoise
from vdu_jax.parity import compare, inputs
from vdu_jax.types import Noise, Objective, Params, ScoreFn


class Precision(NamedTuple):
    """Numeric precision of a comparison.

    Attributes:
      matmul: argument of `jax.default_matmul_precision`.
      dtype: compute type of the network.
    """

    matmul: str
    dtype: str


PRECISIONS = {
    "float32": Precision("highest", "float32"),
    "tf32": Precision("tensorfloat32", "float32"),
    "bfloat16": Precision("highest", "bfloat16"),
}


def matmul_precision(precision: str) -> contextlib.AbstractContextManager:
    """Context manager that sets the precision of matrix products.

    Args:
      precision: one of `PRECISIONS`.
    """
    return jax.default_matmul_precision(PRECISIONS[precision].matmul)


class Component(NamedTuple):
    """A comparison with PyTorch.

    Attributes:
      name: name of the component, the same in the reference and in the golden files.
      measure: one of `compare.MEASURES`; the worst array counts.
      tolerance: largest allowed difference, by precision.
      ours: `(precision) -> arrays by name`, called with that precision of matrix products.
      about: what is compared, in a few words.
    """

    name: str
    measure: str
    tolerance: Mapping[str, float]
    ours: Callable[[str], dict[str, np.ndarray]]
    about: str

    def run(self, precision: str) -> dict[str, np.ndarray]:
        """Compute our arrays on the default device.

        Args:
          precision: one of `PRECISIONS`.
        """
        with matmul_precision(precision):
            return {name: np.asarray(array) for name, array in self.ours(precision).items()}


class Network(NamedTuple):
    """A network with parameters.

    Attributes:
      score_fn: the network's `ScoreFn`.
      params: its parameters.
      image_shape: (H, W, C).
    """

    score_fn: ScoreFn
    params: Params
    image_shape: tuple[int, int, int]

    def read(self, tensors: compare.Arrays) -> Params:
        """Parameters from tensors by their names in PyTorch."""
        return unet2d.to_params(tensors, self.params, "parity")


def read_network(config: Mapping, precision: str) -> Network:
    """The U-Net of a `config.json` of diffusers, with the parameters of `inputs.tensors`.

    Args:
      config: the `config.json`.
      precision: one of `PRECISIONS`.
    """
    settings, image_shape = unet2d.read_config(config, "parity")
    net = unet.from_settings(settings | {"dtype": PRECISIONS[precision].dtype}, image_shape[-1])
    return with_tensors(net, image_shape)


def with_tensors(net: nn.Module, image_shape: tuple[int, int, int], seed: int = 0) -> Network:
    """A network with the parameters of `inputs.tensors`.

    Args:
      net: the linen module.
      image_shape: (H, W, C).
      seed: seed of the parameters.
    """
    like = jax.eval_shape(lambda: network.init_params(net, jax.random.key(0), image_shape))
    tensors = inputs.tensors(layout.pytorch_shapes(like, unet2d.tensor_name), seed)
    params = unet2d.to_params(tensors, like, "parity")
    return Network(network.make_score_fn(net), params, image_shape)


def linear_schedule() -> Schedule:
    """The linear noise schedule of 1000 steps."""
    return make_schedule("linear", inputs.NUM_TRAIN_STEPS)


def predicted_noise() -> parameterization.Parameterization:
    """The ε parameterization of the linear schedule."""
    return parameterization.epsilon(linear_schedule())


def forward(config: Mapping, precision: str) -> dict:
    """The output of a U-Net."""
    return output(read_network(config, precision), config, seed=1)


def output(net: Network, config: Mapping, seed: int) -> dict:
    """The output of a network at random images.

    Args:
      net: the network.
      config: its config; with `num_class_embeds` the images have labels.
      seed: seed of the images.
    """
    xt = inputs.normal(seed, len(inputs.TIMES), *net.image_shape)
    labels = inputs.LABELS if config.get("num_class_embeds") else None
    return {"eps": jax.jit(net.score_fn)(net.params, xt, inputs.TIMES, labels)}


def read_dit(config: Mapping, precision: str) -> Network:
    """A DiT with the parameters of `inputs.tensors`.

    Args:
      config: one of `inputs.DITS`.
      precision: one of `PRECISIONS`.
    """
    settings = {**dit.ARCHITECTURE.settings, "dtype": PRECISIONS[precision].dtype, **config}
    image_shape = (settings.pop("size"),) * 2 + (settings.pop("channels"),)
    return with_tensors(dit.from_settings(settings, image_shape[-1]), image_shape, seed=60)


def dit_noise(config: Mapping, precision: str) -> dict:
    """The output of a DiT."""
    return output(read_dit(config, precision), config, seed=61)


def dit_gradients(config: Mapping, precision: str) -> dict:
    """The gradient of the training loss of a DiT, on a batch of labelled images."""
    net = read_dit(config, precision)
    objective = objectives.ddpm(net.score_fn, predicted_noise())
    images = inputs.images(62, len(inputs.LABELS), *net.image_shape)
    noise = DDPMNoise(inputs.training_noising(images.shape), None, None)
    batch = {"retain": {"image": images, "cond": inputs.LABELS}}
    return loss_and_gradient(objective, net.params, (), batch, noise)[1]


@functools.cache
def eps_loss(config_name: str, precision: str) -> tuple[np.ndarray, dict]:
    """The training loss of a U-Net on a batch of 4 images, and its gradient."""
    net = read_network(inputs.UNETS[config_name], precision)
    weighting = inputs.GRADIENTS[config_name]
    objective = objectives.ddpm(net.score_fn, predicted_noise(), weighting=weighting)
    images = inputs.images(2, 4, *net.image_shape)
    noise = DDPMNoise(inputs.training_noising(images.shape), None, None)
    return loss_and_gradient(objective, net.params, (), {"retain": {"image": images}}, noise)


def loss_and_gradient(
    objective: Objective,
    params: Params,
    state: Any,
    batch: Mapping[str, Mapping[str, np.ndarray]],
    noise: Noise,
) -> tuple[np.ndarray, dict]:
    """An objective's loss and its gradient.

    Args:
      objective: the objective.
      params: the network's parameters.
      state: state of the objective.
      batch: the batch.
      noise: its noise; see `vdu_jax.types.Noise`.

    Returns:
      (loss (1,), gradient by layer); see `compare.by_layer`.
    """
    run = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (loss, _), gradient = run(params, state, batch, noise)
    return np.reshape(loss, 1), compare.by_layer(unet2d.to_tensors(gradient))


def losses(precision: str) -> dict:
    """The training loss in each of `inputs.GRADIENTS`."""
    return {
        f"{name}/{weighting}": eps_loss(name, precision)[0]
        for name, weighting in inputs.GRADIENTS.items()
    }


def gradients(config_name: str, precision: str) -> dict:
    """The gradient of the training loss of one of `inputs.GRADIENTS`."""
    return eps_loss(config_name, precision)[1]


def schedule(name: str, precision: str) -> dict:
    """β, ᾱ and the posterior variance of a noise schedule."""
    del precision
    made = make_schedule(name, inputs.NUM_TRAIN_STEPS)
    return {key: getattr(made, key) for key in ("betas", "alphas_cumprod", "posterior_variance")}


def exact_weights(precision: str) -> dict:
    """The weights of the exact bound in each noise schedule."""
    del precision
    schedules = {name: make_schedule(name, inputs.NUM_TRAIN_STEPS) for name in SCHEDULES}
    return {name: process.exact_weights(noise) for name, noise in schedules.items()}


def sampler_steps(cases: Mapping[str, inputs.SamplerCase], precision: str) -> dict:
    """The image after every step of a sampler, each from a fixed image and prediction.

    Args:
      cases: settings of the sampler, by name.
      precision: not used.
    """
    del precision

    @functools.partial(jax.jit, static_argnames="clip_x0")
    def follow(rows: samplers.SamplerPlan, given: Sequence[jax.Array], clip_x0: bool) -> jax.Array:
        def body(x0_previous: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
            row, x, eps, noise = step
            x, x0 = samplers.step(row, x, eps, x0_previous, noise, clip_x0=clip_x0)
            return x0, x

        return jax.lax.scan(body, jnp.zeros_like(given[0][0]), (rows, *given))[1]

    results = {}
    for name, case in cases.items():
        plan = samplers.make_plan(linear_schedule(), **case.plan)
        rows = jax.tree.map(lambda column, case=case: column[np.array(case.steps)], plan)
        results[name] = follow(rows, inputs.sampler_inputs(case), case.clip_x0)
    return results


def ddim_images(precision: str) -> dict:
    """Images of 50 DDIM steps."""
    net = read_network(inputs.SMALL, precision)
    plan = samplers.make_plan(linear_schedule(), "ddim", 50)
    start = inputs.normal(3, 4, *net.image_shape)
    run = jax.jit(functools.partial(samplers.integrate, net.score_fn, plan=plan))
    return {"image": run(net.params, start=start)}


def checkpoint_moments(part: str, precision: str) -> dict:
    """Moments of the parameters over `inputs.checkpoints`.

    Args:
      part: "mean" or "variance".
      precision: not used.
    """
    del precision
    first, *others = inputs.checkpoints()
    moments = posterior.start(first)
    for tensors in others:
        moments = posterior.update(moments, tensors)
    return getattr(posterior.finish(moments), part)


def vdu_objective(net: Network, case: inputs.VDUCase) -> tuple[Objective, Any]:
    """The VDU objective of a case, and its state.

    Args:
      net: the network, with the parameters of the original model.
      case: settings of the objective.
    """
    mean, variance = inputs.vdu_posterior(unet2d.to_tensors(net.params))
    p_theta = posterior.GaussianPosterior(net.read(mean), net.read(variance), jnp.int32(5))
    objective = objectives.vdu(
        net.score_fn,
        predicted_noise(),
        p_theta,
        inputs.NUM_FORGET,
        gamma=case.gamma,
        anchor=case.anchor,
        weighting=case.weighting,
        plasticity_reduction=case.reduction,
        stability_reduction=case.reduction,
    )
    return objective, objective.init(net.params, {}, inputs.key(0))


@functools.cache
def vdu_losses(precision: str) -> dict:
    """The VDU loss and its gradient in 4 settings, near the pretrained parameters."""
    net = read_network(inputs.SMALLEST, precision)
    params = net.read(inputs.nearby(unet2d.to_tensors(net.params), 0.02, seed=4))
    images = inputs.images(5, 4, *net.image_shape)
    batch, noising = {"forget": {"image": images}}, inputs.vdu_noising(images.shape)
    results = {}
    for name, case in inputs.VDU_CASES.items():
        objective, state = vdu_objective(net, case)
        results[name] = loss_and_gradient(objective, params, state, batch, noising)
    return results


def vdu_loss(precision: str) -> dict:
    """The VDU loss in 4 settings."""
    return {name: loss for name, (loss, _) in vdu_losses(precision).items()}


def vdu_gradients(precision: str) -> dict:
    """The gradient of the VDU loss in 4 settings, by layer."""
    return {
        f"{name}/{layer}": values
        for name, (_, gradient) in vdu_losses(precision).items()
        for layer, values in gradient.items()
    }


@functools.cache
def vdu_run(precision: str) -> dict[str, dict]:
    """100 updates of VDU: the loss before each, the final parameters, and their change."""
    net = read_network(inputs.SMALL, precision)
    objective, state = vdu_objective(net, inputs.VDU_RUN)
    optimizer = optax.adam(inputs.VDU_LEARNING_RATE)
    update = jax.jit(training.make_update(objective, optimizer))
    fitted = training.init_state(jax.tree.map(jnp.asarray, net.params), optimizer)
    history = []
    for step in range(inputs.VDU_STEPS):
        images = inputs.vdu_batch(step, net.image_shape)
        noising = inputs.vdu_run_noising(step, images.shape)
        fitted, metrics = update(fitted, state, {"forget": {"image": images}}, noising)
        history.append(metrics["loss"])
    start, end = (inputs.flat(unet2d.to_tensors(p)) for p in (net.params, fitted.params))
    return {
        "losses": {"loss": np.array(history)},
        "parameters": {"parameters": end},
        "update": {"update": np.float64(end) - start},
    }


def inception_params() -> Params:
    """Parameters of the Inception network, from `inputs.inception_tensors`."""
    shapes = layout.pytorch_shapes(inception.param_shapes(), inception_weights.tensor_name)
    return inception_weights.params_from_tensors(inputs.inception_tensors(shapes), "parity")


def inception_features(precision: str) -> dict:
    """Inception's features of images of two sizes."""
    del precision  # the network always uses the highest
    params = inception_params()
    feature_fn = jax.jit(inception.make_feature_fn(inception.InceptionV3()))
    return {name: feature_fn(params, x) for name, x in inputs.inception_images().items()}


def frechet_distances(precision: str) -> dict:
    """The Fréchet distance of each of `inputs.feature_pairs`."""
    del precision
    return {
        name: np.array([frechet.frechet_distance(*map(frechet.feature_stats, pair))])
        for name, pair in inputs.feature_pairs().items()
    }


def stable_diffusion_part(part: str, config: Mapping, precision: str) -> tuple[Any, Params]:
    """A network of Stable Diffusion, and its parameters from `inputs.tensors`.

    Args:
      part: one of `stable_diffusion.PARTS`.
      config: its `config.json`.
      precision: one of `PRECISIONS`.
    """
    kind = stable_diffusion.PARTS[part]
    module = kind.read_config(config, "parity").clone(dtype=PRECISIONS[precision].dtype)
    tensors = inputs.tensors(kind.tensor_shapes(module), seed=50)
    return module, kind.to_params(module, tensors, "parity")


def text_embeddings(config: Mapping, precision: str) -> dict:
    """The text encoder's embeddings of `inputs.TOKENS`."""
    module, params = stable_diffusion_part("text_encoder", config, precision)
    return {"embeddings": jax.jit(module.apply)({"params": params}, inputs.TOKENS)}


def clip_similarity(precision: str) -> dict:
    """CLIP's embeddings of images and texts, and its logits."""
    del precision  # the network always uses the highest
    module = clip_weights.read_config(inputs.CLIP, "parity")
    named = inputs.tensors(clip_weights.PART.tensor_shapes(module), seed=50)
    params = clip_weights.PART.to_params(module, named, "parity")
    side = module.vision.image_size

    @jax.jit
    def both(images: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
        def apply(*arguments: jax.Array, **settings: Any) -> Any:
            return module.apply({"params": params}, *arguments, **settings)

        return {
            "images": apply(images, method="embed_images"),
            "texts": apply(tokens, method="embed_texts"),
            "logits": apply(images, tokens),
        }

    return both(inputs.normal(56, 3, side, side, 3), inputs.CLIP_TOKENS)


def autoencoder(precision: str) -> dict:
    """Latents of images, and images of latents."""
    module, params = stable_diffusion_part("vae", inputs.AUTOENCODER, precision)

    @jax.jit
    def both_ways(images: jax.Array, latents: jax.Array) -> tuple[jax.Array, ...]:
        moments = module.apply({"params": params}, images, method="encode")
        return *moments, module.apply({"params": params}, latents, method="decode")

    results = both_ways(inputs.images(51, 2, 32, 24, 3), inputs.normal(52, 2, 4, 3, 4))
    return dict(zip(("mean", "log_variance", "decoded"), results, strict=True))


def conditional_noise(config: Mapping, precision: str) -> dict:
    """The output of Stable Diffusion's U-Net."""
    module, params = stable_diffusion_part("unet", config, precision)
    xt = inputs.normal(53, len(inputs.TIMES), 16, 8, 4)
    text = inputs.normal(54, len(inputs.TIMES), 7, config["cross_attention_dim"])
    return {"output": jax.jit(network.make_score_fn(module))(params, xt, inputs.TIMES, text)}


def text_to_image(prediction: str, precision: str) -> dict:
    """An image of a prompt: 20 guided DDIM steps from fixed latents, decoded.

    Args:
      prediction: prediction type, a value of `inputs.PREDICTIONS`.
      precision: one of `PRECISIONS`.
    """
    config = inputs.GUIDED
    module, params = stable_diffusion_part("unet", config["unet"], precision)
    decoder, decoder_params = stable_diffusion_part("vae", inputs.AUTOENCODER, precision)
    schedule = make_schedule("scaled_linear", inputs.NUM_TRAIN_STEPS, 0.00085, 0.012)
    predicts = parameterization.make_parameterization(prediction, schedule)
    predict = predicts.noise_predictor(network.make_score_fn(module))
    plan = samplers.make_plan(schedule, "ddim", inputs.GUIDED_STEPS)
    text, negative = np.split(text_embeddings(config["text_encoder"], precision)["embeddings"], 2)

    @jax.jit
    def draw(start: jax.Array) -> jax.Array:
        latents = samplers.integrate(
            guidance.guided(predict, inputs.GUIDANCE),
            params, plan, start, clip_x0=False, cond=(text, negative),
        )  # fmt: skip
        latents = latents / inputs.SCALING
        return decoder.apply({"params": decoder_params}, latents, method="decode")

    return {"image": draw(inputs.normal(55, 1, 8, 8, 4))}


def _rounding(float32: float, bfloat16: float) -> dict[str, float]:
    """Tolerances of a component with a network; see the module's docstring."""
    return {"float32": float32, "tf32": bfloat16 / 4, "bfloat16": bfloat16}


def _exact(tolerance: float) -> dict[str, float]:
    """Tolerances of a component without a network."""
    return dict.fromkeys(PRECISIONS, tolerance)


def _component(
    name: str,
    measure: str,
    tolerance: Mapping[str, float],
    about: str,
    function: Callable[..., dict],
    *arguments: Any,
) -> Component:
    return Component(name, measure, tolerance, functools.partial(function, *arguments), about)


COMPONENTS = (
    *(
        _component(
            f"unet/{name}", "absolute", _rounding(2e-5, 0.15), "predicted noise", forward, config
        )
        for name, config in inputs.UNETS.items()
    ),
    _component(
        "class_conditional/unet", "absolute", _rounding(2e-5, 0.15), "noise of three classes",
        forward, inputs.CLASS_UNET,
    ),
    *(
        _component(
            f"dit/{name}", "relative", _rounding(1e-5, 0.05), "predicted noise", dit_noise, config
        )
        for name, config in inputs.DITS.items()
    ),
    _component("loss", "relative", _rounding(1e-4, 5e-3), "noise-prediction loss", losses),
    *(
        _component(
            f"gradients/{name}", "relative", _rounding(1e-4, 0.4), "its gradient", gradients, name
        )
        for name in inputs.GRADIENTS
    ),
    _component(
        "gradients/dit", "relative", _rounding(1e-4, 0.2), "that of a DiT with classes",
        dit_gradients, inputs.DITS["classes"],
    ),
    *(
        _component(
            f"schedule/{name}", "absolute", _exact(1e-6), "β, ᾱ, posterior variance", schedule, name
        )
        for name in SCHEDULES
    ),
    _component("weights", "relative", _exact(1e-5), "w_t of the exact bound", exact_weights),
    *(
        _component(
            f"sampler/{name}", "absolute", _exact(1e-5), "every step", sampler_steps, cases
        )
        for name, cases in inputs.SAMPLERS.items()
    ),
    _component(
        "sampler/ddim_50_images", "absolute", _rounding(1e-3, 0.8), "images of 50 steps",
        ddim_images,
    ),
    _component(
        "posterior/mean", "relative", _exact(1e-6), "over 5 checkpoints", checkpoint_moments, "mean"
    ),
    _component(
        "posterior/variance", "relative", _exact(1e-4), "over 5 checkpoints",
        checkpoint_moments, "variance",
    ),
    _component("vdu/loss", "relative", _rounding(1e-4, 5e-3), "VDU loss, 4 settings", vdu_loss),
    _component("vdu/gradients", "relative", _rounding(1e-4, 0.2), "its gradient", vdu_gradients),
    *(
        _component(
            f"vdu/100_steps/{part}", measure, _rounding(tolerance, coarse), about,
            lambda precision, part=part: vdu_run(precision)[part],
        )
        for part, measure, tolerance, coarse, about in (
            ("losses", "relative", 1e-4, 0.01, "the loss along 100 updates"),
            ("parameters", "relative", 1e-3, 4e-3, "the parameters after them"),
            ("update", "relative L2", 1e-3, 0.02, "their change"),
        )
    ),
    *(
        _component(
            f"stable_diffusion/text_encoder_{version}", "absolute", _rounding(1e-4, 0.2),
            "embeddings of tokens", text_embeddings, config["text_encoder"],
        )
        for version, config in inputs.STABLE_DIFFUSION.items()
    ),
    _component(
        "stable_diffusion/vae", "absolute", _rounding(1e-4, 0.2), "latents and images", autoencoder
    ),
    *(
        _component(
            f"stable_diffusion/unet_{version}", "absolute", _rounding(1e-4, 0.2),
            "its output", conditional_noise, config["unet"],
        )
        for version, config in inputs.STABLE_DIFFUSION.items()
    ),
    *(
        _component(
            f"stable_diffusion/image_{name}", "absolute", _rounding(1e-2, 0.5),
            "20 guided DDIM steps", text_to_image, prediction,
        )
        for name, prediction in inputs.PREDICTIONS.items()
    ),
    _component("clip", "absolute", _exact(1e-4), "CLIP's embeddings and logits", clip_similarity),
    _component(
        "inception", "relative", _exact(1e-4), "Inception-v3's features", inception_features
    ),
    _component("frechet", "relative", _exact(1e-4), "Fréchet distance", frechet_distances),
)  # fmt: skip
