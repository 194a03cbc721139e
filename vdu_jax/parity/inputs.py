"""Inputs of both sides of a comparison, the same on every machine.

All come from `np.random.RandomState`, whose streams NumPy has frozen, so only results need to be
stored. The one exception is `noising`: JAX's generator draws times and noise.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.diffusion import process
from vdu_jax.diffusion.schedule import make_schedule

NUM_TRAIN_STEPS = 1000
TIMES = np.array([0, 437, NUM_TRAIN_STEPS - 1])


def _blocks(letters: str, direction: str) -> list[str]:
    """Block types of diffusers, from "D" (plain) and "A" (with attention)."""
    return [f"{'Attn' if letter == 'A' else ''}{direction}Block2D" for letter in letters]


def unet_config(
    size: int | tuple[int, int],
    channels: int,
    widths: tuple[int, ...],
    levels: str,
    **settings: Any,
) -> dict[str, Any]:
    """The `config.json` of a UNet2DModel of diffusers.

    Args:
      size: side of the images, or (height, width), in pixels.
      channels: channels of the images.
      widths: channels of each level.
      levels: "A" (with attention) or "D" (without) for each level.
      settings: other arguments of UNet2DModel; those left out have their defaults.
    """
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(widths),
        "down_block_types": _blocks(levels, "Down"),
        "up_block_types": _blocks(levels[::-1], "Up"),
    } | settings


HO = dict(flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, downsample_padding=0)
UNETS = {
    # google/ddpm-cifar10-32: 35,746,307 parameters.
    "ddpm_cifar10": unet_config(
        32, 3, (128, 256, 256, 256), "DADD", attention_head_dim=None, **HO
    ),
    # Halved from 28×20 to 7×5; the defaults of diffusers: cosines first, symmetric padding.
    "odd_sizes_and_heads": unet_config(
        (28, 20), 1, (16, 32, 48), "DAA", layers_per_block=1, norm_num_groups=8
    ),
    "scale_shift": unet_config(
        16, 3, (16, 32), "AD",
        layers_per_block=1, resnet_time_scale_shift="scale_shift", norm_num_groups=4,
        attn_norm_num_groups=4, attention_head_dim=4, mid_block_scale_factor=1.5,
        center_input_sample=True,
    ),
    "no_attention": unet_config(
        16, 3, (32, 64), "DD", add_attention=False, layers_per_block=3, **HO
    ),
    "attention_everywhere": unet_config(
        8, 1, (8, 16, 24), "AAA",
        layers_per_block=1, norm_num_groups=4, attention_head_dim=8, mid_block_scale_factor=2**0.5,
        flip_sin_to_cos=True, freq_shift=1,
    ),
    "one_head_one_level": unet_config(
        (6, 10), 3, (24,), "A", norm_num_groups=12, attention_head_dim=None, norm_eps=1e-4,
        flip_sin_to_cos=False, freq_shift=0,
    ),
}  # fmt: skip
# A class-conditional network; the last class stands for no class.
CLASS_UNET = unet_config(
    8, 1, (8, 16), "DA", layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
    num_class_embeds=11,
)  # fmt: skip
LABELS = np.array([3, 0, 10])
# Settings of DiTs; images are square, as in diffusers, with side "size".
DITS = {
    "unconditional": dict(size=16, channels=3, patch_size=2, hidden_size=48, depth=4, num_heads=3),
    "classes": dict(
        size=8, channels=1, patch_size=1, hidden_size=32, depth=2, num_heads=4, num_class_embeds=11
    ),
    "large_patches": dict(size=24, channels=4, patch_size=8, hidden_size=40, depth=1, num_heads=1),
}
GRADIENTS = {"one_head_one_level": "simple", "scale_shift": "exact"}  # network: loss weighting
# Small enough for sampling, or for 100 steps of training, in seconds.
SMALL = unet_config(
    8, 1, (16, 24), "DD", layers_per_block=1, norm_num_groups=4, attention_head_dim=None, **HO
)
SMALLEST = unet_config(
    8, 1, (8,), "D", layers_per_block=1, norm_num_groups=4, add_attention=False, **HO
)


def _text_to_image(heads: int | list[int], text_width: int, **changes: Any) -> dict[str, Any]:
    """The `config.json`s of a small model with the block structure of Stable Diffusion.

    Args:
      heads: attention heads; one number, or one per level.
      text_width: width of the text encoder's embeddings.
      changes: other settings of the text encoder; "unet" has those of the U-Net.
    """
    unet = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [16, 32, 48, 48],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "attention_head_dim": heads,
        "cross_attention_dim": text_width,
    }
    text_encoder = {
        "vocab_size": 99,
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
    }
    return {"unet": unet | changes.pop("unet", {}), "text_encoder": text_encoder | changes}


STABLE_DIFFUSION = {
    "1": _text_to_image(8, 24, hidden_act="quick_gelu"),
    "2": _text_to_image([2, 4, 6, 6], 32, hidden_act="gelu", unet={"use_linear_projection": True}),
}
# CLIP's `config.json`; the end token is the one with the highest number.
CLIP = {
    "projection_dim": 20,
    "text_config": STABLE_DIFFUSION["1"]["text_encoder"] | {"eos_token_id": 98},
    "vision_config": {
        "image_size": 24,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}
# A smaller network for sampling, and its prediction types.
GUIDED = _text_to_image(
    4, 24, hidden_act="gelu",
    unet={
        "block_out_channels": [16, 24],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
    },
)  # fmt: skip
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [8, 16, 24, 24],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
SCALING = 0.18215  # factor of the autoencoder's latents
TOKENS = np.array([[98, 5, 71, 20, 97, 97, 97, 97], [98, 97, 97, 97, 97, 97, 97, 97]])
CLIP_TOKENS = np.array([[97, 5, 71, 20, 98, 98, 98, 98], [97, 11, 98, 98, 98, 98, 98, 98]])
GUIDANCE, GUIDED_STEPS = 7.5, 20


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def images(seed: int, *shape: int) -> np.ndarray:
    """Images of uniform noise in [-1, 1], float32."""
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters of a network, drawn in the order of their names.

    Weights are N(0, 1 / fan-in), those of a normalisation 1 + 0.1 N(0, 1), biases 0.1 N(0, 1). So
    activations stay of order 1, and no tensor is trivial, not even one that training starts at 0.

    Args:
      shapes: shapes in PyTorch, by the tensors' names there.
      seed: seed of the draws.

    Returns:
      float32 arrays by name.
    """
    random = np.random.RandomState(seed)
    drawn = {}
    for name, shape in sorted(shapes.items()):
        values = random.standard_normal(shape)
        if len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:]))
        else:
            values = values / 10 + (not name.endswith(".bias"))
        drawn[name] = np.asarray(values, np.float32)
    return drawn


def inception_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random parameters of the Inception network, drawn in the order of their names.

    A ReLU follows every convolution, so its weights are N(0, 2 / fan-in). Scales and variances are
    uniform in [0.5, 1.5], means and biases 0.1 N(0, 1).

    Args:
      shapes: shapes in PyTorch, by the tensors' names there.

    Returns:
      float32 arrays by name.
    """
    random = np.random.RandomState(40)
    drawn = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("conv.weight"):
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bn.weight", "bn.running_var")):
            values = random.uniform(0.5, 1.5, shape)
        else:
            values = 0.1 * random.standard_normal(shape)
        drawn[name] = values.astype(np.float32)
    return drawn


def inception_images() -> dict[str, np.ndarray]:
    """Images (2, H, W, 3) in [-1, 1] of two sizes, one of them not square."""
    return {
        f"{height}x{width}": images(41, 2, height, width, 3)
        for height, width in ((32, 32), (40, 28))
    }


def nearby(tensors: Mapping[str, np.ndarray], scale: float, seed: int) -> dict[str, np.ndarray]:
    """Add normal noise to each tensor.

    Args:
      tensors: arrays by name.
      scale: standard deviation of the noise.
      seed: seed of the noise.
    """
    random = np.random.RandomState(seed)
    return {
        name: (values + scale * random.standard_normal(values.shape)).astype(np.float32)
        for name, values in sorted(tensors.items())
    }


def variances(tensors: Mapping[str, np.ndarray], scale: float, seed: int) -> dict[str, np.ndarray]:
    """Draw positive, log-normal numbers with the tensors' shapes.

    Args:
      tensors: arrays by name.
      scale: median of the numbers.
      seed: seed of the draws.
    """
    random = np.random.RandomState(seed)
    return {
        name: (scale * np.exp(random.standard_normal(values.shape))).astype(np.float32)
        for name, values in sorted(tensors.items())
    }


def key(seed: int) -> jax.Array:
    """A random key of the generator that gives the same numbers on every device."""
    return jax.random.key(seed, impl="threefry2x32")


def noising(key: jax.Array, shape: tuple[int, ...]) -> process.Noising:
    """Draw times and noise for images, as NumPy arrays for both sides.

    Args:
      key: random key.
      shape: (B, H, W, C).
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        schedule = make_schedule("linear", NUM_TRAIN_STEPS)
        return jax.device_get(process.draw_noising(key, schedule, jnp.zeros(shape)))


class SamplerCase(NamedTuple):
    """Settings of a sampler.

    Attributes:
      plan: arguments of `samplers.make_plan` beside the linear schedule.
      clip_x0: whether the predicted x_0 is clipped.
      steps: the steps of the plan that are compared.
    """

    plan: Mapping[str, Any]
    clip_x0: bool
    steps: tuple[int, ...]


def _sampler_cases(name: str, spacings: tuple[str, ...], **settings: Any) -> dict[str, SamplerCase]:
    """50 steps of a sampler in each spacing, with and without clipping."""
    return {
        f"{spacing}{'/clipped' if clip else ''}": SamplerCase(
            dict(name=name, num_steps=50, spacing=spacing, **settings), clip, tuple(range(50))
        )
        for spacing in spacings
        for clip in (False, True)
    }


def _ddpm_cases(variance: str) -> dict[str, SamplerCase]:
    """50 steps of DDPM in each spacing, and some of its 1000 steps."""
    some = (0, 1, 100, 500, 900, 990, 997, 998, 999)
    whole = dict(name="ddpm", num_steps=NUM_TRAIN_STEPS, spacing="leading", variance=variance)
    return _sampler_cases("ddpm", ("leading", "trailing"), variance=variance) | {
        "all/clipped": SamplerCase(whole, True, some),
        "all": SamplerCase(whole, False, some),
    }


SAMPLERS = {
    "ddpm_fixed_small": _ddpm_cases("fixed_small"),
    "ddpm_fixed_large": _ddpm_cases("fixed_large"),
    "ddim_eta0": _sampler_cases("ddim", ("leading", "trailing"), eta=0.0),
    "ddim_eta0.5": _sampler_cases("ddim", ("leading", "trailing"), eta=0.5),
    # The other spacings of diffusers' DPM-Solver are grids of n + 1 points, unlike ours.
    "dpm++2m": _sampler_cases("dpm++2m", ("trailing",)),
    "dpm++2m_eta1": _sampler_cases("dpm++2m", ("trailing",), eta=1.0),
}


def sampler_inputs(case: SamplerCase) -> list[np.ndarray]:
    """x, ε̂ and z for each step of a case, each (steps, 2, 2, 2, 2)."""
    return [normal(seed, len(case.steps), 2, 2, 2, 2) for seed in (6, 7, 8)]


def checkpoints() -> list[dict[str, np.ndarray]]:
    """5 checkpoints, as close together as those of a trained network."""
    shapes = {"conv.weight": (16, 16, 3, 3), "conv.bias": (16,), "norm.weight": (16,)}
    centre = tensors(shapes, seed=9)
    return [nearby(centre, 1e-3, seed=10 + k) for k in range(5)]


class VDUCase(NamedTuple):
    """Settings of `objectives.vdu`.

    Attributes:
      reduction: "sum" or "mean", of both terms.
      anchor: "mean" or "pretrained".
      weighting: "simple" or "exact".
      gamma: γ, weight of the stability term, in [0, 1].
    """

    reduction: str
    anchor: str
    weighting: str
    gamma: float = 0.3


# Every pair of values of two settings occurs.
VDU_CASES = {
    "/".join(names): VDUCase(*names)
    for names in (
        ("sum", "mean", "simple"),
        ("sum", "pretrained", "exact"),
        ("mean", "mean", "exact"),
        ("mean", "pretrained", "simple"),
    )
}
VDU_RUN = VDUCase("sum", "mean", "simple", gamma=0.1)
VDU_STEPS = 100
VDU_LEARNING_RATE = 3e-4
NUM_FORGET = 50


def vdu_posterior(pretrained: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """μ* and σ*² of a posterior around the parameters `pretrained`."""
    return nearby(pretrained, 0.02, seed=20), variances(pretrained, 1e-2, seed=21)


def training_noising(shape: tuple[int, ...]) -> process.Noising:
    """Times and noise of the training loss."""
    return noising(jax.random.split(key(0))[0], shape)


def vdu_noising(shape: tuple[int, ...]) -> process.Noising:
    """Times and noise of the VDU loss."""
    return noising(key(1), shape)


def vdu_run_noising(step: int, shape: tuple[int, ...]) -> process.Noising:
    """Times and noise of one of the 100 updates."""
    return noising(jax.random.fold_in(key(2), step), shape)


def vdu_batch(step: int, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Forget images (8, H, W, C) of one of the 100 updates."""
    return images(1000 + step, 8, *image_shape)


def flat(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Concatenate all parameters into one vector, in the order of their names."""
    return np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)])


def feature_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of features (N, F): covariances of full rank, and of rank N − 1 < F."""
    pairs = {}
    for name, count, size in (("full_rank", 400, 16), ("rank_deficient", 24, 48)):
        mix = normal(30, size, size) / np.sqrt(size)
        pairs[name] = (
            normal(31, count, size) @ mix,
            normal(32, count, size) @ (mix + 0.3 * normal(33, size, size) / np.sqrt(size)) + 0.2,
        )
    return pairs
