"""The sections `train`, `unlearn` and `parallel`: optimisation, and how it uses the devices."""

from typing import Any

from vdu_jax.config.check import Check

AUTOENCODER = {
    "steps": 2000,  # optimiser steps of the autoencoder
    "batch_size": 32,  # images in a step of the autoencoder
    "learning_rate": 2e-3,  # learning rate of the autoencoder
    "kl_weight": 1e-6,  # weight of the KL divergence in the autoencoder's loss
}


def defaults(text: bool) -> dict[str, Any]:
    """The sections with their defaults.

    Args:
      text: whether they are for a text-to-image model.
    """
    init_from = {"init_from": ""}  # workdir of `vdu import` or `vdu train` to start from
    train = {
        **({} if text else init_from),
        "init_seed": 0,  # seed of the initial parameters; runs of one posterior share it
        "seed": 0,  # seed of data order, times and noise
        **({"autoencoder": AUTOENCODER} if text else {}),
        "steps": 4000 if text else 100_000,  # optimiser steps
        "batch_size": 64 if text else 128,  # images in a step, over all devices
        # Whether each image is also shown turned left to right.
        **({} if text else {"flip": False}),
        "weighting": "simple",  # w_t of the loss: "simple" (1), or "exact" (the evidence bound's)
        "learning_rate": 1e-3 if text else 2e-4,  # peak learning rate of Adam
        "warmup_steps": 100 if text else 500,  # steps of linear warm-up
        # Learning-rate schedule after the warm-up: "constant", "cosine", or "linear" to 0.
        "decay": "linear" if text else "constant",
        "clip_norm": 1.0,  # largest norm of a gradient
        "ema_decay": 0.999 if text else 0.9999,  # decay of the moving average; 0 for none
        "snapshot_every": 200 if text else 5000,  # steps between checkpoints for the posterior
        "snapshots": 6 if text else 5,  # how many of the last checkpoints are kept
        "save_state_every": 500 if text else 5000,  # steps between states to resume from
        "log_every": 100,  # steps between lines of metrics
    }
    assume_schedule = {
        # True says that the section diffusion holds the noise schedule of a model that was imported
        # without a scheduler, here or in train.init_from.
        "assume_schedule": False,
    }
    unlearn = {
        "init_from": "",  # workdir of `vdu import` or `vdu train` whose model to unlearn
        **({} if text else assume_schedule),
        "seed": 0,  # seed of data order, times and noise
    }
    # How the computation is spread over devices; changes no result beyond rounding.
    parallel = {
        "fsdp": 1,  # devices that share one copy of the parameters
        "mode": "jit",  # "jit", or "pmap": every device has all parameters
        "accumulate": 1,  # parts of a batch that are computed one after the other
        "remat": False,  # recompute activations in the backward pass, to save memory
        # Self-attention of the network: "xla", or "cudnn" (fused), which needs an NVIDIA GPU and
        # model.dtype = "bfloat16".
        "attention": "xla",
    }
    return {"train": train, "unlearn": unlearn, "parallel": parallel}


def check(c: Check) -> None:
    """Refuse training that cannot work; a model from a diffusers folder is not trained.

    Raises:
      UserError: with the key.
    """
    c.not_negative("unlearn.seed")
    _check_parallel(c)
    if c.text and c.config.model.folder:
        c.require(
            "unlearn.init_from",
            lambda v: not v,
            "names a model to unlearn, and so does model.folder: leave one of them empty",
        )
        return
    _check_train(c)


def _check_train(c: Check) -> None:
    from vdu_jax.diffusion import parameterization

    c.positive(
        *(f"train.{key}" for key in ("steps", "batch_size", "learning_rate", "clip_norm")),
        *(f"train.{key}" for key in ("snapshot_every", "snapshots", "save_state_every")),
        "train.log_every",
    )
    c.not_negative("train.warmup_steps", "train.init_seed", "train.seed")
    c.one_of("train.weighting", parameterization.WEIGHTINGS)
    c.one_of("train.decay", ("constant", "cosine", "linear"))
    c.share("train.ema_decay", below_one=True)
    if c.text:
        keys = ("steps", "batch_size", "learning_rate")
        c.positive(*(f"train.autoencoder.{key}" for key in keys))
        c.not_negative("train.autoencoder.kl_weight")


def _check_parallel(c: Check) -> None:
    import jax

    from vdu_jax.models import layers

    c.positive("parallel.fsdp", "parallel.accumulate")
    c.one_of("parallel.mode", ("jit", "pmap"))
    c.one_of("parallel.attention", layers.ATTENTIONS)
    if c.config.parallel.attention == "cudnn":
        c.require(
            "parallel.attention",
            lambda v: c.config.model.dtype == "bfloat16",
            "is for model.dtype = 'bfloat16'; set that, or 'xla' here",
        )
        c.require(
            "parallel.attention",
            lambda v: jax.default_backend() == "gpu",
            f"needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}; set 'xla'",
        )
