"""The one tree of settings: defaults, validation, and the pieces built from it.

Every file in configs/ starts from `default()` and changes what it needs. `validate` turns what
cannot work into one clear line before anything is computed.
"""

import inspect
import math
import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vdu_jax.errors import UserError, did_you_mean, shown

# What an objective's settings may be where images come without a condition, and where they have one
# but the network knows none that says nothing.
WITHOUT_CONDITION = {
    "drop_condition": (0,),
    "plasticity": ("linear", "capped"),
    "teacher": ("fine_tuned",),
    "relabel": ("image",),
}
WITHOUT_NOTHING = {key: WITHOUT_CONDITION[key] for key in ("drop_condition", "teacher")}


def method(objective: str, **changes: Any) -> ConfigDict:
    """One entry of `config.methods`: an objective, its optimiser, the rule for the step to keep.

    Args:
      objective: a name in `objectives.FACTORIES`.
      changes: settings of the optimisation below, or of the objective itself; the latter are
        documented at its factory and are kept under `params`.
    """
    entry = ConfigDict(
        {
            "objective": objective,
            "steps": 200,  # optimiser steps
            "optimizer": "adam",  # or "natural": gradient descent times the posterior's variance
            "learning_rate": 1e-4,  # with natural, 1/γ is the closed form; see `posterior.natural`
            "decay": "constant",  # of the learning rate, or "linear" to 0
            "beta2": 0.999,  # of Adam
            "forget_batch": 32,  # images of D_f in a step
            "replay_batch": 96,  # replay images in a step, if the objective sees them
            "retain_batch": 96,  # images of D_r in a step, if the objective sees them
            "snapshot_every": 20,  # steps between points of the trade-off curve
            "log_every": 10,
            # Keep the snapshot with the least drift among those whose estimated PUL reaches this
            # (percent); see `detector`. Estimates run some 3 points above the classifier's figure.
            "target_pul": 97.0,
            # The guard: metric -> largest value. Beyond it the run ends.
            "guard": {"forget_error": 10.0, "energy": 1e6},
            "params": _objective_defaults(objective),
        }
    )
    return change_method(objective, entry, changes)


def change_method(name: str, entry: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of an entry of `config.methods` with some settings changed, as in `method`.

    Raises:
      UserError: for a setting that it does not have, or a value of another type.
    """
    entry = ConfigDict(entry.to_dict())
    for key, value in changes.items():
        section = entry if key in entry and key != "params" else entry.params
        if key not in section:
            known = [*entry, *entry.params]
            raise UserError(f"method {name!r} has no setting {key!r}{did_you_mean(key, known)}")
        try:
            section[key] = value
        except TypeError:
            must = must_be(section[key])
            raise UserError(f"method {name!r}: {key} = {shown(value)}: must be {must}") from None
    return entry


def _objective_defaults(name: str) -> dict[str, Any]:
    """The keyword-only arguments of an objective's factory and their defaults."""
    from vdu_jax import objectives

    if name not in objectives.FACTORIES:
        raise UserError(
            f"unknown objective {shown(name)}; one of {', '.join(sorted(objectives.FACTORIES))}"
            f"{did_you_mean(str(name), objectives.FACTORIES)}"
        )
    parameters = inspect.signature(objectives.FACTORIES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def model(name: str, **changes: Any) -> ConfigDict:
    """A section `config.model`: an architecture with its settings.

    Raises:
      UserError: for a name or a setting that there is not, or a value of another type.
    """
    from vdu_jax.models import registry

    Check(ConfigDict({"model": {"name": name}})).one_of("model.name", registry.ARCHITECTURES)
    section = ConfigDict({"name": name, **registry.ARCHITECTURES[name].settings})
    for key, value in changes.items():
        if key not in section:
            raise UserError(
                f"config key model.{key}: there is no such setting of {name!r}"
                f"{did_you_mean(key, section)}"
            )
        _check_type(f"model.{key}", value, section[key])
        section[key] = value
    return section


def model_inputs(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section `config.model` as it tells networks apart.

    It is without what is younger than stored and published models and changes none of them.
    """
    younger = {"name": "unet", "num_class_embeds": 0}
    return {key: value for key, value in section.items() if younger.get(key) != value}


def default(architecture: str = "unet") -> ConfigDict:
    """All settings with their defaults. Paths are relative to where the program is started.

    Args:
      architecture: a name in `models.registry`.
    """
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "dir": "~/.cache/vdu_jax/data",  # where prepared data sets are kept
                "manual_dir": "",  # the original files, if they should not be downloaded
                "image_size": 0,  # of image_folder only
                "channels": 0,  # of image_folder only
                # Of image_folder only: what transparent pixels are put on, "white" or "black"; ""
                # refuses images that have any.
                "background": "",
                "cache_mb": 512,  # decoded images kept in memory
            },
            "forget": {
                "classes": (0,),  # what must not be generated any more
                "fraction": 1.0,  # part of their training images that is at hand, in (0, 1]
                "limit": 0,  # at most this many of them; 0 for all
                "seed": 0,  # which part
            },
            "model": model(architecture),
            # Of networks that know classes (model.num_class_embeds > 0).
            "condition": {
                # Share of the training images whose class is not told. Above 0 the network has one
                # row more than the data has classes; of an imported one, whether it has.
                "drop": 0.1,
                "guidance": 1.0,  # scale of classifier-free guidance in every sampler; 1: none
            },
            "diffusion": {
                "schedule": "linear",
                "num_steps": 1000,
                "beta_start": 1e-4,
                "beta_end": 0.02,
                "prediction": "epsilon",  # what the network predicts, or "v_prediction"
            },
            "train": {
                "init_from": "",  # workdir of `vdu import` or `vdu train`: start from its model
                "init_seed": 0,  # of the initial parameters: the same for runs to be pooled
                "seed": 0,  # of data order, times and noise
                "steps": 100_000,
                "batch_size": 128,
                "weighting": "simple",
                "learning_rate": 2e-4,
                "warmup_steps": 500,
                "decay": "constant",  # after warm-up: constant, cosine or linear to 0
                "clip_norm": 1.0,
                "ema_decay": 0.9999,  # 0: none
                "snapshot_every": 5000,  # checkpoints for the posterior
                "snapshots": 5,  # the last so many of them
                "save_state_every": 5000,  # for resuming
                "log_every": 100,
            },
            "posterior": {
                # "diagonal", "low_rank" (SWAG), or "fisher" (Laplace) of the original model alone.
                "family": "diagonal",
                # Of diagonal and low_rank.
                "source": "trajectory",  # the last checkpoints of this run, or "runs"
                # Workdirs of further runs that share train.init_seed, or of imported models.
                "runs": (),
                "count": 0,  # checkpoints K; 0 for all that there are
                "weights": "params",  # or "ema"
                # Of fisher.
                "fisher_images": 500,  # drawn from the original model
                "fisher_seed": 5,
                "training_images": 0,  # N that it was trained on; 0: as many as the data set has
                # Well below most N F_i (a median of 6e-4 on digits), or all variances are 1 / it.
                "prior_precision": 1e-4,
                # Of every family's diagonal part.
                "variance_floor": 0.0,  # smallest variance, absolute
                "floor_quantile": 0.1,  # and as a quantile of all variances
                "shrinkage": 0.0,  # towards the mean variance of the tensor, in [0, 1]
            },
            "sampler": {
                "name": "ddim",
                "steps": 50,
                "eta": 0.0,  # of ddim and dpm++2m: noise added anew, from none to all of it at 1
                "variance": "fixed_large",  # of ddpm
                "spacing": "trailing",
                "clip_x0": True,
                "batch_size": 250,
            },
            "unlearn": {
                "init_from": "",  # workdir of `vdu import` or `vdu train`: unlearn its model
                # Of a model that was imported without a scheduler, here or in train.init_from:
                # True says that `diffusion` holds the noise schedule that it was trained with.
                "assume_schedule": False,
                "seed": 0,  # of data order, times and noise
            },
            "replay": {
                "images": 2000,  # drawn from the original model
                "seed": 1,
                # Noise levels (as shares of T) at which the model's own features are read.
                "feature_times": (0.1,),
                # Share of D_f that counts as forget-like at first; the detector then learns from
                # what of the replay looks like it, too.
                "recall": 0.8,
                # Noise level (as a share of T) of the kernels that find what the detector leaves;
                # 0: none.
                "kernel_time": 0.2,
            },
            # name -> method(...): what to unlearn with.
            "methods": {},
            "curve": {
                "images": 500,  # per snapshot: for the rule that keeps one, and the plotted curve
                "seed": 2,
            },
            "evaluate": {
                "images": 10_000,  # per model
                "seed": 3,
                "bootstrap": 1000,  # resamples behind the interval of PUL
                # Whose features u-FID, KID, precision and recall are taken in: "classifier", or
                # "inception", FID's network (0.3 s an image on a CPU).
                "features": "classifier",
                "inception_weights": "",  # of the latter: a safetensors file
                "reference_images": 10_000,  # at most so many of D_r for KID, precision and recall
                "bits_per_dim_images": 0,  # held-out images for the evidence bound; 0 skips it
            },
            "relearn": {
                "images": 0,  # at each check; 0 skips the stage
                "seed": 4,  # of these images, of the choice among D_f, of times and noise
                "forget_images": 64,  # m: how many of D_f are shown again
                "batch_size": 32,
                "learning_rate": 1e-4,  # of Adam
                "checks": (1, 2, 5, 10, 20, 50, 100, 200, 500),  # steps; the last ends it
            },
            # How the computation is spread over devices; changes no result beyond rounding.
            "parallel": {
                "fsdp": 1,  # devices that share one copy of the parameters
                "mode": "jit",  # or "pmap": every device has all parameters
                "accumulate": 1,  # parts that a batch is taken in, one after the other
                "remat": False,  # compute a block's activations again for its gradients
                # The network's self-attention: "xla", or "cudnn", which needs an NVIDIA GPU and
                # model.dtype = "bfloat16" and holds no weights of all pairs of pixels.
                "attention": "xla",
            },
            # `vdu benchmark`: each of `methods` on each of these classes and training seeds.
            "benchmark": {
                "classes": (),  # each is forgotten alone
                "seeds": (0, 1, 2),
                "method_seeds": {},  # method -> the seeds it is run on, if not on all; () for none
                "tuning_class": -1,  # not among `classes`; for choosing from grids
                # method -> tuple of {setting: value}, as many for every method that is tuned.
                "grids": {},
                # method -> settings outside `methods` that differ in its cells (ablations), e.g.
                # {"posterior": {"count": 3}}
                "changes": {},
            },
            "classifier": {
                "dir": "",  # folder that holds it, for runs to share; "": the workdir
                "widths": (32, 64, 128),
                "blocks": 1,
                "dropout": 0.1,
                "epochs": 20,
                "batch_size": 128,
                "learning_rate": 2e-3,
                "weight_decay": 1e-2,
                "seed": 0,
                "min_accuracy": 0.9,  # below it on held-out images, evaluation refuses to count
            },
        }
    )


# Every setting that is a path, or a tuple of paths.
PATHS = (
    "data.dir", "data.manual_dir", "train.init_from", "posterior.runs", "unlearn.init_from",
    "evaluate.inception_weights", "classifier.dir",
)  # fmt: skip


def expand_path(text: str, where: str) -> str:
    """A path with `~`, `~user`, `$NAME` and `${NAME}` replaced; `$$` is a dollar sign.

    Args:
      where: what stands before the path in messages, e.g. "--workdir=".

    Raises:
      UserError: for a variable that is not set or empty, and for a user or home that is not known.
    """
    if "$" in text:
        try:
            text = string.Template(text).substitute(_Environment())
        except KeyError as error:
            raise UserError(
                f"{where}{text}: the environment variable {error.args[0]} is not set, or empty; "
                "set it, or write the path out"
            ) from None
        except ValueError:
            raise UserError(
                f"{where}{text}: a $ without the name of an environment variable; write $$ for a "
                "dollar sign"
            ) from None
    if text.startswith("~"):
        try:
            expanded = os.path.expanduser(text)
        except ValueError:  # a null byte
            expanded = text
        if expanded.startswith("~"):
            user = text.split("/", 1)[0]
            raise UserError(f"{where}{text}: there is no home folder {user}; write the path out")
        return expanded
    return text


class _Environment(Mapping):
    """Environment variables that are not empty."""

    def __getitem__(self, name: str) -> str:
        value = os.environ[name]
        if not value:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def expand_paths(config: ConfigDict, paths: Sequence[str] = PATHS) -> None:
    """Expand the settings `paths` of a config in place, as `expand_path`.

    What is not there or no text is left for `validate` to refuse.

    Raises:
      UserError: as `expand_path`.
    """
    for path in paths:
        section_name, key = path.split(".")
        section = config.get(section_name)
        value = section.get(key) if isinstance(section, ConfigDict) else None
        where = f"config key {path} = "
        if isinstance(value, str):
            section[key] = expand_path(value, where)
        elif isinstance(value, tuple | list):
            section[key] = type(value)(
                expand_path(item, where) if isinstance(item, str) else item for item in value
            )


# Sections with keys of the user's own.
FREE = ("methods", "guard", "benchmark.method_seeds", "benchmark.grids", "benchmark.changes")
LARGEST = 2**31 - 1  # whole number; JAX counts in 32 bits


def check_types(found: Any, wanted: ConfigDict, prefix: str, free: Sequence[str] = FREE) -> None:
    """Refuse a section that lacks a setting, has one too many, or one of another type.

    Args:
      free: sections with keys of the user's own.

    Raises:
      UserError: with the key.
    """
    if not isinstance(found, ConfigDict):
        raise UserError(f"config key {prefix or 'config'} = {shown(found)}: must be a section")
    path = f"{prefix}." if prefix else ""
    for key in [*wanted, *found]:
        name = f"{path}{key}"
        if key not in wanted:
            near = did_you_mean(str(key), wanted)
            raise UserError(f"config key {name}: there is no such setting{near}")
        if key not in found:
            raise UserError(f"config key {name} is missing: start from vdu_jax.config.default()")
        value, example = found[key], wanted[key]
        if not isinstance(example, ConfigDict):
            _check_type(name, value, example)
        elif name not in free and key not in free:
            check_types(value, example, name, free)
        elif not isinstance(value, ConfigDict):
            raise UserError(f"config key {name} = {shown(value)}: must be a section")


WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def must_be(example: Any) -> str:
    """What a value of the type of `example` is called."""
    return WORDS.get(type(example), "a section" if isinstance(example, ConfigDict) else "a tuple")


def _check_type(key: str, value: Any, example: Any) -> None:
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (tuple, list)}
    kind = type(example)
    fine = kind not in kinds or isinstance(value, kinds[kind])
    if not fine or (isinstance(value, bool) and kind in (int, float)):
        raise UserError(f"config key {key} = {shown(value)}: must be {must_be(example)}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"config key {key} = {value}: must be at most {LARGEST}")
    if isinstance(value, tuple | list):
        for item in value if example else ():
            _check_type(key, item, example[0])


class Check:
    """Collects the checks of one config; every failure is a UserError that names the key."""

    def __init__(self, config: ConfigDict):
        self.config = config

    def get(self, key: str) -> Any:
        value = self.config
        for part in key.split("."):
            value = value[part]
        return value

    def that(self, key: str, ok: Callable[[Any], bool], must: str) -> None:
        value = self.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config key {key} = {value}: must be a finite number")
        try:
            fine = ok(value)
        except TypeError:  # of another kind altogether, such as None
            fine = False
        if not fine:
            plain = value.to_dict() if isinstance(value, ConfigDict) else value
            raise UserError(f"config key {key} = {shown(plain)}: {must}")

    def one_of(self, key: str, names) -> None:
        must = f"must be one of {', '.join(map(str, sorted(names)))}"
        value = self.get(key)
        near = did_you_mean(value, map(str, names)) if isinstance(value, str) else ""
        self.that(key, lambda v: v in names, must + near)

    def positive(self, *keys: str) -> None:
        for key in keys:
            self.that(key, lambda v: v > 0, "must be > 0")

    def not_negative(self, *keys: str) -> None:
        for key in keys:
            self.that(key, lambda v: v >= 0, "must be ≥ 0")

    def share(self, *keys: str, above_zero: bool = False) -> None:
        for key in keys:
            if above_zero:
                self.that(key, lambda v: 0 < v <= 1, "must lie in (0, 1]")
            else:
                self.that(key, lambda v: 0 <= v <= 1, "must lie in [0, 1]")

    def increasing_ints(self, key: str, low: int, high: int | None = None) -> None:
        def ok(values):
            whole = all(isinstance(v, int) for v in values)
            return whole and all(low <= v and (high is None or v <= high) for v in values)

        bound = f"≥ {low}" if high is None else f"in {low}..{high}"
        self.that(key, ok, f"must be a tuple of whole numbers {bound}")


def validate(config: ConfigDict) -> None:
    """Refuse settings that cannot work.

    Raises:
      UserError: with the key, its value, and what it must be.
    """
    from vdu_jax import data, objectives
    from vdu_jax.diffusion import parameterization, samplers
    from vdu_jax.interop import inception

    named = isinstance(config.get("model"), ConfigDict) and "name" in config.model
    wanted = default(config.model.name) if named else default()
    check_types(config, wanted, "")
    c = Check(config)
    c.one_of("data.name", data.dataset_names())
    c.not_negative("data.image_size", "data.channels", "data.cache_mb")
    validate_data(c, config.data.channels or None)
    info = data.static_info(config.data.name)
    _validate_forget(c, info)
    validate_model(config, config.data.image_size if info is None else info[0][0])

    _validate_condition(c, info, wanted.condition)
    validate_diffusion(config)
    c.positive(
        "train.steps",
        "train.batch_size",
        "train.learning_rate",
        "train.clip_norm",
        "train.snapshot_every",
        "train.snapshots",
        "train.save_state_every",
        "train.log_every",
    )
    c.not_negative("train.warmup_steps", "train.init_seed", "train.seed")
    c.one_of("train.weighting", parameterization.WEIGHTINGS)
    c.one_of("train.decay", ("constant", "cosine", "linear"))
    c.that("train.ema_decay", lambda v: 0 <= v < 1, "must lie in [0, 1)")

    _validate_posterior(c)

    c.one_of("sampler.name", samplers.NAMES)
    c.one_of("sampler.spacing", samplers.SPACINGS)
    c.one_of("sampler.variance", samplers.VARIANCES)
    c.share("sampler.eta")
    total = config.diffusion.num_steps
    c.that("sampler.steps", lambda v: 1 <= v <= total, f"must lie in 1..{total}")
    c.positive("sampler.batch_size")

    c.that("replay.images", lambda v: v >= 100, "must be ≥ 100")
    c.that(
        "replay.feature_times",
        lambda v: len(v) > 0 and all(0 <= x < 1 for x in v),
        "must be a tuple of shares of T in [0, 1)",
    )
    c.that("replay.recall", lambda v: 0 < v < 1, "must lie in (0, 1)")
    c.that("replay.kernel_time", lambda v: 0 <= v < 1, "must be a share of T in [0, 1)")
    for key in ("curve.images", "evaluate.images"):
        c.that(key, lambda v: v >= 50, "must be ≥ 50: fewer images measure nothing")
    c.that("evaluate.bootstrap", lambda v: v >= 100, "must be ≥ 100 for an interval of 95 %")
    c.one_of("evaluate.features", ("classifier", "inception"))
    if config.evaluate.features == "inception":
        inception.check_file(config.evaluate.inception_weights)
    c.that("evaluate.reference_images", lambda v: v >= 50, "must be ≥ 50")
    seeds = ("replay.seed", "curve.seed", "evaluate.seed", "relearn.seed")
    c.that(
        "evaluate.seed",
        lambda v: len({c.get(key) for key in seeds}) == len(seeds),
        f"{', '.join(seeds)} must differ, or images are used twice",
    )
    c.not_negative(*seeds, "forget.seed", "unlearn.seed", "evaluate.bits_per_dim_images")
    c.that("relearn.images", lambda v: v == 0 or v >= 50, "must be 0 (not measured) or ≥ 50")
    c.positive("relearn.forget_images", "relearn.batch_size", "relearn.learning_rate")
    c.increasing_ints("relearn.checks", 1)
    c.that(
        "relearn.checks",
        lambda v: len(v) > 0 and list(v) == sorted(set(v)),
        "must name steps, in order and each once",
    )
    validate_shared(c)
    for name in config.methods:
        validate_method(c, name, objectives.FACTORIES)
        for key, allowed in _allowed_params(config).items():
            if key in config.methods[name].params:
                c.that(
                    f"methods.{name}.params.{key}",
                    lambda v, allowed=allowed: v in allowed,
                    "is for networks with a condition (model.num_class_embeds, condition.drop)",
                )


def validate_data(c: Check, channels: int | None) -> None:
    """What is checked alike in `data` of a config of any kind, once its name is known to be good.

    Args:
      channels: those of the config, None if it leaves them to the data set.

    Raises:
      UserError: as `validate`.
    """
    from vdu_jax.data import images, registry

    section = c.config.data
    c.that(
        "data.background",
        lambda v: v in ("", *images.BACKGROUNDS),
        "must be 'white' or 'black', what transparent pixels are put on, or '' to refuse them",
    )
    if section.name in registry.NAMES:
        registry.check_settings(
            section.name, section.image_size or None, channels, section.background
        )


def validate_shared(c: Check) -> None:
    """What is checked alike in a config of any kind: `classifier` and `parallel`.

    Raises:
      UserError: as `validate`.
    """
    import jax

    from vdu_jax.models import layers

    c.increasing_ints("classifier.widths", 8)
    c.that(
        "classifier.widths",
        lambda v: len(v) > 0 and all(w % 8 == 0 for w in v),
        "must be multiples of 8 (the groups of its group norms)",
    )
    c.positive("classifier.epochs", "classifier.batch_size", "classifier.learning_rate")
    c.positive("classifier.blocks")
    c.not_negative("classifier.seed", "classifier.weight_decay")
    c.share("classifier.min_accuracy")
    c.that("classifier.dropout", lambda v: 0 <= v < 1, "must lie in [0, 1)")

    c.positive("parallel.fsdp", "parallel.accumulate")
    c.one_of("parallel.mode", ("jit", "pmap"))
    c.one_of("parallel.attention", layers.ATTENTIONS)
    if c.config.parallel.attention == "cudnn":
        c.that(
            "parallel.attention",
            lambda v: c.config.model.dtype == "bfloat16",
            "is for model.dtype = 'bfloat16'; set that, or 'xla' here",
        )
        c.that(
            "parallel.attention",
            lambda v: jax.default_backend() == "gpu",
            f"needs an NVIDIA GPU, and JAX runs on {jax.default_backend()}; set 'xla'",
        )


def validate_benchmark(config: ConfigDict) -> None:
    """Refuse a comparison that cannot work or would not be fair; call `validate` first.

    Raises:
      UserError: as `validate`.
    """
    from vdu_jax import data, objectives

    c, section = Check(config), config.benchmark
    info = data.static_info(config.data.name)
    high = None if info is None else info[1] - 1
    c.increasing_ints("benchmark.classes", 0, high)
    c.increasing_ints("benchmark.seeds", 0)
    for key in ("classes", "seeds"):
        values = section[key]
        c.that(f"benchmark.{key}", lambda v: len(set(v)) == len(v) > 0, "must name some, each once")
        del values
    c.that("methods", lambda v: len(v) > 0, "must name at least one method")
    for key in ("method_seeds", "grids", "changes"):
        known = set(config.methods)
        c.that(f"benchmark.{key}", lambda v, k=known: set(v) <= k, "must name entries of methods")
    for method, seeds in section.method_seeds.items():
        c.that(
            f"benchmark.method_seeds.{method}",
            lambda v: set(v) <= set(section.seeds),
            "must be a tuple of some of benchmark.seeds, or () to leave the method out",
        )
        del seeds
    for method in section.changes:
        c.that(
            f"benchmark.changes.{method}",
            lambda v: not set(v) - {"forget", "posterior", "replay", "curve", "sampler"},
            "may change forget, posterior, replay, curve and sampler only",
        )
    if section.grids:
        c.that(
            "benchmark.tuning_class",
            lambda v: v >= 0 and v not in section.classes and (high is None or v <= high),
            "must be a class that is not among benchmark.classes",
        )
        sizes = {len(grid) for grid in section.grids.values()}
        c.that("benchmark.grids", lambda v: len(sizes) == 1, "must all have as many candidates")
    for method, grid in section.grids.items():
        trial = ConfigDict({"methods": {}})
        c.that(
            f"benchmark.grids.{method}",
            lambda v: all(isinstance(changes, Mapping | ConfigDict) for changes in v),
            "must be a tuple of dicts, {setting: value}",
        )
        for index, changes in enumerate(grid):
            name = f"{method}-{index}"
            trial.methods[name] = change_method(method, config.methods[method], changes)
            validate_method(Check(trial), name, objectives.FACTORIES)


def validate_diffusion(config: ConfigDict) -> None:
    """Refuse settings of the noise schedule that cannot work.

    Raises:
      UserError: as `validate`.
    """
    from vdu_jax.diffusion import parameterization, schedule

    c = Check(config)
    c.one_of("diffusion.schedule", schedule.NAMES)
    c.one_of("diffusion.prediction", parameterization.PARAMETERIZATIONS)
    c.that("diffusion.num_steps", lambda v: 2 <= v <= 10**6, "must lie in 2..1000000")
    for key in ("diffusion.beta_start", "diffusion.beta_end"):
        c.that(key, lambda v: 0 < v < 1, "must lie in (0, 1)")


def _allowed_params(config: ConfigDict) -> Mapping[str, tuple]:
    if not config.model.num_class_embeds:
        return WITHOUT_CONDITION
    return {} if config.condition.drop else WITHOUT_NOTHING


def _validate_condition(c: Check, info, wanted: ConfigDict) -> None:
    config, rows = c.config, c.config.model.num_class_embeds
    c.that("condition.drop", lambda v: 0 <= v < 1, "must lie in [0, 1)")
    c.not_negative("condition.guidance")
    if not rows:
        for key in wanted:
            c.that(
                f"condition.{key}",
                lambda v, key=key: v == wanted[key],
                "is for networks that know classes: set model.num_class_embeds",
            )
        return
    if not config.condition.drop:
        c.that(
            "condition.guidance",
            lambda v: v == 1,
            "guidance takes the prediction without a class, which is learned with "
            "condition.drop > 0; set that, or 1 here",
        )
    if info is not None:
        check_classes(config, info[1])


def check_classes(config: ConfigDict, num_classes: int) -> None:
    """Refuse a network of classes for data that has others; any is fine for an unconditional one.

    Raises:
      UserError: as `validate`.
    """
    rows, more = config.model.num_class_embeds, config.condition.drop > 0
    if rows and rows != num_classes + more:
        why = " and one that says nothing (condition.drop > 0)" if more else ""
        raise UserError(
            f"config key model.num_class_embeds = {rows}: {config.data.name} has {num_classes} "
            f"classes{why}: set {num_classes + more}, or 0 for an unconditional network"
        )


def _validate_forget(c: Check, info) -> None:
    high = None if info is None else info[1] - 1
    c.increasing_ints("forget.classes", 0, high)
    count = len(set(c.get("forget.classes")))
    c.that("forget.classes", lambda v: count == len(v) > 0, "must name classes, each once")
    if info is not None:
        c.that("forget.classes", lambda v: count < info[1], "must leave at least one class")
    c.share("forget.fraction", above_zero=True)
    c.not_negative("forget.limit")


def _validate_posterior(c: Check) -> None:
    config = c.config
    section = config.posterior
    c.one_of("posterior.family", ("diagonal", "low_rank", "fisher"))
    c.one_of("posterior.source", ("trajectory", "runs"))
    c.one_of("posterior.weights", ("params", "ema"))
    c.not_negative("posterior.variance_floor")
    c.share("posterior.floor_quantile", "posterior.shrinkage")
    if section.family == "fisher":
        c.positive("posterior.fisher_images", "posterior.prior_precision")
        c.not_negative("posterior.training_images", "posterior.fisher_seed")
        others = ("replay.seed", "curve.seed", "evaluate.seed", "relearn.seed")
        c.that(
            "posterior.fisher_seed",
            lambda v: v not in map(c.get, others),
            f"must differ from {', '.join(others)}, or images are used twice",
        )
        return
    wanted = max(2, section.count)
    c.that(
        "posterior.count",
        lambda v: v == 0 or v >= 2,
        "must be 0 (all) or K ≥ 2 checkpoints; posterior.family = 'fisher' needs one only",
    )
    if section.source == "trajectory" and not config.unlearn.init_from:
        saved = min(config.train.snapshots, config.train.steps // config.train.snapshot_every)
        c.that(
            "posterior.count" if section.count else "train.snapshots",
            lambda v: saved >= wanted,
            f"the posterior needs K ≥ {wanted} checkpoints and training keeps {saved} "
            "(train.steps, train.snapshot_every, train.snapshots)",
        )
    elif section.source == "runs":
        runs = len(section.runs) + 1
        c.that(
            "posterior.runs",
            lambda v: runs >= wanted,
            f"with this run they give {runs} checkpoints, and K ≥ {wanted} are needed; "
            "posterior.family = 'fisher' needs one only",
        )
    if section.weights == "ema":
        c.that("train.ema_decay", lambda v: v > 0, "posterior.weights = 'ema' needs an average")


def validate_model(config: ConfigDict, image_size: int) -> None:
    """Refuse settings of the network that cannot work on square images of a size in pixels.

    Raises:
      UserError: as `validate`.
    """
    from vdu_jax.models import network, registry

    c = Check(config)
    registry.ARCHITECTURES[config.model.name].check(c, image_size)
    network.check_shared(c)


def validate_method(c: Check, name: str, factories) -> None:
    """Refuse an entry of `config.methods` that cannot work.

    Raises:
      UserError: as `validate`.
    """
    if not name.replace("_", "").replace("-", "").isalnum() or name == "original":
        raise UserError(f"config key methods.{name}: use letters, digits, - and _; not 'original'")
    entry = c.config.methods[name]
    prefix = f"methods.{name}"
    if not isinstance(entry, ConfigDict) or "objective" not in entry:
        raise UserError(f"config key {prefix}: make it with vdu_jax.config.method(…)")
    c.one_of(f"{prefix}.objective", factories)
    wanted = method(entry.objective)
    check_types(entry, wanted, prefix)
    if entry.objective == "retrain":
        for key, value in wanted.to_dict().items():
            c.that(
                f"{prefix}.{key}",
                lambda v, key=key, value=value: entry.to_dict()[key] == value,
                "cannot be changed: a retrained model takes all its settings from config.train",
            )
    c.one_of(f"{prefix}.optimizer", ("adam", "natural"))
    c.one_of(f"{prefix}.decay", ("constant", "linear"))
    c.that(f"{prefix}.beta2", lambda v: 0 <= v < 1, "must lie in [0, 1)")
    c.positive(
        *(f"{prefix}.{k}" for k in ("steps", "learning_rate", "snapshot_every", "log_every")),
        *(f"{prefix}.{k}" for k in ("forget_batch", "replay_batch", "retain_batch")),
    )
    c.that(
        f"{prefix}.snapshot_every",
        lambda v: v <= entry.steps,
        f"must be at most {prefix}.steps, or no step can be kept",
    )
    c.that(f"{prefix}.target_pul", lambda v: 0 < v <= 100, "must lie in (0, 100] percent")
    for metric in entry.guard:
        c.positive(f"{prefix}.guard.{metric}")
    _validate_objective(c, prefix, entry)


def tiny_objective(entry: ConfigDict) -> Any:
    """The `Objective` of an entry of `config.methods`, of a network of one number.

    It tells what the objective sees and needs before there is a model.

    Raises:
      ValueError: for a setting out of range.
    """
    import jax.numpy as jnp

    from vdu_jax import objectives, posterior
    from vdu_jax.diffusion import parameterization, schedule

    one = {"w": jnp.ones(1)}
    tiny = posterior.GaussianPosterior(one, one, jnp.int32(2))
    predicts = parameterization.epsilon(schedule.make_schedule(num_steps=2))
    return objectives.FACTORIES[entry.objective](
        lambda *a, **k: None, predicts, tiny, 1, **entry.params
    )


def _validate_objective(c: Check, prefix: str, entry: ConfigDict) -> None:
    """The objective's own settings, which its factory checks."""
    for key in entry.params:
        c.that(f"{prefix}.params.{key}", lambda v: True, "")
    try:
        tiny_objective(entry)
    except ValueError as error:
        raise UserError(f"config key {prefix}.params: {error}") from None
