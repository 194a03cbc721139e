"""The section `posterior`: the Gaussian over the original model's parameters."""

from typing import Any

from vdu_jax.config.check import Check
from vdu_jax.config.methods import needs_posterior

DEFAULTS = {
    # Gaussian: "diagonal" or "low_rank" (SWAG) over checkpoints, or "fisher" (Laplace), which needs
    # the original model only.
    "family": "diagonal",
    # Checkpoints for "diagonal" and "low_rank": "trajectory" takes the last ones of this run,
    # "runs" those of several runs.
    "source": "trajectory",
    # For "runs": workdirs of further runs that share train.init_seed, or of imported models. With
    # model.folder, earlier folders of its trajectory, the oldest first.
    "runs": (),
    "count": 0,  # checkpoints K; 0 for all
    "weights": "params",  # parameters of each checkpoint: "params", or their average "ema"
    "fisher_images": 500,  # for "fisher": images drawn from the original model
    "fisher_seed": 5,  # for "fisher": seed of these images
    "training_images": 0,  # for "fisher": size N of the training set; 0 for that of `data.name`
    # For "fisher": variances are 1 / (N F_i + this). It should lie well below most N F_i, whose
    # median is 6e-4 on digits.
    "prior_precision": 1e-4,
    "variance_floor": 0.0,  # smallest variance
    "floor_quantile": 0.1,  # smallest variance, as a quantile of all variances
    "shrinkage": 0.0,  # shrinkage of variances towards the mean of their tensor, in [0, 1]
}


def defaults(text: bool) -> dict[str, Any]:
    """The section with its defaults, the same for all kinds of models."""
    del text
    return {"posterior": dict(DEFAULTS)}


def check(c: Check) -> None:
    """Refuse a posterior that cannot be made; the section `methods` must be checked before.

    Raises:
      UserError: with the key.
    """
    config, section = c.config, c.config.posterior
    c.one_of("posterior.family", ("diagonal", "low_rank", "fisher"))
    c.one_of("posterior.source", ("trajectory", "runs"))
    c.one_of("posterior.weights", ("params", "ema"))
    c.not_negative("posterior.variance_floor")
    c.share("posterior.floor_quantile", "posterior.shrinkage")
    if section.family == "fisher":
        c.positive("posterior.fisher_images", "posterior.prior_precision")
        c.not_negative("posterior.training_images", "posterior.fisher_seed")
        others = ("replay.seed", "curve.seed", "evaluate.seed", "relearn.seed")
        c.require(
            "posterior.fisher_seed",
            lambda v: v not in map(c.get, others),
            f"must differ from {', '.join(others)}, or images are used twice",
        )
        return
    c.require(
        "posterior.count",
        lambda v: v == 0 or v >= 2,
        "must be 0 (all) or K ≥ 2 checkpoints; posterior.family = 'fisher' needs one only",
    )
    if section.weights == "ema":
        c.require("train.ema_decay", lambda v: v > 0, "posterior.weights = 'ema' needs an average")
    if not c.text or needs_posterior(config):
        _check_count(c)


def _check_count(c: Check) -> None:
    config, section = c.config, c.config.posterior
    wanted = max(2, section.count)
    if c.text and config.model.folder:
        c.require(
            "posterior.source",
            lambda v: v == "runs",
            "one folder has no variance: set 'runs', and posterior.runs to those before "
            "model.folder, the oldest first; or posterior.family = 'fisher'",
        )
    if section.source == "trajectory" and not config.unlearn.init_from:
        saved = min(config.train.snapshots, config.train.steps // config.train.snapshot_every)
        c.require(
            "posterior.count" if section.count else "train.snapshots",
            lambda v: saved >= wanted,
            f"the posterior needs K ≥ {wanted} checkpoints and training keeps {saved} "
            "(train.steps, train.snapshot_every, train.snapshots)",
        )
    elif section.source == "runs":
        runs = len(section.runs) + 1
        c.require(
            "posterior.runs",
            lambda v: runs >= wanted,
            f"with the original they give {runs} checkpoints, and K ≥ {wanted} are needed; "
            "posterior.family = 'fisher' needs one only",
        )
