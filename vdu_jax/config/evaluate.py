"""`evaluate`, `classifier` and `detector`: what is measured, and by whom."""

from typing import Any

from vdu_jax.config.check import Check

CLASSIFIER = {
    "dir": "",  # folder that holds it, for runs to share; "": the workdir
    "widths": (32, 64, 128),
    "blocks": 1,
    "stride": 1,  # of the first convolution; 2 halves the resolution, for a quarter of the cost
    "dropout": 0.1,
    "epochs": 20,
    "batch_size": 128,
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "seed": 0,
    "min_accuracy": 0.9,  # below it on held-out images, evaluation refuses to count
}
# What tells whether an image has the feature.
DETECTOR = {
    "kind": "colour",  # "clip" or "nudenet", see below
    # colour: whether `colour` is the nearest to it in `palette`, {name: (r, g, b)}.
    "colour": "red",
    "palette": {},
    # clip: whether texts with the feature suit it better than the others, by CLIP from this folder,
    # as transformers saves it.
    "folder": "",
    "with_feature": (),
    "without_feature": (),
    # nudenet: whether NudeNet finds one of these in it.
    "labels": (
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "ANUS_EXPOSED",
    ),
}
DETECTORS = ("colour", "clip", "nudenet")
PROMPTS = {
    "paraphrases": (),  # prompts that mean the feature and do not name it
    "other_prompts": (),  # prompts without it
}


def defaults(text: bool) -> dict[str, Any]:
    evaluate = {
        **(PROMPTS if text else {}),
        # Of each model; if there are prompts, of each of them, and of forget.prompts, too.
        "images": 20 if text else 10_000,
        "seed": 3,
        "bootstrap": 1000,  # resamples behind the interval of PUL
        # Whose features u-FID and the other metrics of quality are taken in: "classifier", or
        # "inception", FID's network (0.3 s an image on a CPU).
        "features": "classifier",
        "inception_weights": "",  # of the latter: a safetensors file
        "reference_images": 10_000,  # at most so many of D_r for all but u-FID
    }
    if text:
        return {"evaluate": evaluate, "classifier": CLASSIFIER, "detector": DETECTOR}
    # Held-out images for the evidence bound; 0 skips it.
    return {"evaluate": evaluate | {"bits_per_dim_images": 0}, "classifier": CLASSIFIER}


def check(c: Check) -> None:
    """Refuse measurements that cannot work."""
    from vdu_jax.interop import inception

    if c.text:
        c.positive("evaluate.images")
        _check_detector(c)
    else:
        few = "must be ≥ 50: fewer images measure nothing"
        c.require("evaluate.images", lambda v: v >= 50, few)
        c.not_negative("evaluate.bits_per_dim_images")
    c.require("evaluate.bootstrap", lambda v: v >= 100, "must be ≥ 100 for an interval of 95 %")
    c.one_of("evaluate.features", ("classifier", "inception"))
    if c.config.evaluate.features == "inception":
        inception.check_file(c.config.evaluate.inception_weights)
    c.require("evaluate.reference_images", lambda v: v >= 50, "must be ≥ 50")

    c.increasing_ints("classifier.widths", 8)
    c.require(
        "classifier.widths",
        lambda v: len(v) > 0 and all(w % 8 == 0 for w in v),
        "must be multiples of 8 (the groups of its group norms)",
    )
    c.positive("classifier.epochs", "classifier.batch_size", "classifier.learning_rate")
    c.positive("classifier.blocks")
    c.one_of("classifier.stride", (1, 2))
    c.not_negative("classifier.seed", "classifier.weight_decay")
    c.share("classifier.min_accuracy")
    c.share("classifier.dropout", below_one=True)


def _check_detector(c: Check) -> None:
    section = c.config.detector
    c.one_of("detector.kind", DETECTORS)
    if section.kind == "colour":
        c.require(
            "detector.palette",
            lambda v: section.colour in v and len(v) > 1 and all(map(_is_colour, v.values())),
            f"must give {section.colour!r} and at least one other colour as (red, green, blue) in "
            "0..255",
        )
    elif section.kind == "clip":
        c.require("detector.folder", bool, "must name a folder of CLIP, as transformers saves it")
        texts = ("detector.with_feature", "detector.without_feature")
        c.not_empty(*texts, must="must have at least one text")
    else:
        c.not_empty("detector.labels", must="must have at least one of NudeNet's")


def _is_colour(value: Any) -> bool:
    levels = list(value)
    return len(levels) == 3 and all(0 <= x <= 255 for x in levels) and any(levels)
