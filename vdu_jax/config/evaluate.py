"""The sections `evaluate`, `classifier` and `detector`: what is measured, and with what."""

from typing import Any

from vdu_jax.config.check import Check

CLASSIFIER = {
    "dir": "",  # folder of the trained classifier, for runs to share; "" for the workdir
    "widths": (32, 64, 128),  # channels at each resolution, multiples of 8
    "blocks": 1,  # residual blocks at each resolution
    "stride": 1,  # stride of the first convolution; 2 takes a quarter of the time
    "dropout": 0.1,  # dropout rate, in [0, 1)
    "flip": False,  # whether a random half of a step's images is turned left to right
    "shift": 0,  # each image is moved by up to so many pixels along each axis, at random
    "epochs": 20,  # passes over the training images
    "batch_size": 128,  # images in a step
    "learning_rate": 2e-3,  # initial learning rate, which decays to 0
    "weight_decay": 1e-2,  # weight decay of AdamW
    "seed": 0,  # seed of the initial parameters and the order of images
    "min_accuracy": 0.9,  # least accuracy on held-out images; below it evaluation stops
}
# What tells whether an image has the feature.
DETECTOR = {
    "kind": "colour",  # "colour", "clip" or "nudenet"
    # For "colour": an image has the feature if this is the nearest colour of `palette`.
    "colour": "red",
    "palette": {},  # for "colour": name -> (red, green, blue) in 0..255
    "folder": "",  # for "clip": a folder of CLIP, as transformers saves it
    # For "clip": an image has the feature if one of these texts suits it better than all of
    # `without_feature`.
    "with_feature": (),
    "without_feature": (),  # for "clip": texts that describe images without the feature
    # For "nudenet": an image has the feature if NudeNet finds one of these.
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
    "paraphrases": (),  # prompts that mean the feature without naming it
    "other_prompts": (),  # prompts without the feature
}


def defaults(text: bool) -> dict[str, Any]:
    """The sections with their defaults.

    Args:
      text: whether they are for a text-to-image model.
    """
    evaluate = {
        **(PROMPTS if text else {}),
        # Images drawn from each model (for each prompt, if there are prompts).
        "images": 20 if text else 10_000,
        "seed": 3,  # seed of these images
        "bootstrap": 1000,  # resamples for the confidence interval of PUL
        # Network in whose features u-FID, KID, precision and recall are measured: "classifier", or
        # "inception", FID's network (0.3 s an image on a CPU).
        "features": "classifier",
        "inception_weights": "",  # for "inception": a safetensors file
        "reference_images": 10_000,  # retained images, at most, for KID, precision and recall
    }
    if text:
        return {"evaluate": evaluate, "classifier": CLASSIFIER, "detector": DETECTOR}
    bound = {"bits_per_dim_images": 0}  # held-out images for bits per dimension; 0 skips it
    return {"evaluate": evaluate | bound, "classifier": CLASSIFIER}


def check(c: Check) -> None:
    """Refuse measurements that cannot work.

    Raises:
      UserError: with the key.
    """
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
    c.not_negative("classifier.seed", "classifier.weight_decay", "classifier.shift")
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
