"""`train`, `unlearn` and `parallel`: how parameters are fitted, and on which devices."""

from typing import Any

from vdu_jax.config.check import Check

AUTOENCODER = {
    "steps": 2000,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "kl_weight": 1e-6,
}


def defaults(text: bool) -> dict[str, Any]:
    init_from = {"init_from": ""}  # workdir of `vdu import` or `vdu train`: start from its model
    train = {
        **({} if text else init_from),
        "init_seed": 0,  # of the initial parameters: the same for runs to be pooled
        "seed": 0,  # of data order, times and noise
        **({"autoencoder": AUTOENCODER} if text else {}),
        "steps": 4000 if text else 100_000,
        "batch_size": 64 if text else 128,
        "weighting": "simple",
        "learning_rate": 1e-3 if text else 2e-4,
        "warmup_steps": 100 if text else 500,
        "decay": "linear" if text else "constant",  # after warm-up: constant, cosine or linear to 0
        "clip_norm": 1.0,
        "ema_decay": 0.999 if text else 0.9999,  # 0: none
        "snapshot_every": 200 if text else 5000,  # checkpoints for the posterior
        "snapshots": 6 if text else 5,  # the last so many of them
        "save_state_every": 500 if text else 5000,  # for resuming
        "log_every": 100,
    }
    # Of a model that was imported without a scheduler, here or in train.init_from: True says that
    # `diffusion` holds the noise schedule that it was trained with.
    assume_schedule = {"assume_schedule": False}
    unlearn = {
        "init_from": "",  # workdir of `vdu import` or `vdu train`: unlearn its model
        **({} if text else assume_schedule),
        "seed": 0,  # of data order, times and noise
    }
    # How the computation is spread over devices; changes no result beyond rounding.
    parallel = {
        "fsdp": 1,  # devices that share one copy of the parameters
        "mode": "jit",  # or "pmap": every device has all parameters
        "accumulate": 1,  # parts that a batch is taken in, one after the other
        "remat": False,  # compute a block's activations again for its gradients
        # The network's self-attention: "xla", or "cudnn", which needs an NVIDIA GPU and
        # model.dtype = "bfloat16" and holds no weights of all pairs of pixels.
        "attention": "xla",
    }
    return {"train": train, "unlearn": unlearn, "parallel": parallel}


def check(c: Check) -> None:
    """Refuse training that cannot work. That of a model from a folder says nothing."""
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
